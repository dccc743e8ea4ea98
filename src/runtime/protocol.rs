//! What the daemon and the supervisor say to each other: one connection for each operation, over a Unix socket.
//!
//! A message is a little-endian `u32` length and that many bytes of JSON; descriptors travel with the first byte
//! (`SCM_RIGHTS`). The daemon sends one [`Request`], the supervisor answers with one [`Reply`]. Then, by operation:
//!
//! - [`Call::Events`]: any number of [`Changed`], until either side leaves;
//! - [`Call::Exec`]: one [`Exit`], when the process ends;
//! - [`Call::Attach`]: [`Frame`]s both ways.

use std::io;

use serde::{Deserialize, Serialize};

use super::{Changed, ContainerConfig, Error, ExecConfig, Observed, SandboxConfig};
use crate::stdio::{Exit, WindowSize};

/// The version both sides must speak.
pub const VERSION: u32 = 1;
/// The longest message, in bytes: an environment may be long, but not endless.
pub const MAX_MESSAGE: usize = 16 << 20;
/// The longest frame of an attached stream, in bytes.
pub const MAX_FRAME: usize = 64 << 10;
/// The socket's name in the run directory.
pub const SOCKET: &str = "supervisor.sock";

/// What the daemon asks for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// The operation.
    pub call: Call,
}

/// An operation.
#[derive(Debug, Serialize, Deserialize)]
pub enum Call {
    /// Answered with [`Reply::Hello`].
    Hello,
    /// As in the trait.
    EnsureSandbox(Box<SandboxConfig>),
    /// As in the trait.
    Start(Box<ContainerConfig>),
    /// As in the trait.
    Signal {
        /// Which.
        container: String,
        /// Its number.
        signal: i32,
    },
    /// As in the trait.
    Remove(String),
    /// As in the trait.
    RemoveSandbox(String),
    /// Answered with [`Reply::Observed`].
    Observe,
    /// Answered with [`Reply::Observed`], then changes.
    Events,
    /// With it come the process's ends of standard input, output and error, as far as asked for and without a
    /// terminal. Answered, with the terminal's master when there is one, when the program runs.
    Exec(ExecConfig),
    /// Joins a container's streams.
    Attach {
        /// Which.
        container: String,
        /// The daemon will send input.
        stdin: bool,
        /// The daemon wants output.
        stdout: bool,
        /// The daemon wants error output.
        stderr: bool,
    },
    /// Answered with the descriptor of a sandbox's network namespace.
    Network(String),
    /// Ends every container and sandbox, then the supervisor.
    Shutdown,
}

/// The supervisor's answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Who is there.
    Hello {
        /// The supervisor's protocol.
        version: u32,
        /// Its process id.
        pid: i32,
    },
    /// It is so.
    Done,
    /// Attached; whether the container has a terminal.
    Attached {
        /// Has one.
        tty: bool,
    },
    /// Everything there is.
    Observed(Observed),
    /// It could not be done.
    Failed(Failure),
}

/// [`Error`] in a form that can be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// [`Error::NoSandbox`].
    NoSandbox(String),
    /// [`Error::NoContainer`].
    NoContainer(String),
    /// [`Error::NotRunning`].
    NotRunning(String),
    /// [`Error::Start`].
    Start(String),
    /// [`Error::Host`].
    Host {
        /// What was tried.
        what: String,
        /// What the kernel said.
        reason: String,
    },
    /// [`Error::Supervisor`].
    Protocol(String),
}

impl Failure {
    /// Something of the host failed.
    pub fn host(what: impl Into<String>, error: &io::Error) -> Failure {
        Failure::Host { what: what.into(), reason: error.to_string() }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::NoSandbox(id) => Error::NoSandbox(id),
            Failure::NoContainer(id) => Error::NoContainer(id),
            Failure::NotRunning(id) => Error::NotRunning(id),
            Failure::Start(message) => Error::Start(message),
            Failure::Host { what, reason } => Error::Host { what, source: io::Error::other(reason) },
            Failure::Protocol(message) => Error::Supervisor(message),
        }
    }
}

