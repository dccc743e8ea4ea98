//! Lock files among the processes of the machine. A lock goes with its process, however that ends.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// A lock file held until dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Waits until nobody else holds it.
    pub fn exclusive(path: &Path) -> io::Result<Lock> {
        loop {
            if let Some(lock) = Lock::take(path, FlockOperation::LockExclusive)? {
                return Ok(lock);
            }
        }
    }

    /// Waits until nobody holds it alone.
    pub fn shared(path: &Path) -> io::Result<Lock> {
        loop {
            if let Some(lock) = Lock::take(path, FlockOperation::LockShared)? {
                return Ok(lock);
            }
        }
    }

    /// `None` when somebody else holds it.
    pub fn try_exclusive(path: &Path) -> io::Result<Option<Lock>> {
        match Lock::take(path, FlockOperation::NonBlockingLockExclusive) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            result => result,
        }
    }

    /// Gives it up and removes the file. Only for locks that are taken by [`Lock::exclusive`] alone.
    pub fn remove(self) {
        // While it is held: whoever waits for the removed file sees that, and makes another.
        let _ = fs::remove_file(&self.path);
    }

    /// `None` when the file was removed while it was waited for.
    fn take(path: &Path, how: FlockOperation) -> io::Result<Option<Lock>> {
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        rustix::fs::flock(&file, how)?;
        let held = file.metadata()?;
        match fs::metadata(path) {
            Ok(there) if there.ino() == held.ino() && there.dev() == held.dev() => {
                Ok(Some(Lock { path: path.to_owned(), _file: file }))
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_alone_or_many_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let (one, two) = (Lock::shared(&path).unwrap(), Lock::shared(&path).unwrap());
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
        drop((one, two));
        let alone = Lock::try_exclusive(&path).unwrap().unwrap();
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
        alone.remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_removed_while_waited_for_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let lock = Lock::exclusive(&path).unwrap();
                        // Nobody else is here: a file that is made anew is new.
                        File::create_new(dir.path().join("inside")).unwrap();
                        fs::remove_file(dir.path().join("inside")).unwrap();
                        lock.remove();
                    }
                });
            }
        });
    }
}
