//! Actions that were tried lately and must not be tried again at once.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::kubelet::backoff::Backoff;
use crate::kubelet::plan::{Action, Plan, sooner};

/// How soon an action may be repeated that was carried out and yet is wanted again.
const SETTLE: Duration = Duration::from_secs(1);

/// What is held back, and for how long.
#[derive(Debug, Default)]
pub struct Holds {
    actions: HashMap<Action, Hold>,
    /// By image.
    pulls: HashMap<String, (Backoff, Instant)>,
}

#[derive(Debug)]
struct Hold {
    until: Instant,
    /// Of failures; none when it went well.
    backoff: Option<Backoff>,
    /// Whether the objects that the pod refers to may be the reason.
    by_reference: bool,
}

impl Holds {
    /// Takes out of a plan what must wait, and wakes it when that may be tried; answers what was taken out.
    pub fn apply(&mut self, plan: &mut Plan, now: Instant) -> Vec<Action> {
        // What went well may be undone and wanted again at once: that must not go round without a pause.
        self.actions.retain(|action, hold| {
            plan.actions.contains(action) || hold.backoff.is_none() && hold.until > now
        });
        let mut held = Vec::new();
        for action in std::mem::take(&mut plan.actions) {
            match self.actions.get(&action).and_then(|hold| hold.until.checked_duration_since(now)) {
                Some(left) if !left.is_zero() => {
                    sooner(&mut plan.wake, left);
                    held.push(action);
                }
                _ => plan.actions.push(action),
            }
        }
        held
    }

    /// An action was carried out.
    pub fn done(&mut self, action: Action, now: Instant) {
        let hold = Hold { until: now + SETTLE, backoff: None, by_reference: false };
        self.actions.insert(action, hold);
    }

    /// An action failed.
    pub fn failed(&mut self, action: Action, now: Instant) {
        let by_reference = matches!(action, Action::Start { .. });
        let before = self.actions.get(&action).and_then(|hold| hold.backoff);
        let mut backoff = before.unwrap_or_else(Backoff::quick);
        backoff.grow(now, now);
        self.actions
            .insert(action, Hold { until: now + backoff.delay(), backoff: Some(backoff), by_reference });
    }

    /// A start failed because this image could not be fetched.
    pub fn failed_pull(&mut self, action: Action, image: &str, now: Instant) {
        let (backoff, until) = self.pulls.entry(image.to_owned()).or_insert((Backoff::slow(), now));
        // Containers with the same image fail side by side: that is one failure.
        if *until <= now {
            backoff.grow(now, now);
            *until = now + backoff.delay();
        }
        let hold = Hold { until: *until, backoff: Some(*backoff), by_reference: false };
        self.actions.insert(action, hold);
    }

    /// An image is here.
    pub fn pulled(&mut self, image: &str) {
        self.pulls.remove(image);
    }

    /// An object that the pod refers to changed: starts may go well.
    pub fn release(&mut self) {
        self.actions.retain(|_, hold| !hold.by_reference);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create() -> Action {
        Action::CreateSandbox { attempt: 0 }
    }

    fn start(name: &str) -> Action {
        Action::Start { container: name.into(), attempt: 0 }
    }

    /// What is left to wait, in seconds.
    fn wait(holds: &mut Holds, action: &Action, now: Instant) -> Option<u64> {
        let mut plan = Plan { actions: vec![action.clone()], ..Plan::default() };
        let held = holds.apply(&mut plan, now);
        assert_eq!(held.len() + plan.actions.len(), 1);
        plan.wake.map(|left| left.as_secs())
    }

    #[test]
    fn failures_wait_longer_each_time_until_they_are_no_longer_wanted() {
        let (mut holds, now) = (Holds::default(), Instant::now());
        assert_eq!(wait(&mut holds, &create(), now), None);
        for expected in [1, 2, 4, 8, 16, 32, 64, 120, 120] {
            holds.failed(create(), now);
            assert_eq!(wait(&mut holds, &create(), now), Some(expected));
            assert_eq!(wait(&mut holds, &create(), now + Duration::from_secs(expected)), None);
        }
        holds.apply(&mut Plan::default(), now);
        assert_eq!(wait(&mut holds, &create(), now), None);
    }

    #[test]
    fn what_was_done_is_not_done_again_at_once() {
        let (mut holds, now) = (Holds::default(), Instant::now());
        let kill = Action::Kill { id: "a".into() };
        for _ in 0..3 {
            holds.done(kill.clone(), now);
            assert_eq!(wait(&mut holds, &kill, now), Some(1));
        }
        // Not even when it was undone meanwhile: a sandbox that dies as often as it is made.
        holds.done(create(), now);
        holds.apply(&mut Plan::default(), now);
        assert_eq!(wait(&mut holds, &create(), now), Some(1));
        assert_eq!(wait(&mut holds, &create(), now + SETTLE), None);
    }

    #[test]
    fn pulls_wait_by_image_and_only_other_starts_are_released() {
        let (mut holds, now) = (Holds::default(), Instant::now());
        holds.failed_pull(start("a"), "img", now);
        holds.failed_pull(start("b"), "img", now);
        assert_eq!(wait(&mut holds, &start("b"), now), Some(10));
        let later = now + Duration::from_secs(10);
        holds.failed_pull(start("b"), "img", later);
        holds.release();
        assert_eq!(wait(&mut holds, &start("b"), later), Some(20));
        holds.failed(start("c"), later);
        holds.release();
        assert_eq!(wait(&mut holds, &start("c"), later), None);
    }
}
