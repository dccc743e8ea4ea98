//! Nodes of which nothing is heard any more: their conditions are unknown, and their pods are not ready (Kubernetes
//! `pkg/controller/nodelifecycle`). What follows from it is a matter of taints.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use tokio::time::Instant;

use super::owned::state::{is_ready, node as node_of};
use super::{Next, queue, seconds, work};
use crate::api::kinds;
use crate::api::request::{Change, PatchKind};
use crate::api::status::Status;
use crate::client::Client;
use crate::client::events::{EventType, Recorder, reference};
use crate::client::follow::{Entry, Follower, Revision};
use crate::client::reflector::Reflector;
use crate::clock;

/// How long nothing may be heard of a node (kube-controller-manager's `--node-monitor-grace-period`).
const GRACE: Duration = Duration::from_secs(50);
/// The same for one that has never said how it is (its `--node-startup-grace-period`).
const FIRST: Duration = Duration::from_secs(60);
/// Where nodes renew their leases.
const LEASES: &str = "kube-node-lease";
/// What a node says of itself, and nobody knows when it says nothing.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Runs until dropped.
pub async fn run(client: Client, pods: Reflector<Pod>, nodes: Reflector<Node>) {
    nodes.synced().await;
    pods.synced().await;
    let (recorder, record) = Recorder::new(client.clone(), "node-controller", "");
    let queue = queue(&client, "node_lifecycle_controller");
    let heard = Known::default();
    let Some(leases) = kinds::by_resource("coordination.k8s.io", "v1", "leases") else { return };
    let by_lease = client.follow(leases, Leases(Known::clone(&heard)));
    let controller = Controller { client, pods, nodes: nodes.clone(), recorder, heard };
    let by_node = async {
        let mut changes = nodes.subscribe();
        while let Some(key) = changes.next().await {
            controller.saw(&key);
            queue.add(&key);
        }
    };
    let reconcile = |key: String| controller.reconcile(key);
    tokio::join!(record, by_node, by_lease, work("node-health", &queue, reconcile));
}

/// What was last heard of a node.
struct Heard {
    node: Arc<Node>,
    /// By the controller's own clock: those of nodes may be wrong.
    at: Instant,
}

/// What was last heard of each node.
type Known = Arc<Mutex<HashMap<String, Heard>>>;

/// Hears nodes renew their leases, of which nothing is read but whose they are.
struct Leases(Known);

impl Leases {
    fn heard(&self, entry: &Entry) {
        if let Some((_, name)) = entry.key.rsplit_once(&format!("/{LEASES}/")) {
            // Who waits for it looks at it in time: nobody need be woken.
            if let Some(heard) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(name) {
                heard.at = Instant::now();
            }
        }
    }
}

impl Follower for Leases {
    fn listed(&mut self, entries: &[Arc<Entry>], _: Revision) {
        entries.iter().for_each(|entry| self.heard(entry));
    }

    fn changed(&mut self, change: &Change, _: Revision) {
        if let Change::Added(entry) | Change::Modified(entry) = change {
            self.heard(entry);
        }
    }
}

struct Controller {
    client: Client,
    pods: Reflector<Pod>,
    nodes: Reflector<Node>,
    recorder: Recorder,
    heard: Known,
}

impl Controller {
    fn heard(&self) -> MutexGuard<'_, HashMap<String, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a node has changed, come or gone.
    fn saw(&self, name: &str) {
        let mut heard = self.heard();
        let Some(node) = self.nodes.get(name) else {
            if let Some(gone) = heard.remove(name) {
                self.tell(
                    &gone.node,
                    "RemovingNode",
                    &format!("Node {name} event: Removing Node {name} from Controller"),
                );
            }
            return;
        };
        match heard.get_mut(name) {
            Some(known) => {
                if conditions(&known.node) != conditions(&node) {
                    known.at = Instant::now();
                }
                known.node = node;
            }
            None => {
                self.tell(
                    &node,
                    "RegisteredNode",
                    &format!("Node {name} event: Registered Node {name} in Controller"),
                );
                heard.insert(name.to_owned(), Heard { node, at: Instant::now() });
            }
        }
    }

    fn tell(&self, node: &Node, reason: &str, message: &str) {
        self.recorder.record(&reference(node), EventType::Normal, reason, message);
    }

