//! The store file: documents and log in redb tables, written in one transaction for each group of changes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError,
    WriteTransaction,
};

use super::memory::State;
use super::rows::{self, FORMAT, REPEATING, Span, UNPLACED};
use super::{Entry, Error, Event, Revision};

const DOCUMENTS: TableDefinition<&str, &[u8]> = TableDefinition::new("documents");
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const HEAD: TableDefinition<&str, &[u8]> = TableDefinition::new("head");
/// The one row of [`HEAD`].
const SPAN: &str = "span";
/// Holds the format, which code of any format must be able to read.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// How long to wait for a process that was just killed to let go of the file.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// Between two tries for the lock.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Opens the engine on a file, which it makes when it is missing or empty.
pub type Opener = Box<dyn Fn(&Path) -> Result<Database, DatabaseError> + Send>;

/// The engine's own memory for pages. Little: after the start all reads are answered from the store's memory.
const CACHE_BYTES: usize = 32 << 20;
/// A file from this size on takes long enough to be looked through after a crash (some 2 ms a MiB) to be spared that.
const LARGE_BYTES: u64 = 16 << 20;

/// The engine on an ordinary file.
pub fn engine(path: &Path) -> Result<Database, DatabaseError> {
    Database::builder().set_cache_size(CACHE_BYTES).create(path)
}

/// The file; the writer's alone.
pub struct Disk {
    opener: Opener,
    path: PathBuf,
    /// None after a failure, which the engine does not get over by itself.
    database: Option<Database>,
    /// Whether the engine would have to look through the whole file after a crash.
    loose: bool,
}

/// What one transaction makes durable.
pub struct Change<'a> {
    /// The changes, in order.
    pub events: &'a [Event],
    /// How far the log reaches before it.
    pub span: Span,
    /// Up to where the log is forgotten.
    pub compact: Option<Revision>,
}

impl Change<'_> {
    /// How far the log reaches after it.
    pub fn reached(&self) -> Span {
        Span {
            compacted: self.compact.unwrap_or(self.span.compacted),
            newest: self.events.last().map_or(self.span.newest, |event| event.revision),
        }
    }
}

impl Disk {
    /// Opens or creates the file and reads all of it.
    pub fn open(path: &Path, opener: Opener) -> Result<(Disk, State), Error> {
        let mut disk = Disk { opener, path: path.to_owned(), database: None, loose: false };
        let state = disk.guarded(Disk::load)?;
        Ok((disk, state))
    }

    /// Opens the file with whatever is then done with it. The engine answers most damage with an error and some
    /// with a panic; neither may end the daemon.
    fn guarded<T>(&mut self, work: impl FnOnce(&Disk) -> Result<T, Error>) -> Result<T, Error> {
        let marker = Marker::of(&self.path);
        let done = catch_unwind(AssertUnwindSafe(|| {
            marker.check(&self.path)?;
            self.database = Some(open_locked(&self.path, &self.opener)?);
            // What an earlier process left to be looked through next time is not known.
            self.loose = true;
            let done = work(self)?;
            marker.set(&self.path).map_err(|e| self.fail("mark the file as in use", e))?;
            Ok(done)
        }));
        let done = done.unwrap_or_else(|_| Err(damaged(&self.path, "its structure cannot be read")));
        if done.is_err() {
            self.abandon();
        }
        done
    }

