//! What a pod that is to run needs next (pure).

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde_json::json;
use tokio::time::Instant;

use super::ends::{Ending, end, grace_for, stop};
use super::policy::{RestartPolicy, comes_back, is_sidecar};
use super::{Action, KillReason, Memory, Outcome, Plan, grace_of, runs, sooner};
use crate::kubelet::observed::{
    Ailment, History, ObservedContainer, ObservedPod, UNSEEN, fingerprint, history,
};
use crate::kubelet::pod::ephemeral;
use crate::kubelet::resize::{Resize, is_other_whole, resize, restarts_with_whole};

/// What a pod whose containers are to run needs.
pub(super) fn run(
    pod: &Pod,
    spec: &PodSpec,
    observed: &ObservedPod,
    memory: &Memory,
    now: Instant,
    plan: &mut Plan,
) {
    if let Some(outcome) = outcome(pod, spec, observed, memory) {
        let newest = spec.containers.iter().filter_map(|c| observed.newest(&c.name));
        let ended = newest.filter_map(|c| memory.ended.get(&c.id)).max();
        let grace = grace_of(spec);
        let left = ended.map_or(grace, |at| grace.saturating_sub(now.duration_since(*at)));
        return stop(pod, spec, observed, (memory, now), (grace, left), outcome, plan);
    }
    match &observed.sandbox {
        Some(sandbox) if sandbox.alive => {
            if is_other_whole(sandbox.whole.as_ref(), spec.resources.as_ref()) {
                let (id, to) = (sandbox.id.clone(), json!(spec.resources).to_string());
                plan.actions.push(Action::ResizePod { id, to });
            }
        }
        Some(sandbox) => {
            plan.actions.push(Action::RemoveSandbox { id: sandbox.id.clone() });
            return;
        }
        None => {
            plan.actions.push(Action::CreateSandbox { attempt: 0 });
            return;
        }
    }
    for container in old_attempts(observed) {
        plan.actions.push(container);
    }
    let keep = Keep { pod, spec, observed, memory, now };
    // These wait for nothing, run once, and count for nothing.
    for container in ephemeral(pod) {
        if history(pod, observed, &container.name) == History::Never {
            keep.start(&container.name, 0, plan);
        }
    }
    if !keep.initialized(plan) {
        return;
    }
    let mut held = false;
    for container in &spec.containers {
        keep.running(container, held, plan);
        held |= keep.holds(container, plan);
    }
}

/// What keeping a container running needs to know.
struct Keep<'a> {
    pod: &'a Pod,
    spec: &'a PodSpec,
    observed: &'a ObservedPod,
    memory: &'a Memory,
    now: Instant,
}

