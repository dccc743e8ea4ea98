//! What is wrong with where a pod wants to run: affinities and spreading (`validateAffinity`).

use serde_json::{Value, json};

use super::super::checks;
use super::super::value::{entries, items, text};
use super::fields::{invalid, word};
use crate::api::names;
use crate::api::status::FieldError;

const OPERATORS: [&str; 6] = ["DoesNotExist", "Exists", "Gt", "In", "Lt", "NotIn"];
const NO_OPERATOR: &str = "not a valid selector operator";
const NOT_POSITIVE: &str = "must be greater than zero";
/// What becomes of a pod that would make the spread uneven.
const ACTIONS: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];

/// What is wrong with a pod's affinities.
pub(super) fn validate(spec: &Value) -> Vec<FieldError> {
    let affinity = &spec["affinity"];
    let mut errors = node(&affinity["nodeAffinity"]);
    for kind in ["podAffinity", "podAntiAffinity"] {
        errors.extend(pods(&format!("spec.affinity.{kind}"), &affinity[kind]));
    }
    errors
}

/// Which nodes something may be on, if it says so (`ValidateNodeSelector`).
pub(in super::super) fn node_selector(path: &str, selector: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = format!("{path}.nodeSelectorTerms");
    if selector.is_object() && items(selector, "nodeSelectorTerms").is_empty() {
        errors.push(FieldError::required(path.as_str(), "must have at least one node selector term"));
    }
    for (i, one) in items(selector, "nodeSelectorTerms").iter().enumerate() {
        errors.extend(term(&format!("{path}[{i}]"), one, true));
    }
    errors
}

fn node(affinity: &Value) -> Vec<FieldError> {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let mut errors = node_selector(&format!("spec.affinity.nodeAffinity.{required}"), &affinity[required]);
    for (i, preferred) in
        items(affinity, "preferredDuringSchedulingIgnoredDuringExecution").iter().enumerate()
    {
        let path = format!("spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[{i}]");
        errors.extend(weight(&path, preferred));
        // A value that no node can have does no harm here.
        errors.extend(term(&format!("{path}.preference"), &preferred["preference"], false));
    }
    errors
}

fn term(path: &str, term: &Value, values_fit: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, expression) in items(term, "matchExpressions").iter().enumerate() {
        let at = |field: &str| format!("{path}.matchExpressions[{i}].{field}");
        let values = items(expression, "values");
        match text(expression, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(FieldError::required(
                    at("values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                ));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(at("values"), why));
            }
            "Gt" | "Lt" if values.len() != 1 => {
                let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.push(FieldError::required(at("values"), why));
            }
            operator if OPERATORS.contains(&operator) => {}
            operator => errors.push(FieldError::invalid(at("operator"), &json!(operator), NO_OPERATOR)),
        }
        let key = text(expression, "key");
        errors.extend(invalid(&at("key"), &json!(key), names::qualified_name(key)));
        for (j, value) in values.iter().enumerate().filter(|_| values_fit) {
            let wrong = names::label_value(value.as_str().unwrap_or_default());
            errors.extend(invalid(&at(&format!("values[{j}]")), value, wrong));
        }
    }
    for (i, field) in items(term, "matchFields").iter().enumerate() {
        let at = |name: &str| format!("{path}.matchFields[{i}].{name}");
        let values = items(field, "values");
        match text(field, "operator") {
            "In" | "NotIn" if values.len() == 1 => {}
            "In" | "NotIn" => {
                let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.push(FieldError::required(at("values"), why));
            }
            operator => errors.push(FieldError::invalid(at("operator"), &json!(operator), NO_OPERATOR)),
        }
        match text(field, "key") {
            "metadata.name" => {
                for (j, value) in values.iter().enumerate() {
                    let wrong = names::dns_subdomain(value.as_str().unwrap_or_default());
                    errors.extend(invalid(&at(&format!("values[{j}]")), value, wrong));
                }
            }
            key => {
                errors.push(FieldError::invalid(at("key"), &json!(key), "not a valid field selector key"));
            }
        }
    }
    errors
}

fn weight(path: &str, preferred: &Value) -> Option<FieldError> {
    let weight = preferred["weight"].as_i64().unwrap_or(0);
    let why = "must be in the range 1-100";
    (!(1..=100).contains(&weight)).then(|| FieldError::invalid(format!("{path}.weight"), &json!(weight), why))
}

fn pods(path: &str, affinity: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, term) in items(affinity, "requiredDuringSchedulingIgnoredDuringExecution").iter().enumerate() {
        let path = format!("{path}.requiredDuringSchedulingIgnoredDuringExecution[{i}]");
        errors.extend(pod_term(&path, term));
    }
    for (i, preferred) in
        items(affinity, "preferredDuringSchedulingIgnoredDuringExecution").iter().enumerate()
    {
        let path = format!("{path}.preferredDuringSchedulingIgnoredDuringExecution[{i}]");
        errors.extend(weight(&path, preferred));
        let term = &preferred["podAffinityTerm"];
        errors.extend(pod_term(&format!("{path}.podAffinityTerm"), term));
    }
    errors
}

