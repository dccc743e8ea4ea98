//! Errors that many kinds tell in the same words.

use serde_json::Value;

use super::value::is_zero;
use crate::api::names;
use crate::api::status::FieldError;

/// An error for each thing that is wrong with a value.
pub(super) fn invalid(path: &str, value: &Value, wrong: Vec<String>) -> Vec<FieldError> {
    wrong.iter().map(|w| FieldError::invalid(path, value, w)).collect()
}

/// A field that must be there and be one of a few words.
pub(super) fn one_of(path: &str, value: &Value, allowed: &[&str]) -> Option<FieldError> {
    match value.as_str().unwrap_or_default() {
        "" => Some(FieldError::required(path, "")),
        _ => word(path, value, allowed),
    }
}

/// A field that is one of a few words when it is there.
pub(super) fn word(path: &str, value: &Value, allowed: &[&str]) -> Option<FieldError> {
    let given = value.as_str()?;
    (!allowed.contains(&given)).then(|| FieldError::not_supported(path, value, allowed))
}

/// A field that must be there and keep to a rule.
pub(super) fn named(path: &str, value: &Value, rule: fn(&str) -> Vec<String>) -> Vec<FieldError> {
    match value.as_str().unwrap_or_default() {
        "" => vec![FieldError::required(path, "")],
        given => invalid(path, value, rule(given)),
    }
}

/// A field that keeps to a rule when it is there.
pub(super) fn if_set(path: &str, value: &Value, rule: fn(&str) -> Vec<String>) -> Vec<FieldError> {
    value.as_str().map(|given| invalid(path, value, rule(given))).unwrap_or_default()
}

/// Keys and values as labels have them.
pub(super) fn labels(path: &str, labels: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in labels.as_object().into_iter().flatten() {
        errors.extend(invalid(path, &key.as_str().into(), names::qualified_name(key)));
        errors.extend(invalid(path, value, names::label_value(value.as_str().unwrap_or_default())));
    }
    errors
}

/// A field that keeps its first value.
pub(super) fn immutable(path: &str, new: &Value, old: &Value) -> Option<FieldError> {
    (!same(new, old)).then(|| FieldError::invalid(path, new, "field is immutable"))
}

/// Whether two values mean the same: what is absent is as good as empty.
pub(super) fn same(one: &Value, other: &Value) -> bool {
    one == other || (is_zero(one) && is_zero(other))
}

/// Conditions of a status: each has a type, and no two have the same.
pub(super) fn condition_types(path: &str, conditions: &[Value]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, condition) in conditions.iter().enumerate() {
        let path = format!("{path}[{i}].type");
        let of = &condition["type"];
        if conditions[..i].iter().any(|before| before["type"] == *of) {
            errors.push(FieldError::duplicate(&path, of));
        }
        if of.as_str().unwrap_or_default().is_empty() {
            errors.push(FieldError::required(path, "must not be empty"));
        }
    }
    errors
}
