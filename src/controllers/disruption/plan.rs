//! What a disruption budget allows at this moment (Kubernetes `pkg/controller/disruption`). Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::controllers::owned::amount::{self, Rounding};
use crate::controllers::owned::state::is_ready;

/// How long a pod that was evicted counts as going, until it is seen that it does.
const EXPECTED_WITHIN: SignedDuration = SignedDuration::from_mins(2);
const CONDITION: &str = "DisruptionAllowed";

/// The status that a budget is to have, and when it changes by itself.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) status: PodDisruptionBudgetStatus,
    /// Pods that were evicted and have stayed.
    pub(super) stayed: Vec<Arc<Pod>>,
    pub(super) again: Option<SignedDuration>,
}

/// Whether a budget counts in parts of what its pods' controllers are asked for, not in pods.
pub(super) fn needs_scale(spec: &PodDisruptionBudgetSpec) -> bool {
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

/// Counts the pods that a budget selects; `scale` is what their controllers are asked for together.
pub(super) fn plan(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    scale: i32,
    now: Timestamp,
) -> Result<Plan, String> {
    let default = PodDisruptionBudgetSpec::default();
    let spec = budget.spec.as_ref().unwrap_or(&default);
    let (expected, desired) = expectation(spec, pods.len(), scale)?;
    let old = budget.status.clone().unwrap_or_default();
    let mut disrupted: BTreeMap<String, Time> = BTreeMap::new();
    let (mut stayed, mut again) = (Vec::new(), None);
    let going = old.disrupted_pods.unwrap_or_default();
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let Some(since) = going.get(name) else { continue };
        let left = since.0 + EXPECTED_WITHIN - now;
        match SignedDuration::try_from(left) {
            Ok(left) if left.is_positive() => {
                again = Some(again.map_or(left, |other: SignedDuration| other.min(left)));
                disrupted.insert(name.to_owned(), since.clone());
            }
            _ => stayed.push(Arc::clone(pod)),
        }
    }
    let is_healthy = |pod: &Arc<Pod>| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        pod.metadata.deletion_timestamp.is_none() && !disrupted.contains_key(name) && is_ready(pod)
    };
    let healthy = count(pods.iter().filter(|pod| is_healthy(pod)).count());
    let allowed = if expected > 0 { healthy.saturating_sub(desired).max(0) } else { 0 };
    let generation = budget.metadata.generation;
    let (value, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let mut conditions = old.conditions.unwrap_or_default();
    set(&mut conditions, value, reason, "", generation, now);
    let status = PodDisruptionBudgetStatus {
        conditions: Some(conditions),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: Some(disrupted).filter(|pods| !pods.is_empty()),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: generation,
    };
    Ok(Plan { status, stayed, again })
}

/// The status of a budget that cannot be counted: it allows nothing, and says why.
pub(super) fn failed(budget: &PodDisruptionBudget, why: &str, now: Timestamp) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    let mut conditions = status.conditions.take().unwrap_or_default();
    set(&mut conditions, "False", "SyncFailed", why, status.observed_generation, now);
    status.conditions = Some(conditions);
    status
}

