//! Whether the node takes a pod that has not begun (kubelet's `lifecycle/predicate.go`; pure).

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};

use crate::api::resources::{self, Resources, is_extended};
use crate::api::room::{HostPort, Short, host_ports};
use crate::api::{node_selector, taints};
use crate::kubelet::eviction::rank::is_critical;
use crate::kubelet::pod::mirrored;
use crate::kubelet::status::Waiting;

/// The label that names a node's operating system, and what kubelets of this one say there.
const OS: (&str, &str) = ("kubernetes.io/os", "linux");

fn refused(reason: &str, message: String) -> Result<(), Waiting> {
    Err(Waiting { reason: reason.to_owned(), message })
}

fn predicate(name: &str, why: &str) -> Result<(), Waiting> {
    refused(name, format!("Predicate {name} failed: {why}"))
}

/// What a pod asks for of what the node counts; resources that it does not know are others' to give.
pub fn asked(spec: &PodSpec, known: &Resources) -> Resources {
    let mut asked = resources::requests(spec);
    asked.retain(|name, _| !is_extended(name) || known.contains_key(name));
    asked
}

/// What no end of another pod changes: the operating system, and what the runtime can do.
pub fn suits(pod: &Pod, node: &Node) -> Result<(), Waiting> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let wanted = pod.metadata.labels.as_ref().and_then(|labels| labels.get(OS.0));
    if wanted.is_some_and(|os| os != OS.1) {
        let message = format!("Failed to admit pod as the `{}` label doesn't match node label", OS.0);
        return refused("PodOSSelectorNodeLabelDoesNotMatch", message);
    }
    if spec.os.as_ref().is_some_and(|os| os.name != OS.1) {
        return refused(
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS".into(),
        );
    }
    let policy = spec.security_context.as_ref().and_then(|c| c.supplemental_groups_policy.as_deref());
    let features = node.status.as_ref().and_then(|status| status.features.as_ref());
    let supported = features.and_then(|features| features.supplemental_groups_policy) == Some(true);
    if policy == Some("Strict") && !supported {
        let message = "SupplementalGroupsPolicy=Strict is not supported in this node".to_owned();
        return refused("SupplementalGroupsPolicyNotSupported", message);
    }
    Ok(())
}

