//! Filters that look at the node alone: cordons, its name, taints, selectors and affinity.

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Taint};

use super::{Plugin, Refusal, never};
use crate::api::{node_selector, taints};
use crate::scheduler::cluster::{NodeInfo, node_of, spec};

const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// Whether a pod may be on a node at all.
pub fn check(pod: &Pod, at: &NodeInfo) -> Result<(), Refusal> {
    let spec = spec(pod);
    let node = &*at.node;
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    if cordoned && !tolerates(spec, &taint(UNSCHEDULABLE)) {
        return never(Plugin::Node, "node(s) were unschedulable");
    }
    if !node_of(pod).is_empty() && node_of(pod) != at.name() {
        return never(Plugin::Node, "node(s) didn't match the requested node name");
    }
    if hard_taints(node).iter().any(|taint| !tolerates(spec, taint)) {
        return never(Plugin::Node, "node(s) had untolerated taint(s)");
    }
    if !is_selected(spec, at) {
        return never(Plugin::Node, "node(s) didn't match Pod's node affinity/selector");
    }
    Ok(())
}

fn taint(key: &str) -> Taint {
    Taint { key: key.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() }
}

/// The taints of a node that keep pods away; a node that is not ready has one whether or not it shows.
fn hard_taints(node: &Node) -> Vec<Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let mut hard: Vec<Taint> = taints.filter(|taint| taint.effect != "PreferNoSchedule").cloned().collect();
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    if !conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True") {
        hard.push(taint(NOT_READY));
    }
    hard
}

/// Whether a pod's tolerations bear all taints that would keep it away from a node.
pub fn tolerates_all(spec: &PodSpec, node: &Node) -> bool {
    hard_taints(node).iter().all(|taint| tolerates(spec, taint))
}

/// Whether one of a pod's tolerations bears a taint.
pub fn tolerates(spec: &PodSpec, taint: &Taint) -> bool {
    taints::tolerates(spec.tolerations.as_deref().unwrap_or_default(), taint)
}

/// Whether a node is one that the pod's selector and required affinity mean.
pub fn is_selected(spec: &PodSpec, at: &NodeInfo) -> bool {
    node_selector::is_meant(spec, at.name(), at.labels())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::cluster::testing::{cluster, node, pod};
    use serde_json::{Value, json};

    fn refused(change: impl FnOnce(&mut Value), spec: Value) -> Option<String> {
        let cluster = cluster(&[node("n", change)], &[]);
        let refusal = check(&pod("p", spec), &cluster.nodes[0]).err()?;
        assert!(!refusal.resolvable, "no end of a pod changes the node");
        Some(refusal.reasons.concat())
    }

    #[test]
    fn taints_cordons_and_readiness() {
        let tainted = |n: &mut Value| {
            n["spec"]["taints"] = json!([{"key": "gpu", "value": "5", "effect": "NoSchedule"}])
        };
        let untolerated = Some("node(s) had untolerated taint(s)".to_owned());
        for (toleration, expected) in [
            (json!({"key": "gpu", "operator": "Exists"}), None),
            (json!({"key": "gpu", "value": "5"}), None),
            (json!({"operator": "Exists"}), None),
            (json!({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}), untolerated.clone()),
            (json!({"key": "gpu", "value": "no"}), untolerated.clone()),
            (json!({"key": "gpu", "operator": "Gt", "value": "4"}), None),
            (json!({"key": "gpu", "operator": "Lt", "value": "4"}), untolerated.clone()),
        ] {
            assert_eq!(refused(tainted, json!({"tolerations": [toleration]})), expected, "{toleration}");
        }
        let soft =
            |n: &mut Value| n["spec"]["taints"] = json!([{"key": "gpu", "effect": "PreferNoSchedule"}]);
        assert_eq!(refused(soft, json!({})), None);
        let cordoned = |n: &mut Value| n["spec"]["unschedulable"] = json!(true);
        assert_eq!(refused(cordoned, json!({})).unwrap(), "node(s) were unschedulable");
        let everything = json!({"tolerations": [{"operator": "Exists"}]});
        assert_eq!(refused(cordoned, everything.clone()), None);
        let down = |n: &mut Value| n["status"]["conditions"][0]["status"] = json!("False");
        assert_eq!(refused(down, json!({})), untolerated);
        assert_eq!(refused(down, everything), None);
    }

    #[test]
    fn selectors_and_affinity() {
        let ssd = |n: &mut Value| n["metadata"]["labels"]["disk"] = json!("ssd");
        let affinity = |terms: Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": terms}}}})
        };
        let is = |value: &str| json!([{"matchExpressions": [{"key": "disk", "operator": "In", "values": [value]}]}]);
        for (spec, fits) in [
            (json!({"nodeSelector": {"disk": "ssd"}}), true),
            (json!({"nodeSelector": {"disk": "hdd"}}), false),
            (affinity(is("ssd")), true),
            (affinity(is("hdd")), false),
            (affinity(json!([])), false),
        ] {
            let expected = (!fits).then(|| "node(s) didn't match Pod's node affinity/selector".to_owned());
            assert_eq!(refused(ssd, spec.clone()), expected, "{spec}");
        }
    }
}
