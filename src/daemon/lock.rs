//! Locks between minik's processes: held by an open file, gone with the process, and saying who holds them.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::places::Places;
pub use crate::sys::lock::Lock;

/// Who holds a lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holder {
    /// What it does; empty when it has not said so yet.
    pub name: String,
    /// Its process.
    pub pid: Option<i32>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "{} (pid {pid})", self.name),
            None => f.write_str("another process"),
        }
    }
}

/// What became of an attempt.
#[derive(Debug)]
pub enum Attempt {
    /// It is ours.
    Taken(Lock),
    /// It is somebody else's.
    Held(Holder),
}

/// Takes a lock if nobody has it; `name` is what others are told of its holder.
pub fn attempt(path: &Path, name: &str) -> io::Result<Attempt> {
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    match Lock::try_exclusive(path)? {
        Some(lock) => claim(lock, name),
        None => Ok(Attempt::Held(holder(path))),
    }
}

fn claim(mut lock: Lock, name: &str) -> io::Result<Attempt> {
    lock.say(&format!("{} {name}\n", std::process::id()))?;
    Ok(Attempt::Taken(lock))
}

/// Takes a lock, waiting for it for up to `limit`; `waiting` is told once who has it.
pub async fn wait(
    path: PathBuf,
    name: &str,
    limit: Duration,
    waiting: impl FnOnce(&Holder),
) -> io::Result<Attempt> {
    let holder = match attempt(&path, name)? {
        Attempt::Held(holder) => holder,
        taken => return Ok(taken),
    };
    waiting(&holder);
    // The thread ends with the process when the time is over first.
    let free = tokio::task::spawn_blocking(move || Lock::exclusive(&path));
    match tokio::time::timeout(limit, free).await {
        Ok(taken) => claim(taken.map_err(io::Error::other)??, name),
        Err(_) => Ok(Attempt::Held(holder)),
    }
}

/// Who holds a lock; `None` when nobody does. Makes nothing.
pub fn held(path: &Path) -> io::Result<Option<Holder>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(holder(path))),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Takes the lock of everything that concerns all clusters of the machine, waiting for it. It is the directory of what
/// runs, so that nothing is left over.
pub async fn of_machine() -> io::Result<Lock> {
    let locked = tokio::task::spawn_blocking(|| Lock::directory(Places::all_runs())).await;
    locked.map_err(io::Error::other)?
}

fn holder(path: &Path) -> Holder {
    match fs::read_to_string(path).unwrap_or_default().trim_end().split_once(' ') {
        Some((pid, name)) => Holder { name: name.to_owned(), pid: pid.parse().ok() },
        None => Holder::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_holds_it_and_the_next_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/lock");
        assert_eq!(held(&path).unwrap(), None);
        let Attempt::Taken(first) = attempt(&path, "minik start").unwrap() else { panic!("free") };
        let Attempt::Held(holder) = attempt(&path, "minik stop").unwrap() else { panic!("held") };
        assert_eq!(holder.to_string(), format!("minik start (pid {})", std::process::id()));
        assert_eq!(held(&path).unwrap(), Some(holder.clone()));
        let mut seen = None;
        let late = wait(path.clone(), "b", Duration::from_millis(20), |h| seen = Some(h.clone())).await;
        assert!(matches!(late.unwrap(), Attempt::Held(_)));
        assert_eq!(seen, Some(holder));
        let next = tokio::spawn(wait(path.clone(), "c", Duration::from_secs(20), |_| ()));
        // Who removes the file of a lock that it holds leaves no lock behind for two.
        fs::remove_file(&path).unwrap();
        drop(first);
        let Attempt::Taken(_next) = next.await.unwrap().unwrap() else { panic!("free again") };
        assert!(held(&path).unwrap().is_some());
    }
}
