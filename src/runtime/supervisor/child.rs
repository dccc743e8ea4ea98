//! The process between clone and exec: joins, mounts, gives up rights, becomes the container's program.
//!
//! Runs in a clone of the single-threaded supervisor. Every failure goes back over the status socket with the step
//! and its object; success is that socket closing on exec.
//!
//! Where there are other processes in the container's process namespace, these are two: one that nobody there can see
//! does all that takes the host's files and rights, then clones the one that they see. So whoever looks into that one,
//! or takes it over, before its program runs (CVE-2019-5736, CVE-2024-21626) finds the container's root, its streams
//! and its rights there, and nothing else of the host's.
//!
//! ```text
//! supervisor ──clone──► prepares: joins, mounts, streams, rights ──clone──► a sibling, born inside
//!      ▲                                                      │                  │
//!      └────────────────────────── born ──────────────────────┘                  │
//!      └────────────────────────── go ──────────────────────────────────────────►┴──exec──► program
//! ```

use std::convert::Infallible;
use std::fmt::Display;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::identity::{self, Filters};
use super::rootfs;
use crate::runtime::cgroups::Group;
use crate::runtime::{ContainerConfig, Process, Security, Users};
use crate::sys::process::SingleThreaded;
use crate::sys::{mount, namespace, process, pty, seccomp, socket};

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

/// Which processes a container sees.
#[derive(Debug, Clone, Copy)]
pub enum Processes<'a> {
    /// Those of this namespace, which its first process joins.
    Joined(BorrowedFd<'a>),
    /// Its own: its first process was cloned into a namespace of its own.
    Own,
    /// The host's.
    Host,
}

/// What the first process of a container needs.
#[derive(Debug)]
pub struct Start<'a> {
    /// The container.
    pub config: &'a ContainerConfig,
    /// Of the sandbox.
    pub namespaces: &'a Namespaces,
    /// Which processes it is among.
    pub processes: Processes<'a>,
    /// The sandbox's host name, for the environment.
    pub hostname: Option<&'a str>,
    /// The sandbox's users, and a namespace of them.
    pub users: Option<(Users, BorrowedFd<'a>)>,
    /// The container's.
    pub group: &'a Group,
    /// Where its root is put together.
    pub places: rootfs::Places<'a>,
    /// Its system-call filter.
    pub filter: Option<&'a seccomp::Filter>,
    /// Its standard streams.
    pub streams: Streams,
    /// Of the supervisor, and so of its clone.
    pub proof: &'a SingleThreaded,
}

/// What a further process in a running container needs.
#[derive(Debug)]
pub struct Join<'a> {
    /// The container.
    pub config: &'a ContainerConfig,
    /// The sandbox's host name, for the environment.
    pub hostname: Option<&'a str>,
    /// The sandbox's users.
    pub users: Option<Users>,
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
    /// Of the supervisor, and so of its clone.
    pub proof: &'a SingleThreaded,
}

/// Runs a container's first process, or makes it; returns only then, or on failure, which it has reported.
pub fn start(status: BorrowedFd<'_>, start: Start<'_>) -> i32 {
    report(status, begin(status, start))
}

/// Makes a further process; returns then, or on failure, which it has reported.
pub fn join(status: BorrowedFd<'_>, join: Join<'_>) -> i32 {
    report(status, enter(status, join))
}

fn report(status: BorrowedFd<'_>, result: Step<()>) -> i32 {
    let Err(Failed(message)) = result else { return 0 };
    // If the supervisor is gone there is nobody left to tell.
    let _ = socket::send(status, message.as_bytes(), &[]);
    127
}

fn begin(status: BorrowedFd<'_>, start: Start<'_>) -> Step<()> {
    let Start { config, namespaces, processes, hostname, users, group, places, filter, streams, proof } =
        start;
    prepare(group, &config.security)?;
    if matches!(processes, Processes::Own) {
        // Only a process of the namespace can make one, and others may be to join it later.
        let proc = mount::filesystem("proc", &[], rootfs::NO_SUID_DEVICES_EXEC).during("make proc")?;
        socket::send(status, PROC_MARK, &[proc.as_fd()]).during("hand back proc")?;
    }
    let joined = match processes {
        Processes::Joined(namespace) => Some(namespace),
        Processes::Own | Processes::Host => None,
    };
    let sources = rootfs::open_sources(config, users)?;
    for (namespace, kind, name) in [
        (namespaces.net.as_ref().map(AsFd::as_fd), CloneFlags::CLONE_NEWNET, "network"),
        (namespaces.ipc.as_ref().map(AsFd::as_fd), CloneFlags::CLONE_NEWIPC, "IPC"),
        (namespaces.uts.as_ref().map(AsFd::as_fd), CloneFlags::CLONE_NEWUTS, "UTS"),
        // For children only.
        (joined, CloneFlags::CLONE_NEWPID, "process"),
    ] {
        if let Some(namespace) = namespace {
            namespace::join(namespace, kind).during(format_args!("join {name} namespace"))?;
        }
    }
    namespace::unshare(CloneFlags::CLONE_NEWCGROUP).during("make cgroup namespace")?;
    rootfs::assemble(config, &places, sources, users)?;
    let filters = Filters::new(filter, &config.security);
    let program = Program { process: &config.process, args: &config.process.args, hostname, users, filters };
    let env = program.dress(status, &config.security, streams)?;
    match joined {
        Some(_) => bear(status, proof, || program.run(&config.security, &env)),
        // Nobody sees into a process namespace of its own, or everybody sees all of the host's.
        None => program.run(&config.security, &env).map(|never| match never {}),
    }
}

