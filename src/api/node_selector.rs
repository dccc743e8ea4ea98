//! Node selectors: which nodes a pod's affinity or a volume's topology means.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

/// The labels of a node.
type Labels = BTreeMap<String, String>;

/// Whether one of the terms means the node; no terms mean none.
pub fn matches(selector: &NodeSelector, name: &str, labels: &Labels) -> bool {
    selector.node_selector_terms.iter().any(|term| matches_term(term, name, labels))
}

/// What a pod's affinity demands of a node.
pub fn required(spec: &PodSpec) -> Option<&NodeSelector> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    affinity.required_during_scheduling_ignored_during_execution.as_ref()
}

/// Whether a pod's selector and affinity mean the node.
pub fn is_meant(spec: &PodSpec, name: &str, labels: &Labels) -> bool {
    spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
        && required(spec).is_none_or(|required| matches(required, name, labels))
}

/// Whether a term means the node; one without conditions means none.
pub fn matches_term(term: &NodeSelectorTerm, name: &str, labels: &Labels) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let field = |r: &NodeSelectorRequirement| r.key == "metadata.name" && holds(r, Some(name));
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|r| holds(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(field)
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let among = |value: &str| values.iter().any(|one| one == value);
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let than = number(values.first().map(String::as_str));
    match requirement.operator.as_str() {
        "In" => value.is_some_and(among),
        "NotIn" => !value.is_some_and(among),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number(value).zip(than).is_some_and(|(value, than)| value > than),
        "Lt" => number(value).zip(than).is_some_and(|(value, than)| value < than),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn terms_are_alternatives_and_conditions_are_not() {
        let labels = Labels::from([("disk".into(), "ssd".into()), ("cores".into(), "4".into())]);
        let expression = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        let both = json!({"matchExpressions": [{"key": "disk", "operator": "Exists"},
            {"key": "gpu", "operator": "Exists"}]});
        let field = |operator: &str| json!({"matchFields": [{"key": "metadata.name", "operator": operator, "values": ["n"]}]});
        for (terms, expected) in [
            (vec![expression("disk", "In", &["ssd", "nvme"])], true),
            (vec![expression("disk", "NotIn", &["ssd"])], false),
            (vec![expression("gpu", "NotIn", &["a"])], true),
            (vec![expression("cores", "Gt", &["3"])], true),
            (vec![expression("cores", "Gt", &["4"])], false),
            (vec![expression("cores", "Lt", &["5"])], true),
            (vec![expression("disk", "Lt", &["5"])], false),
            (vec![expression("gpu", "Exists", &[])], false),
            (vec![expression("gpu", "DoesNotExist", &[])], true),
            (vec![both.clone()], false),
            (vec![both, expression("disk", "Exists", &[])], true),
            (vec![field("In")], true),
            (vec![field("NotIn")], false),
            (vec![json!({})], false),
            (vec![], false),
        ] {
            let selector: Value = json!({"nodeSelectorTerms": terms});
            let read: NodeSelector = serde_json::from_value(selector.clone()).unwrap();
            assert_eq!(matches(&read, "n", &labels), expected, "{selector}");
        }
    }
}
