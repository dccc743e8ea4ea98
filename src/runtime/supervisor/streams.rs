//! Containers' streams: from pipes or a terminal into the log and to attached clients, and input the other way.

use std::io;
use std::os::fd::OwnedFd;

use jiff::Timestamp;
use nix::sys::epoll::EpollFlags;

use super::Supervisor;
use super::child::Streams;
use super::connection::Role;
use super::logs::{Log, Stream};
use super::poller::{Poller, Source};
use crate::runtime::protocol::{Failure, Frame, MAX_FRAME, Reply};
use crate::runtime::{ContainerConfig, Stdin};
use crate::stdio::Exit;
use crate::sys::pty;

/// A container's output waits while an attached client has so much to take, and a client's input while the container
/// has: nobody's slowness fills the memory.
const FULL: usize = 256 << 10;
/// The most that is read of an ended container's pipe: more than the kernel lets a pipe hold.
const MOST_LEFT: usize = 4 << 20;

/// A watched descriptor.
#[derive(Debug)]
struct Watched {
    fd: OwnedFd,
    token: u64,
}

/// The supervisor's ends of a container's streams.
#[derive(Debug, Default)]
pub struct Io {
    log: Option<Log>,
    /// By [`Stream`]; a terminal is the first.
    outputs: [Option<Watched>; 2],
    input: Option<Watched>,
    pending_input: Vec<u8>,
    terminal: bool,
    paused: bool,
    /// Input ends when what is pending has been written.
    input_ending: bool,
    log_failed: bool,
}

impl Io {
    /// Makes pipes as the container needs them: the ends for the supervisor and those for the process. After a
    /// failure, what is made already is the caller's to close.
    pub fn open(
        &mut self,
        poller: &mut Poller,
        config: &ContainerConfig,
        null: &OwnedFd,
    ) -> io::Result<Streams> {
        self.log = Some(Log::open(&config.log)?);
        if config.process.tty {
            self.terminal = true;
            return Ok(Streams::Terminal { console: true });
        }
        let pipe = || -> io::Result<(OwnedFd, OwnedFd)> {
            Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
        };
        let mut output = |stream: Stream| -> io::Result<OwnedFd> {
            let (ours, theirs) = pipe()?;
            self.outputs[stream as usize] =
                Some(watch(poller, ours, EpollFlags::EPOLLIN, Source::Output(config.id.clone(), stream))?);
            Ok(theirs)
        };
        let (stdout, stderr) = (output(Stream::Stdout)?, output(Stream::Stderr)?);
        let stdin = match config.stdin {
            Stdin::None => null.try_clone()?,
            Stdin::Open | Stdin::Once => {
                let (theirs, ours) = pipe()?;
                self.input =
                    Some(watch(poller, ours, EpollFlags::empty(), Source::Input(config.id.clone()))?);
                theirs
            }
        };
        Ok(Streams::Files([stdin, stdout, stderr]))
    }

    /// Takes the master of the terminal that the container's process has made.
    pub fn set_terminal(
        &mut self,
        poller: &mut Poller,
        id: &str,
        stdin: Stdin,
        master: OwnedFd,
    ) -> io::Result<()> {
        if stdin != Stdin::None {
            let input = master.try_clone()?;
            self.input = Some(watch(poller, input, EpollFlags::empty(), Source::Input(id.into()))?);
        }
        let source = Source::Output(id.into(), Stream::Stdout);
        self.outputs[0] = Some(watch(poller, master, EpollFlags::EPOLLIN, source)?);
        Ok(())
    }

    /// Closes everything.
    pub fn close(&mut self, poller: &mut Poller) {
        for watched in self.outputs.iter_mut().chain([&mut self.input]).filter_map(Option::take) {
            poller.remove(watched.token, &watched.fd);
        }
        self.pending_input.clear();
        self.log = None;
    }

    /// Whether input waits for the container to take it.
    pub fn input_is_full(&self) -> bool {
        self.pending_input.len() >= FULL
    }

