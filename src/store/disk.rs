//! The store file: documents and log in redb tables, each row with a checksum of its own.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError,
};

use super::memory::State;
use super::{Entry, Error, Event, Revision};

const DOCUMENTS: TableDefinition<&str, &[u8]> = TableDefinition::new("documents");
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// The format that this code reads and writes; a file of a newer one is refused.
const FORMAT: u64 = 1;
/// How long to wait for a process that was just killed to let go of the file.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// Between two tries for the lock.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// The open file; the writer's alone.
pub struct Disk {
    database: Database,
    path: PathBuf,
}

impl Disk {
    /// Opens or creates the file and reads all of it.
    pub fn open(path: &Path) -> Result<(Disk, State), Error> {
        // The engine answers most damage with an error and some with a panic; neither may end the daemon.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let database = open_locked(path)?;
            let disk = Disk { database, path: path.to_owned() };
            let state = disk.load()?;
            Ok((disk, state))
        }));
        opened.unwrap_or_else(|_| Err(damaged(path, "its structure cannot be read")))
    }

    fn fail(&self, what: &str, error: impl std::fmt::Display) -> Error {
        Error::Disk { path: self.path.display().to_string(), message: format!("cannot {what}: {error}") }
    }

    /// Writes changes and forgets the log up to `compact` in one transaction that survives power loss.
    pub fn commit(
        &self,
        events: &[Event],
        compacted: Revision,
        compact: Option<Revision>,
    ) -> Result<(), Error> {
        self.try_commit(events, compacted, compact).map_err(|e| self.fail("write", e))
    }

    fn try_commit(
        &self,
        events: &[Event],
        compacted: Revision,
        compact: Option<Revision>,
    ) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        // Costs a little at each commit and makes opening after a crash independent of the file's size.
        transaction.set_quick_repair(true);
        {
            let mut documents = transaction.open_table(DOCUMENTS)?;
            let mut log = transaction.open_table(LOG)?;
            for event in events {
                let entry = &event.entry;
                if event.deleted {
                    documents.remove(entry.key.as_str())?;
                } else {
                    documents.insert(entry.key.as_str(), encode_document(entry).as_slice())?;
                }
                log.insert(event.revision, encode_event(event).as_slice())?;
            }
            if let Some(until) = compact {
                for revision in compacted + 1..=until {
                    log.remove(revision)?;
                }
                transaction.open_table(META)?.insert("compacted", until)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn load(&self) -> Result<State, Error> {
        match self.format().map_err(|e| self.fail("read the format", e))? {
            Some(FORMAT) => {}
            None => self.prepare().map_err(|e| self.fail("make the tables", e))?,
            Some(other) => return Err(self.foreign(other)),
        }
        let transaction = self.database.begin_read().map_err(|e| self.fail("read", e))?;
        let tables = || -> Result<_, redb::Error> {
            Ok((
                transaction.open_table(DOCUMENTS)?,
                transaction.open_table(LOG)?,
                transaction.open_table(META)?.get("compacted")?.map_or(0, |guard| guard.value()),
            ))
        };
        let (documents, log, compacted) = tables().map_err(|e| self.fail("read", e))?;
        let mut present: BTreeMap<String, Arc<Entry>> = BTreeMap::new();
        for row in documents.iter().map_err(|e| self.fail("read documents", e))? {
            let (key, value) = row.map_err(|e| self.fail("read documents", e))?;
            let key = key.value().to_owned();
            let entry = decode_document(&key, value.value())
                .ok_or_else(|| damaged(&self.path, &format!("the document {key} fails its checksum")))?;
            present.insert(key, entry);
        }
        let mut events = VecDeque::new();
        let rows = log.iter().map_err(|e| self.fail("read the log", e))?;
        for (expected, row) in (compacted + 1..).zip(rows) {
            let (revision, value) = row.map_err(|e| self.fail("read the log", e))?;
            let revision = revision.value();
            let event = decode_event(revision, value.value(), &present)
                .filter(|_| revision == expected)
                .ok_or_else(|| damaged(&self.path, &format!("revision {revision} of the log is broken")))?;
            events.push_back(event);
        }
        Ok(State::restored(present, events, compacted))
    }

    /// The format of the file's rows; `None` for a new file. Looked at before anything is written.
    fn format(&self) -> Result<Option<u64>, redb::Error> {
        match self.database.begin_read()?.open_table(META) {
            Ok(meta) => Ok(meta.get("format")?.map(|guard| guard.value())),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the tables of a new file.
    fn prepare(&self) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(DOCUMENTS)?;
        transaction.open_table(LOG)?;
        transaction.open_table(META)?.insert("format", FORMAT)?;
        transaction.commit()?;
        Ok(())
    }

    fn foreign(&self, format: u64) -> Error {
        Error::Disk {
            path: self.path.display().to_string(),
            message: format!(
                "it has format {format}, this version of minik knows format {FORMAT}: use the newer minik"
            ),
        }
    }
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::Disk {
        path: path.display().to_string(),
        message: format!(
            "the file is damaged ({what}); no object was changed: put back a copy, or delete the cluster"
        ),
    }
}

fn open_locked(path: &Path) -> Result<Database, Error> {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match Database::create(path) {
            Ok(database) => return Ok(database),
            Err(DatabaseError::DatabaseAlreadyOpen) if Instant::now() < until => {
                // There is nothing to await: the kernel drops a dead process's lock when it has taken the
                // process apart. This runs before any task does.
                std::thread::park_timeout(LOCK_RETRY);
            }
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                return Err(Error::Disk {
                    path: path.display().to_string(),
                    message: "another process has it open: is this cluster's daemon running already?".into(),
                });
            }
            Err(DatabaseError::Storage(redb::StorageError::Io(error)))
                if error.kind() != std::io::ErrorKind::InvalidData =>
            {
                return Err(Error::Disk {
                    path: path.display().to_string(),
                    message: format!("cannot open it: {error}"),
                });
            }
            Err(error) => return Err(damaged(path, &error.to_string())),
        }
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Puts the checksum before what it covers.
fn sealed(body: Vec<u8>) -> Vec<u8> {
    let mut row = checksum(&body).to_le_bytes().to_vec();
    row.extend(body);
    row
}

fn unsealed(row: &[u8]) -> Option<&[u8]> {
    let (sum, body) = row.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*sum) == checksum(body)).then_some(body)
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (head, tail) = bytes.split_first_chunk::<8>()?;
    *bytes = tail;
    Some(u64::from_le_bytes(*head))
}

