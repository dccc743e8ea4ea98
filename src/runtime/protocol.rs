//! What the daemon and the supervisor say to each other: one connection for each operation, over a Unix socket.
//!
//! A message is a little-endian `u32` length and that many bytes of JSON; descriptors travel with the first byte
//! (`SCM_RIGHTS`). The daemon sends one [`Request`], the supervisor answers with one [`Reply`]. Then, by operation:
//!
//! - [`Call::Events`]: any number of [`Changed`], until either side leaves;
//! - [`Call::Exec`]: one [`Exit`], when the process ends;
//! - [`Call::Attach`]: [`Frame`]s both ways.
//!
//! # Compatibility
//!
//! A daemon that was replaced by a newer (or older) one finds the supervisor of before it, which keeps the containers,
//! and both go on in the newest version that both know ([`agree`]). So that this works:
//!
//! - A field that is added to a message, or to what a message or record holds, has `#[serde(default)]`, and its
//!   default means what its absence meant. Unknown fields are passed over.
//! - A call, reply, failure, frame or variant that is added raises [`NEWEST`], and is not sent in an older version.
//! - What cannot be said that way (a field that must be understood, a meaning that changes) raises [`OLDEST`] too:
//!   then the cluster must be stopped to be upgraded.
//! - [`Call::Hello`] and [`Call::Shutdown`] never change, and are served in any version.

use std::io;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::{Changed, ContainerConfig, Error, ExecConfig, Observed, SandboxConfig};
use crate::stdio::{Exit, WindowSize};

/// The newest version that this program speaks.
pub const NEWEST: u32 = 3;
/// The version that brought [`Call::ObserveLabelled`].
pub const LABELLED: u32 = 2;
/// The version that brought devices of containers: whoever speaks an older one would pass over them.
pub const DEVICES: u32 = 3;
/// The oldest version that this program speaks.
pub const OLDEST: u32 = 1;
/// The longest message, in bytes: an environment may be long, but not endless.
pub const MAX_MESSAGE: usize = 16 << 20;
/// The longest frame of an attached stream, in bytes.
pub const MAX_FRAME: usize = 64 << 10;
/// The socket's name in the run directory.
pub const SOCKET: &str = "supervisor.sock";

/// What the daemon asks for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// In which version it is, and the answer shall be.
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
    /// As in the trait; answered with [`Reply::Observed`].
    ObserveLabelled {
        /// The label's key.
        label: String,
        /// Its value.
        value: String,
    },
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
        /// The newest version that the supervisor speaks.
        version: u32,
        /// The oldest; a supervisor that does not say so speaks the newest only.
        #[serde(default)]
        oldest: Option<u32>,
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

/// The newest version that this program and a supervisor speak, which offers `oldest` to `newest`.
pub fn agree(oldest: Option<u32>, newest: u32) -> Option<u32> {
    common(OLDEST..=NEWEST, oldest.unwrap_or(newest)..=newest)
}

