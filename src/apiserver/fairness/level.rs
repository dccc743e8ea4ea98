//! One priority level: so many requests at a time, and turns for the flows that wait.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// How many requests of one flow may wait.
pub const QUEUE: usize = 50;
/// How long a request may wait: a quarter of what it may last.
const PATIENCE: Duration = Duration::from_secs(15);

/// A level with its requests.
#[derive(Debug)]
pub struct Level {
    limit: usize,
    queue: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    waiting: HashMap<String, VecDeque<oneshot::Sender<Permit>>>,
    /// The flows with waiting requests, the next one first.
    turns: VecDeque<String>,
}

/// The right of one request to be carried out; it ends when this is dropped.
#[derive(Debug)]
pub struct Permit(Option<Arc<Level>>);

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(level) = self.0.take() {
            level.pass_on();
        }
    }
}

impl Level {
    /// A level that carries out `limit` requests at a time and lets `queue` of each flow wait.
    pub fn new(limit: usize, queue: usize) -> Arc<Level> {
        Arc::new(Level { limit, queue, state: Mutex::default() })
    }

    /// Waits for the turn of a request; `None` when there is no place to wait, or it lasts too long.
    pub async fn enter(self: &Arc<Self>, flow: &str) -> Option<Permit> {
        let turn = {
            let mut state = self.state();
            if state.running < self.limit {
                state.running += 1;
                return Some(Permit(Some(self.clone())));
            }
            // Who gave up waiting has no place.
            if let Some(waiting) = state.waiting.get_mut(flow) {
                waiting.retain(|turn| !turn.is_closed());
            }
            if state.waiting.get(flow).map_or(0, VecDeque::len) >= self.queue {
                return None;
            }
            let (send, turn) = oneshot::channel();
            if !state.waiting.contains_key(flow) {
                state.turns.push_back(flow.to_owned());
            }
            state.waiting.entry(flow.to_owned()).or_default().push_back(send);
            turn
        };
        // A permit that arrives when nobody waits for it any more is passed on as it is dropped.
        tokio::time::timeout(PATIENCE, turn).await.ok()?.ok()
    }

    /// Gives the place of a request that ended to the next that waits.
    fn pass_on(self: &Arc<Self>) {
        loop {
            let next = {
                let mut state = self.state();
                let next = state.next();
                if next.is_none() {
                    state.running -= 1;
                }
                next
            };
            let Some(next) = next else { return };
            match next.send(Permit(Some(self.clone()))) {
                Ok(()) => return,
                // Whoever waited has gone.
                Err(mut refused) => refused.0 = None,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The oldest request of the flow whose turn it is; its next one comes after those of all others.
    fn next(&mut self) -> Option<oneshot::Sender<Permit>> {
        while let Some(flow) = self.turns.pop_front() {
            let Some(queue) = self.waiting.get_mut(&flow) else { continue };
            let next = queue.pop_front();
            if queue.is_empty() {
                self.waiting.remove(&flow);
            } else {
                self.turns.push_back(flow);
            }
            if next.is_some() {
                return next;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test(start_paused = true)]
    async fn flows_take_turns() {
        let level = Level::new(1, 3);
        let first = level.enter("greedy").await.unwrap();
        let mut waiting: Vec<_> =
            ["greedy", "greedy", "greedy", "modest"].map(|flow| Box::pin(level.enter(flow))).into();
        for turn in &mut waiting {
            assert!(turn.as_mut().now_or_never().is_none());
        }
        assert!(level.enter("greedy").await.is_none(), "there is no place for a fourth");
        drop(first);
        // The greedy one came first, but then it is the turn of the modest one.
        let second = waiting[0].as_mut().now_or_never().flatten().unwrap();
        assert!(waiting[3].as_mut().now_or_never().is_none());
        drop(second);
        assert!(waiting[1].as_mut().now_or_never().is_none());
        let third = waiting[3].as_mut().now_or_never().flatten().unwrap();
        // Whoever goes away loses the turn to the next.
        let mut last = waiting.swap_remove(2);
        waiting.truncate(1);
        drop(third);
        let fourth = last.as_mut().now_or_never().flatten();
        assert!(fourth.is_some());
        assert!(level.enter("modest").await.is_none(), "nobody waits longer than it is worth");
        drop(fourth);
        assert!(level.enter("modest").now_or_never().flatten().is_some());
        assert_eq!(level.state().running, 0);
    }
}
