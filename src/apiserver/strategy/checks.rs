//! Rules that the validation of several kinds shares, in Kubernetes' words (`pkg/apis/core/validation`,
//! `pkg/apis/apps/validation` and k8s.io/apimachinery's `pkg/api/validation`).

use serde_json::{Value, json};

use super::value::{entries, is_set, items, text};
use crate::api::names;
use crate::api::selector::LabelSelector;
use crate::api::status::FieldError;

/// What is said of a number below zero.
pub(super) const NEGATIVE: &str = "must be greater than or equal to 0";
/// What the status of a condition may be.
const STATUSES: &[&str] = &["False", "True", "Unknown"];
/// The longest reason and the longest message of a condition of the common form.
const REASON_BYTES: usize = 1 << 10;
const MESSAGE_BYTES: usize = 32 << 10;

/// The fields of an object that are numbers below zero; `path` is that of the object.
pub(super) fn nonnegative(path: &str, object: &Value, fields: &[&str]) -> Vec<FieldError> {
    let below = fields.iter().filter(|field| object[**field].as_i64().is_some_and(|n| n < 0));
    below.map(|field| FieldError::invalid(format!("{path}.{field}"), &object[*field], NEGATIVE)).collect()
}

/// The counts of a status that are higher than another one of its counts.
pub(super) fn at_most(status: &Value, fields: &[&str], limit: &str, why: &str) -> Vec<FieldError> {
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    let above = fields.iter().filter(|field| number(field) > number(limit));
    above.map(|field| FieldError::invalid(format!("status.{field}"), &status[*field], why)).collect()
}

/// A status' `collisionCount` only grows.
pub(super) fn collisions(new: &Value, old: &Value) -> Option<FieldError> {
    let count = |object: &Value| object["status"]["collisionCount"].as_i64();
    let fewer = count(old).is_some_and(|old| count(new).is_none_or(|new| new < old));
    let error = || {
        let given = json!(count(new).unwrap_or(0));
        FieldError::invalid("status.collisionCount", &given, "cannot be decremented")
    };
    fewer.then(error)
}

/// A field that stays as it was made.
pub(super) fn immutable(path: &str, new: &Value, old: &Value) -> Option<FieldError> {
    (!same(new, old)).then(|| FieldError::invalid(path, new, "field is immutable"))
}

/// Whether two values mean the same: an absent list and an empty one do.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    let empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let of = |map: &serde_json::Map<String, Value>, key: &str| map.get(key).cloned();
            a.keys().chain(b.keys()).all(|key| match (of(a, key), of(b, key)) {
                (Some(a), Some(b)) => same(&a, &b),
                (one, other) => one.or(other).is_none_or(|value| empty(&value)),
            })
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (a, b) => a == b || (empty(a) && empty(b)),
    }
}

/// What is wrong with conditions of the common form (`ValidateConditions` of apimachinery).
pub(super) fn conditions(all: &[Value]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, condition) in all.iter().enumerate() {
        let path = format!("status.conditions[{i}]");
        let at = |field: &str| format!("{path}.{field}");
        if all[..i].iter().any(|before| before["type"] == condition["type"]) {
            errors.push(FieldError::duplicate(path.as_str(), &condition["type"]));
        }
        match text(condition, "type") {
            "" => errors.push(FieldError::required(at("type"), "is required")),
            kind => {
                let wrong = names::qualified_name(kind);
                errors.extend(wrong.iter().map(|w| FieldError::invalid(at("type"), &json!(kind), w)));
            }
        }
        match text(condition, "status") {
            "" => errors.push(FieldError::required(at("status"), "")),
            status if STATUSES.contains(&status) => {}
            _ => errors.push(FieldError::not_supported(at("status"), &condition["status"], STATUSES)),
        }
        for field in ["lastTransitionTime", "reason"] {
            if text(condition, field).is_empty() {
                errors.push(FieldError::required(at(field), ""));
            }
        }
        if is_set(condition, "reason") {
            let wrong = names::condition_reason(text(condition, "reason"));
            let reason = &condition["reason"];
            errors.extend(wrong.iter().map(|w| FieldError::invalid(at("reason"), reason, w)));
        }
        for (field, most) in [("reason", REASON_BYTES), ("message", MESSAGE_BYTES)] {
            if text(condition, field).len() > most {
                errors.push(FieldError::too_long(at(field), most));
            }
        }
    }
    errors
}