fn take_slice<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_u64(bytes)?).ok()?;
    let (head, tail) = bytes.split_at_checked(length)?;
    *bytes = tail;
    Some(head)
}

fn put_slice(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

/// `created revision bytes`.
fn encode_document(entry: &Entry) -> Vec<u8> {
    let mut body = Vec::with_capacity(entry.bytes.len() + 16);
    body.extend(entry.created.to_le_bytes());
    body.extend(entry.revision.to_le_bytes());
    body.extend(&entry.bytes[..]);
    sealed(body)
}

fn decode_document(key: &str, row: &[u8]) -> Option<Arc<Entry>> {
    let mut body = unsealed(row)?;
    let created = take_u64(&mut body)?;
    let revision = take_u64(&mut body)?;
    Some(Entry::new(key.to_owned(), Bytes::copy_from_slice(body), created, revision))
}

/// `deleted created key bytes [previous-created previous-revision previous-bytes]`.
fn encode_event(event: &Event) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(u64::from(event.deleted).to_le_bytes());
    body.extend(event.entry.created.to_le_bytes());
    put_slice(&mut body, event.entry.key.as_bytes());
    put_slice(&mut body, &event.entry.bytes);
    if let Some(previous) = &event.previous {
        body.extend(previous.created.to_le_bytes());
        body.extend(previous.revision.to_le_bytes());
        put_slice(&mut body, &previous.bytes);
    }
    sealed(body)
}

fn decode_event(revision: Revision, row: &[u8], present: &BTreeMap<String, Arc<Entry>>) -> Option<Event> {
    let mut body = unsealed(row)?;
    let deleted = take_u64(&mut body)? == 1;
    let created = take_u64(&mut body)?;
    let key = std::str::from_utf8(take_slice(&mut body)?).ok()?.to_owned();
    let bytes = take_slice(&mut body)?;
    let previous = if body.is_empty() {
        None
    } else {
        let created = take_u64(&mut body)?;
        let revision = take_u64(&mut body)?;
        Some(Entry::new(key.clone(), Bytes::copy_from_slice(take_slice(&mut body)?), created, revision))
    };
    // The newest event of a key and its document are one and the same in memory.
    let entry = match present.get(&key).filter(|entry| entry.revision == revision) {
        Some(entry) => entry.clone(),
        None => Entry::new(key, Bytes::copy_from_slice(bytes), created, revision),
    };
    Some(Event { revision, entry, previous, deleted })
}
