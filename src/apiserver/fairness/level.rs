//! One priority level: so many requests at a time, and turns for the flows that wait.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// How long a request may wait: a quarter of what it may last.
const PATIENCE: Duration = Duration::from_secs(15);

/// How many requests of a level may do what at a time.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Be carried out.
    pub running: usize,
    /// Wait, of one flow.
    pub flow: usize,
    /// Wait, of all flows.
    pub waiting: usize,
}

/// A level with its requests.
#[derive(Debug, Default)]
pub struct Level {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    limits: Limits,
    running: usize,
    /// Those who wait, by their flows, and those who have given up but still stand there.
    waiting: HashMap<String, VecDeque<oneshot::Sender<Permit>>>,
    /// How many these are.
    count: usize,
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
    /// A level with these limits.
    pub fn new(limits: Limits) -> Arc<Level> {
        Arc::new(Level { state: Mutex::new(State { limits, ..State::default() }) })
    }

    /// Gives it other limits. Who waits stays, and is let in where there is room now.
    pub fn set(self: &Arc<Self>, limits: Limits) {
        loop {
            let next = {
                let mut state = self.state();
                state.limits = limits;
                if state.running >= limits.running {
                    return;
                }
                let Some(next) = state.next() else { return };
                state.running += 1;
                next
            };
            // Whoever has gone gives the place back as the permit is dropped.
            drop(next.send(Permit(Some(self.clone()))));
        }
    }

    /// Waits for the turn of a request; `None` when there is no place to wait, or it lasts too long.
    pub async fn enter(self: &Arc<Self>, flow: &str) -> Option<Permit> {
        let turn = {
            let mut state = self.state();
            if state.running < state.limits.running {
                state.running += 1;
                return Some(Permit(Some(self.clone())));
            }
            state.wait(flow)?
        };
        // A permit that arrives when nobody waits for it any more is passed on as it is dropped.
        tokio::time::timeout(PATIENCE, turn).await.ok()?.ok()
    }

    /// Gives the place of a request that ended to the next that waits.
    fn pass_on(self: &Arc<Self>) {
        loop {
            let next = {
                let mut state = self.state();
                // A level that was made smaller shrinks as requests end.
                let next = if state.running > state.limits.running { None } else { state.next() };
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
    /// A place among those who wait; `None` when there is none.
    fn wait(&mut self, flow: &str) -> Option<oneshot::Receiver<Permit>> {
        // Who gave up waiting has no place.
        if self.count >= self.limits.waiting {
            self.waiting.values_mut().for_each(|queue| queue.retain(|turn| !turn.is_closed()));
            self.waiting.retain(|_, queue| !queue.is_empty());
            self.turns.retain(|flow| self.waiting.contains_key(flow));
            self.count = self.waiting.values().map(VecDeque::len).sum();
        } else if let Some(queue) = self.waiting.get_mut(flow) {
            let before = queue.len();
            queue.retain(|turn| !turn.is_closed());
            self.count -= before - queue.len();
        }
        let own = self.waiting.get(flow).map_or(0, VecDeque::len);
        if self.count >= self.limits.waiting || own >= self.limits.flow {
            return None;
        }
        let (send, turn) = oneshot::channel();
        if !self.waiting.contains_key(flow) {
            self.turns.push_back(flow.to_owned());
        }
        self.waiting.entry(flow.to_owned()).or_default().push_back(send);
        self.count += 1;
        Some(turn)
    }

    /// The oldest request of the flow whose turn it is; its next one comes after those of all others.
    fn next(&mut self) -> Option<oneshot::Sender<Permit>> {
        while let Some(flow) = self.turns.pop_front() {
            let Some(queue) = self.waiting.get_mut(&flow) else { continue };
            let next = queue.pop_front();
            self.count -= usize::from(next.is_some());
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
        let level = Level::new(Limits { running: 1, flow: 3, waiting: 9 });
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
    #[tokio::test(start_paused = true)]
    async fn limits_change_under_those_who_wait() {
        let level = Level::new(Limits { running: 0, flow: 2, waiting: 3 });
        let mut waiting: Vec<_> = ["a", "a", "b"].map(|flow| Box::pin(level.enter(flow))).into();
        for turn in &mut waiting {
            assert!(turn.as_mut().now_or_never().is_none());
        }
        assert!(level.enter("c").await.is_none(), "all places are taken");
        // One who gives up leaves a place.
        drop(waiting.pop());
        let mut third = Box::pin(level.enter("c"));
        assert!(third.as_mut().now_or_never().is_none());
        level.set(Limits { running: 2, flow: 2, waiting: 3 });
        let first = waiting[0].as_mut().now_or_never().flatten().unwrap();
        let last = third.as_mut().now_or_never().flatten().unwrap();
        level.set(Limits { running: 1, flow: 2, waiting: 3 });
        drop(first);
        assert!(waiting[1].as_mut().now_or_never().is_none(), "there is room for one alone");
        drop(last);
        assert!(waiting[1].as_mut().now_or_never().flatten().is_some());
        let state = level.state();
        assert_eq!((state.running, state.count), (0, 0));
    }
}
