//! What to do next for one pod: spec and observed state in, actions out (pure).

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
        plan.actions.push(Action::Start { container: name.clone(), attempt });
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

#[cfg(test)]
mod tests {
    use super::super::observed::{ObservedContainer, ObservedSandbox};
    use super::*;
    use crate::stdio::Exit;
    use serde_json::json;
    use std::sync::LazyLock;
    use std::time::SystemTime;

    static START: LazyLock<Instant> = LazyLock::new(Instant::now);

    fn at(seconds: u64) -> Instant {
        *START + Duration::from_secs(seconds)
    }

    /// A memory that has seen these containers end at 10 s.
    fn saw_end(ids: &[&str]) -> Memory {
        Memory { ended: ids.iter().map(|id| ((*id).to_owned(), at(10))).collect(), ..Memory::default() }
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
            start_error: None,
            state,
        }
    }

    fn running() -> ContainerState {
        ContainerState::Running { started: SystemTime::UNIX_EPOCH, pid: 1 }
    }

    fn exited(code: i32) -> ContainerState {
        ContainerState::Exited {
            started: SystemTime::UNIX_EPOCH,
            finished: SystemTime::UNIX_EPOCH,
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
        let mut memory = saw_end(&["a3"]);
        memory.restarts.entry("a".into()).or_insert_with(Backoff::slow).grow(at(0), at(0));
        let o = observed(vec![container("a", 3, exited(1)), container("b", 0, running())]);
        let p = plan(&pod("Always"), Goal::Run, &o, &memory, at(12));
        assert!(p.actions.is_empty());
        assert_eq!(p.wake, Some(Duration::from_secs(8)));
        assert_eq!(p.backing_off, [("a".to_owned(), Duration::from_secs(10))]);
        assert_eq!(starts(&plan(&pod("Always"), Goal::Run, &o, &memory, at(20))), ["a#4"]);
    }

    #[test]
    fn stopping_signals_then_kills_then_removes() {
        let goal = |grace: u64, left: u64| Goal::Stop {
            grace: Duration::from_secs(grace),
            left: Duration::from_secs(left),
            then: Outcome::Gone,
        };
        let go = |goal, o: &ObservedPod, memory: &Memory| plan(&pod("Always"), goal, o, memory, at(1));
        let o = observed(vec![container("a", 0, running()), container("b", 0, exited(0))]);
        let kill = [Action::Kill { id: "a0".into() }];
        let mut memory = Memory::default();
        // Whatever the clock says, nobody is killed unasked while there is a grace period.
        for left in [29, 0] {
            let p = go(goal(30, left), &o, &memory);
            assert!(matches!(&p.actions[..], [Action::Signal { id, signal: 15, .. }] if id == "a0"), "{p:?}");
        }
        assert_eq!(go(goal(0, 0), &o, &memory).actions, kill);
        memory.signalled.insert("a0".into(), (at(1), KillReason::PodStops));
        let p = go(goal(30, 20), &o, &memory);
        assert_eq!((p.actions.len(), p.wake, p.outcome), (0, Some(Duration::from_secs(20)), None));
        assert_eq!(go(goal(30, 0), &o, &memory).actions, kill);
        let p = go(goal(30, 0), &observed(vec![container("a", 0, exited(0))]), &memory);
        assert_eq!(p.actions, [Action::RemoveSandbox { id: "s".into() }]);
        assert_eq!(p.outcome, Some(Outcome::Gone), "the status tells the end before the sandbox goes");
        let p = go(goal(30, 0), &ObservedPod::default(), &memory);
        assert_eq!((p.actions.len(), p.outcome), (0, Some(Outcome::Gone)));
    }

    #[test]
    fn a_new_image_replaces_a_running_container_whatever_the_policy() {
        let old = |state| ObservedContainer { hash: "older".into(), ..container("a", 0, state) };
        for policy in ["Always", "OnFailure", "Never"] {
            let o = observed(vec![old(running()), container("b", 0, running())]);
            let p = plan(&pod(policy), Goal::Run, &o, &Memory::default(), at(1));
            assert!(
                matches!(&p.actions[..], [Action::Signal { id, reason: KillReason::Changed, .. }] if id == "a0"),
                "{p:?}"
            );
            let mut memory = saw_end(&["a0", "b0"]);
            memory.signalled.insert("a0".into(), (at(1), KillReason::Changed));
            let o = observed(vec![old(exited(0)), container("b", 0, exited(0))]);
            let p = plan(&pod(policy), Goal::Run, &o, &memory, at(20));
            assert_eq!((starts(&p)[0].as_str(), p.outcome), ("a#1", None), "{policy}");
        }
        // One that had ended before its image changed stays ended.
        let o = observed(vec![old(exited(0)), container("b", 0, exited(0))]);
        let p = plan(&pod("Never"), Goal::Run, &o, &saw_end(&["a0", "b0"]), at(20));
        assert_eq!(p.outcome, Some(Outcome::Succeeded));
    }

    #[test]
    fn sidecars_start_in_turn_come_back_and_end_last() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "default", "uid": "u"},
            "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 30,
                     "initContainers": [{"name": "s", "image": "img", "restartPolicy": "Always"},
                                        {"name": "i", "image": "img"},
                                        {"name": "t", "image": "img", "restartPolicy": "Always"}],
                     "containers": [{"name": "a", "image": "img"}]},
        }))
        .unwrap();
        let c = container;
        let go = |list: Vec<ObservedContainer>, memory: &Memory| {
            plan(&pod, Goal::Run, &observed(list), memory, at(20))
        };
        let none = Memory::default();
        for (list, expected) in [
            (vec![], vec!["s#0"]),
            (vec![c("s", 0, running())], vec!["i#0"]),
            (vec![c("s", 0, running()), c("i", 0, running())], vec![]),
            (vec![c("s", 0, exited(0)), c("i", 0, running())], vec!["s#1"]),
            (vec![c("s", 0, running()), c("i", 0, exited(0))], vec!["t#0"]),
            (vec![c("s", 0, running()), c("i", 0, exited(0)), c("t", 0, running())], vec!["a#0"]),
            (vec![c("s", 0, exited(1)), c("t", 0, running()), c("a", 0, running())], vec!["s#1"]),
        ] {
            assert_eq!(starts(&go(list.clone(), &none)), expected, "{list:?}");
        }
        // The pod ends with its own containers; then the last sidecar is asked first.
        let ended = |s, t| vec![c("s", 0, s), c("t", 0, t), c("a", 0, exited(0))];
        let asked = |plan: &Plan| match &plan.actions[..] {
            [Action::Signal { container, .. }] => container.clone(),
            other => format!("{other:?}"),
        };
        let memory = saw_end(&["a0"]);
        let p = go(ended(running(), running()), &memory);
        assert_eq!((asked(&p).as_str(), p.outcome), ("t", None));
        assert_eq!(asked(&go(ended(running(), exited(0)), &memory)), "s");
        let mut memory = memory;
        for id in ["s0", "t0"] {
            memory.signalled.insert(id.into(), (at(10), KillReason::PodStops));
        }
        assert_eq!(go(ended(running(), running()), &memory).wake, Some(Duration::from_secs(20)));
        let late = plan(&pod, Goal::Run, &observed(ended(running(), running())), &memory, at(40));
        assert_eq!(late.actions.len(), 2, "both are killed when the time is over: {late:?}");
        assert_eq!(go(ended(exited(143), exited(143)), &memory).outcome, Some(Outcome::Succeeded));
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
