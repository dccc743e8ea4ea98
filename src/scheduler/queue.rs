//! The pods that wait for a node: the most important first, those that were refused once something may have changed.
//!
//! Source: Kubernetes `pkg/scheduler/backend/queue`. A pod that was refused is not tried again before an event that could
//! help it; one that is, is tried at once when nothing else is to be done, and after its back-off otherwise.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::filter::Plugin;

/// The first back-off of a pod.
const BACKOFF: Duration = Duration::from_secs(1);
/// The longest.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// The queue; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    wake: Notify,
}

/// The attempts to schedule a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tries {
    /// How many there were.
    pub count: u32,
    /// When the first was.
    pub first: Instant,
}

/// How many pods wait, and for what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pending {
    /// For their turn.
    pub active: usize,
    /// For the end of their back-off.
    pub backing_off: usize,
    /// For something that helps.
    pub refused: usize,
    /// For whoever holds them back.
    pub gated: usize,
}

/// The order in which pods are tried: by priority, then by age in the queue.
type Turn = (Reverse<i32>, u64, String);

#[derive(Debug, Default)]
struct State {
    entries: HashMap<String, Entry>,
    active: BTreeSet<Turn>,
    /// Refused ones that are to be tried again, by the end of their back-off.
    backing_off: BTreeSet<(Instant, String)>,
    /// Pods that are held back by gates, which are no entries.
    gated: HashSet<String>,
    count: u64,
}

#[derive(Debug)]
struct Entry {
    uid: String,
    priority: i32,
    /// When it came, as a number that grows.
    since: u64,
    attempts: u32,
    /// When it was tried first.
    first: Option<Instant>,
    /// When it was tried last.
    tried: Option<Instant>,
    stage: Stage,
}

#[derive(Debug, Clone, PartialEq)]
enum Stage {
    /// Its turn comes.
    Active,
    /// It is being tried.
    Tried,
    /// It is to be tried again: at the end of its back-off, or earlier when nothing else is to be done.
    BackingOff(Instant),
    /// Something failed: not before the end of its back-off.
    Failed(Instant),
    /// These refused it.
    Refused(BTreeSet<Plugin>),
}

impl Entry {
    fn backed_off(&self, now: Instant) -> Instant {
        let wait = BACKOFF.saturating_mul(1 << self.attempts.saturating_sub(1).min(10)).min(BACKOFF_MAX);
        self.tried.map_or(now, |tried| tried + wait)
    }
}