    fn close_input(&mut self, poller: &mut Poller) {
        if let Some(input) = self.input.take() {
            poller.remove(input.token, &input.fd);
        }
        self.pending_input.clear();
    }

    fn watch_outputs(&mut self, poller: &mut Poller, paused: bool) {
        if std::mem::replace(&mut self.paused, paused) == paused {
            return;
        }
        let interest = if paused { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
        for watched in self.outputs.iter().flatten() {
            poller.change(watched.token, &watched.fd, interest);
        }
    }

    fn write_log(&mut self, id: &str, write: impl FnOnce(&mut Log) -> io::Result<()>) {
        let Some(log) = &mut self.log else { return };
        match write(log) {
            Ok(()) => self.log_failed = false,
            // Once for each failure, not for each line: the disk is full, perhaps.
            Err(error) if !self.log_failed => {
                self.log_failed = true;
                tracing::warn!(container = id, %error, "cannot write the container's log");
            }
            Err(_) => {}
        }
    }
}

fn watch(poller: &mut Poller, fd: OwnedFd, flags: EpollFlags, source: Source) -> io::Result<Watched> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    let token = poller.add(&fd, flags, source)?;
    Ok(Watched { fd, token })
}

impl Supervisor {
    /// A container's output has something to read, or has ended.
    pub(super) fn read_output(&mut self, id: &str, stream: Stream) {
        self.read_once(id, stream);
    }