/// Labels wherever they stand.
pub(super) fn labels(path: &str, labels: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in labels.as_object().into_iter().flatten() {
        errors.extend(names::qualified_name(key).iter().map(|w| FieldError::invalid(path, &json!(key), w)));
        let wrong = names::label_value(value.as_str().unwrap_or_default());
        errors.extend(wrong.iter().map(|w| FieldError::invalid(path, value, w)));
    }
    errors
}

/// Annotations wherever they stand.
pub(super) fn annotations(path: &str, annotations: &Value) -> Vec<FieldError> {
    let keys = annotations.as_object().into_iter().flatten().map(|(key, _)| key);
    let wrong = |key: &String| {
        let wrong = names::qualified_name(&key.to_lowercase());
        wrong.iter().map(|w| FieldError::invalid(path, &json!(key), w)).collect::<Vec<_>>()
    };
    keys.flat_map(wrong).collect()
}

/// A label selector, if there is one (`ValidateLabelSelector`).
pub(super) fn label_selector(path: &str, selector: &Value) -> Vec<FieldError> {
    let mut errors = labels(&format!("{path}.matchLabels"), &selector["matchLabels"]);
    for (i, expression) in items(selector, "matchExpressions").iter().enumerate() {
        let at = |field: &str| format!("{path}.matchExpressions[{i}].{field}");
        let values = items(expression, "values");
        match text(expression, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(at("values"), why));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(at("values"), why));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                let why = "not a valid selector operator";
                errors.push(FieldError::invalid(at("operator"), &json!(other), why));
            }
        }
        let key = text(expression, "key");
        let wrong = names::qualified_name(key);
        errors.extend(wrong.iter().map(|w| FieldError::invalid(at("key"), &json!(key), w)));
        for (j, value) in values.iter().enumerate() {
            let wrong = names::label_value(value.as_str().unwrap_or_default());
            let path = at(&format!("values[{j}]"));
            errors.extend(wrong.iter().map(|w| FieldError::invalid(path.as_str(), value, w)));
        }
    }
    errors
}

/// Whether a selector has neither labels nor expressions.
pub(super) fn selects_everything(selector: &Value) -> bool {
    entries(selector, "matchLabels").next().is_none() && items(selector, "matchExpressions").is_empty()
}

/// The selector at `spec.selector`, which must be there and say something; `owner` is the kind in messages.
pub(super) fn required_selector(selector: &Value, owner: &str) -> Vec<FieldError> {
    if selector.is_null() {
        return vec![FieldError::required("spec.selector", "")];
    }
    let mut errors = label_selector("spec.selector", selector);
    if selects_everything(selector) {
        let why = format!("empty selector is invalid for {owner}");
        errors.push(FieldError::invalid("spec.selector", selector, &why));
    }
    errors
}

/// The template at `spec.template` must be labelled as the selector wants it.
pub(super) fn template_labels(selector: &LabelSelector, template: &Value) -> Option<FieldError> {
    let labels = &template["metadata"]["labels"];
    let fits = selector.is_everything() || selector.matches(labels);
    let why = "`selector` does not match template `labels`";
    (!fits).then(|| FieldError::invalid("spec.template.metadata.labels", labels, why))
}

/// `50` of `50%`.
fn percent(value: &Value) -> Option<i64> {
    let digits = value.as_str()?.strip_suffix('%')?;
    let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    // More digits than a number can hold are more than any limit.
    all.then(|| digits.parse().unwrap_or(i64::MAX))
}

/// The number of an int or a percentage; another text is none.
pub(super) fn amount(value: &Value) -> i64 {
    value.as_i64().or_else(|| percent(value)).unwrap_or(0)
}

/// A count, or a percentage.
pub(super) fn int_or_percent(path: &str, value: &Value) -> Option<FieldError> {
    match value {
        Value::String(_) if percent(value).is_none() => {
            let why = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or \
                       '93%', regex used for validation is '[0-9]+%')";
            Some(FieldError::invalid(path, value, why))
        }
        Value::Number(n) if n.as_i64().is_some_and(|n| n < 0) => {
            Some(FieldError::invalid(path, value, NEGATIVE))
        }
        _ => None,
    }
}

