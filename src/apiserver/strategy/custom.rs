//! Objects of kinds that clients define: everything that their schema says, and nothing else.
//!
//! Source: k8s.io/apiextensions-apiserver `pkg/registry/customresource`.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, Strategy, column, embedded};
use crate::api::custom::{self, Version};
use crate::api::meta;
use crate::api::status::FieldError;
use crate::api::structural::{self, rules};

/// Complaints after which expressions are not asked, because they would stumble over the same.
const BLOCKING: &[&str] = &[
    "FieldValueNotSupported",
    "FieldValueRequired",
    "FieldValueTooLong",
    "FieldValueTooMany",
    "FieldValueTypeInvalid",
];

impl Strategy for Version {
    fn default(&self, object: &mut Value) {
        structural::fill(&self.node, object);
    }

    fn prepare_create(&self, object: &mut Value) {
        if self.status
            && let Some(fields) = object.as_object_mut()
        {
            fields.remove("status");
        }
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        errors(self, object, None)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        errors(self, new, Some(old))
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        errors(self, new, Some(old))
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn generation_changes(&self, new: &Value, old: &Value) -> bool {
        let content = |object: &Value| {
            let fields = object.as_object().into_iter().flatten();
            let kept = fields.filter(|(name, _)| *name != "metadata" && !(self.status && *name == "status"));
            kept.map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>()
        };
        content(new) != content(old)
    }

    fn columns(&self) -> &'static [Column] {
        &[]
    }

    fn column_definitions(&self) -> Value {
        let own = self.columns.iter().map(|column| {
            json!({"name": column.name, "type": column.of, "format": column.format,
                "description": column.description, "priority": column.priority})
        });
        std::iter::once(column::NAME.definition()).chain(own).collect()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let own = self.columns.iter().map(|column| cell(column, object, now));
        std::iter::once(column::name(object)).chain(own).collect()
    }
}

/// What is wrong with an object, first by its schema and then by its expressions.
fn errors(version: &Version, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = structural::validate(&version.node, object, old);
    if let Some(scale) = &version.scale {
        errors.extend(replica_errors(object, &scale.spec));
        errors.extend(replica_errors(object, &scale.status));
    }
    errors.extend(embedded::errors(&version.node, object));
    if version.node.any(&|node| !node.rules.is_empty()) {
        if errors.iter().any(|error| BLOCKING.contains(&error.reason)) {
            let why = "some validation rules were not checked because the object was invalid; correct the existing \
                       errors to complete validation";
            errors.push(FieldError::invalid("<nil>", &Value::Null, why));
        } else {
            errors.extend(rules::check(&version.node, object, old));
        }
    }
    errors
}

/// The numbers of a scale are counts.
fn replica_errors(object: &Value, path: &[String]) -> Option<FieldError> {
    let value = path.iter().try_fold(object, |value, name| value.get(name))?;
    let why = match value.as_i64() {
        Some(count) if count < 0 => "should be a non-negative integer",
        Some(count) if count > i64::from(i32::MAX) => "should be less than or equal to 2147483647",
        _ => return None,
    };
    Some(FieldError::invalid(path.join("."), value, why))
}

fn cell(column: &custom::Column, object: &Value, now: Timestamp) -> Value {
    let found = column.path.find(object);
    let Some(value) = found.first() else { return Value::Null };
    match (column.of.as_str(), value) {
        ("string", value) => printed(value).into(),
        ("integer", Value::Number(number)) => {
            number.as_i64().or(number.as_f64().map(|number| number as i64)).map_or(Value::Null, Value::from)
        }
        ("number", Value::Number(number)) => json!(number.as_f64()),
        ("boolean", Value::Bool(b)) => json!(b),
        ("date", value @ Value::String(_)) if meta::time(value).is_none() => "<invalid>".into(),
        ("date", value @ Value::String(_)) => column::since(value, now).into(),
        _ => Value::Null,
    }
}

/// A value as a JSON path prints it.
fn printed(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version() -> std::sync::Arc<crate::api::kinds::Kind> {
        let definition = json!({"metadata": {"uid": "u"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "additionalPrinterColumns": [
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
                    {"name": "Color", "type": "string", "jsonPath": ".spec.color", "priority": 1},
                    {"name": "Since", "type": "date", "jsonPath": ".metadata.creationTimestamp", "description": "When"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {
                        "replicas": {"type": "integer", "default": 1}, "color": {"type": "string"}},
                        "x-kubernetes-validations": [{"rule": "self.replicas < 5", "message": "too many"}]},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]},
            "status": {"conditions": [{"type": "Established", "status": "True"}],
                "acceptedNames": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}}});
        custom::kinds(&definition, &bytes::Bytes::new(), 1).remove(0)
    }

    #[test]
    fn objects_follow_their_schema() {
        let kind = version();
        let strategy = super::super::of(&kind);
        let mut object = json!({"metadata": {"name": "a", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"color": "red"}, "status": {"x": 1}});
        strategy.default(&mut object);
        strategy.prepare_create(&mut object);
        assert_eq!((&object["spec"]["replicas"], object.get("status")), (&json!(1), None));
        assert!(strategy.validate_create(&object).is_empty());
        let now = Timestamp::from_second(60).unwrap();
        assert_eq!(strategy.cells(&object, now), [json!("a"), json!(1), json!("red"), json!("60s")]);
        assert_eq!(strategy.column_definitions()[2]["priority"], 1);
        assert_eq!(kind.types.custom().unwrap().fields(&object), [("spec.color".into(), "red".to_owned())]);
        let mut new = object.clone();
        new["status"] = json!({"y": 2});
        assert!(!strategy.generation_changes(&new, &object));
        new["spec"]["replicas"] = json!(7);
        assert!(strategy.generation_changes(&new, &object));
        let told: Vec<String> =
            strategy.validate_update(&new, &object).iter().map(ToString::to_string).collect();
        assert_eq!(told, ["spec: Invalid value: too many"]);
        new["spec"]["replicas"] = json!(-1);
        new["spec"]["color"] = json!(1);
        let told: Vec<String> = strategy.validate_create(&new).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "spec.color: Invalid value: \"integer\": spec.color in body must be of type string: \"integer\"",
                "spec.replicas: Invalid value: -1: should be a non-negative integer",
                "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; \
                 correct the existing errors to complete validation"
            ]
        );
    }
}
