//! Sandboxes: made by an init process, held by their namespaces' descriptors.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::epoll::EpollFlags;

use super::child::{Namespaces, describe};
use super::poller::Source;
use super::records::SandboxRecord;
use super::starting::{Status, read_status, status_pair};
use super::{Child, Supervisor, check_id, init};
use crate::runtime::protocol::{Failure, Reply};
use crate::runtime::{NetworkMode, PidMode, SandboxConfig, SandboxStatus, Users};
use crate::sys::mount::{self, Attributes};
use crate::sys::{namespace, process, users};

/// The size of a sandbox's `/dev/shm` in bytes (Docker's and containerd's default).
const SHARED_MEMORY: &str = "67108864";

/// The group of a sandbox's init, beside those of its containers.
pub const INIT_GROUP: &str = "init";

/// A sandbox and how far it is.
#[derive(Debug)]
pub struct Sandbox {
    /// As it was asked for.
    pub config: SandboxConfig,
    life: Life,
}

#[derive(Debug)]
enum Life {
    /// Its init makes the namespaces; these clients wait.
    Starting { status: OwnedFd, token: u64, init: process::Child, clients: Vec<u64> },
    /// Containers may join.
    Ready { namespaces: Namespaces },
    /// Its init has ended, and so have its containers; or its removal has begun.
    Ended,
}

impl Sandbox {
    /// The namespaces that containers join.
    pub fn namespaces(&self) -> Option<&Namespaces> {
        match &self.life {
            Life::Ready { namespaces } => Some(namespaces),
            _ => None,
        }
    }

    /// For the daemon; one that is not complete yet does not live, but is told of: whoever asked for it may be gone.
    pub fn status(&self, id: &str) -> SandboxStatus {
        let SandboxConfig { labels, network, .. } = &self.config;
        let alive = matches!(self.life, Life::Ready { .. });
        SandboxStatus { id: id.into(), labels: labels.clone(), network: network.clone(), alive }
    }
}

/// A sandbox's shared memory, a mount of the host.
pub fn shm_directory(run_dir: &Path, id: &str) -> PathBuf {
    run_dir.join("shm").join(id)
}

/// The procfs of a sandbox whose containers share processes, a mount of the host: whoever makes one of a process
/// namespace must be in it, in sight of all that are in it too.
pub fn proc_directory(run_dir: &Path, id: &str) -> PathBuf {
    run_dir.join("proc").join(id)
}

/// The procfs of a container that sees its own processes alone, for those that are to join it.
pub fn own_proc_directory(run_dir: &Path, container: &str) -> PathBuf {
    run_dir.join("own-proc").join(container)
}

/// Where mounts of a sandbox's are on the host.
pub fn mounts_of(run_dir: &Path, id: &str) -> [PathBuf; 2] {
    [shm_directory(run_dir, id), proc_directory(run_dir, id)]
}

impl Supervisor {
    /// Takes a sandbox of a dead supervisor.
    pub(super) fn inherit_sandbox(&mut self, record: SandboxRecord) {
        self.sandboxes.insert(record.config.id.clone(), Sandbox { config: record.config, life: Life::Ended });
    }

    pub(super) fn ensure_sandbox(&mut self, client: u64, config: SandboxConfig) -> Result<(), Failure> {
        check_id(&config.id)?;
        match self.sandboxes.get_mut(&config.id).map(|sandbox| &mut sandbox.life) {
            Some(Life::Starting { clients, .. }) => {
                clients.push(client);
                Ok(())
            }
            Some(Life::Ready { .. }) => {
                self.reply(client, &Reply::Done, vec![]);
                Ok(())
            }
            Some(Life::Ended) => {
                Err(Failure::Start(format!("sandbox {} has ended and must be removed first", config.id)))
            }
            None => {
                self.begin_sandbox(client, config);
                Ok(())
            }
        }
    }

    fn begin_sandbox(&mut self, client: u64, config: SandboxConfig) {
        let id = config.id.clone();
        match self.make_sandbox(&config) {
            Ok((status, token, init)) => {
                self.children.insert(init.pid, Child::Init(id.clone()));
                let life = Life::Starting { status, token, init, clients: vec![client] };
                self.sandboxes.insert(id, Sandbox { config, life });
            }
            Err(failure) => {
                self.sandboxes.insert(id.clone(), Sandbox { config, life: Life::Ended });
                self.discard_sandbox(&id, vec![client], failure);
            }
        }
    }

