//! The process between clone and exec: joins, mounts, gives up rights, becomes the container's program.
//!
//! Runs in a clone of the single-threaded supervisor. Every failure goes back over the status socket with the step
//! and its object; success is that socket closing on exec.

use std::convert::Infallible;
use std::fmt::Display;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{identity, rootfs};
use crate::runtime::cgroups::Group;
use crate::runtime::{ContainerConfig, Process, Security};
use crate::sys::{namespace, process, pty, seccomp, socket};

/// Open files that a process may have, where the host allows it.
const OPEN_FILES: u64 = 1 << 20;

/// A failed step, in words for the user.
#[derive(Debug)]
pub struct Failed(pub String);

/// The result of a step.
pub type Step<T> = Result<T, Failed>;

/// Names the step and the object of an error.
pub trait During<T> {
    /// As `STEP: ERROR`.
    fn during(self, step: impl Display) -> Step<T>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, step: impl Display) -> Step<T> {
        self.map_err(|error| Failed(format!("{step}: {}", describe(&error.into()))))
    }
}

/// An error as the C library words it, without Rust's number behind it.
pub fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_lowercase(),
        None => error.to_string(),
    }
}

/// The sandbox's namespaces that a container joins.
#[derive(Debug)]
pub struct Namespaces {
    /// Network; `None` is the host's.
    pub net: Option<OwnedFd>,
    /// IPC; `None` is the host's.
    pub ipc: Option<OwnedFd>,
    /// Host name; `None` is the host's.
    pub uts: Option<OwnedFd>,
    /// Processes, when the containers share them.
    pub pid: Option<OwnedFd>,
}

/// Where a process's standard streams go.
#[derive(Debug)]
pub enum Streams {
    /// A terminal, made in the container's devpts; its master goes back over the status socket.
    Terminal {
        /// The container's own: also to be its `/dev/console`.
        console: bool,
    },
    /// These.
    Files([OwnedFd; 3]),
}

/// What the first process of a container needs.
#[derive(Debug)]
pub struct Start<'a> {
    /// The container.
    pub config: &'a ContainerConfig,
    /// Of the sandbox.
    pub namespaces: &'a Namespaces,
    /// The sandbox's host name, for the environment.
    pub hostname: Option<&'a str>,
    /// The container's.
    pub group: &'a Group,
    /// Where its root is put together.
    pub places: rootfs::Places<'a>,
    /// Its system-call filter.
    pub filter: Option<&'a seccomp::Filter>,
    /// Its standard streams.
    pub streams: Streams,
}

/// What a further process in a running container needs.
#[derive(Debug)]
pub struct Join<'a> {
    /// The container.
    pub config: &'a ContainerConfig,
    /// The sandbox's host name, for the environment.
    pub hostname: Option<&'a str>,
    /// The container's.
    pub group: &'a Group,
    /// The container's own process, whose namespaces are joined.
    pub leader: BorrowedFd<'a>,
    /// Program and arguments.
    pub args: &'a [String],
    /// The container's.
    pub filter: Option<&'a seccomp::Filter>,
    /// Its standard streams.
    pub streams: Streams,
}

/// Runs a container's first process; returns only on failure, which it has reported.
pub fn start(status: BorrowedFd<'_>, start: Start<'_>) -> i32 {
    report(status, begin(status, start))
}

/// Runs a further process; returns only on failure, which it has reported.
pub fn join(status: BorrowedFd<'_>, join: Join<'_>) -> i32 {
    report(status, enter(status, join))
}

fn report(status: BorrowedFd<'_>, result: Step<Infallible>) -> i32 {
    let Err(Failed(message)) = result;
    // If the supervisor is gone there is nobody left to tell.
    let _ = socket::send(status, message.as_bytes(), &[]);
    127
}

fn begin(status: BorrowedFd<'_>, start: Start<'_>) -> Step<Infallible> {
    let Start { config, namespaces, hostname, group, places, filter, streams } = start;
    prepare(group, &config.security)?;
    let sources = rootfs::open_sources(config)?;
    for (namespace, kind, name) in [
        (&namespaces.net, CloneFlags::CLONE_NEWNET, "network"),
        (&namespaces.ipc, CloneFlags::CLONE_NEWIPC, "IPC"),
        (&namespaces.uts, CloneFlags::CLONE_NEWUTS, "UTS"),
    ] {
        if let Some(namespace) = namespace {
            namespace::join(namespace.as_fd(), kind).during(format_args!("join {name} namespace"))?;
        }
    }
    namespace::unshare(CloneFlags::CLONE_NEWCGROUP).during("make cgroup namespace")?;
    rootfs::assemble(config, &places, sources)?;
    run(status, &config.process, &config.process.args, &config.security, hostname, filter, streams)
}

