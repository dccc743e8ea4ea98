//! The rows of the store file: each begins with a checksum over where it lies and what it says, so that a row
//! that was damaged, or that is some other row, is not taken for a good one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::{Entry, Event, Revision};

/// The format of the rows that this code writes. A row of the log does not repeat the document that the event made, which is
/// there as a document, or as what the next event of its key replaced.
pub const FORMAT: u64 = 3;
/// The format whose log repeats every document, which is still read.
pub const REPEATING: u64 = 2;
/// The format before it, whose checksums do not cover the keys either.
pub const UNPLACED: u64 = 1;

/// How far the log reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The newest revision that it no longer holds.
    pub compacted: Revision,
    /// The newest revision.
    pub newest: Revision,
}

/// What the checksum of a row covers beside the row.
fn place(format: u64, key: &[u8]) -> &[u8] {
    if format == UNPLACED { &[] } else { key }
}

/// Where a row's checksum ends.
const SUM: usize = size_of::<u32>();

fn checksum(place: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(place);
    crc.update(body);
    crc.finalize()
}

/// Puts the checksum before what it covers.
fn sealed(place: &[u8], mut row: Vec<u8>) -> Vec<u8> {
    let sum = checksum(place, &row[SUM..]);
    row[..SUM].copy_from_slice(&sum.to_le_bytes());
    row
}

/// A row to be sealed: room for its checksum, and for so many bytes after it.
fn begun(bytes: usize) -> Vec<u8> {
    let mut row = Vec::with_capacity(SUM + bytes);
    row.resize(SUM, 0);
    row
}

fn unsealed<'a>(place: &[u8], row: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, body) = row.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*sum) == checksum(place, body)).then_some(body)
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

/// `compacted newest`.
pub fn encode_span(key: &str, span: Span) -> Vec<u8> {
    let mut row = begun(16);
    row.extend(span.compacted.to_le_bytes());
    row.extend(span.newest.to_le_bytes());
    sealed(key.as_bytes(), row)
}

/// What [`encode_span`] wrote.
pub fn decode_span(key: &str, row: &[u8]) -> Option<Span> {
    let mut body = unsealed(key.as_bytes(), row)?;
    Some(Span { compacted: take_u64(&mut body)?, newest: take_u64(&mut body)? })
}

/// `created revision bytes`.
pub fn encode_document(entry: &Entry) -> Vec<u8> {
    let mut row = begun(16 + entry.bytes.len());
    row.extend(entry.created.to_le_bytes());
    row.extend(entry.revision.to_le_bytes());
    row.extend(&entry.bytes[..]);
    sealed(entry.key.as_bytes(), row)
}

/// What [`encode_document`] wrote, or the code of an older format.
pub fn decode_document(format: u64, key: &str, row: &[u8]) -> Option<Arc<Entry>> {
    let mut body = unsealed(place(format, key.as_bytes()), row)?;
    let created = take_u64(&mut body)?;
    let revision = take_u64(&mut body)?;
    Some(Entry::new(key.to_owned(), Bytes::copy_from_slice(body), created, revision))
}

/// A row of the log.
#[derive(Debug)]
pub struct Row {
    revision: Revision,
    key: String,
    created: Revision,
    deleted: bool,
    /// The document that the event made, where the row itself tells it.
    bytes: Option<Bytes>,
    previous: Option<Arc<Entry>>,
}

impl Row {
    /// The event's revision.
    pub fn revision(&self) -> Revision {
        self.revision
    }
}

/// `deleted created key replaced [previous-created previous-revision previous-bytes] [final-bytes]`: what was there before when
/// `replaced` is 1, and of a deletion how it left the document.
pub fn encode_event(event: &Event) -> Vec<u8> {
    let last = event.deleted.then_some(&event.entry.bytes);
    let held = |entry: &Entry| 24 + entry.bytes.len();
    let previous = event.previous.as_deref().map_or(0, held);
    let mut row = begun(32 + event.entry.key.len() + previous + last.map_or(0, |bytes| 8 + bytes.len()));
    row.extend(u64::from(event.deleted).to_le_bytes());
    row.extend(event.entry.created.to_le_bytes());
    put_slice(&mut row, event.entry.key.as_bytes());
    row.extend(u64::from(event.previous.is_some()).to_le_bytes());
    if let Some(previous) = &event.previous {
        put_previous(&mut row, previous);
    }
    if let Some(bytes) = last {
        put_slice(&mut row, bytes);
    }
    sealed(&event.revision.to_le_bytes(), row)
}

fn put_previous(row: &mut Vec<u8>, previous: &Entry) {
    row.extend(previous.created.to_le_bytes());
    row.extend(previous.revision.to_le_bytes());
    put_slice(row, &previous.bytes);
}

fn take_previous(key: &str, body: &mut &[u8]) -> Option<Arc<Entry>> {
    let (created, revision) = (take_u64(body)?, take_u64(body)?);
    Some(Entry::new(key.to_owned(), Bytes::copy_from_slice(take_slice(body)?), created, revision))
}

