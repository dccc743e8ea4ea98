//! Pods that were to be sent away and are there all the same: after a while they do not say so any more.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use crate::api::request::PatchKind;
use crate::api::status::Status;
use crate::client::Client;
use crate::client::reflector::Reflector;
use crate::clock;
use crate::controllers::owned::state::is_finished;
use crate::controllers::{Next, queue, seconds, work};

/// By what a pod says that it is to be sent away.
const TARGET: &str = "DisruptionTarget";
/// The reason of those that their node ends, however long that takes.
const BY_KUBELET: &str = "TerminationByKubelet";
/// How long what was said counts (the controller's `stalePodDisruptionTimeout`).
const COUNTS: Duration = Duration::from_secs(120);

/// Runs until dropped.
pub async fn run(client: &Client, pods: &Reflector<Pod>) {
    let queue = queue(client, "stale_pod_disruption");
    let by_pod = async {
        let mut changes = pods.subscribe();
        while let Some(key) = changes.next().await {
            if pods.get(&key).is_some_and(|pod| left(&pod, clock::now()).is_some()) {
                queue.add(&key);
            }
        }
    };
    let reconcile = |key: String| async move {
        let Some(pod) = pods.get(&key) else { return Ok(Next::Await) };
        match left(&pod, clock::now()) {
            None => Ok(Next::Await),
            Some(Duration::ZERO) => take_back(client, &pod).await.map(|()| Next::Await),
            Some(left) => Ok(Next::After(left)),
        }
    };
    tokio::join!(by_pod, work("stale-disruptions", &queue, reconcile));
}

/// How long it still counts that a pod is to be sent away; `None` for one that does not say so, or that goes.
fn left(pod: &Pod, now: Timestamp) -> Option<Duration> {
    if pod.metadata.deletion_timestamp.is_some() || is_finished(pod) {
        return None;
    }
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let said = conditions.find(|condition| condition.type_ == TARGET)?;
    if said.status != "True" || said.reason.as_deref() == Some(BY_KUBELET) {
        return None;
    }
    let since = said.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    Some(COUNTS.saturating_sub(passed))
}

/// Has a pod not say any more that it is to be sent away.
async fn take_back(client: &Client, pod: &Pod) -> Result<(), Status> {
    let meta = &pod.metadata;
    let api = client.namespaced::<Pod>(meta.namespace.as_deref().unwrap_or_default());
    let condition = json!({"type": TARGET, "status": "False", "reason": null, "message": null,
        "lastTransitionTime": Time(seconds(clock::now()))});
    let body = json!({"metadata": {"uid": meta.uid}, "status": {"conditions": [condition]}});
    match api
        .patch(meta.name.as_deref().unwrap_or_default(), Some("status"), PatchKind::Strategic, body)
        .await
    {
        // It has gone after all.
        Err(status) if status.is("NotFound") => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_was_said_counts_for_two_minutes() {
        let said = |status: &str, reason: &str, at: &str| {
            json!({"conditions": [{"type": "DisruptionTarget", "status": status, "reason": reason,
                "lastTransitionTime": at}]})
        };
        let away = |at: &str| said("True", "EvictionByEvictionAPI", at);
        let cases: [(Value, Value, Option<u64>); 8] = [
            (json!({}), json!({}), None),
            (json!({}), away("2027-03-01T09:00:00Z"), Some(120)),
            (json!({}), away("2027-03-01T08:58:30Z"), Some(30)),
            (json!({}), away("2027-03-01T08:00:00Z"), Some(0)),
            (json!({}), said("False", "", "2027-03-01T08:00:00Z"), None),
            (json!({}), said("True", "TerminationByKubelet", "2027-03-01T08:00:00Z"), None),
            (json!({"deletionTimestamp": "2027-03-01T08:59:00Z"}), away("2027-03-01T08:00:00Z"), None),
            (
                json!({}),
                json!({"phase": "Failed", "conditions": away("2027-03-01T08:00:00Z")["conditions"]}),
                None,
            ),
        ];
        let now: Timestamp = "2027-03-01T09:00:00Z".parse().unwrap();
        for (metadata, status, expected) in cases {
            let pod: Pod = serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap();
            assert_eq!(left(&pod, now), expected.map(Duration::from_secs), "{status}");
        }
    }
}