    /// Lets go of the engine, which may not get over its failure even to end.
    fn abandon(&mut self) {
        let database = self.database.take();
        if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
            tracing::warn!(path = %self.path.display(), "the store's engine did not end well");
        }
    }

    fn fail(&self, what: &str, error: impl std::fmt::Display) -> Error {
        Error::Disk { path: self.path.display().to_string(), message: format!("cannot {what}: {error}") }
    }

    fn database(&self) -> Result<&Database, redb::Error> {
        self.database.as_ref().ok_or(redb::Error::DatabaseClosed)
    }

    /// Whether the file can be written, as far as is known.
    pub fn is_open(&self) -> bool {
        self.database.is_some()
    }

    /// Makes a change that survives power loss. A failure leaves open whether it did; [`reopen`](Self::reopen)
    /// finds out.
    pub fn commit(&mut self, change: &Change<'_>) -> Result<(), Error> {
        self.make_durable(change, false)
    }

    fn make_durable(&mut self, change: &Change<'_>, quick_to_open: bool) -> Result<(), Error> {
        let done = match catch_unwind(AssertUnwindSafe(|| self.try_commit(change, quick_to_open))) {
            Ok(done) => done.map_err(|error| self.fail("write", error)),
            Err(_) => Err(self.fail("write", "the engine panicked")),
        };
        if done.is_err() {
            self.abandon();
        }
        done
    }

    fn try_commit(&mut self, change: &Change<'_>, quick_to_open: bool) -> Result<(), redb::Error> {
        let mut transaction = self.database()?.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        // Costs a second flush and a map of the file, which are not worth it at each commit.
        transaction.set_quick_repair(quick_to_open);
        write(&transaction, change)?;
        transaction.commit()?;
        self.loose = !quick_to_open;
        Ok(())
    }

    /// Whether opening the file after a crash now would take a noticeable time.
    pub fn is_slow_to_open(&self) -> bool {
        let length = || fs::metadata(&self.path).map_or(0, |file| file.len());
        self.loose && self.is_open() && length() >= LARGE_BYTES
    }

    /// Makes opening the file after a crash independent of its size, until the next commit.
    pub fn make_quick_to_open(&mut self, span: Span) -> Result<(), Error> {
        self.make_durable(&Change { events: &[], span, compact: None }, true)
    }

    /// Opens the file again after a failure; answers the changes on it after `known`, and how far its log reaches.
    pub fn reopen(&mut self, known: Revision) -> Result<(Vec<Event>, Span), Error> {
        self.guarded(|disk| {
            let found = disk.after(known).map_err(|e| disk.fail("read", e))?;
            found.ok_or_else(|| damaged(&disk.path, "its newest changes cannot be read"))
        })
    }

    /// None when what is there is no continuation of what is known.
    fn after(&self, known: Revision) -> Result<Option<(Vec<Event>, Span)>, redb::Error> {
        let transaction = self.database()?.begin_read()?;
        let head = transaction.open_table(HEAD)?;
        let Some(span) = head.get(SPAN)?.and_then(|row| rows::decode_span(SPAN, row.value())) else {
            return Ok(None);
        };
        let (log, documents) = (transaction.open_table(LOG)?, transaction.open_table(DOCUMENTS)?);
        let mut found = Vec::new();
        for revision in known + 1..=span.newest {
            let row = log.get(revision)?;
            let Some(row) = row.and_then(|row| rows::decode_event(FORMAT, revision, row.value())) else {
                return Ok(None);
            };
            found.push(row);
        }
        // One that cannot be read is one that is not there.
        let document = |key: &str| {
            let row = documents.get(key).ok().flatten()?;
            rows::decode_document(FORMAT, key, row.value())
        };
        let events = rows::events(found, document).ok();
        Ok(events.filter(|_| span.newest >= known).map(|events| (events.into(), span)))
    }

    fn load(&self) -> Result<State, Error> {
        let format = match self.format().map_err(|e| self.fail("read the format", e))? {
            Some(format @ (UNPLACED | REPEATING | FORMAT)) => format,
            None => {
                self.rewrite(&[], &[], Span { compacted: 0, newest: 0 })
                    .map_err(|e| self.fail("make the tables", e))?;
                FORMAT
            }
            Some(other) => return Err(self.foreign(other)),
        };
        let transaction =
            self.database().and_then(|d| Ok(d.begin_read()?)).map_err(|e| self.fail("read", e))?;
        let tables = || -> Result<_, redb::Error> {
            Ok((transaction.open_table(DOCUMENTS)?, transaction.open_table(LOG)?))
        };
        let (documents, log) = tables().map_err(|e| self.fail("read", e))?;
        let mut present: BTreeMap<String, Arc<Entry>> = BTreeMap::new();
        for row in documents.iter().map_err(|e| self.fail("read documents", e))? {
            let (key, value) = row.map_err(|e| self.fail("read documents", e))?;
            let key = key.value().to_owned();
            let entry = rows::decode_document(format, &key, value.value())
                .ok_or_else(|| damaged(&self.path, &format!("the document {key} fails its checksum")))?;
            present.insert(key, entry);
        }
        let mut found = Vec::new();
        for row in log.iter().map_err(|e| self.fail("read the log", e))? {
            let (revision, value) = row.map_err(|e| self.fail("read the log", e))?;
            let revision = revision.value();
            let row = rows::decode_event(format, revision, value.value())
                .ok_or_else(|| damaged(&self.path, &format!("revision {revision} of the log is broken")))?;
            found.push(row);
        }
        let newest = found.last().map(rows::Row::revision);
        let span = self.span(format, newest).map_err(|e| self.fail("read", e))?;
        let damaged = |what: String| damaged(&self.path, &what);
        let span = span.ok_or_else(|| damaged("how far the log reaches fails its checksum".into()))?;
        rows::check_reach(&found, span).map_err(damaged)?;
        let mut events = rows::events(found, |key| present.get(key).cloned()).map_err(damaged)?;
        rows::joined(&present, &mut events, span.compacted).map_err(damaged)?;
        if format != FORMAT {
            drop((documents, log, transaction));
            let documents: Vec<&Entry> = present.values().map(AsRef::as_ref).collect();
            self.rewrite(&documents, events.make_contiguous(), span)
                .map_err(|e| self.fail(&format!("bring it to format {FORMAT}"), e))?;
        }
        Ok(State::restored(present, events, span.compacted))
    }

    /// How far the log reaches; the older format tells only where it begins.
    fn span(&self, format: u64, newest: Option<Revision>) -> Result<Option<Span>, redb::Error> {
        let transaction = self.database()?.begin_read()?;
        if format == UNPLACED {
            let compacted = transaction.open_table(META)?.get("compacted")?.map_or(0, |guard| guard.value());
            return Ok(Some(Span { compacted, newest: newest.unwrap_or(compacted) }));
        }
        let head = transaction.open_table(HEAD)?;
        Ok(head.get(SPAN)?.and_then(|row| rows::decode_span(SPAN, row.value())))
    }

    /// The format of the file's rows; `None` for a new file. Looked at before anything is written.
    fn format(&self) -> Result<Option<u64>, redb::Error> {
        match self.database()?.begin_read()?.open_table(META) {
            Ok(meta) => Ok(meta.get("format")?.map(|guard| guard.value())),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the whole content in this code's format: of a new file, or of one of an older format.
    fn rewrite(&self, documents: &[&Entry], events: &[Event], span: Span) -> Result<(), redb::Error> {
        let transaction = self.database()?.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert("format", FORMAT)?;
            meta.remove("compacted")?;
            let mut table = transaction.open_table(DOCUMENTS)?;
            for entry in documents {
                table.insert(entry.key.as_str(), rows::encode_document(entry).as_slice())?;
            }
            let mut log = transaction.open_table(LOG)?;
            for event in events {
                log.insert(event.revision, rows::encode_event(event).as_slice())?;
            }
            transaction.open_table(HEAD)?.insert(SPAN, rows::encode_span(SPAN, span).as_slice())?;
        }
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

fn write(transaction: &WriteTransaction, change: &Change<'_>) -> Result<(), redb::Error> {
    let mut documents = transaction.open_table(DOCUMENTS)?;
    let mut log = transaction.open_table(LOG)?;
    for event in change.events {
        let entry = &event.entry;
        if event.deleted {
            documents.remove(entry.key.as_str())?;
        } else {
            documents.insert(entry.key.as_str(), rows::encode_document(entry).as_slice())?;
        }
        log.insert(event.revision, rows::encode_event(event).as_slice())?;
    }
    let reached = change.reached();
    for revision in change.span.compacted + 1..=reached.compacted {
        log.remove(revision)?;
    }
    transaction.open_table(HEAD)?.insert(SPAN, rows::encode_span(SPAN, reached).as_slice())?;
    Ok(())
}

/// A file beside the store that says that the store exists, so that one that was lost or emptied is not taken
/// for one that is yet to be made.
struct Marker(PathBuf);

impl Marker {
    fn of(store: &Path) -> Marker {
        let mut name = store.file_name().unwrap_or_default().to_owned();
        name.push(".made");
        Marker(store.with_file_name(name))
    }

    /// Refuses a store that was there and is not.
    fn check(&self, store: &Path) -> Result<(), Error> {
        let length = fs::metadata(store).map(|found| found.len());
        let lost = match &length {
            Ok(length) => *length == 0,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if !lost || !self.0.exists() {
            return Ok(());
        }
        let state = if length.is_ok() { "is empty" } else { "is missing" };
        Err(Error::Disk {
            path: store.display().to_string(),
            message: format!(
                "the file {state} although this cluster has written it ({} says so): put back a copy, or delete \
                 the cluster",
                self.0.display()
            ),
        })
    }

    /// Sets the mark once the store is safely there.
    fn set(&self, store: &Path) -> io::Result<()> {
        if self.0.exists() {
            return Ok(());
        }
        let directory = store.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = File::open(directory)?;
        // The store's name must be on the disk before the mark that it must be there.
        directory.sync_all()?;
        File::create(&self.0)?.sync_all()?;
        directory.sync_all()
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

fn open_locked(path: &Path, opener: &Opener) -> Result<Database, Error> {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match opener(path) {
            Ok(database) => return Ok(database),
            Err(DatabaseError::DatabaseAlreadyOpen) if Instant::now() < until => {
                // There is nothing to await: the kernel drops a dead process's lock when it has taken the
                // process apart.
                std::thread::park_timeout(LOCK_RETRY);
            }
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                return Err(Error::Disk {
                    path: path.display().to_string(),
                    message: "another process has it open: is this cluster's daemon running already?".into(),
                });
            }
            Err(DatabaseError::Storage(redb::StorageError::Io(error)))
                if error.kind() != io::ErrorKind::InvalidData =>
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
