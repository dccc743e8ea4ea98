//! How a running process is talked to: its standard streams, its window, its end.
//!
//! The runtime makes sessions, the API server's streaming protocols consume them; neither knows the other.

use std::fmt;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

/// The reading end of a process's output.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// The writing end of a process's input; dropping it (after `shutdown`) is end of file for the process.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// A byte stream in both directions, such as a connection to a port of a pod.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The size of a terminal window in character cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Width.
    pub columns: u16,
    /// Height.
    pub rows: u16,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Exit {
    /// It called `exit` with this status (0..=255).
    Code(i32),
    /// A signal of this number ended it.
    Signal(i32),
}

impl Exit {
    /// The status a shell would report: the code itself, or 128 plus the signal number.
    pub fn shell_code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit status {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// A conversation with one process, either started for it (exec) or joined later (attach).
///
/// With a terminal, `stdout` carries everything and `stderr` is `None`. Dropping the session closes the
/// streams; an exec'd process then gets a hang-up, an attached one goes on.
pub struct Session {
    /// Present when input was asked for.
    pub stdin: Option<Writer>,
    /// Present when output was asked for.
    pub stdout: Option<Reader>,
    /// Present when error output was asked for and there is no terminal.
    pub stderr: Option<Reader>,
    /// Present when there is a terminal: the newest size wins.
    pub resize: Option<mpsc::Sender<WindowSize>>,
    /// Resolves when the process has ended; a dropped sender means that its end could not be learned.
    pub exit: oneshot::Receiver<Exit>,
}
