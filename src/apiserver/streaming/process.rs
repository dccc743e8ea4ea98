//! A conversation between a client and a process: its streams, its window, and how it ended.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::pipe::{self, Inlet, Outlet};
use crate::api::status::Status;
use crate::stdio::{Exit, Reader, Session, WindowSize};

/// How long output may be silent after the end of the process: a child in the background may hold it open.
const LINGER: Duration = Duration::from_secs(2);
/// The most bytes of an unfinished window size.
const SIZE_BYTES: usize = 1024;

/// The client's side of the conversation.
pub struct Streams {
    /// To the process's standard input.
    pub stdin: Option<Inlet>,
    /// From its standard output.
    pub stdout: Option<Outlet>,
    /// From its standard error.
    pub stderr: Option<Outlet>,
    /// How it ended.
    pub error: Option<Outlet>,
    /// Window sizes, as JSON documents.
    pub resize: Option<Inlet>,
    /// The way failures are told.
    pub form: ErrorForm,
}

/// What stands on the error stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorForm {
    /// A message when something failed (protocols before `v4`).
    Text,
    /// A `Status` in any case.
    Status,
}

/// Whether the process was started for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// It was, with this command: its exit code is the answer.
    Exec(Vec<String>),
    /// It was there before.
    Attach,
}

/// Runs the conversation until the process has ended and all output is sent, or the client is gone.
pub async fn converse(
    session: Result<Session, Status>,
    purpose: &Purpose,
    mut streams: Streams,
    gone: &CancellationToken,
) {
    let error = streams.error.take();
    let form = streams.form;
    let outcome = match session {
        Ok(session) => tokio::select! {
            outcome = run(session, purpose, streams) => outcome,
            () = gone.cancelled() => return,
        },
        Err(status) => failure(&status),
    };
    if let (Some(error), Some(bytes)) = (error, told(&outcome, form)) {
        // A client that is gone does not want to know.
        let _ = error.send(bytes).await;
    }
}

async fn run(mut session: Session, purpose: &Purpose, streams: Streams) -> Value {
    let ended = CancellationToken::new();
    let input = async {
        if let (Some(stdin), Some(mut inlet)) = (session.stdin.take(), streams.stdin) {
            // A process need not read what it is sent.
            let _ = pipe::write_all(&mut inlet, stdin).await;
        }
        std::future::pending::<()>().await;
    };
    let sizes = async {
        if let (Some(window), Some(inlet)) = (session.resize.take(), streams.resize) {
            resize(inlet, window).await;
        }
        std::future::pending::<()>().await;
    };
    let exit = async {
        let exit = (&mut session.exit).await;
        ended.cancel();
        exit.ok()
    };
    let outputs = async {
        let stdout = output(session.stdout.take(), streams.stdout, &ended);
        let stderr = output(session.stderr.take(), streams.stderr, &ended);
        tokio::join!(exit, stdout, stderr).0
    };
    let exit = tokio::select! {
        exit = outputs => exit,
        () = input => None,
        () = sizes => None,
    };
    outcome(exit, purpose)
}

