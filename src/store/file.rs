//! The store file: each group of changes is one record at its end, and a file that has become much longer than what it has to
//! tell is written anew beside itself.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::image::Image;
use super::marker::Marker;
use super::medium::{Directory, Medium};
use super::memory::State;
use super::record::{self, FORMAT, Found, Records, UNIT, Unreadable};
use super::rewriting::Rewriting;
use super::writer::Limits;
use super::{Error, Event, former};

/// How long to wait for a process that was just killed to let go of the file.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// Between two tries for the lock.
const LOCK_RETRY: Duration = Duration::from_millis(20);
/// The most by which a file is made longer at once: what is done then, the writes of that moment wait for.
const GROWTH: u64 = 4 * UNIT;

/// The file; the writer's alone.
pub struct StoreFile {
    directory: Arc<dyn Directory>,
    path: PathBuf,
    contents: Contents,
    /// The newest group's record, whose room is used again.
    records: Records,
    /// Whether there may be something behind the records: a write failed, and nobody knows how much of it was done.
    torn: bool,
    /// Whether after power loss the name may be another file's.
    renamed: bool,
    /// Never written anew before it is as long as this.
    least: u64,
    /// Written anew from this length on.
    rewrite_at: u64,
    rewriting: Option<Rewriting>,
}

/// A file, and how far it is written.
pub struct Contents {
    medium: Box<dyn Medium>,
    /// Where the next record goes.
    end: u64,
    /// Where the file ends. There are zeros up to there, unless a write failed.
    room: u64,
}

impl Contents {
    /// Takes a file to write all of this into it; it survives power loss then, and its name need not.
    pub fn written(
        medium: Box<dyn Medium>,
        image: &Image,
        mut go_on: impl FnMut() -> io::Result<()>,
    ) -> io::Result<Contents> {
        medium.set_length(0)?;
        let mut contents = Contents { medium, end: 0, room: 0 };
        // Piece by piece, so that the writes of others are never behind all of it.
        record::put(image, |piece| {
            go_on()?;
            contents.append(piece)
        })?;
        Ok(contents)
    }

