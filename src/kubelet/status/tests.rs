//! What statuses say, case by case.

use super::*;
use crate::kubelet::observed::{ObservedSandbox, StartedAs};
use serde_json::{Value, json};
use std::time::Duration;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn pod(status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "default", "uid": "u", "generation": 1},
        "spec": {"containers": [{"name": "a", "image": "nginx"}]},
        "status": status,
    }))
    .unwrap()
}

fn container(attempt: u32, state: ContainerState) -> ObservedContainer {
    ObservedContainer {
        id: format!("a{attempt}"),
        name: "a".into(),
        attempt,
        hash: String::new(),
        image: "docker.io/library/nginx:latest".into(),
        image_id: "sha256:1".into(),
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
    ContainerState::Running { started: at(1), pid: 7 }
}

fn exited(exit: Option<Exit>, oom_killed: bool) -> ContainerState {
    ContainerState::Exited { started: at(1), finished: at(5), exit, oom_killed }
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

fn shown(pod: &Pod, observed: &ObservedPod, notes: &Notes) -> Value {
    serde_json::to_value(status(pod, observed, notes, at(9))).unwrap()
}

fn condition<'a>(status: &'a Value, type_: &str) -> &'a Value {
    status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == type_).unwrap()
}

#[test]
fn a_new_pod_is_creating() {
    let s = shown(&pod(json!({"phase": "Pending"})), &ObservedPod::default(), &Notes::default());
    assert_eq!(s["phase"], "Pending");
    assert_eq!(s["containerStatuses"][0]["state"]["waiting"]["reason"], "ContainerCreating");
    assert_eq!(condition(&s, "Ready")["status"], "False");
    assert_eq!(condition(&s, "Ready")["message"], "containers with unready status: [a]");
}