fn enter(status: BorrowedFd<'_>, join: Join<'_>) -> Step<Infallible> {
    let Join { config, hostname, group, leader, args, filter, streams } = join;
    prepare(group, &config.security)?;
    let kinds = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    namespace::join(leader, kinds).during("join the container's namespaces")?;
    run(status, &config.process, args, &config.security, hostname, filter, streams)
}

/// What must be done while the host's file systems are in sight.
fn prepare(group: &Group, security: &Security) -> Step<()> {
    group.enter_v1().during("join cgroup")?;
    process::reset_signals().during("reset signals")?;
    nix::unistd::setsid().during("make session")?;
    set_oom_score(security.oom_score_adj);
    raise_open_files();
    Ok(())
}

/// What is the same for a first and a further process, with the container's root as `/`.
fn run(
    status: BorrowedFd<'_>,
    process: &Process,
    args: &[String],
    security: &Security,
    hostname: Option<&str>,
    filter: Option<&seccomp::Filter>,
    streams: Streams,
) -> Step<Infallible> {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    connect(status, streams, process)?;
    process::close_on_exec_from(3).during("close descriptors")?;
    let env = identity::environment(process, hostname);
    enter_directory(&process.cwd)?;
    identity::assume(process, security, filter)?;
    let program = identity::find_program(args, &env)?;
    let error = process::exec(&program, args, &env);
    Err(Failed(format!("exec {:?}: {}", program.display().to_string(), describe(&error))))
}

fn connect(status: BorrowedFd<'_>, streams: Streams, process: &Process) -> Step<()> {
    let root = crate::sys::path::Root::open(Path::new("/")).during("open /")?;
    match streams {
        Streams::Files(files) => {
            // So that a program may open /dev/stdout again after it has become another user.
            for file in &files {
                let stat = rustix::fs::fstat(file).during("inspect standard streams")?;
                if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo {
                    let _ = rustix::fs::fchown(file, Some(rustix::fs::Uid::from_raw(process.uid)), None);
                }
            }
            process::set_standard_streams(files.each_ref().map(AsFd::as_fd)).during("set standard streams")
        }
        Streams::Terminal { console } => {
            let (master, terminal) = pty::open(&root).during("open terminal")?;
            let _ = rustix::fs::fchown(&terminal, Some(rustix::fs::Uid::from_raw(process.uid)), None);
            if console {
                rootfs::show_console(&root, terminal.as_fd());
            }
            process::set_controlling_terminal(&terminal).during("set controlling terminal")?;
            socket::send(status, TERMINAL_MARK, &[master.as_fd()]).during("hand back the terminal")?;
            process::set_standard_streams([terminal.as_fd(); 3]).during("set standard streams")
        }
    }
}

/// The message that carries a terminal's master; every other message is an error's text.
pub const TERMINAL_MARK: &[u8] = b"\0terminal";

/// The working directory must be inside the root: a leaked descriptor could lead out (CVE-2024-21626).
fn enter_directory(cwd: &Path) -> Step<()> {
    let cwd = if cwd.as_os_str().is_empty() { Path::new("/") } else { cwd };
    let shown = cwd.display();
    if !cwd.is_absolute() {
        return Err(Failed(format!("chdir to cwd ({shown:?}): not an absolute path")));
    }
    std::env::set_current_dir(cwd).during(format_args!("chdir to cwd ({:?})", shown.to_string()))?;
    let inside =
        nix::unistd::getcwd().is_ok_and(|path| path.is_absolute() && !path.starts_with("(unreachable)"));
    match inside {
        true => Ok(()),
        false => {
            Err(Failed(format!("chdir to cwd ({:?}): outside of the container's root", shown.to_string())))
        }
    }
}

/// Lowering below the inherited value needs a capability that nested hosts do not give: then it stays.
fn set_oom_score(score: i32) {
    let _ = fs::write("/proc/self/oom_score_adj", score.to_string());
}

fn raise_open_files() {
    let hard = getrlimit(Resource::RLIMIT_NOFILE).map_or(OPEN_FILES, |(_, hard)| hard);
    if setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES.max(hard)).is_err() {
        let possible = hard.min(OPEN_FILES);
        let _ = setrlimit(Resource::RLIMIT_NOFILE, possible, hard);
    }
}
