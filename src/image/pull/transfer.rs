//! One blob from the network to a reader on another thread, taken up again where it breaks.

use std::io::{self, Read};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use super::PlannedLayer;
use crate::image::registry::Session;
use crate::image::{Error, Progress, Stage};

/// How often a broken transfer is taken up again where it broke before a byte more has come.
const RESUMES: u64 = 5;
/// The wait before that; it doubles.
const RESUME_WAIT: Duration = Duration::from_millis(200);

/// Sends a blob's bytes into the channel, taking broken transfers up again. `Err(None)`: nobody listens any more.
pub(super) async fn fetch(
    session: &Session<'_>,
    planned: &PlannedLayer,
    chunks: mpsc::Sender<Bytes>,
    progress: &dyn Progress,
) -> Result<(), Option<Error>> {
    let mut done = 0_u64;
    let mut breaks = 0_u64;
    progress.layer(&planned.digest, Stage::Pulling, 0, planned.size);
    loop {
        let cause = match session.blob(&planned.digest, done).await {
            Ok(mut stream) => loop {
                match stream.chunk().await {
                    Ok(Some(chunk)) => {
                        done += chunk.len() as u64;
                        breaks = 0;
                        if done > planned.size {
                            let what =
                                format!("layer {} has more than its {} bytes", planned.digest, planned.size);
                            return Err(Some(Error::Content { reference: planned.digest.clone(), what }));
                        }
                        progress.layer(&planned.digest, Stage::Pulling, done, planned.size);
                        chunks.send(chunk).await.map_err(|_| None)?;
                    }
                    // However the connection ends after the last byte: there is nothing left to ask for.
                    Ok(None) | Err(_) if done == planned.size => return Ok(()),
                    Ok(None) => break ended(planned, done),
                    Err(error) => break session.broken(&error),
                }
            },
            // What broke a transfer once may last: only a first request that fails is the end.
            Err(error) if breaks + done > 0 && is_passing(&error) => error,
            Err(error) => return Err(Some(error)),
        };
        breaks += 1;
        if breaks > RESUMES {
            return Err(Some(cause));
        }
        tokio::time::sleep(RESUME_WAIT * (1 << breaks)).await;
    }
}

fn ended(planned: &PlannedLayer, done: u64) -> Error {
    Error::Content {
        reference: planned.digest.clone(),
        what: format!("layer {} ended after {done} of {} bytes", planned.digest, planned.size),
    }
}

/// Whether a request may fare better later.
fn is_passing(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. } => true,
        Error::Registry { status, .. } => *status == 429 || *status >= 500,
        _ => false,
    }
}

/// Reads what another task sends; the sender's end before the last byte shows as a short stream.
pub(super) struct ChannelReader {
    chunks: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl ChannelReader {
    /// Reads until the sender is gone.
    pub(super) fn new(chunks: mpsc::Receiver<Bytes>) -> ChannelReader {
        ChannelReader { chunks, current: Bytes::new() }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current[..count]);
        self.current.advance(count);
        Ok(count)
    }
}
