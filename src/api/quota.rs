//! What an object uses up of a quota, and which quotas count it.
//!
//! Source: Kubernetes `pkg/quota/v1/evaluator/core` and k8s.io/apiserver `pkg/quota/v1/generic`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::kinds::Kind;
use super::meta;
use super::quantity::Quantity;
use super::resources::{self, HUGE_PAGES, Resources};
use super::selector::LabelSelector;

/// Names that say how much a pod asks for.
const REQUESTS: &str = "requests.";
/// What stands between a storage class and the resource that is counted for it.
const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
/// The resources of claims, of all together or of one storage class.
const CLAIM_RESOURCES: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];
const POD_RESOURCES: [&str; 10] = [
    "pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
/// Resources that every container must state once a quota counts them.
const STATED: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const SERVICE_RESOURCES: [&str; 3] = ["services", "services.nodeports", "services.loadbalancers"];
/// Kinds of the core group whose objects are also counted under their plain name.
const PLAIN_COUNTS: [&str; 4] = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];

/// The resource that counts the objects of a kind: `count/deployments.apps`.
pub fn count_name(kind: &Kind) -> String {
    match &*kind.group {
        "" => format!("count/{}", kind.plural),
        group => format!("count/{}.{group}", kind.plural),
    }
}

/// Whether a resource is one that objects of this kind use up.
pub fn counts(kind: &Kind, resource: &str) -> bool {
    if resource.strip_prefix("count/").is_some_and(|_| resource == count_name(kind)) {
        return true;
    }
    match (&*kind.group, &*kind.plural) {
        ("", "pods") => {
            let asked = resource.strip_prefix(REQUESTS);
            POD_RESOURCES.contains(&resource)
                || asked.unwrap_or(resource).starts_with(HUGE_PAGES)
                || asked.is_some_and(|_| resources::is_extended(resource))
        }
        ("", "services") => SERVICE_RESOURCES.contains(&resource),
        ("", "persistentvolumeclaims") => {
            let of_class = resource.split_once(STORAGE_CLASS).map(|(_, of_class)| of_class);
            CLAIM_RESOURCES.contains(&of_class.unwrap_or(resource))
        }
        ("", plural) => PLAIN_COUNTS.contains(&plural) && resource == plural,
        _ => false,
    }
}

/// What an object uses up.
pub fn usage(kind: &Kind, object: &Value, now: Timestamp) -> Resources {
    let one = Quantity::units(1);
    let mut used = Resources::from([(count_name(kind), one)]);
    match (&*kind.group, &*kind.plural) {
        ("", "pods") if is_running(object, now) => used.extend(of_pod(object)),
        ("", "services") => used.extend(of_service(&object["spec"])),
        ("", "persistentvolumeclaims") => used.extend(of_claim(object)),
        ("", plural) if PLAIN_COUNTS.contains(&plural) => {
            used.insert(plural.to_owned(), one);
        }
        _ => {}
    }
    used
}

/// Whether a pod still holds what it asked for. One that is long past its grace period is stuck, which is not its
/// owner's fault.
fn is_running(pod: &Value, now: Timestamp) -> bool {
    if pod["status"]["phase"] == "Failed" || pod["status"]["phase"] == "Succeeded" {
        return false;
    }
    let grace = pod["metadata"]["deletionGracePeriodSeconds"].as_i64();
    let ended = meta::deleted(pod).zip(grace).is_some_and(|(at, grace)| {
        at.saturating_add(SignedDuration::from_secs(grace)).is_ok_and(|end| now > end)
    });
    !ended
}

fn of_pod(pod: &Value) -> Resources {
    let spec = &pod["spec"];
    let overhead = resources::read(&spec["overhead"]);
    let mut requests = resources::of_pod(spec, "requests");
    resources::add(&mut requests, &overhead);
    let mut limits = resources::of_pod(spec, "limits");
    let limited = resources::only(&overhead, |name| limits.contains_key(name));
    resources::add(&mut limits, &limited);
    stated(&requests, &limits)
}