impl State {
    fn stage(&mut self, key: &str, stage: Stage) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let turn = (Reverse(entry.priority), entry.since, key.to_owned());
        match entry.stage {
            Stage::Active => drop(self.active.remove(&turn)),
            Stage::BackingOff(at) | Stage::Failed(at) => drop(self.backing_off.remove(&(at, key.to_owned()))),
            Stage::Tried | Stage::Refused(_) => {}
        }
        match stage {
            Stage::Active => drop(self.active.insert(turn)),
            Stage::BackingOff(at) | Stage::Failed(at) => drop(self.backing_off.insert((at, key.to_owned()))),
            Stage::Tried | Stage::Refused(_) => {}
        }
        entry.stage = stage;
    }

    /// Has a pod tried again: now, or at the end of its back-off.
    fn again(&mut self, key: &str, now: Instant) {
        let Some(at) = self.entries.get(key).map(|entry| entry.backed_off(now)) else { return };
        let stage = if at <= now { Stage::Active } else { Stage::BackingOff(at) };
        self.stage(key, stage);
    }

    /// The pod whose turn it is; else when the next back-off is over.
    fn next(&mut self, now: Instant) -> Result<String, Option<Instant>> {
        while let Some((at, key)) = self.backing_off.first().cloned() {
            if at > now {
                break;
            }
            self.stage(&key, Stage::Active);
        }
        let eager = |state: &State| {
            let keys = state.backing_off.iter().map(|(_, key)| key);
            let waits = |key: &&String| matches!(state.entries[*key].stage, Stage::BackingOff(_));
            keys.filter(waits).min_by_key(|key| Reverse(state.entries[*key].priority)).cloned()
        };
        let key = self.active.first().map(|(.., key)| key.clone()).or_else(|| eager(self));
        let Some(key) = key else { return Err(self.backing_off.first().map(|(at, _)| *at)) };
        self.stage(&key, Stage::Tried);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.attempts += 1;
            entry.first.get_or_insert(now);
            entry.tried = Some(now);
        }
        Ok(key)
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The attempts to schedule a pod that waits.
    pub fn tries(&self, key: &str) -> Option<Tries> {
        let state = self.state();
        let entry = state.entries.get(key)?;
        Some(Tries { count: entry.attempts, first: entry.first? })
    }

    /// Whether a pod is held back by gates.
    pub fn gate(&self, key: &str, gated: bool) {
        let mut state = self.state();
        match gated {
            true => _ = state.gated.insert(key.to_owned()),
            false => _ = state.gated.remove(key),
        }
    }

    /// How many wait.
    pub fn pending(&self) -> Pending {
        let state = self.state();
        let mut pending = Pending { gated: state.gated.len(), ..Pending::default() };
        for entry in state.entries.values() {
            match entry.stage {
                Stage::Active => pending.active += 1,
                Stage::BackingOff(_) | Stage::Failed(_) => pending.backing_off += 1,
                Stage::Refused(_) => pending.refused += 1,
                Stage::Tried => {}
            }
        }
        pending
    }

    /// Adds a pod, or takes note of its new form: a `changed` one is tried again.
    pub fn put(&self, key: &str, uid: &str, priority: i32, changed: bool) {
        let mut state = self.state();
        match state.entries.get(key) {
            Some(entry) if entry.uid == uid => {
                if changed && matches!(entry.stage, Stage::Refused(_)) {
                    state.again(key, Instant::now());
                }
            }
            _ => {
                // A pod of the same name that is another one begins anew.
                state.stage(key, Stage::Tried);
                state.count += 1;
                let since = state.count;
                let entry = Entry {
                    uid: uid.to_owned(),
                    priority,
                    since,
                    attempts: 0,
                    first: None,
                    tried: None,
                    stage: Stage::Tried,
                };
                state.entries.insert(key.to_owned(), entry);
                state.stage(key, Stage::Active);
            }
        }
        drop(state);
        self.shared.wake.notify_one();
    }

    /// Forgets a pod.
    pub fn remove(&self, key: &str) {
        let mut state = self.state();
        state.stage(key, Stage::Tried);
        state.entries.remove(key);
    }

    /// These refused the pod that was tried.
    pub fn refused(&self, key: &str, plugins: BTreeSet<Plugin>) {
        self.state().stage(key, Stage::Refused(plugins));
    }

    /// The pod that was tried met with a failure.
    pub fn failed(&self, key: &str) {
        let mut state = self.state();
        if let Some(at) = state.entries.get(key).map(|entry| entry.backed_off(Instant::now())) {
            state.stage(key, Stage::Failed(at));
        }
        drop(state);
        self.shared.wake.notify_one();
    }

    /// Has those refused pods tried again for whom something helps; it is asked with their keys and who refused them.
    pub fn helped(&self, helps: impl Fn(&str, &BTreeSet<Plugin>) -> bool) {
        let mut state = self.state();
        let refused = state.entries.iter().filter_map(|(key, entry)| match &entry.stage {
            Stage::Refused(plugins) if helps(key, plugins) => Some(key.clone()),
            _ => None,
        });
        for key in refused.collect::<Vec<_>>() {
            state.again(&key, Instant::now());
        }
        drop(state);
        self.shared.wake.notify_one();
    }

    /// The pods that wait.
    pub fn keys(&self) -> Vec<String> {
        self.state().entries.keys().cloned().collect()
    }

    /// The pod whose turn it is; afterwards it is to be removed, or to be said to be `refused` or `failed`.
    pub async fn next(&self) -> String {
        loop {
            let next = self.state().next(Instant::now());
            match next {
                Ok(key) => return key,
                Err(Some(at)) => tokio::select! {
                    () = self.shared.wake.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                Err(None) => self.shared.wake.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn nothing(queue: &Queue, seconds: u64) {
        let waited = tokio::time::timeout(Duration::from_secs(seconds), queue.next()).await;
        assert!(waited.is_err(), "{waited:?}");
    }

    fn refusers() -> BTreeSet<Plugin> {
        [Plugin::Resources].into()
    }

    #[tokio::test(start_paused = true)]
    async fn the_most_important_come_first_and_then_the_oldest() {
        let queue = Queue::default();
        for (key, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            queue.put(key, key, priority, false);
        }
        let mut order = Vec::new();
        for _ in 0..4 {
            order.push(queue.next().await);
        }
        assert_eq!(order, ["b", "d", "a", "c"]);
        nothing(&queue, 100).await;
    }

    #[tokio::test(start_paused = true)]
    async fn refused_pods_wait_for_what_helps() {
        let queue = Queue::default();
        queue.put("a", "1", 0, false);
        queue.refused(&queue.next().await, refusers());
        nothing(&queue, 3600).await;
        queue.helped(|_, plugins| plugins.contains(&Plugin::Ports));
        nothing(&queue, 100).await;
        queue.put("a", "1", 0, false);
        nothing(&queue, 100).await;
        queue.helped(|key, plugins| key == "a" && plugins.contains(&Plugin::Resources));
        queue.refused(&queue.next().await, refusers());
        queue.put("a", "1", 0, true);
        assert_eq!(queue.next().await, "a", "its own change helps");
        queue.refused("a", refusers());
        queue.put("a", "2", 0, false);
        assert_eq!(queue.next().await, "a", "it is another pod");
        queue.remove("a");
        queue.helped(|_, _| true);
        nothing(&queue, 100).await;
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_back_off_let_others_go_first_and_failed_ones_wait() {
        let queue = Queue::default();
        queue.put("a", "1", 9, false);
        queue.refused(&queue.next().await, refusers());
        queue.helped(|_, _| true);
        queue.put("b", "1", 0, false);
        assert_eq!(queue.next().await, "b");
        assert_eq!(queue.next().await, "a", "nothing else is to be done");
        for expected in [2, 4, 8, 10, 10] {
            let from = Instant::now();
            queue.failed("a");
            assert_eq!(queue.next().await, "a");
            assert_eq!(from.elapsed().as_secs(), expected);
        }
    }
}
