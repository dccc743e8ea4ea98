//! What is asked of a runtime, done in memory.

use std::net::Ipv4Addr;
use std::time::SystemTime;

use tokio::sync::broadcast;

use super::{Container, SimCall, SimProgram, SimRuntime};
use crate::clock;
use crate::runtime::{
    Changed, Consumer, ContainerConfig, ContainerState, ContainerStatus, Error, ExecConfig, Observed,
    Resources, Runtime, SandboxConfig, SandboxStatus, Stats,
};
use crate::stdio::{Duplex, Exit, Session};

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
        self.open_exec(config).await
    }

    async fn attach(
        &self,
        container: &str,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> Result<Session, Error> {
        self.open_attach(container, stdin, stdout, stderr).await
    }

    async fn dial(&self, sandbox: &str, address: Ipv4Addr, port: u16) -> Result<Box<dyn Duplex>, Error> {
        self.open_dial(sandbox, address, port).await
    }
}
