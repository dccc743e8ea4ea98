//! Amounts of resources by name (`ResourceList`), and what a pod asks for and may use.
//!
//! Source of the sums over a pod: k8s.io/component-helpers `resource/helpers.go`.

use std::collections::BTreeMap;

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

/// The `requests` or `limits` of a pod's spec: the most that runs at one time. Restartable init containers run on
/// beside all that comes after them, the others alone with those; what the pod states for itself replaces the sum.
pub fn of_pod(spec: &Value, what: &str) -> Resources {
    let containers = |list: &str| spec[list].as_array().into_iter().flatten();
    let mut running = Resources::new();
    for container in containers("containers") {
        add(&mut running, &of_container(container, what));
    }
    let (mut beside, mut starting) = (Resources::new(), Resources::new());
    for container in containers("initContainers") {
        let own = of_container(container, what);
        if container["restartPolicy"] == "Always" {
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
    running.extend(of_whole_pod(spec, what));
    running
}

/// What a pod's spec states for all of its containers together.
pub fn of_whole_pod(spec: &Value, what: &str) -> Resources {
    only(&of_container(spec, what), |name| OF_WHOLE_PODS.contains(&name) || name.starts_with(HUGE_PAGES))
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
}
