//! A work queue of keys: a key waits once however often it is added, is never worked on twice at a time, can
//! be added for later, and backs off after failures.

use std::time::Duration;

/// The queue; cheap to clone.
#[derive(Clone)]
pub struct Queue {}

impl Queue {
    /// An empty queue; retries of a failing key wait `base`, doubling up to `max`.
    pub fn new(_base: Duration, _max: Duration) -> Queue {
        Queue {}
    }

    /// Adds a key now.
    pub fn add(&self, _key: &str) {
        todo!()
    }

    /// Adds a key after a while; an earlier time already set stays.
    pub fn add_after(&self, _key: &str, _after: Duration) {
        todo!()
    }

    /// The next key to work on; hold it until done, then call `done` or `retry`.
    pub async fn next(&self) -> String {
        todo!()
    }

    /// The key's work succeeded.
    pub fn done(&self, _key: &str) {
        todo!()
    }

    /// The key's work failed: try again after its back-off.
    pub fn retry(&self, _key: &str) {
        todo!()
    }
}