/// Whether a pod fits on the node, where so much is too little and others have these ports; the first reason counts.
pub fn fits<'a>(
    pod: &Pod,
    node: &Node,
    short: &[Short],
    mut taken: impl Iterator<Item = &'a HostPort>,
) -> Result<(), Waiting> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    // The node does without others before it does without a pod that it needs to work.
    let never = |short: &&Short| !is_critical(pod) || short.requested > short.capacity;
    if let Some(short) = short.iter().find(never) {
        return refused(&format!("OutOf{}", short.name), short.words());
    }
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let labels = node.metadata.labels.clone().unwrap_or_default();
    if !node_selector::is_meant(spec, name, &labels) {
        return predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector");
    }
    let ports: Vec<HostPort> = host_ports(spec).collect();
    if taken.any(|other| ports.iter().any(|port| other.clashes(port))) {
        return predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports");
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let untolerated =
        taints.any(|taint| taint.effect == "NoExecute" && !taints::tolerates(tolerations, taint));
    if untolerated && mirrored(pod).is_none() {
        return predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::quantity::Quantity;
    use serde_json::{Value, json};

    fn node(more: Value) -> Node {
        let mut node = json!({
            "metadata": {"name": "n", "labels": {"disk": "ssd"}},
            "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "b", "effect": "NoExecute"}]},
            "status": {"allocatable": {"cpu": "1"}, "features": {"supplementalGroupsPolicy": true}},
        });
        node["status"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(node).unwrap()
    }

    fn pod(more: Value) -> Pod {
        let mut spec = json!({"containers": [], "tolerations": [{"key": "b", "operator": "Exists"}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn told(result: Result<(), Waiting>) -> Option<(String, String)> {
        result.err().map(|why| (why.reason, why.message))
    }

    fn says(reason: &str, message: &str) -> Option<(String, String)> {
        Some((reason.to_owned(), message.to_owned()))
    }

    #[test]
    fn a_pod_that_the_scheduler_would_not_have_placed_is_refused() {
        let port = |number: i32| json!([{"name": "c", "ports": [{"containerPort": 80, "hostPort": number}]}]);
        let other = pod(json!({"containers": port(80)}));
        let taken: Vec<HostPort> = host_ports(other.spec.as_ref().unwrap()).collect();
        let units = Quantity::units;
        let short = |name: &str| {
            vec![Short { name: name.into(), requested: units(2), used: units(1), capacity: units(2) }]
        };
        let affinity = says(
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        );
        let ports = says(
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
        );
        let taint = says(
            "TaintToleration",
            "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
        );
        let required = |value: &str| {
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "disk", "operator": "In", "values": [value]}]}]}}})
        };
        for (spec, short, expected) in [
            (json!({}), vec![], None),
            (
                json!({}),
                short("cpu"),
                says(
                    "OutOfcpu",
                    "Node didn't have enough resource: cpu, requested: 2000, used: 1000, capacity: 2000",
                ),
            ),
            (
                json!({"nodeSelector": {"disk": "hdd"}}),
                short("pods"),
                says(
                    "OutOfpods",
                    "Node didn't have enough resource: pods, requested: 2, used: 1, capacity: 2",
                ),
            ),
            (json!({"nodeSelector": {"disk": "ssd"}}), vec![], None),
            (json!({"nodeSelector": {"disk": "hdd"}}), vec![], affinity.clone()),
            (json!({"affinity": required("hdd")}), vec![], affinity),
            (json!({"affinity": required("ssd")}), vec![], None),
            (json!({"containers": port(80)}), vec![], ports),
            (json!({"containers": port(81)}), vec![], None),
            (json!({"tolerations": []}), vec![], taint),
        ] {
            let taken = taken.iter();
            assert_eq!(told(fits(&pod(spec.clone()), &node(json!({})), &short, taken)), expected, "{spec}");
        }
        let mut mirror = pod(json!({"tolerations": []}));
        mirror.metadata.annotations = Some([(crate::api::meta::MIRROR.to_owned(), "h".to_owned())].into());
        let mirror_fits = |short: &[Short]| told(fits(&mirror, &node(json!({})), short, [].into_iter()));
        assert_eq!(mirror_fits(&short("cpu")), None, "a static pod bears taints, and need not wait for room");
        let more = Short { requested: units(3), ..short("cpu").remove(0) };
        assert_eq!(mirror_fits(&[more]).unwrap().0, "OutOfcpu", "which the node must have all the same");
    }

    #[test]
    fn what_the_node_cannot_do_is_refused() {
        let strict = json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}});
        let refused = says(
            "SupplementalGroupsPolicyNotSupported",
            "SupplementalGroupsPolicy=Strict is not supported in this node",
        );
        let able = node(json!({}));
        assert_eq!(told(suits(&pod(strict.clone()), &able)), None);
        assert_eq!(told(suits(&pod(strict), &node(json!({"features": {}})))), refused);
        let windows = pod(json!({"os": {"name": "windows"}}));
        assert_eq!(told(suits(&windows, &able)).unwrap().0, "PodOSNotSupported");
        let mut labelled = pod(json!({}));
        labelled.metadata.labels = Some([(OS.0.to_owned(), "windows".to_owned())].into());
        assert_eq!(told(suits(&labelled, &able)).unwrap().0, "PodOSSelectorNodeLabelDoesNotMatch");
        let asks = pod(
            json!({"containers": [{"name": "c", "resources": {"requests": {"a/gpu": "1", "cpu": "1"}}}]}),
        );
        let known = resources::read(&json!({"cpu": "1"}));
        let counted = asked(asks.spec.as_ref().unwrap(), &known);
        assert_eq!(counted.keys().map(String::as_str).collect::<Vec<_>>(), ["cpu"]);
    }
}
