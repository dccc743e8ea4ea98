//! What a pod's status says to its controller. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

/// Whether a pod has been ready for long enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// It has.
    Available,
    /// It will have been at this time, if it stays so.
    From(Timestamp),
    /// It is not ready.
    Unready,
}

/// `status.phase`, or nothing.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

/// Whether a pod has come to its end.
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether a pod counts: it has not ended, and nobody has asked for its end.
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Whether a pod's end has been asked for and has not come.
pub fn is_terminating(pod: &Pod) -> bool {
    !is_finished(pod) && pod.metadata.deletion_timestamp.is_some()
}

/// The node that a pod is bound to.
pub fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty())
}

/// Whether a pod is ready.
pub fn is_ready(pod: &Pod) -> bool {
    ready_condition(pod).is_some()
}

/// Since when a pod has been ready; nothing when it is not, or does not say.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    ready_condition(pod).and_then(|since| since)
}

/// Whether a pod has been ready for so many seconds.
pub fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    let Some(since) = ready_condition(pod) else { return Availability::Unready };
    if min_ready_seconds <= 0 {
        return Availability::Available;
    }
    let least = SignedDuration::from_secs(i64::from(min_ready_seconds));
    match since.and_then(|since| since.checked_add(least).ok()) {
        Some(from) if from <= now => Availability::Available,
        Some(from) => Availability::From(from),
        None => Availability::Unready,
    }
}

/// Whether a pod is available now.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    availability(pod, min_ready_seconds, now) == Availability::Available
}

/// When the next of these pods becomes available, if they stay as they are.
pub fn next_available<'a>(
    pods: impl IntoIterator<Item = &'a Pod>,
    min_ready_seconds: i32,
    now: Timestamp,
) -> Option<Timestamp> {
    let from = |pod| match availability(pod, min_ready_seconds, now) {
        Availability::From(at) => Some(at),
        _ => None,
    };
    pods.into_iter().filter_map(from).min()
}

/// The condition that says that a pod is ready: its time, when it has one.
fn ready_condition(pod: &Pod) -> Option<Option<Timestamp>> {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions.filter(|c| c.type_ == "Ready" && c.status == "True");
    ready.next().map(|condition| condition.last_transition_time.as_ref().map(|time| time.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn availability_takes_its_time() {
        let pod = |ready: &str, since: &str| -> Pod {
            serde_json::from_value(json!({"status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": since}]}}))
            .unwrap()
        };
        let at = |time: &str| -> Timestamp { time.parse().unwrap() };
        let (since, now) = ("2026-01-01T00:00:00Z", at("2026-01-01T00:00:10Z"));
        for (ready, min, expected) in [
            ("False", 0, Availability::Unready),
            ("True", 0, Availability::Available),
            ("True", 10, Availability::Available),
            ("True", 11, Availability::From(at("2026-01-01T00:00:11Z"))),
        ] {
            assert_eq!(availability(&pod(ready, since), min, now), expected, "{ready} {min}");
        }
        let two = [pod("True", since), pod("True", "2026-01-01T00:00:05Z"), pod("False", since)];
        assert_eq!(next_available(&two, 11, now), Some(at("2026-01-01T00:00:11Z")));
        assert_eq!(next_available(&two, 5, now), None);
    }
}
