//! What to do next for one pod: spec and observed state in, actions out (pure).

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::backoff::Backoff;
use super::observed::{History, ObservedPod, fingerprint, history};
use crate::runtime::ContainerState;

/// What is wanted of the pod as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Its containers run.
    Run,
    /// Everything of it ends: asked to since `since`, killed after `grace`.
    Stop {
        /// When the end was first wanted.
        since: SystemTime,
        /// How long processes may take.
        grace: Duration,
    },
}

/// What the worker remembers between rounds and no one else knows.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Of restarts, by container name.
    pub restarts: HashMap<String, Backoff>,
    /// When a start last failed before a process existed, by container name.
    pub failed_starts: HashMap<String, SystemTime>,
    /// Containers (by id) that were asked to end.
    pub signalled: HashMap<String, SystemTime>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Get the image of a container and start it.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// What to do now.
pub fn plan(pod: &Pod, goal: Goal, observed: &ObservedPod, memory: &Memory, now: SystemTime) -> Plan {
    let mut plan = Plan::default();
    for id in &observed.stale_sandboxes {
        plan.actions.push(Action::RemoveSandbox { id: id.clone() });
    }
    match goal {
        Goal::Stop { since, grace } => stop(observed, memory, since, grace, now, &mut plan),
        Goal::Run => run(pod, observed, memory, now, &mut plan),
    }
    plan
}

fn stop(
    observed: &ObservedPod,
    memory: &Memory,
    since: SystemTime,
    grace: Duration,
    now: SystemTime,
    plan: &mut Plan,
) {
    let Some(sandbox) = &observed.sandbox else {
        plan.outcome = Some(Outcome::Gone);
        return;
    };
    let waited = now.duration_since(since).unwrap_or_default();
    let mut alive = false;
    for container in &observed.containers {
        if !matches!(container.state, ContainerState::Running { .. }) {
            continue;
        }
        alive = true;
        if waited >= grace {
            plan.actions.push(Action::Kill { id: container.id.clone() });
        } else if !memory.signalled.contains_key(&container.id) {
            plan.actions.push(Action::Signal {
                id: container.id.clone(),
                container: container.name.clone(),
                signal: container.stop_signal,
                reason: KillReason::PodStops,
            });
        }
    }
    if alive {
        plan.wake = grace.checked_sub(waited).filter(|left| !left.is_zero());
    } else {
        plan.actions.push(Action::RemoveSandbox { id: sandbox.id.clone() });
    }
}

