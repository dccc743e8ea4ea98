//! Namespaces: running code inside one, and joining them in a process made for it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::CloneFlags;

/// Runs `work` on a thread of its own that has joined the network namespace `netns`, and waits for it.
///
/// Sockets made in `work` stay in that namespace and may be used anywhere afterwards. The call blocks: wrap it
/// in `spawn_blocking` inside async code.
pub fn run_in<T, F>(netns: &OwnedFd, work: F) -> io::Result<T>
where
    T: Send,
    F: FnOnce() -> T + Send,
{
    let netns = netns.as_fd();
    std::thread::scope(|scope| {
        let joined = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, move || {
            nix::sched::setns(netns, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })?;
        joined.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// As [`run_in`], for a namespace bound at `path`.
pub fn run_in_path<T, F>(path: &Path, work: F) -> io::Result<T>
where
    T: Send,
    F: FnOnce() -> T + Send,
{
    run_in(&open(path)?, work)
}

/// Opens a namespace file, such as `/proc/1/ns/net` or a bound one.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(File::open(path)?.into())
}

/// Moves the calling thread into a namespace of the given kind. Only for a process or thread made for it.
pub fn join(namespace: BorrowedFd<'_>, kind: CloneFlags) -> io::Result<()> {
    Ok(nix::sched::setns(namespace, kind)?)
}

/// Gives the calling process new namespaces. Only for a process or thread made for it.
pub fn unshare(kinds: CloneFlags) -> io::Result<()> {
    Ok(nix::sched::unshare(kinds)?)
}
