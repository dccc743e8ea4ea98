//! Commands in a container, run to their end.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::runtime::{Error, ExecConfig, ExecProcess, Runtime};
use crate::stdio::{Exit, Session};

/// How much of a command's output is kept, in bytes (kubelet's limit).
const KEPT: usize = 10 << 10;
/// How long output may come after the command's end: what it left running may keep its pipes for ever.
const AFTERWARDS: Duration = Duration::from_millis(100);

/// A command that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// How; `None` when nobody saw it.
    exit: Option<Exit>,
    /// The beginning of what it wrote.
    pub output: String,
}

impl Ran {
    /// Whether it exited with 0.
    pub fn succeeded(&self) -> bool {
        self.exit == Some(Exit::Code(0))
    }

    /// Its exit code as a shell would report it.
    pub fn code(&self) -> i32 {
        self.exit.map_or(-1, Exit::shell_code)
    }
}

/// Runs a command in a container; one that is dropped before its end is killed.
pub async fn run<R: Runtime>(runtime: &R, container: &str, command: &[String]) -> Result<Ran, Error> {
    let config = ExecConfig {
        bound: true,
        container: container.to_owned(),
        process: ExecProcess { args: command.to_vec(), tty: false },
        stdin: false,
        stdout: true,
        stderr: true,
    };
    let Session { stdout, stderr, exit, .. } = runtime.exec(&config).await?;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = {
        let reading = async { tokio::join!(read(stdout, &mut out), read(stderr, &mut err)) };
        tokio::pin!(reading);
        let mut exit = exit;
        tokio::select! {
            _ = &mut reading => exit.await.ok(),
            ended = &mut exit => {
                // What could be read by then is what there is.
                let _ = tokio::time::timeout(AFTERWARDS, reading).await;
                ended.ok()
            }
        }
    };
    out.extend(err);
    out.truncate(KEPT);
    Ok(Ran { exit, output: String::from_utf8_lossy(&out).into_owned() })
}

/// Reads to the end, so that the writer is not held up; keeps the beginning.
async fn read(source: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) -> io::Result<()> {
    let Some(mut source) = source else { return Ok(()) };
    let mut piece = [0; 4096];
    loop {
        let length = source.read(&mut piece).await?;
        if length == 0 {
            return Ok(());
        }
        kept.extend(piece.iter().take(length.min(KEPT - kept.len())));
    }
}