    async fn reconcile(&self, name: String) -> Result<Next, Status> {
        let known = self.heard().get(&name).map(|heard| (heard.node.clone(), heard.at));
        let Some((node, at)) = known else { return Ok(Next::Await) };
        let ready = condition(&node, "Ready");
        let grace = if ready.is_some() { GRACE } else { FIRST };
        let left = grace.saturating_sub(at.elapsed());
        if !left.is_zero() {
            return Ok(Next::After(left));
        }
        let Some(unknown) = plan(&node, seconds(clock::now())) else { return Ok(Next::Await) };
        let meta = &node.metadata;
        let body = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
            "status": {"conditions": unknown}});
        match self.client.all::<Node>().patch(&name, Some("status"), PatchKind::Strategic, body).await {
            Err(status) if status.is("NotFound") => return Ok(Next::Await),
            other => drop(other?),
        }
        if ready == Some("True") {
            self.tell(&node, "NodeNotReady", &format!("Node {name} status is now: NodeNotReady"));
            for pod in self.pods.list().iter().filter(|pod| node_of(pod) == Some(&name) && is_ready(pod)) {
                self.make_unready(pod).await?;
            }
        }
        Ok(Next::Await)
    }

    /// Says of a pod that it is not ready: its kubelet does not.
    async fn make_unready(&self, pod: &Pod) -> Result<(), Status> {
        let meta = &pod.metadata;
        let condition =
            json!({"type": "Ready", "status": "False", "lastTransitionTime": Time(seconds(clock::now()))});
        let body = json!({"metadata": {"uid": meta.uid}, "status": {"conditions": [condition]}});
        let api = self.client.namespaced::<Pod>(meta.namespace.as_deref().unwrap_or_default());
        self.recorder.record(&reference(pod), EventType::Warning, "NodeNotReady", "Node is not ready");
        match api
            .patch(meta.name.as_deref().unwrap_or_default(), Some("status"), PatchKind::Strategic, body)
            .await
        {
            Err(status) if !status.is("NotFound") && !status.is("Conflict") => Err(status),
            _ => Ok(()),
        }
    }
}

fn conditions(node: &Node) -> &[NodeCondition] {
    node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

/// The status of a condition.
pub(super) fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a str> {
    conditions(node)
        .iter()
        .find(|condition| condition.type_ == kind)
        .map(|condition| condition.status.as_str())
}

/// The conditions of a silent node that are to be unknown and are not.
fn plan(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let created = node.metadata.creation_timestamp.clone();
    let unknown = |kind: &&str| {
        let known = conditions(node).iter().find(|condition| condition.type_ == **kind);
        let (reason, message, heartbeat) = match known {
            Some(known) if known.status == "Unknown" => return None,
            Some(known) => (
                "NodeStatusUnknown",
                "Kubelet stopped posting node status.",
                known.last_heartbeat_time.clone(),
            ),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status.", created.clone()),
        };
        Some(NodeCondition {
            type_: (*kind).to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: heartbeat,
            last_transition_time: Some(Time(now)),
        })
    };
    let unknown: Vec<NodeCondition> = CONDITIONS.iter().filter_map(unknown).collect();
    (!unknown.is_empty()).then_some(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_of_a_silent_node() {
        let time = |text: &str| Some(Time(text.parse().unwrap()));
        let now = "2026-01-01T02:00:00Z".parse().unwrap();
        let node: Node = serde_json::from_value(json!({
            "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"conditions": [
                {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T01:00:00Z"},
                {"type": "DiskPressure", "status": "Unknown"},
                {"type": "NetworkUnavailable", "status": "False"},
                {"type": "PIDPressure", "status": "False"}]}}))
        .unwrap();
        let found = plan(&node, now).unwrap();
        let told: Vec<_> = found
            .iter()
            .map(|c| {
                (
                    c.type_.as_str(),
                    c.status.as_str(),
                    c.reason.as_deref().unwrap(),
                    c.last_heartbeat_time.clone(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("Ready", "Unknown", "NodeStatusUnknown", time("2026-01-01T01:00:00Z")),
                ("MemoryPressure", "Unknown", "NodeStatusNeverUpdated", time("2026-01-01T00:00:00Z")),
                ("PIDPressure", "Unknown", "NodeStatusUnknown", None),
            ]
        );
        let silent = Node { status: Some(Default::default()), ..node };
        assert_eq!(plan(&silent, now).unwrap().len(), 4);
    }
}