    /// Whether containers can have users of their own: before one is half made.
    fn try_users(&self, own: Users) -> io::Result<()> {
        let namespace = users::namespace(&self.proof, own.base, own.count)?;
        let tree = mount::clone_path(&self.options.state_dir)?;
        mount::map_users(tree.as_fd(), namespace.as_fd(), false)
    }

    /// Init's process, and the watched socket over which it tells how it goes.
    fn make_sandbox(&mut self, config: &SandboxConfig) -> Result<(OwnedFd, u64, process::Child), Failure> {
        let id = &config.id;
        let host = |what: &str| {
            let what = format!("{what} of sandbox {id}");
            move |error: io::Error| Failure::host(what, &error)
        };
        if let Some(own) = config.users {
            self.try_users(own).map_err(|error| {
                Failure::Start(format!(
                    "user namespaces: {error}: they need Linux 6.5 and file systems that can show other users"
                ))
            })?;
        }
        let net = match &config.network {
            NetworkMode::Host => None,
            NetworkMode::Namespace(path) => Some(namespace::open(path).map_err(|error| {
                Failure::Start(format!(
                    "network namespace {:?}: {}",
                    path.display().to_string(),
                    describe(&error)
                ))
            })?),
        };
        let group = self.tree.sandbox(id);
        let leaf = group.child(INIT_GROUP);
        leaf.make().map_err(host("making cgroup"))?;
        group.delegate().map_err(host("delegating cgroup"))?;
        let missing = group.limit(&config.resources).map_err(host("limiting cgroup"))?;
        if !missing.is_empty() {
            tracing::warn!(sandbox = id, ?missing, "this host's cgroups cannot limit everything");
        }
        self.make_shared_memory(config).map_err(host("making shared memory"))?;
        self.sandbox_records
            .save(id, &SandboxRecord { config: config.clone() })
            .map_err(host("recording"))?;
        let (status, init) = self.clone_init(config, net.as_ref(), &leaf).map_err(host("cloning init"))?;
        let watched = self.poller.add(&status, EpollFlags::EPOLLIN, Source::Sandbox(id.clone()));
        let token = watched.map_err(|error| {
            // One that is gone already is success; nothing else can fail for an own child.
            let _ = process::send_signal(init.pidfd.as_fd(), libc::SIGKILL);
            host("watching init")(error)
        })?;
        Ok((status, token, init))
    }

    /// Lets no container join any longer: the sandbox's removal begins.
    pub(super) fn close_sandbox(&mut self, id: &str) {
        let Some(sandbox) = self.sandboxes.get_mut(id) else { return };
        let life = std::mem::replace(&mut sandbox.life, Life::Ended);
        if let Life::Starting { status, token, init, clients } = life {
            self.poller.remove(token, &status);
            // One that is gone already is success; nothing else can fail for an own child.
            let _ = process::send_signal(init.pidfd.as_fd(), libc::SIGKILL);
            clients.into_iter().for_each(|client| self.fail(client, Failure::NoSandbox(id.into())));
        }
    }

    fn make_shared_memory(&self, config: &SandboxConfig) -> io::Result<()> {
        let directory = shm_directory(&self.options.run_dir, &config.id);
        fs::create_dir_all(&directory)?;
        let tree = match config.host_ipc {
            true => mount::clone_path(Path::new("/dev/shm"))?,
            false => {
                let attributes =
                    Attributes { no_suid: true, no_devices: true, no_exec: true, read_only: false };
                mount::filesystem("tmpfs", &[("mode", "1777"), ("size", SHARED_MEMORY)], attributes)?
            }
        };
        mount::detach(&directory)?;
        mount::attach(tree.as_fd(), crate::sys::path::Root::open(&directory)?.as_fd())
    }

    fn clone_init(
        &self,
        config: &SandboxConfig,
        net: Option<&OwnedFd>,
        group: &crate::runtime::cgroups::Group,
    ) -> io::Result<(OwnedFd, process::Child)> {
        let (ours, theirs) = status_pair()?;
        let root = self.options.run_dir.join("root");
        let cgroup = group.unified()?;
        let init = init::Init {
            config,
            net: net.map(AsFd::as_fd),
            group,
            root: &root,
            null: &self.null,
            reaper: &self.reaper,
        };
        let child =
            process::clone(&self.proof, init::clone_flags(config), cgroup.as_ref().map(AsFd::as_fd), || {
                init::run(theirs.as_fd(), &init)
            })?;
        Ok((ours, child))
    }

