//! What the loop waits for: descriptors and what they mean.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::logs::Stream;

/// The meaning of a descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// New clients.
    Listener,
    /// Signals, above all of ended children.
    Signals,
    /// A client; its token is its name.
    Client,
    /// A sandbox's init tells how it goes.
    Sandbox(String),
    /// A starting container tells how it goes.
    Start(String),
    /// A starting exec, by its number, tells how it goes.
    Exec(u64),
    /// A container's output.
    Output(String, Stream),
    /// A container takes input again.
    Input(String),
}

/// An epoll instance and the meanings of its tokens.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
    sources: HashMap<u64, Source>,
    next: u64,
}

impl Poller {
    /// A new one.
    pub fn new() -> io::Result<Poller> {
        Ok(Poller { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, sources: HashMap::new(), next: 0 })
    }

    /// Watches a descriptor; the token names it from now on.
    pub fn add(&mut self, fd: impl AsFd, flags: EpollFlags, source: Source) -> io::Result<u64> {
        let token = self.next;
        self.epoll.add(fd, EpollEvent::new(flags, token))?;
        self.next += 1;
        self.sources.insert(token, source);
        Ok(token)
    }

    /// Watches it for something else.
    pub fn change(&mut self, token: u64, fd: impl AsFd, flags: EpollFlags) {
        // Fails only for a descriptor that is not watched.
        let _ = self.epoll.modify(fd, &mut EpollEvent::new(flags, token));
    }

    /// Watches it no longer.
    pub fn remove(&mut self, token: u64, fd: impl AsFd) {
        let _ = self.epoll.delete(fd);
        self.sources.remove(&token);
    }

    /// Waits until something happens; a source that vanishes meanwhile is the caller's to tolerate.
    pub fn wait(&mut self) -> io::Result<Vec<(u64, Source, EpollFlags)>> {
        let mut events = [EpollEvent::empty(); 64];
        let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => 0,
            result => result?,
        };
        let known = |event: &EpollEvent| {
            Some((event.data(), self.sources.get(&event.data())?.clone(), event.events()))
        };
        Ok(events[..count].iter().filter_map(known).collect())
    }
}
