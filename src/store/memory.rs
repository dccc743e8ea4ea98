//! Everything that is read: the present documents and the retained log, behind one lock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use super::image::Image;
use super::writer::Limits;
use super::{Entry, Error, Event, Revision, Snapshot};

/// The state shared by readers and the writer.
pub struct Memory {
    state: RwLock<State>,
}

impl Memory {
    /// Takes over what was read from disk.
    pub fn new(state: State) -> Memory {
        Memory { state: RwLock::new(state) }
    }

    /// Looks at the state; keep it short.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        // A panic elsewhere cannot leave the state half changed: `apply` moves plain values.
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the state; the writer's alone.
    pub fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Documents and log. Revisions of the log are contiguous: `compacted + 1 ..= newest`.
#[derive(Debug, Default, Clone)]
pub struct State {
    documents: BTreeMap<String, Arc<Entry>>,
    log: VecDeque<Event>,
    log_bytes: usize,
    /// The newest revision that the log no longer holds.
    compacted: Revision,
    /// What is known of each collection that changed since the file was opened.
    collections: HashMap<Box<str>, Collection>,
    /// Of every other one it is known that it did not change after this.
    opened: Revision,
}

/// When the keys with one first segment changed: who follows them need not look at the changes of all others.
#[derive(Debug, Clone, Copy)]
struct Collection {
    /// At last.
    changed: Revision,
    /// The newest of their changes that the log no longer holds.
    forgotten: Revision,
}

/// The first segment of a key, or of a prefix that names one; `None` for a prefix that spans several.
pub fn collection(key: &str) -> Option<&str> {
    key.split_once('/').map(|(collection, _)| collection)
}

/// How many of the newest changes keep what was parsed of their documents, which the watchers that follow
/// closely share; of the older ones only the bytes are kept.
const FRESH: usize = 64;

/// The log is trimmed by at least so many changes at a time, so that not every commit has to, and by few enough that
/// nobody waits long for one that does.
const TRIM: usize = 256;

/// An upper bound of the bytes held for a change: what was there before is often shared with an older one.
fn weight(event: &Event) -> usize {
    let held = |entry: &Entry| size_of::<Entry>() + entry.key.len() + entry.bytes.len();
    size_of::<Event>() + held(&event.entry) + event.previous.as_deref().map_or(0, held)
}

impl State {
    /// Documents as they were at one revision, with nothing known of how they came to be.
    pub fn restored(documents: BTreeMap<String, Arc<Entry>>, compacted: Revision) -> State {
        State { documents, compacted, opened: compacted, ..State::default() }
    }

    /// All of it that is worth keeping.
    pub fn image(&self) -> Image {
        let base = |entry: &&Arc<Entry>| entry.revision <= self.compacted;
        let replaced = self.log.iter().filter_map(|event| event.previous.as_ref());
        Image {
            compacted: self.compacted,
            base: self.documents.values().chain(replaced).filter(base).cloned().collect(),
            events: self.log.iter().cloned().collect(),
        }
    }

    /// The newest revision.
    pub fn newest(&self) -> Revision {
        self.log.back().map_or(self.compacted, |event| event.revision)
    }

    /// Changes in the log, and the bytes that they hold at most.
    #[cfg(test)]
    pub fn log_size(&self) -> (usize, usize) {
        (self.log.len(), self.log_bytes)
    }

    /// The log, for tests of what it holds.
    #[cfg(test)]
    pub fn log(&self) -> impl Iterator<Item = &Event> {
        self.log.iter()
    }

    /// Up to where the log must be forgotten so that it keeps to these limits.
    pub fn beyond(&self, limits: Limits) -> Option<Revision> {
        let mut held = self.log_bytes;
        let mut count = 0;
        while self.log.len() - count > limits.events || (held > limits.bytes && count < self.log.len()) {
            held -= weight(&self.log[count]);
            count += 1;
        }
        (count > 0).then(|| self.compacted + count.max(TRIM.min(self.log.len() / 10)) as Revision)
    }

    /// The present document.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.documents.get(key).cloned()
    }

    /// The present documents under a prefix.
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Snapshot {
        let found = self.range(prefix, after).map(|(_, entry)| entry);
        page(self.newest(), found.cloned(), limit)
    }

    /// The documents under a prefix as they were at an older revision: the present ones with every later
    /// change undone.
    pub fn list_at(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Revision,
    ) -> Result<Snapshot, Error> {
        self.check_from(at)?;
        let mut changed: HashMap<&str, Option<&Arc<Entry>>> = HashMap::new();
        for event in self.log.iter().rev().take_while(|event| event.revision > at) {
            if event.entry.key.starts_with(prefix) {
                changed.insert(&event.entry.key, event.previous.as_ref());
            }
        }
        let mut view: BTreeMap<&str, Arc<Entry>> =
            self.range(prefix, after).map(|(key, entry)| (key.as_str(), entry.clone())).collect();
        for (key, before) in changed {
            match before {
                Some(entry) if after.is_none_or(|a| key > a) => view.insert(key, entry.apart()),
                _ => view.remove(key),
            };
        }
        Ok(page(at, view.into_values(), limit))
    }

    /// Whether the log can tell what came after this revision.
    pub fn check_from(&self, from: Revision) -> Result<(), Error> {
        if from < self.compacted || from > self.newest() { Err(self.expired(from)) } else { Ok(()) }
    }

