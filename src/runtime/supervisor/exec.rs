//! Further processes in running containers.

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::CloneFlags;

use super::child::{self, Streams};
use super::poller::Source;
use super::starting::{Heard, Starting, status_pair};
use super::{Child, Supervisor};
use crate::runtime::ExecConfig;
use crate::runtime::protocol::{Failure, Reply};
use crate::stdio::Exit;
use crate::sys::process;

/// A process that was started for a client.
#[derive(Debug)]
pub struct Exec {
    client: u64,
    /// Whether it ends with its client.
    bound: bool,
    life: Life,
}

/// How far it is.
#[derive(Debug)]
enum Life {
    /// On the way to its program.
    Starting(Starting),
    /// Its program runs.
    Running(process::Child),
}

impl Supervisor {
    pub(super) fn exec(&mut self, client: u64, config: &ExecConfig) -> Result<(), Failure> {
        let id = &config.container;
        let given =
            self.clients.get_mut(&client).map(|connection| std::mem::take(&mut connection.descriptors));
        let container = self.containers.get(id).ok_or_else(|| Failure::NoContainer(id.clone()))?;
        let leader = container.leader().ok_or_else(|| Failure::NotRunning(id.clone()))?;
        let host = |error: std::io::Error| Failure::host(format!("exec in container {id}"), &error);
        let streams = match config.process.tty {
            true => Streams::Terminal { console: false },
            false => Streams::Files(self.exec_files(config, given.unwrap_or_default()).map_err(host)?),
        };
        let sandbox = self.sandboxes.get(&container.config.sandbox);
        let mut of_container = container.config.clone();
        of_container.process.tty = config.process.tty;
        let join = child::Join {
            config: &of_container,
            hostname: sandbox.and_then(|sandbox| sandbox.config.hostname.as_deref()),
            users: sandbox.and_then(|sandbox| sandbox.config.users),
            group: &container.group,
            leader: leader.pidfd.as_fd(),
            args: &config.process.args,
            filter: container.filter.as_deref(),
            streams,
            proof: &self.proof,
        };
        let (status, theirs) = status_pair().map_err(host)?;
        self.clone_into(CloneFlags::empty(), &container.group, || child::join(theirs.as_fd(), join))
            .map_err(host)?;
        drop(theirs);
        let number = self.next_exec;
        self.next_exec += 1;
        let starting = self.follow(status, None, Source::Exec(number)).map_err(host)?;
        self.execs.insert(number, Exec { client, bound: config.bound, life: Life::Starting(starting) });
        Ok(())
    }

    /// The client's descriptors in order, `/dev/null` where it wants no stream.
    fn exec_files(&self, config: &ExecConfig, given: Vec<OwnedFd>) -> std::io::Result<[OwnedFd; 3]> {
        let mut given = given.into_iter();
        let mut next = |wanted: bool| match wanted.then(|| given.next()).flatten() {
            Some(fd) => Ok(fd),
            None => self.null.try_clone(),
        };
        Ok([next(config.stdin)?, next(config.stdout)?, next(config.stderr)?])
    }

    /// A starting process has said something, or runs its program, or died on the way.
    pub(super) fn exec_status(&mut self, number: u64) {
        let Some(exec) = self.execs.get_mut(&number) else { return };
        let Life::Starting(starting) = &mut exec.life else { return };
        let heard = starting.hear(&mut self.children, || Child::Exec(number));
        if matches!(heard, Heard::Nothing) {
            return;
        }
        let client = exec.client;
        match heard {
            Heard::Failed(failure) => {
                if let Some(Exec { life: Life::Starting(starting), .. }) = self.execs.remove(&number) {
                    self.leave(&starting);
                }
                self.fail(client, failure);
            }
            Heard::Runs(process, handed) => {
                if let Life::Starting(starting) = std::mem::replace(&mut exec.life, Life::Running(process)) {
                    self.leave(&starting);
                }
                match self.clients.contains_key(&client) {
                    true => self.send(client, &Reply::Done, handed.terminal.into_iter().collect()),
                    false => self.abandon_execs(client),
                }
            }
            Heard::Nothing => {}
        }
    }

    /// Kills what was started for a client that is gone, where it is to end with it. What is on its way is killed when
    /// it has arrived.
    pub(super) fn abandon_execs(&self, client: u64) {
        for exec in self.execs.values().filter(|exec| exec.bound && exec.client == client) {
            if let Life::Running(process) = &exec.life
                && let Err(error) = process::send_signal(process.pidfd.as_fd(), libc::SIGKILL)
            {
                tracing::debug!(pid = process.pid, %error, "a process that nobody waits for has ended");
            }
        }
    }

    /// The process has ended.
    pub(super) fn exec_ended(&mut self, number: u64, exit: Exit) {
        if let Some(Exec { life: Life::Starting(starting), .. }) = self.execs.get_mut(&number) {
            starting.ended();
        }
        self.exec_status(number);
        if let Some(exec) = self.execs.remove(&number) {
            self.reply(exec.client, &exit, vec![]);
        }
    }
}
