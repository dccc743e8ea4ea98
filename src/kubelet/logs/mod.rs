//! Reading containers' logs: the end of them, since a moment, and what comes, across rotations.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

use self::files::{Files, Position};
use self::line::Filter;
use super::directory::Watch;
use crate::api::node::LogOptions;
use crate::clock;
use crate::stdio::Reader;

mod files;
mod line;
#[cfg(test)]
mod tests;

/// How much of a file is read at once, and the longest line (the runtime's are 16 KiB).
const CHUNK: usize = 128 << 10;
/// How many pieces wait for a slow client.
const PIECES: usize = 4;

/// Opens a container's log; `path` is its current file. With `follow`, the reader ends when `ended` has
/// resolved and everything written before that was read.
pub async fn open(
    path: PathBuf,
    options: &LogOptions,
    ended: impl Future<Output = ()> + Send + 'static,
) -> io::Result<Reader> {
    let filter = Filter::new(options, clock::now());
    // Before the first look, so that no change falls between look and wait.
    let watch = match (options.follow, path.parent()) {
        (true, Some(directory)) => Some(Watch::new(directory)?),
        _ => None,
    };
    let (since, tail, from) = (filter.since(), options.tail_lines, path.clone());
    let (position, end) = blocking(move || begin(&from, since, tail)).await?;
    let (sender, mut receiver) = mpsc::channel(PIECES);
    let copy = Copy { path, position, filter, sender, end: (!options.follow).then_some(end) };
    tokio::spawn(copy.run(watch, ended));
    let pieces = futures::stream::poll_fn(move |cx| receiver.poll_recv(cx));
    Ok(Box::new(StreamReader::new(pieces)))
}

/// Where reading begins, and where the log ends at this moment.
fn begin(path: &Path, since: Option<Timestamp>, tail: Option<u64>) -> io::Result<(Position, Position)> {
    let files = Files::open(path)?;
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let end = files.end()?.ok_or_else(missing)?;
    let start = match tail {
        Some(lines) => files.tail(&end, lines)?,
        None => files.first(since).ok_or_else(missing)?,
    };
    Ok((start, end))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// The copying of a log to its reader.
struct Copy {
    path: PathBuf,
    position: Position,
    filter: Filter,
    sender: mpsc::Sender<io::Result<Bytes>>,
    /// Where to stop; absent when following.
    end: Option<Position>,
}

/// What one look at the log found.
enum Look {
    /// Whole lines.
    Lines(Vec<u8>),
    /// The file has ended and another one follows.
    Next(Position),
    /// Nothing new.
    Nothing,
}

impl Copy {
    async fn run(mut self, watch: Option<Watch>, ended: impl Future<Output = ()> + Send) {
        if let Err(error) = self.copy(watch, ended).await {
            // A reader that is gone does not want to know.
            let _ = self.sender.send(Err(error)).await;
        }
    }

    async fn copy(&mut self, watch: Option<Watch>, ended: impl Future<Output = ()> + Send) -> io::Result<()> {
        let mut ended = std::pin::pin!(ended);
        let mut over = watch.is_none();
        while !self.filter.is_full() && !self.sender.is_closed() {
            match self.look().await? {
                Look::Lines(lines) => {
                    let mut out = Vec::with_capacity(lines.len());
                    self.filter.write(&lines, &mut out);
                    self.position.offset += lines.len() as u64;
                    if !out.is_empty() && self.sender.send(Ok(out.into())).await.is_err() {
                        return Ok(());
                    }
                }
                Look::Next(position) => self.position = position,
                Look::Nothing if over => return Ok(()),
                Look::Nothing => tokio::select! {
                    () = self.sender.closed() => return Ok(()),
                    // Once more: the last lines may have come since the look.
                    () = &mut ended => over = true,
                    () = changed(watch.as_ref()) => {}
                },
            }
        }
        Ok(())
    }

    async fn look(&self) -> io::Result<Look> {
        let (path, position, end) = (self.path.clone(), self.position.clone(), self.end.clone());
        blocking(move || look(&path, &position, end.as_ref())).await
    }
}

async fn changed(watch: Option<&Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

fn look(path: &Path, position: &Position, end: Option<&Position>) -> io::Result<Look> {
    let last = end.filter(|end| end.same_file(position));
    let room = last.map_or(CHUNK as u64, |end| end.offset.saturating_sub(position.offset)).min(CHUNK as u64);
    let lines = whole_lines(position.read(room as usize)?);
    if !lines.is_empty() {
        return Ok(Look::Lines(lines));
    }
    if last.is_some() {
        return Ok(Look::Nothing);
    }
    let Some(next) = Files::after(path, position)? else { return Ok(Look::Nothing) };
    // Nothing is written to a file after its rotation, but something may have been since it was read.
    let lines = whole_lines(position.read(CHUNK)?);
    Ok(if lines.is_empty() { Look::Next(next) } else { Look::Lines(lines) })
}

/// Cuts a line that is not complete yet; one that cannot become complete is kept, to be passed over as damaged.
fn whole_lines(mut bytes: Vec<u8>) -> Vec<u8> {
    match bytes.iter().rposition(|byte| *byte == b'\n') {
        Some(end) => bytes.truncate(end + 1),
        None if bytes.len() >= CHUNK => {}
        None => bytes.clear(),
    }
    bytes
}