    fn expired(&self, requested: Revision) -> Error {
        Error::Compacted { requested, oldest: self.compacted, newest: self.newest() }
    }

    /// What is known of the keys under `prefix`.
    fn collection(&self, prefix: &str) -> Collection {
        match collection(prefix) {
            None => Collection { changed: self.newest(), forgotten: self.compacted },
            Some(name) => self.collections.get(name).copied().unwrap_or_else(|| self.unknown()),
        }
    }

    /// How far somebody has followed `prefix` who has seen all its changes up to `position`.
    pub fn caught_up(&self, position: Revision, prefix: &str) -> Revision {
        if self.collection(prefix).changed <= position { self.newest().max(position) } else { position }
    }

    /// Appends to `out` the changes under `prefix` after `position`, looking at most at `most` of the log;
    /// answers the position reached, and whether that is the newest.
    ///
    /// # Errors
    /// When some of those changes are forgotten.
    pub fn after(
        &self,
        position: Revision,
        prefix: &str,
        most: usize,
        out: &mut VecDeque<Event>,
    ) -> Result<(Revision, bool), Error> {
        let known = self.collection(prefix);
        if known.changed <= position {
            return Ok((self.newest().max(position), true));
        }
        if known.forgotten > position {
            return Err(self.expired(position));
        }
        let position = position.max(self.compacted);
        let skip = usize::try_from(position - self.compacted).unwrap_or(usize::MAX);
        let mut reached = position;
        for (index, event) in self.log.iter().enumerate().skip(skip).take(most) {
            reached = event.revision;
            if event.entry.key.starts_with(prefix) {
                out.push_back(if self.is_fresh(index) { event.clone() } else { self.apart(event) });
            }
        }
        Ok((reached, reached == self.newest()))
    }

    fn is_fresh(&self, index: usize) -> bool {
        index + FRESH >= self.log.len()
    }

    /// The change with nothing parsed of any document but a present one.
    fn apart(&self, event: &Event) -> Event {
        let present = self.documents.get(&event.entry.key);
        let is_present = present.is_some_and(|present| Arc::ptr_eq(present, &event.entry));
        Event {
            entry: if is_present { event.entry.clone() } else { event.entry.apart() },
            previous: event.previous.as_ref().map(|previous| previous.apart()),
            ..*event
        }
    }

    /// Forgets what was parsed of a change of the log that is no longer fresh.
    fn settle(&mut self, index: usize) {
        if self.is_fresh(index) {
            return;
        }
        let Some(event) = self.log.get(index) else { return };
        let mut apart = self.apart(event);
        // What was there before is, where the log still tells of it, what an older change made.
        let older = apart.previous.as_ref().and_then(|previous| self.position(previous.revision));
        if let Some(older) = older {
            apart.previous = Some(self.log[older].entry.clone());
        }
        self.log[index] = apart;
    }

    /// Where in the log a revision is.
    fn position(&self, revision: Revision) -> Option<usize> {
        let index = usize::try_from(revision.checked_sub(self.compacted + 1)?).ok()?;
        (index < self.log.len()).then_some(index)
    }

    /// Makes durable changes visible.
    pub fn apply(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            if event.deleted {
                self.documents.remove(&event.entry.key);
            } else {
                self.documents.insert(event.entry.key.clone(), event.entry.clone());
            }
            let replaced = event.previous.as_ref().map(|previous| previous.revision);
            self.log_bytes += weight(&event);
            self.collection_of(&event).changed = event.revision;
            self.log.push_back(event);
            if let Some(aged) = self.log.len().checked_sub(FRESH + 1) {
                self.settle(aged);
            }
            // The change that made what is now replaced held it as a present document.
            if let Some(index) = replaced.and_then(|revision| self.position(revision)) {
                self.settle(index);
            }
        }
    }

    /// Forgets the log up to and including this revision; answers what was forgotten, for the caller to drop where
    /// nobody waits for it.
    pub fn compact(&mut self, revision: Revision) -> Vec<Event> {
        let mut forgotten = Vec::new();
        while let Some(event) = self.log.pop_front_if(|event| event.revision <= revision) {
            self.log_bytes -= weight(&event);
            self.compacted = event.revision;
            self.collection_of(&event).forgotten = event.revision;
            forgotten.push(event);
        }
        forgotten
    }

    fn collection_of(&mut self, event: &Event) -> &mut Collection {
        let name = collection(&event.entry.key).unwrap_or(&event.entry.key);
        let unknown = self.unknown();
        self.collections.entry(name.into()).or_insert(unknown)
    }

    /// What holds of a collection that has not changed since the file was opened.
    fn unknown(&self) -> Collection {
        Collection { changed: self.opened, forgotten: self.compacted.min(self.opened) }
    }

    fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&str>,
    ) -> impl Iterator<Item = (&'a String, &'a Arc<Entry>)> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.to_owned()),
            _ => Bound::Included(prefix.to_owned()),
        };
        self.documents.range((from, Bound::Unbounded)).take_while(move |(key, _)| key.starts_with(prefix))
    }
}

fn page(revision: Revision, mut found: impl Iterator<Item = Arc<Entry>>, limit: usize) -> Snapshot {
    if limit == 0 {
        return Snapshot { revision, entries: found.collect(), remaining: 0 };
    }
    let entries: Vec<_> = found.by_ref().take(limit).collect();
    Snapshot { revision, entries, remaining: found.count() }
}
