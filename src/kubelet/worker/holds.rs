//! Actions that were tried lately and must not be tried again at once.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use crate::kubelet::backoff::Backoff;
use crate::kubelet::plan::{Action, Plan, sooner};
use crate::kubelet::pod::image_of;

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
    why: Why,
}

#[derive(Debug)]
enum Why {
    /// It went well.
    Done,
    /// It failed.
    Failed(Backoff),
    /// This image could not be fetched.
    Pull(String),
}

impl Holds {
    /// Takes out of a pod's plan what must wait, and wakes it when that may be tried; answers what was taken out.
    pub fn apply(&mut self, plan: &mut Plan, pod: &Pod, now: Instant) -> Vec<Action> {
        self.actions.retain(|action, hold| match (&hold.why, action) {
            // What went well may be undone and wanted again at once: that must not go round without a pause.
            (Why::Done, _) if hold.until > now => true,
            // Another image need not wait for what was wrong with this one.
            (Why::Pull(image), Action::Start { container, .. }) if image != image_of(pod, container) => false,
            _ => plan.actions.contains(action) || plan.pulling.contains(action),
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
        self.actions.insert(action, Hold { until: now + SETTLE, why: Why::Done });
    }

    /// An action failed.
    pub fn failed(&mut self, action: Action, now: Instant) {
        let mut backoff = match self.actions.get(&action) {
            Some(Hold { why: Why::Failed(backoff), .. }) => *backoff,
            _ => Backoff::quick(),
        };
        backoff.grow(now, now);
        self.actions.insert(action, Hold { until: now + backoff.delay(), why: Why::Failed(backoff) });
    }

    /// A start failed because this image could not be fetched.
    pub fn failed_pull(&mut self, action: Action, image: &str, now: Instant) {
        let (backoff, until) = self.pulls.entry(image.to_owned()).or_insert((Backoff::slow(), now));
        // Containers with the same image fail side by side: that is one failure.
        if *until <= now {
            backoff.grow(now, now);
            *until = now + backoff.delay();
        }
        self.actions.insert(action, Hold { until: *until, why: Why::Pull(image.to_owned()) });
    }

    /// An image is here.
    pub fn pulled(&mut self, image: &str) {
        self.pulls.remove(image);
    }

    /// An object that the pod refers to changed: starts may go well.
    pub fn release(&mut self) {
        let may_go_well = |action: &Action, hold: &Hold| {
            matches!(action, Action::Start { .. }) && matches!(hold.why, Why::Failed(_))
        };
        self.actions.retain(|action, hold| !may_go_well(action, hold));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A pod whose containers have this image.
    fn pod(image: &str) -> Pod {
        let containers = ["a", "b", "c"].map(|name| json!({"name": name, "image": image}));
        serde_json::from_value(json!({"metadata": {}, "spec": {"containers": containers}})).unwrap()
    }

    fn create() -> Action {
        Action::CreateSandbox { attempt: 0 }
    }

    fn start(name: &str) -> Action {
        Action::Start { container: name.into(), attempt: 0 }
    }

    /// What is left to wait, in seconds.
    fn wait(holds: &mut Holds, action: &Action, now: Instant) -> Option<u64> {
        let mut plan = Plan { actions: vec![action.clone()], ..Plan::default() };
        let held = holds.apply(&mut plan, &pod("img"), now);
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
        holds.apply(&mut Plan::default(), &pod("img"), now);
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
        holds.apply(&mut Plan::default(), &pod("img"), now);
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

    #[test]
    fn a_pull_under_way_forgets_no_failure() {
        let (mut holds, now) = (Holds::default(), Instant::now());
        holds.failed(start("a"), now);
        holds.failed(start("a"), now);
        let mut plan = Plan { pulling: vec![start("a")], ..Plan::default() };
        assert!(holds.apply(&mut plan, &pod("img"), now + Duration::from_secs(2)).is_empty());
        assert_eq!(plan.pulling, [start("a")]);
        holds.failed(start("a"), now);
        assert_eq!(wait(&mut holds, &start("a"), now), Some(4));
    }

    #[test]
    fn another_image_or_failure_does_not_wait_for_the_old_image() {
        let (mut holds, now) = (Holds::default(), Instant::now());
        holds.failed_pull(start("a"), "img", now);
        assert_eq!(wait(&mut holds, &start("a"), now), Some(10));
        let later = now + Duration::from_secs(10);
        holds.failed(start("a"), later);
        assert_eq!(wait(&mut holds, &start("a"), later), Some(1));
        holds.failed_pull(start("a"), "img", later);
        let mut plan = Plan { actions: vec![start("a")], ..Plan::default() };
        assert!(holds.apply(&mut plan, &pod("other"), later).is_empty());
        assert_eq!(plan.actions, [start("a")]);
    }
}