    /// Reads everything that an ended container has left in its pipes.
    pub(super) fn drain_output(&mut self, id: &str) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut total = 0;
            while total < MOST_LEFT {
                match self.read_once(id, stream) {
                    0 => break,
                    count => total += count,
                }
            }
            if let Some(container) = self.containers.get_mut(id) {
                container.io.write_log(id, |log| log.finish(stream, Timestamp::now()));
            }
        }
    }

    /// Reads once and hands on; returns how much it was.
    fn read_once(&mut self, id: &str, stream: Stream) -> usize {
        let Some(container) = self.containers.get_mut(id) else { return 0 };
        let Some(output) = &container.io.outputs[stream as usize] else { return 0 };
        let mut buffer = [0; MAX_FRAME];
        let bytes = match rustix::io::read(&output.fd, &mut buffer) {
            Ok(count) if count > 0 => &buffer[..count],
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return 0,
            // The end; of a terminal that nobody has open any longer it is EIO, and may be opened again.
            Ok(_) | Err(_) => {
                if let Some(output) = container.io.outputs[stream as usize].take() {
                    self.poller.remove(output.token, &output.fd);
                }
                container.io.write_log(id, |log| log.finish(stream, Timestamp::now()));
                return 0;
            }
        };
        container.io.write_log(id, |log| log.write(stream, bytes, Timestamp::now()));
        self.show_attached(id, stream, bytes);
        bytes.len()
    }

    fn show_attached(&mut self, id: &str, stream: Stream, bytes: &[u8]) {
        let mut frame = None;
        for client in self.attached_to(id) {
            let wanted = match self.clients.get(&client).map(|connection| &connection.role) {
                Some(Role::Attached { stdout, stderr, .. }) => {
                    if stream == Stream::Stdout {
                        *stdout
                    } else {
                        *stderr
                    }
                }
                _ => false,
            };
            if wanted {
                let frame = frame.get_or_insert_with(|| match stream {
                    Stream::Stdout => Frame::Output(bytes.to_vec()).encode(),
                    Stream::Stderr => Frame::ErrorOutput(bytes.to_vec()).encode(),
                });
                self.push(client, frame, vec![]);
            }
        }
        if frame.is_some() {
            self.resume_output(id);
        }
    }

    /// Stops or goes on reading a container's output, by how much its attached clients still have to take.
    pub(super) fn resume_output(&mut self, id: &str) {
        let behind = self
            .attached_to(id)
            .into_iter()
            .any(|client| self.clients.get(&client).is_some_and(|connection| connection.unsent() > FULL));
        if let Some(container) = self.containers.get_mut(id) {
            container.io.watch_outputs(&mut self.poller, behind);
        }
    }

    fn attached_to(&self, id: &str) -> Vec<u64> {
        let joined = |role: &Role| matches!(role, Role::Attached { container, .. } if container == id);
        self.clients.iter().filter(|(_, client)| joined(&client.role)).map(|(token, _)| *token).collect()
    }

    pub(super) fn attach(
        &mut self,
        client: u64,
        id: String,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> Result<(), Failure> {
        let container = self.containers.get(&id).ok_or_else(|| Failure::NoContainer(id.clone()))?;
        container.leader().ok_or_else(|| Failure::NotRunning(id.clone()))?;
        let tty = container.io.terminal;
        let stdin = stdin && container.io.input.is_some();
        if let Some(connection) = self.clients.get_mut(&client) {
            connection.role = Role::Attached { container: id, stdin, stdout, stderr };
        }
        self.send(client, &Reply::Attached { tty }, vec![]);
        Ok(())
    }

    /// An attached client has sent something.
    pub(super) fn read_frames(&mut self, client: u64) {
        loop {
            let Some(connection) = self.clients.get_mut(&client) else { return };
            let Role::Attached { container: id, stdin, .. } = &connection.role else { return };
            let (id, stdin) = (id.clone(), *stdin);
            let frame = match Frame::decode(&mut connection.inbox) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(_) => return self.disconnect(client),
            };
            let Some(container) = self.containers.get_mut(&id) else { continue };
            match frame {
                Frame::Input(bytes) if stdin && container.io.input.is_some() => {
                    container.io.pending_input.extend(bytes);
                    self.write_input(&id);
                }
                Frame::InputEnd if stdin => self.end_input(&id),
                Frame::Resize(size) => {
                    if let Some(terminal) = container.io.outputs[0].as_ref().filter(|_| container.io.terminal)
                    {
                        // A terminal that has just gone needs no size.
                        let _ = pty::resize(&terminal.fd, size);
                    }
                }
                _ => {}
            }
        }
        self.update_interest(client);
    }

    /// Gives the container what input it takes.
    pub(super) fn write_input(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let io = &mut container.io;
        let was_full = io.input_is_full();
        let Some(input) = &io.input else { return };
        while !io.pending_input.is_empty() {
            match rustix::io::write(&input.fd, &io.pending_input) {
                Ok(count) => drop(io.pending_input.drain(..count)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                // The container has closed its input.
                Err(_) => return self.close_input(id),
            }
        }
        let interest = if io.pending_input.is_empty() { EpollFlags::empty() } else { EpollFlags::EPOLLOUT };
        self.poller.change(input.token, &input.fd, interest);
        if io.input_ending && io.pending_input.is_empty() {
            io.close_input(&mut self.poller);
        }
        if was_full {
            self.attached_to(id).into_iter().for_each(|client| self.update_interest(client));
        }
    }

    /// Closes a container's input for good, with what is pending.
    pub(super) fn close_input(&mut self, id: &str) {
        if let Some(container) = self.containers.get_mut(id) {
            container.io.close_input(&mut self.poller);
        }
        self.attached_to(id).into_iter().for_each(|client| self.update_interest(client));
    }

    /// The client that had a container's input sends no more: where it is the only one, input ends after what is
    /// pending. A terminal has no end of input but the character that its user types; closing it would hang it up,
    /// so it waits for the next client (as in containerd).
    fn end_input(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.config.stdin == Stdin::Once && !container.io.terminal {
            container.io.input_ending = true;
            self.write_input(id);
        }
    }

    /// An attached client has left.
    pub(super) fn detached(&mut self, id: &str, stdin: bool) {
        if stdin {
            self.end_input(id);
        }
        self.resume_output(id);
    }

    /// Tells attached clients that the container has ended.
    pub(super) fn end_attached(&mut self, id: &str, exit: Option<Exit>) {
        for client in self.attached_to(id) {
            if let Some(connection) = self.clients.get_mut(&client) {
                connection.closing = true;
            }
            self.push(client, &Frame::Exit(exit).encode(), vec![]);
        }
    }
}
