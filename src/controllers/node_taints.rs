//! Taints that say in the scheduler's words what a node's conditions say, and whether it was cordoned (Kubernetes
//! `pkg/controller/nodelifecycle`).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::{Next, enqueue, queue, seconds, work};
use crate::api::request::PatchKind;
use crate::api::status::Status;
use crate::client::Client;
use crate::client::reflector::Reflector;
use crate::clock;

const NO_SCHEDULE: &str = "NoSchedule";
/// A condition's value and the taint that stands for it.
const CONDITIONS: &[(&str, &str, &str)] = &[
    ("Ready", "False", "node.kubernetes.io/not-ready"),
    ("Ready", "Unknown", "node.kubernetes.io/unreachable"),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Runs until dropped.
pub async fn run(client: Client, nodes: Reflector<Node>) {
    nodes.synced().await;
    let queue = queue();
    let reconcile = |key: String| {
        let (client, node) = (&client, nodes.get(&key));
        async move {
            let Some(taints) = node.as_ref().and_then(|node| plan(node, seconds(clock::now()))) else {
                return Ok(Next::Await);
            };
            write(client, &key, node.and_then(|node| node.metadata.resource_version.clone()), taints).await
        }
    };
    tokio::join!(enqueue(nodes.subscribe(), queue.clone()), work("node-taints", &queue, reconcile));
}

async fn write(
    client: &Client,
    name: &str,
    version: Option<String>,
    taints: Vec<Taint>,
) -> Result<Next, Status> {
    // Somebody else's taints must not be lost.
    let body = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
    match client.all::<Node>().patch(name, None, PatchKind::Merge, body).await {
        Err(status) if status.is("NotFound") => Ok(Next::Await),
        // The heartbeat may have been faster.
        Err(status) if status.is("Conflict") => Ok(Next::After(Duration::ZERO)),
        Err(status) => Err(status),
        Ok(_) => Ok(Next::Await),
    }
}

/// The taints that a node is to have, where they are not those that it has.
fn plan(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let spec = node.spec.as_ref();
    let taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is = |name: &str, value: &str| conditions.iter().any(|c| c.type_ == name && c.status == value);
    let of_conditions = CONDITIONS.iter().map(|(name, value, key)| (*key, is(name, value)));
    let cordoned = spec.and_then(|spec| spec.unschedulable) == Some(true);
    let wanted: Vec<(&str, bool)> = of_conditions.chain([(UNSCHEDULABLE, cordoned)]).collect();
    let ours = |taint: &Taint, key: &str| taint.key == key && taint.effect == NO_SCHEDULE;
    let stays = |taint: &&Taint| !wanted.iter().any(|(key, on)| ours(taint, key) && !on);
    let mut next: Vec<Taint> = taints.iter().filter(stays).cloned().collect();
    for (key, _) in wanted.iter().filter(|(_, on)| *on) {
        if !taints.iter().any(|taint| ours(taint, key)) {
            next.push(Taint {
                key: (*key).to_owned(),
                effect: NO_SCHEDULE.to_owned(),
                time_added: Some(Time(now)),
                value: None,
            });
        }
    }
    (next != taints).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn taints_follow_the_node() {
        let own = json!({"key": "mine", "effect": "NoSchedule"});
        let cordon = json!({"key": UNSCHEDULABLE, "effect": "NoSchedule"});
        let ready = |value: &str| json!([{"type": "Ready", "status": value}, {"type": "DiskPressure", "status": "False"}]);
        for (spec, conditions, expected) in [
            (json!({"taints": [own]}), ready("True"), None),
            (json!({"taints": [own], "unschedulable": true}), ready("True"), Some("mine unschedulable")),
            (json!({"taints": [own, cordon], "unschedulable": true}), ready("True"), None),
            (json!({"taints": [cordon, own]}), ready("True"), Some("mine")),
            (json!({}), ready("False"), Some("not-ready")),
            (json!({}), ready("Unknown"), Some("unreachable")),
            (json!({"taints": [{"key": UNSCHEDULABLE, "effect": "NoExecute"}]}), Value::Null, None),
        ] {
            let node = json!({"spec": spec, "status": {"conditions": conditions}});
            let next = plan(&serde_json::from_value(node).unwrap(), Timestamp::UNIX_EPOCH);
            let keys = next.map(|taints| {
                let short = |taint: &Taint| taint.key.replace("node.kubernetes.io/", "");
                taints.iter().map(short).collect::<Vec<_>>().join(" ")
            });
            assert_eq!(keys.as_deref(), expected, "{spec} {conditions}");
        }
    }
}