fn run(pod: &Pod, observed: &ObservedPod, memory: &Memory, now: SystemTime, plan: &mut Plan) {
    let Some(spec) = &pod.spec else { return };
    let policy = RestartPolicy::of(spec);
    if let Some(outcome) = outcome(pod, spec, policy, observed) {
        plan.outcome = Some(outcome);
        if let Some(sandbox) = &observed.sandbox {
            plan.actions.push(Action::RemoveSandbox { id: sandbox.id.clone() });
        }
        return;
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
    let initialized = match next_init(pod, spec, observed) {
        Init::Done => true,
        Init::Wait => false,
        Init::Start(container, attempt, failed) => {
            start(container, attempt, failed, memory, now, plan);
            false
        }
    };
    if !initialized {
        return;
    }
    for container in &spec.containers {
        let newest = observed.newest(&container.name);
        match history(pod, observed, &container.name) {
            History::Never => start(container, 0, None, memory, now, plan),
            History::Running { .. } => {
                let Some(newest) = newest else { continue };
                if newest.hash != fingerprint(container) {
                    replace(newest, spec, memory, now, plan);
                }
            }
            History::Exited { attempt, success, finished } => {
                if policy.restarts(success) {
                    start(container, attempt + 1, Some(finished), memory, now, plan);
                }
            }
            History::Before { attempt, success, ended } => {
                if !ended || policy.restarts(success) {
                    start(container, attempt + 1, None, memory, now, plan);
                }
            }
        }
    }
}

/// A running container whose image changed ends like a pod does, then starts anew by its history.
fn replace(
    container: &super::observed::ObservedContainer,
    spec: &PodSpec,
    memory: &Memory,
    now: SystemTime,
    plan: &mut Plan,
) {
    let grace =
        Duration::from_secs(u64::try_from(spec.termination_grace_period_seconds.unwrap_or(30)).unwrap_or(0));
    match memory.signalled.get(&container.id) {
        None => plan.actions.push(Action::Signal {
            id: container.id.clone(),
            container: container.name.clone(),
            signal: container.stop_signal,
            reason: KillReason::Changed,
        }),
        Some(since) => {
            let waited = now.duration_since(*since).unwrap_or_default();
            match grace.checked_sub(waited).filter(|left| !left.is_zero()) {
                Some(left) => sooner(&mut plan.wake, left),
                None => plan.actions.push(Action::Kill { id: container.id.clone() }),
            }
        }
    }
}

enum Init<'a> {
    Done,
    Wait,
    Start(&'a Container, u32, Option<SystemTime>),
}

/// Where the pod stands in its sequence of init containers. What an earlier sandbox did counts for nothing:
/// they run again in a new one.
fn next_init<'a>(pod: &Pod, spec: &'a PodSpec, observed: &ObservedPod) -> Init<'a> {
    if spec.containers.iter().any(|c| observed.newest(&c.name).is_some()) {
        return Init::Done;
    }
    for container in spec.init_containers.iter().flatten() {
        match history(pod, observed, &container.name) {
            History::Exited { success: true, .. } => {}
            History::Running { .. } => return Init::Wait,
            History::Never => return Init::Start(container, 0, None),
            History::Before { attempt, .. } => return Init::Start(container, attempt + 1, None),
            History::Exited { attempt, finished, .. } => {
                return Init::Start(container, attempt + 1, Some(finished));
            }
        }
    }
    Init::Done
}

/// Starts a container now or when its back-off is over.
fn start(
    container: &Container,
    attempt: u32,
    ended: Option<SystemTime>,
    memory: &Memory,
    now: SystemTime,
    plan: &mut Plan,
) {
    let name = &container.name;
    let failed = ended.max(memory.failed_starts.get(name).copied());
    if let (Some(failed), Some(backoff)) = (failed, memory.restarts.get(name))
        && let Some(left) = backoff.remaining(failed, now)
    {
        plan.backing_off.push((name.clone(), backoff.delay()));
        sooner(&mut plan.wake, left);
        return;
    }
    plan.actions.push(Action::Start { container: name.clone(), attempt });
}

fn sooner(wake: &mut Option<Duration>, left: Duration) {
    *wake = Some(wake.map_or(left, |w| w.min(left)));
}

/// Ended attempts that are no longer the newest or the one before it (which `logs --previous` shows).
fn old_attempts(observed: &ObservedPod) -> Vec<Action> {
    observed
        .containers
        .iter()
        .filter(|c| {
            let newer =
                observed.containers.iter().filter(|n| n.name == c.name && n.attempt > c.attempt).count();
            newer >= 2 && matches!(c.state, ContainerState::Exited { .. })
        })
        .map(|c| Action::Forget { id: c.id.clone(), container: c.name.clone(), attempt: c.attempt })
        .collect()
}

/// Whether the pod has ended by itself.
fn outcome(pod: &Pod, spec: &PodSpec, policy: RestartPolicy, observed: &ObservedPod) -> Option<Outcome> {
    match pod.status.as_ref().and_then(|s| s.phase.as_deref()) {
        Some("Succeeded") => return Some(Outcome::Succeeded),
        Some("Failed") => return Some(Outcome::Failed),
        _ => {}
    }
    let ended = |container: &Container| match history(pod, observed, &container.name) {
        History::Exited { success, .. } | History::Before { success, ended: true, .. } => Some(success),
        // Lost with its sandbox: with no restarts allowed, nobody will ever know more.
        History::Before { ended: false, .. } if policy == RestartPolicy::Never => Some(false),
        _ => None,
    };
    let started = spec.containers.iter().any(|c| history(pod, observed, &c.name) != History::Never);
    if policy == RestartPolicy::Never
        && !started
        && spec.init_containers.iter().flatten().any(|c| ended(c) == Some(false))
    {
        return Some(Outcome::Failed);
    }
    let ends: Option<Vec<bool>> = spec.containers.iter().map(ended).collect();
    let ends = ends?;
    if ends.iter().any(|success| policy.restarts(*success)) {
        return None;
    }
    Some(if ends.iter().all(|success| *success) { Outcome::Succeeded } else { Outcome::Failed })
}