/// What [`encode_event`] wrote, or the code of an older format: `deleted created key bytes [previous]`.
pub fn decode_event(format: u64, revision: Revision, row: &[u8]) -> Option<Row> {
    let mut body = unsealed(place(format, &revision.to_le_bytes()), row)?;
    let deleted = take_u64(&mut body)? == 1;
    let created = take_u64(&mut body)?;
    let key = std::str::from_utf8(take_slice(&mut body)?).ok()?.to_owned();
    let (bytes, previous);
    if format == FORMAT {
        let replaced = take_u64(&mut body)? == 1;
        previous = if replaced { Some(take_previous(&key, &mut body)?) } else { None };
        bytes = if deleted { Some(Bytes::copy_from_slice(take_slice(&mut body)?)) } else { None };
    } else {
        bytes = Some(Bytes::copy_from_slice(take_slice(&mut body)?));
        previous = if body.is_empty() { None } else { Some(take_previous(&key, &mut body)?) };
    }
    body.is_empty().then_some(Row { revision, key, created, deleted, bytes, previous })
}

/// Says what is wrong when the rows do not reach as far as the log should, or not without a gap.
pub fn check_reach(rows: &[Row], span: Span) -> Result<(), String> {
    if (span.compacted + 1..=span.newest).eq(rows.iter().map(Row::revision)) {
        return Ok(());
    }
    let reached = rows.last().map_or(span.compacted, Row::revision);
    Err(format!("the log does not reach from {} to {}: {reached}", span.compacted, span.newest))
}

/// The events of the newest rows of a log, with what each made of its document; `document` answers those that are there now.
/// Says what is wrong when one is nowhere.
pub fn events(
    rows: Vec<Row>,
    mut document: impl FnMut(&str) -> Option<Arc<Entry>>,
) -> Result<VecDeque<Event>, String> {
    // What was there before the next event of each key.
    let mut replaced: HashMap<String, Option<Arc<Entry>>> = HashMap::new();
    let mut events = VecDeque::with_capacity(rows.len());
    for row in rows.into_iter().rev() {
        let Row { revision, key, created, deleted, bytes, previous } = row;
        let entry = match (bytes, replaced.get(&key)) {
            (Some(bytes), _) => Entry::new(key.clone(), bytes, created, revision),
            (None, Some(next)) => match next {
                Some(entry) if entry.revision == revision && entry.created == created => entry.clone(),
                _ => return Err(format!("revision {revision} of the log is broken")),
            },
            (None, None) => match document(&key) {
                Some(entry) if entry.revision == revision && entry.created == created => entry,
                Some(_) => return Err(format!("the document {key} is not what the log made of it")),
                None => return Err(format!("the document {key} is missing")),
            },
        };
        replaced.insert(key, previous.clone());
        events.push_front(Event { revision, entry, previous, deleted });
    }
    Ok(events)
}

/// Joins the two ways in which documents lie in the file: the newest event of a key and its document become
/// one entry, and so do an event and what the next one of the key says was there before. Says what is wrong
/// when the two do not tell the same.
pub fn joined(
    documents: &BTreeMap<String, Arc<Entry>>,
    log: &mut VecDeque<Event>,
    compacted: Revision,
) -> Result<(), String> {
    let broken = |revision: Revision| format!("revision {revision} of the log is broken");
    let mut last: HashMap<String, Option<Arc<Entry>>> = HashMap::new();
    for event in log {
        let known = match last.get(&event.entry.key) {
            Some(known) => known.clone(),
            // What the log no longer tells of a key is taken from its next event.
            None => event.previous.clone(),
        };
        match (&known, &event.previous) {
            (None, None) => {}
            (Some(known), Some(previous)) if same(known, previous) => event.previous = Some(known.clone()),
            _ => return Err(broken(event.revision)),
        }
        let document = documents.get(&event.entry.key).filter(|d| d.revision == event.revision);
        if let Some(document) = document {
            if !same(document, &event.entry) || event.deleted {
                return Err(broken(event.revision));
            }
            event.entry = document.clone();
        }
        last.insert(event.entry.key.clone(), (!event.deleted).then(|| event.entry.clone()));
    }
    for (key, document) in documents {
        let right = match last.remove(key) {
            Some(newest) => newest.is_some_and(|newest| newest.revision == document.revision),
            None => document.revision <= compacted,
        };
        if !right {
            return Err(format!("the document {key} is not what the log made of it"));
        }
    }
    match last.into_iter().find(|(_, newest)| newest.is_some()) {
        Some((key, _)) => Err(format!("the document {key} is missing")),
        None => Ok(()),
    }
}

