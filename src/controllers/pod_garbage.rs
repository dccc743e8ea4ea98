//! Pods that nobody will end: those of nodes that are gone or out of service, those that go before they had a node, and
//! ended ones beyond a number (Kubernetes `pkg/controller/podgc`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::node_health::condition;
use super::{Next, queue, seconds, work};
use crate::api::request::{DeleteOptions, PatchKind};
use crate::api::status::Status;
use crate::client::Client;
use crate::client::reflector::Reflector;
use crate::clock;
use crate::controllers::owned::state::{is_finished, node};

/// kube-controller-manager's `--terminated-pod-gc-threshold`.
const MOST_ENDED: usize = 12_500;
/// How long a node has to be missing.
const QUARANTINE: Duration = Duration::from_secs(40);
/// The key of the work that concerns no node: no node has such a name.
const ENDED: &str = "";
/// The key of the work on pods that never had a node.
const UNPLACED: &str = "/";
/// The taint by which an administrator says that a node is switched off.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Runs until dropped.
pub async fn run(client: Client, pods: Reflector<Pod>, nodes: Reflector<Node>) {
    nodes.synced().await;
    pods.synced().await;
    let queue = queue(&client, "pod_garbage_collector");
    let by_node = async {
        let mut changes = nodes.subscribe();
        while let Some(key) = changes.next().await {
            match nodes.get(&key) {
                None => queue.add_after(&key, QUARANTINE),
                Some(node) if is_out_of_service(&node) => queue.add(&key),
                Some(_) => {}
            }
        }
    };
    let by_pod = async {
        let mut changes = pods.subscribe();
        let mut ended: BTreeSet<String> = BTreeSet::new();
        while let Some(key) = changes.next().await {
            let pod = pods.get(&key);
            let goes = pod.as_ref().is_some_and(|pod| pod.metadata.deletion_timestamp.is_some());
            match pod.as_ref().and_then(|pod| node(pod)) {
                Some(place) => match nodes.get(place) {
                    None => queue.add_after(place, QUARANTINE),
                    Some(there) if goes && is_out_of_service(&there) => queue.add(place),
                    Some(_) => {}
                },
                None if goes => queue.add(UNPLACED),
                None => {}
            }
            if pod.is_some_and(|pod| is_finished(&pod)) {
                ended.insert(key);
            } else {
                ended.remove(&key);
            }
            if ended.len() > MOST_ENDED {
                queue.add(ENDED);
            }
        }
    };
    let reconcile = |key: String| {
        let (client, pods, nodes) = (&client, &pods, &nodes);
        async move {
            let all = pods.list();
            let (gone, why) = match key.as_str() {
                ENDED => (too_many(&all, MOST_ENDED), None),
                UNPLACED => (going(&all, None), None),
                place => match nodes.get(place) {
                    None => (on(&all, place), Some("PodGC: node no longer exists")),
                    Some(node) if is_out_of_service(&node) => (going(&all, Some(place)), None),
                    Some(_) => (Vec::new(), None),
                },
            };
            for pod in gone {
                remove(client, &pod, why).await?;
            }
            Ok(Next::Await)
        }
    };
    tokio::join!(by_node, by_pod, work("pod-garbage", &queue, reconcile));
}

/// Ends a pod without its node, and says so, and perhaps why, where it had not ended.
async fn remove(client: &Client, pod: &Pod, why: Option<&str>) -> Result<(), Status> {
    let meta = &pod.metadata;
    let name = meta.name.as_deref().unwrap_or_default();
    let api = client.namespaced::<Pod>(meta.namespace.as_deref().unwrap_or_default());
    if !is_finished(pod) {
        let conditions = why.map(|why| {
            json!([{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": why,
                "lastTransitionTime": Time(seconds(clock::now()))}])
        });
        let mut body = json!({"metadata": {"uid": meta.uid}, "status": {"phase": "Failed"}});
        if let Some(conditions) = conditions {
            body["status"]["conditions"] = conditions;
        }
        match api.patch(name, Some("status"), PatchKind::Strategic, body).await {
            Err(status) if !status.is("NotFound") => return Err(status),
            _ => {}
        }
    }
    let options = DeleteOptions {
        grace_period_seconds: Some(0),
        precondition_uid: meta.uid.clone(),
        ..DeleteOptions::default()
    };
    match api.delete(name, options).await {
        Err(status) if !status.is("NotFound") && !status.is("Conflict") => Err(status),
        _ => Ok(()),
    }
}

