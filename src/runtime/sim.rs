//! A runtime in memory: the full behaviour of [`Runtime`] without a kernel, for tests of everything above it.
//!
//! Containers run until the test ends them ([`SimRuntime::exit`]), or as the test has laid down for their image's
//! command ([`SimRuntime::program`]). Every call is recorded ([`SimRuntime::calls`]).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::{
    Changed, Consumer, ContainerConfig, ContainerState, ContainerStatus, Error, ExecConfig, Observed,
    Resources, Runtime, SandboxConfig, SandboxStatus, Stats, Stdin,
};
use crate::clock;
use crate::stdio::{Duplex, Exit, Reader, Session, Writer};

/// Bytes between a test and a stream.
const BUFFER: usize = 64 << 10;

/// What the runtime was asked to do.
#[derive(Debug, Clone, PartialEq)]
pub enum SimCall {
    /// [`Runtime::ensure_sandbox`].
    EnsureSandbox(String),
    /// [`Runtime::start`].
    Start(String),
    /// [`Runtime::signal`].
    Signal(String, i32),
    /// [`Runtime::remove`].
    Remove(String),
    /// [`Runtime::remove_sandbox`].
    RemoveSandbox(String),
    /// [`Runtime::exec`]: container and arguments.
    Exec(String, Vec<String>),
    /// [`Runtime::attach`].
    Attach(String),
    /// [`Runtime::dial`].
    Dial(String, Ipv4Addr, u16),
    /// [`Runtime::limit`].
    Limit(Consumer, Resources),
}

/// What a simulated program does.
#[derive(Debug, Clone, PartialEq)]
pub enum SimProgram {
    /// Runs until it gets a signal other than 0; `SIGTERM` ends it with this.
    RunUntilTerm(Exit),
    /// Runs on, whatever the signal, until `SIGKILL`.
    IgnoreTerm,
    /// Ends at once.
    EndAtOnce(Exit),
    /// Is killed for want of memory at once.
    RunOutOfMemory,
    /// Cannot be started, with this message.
    FailToStart(String),
}

/// What a simulated exec answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimExec {
    /// Written to standard output.
    pub stdout: Vec<u8>,
    /// Written to standard error.
    pub stderr: Vec<u8>,
    /// Then it ends.
    pub exit: Exit,
    /// After so long.
    pub takes: Duration,
}

impl Default for SimExec {
    fn default() -> SimExec {
        SimExec { stdout: vec![], stderr: vec![], exit: Exit::Code(0), takes: Duration::ZERO }
    }
}

/// The runtime; clones share everything.
#[derive(Debug, Clone)]
pub struct SimRuntime {
    state: Arc<Mutex<State>>,
    changes: broadcast::Sender<Changed>,
}

#[derive(Debug, Default)]
struct State {
    sandboxes: BTreeMap<String, (SandboxConfig, bool)>,
    containers: BTreeMap<String, Container>,
    programs: HashMap<String, VecDeque<SimProgram>>,
    execs: HashMap<Vec<String>, SimExec>,
    listeners: HashMap<(String, u16), mpsc::UnboundedSender<DuplexStream>>,
    sandbox_failures: VecDeque<String>,
    removal_failures: VecDeque<String>,
    calls: Vec<SimCall>,
    /// How often figures were asked for.
    looks: HashMap<Consumer, u64>,
    /// Bytes in the roots of containers.
    written: HashMap<String, u64>,
    /// Bytes of memory that a command takes.
    memory: HashMap<String, u64>,
    next_pid: i32,
}

#[derive(Debug)]
struct Container {
    config: ContainerConfig,
    program: SimProgram,
    state: ContainerState,
    attached: Vec<oneshot::Sender<Exit>>,
}

impl Default for SimRuntime {
    fn default() -> SimRuntime {
        SimRuntime { state: Arc::default(), changes: broadcast::channel(1024).0 }
    }
}

impl SimRuntime {
    /// An empty one.
    pub fn new() -> SimRuntime {
        SimRuntime::default()
    }

