//! A disk that fails on demand, for tests: one without room, or one whose one operation fails.

use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use super::Store;
use super::medium::{Directory, Disk, Medium};
use super::writer::Limits;

/// What goes wrong with every disk of this kind.
#[derive(Debug, Default)]
pub struct Faults {
    /// Nothing can be written.
    pub full: AtomicBool,
    /// After so many operations that write, one fails; negative when it has.
    pub countdown: AtomicI64,
    /// Whether the failing operation is carried out nevertheless, as when only its answer is lost.
    pub done_anyway: AtomicBool,
    /// Whether the failing operation, when it writes bytes, writes the first half of them.
    pub half_done: AtomicBool,
}

impl Faults {
    /// A disk on which nothing goes wrong yet.
    pub fn none() -> Arc<Faults> {
        Arc::new(Faults { countdown: AtomicI64::new(-1), ..Faults::default() })
    }

    /// A store on such a disk.
    pub fn store(self: &Arc<Self>, path: &Path) -> Store {
        self.store_with(path, Limits { events: 100, bytes: usize::MAX, file: u64::MAX / 4 })
    }

    /// The same within these limits.
    pub fn store_with(self: &Arc<Self>, path: &Path, limits: Limits) -> Store {
        Store::open_with(path, Arc::new(FaultyDisk(self.clone())), limits).unwrap()
    }

    fn check(&self, operation: impl FnOnce() -> Result<()>) -> Result<()> {
        self.check_or(operation, || Ok(()))
    }

    fn check_or(
        &self,
        operation: impl FnOnce() -> Result<()>,
        half: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let no_room = || Err(Error::from(ErrorKind::StorageFull));
        if self.full.load(Ordering::SeqCst) {
            return no_room();
        }
        if self.countdown.load(Ordering::SeqCst) < 0 || self.countdown.fetch_sub(1, Ordering::SeqCst) > 0 {
            return operation();
        }
        if self.done_anyway.load(Ordering::SeqCst) {
            operation()?;
        } else if self.half_done.load(Ordering::SeqCst) {
            half()?;
        }
        no_room()
    }
}

struct FaultyDisk(Arc<Faults>);

impl Directory for FaultyDisk {
    fn open(&self, path: &Path) -> Result<Box<dyn Medium>> {
        Ok(Box::new(FaultyMedium { medium: Disk.open(path)?, faults: self.0.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.0.check(|| Disk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        Disk.remove(path)
    }

    fn sync_names(&self, path: &Path) -> Result<()> {
        self.0.check(|| Disk.sync_names(path))
    }
}

struct FaultyMedium {
    medium: Box<dyn Medium>,
    faults: Arc<Faults>,
}

impl Medium for FaultyMedium {
    fn length(&self) -> Result<u64> {
        self.medium.length()
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> Result<()> {
        self.medium.read_at(out, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let half = &bytes[..bytes.len() / 2];
        self.faults.check_or(|| self.medium.write_at(bytes, offset), || self.medium.write_at(half, offset))
    }

    fn set_length(&self, length: u64) -> Result<()> {
        self.faults.check(|| self.medium.set_length(length))
    }

    fn sync(&self) -> Result<()> {
        self.faults.check(|| self.medium.sync())
    }

    fn is_named(&self, path: &Path) -> Result<bool> {
        self.medium.is_named(path)
    }
}
