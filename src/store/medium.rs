//! What a store lies on: a file that is written in place, and the directory that it is in.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// A file that is nobody else's while it is open.
pub trait Medium: Send {
    /// Its length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Fills `out` with what is at `offset`.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts it off, or makes it longer by zeros.
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// Returns when what was written survives power loss.
    fn sync(&self) -> io::Result<()>;
    /// Whether this is the file that has the name.
    fn is_named(&self, path: &Path) -> io::Result<bool>;
}

/// Where files are.
pub trait Directory: Send + Sync {
    /// Opens a file, which it makes when it is missing; `ErrorKind::WouldBlock` while somebody else has it open.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Medium>>;
    /// Gives a file the name of another one, which is gone then.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file that may be there.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Returns when the names of the files beside this one survive power loss.
    fn sync_names(&self, path: &Path) -> io::Result<()>;
}

/// The kernel's files.
pub struct Disk;

/// Only the owner of a cluster reads its secrets.
const MODE: u32 = 0o600;

impl Directory for Disk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn Medium>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(MODE);
        loop {
            let file = options.open(path)?;
            file.try_lock().map_err(|error| match error {
                TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
                TryLockError::Error(error) => error,
            })?;
            // Whoever had it until now may have put another one in its place.
            if file.is_named(path)? {
                return Ok(Box::new(file));
            }
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn sync_names(&self, path: &Path) -> io::Result<()> {
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Medium for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(out, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn is_named(&self, path: &Path) -> io::Result<bool> {
        let ours = self.metadata()?;
        match fs::metadata(path) {
            Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
