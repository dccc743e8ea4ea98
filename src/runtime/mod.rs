//! Containers: sandboxes that hold namespaces, processes in them, their logs, exit codes and resources.
//!
//! [`Runtime`] is what the kubelet sees. `linux` does it with the kernel, through a supervisor process that
//! outlives the daemon; `sim` does it in memory, for tests of everything above.

pub mod cgroups;
pub mod linux;
pub mod protocol;
pub mod sim;
pub mod supervisor;
pub mod traffic;
pub mod users;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::stdio::{Duplex, Exit, Session};

pub use cgroups::Stats;
pub use traffic::{Traffic, Way};

/// Opaque names and values that the caller wants back from [`Runtime::observe`].
pub type Labels = BTreeMap<String, String>;

/// How the containers of a sandbox see processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// One namespace for all containers of the sandbox, with a tiny PID 1 that reaps orphans.
    Shared,
    /// A namespace for each container.
    PerContainer,
    /// The host's.
    Host,
}

/// Where a sandbox's network is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// The host's.
    Host,
    /// The namespace bound at this path.
    Namespace(PathBuf),
}

/// What all containers of a pod share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// Unique on the node; letters, digits, `-`.
    pub id: String,
    /// Returned by `observe`.
    pub labels: Labels,
    /// The UTS name; `None` shares the host's UTS namespace.
    pub hostname: Option<String>,
    /// Processes.
    pub pid: PidMode,
    /// Network.
    pub network: NetworkMode,
    /// Share the host's IPC namespace.
    pub host_ipc: bool,
    /// Namespaced sysctls, `net.core.somaxconn` = `1024`.
    pub sysctls: BTreeMap<String, String>,
    /// Limits over all containers together.
    pub resources: Resources,
    /// The host's users and groups that its containers' are; without it they are the same.
    #[serde(default)]
    pub users: Option<Users>,
}

/// A range of the host's user and group ids, whose first one is a container's 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// The first.
    pub base: u32,
    /// How many.
    pub count: u32,
}

impl Users {
    /// The host's id of a container's; one beyond the range is nobody's.
    pub fn outside(&self, id: u32) -> u32 {
        if id < self.count { self.base + id } else { NOBODY }
    }
}

/// Whom the kernel shows for ids that have no meaning.
const NOBODY: u32 = 65_534;

/// Limits and shares; `None` is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Relative CPU weight in cgroup v1's unit: 1024 is one CPU, 2 the least.
    pub cpu_shares: Option<u64>,
    /// CPU time in microseconds for each period of 100,000.
    pub cpu_quota: Option<u64>,
    /// Bytes.
    pub memory_limit: Option<u64>,
    /// Processes and threads.
    pub pids_limit: Option<u64>,
}

/// How mounts spread between host and container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Propagation {
    /// Not at all.
    #[default]
    Private,
    /// From the host into the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// Something of the host, or a fresh tmpfs, at a place in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// An absolute path in the container; made when missing, resolved inside the root.
    pub target: PathBuf,
    /// What is mounted there.
    pub source: MountSource,
    /// No writing through it.
    pub read_only: bool,
    /// Of later mounts.
    pub propagation: Propagation,
}

/// What a [`Mount`] shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the host, with what is mounted below it.
    Bind(PathBuf),
    /// A path below a host directory, resolved inside that directory (safe against symlink swaps).
    SubPath {
        /// The directory that must not be left.
        base: PathBuf,
        /// Relative to it.
        path: PathBuf,
    },
    /// Memory, of at most so many bytes.
    Tmpfs {
        /// Bytes; `None` is half of the machine's memory.
        size: Option<u64>,
        /// Permission bits.
        mode: u32,
    },
    /// Unpacked image layers, lowest first, merged; whatever the mount says, nothing is written through it.
    Layers {
        /// In the host.
        layers: Vec<PathBuf>,
        /// What of them is shown, resolved inside them; all of it when empty.
        path: PathBuf,
    },
}

/// A device of the host at a place in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// An absolute path in the container.
    pub target: PathBuf,
    /// Its node on the host, or a link to it.
    pub source: PathBuf,
    /// Nothing may be written to it, as far as the host's cgroups tell devices apart; not for privileged containers.
    pub read_only: bool,
}

/// The system-call filter of a process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Seccomp {
    /// minik's default profile.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// A profile in the OCI JSON form.
    Profile(PathBuf),
}

