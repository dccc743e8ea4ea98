//! What to do next for one pod: spec and observed state in, actions out (pure).

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use tokio::time::Instant;

use super::backoff::Backoff;
use super::observed::{History, ObservedContainer, ObservedPod, fingerprint, history};
use crate::runtime::ContainerState;

/// What is wanted of the pod as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Its containers run.
    Run,
    /// Everything of it ends.
    Stop {
        /// How long processes may take in all; without any they are killed unasked.
        grace: Duration,
        /// What is left of that.
        left: Duration,
        /// What has become of the pod then.
        then: Outcome,
    },
}

/// What the worker remembers between rounds and no one else knows.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Of restarts after an end, by container name.
    pub restarts: HashMap<String, Backoff>,
    /// When containers (by id) were first seen to have ended.
    pub ended: HashMap<String, Instant>,
    /// When and why containers (by id) were asked to end.
    pub signalled: HashMap<String, (Instant, KillReason)>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Make the pod's sandbox.
    CreateSandbox {
        /// How many came before.
        attempt: u32,
    },
    /// End a sandbox and forget it and its containers.
    RemoveSandbox {
        /// The runtime's id.
        id: String,
    },
    /// Start a container, or begin to fetch its image when that is missing.
    Start {
        /// Its name within the pod.
        container: String,
        /// How many came before.
        attempt: u32,
    },
    /// Ask a container's process to end.
    Signal {
        /// The runtime's id.
        id: String,
        /// Its name within the pod.
        container: String,
        /// What to send.
        signal: i32,
        /// Why, for the `Killing` event.
        reason: KillReason,
    },
    /// End a container's processes at once.
    Kill {
        /// The runtime's id.
        id: String,
    },
    /// Forget an ended container that two newer attempts have replaced.
    Forget {
        /// The runtime's id.
        id: String,
        /// Its name within the pod.
        container: String,
        /// Its attempt number.
        attempt: u32,
    },
}

/// Why a container is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KillReason {
    /// The pod ends.
    PodStops,
    /// Its image changed.
    Changed,
}

/// Actions that can be carried out side by side, and when to look again if nothing happens before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Side by side.
    pub actions: Vec<Action>,
    /// At the latest.
    pub wake: Option<Duration>,
    /// Starts that wait for their image, whose coming wakes the worker.
    pub pulling: Vec<Action>,
    /// Containers that wait for their back-off, with the back-off in full.
    pub backing_off: Vec<(String, Duration)>,
    /// How the pod stands when there is nothing more to do for it.
    pub outcome: Option<Outcome>,
}

/// A pod that has come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All containers succeeded.
    Succeeded,
    /// One failed for good.
    Failed,
    /// Stopped, nothing of it is left.
    Gone,
}

/// The restart policy of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// After every end.
    Always,
    /// After a failure.
    OnFailure,
    /// Not at all.
    Never,
}

impl RestartPolicy {
    /// As the spec has it.
    pub fn of(spec: &PodSpec) -> RestartPolicy {
        match spec.restart_policy.as_deref() {
            Some("OnFailure") => RestartPolicy::OnFailure,
            Some("Never") => RestartPolicy::Never,
            _ => RestartPolicy::Always,
        }
    }

    fn restarts(self, success: bool) -> bool {
        match self {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => !success,
            RestartPolicy::Never => false,
        }
    }
}

/// Whether an init container is a sidecar: it starts in its turn, then runs on beside the others.
pub fn is_sidecar(init: &Container) -> bool {
    init.restart_policy.as_deref() == Some("Always")
}

/// How long the processes of a pod may take to end when nobody says otherwise.
pub fn grace_of(spec: &PodSpec) -> Duration {
    Duration::from_secs(u64::try_from(spec.termination_grace_period_seconds.unwrap_or(30)).unwrap_or(0))
}

/// Makes a wake-up earlier.
pub fn sooner(wake: &mut Option<Duration>, left: Duration) {
    *wake = Some(wake.map_or(left, |w| w.min(left)));
}

