//! Containers: started from a clone of this process, watched until they end, on record until they are removed.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::SystemTime;

use nix::sched::CloneFlags;

use super::child::{self, Processes};
use super::devices;
use super::poller::Source;
use super::records::ContainerRecord;
use super::rootfs::Places;
use super::sandboxes::{attach_proc, own_proc_directory, proc_directory, shm_directory};
use super::starting::{Handed, Heard, Starting, status_pair};
use super::streams::Io;
use super::{Child, Supervisor, check_id};
use crate::runtime::cgroups::Group;
use crate::runtime::protocol::{Failure, Reply};
use crate::runtime::{ContainerConfig, ContainerState, ContainerStatus, PidMode, Seccomp, Users};
use crate::stdio::Exit;
use crate::sys::{device, namespace, process, seccomp, users};

/// A container and how far it is.
#[derive(Debug)]
pub struct Container {
    /// As it was asked for.
    pub config: ContainerConfig,
    /// Its cgroup.
    pub group: Group,
    /// Its system-call filter.
    pub filter: Option<Rc<seccomp::Filter>>,
    /// How far it is.
    pub life: Life,
    /// Its streams and log; gone when it has ended.
    pub io: Io,
}

/// How far a container is.
#[derive(Debug)]
pub enum Life {
    /// On the way to its program; this client waits.
    Starting { starting: Starting, started: SystemTime, client: u64 },
    /// Its program runs.
    Running { leader: process::Child, started: SystemTime },
    /// It has ended.
    Ended(ContainerState),
    /// Its program could not be run; its remains are being removed.
    Failed,
}

impl Container {
    /// For the daemon; one that does not run yet is not told of.
    pub fn status(&self, id: &str) -> Option<ContainerStatus> {
        let state = match &self.life {
            Life::Starting { .. } | Life::Failed => return None,
            Life::Running { leader, started } => {
                ContainerState::Running { started: *started, pid: leader.pid }
            }
            Life::Ended(state) => state.clone(),
        };
        let ContainerConfig { sandbox, labels, .. } = &self.config;
        Some(ContainerStatus { id: id.into(), sandbox: sandbox.clone(), labels: labels.clone(), state })
    }

    /// Its own process, while it runs.
    pub fn leader(&self) -> Option<&process::Child> {
        match &self.life {
            Life::Running { leader, .. } => Some(leader),
            _ => None,
        }
    }

    /// Whether input waits for the container to take it.
    pub fn input_is_full(&self) -> bool {
        self.io.input_is_full()
    }
}

impl Supervisor {
    /// Takes a container of a dead supervisor: when it was not seen to end, nobody knows how it did.
    pub(super) fn inherit_container(&mut self, record: ContainerRecord) {
        let ContainerRecord { config, state } = record;
        let state = match state {
            ContainerState::Running { started, .. } => {
                ContainerState::Exited { started, finished: SystemTime::now(), exit: None, oom_killed: false }
            }
            ended => ended,
        };
        let group = self.tree.sandbox(&config.sandbox).child(&config.id);
        let container =
            Container { group, filter: None, life: Life::Ended(state), io: Io::default(), config };
        self.record(&container);
        self.containers.insert(container.config.id.clone(), container);
    }

    /// Where a container's writable layer is.
    pub(super) fn container_directory(&self, id: &str) -> PathBuf {
        self.options.state_dir.join("containers").join(id)
    }

