//! Locks among the processes of the machine, on files and directories. A lock goes with its process, however that ends.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// A lock held until dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: File,
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

    /// Waits until nobody else holds a directory, which is made for root alone when it is missing.
    pub fn directory(path: &Path) -> io::Result<Lock> {
        loop {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            let directory = match File::open(path) {
                // Removed again just then.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                directory => directory?,
            };
            if let Some(lock) = Lock::hold(path, directory, FlockOperation::LockExclusive)? {
                return Ok(lock);
            }
        }
    }

    /// Writes into the file, for whoever wants to know who holds it.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())
    }

    /// Gives it up and removes the file. Only for locks that are taken by [`Lock::exclusive`] alone.
    pub fn remove(self) {
        // While it is held: whoever waits for the removed file sees that, and makes another.
        let _ = fs::remove_file(&self.path);
    }

    /// `None` when the file was removed while it was waited for.
    fn take(path: &Path, how: FlockOperation) -> io::Result<Option<Lock>> {
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        Lock::hold(path, file, how)
    }

    fn hold(path: &Path, file: File, how: FlockOperation) -> io::Result<Option<Lock>> {
        rustix::fs::flock(&file, how)?;
        let held = file.metadata()?;
        match fs::metadata(path) {
            Ok(there) if there.ino() == held.ino() && there.dev() == held.dev() => {
                Ok(Some(Lock { path: path.to_owned(), file }))
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
    fn a_directory_is_made_and_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let held = Lock::directory(&path).unwrap();
        std::thread::scope(|scope| {
            let next = scope.spawn(|| Lock::directory(&path).unwrap());
            fs::remove_dir(&path).unwrap();
            drop(held);
            drop(next.join().unwrap());
        });
        assert!(path.is_dir());
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
