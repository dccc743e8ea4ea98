//! Which node a pod fits on, and in Kubernetes' words why it fits on none (pure).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Container, Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::api::quantity;

/// The taint of nodes that take no more pods.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// The best node for a pod, or the `FailedScheduling` message.
pub fn choose(pod: &Pod, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> Result<String, String> {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<(usize, &str)> = None;
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or("");
        let bound: Vec<&Arc<Pod>> = pods.iter().filter(|p| is_on(p, name)).collect();
        let why = refusals(pod, node, &bound);
        if why.is_empty() {
            // The fewest pods: enough to spread, cheap to know.
            if best.is_none_or(|(count, _)| bound.len() < count) {
                best = Some((bound.len(), name));
            }
        }
        for reason in why {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    if let Some((_, name)) = best {
        return Ok(name.to_owned());
    }
    if nodes.is_empty() {
        return Err("no nodes available to schedule pods".to_owned());
    }
    let why: Vec<String> = reasons.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    Err(format!("0/{} nodes are available: {}.", nodes.len(), why.join(", ")))
}

/// Whether a pod takes room on a node.
fn is_on(pod: &Pod, node: &str) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node)
        && phase != Some("Succeeded")
        && phase != Some("Failed")
}

/// Why a node cannot take a pod.
fn refusals(pod: &Pod, node: &Node, bound: &[&Arc<Pod>]) -> Vec<String> {
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let mut why = Vec::new();
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true)
        && !tolerates(spec, UNSCHEDULABLE, "", "NoSchedule")
    {
        why.push("node(s) were unschedulable".to_owned());
    }
    // The taint of a cordoned node says the same once more.
    for taint in taints.filter(|t| t.effect != "PreferNoSchedule" && t.key != UNSCHEDULABLE) {
        if !tolerates_taint(spec, taint) {
            let value = taint.value.as_deref().unwrap_or("");
            why.push(format!("node(s) had untolerated taint(s) {{{}: {value}}}", taint.key));
            break;
        }
    }
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    if !conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True") {
        why.push("node(s) were not ready".to_owned());
    }
    if !matches_selector(spec, node) {
        why.push("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    if ports_clash(spec, bound) {
        why.push("node(s) didn't have free ports for the requested pod ports".to_owned());
    }
    why.extend(short_of(spec, node, bound));
    why
}

fn tolerates_taint(spec: &PodSpec, taint: &Taint) -> bool {
    tolerates(spec, &taint.key, taint.value.as_deref().unwrap_or(""), &taint.effect)
}

fn tolerates(spec: &PodSpec, key: &str, value: &str, effect: &str) -> bool {
    spec.tolerations.iter().flatten().any(|t: &Toleration| {
        let exists = t.operator.as_deref() == Some("Exists");
        let own_key = t.key.as_deref().unwrap_or("");
        let own_effect = t.effect.as_deref().unwrap_or("");
        (own_effect.is_empty() || own_effect == effect)
            && (own_key == key || own_key.is_empty() && exists)
            && (exists || t.value.as_deref().unwrap_or("") == value)
    })
}

fn matches_selector(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let selector = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref());
    let affinity =
        required.is_none_or(|r| r.node_selector_terms.iter().any(|term| matches_term(term, &labels, node)));
    selector && affinity
}

fn matches_term(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or(&[]);
    let fields = term.match_fields.as_deref().unwrap_or(&[]);
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let name = node.metadata.name.clone();
    expressions.iter().all(|r| matches_requirement(r, labels.get(&r.key)))
        && fields.iter().all(|r| r.key == "metadata.name" && matches_requirement(r, name.as_ref()))
}

fn matches_requirement(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or(&[]);
    let number = |text: Option<&String>| text.and_then(|t| t.parse::<i64>().ok());
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|v| values.contains(v)),
        "NotIn" => value.is_none_or(|v| !values.contains(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => matches!((number(value), number(values.first())), (Some(a), Some(b)) if a > b),
        "Lt" => matches!((number(value), number(values.first())), (Some(a), Some(b)) if a < b),
        _ => false,
    }
}