    pub(super) fn start_container(&mut self, client: u64, config: ContainerConfig) -> Result<(), Failure> {
        check_id(&config.id)?;
        match self.containers.get(&config.id).map(|container| &container.life) {
            None => {}
            Some(Life::Running { .. } | Life::Ended(_)) => {
                self.reply(client, &Reply::Done, vec![]);
                return Ok(());
            }
            Some(Life::Starting { .. } | Life::Failed) => {
                return Err(Failure::Protocol(format!("container {} is being started already", config.id)));
            }
        }
        if self.sandboxes.get(&config.sandbox).and_then(|sandbox| sandbox.namespaces()).is_none() {
            return Err(Failure::NoSandbox(config.sandbox));
        }
        if let Some(target) = &config.target {
            self.leader_of(target, &config.sandbox)?;
        }
        let id = config.id.clone();
        let filter = self.filter(&config)?;
        let group = self.tree.sandbox(&config.sandbox).child(&id);
        let mut io = Io::default();
        let made = self
            .make_places(&config, &group)
            .and_then(|()| self.clone_container(&config, &group, filter.as_deref(), &mut io));
        match made {
            Ok(starting) => {
                let life = Life::Starting { starting, started: SystemTime::now(), client };
                self.containers.insert(id, Container { config, group, filter, life, io });
            }
            Err(error) => {
                io.close(&mut self.poller);
                let failure = Failure::host(format!("preparing container {id}"), &error);
                self.discard(config, group, vec![client], failure);
            }
        }
        Ok(())
    }

    /// The process of a running container in a sandbox.
    fn leader_of(&self, id: &str, sandbox: &str) -> Result<&process::Child, Failure> {
        let container = self.containers.get(id).filter(|container| container.config.sandbox == sandbox);
        let container = container.ok_or_else(|| Failure::NoContainer(id.into()))?;
        container.leader().ok_or_else(|| Failure::NotRunning(id.into()))
    }

    /// The compiled filter, shared by all containers with the same needs.
    fn filter(&mut self, config: &ContainerConfig) -> Result<Option<Rc<seccomp::Filter>>, Failure> {
        let security = &config.security;
        let profile = match &security.seccomp {
            Seccomp::Unconfined => return Ok(None),
            // Whatever profile is named: a privileged container is held by none (as in containerd).
            _ if security.privileged => return Ok(None),
            Seccomp::Default => {
                let mut key = security.capabilities.clone();
                key.sort_unstable();
                if let Some(filter) = self.filters.get(&key) {
                    return Ok(Some(Rc::clone(filter)));
                }
                let filter = seccomp::compile_default(&key).map(Rc::new);
                if let Ok(filter) = &filter {
                    self.filters.insert(key, Rc::clone(filter));
                }
                filter
            }
            Seccomp::Profile(path) => {
                let text = fs::read_to_string(path).map_err(|error| {
                    Failure::Start(format!(
                        "seccomp profile {:?}: {}",
                        path.display().to_string(),
                        child::describe(&error)
                    ))
                })?;
                seccomp::compile_oci(&text, &security.capabilities).map(Rc::new)
            }
        };
        profile.map(Some).map_err(|error| Failure::Start(error.to_string()))
    }

    /// Allows the usual devices, and those that the container has beside them.
    fn restrict_devices(&self, config: &ContainerConfig, group: &Group) -> io::Result<()> {
        if config.devices.is_empty() {
            return group.restrict_devices(self.devices.as_ref(), &device::DEFAULT);
        }
        let mut rules = device::DEFAULT.to_vec();
        for device in &config.devices {
            rules.push(devices::rule(device)?);
        }
        // Where the kernel takes none, that was told at the start.
        let program = self.devices.as_ref().and_then(|_| device::Program::load(&rules).ok());
        group.restrict_devices(program.as_ref(), &rules)
    }

