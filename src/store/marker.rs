//! A file beside the store that says that the store exists, so that one that was lost or emptied is not taken for one that is
//! yet to be made.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::Error;
use super::medium::{Directory, Disk};

/// The file.
pub struct Marker(PathBuf);

impl Marker {
    /// That of this store.
    pub fn of(store: &Path) -> Marker {
        let mut name = store.file_name().unwrap_or_default().to_owned();
        name.push(".made");
        Marker(store.with_file_name(name))
    }

    /// Refuses a store that was there and is not.
    pub fn check(&self, store: &Path) -> Result<(), Error> {
        let length = fs::metadata(store).map(|found| found.len());
        let lost = match &length {
            Ok(length) => *length == 0,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if !lost || !self.0.exists() {
            return Ok(());
        }
        let state = if length.is_ok() { "is empty" } else { "is missing" };
        Err(Error::Disk {
            path: store.display().to_string(),
            message: format!(
                "the file {state} although this cluster has written it ({} says so): put back a copy, or delete \
                 the cluster",
                self.0.display()
            ),
        })
    }

    /// Sets the mark once the store is safely there.
    pub fn set(&self, store: &Path) -> io::Result<()> {
        if self.0.exists() {
            return Ok(());
        }
        // The store's name must be on the disk before the mark that it must be there.
        Disk.sync_names(store)?;
        File::create(&self.0)?.sync_all()?;
        Disk.sync_names(store)
    }
}
