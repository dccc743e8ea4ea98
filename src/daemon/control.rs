//! The socket on which the command line asks a running daemon for its state, or to stop.
//!
//! One request and one answer a connection, each a line of JSON. The socket's directory is root's alone.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

use super::running::DRAIN_LIMIT;
use crate::sys::socket;

/// How long a daemon may take to say how it is.
const STATUS_LIMIT: Duration = Duration::from_secs(5);
/// After a connection could not be taken, as when descriptors have run out.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// How are you?
    Status,
    /// How are you, once you are ready?
    Ready,
    /// End all pods, then yourself; answered by an [`End`] when that is done.
    Stop {
        /// How long containers get to end by themselves, in seconds.
        grace: u64,
    },
}

/// How a daemon is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Its process id.
    pub pid: u32,
    /// The port of the API server.
    pub apiserver_port: u16,
    /// Where pods reach it, and the node's own address.
    pub node_address: String,
    /// The node's name.
    pub node_name: String,
    /// Whether the kubelet runs.
    pub kubelet: bool,
    /// Whether the node was Ready and DNS answered.
    pub ready: bool,
}

/// What a daemon says when it has stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// What did not end, or could not be removed.
    pub failures: Vec<String>,
}

/// A request to stop, to be answered.
#[derive(Debug)]
pub struct Stop {
    /// How long containers get.
    pub grace: Duration,
    stream: UnixStream,
}

impl Stop {
    /// Says that it is done. Who no longer listens need not know.
    pub async fn done(mut self, end: &End) {
        let answer = write(&mut self.stream, end);
        let _ = tokio::time::timeout(STATUS_LIMIT, answer).await;
    }
}

/// What came of asking a daemon to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// None listens.
    NoDaemon,
    /// It did, and its process has ended or is about to.
    Done {
        /// Which process.
        pid: i32,
        /// What it said.
        end: End,
    },
    /// It did not say so: it died, or does not answer.
    Lost {
        /// Which process.
        pid: i32,
    },
}

/// Answers requests until dropped; those to stop are handed on.
pub async fn serve(listener: UnixListener, state: watch::Receiver<State>, stop: mpsc::Sender<Stop>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(answer(stream, state.clone(), stop.clone()))),
            Err(error) => {
                tracing::warn!(%error, "a connection of the command line was not taken");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn answer(
    mut stream: UnixStream,
    mut state: watch::Receiver<State>,
    stop: mpsc::Sender<Stop>,
) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(&mut stream).read_line(&mut line).await?;
    match serde_json::from_str(&line) {
        Ok(Request::Status) => {
            let state = state.borrow().clone();
            write(&mut stream, &state).await
        }
        Ok(Request::Ready) => {
            let state = state.wait_for(|state| state.ready).await.map_err(io::Error::other)?.clone();
            write(&mut stream, &state).await
        }
        Ok(Request::Stop { grace }) => {
            let stop = stop.send(Stop { grace: Duration::from_secs(grace), stream }).await;
            stop.map_err(|_| io::ErrorKind::BrokenPipe.into())
        }
        Err(error) => write(&mut stream, &error.to_string()).await,
    }
}

async fn write<T: Serialize>(stream: &mut UnixStream, value: &T) -> io::Result<()> {
    let mut text = serde_json::to_string(value)?;
    text.push('\n');
    stream.write_all(text.as_bytes()).await
}

/// Asks the daemon behind a socket how it is; `None` when none listens.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] with the process when it does not answer.
pub async fn status(socket: &Path) -> io::Result<Option<State>> {
    ask(socket, Request::Status, STATUS_LIMIT).await
}

/// As [`status`], once the daemon is ready.
pub async fn ready(socket: &Path, limit: Duration) -> io::Result<Option<State>> {
    ask(socket, Request::Ready, limit).await
}