    /// Lays down what the next start of a command (its first argument) does; several are used up in order, the last
    /// one stays. Without any, programs run until `SIGTERM` and end with 0.
    pub fn program(&self, command: &str, program: SimProgram) {
        self.lock().programs.entry(command.into()).or_default().push_back(program);
    }

    /// Lays down what an exec of these arguments answers; without it, nothing and 0.
    pub fn answer_exec(&self, args: &[&str], answer: SimExec) {
        self.lock().execs.insert(args.iter().map(|arg| (*arg).to_owned()).collect(), answer);
    }

    /// Has the containers of a command (its first argument) take so many bytes of memory more.
    pub fn use_memory(&self, command: &str, bytes: u64) {
        self.lock().memory.insert(command.into(), bytes);
    }

    /// Makes the next [`Runtime::ensure_sandbox`] fail.
    pub fn fail_sandbox(&self, message: &str) {
        self.lock().sandbox_failures.push_back(message.into());
    }

    /// Makes the next [`Runtime::remove_sandbox`] fail.
    pub fn fail_removal(&self, message: &str) {
        self.lock().removal_failures.push_back(message.into());
    }

    /// Has a container hold so many bytes in its root.
    pub fn write_root(&self, container: &str, bytes: u64) {
        self.lock().written.insert(container.into(), bytes);
    }

    /// Accepts connections to a port in a sandbox: the other ends come out here.
    pub fn listen(&self, sandbox: &str, port: u16) -> mpsc::UnboundedReceiver<DuplexStream> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.lock().listeners.insert((sandbox.into(), port), sender);
        receiver
    }

    /// Ends a running container; `false` when it does not run.
    pub fn exit(&self, container: &str, exit: Exit) -> bool {
        self.end(container, Some(exit), false)
    }

    /// Ends a running container as the kernel does when memory runs out.
    pub fn run_out_of_memory(&self, container: &str) -> bool {
        self.end(container, Some(Exit::Signal(libc::SIGKILL)), true)
    }

    /// As when the supervisor dies: everything has ended, and nobody saw how.
    pub fn lose_everything(&self) {
        let running: Vec<String> = self.lock().containers.keys().cloned().collect();
        for id in &running {
            self.end(id, None, false);
        }
        let sandboxes: Vec<String> = {
            let mut state = self.lock();
            state.sandboxes.values_mut().for_each(|(_, alive)| *alive = false);
            state.sandboxes.keys().cloned().collect()
        };
        sandboxes.iter().for_each(|id| self.tell(id));
    }

    /// Everything that was asked for so far, in order.
    pub fn calls(&self) -> Vec<SimCall> {
        self.lock().calls.clone()
    }

    /// The configuration with which a container was started.
    pub fn container(&self, id: &str) -> Option<ContainerConfig> {
        self.lock().containers.get(id).map(|container| container.config.clone())
    }

    /// The configuration of a sandbox.
    pub fn sandbox(&self, id: &str) -> Option<SandboxConfig> {
        self.lock().sandboxes.get(id).map(|(config, _)| config.clone())
    }

    fn end(&self, id: &str, exit: Option<Exit>, oom_killed: bool) -> bool {
        let mut state = self.lock();
        let Some(container) = state.containers.get_mut(id) else { return false };
        let ContainerState::Running { started, .. } = container.state else { return false };
        container.state =
            ContainerState::Exited { started, finished: SystemTime::from(clock::now()), exit, oom_killed };
        let (attached, sandbox) = (std::mem::take(&mut container.attached), container.config.sandbox.clone());
        drop(state);
        if let Some(exit) = exit {
            // A session that is gone does not want to know.
            for sender in attached {
                let _ = sender.send(exit);
            }
        }
        self.tell(&sandbox);
        true
    }

    fn tell(&self, sandbox: &str) {
        // Nobody listening is fine.
        let _ = self.changes.send(Changed { sandbox: sandbox.into() });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(state: &State, id: &str) -> Result<(), Error> {
        match state.containers.get(id).map(|container| &container.state) {
            None => Err(Error::NoContainer(id.into())),
            Some(ContainerState::Exited { .. }) => Err(Error::NotRunning(id.into())),
            Some(ContainerState::Running { .. }) => Ok(()),
        }
    }
}

