//! Which pods go first when there are too many. Pure.
//!
//! The order is that of Kubernetes' `ActivePodsWithRanks`.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::state;

/// By which a user says how much a pod is worth.
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The `count` pods of `pods` that are missed least. Of pods on a node where many of the `related` ones are, one goes
/// before a pod that is alone on its node.
pub fn for_deletion(pods: &[Arc<Pod>], related: &[Arc<Pod>], count: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    if count >= pods.len() {
        return pods.to_vec();
    }
    let mut on_node: HashMap<Option<&str>, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| state::is_active(pod)) {
        *on_node.entry(state::node(pod)).or_default() += 1;
    }
    let mut ranked: Vec<&Arc<Pod>> = pods.iter().collect();
    let rank = |pod: &Pod| on_node.get(&state::node(pod)).copied().unwrap_or(0);
    ranked.sort_by(|a, b| compare((a, rank(a)), (b, rank(b)), now));
    ranked.into_iter().take(count).cloned().collect()
}

/// Which of two pods goes first.
fn compare((a, rank_a): (&Pod, usize), (b, rank_b): (&Pod, usize), now: Timestamp) -> Ordering {
    let ready = (state::is_ready(a), state::is_ready(b));
    state::node(a)
        .is_some()
        .cmp(&state::node(b).is_some())
        .then_with(|| progress(a).cmp(&progress(b)))
        .then_with(|| ready.0.cmp(&ready.1))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| rank_b.cmp(&rank_a))
        .then_with(|| match ready {
            (true, true) => youngest_first(a, b, state::ready_since(a), state::ready_since(b), now),
            _ => Ordering::Equal,
        })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| {
            let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            youngest_first(a, b, created(a), created(b), now)
        })
}

/// How far a pod has come.
fn progress(pod: &Pod) -> u8 {
    match state::phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    }
}

/// What the user says that a pod is worth; what is no number counts as nothing said.
fn cost(pod: &Pod) -> i32 {
    let said = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(COST));
    // No plus signs, no leading zeros.
    let plain = |text: &&String| *text == "0" || !text.starts_with(['+', '0']);
    said.filter(plain).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The most restarts of a container, and of a sidecar.
fn restarts(pod: &Pod) -> (i32, i32) {
    let status = pod.status.as_ref();
    let regular = status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let sidecars: Vec<&str> = pod
        .spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten())
        .filter(|container| container.restart_policy.as_deref() == Some("Always"))
        .map(|container| container.name.as_str())
        .collect();
    let beside = status.iter().flat_map(|s| s.init_container_statuses.iter().flatten());
    let beside = beside.filter(|container| sidecars.contains(&container.name.as_str()));
    let most = |counts: Option<i32>| counts.unwrap_or(0);
    (most(regular.map(|c| c.restart_count).max()), most(beside.map(|c| c.restart_count).max()))
}

/// The one whose time is unknown first, then the later one; times of about the same age are left to chance.
fn youngest_first(
    a: &Pod,
    b: &Pod,
    at: Option<Timestamp>,
    bt: Option<Timestamp>,
    now: Timestamp,
) -> Ordering {
    match (at, bt) {
        (a_time, b_time) if a_time == b_time => Ordering::Equal,
        (None, _) => Ordering::Less,
        (_, None) => Ordering::Greater,
        (Some(at), Some(bt)) => {
            age(at, now).cmp(&age(bt, now)).then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
        }
    }
}

/// The order of magnitude of an age, as a power of two of nanoseconds.
fn age(since: Timestamp, now: Timestamp) -> i64 {
    let nanoseconds = now.duration_since(since).as_nanos();
    if nanoseconds > 0 { i64::from(nanoseconds.ilog2()) } else { -1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, more: Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z"}]},
        });
        json_patch::merge(&mut pod, &more);
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn the_least_missed_goes_first() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let unready = json!({"status": {"conditions": []}});
        let cost = |cost: &str| json!({"metadata": {"annotations": {COST: cost}}});
        let restarted = |count: i32| {
            json!({"status": {"containerStatuses": [
                {"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": count}]}})
        };
        let late = "2026-01-01T23:59:59Z";
        let since = |time: &str| json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": time}]}});
        // The first of each pair goes.
        for (first, second) in [
            (json!({"spec": {"nodeName": null}}), unready.clone()),
            (json!({"status": {"phase": "Pending"}}), json!({"status": {"phase": "Unknown"}})),
            (json!({"status": {"phase": "Unknown"}}), unready.clone()),
            (unready, cost("-5")),
            (cost("-5"), json!({})),
            (cost("+5"), cost("5")),
            (json!({}), cost("1")),
            (since(late), json!({})),
            (restarted(2), restarted(1)),
            (json!({"metadata": {"creationTimestamp": late}}), json!({})),
            (json!({"metadata": {"creationTimestamp": null}}), json!({})),
        ] {
            for swapped in [false, true] {
                let mut two = [pod("first", first.clone()), pod("second", second.clone())];
                if swapped {
                    two.reverse();
                }
                let gone = for_deletion(&two, &two, 1, now);
                assert_eq!(gone[0].metadata.name.as_deref(), Some("first"), "{first} {second}");
            }
        }
    }

    #[test]
    fn pods_are_left_on_many_nodes() {
        let on = |name: &str, node: &str| pod(name, json!({"spec": {"nodeName": node}}));
        let pods = [on("a", "1"), on("b", "2"), on("c", "2")];
        let gone = for_deletion(&pods, &pods, 1, Timestamp::UNIX_EPOCH);
        assert_eq!(gone[0].metadata.name.as_deref(), Some("b"));
        assert_eq!(for_deletion(&pods, &pods, 5, Timestamp::UNIX_EPOCH).len(), 3);
    }

    #[test]
    fn about_the_same_age_is_left_to_chance() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let at = |name: &str, time: &str| pod(name, json!({"metadata": {"creationTimestamp": time}}));
        // The older one has the smaller uid.
        let pods = [at("b", "2026-01-01T00:00:01Z"), at("a", "2026-01-01T00:00:00Z")];
        assert_eq!(for_deletion(&pods, &[], 1, now)[0].metadata.name.as_deref(), Some("a"));
    }
}
