//! All that a store file has to tell, at one revision.

use std::sync::Arc;

use super::{Entry, Event, Revision};

/// The documents at the revision where the log begins, and the log.
#[derive(Debug, Default, Clone)]
pub struct Image {
    /// The newest revision that the log no longer holds.
    pub compacted: Revision,
    /// The documents as they were at that revision.
    pub base: Vec<Arc<Entry>>,
    /// Every change after it.
    pub events: Vec<Event>,
}

impl Image {
    /// About how many bytes it takes to tell.
    pub fn weight(&self) -> u64 {
        // The numbers of a record, and what fills it up.
        const NUMBERS: usize = 40;
        let entries = self.base.iter().chain(self.events.iter().map(|event| &event.entry));
        entries.map(|entry| (NUMBERS + entry.key.len() + entry.bytes.len()) as u64).sum()
    }
}