impl State {
    /// What a command does this time.
    fn take_program(&mut self, command: &str) -> SimProgram {
        match self.programs.get_mut(command) {
            Some(programs) if programs.len() > 1 => programs.pop_front(),
            Some(programs) => programs.front().cloned(),
            None => None,
        }
        .unwrap_or(SimProgram::RunUntilTerm(Exit::Code(0)))
    }
}

impl Runtime for SimRuntime {
    async fn ensure_sandbox(&self, config: &SandboxConfig) -> Result<(), Error> {
        let mut state = self.lock();
        state.calls.push(SimCall::EnsureSandbox(config.id.clone()));
        if let Some(message) = state.sandbox_failures.pop_front() {
            return Err(Error::Start(message));
        }
        match state.sandboxes.get(&config.id) {
            Some((_, true)) => return Ok(()),
            Some((_, false)) => {
                return Err(Error::Start(format!(
                    "sandbox {} has ended and must be removed first",
                    config.id
                )));
            }
            None => drop(state.sandboxes.insert(config.id.clone(), (config.clone(), true))),
        }
        drop(state);
        self.tell(&config.id);
        Ok(())
    }

    async fn start(&self, config: &ContainerConfig) -> Result<(), Error> {
        let mut state = self.lock();
        state.calls.push(SimCall::Start(config.id.clone()));
        if state.containers.contains_key(&config.id) {
            return Ok(());
        }
        if !state.sandboxes.get(&config.sandbox).is_some_and(|(_, alive)| *alive) {
            return Err(Error::NoSandbox(config.sandbox.clone()));
        }
        let Some(command) = config.process.args.first() else {
            return Err(Error::Start("no command specified".into()));
        };
        let program = state.take_program(command);
        if let SimProgram::FailToStart(message) = program {
            return Err(Error::Start(message));
        }
        state.next_pid += 1;
        let running =
            ContainerState::Running { started: SystemTime::from(clock::now()), pid: 1000 + state.next_pid };
        let container =
            Container { config: config.clone(), program: program.clone(), state: running, attached: vec![] };
        state.containers.insert(config.id.clone(), container);
        drop(state);
        self.tell(&config.sandbox);
        match program {
            SimProgram::EndAtOnce(exit) => {
                self.exit(&config.id, exit);
            }
            SimProgram::RunOutOfMemory => {
                self.run_out_of_memory(&config.id);
            }
            _ => {}
        }
        Ok(())
    }

    async fn signal(&self, container: &str, signal: i32) -> Result<(), Error> {
        let ends = {
            let mut state = self.lock();
            state.calls.push(SimCall::Signal(container.into(), signal));
            let known =
                state.containers.get(container).ok_or_else(|| Error::NoContainer(container.into()))?;
            match (&known.program, signal) {
                (_, libc::SIGKILL) => Some(Exit::Signal(libc::SIGKILL)),
                (_, 0) | (SimProgram::IgnoreTerm, _) => None,
                (SimProgram::RunUntilTerm(exit), libc::SIGTERM) => Some(*exit),
                (_, signal) => Some(Exit::Signal(signal)),
            }
        };
        if let Some(exit) = ends {
            self.exit(container, exit);
        }
        Ok(())
    }

    async fn remove(&self, container: &str) -> Result<(), Error> {
        self.lock().calls.push(SimCall::Remove(container.into()));
        self.exit(container, Exit::Signal(libc::SIGKILL));
        let removed = self.lock().containers.remove(container);
        if let Some(removed) = removed {
            self.tell(&removed.config.sandbox);
        }
        Ok(())
    }