async fn output(from: Option<Reader>, to: Option<Outlet>, ended: &CancellationToken) {
    let Some(mut from) = from else { return };
    let Some(to) = to else {
        // Nobody listens, but the process must be able to write.
        let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
        return;
    };
    loop {
        let mut piece = bytes::BytesMut::with_capacity(32 << 10);
        let read = tokio::select! {
            biased;
            read = tokio::io::AsyncReadExt::read_buf(&mut from, &mut piece) => read,
            () = silent(ended) => return,
        };
        match read {
            Ok(count) if count > 0 => {
                if to.send(piece.freeze()).await.is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}

/// Resolves when the process has ended and nothing came for a while.
async fn silent(ended: &CancellationToken) {
    ended.cancelled().await;
    tokio::time::sleep(LINGER).await;
}

/// A terminal size as clients write it.
#[derive(Debug, Deserialize)]
struct Size {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
}

async fn resize(mut inlet: Inlet, window: mpsc::Sender<WindowSize>) {
    let mut buffer = Vec::new();
    while let Some(bytes) = inlet.recv().await {
        buffer.extend_from_slice(&bytes);
        for size in sizes(&mut buffer) {
            if window.send(size).await.is_err() {
                return;
            }
        }
    }
}

/// Takes the whole sizes from the buffer; zero is no size, and what is no JSON is thrown away.
fn sizes(buffer: &mut Vec<u8>) -> Vec<WindowSize> {
    let mut found = Vec::new();
    let mut documents = serde_json::Deserializer::from_slice(buffer).into_iter::<Size>();
    let mut used = 0;
    while let Some(document) = documents.next() {
        match document {
            Ok(size) if size.width > 0 && size.height > 0 => {
                found.push(WindowSize { columns: size.width, rows: size.height });
            }
            Ok(_) => {}
            Err(error) if error.is_eof() => break,
            Err(_) => {
                used = buffer.len();
                break;
            }
        }
        used = documents.byte_offset();
    }
    buffer.drain(..used);
    if buffer.len() > SIZE_BYTES {
        buffer.clear();
    }
    found
}

/// The `Status` of how a process ended, in the words of the kubelet (pkg/kubelet server/remotecommand).
fn outcome(exit: Option<Exit>, purpose: &Purpose) -> Value {
    let success = json!({"metadata": {}, "status": "Success"});
    let Purpose::Exec(command) = purpose else { return success };
    match exit.map(Exit::shell_code) {
        Some(0) => success,
        Some(code) => {
            let cause = format!("error executing command {command:?}, exit code {code}");
            json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": format!("command terminated with non-zero exit code: {cause}"),
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}})
        }
        None => failure(&Status::internal(format!(
            "error executing command in container: the end of {command:?} could not be learned"
        ))),
    }
}

fn failure(status: &Status) -> Value {
    serde_json::to_value(status).unwrap_or_default()
}

fn told(outcome: &Value, form: ErrorForm) -> Option<Bytes> {
    match form {
        ErrorForm::Status => Some(outcome.to_string().into()),
        ErrorForm::Text if outcome["status"] == "Success" => None,
        ErrorForm::Text => outcome["message"].as_str().map(|message| message.to_owned().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_as_kubernetes_does() {
        let exec = Purpose::Exec(vec!["false".into()]);
        let success = json!({"metadata": {}, "status": "Success"});
        assert_eq!(outcome(Some(Exit::Code(0)), &exec), success);
        assert_eq!(outcome(None, &Purpose::Attach), success);
        for (exit, code) in [(Exit::Code(7), "7"), (Exit::Signal(9), "137")] {
            let failed = outcome(Some(exit), &exec);
            assert_eq!(failed["reason"], "NonZeroExitCode");
            assert_eq!(failed["details"]["causes"], json!([{"reason": "ExitCode", "message": code}]));
            let message = failed["message"].as_str().unwrap();
            assert!(message.starts_with("command terminated with non-zero exit code: "), "{message}");
        }
        assert_eq!(outcome(None, &exec)["reason"], "InternalError");
        assert_eq!(told(&success, ErrorForm::Text), None);
    }

    #[test]
    fn sizes_come_in_pieces() {
        let mut buffer = br#"{"Width":80,"Height":24}{"Width":0,"Height":0}{"Wid"#.to_vec();
        assert_eq!(sizes(&mut buffer), [WindowSize { columns: 80, rows: 24 }]);
        buffer.extend_from_slice(br#"th":100,"Height":50}"#);
        assert_eq!(sizes(&mut buffer), [WindowSize { columns: 100, rows: 50 }]);
        assert!(buffer.is_empty());
        let mut damaged = b"x".to_vec();
        assert!(sizes(&mut damaged).is_empty() && damaged.is_empty());
    }
}
