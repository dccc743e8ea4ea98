//! The conditions of a pod: those that are the kubelet's, put beside those of others (pure).

use std::time::SystemTime;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};

use super::time;

/// The conditions that tell of a resize under way.
const RESIZE: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// Condition type, status, reason, message.
pub(super) type Condition<'a> = (&'static str, bool, Option<&'a str>, Option<String>);

pub(super) fn conditions(
    status: &PodStatus,
    sidecars: &[&str],
    finished: bool,
    initialized: bool,
    sandboxed: bool,
    unmet_gates: Option<String>,
) -> Vec<Condition<'static>> {
    let beside = status.init_container_statuses.iter().flatten().filter(|c| sidecars.contains(&&*c.name));
    let containers = beside.chain(status.container_statuses.iter().flatten());
    let not_ready: Vec<&str> = containers.filter(|c| !c.ready).map(|c| c.name.as_str()).collect();
    let unready = || {
        if finished {
            (Some(if status.phase.as_deref() == Some("Failed") { "PodFailed" } else { "PodCompleted" }), None)
        } else {
            (
                Some("ContainersNotReady"),
                Some(format!("containers with unready status: [{}]", not_ready.join(" "))),
            )
        }
    };
    let ready = not_ready.is_empty() && !finished && initialized;
    let (reason, message) = if ready { (None, None) } else { unready() };
    let init = status.init_container_statuses.as_deref().unwrap_or(&[]);
    let complete = |c: &&ContainerStatus| match sidecars.contains(&&*c.name) {
        true => c.started == Some(true),
        false => c.ready,
    };
    let incomplete: Vec<&str> = init.iter().filter(|c| !complete(c)).map(|c| c.name.as_str()).collect();
    let initialized_condition = if status.phase.as_deref() == Some("Succeeded") {
        ("Initialized", true, Some("PodCompleted"), None)
    } else if initialized {
        ("Initialized", true, None, None)
    } else {
        let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
        ("Initialized", false, Some("ContainersNotInitialized"), Some(message))
    };
    let ready_condition = match unmet_gates {
        Some(unmet) if ready => ("Ready", false, Some("ReadinessGatesNotReady"), Some(unmet)),
        _ => ("Ready", ready, reason, message.clone()),
    };
    vec![
        ("PodReadyToStartContainers", sandboxed, None, None),
        initialized_condition,
        ready_condition,
        ("ContainersReady", ready, reason, message),
    ]
}

/// What the readiness gates of a pod still lack.
pub(super) fn unmet_gates<'a>(
    gates: impl Iterator<Item = &'a str>,
    conditions: &[PodCondition],
) -> Option<String> {
    let unmet = gates.filter_map(|gate| match conditions.iter().find(|c| c.type_ == gate) {
        Some(condition) if condition.status == "True" => None,
        Some(condition) => Some(format!(
            "the status of pod readiness gate {gate:?} is not \"True\", but {}",
            condition.status
        )),
        None => Some(format!("corresponding condition of pod readiness gate {gate:?} does not exist.")),
    });
    let unmet: Vec<String> = unmet.collect();
    (!unmet.is_empty()).then(|| unmet.join(", "))
}

/// The kubelet's conditions put in place of its earlier ones; transition times move only with the status.
pub(super) fn merged(
    old: Vec<PodCondition>,
    new: Vec<Condition<'_>>,
    pod: &Pod,
    now: SystemTime,
) -> Vec<PodCondition> {
    let mut out: Vec<PodCondition> = Vec::new();
    for (type_, holds, reason, message) in new {
        let status = if holds { "True" } else { "False" };
        let before = old.iter().find(|c| c.type_ == type_);
        let unchanged = before.filter(|b| b.status == status).and_then(|b| b.last_transition_time.clone());
        out.push(PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.map(str::to_owned),
            message,
            last_transition_time: unchanged.or_else(|| Some(time(now))),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        });
    }
    // These are there only while they hold.
    let passing = |c: &PodCondition| RESIZE.contains(&c.type_.as_str());
    let old = old.into_iter().filter(|c| !passing(c)).collect::<Vec<_>>();
    let others = old.into_iter().filter(|c| !out.iter().any(|n| n.type_ == c.type_)).collect::<Vec<_>>();
    out.extend(others);
    out
}