/// What to run, and as whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments; the program is looked up in the container's `PATH`.
    pub args: Vec<String>,
    /// `NAME=VALUE`, the last of a name wins.
    pub env: Vec<String>,
    /// Made when missing; `/` when empty.
    pub cwd: PathBuf,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
    /// With a terminal.
    pub tty: bool,
}

/// What a process may do; the same for a container's own process and those exec'd into it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Security {
    /// All devices, all capabilities, nothing masked.
    pub privileged: bool,
    /// Bounding, effective and permitted capabilities, as `CAP_NET_BIND_SERVICE`.
    pub capabilities: Vec<String>,
    /// System-call filter.
    pub seccomp: Seccomp,
    /// `no_new_privs`.
    pub no_new_privileges: bool,
    /// Leave `/proc` and `/sys` unmasked (`procMount: Unmasked`).
    pub unmasked_proc: bool,
    /// -1000..=1000; lowered only as far as the host allows.
    pub oom_score_adj: i32,
    /// The AppArmor profile, loaded on the host, that confines its programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_armor: Option<String>,
}

/// What happens to a container's standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Stdin {
    /// `/dev/null`.
    #[default]
    None,
    /// Open for attaching for the container's whole life.
    Open,
    /// Closed for good when the first attached client leaves.
    Once,
}

/// Where a container's output is written, as CRI log lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// `/var/log/pods/NS_NAME_UID/CONTAINER/ATTEMPT.log`; rotated files get the time as suffix.
    pub path: PathBuf,
    /// Rotate beyond so many bytes.
    pub max_bytes: u64,
    /// Keep so many files, the current one included.
    pub max_files: u32,
}

/// A container to start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Unique on the node; letters, digits, `-`.
    pub id: String,
    /// The sandbox it lives in.
    pub sandbox: String,
    /// Returned by `observe`.
    pub labels: Labels,
    /// Unpacked image layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// No writing to the root file system.
    pub read_only_root: bool,
    /// Beyond the standard ones (`/proc`, `/sys`, `/dev`, `/dev/pts`, `/dev/shm`, `/dev/mqueue`).
    pub mounts: Vec<Mount>,
    /// What to run.
    pub process: Process,
    /// What it may do.
    pub security: Security,
    /// Limits.
    pub resources: Resources,
    /// Standard input.
    pub stdin: Stdin,
    /// Output.
    pub log: LogConfig,
    /// A host file shown at this container path, for the process's last words; both or neither.
    pub termination_message: Option<(PathBuf, PathBuf)>,
    /// The running container of the same sandbox whose process namespace it joins, where each has its own
    /// ([`PidMode::PerContainer`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Devices of the host beside those that every container has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
}

impl ContainerConfig {
    /// The image layers that the container stands on, and those that it mounts.
    pub fn all_layers(&self) -> impl Iterator<Item = &PathBuf> {
        let mounted = self.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Layers { layers, .. } => Some(layers),
            _ => None,
        });
        self.layers.iter().chain(mounted.flatten())
    }
}

/// A sandbox as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxStatus {
    /// Its id.
    pub id: String,
    /// As given.
    pub labels: Labels,
    /// As given.
    pub network: NetworkMode,
    /// Whether it is complete and its namespaces still exist (its PID 1 runs, where it has one).
    pub alive: bool,
}

/// A container as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its id.
    pub id: String,
    /// Its sandbox.
    pub sandbox: String,
    /// As given.
    pub labels: Labels,
    /// Running or not.
    pub state: ContainerState,
}

/// A container's life after its start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Its process runs.
    Running {
        /// Since.
        started: SystemTime,
        /// As the host sees it.
        pid: i32,
    },
    /// Its process ended.
    Exited {
        /// Since.
        started: SystemTime,
        /// Until.
        finished: SystemTime,
        /// How; `None` when nobody was there to see it (the supervisor died too).
        exit: Option<Exit>,
        /// Whether the kernel's out-of-memory killer did it.
        oom_killed: bool,
    },
}

/// Everything that the runtime holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// All sandboxes.
    pub sandboxes: Vec<SandboxStatus>,
    /// All containers not yet removed.
    pub containers: Vec<ContainerStatus>,
}

impl Observed {
    /// What is left when only sandboxes with this label are looked at.
    pub fn labelled(mut self, label: &str, value: &str) -> Observed {
        self.sandboxes.retain(|sandbox| sandbox.labels.get(label).is_some_and(|found| found == value));
        let here = |container: &ContainerStatus| self.sandboxes.iter().any(|s| s.id == container.sandbox);
        self.containers.retain(here);
        self
    }
}

