//! A runtime in memory: the full behaviour of [`Runtime`] without a kernel, for tests of everything above it.
//!
//! Containers run until the test ends them ([`SimRuntime::exit`]), or as the test has laid down for their image's
//! command ([`SimRuntime::program`]). Every call is recorded ([`SimRuntime::calls`]).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::io::DuplexStream;
use tokio::sync::{broadcast, mpsc, oneshot};

#[cfg(doc)]
use super::Runtime;
use super::{Changed, Consumer, ContainerConfig, ContainerState, Error, Resources, SandboxConfig};
use crate::clock;
use crate::stdio::Exit;

mod sessions;
#[cfg(test)]
mod tests;
mod verbs;

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