fn common(ours: RangeInclusive<u32>, theirs: RangeInclusive<u32>) -> Option<u32> {
    let newest = *ours.end().min(theirs.end());
    (newest >= *ours.start().max(theirs.start())).then_some(newest)
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
        let mut bytes = encode(&Request { version: NEWEST, call: Call::Remove("x".into()) }).unwrap();
        bytes.push(9);
        assert!(
            matches!(decode::<Request>(&mut bytes), Ok(Some(Request { call: Call::Remove(id), .. })) if id == "x")
        );
        assert_eq!(bytes, [9]);
        assert!(decode::<Request>(&mut u32::MAX.to_le_bytes().to_vec()).is_err());
        assert!(Frame::decode(&mut vec![0, 255, 255, 255, 255]).is_err());
        assert!(Frame::decode(&mut vec![9, 0, 0, 0, 0]).is_err());
    }
    #[test]
    fn the_newest_common_version_is_spoken() {
        for (ours, theirs, expected) in [
            (1..=1, 1..=1, Some(1)),
            (1..=3, 2..=2, Some(2)),
            (2..=3, 1..=5, Some(3)),
            (2..=3, 3..=4, Some(3)),
            (2..=3, 1..=1, None),
            (1..=1, 2..=2, None),
        ] {
            assert_eq!(common(ours.clone(), theirs.clone()), expected, "{ours:?} {theirs:?}");
        }
        assert_eq!(agree(None, NEWEST), Some(NEWEST));
        assert_eq!(agree(Some(OLDEST), NEWEST + 7), Some(NEWEST));
        assert_eq!(agree(Some(NEWEST + 1), NEWEST + 7), None);
    }

    /// Version 1 on the wire, as supervisors and daemons that run somewhere say and understand it, with fields that
    /// none of them knows. Lines are added here, never changed.
    #[test]
    fn what_version_1_says_is_understood() {
        let config = r#"{"id":"c","sandbox":"s","labels":{},"layers":["/l"],"read_only_root":false,"mounts":[
            {"target":"/a","source":{"Bind":"/h"},"read_only":true,"propagation":"Private","later":1},
            {"target":"/b","source":{"SubPath":{"base":"/h","path":"x"}},"read_only":true,"propagation":"HostToContainer"},
            {"target":"/c","source":{"Tmpfs":{"size":null,"mode":511}},"read_only":true,"propagation":"Bidirectional"}],
            "process":{"args":["a"],"env":[],"cwd":"","uid":0,"gid":0,"groups":[],"tty":false},
            "security":{"privileged":false,"capabilities":[],"seccomp":"Default","no_new_privileges":false,
            "unmasked_proc":false,"oom_score_adj":0},
            "resources":{"cpu_shares":null,"cpu_quota":null,"memory_limit":1,"pids_limit":null},"stdin":"Once",
            "log":{"path":"/l","max_bytes":1,"max_files":1},"termination_message":["/h","/t"],"later":{}}"#;
        let sandbox = r#"{"id":"s","labels":{},"hostname":null,"pid":"PerContainer","network":{"Namespace":"/n"},
            "host_ipc":false,"sysctls":{},"resources":{},"later":[]}"#;
        for call in [
            r#""Hello""#.to_owned(),
            format!(r#"{{"EnsureSandbox":{sandbox}}}"#),
            format!(r#"{{"Start":{config}}}"#),
            r#"{"Signal":{"container":"c","signal":15,"later":1}}"#.to_owned(),
            r#"{"Remove":"c"}"#.to_owned(),
            r#"{"RemoveSandbox":"s"}"#.to_owned(),
            r#""Observe""#.to_owned(),
            r#"{"ObserveLabelled":{"label":"l","value":"v","later":1}}"#.to_owned(),
            r#""Events""#.to_owned(),
            r#"{"Exec":{"container":"c","process":{"args":["a"],"tty":true},"stdin":true,"stdout":true,"stderr":false}}"#
                .to_owned(),
            r#"{"Attach":{"container":"c","stdin":true,"stdout":true,"stderr":true}}"#.to_owned(),
            r#"{"Network":"s"}"#.to_owned(),
            r#""Shutdown""#.to_owned(),
        ] {
            let request = format!(r#"{{"version":1,"call":{call},"later":0}}"#);
            serde_json::from_str::<Request>(&request).unwrap_or_else(|error| panic!("{request}: {error}"));
        }
        let time = r#"{"secs_since_epoch":1,"nanos_since_epoch":0}"#;
        let exited = format!(
            r#"{{"Exited":{{"started":{time},"finished":{time},"exit":{{"Signal":9}},"oom_killed":true,"later":1}}}}"#
        );
        let running = format!(r#"{{"Running":{{"started":{time},"pid":7}}}}"#);
        let status = |state: &str| format!(r#"{{"id":"c","sandbox":"s","labels":{{}},"state":{state}}}"#);
        for reply in [
            r#"{"Hello":{"version":1,"pid":7}}"#.to_owned(),
            r#""Done""#.to_owned(),
            r#"{"Attached":{"tty":true}}"#.to_owned(),
            format!(
                r#"{{"Observed":{{"sandboxes":[{{"id":"s","labels":{{}},"network":"Host","alive":true}}],
                "containers":[{},{}],"later":1}}}}"#,
                status(&exited),
                status(&running)
            ),
            r#"{"Failed":{"NoSandbox":"s"}}"#.to_owned(),
            r#"{"Failed":{"NoContainer":"c"}}"#.to_owned(),
            r#"{"Failed":{"NotRunning":"c"}}"#.to_owned(),
            r#"{"Failed":{"Start":"text"}}"#.to_owned(),
            r#"{"Failed":{"Host":{"what":"a","reason":"b"}}}"#.to_owned(),
            r#"{"Failed":{"Protocol":"text"}}"#.to_owned(),
        ] {
            serde_json::from_str::<Reply>(&reply).unwrap_or_else(|error| panic!("{reply}: {error}"));
        }
        serde_json::from_str::<Changed>(r#"{"sandbox":"s","later":1}"#).unwrap();
        assert_eq!(serde_json::from_str::<Exit>(r#"{"Code":3}"#).unwrap(), Exit::Code(3));
    }
}