    fn make_places(&self, config: &ContainerConfig, group: &Group) -> io::Result<()> {
        group.make()?;
        // With or without a limit of its own: a pod's limit, or the machine's, takes whole containers too (as the
        // kubelet has it).
        group.die_together()?;
        let missing = group.limit(&config.resources)?;
        if !missing.is_empty() {
            tracing::warn!(container = config.id, ?missing, "this host's cgroups cannot limit everything");
        }
        if !config.security.privileged
            && let Err(error) = self.restrict_devices(config, group)
        {
            // The mounts hold no device nodes either way; without mknod this is the second line only.
            tracing::warn!(container = config.id, %error, "this host's cgroups cannot restrict devices");
        }
        let directory = self.container_directory(&config.id);
        // What a crash left of the same id: a volatile upper layer must not be used again.
        crate::sys::removal::tree(&directory)?;
        fs::create_dir(&directory)?;
        fs::create_dir(directory.join("upper"))?;
        fs::create_dir(directory.join("work"))?;
        // The overlay's root has the upper directory's mode, and every user must pass it.
        fs::set_permissions(directory.join("upper"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
    }

    /// The container's process on its way.
    fn clone_container(
        &mut self,
        config: &ContainerConfig,
        group: &Group,
        filter: Option<&seccomp::Filter>,
        io: &mut Io,
    ) -> io::Result<Starting> {
        let streams = io.open(&mut self.poller, config, &self.null)?;
        let directory = self.container_directory(&config.id);
        let (upper, work) = (directory.join("upper"), directory.join("work"));
        let run_dir = &self.options.run_dir;
        let (root, shm) = (run_dir.join("root"), shm_directory(run_dir, &config.sandbox));
        let Some((sandbox, namespaces)) =
            self.sandboxes.get(&config.sandbox).and_then(|sandbox| Some((sandbox, sandbox.namespaces()?)))
        else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let layout = self.tree.layout();
        let mapped = |own: Users| io::Result::Ok((own, users::namespace(&self.proof, own.base, own.count)?));
        let mapped = sandbox.config.users.map(mapped).transpose()?;
        let target = config.target.as_ref().filter(|_| sandbox.config.pid == PidMode::PerContainer);
        let target = match target {
            Some(id) => {
                // Whoever is among this process's children keeps its number.
                let leader = self.leader_of(id, &config.sandbox).map_err(|_| io::ErrorKind::NotFound)?;
                let place = PathBuf::from(format!("/proc/{}/ns/pid", leader.pid));
                Some((namespace::open(&place)?, own_proc_directory(run_dir, id)))
            }
            None => None,
        };
        let shared = namespaces.pid.as_ref().map(|pid| (pid, proc_directory(run_dir, &config.sandbox)));
        let joined = target.as_ref().map(|(pid, proc)| (pid, proc.clone())).or(shared);
        let processes = match (&joined, sandbox.config.pid) {
            (Some((pid, _)), _) => Processes::Joined(pid.as_fd()),
            (None, PidMode::PerContainer) => Processes::Own,
            (None, _) => Processes::Host,
        };
        let proc = joined.as_ref().map(|(_, proc)| proc.as_path());
        let places = Places { upper: &upper, work: &work, root: &root, shm: &shm, proc, layout };
        let (status, theirs) = status_pair()?;
        let start = child::Start {
            config,
            namespaces,
            processes,
            hostname: sandbox.config.hostname.as_deref(),
            users: mapped.as_ref().map(|(own, namespace)| (*own, namespace.as_fd())),
            group,
            places,
            filter,
            streams,
            proof: &self.proof,
        };
        let mut flags = CloneFlags::CLONE_NEWNS;
        flags.set(CloneFlags::CLONE_NEWPID, matches!(processes, Processes::Own));
        let child = self.clone_into(flags, group, || child::start(theirs.as_fd(), start))?;
        // Where processes are shared, this one makes the container's.
        let leader = joined.is_none().then_some(child);
        if let Some(leader) = &leader {
            self.children.insert(leader.pid, Child::Container(config.id.clone()));
        }
        self.follow(status, leader, Source::Start(config.id.clone()))
    }

    /// Clones this process into a cgroup.
    pub(super) fn clone_into(
        &self,
        flags: CloneFlags,
        group: &Group,
        work: impl FnOnce() -> i32,
    ) -> io::Result<process::Child> {
        let cgroup = group.unified()?;
        process::clone(&self.proof, flags, cgroup.as_ref().map(AsFd::as_fd), work)
    }

    /// A starting container has said something, or runs its program, or died on the way.
    pub(super) fn start_status(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Life::Starting { starting, .. } = &mut container.life else { return };
        let heard = starting.hear(&mut self.children, || Child::Container(id.into()));
        if matches!(heard, Heard::Nothing) {
            return;
        }
        let life = std::mem::replace(&mut container.life, Life::Failed);
        let Life::Starting { starting, started, client } = life else { return };
        self.leave(&starting);
        match heard {
            Heard::Failed(failure) => {
                let Some(mut container) = self.containers.remove(id) else { return };
                container.io.close(&mut self.poller);
                self.discard(container.config, container.group, vec![client], failure);
            }
            Heard::Runs(leader, handed) => self.runs(id, leader, started, handed, client),
            Heard::Nothing => {}
        }
    }

    /// A container's program runs.
    fn runs(&mut self, id: &str, leader: process::Child, started: SystemTime, handed: Handed, client: u64) {
        if let Err(error) = attach_proc(&own_proc_directory(&self.options.run_dir, id), handed.proc.as_ref())
        {
            tracing::warn!(container = id, %error, "no other container can join its processes");
        }
        let Some(container) = self.containers.get_mut(id) else { return };
        if let Some(master) = handed.terminal
            && let Err(error) =
                container.io.set_terminal(&mut self.poller, id, container.config.stdin, master)
        {
            tracing::warn!(container = id, %error, "cannot watch the terminal");
        }
        container.life = Life::Running { leader, started };
        let sandbox = container.config.sandbox.clone();
        if let Some(container) = self.containers.get(id) {
            self.record(container);
        }
        self.reply(client, &Reply::Done, vec![]);
        self.changed(&sandbox);
    }

    /// A container's process has ended: its last words are written before its end is told.
    pub(super) fn container_ended(&mut self, id: &str, exit: Exit) {
        if let Some(Container { life: Life::Starting { starting, .. }, .. }) = self.containers.get_mut(id) {
            starting.ended();
        }
        self.start_status(id);
        let Some(container) = self.containers.get(id) else { return };
        let Life::Running { started, .. } = container.life else { return };
        // Whatever else it started ends with it, also when orphans would live on in a shared process namespace.
        if let Err(error) = container.group.kill() {
            tracing::warn!(container = id, %error, "cannot kill what is left in the cgroup");
        }
        self.drain_output(id);
        let Some(container) = self.containers.get_mut(id) else { return };
        let oom_killed = exit != Exit::Code(0) && container.group.oom_kills() > 0;
        let finished = SystemTime::now();
        container.life =
            Life::Ended(ContainerState::Exited { started, finished, exit: Some(exit), oom_killed });
        container.io.close(&mut self.poller);
        let sandbox = container.config.sandbox.clone();
        if let Some(container) = self.containers.get(id) {
            self.record(container);
        }
        self.end_attached(id, Some(exit));
        self.changed(&sandbox);
    }

    pub(super) fn signal(&mut self, client: u64, id: &str, signal: i32) -> Result<(), Failure> {
        let container = self.containers.get(id).ok_or_else(|| Failure::NoContainer(id.into()))?;
        let sent = match container.leader() {
            None => Ok(()),
            Some(_) if signal == libc::SIGKILL => container.group.kill(),
            Some(leader) => process::send_signal(leader.pidfd.as_fd(), signal),
        };
        sent.map_err(|error| Failure::host(format!("sending signal {signal} to container {id}"), &error))?;
        self.reply(client, &Reply::Done, vec![]);
        Ok(())
    }

    fn record(&self, container: &Container) {
        let Some(status) = container.status(&container.config.id) else { return };
        let record = ContainerRecord { config: container.config.clone(), state: status.state };
        if let Err(error) = self.container_records.save(&container.config.id, &record) {
            tracing::warn!(container = container.config.id, %error, "cannot record the container's state");
        }
    }
}
