//! The images on disk: blobs by digest, unpacked layers by the digest of their contents, one index of names.
//!
//! ```text
//! format            the number of this layout
//! lock              held while the index changes, by whichever process changes it
//! index.json        names -> manifests, manifests -> configuration and layers
//! blobs/HEX         manifests, configurations and compressed layers, as they came
//! layers/HEX/       unpacked layers, by diff id
//! tmp/              what is being made; swept at start when no one holds it
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::reference::{Reference, is_digest, is_hex};
use super::{Error, Image, manifest};

/// The layout that this code reads and writes.
const FORMAT: &str = "1";

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
}

/// Names and images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Index {
    /// Full name with tag -> manifest digest.
    tags: BTreeMap<String, String>,
    /// `NAME@DIGEST` -> manifest digest.
    pins: BTreeMap<String, String>,
    /// Manifest digest -> image.
    images: BTreeMap<String, Record>,
}

/// The store of one machine.
pub struct Store {
    dir: PathBuf,
}

/// A lock file held by this process until dropped.
pub struct Lock {
    _file: File,
}

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let what = format!("image store: cannot {what} {}", path.display());
    move |source| Error::Store { what, source }
}

/// The digits of a digest that came through [`is_digest`].
fn hex(digest: &str) -> Result<&str, Error> {
    digest.strip_prefix("sha256:").filter(|d| is_hex(d)).ok_or_else(|| Error::Content {
        reference: digest.to_owned(),
        what: "only sha256 digests are supported".to_owned(),
    })
}

