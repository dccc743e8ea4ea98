//! Amounts of resources by name (`ResourceList`), and what a pod asks for and may use.
//!
//! Source of the sums over a pod: k8s.io/component-helpers `resource/helpers.go`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use serde_json::{Map, Value};

use super::quantity::{self, Quantity};

/// Amounts by the names of resources: `cpu`, `requests.memory`, `count/deployments.apps`.
pub type Resources = BTreeMap<String, Quantity>;

/// The resources that a pod may state for all of its containers together, beside huge pages.
const OF_WHOLE_PODS: [&str; 2] = ["cpu", "memory"];
/// What the names of huge pages begin with.
pub const HUGE_PAGES: &str = "hugepages-";

/// The amounts of a `ResourceList` object; what is no amount is left out.
pub fn read(list: &Value) -> Resources {
    let amount = |value: &Value| match value {
        Value::String(text) => quantity::parse(text).ok(),
        Value::Number(number) => quantity::parse(&number.to_string()).ok(),
        _ => None,
    };
    let entries = list.as_object().into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), amount(value)?))).collect()
}

/// The same of a list that is read already.
pub fn amounts(list: Option<&BTreeMap<String, Amount>>) -> Resources {
    let entries = list.into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), quantity::parse(&value.0).ok()?))).collect()
}

/// The amounts as a `ResourceList` object.
pub fn write(list: &Resources) -> Value {
    let fields = list.iter().map(|(name, amount)| (name.clone(), Value::from(amount.to_string())));
    Value::Object(fields.collect::<Map<_, _>>())
}

/// Adds amounts to others.
pub fn add(total: &mut Resources, more: &Resources) {
    for (name, amount) in more {
        total.entry(name.clone()).and_modify(|sum| *sum = sum.plus(amount)).or_insert(*amount);
    }
}

/// Raises amounts to at least these.
pub fn raise(amounts: &mut Resources, least: &Resources) {
    for (name, amount) in least {
        let present = amounts.entry(name.clone()).or_insert(*amount);
        if *present < *amount {
            *present = *amount;
        }
    }
}

/// Only the amounts whose names are wanted.
pub fn only(list: &Resources, wanted: impl Fn(&str) -> bool) -> Resources {
    list.iter().filter(|(name, _)| wanted(name)).map(|(name, amount)| (name.clone(), *amount)).collect()
}

/// What a container states under `requests` or `limits`.
pub fn of_container(container: &Value, what: &str) -> Resources {
    read(&container["resources"][what])
}

/// The `requests` or `limits` of a pod's spec: what its containers need at one time; what the pod states for itself
/// replaces the sum.
pub fn of_pod(spec: &Value, what: &str) -> Resources {
    let mut running = of_pod_containers(spec, what);
    running.extend(of_whole_pod(spec, what));
    running
}

/// The same without what the pod states for itself.
pub fn of_pod_containers(spec: &Value, what: &str) -> Resources {
    let containers = |list: &str| spec[list].as_array().into_iter().flatten();
    let init = containers("initContainers");
    at_one_time(
        containers("containers").map(|container| of_container(container, what)),
        init.map(|container| (container["restartPolicy"] == "Always", of_container(container, what))),
    )
}

/// The most that runs at one time. Restartable init containers (the flag says which are) run on beside all that comes
/// after them, the others alone with those.
fn at_one_time(
    containers: impl Iterator<Item = Resources>,
    init: impl Iterator<Item = (bool, Resources)>,
) -> Resources {
    let mut running = Resources::new();
    containers.for_each(|own| add(&mut running, &own));
    let (mut beside, mut starting) = (Resources::new(), Resources::new());
    for (stays, own) in init {
        if stays {
            add(&mut running, &own);
            add(&mut beside, &own);
            raise(&mut starting, &beside);
        } else {
            let mut alone = own;
            add(&mut alone, &beside);
            raise(&mut starting, &alone);
        }
    }
    raise(&mut running, &starting);
    running
}

/// The most that the containers of a pod need at one time, by what each of them does.
pub fn of_containers(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let stays = |container: &Container| container.restart_policy.as_deref() == Some("Always");
    let init = spec.init_containers.iter().flatten();
    at_one_time(spec.containers.iter().map(&of), init.map(|container| (stays(container), of(container))))
}