/// What to do now.
pub fn plan(pod: &Pod, goal: Goal, observed: &ObservedPod, memory: &Memory, now: Instant) -> Plan {
    let mut plan = Plan::default();
    for id in &observed.stale_sandboxes {
        plan.actions.push(Action::RemoveSandbox { id: id.clone() });
    }
    let Some(spec) = &pod.spec else { return plan };
    match goal {
        Goal::Stop { grace, left, then } => stop(spec, observed, memory, (grace, left), then, &mut plan),
        Goal::Run => run(pod, spec, observed, memory, now, &mut plan),
    }
    plan
}

fn runs(container: &ObservedContainer) -> bool {
    matches!(container.state, ContainerState::Running { .. })
}

fn stop(
    spec: &PodSpec,
    observed: &ObservedPod,
    memory: &Memory,
    (grace, left): (Duration, Duration),
    then: Outcome,
    plan: &mut Plan,
) {
    let running: Vec<_> = observed.containers.iter().filter(|c| runs(c)).collect();
    if running.is_empty() {
        plan.outcome = Some(then);
        if let Some(sandbox) = &observed.sandbox {
            plan.actions.push(Action::RemoveSandbox { id: sandbox.id.clone() });
        }
        return;
    }
    // Sidecars serve the others to their end, then each other: the last one goes first.
    let sidecars: Vec<&str> =
        spec.init_containers.iter().flatten().filter(|c| is_sidecar(c)).map(|c| c.name.as_str()).collect();
    let turn = |c: &ObservedContainer| {
        sidecars.iter().position(|name| *name == c.name).map_or(0, |i| sidecars.len() - i)
    };
    let first = running.iter().map(|c| turn(c)).min();
    for container in running {
        if left.is_zero() || Some(turn(container)) == first {
            end(container, KillReason::PodStops, grace, left, memory, plan);
        }
    }
}

/// Asks a running container to end; kills it when nothing is left of its time.
fn end(
    container: &ObservedContainer,
    reason: KillReason,
    grace: Duration,
    left: Duration,
    memory: &Memory,
    plan: &mut Plan,
) {
    if !memory.signalled.contains_key(&container.id) && !grace.is_zero() {
        plan.actions.push(Action::Signal {
            id: container.id.clone(),
            container: container.name.clone(),
            signal: container.stop_signal,
            reason,
        });
    } else if left.is_zero() {
        plan.actions.push(Action::Kill { id: container.id.clone() });
    } else {
        sooner(&mut plan.wake, left);
    }
}

