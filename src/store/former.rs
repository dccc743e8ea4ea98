//! Store files of formats 2 and 3, which were tables of an engine: their documents are taken over. Their logs are not; who
//! follows changes begins anew after such a start, as after any gap.

use std::collections::BTreeMap;
use std::io;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::memory::State;
use super::record::Unreadable;
use super::{Entry, Revision};

const DOCUMENTS: TableDefinition<&str, &[u8]> = TableDefinition::new("documents");
const HEAD: TableDefinition<&str, &[u8]> = TableDefinition::new("head");
/// The one row of [`HEAD`]: the newest revision that the log no longer holds, and the newest one.
const SPAN: &str = "span";
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Whether a file is one of the engine's.
pub fn is(file: &[u8]) -> bool {
    file.starts_with(b"redb\x1a\x0a\xa9\x0d\x0a")
}

/// The state that it tells.
pub fn read(path: &Path) -> Result<State, Unreadable> {
    // The engine answers most damage with an error and some with a panic.
    let read = catch_unwind(|| tables(path)).unwrap_or_else(|_| Err(damaged("its structure cannot be read")));
    read.map(|(documents, newest)| State::restored(documents, newest))
}

type Documents = BTreeMap<String, Arc<Entry>>;

fn tables(path: &Path) -> Result<(Documents, Revision), Unreadable> {
    let database = Database::open(path).map_err(|error| unreadable(error.into()))?;
    let rows = || -> Result<_, redb::Error> {
        let transaction = database.begin_read()?;
        let format = transaction.open_table(META)?.get("format")?.map(|row| row.value());
        let span = transaction.open_table(HEAD)?.get(SPAN)?.map(|row| row.value().to_vec());
        let mut documents = Vec::new();
        for row in transaction.open_table(DOCUMENTS)?.iter()? {
            let (key, row) = row?;
            documents.push((key.value().to_owned(), row.value().to_vec()));
        }
        Ok((format, span, documents))
    };
    let (format, span, rows) = match rows() {
        Ok(found) => found,
        // What a first start that was cut off left.
        Err(redb::Error::TableDoesNotExist(name)) if name == "meta" => return Ok((Documents::new(), 0)),
        Err(error) => return Err(unreadable(error)),
    };
    match format {
        Some(2 | 3) => {}
        other => {
            return Err(Unreadable::Foreign(other.and_then(|format| format.try_into().ok()).unwrap_or(0)));
        }
    }
    let newest = span.and_then(|row| numbers(SPAN, &row).map(|(_, newest, _)| newest));
    let newest = newest.ok_or_else(|| damaged("how far the log reaches fails its checksum"))?;
    let mut documents = Documents::new();
    for (key, row) in rows {
        let (created, revision, bytes) =
            numbers(&key, &row)
                .filter(|(_, revision, _)| *revision <= newest)
                .ok_or_else(|| damaged(format!("the document {key} fails its checksum")))?;
        let entry = Entry::new(key.clone(), Bytes::copy_from_slice(bytes), created, revision);
        documents.insert(key, entry);
    }
    Ok((documents, newest))
}

/// The two numbers that a row begins with, and the rest: after a checksum of four bytes over its key and all that it says.
fn numbers<'a>(key: &str, row: &'a [u8]) -> Option<(u64, u64, &'a [u8])> {
    let (sum, body) = row.split_first_chunk::<4>()?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(key.as_bytes());
    crc.update(body);
    let (first, rest) = body.split_first_chunk::<8>()?;
    let (second, rest) = rest.split_first_chunk::<8>()?;
    (crc.finalize() == u32::from_le_bytes(*sum)).then_some((
        u64::from_le_bytes(*first),
        u64::from_le_bytes(*second),
        rest,
    ))
}

/// A disk that cannot be read or written says nothing of the file.
fn unreadable(error: redb::Error) -> Unreadable {
    match error {
        redb::Error::Io(error)
            if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            Unreadable::Failed(error.to_string())
        }
        redb::Error::DatabaseAlreadyOpen => Unreadable::Failed("another process has it open".to_owned()),
        error => damaged(error.to_string()),
    }
}

fn damaged(what: impl Into<String>) -> Unreadable {
    Unreadable::Damaged(what.into())
}
