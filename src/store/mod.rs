//! Bytes under keys, one revision counter for all of them, and a log of changes that can be watched.
//!
//! Reads come from memory; a write is acknowledged when it is on disk. The store knows no kinds: a key is a
//! path such as `pods/default/www`, a value is an encoded JSON document that it never looks into.

use std::any::Any;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use self::announce::Announcer;
use self::file::StoreFile;
use self::medium::{Directory, Disk};
use self::memory::Memory;
use self::writer::{Encode, Operation, Write, Writer};

mod announce;
mod file;
mod former;
mod image;
mod marker;
mod medium;
mod memory;
mod record;
mod rewriting;
mod writer;

/// The position of a change in the one log; the first change has revision 1.
pub type Revision = u64;

/// One document as it was written at one revision.
#[derive(Debug)]
pub struct Entry {
    /// Where it lies.
    pub key: String,
    /// The encoded JSON document, shared by every reader and watcher.
    pub bytes: Bytes,
    /// The revision of the write that made the key exist.
    pub created: Revision,
    /// The revision of the write that made these bytes.
    pub revision: Revision,
    parsed: OnceLock<Value>,
    typed: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Entry {
    /// A document as the store (or a test or a view of another version) holds it.
    pub fn new(key: String, bytes: Bytes, created: Revision, revision: Revision) -> Arc<Entry> {
        let (parsed, typed) = (OnceLock::new(), OnceLock::new());
        Arc::new(Entry { key, bytes, created, revision, parsed, typed })
    }

    /// The same document of the same revision in another form, such as another version of its kind.
    pub fn in_form(&self, bytes: Bytes) -> Arc<Entry> {
        Entry::new(self.key.clone(), bytes, self.created, self.revision)
    }

    /// The same document with nothing parsed: a reader of this one leaves nothing behind in the other.
    fn apart(&self) -> Arc<Entry> {
        self.in_form(self.bytes.clone())
    }

    /// The document parsed, at most once for all readers.
    pub fn json(&self) -> &Value {
        self.parsed.get_or_init(|| self.parse())
    }

    /// The document as a type of its readers, made at most once for those of the first such type; `None` when it cannot be
    /// made.
    pub fn typed<T: Any + Send + Sync>(&self, make: impl FnOnce(&[u8]) -> Option<T>) -> Option<Arc<T>> {
        if let Some(known) = self.typed.get().and_then(|known| known.clone().downcast().ok()) {
            return Some(known);
        }
        let made = Arc::new(make(&self.bytes)?);
        let _ = self.typed.set(made.clone());
        Some(made)
    }

    /// The document parsed for a reader who keeps what it needs: nothing of it stays here.
    pub fn parse(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }
}

/// What happened at one revision.
#[derive(Debug, Clone)]
pub struct Event {
    /// When, in the one log.
    pub revision: Revision,
    /// The document after the change; for a deletion, its final state (encoded with the deletion's revision).
    pub entry: Arc<Entry>,
    /// The document before the change; `None` for a creation.
    pub previous: Option<Arc<Entry>>,
    /// Whether the key no longer exists.
    pub deleted: bool,
}

/// A consistent view of all keys under a prefix.
#[derive(Debug)]
pub struct Snapshot {
    /// The revision of the whole store that the view shows.
    pub revision: Revision,
    /// In key order.
    pub entries: Vec<Arc<Entry>>,
    /// How many more keys under the prefix follow the last entry (0 unless a limit cut the view).
    pub remaining: usize,
}

/// Why the store refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A creation met an existing key.
    #[error("{key} already exists at revision {revision}")]
    Exists {
        /// The key.
        key: String,
        /// The revision it is at.
        revision: Revision,
    },
    /// The key is at another revision than the caller expected.
    #[error("{key} is at revision {actual:?}, not {expected}")]
    Conflict {
        /// The key.
        key: String,
        /// What the caller saw.
        expected: Revision,
        /// What it is at now; `None` when it does not exist.
        actual: Option<Revision>,
    },
    /// The log no longer reaches back that far, or not yet reaches that revision.
    #[error("revision {requested} is not available; the log holds {oldest} to {newest}")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// The oldest revision that can be asked for.
        oldest: Revision,
        /// The newest.
        newest: Revision,
    },
    /// The disk failed or the file is damaged.
    #[error("store file {path}: {message}")]
    Disk {
        /// The file.
        path: String,
        /// What was tried, and what came of it.
        message: String,
    },
    /// The store was closed while the call waited.
    #[error("the store is closed")]
    Closed,
}

/// A cloneable handle to the one store of a cluster.
#[derive(Clone)]
pub struct Store {
    memory: Arc<Memory>,
    announcer: Arc<Announcer>,
    writer: Arc<Writer>,
}

/// What the log keeps for watchers and paged lists that lag or come back: some minutes of a busy cluster, a day of a
/// quiet one. A file of 16 MiB is read in some 20 ms.
const LIMITS: writer::Limits = writer::Limits { events: 20_000, bytes: 64 << 20, file: 16 << 20 };

impl Store {
    /// Opens or creates the store file; refuses a damaged one or one of a newer format.
    pub fn open(path: &Path) -> Result<Store, Error> {
        Store::open_with(path, Arc::new(Disk), LIMITS)
    }

    /// An empty store for simulations. It has no disk: what is written is written at once, on the thread of whoever asks.
    /// So nothing of it is ever under way while a simulated clock looks idle.
    pub fn simulated() -> Store {
        Store::without_disk(memory::State::default())
    }

