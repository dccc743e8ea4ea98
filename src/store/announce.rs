//! Who follows changes is woken by those of its collection alone: a cluster has a hundred followers, and each change concerns
//! a few of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::memory::collection;
use super::{Event, Revision};

/// Says to followers that there is something new.
pub struct Announcer(Mutex<Senders>);

/// None of it is left once the store has ended, which followers then hear.
#[derive(Default)]
struct Senders {
    everything: Option<watch::Sender<Revision>>,
    collections: HashMap<Box<str>, watch::Sender<Revision>>,
}

impl Announcer {
    /// For a store at this revision.
    pub fn new(newest: Revision) -> Announcer {
        let everything = Some(watch::Sender::new(newest));
        Announcer(Mutex::new(Senders { everything, ..Senders::default() }))
    }

    /// Hears of changes under `prefix` from now on, of others of its collection too; fails once the store has ended.
    pub fn subscribe(&self, prefix: &str) -> watch::Receiver<Revision> {
        let mut senders = self.lock();
        match (&senders.everything, collection(prefix)) {
            // The sender is gone at once.
            (None, _) => watch::channel(0).1,
            (Some(everything), None) => everything.subscribe(),
            (Some(_), Some(name)) => {
                senders.collections.entry(name.into()).or_insert_with(|| watch::Sender::new(0)).subscribe()
            }
        }
    }

    /// These changes are visible.
    pub fn announce(&self, events: &[Event]) {
        let Some(newest) = events.last().map(|event| event.revision) else { return };
        let senders = self.lock();
        let changed: BTreeSet<&str> =
            events.iter().filter_map(|event| collection(&event.entry.key)).collect();
        for sender in changed.iter().filter_map(|name| senders.collections.get(*name)) {
            sender.send_replace(newest);
        }
        if let Some(everything) = &senders.everything {
            everything.send_replace(newest);
        }
    }

    /// The store has ended.
    pub fn close(&self) {
        *self.lock() = Senders::default();
    }

    fn lock(&self) -> MutexGuard<'_, Senders> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
