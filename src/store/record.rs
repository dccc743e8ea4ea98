//! How the store file is written: a header, then records, of which each begins with its length and a checksum.
//!
//! First comes the base, the documents as they were at one revision; then groups of changes, each made durable as one record.
//! What is there now is the base with all changes made to it, so that nothing is written twice. After the last record the
//! file goes on in zeros, up to a multiple of [`UNIT`]: to write where a file already is costs the disk less than to make
//! it longer.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::image::Image;
use super::memory::State;
use super::{Entry, Event, Revision};

/// The format that this code writes; formats 1 to 3 are [`former`](super::former) ones.
pub const FORMAT: u32 = 4;
/// What every file of this kind begins with, of whatever format.
const MAGIC: &[u8; 12] = b"minik store\n";
/// The magic and the format.
const HEADER: usize = MAGIC.len() + size_of::<u32>();
/// Files end at multiples of it, so that one that was cut off is not taken for a whole one.
pub const UNIT: u64 = 1 << 20;
/// Records begin at multiples of it: the length and the sum of one never lie in two sectors of a disk.
const ALIGN: usize = 8;
/// The length and the sum.
const HEAD: usize = 8;

/// What a record is, in its first byte.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    /// `compacted count`: the revision of the base, and how many documents follow.
    Base = 1,
    /// `created revision key bytes`: a document of the base.
    Document = 2,
    /// `first (deleted key bytes)...`: changes of the revisions from the first on.
    Changes = 3,
    /// Nothing: that the record before it is whole is thereby known.
    Intact = 4,
}

/// Records that are to be written, one behind the other.
#[derive(Default)]
pub struct Records(Vec<u8>);

impl Records {
    /// The beginning of a file.
    pub fn begun() -> Records {
        let mut records = Records::default();
        records.0.extend(MAGIC);
        records.0.extend(FORMAT.to_le_bytes());
        records
    }

    /// Announces so many documents, as they were at this revision.
    pub fn base(&mut self, compacted: Revision, documents: usize) {
        self.record(Kind::Base, |body| {
            body.extend(compacted.to_le_bytes());
            body.extend((documents as u64).to_le_bytes());
        });
    }

    /// A document of the base.
    pub fn document(&mut self, entry: &Entry) {
        self.record(Kind::Document, |body| {
            body.extend(entry.created.to_le_bytes());
            body.extend(entry.revision.to_le_bytes());
            put_slice(body, entry.key.as_bytes());
            put_slice(body, &entry.bytes);
        });
    }

    /// Changes, which follow one another.
    pub fn changes(&mut self, events: &[Event]) {
        let Some(first) = events.first() else { return };
        self.record(Kind::Changes, |body| {
            body.extend(first.revision.to_le_bytes());
            for event in events {
                body.push(event.deleted.into());
                put_slice(body, event.entry.key.as_bytes());
                put_slice(body, &event.entry.bytes);
            }
        });
    }

    /// Says that what was written before is whole.
    pub fn intact(&mut self) {
        self.record(Kind::Intact, |_| {});
    }

    /// The bytes of the records.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Begins anew, in the same room unless that is unusually large.
    pub fn clear(&mut self) {
        self.0.clear();
        self.0.shrink_to(2 * PIECE);
    }

    fn record(&mut self, kind: Kind, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.0.len();
        self.0.resize(start + HEAD, 0);
        self.0.push(kind as u8);
        fill(&mut self.0);
        let length = (self.0.len() - start - HEAD) as u32;
        let sum = checksum(length, &self.0[start + HEAD..]);
        self.0[start..start + 4].copy_from_slice(&length.to_le_bytes());
        self.0[start + 4..start + HEAD].copy_from_slice(&sum.to_le_bytes());
        self.0.resize(self.0.len().next_multiple_of(ALIGN), 0);
    }
}

fn checksum(length: u32, body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length.to_le_bytes());
    crc.update(body);
    crc.finalize()
}

/// Documents are what a request may bring, and groups have so few of them that their lengths fit too.
fn put_slice(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_le_bytes());
    out.extend(bytes);
}

/// Why a file cannot be read.
#[derive(Debug, PartialEq)]
pub enum Unreadable {
    /// It is of this other format.
    Foreign(u32),
    /// It is not as it was written, and this is wrong.
    Damaged(String),
    /// Nothing is known of it, because reading it failed.
    Failed(String),
}

impl Unreadable {
    fn damaged<T>(what: impl Into<String>) -> Result<T, Unreadable> {
        Err(Unreadable::Damaged(what.into()))
    }
}