    /// Init has said something, or has died.
    pub(super) fn sandbox_status(&mut self, id: &str) {
        let Some(sandbox) = self.sandboxes.get_mut(id) else { return };
        let Life::Starting { status, token, init, .. } = &sandbox.life else { return };
        let mut proc = vec![];
        let told = read_status(status, &mut proc);
        let outcome = match &told {
            Status::Pending => return,
            Status::Message(message) if message == init::READY => {
                attach_proc(&proc_directory(&self.options.run_dir, id), proc.first())
                    .and_then(|()| open_namespaces(&sandbox.config, init.pid))
                    .map_err(|error| Failure::host("opening namespaces", &error))
            }
            Status::Message(message) => Err(Failure::Start(String::from_utf8_lossy(message).into_owned())),
            Status::Ended => Err(Failure::Start(format!("init of sandbox {id} died"))),
        };
        self.poller.remove(*token, status);
        let holds = sandbox.config.pid == PidMode::Shared;
        if !holds || outcome.is_err() {
            // Without processes to reap, the descriptors alone hold the namespaces.
            let _ = process::send_signal(init.pidfd.as_fd(), libc::SIGKILL);
        }
        let life = match outcome {
            Ok(namespaces) => Ok(Life::Ready { namespaces }),
            Err(failure) => Err(failure),
        };
        match life {
            Ok(ready) => {
                let Life::Starting { clients, .. } = std::mem::replace(&mut sandbox.life, ready) else {
                    return;
                };
                clients.into_iter().for_each(|client| self.reply(client, &Reply::Done, vec![]));
                self.changed(id);
            }
            Err(failure) => {
                let Some(Sandbox { config, life: Life::Starting { clients, .. } }) =
                    self.sandboxes.remove(id)
                else {
                    return;
                };
                self.sandboxes.insert(id.to_owned(), Sandbox { config, life: Life::Ended });
                // The remains go before the answer, so that a second try finds a clean place.
                self.discard_sandbox(id, clients, failure);
            }
        }
    }

    /// Init has ended: with a shared process namespace so has everything in it.
    pub(super) fn sandbox_ended(&mut self, id: &str) {
        self.sandbox_status(id);
        let Some(sandbox) = self.sandboxes.get_mut(id) else { return };
        if sandbox.config.pid == PidMode::Shared && matches!(sandbox.life, Life::Ready { .. }) {
            sandbox.life = Life::Ended;
            self.changed(id);
        }
    }

    pub(super) fn network(&mut self, client: u64, id: &str) -> Result<(), Failure> {
        let sandbox = self.sandboxes.get(id).ok_or_else(|| Failure::NoSandbox(id.into()))?;
        let net = match sandbox.namespaces().and_then(|namespaces| namespaces.net.as_ref()) {
            Some(net) => net.try_clone(),
            None => namespace::open(Path::new("/proc/self/ns/net")),
        };
        let net = net.map_err(|error| Failure::host("opening network namespace", &error))?;
        self.reply(client, &Reply::Done, vec![net]);
        Ok(())
    }
}

pub(super) fn attach_proc(directory: &Path, proc: Option<&OwnedFd>) -> io::Result<()> {
    let Some(tree) = proc else { return Ok(()) };
    fs::create_dir_all(directory)?;
    mount::detach(directory)?;
    mount::attach(tree.as_fd(), crate::sys::path::Root::open(directory)?.as_fd())
}

fn open_namespaces(config: &SandboxConfig, init: i32) -> io::Result<Namespaces> {
    let open = |wanted: bool, name: &str| {
        wanted.then(|| namespace::open(Path::new(&format!("/proc/{init}/ns/{name}")))).transpose()
    };
    Ok(Namespaces {
        net: open(config.network != NetworkMode::Host, "net")?,
        ipc: open(!config.host_ipc, "ipc")?,
        uts: open(config.hostname.is_some(), "uts")?,
        pid: open(config.pid == PidMode::Shared, "pid")?,
    })
}