    /// Appends these bytes, durably.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.end + bytes.len() as u64;
        if end > self.room {
            let room = (end + (end / 4).clamp(UNIT, GROWTH)) / UNIT * UNIT;
            self.medium.set_length(room)?;
            self.zeros(self.end, room)?;
            // By itself: a record of which a part is there in a file that is not yet so long would be taken for damage.
            self.medium.sync()?;
            self.room = room;
        }
        self.medium.write_at(bytes, self.end)?;
        self.medium.sync()?;
        self.end = end;
        Ok(())
    }

    fn zeros(&self, from: u64, to: u64) -> io::Result<()> {
        let zeros = vec![0; (to - from).min(UNIT) as usize];
        let mut at = from;
        while at < to {
            let piece = &zeros[..(to - at).min(UNIT) as usize];
            self.medium.write_at(piece, at)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Removes whatever is behind the records.
    fn erase(&mut self) -> io::Result<()> {
        self.medium.set_length(self.room)?;
        self.zeros(self.end, self.room)?;
        self.medium.sync()
    }

    /// Appends what another file has from an offset on.
    fn append_from(&mut self, other: &Contents, from: u64) -> io::Result<()> {
        let mut tail = vec![0; (other.end - from) as usize];
        other.medium.read_at(&mut tail, from)?;
        self.append(&tail)
    }
}

impl StoreFile {
    /// Opens or creates the file and reads all of it, of whose log no more is kept than the limits let.
    pub fn open(
        path: &Path,
        directory: Arc<dyn Directory>,
        limits: Limits,
    ) -> Result<(StoreFile, State), Error> {
        let marker = Marker::of(path);
        marker.check(path)?;
        let medium = open_locked(path, &*directory)?;
        let fail = |what: &str, error: io::Error| failed(path, what, &error);
        let mut bytes = read_all(&*medium).map_err(|error| fail("read", error))?;
        let (mut state, found) = if bytes.is_empty() {
            (State::default(), None)
        } else if former::is(&bytes) {
            // Its engine wants it for itself.
            drop(medium);
            (former::read(path).map_err(|error| refused(path, error))?, None)
        } else {
            let Found { state, last, end, is_closed } =
                record::read(&bytes).map_err(|error| refused(path, error))?;
            bytes[end..].fill(0);
            if !is_closed {
                // Whoever wrote the last record did not live to see it on the disk, or was told that it is not: what was
                // read may be nowhere but in memory.
                let again = medium.write_at(&bytes[last..], last as u64).and_then(|()| medium.sync());
                again.map_err(|error| fail("write its end again", error))?;
            }
            (state, Some(Contents { medium, end: end as u64, room: bytes.len() as u64 }))
        };
        drop(bytes);
        if let Some(revision) = state.beyond(limits) {
            state.compact(revision);
        }
        let (image, next) = (state.image(), next(path));
        // From an earlier process.
        directory.remove(&next).map_err(|error| fail("remove what is left of a file", error))?;
        let begin = || {
            let contents = Contents::written(directory.open(&next)?, &image, || Ok(()))?;
            directory.rename(&next, path)?;
            directory.sync_names(path)?;
            Ok(contents)
        };
        // Whoever gave the file its name may not have lived to see that on the disk.
        let renamed = found.is_some();
        let contents = found.map_or_else(begin, Ok).map_err(|error| fail("make the file", error))?;
        marker.set(path).map_err(|error| fail("mark the file as in use", error))?;
        let file = StoreFile {
            directory,
            path: path.to_owned(),
            contents,
            records: Records::default(),
            torn: false,
            renamed,
            least: limits.file,
            rewrite_at: limits.file.max(2 * image.weight()),
            rewriting: None,
        };
        Ok((file, state))
    }

    /// Makes changes that survive power loss. After a failure they are not made.
    pub fn commit(&mut self, events: &[Event]) -> Result<(), Error> {
        self.mend()?;
        self.records.clear();
        self.records.changes(events);
        self.append().inspect_err(|error| {
            tracing::warn!(%error, "a write failed");
            // If it cannot be taken back now, then before the next one.
            let _ = self.mend();
        })
    }

    fn append(&mut self) -> Result<(), Error> {
        self.torn = true;
        self.contents.append(self.records.bytes()).map_err(|error| failed(&self.path, "write", &error))?;
        self.torn = false;
        Ok(())
    }

    /// Makes good what an earlier failure left open.
    fn mend(&mut self) -> Result<(), Error> {
        let fail = |error| failed(&self.path, "take a failed write back", &error);
        if self.torn {
            self.contents.erase().map_err(fail)?;
            self.torn = false;
        }
        if self.renamed {
            let fail = |error| failed(&self.path, "make sure of its name", &error);
            if !self.contents.medium.is_named(&self.path).map_err(fail)? {
                return Err(fail(io::Error::other("another file has taken it, or none has it")));
            }
            self.directory.sync_names(&self.path).map_err(fail)?;
            self.renamed = false;
        }
        Ok(())
    }

    /// Has the file written anew when it has become long for what there is, which goes on beside the writes; to be called
    /// between them.
    pub fn tend(&mut self, image: impl FnOnce() -> Image) {
        match self.rewriting.take() {
            Some(rewriting) => match rewriting.result() {
                Ok(written) => self.adopt(written),
                Err(under_way) => self.rewriting = Some(under_way),
            },
            None if self.contents.end >= self.rewrite_at => {
                let begun = Rewriting::begin(&self.directory, next(&self.path), image(), self.contents.end);
                match begun {
                    Ok(rewriting) => self.rewriting = Some(rewriting),
                    Err(error) => self.put_off(&error),
                }
            }
            None => {}
        }
    }

    /// Goes on in the file that was written anew, with what was written here meanwhile.
    fn adopt(&mut self, written: io::Result<(Contents, u64)>) {
        let next = next(&self.path);
        let adopted = written.and_then(|(mut contents, from)| {
            contents.append_from(&self.contents, from)?;
            // Until its name is on the disk, no write is acknowledged that only this file has.
            self.renamed = true;
            let renamed = self.directory.rename(&next, &self.path);
            // Whatever is said of it.
            if renamed.is_err() && !contents.medium.is_named(&self.path).unwrap_or(false) {
                return renamed;
            }
            self.contents = contents;
            self.rewrite_at = self.least.max(2 * self.contents.end);
            Ok(())
        });
        if let Err(error) = adopted {
            self.put_off(&error);
        } else if let Err(error) = self.mend() {
            tracing::warn!(%error, "the new store file's name is not on the disk yet");
        }
    }

    fn put_off(&mut self, error: &io::Error) {
        // What cannot be removed now is when the store is opened.
        let _ = self.directory.remove(&next(&self.path));
        tracing::warn!(path = %self.path.display(), %error, "cannot write the store file anew; it grows");
        self.rewrite_at = self.contents.end + self.least;
    }

    /// Ends; says at the end of the file that it is whole.
    pub fn close(mut self) {
        drop(self.rewriting.take());
        self.records.clear();
        self.records.intact();
        if let Err(error) = self.mend().and_then(|()| self.append()) {
            tracing::warn!(%error, "the store was not closed well");
        }
    }
}

/// The name of a file that is being written anew.
fn next(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".next");
    path.with_file_name(name)
}

fn read_all(medium: &dyn Medium) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; medium.length()? as usize];
    medium.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn failed(path: &Path, what: &str, error: &io::Error) -> Error {
    Error::Disk { path: path.display().to_string(), message: format!("cannot {what}: {error}") }
}

fn refused(path: &Path, error: Unreadable) -> Error {
    let message = match error {
        Unreadable::Foreign(format) => {
            format!(
                "it has format {format}, this version of minik knows format {FORMAT}: use the minik that made it"
            )
        }
        Unreadable::Failed(why) => format!("cannot read it: {why}"),
        Unreadable::Damaged(what) => {
            format!(
                "the file is damaged ({what}); no object was changed: put back a copy, or delete the cluster"
            )
        }
    };
    Error::Disk { path: path.display().to_string(), message }
}

fn open_locked(path: &Path, directory: &dyn Directory) -> Result<Box<dyn Medium>, Error> {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match directory.open(path) {
            Ok(medium) => return Ok(medium),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                return Err(failed(path, "open it", &error));
            }
            Err(_) if Instant::now() < until => {
                // There is nothing to await: the kernel drops a dead process's lock when it has taken the
                // process apart.
                std::thread::park_timeout(LOCK_RETRY);
            }
            Err(_) => {
                return Err(Error::Disk {
                    path: path.display().to_string(),
                    message: "another process has it open: is this cluster's daemon running already?".into(),
                });
            }
        }
    }
}
