//! Processes: cloning a single-threaded one, signalling and reaping by descriptor, becoming another program.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sched::CloneFlags;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};

use crate::stdio::Exit;

/// Of clone3 (linux/sched.h); the C library constant is too narrow.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Proof that the process has one thread only, so that a clone of it may run Rust code.
#[derive(Debug)]
pub struct SingleThreaded(());

impl SingleThreaded {
    /// Looks at `/proc/self/task`; an error when there is more than one thread. The holder starts no threads.
    pub fn prove() -> io::Result<SingleThreaded> {
        match std::fs::read_dir("/proc/self/task")?.count() {
            1 => Ok(SingleThreaded(())),
            threads => Err(io::Error::other(format!("process has {threads} threads, not one"))),
        }
    }
}

/// A child that was cloned and not yet reaped.
#[derive(Debug)]
pub struct Child {
    /// As seen by this process.
    pub pid: i32,
    /// Refers to the child even after its id was given to another.
    pub pidfd: OwnedFd,
}

/// Clones this process into new namespaces (`flags`) and, on cgroup v2, straight into a cgroup; `work` runs in
/// the child, which ends with the status that `work` returns (101 when it panics).
pub fn clone<F>(
    _proof: &SingleThreaded,
    flags: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
    work: F,
) -> io::Result<Child>
where
    F: FnOnce() -> i32,
{
    let mut pidfd: RawFd = -1;
    // SAFETY: all fields are integers, for which zero is valid and means "not used".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags.bits() as u32 as u64 | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM this is a fork; `args` and `pidfd` live across the call. The proof says that no
    // other thread can hold a lock that the child would wait for.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    let pid = cloned(pid, work)?;
    // SAFETY: the kernel stored a new descriptor there, which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid, pidfd })
}

/// Clones this process as its own sibling, a child of its parent, in the process namespace that it has joined for its
/// children; `work` is as in [`clone`]. Answers the sibling's id as this process sees it.
///
/// By the older call: a system-call filter that cannot see into the arguments of clone3 has to forbid that.
pub fn clone_sibling<F>(_proof: &SingleThreaded, work: F) -> io::Result<i32>
where
    F: FnOnce() -> i32,
{
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is a fork on a copy of the same stack, as a null one asks for; the flags use none of
    // the other arguments. The proof says that no other thread can hold a lock that the child would wait for.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone, flags as libc::c_long, 0_usize, 0_usize, 0_usize, 0_usize) };
    cloned(pid, work)
}

/// Goes on after a cloning call: with the child's id in the parent, with `work` in the child.
fn cloned(result: libc::c_long, work: impl FnOnce() -> i32) -> io::Result<i32> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(101);
            // SAFETY: ends the child at once, without running the parent's exit handlers.
            unsafe { libc::_exit(status) }
        }
        pid => Ok(pid as i32),
    }
}

/// Takes a process for a child that somebody else has cloned for this one; an error when it is not, or was reaped.
pub fn adopt(pid: i32) -> io::Result<Child> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let pidfd = pidfd_open(pid)?;
    // Looks only: the status stays to be taken.
    waitid(
        WaitId::PidFd(pidfd.as_fd()),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT,
    )?;
    Ok(Child { pid, pidfd })
}

/// Opens a descriptor for a running process.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// Sends any signal, real-time ones included; a process that is gone already is success.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed; the other arguments are integers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    match io::Error::last_os_error() {
        _ if result == 0 => Ok(()),
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        error => Err(error),
    }
}

/// Waits until the process of a descriptor has ended, at most `timeout_ms`; says whether it has.
pub fn wait_ended(pidfd: BorrowedFd<'_>, timeout_ms: u16) -> io::Result<bool> {
    use nix::poll::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    Ok(poll(&mut fds, timeout_ms)? > 0)
}

