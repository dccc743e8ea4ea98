//! A disk that fails on demand, for tests: an ordinary file that has no room, or whose one operation fails.

use std::fs::OpenOptions;
use std::io::{Error, ErrorKind, Result};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use super::Store;
use super::writer::Limits;
use redb::backends::FileBackend;
use redb::{BackendError, Database, DatabaseError, StorageBackend};

/// What goes wrong with every disk of this kind.
#[derive(Debug, Default)]
pub struct Faults {
    /// Nothing can be written.
    pub full: AtomicBool,
    /// After so many operations that write, one fails; negative when it has.
    pub countdown: AtomicI64,
    /// Whether the failing operation is carried out nevertheless, as when only its answer is lost.
    pub done_anyway: AtomicBool,
    /// Whether it panics instead of answering with an error.
    pub panics: AtomicBool,
}

impl Faults {
    /// A disk on which nothing goes wrong yet.
    pub fn none() -> Arc<Faults> {
        Arc::new(Faults { countdown: AtomicI64::new(-1), ..Faults::default() })
    }

    /// Opens the engine on a file of such a disk.
    pub fn open(self: &Arc<Self>, path: &Path) -> std::result::Result<Database, DatabaseError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let disk = FaultyDisk { file: FileBackend::new(file)?, faults: self.clone() };
        Database::builder().create_with_backend(disk)
    }

    /// A store on such a disk.
    pub fn store(self: &Arc<Self>, path: &Path) -> Store {
        let (faults, limits) = (self.clone(), Limits { events: 100, bytes: usize::MAX });
        Store::open_with(path, Box::new(move |path| faults.open(path)), limits).unwrap()
    }

    fn check(&self, operation: impl FnOnce() -> Result<()>) -> Result<()> {
        let no_room = || Err(Error::from(ErrorKind::StorageFull));
        if self.full.load(Ordering::SeqCst) {
            return no_room();
        }
        if self.countdown.load(Ordering::SeqCst) < 0 || self.countdown.fetch_sub(1, Ordering::SeqCst) > 0 {
            return operation();
        }
        if self.done_anyway.load(Ordering::SeqCst) {
            operation()?;
        }
        assert!(!self.panics.load(Ordering::SeqCst), "the disk fails by a panic");
        no_room()
    }
}

#[derive(Debug)]
struct FaultyDisk {
    file: FileBackend,
    faults: Arc<Faults>,
}

impl StorageBackend for FaultyDisk {
    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.faults.check(|| self.file.set_len(len))
    }

    fn sync_data(&self) -> Result<()> {
        self.faults.check(|| self.file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.faults.check(|| self.file.write(offset, data))
    }

    fn close(&self) -> Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> std::result::Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> std::result::Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> std::result::Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> std::result::Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> std::result::Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> std::result::Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
