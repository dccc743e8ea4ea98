//! Label selectors as fields of objects (k8s.io/apimachinery `pkg/apis/meta/v1/validation`).

use serde_json::Value;

use super::column::NONE;
use super::error::{self, invalid};
use super::value::{entries, is_set, items, text};
use crate::api::names;
use crate::api::status::FieldError;

/// What is wrong with a selector; an absent one is right.
pub(super) fn errors(path: &str, selector: &Value) -> Vec<FieldError> {
    let mut errors = error::labels(&format!("{path}.matchLabels"), &selector["matchLabels"]);
    for (i, requirement) in items(selector, "matchExpressions").iter().enumerate() {
        let path = format!("{path}.matchExpressions[{i}]");
        match text(requirement, "operator") {
            "In" | "NotIn" if !is_set(requirement, "values") => {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(format!("{path}.values"), why));
            }
            "Exists" | "DoesNotExist" if is_set(requirement, "values") => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(format!("{path}.values"), why));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                let why = "not a valid selector operator";
                errors.push(FieldError::invalid(format!("{path}.operator"), &other.into(), why));
            }
        }
        let key = text(requirement, "key");
        errors.extend(invalid(&format!("{path}.key"), &key.into(), names::qualified_name(key)));
        for (j, value) in items(requirement, "values").iter().enumerate() {
            let wrong = names::label_value(value.as_str().unwrap_or_default());
            errors.extend(invalid(&format!("{path}.values[{j}]"), value, wrong));
        }
    }
    errors
}

/// A selector as tables show it: `a=b,c in (d,e),!f`.
pub(super) fn shown(selector: &Value) -> String {
    let mut terms: Vec<(&str, String)> = Vec::new();
    for (key, value) in entries(selector, "matchLabels") {
        terms.push((key, format!("{key}={}", value.as_str().unwrap_or_default())));
    }
    for requirement in items(selector, "matchExpressions") {
        let key = text(requirement, "key");
        let mut values: Vec<&str> = items(requirement, "values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        terms.push((
            key,
            match text(requirement, "operator") {
                "In" => format!("{key} in ({values})"),
                "NotIn" => format!("{key} notin ({values})"),
                "Exists" => key.to_owned(),
                "DoesNotExist" => format!("!{key}"),
                _ => return "<error>".to_owned(),
            },
        ));
    }
    terms.sort_by_key(|(key, _)| *key);
    let terms: Vec<String> = terms.into_iter().map(|(_, term)| term).collect();
    if terms.is_empty() { NONE.to_owned() } else { terms.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_are_checked_term_by_term() {
        let selector = json!({"matchLabels": {"a": "b c"}, "matchExpressions": [
            {"key": "a", "operator": "In"},
            {"key": "a", "operator": "Exists", "values": ["b"]},
            {"key": "-", "operator": "Is"},
            {"key": "a", "operator": "NotIn", "values": ["b", "-"]},
        ]});
        let fields: Vec<String> = errors("spec.selector", &selector).into_iter().map(|e| e.field).collect();
        assert_eq!(
            fields,
            [
                "spec.selector.matchLabels",
                "spec.selector.matchExpressions[0].values",
                "spec.selector.matchExpressions[1].values",
                "spec.selector.matchExpressions[2].operator",
                "spec.selector.matchExpressions[2].key",
                "spec.selector.matchExpressions[3].values[1]",
            ]
        );
        assert!(errors("x", &Value::Null).is_empty());
    }

    #[test]
    fn selectors_are_shown_by_key() {
        let selector = json!({"matchLabels": {"b": "c"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["y", "x"]},
            {"key": "d", "operator": "NotIn", "values": ["x"]},
            {"key": "e", "operator": "Exists"},
            {"key": "c", "operator": "DoesNotExist"},
        ]});
        assert_eq!(shown(&selector), "a in (x,y),b=c,!c,d notin (x),e");
        assert_eq!(shown(&json!({})), "<none>");
        assert_eq!(shown(&json!({"matchExpressions": [{}]})), "<error>");
    }
}