/// Host ports of a pod as protocol, address and number.
fn host_ports(spec: &PodSpec) -> impl Iterator<Item = (&str, &str, i32)> {
    spec.containers.iter().flat_map(|c| c.ports.iter().flatten()).filter_map(|p| {
        let port = p.host_port.filter(|n| *n > 0)?;
        let address = p.host_ip.as_deref().filter(|a| !a.is_empty()).unwrap_or("0.0.0.0");
        Some((p.protocol.as_deref().unwrap_or("TCP"), address, port))
    })
}

fn ports_clash(spec: &PodSpec, bound: &[&Arc<Pod>]) -> bool {
    host_ports(spec).any(|(protocol, address, port)| {
        bound.iter().filter_map(|p| p.spec.as_ref()).flat_map(host_ports).any(|other| {
            other.0 == protocol
                && other.2 == port
                && (other.1 == address || other.1 == "0.0.0.0" || address == "0.0.0.0")
        })
    })
}

fn amount(list: Option<&BTreeMap<String, Quantity>>, name: &str, milli: bool) -> i64 {
    let Some(parsed) = list.and_then(|l| l.get(name)).and_then(|q| quantity::parse(&q.0).ok()) else {
        return 0;
    };
    if milli { parsed.milli_value() } else { parsed.value() }
}

/// What a pod asks for: the most that runs at one time. Restartable init containers run on beside all that
/// comes after them, the others alone with those (`PodRequests` of k8s.io/component-helpers).
fn request(spec: &PodSpec, name: &str, milli: bool) -> i64 {
    let of = |c: &Container| amount(c.resources.as_ref().and_then(|r| r.requests.as_ref()), name, milli);
    let (mut beside, mut most) = (0, 0);
    for init in spec.init_containers.iter().flatten() {
        if init.restart_policy.as_deref() == Some("Always") {
            beside += of(init);
            most = most.max(beside);
        } else {
            most = most.max(beside + of(init));
        }
    }
    let sum: i64 = spec.containers.iter().map(of).sum();
    most.max(beside + sum) + amount(spec.overhead.as_ref(), name, milli)
}

/// The names of all resources that a pod asks for, those that Kubernetes knows nothing of too.
fn requested(spec: &PodSpec) -> BTreeSet<&str> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let lists = containers.filter_map(|c| c.resources.as_ref()?.requests.as_ref()).chain(&spec.overhead);
    lists.flat_map(|list| list.keys().map(String::as_str)).collect()
}