    async fn remove_sandbox(&self, sandbox: &str) -> Result<(), Error> {
        let inside: Vec<String> = {
            let mut state = self.lock();
            state.calls.push(SimCall::RemoveSandbox(sandbox.into()));
            if let Some(message) = state.removal_failures.pop_front() {
                return Err(Error::Supervisor(message));
            }
            let inside = state.containers.values().filter(|container| container.config.sandbox == sandbox);
            inside.map(|container| container.config.id.clone()).collect()
        };
        for id in inside {
            self.exit(&id, Exit::Signal(libc::SIGKILL));
            self.lock().containers.remove(&id);
        }
        let removed = {
            let mut state = self.lock();
            state.listeners.retain(|(of, _), _| of != sandbox);
            state.sandboxes.remove(sandbox)
        };
        if removed.is_some() {
            self.tell(sandbox);
        }
        Ok(())
    }

    async fn observe(&self) -> Result<Observed, Error> {
        let state = self.lock();
        let sandboxes = state.sandboxes.values().map(|(config, alive)| SandboxStatus {
            id: config.id.clone(),
            labels: config.labels.clone(),
            network: config.network.clone(),
            alive: *alive,
        });
        let containers = state.containers.values().map(|container| ContainerStatus {
            id: container.config.id.clone(),
            sandbox: container.config.sandbox.clone(),
            labels: container.config.labels.clone(),
            state: container.state.clone(),
        });
        Ok(Observed { sandboxes: sandboxes.collect(), containers: containers.collect() })
    }

    async fn observe_labelled(&self, label: &str, value: &str) -> Result<Observed, Error> {
        Ok(self.observe().await?.labelled(label, value))
    }

    fn stats(&self, of: &Consumer) -> Result<Stats, Error> {
        let mut state = self.lock();
        match of {
            Consumer::Machine | Consumer::Sandboxes => {}
            Consumer::Sandbox(id) if state.sandboxes.contains_key(id) => {}
            Consumer::Sandbox(id) => return Err(Error::NoSandbox(id.clone())),
            Consumer::Container { id, .. } => Self::running(&state, id)?,
        }
        let among = |container: &&Container| match of {
            Consumer::Machine | Consumer::Sandboxes => true,
            Consumer::Sandbox(id) => container.config.sandbox == *id,
            Consumer::Container { id, .. } => container.config.id == *id,
        };
        let running = state.containers.values().filter(|c| matches!(c.state, ContainerState::Running { .. }));
        let memory: u64 =
            running.filter(among).filter_map(|c| state.memory.get(c.config.process.args.first()?)).sum();
        // Everything uses half of a CPU, by a clock that goes on a tenth of a second with each look.
        let looks = state.looks.entry(of.clone()).or_default();
        *looks += 1;
        Ok(Stats {
            cpu_nanos: *looks * 50_000_000,
            memory_usage: (3 << 20) + memory,
            memory_working_set: (2 << 20) + memory,
            ..Stats::default()
        })
    }

    fn limit(&self, of: &Consumer, resources: &Resources) -> Result<(), Error> {
        self.lock().calls.push(SimCall::Limit(of.clone(), resources.clone()));
        Ok(())
    }

    fn root_usage(&self, container: &str) -> Result<u64, Error> {
        let state = self.lock();
        SimRuntime::running(&state, container)?;
        Ok(state.written.get(container).copied().unwrap_or(0))
    }

    fn changes(&self) -> broadcast::Receiver<Changed> {
        self.changes.subscribe()
    }

