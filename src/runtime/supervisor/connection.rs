//! One client's connection: bytes and descriptors that came, bytes and descriptors that must go.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::runtime::protocol;
use crate::sys::socket;

/// A client that takes nothing for so many bytes is not waited for any longer.
pub const MOST_UNSENT: usize = 4 << 20;

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Its request has not come yet.
    Fresh,
    /// Its answer comes later, or has been given.
    Waiting,
    /// Is told of changes.
    Events,
    /// Is joined to a container's streams.
    Attached {
        /// Which.
        container: String,
        /// Sends input.
        stdin: bool,
        /// Gets output.
        stdout: bool,
        /// Gets error output.
        stderr: bool,
    },
}

/// A client.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    /// What it is for.
    pub role: Role,
    /// Received, not yet understood.
    pub inbox: Vec<u8>,
    /// Received with the request.
    pub descriptors: Vec<OwnedFd>,
    outbox: Vec<u8>,
    outgoing: Vec<OwnedFd>,
    /// To be closed when everything is sent.
    pub closing: bool,
}

impl Connection {
    /// Takes a connected, non-blocking socket.
    pub fn new(socket: OwnedFd) -> Connection {
        Connection {
            socket,
            role: Role::Fresh,
            inbox: vec![],
            descriptors: vec![],
            outbox: vec![],
            outgoing: vec![],
            closing: false,
        }
    }

    /// Reads what has come, at most so much; `false` when the client has left.
    pub fn receive(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 64 << 10];
        match socket::receive(self.socket.as_fd(), &mut buffer, &mut self.descriptors) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.inbox.extend_from_slice(&buffer[..count]);
                let limit = protocol::MAX_MESSAGE + 4;
                if self.inbox.len() > limit || self.descriptors.len() > socket::MAX_FDS {
                    return Err(io::Error::other("client sends too much"));
                }
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Puts bytes in line, and descriptors that leave with the next byte sent.
    pub fn push(&mut self, bytes: &[u8], descriptors: Vec<OwnedFd>) {
        self.outbox.extend_from_slice(bytes);
        self.outgoing.extend(descriptors);
    }

    /// Sends what the client takes; `true` when nothing is left.
    pub fn flush(&mut self) -> io::Result<bool> {
        while !self.outbox.is_empty() {
            let fds: Vec<BorrowedFd<'_>> = self.outgoing.iter().map(AsFd::as_fd).collect();
            match socket::send(self.socket.as_fd(), &self.outbox, &fds) {
                Ok(count) => {
                    self.outgoing.clear();
                    self.outbox.drain(..count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// How many bytes wait to be sent.
    pub fn unsent(&self) -> usize {
        self.outbox.len()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
