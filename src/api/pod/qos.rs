//! The quality-of-service class of a pod, from what it, or its containers, ask for and may use.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::api::quantity::{self, Quantity};
use crate::api::value::{entries, items};

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn class(pod: &Value) -> &'static str {
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    let mut guaranteed = true;
    let spec = &pod["spec"];
    let whole = &spec["resources"];
    if !whole.is_null() {
        // What a pod states for itself counts, and what its containers do does not.
        sum(&mut requests, whole, "requests");
        let limited = sum(&mut limits, whole, "limits");
        guaranteed = limited == 2 || entries(whole, "limits").next().is_none();
    } else {
        for container in items(spec, "containers").iter().chain(items(spec, "initContainers")) {
            let resources = &container["resources"];
            sum(&mut requests, resources, "requests");
            let limited = sum(&mut limits, resources, "limits");
            guaranteed &= limited == 2;
        }
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if guaranteed && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Adds a container's CPU and memory; how many of the two it names.
fn sum(total: &mut BTreeMap<String, Quantity>, resources: &Value, list: &str) -> usize {
    let mut named = 0;
    for (resource, amount) in entries(resources, list) {
        let amount = amount.as_str().and_then(|a| quantity::parse(a).ok());
        let Some(amount) = amount.filter(|a| !a.is_zero()) else { continue };
        if !matches!(resource.as_str(), "cpu" | "memory") {
            continue;
        }
        named += 1;
        total.entry(resource.clone()).and_modify(|sum| *sum = sum.plus(&amount)).or_insert(amount);
    }
    named
}

#[cfg(test)]
mod tests {
    use super::class;
    use serde_json::json;

    #[test]
    fn classes() {
        let full = json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}});
        let some = json!({"resources": {"requests": {"cpu": "1"}}});
        for (containers, expected) in [
            (json!([{}]), "BestEffort"),
            (json!([{"resources": {"limits": {"cpu": "0"}}}]), "BestEffort"),
            (json!([{"resources": {"limits": {"example.com/gpu": "1"}}}]), "BestEffort"),
            (json!([full]), "Guaranteed"),
            (json!([full, {}]), "Burstable"),
            (json!([some]), "Burstable"),
        ] {
            assert_eq!(class(&json!({"spec": {"containers": containers}})), expected, "{containers}");
        }
        let both = json!({"cpu": "1", "memory": "1Gi"});
        for (whole, expected) in [
            (json!({"limits": both, "requests": both}), "Guaranteed"),
            (json!({"limits": both, "requests": {"cpu": "500m", "memory": "1Gi"}}), "Burstable"),
            (json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}), "Burstable"),
            (json!({"requests": both}), "Burstable"),
            (json!({}), "BestEffort"),
        ] {
            let pod = json!({"spec": {"containers": [full, {}], "resources": whole}});
            assert_eq!(class(&pod), expected, "{whole}");
        }
    }
}
