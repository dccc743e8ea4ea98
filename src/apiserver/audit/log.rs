//! The file of the audit log: lines are handed over and written by a thread of its own.

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use tokio::sync::oneshot;

use super::rotation::{Limits, Rotated};

/// Lines that wait for the disk; whoever comes then waits, too, so that none is lost.
const QUEUE: usize = 16 * 1024;

enum Order {
    Line(Vec<u8>),
    Flush(oneshot::Sender<()>),
}

/// A handle to the writing thread, which ends with the last handle.
#[derive(Debug, Clone)]
pub struct Log(SyncSender<Order>);

impl Log {
    /// Appends to this file, which only its owner may read when it is made, and begins it anew when it is full.
    pub fn open(path: &Path, limits: Limits) -> io::Result<Log> {
        let file = Rotated::open(path, limits)?;
        let (sender, orders) = sync_channel(QUEUE);
        std::thread::Builder::new().name("audit log".into()).spawn(move || write(file, &orders))?;
        Ok(Log(sender))
    }

    /// Hands a line over.
    pub fn line(&self, mut line: Vec<u8>) {
        line.push(b'\n');
        // Without its thread there is no log any more, which has been told.
        let _ = self.0.send(Order::Line(line));
    }

    /// Waits until everything handed over so far is in the file.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.0.send(Order::Flush(done)).is_ok() {
            let _ = written.await;
        }
    }
}

fn write(mut file: Rotated, orders: &Receiver<Order>) {
    let mut failing = false;
    let mut next = orders.recv().ok();
    while let Some(order) = next {
        let (done, written) = match order {
            Order::Line(line) => (None, file.line(&line)),
            Order::Flush(done) => (Some(done), file.flush()),
        };
        // When nothing waits, whoever reads the file sees all of it.
        let (written, waiting) = match orders.try_recv() {
            Ok(order) => (written, Some(order)),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => (written.and(file.flush()), None),
        };
        match (&written, failing) {
            (Err(error), false) => tracing::error!(%error, "the audit log cannot be written"),
            (Ok(()), true) => tracing::info!("the audit log is written again"),
            _ => {}
        }
        failing = written.is_err();
        if let Some(done) = done {
            // Who asked may be gone.
            let _ = done.send(());
        }
        next = waiting.or_else(|| orders.recv().ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_appended_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        for round in 0..2 {
            let log = Log::open(&path, Limits::default()).unwrap();
            for n in 0..1000 {
                log.line(format!("{}", round * 1000 + n).into_bytes());
            }
            log.flush().await;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().map(|line| line.parse::<u32>().unwrap()).eq(0..2000));
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
