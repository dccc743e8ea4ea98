//! What is done next, by table.

use super::*;
use crate::kubelet::observed::{ObservedContainer, ObservedSandbox};
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
        user: None,
        resources: None,
        whole: None,
        start_error: None,
        health: Default::default(),
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
        sandbox: Some(ObservedSandbox {
            id: "s".into(),
            attempt: 0,
            alive: true,
            whole: None,
            address: None,
            address6: None,
        }),
        containers,
        stale_sandboxes: vec![],
        pulling: Default::default(),
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
    let end =
        |policy: &str, o: &ObservedPod| plan(&pod(policy), Goal::Run, o, &Memory::default(), at(20)).outcome;
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
fn a_start_waits_for_its_image_and_the_others_do_not() {
    let mut o = observed(vec![container("i", 0, exited(0)), container("b", 0, exited(1))]);
    o.pulling = ["a".to_owned()].into();
    let p = plan(&pod("Always"), Goal::Run, &o, &Memory::default(), at(20));
    assert_eq!(starts(&p), ["b#1"]);
    assert_eq!(p.pulling, [Action::Start { container: "a".into(), attempt: 0 }]);
    assert_eq!((p.wake, p.outcome), (None, None));
    o = observed(vec![]);
    o.pulling = ["i".to_owned()].into();
    let p = plan(&pod("Always"), Goal::Run, &o, &Memory::default(), at(20));
    assert!(starts(&p).is_empty() && p.pulling.len() == 1, "nothing overtakes an init container");
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

#[test]
fn an_ailing_container_is_ended_by_its_probes_grace_and_comes_back_by_policy() {
    use crate::kubelet::observed::Health;
    use crate::kubelet::probes::Kind;
    let ill = |ailment| ObservedContainer {
        health: Health { ailment: Some(ailment), ..Health::default() },
        ..container("a", 0, running())
    };
    let liveness = Ailment::Probe(Kind::Liveness);
    for (policy, ailment, returns) in [
        ("Always", liveness, true),
        ("OnFailure", liveness, true),
        ("Never", liveness, false),
        ("Always", Ailment::PostStart, false),
    ] {
        let mut pod = pod(policy);
        pod.spec.as_mut().unwrap().containers[0].liveness_probe =
            serde_json::from_value(json!({"terminationGracePeriodSeconds": 4})).unwrap();
        let o = observed(vec![ill(ailment), container("b", 0, running())]);
        let reason = KillReason::Ails { ailment, returns };
        let signal = Action::Signal { id: "a0".into(), container: "a".into(), signal: 15, reason };
        assert_eq!(plan(&pod, Goal::Run, &o, &Memory::default(), at(1)).actions, [signal], "{policy}");
        let mut memory = saw_end(&["a0"]);
        memory.signalled.insert("a0".into(), (at(1), reason));
        let left = if ailment == liveness { 3 } else { 29 };
        let p = plan(&pod, Goal::Run, &o, &memory, at(2));
        assert_eq!((p.actions.len(), p.wake), (0, Some(Duration::from_secs(left))), "{policy}");
        let p = plan(&pod, Goal::Run, &o, &memory, at(40));
        assert_eq!(p.actions, [Action::Kill { id: "a0".into() }]);
        let o = observed(vec![container("a", 0, exited(0)), container("b", 0, running())]);
        let back = returns || policy == "Always";
        let expected: &[&str] = if back { &["a#1"] } else { &[] };
        assert_eq!(starts(&plan(&pod, Goal::Run, &o, &memory, at(20))), expected, "{policy} {ailment:?}");
    }
}

#[test]
fn ephemeral_containers_run_once_and_count_for_nothing() {
    let mut pod = pod("Always");
    pod.spec.as_mut().unwrap().ephemeral_containers =
        serde_json::from_value(json!([{"name": "e", "image": "img"}])).unwrap();
    let go = |list: Vec<ObservedContainer>| {
        starts(&plan(&pod, Goal::Run, &observed(list), &Memory::default(), at(20)))
    };
    assert_eq!(go(vec![]), ["e#0", "i#0"], "they do not wait for init containers");
    let rest = || vec![container("a", 0, running()), container("b", 0, running())];
    assert_eq!(go(rest()), ["e#0"]);
    for state in [running(), exited(0), exited(1)] {
        let mut all = rest();
        all.push(container("e", 0, state));
        assert!(go(all).is_empty());
    }
    let mut over = pod.clone();
    over.spec.as_mut().unwrap().restart_policy = Some("Never".into());
    let ended =
        vec![container("a", 0, exited(0)), container("b", 0, exited(0)), container("e", 0, running())];
    let p = plan(&over, Goal::Run, &observed(ended), &saw_end(&["a0", "b0"]), at(20));
    assert!(matches!(&p.actions[..], [Action::Signal { id, .. }] if id == "e0"), "{p:?}");
}

#[test]
fn a_container_may_have_a_restart_policy_of_its_own() {
    let rule =
        |operator: &str| json!([{"action": "Restart", "exitCodes": {"operator": operator, "values": [42]}}]);
    for (own, rules, code, back) in [
        ("Always", json!(null), 0, true),
        ("OnFailure", json!(null), 0, false),
        ("OnFailure", json!(null), 1, true),
        ("Never", json!(null), 1, false),
        ("Never", rule("In"), 42, true),
        ("Never", rule("In"), 1, false),
        ("Never", rule("NotIn"), 1, true),
        ("Never", rule("NotIn"), 42, false),
    ] {
        let mut pod = pod("Never");
        let first = &mut pod.spec.as_mut().unwrap().containers[0];
        first.restart_policy = Some(own.into());
        first.restart_policy_rules = serde_json::from_value(rules.clone()).unwrap();
        let o = observed(vec![container("a", 0, exited(code)), container("b", 0, running())]);
        let p = plan(&pod, Goal::Run, &o, &Memory::default(), at(20));
        let expected: &[&str] = if back { &["a#1"] } else { &[] };
        assert_eq!(starts(&p), expected, "{own} {rules} {code}");
        let o = observed(vec![container("a", 0, exited(code)), container("b", 0, exited(0))]);
        let end = plan(&pod, Goal::Run, &o, &Memory::default(), at(20)).outcome;
        let expected = if code == 0 { Outcome::Succeeded } else { Outcome::Failed };
        assert_eq!(end, (!back).then_some(expected), "{own} {rules} {code}");
    }
}