fn pod_term(path: &str, term: &Value) -> Vec<FieldError> {
    let at = |field: &str| format!("{path}.{field}");
    let mut errors = checks::label_selector(&at("labelSelector"), &term["labelSelector"]);
    errors.extend(checks::label_selector(&at("namespaceSelector"), &term["namespaceSelector"]));
    for name in items(term, "namespaces") {
        // Kubernetes says the name in the singular.
        let wrong = names::dns_label(name.as_str().unwrap_or_default());
        errors.extend(invalid(&at("namespace"), name, wrong));
    }
    errors.extend(label_keys(path, term));
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errors.push(FieldError::required(at("topologyKey"), "can not be empty"));
    }
    errors.extend(invalid(&at("topologyKey"), &json!(key), names::qualified_name(key)));
    errors
}

/// What is wrong with how pods are spread over nodes (`validateTopologySpreadConstraints`).
pub(super) fn spread(spec: &Value) -> Vec<FieldError> {
    let all = items(spec, "topologySpreadConstraints");
    let mut errors = Vec::new();
    for (i, constraint) in all.iter().enumerate() {
        let path = format!("spec.topologySpreadConstraints[{i}]");
        let at = |field: &str| format!("{path}.{field}");
        let skew = constraint["maxSkew"].as_i64().unwrap_or(0);
        if skew <= 0 {
            errors.push(FieldError::invalid(at("maxSkew"), &json!(skew), NOT_POSITIVE));
        }
        let (key, action) = (text(constraint, "topologyKey"), text(constraint, "whenUnsatisfiable"));
        if key.is_empty() {
            errors.push(FieldError::required(at("topologyKey"), "can not be empty"));
        }
        if !ACTIONS.contains(&action) {
            errors.push(FieldError::not_supported(at("whenUnsatisfiable"), &json!(action), &ACTIONS));
        }
        let same =
            |other: &Value| text(other, "topologyKey") == key && text(other, "whenUnsatisfiable") == action;
        if all[i + 1..].iter().any(same) {
            let shown = json!(format!("{{{key}, {action}}}"));
            errors.push(FieldError::duplicate(at("{topologyKey, whenUnsatisfiable}"), &shown));
        }
        let domains = &constraint["minDomains"];
        if domains.as_i64().is_some_and(|domains| domains <= 0) {
            errors.push(FieldError::invalid(at("minDomains"), domains, NOT_POSITIVE));
        }
        if !domains.is_null() && action != ACTIONS[0] {
            let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
            errors.push(FieldError::invalid(at("minDomains"), domains, &why));
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            errors.extend(word(&at(field), &constraint[field], &["Honor", "Ignore"]));
        }
        errors.extend(label_keys(&path, constraint));
        errors.extend(checks::label_selector(&at("labelSelector"), &constraint["labelSelector"]));
    }
    errors
}

