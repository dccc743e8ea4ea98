//! The runtime on a Linux kernel: a handle in the daemon to the supervisor that owns the containers.

mod session;
mod supervisor;
mod terminal;

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpSocket;
use tokio::sync::broadcast;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::supervisor::{Answer, Supervisor};
use super::cgroups::{Group, Tree, stats};
use super::protocol::{Call, DEVICES, LABELLED, Reply};
use super::supervisor::{Options, remove_leftovers};
use super::traffic::{self, Traffic};
use super::{
    Changed, Consumer, ContainerConfig, Error, ExecConfig, Observed, Resources, Runtime, SandboxConfig, Stats,
};
use crate::stdio::{Duplex, Session};
use crate::sys::{namespace, usage};

/// Changes that a slow receiver may be behind before it must observe again.
const CHANGES: usize = 1024;

/// Where a runtime works, and with which program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The supervisor's socket, records and mount points: a directory of its own on a tmpfs, such as
    /// `/run/minik/NAME/runtime`.
    pub run_dir: PathBuf,
    /// The containers' writable layers: a directory of its own on a real disk.
    pub state_dir: PathBuf,
    /// Below the roots of the cgroup hierarchies: `minik-NAME`, or the delegated unit's group, whose own processes
    /// must be in leaves.
    pub cgroup_parent: PathBuf,
    /// The program whose `supervise` subcommand is the supervisor: minik itself.
    pub executable: PathBuf,
}

impl Config {
    fn options(&self) -> Options {
        let Config { run_dir, state_dir, cgroup_parent, executable: _ } = self.clone();
        Options { run_dir, state_dir, cgroup_parent }
    }
}

/// A handle to the containers; clones share it. Dropping all of them leaves the containers running.
#[derive(Debug, Clone)]
pub struct LinuxRuntime {
    supervisor: Arc<Supervisor>,
    changes: broadcast::Sender<Changed>,
    tree: Tree,
    _watch: Arc<DropGuard>,
}