/// Whether a node does not answer, and an administrator has said that it will not: its pods have ended.
fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    condition(node, "Ready") != Some("True") && taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

/// The pods of a node, or of none, that are to go and have not.
fn going(pods: &[Arc<Pod>], place: Option<&str>) -> Vec<Arc<Pod>> {
    let goes = |pod: &&Arc<Pod>| pod.metadata.deletion_timestamp.is_some() && node(pod) == place;
    // What is held by a finalizer once it has ended, nobody here can let go.
    let ended = |pod: &Pod| is_finished(pod) && pod.metadata.deletion_grace_period_seconds == Some(0);
    pods.iter().filter(goes).filter(|pod| !ended(pod)).cloned().collect()
}

/// The pods of a node.
fn on(pods: &[Arc<Pod>], place: &str) -> Vec<Arc<Pod>> {
    pods.iter().filter(|pod| node(pod) == Some(place)).cloned().collect()
}

/// The ended pods beyond the number, evicted ones first, then the oldest.
fn too_many(pods: &[Arc<Pod>], most: usize) -> Vec<Arc<Pod>> {
    let mut ended: Vec<&Arc<Pod>> = pods.iter().filter(|pod| is_finished(pod)).collect();
    let evicted =
        |pod: &Pod| pod.status.as_ref().and_then(|status| status.reason.as_deref()) == Some("Evicted");
    ended.sort_by_cached_key(|pod| {
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (!evicted(pod), created, pod.metadata.name.clone())
    });
    let more = ended.len().saturating_sub(most);
    ended.into_iter().take(more).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn pod(name: &str, place: &str, phase: &str, reason: &str, second: u8) -> Arc<Pod> {
        let created = format!("2026-01-01T00:00:{second:02}Z");
        let pod = json!({"metadata": {"name": name, "creationTimestamp": created},
            "spec": {"nodeName": place, "containers": []}, "status": {"phase": phase, "reason": reason}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn what_goes() {
        let pods = [
            pod("a", "n", "Running", "", 1),
            pod("b", "n", "Succeeded", "", 3),
            pod("c", "m", "Failed", "", 2),
            pod("d", "n", "Failed", "Evicted", 9),
            pod("e", "", "Pending", "", 0),
        ];
        let names = |pods: Vec<Arc<Pod>>| {
            pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(too_many(&pods, 1)), "d c");
        assert_eq!(names(too_many(&pods, 3)), "");
        assert_eq!(names(on(&pods, "n")), "a b d");
    }

    #[test]
    fn what_waits_for_nobody() {
        let pod = |name: &str, place: Value, phase: &str, goes: Value, grace: Value| -> Arc<Pod> {
            let meta = json!({"name": name, "deletionTimestamp": goes, "deletionGracePeriodSeconds": grace});
            let pod = json!({"metadata": meta, "spec": {"nodeName": place, "containers": []}, "status": {"phase": phase}});
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        let time = json!("2026-01-01T00:00:00Z");
        let pods = [
            pod("stays", json!("n"), "Running", Value::Null, Value::Null),
            pod("goes", json!("n"), "Running", time.clone(), json!(30)),
            pod("ended", json!("n"), "Failed", time.clone(), json!(30)),
            pod("held", json!("n"), "Failed", time.clone(), json!(0)),
            pod("elsewhere", json!("m"), "Running", time.clone(), json!(30)),
            pod("nowhere", Value::Null, "Pending", time, json!(0)),
        ];
        let names = |pods: Vec<Arc<Pod>>| {
            pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(names(going(&pods, Some("n"))), ["goes", "ended"]);
        assert_eq!(names(going(&pods, None)), ["nowhere"]);
        let node = |ready: &str, key: &str| -> Node {
            let taints = json!([{"key": key, "value": "nodeshutdown", "effect": "NoExecute"}]);
            let conditions = json!([{"type": "Ready", "status": ready}]);
            serde_json::from_value(json!({"spec": {"taints": taints}, "status": {"conditions": conditions}}))
                .unwrap()
        };
        for (ready, key, expected) in [
            ("Unknown", OUT_OF_SERVICE, true),
            ("False", OUT_OF_SERVICE, true),
            ("True", OUT_OF_SERVICE, false),
            ("False", "other", false),
        ] {
            assert_eq!(is_out_of_service(&node(ready, key)), expected, "{ready} {key}");
        }
    }
}
