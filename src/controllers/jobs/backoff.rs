//! How long a job waits before it replaces pods that failed (Kubernetes `pkg/controller/job/backoff_utils.go`).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// The wait after the first failure; it doubles with each further one.
const FIRST: SignedDuration = SignedDuration::from_secs(10);
/// The longest wait.
const LONGEST: SignedDuration = SignedDuration::from_mins(10);

/// The failures of a job's pods since the last success.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    failures: i32,
    last: Option<Timestamp>,
}

impl Backoff {
    /// With what has come to its end since.
    pub(super) fn after(&self, succeeded: &[&Pod], failed: &[&Pod]) -> Backoff {
        let success = succeeded.iter().map(|pod| finished_at(pod)).max();
        let mut next = if success.is_some() { Backoff::default() } else { self.clone() };
        let times = failed.iter().map(|pod| finished_at(pod));
        for at in times.filter(|at| success.is_none_or(|success| *at > success)) {
            next.failures += 1;
            next.last = next.last.max(Some(at));
        }
        next
    }

    /// How long no pods are to be made.
    pub(super) fn left(&self, now: Timestamp) -> SignedDuration {
        self.last.map_or(SignedDuration::ZERO, |last| left(self.failures, last, now))
    }
}

/// How long no pod is to be made after so many failures, the last of them at `last`.
pub(super) fn left(failures: i32, last: Timestamp, now: Timestamp) -> SignedDuration {
    if failures <= 0 {
        return SignedDuration::ZERO;
    }
    let doubled = FIRST.checked_mul(1 << (failures - 1).min(16)).unwrap_or(LONGEST).min(LONGEST);
    (doubled - now.duration_since(last)).max(SignedDuration::ZERO)
}

/// When a pod came to its end: when its last container did, or it stopped being ready, or it was deleted.
pub(super) fn finished_at(pod: &Pod) -> Timestamp {
    let meta = &pod.metadata;
    let grace = SignedDuration::from_secs(meta.deletion_grace_period_seconds.unwrap_or(0));
    let deleted = meta.deletion_timestamp.as_ref().and_then(|at| at.0.checked_sub(grace).ok());
    let created = meta.creation_timestamp.as_ref().map(|at| at.0);
    containers_ended(pod).or_else(|| not_ready_since(pod)).or(deleted).or(created).unwrap_or_default()
}

fn containers_ended(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    // Those that run beside the others end last.
    let beside = |status: &&ContainerStatus| {
        let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        init.into_iter().any(|c| c.name == status.name && c.restart_policy.as_deref() == Some("Always"))
    };
    let main = status.container_statuses.iter().flatten();
    let all = main.chain(status.init_container_statuses.iter().flatten().filter(beside));
    let ends: Option<Vec<Timestamp>> =
        all.map(|c| Some(c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0)).collect();
    ends?.into_iter().max()
}

fn not_ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|c| c.type_ == "Ready" && c.status == "False")?;
    Some(ready.last_transition_time.as_ref()?.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A pod whose only container ended at this second.
    fn ended(second: i64) -> Pod {
        let state = json!({"terminated": {"exitCode": 1, "finishedAt": at(second).to_string()}});
        serde_json::from_value(
            json!({"status": {"containerStatuses": [{"name": "c", "image": "", "imageID": "",
            "ready": false, "restartCount": 0, "state": state}]}}),
        )
        .unwrap()
    }

    #[test]
    fn waits_double_up_to_ten_minutes() {
        for (failures, elapsed, expected) in
            [(0, 0, 0), (1, 0, 10), (1, 4, 6), (2, 0, 20), (3, 60, 0), (6, 0, 320), (7, 0, 600), (40, 1, 599)]
        {
            let left = left(failures, at(1000), at(1000 + elapsed)).as_secs();
            assert_eq!(left, expected, "{failures} failures, {elapsed} s ago");
        }
    }

    #[test]
    fn a_success_forgets_the_failures_before_it() {
        let (two, five, nine) = (ended(2), ended(5), ended(9));
        let failed = Backoff::default().after(&[], &[&five, &two]);
        assert_eq!(failed, Backoff { failures: 2, last: Some(at(5)) });
        assert_eq!(failed.after(&[], &[]), failed);
        assert_eq!(failed.after(&[], &[&nine]).left(at(9)).as_secs(), 40);
        assert_eq!(failed.after(&[&five], &[]), Backoff::default());
        assert_eq!(failed.after(&[&five], &[&two, &nine]), Backoff { failures: 1, last: Some(at(9)) });
    }

    #[test]
    fn the_end_of_a_pod() {
        let pod = |value| finished_at(&serde_json::from_value::<Pod>(value).unwrap());
        let meta = json!({"creationTimestamp": at(1).to_string()});
        assert_eq!(pod(json!({"metadata": meta})), at(1));
        let deleted = json!({"deletionTimestamp": at(40).to_string(), "deletionGracePeriodSeconds": 30});
        assert_eq!(pod(json!({"metadata": deleted})), at(10));
        let ready = json!({"type": "Ready", "status": "False", "lastTransitionTime": at(7).to_string()});
        assert_eq!(pod(json!({"metadata": deleted, "status": {"conditions": [ready]}})), at(7));
        assert_eq!(finished_at(&ended(3)), at(3));
    }
}
