//! User namespaces: making one with its range of ids, for mounts and processes to be in.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sched::CloneFlags;

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

/// The child's id as `/proc` has it, which may be that of another process namespace.
fn visible_pid(child: &process::Child) -> io::Result<i32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", child.pidfd.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.filter(|pid| *pid > 0).ok_or_else(|| io::ErrorKind::NotFound.into())
}
