//! A process on its way to its program, as the supervisor follows it over a status socket.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::epoll::EpollFlags;

use super::poller::Source;
use super::{Child, Supervisor, child};
use crate::runtime::protocol::Failure;
use crate::sys::{process, socket};

/// One on its way.
#[derive(Debug)]
pub struct Starting {
    status: OwnedFd,
    token: u64,
    stage: Stage,
    handed: Handed,
}

/// What one hands back before its program runs.
#[derive(Debug, Default)]
pub struct Handed {
    /// The master of its terminal.
    pub terminal: Option<OwnedFd>,
    /// A procfs of its own processes.
    pub proc: Option<OwnedFd>,
}

/// How far it is.
#[derive(Debug)]
enum Stage {
    /// Another one joins and builds what must be there before it.
    Prepared,
    /// It is there.
    Born(process::Child),
    /// It has ended.
    Ended(process::Child),
}

/// What is heard of one.
#[derive(Debug)]
pub enum Heard {
    /// Not yet how it goes.
    Nothing,
    /// Its program runs.
    Runs(process::Child, Handed),
    /// Its program does not run.
    Failed(Failure),
}

impl Starting {
    /// Hears how it goes. A process that has come to be is put among the supervisor's children, as `child`, before it
    /// may go on: so that its end is not missed.
    pub fn hear(&mut self, children: &mut HashMap<i32, Child>, child: impl Fn() -> Child) -> Heard {
        loop {
            let mut descriptors = vec![];
            match read_status(&self.status, &mut descriptors) {
                Status::Pending if !matches!(self.stage, Stage::Ended(_)) => return Heard::Nothing,
                Status::Pending | Status::Ended => return self.end(),
                Status::Message(message) if message == child::TERMINAL_MARK => {
                    self.handed.terminal = descriptors.pop();
                }
                Status::Message(message) if message == child::PROC_MARK => {
                    self.handed.proc = descriptors.pop();
                }
                Status::Message(message) => match child::born(&message).map(process::adopt) {
                    Some(Ok(born)) => {
                        children.insert(born.pid, child());
                        self.stage = Stage::Born(born);
                        // One that was killed meanwhile does not want to know.
                        let _ = socket::send(self.status.as_fd(), child::GO, &[]);
                    }
                    Some(Err(_)) => return killed(),
                    None => {
                        let text = String::from_utf8_lossy(&message).into_owned();
                        return Heard::Failed(Failure::Start(text));
                    }
                },
            }
        }
    }

    fn end(&mut self) -> Heard {
        match std::mem::replace(&mut self.stage, Stage::Prepared) {
            Stage::Prepared => killed(),
            Stage::Born(process) | Stage::Ended(process) => {
                Heard::Runs(process, std::mem::take(&mut self.handed))
            }
        }
    }

    /// The process has ended: what it said before is all that it will say, whoever else still holds the socket.
    pub fn ended(&mut self) {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Prepared) {
            Stage::Born(process) => Stage::Ended(process),
            other => other,
        };
    }
}

fn killed() -> Heard {
    Heard::Failed(Failure::Start("killed before its program could run".into()))
}

impl Supervisor {
    /// Follows a process that was cloned, or that one that was cloned will make.
    pub(super) fn follow(
        &mut self,
        status: OwnedFd,
        child: Option<process::Child>,
        source: Source,
    ) -> io::Result<Starting> {
        let token = self.poller.add(&status, EpollFlags::EPOLLIN, source);
        let token = token.inspect_err(|_| {
            // Nothing can fail for an own child, which is reaped like any orphan; another one ends with the socket.
            let _ = child.as_ref().map(|child| process::send_signal(child.pidfd.as_fd(), libc::SIGKILL));
        })?;
        Ok(Starting {
            status,
            token,
            stage: child.map_or(Stage::Prepared, Stage::Born),
            handed: Handed::default(),
        })
    }

    /// Listens no more.
    pub(super) fn leave(&mut self, starting: &Starting) {
        self.poller.remove(starting.token, &starting.status);
    }
}

/// What came over a status socket.
#[derive(Debug)]
pub enum Status {
    /// Nothing yet.
    Pending,
    /// One message.
    Message(Vec<u8>),
    /// The other end is closed: the program was exec'd, or its process died.
    Ended,
}

/// A socket over which a cloned process tells how it goes: ours (non-blocking) and its own; both close on exec.
pub fn status_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// Reads one message and its descriptors.
pub fn read_status(status: &OwnedFd, descriptors: &mut Vec<OwnedFd>) -> Status {
    let mut buffer = [0; 8192];
    match socket::receive(status.as_fd(), &mut buffer, descriptors) {
        Ok(0) => Status::Ended,
        Ok(count) => Status::Message(buffer[..count].to_vec()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Status::Pending,
        Err(_) => Status::Ended,
    }
}