/// A piece of an attached stream: a kind byte, a little-endian `u32` length, that many bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// To the container.
    Input(Vec<u8>),
    /// The client will send no more input.
    InputEnd,
    /// The client's window.
    Resize(WindowSize),
    /// From the container.
    Output(Vec<u8>),
    /// From the container.
    ErrorOutput(Vec<u8>),
    /// The container ended; nothing follows. `None` when nobody saw how.
    Exit(Option<Exit>),
}

/// The bytes before a frame's content.
const FRAME_HEADER: usize = 5;

impl Frame {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, content) = match self {
            Frame::Input(bytes) => (0, bytes.clone()),
            Frame::InputEnd => (1, vec![]),
            Frame::Resize(size) => (2, [size.columns.to_le_bytes(), size.rows.to_le_bytes()].concat()),
            Frame::Output(bytes) => (3, bytes.clone()),
            Frame::ErrorOutput(bytes) => (4, bytes.clone()),
            Frame::Exit(exit) => (5, serde_json::to_vec(exit).unwrap_or_default()),
        };
        let mut frame = vec![kind];
        frame.extend((content.len() as u32).to_le_bytes());
        frame.extend(content);
        frame
    }

    /// Takes the first frame off a buffer; `None` when it is not complete yet.
    pub fn decode(buffer: &mut Vec<u8>) -> io::Result<Option<Frame>> {
        let Some((header, _)) = buffer.split_first_chunk::<FRAME_HEADER>() else { return Ok(None) };
        let [kind, length @ ..] = *header;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_FRAME {
            return Err(io::Error::other(format!("frame of {length} bytes")));
        }
        if buffer.len() < FRAME_HEADER + length {
            return Ok(None);
        }
        let content: Vec<u8> = buffer.drain(..FRAME_HEADER + length).skip(FRAME_HEADER).collect();
        let frame = match (kind, content.as_slice()) {
            (0, _) => Frame::Input(content),
            (1, []) => Frame::InputEnd,
            (2, &[a, b, c, d]) => Frame::Resize(WindowSize {
                columns: u16::from_le_bytes([a, b]),
                rows: u16::from_le_bytes([c, d]),
            }),
            (3, _) => Frame::Output(content),
            (4, _) => Frame::ErrorOutput(content),
            (5, _) => Frame::Exit(serde_json::from_slice(&content)?),
            _ => return Err(io::Error::other(format!("frame of unknown kind {kind}"))),
        };
        Ok(Some(frame))
    }
}

/// A message as bytes: its length, then JSON.
pub fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    if length > MAX_MESSAGE {
        return Err(io::Error::other(format!("message of {length} bytes is too long")));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(bytes)
}

/// Takes the first message off a buffer; `None` when it is not complete yet.
pub fn decode<T: for<'de> Deserialize<'de>>(buffer: &mut Vec<u8>) -> io::Result<Option<T>> {
    let Some((length, _)) = buffer.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_MESSAGE {
        return Err(io::Error::other(format!("message of {length} bytes is too long")));
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    let message = serde_json::from_slice(&buffer[4..4 + length])?;
    buffer.drain(..4 + length);
    Ok(Some(message))
}

/// What follows an answer to [`Call::Events`].
pub type Event = Changed;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_from_any_cut() {
        let frames = [
            Frame::Input(b"abc".to_vec()),
            Frame::InputEnd,
            Frame::Resize(WindowSize { columns: 80, rows: 24 }),
            Frame::Output(vec![]),
            Frame::ErrorOutput(vec![7; 300]),
            Frame::Exit(Some(Exit::Signal(9))),
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let (mut buffer, mut seen) = (Vec::new(), Vec::new());
        for byte in bytes {
            buffer.push(byte);
            seen.extend(Frame::decode(&mut buffer).unwrap());
        }
        assert_eq!(seen, frames);
    }

    #[test]
    fn messages_are_limited() {
        let mut bytes = encode(&Request { version: VERSION, call: Call::Remove("x".into()) }).unwrap();
        bytes.push(9);
        assert!(
            matches!(decode::<Request>(&mut bytes), Ok(Some(Request { call: Call::Remove(id), .. })) if id == "x")
        );
        assert_eq!(bytes, [9]);
        assert!(decode::<Request>(&mut u32::MAX.to_le_bytes().to_vec()).is_err());
        assert!(Frame::decode(&mut vec![0, 255, 255, 255, 255]).is_err());
        assert!(Frame::decode(&mut vec![9, 0, 0, 0, 0]).is_err());
    }
}