/// How many pods there should be, and how many of them healthy.
fn expectation(spec: &PodDisruptionBudgetSpec, pods: usize, scale: i32) -> Result<(i32, i32), String> {
    let part = |value: &IntOrString| {
        let wrong = || {
            let IntOrString::String(text) = value else { return String::new() };
            format!("invalid value for IntOrString: invalid type: string is not a percentage: {text:?}")
        };
        amount::of(value, scale, Rounding::Up).ok_or_else(wrong)
    };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => Ok((scale, scale.saturating_sub(part(most)?).max(0))),
        (None, Some(IntOrString::Int(least))) => Ok((count(pods), *least)),
        (None, Some(least)) => Ok((scale, part(least)?)),
        (None, None) => Ok((0, 0)),
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Sets the condition; its time is that of its last turn.
fn set(
    conditions: &mut Vec<Condition>,
    value: &str,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) {
    let at = conditions.iter().position(|condition| condition.type_ == CONDITION);
    let since = at.map(|at| &conditions[at]).filter(|old| old.status == value);
    let condition = Condition {
        type_: CONDITION.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: since.map_or(Time(now), |old| old.last_transition_time.clone()),
    };
    match at {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().unwrap()
    }

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        let budget = json!({"metadata": {"name": "b", "generation": 3}, "spec": spec, "status": status});
        serde_json::from_value(budget).unwrap()
    }

    /// So many ready pods, named `p0` and so on, and one that is not.
    fn pods(ready: usize) -> Vec<Arc<Pod>> {
        let pod = |n: usize| {
            let status = if n < ready { "True" } else { "False" };
            let pod = json!({"metadata": {"name": format!("p{n}")}, "status": {"phase": "Running",
                "conditions": [{"type": "Ready", "status": status}]}});
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        (0..=ready).map(pod).collect()
    }

    #[test]
    fn what_is_allowed() {
        for (spec, ready, scale, expected) in [
            // expected, desired, healthy, allowed
            (json!({"minAvailable": 2}), 3, 0, [4, 2, 3, 1]),
            (json!({"minAvailable": 5}), 3, 0, [4, 5, 3, 0]),
            (json!({"minAvailable": "50%"}), 3, 5, [5, 3, 3, 0]),
            (json!({"maxUnavailable": 1}), 4, 5, [5, 4, 4, 0]),
            (json!({"maxUnavailable": "40%"}), 4, 5, [5, 3, 4, 1]),
            (json!({"maxUnavailable": 9}), 1, 2, [2, 0, 1, 1]),
            (json!({"maxUnavailable": 1}), 3, 0, [0, 0, 3, 0]),
            (json!({}), 3, 0, [0, 0, 3, 0]),
        ] {
            let status = plan(&budget(spec.clone(), json!({})), &pods(ready), scale, now()).unwrap().status;
            let found = [
                status.expected_pods,
                status.desired_healthy,
                status.current_healthy,
                status.disruptions_allowed,
            ];
            assert_eq!(found, expected.map(Some), "{spec}");
            let condition = &status.conditions.unwrap()[0];
            let allowed = expected[3] > 0;
            assert_eq!(
                (condition.status == "True", condition.reason == "SufficientPods"),
                (allowed, allowed)
            );
            assert_eq!((status.observed_generation, condition.observed_generation), (Some(3), Some(3)));
        }
        assert!(plan(&budget(json!({"minAvailable": "x"}), json!({})), &pods(1), 1, now()).is_err());
    }

    #[test]
    fn evicted_pods_count_as_gone_for_a_while() {
        let evicted = json!({"p0": "2026-01-01T00:09:00Z", "p1": "2026-01-01T00:07:00Z", "gone": "2026-01-01T00:09:59Z"});
        let budget = budget(json!({"minAvailable": 1}), json!({"disruptedPods": evicted}));
        let found = plan(&budget, &pods(3), 0, now()).unwrap();
        assert_eq!(found.status.current_healthy, Some(2));
        assert_eq!(found.status.disrupted_pods.unwrap().into_keys().collect::<Vec<_>>(), ["p0"]);
        assert_eq!(found.stayed[0].metadata.name.as_deref(), Some("p1"));
        assert_eq!(found.again, Some(SignedDuration::from_secs(60)));
    }

    #[test]
    fn nothing_changes_where_nothing_happened() {
        let spec = json!({"minAvailable": 1});
        let first = plan(&budget(spec.clone(), json!({})), &pods(3), 0, now()).unwrap().status;
        let again = budget(spec, serde_json::to_value(&first).unwrap());
        let later = now() + SignedDuration::from_secs(60);
        assert_eq!(plan(&again, &pods(3), 0, later).unwrap().status, first);
        let broken = failed(&again, "odd", later);
        assert_eq!(broken.disruptions_allowed, Some(0));
        let condition = &broken.conditions.unwrap()[0];
        assert_eq!((condition.reason.as_str(), condition.message.as_str()), ("SyncFailed", "odd"));
        assert_eq!(condition.last_transition_time.0, later);
    }
}