fn same(one: &Entry, other: &Entry) -> bool {
    (one.revision, one.created, &one.bytes) == (other.revision, other.created, &other.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, created: Revision, revision: Revision) -> Arc<Entry> {
        Entry::new(key.into(), Bytes::from(format!("{key}{revision}")), created, revision)
    }

    fn event(entry: Arc<Entry>, previous: Option<Arc<Entry>>, deleted: bool) -> Event {
        Event { revision: entry.revision, entry, previous, deleted }
    }

    #[test]
    fn rows_come_back_from_their_own_place_only() {
        let document = entry("a", 3, 7);
        let row = encode_document(&document);
        assert!(same(&decode_document(FORMAT, "a", &row).unwrap(), &document));
        assert!(decode_document(FORMAT, "b", &row).is_none());
        let change = event(document, Some(entry("a", 3, 5)), false);
        let row = encode_event(&change);
        assert_eq!(decode_event(FORMAT, 7, &row).unwrap().previous.unwrap().revision, 5);
        assert!(decode_event(FORMAT, 8, &row).is_none());
        assert!(decode_event(REPEATING, 7, &row).is_none());
        let span = Span { compacted: 4, newest: 7 };
        let mut row = encode_span("span", span);
        assert_eq!(decode_span("span", &row), Some(span));
        row[5] ^= 1;
        assert_eq!(decode_span("span", &row), None);
    }

    #[test]
    fn an_event_finds_its_document_where_it_lies() {
        // `a` was made and changed; `b` came, went and came again.
        let (a1, a2, b2) = (entry("a", 1, 1), entry("a", 1, 2), entry("b", 3, 3));
        let (end, b5) = (entry("b", 3, 4), entry("b", 5, 5));
        let log = [
            event(a1.clone(), None, false),
            event(a2.clone(), Some(a1), false),
            event(b2.clone(), None, false),
            event(end, Some(b2), true),
            event(b5.clone(), None, false),
        ];
        let rows = |skip: usize| {
            let rows = log.iter().skip(skip);
            rows.map(|event| decode_event(FORMAT, event.revision, &encode_event(event)).unwrap())
                .collect::<Vec<_>>()
        };
        let documents = BTreeMap::from([("a", a2), ("b", b5)]);
        let there = |key: &str| documents.get(key).cloned();
        for skip in 0..log.len() {
            let found = events(rows(skip), there).unwrap();
            assert_eq!(found.len(), log.len() - skip);
            for (found, event) in found.iter().zip(&log[skip..]) {
                assert!(same(&found.entry, &event.entry) && found.deleted == event.deleted);
                let previous = (found.previous.as_deref(), event.previous.as_deref());
                assert!(matches!(previous, (None, None)) || same(previous.0.unwrap(), previous.1.unwrap()));
            }
        }
        assert_eq!(events(rows(0), |_| None).unwrap_err(), "the document b is missing");
        let other = |key: &str| (key == "b").then(|| entry("b", 5, 6)).or_else(|| there(key));
        assert_eq!(events(rows(0), other).unwrap_err(), "the document b is not what the log made of it");
        let mut gap = rows(0);
        gap.remove(1);
        assert_eq!(events(gap, there).unwrap_err(), "the document a is not what the log made of it");
        let mut gap = rows(0);
        gap.remove(3);
        assert_eq!(events(gap, there).unwrap_err(), "revision 3 of the log is broken");
        let span = Span { compacted: 0, newest: 5 };
        check_reach(&rows(0), span).unwrap();
        check_reach(&rows(2), Span { compacted: 2, ..span }).unwrap();
        let mut short = rows(0);
        short.pop();
        assert_eq!(check_reach(&short, span).unwrap_err(), "the log does not reach from 0 to 5: 4");
        let mut gap = rows(0);
        gap.remove(1);
        assert!(check_reach(&gap, span).is_err());
    }

    #[test]
    fn documents_and_log_must_tell_the_same() {
        // `a` was made before the log begins, changed, and is there; `b` came and went; `old` lies still.
        let log = || {
            VecDeque::from([
                event(entry("a", 1, 3), Some(entry("a", 1, 1)), false),
                event(entry("b", 4, 4), None, false),
                event(entry("a", 1, 5), Some(entry("a", 1, 3)), false),
                event(entry("b", 4, 6), Some(entry("b", 4, 4)), true),
            ])
        };
        let documents = |entries: &[Arc<Entry>]| -> BTreeMap<String, Arc<Entry>> {
            entries.iter().map(|e| (e.key.clone(), e.clone())).collect()
        };
        let (a, old) = (entry("a", 1, 5), entry("old", 2, 2));
        let mut whole = log();
        joined(&documents(&[a.clone(), old.clone()]), &mut whole, 2).unwrap();
        assert!(
            Arc::ptr_eq(&whole[2].entry, &a)
                && Arc::ptr_eq(&whole[0].entry, whole[2].previous.as_ref().unwrap())
        );
        for (documents, wrong) in [
            (documents(std::slice::from_ref(&old)), "the document a is missing"),
            (documents(&[a.clone(), entry("new", 9, 9)]), "the document new is not what the log made of it"),
            (documents(&[a.clone(), entry("b", 4, 4)]), "the document b is not what the log made of it"),
            (documents(&[entry("a", 1, 3)]), "the document a is not what the log made of it"),
            (documents(&[entry("a", 2, 5)]), "revision 5 of the log is broken"),
        ] {
            assert_eq!(joined(&documents, &mut log(), 2).unwrap_err(), wrong);
        }
        let all = documents(&[a, old]);
        let mut forged = log();
        forged[2].previous = Some(entry("a", 1, 4));
        assert_eq!(joined(&all, &mut forged, 2).unwrap_err(), "revision 5 of the log is broken");
    }
}
