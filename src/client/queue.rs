//! A work queue of keys: a key waits once however often it is added, is never worked on twice at a time, can
//! be added for later, and backs off after failures.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::api::histogram::{Bounds, Histogram, NANOS};

/// Upper bounds of how long keys wait and are worked on.
static DURATIONS: Bounds = Bounds {
    upper: &[
        10,
        100,
        1_000,
        10_000,
        100_000,
        1_000_000,
        10_000_000,
        100_000_000,
        NANOS,
        10 * NANOS,
        100 * NANOS,
        1000 * NANOS,
    ],
    unit: NANOS,
};

/// Nobody waits longer: whoever is woken early looks again, and a sum beyond the clock's end would be none.
const LONGEST: Duration = Duration::from_hours(24 * 365);

/// The queue; cheap to clone.
#[derive(Debug, Clone)]
pub struct Queue {
    shared: Arc<Shared>,
}

/// What a queue holds at a moment, and what it has done until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Keys whose turn comes.
    pub depth: usize,
    /// How often a key was added that did not wait already.
    pub adds: u64,
    /// How often a key was put off after a failure.
    pub retries: u64,
    /// How long all that is worked on is being worked on, together.
    pub unfinished: Duration,
    /// How long the one is that takes longest.
    pub longest: Duration,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// How long keys wait for their turn.
    waits: Histogram,
    /// How long they are worked on.
    works: Histogram,
    wake: Notify,
    base: Duration,
    max: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// Each with the time since when it waits.
    ready: VecDeque<(String, Instant)>,
    /// Keys in `ready`, and keys to be worked on again when their present work is done.
    wanted: HashSet<String>,
    /// Each with the time since when it is worked on.
    working: HashMap<String, Instant>,
    later: BTreeSet<(Instant, String)>,
    due: HashMap<String, Instant>,
    failures: HashMap<String, u32>,
    adds: u64,
    retries: u64,
}

impl State {
    fn add(&mut self, key: &str) {
        if let Some(at) = self.due.remove(key) {
            self.later.remove(&(at, key.to_owned()));
        }
        if !self.wanted.insert(key.to_owned()) {
            return;
        }
        self.adds += 1;
        if !self.working.contains_key(key) {
            self.ready.push_back((key.to_owned(), Instant::now()));
        }
    }

    fn add_at(&mut self, key: &str, at: Instant) {
        match self.due.get(key) {
            Some(due) if *due <= at => return,
            Some(due) => {
                self.later.remove(&(*due, key.to_owned()));
            }
            None => {}
        }
        self.due.insert(key.to_owned(), at);
        self.later.insert((at, key.to_owned()));
    }

    /// Moves what is due to the ready keys; answers when the next one will be.
    fn promote(&mut self, now: Instant) -> Option<Instant> {
        while let Some((at, key)) = self.later.first().cloned() {
            if at > now {
                return Some(at);
            }
            self.add(&key);
        }
        None
    }

    /// Ends the work on a key; since when it went on.
    fn finish(&mut self, key: &str) -> Option<Instant> {
        let since = self.working.remove(key);
        if self.wanted.contains(key) {
            self.ready.push_back((key.to_owned(), Instant::now()));
        }
        since
    }
}

impl Queue {
    /// An empty queue; retries of a failing key wait `base`, doubling up to `max`.
    pub fn new(base: Duration, max: Duration) -> Queue {
        let (waits, works) = (Histogram::new(&DURATIONS), Histogram::new(&DURATIONS));
        let shared = Shared { state: Mutex::default(), waits, works, wake: Notify::new(), base, max };
        Queue { shared: Arc::new(shared) }
    }

    /// What it holds now.
    pub fn standing(&self) -> Standing {
        let (state, now) = (self.state(), Instant::now());
        let ages = || state.working.values().map(|since| now.duration_since(*since));
        Standing {
            depth: state.ready.len(),
            adds: state.adds,
            retries: state.retries,
            unfinished: ages().sum(),
            longest: ages().max().unwrap_or_default(),
        }
    }

    /// How long keys have waited for their turn, and how long they were worked on.
    pub fn durations(&self) -> (&Histogram, &Histogram) {
        (&self.shared.waits, &self.shared.works)
    }

    fn worked(&self, since: Option<Instant>) {
        if let Some(since) = since {
            self.shared.works.took(since.elapsed());
        }
        self.shared.wake.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a key now.
    pub fn add(&self, key: &str) {
        self.state().add(key);
        self.shared.wake.notify_one();
    }

    /// Adds a key after a while; an earlier time already set stays.
    pub fn add_after(&self, key: &str, after: Duration) {
        let after = after.min(LONGEST);
        self.state().add_at(key, Instant::now() + after);
        self.shared.wake.notify_one();
    }

    /// The next key to work on; hold it until done, then call `done` or `retry`.
    pub async fn next(&self) -> String {
        loop {
            let due = {
                let (mut state, now) = (self.state(), Instant::now());
                let due = state.promote(now);
                if let Some((key, since)) = state.ready.pop_front() {
                    self.shared.waits.took(now.saturating_duration_since(since));
                    state.wanted.remove(&key);
                    state.working.insert(key.clone(), now);
                    if !state.ready.is_empty() {
                        // Another worker may be waiting for what is left.
                        self.shared.wake.notify_one();
                    }
                    return key;
                }
                due
            };
            match due {
                Some(at) => tokio::select! {
                    () = self.shared.wake.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => self.shared.wake.notified().await,
            }
        }
    }

    /// The key's work succeeded.
    pub fn done(&self, key: &str) {
        let mut state = self.state();
        state.failures.remove(key);
        let since = state.finish(key);
        drop(state);
        self.worked(since);
    }

    /// The key's work failed: try again after its back-off.
    pub fn retry(&self, key: &str) {
        let mut state = self.state();
        let failures = state.failures.entry(key.to_owned()).or_default();
        let wait = self.shared.base.saturating_mul(1 << (*failures).min(20)).min(self.shared.max);
        *failures += 1;
        state.retries += 1;
        state.add_at(key, Instant::now() + wait);
        let since = state.finish(key);
        drop(state);
        self.worked(since);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Queue {
        Queue::new(Duration::from_secs(1), Duration::from_secs(4))
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_is_never_worked_on_twice() {
        let queue = queue();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert_eq!(queue.next().await, "b");
        let nothing = tokio::time::timeout(Duration::from_secs(60), queue.next()).await;
        assert!(nothing.is_err());
        queue.done("a");
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_and_success_forgets_them() {
        let queue = queue();
        queue.add("a");
        for expected in [1, 2, 4, 4] {
            let key = queue.next().await;
            let from = Instant::now();
            queue.retry(&key);
            assert_eq!(queue.next().await, "a");
            assert_eq!(from.elapsed().as_secs(), expected);
            queue.state().finish("a");
            queue.add("a");
        }
        queue.next().await;
        queue.done("a");
        queue.add_after("never", Duration::MAX);
        queue.add_after("a", Duration::from_secs(9));
        queue.add_after("a", Duration::from_secs(5));
        let from = Instant::now();
        assert_eq!(queue.next().await, "a");
        assert_eq!(from.elapsed().as_secs(), 5);
    }
}
