//! Further processes in running containers.

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::CloneFlags;

use super::child::{self, Streams};
use super::poller::Source;
use super::sandboxes::{read_start, status_pair};
use super::{Child, Supervisor};
use crate::runtime::protocol::{Failure, Reply};
use crate::runtime::{ExecConfig, PidMode};
use crate::stdio::Exit;
use crate::sys::namespace;

/// A process that was started for a client.
#[derive(Debug)]
pub struct Exec {
    client: u64,
    /// Until the program runs: the socket that tells of it, and the terminal that has come over it.
    starting: Option<(OwnedFd, u64, Vec<OwnedFd>)>,
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
        let pid_mode = sandbox.map_or(PidMode::Host, |sandbox| sandbox.config.pid);
        let pids = match pid_mode {
            PidMode::Host => None,
            PidMode::Shared | PidMode::PerContainer => {
                Some(namespace::open(format!("/proc/{}/ns/pid", leader.pid).as_ref()).map_err(host)?)
            }
        };
        let mut of_container = container.config.clone();
        of_container.process.tty = config.process.tty;
        let join = child::Join {
            config: &of_container,
            hostname: sandbox.and_then(|sandbox| sandbox.config.hostname.as_deref()),
            group: &container.group,
            leader: leader.pidfd.as_fd(),
            args: &config.process.args,
            filter: container.filter.as_deref(),
            streams,
        };
        let (status, theirs) = status_pair().map_err(host)?;
        let child = self
            .clone_into(pids.as_ref().map(AsFd::as_fd), CloneFlags::empty(), &container.group, || {
                child::join(theirs.as_fd(), join)
            })
            .map_err(host)?;
        drop(theirs);
        let token = self.watch_child(&child, &status, Source::Exec(child.pid)).map_err(host)?;
        self.children.insert(child.pid, Child::Exec);
        self.execs.insert(child.pid, Exec { client, starting: Some((status, token, vec![])) });
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
    pub(super) fn exec_status(&mut self, pid: i32) {
        let Some(exec) = self.execs.get_mut(&pid) else { return };
        let Some((status, token, master)) = &mut exec.starting else { return };
        let Some(run) = read_start(status, master) else { return };
        self.poller.remove(*token, status);
        let client = exec.client;
        let master = exec.starting.take().map(|(_, _, master)| master).unwrap_or_default();
        match run {
            Ok(()) => self.send(client, &Reply::Done, master),
            Err(failure) => {
                self.execs.remove(&pid);
                self.fail(client, failure);
            }
        }
    }

    /// The process has ended.
    pub(super) fn exec_ended(&mut self, pid: i32, exit: Exit) {
        self.exec_status(pid);
        if let Some(exec) = self.execs.remove(&pid) {
            self.reply(exec.client, &exit, vec![]);
        }
    }
}