async fn ask(socket: &Path, request: Request, limit: Duration) -> io::Result<Option<State>> {
    let Some((mut stream, pid)) = connect(socket).await? else { return Ok(None) };
    let exchange = async {
        write(&mut stream, &request).await?;
        let mut line = String::new();
        BufReader::new(&mut stream).read_line(&mut line).await?;
        serde_json::from_str(&line).map(Some).map_err(|error| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the daemon (pid {pid}) answered {line:?}: {error}"),
            )
        })
    };
    tokio::time::timeout(limit, exchange).await.unwrap_or_else(|_| {
        let message = format!("the daemon (pid {pid}) did not answer for {} s", limit.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    })
}

/// Asks the daemon to stop, whose containers get `grace` to end by themselves, and waits until it says that it has.
pub async fn stop(socket: &Path, grace: Duration) -> io::Result<Stopped> {
    stop_within(socket, grace, grace + DRAIN_LIMIT).await
}

async fn stop_within(socket: &Path, grace: Duration, limit: Duration) -> io::Result<Stopped> {
    let Some((mut stream, pid)) = connect(socket).await? else { return Ok(Stopped::NoDaemon) };
    let exchange = async {
        write(&mut stream, &Request::Stop { grace: grace.as_secs() }).await?;
        let mut line = String::new();
        BufReader::new(&mut stream).read_line(&mut line).await?;
        Ok::<End, io::Error>(serde_json::from_str(&line)?)
    };
    Ok(match tokio::time::timeout(limit, exchange).await {
        Ok(Ok(end)) => Stopped::Done { pid, end },
        _ => Stopped::Lost { pid },
    })
}

/// Connects to a daemon and answers its process id; `None` when none listens.
async fn connect(socket: &Path) -> io::Result<Option<(UnixStream, i32)>> {
    match UnixStream::connect(socket).await {
        Ok(stream) => {
            let pid = socket::peer_pid(&stream)?;
            Ok(Some((stream, pid)))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(ready: bool) -> State {
        State {
            pid: 7,
            apiserver_port: 8443,
            node_address: "10.0.0.1".into(),
            node_name: "n".into(),
            kubelet: true,
            ready,
        }
    }

    #[tokio::test]
    async fn state_is_told_and_stop_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        assert_eq!(status(&socket).await.unwrap(), None);
        assert_eq!(stop(&socket, Duration::ZERO).await.unwrap(), Stopped::NoDaemon);
        let listener = UnixListener::bind(&socket).unwrap();
        let (states, shown) = watch::channel(state(false));
        let (sender, mut stops) = mpsc::channel(1);
        let server = tokio::spawn(serve(listener, shown, sender));
        assert_eq!(status(&socket).await.unwrap(), Some(state(false)));
        let late = ready(&socket, Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        states.send_replace(state(true));
        assert_eq!(ready(&socket, Duration::from_secs(20)).await.unwrap(), Some(state(true)));

        let ask = |grace| {
            let socket = socket.clone();
            tokio::spawn(async move { stop(&socket, grace).await })
        };
        let asking = ask(Duration::from_secs(7));
        let request = stops.recv().await.unwrap();
        assert_eq!(request.grace, Duration::from_secs(7));
        assert!(!asking.is_finished());
        let end = End { failures: vec!["x".into()] };
        request.done(&end).await;
        let pid = std::process::id() as i32;
        assert_eq!(asking.await.unwrap().unwrap(), Stopped::Done { pid, end });
        // One that goes away without a word has not stopped.
        let asking = ask(Duration::ZERO);
        drop(stops.recv().await.unwrap());
        assert_eq!(asking.await.unwrap().unwrap(), Stopped::Lost { pid });
        server.abort();
    }

    #[tokio::test]
    async fn a_daemon_that_is_wedged_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let _listener = UnixListener::bind(&socket).unwrap();
        let answer = ask(&socket, Request::Status, Duration::from_millis(20)).await;
        assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let pid = std::process::id() as i32;
        let stopped = stop_within(&socket, Duration::ZERO, Duration::from_millis(20)).await;
        assert_eq!(stopped.unwrap(), Stopped::Lost { pid });
    }
}