/// The labels whose values are to be those of the pod, or others (`ValidateMatchLabelKeysAndMismatchLabelKeys`).
fn label_keys(path: &str, term: &Value) -> Vec<FieldError> {
    let selector = &term["labelSelector"];
    let mut errors = Vec::new();
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let keys = items(term, field);
        if !keys.is_empty() && selector.is_null() {
            let why = "must not be specified when labelSelector is not set";
            errors.push(FieldError::forbidden(format!("{path}.{field}"), why));
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            let wrong = names::qualified_name(key.as_str().unwrap_or_default());
            errors.extend(invalid(&format!("{path}.{field}[{i}]"), key, wrong));
        }
    }
    // What a pod's own labels say is part of the selector already, so that a key is there twice if it was there before.
    let matched = items(term, "matchLabelKeys");
    let mut seen: Vec<&str> = entries(selector, "matchLabels").map(|(key, _)| key.as_str()).collect();
    for expression in items(selector, "matchExpressions") {
        let key = text(expression, "key");
        if let Some(i) = matched.iter().rposition(|matched| matched == key).filter(|_| seen.contains(&key)) {
            let why = "exists in both matchLabelKeys and labelSelector";
            errors.push(FieldError::invalid(format!("{path}[{i}]"), &key.into(), why));
        }
        seen.push(key);
    }
    for (i, key) in matched.iter().enumerate() {
        if items(term, "mismatchLabelKeys").contains(key) {
            let why = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.push(FieldError::invalid(format!("{path}.matchLabelKeys[{i}]"), key, why));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinities_are_checked() {
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        let expression = |e: Value| json!({"affinity": {"nodeAffinity": {required: {"nodeSelectorTerms": [{"matchExpressions": [e]}]}}}});
        for (spec, errors) in [
            (json!({}), 0),
            (expression(json!({"key": "a", "operator": "In", "values": ["b"]})), 0),
            (expression(json!({"key": "a", "operator": "In"})), 1),
            (expression(json!({"key": "a b", "operator": "Is"})), 2),
            (json!({"affinity": {"nodeAffinity": {required: {}}}}), 1),
            (
                json!({"affinity": {"podAntiAffinity": {required: [{"topologyKey": "a", "labelSelector": {}}]}}}),
                0,
            ),
            (json!({"affinity": {"podAffinity": {required: [{}]}}}), 3),
            (
                json!({"affinity": {"podAffinity": {required: [{"topologyKey": "a", "matchLabelKeys": ["b"],
                    "mismatchLabelKeys": ["b"], "labelSelector": {"matchLabels": {"b": "c"},
                        "matchExpressions": [{"key": "b", "operator": "In", "values": ["c"]}]}, "namespaces": ["A"]}]}}}),
                3,
            ),
            (expression(json!({"key": "a", "operator": "In", "values": ["b c"]})), 1),
        ] {
            assert_eq!(validate(&spec).len(), errors, "{spec}");
        }
    }

    #[test]
    fn nodes_are_selected_by_their_names_alone() {
        let told = |field: Value| {
            let selector = json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
            node_selector("s", &selector).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(told(json!({"key": "metadata.name", "operator": "In", "values": ["minik"]})).is_empty());
        assert_eq!(
            told(json!({"key": "metadata.uid", "operator": "Gt", "values": []})),
            [
                "s.nodeSelectorTerms[0].matchFields[0].operator: Invalid value: \"Gt\": not a valid selector operator",
                "s.nodeSelectorTerms[0].matchFields[0].key: Invalid value: \"metadata.uid\": not a valid field selector key",
            ]
        );
        let two = told(json!({"key": "metadata.name", "operator": "In", "values": ["a", "b"]}));
        assert!(
            two[0].ends_with(
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
            )
        );
    }

    #[test]
    fn spreads_are_checked() {
        let good = json!({"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule"});
        let told = |constraints: Value| {
            let errors = spread(&json!({ "topologySpreadConstraints": constraints }));
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let p = "spec.topologySpreadConstraints[0]";
        assert!(told(json!([good])).is_empty());
        assert_eq!(told(json!([{}])).len(), 3);
        assert_eq!(
            told(json!([good, good])),
            [format!("{p}.{{topologyKey, whenUnsatisfiable}}: Duplicate value: \"{{a, DoNotSchedule}}\"")]
        );
        let mut any = json!({"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "ScheduleAnyway", "minDomains": 2,
            "nodeTaintsPolicy": "X", "matchLabelKeys": ["b"], "labelSelector": {"matchLabels": {"b": "c"}}});
        let wrong = [
            format!(
                "{p}.minDomains: Invalid value: 2: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway"
            ),
            format!(
                "{p}.nodeTaintsPolicy: Unsupported value: \"X\": supported values: \"Honor\", \"Ignore\""
            ),
            format!("{p}[0]: Invalid value: \"b\": exists in both matchLabelKeys and labelSelector"),
        ];
        // As long as it is a template.
        assert_eq!(told(json!([any])), wrong[..2]);
        any["labelSelector"]["matchExpressions"] = json!([{"key": "b", "operator": "In", "values": ["c"]}]);
        assert_eq!(told(json!([any])), wrong);
    }
}