/// What a container asks for.
fn asked(container: &Container) -> Resources {
    amounts(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
}

/// The amounts of those resources that a pod may state for all of its containers together.
pub fn stated(list: Option<&BTreeMap<String, Amount>>) -> Resources {
    only(&amounts(list), is_of_whole_pods)
}

/// What a pod asks for all of its containers together.
fn whole(spec: &PodSpec) -> Resources {
    stated(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
}

/// The amounts that a pod states for itself and for the sandbox, over those of its containers.
fn with_whole(spec: &PodSpec, of_containers: Resources) -> Resources {
    with(spec, of_containers, whole(spec))
}

fn with(spec: &PodSpec, mut of_containers: Resources, whole: Resources) -> Resources {
    of_containers.extend(whole);
    add(&mut of_containers, &amounts(spec.overhead.as_ref()));
    of_containers
}

/// What a pod asks for, with what its sandbox takes.
pub fn requests(spec: &PodSpec) -> Resources {
    with_whole(spec, of_containers(spec, asked))
}

/// What a pod takes of its node: the most of what it asks for, of what the node has set aside for its containers, and
/// of what those were given. What the node can never give counts for nothing.
pub fn held(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::new() };
    let Some(status) = pod.status.as_ref().filter(|status| status.container_statuses.is_some()) else {
        return requests(spec);
    };
    let refused = is_resize_infeasible(pod);
    let lists = [&status.container_statuses, &status.init_container_statuses];
    let shown = |container: &Container| -> Option<&ContainerStatus> {
        lists.into_iter().flatten().flatten().find(|shown| shown.name == container.name)
    };
    let otherwise = |container: &Container| if refused { Resources::new() } else { asked(container) };
    let allocated = |container: &Container| match shown(container).map(|s| &s.allocated_resources) {
        Some(Some(list)) => amounts(Some(list)),
        _ => otherwise(container),
    };
    let given = |container: &Container| {
        let given = shown(container).and_then(|s| s.resources.as_ref()?.requests.as_ref());
        given.map_or_else(|| allocated(container), |list| amounts(Some(list)))
    };
    let mut most = of_containers(spec, allocated);
    raise(&mut most, &of_containers(spec, given));
    if !refused {
        raise(&mut most, &of_containers(spec, asked));
    }
    let asked = whole(spec);
    let mut whole = if refused { Resources::new() } else { asked.clone() };
    let given = status.resources.as_ref().and_then(|given| given.requests.as_ref());
    for list in [given, status.allocated_resources.as_ref()] {
        // Of what the pod does not state for itself, these tell the sum.
        raise(&mut whole, &only(&amounts(list), |name| asked.contains_key(name)));
    }
    with(spec, most, whole)
}

/// Whether a pod's node has said that it can never give what the pod's spec asks for.
fn is_resize_infeasible(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let pending = conditions.find(|condition| condition.type_ == "PodResizePending");
    pending.is_some_and(|condition| condition.reason.as_deref() == Some("Infeasible"))
}

fn is_of_whole_pods(name: &str) -> bool {
    OF_WHOLE_PODS.contains(&name) || name.starts_with(HUGE_PAGES)
}

/// Whether a name is of a resource that is none of Kubernetes' own.
pub fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

/// What a pod's spec states for all of its containers together.
pub fn of_whole_pod(spec: &Value, what: &str) -> Resources {
    only(&of_container(spec, what), is_of_whole_pods)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_are_read_and_written() {
        let list = json!({"cpu": "1500m", "memory": "1Gi", "pods": 3, "odd": "much", "none": null});
        assert_eq!(write(&read(&list)), json!({"cpu": "1500m", "memory": "1Gi", "pods": "3"}));
        assert!(read(&json!(null)).is_empty() && read(&json!([1])).is_empty());
    }

    #[test]
    fn a_pod_needs_what_runs_at_one_time() {
        let wants = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let sidecar = json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}});
        for (spec, cpu) in [
            (json!({"containers": [wants("1"), wants("500m")]}), "1500m"),
            (json!({"containers": [wants("1")], "initContainers": [wants("3")]}), "3"),
            (json!({"containers": [wants("1")], "initContainers": [sidecar, wants("3")]}), "4"),
            (json!({"containers": [wants("1")], "initContainers": [wants("1"), sidecar]}), "2"),
            (json!({"containers": [wants("1")], "resources": {"requests": {"cpu": "7"}}}), "7"),
        ] {
            assert_eq!(of_pod(&spec, "requests")["cpu"].to_string(), cpu, "{spec}");
        }
        assert!(of_pod(&json!({"containers": {"a": 1}}), "limits").is_empty());
    }

    #[test]
    fn a_pod_on_a_node_takes_what_was_set_aside_for_all_of_it() {
        for (spec, allocated, given, reason, cpu) in [
            ("4", "2", "2", "Deferred", "5"),
            ("4", "2", "3", "Infeasible", "4"),
            ("1", "1", "3", "", "4"),
            ("3", "2", "1", "", "4"),
        ] {
            let pod: Pod = serde_json::from_value(json!({
                "spec": {"resources": {"requests": {"cpu": spec}}, "overhead": {"cpu": "1"},
                    "containers": [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}]},
                "status": {"containerStatuses": [], "allocatedResources": {"cpu": allocated, "memory": "9Gi"},
                    "resources": {"requests": {"cpu": given, "memory": "9Gi"}},
                    "conditions": [{"type": "PodResizePending", "status": "True", "reason": reason}]},
            }))
            .unwrap();
            let held = held(&pod);
            assert_eq!(held["cpu"].to_string(), cpu, "{spec} {allocated} {given} {reason}");
            assert!(!held.contains_key("memory"), "the sum of containers is not the pod's own");
        }
    }

    #[test]
    fn a_pod_on_a_node_takes_what_was_set_aside_for_it() {
        let pod = |spec: &str, allocated: Option<&str>, given: Option<&str>, reason: &str| -> Pod {
            let list = |cpu: Option<&str>| cpu.map(|cpu| json!({"cpu": cpu}));
            let status = json!({"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "allocatedResources": list(allocated), "resources": {"requests": list(given)}});
            serde_json::from_value(json!({
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": spec}}}],
                         "overhead": {"cpu": "1"}},
                "status": {"containerStatuses": [status],
                    "conditions": [{"type": "PodResizePending", "status": "True", "reason": reason}]},
            }))
            .unwrap()
        };
        for (spec, allocated, given, reason, cpu) in [
            ("4", Some("2"), Some("2"), "Deferred", "5"),
            ("4", Some("2"), Some("3"), "Infeasible", "4"),
            ("4", Some("3"), None, "Infeasible", "4"),
            ("4", None, None, "Infeasible", "1"),
            ("1", Some("1"), Some("3"), "", "4"),
            ("2", None, None, "", "3"),
        ] {
            let pod = pod(spec, allocated, given, reason);
            assert_eq!(held(&pod)["cpu"].to_string(), cpu, "{spec} {allocated:?} {given:?} {reason}");
        }
    }
}
