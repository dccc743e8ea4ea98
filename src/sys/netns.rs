//! Network namespaces that live as files: made, found and let go.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;

/// `NSFS_MAGIC` of linux/magic.h: the file system of namespace files.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Makes a network namespace bound at `path` (which must not exist yet), runs `work` inside it, and returns both.
///
/// The call blocks: wrap it in `spawn_blocking` inside async code. A failure leaves nothing behind.
pub fn create<T: Send>(path: &Path, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<(OwnedFd, T)> {
    File::create_new(path)?;
    std::thread::scope(|scope| {
        let made = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
            let own = Path::new("/proc/thread-self/ns/net");
            nix::mount::mount(Some(own), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok((File::open(path)?.into(), work()?))
        })?;
        made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
    .inspect_err(|_| {
        // The error that matters is the first one; an unbound file is all that can be left here.
        let _ = release(path);
    })
}

/// Lets go of the namespace bound at `path`, and removes the file. Already gone is fine.
///
/// The kernel ends the namespace in the background once no process and no descriptor holds it.
pub fn release(path: &Path) -> io::Result<()> {
    match nix::mount::umount2(path, MntFlags::MNT_DETACH) {
        // EINVAL: not a mount point, so only the file is left.
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Whether a namespace is bound at `path`.
pub fn is_bound(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|stat| stat.filesystem_type().0 == NSFS_MAGIC)
}