/// Takes the status of one ended child, if there is one: its id and how it ended, by a real-time signal too.
pub fn reap() -> Option<(i32, Exit)> {
    loop {
        // SAFETY: all fields are integers and a pointer, for which zero is valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` lives across the call.
        if unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOHANG) } < 0 {
            match io::Error::last_os_error().kind() {
                io::ErrorKind::Interrupted => continue,
                _ => return None,
            }
        }
        // SAFETY: after success the fields of a child's status are set, or all zero when no child has ended.
        let pid = unsafe { info.si_pid() };
        // SAFETY: as above.
        let status = unsafe { info.si_status() };
        return match (pid, info.si_code) {
            (0, _) => None,
            (_, libc::CLD_EXITED) => Some((pid, Exit::Code(status))),
            _ => Some((pid, Exit::Signal(status))),
        };
    }
}

/// When a process started, in clock ticks since boot (`proc_pid_stat(5)`, field 22): with the id, its name
/// for as long as the machine runs.
pub fn start_time(pid: i32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command name may hold anything, so count from its closing parenthesis.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    fields
        .split_whitespace()
        .nth(19)
        .and_then(|field| field.parse().ok())
        .ok_or(io::ErrorKind::InvalidData.into())
}

/// Marks all descriptors from `first` on to be closed by `exec`.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: integers only; marking descriptors invalidates none.
    match unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Closes every descriptor but the three standard ones. Only for a fresh child that owns none of them in Rust.
pub fn close_inherited() {
    close_between(3, u32::MAX);
}

/// As [`close_inherited`], but for this one.
pub fn close_all_but(kept: BorrowedFd<'_>) {
    let kept = kept.as_raw_fd() as u32;
    if kept > 3 {
        close_between(3, kept - 1);
    }
    close_between(kept.max(2) + 1, u32::MAX);
}

fn close_between(first: u32, last: u32) {
    // SAFETY: the caller is a fresh child that goes on without any of its parent's descriptors.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Gives every signal its default action and blocks none: what a new program expects.
pub fn reset_signals() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default action runs no code of this process.
        unsafe { nix::sys::signal::sigaction(signal, &default) }?;
    }
    Ok(SigSet::empty().thread_set_mask()?)
}

/// Makes `fds` the standard input, output and error.
pub fn set_standard_streams(fds: [BorrowedFd<'_>; 3]) -> io::Result<()> {
    // Copies above the standard range first: a source may itself be 0, 1 or 2.
    let copies = fds
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3))
        .into_iter()
        .collect::<Result<Vec<OwnedFd>, _>>()?;
    for (target, copy) in (0..).zip(&copies) {
        // SAFETY: integers only; the standard descriptors are not owned by any Rust value here.
        if unsafe { libc::dup2(copy.as_raw_fd(), target) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Becomes another program; returns only when that failed.
pub fn exec(program: &Path, args: &[String], env: &[String]) -> io::Error {
    let strings =
        |list: &[String]| list.iter().map(|text| CString::new(text.as_str())).collect::<Result<Vec<_>, _>>();
    let exec = || -> io::Result<Infallible> {
        let program = CString::new(program.as_os_str().as_encoded_bytes())?;
        Ok(nix::unistd::execve(&program, &strings(args)?, &strings(env)?)?)
    };
    match exec() {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

/// Starts `executable` with `args`, detached from this process's terminal and standard output, running from a
/// read-only clone of its mount so that nothing can write to the file through `/proc/PID/exe` (CVE-2019-5736).
///
/// Its standard output is a pipe back to the caller, its error output goes to `log`.
pub fn spawn_read_only(executable: &Path, args: &[String], log: File) -> io::Result<std::process::Child> {
    let clone = crate::sys::mount::read_only_file(executable).ok();
    let program = match &clone {
        Some(fd) => format!("/proc/self/fd/{}", fd.as_raw_fd()).into(),
        None => executable.to_owned(),
    };
    let mut command = Command::new(program);
    command.arg0(executable).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    command.current_dir("/").env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    // SAFETY: setsid is async-signal-safe and touches no memory.
    unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from)) };
    command.spawn()
}

/// Sends a signal to a process by id. Prefer [`send_signal`]: an id may be reused.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: integers only.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes the terminal `tty` the controlling one of the calling session leader.
pub fn set_controlling_terminal(tty: impl AsFd) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    match unsafe { libc::ioctl(tty.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_start_time_is_known_and_stable() {
        let pid = std::process::id() as i32;
        assert!(start_time(pid).unwrap() > 0);
        assert_eq!(start_time(pid).unwrap(), start_time(pid).unwrap());
    }
}