/// What a file tells.
pub struct Found {
    /// The base with all changes.
    pub state: State,
    /// Where the last record begins.
    pub last: usize,
    /// Where the records end.
    pub end: usize,
    /// Whether whoever wrote it closed it, and nobody wrote after that.
    pub is_closed: bool,
}

/// Reads a file. A last record that is not whole was never acknowledged, and is passed over; one that others follow is
/// damage.
pub fn read(file: &[u8]) -> Result<Found, Unreadable> {
    let Some((header, _)) =
        file.split_first_chunk::<HEADER>().filter(|(header, _)| header.starts_with(MAGIC))
    else {
        return Unreadable::damaged("it does not begin as a store does");
    };
    let format = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
    if format != FORMAT {
        return Err(Unreadable::Foreign(format));
    }
    if !(file.len() as u64).is_multiple_of(UNIT) {
        return Unreadable::damaged("its end is missing");
    }
    let mut reader = Reader { file, at: HEADER };
    let mut state = reader.base()?;
    let (mut last, mut at, mut is_closed) = (HEADER, reader.at, false);
    while let Some(Record { kind, body }) = reader.next()? {
        let fits = match kind {
            Kind::Changes => change(&mut state, body).is_some(),
            Kind::Intact => true,
            Kind::Base | Kind::Document => false,
        };
        if !fits {
            return Unreadable::damaged(format!("the record at byte {at} does not follow those before"));
        }
        is_closed = matches!(kind, Kind::Intact);
        (last, at) = (at, reader.at);
    }
    let is_closed = is_closed && file[at..].iter().all(|byte| *byte == 0);
    Ok(Found { state, last, end: at, is_closed })
}

struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

/// A whole record.
struct Record<'a> {
    kind: Kind,
    body: &'a [u8],
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<Record<'a>>, Unreadable> {
        let at = self.at;
        if let Some(record) = record(self.file, at) {
            self.at = (at + HEAD + 1 + record.body.len()).next_multiple_of(ALIGN);
            return Ok(Some(record));
        }
        if claimed(self.file, at).is_some_and(|length| at + HEAD + length > self.file.len()) {
            return Unreadable::damaged(format!("the record at byte {at} goes beyond its end"));
        }
        // Only one record is on its way to the disk at a time.
        let mut later = (at..self.file.len()).step_by(ALIGN).skip(1);
        match later.find(|later| record(self.file, *later).is_some()) {
            Some(later) => Unreadable::damaged(format!("what is before byte {later} fails its checksum")),
            None => Ok(None),
        }
    }

    /// The documents that the changes are made to.
    fn base(&mut self) -> Result<State, Unreadable> {
        let lost = || Unreadable::Damaged("the documents that it begins with are not whole".into());
        let Some(Record { kind: Kind::Base, mut body }) = self.next()? else { return Err(lost()) };
        let (compacted, count) = take_u64(&mut body).zip(take_u64(&mut body)).ok_or_else(lost)?;
        let mut documents = BTreeMap::new();
        for _ in 0..count {
            let Some(Record { kind: Kind::Document, body }) = self.next()? else { return Err(lost()) };
            let entry = document(body).filter(|entry| entry.revision <= compacted).ok_or_else(lost)?;
            documents.insert(entry.key.clone(), entry);
        }
        if documents.len() as u64 != count {
            return Err(lost());
        }
        Ok(State::restored(documents, compacted))
    }
}

/// The length that a record at this place would have; `None` for none.
fn claimed(file: &[u8], at: usize) -> Option<usize> {
    let head = file.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*head) as usize).filter(|length| *length > 0)
}

/// The record at this place, when it is whole.
fn record(file: &[u8], at: usize) -> Option<Record<'_>> {
    let length = claimed(file, at)?;
    let body = file.get(at + HEAD..)?.get(..length)?;
    let sum = file.get(at + 4..)?.first_chunk::<4>()?;
    if u32::from_le_bytes(*sum) != checksum(length as u32, body) {
        return None;
    }
    let (kind, body) = body.split_first()?;
    let kinds = [Kind::Base, Kind::Document, Kind::Changes, Kind::Intact];
    Some(Record { kind: kinds.into_iter().find(|known| *known as u8 == *kind)?, body })
}

fn document(mut body: &[u8]) -> Option<Arc<Entry>> {
    let (created, revision) = (take_u64(&mut body)?, take_u64(&mut body)?);
    let key = take_key(&mut body)?;
    let bytes = Bytes::copy_from_slice(take_slice(&mut body)?);
    body.is_empty().then(|| Entry::new(key, bytes, created, revision))
}

