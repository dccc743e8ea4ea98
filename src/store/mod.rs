//! Bytes under keys, one revision counter for all of them, and a log of changes that can be watched.
//!
//! Reads come from memory; a write is acknowledged when it is on disk. The store knows no kinds: a key is a
//! path such as `pods/default/www`, a value is an encoded JSON document that it never looks into.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::Value;

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
}

impl Entry {
    /// The document parsed, at most once for all readers.
    pub fn json(&self) -> &Value {
        self.parsed.get_or_init(|| serde_json::from_slice(&self.bytes).unwrap_or(Value::Null))
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
        /// What was tried and what the engine said.
        message: String,
    },
    /// The store was closed while the call waited.
    #[error("the store is closed")]
    Closed,
}

/// A cloneable handle to the one store of a cluster.
#[derive(Clone)]
pub struct Store {}

/// Changes under one prefix, in revision order, without gap or repetition.
pub struct Watch {}

impl Watch {
    /// The next change; `Err(Compacted)` when this watcher fell too far behind, `Err(Closed)` at shutdown.
    pub async fn next(&mut self) -> Result<Event, Error> {
        todo!()
    }

    /// The newest revision of the whole store up to which this watch has delivered everything; for bookmarks.
    pub fn progress(&self) -> Revision {
        todo!()
    }
}

impl Store {
    /// Opens or creates the store file; refuses a damaged one or one of a newer format.
    pub fn open(_path: &Path) -> Result<Store, Error> {
        todo!()
    }

    /// The revision of the newest visible change.
    pub fn revision(&self) -> Revision {
        todo!()
    }

    /// The document at `key` now.
    pub fn get(&self, _key: &str) -> Option<Arc<Entry>> {
        todo!()
    }

    /// Documents whose key starts with `prefix` and is greater than `after`, at most `limit` (0: all).
    /// With `at`, the view of that older revision, rebuilt from the log.
    pub fn list(
        &self,
        _prefix: &str,
        _after: Option<&str>,
        _limit: usize,
        _at: Option<Revision>,
    ) -> Result<Snapshot, Error> {
        todo!()
    }

    /// Writes a new document; `encode` gets the revision of this write, so that the bytes can carry it.
    pub async fn create(
        &self,
        _key: &str,
        _encode: impl FnOnce(Revision) -> Bytes + Send + 'static,
    ) -> Result<Arc<Entry>, Error> {
        todo!()
    }

    /// Replaces the document that is at revision `expected`.
    pub async fn update(
        &self,
        _key: &str,
        _expected: Revision,
        _encode: impl FnOnce(Revision) -> Bytes + Send + 'static,
    ) -> Result<Arc<Entry>, Error> {
        todo!()
    }

    /// Removes the document that is at revision `expected`; `encode` gives its final state for watchers.
    pub async fn delete(
        &self,
        _key: &str,
        _expected: Revision,
        _encode: impl FnOnce(Revision) -> Bytes + Send + 'static,
    ) -> Result<Arc<Entry>, Error> {
        todo!()
    }

    /// Changes under `prefix` after revision `from`.
    pub fn watch(&self, _prefix: &str, _from: Revision) -> Result<Watch, Error> {
        todo!()
    }

    /// Forgets the log up to and including `revision`; documents stay.
    pub async fn compact(&self, _revision: Revision) -> Result<(), Error> {
        todo!()
    }

    /// Waits for what was accepted, then closes the file.
    pub async fn close(&self) {
        todo!()
    }
}
