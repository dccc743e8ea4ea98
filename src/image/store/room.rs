//! Making room: images that nobody has used for a while go, those first whose last use is longest ago. Those that came
//! from archives stay: nobody could bring them back.
//!
//! The file of an image's configuration bears the time of its last use, so that all processes of the machine know it.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use super::index::{Index, Record};
use super::{Store, failed, hex};
use crate::image::Error;
use crate::sys::lock::Lock;
use crate::sys::usage;

/// The images that may go, in their turn, from when each was last used (pure).
fn turns(mut images: Vec<(SystemTime, String)>, now: SystemTime, age: Duration) -> Vec<String> {
    images.retain(|(used, _)| now.duration_since(*used).is_ok_and(|unused| unused >= age));
    images.sort();
    images.into_iter().map(|(_, manifest)| manifest).collect()
}

impl Store {
    /// An image is used at this moment.
    pub fn touch(&self, config: &str) {
        let path = match self.blob_path(config) {
            Ok(path) => path,
            Err(_) => return,
        };
        let touched = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = touched {
            tracing::debug!(path = %path.display(), %error, "an image's last use is not noted");
        }
    }

    /// When an image was last used; one that has lost its configuration is of no use to anybody.
    fn last_used(&self, record: &Record) -> Result<SystemTime, Error> {
        let modified = fs::metadata(self.blob_path(&record.config)?).and_then(|file| file.modified());
        Ok(modified.unwrap_or(SystemTime::UNIX_EPOCH))
    }

    /// Removes images of registries that no container has used for so long until so many bytes are free; answers how
    /// many that are.
    /// `None` while somebody holds the content: a pull that goes on needs what it has brought.
    pub fn free(&self, bytes: u64, age: Duration) -> Result<Option<u64>, Error> {
        let path = self.content_lock();
        let Some(alone) = Lock::try_exclusive(&path).map_err(failed("lock", &path))? else { return Ok(None) };
        let in_use = self.in_use.ask()?;
        let index = self.read()?;
        let mut unused = Vec::new();
        for (manifest, record) in &index.images {
            if is_used(record, &in_use)? {
                // Its disuse begins when nobody is seen to use it any more.
                self.touch(&record.config);
            } else if !record.loaded {
                unused.push((self.last_used(record)?, manifest.clone()));
            }
        }
        let (mut left, mut freed) = (index, 0);
        let mut gone = Vec::new();
        for manifest in turns(unused, SystemTime::now(), age) {
            if freed >= bytes {
                break;
            }
            let Some(record) = left.images.get(&manifest).cloned() else { continue };
            left.forget(&manifest);
            freed += self.own_bytes(&record, &left, &in_use)?;
            gone.push(manifest);
        }
        if gone.is_empty() {
            return Ok(Some(0));
        }
        let left = self.change(|index| {
            for manifest in &gone {
                index.forget(manifest);
            }
            Ok(index.clone())
        })?;
        // Who asks for room waits until it is there.
        drop(self.set_aside(&left, in_use, alone)?);
        Ok(Some(freed))
    }

    /// The bytes of an image's layers, packed and unpacked, that nobody else has.
    fn own_bytes(&self, record: &Record, others: &Index, in_use: &BTreeSet<OsString>) -> Result<u64, Error> {
        let mut bytes = 0;
        for layer in record.all_layers() {
            let shared = others.images.values().any(|other| other.all_layers().any(|own| own == layer));
            if !shared && !in_use.contains(OsStr::new(hex(layer)?)) {
                bytes += usage::of_directory(&self.layer_path(layer)?).unwrap_or(0);
            }
        }
        for blob in &record.blobs {
            if !others.images.values().any(|other| other.blobs.contains(blob)) {
                bytes += fs::metadata(self.blob_path(blob)?).map_or(0, |file| file.len());
            }
        }
        Ok(bytes)
    }
}

/// Whether containers stand on all of an image's layers.
pub fn is_used(record: &Record, in_use: &BTreeSet<OsString>) -> Result<bool, Error> {
    let names = record.all_layers().map(|layer| hex(layer)).collect::<Result<Vec<_>, _>>()?;
    Ok(!names.is_empty() && names.iter().all(|name| in_use.contains(OsStr::new(name))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_that_was_used_longest_ago_goes_first() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let images = || {
            let used = [("new", 990), ("old", 10), ("older", 5), ("future", 2000), ("just", 880)];
            used.map(|(name, at)| (SystemTime::UNIX_EPOCH + Duration::from_secs(at), name.to_owned())).into()
        };
        assert_eq!(turns(images(), now, Duration::from_secs(120)), ["older", "old", "just"]);
        assert!(turns(images(), now, Duration::from_secs(2000)).is_empty());
    }
}
