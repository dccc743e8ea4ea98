//! Labels by whose values a pod selects others: `matchLabelKeys` and `mismatchLabelKeys` become parts of the selectors that
//! they stand beside when the pod is made, as Kubernetes' `pkg/registry/core/pod` has it.

use serde_json::{Map, Value, json};

/// Adds to the selectors of a pod's affinities and spreading what its own labels say.
pub(super) fn merge(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    if labels.is_empty() {
        return;
    }
    let spec = &mut pod["spec"];
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = spec.pointer_mut(&format!("/affinity/{kind}")) else { continue };
        for weighted in list(affinity, "preferredDuringSchedulingIgnoredDuringExecution") {
            weighted.get_mut("podAffinityTerm").map(|term| of_term(term, &labels)).unwrap_or_default();
        }
        for term in list(affinity, "requiredDuringSchedulingIgnoredDuringExecution") {
            of_term(term, &labels);
        }
    }
    list(spec, "topologySpreadConstraints").for_each(|constraint| of_term(constraint, &labels));
}

fn list<'a>(of: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    of.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

fn of_term(term: &mut Value, labels: &Map<String, Value>) {
    let mut more = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        let keys = term[field].as_array().into_iter().flatten().filter_map(Value::as_str);
        let named = keys.filter_map(|key| Some((key, labels.get(key)?)));
        more.extend(named.map(|(key, value)| json!({"key": key, "operator": operator, "values": [value]})));
    }
    // Without a selector nothing is selected.
    let Some(selector) = term.get_mut("labelSelector").and_then(Value::as_object_mut) else { return };
    if more.is_empty() {
        return;
    }
    match selector.entry("matchExpressions").or_insert_with(|| json!([])) {
        Value::Array(expressions) => expressions.extend(more),
        other => *other = Value::Array(more),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_parts_of_the_selectors_beside_them() {
        let term = |selector: Value| {
            json!({"matchLabelKeys": ["a", "none"], "mismatchLabelKeys": ["b"], "topologyKey": "t",
            "labelSelector": selector})
        };
        let spread = json!({"matchLabelKeys": ["a"], "labelSelector": {"matchExpressions": [{"key": "x", "operator": "Exists"}]}});
        let mut pod = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {
            "affinity": {
                "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term(json!({})), term(Value::Null)]},
                "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
                    [{"weight": 1, "podAffinityTerm": term(json!({"matchLabels": {"c": "d"}}))}]}},
            "topologySpreadConstraints": [spread]}});
        merge(&mut pod);
        let a = json!({"key": "a", "operator": "In", "values": ["1"]});
        let b = json!({"key": "b", "operator": "NotIn", "values": ["2"]});
        let affinity = &pod["spec"]["affinity"];
        let required = &affinity["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        assert_eq!(required[0]["labelSelector"], json!({"matchExpressions": [a, b]}));
        assert_eq!(required[1]["labelSelector"], Value::Null);
        let preferred = &affinity["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0];
        assert_eq!(
            preferred["podAffinityTerm"]["labelSelector"],
            json!({"matchLabels": {"c": "d"}, "matchExpressions": [a, b]})
        );
        assert_eq!(
            pod["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchExpressions"],
            json!([{"key": "x", "operator": "Exists"}, a])
        );
        let mut plain =
            json!({"spec": {"topologySpreadConstraints": [{"matchLabelKeys": ["a"], "labelSelector": {}}]}});
        let before = plain.clone();
        merge(&mut plain);
        assert_eq!(plain, before);
    }
}