    async fn exec(&self, config: &ExecConfig) -> Result<Session, Error> {
        let args = config.process.args.clone();
        let SimExec { stdout, stderr, exit, takes } = {
            let mut state = self.lock();
            state.calls.push(SimCall::Exec(config.container.clone(), args.clone()));
            SimRuntime::running(&state, &config.container)?;
            state.execs.get(&args).cloned().unwrap_or_default()
        };
        let tty = config.process.tty;
        let (stdin, mut stdin_end) = tokio::io::duplex(BUFFER);
        let (stdout_end, stdout_reader) = tokio::io::duplex(BUFFER);
        let (stderr_end, stderr_reader) = tokio::io::duplex(BUFFER);
        let (sender, receiver) = oneshot::channel();
        let (resize, mut sizes) = mpsc::channel(1);
        tokio::spawn(async move { while sizes.recv().await.is_some() {} });
        // Input is taken and thrown away; the answer does not depend on it.
        tokio::spawn(async move { tokio::io::copy(&mut stdin_end, &mut tokio::io::sink()).await });
        tokio::spawn(async move {
            let (mut stdout_end, mut stderr_end) = (stdout_end, stderr_end);
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            // A session that is gone does not want to know.
            let _ = tokio::join!(stdout_end.write_all(&stdout), stderr_end.write_all(&stderr));
            let _ = sender.send(exit);
        });
        Ok(Session {
            stdin: config.stdin.then(|| Box::new(stdin) as Writer),
            stdout: (config.stdout || tty).then(|| Box::new(stdout_reader) as Reader),
            stderr: (config.stderr && !tty).then(|| Box::new(stderr_reader) as Reader),
            resize: tty.then_some(resize),
            exit: receiver,
        })
    }

