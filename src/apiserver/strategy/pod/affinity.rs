//! What is wrong with where a pod wants to run: affinities and spreading (`validateAffinity`).

use serde_json::{Value, json};

use super::super::value::{items, text};
use super::fields::{invalid, one_of};
use crate::api::names;
use crate::api::selector::LabelSelector;
use crate::api::status::FieldError;

const OPERATORS: [&str; 6] = ["DoesNotExist", "Exists", "Gt", "In", "Lt", "NotIn"];

pub(super) fn validate(spec: &Value) -> Vec<FieldError> {
    let affinity = &spec["affinity"];
    let mut errors = node(&affinity["nodeAffinity"]);
    for kind in ["podAffinity", "podAntiAffinity"] {
        errors.extend(pods(&format!("spec.affinity.{kind}"), &affinity[kind]));
    }
    for (i, constraint) in items(spec, "topologySpreadConstraints").iter().enumerate() {
        errors.extend(spread(&format!("spec.topologySpreadConstraints[{i}]"), constraint));
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
        errors.extend(term(&format!("{path}[{i}]"), one));
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
        errors.extend(term(&format!("{path}.preference"), &preferred["preference"]));
    }
    errors
}

fn term(path: &str, term: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, expression) in items(term, "matchExpressions").iter().enumerate() {
        let at = |field: &str| format!("{path}.matchExpressions[{i}].{field}");
        let count = items(expression, "values").len();
        match text(expression, "operator") {
            "In" | "NotIn" if count == 0 => {
                errors.push(FieldError::required(
                    at("values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                ));
            }
            "Exists" | "DoesNotExist" if count > 0 => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(at("values"), why));
            }
            "Gt" | "Lt" if count != 1 => {
                let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.push(FieldError::required(at("values"), why));
            }
            operator if OPERATORS.contains(&operator) => {}
            _ => {
                let why = "not a valid selector operator";
                errors.push(FieldError::invalid(at("operator"), &json!(text(expression, "operator")), why));
            }
        }
        errors.extend(invalid(
            &at("key"),
            &expression["key"],
            names::qualified_name(text(expression, "key")),
        ));
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
        errors.extend(pod_term(&format!("{path}.requiredDuringSchedulingIgnoredDuringExecution[{i}]"), term));
    }
    for (i, preferred) in
        items(affinity, "preferredDuringSchedulingIgnoredDuringExecution").iter().enumerate()
    {
        let path = format!("{path}.preferredDuringSchedulingIgnoredDuringExecution[{i}]");
        errors.extend(weight(&path, preferred));
        errors.extend(pod_term(&format!("{path}.podAffinityTerm"), &preferred["podAffinityTerm"]));
    }
    errors
}

fn pod_term(path: &str, term: &Value) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> =
        selector(&format!("{path}.labelSelector"), &term["labelSelector"]).into_iter().collect();
    match text(term, "topologyKey") {
        "" => errors.push(FieldError::required(format!("{path}.topologyKey"), "can not be empty")),
        key => errors.extend(invalid(
            &format!("{path}.topologyKey"),
            &term["topologyKey"],
            names::qualified_name(key),
        )),
    }
    errors
}

fn spread(path: &str, constraint: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let skew = constraint["maxSkew"].as_i64().unwrap_or(0);
    if skew <= 0 {
        errors.push(FieldError::invalid(
            format!("{path}.maxSkew"),
            &json!(skew),
            "must be greater than zero",
        ));
    }
    match text(constraint, "topologyKey") {
        "" => errors.push(FieldError::required(format!("{path}.topologyKey"), "can not be empty")),
        key => errors.extend(invalid(
            &format!("{path}.topologyKey"),
            &constraint["topologyKey"],
            names::qualified_name(key),
        )),
    }
    let actions = ["DoNotSchedule", "ScheduleAnyway"];
    errors.extend(one_of(&format!("{path}.whenUnsatisfiable"), &constraint["whenUnsatisfiable"], &actions));
    errors.extend(selector(&format!("{path}.labelSelector"), &constraint["labelSelector"]));
    errors
}

fn selector(path: &str, selector: &Value) -> Option<FieldError> {
    let wrong = LabelSelector::from_object(selector).err()?;
    Some(FieldError::invalid(path, selector, &wrong))
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
            (json!({"affinity": {"podAffinity": {required: [{}]}}}), 1),
            (
                json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule"}]}),
                0,
            ),
            (json!({"topologySpreadConstraints": [{}]}), 3),
        ] {
            assert_eq!(validate(&spec).len(), errors, "{spec}");
        }
    }
}