#[cfg(test)]
mod tests {
    use super::super::observed::{ObservedContainer, ObservedSandbox};
    use super::*;
    use crate::stdio::Exit;
    use serde_json::json;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    fn pod(policy: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "default", "uid": "u"},
            "spec": {"restartPolicy": policy,
                     "initContainers": [{"name": "i", "image": "img"}],
                     "containers": [{"name": "a", "image": "img"}, {"name": "b", "image": "img"}]},
        }))
        .unwrap()
    }

    fn container(name: &str, attempt: u32, state: ContainerState) -> ObservedContainer {
        ObservedContainer {
            id: format!("{name}{attempt}"),
            name: name.into(),
            attempt,
            hash: "img".into(),
            image: "img".into(),
            image_id: String::new(),
            stop_signal: 15,
            state,
        }
    }

    fn running() -> ContainerState {
        ContainerState::Running { started: at(0), pid: 1 }
    }

    fn exited(code: i32) -> ContainerState {
        ContainerState::Exited {
            started: at(0),
            finished: at(10),
            exit: Some(Exit::Code(code)),
            oom_killed: false,
        }
    }

    fn observed(containers: Vec<ObservedContainer>) -> ObservedPod {
        ObservedPod {
            sandbox: Some(ObservedSandbox { id: "s".into(), attempt: 0, alive: true, address: None }),
            containers,
            stale_sandboxes: vec![],
        }
    }

    fn starts(plan: &Plan) -> Vec<String> {
        plan.actions
            .iter()
            .map(|a| match a {
                Action::Start { container, attempt } => format!("{container}#{attempt}"),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_new_pod_gets_a_sandbox_then_inits_in_order_then_all_containers() {
        let pod = pod("Always");
        let go = |o: &ObservedPod| starts(&plan(&pod, Goal::Run, o, &Memory::default(), at(20)));
        assert_eq!(go(&ObservedPod::default()), ["CreateSandbox { attempt: 0 }"]);
        assert_eq!(go(&observed(vec![])), ["i#0"]);
        assert!(go(&observed(vec![container("i", 0, running())])).is_empty());
        assert_eq!(go(&observed(vec![container("i", 0, exited(0))])), ["a#0", "b#0"]);
        assert_eq!(go(&observed(vec![container("i", 0, exited(1))])), ["i#1"]);
    }

    #[test]
    fn restart_policies() {
        for (policy, code, expected, outcome) in [
            ("Always", 0, vec!["a#1"], None),
            ("Always", 1, vec!["a#1"], None),
            ("OnFailure", 0, vec![], None),
            ("OnFailure", 1, vec!["a#1"], None),
            ("Never", 1, vec![], None),
        ] {
            let o = observed(vec![container("a", 0, exited(code)), container("b", 0, running())]);
            let p = plan(&pod(policy), Goal::Run, &o, &Memory::default(), at(20));
            assert_eq!(
                (starts(&p), p.outcome),
                (expected.iter().map(ToString::to_string).collect(), outcome),
                "{policy} {code}"
            );
        }
        let both = |a, b| observed(vec![container("a", 0, exited(a)), container("b", 0, exited(b))]);
        let end = |policy: &str, o: &ObservedPod| {
            plan(&pod(policy), Goal::Run, o, &Memory::default(), at(20)).outcome
        };
        assert_eq!(end("Never", &both(0, 0)), Some(Outcome::Succeeded));
        assert_eq!(end("Never", &both(0, 1)), Some(Outcome::Failed));
        assert_eq!(end("OnFailure", &both(0, 0)), Some(Outcome::Succeeded));
        assert_eq!(end("OnFailure", &both(0, 1)), None);
        assert_eq!(end("Never", &observed(vec![container("i", 0, exited(1))])), Some(Outcome::Failed));
    }

    #[test]
    fn a_crash_loop_waits() {
        let mut memory = Memory::default();
        memory.restarts.entry("a".into()).or_default().grow(at(0), at(0));
        let o = observed(vec![container("a", 3, exited(1)), container("b", 0, running())]);
        let p = plan(&pod("Always"), Goal::Run, &o, &memory, at(12));
        assert!(p.actions.is_empty());
        assert_eq!(p.wake, Some(Duration::from_secs(8)));
        assert_eq!(p.backing_off, [("a".to_owned(), Duration::from_secs(10))]);
        assert_eq!(starts(&plan(&pod("Always"), Goal::Run, &o, &memory, at(20))), ["a#4"]);
    }

    #[test]
    fn stopping_signals_then_kills_then_removes() {
        let goal = Goal::Stop { since: at(0), grace: Duration::from_secs(30) };
        let o = observed(vec![container("a", 0, running()), container("b", 0, exited(0))]);
        let mut memory = Memory::default();
        let p = plan(&pod("Always"), goal, &o, &memory, at(1));
        assert!(matches!(&p.actions[..], [Action::Signal { id, signal: 15, .. }] if id == "a0"), "{p:?}");
        memory.signalled.insert("a0".into(), at(1));
        let p = plan(&pod("Always"), goal, &o, &memory, at(10));
        assert_eq!((p.actions.len(), p.wake), (0, Some(Duration::from_secs(20))));
        let p = plan(&pod("Always"), goal, &o, &memory, at(30));
        assert_eq!(p.actions, [Action::Kill { id: "a0".into() }]);
        let o = observed(vec![container("a", 0, exited(0))]);
        let p = plan(&pod("Always"), goal, &o, &memory, at(30));
        assert_eq!(p.actions, [Action::RemoveSandbox { id: "s".into() }]);
        let p = plan(&pod("Always"), goal, &ObservedPod::default(), &memory, at(30));
        assert_eq!(p.outcome, Some(Outcome::Gone));
    }

    #[test]
    fn a_new_image_replaces_a_running_container() {
        let mut old = container("a", 0, running());
        old.hash = "older".into();
        let o = observed(vec![old, container("b", 0, running())]);
        let p = plan(&pod("Always"), Goal::Run, &o, &Memory::default(), at(1));
        assert!(
            matches!(&p.actions[..], [Action::Signal { id, reason: KillReason::Changed, .. }] if id == "a0"),
            "{p:?}"
        );
    }

    #[test]
    fn after_a_lost_sandbox_containers_come_back_as_the_next_attempt() {
        let mut pod = pod("Always");
        pod.spec.as_mut().unwrap().init_containers = None;
        pod.status = serde_json::from_value(json!({"phase": "Running", "containerStatuses": [
            {"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 2,
             "containerID": "minik://x", "state": {"running": {}}},
            {"name": "b", "image": "", "imageID": "", "ready": false, "restartCount": 0,
             "containerID": "minik://y", "state": {"terminated": {"exitCode": 0}}},
        ]}))
        .unwrap();
        let go = |p: &Pod| starts(&plan(p, Goal::Run, &observed(vec![]), &Memory::default(), at(1)));
        assert_eq!(go(&pod), ["a#3", "b#1"]);
        pod.spec.as_mut().unwrap().restart_policy = Some("OnFailure".into());
        assert_eq!(go(&pod), ["a#3"]);
    }

    #[test]
    fn only_the_newest_two_attempts_are_kept() {
        let o = observed(vec![
            container("a", 0, exited(1)),
            container("a", 1, exited(1)),
            container("a", 2, running()),
            container("b", 0, running()),
        ]);
        let p = plan(&pod("Always"), Goal::Run, &o, &Memory::default(), at(20));
        assert_eq!(p.actions, [Action::Forget { id: "a0".into(), container: "a".into(), attempt: 0 }]);
    }
}