#[test]
fn a_running_pod_is_ready_and_keeps_foreign_conditions() {
    let old = json!({"phase": "Pending", "qosClass": "BestEffort", "conditions": [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        {"type": "Initialized", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    let notes = Notes { addresses: vec!["10.244.0.5".into(), "fd00::5".into()], ..Notes::default() };
    let s = shown(&pod(old), &observed(vec![container(0, running())]), &notes);
    assert_eq!(
        (&s["phase"], &s["podIP"], &s["qosClass"]),
        (&json!("Running"), &json!("10.244.0.5"), &json!("BestEffort"))
    );
    assert_eq!(s["podIPs"], json!([{"ip": "10.244.0.5"}, {"ip": "fd00::5"}]));
    assert_eq!(s["containerStatuses"][0]["ready"], true);
    assert_eq!(condition(&s, "PodScheduled")["status"], "True");
    assert_eq!(condition(&s, "Initialized")["lastTransitionTime"], "2026-01-01T00:00:00Z");
    assert_eq!(condition(&s, "Ready")["status"], "True");
}

#[test]
fn ends_have_kubernetes_codes_and_reasons() {
    for (exit, oom, code, reason) in [
        (Some(Exit::Code(0)), false, 0, "Completed"),
        (Some(Exit::Code(3)), false, 3, "Error"),
        (Some(Exit::Signal(9)), true, 137, "OOMKilled"),
        (Some(Exit::Signal(15)), false, 143, "Error"),
        (None, false, 137, "ContainerStatusUnknown"),
    ] {
        let s = shown(&pod(json!({})), &observed(vec![container(0, exited(exit, oom))]), &Notes::default());
        let t = &s["containerStatuses"][0]["state"]["terminated"];
        assert_eq!((&t["exitCode"], &t["reason"]), (&json!(code), &json!(reason)));
    }
}

#[test]
fn a_crash_loop_shows_its_last_end() {
    let waiting = Waiting { reason: "CrashLoopBackOff".into(), message: "back-off".into() };
    let notes = Notes { waiting: HashMap::from([("a".into(), waiting)]), ..Notes::default() };
    let s = shown(
        &pod(json!({"phase": "Running"})),
        &observed(vec![container(2, exited(Some(Exit::Code(1)), false))]),
        &notes,
    );
    let c = &s["containerStatuses"][0];
    assert_eq!(c["restartCount"], 2);
    assert_eq!(c["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(c["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(s["phase"], "Running");
}

#[test]
fn a_process_that_could_not_be_started_has_ended() {
    let failed = ObservedContainer {
        start_error: Some("exec \"/nope\": no such file or directory".into()),
        ..container(0, exited(Some(Exit::Code(128)), false))
    };
    let notes = Notes { outcome: Some(Outcome::Failed), ..Notes::default() };
    let s = shown(&pod(json!({"phase": "Pending"})), &observed(vec![failed]), &notes);
    let t = &s["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (&s["phase"], &t["exitCode"], &t["reason"], &t["message"]),
        (
            &json!("Failed"),
            &json!(128),
            &json!("StartError"),
            &json!("exec \"/nope\": no such file or directory")
        )
    );
}

#[test]
fn a_deleted_pod_ends_by_its_exit_codes_and_keeps_its_sandbox_in_sight() {
    for (state, phase) in [
        (exited(Some(Exit::Code(0)), false), "Succeeded"),
        (exited(Some(Exit::Signal(15)), false), "Failed"),
        (running(), "Failed"),
    ] {
        let notes = Notes { outcome: Some(Outcome::Gone), ..Notes::default() };
        let mut pod = pod(json!({"phase": "Running"}));
        pod.metadata.deletion_timestamp = Some(time(at(3)));
        let s = shown(&pod, &observed(vec![container(0, state)]), &notes);
        assert_eq!(s["phase"], phase);
        assert_eq!(condition(&s, "PodReadyToStartContainers")["status"], "True");
    }
}

#[test]
fn a_failure_shows_once_the_pod_has_ended() {
    let failure = Waiting { reason: "DeadlineExceeded".into(), message: "late".into() };
    let stopping = Notes { failure: Some(failure), ..Notes::default() };
    let with = |notes: &Notes| {
        shown(&pod(json!({"phase": "Running"})), &observed(vec![container(0, running())]), notes)
    };
    assert_eq!((&with(&stopping)["phase"], &with(&stopping)["reason"]), (&json!("Running"), &Value::Null));
    let s = with(&Notes { outcome: Some(Outcome::Failed), ..stopping });
    assert_eq!(
        (&s["phase"], &s["reason"], &s["message"]),
        (&json!("Failed"), &json!("DeadlineExceeded"), &json!("late"))
    );
}

#[test]
fn a_sidecar_counts_for_readiness_and_initialization() {
    let mut pod = pod(json!({"phase": "Pending"}));
    pod.spec.as_mut().unwrap().init_containers = Some(vec![Container {
        name: "s".into(),
        restart_policy: Some("Always".into()),
        ..Container::default()
    }]);
    let sidecar = |state| ObservedContainer { id: "s0".into(), name: "s".into(), ..container(0, state) };
    let s = shown(&pod, &observed(vec![sidecar(running())]), &Notes::default());
    assert_eq!(s["initContainerStatuses"][0]["ready"], true);
    assert_eq!(condition(&s, "Initialized")["status"], "True");
    let both = vec![sidecar(exited(Some(Exit::Code(0)), false)), container(0, running())];
    let s = shown(&pod, &observed(both), &Notes::default());
    assert_eq!(condition(&s, "Initialized")["status"], "True");
    assert_eq!(condition(&s, "Ready")["message"], "containers with unready status: [s]");
}

#[test]
fn messages_share_what_a_pod_may_say() {
    let notes = Notes { messages: HashMap::from([("a0".into(), "ä".repeat(5000))]), ..Notes::default() };
    let mut pod = pod(json!({}));
    let spec = pod.spec.as_mut().unwrap();
    spec.containers = vec!["a", "b", "c", "d"]
        .into_iter()
        .map(|name| Container { name: name.into(), ..Container::default() })
        .collect();
    let s = shown(&pod, &observed(vec![container(0, exited(Some(Exit::Code(1)), false))]), &notes);
    let message = s["containerStatuses"][0]["state"]["terminated"]["message"].as_str().unwrap();
    assert_eq!(message.len(), 3072);
}

#[test]
fn a_pod_that_ended_stays_ended() {
    let notes = Notes { outcome: Some(Outcome::Succeeded), ..Notes::default() };
    let s = shown(
        &pod(json!({"phase": "Running"})),
        &observed(vec![container(0, exited(Some(Exit::Code(0)), false))]),
        &notes,
    );
    assert_eq!(s["phase"], "Succeeded");
    assert_eq!(condition(&s, "Ready")["reason"], "PodCompleted");
    let later = shown(&pod(s), &ObservedPod::default(), &Notes::default());
    assert_eq!(later["phase"], "Succeeded");
    assert_eq!(later["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
}

#[test]
fn readiness_gates_hold_back_the_pod_and_not_its_containers() {
    let with = |conditions: Value| {
        let mut pod = pod(json!({"phase": "Running", "conditions": conditions}));
        pod.spec.as_mut().unwrap().readiness_gates =
            serde_json::from_value(json!([{"conditionType": "lb.test/up"}])).unwrap();
        let s = shown(&pod, &observed(vec![container(0, running())]), &Notes::default());
        assert_eq!(condition(&s, "ContainersReady")["status"], "True");
        condition(&s, "Ready").clone()
    };
    let none = with(json!([]));
    assert_eq!((&none["status"], &none["reason"]), (&json!("False"), &json!("ReadinessGatesNotReady")));
    assert_eq!(
        none["message"],
        "corresponding condition of pod readiness gate \"lb.test/up\" does not exist."
    );
    let down = with(json!([{"type": "lb.test/up", "status": "False"}]));
    assert_eq!(down["message"], "the status of pod readiness gate \"lb.test/up\" is not \"True\", but False");
    assert_eq!(with(json!([{"type": "lb.test/up", "status": "True"}]))["status"], "True");
}

#[test]
fn an_ephemeral_container_has_a_status_of_its_own() {
    let mut pod = pod(json!({"phase": "Running"}));
    pod.spec.as_mut().unwrap().ephemeral_containers =
        serde_json::from_value(json!([{"name": "e", "image": "busybox"}])).unwrap();
    let debug = ObservedContainer { id: "e0".into(), name: "e".into(), ..container(0, running()) };
    let s = shown(&pod, &observed(vec![container(0, running()), debug]), &Notes::default());
    let e = &s["ephemeralContainerStatuses"][0];
    assert!(e["state"]["running"].is_object() && e["ready"] == false && e["started"].is_null(), "{e}");
    assert_eq!(condition(&s, "Ready")["status"], "True");
    let s = shown(&pod, &observed(vec![container(0, running())]), &Notes::default());
    assert_eq!(s["ephemeralContainerStatuses"][0]["state"]["waiting"]["reason"], "ContainerCreating");
}

#[test]
fn a_status_says_what_a_container_was_given() {
    let mut pod = pod(json!({"phase": "Running"}));
    let spec: Container = serde_json::from_value(json!({"name": "a", "image": "nginx",
        "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}},
        "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "w", "mountPath": "/w", "readOnly": true},
            {"name": "x", "mountPath": "/x", "readOnly": true, "recursiveReadOnly": "IfPossible"}]}))
    .unwrap();
    pod.spec.as_mut().unwrap().containers = vec![spec];
    let user = Some(StartedAs { uid: 1000, gid: 0, groups: vec![5] });
    let made = ObservedContainer { user, ..container(0, running()) };
    let c = &shown(&pod, &observed(vec![made]), &Notes::default())["containerStatuses"][0];
    assert_eq!(c["allocatedResources"], json!({"cpu": "1"}));
    assert_eq!(c["resources"], json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}));
    assert_eq!(
        c["volumeMounts"],
        json!([{"name": "v", "mountPath": "/v"},
            {"name": "w", "mountPath": "/w", "readOnly": true, "recursiveReadOnly": "Disabled"},
            {"name": "x", "mountPath": "/x", "readOnly": true, "recursiveReadOnly": "Enabled"}])
    );
    assert_eq!(c["user"]["linux"], json!({"uid": 1000, "gid": 0, "supplementalGroups": [5]}));
}

#[test]
fn an_evicted_pod_says_who_ended_it() {
    let failure = Waiting { reason: "Evicted".into(), message: "too much".into() };
    let notes = Notes { failure: Some(failure), outcome: Some(Outcome::Failed), ..Notes::default() };
    let s = shown(&pod(json!({"phase": "Running"})), &observed(vec![container(0, running())]), &notes);
    let target = condition(&s, "DisruptionTarget");
    assert_eq!((&target["reason"], &target["message"]), (&json!("TerminationByKubelet"), &json!("too much")));
}