    async fn attach(
        &self,
        container: &str,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> Result<Session, Error> {
        let mut state = self.lock();
        state.calls.push(SimCall::Attach(container.into()));
        SimRuntime::running(&state, container)?;
        let Some(known) = state.containers.get_mut(container) else {
            return Err(Error::NoContainer(container.into()));
        };
        let (sender, exit) = oneshot::channel();
        known.attached.push(sender);
        let tty = known.config.process.tty;
        let stdin = stdin && known.config.stdin != Stdin::None;
        drop(state);
        // An echo: what goes in comes out.
        let (near, far) = tokio::io::duplex(BUFFER);
        let (reader, writer) = tokio::io::split(near);
        let (mut far_reader, mut far_writer) = tokio::io::split(far);
        tokio::spawn(async move { tokio::io::copy(&mut far_reader, &mut far_writer).await });
        let (resize, mut sizes) = mpsc::channel(1);
        tokio::spawn(async move { while sizes.recv().await.is_some() {} });
        Ok(Session {
            stdin: stdin.then(|| Box::new(writer) as Writer),
            stdout: stdout.then(|| Box::new(reader) as Reader),
            stderr: (stderr && !tty).then(|| Box::new(tokio::io::empty()) as Reader),
            resize: tty.then_some(resize),
            exit,
        })
    }

    async fn dial(&self, sandbox: &str, address: Ipv4Addr, port: u16) -> Result<Box<dyn Duplex>, Error> {
        let mut state = self.lock();
        state.calls.push(SimCall::Dial(sandbox.into(), address, port));
        if !state.sandboxes.contains_key(sandbox) {
            return Err(Error::NoSandbox(sandbox.into()));
        }
        let (near, far) = tokio::io::duplex(BUFFER);
        let taken = state
            .listeners
            .get(&(sandbox.to_owned(), port))
            .is_some_and(|listener| listener.send(far).is_ok());
        match taken {
            true => Ok(Box::new(near)),
            false => Err(Error::Host {
                what: format!("connecting to {address}:{port} in sandbox {sandbox}"),
                source: std::io::ErrorKind::ConnectionRefused.into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{LogConfig, NetworkMode, PidMode, Process, Resources, Security};

    fn sandbox() -> SandboxConfig {
        SandboxConfig {
            id: "s".into(),
            labels: Default::default(),
            hostname: None,
            pid: PidMode::Shared,
            network: NetworkMode::Host,
            host_ipc: false,
            sysctls: Default::default(),
            resources: Resources::default(),
            users: None,
        }
    }

    fn container(id: &str, command: &str) -> ContainerConfig {
        ContainerConfig {
            id: id.into(),
            sandbox: "s".into(),
            labels: Default::default(),
            layers: vec![],
            read_only_root: false,
            mounts: vec![],
            process: Process {
                args: vec![command.into()],
                env: vec![],
                cwd: "/".into(),
                uid: 0,
                gid: 0,
                groups: vec![],
                tty: false,
            },
            security: Security::default(),
            resources: Resources::default(),
            stdin: Stdin::None,
            log: LogConfig { path: "/dev/null".into(), max_bytes: 1, max_files: 1 },
            termination_message: None,
        }
    }

    async fn state(runtime: &SimRuntime, id: &str) -> Option<ContainerState> {
        let observed = runtime.observe().await.unwrap();
        observed.containers.into_iter().find(|container| container.id == id).map(|container| container.state)
    }

    #[tokio::test]
    async fn programs_do_as_laid_down() {
        let runtime = SimRuntime::new();
        assert!(matches!(runtime.start(&container("a", "web")).await, Err(Error::NoSandbox(_))));
        runtime.ensure_sandbox(&sandbox()).await.unwrap();
        runtime.program("crash", SimProgram::EndAtOnce(Exit::Code(1)));
        runtime.program("crash", SimProgram::RunOutOfMemory);
        runtime.program("bad", SimProgram::FailToStart("exec: no".into()));
        runtime.program("deaf", SimProgram::IgnoreTerm);
        for (id, command) in [("a", "web"), ("b", "crash"), ("c", "crash"), ("d", "deaf")] {
            runtime.start(&container(id, command)).await.unwrap();
        }
        assert_eq!(runtime.start(&container("e", "bad")).await.unwrap_err().to_string(), "exec: no");
        assert!(matches!(
            state(&runtime, "b").await,
            Some(ContainerState::Exited { exit: Some(Exit::Code(1)), .. })
        ));
        assert!(matches!(state(&runtime, "c").await, Some(ContainerState::Exited { oom_killed: true, .. })));
        runtime.signal("a", libc::SIGTERM).await.unwrap();
        runtime.signal("d", libc::SIGTERM).await.unwrap();
        assert!(matches!(
            state(&runtime, "a").await,
            Some(ContainerState::Exited { exit: Some(Exit::Code(0)), .. })
        ));
        assert!(matches!(state(&runtime, "d").await, Some(ContainerState::Running { .. })));
        runtime.remove("a").await.unwrap();
        runtime.remove("a").await.unwrap();
        assert_eq!(state(&runtime, "a").await, None);
        runtime.lose_everything();
        assert!(matches!(state(&runtime, "d").await, Some(ContainerState::Exited { exit: None, .. })));
        runtime.remove_sandbox("s").await.unwrap();
        assert_eq!(runtime.observe().await.unwrap(), Observed::default());
        assert_eq!(runtime.calls().last(), Some(&SimCall::RemoveSandbox("s".into())));
    }

    #[tokio::test]
    async fn sessions_and_changes() {
        let runtime = SimRuntime::new();
        let mut changes = runtime.changes();
        runtime.ensure_sandbox(&sandbox()).await.unwrap();
        assert_eq!(changes.recv().await.unwrap().sandbox, "s");
        runtime.start(&container("a", "web")).await.unwrap();
        let answer = SimExec { stdout: b"out".to_vec(), exit: Exit::Code(3), ..SimExec::default() };
        runtime.answer_exec(&["check"], answer);
        let exec = ExecConfig {
            bound: false,
            container: "a".into(),
            process: crate::runtime::ExecProcess { args: vec!["check".into()], tty: false },
            stdin: false,
            stdout: true,
            stderr: false,
        };
        let session = runtime.exec(&exec).await.unwrap();
        let mut text = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut session.stdout.unwrap(), &mut text).await.unwrap();
        assert_eq!((text.as_str(), session.exit.await), ("out", Ok(Exit::Code(3))));
        let attached = runtime.attach("a", false, true, false).await.unwrap();
        runtime.exit("a", Exit::Signal(9));
        assert_eq!(attached.exit.await, Ok(Exit::Signal(9)));
        assert!(matches!(runtime.exec(&exec).await, Err(Error::NotRunning(_))));
        assert!(runtime.dial("s", Ipv4Addr::LOCALHOST, 80).await.is_err());
        let mut listener = runtime.listen("s", 80);
        runtime.dial("s", Ipv4Addr::LOCALHOST, 80).await.unwrap();
        assert!(listener.recv().await.is_some());
    }
}