/// Makes a group of changes; `None` when they are no changes of this state.
fn change(state: &mut State, mut body: &[u8]) -> Option<()> {
    let mut revision = take_u64(&mut body)?;
    if Some(revision) != state.newest().checked_add(1) {
        return None;
    }
    while let Some((deleted, rest)) = body.split_first() {
        body = rest;
        let key = take_key(&mut body)?;
        let bytes = Bytes::copy_from_slice(take_slice(&mut body)?);
        let previous = state.get(&key);
        if *deleted > 1 || (*deleted == 1 && previous.is_none()) {
            return None;
        }
        let created = previous.as_ref().map_or(revision, |previous| previous.created);
        let entry = Entry::new(key, bytes, created, revision);
        state.apply([Event { revision, entry, previous, deleted: *deleted == 1 }]);
        revision = revision.checked_add(1)?;
    }
    Some(())
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    bytes.split_off(..8).and_then(|head| Some(u64::from_le_bytes(head.try_into().ok()?)))
}

fn take_slice<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = bytes.split_off(..4)?.try_into().ok()?;
    bytes.split_off(..u32::from_le_bytes(length) as usize)
}

fn take_key(bytes: &mut &[u8]) -> Option<String> {
    Some(std::str::from_utf8(take_slice(bytes)?).ok()?.to_owned())
}

/// How many changes of a log share a record, when it is written as a whole.
const GROUP: usize = 256;
/// So much is written at a time.
const PIECE: usize = 1 << 20;

