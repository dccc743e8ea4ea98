//! What is counted: CPU, memory, disk, numbers of pods, and resources that Kubernetes knows nothing of.

use super::{Plugin, Refusal};
use crate::api::quantity::Quantity;
use crate::api::resources::Resources;
use crate::api::room;
use crate::scheduler::cluster::NodeInfo;

/// How much of a resource the pods on a node ask for.
pub fn used(at: &NodeInfo, name: &str) -> Quantity {
    let amounts = at.pods.iter().filter_map(|placed| placed.requests.get(name));
    amounts.fold(Quantity::units(0), |sum, amount| sum.plus(amount))
}

/// Whether a node has room for these requests.
pub fn check(requests: &Resources, at: &NodeInfo) -> Result<(), Refusal> {
    let short = room::short(requests, at.pods.len(), |name| used(at, name), |name| at.allocatable(name));
    let reason = |short: &room::Short| match &*short.name {
        "pods" => "Too many pods".to_owned(),
        name => format!("Insufficient {name}"),
    };
    let reasons: Vec<String> = short.iter().map(reason).collect();
    // What is more than the whole node has, no end of a pod brings.
    let resolvable = short.iter().all(|short| short.name == "pods" || short.requested <= short.capacity);
    match reasons.is_empty() {
        true => Ok(()),
        false => Err(Refusal { plugin: Plugin::Resources, reasons, resolvable }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::resources::held;
    use crate::scheduler::cluster::testing::{asking, cluster, node, pod};
    use serde_json::{Value, json};

    #[test]
    fn pods_fit_by_room_and_what_is_short_is_said() {
        let on_node = |mut spec: Value| {
            spec["nodeName"] = json!("n");
            pod("other", spec)
        };
        let gpu = |n: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": n}}}]});
        let gpus = |n: &mut Value| n["status"]["allocatable"]["example.com/gpu"] = json!("2");
        let few = |n: &mut Value| n["status"]["allocatable"]["pods"] = json!("1");
        let same = |_: &mut Value| {};
        let large = |what: &[&str], resolvable| Some((what.join(", "), resolvable));
        type Change = fn(&mut Value);
        for (change, there, spec, expected) in [
            (same as Change, asking("1500m", "100Mi"), asking("500m", "100Mi"), None),
            (same, asking("1500m", "100Mi"), asking("600m", "1Mi"), large(&["Insufficient cpu"], true)),
            (same, asking("1", "1Mi"), asking("3", "1Mi"), large(&["Insufficient cpu"], false)),
            (
                same,
                asking("1500m", "600Mi"),
                asking("600m", "600Mi"),
                large(&["Insufficient cpu", "Insufficient memory"], true),
            ),
            (same, json!({}), gpu("1"), large(&["Insufficient example.com/gpu"], false)),
            (gpus, gpu("1"), gpu("1"), None),
            (gpus, gpu("1"), gpu("2"), large(&["Insufficient example.com/gpu"], true)),
            (few, json!({}), json!({}), large(&["Too many pods"], true)),
        ] {
            let cluster = cluster(&[node("n", change)], &[on_node(there)]);
            let refusal = check(&held(&pod("p", spec.clone())), &cluster.nodes[0]).err();
            assert_eq!(refusal.map(|r| (r.reasons.join(", "), r.resolvable)), expected, "{spec}");
        }
    }

    #[test]
    fn sandboxes_take_room_too() {
        let mut spec = asking("1", "1Mi");
        spec["overhead"] = json!({"cpu": "500m"});
        assert_eq!(held(&pod("p", spec))["cpu"].milli_value(), 1500);
    }
}
