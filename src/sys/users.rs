//! User namespaces: making one with its range of ids, for mounts and processes to be in; making files for those users.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use caps::CapSet;
use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use super::process::{self, SingleThreaded};

/// A new user namespace whose ids from 0 on are those of the host from `base` on.
///
/// Only a process can hold one while it gets its ids, which somebody outside must write: a child is made for that.
pub fn namespace(proof: &SingleThreaded, base: u32, count: u32) -> io::Result<OwnedFd> {
    let child = process::clone(proof, CloneFlags::CLONE_NEWUSER, None, || {
        // It ends by the signal below, or with the process that was to send it.
        let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
        nix::unistd::pause();
        0
    })?;
    let made = (|| {
        let pid = visible_pid(&child)?;
        let map = format!("0 {base} {count}");
        for file in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{pid}/{file}"), &map)?;
        }
        Ok(fs::File::open(format!("/proc/{pid}/ns/user"))?.into())
    })();
    process::send_signal(child.pidfd.as_fd(), libc::SIGKILL)?;
    made
}

/// While it is kept, the files that this thread makes are another user's; what it may do stays as it is.
#[derive(Debug)]
pub struct Maker {
    user: Uid,
    group: Gid,
}

impl Maker {
    /// What is made is this user's and group's.
    pub fn of(user: u32, group: u32) -> io::Result<Maker> {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        let before = Maker { group: setfsgid(group), user: setfsuid(user) };
        // These calls do not tell of failures; to set what cannot be answers what is.
        let nobody = u32::MAX;
        if setfsuid(Uid::from_raw(nobody)) != user || setfsgid(Gid::from_raw(nobody)) != group {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        // The kernel takes rights over files from whoever becomes somebody else than root, and gives them back to root.
        let permitted = caps::read(None, CapSet::Permitted).map_err(io::Error::other)?;
        caps::set(None, CapSet::Effective, &permitted).map_err(io::Error::other)?;
        Ok(before)
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        setfsuid(self.user);
        setfsgid(self.group);
    }
}

/// The child's id as `/proc` has it, which may be that of another process namespace.
fn visible_pid(child: &process::Child) -> io::Result<i32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", child.pidfd.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.filter(|pid| *pid > 0).ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn files_are_made_for_others_with_all_rights() {
        if !nix::unistd::geteuid().is_root() {
            assert!(Maker::of(4242, 4243).is_err());
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let made = |name: &str| {
            let path = dir.path().join(name);
            fs::write(&path, "").unwrap();
            let stat = fs::metadata(path).unwrap();
            (stat.uid(), stat.gid())
        };
        let effective = || caps::read(None, CapSet::Effective).unwrap();
        let before = effective();
        let maker = Maker::of(4242, 4243).unwrap();
        // The directory is root's alone.
        assert_eq!((made("others"), effective()), ((4242, 4243), before.clone()));
        drop(maker);
        assert_eq!((made("own"), effective()), ((0, 0), before));
    }
}