impl Keep<'_> {
    /// Brings the pod through its sequence of init containers; `true` when its own containers may run. What an
    /// earlier sandbox did counts for nothing: init containers run again in a new one.
    fn initialized(&self, plan: &mut Plan) -> bool {
        let before = self.spec.containers.iter().any(|c| self.observed.newest(&c.name).is_some());
        for container in self.spec.init_containers.iter().flatten() {
            if is_sidecar(container) {
                self.running(container, false, plan);
                let up = self.observed.newest(&container.name).is_some_and(|c| runs(c) && c.health.is_up());
                if !up && !before {
                    return false;
                }
                continue;
            }
            match history(self.pod, self.observed, &container.name) {
                _ if before => {}
                History::Exited { code: 0, .. } => {}
                History::Running { .. } => return false,
                History::Never => {
                    self.start(&container.name, 0, plan);
                    return false;
                }
                History::Before { attempt, .. } | History::Exited { attempt, .. } => {
                    self.start(&container.name, attempt + 1, plan);
                    return false;
                }
            }
        }
        true
    }

    /// Whether the containers that come after this one must not start yet: its postStart hook comes first.
    fn holds(&self, container: &Container, plan: &Plan) -> bool {
        let starts =
            |action: &Action| matches!(action, Action::Start { container: c, .. } if *c == container.name);
        has_post_start(container)
            && (plan.actions.iter().chain(&plan.pulling).any(starts)
                || self.observed.newest(&container.name).is_some_and(|c| runs(c) && !c.health.hooked))
    }

    /// Keeps a container running; one that is held is not started.
    fn running(&self, container: &Container, held: bool, plan: &mut Plan) {
        let newest = self.observed.newest(&container.name);
        let attempt = match history(self.pod, self.observed, &container.name) {
            History::Never => 0,
            History::Running { .. } => {
                if let Some(newest) = newest
                    && let Some(reason) = self.reason_to_end(newest, container)
                {
                    self.end(newest, container, reason, plan);
                } else if let Some(newest) = newest.filter(|c| resize_of(c, container) == Resize::InPlace) {
                    let to = json!(container.resources).to_string();
                    let (id, container) = (newest.id.clone(), container.name.clone());
                    plan.actions.push(Action::Resize { id, container, to });
                }
                return;
            }
            History::Exited { attempt, code } => {
                let replaced = newest.is_some_and(|c| returns(c, self.memory));
                if !replaced && !comes_back(self.spec, container, code) {
                    return;
                }
                attempt + 1
            }
            History::Before { attempt, code } => {
                if code.is_some_and(|code| !comes_back(self.spec, container, code)) {
                    return;
                }
                attempt + 1
            }
        };
        if !held {
            self.start(&container.name, attempt, plan);
        }
    }

    /// Why a running container must end though the pod goes on.
    fn reason_to_end(&self, newest: &ObservedContainer, container: &Container) -> Option<KillReason> {
        if let Some((_, reason)) = self.memory.ending(&newest.id) {
            return Some(reason);
        }
        if newest.hash != fingerprint(container) {
            return Some(KillReason::Changed);
        }
        if resize_of(newest, container) == Resize::Restart
            || restarts_with_whole(newest.whole.as_ref(), self.spec.resources.as_ref(), container)
        {
            return Some(KillReason::Resized);
        }
        let ailment = newest.health.ailment?;
        let never = RestartPolicy::of(self.spec, container) == RestartPolicy::Never;
        let returns = ailment != Ailment::PostStart && !never;
        Some(KillReason::Ails { ailment, returns })
    }

    /// Such a container ends like those of a pod do, then starts anew by its history.
    fn end(&self, newest: &ObservedContainer, container: &Container, reason: KillReason, plan: &mut Plan) {
        let grace = grace_for(self.spec, container, reason);
        let since = self.memory.ending(&newest.id).map(|(since, _)| since);
        let left = since.map_or(grace, |at| grace.saturating_sub(self.now.duration_since(at)));
        let ending = Ending { reason, grace, left, turn: true, waits: false };
        end(newest, Some(container), ending, self.memory, self.now, plan);
    }

    /// Starts a container now or when its back-off is over.
    fn start(&self, name: &str, attempt: u32, plan: &mut Plan) {
        let ended = self.observed.newest(name).and_then(|c| self.memory.ended.get(&c.id));
        if let (Some(ended), Some(backoff)) = (ended, self.memory.restarts.get(name))
            && let Some(left) = backoff.remaining(*ended, self.now)
        {
            plan.backing_off.push((name.to_owned(), backoff.delay()));
            sooner(&mut plan.wake, left);
            return;
        }
        let start = Action::Start { container: name.to_owned(), attempt };
        match self.observed.pulling.contains(name) {
            true => plan.pulling.push(start),
            false => plan.actions.push(start),
        }
    }
}

fn resize_of(newest: &ObservedContainer, container: &Container) -> Resize {
    newest.resources.as_ref().map_or(Resize::None, |has| resize(has, container))
}

fn has_post_start(spec: &Container) -> bool {
    spec.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some())
}

/// Whether a container was ended for a reason that brings it back whatever its exit code.
fn returns(container: &ObservedContainer, memory: &Memory) -> bool {
    memory.ending(&container.id).is_some_and(|(_, reason)| reason.returns())
}

/// Ended attempts that are no longer the newest or the one before it (which `logs --previous` shows).
fn old_attempts(observed: &ObservedPod) -> Vec<Action> {
    observed
        .containers
        .iter()
        .filter(|c| {
            let newer =
                observed.containers.iter().filter(|n| n.name == c.name && n.attempt > c.attempt).count();
            newer >= 2 && !runs(c)
        })
        .map(|c| Action::Forget { id: c.id.clone(), container: c.name.clone(), attempt: c.attempt })
        .collect()
}

/// Whether the pod has ended by itself.
fn outcome(pod: &Pod, spec: &PodSpec, observed: &ObservedPod, memory: &Memory) -> Option<Outcome> {
    match pod.status.as_ref().and_then(|s| s.phase.as_deref()) {
        Some("Succeeded") => return Some(Outcome::Succeeded),
        Some("Failed") => return Some(Outcome::Failed),
        _ => {}
    }
    // The code with which a container has ended for good.
    let ended = |container: &Container| {
        let code = match history(pod, observed, &container.name) {
            History::Exited { .. }
                if observed.newest(&container.name).is_some_and(|c| returns(c, memory)) =>
            {
                return None;
            }
            History::Exited { code, .. } | History::Before { code: Some(code), .. } => code,
            // Lost with its sandbox: where it does not come back, nobody will ever know more.
            History::Before { code: None, .. } => UNSEEN,
            History::Running { .. } | History::Never => return None,
        };
        (!comes_back(spec, container, code)).then_some(code)
    };
    let started = spec.containers.iter().any(|c| history(pod, observed, &c.name) != History::Never);
    let mut inits = spec.init_containers.iter().flatten().filter(|c| !is_sidecar(c));
    if !started && inits.any(|c| ended(c).is_some_and(|code| code != 0)) {
        return Some(Outcome::Failed);
    }
    let ends: Option<Vec<i32>> = spec.containers.iter().map(ended).collect();
    Some(if ends?.iter().all(|code| *code == 0) { Outcome::Succeeded } else { Outcome::Failed })
}