impl LinuxRuntime {
    /// Finds the supervisor that runs already, with all its containers, or starts one.
    pub async fn connect(config: Config) -> Result<LinuxRuntime, Error> {
        for directory in [&config.run_dir, &config.state_dir] {
            make_private(directory)
                .map_err(|source| Error::Host { what: format!("making {}", directory.display()), source })?;
        }
        let tree = Tree::detect(&config.cgroup_parent)
            .map_err(|source| Error::Host { what: "finding cgroups".into(), source })?;
        let supervisor = Arc::new(Supervisor::new(config));
        supervisor.hello().await?;
        let (changes, _) = broadcast::channel(CHANGES);
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(Arc::clone(&supervisor).watch(changes.clone())));
        Ok(LinuxRuntime { supervisor, changes, tree, _watch: Arc::new(stop.drop_guard()) })
    }

    /// Ends all containers, all sandboxes and the supervisor.
    pub async fn shutdown(&self) -> Result<(), Error> {
        self.supervisor.shutdown().await
    }

    /// Where the groups of sandboxes and containers are.
    pub fn cgroups(&self) -> &Tree {
        &self.tree
    }

    /// The cgroup of a consumer; `None` for the machine as a whole.
    fn group(&self, of: &Consumer) -> Option<Group> {
        match of {
            Consumer::Machine => None,
            Consumer::Sandboxes => Some(self.tree.sandboxes()),
            Consumer::Sandbox(sandbox) => Some(self.tree.sandbox(sandbox)),
            Consumer::Container { sandbox, id } => Some(self.tree.sandbox(sandbox).child(id)),
        }
    }

    async fn done(&self, call: Call) -> Result<(), Error> {
        match self.supervisor.call(call, vec![]).await?.reply {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}

/// Removes everything that a runtime with this configuration has made, whether or not its supervisor still runs.
/// Twice is fine.
pub async fn destroy(config: Config) -> Result<(), Error> {
    let what = format!("removing what is left in {}", config.run_dir.display());
    let supervisor = Supervisor::new(config.clone());
    // One that does not answer is killed below.
    let orderly = supervisor.shutdown_running().await;
    if let Err(error) = orderly {
        tracing::debug!(%error, "supervisor did not shut down");
    }
    let options = config.options();
    tokio::task::spawn_blocking(move || remove_leftovers(&options))
        .await
        .map_err(std::io::Error::other)
        .flatten()
        .map_err(|source| Error::Host { what, source })
}

impl Runtime for LinuxRuntime {
    async fn ensure_sandbox(&self, config: &SandboxConfig) -> Result<(), Error> {
        self.done(Call::EnsureSandbox(Box::new(config.clone()))).await
    }

    async fn start(&self, config: &ContainerConfig) -> Result<(), Error> {
        if !config.devices.is_empty() && !self.supervisor.speaks(DEVICES) {
            let why = "the running supervisor, of an older minik, knows no devices: stop the cluster first";
            return Err(Error::Start(why.to_owned()));
        }
        self.done(Call::Start(Box::new(config.clone()))).await
    }

    async fn signal(&self, container: &str, signal: i32) -> Result<(), Error> {
        self.done(Call::Signal { container: container.into(), signal }).await
    }

    async fn remove(&self, container: &str) -> Result<(), Error> {
        self.done(Call::Remove(container.into())).await
    }

    async fn remove_sandbox(&self, sandbox: &str) -> Result<(), Error> {
        self.done(Call::RemoveSandbox(sandbox.into())).await
    }

    async fn observe(&self) -> Result<Observed, Error> {
        match self.supervisor.call(Call::Observe, vec![]).await?.reply {
            Reply::Observed(observed) => Ok(observed),
            other => Err(unexpected(&other)),
        }
    }

    async fn observe_labelled(&self, label: &str, value: &str) -> Result<Observed, Error> {
        if !self.supervisor.speaks(LABELLED) {
            return Ok(self.observe().await?.labelled(label, value));
        }
        let call = Call::ObserveLabelled { label: label.into(), value: value.into() };
        match self.supervisor.call(call, vec![]).await?.reply {
            Reply::Observed(observed) => Ok(observed),
            other => Err(unexpected(&other)),
        }
    }

    fn stats(&self, of: &Consumer) -> Result<Stats, Error> {
        let Some(group) = self.group(of) else {
            let host = |source| Error::Host { what: "reading the machine's figures".into(), source };
            return stats::of_machine().map_err(host);
        };
        group.stats().map_err(|source| Error::Host { what: format!("reading the cgroup of {of:?}"), source })
    }

    fn traffic(&self, of: &Consumer) -> Vec<Traffic> {
        match of {
            Consumer::Machine => traffic::of_machine(),
            Consumer::Sandbox(sandbox) => {
                let processes = self.tree.sandbox(sandbox).processes().unwrap_or_default();
                processes.first().map_or_else(Vec::new, |pid| traffic::of_process(*pid))
            }
            _ => Vec::new(),
        }
    }

    fn limit(&self, of: &Consumer, resources: &Resources) -> Result<(), Error> {
        let Some(group) = self.group(of) else {
            return Err(Error::Start("the machine has no limits of its own".into()));
        };
        let missing = group
            .limit(resources)
            .map_err(|source| Error::Host { what: format!("limiting the cgroup of {of:?}"), source })?;
        if !missing.is_empty() {
            tracing::warn!(?of, ?missing, "this host's cgroups cannot limit everything");
        }
        Ok(())
    }

    fn root_usage(&self, container: &str) -> Result<u64, Error> {
        let upper = self.supervisor.config().state_dir.join("containers").join(container).join("upper");
        usage::of_directory(&upper)
            .map_err(|source| Error::Host { what: format!("measuring {}", upper.display()), source })
    }

    fn changes(&self) -> broadcast::Receiver<Changed> {
        self.changes.subscribe()
    }

    async fn exec(&self, config: &ExecConfig) -> Result<Session, Error> {
        let (streams, given) = session::Streams::open(config).map_err(|source| Error::Host {
            what: format!("making pipes for container {}", config.container),
            source,
        })?;
        let answer = self.supervisor.call(Call::Exec(config.clone()), given).await?;
        streams.session(config, answer)
    }

    async fn attach(
        &self,
        container: &str,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> Result<Session, Error> {
        let call = Call::Attach { container: container.into(), stdin, stdout, stderr };
        let Answer { reply, connection, rest, .. } = self.supervisor.call(call, vec![]).await?;
        match reply {
            Reply::Attached { tty } => session::attached(connection, rest, tty, stdin, stdout, stderr),
            other => Err(unexpected(&other)),
        }
    }

    async fn dial(&self, sandbox: &str, address: Ipv4Addr, port: u16) -> Result<Box<dyn Duplex>, Error> {
        let answer = self.supervisor.call(Call::Network(sandbox.into()), vec![]).await?;
        let Some(netns) = answer.descriptors.into_iter().next() else {
            return Err(unexpected(&answer.reply));
        };
        let host = |source| Error::Host {
            what: format!("connecting to {address}:{port} in sandbox {sandbox}"),
            source,
        };
        // A socket stays in the namespace it was made in, wherever it is used.
        let made =
            tokio::task::spawn_blocking(move || make_socket(netns)).await.map_err(std::io::Error::other);
        let stream = made.flatten().map_err(host)?.connect((address, port).into()).await.map_err(host)?;
        Ok(Box::new(stream))
    }
}

fn make_socket(netns: OwnedFd) -> std::io::Result<TcpSocket> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = namespace::run_in(&netns, || socket(AddressFamily::Inet, SockType::Stream, flags, None))??;
    debug_assert!(rustix::io::fcntl_getfd(socket.as_fd()).is_ok());
    Ok(TcpSocket::from_std_stream(socket.into()))
}

fn unexpected(reply: &Reply) -> Error {
    Error::Supervisor(format!("unexpected answer {reply:?}"))
}

/// Nobody but root looks into these: they hold other users' files (CVE-2024-25621).
fn make_private(directory: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
}
