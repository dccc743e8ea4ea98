//! Taints that say in the scheduler's words what a node's conditions say, and whether it was cordoned (Kubernetes
//! `pkg/controller/nodelifecycle`).

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::node_health::condition;
use super::{Next, queue, seconds, work};
use crate::api::request::PatchKind;
use crate::api::status::Status;
use crate::client::Client;
use crate::client::reflector::{Reflector, key_of};
use crate::clock;

const NO_SCHEDULE: &str = "NoSchedule";
const NO_EXECUTE: &str = "NoExecute";
/// A condition's value and the taint that stands for it.
const CONDITIONS: &[(&str, &str, &str)] = &[
    ("Ready", "False", "node.kubernetes.io/not-ready"),
    ("Ready", "Unknown", "node.kubernetes.io/unreachable"),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];
/// The same, for those by which pods leave their node.
const LEAVE: &[(&str, &str, &str)] = &[
    ("Ready", "False", "node.kubernetes.io/not-ready"),
    ("Ready", "Unknown", "node.kubernetes.io/unreachable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Runs until dropped.
pub async fn run(client: Client, nodes: Reflector<Node>) {
    nodes.synced().await;
    let queue = queue(&client, "node_lifecycle_controller_taints");
    let by_node = async {
        let (mut changes, mut before) = (nodes.subscribe(), Outage::None);
        while let Some(key) = changes.next().await {
            let all = nodes.list();
            // One node more or less that does not answer may mean something to all of them.
            match std::mem::replace(&mut before, outage(&all)) == before {
                true => queue.add(&key),
                false => all.iter().for_each(|node| queue.add(&key_of(&**node))),
            }
        }
    };
    let reconcile = |key: String| {
        let (client, node, outage) = (&client, nodes.get(&key), outage(&nodes.list()));
        async move {
            let Some(taints) = node.as_ref().and_then(|node| plan(node, outage, seconds(clock::now())))
            else {
                return Ok(Next::Await);
            };
            write(client, &key, node.and_then(|node| node.metadata.resource_version.clone()), taints).await
        }
    };
    tokio::join!(by_node, work("node-taints", &queue, reconcile));
}

/// How many nodes do not answer. Where it is most, it is likelier that nobody can hear them than that all have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outage {
    /// Few: their pods are to leave.
    None,
    /// Most: no more pods are to leave for now.
    Partial,
    /// All: none are.
    Whole,
}

fn outage(nodes: &[Arc<Node>]) -> Outage {
    let silent = nodes.iter().filter(|node| condition(node, "Ready") != Some("True")).count();
    // kube-controller-manager's `--unhealthy-zone-threshold`, of 0.55.
    let most = silent > 2 && silent * 100 >= nodes.len() * 55;
    match silent {
        0 => Outage::None,
        silent if silent == nodes.len() => Outage::Whole,
        _ if most => Outage::Partial,
        _ => Outage::None,
    }
}

async fn write(
    client: &Client,
    name: &str,
    version: Option<String>,
    taints: Vec<Taint>,
) -> Result<Next, Status> {
    // A list without anything is left out, as Kubernetes does.
    let taints = (!taints.is_empty()).then_some(taints);
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
fn plan(node: &Node, outage: Outage, now: Timestamp) -> Option<Vec<Taint>> {
    let spec = node.spec.as_ref();
    let taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let cordoned = spec.and_then(|spec| spec.unschedulable) == Some(true);
    let mut wanted = vec![(UNSCHEDULABLE, NO_SCHEDULE, cordoned)];
    wanted.extend(
        CONDITIONS
            .iter()
            .map(|(kind, status, key)| (*key, NO_SCHEDULE, condition(node, kind) == Some(status))),
    );
    for (kind, status, key) in LEAVE {
        match (condition(node, kind) == Some(status), outage) {
            (true, Outage::Partial) => {}
            (holds, _) => wanted.push((key, NO_EXECUTE, holds && outage == Outage::None)),
        }
    }
    let ours = |taint: &Taint, key: &str, effect: &str| taint.key == key && taint.effect == effect;
    let stays = |taint: &&Taint| !wanted.iter().any(|(key, effect, on)| ours(taint, key, effect) && !on);
    let mut next: Vec<Taint> = taints.iter().filter(stays).cloned().collect();
    for (key, effect, _) in wanted.iter().filter(|(.., on)| *on) {
        if !taints.iter().any(|taint| ours(taint, key, effect)) {
            next.push(Taint {
                key: (*key).to_owned(),
                effect: (*effect).to_owned(),
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
            let next = plan(&serde_json::from_value(node).unwrap(), Outage::Whole, Timestamp::UNIX_EPOCH);
            let keys = next.map(|taints| {
                let short = |taint: &Taint| taint.key.replace("node.kubernetes.io/", "");
                taints.iter().map(short).collect::<Vec<_>>().join(" ")
            });
            assert_eq!(keys.as_deref(), expected, "{spec} {conditions}");
        }
    }

    fn node(ready: &str, taints: &Value) -> Node {
        let conditions = json!([{"type": "Ready", "status": ready}]);
        serde_json::from_value(json!({"spec": {"taints": taints}, "status": {"conditions": conditions}}))
            .unwrap()
    }

    #[test]
    fn pods_leave_nodes_that_do_not_answer_while_most_do() {
        let taint =
            |key: &str, effect: &str| json!({"key": format!("node.kubernetes.io/{key}"), "effect": effect});
        let both = |key: &str| json!([taint(key, NO_SCHEDULE), taint(key, NO_EXECUTE)]);
        for (ready, before, outage, expected) in [
            ("Unknown", json!([]), Outage::None, Some("unreachable:NoSchedule unreachable:NoExecute")),
            ("False", json!([]), Outage::None, Some("not-ready:NoSchedule not-ready:NoExecute")),
            (
                "Unknown",
                both("not-ready"),
                Outage::None,
                Some("unreachable:NoSchedule unreachable:NoExecute"),
            ),
            ("True", both("unreachable"), Outage::None, Some("")),
            ("Unknown", both("unreachable"), Outage::None, None),
            ("Unknown", both("unreachable"), Outage::Partial, None),
            ("Unknown", json!([]), Outage::Partial, Some("unreachable:NoSchedule")),
            ("Unknown", both("unreachable"), Outage::Whole, Some("unreachable:NoSchedule")),
        ] {
            let next = plan(&node(ready, &before), outage, Timestamp::UNIX_EPOCH);
            let told = next.map(|taints| {
                let short = |taint: &Taint| {
                    format!("{}:{}", taint.key.replace("node.kubernetes.io/", ""), taint.effect)
                };
                taints.iter().map(short).collect::<Vec<_>>().join(" ")
            });
            assert_eq!(told.as_deref(), expected, "{ready} {before} {outage:?}");
        }
    }

    #[test]
    fn how_many_nodes_do_not_answer() {
        for (ready, silent, expected) in [
            (0, 0, Outage::None),
            (1, 0, Outage::None),
            (0, 1, Outage::Whole),
            (1, 1, Outage::None),
            (1, 2, Outage::None),
            (1, 3, Outage::Partial),
            (5, 5, Outage::None),
            (4, 5, Outage::Partial),
            (0, 5, Outage::Whole),
        ] {
            let nodes = |status: &str, count| {
                (0..count).map(|_| Arc::new(node(status, &json!([])))).collect::<Vec<_>>()
            };
            let all: Vec<Arc<Node>> =
                nodes("True", ready).into_iter().chain(nodes("Unknown", silent)).collect();
            assert_eq!(outage(&all), expected, "{ready} {silent}");
        }
    }
}
