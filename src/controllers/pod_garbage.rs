//! Pods that nobody will end: those of nodes that are gone, and ended ones beyond a number (Kubernetes
//! `pkg/controller/podgc`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

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
/// The key of the work that concerns no node.
const ENDED: &str = "";

/// Runs until dropped.
pub async fn run(client: Client, pods: Reflector<Pod>, nodes: Reflector<Node>) {
    nodes.synced().await;
    pods.synced().await;
    let queue = queue();
    let by_node = async {
        let mut changes = nodes.subscribe();
        while let Some(key) = changes.next().await {
            if nodes.get(&key).is_none() {
                queue.add_after(&key, QUARANTINE);
            }
        }
    };
    let by_pod = async {
        let mut changes = pods.subscribe();
        let mut ended: BTreeSet<String> = BTreeSet::new();
        while let Some(key) = changes.next().await {
            let pod = pods.get(&key);
            if let Some(place) =
                pod.as_ref().and_then(|pod| node(pod)).filter(|place| nodes.get(place).is_none())
            {
                queue.add_after(place, QUARANTINE);
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
            let gone = match key.as_str() {
                ENDED => too_many(&all, MOST_ENDED),
                place if nodes.get(place).is_none() => on(&all, place),
                _ => Vec::new(),
            };
            for pod in gone {
                remove(client, &pod).await?;
            }
            Ok(Next::Await)
        }
    };
    tokio::join!(by_node, by_pod, work("pod-garbage", &queue, reconcile));
}

/// Ends a pod without its node, and says so where it had not ended.
async fn remove(client: &Client, pod: &Pod) -> Result<(), Status> {
    let meta = &pod.metadata;
    let name = meta.name.as_deref().unwrap_or_default();
    let api = client.namespaced::<Pod>(meta.namespace.as_deref().unwrap_or_default());
    if !is_finished(pod) {
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists", "lastTransitionTime": Time(seconds(clock::now()))});
        let body =
            json!({"metadata": {"uid": meta.uid}, "status": {"phase": "Failed", "conditions": [condition]}});
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
}