    /// A store of its own for simulations, which begins with what this one holds.
    pub fn simulated_copy(&self) -> Store {
        Store::without_disk(self.memory.read(memory::State::clone))
    }

    fn open_with(path: &Path, directory: Arc<dyn Directory>, limits: writer::Limits) -> Result<Store, Error> {
        let (file, state) = StoreFile::open(path, directory, limits)?;
        let (memory, announcer) = Store::begun(state);
        let writer = Writer::start(file, memory.clone(), announcer.clone(), limits)?;
        Ok(Store { memory, announcer, writer: Arc::new(writer) })
    }

    fn without_disk(state: memory::State) -> Store {
        let (memory, announcer) = Store::begun(state);
        let writer = Writer::at_once(memory.clone(), announcer.clone(), LIMITS);
        Store { memory, announcer, writer: Arc::new(writer) }
    }

    fn begun(state: memory::State) -> (Arc<Memory>, Arc<Announcer>) {
        let announcer = Arc::new(Announcer::new(state.newest()));
        (Arc::new(Memory::new(state)), announcer)
    }

    /// The revision of the newest visible change.
    pub fn revision(&self) -> Revision {
        // As reads see it: watchers are told a moment later.
        self.memory.read(memory::State::newest)
    }

    /// The document at `key` now.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.memory.read(|state| state.get(key))
    }

    /// Documents whose key starts with `prefix` and is greater than `after`, at most `limit` (0: all).
    /// With `at`, the view of that older revision, rebuilt from the log.
    pub fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Snapshot, Error> {
        self.memory.read(|state| match at {
            Some(revision) if revision != state.newest() => state.list_at(prefix, after, limit, revision),
            _ => Ok(state.list(prefix, after, limit)),
        })
    }

    /// Writes a new document; `encode` gets the revision of this write, so that the bytes can carry it.
    pub async fn create(
        &self,
        key: &str,
        encode: impl FnOnce(Revision) -> Bytes + Send + 'static,
    ) -> Result<Arc<Entry>, Error> {
        self.write(key, Operation::Create, Box::new(encode)).await
    }

    /// Replaces the document that is at revision `expected`.
    pub async fn update(
        &self,
        key: &str,
        expected: Revision,
        encode: impl FnOnce(Revision) -> Bytes + Send + 'static,
    ) -> Result<Arc<Entry>, Error> {
        self.write(key, Operation::Update { expected }, Box::new(encode)).await
    }

    /// Removes the document that is at revision `expected`; `encode` gives its final state for watchers.
    pub async fn delete(
        &self,
        key: &str,
        expected: Revision,
        encode: impl FnOnce(Revision) -> Bytes + Send + 'static,
    ) -> Result<Arc<Entry>, Error> {
        self.write(key, Operation::Delete { expected }, Box::new(encode)).await
    }

    /// Changes under `prefix` after revision `from`; the first of them says when the log does not hold that
    /// revision.
    pub fn watch(&self, prefix: &str, from: Revision) -> Watch {
        Watch {
            memory: self.memory.clone(),
            news: self.announcer.subscribe(prefix),
            prefix: prefix.to_owned(),
            position: from,
            begun: self.memory.read(|state| state.check_from(from)).is_ok(),
            ready: VecDeque::new(),
        }
    }

    /// Forgets the log up to and including `revision`, until the store is opened the next time; documents stay.
    pub async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.writer.send(writer::Message::Compact { revision, done })?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Whether writes still reach the disk: the writer answers, and its newest record did not fail.
    pub async fn check(&self) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.writer.send(writer::Message::Check { done })?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Waits for what was accepted, then closes the file.
    pub async fn close(&self) {
        let (done, answer) = oneshot::channel();
        if self.writer.send(writer::Message::Close { done }).is_ok() {
            // An error means that the writer ended before: closed either way.
            let _ = answer.await;
        }
    }

    async fn write(&self, key: &str, operation: Operation, encode: Encode) -> Result<Arc<Entry>, Error> {
        let (done, answer) = oneshot::channel();
        self.writer.send(writer::Message::Write(Write { key: key.to_owned(), operation, encode, done }))?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

/// Changes under one prefix, in revision order, without gap or repetition.
///
/// A watch holds no queue that could grow: it is a position in the one log, and a watcher that falls out of
/// the log is told so.
pub struct Watch {
    memory: Arc<Memory>,
    news: watch::Receiver<Revision>,
    prefix: String,
    /// All changes up to here were seen.
    position: Revision,
    /// Whether the log held where it was to begin.
    begun: bool,
    ready: VecDeque<Event>,
}

/// How many changes a watch takes out of the log at once, so that it never holds the lock for long.
const WATCH_BATCH: usize = 256;

impl Watch {
    /// The next change; `Err(Compacted)` when this watcher fell too far behind, `Err(Closed)` at shutdown.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let (position, newest) = self.memory.read(|state| {
                if !self.begun {
                    state.check_from(self.position)?;
                }
                state.after(self.position, &self.prefix, WATCH_BATCH, &mut self.ready)
            })?;
            (self.position, self.begun) = (position, true);
            if self.ready.is_empty() && newest && self.news.changed().await.is_err() {
                return Err(Error::Closed);
            }
        }
    }

    /// The newest revision of the whole store up to which this watch has delivered everything; for bookmarks.
    pub fn progress(&self) -> Revision {
        match self.ready.front() {
            Some(event) => event.revision - 1,
            None => self.memory.read(|state| state.caught_up(self.position, &self.prefix)),
        }
    }
}

#[cfg(test)]
pub mod faults;
#[cfg(test)]
mod tests;
