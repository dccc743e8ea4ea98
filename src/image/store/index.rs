//! What the store knows by name: tags and digests, the images that they mean, and what of them is outdated (pure).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::image::reference::{Reference, is_digest};
use crate::image::{Access, Error};

/// What is known of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The digest of its configuration: the image's id.
    pub config: String,
    /// The digests of its compressed layers, lowest first.
    pub blobs: Vec<String>,
    /// The digests of its uncompressed layers, lowest first.
    pub layers: Vec<String>,
    /// Compressed bytes of all layers.
    pub size: u64,
    /// Digests by which it may be asked for: of its manifest, of the index that it was chosen from.
    pub digests: Vec<String>,
    /// The layer on top that gives directories back what layers left out (see the module `implied`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<String>,
    /// Nobody asked for it but by a tag: it may go when its last tag has moved on.
    #[serde(default)]
    pub by_tag: bool,
    /// It came from an archive: no registry can be asked for it again.
    #[serde(default)]
    pub loaded: bool,
    /// With what it was fetched for others, by repository.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub access: BTreeMap<String, Access>,
}

impl Record {
    /// Those of its registry, and what belongs on top.
    pub fn all_layers(&self) -> impl Iterator<Item = &String> {
        self.layers.iter().chain(&self.attributes)
    }
}

/// Names and images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Full name with tag -> manifest digest.
    pub tags: BTreeMap<String, String>,
    /// `NAME@DIGEST` -> manifest digest.
    pub pins: BTreeMap<String, String>,
    /// Manifest digest -> image.
    pub images: BTreeMap<String, Record>,
}

impl Index {
    /// Takes a name away (an id: all its names), and the image with its last tag. Answers what has gone.
    pub fn unname(&mut self, name: &str) -> Result<Vec<String>, Error> {
        let manifest = resolve(self, name)?.ok_or_else(|| Error::NoSuchImage(name.to_owned()))?;
        let reference = Reference::parse(name).ok();
        let mut removed = Vec::new();
        let by_name = reference.map(|r| match &r.digest {
            Some(digest) => format!("{}@{digest}", r.name()),
            None => r.to_string(),
        });
        let by_name = by_name.filter(|n| self.tags.contains_key(n) || self.pins.contains_key(n));
        match by_name {
            Some(name) => {
                self.tags.remove(&name);
                self.pins.remove(&name);
                removed.push(name);
            }
            None => {
                removed.extend(self.tags.iter().filter(|(_, d)| **d == manifest).map(|(n, _)| n.clone()));
                self.tags.retain(|_, digest| *digest != manifest);
            }
        }
        if !self.tags.values().any(|digest| *digest == manifest) {
            removed.extend(self.forget(&manifest));
        }
        Ok(removed)
    }

    /// Takes an image out with the names that it still has; answers its id.
    pub fn forget(&mut self, manifest: &str) -> Option<String> {
        self.tags.retain(|_, digest| digest != manifest);
        self.pins.retain(|_, digest| digest != manifest);
        self.images.remove(manifest).map(|record| record.config)
    }

    /// Images that were asked for by tag alone and have none any more.
    pub fn untagged(&self) -> Vec<String> {
        let tagged: BTreeSet<&String> = self.tags.values().collect();
        let images = self.images.iter().filter(|(digest, record)| record.by_tag && !tagged.contains(digest));
        images.map(|(digest, _)| digest.clone()).collect()
    }
}

/// The layers of an image, lowest first, of one that comes again only the topmost: overlayfs takes each only once.
///
/// The merged tree is the same. A lookup goes from the top down and meets the upper copy first: it ends there at a file
/// or whiteout, and at an opaque directory; a plain directory lets it pass, but the lower copy has in that directory
/// just the names that the upper one has offered already. So the lower copy never shows, whatever lies between.
pub fn topmost<'a>(layers: impl Iterator<Item = &'a String>) -> Vec<&'a String> {
    let mut seen = BTreeSet::new();
    let all: Vec<&String> = layers.collect();
    let mut kept: Vec<&String> = all.into_iter().rev().filter(|layer| seen.insert(*layer)).collect();
    kept.reverse();
    kept
}

/// The manifest digest that a name, digest or (shortened) id means (pure).
pub fn resolve(index: &Index, name: &str) -> Result<Option<String>, Error> {
    let bare = name.strip_prefix("sha256:").unwrap_or(name);
    if is_digest(name) || (bare.len() >= 6 && bare.bytes().all(|b| b.is_ascii_hexdigit())) {
        let mut found = index.images.iter().filter(|(digest, record)| {
            let starts = |d: &str| d.strip_prefix("sha256:").is_some_and(|d| d.starts_with(bare));
            starts(digest) || starts(&record.config)
        });
        if let Some((digest, _)) = found.next() {
            return Ok(Some(digest.clone()));
        }
        if is_digest(name) {
            return Ok(None);
        }
    }
    let reference = Reference::parse(name)?;
    let found = match &reference.digest {
        Some(digest) => index.pins.get(&format!("{}@{digest}", reference.name())),
        None => index.tags.get(&reference.to_string()),
    };
    Ok(found.cloned())
}