impl Store {
    /// Opens the directory, making it when missing (for root alone).
    pub fn open(dir: &Path) -> Result<Store, Error> {
        for directory in ["blobs", "layers", "tmp"] {
            let path = dir.join(directory);
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed("make", &path))?;
        }
        let format = dir.join("format");
        match fs::read_to_string(&format) {
            Ok(found) if found.trim() == FORMAT => {}
            Ok(found) => {
                let message = format!("it has format {}, this version of minik knows {FORMAT}", found.trim());
                return Err(failed("use", dir)(io::Error::other(message)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::write(&format, FORMAT).map_err(failed("write", &format))?;
            }
            Err(error) => return Err(failed("read", &format)(error)),
        }
        let store = Store { dir: dir.to_owned() };
        store.sweep()?;
        Ok(store)
    }

    /// Removes what crashed processes left: temporary directories whose lock nobody holds.
    fn sweep(&self) -> Result<(), Error> {
        let tmp = self.dir.join("tmp");
        for entry in fs::read_dir(&tmp).map_err(failed("read", &tmp))?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "lock") {
                continue;
            }
            let lock = path.with_extension("lock");
            let free = match File::open(&lock) {
                Ok(file) => rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok(),
                Err(_) => true,
            };
            if free {
                fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
                let _ = fs::remove_file(&lock);
            }
        }
        Ok(())
    }

    /// A directory to make something in, on the same file system; removed when dropped.
    pub fn scratch(&self) -> Result<Scratch, Error> {
        let path = self.dir.join("tmp").join(format!("{:016x}", getrandom::u64().unwrap_or_default()));
        let lock_path = path.with_extension("lock");
        let lock = File::create(&lock_path).map_err(failed("make", &lock_path))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(|e| failed("lock", &lock_path)(e.into()))?;
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(failed("make", &path))?;
        Ok(Scratch { path, lock_path, _lock: lock })
    }

    /// Waits for and takes the lock of a name, among all processes of the machine. Blocks.
    pub fn lock(&self, name: &str) -> Result<Lock, Error> {
        let path = self.dir.join(format!("{name}.lock"));
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(failed("open", &path))?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .map_err(|e| failed("lock", &path)(e.into()))?;
        Ok(Lock { _file: file })
    }

    /// Where an unpacked layer is or will be.
    pub fn layer_path(&self, diff_id: &str) -> Result<PathBuf, Error> {
        Ok(self.dir.join("layers").join(hex(diff_id)?))
    }

    /// Where a blob is or will be.
    pub fn blob_path(&self, digest: &str) -> Result<PathBuf, Error> {
        Ok(self.dir.join("blobs").join(hex(digest)?))
    }

    /// Whether a layer is here, unpacked, with the blob it came from.
    pub fn has_layer(&self, diff_id: &str, blob: &str) -> Result<bool, Error> {
        Ok(self.layer_path(diff_id)?.is_dir() && self.blob_path(blob)?.is_file())
    }

    /// A blob's bytes, when it is here.
    pub fn blob(&self, digest: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = self.blob_path(digest)?;
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Keeps a small blob (its digest was checked).
    pub fn put_blob(&self, digest: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.blob_path(digest)?;
        if path.is_file() {
            return Ok(());
        }
        let scratch = self.scratch()?;
        let file = scratch.path().join("blob");
        fs::write(&file, bytes).map_err(failed("write", &file))?;
        fs::rename(&file, &path).map_err(failed("put", &path))
    }

    /// Puts a finished layer in its place.
    pub fn put_layer(&self, diff_id: &str, made: &Path, digest: &str, blob: &Path) -> Result<(), Error> {
        let (layer, blob_path) = (self.layer_path(diff_id)?, self.blob_path(digest)?);
        fs::rename(blob, &blob_path).map_err(failed("put", &blob_path))?;
        if layer.is_dir() {
            return Ok(());
        }
        fs::rename(made, &layer).map_err(failed("put", &layer))
    }

    fn read(&self) -> Result<Index, Error> {
        let path = self.dir.join("index.json");
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|e| failed("read", &path)(io::Error::other(e)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Index::default()),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Changes the index, alone among all processes, and makes the change durable.
    fn change<T>(&self, change: impl FnOnce(&mut Index) -> Result<T, Error>) -> Result<T, Error> {
        let _lock = self.lock("index")?;
        let mut index = self.read()?;
        let result = change(&mut index)?;
        let path = self.dir.join("index.json");
        let next = self.dir.join("index.json.next");
        let write = || -> io::Result<()> {
            let mut file = File::create(&next)?;
            file.write_all(&serde_json::to_vec_pretty(&index)?)?;
            // One sync for all files of the image that the index is about to name, then the index itself.
            rustix::fs::syncfs(&file)?;
            fs::rename(&next, &path)
        };
        write().map_err(failed("write", &path))?;
        Ok(result)
    }

    /// Names an image whose layers are all here.
    pub fn add(&self, reference: Option<&Reference>, manifest: &str, record: Record) -> Result<(), Error> {
        self.change(|index| {
            let digests = record.digests.clone();
            index.images.insert(manifest.to_owned(), record);
            if let Some(reference) = reference {
                if let Some(tag) = &reference.tag {
                    index.tags.insert(format!("{}:{tag}", reference.name()), manifest.to_owned());
                }
                for digest in digests {
                    index.pins.insert(format!("{}@{digest}", reference.name()), manifest.to_owned());
                }
            }
            Ok(())
        })
    }

    /// Gives an image one more name.
    pub fn tag(&self, id: &str, reference: &Reference) -> Result<(), Error> {
        self.change(|index| {
            let manifest =
                index.images.iter().find(|(_, r)| r.config == id).map(|(digest, _)| digest.clone());
            let manifest = manifest.ok_or_else(|| Error::NoSuchImage(id.to_owned()))?;
            let tag = reference.tag.as_deref().unwrap_or("latest");
            index.tags.insert(format!("{}:{tag}", reference.name()), manifest);
            Ok(())
        })
    }

    /// The image of this name or id, when it is here.
    pub fn find(&self, name: &str) -> Result<Option<Image>, Error> {
        let index = self.read()?;
        match resolve(&index, name)? {
            Some(manifest) => self.image(&index, &manifest).map(Some),
            None => Ok(None),
        }
    }

    /// The record of this name or id.
    pub fn record(&self, name: &str) -> Result<Option<(String, Record)>, Error> {
        let index = self.read()?;
        let found = resolve(&index, name)?;
        Ok(found.and_then(|digest| index.images.get(&digest).cloned().map(|record| (digest, record))))
    }

    /// All images.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        let index = self.read()?;
        index.images.keys().map(|digest| self.image(&index, digest)).collect()
    }

    fn image(&self, index: &Index, digest: &str) -> Result<Image, Error> {
        let record = index.images.get(digest).ok_or_else(|| Error::NoSuchImage(digest.to_owned()))?;
        let config = self.blob(&record.config)?.ok_or_else(|| Error::Content {
            reference: digest.to_owned(),
            what: "its configuration is missing from the store: pull it again".to_owned(),
        })?;
        let (config, _) = manifest::config(&config)
            .map_err(|what| Error::Content { reference: digest.to_owned(), what })?;
        let named = |map: &BTreeMap<String, String>| {
            map.iter().filter(|(_, d)| *d == digest).map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        Ok(Image {
            id: record.config.clone(),
            references: named(&index.tags),
            repo_digests: named(&index.pins),
            layers: record.layers.iter().map(|l| self.layer_path(l)).collect::<Result<_, _>>()?,
            config,
            size: record.size,
        })
    }

    /// Takes a name away (an id: all its names), then what nothing names any more.
    pub fn remove(&self, name: &str, in_use: &[PathBuf]) -> Result<Vec<String>, Error> {
        let removed = self.change(|index| {
            let manifest = resolve(index, name)?.ok_or_else(|| Error::NoSuchImage(name.to_owned()))?;
            let one = Reference::parse(name).ok().map(|r| r.to_string());
            let mut removed = Vec::new();
            let by_name = one.filter(|n| index.tags.contains_key(n) || index.pins.contains_key(n));
            match by_name {
                Some(name) => {
                    index.tags.remove(&name);
                    index.pins.remove(&name);
                    removed.push(name);
                }
                None => {
                    removed
                        .extend(index.tags.iter().filter(|(_, d)| **d == manifest).map(|(n, _)| n.clone()));
                    index.tags.retain(|_, digest| *digest != manifest);
                }
            }
            if !index.tags.values().any(|digest| *digest == manifest) {
                index.pins.retain(|_, digest| *digest != manifest);
                if let Some(record) = index.images.remove(&manifest) {
                    removed.push(record.config);
                }
            }
            Ok(removed)
        })?;
        self.collect(in_use)?;
        Ok(removed)
    }

    /// Removes blobs and layers that no image has and no container stands on.
    pub fn collect(&self, in_use: &[PathBuf]) -> Result<(), Error> {
        let _lock = self.lock("index")?;
        let index = self.read()?;
        let mut blobs: BTreeSet<PathBuf> = BTreeSet::new();
        let mut layers: BTreeSet<PathBuf> = in_use.iter().cloned().collect();
        for (manifest, record) in &index.images {
            for digest in record.blobs.iter().chain([manifest, &record.config]).chain(&record.digests) {
                blobs.insert(self.blob_path(digest)?);
            }
            for layer in &record.layers {
                layers.insert(self.layer_path(layer)?);
            }
        }
        for (directory, keep) in [("blobs", &blobs), ("layers", &layers)] {
            let directory = self.dir.join(directory);
            for entry in fs::read_dir(&directory).map_err(failed("read", &directory))?.flatten() {
                let path = entry.path();
                if keep.contains(&path) {
                    continue;
                }
                let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }
}

/// The manifest digest that a name, digest or (shortened) id means (pure).
fn resolve(index: &Index, name: &str) -> Result<Option<String>, Error> {
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

/// A directory that goes when it is dropped.
pub struct Scratch {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
        let _ = fs::remove_file(&self.lock_path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> String {
        format!("sha256:{}", format!("{n:02x}").repeat(32))
    }

    fn add(store: &Store, name: &str, n: u8) {
        let config = digest(n + 100);
        store
            .put_blob(
                &config,
                br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#,
            )
            .unwrap();
        store.put_blob(&digest(n), b"{}").unwrap();
        let layer = digest(n + 50);
        fs::create_dir_all(store.layer_path(&layer).unwrap()).unwrap();
        let record = Record { config, blobs: vec![], layers: vec![layer], size: 1, digests: vec![digest(n)] };
        store.add(Some(&Reference::parse(name).unwrap()), &digest(n), record).unwrap();
    }

    #[test]
    fn names_find_images_and_removal_frees_what_nothing_needs() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        add(&store, "nginx", 1);
        add(&store, "app:1", 2);
        assert_eq!(store.find("docker.io/library/nginx:latest").unwrap().unwrap().id, digest(101));
        assert_eq!(store.find(&digest(101)).unwrap().unwrap().id, digest(101));
        assert_eq!(store.find(&digest(101)[7..19]).unwrap().unwrap().id, digest(101));
        assert_eq!(store.find(&format!("nginx@{}", digest(1))).unwrap().unwrap().id, digest(101));
        assert!(store.find("nginx:2").unwrap().is_none());
        store.tag(&digest(101), &Reference::parse("other:x").unwrap()).unwrap();
        store.remove("nginx", &[]).unwrap();
        assert!(store.find("other:x").unwrap().is_some() && store.find("nginx").unwrap().is_none());
        let layer = store.layer_path(&digest(51)).unwrap();
        store.remove("other:x", std::slice::from_ref(&layer)).unwrap();
        assert!(layer.is_dir(), "a container stands on it");
        store.collect(&[]).unwrap();
        assert!(!layer.is_dir() && store.find("app:1").unwrap().is_some());
        assert!(matches!(store.remove("nginx", &[]), Err(Error::NoSuchImage(_))));
    }

    #[test]
    fn what_a_crash_left_is_swept_and_what_is_in_use_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let used = store.scratch().unwrap();
        fs::create_dir(dir.path().join("tmp/left")).unwrap();
        Store::open(dir.path()).unwrap();
        assert!(used.path().is_dir() && !dir.path().join("tmp/left").exists());
        fs::write(dir.path().join("format"), "99").unwrap();
        assert!(Store::open(dir.path()).err().unwrap().to_string().contains("format 99"));
    }
}