fn enter(status: BorrowedFd<'_>, join: Join<'_>) -> Step<()> {
    let Join { config, hostname, users, group, leader, args, filter, streams, proof } = join;
    prepare(group, &config.security)?;
    let kinds = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWPID;
    namespace::join(leader, kinds).during("join the container's namespaces")?;
    let filters = Filters::new(filter, &config.security);
    let users = users.map(|users| (users, leader));
    let program = Program { process: &config.process, args, hostname, users, filters };
    let env = program.dress(status, &config.security, streams)?;
    bear(status, proof, || program.run(&config.security, &env))
}

/// What must be done while the host's file systems are in sight.
fn prepare(group: &Group, security: &Security) -> Step<()> {
    group.enter_v1().during("join cgroup")?;
    process::reset_signals().during("reset signals")?;
    set_oom_score(security.oom_score_adj);
    raise_open_files();
    Ok(())
}

/// Clones the process that becomes the program, in the process namespace that was joined, and tells of it. It waits
/// until the supervisor knows of it: an end before that would be nobody's.
fn bear(status: BorrowedFd<'_>, proof: &SingleThreaded, run: impl FnOnce() -> Step<Infallible>) -> Step<()> {
    let pid = process::clone_sibling(proof, || {
        let mut go = [0; GO.len()];
        match socket::receive(status, &mut go, &mut vec![]) {
            Ok(count) if go[..count] == *GO => report(status, run().map(|never| match never {})),
            // The supervisor is gone.
            _ => 127,
        }
    });
    let pid = pid.during("clone into the container's process namespace")?;
    // If the supervisor is gone the process ends as well.
    let _ = socket::send(status, &[BORN_MARK, &pid.to_le_bytes()].concat(), &[]);
    Ok(())
}

/// What is the same for a first and a further process, with the container's root as `/`.
struct Program<'a> {
    process: &'a Process,
    args: &'a [String],
    hostname: Option<&'a str>,
    /// The users that it is among, by their namespace or a process in it.
    users: Option<(Users, BorrowedFd<'a>)>,
    filters: Filters<'a>,
}

impl Program<'_> {
    /// All that takes more than the process itself shall have; answers its environment.
    fn dress(&self, status: BorrowedFd<'_>, security: &Security, streams: Streams) -> Step<Vec<String>> {
        let process = self.process;
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
        let owner = self.users.map_or(process.uid, |(users, _)| users.outside(process.uid));
        connect(status, streams, owner)?;
        if let Some((_, namespace)) = self.users {
            // Last of all namespaces: the others, and what is mounted, are the host's to make.
            namespace::join(namespace, CloneFlags::CLONE_NEWUSER).during("join user namespace")?;
        }
        process::close_all_but(status);
        let env = identity::environment(process, self.hostname);
        enter_directory(&process.cwd)?;
        identity::assume(process, security, &self.filters)?;
        // Another user's process may have become dumpable, by the host's settings.
        nix::sys::prctl::set_dumpable(false).during("become undumpable")?;
        Ok(env)
    }

    /// Becomes the program; only what a process must do by itself.
    fn run(&self, security: &Security, env: &[String]) -> Step<Infallible> {
        nix::unistd::setsid().during("make session")?;
        if self.process.tty {
            process::set_controlling_terminal(std::io::stdin()).during("set controlling terminal")?;
        }
        identity::confine(security, &self.filters)?;
        let program = identity::find_program(self.args, env)?;
        let error = process::exec(&program, self.args, env);
        Err(Failed(format!("exec {:?}: {}", program.display().to_string(), describe(&error))))
    }
}

/// Gives the process its standard streams, which `owner` of the host may open anew.
fn connect(status: BorrowedFd<'_>, streams: Streams, owner: u32) -> Step<()> {
    let root = crate::sys::path::Root::open(Path::new("/")).during("open /")?;
    match streams {
        Streams::Files(files) => {
            // So that a program may open /dev/stdout again after it has become another user.
            for file in &files {
                let stat = rustix::fs::fstat(file).during("inspect standard streams")?;
                if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo {
                    let _ = rustix::fs::fchown(file, Some(rustix::fs::Uid::from_raw(owner)), None);
                }
            }
            process::set_standard_streams(files.each_ref().map(AsFd::as_fd)).during("set standard streams")
        }
        Streams::Terminal { console } => {
            let (master, terminal) = pty::open(&root).during("open terminal")?;
            let _ = rustix::fs::fchown(&terminal, Some(rustix::fs::Uid::from_raw(owner)), None);
            if console {
                rootfs::show_console(&root, terminal.as_fd());
            }
            socket::send(status, TERMINAL_MARK, &[master.as_fd()]).during("hand back the terminal")?;
            process::set_standard_streams([terminal.as_fd(); 3]).during("set standard streams")
        }
    }
}

/// The message that carries a terminal's master; every message without a mark is an error's text.
pub const TERMINAL_MARK: &[u8] = b"\0terminal";
/// The message that carries a procfs of the container's own processes.
pub const PROC_MARK: &[u8] = b"\0proc";
/// Begins the message that tells of the process that becomes the program.
const BORN_MARK: &[u8] = b"\0born";
/// What that process waits for.
pub const GO: &[u8] = b"go";

/// The process that a message tells of, as the supervisor sees it.
pub fn born(message: &[u8]) -> Option<i32> {
    message.strip_prefix(BORN_MARK)?.try_into().ok().map(i32::from_le_bytes)
}

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