/// Requests and limits under the names that quotas know.
fn stated(requests: &Resources, limits: &Resources) -> Resources {
    let mut used = Resources::from([("pods".to_owned(), Quantity::units(1))]);
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(amount) = requests.get(name) {
            used.insert(name.to_owned(), *amount);
            used.insert(format!("{REQUESTS}{name}"), *amount);
        }
        if let Some(amount) = limits.get(name) {
            used.insert(format!("limits.{name}"), *amount);
        }
    }
    for (name, amount) in requests {
        if name.starts_with(HUGE_PAGES) {
            used.insert(name.clone(), *amount);
        }
        if name.starts_with(HUGE_PAGES) || resources::is_extended(name) {
            used.insert(format!("{REQUESTS}{name}"), *amount);
        }
    }
    used
}

fn of_service(spec: &Value) -> Resources {
    let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let asked = ports.iter().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count();
    let (node_ports, balancers) = match spec["type"].as_str() {
        Some("NodePort") => (ports.len(), 0),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => (asked, 1),
        Some("LoadBalancer") => (ports.len(), 1),
        _ => (0, 0),
    };
    let amounts = [1, node_ports as i64, balancers].map(Quantity::units);
    SERVICE_RESOURCES.iter().map(|name| (*name).to_owned()).zip(amounts).collect()
}

fn of_claim(claim: &Value) -> Resources {
    let whole = |amount: Quantity| if amount.is_integer() { amount } else { Quantity::units(amount.value()) };
    let asked = resources::read(&claim["spec"]["resources"]["requests"]).get("storage").copied();
    let given = resources::read(&claim["status"]["allocatedResources"]).get("storage").copied();
    let storage = asked.map(|asked| whole(asked.max(given.unwrap_or(asked))));
    let amounts = [Some(Quantity::units(1)), storage];
    let class = claim_class(claim);
    let mut used = Resources::new();
    for (name, amount) in CLAIM_RESOURCES.iter().zip(amounts) {
        let Some(amount) = amount else { continue };
        used.insert((*name).to_owned(), amount);
        if !class.is_empty() {
            used.insert(format!("{class}{STORAGE_CLASS}{name}"), amount);
        }
    }
    used
}

/// The storage class that a claim or a volume names, by its old annotation or by its spec.
pub fn claim_class(claim: &Value) -> &str {
    let old = meta::annotation(claim, "volume.beta.kubernetes.io/storage-class");
    old.or_else(|| claim["spec"]["storageClassName"].as_str()).unwrap_or_default()
}

/// Whether all scopes of a quota's spec hold the object; a quota without scopes holds all.
pub fn in_scope(kind: &Kind, object: &Value, spec: &Value) -> bool {
    let listed = spec["scopes"].as_array().into_iter().flatten();
    let listed = listed.map(|scope| json!({"scopeName": scope, "operator": "Exists"}));
    let selected = spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten().cloned();
    listed.chain(selected).all(|scope| holds(kind, object, &scope))
}