fn run(pod: &Pod, spec: &PodSpec, observed: &ObservedPod, memory: &Memory, now: Instant, plan: &mut Plan) {
    let policy = RestartPolicy::of(spec);
    if let Some(outcome) = outcome(pod, spec, policy, observed, memory) {
        let newest = spec.containers.iter().filter_map(|c| observed.newest(&c.name));
        let ended = newest.filter_map(|c| memory.ended.get(&c.id)).max();
        let grace = grace_of(spec);
        let left = ended.map_or(grace, |at| grace.saturating_sub(now.duration_since(*at)));
        return stop(spec, observed, memory, (grace, left), outcome, plan);
    }
    match &observed.sandbox {
        Some(sandbox) if sandbox.alive => {}
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
    match next_init(pod, spec, observed) {
        Init::Wait => return,
        Init::Start(container, attempt) => return keep.start(container, attempt, plan),
        Init::Done => {}
    }
    for sidecar in spec.init_containers.iter().flatten().filter(|c| is_sidecar(c)) {
        keep.running(sidecar, RestartPolicy::Always, plan);
    }
    for container in &spec.containers {
        keep.running(container, policy, plan);
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
    fn running(&self, container: &Container, policy: RestartPolicy, plan: &mut Plan) {
        let newest = self.observed.newest(&container.name);
        match history(self.pod, self.observed, &container.name) {
            History::Never => self.start(container, 0, plan),
            History::Running { .. } => {
                if let Some(newest) = newest.filter(|c| c.hash != fingerprint(container)) {
                    self.replace(newest, plan);
                }
            }
            History::Exited { attempt, success } => {
                if policy.restarts(success) || newest.is_some_and(|c| was_replaced(c, self.memory)) {
                    self.start(container, attempt + 1, plan);
                }
            }
            History::Before { attempt, success, ended } => {
                if !ended || policy.restarts(success) {
                    self.start(container, attempt + 1, plan);
                }
            }
        }
    }

    /// A running container whose image changed ends like a pod does, then starts anew by its history.
    fn replace(&self, container: &ObservedContainer, plan: &mut Plan) {
        let grace = grace_of(self.spec);
        let asked = self.memory.signalled.get(&container.id);
        let left = asked.map_or(grace, |(at, _)| grace.saturating_sub(self.now.duration_since(*at)));
        end(container, KillReason::Changed, grace, left, self.memory, plan);
    }

    /// Starts a container now or when its back-off is over.
    fn start(&self, container: &Container, attempt: u32, plan: &mut Plan) {
        let name = &container.name;
        let ended = self.observed.newest(name).and_then(|c| self.memory.ended.get(&c.id));
        if let (Some(ended), Some(backoff)) = (ended, self.memory.restarts.get(name))
            && let Some(left) = backoff.remaining(*ended, self.now)
        {
            plan.backing_off.push((name.clone(), backoff.delay()));
            sooner(&mut plan.wake, left);
            return;
        }
        let start = Action::Start { container: name.clone(), attempt };
        match self.observed.pulling.contains(name) {
            true => plan.pulling.push(start),
            false => plan.actions.push(start),
        }
    }
}

/// Whether a container was ended to make room for its changed self, which comes whatever the restart policy.
fn was_replaced(container: &ObservedContainer, memory: &Memory) -> bool {
    matches!(memory.signalled.get(&container.id), Some((_, KillReason::Changed)))
}

enum Init<'a> {
    Done,
    Wait,
    Start(&'a Container, u32),
}

/// Where the pod stands in its sequence of init containers. What an earlier sandbox did counts for nothing:
/// they run again in a new one.
fn next_init<'a>(pod: &Pod, spec: &'a PodSpec, observed: &ObservedPod) -> Init<'a> {
    if spec.containers.iter().any(|c| observed.newest(&c.name).is_some()) {
        return Init::Done;
    }
    for container in spec.init_containers.iter().flatten() {
        let sidecar = is_sidecar(container);
        match history(pod, observed, &container.name) {
            History::Running { .. } if sidecar => {}
            History::Exited { success: true, .. } if !sidecar => {}
            History::Running { .. } => return Init::Wait,
            History::Never => return Init::Start(container, 0),
            History::Before { attempt, .. } | History::Exited { attempt, .. } => {
                return Init::Start(container, attempt + 1);
            }
        }
    }
    Init::Done
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
fn outcome(
    pod: &Pod,
    spec: &PodSpec,
    policy: RestartPolicy,
    observed: &ObservedPod,
    memory: &Memory,
) -> Option<Outcome> {
    match pod.status.as_ref().and_then(|s| s.phase.as_deref()) {
        Some("Succeeded") => return Some(Outcome::Succeeded),
        Some("Failed") => return Some(Outcome::Failed),
        _ => {}
    }
    let ended = |container: &Container| match history(pod, observed, &container.name) {
        History::Exited { .. }
            if observed.newest(&container.name).is_some_and(|c| was_replaced(c, memory)) =>
        {
            None
        }
        History::Exited { success, .. } | History::Before { success, ended: true, .. } => Some(success),
        // Lost with its sandbox: with no restarts allowed, nobody will ever know more.
        History::Before { ended: false, .. } if policy == RestartPolicy::Never => Some(false),
        _ => None,
    };
    let started = spec.containers.iter().any(|c| history(pod, observed, &c.name) != History::Never);
    let mut inits = spec.init_containers.iter().flatten().filter(|c| !is_sidecar(c));
    if policy == RestartPolicy::Never && !started && inits.any(|c| ended(c) == Some(false)) {
        return Some(Outcome::Failed);
    }
    let ends: Option<Vec<bool>> = spec.containers.iter().map(ended).collect();
    let ends = ends?;
    if ends.iter().any(|success| policy.restarts(*success)) {
        return None;
    }
    Some(if ends.iter().all(|success| *success) { Outcome::Succeeded } else { Outcome::Failed })
}
