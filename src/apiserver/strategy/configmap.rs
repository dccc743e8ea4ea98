//! ConfigMaps: data under keys, which `immutable` freezes.

use jiff::Timestamp;
use serde_json::Value;

use super::column::{self, AGE, NAME};
use super::value::entries;
use super::{Column, Strategy};
use crate::api::names;
use crate::api::status::FieldError;

/// The most that a config map or secret may hold, in bytes (`core.MaxSecretSize`).
pub(super) const MAX_SIZE: usize = 1024 * 1024;

/// The strategy of config maps.
pub(super) struct ConfigMap;

impl Strategy for ConfigMap {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut size = 0;
        for (key, value) in entries(object, "data") {
            let path = format!("data[{key}]");
            errors.extend(bad_key(&path, key));
            if object["binaryData"].get(key).is_some() {
                errors.push(FieldError::invalid(
                    path,
                    &Value::from(key.as_str()),
                    "duplicate of key present in binaryData",
                ));
            }
            size += value.as_str().map_or(0, str::len);
        }
        for (key, value) in entries(object, "binaryData") {
            errors.extend(bad_key(&format!("binaryData[{key}]"), key));
            size += decoded_length(value);
        }
        if size > MAX_SIZE {
            errors.push(FieldError::too_long("", MAX_SIZE));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        frozen(new, old, &["data", "binaryData"])
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, column::text("Data", "Data contains the configuration data."), AGE];
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let count = entries(object, "data").count() + entries(object, "binaryData").count();
        vec![column::name(object), count.into(), column::age(object, now)]
    }
}

/// What is wrong with a key of data.
pub(super) fn bad_key(path: &str, key: &str) -> Vec<FieldError> {
    names::config_key(key).iter().map(|wrong| FieldError::invalid(path, &key.into(), wrong)).collect()
}

/// How many bytes a text of base64 stands for.
pub(super) fn decoded_length(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    (text.len() / 4 * 3).saturating_sub(text.bytes().rev().take_while(|b| *b == b'=').count())
}

/// What changed though the old object is immutable.
pub(super) fn frozen(new: &Value, old: &Value, fields: &[&str]) -> Vec<FieldError> {
    const WHY: &str = "field is immutable when `immutable` is set";
    if old["immutable"] != true {
        return Vec::new();
    }
    let thawed = (new["immutable"] != true).then_some("immutable");
    let changed = fields.iter().copied().filter(|f| new[*f] != old[*f]);
    thawed.into_iter().chain(changed).map(|field| FieldError::forbidden(field, WHY)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn keys_are_checked() {
        assert!(ConfigMap.validate(&json!({"data": {"a.b": "x"}, "binaryData": {"c": "YQ=="}})).is_empty());
        let errors =
            shown(ConfigMap.validate(&json!({"data": {"a/b": "x", "c": ""}, "binaryData": {"c": ""}})));
        assert_eq!(errors.len(), 2);
        assert!(
            errors[0].starts_with("data[a/b]: Invalid value: \"a/b\": a valid config key must consist of")
        );
        let large = "x".repeat(MAX_SIZE + 1);
        assert_eq!(ConfigMap.validate(&json!({"data": {"a": large}})).len(), 1);
    }

    #[test]
    fn immutable_data_stays() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        assert_eq!(
            shown(ConfigMap.validate_update(&json!({"data": {"a": "2"}}), &old)),
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set"
            ]
        );
        assert!(ConfigMap.validate_update(&old, &old).is_empty());
    }
}