fn holds(kind: &Kind, object: &Value, scope: &Value) -> bool {
    let name = scope["scopeName"].as_str().unwrap_or_default();
    if kind.is("", "persistentvolumeclaims") && name == "VolumeAttributesClass" {
        let fields = [
            &object["spec"]["volumeAttributesClassName"],
            &object["status"]["currentVolumeAttributesClassName"],
            &object["status"]["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
        ];
        let names: BTreeSet<&str> =
            fields.iter().filter_map(|field| field.as_str()).filter(|name| !name.is_empty()).collect();
        return names.iter().any(|class| selects(scope, Some(class)))
            || names.is_empty() && selects(scope, None);
    }
    if !kind.is("", "pods") {
        return false;
    }
    let spec = &object["spec"];
    let limited = spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
    let best_effort = object["status"]["qosClass"] == "BestEffort";
    match name {
        "Terminating" => limited,
        "NotTerminating" => !limited,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => {
            let class = spec["priorityClassName"].as_str().filter(|class| !class.is_empty());
            selects(scope, class)
        }
        "CrossNamespacePodAffinity" => is_affine_elsewhere(&spec["affinity"]),
        _ => false,
    }
}

/// Whether a scope's operator and values select a class, or its absence.
fn selects(scope: &Value, class: Option<&str>) -> bool {
    const KEY: &str = "class";
    let selector = json!({"matchExpressions": [
        {"key": KEY, "operator": scope["operator"], "values": scope["values"]}]});
    let labels = class.map_or(Value::Null, |class| json!({ KEY: class }));
    LabelSelector::from_object(&selector).is_ok_and(|selector| selector.matches(&labels))
}

/// Whether a pod wants to be near, or far from, pods of other namespaces.
fn is_affine_elsewhere(affinity: &Value) -> bool {
    let elsewhere = |term: &Value| {
        term["namespaces"].as_array().is_some_and(|list| !list.is_empty())
            || !term["namespaceSelector"].is_null()
    };
    let terms = |of: &Value, list: &str| of[list].as_array().cloned().unwrap_or_default();
    ["podAffinity", "podAntiAffinity"].iter().map(|side| &affinity[side]).any(|side| {
        let required = terms(side, "requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = terms(side, "preferredDuringSchedulingIgnoredDuringExecution");
        required.iter().any(elsewhere) || preferred.iter().any(|term| elsewhere(&term["podAffinityTerm"]))
    })
}

/// What a quota forces the containers of a pod to state and which of them do not: `limits.cpu for: web`.
pub fn unstated<'a>(pod: &Value, counted: impl Iterator<Item = &'a str> + Clone) -> Option<String> {
    let spec = &pod["spec"];
    if ["requests", "limits"].iter().any(|what| !resources::of_whole_pod(spec, what).is_empty()) {
        return None;
    }
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let lists = ["containers", "initContainers"].iter().filter_map(|list| spec[list].as_array());
    for container in lists.flatten() {
        let of = |what| resources::of_container(container, what);
        let states = stated(&of("requests"), &of("limits"));
        for name in counted.clone().filter(|name| STATED.contains(name) && !states.contains_key(*name)) {
            missing.entry(name).or_default().insert(container["name"].as_str().unwrap_or_default());
        }
    }
    let told = |(name, containers): (&str, BTreeSet<&str>)| {
        format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
    };
    let told: Vec<String> = missing.into_iter().map(told).collect();
    (!told.is_empty()).then(|| format!("must specify {}", told.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;

    fn kind(plural: &str) -> Kind {
        let pods = kinds::by_resource("", "v1", "pods").unwrap();
        Kind { plural: plural.to_owned().into(), ..(**pods).clone() }
    }

    fn used(plural: &str, object: Value) -> Value {
        resources::write(&usage(&kind(plural), &object, "2024-01-01T00:00:00Z".parse().unwrap()))
    }

    #[test]
    fn pods_use_what_they_ask_for_until_they_end() {
        let pod = json!({"spec": {"overhead": {"cpu": "100m"}, "containers": [{"resources": {
            "requests": {"cpu": "1", "example.com/gpu": "2"}, "limits": {"cpu": "2", "memory": "1Gi"}}}]}});
        let running = json!({"count/pods": "1", "pods": "1", "cpu": "1100m", "requests.cpu": "1100m",
            "limits.cpu": "2100m", "limits.memory": "1Gi", "requests.example.com/gpu": "2"});
        assert_eq!(used("pods", pod.clone()), running);
        for (change, counts) in [
            (json!({"status": {"phase": "Succeeded"}}), false),
            (
                json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}}),
                true,
            ),
            (
                json!({"metadata": {"deletionTimestamp": "2023-12-31T23:00:00Z", "deletionGracePeriodSeconds": 30}}),
                false,
            ),
        ] {
            let mut changed = pod.clone();
            json_patch::merge(&mut changed, &change);
            assert_eq!(used("pods", changed).get("pods").is_some(), counts, "{change}");
        }
    }

    #[test]
    fn other_kinds_use_what_is_theirs() {
        let port = json!({"port": 80});
        for (plural, object, expected) in [
            ("configmaps", json!({}), json!({"count/configmaps": "1", "configmaps": "1"})),
            (
                "services",
                json!({"spec": {"type": "NodePort", "ports": [port, port]}}),
                json!({"count/services": "1", "services": "1", "services.nodeports": "2", "services.loadbalancers": "0"}),
            ),
            (
                "services",
                json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [port]}}),
                json!({"count/services": "1", "services": "1", "services.nodeports": "0", "services.loadbalancers": "1"}),
            ),
            (
                "persistentvolumeclaims",
                json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}}),
                json!({"count/persistentvolumeclaims": "1", "persistentvolumeclaims": "1", "requests.storage": "1Gi",
                    "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
                    "gold.storageclass.storage.k8s.io/requests.storage": "1Gi"}),
            ),
        ] {
            assert_eq!(used(plural, object), expected, "{plural}");
        }
    }

    #[test]
    fn kinds_know_their_resources() {
        for (plural, resource, expected) in [
            ("pods", "pods", true),
            ("pods", "count/pods", true),
            ("pods", "requests.example.com/gpu", true),
            ("pods", "requests.storage", false),
            ("pods", "hugepages-2Mi", true),
            ("pods", "requests.hugepages-2Mi", true),
            ("pods", "services", false),
            ("configmaps", "configmaps", true),
            ("deployments", "deployments", false),
            ("persistentvolumeclaims", "gold.storageclass.storage.k8s.io/requests.storage", true),
            ("persistentvolumeclaims", "requests.storage", true),
        ] {
            assert_eq!(counts(&kind(plural), resource), expected, "{plural} {resource}");
        }
        let deployments = Kind { group: "apps".into(), ..kind("deployments") };
        assert_eq!(count_name(&deployments), "count/deployments.apps");
        assert!(counts(&deployments, "count/deployments.apps"));
    }

    #[test]
    fn scopes_hold_some_pods() {
        let select = |operator: &str, values: Value| {
            json!({"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": operator, "values": values}]}})
        };
        let high = json!({"spec": {"priorityClassName": "high"}, "status": {"qosClass": "Burstable"}});
        let plain = json!({"spec": {"activeDeadlineSeconds": 5}, "status": {"qosClass": "BestEffort"}});
        for (spec, holds_high, holds_plain) in [
            (json!({}), true, true),
            (json!({"scopes": ["BestEffort"]}), false, true),
            (json!({"scopes": ["NotBestEffort", "NotTerminating"]}), true, false),
            (json!({"scopes": ["Terminating"]}), false, true),
            (json!({"scopes": ["PriorityClass"]}), true, false),
            (select("In", json!(["high", "low"])), true, false),
            (select("NotIn", json!(["high"])), false, true),
            (select("DoesNotExist", Value::Null), false, true),
        ] {
            let held = [&high, &plain].map(|pod| in_scope(&kind("pods"), pod, &spec));
            assert_eq!(held, [holds_high, holds_plain], "{spec}");
        }
        assert!(!in_scope(&kind("services"), &json!({}), &json!({"scopes": ["BestEffort"]})));
    }

    #[test]
    fn what_is_counted_must_be_stated() {
        let pod = json!({"spec": {"containers": [
            {"name": "web", "resources": {"requests": {"cpu": "1"}}}, {"name": "db"}]}});
        let told = |names: &[&str]| unstated(&pod, names.iter().copied());
        assert_eq!(told(&["pods", "limits.cpu"]).unwrap(), "must specify limits.cpu for: db,web");
        assert_eq!(
            told(&["requests.cpu", "memory"]).unwrap(),
            "must specify memory for: db,web; requests.cpu for: db"
        );
        assert_eq!(told(&["pods", "requests.ephemeral-storage"]), None);
    }
}