/// Whose use of the machine is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Consumer {
    /// Everything that runs on the machine.
    Machine,
    /// All sandboxes together.
    Sandboxes,
    /// One sandbox with all that is in it.
    Sandbox(String),
    /// One container.
    Container {
        /// Its sandbox.
        sandbox: String,
        /// Its id.
        id: String,
    },
}

/// Something happened to this sandbox: observe again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The sandbox's id.
    pub sandbox: String,
}

/// A process to start in a running container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecConfig {
    /// In which.
    pub container: String,
    /// What; an empty `env` and `cwd` are the container's own.
    pub process: ExecProcess,
    /// Connect standard input.
    pub stdin: bool,
    /// Connect standard output.
    pub stdout: bool,
    /// Connect standard error.
    pub stderr: bool,
    /// It is killed when its session is dropped.
    #[serde(default)]
    pub bound: bool,
}

/// What an exec runs; user, environment, capabilities and limits are the container's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecProcess {
    /// Program and arguments.
    pub args: Vec<String>,
    /// With a terminal.
    pub tty: bool,
}

/// Why the runtime could not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such sandbox.
    #[error("sandbox {0} does not exist")]
    NoSandbox(String),
    /// No such container.
    #[error("container {0} does not exist")]
    NoContainer(String),
    /// It has ended, or not begun.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// A step on the way to the container's program failed: the message names step and object
    /// (`exec "/bin/nope": no such file or directory`).
    #[error("{0}")]
    Start(String),
    /// Something of the host failed.
    #[error("{what}: {source}")]
    Host {
        /// What was tried, on what.
        what: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The supervisor cannot be reached.
    #[error("supervisor: {0}")]
    Supervisor(String),
}

/// What a kubelet asks of a container runtime. Every verb is idempotent: "already so" is success.
pub trait Runtime: Send + Sync + 'static {
    /// Makes the sandbox's namespaces and cgroup.
    fn ensure_sandbox(&self, config: &SandboxConfig) -> impl Future<Output = Result<(), Error>> + Send;

    /// Makes a container's root and starts its process; returns when the program runs or could not be run.
    fn start(&self, config: &ContainerConfig) -> impl Future<Output = Result<(), Error>> + Send;

    /// Sends a signal to a container's process; to an ended one it is done already. `SIGKILL` kills everything
    /// in the container's cgroup.
    fn signal(&self, container: &str, signal: i32) -> impl Future<Output = Result<(), Error>> + Send;

    /// Forgets an ended container and its root (not its log); kills it first when it runs.
    fn remove(&self, container: &str) -> impl Future<Output = Result<(), Error>> + Send;

    /// Ends everything in a sandbox and forgets it.
    fn remove_sandbox(&self, sandbox: &str) -> impl Future<Output = Result<(), Error>> + Send;

    /// Everything there is.
    fn observe(&self) -> impl Future<Output = Result<Observed, Error>> + Send;

    /// The sandboxes with this label and their containers: of many pods only one.
    fn observe_labelled(
        &self,
        label: &str,
        value: &str,
    ) -> impl Future<Output = Result<Observed, Error>> + Send;

    /// What is used at this moment; the kernel's files are read by the calling thread.
    fn stats(&self, of: &Consumer) -> Result<Stats, Error>;

    /// What has gone through the interfaces of the machine, or of a sandbox that has its own network; the kernel's files
    /// are read by the calling thread.
    fn traffic(&self, _of: &Consumer) -> Vec<Traffic> {
        Vec::new()
    }

    /// Puts other limits on a sandbox or a container; the kernel's files are written by the calling thread.
    fn limit(&self, of: &Consumer, resources: &Resources) -> Result<(), Error>;

    /// The bytes that a container has written to its root; the file system is walked by the calling thread.
    fn root_usage(&self, container: &str) -> Result<u64, Error>;

    /// Tells of changes; a lagging or new receiver must `observe`.
    fn changes(&self) -> broadcast::Receiver<Changed>;

    /// Starts a process in a running container.
    fn exec(&self, config: &ExecConfig) -> impl Future<Output = Result<Session, Error>> + Send;

    /// Joins a container's own streams; input only when it was started with `Stdin` open.
    fn attach(
        &self,
        container: &str,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> impl Future<Output = Result<Session, Error>> + Send;

    /// Connects to a TCP port of an address as seen from inside the sandbox's network.
    fn dial(
        &self,
        sandbox: &str,
        address: Ipv4Addr,
        port: u16,
    ) -> impl Future<Output = Result<Box<dyn Duplex>, Error>> + Send;
}