/// Writes all of a file that tells of this, piece by piece.
pub fn put(image: &Image, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut records = Records::begun();
    let mut full = |records: &mut Records, limit: usize| -> io::Result<()> {
        if records.bytes().len() > limit {
            write(records.bytes())?;
            records.clear();
        }
        Ok(())
    };
    records.base(image.compacted, image.base.len());
    for entry in &image.base {
        records.document(entry);
        full(&mut records, PIECE)?;
    }
    for events in image.events.chunks(GROUP) {
        records.changes(events);
        full(&mut records, PIECE)?;
    }
    full(&mut records, 0)
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

    /// `old` lies still; `a` was made before the log begins, and changed; `b` came, went and came again.
    fn image() -> Image {
        let (a1, a4, b3) = (entry("a", 1, 1), entry("a", 1, 4), entry("b", 3, 3));
        let events = vec![
            event(b3.clone(), None, false),
            event(a4, Some(a1.clone()), false),
            event(entry("b", 3, 5), Some(b3), true),
            event(entry("b", 6, 6), None, false),
        ];
        Image { compacted: 2, base: vec![a1, entry("old", 2, 2)], events }
    }

    /// As it lies on the disk, and where its records end.
    fn whole(image: &Image, fill: impl FnOnce(&mut Records)) -> (Vec<u8>, usize) {
        let (mut file, mut more) = (Vec::new(), Records::default());
        put(image, |piece| {
            file.extend(piece);
            Ok(())
        })
        .unwrap();
        fill(&mut more);
        file.extend(more.bytes());
        let end = file.len();
        file.resize((end as u64).next_multiple_of(UNIT) as usize, 0);
        (file, end)
    }

    /// The same with each change a record of its own.
    fn file(image: &Image) -> (Vec<u8>, usize) {
        let base = Image { events: Vec::new(), ..image.clone() };
        let change = |event| std::slice::from_ref(event);
        whole(&base, |records| image.events.iter().for_each(|event| records.changes(change(event))))
    }

    fn told(state: &State) -> (Revision, Vec<String>) {
        let image = state.image();
        let entry = |entry: &Arc<Entry>| {
            format!("{} {} {} {:?}", entry.key, entry.created, entry.revision, entry.bytes)
        };
        let mut base: Vec<_> = image.base.iter().map(entry).collect();
        base.sort();
        let event = |event: &Event| {
            let previous = event.previous.as_ref().map(entry);
            format!("{} {} {previous:?} {}", event.revision, entry(&event.entry), event.deleted)
        };
        base.extend(image.events.iter().map(event));
        (image.compacted, base)
    }

    fn damage(file: &[u8]) -> String {
        match read(file) {
            Err(Unreadable::Damaged(what)) => what,
            other => panic!("{:?}", other.map(|found| (found.state.newest(), found.end))),
        }
    }

    #[test]
    fn what_was_written_is_read() {
        for (file, end) in [file(&image()), whole(&image(), |_| {})] {
            let Found { state, end: reached, last, is_closed } = read(&file).unwrap();
            assert!(reached == end && last < end && !is_closed);
            let (compacted, told) = told(&state);
            let expected = [
                r#"a 1 1 b"a1""#,
                r#"old 2 2 b"old2""#,
                r#"3 b 3 3 b"b3" None false"#,
                r#"4 a 1 4 b"a4" Some("a 1 1 b\"a1\"") false"#,
                r#"5 b 3 5 b"b5" Some("b 3 3 b\"b3\"") true"#,
                r#"6 b 6 6 b"b6" None false"#,
            ];
            assert_eq!((compacted, told), (2, expected.map(str::to_owned).to_vec()));
            assert_eq!(state.get("a").unwrap().bytes, "a4");
            assert_eq!((state.get("b").unwrap().created, state.get("old").unwrap().created), (6, 2));
        }
        let (empty, _) = whole(&Image::default(), |_| {});
        assert_eq!(told(&read(&empty).unwrap().state), (0, Vec::new()));
    }

    #[test]
    fn a_last_record_that_is_not_whole_was_never_acknowledged() {
        let (whole, end) = file(&image());
        let last = event(entry("c", 7, 7), None, false);
        let mut records = Records::default();
        records.changes(std::slice::from_ref(&last));
        let record = records.bytes();
        // What reached the disk of it may be any of its sectors; here, of its words.
        for left_out in (0..record.len()).step_by(ALIGN) {
            let mut torn = whole.clone();
            torn[end..end + record.len()].copy_from_slice(record);
            torn[end + left_out..end + left_out + ALIGN].fill(0);
            let found = read(&torn).unwrap();
            assert_eq!((found.state.newest(), found.end), (6, end), "{left_out}");
        }
        let mut complete = whole.clone();
        complete[end..end + record.len()].copy_from_slice(record);
        assert_eq!(read(&complete).unwrap().state.newest(), 7);
    }

    #[test]
    fn every_byte_that_changed_before_the_last_record_is_noticed() {
        let (_, end) = whole(&image(), |_| {});
        let (mut file, _) = whole(&image(), Records::intact);
        let good = told(&read(&file).unwrap().state);
        let mut noticed = 0;
        for at in 0..end {
            file[at] ^= 0x20;
            match read(&file) {
                Err(_) => noticed += 1,
                // What fills a record up says nothing.
                Ok(found) => assert_eq!(told(&found.state), good, "byte {at}"),
            }
            file[at] ^= 0x20;
        }
        assert!(noticed > end * 9 / 10, "{noticed} of {end}");
    }

    #[test]
    fn files_that_are_no_stores_are_told_apart() {
        let (good, end) = file(&image());
        assert_eq!(damage(b"not a store"), "it does not begin as a store does");
        assert_eq!(damage(&[0; UNIT as usize]), "it does not begin as a store does");
        assert_eq!(damage(&good[..end]), "its end is missing");
        let mut newer = good.clone();
        newer[12] = 5;
        assert_eq!(read(&newer).err().unwrap(), Unreadable::Foreign(5));
        // A long record whose end is beyond that of the file.
        let mut cut = good.clone();
        cut[end..end + 4].copy_from_slice(&(2u32 << 20).to_le_bytes());
        assert_eq!(damage(&cut), format!("the record at byte {end} goes beyond its end"));
    }

    #[test]
    fn records_that_do_not_fit_together_are_refused() {
        let written = |fill: &dyn Fn(&mut Records)| {
            let mut records = Records::begun();
            fill(&mut records);
            let mut file = records.bytes().to_vec();
            file.resize(UNIT as usize, 0);
            damage(&file)
        };
        let image = image();
        let lost = "the documents that it begins with are not whole";
        assert_eq!(written(&|_| {}), lost);
        assert_eq!(written(&|records| records.base(2, 1)), lost);
        assert_eq!(written(&|records| records.changes(&image.events)), lost);
        let later = |records: &mut Records| {
            records.base(2, 1);
            records.document(&entry("a", 1, 3));
        };
        assert_eq!(written(&later), lost);
        let twice = |records: &mut Records| {
            records.base(2, 2);
            records.document(&image.base[0]);
            records.document(&image.base[0]);
        };
        assert_eq!(written(&twice), lost);
        for (events, at) in [(&image.events[1..2], 48), (&image.events[2..3], 48)] {
            let gap = |records: &mut Records| {
                records.base(2, 0);
                records.changes(events);
            };
            assert_eq!(written(&gap), format!("the record at byte {at} does not follow those before"));
        }
        let absent = |records: &mut Records| {
            records.base(2, 0);
            records.changes(&[event(entry("a", 1, 3), None, true)]);
        };
        assert!(written(&absent).contains("does not follow"));
        let again = |records: &mut Records| {
            records.base(2, 0);
            records.base(2, 0);
        };
        assert!(written(&again).contains("does not follow"));
    }
}
