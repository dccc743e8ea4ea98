//! The socket on which the command line asks a running daemon for its state, or to stop.
//!
//! One request and one answer a connection, each a line of JSON. The socket's directory is root's alone.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// How are you?
    Status,
    /// End all pods, then yourself; the connection closes when that is done.
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
    /// Whether the node was Ready and DNS answered.
    pub ready: bool,
}

/// Answers requests until dropped.
pub async fn serve(
    listener: UnixListener,
    state: watch::Receiver<State>,
    stop: watch::Sender<Option<Duration>>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(answer(stream, state.clone(), stop.clone()));
    }
}

async fn answer(
    stream: UnixStream,
    state: watch::Receiver<State>,
    stop: watch::Sender<Option<Duration>>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    match serde_json::from_str(&line) {
        Ok(Request::Status) => {
            let mut text = serde_json::to_string(&*state.borrow())?;
            text.push('\n');
            stream.write_all(text.as_bytes()).await
        }
        Ok(Request::Stop { grace }) => {
            stop.send_replace(Some(Duration::from_secs(grace)));
            // The kernel closes the connection with the process: that is the answer.
            std::future::pending().await
        }
        Err(error) => stream.write_all(format!("{error}\n").as_bytes()).await,
    }
}

/// Asks the daemon behind a socket how it is; `None` when none listens.
pub async fn status(socket: &Path) -> io::Result<Option<State>> {
    let Some(mut stream) = connect(socket).await? else { return Ok(None) };
    send(&mut stream, Request::Status).await?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    serde_json::from_str(&line).map(Some).map_err(io::Error::other)
}

/// Asks the daemon to stop, whose containers get `grace` to end by themselves, and waits until it has; `false` when
/// none listens.
pub async fn stop(socket: &Path, grace: Duration) -> io::Result<bool> {
    let Some(mut stream) = connect(socket).await? else { return Ok(false) };
    send(&mut stream, Request::Stop { grace: grace.as_secs() }).await?;
    let mut line = String::new();
    match BufReader::new(stream).read_line(&mut line).await {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
        _ => Ok(true),
    }
}

async fn connect(socket: &Path) -> io::Result<Option<UnixStream>> {
    match UnixStream::connect(socket).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn send(stream: &mut UnixStream, request: Request) -> io::Result<()> {
    let mut text = serde_json::to_string(&request)?;
    text.push('\n');
    stream.write_all(text.as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn state_is_told_and_stop_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        assert_eq!(status(&socket).await.unwrap(), None);
        let listener = UnixListener::bind(&socket).unwrap();
        let now = State {
            pid: 7,
            apiserver_port: 8443,
            node_address: "10.0.0.1".into(),
            node_name: "n".into(),
            ready: true,
        };
        let (_keep, state) = watch::channel(now.clone());
        let (stop_sender, mut stopped) = watch::channel(None);
        let server = tokio::spawn(serve(listener, state, stop_sender));
        assert_eq!(status(&socket).await.unwrap(), Some(now));
        let asking = tokio::spawn({
            let socket = socket.clone();
            async move { stop(&socket, Duration::from_secs(7)).await }
        });
        assert_eq!(*stopped.wait_for(Option::is_some).await.unwrap(), Some(Duration::from_secs(7)));
        assert!(!asking.is_finished());
        asking.abort();
        server.abort();
    }
}