fn short_of(spec: &PodSpec, node: &Node, bound: &[&Arc<Pod>]) -> Vec<String> {
    let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    let mut short = Vec::new();
    if amount(allocatable, "pods", false) < bound.len() as i64 + 1 {
        short.push("Too many pods".to_owned());
    }
    for name in requested(spec) {
        let milli = name == "cpu";
        let asked = request(spec, name, milli);
        let used: i64 = bound.iter().filter_map(|p| p.spec.as_ref()).map(|s| request(s, name, milli)).sum();
        if asked > 0 && asked + used > amount(allocatable, name, milli) {
            short.push(format!("Insufficient {name}"));
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(change: impl FnOnce(&mut Value)) -> Vec<Arc<Node>> {
        let mut value = json!({
            "metadata": {"name": "n", "labels": {"disk": "ssd", "cores": "4"}}, "spec": {},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3", "ephemeral-storage": "1Gi"},
                       "conditions": [{"type": "Ready", "status": "True"}]},
        });
        change(&mut value);
        vec![Arc::new(serde_json::from_value(value).unwrap())]
    }

    fn pod(spec: Value) -> Pod {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c"}]);
        }
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn asking(cpu: &str, memory: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
    }

    #[test]
    fn init_containers_count_for_what_runs_at_one_time() {
        let wants = |cpu: &str, restart: Option<&str>| json!({"name": "i", "restartPolicy": restart, "resources": {"requests": {"cpu": cpu}}});
        let sidecar = |cpu| wants(cpu, Some("Always"));
        for (init, main, expected) in [
            (vec![], "100m", 100),
            (vec![wants("300m", None), wants("200m", None)], "100m", 300),
            (vec![sidecar("50m")], "100m", 150),
            (vec![sidecar("50m"), wants("200m", None)], "100m", 250),
            (vec![wants("200m", None), sidecar("50m")], "100m", 200),
            (vec![sidecar("50m"), sidecar("70m"), wants("10m", None)], "100m", 220),
        ] {
            let pod = pod(json!({"initContainers": init, "containers": [wants(main, None)]}));
            assert_eq!(request(pod.spec.as_ref().unwrap(), "cpu", true), expected, "{pod:?}");
        }
    }

    #[test]
    fn pods_fit_by_room_and_say_what_is_short() {
        let nodes = node(|_| {});
        let on_node = |mut spec: Value| {
            spec["nodeName"] = json!("n");
            Arc::new(pod(spec))
        };
        let bound = [on_node(asking("1500m", "100Mi"))];
        assert_eq!(choose(&pod(asking("500m", "100Mi")), &nodes, &bound).unwrap(), "n");
        assert_eq!(
            choose(&pod(asking("600m", "2Gi")), &nodes, &bound).unwrap_err(),
            "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory."
        );
        let gpu = |n: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": n}}}]});
        assert_eq!(
            choose(&pod(gpu("1")), &nodes, &[]).unwrap_err(),
            "0/1 nodes are available: 1 Insufficient example.com/gpu."
        );
        let with_gpus = node(|n| n["status"]["allocatable"]["example.com/gpu"] = json!("2"));
        assert!(choose(&pod(gpu("1")), &with_gpus, &[on_node(gpu("1"))]).is_ok());
        assert!(choose(&pod(gpu("2")), &with_gpus, &[on_node(gpu("1"))]).is_err());
        let three: Vec<_> = (0..3).map(|_| on_node(json!({}))).collect();
        assert_eq!(
            choose(&pod(json!({})), &nodes, &three).unwrap_err(),
            "0/1 nodes are available: 1 Too many pods."
        );
        assert_eq!(choose(&pod(json!({})), &[], &[]).unwrap_err(), "no nodes available to schedule pods");
    }

    #[test]
    fn taints_cordons_and_readiness() {
        let tainted =
            node(|n| n["spec"]["taints"] = json!([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]));
        let message = choose(&pod(json!({})), &tainted, &[]).unwrap_err();
        assert_eq!(message, "0/1 nodes are available: 1 node(s) had untolerated taint(s) {gpu: yes}.");
        for toleration in [
            json!({"key": "gpu", "operator": "Exists"}),
            json!({"key": "gpu", "value": "yes"}),
            json!({"operator": "Exists"}),
        ] {
            assert!(choose(&pod(json!({"tolerations": [toleration]})), &tainted, &[]).is_ok());
        }
        assert!(
            choose(&pod(json!({"tolerations": [{"key": "gpu", "value": "no"}]})), &tainted, &[]).is_err()
        );
        let cordoned = node(|n| n["spec"]["unschedulable"] = json!(true));
        assert!(choose(&pod(json!({})), &cordoned, &[]).unwrap_err().contains("were unschedulable"));
        let down = node(|n| n["status"]["conditions"][0]["status"] = json!("False"));
        assert!(choose(&pod(json!({})), &down, &[]).is_err());
    }

    #[test]
    fn selectors_and_affinity() {
        let nodes = node(|_| {});
        let fits = |spec: Value| choose(&pod(spec), &nodes, &[]).is_ok();
        let affinity = |expressions: Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions": expressions}]}}}})
        };
        assert!(fits(json!({"nodeSelector": {"disk": "ssd"}})));
        assert!(!fits(json!({"nodeSelector": {"disk": "hdd"}})));
        assert!(fits(affinity(json!([{"key": "disk", "operator": "In", "values": ["ssd", "nvme"]}]))));
        assert!(!fits(affinity(json!([{"key": "disk", "operator": "NotIn", "values": ["ssd"]}]))));
        assert!(fits(affinity(json!([{"key": "cores", "operator": "Gt", "values": ["3"]}]))));
        assert!(!fits(affinity(json!([{"key": "gpu", "operator": "Exists"}]))));
        assert!(!fits(affinity(json!([]))));
    }

    #[test]
    fn host_ports_are_given_once() {
        let spec = |port: i32| json!({"nodeName": "n", "containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": port}]}]});
        let bound = [Arc::new(pod(spec(80)))];
        assert!(choose(&pod(spec(80)), &node(|_| {}), &bound).unwrap_err().contains("free ports"));
        assert!(choose(&pod(spec(81)), &node(|_| {}), &bound).is_ok());
    }
}