/// A percentage of what there is.
pub(super) fn at_most_all(path: &str, value: &Value) -> Option<FieldError> {
    let why = "must not be greater than 100%";
    percent(value).is_some_and(|p| p > 100).then(|| FieldError::invalid(path, value, why))
}

/// The fields that differ, a line each.
pub(super) fn difference(old: &Value, new: &Value) -> String {
    let keys = |v: &Value| v.as_object().map(|m| m.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut all = keys(old);
    all.extend(keys(new));
    all.sort_unstable();
    all.dedup();
    let lines: Vec<String> = all
        .iter()
        .filter(|key| old[key.as_str()] != new[key.as_str()])
        .map(|key| format!("- {key}: {}\n+ {key}: {}", old[key.as_str()], new[key.as_str()]))
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told<'a>(errors: impl IntoIterator<Item = FieldError> + 'a) -> Vec<String> {
        errors.into_iter().map(|error| error.to_string()).collect()
    }

    #[test]
    fn selectors_are_checked_in_kubernetes_words() {
        let selector = json!({"matchLabels": {"a b": "c"}, "matchExpressions": [
            {"key": "a", "operator": "In"}, {"key": "a", "operator": "Exists", "values": ["b"]},
            {"key": "a", "operator": "Is"}, {"key": "a", "operator": "In", "values": ["b c"]}]});
        let errors = told(label_selector("spec.selector", &selector));
        assert_eq!(errors.len(), 5, "{errors:?}");
        assert!(errors[0].starts_with("spec.selector.matchLabels: Invalid value: \"a b\": "));
        assert_eq!(
            errors[1..4],
            [
                "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                "spec.selector.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                "spec.selector.matchExpressions[2].operator: Invalid value: \"Is\": not a valid selector operator",
            ]
        );
        assert!(
            errors[4].starts_with("spec.selector.matchExpressions[3].values[0]: Invalid value: \"b c\": ")
        );
        assert_eq!(
            told(required_selector(&json!({}), "deployment")),
            ["spec.selector: Invalid value: {}: empty selector is invalid for deployment"]
        );
        assert_eq!(told(required_selector(&Value::Null, "x")), ["spec.selector: Required value"]);
    }

    #[test]
    fn counts_and_percentages_are_told_apart() {
        for (value, number, error) in [
            (json!(1), 1, None),
            (json!("25%"), 25, None),
            (json!("0%"), 0, None),
            (json!(-1), -1, Some("p: Invalid value: -1: must be greater than or equal to 0")),
            (
                json!("5"),
                0,
                Some(
                    "p: Invalid value: \"5\": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                ),
            ),
        ] {
            assert_eq!(amount(&value), number, "{value}");
            assert_eq!(told(int_or_percent("p", &value)).first().map(String::as_str), error, "{value}");
        }
        assert_eq!(
            told(at_most_all("p", &json!("101%"))),
            ["p: Invalid value: \"101%\": must not be greater than 100%"]
        );
        assert!(at_most_all("p", &json!(101)).is_none() && at_most_all("p", &json!("100%")).is_none());
    }

    #[test]
    fn absent_lists_are_empty_ones() {
        assert!(same(&json!({"a": [], "b": {"c": [1]}}), &json!({"b": {"c": [1], "d": null}})));
        for other in [json!({"b": 1}), json!({"a": {}}), json!({"a": [1]})] {
            assert!(!same(&json!({"a": []}), &other), "{other}");
        }
    }

    #[test]
    fn counts_of_a_status_fit_each_other() {
        let status = json!({"replicas": 1, "readyReplicas": 2, "updatedReplicas": -1});
        assert_eq!(
            told(nonnegative("status", &status, &["replicas", "updatedReplicas"])),
            ["status.updatedReplicas: Invalid value: -1: must be greater than or equal to 0"]
        );
        assert_eq!(
            told(at_most(&status, &["readyReplicas"], "replicas", "no")),
            ["status.readyReplicas: Invalid value: 2: no"]
        );
        let with = |count: Value| json!({"status": {"collisionCount": count}});
        assert_eq!(
            told(collisions(&with(json!(1)), &with(json!(2)))),
            ["status.collisionCount: Invalid value: 1: cannot be decremented"]
        );
        assert!(collisions(&with(json!(2)), &with(Value::Null)).is_none());
    }
}
