//! What is wrong with the objects that stand within custom objects.
//!
//! Source: k8s.io/apiextensions-apiserver `pkg/apiserver/schema/objectmeta/validation.go`.

use serde_json::{Map, Value, json};

use crate::api::names;
use crate::api::status::FieldError;
use crate::api::structural::{Node, Path, embedded};
use crate::apiserver::registry::metadata;

/// The complaints about all of them.
pub(super) fn errors(node: &Node, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    embedded::each(node, object, &mut |path, one| errors.extend(of_one(path, one)));
    errors
}

fn of_one(path: &Path, object: &Map<String, Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = |field: &str| path.field(field).text().to_owned();
    let absent = ["apiVersion", "kind"].into_iter().filter(|field| !object.contains_key(*field));
    errors.extend(absent.map(|field| FieldError::required(at(field), "")));
    if let Some(version) = object.get("apiVersion") {
        let why = match version.as_str() {
            None => Some("must be a string".to_owned()),
            Some("") => Some("must not be empty".to_owned()),
            Some(text) if text.matches('/').count() > 1 => {
                Some(format!("unexpected GroupVersion string: {text}"))
            }
            Some(_) => None,
        };
        errors.extend(why.map(|why| FieldError::invalid(at("apiVersion"), version, &why)));
    }
    if let Some(kind) = object.get("kind") {
        let why = match kind.as_str() {
            None => Some("must be a string".to_owned()),
            Some("") => Some("must not be empty".to_owned()),
            Some(text) => match names::dns1035_label(&text.to_lowercase()) {
                faults if faults.is_empty() => None,
                faults => {
                    Some(format!("may have mixed case, but should otherwise match: {}", faults.join(",")))
                }
            },
        };
        errors.extend(why.map(|why| FieldError::invalid(at("kind"), kind, &why)));
    }
    if let Some(metadata) = object.get("metadata") {
        let below = metadata::validate_embedded(&json!({ "metadata": metadata }));
        errors.extend(below.into_iter().map(|error| FieldError { field: at(&error.field), ..error }));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_within_objects_are_objects() {
        let node = Node::read(&json!({"type": "object", "properties": {
            "one": {"type": "object", "x-kubernetes-embedded-resource": true}}}));
        let good = |metadata: Value| json!({"apiVersion": "v1", "kind": "Foo", "metadata": metadata});
        for (one, told) in [
            (json!({}), vec!["one.apiVersion: Required value", "one.kind: Required value"]),
            (good(json!({})), vec![]),
            (good(json!({"name": "a", "namespace": "b"})), vec![]),
            (
                json!({"apiVersion": "", "kind": ""}),
                vec![
                    "one.apiVersion: Invalid value: \"\": must not be empty",
                    "one.kind: Invalid value: \"\": must not be empty",
                ],
            ),
            (
                json!({"apiVersion": "a/b/c", "kind": "K"}),
                vec!["one.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c"],
            ),
            (
                json!({"apiVersion": "v1", "kind": "foo.bar"}),
                vec![
                    "one.kind: Invalid value: \"foo.bar\": may have mixed case, but should otherwise match: a DNS-1035 label \
                 must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end \
                 with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is \
                 '[a-z]([-a-z0-9]*[a-z0-9])?')",
                ],
            ),
            (good(json!({"name": ".."})), vec!["one.metadata.name: Invalid value: \"..\": may not be '..'"]),
        ] {
            let errors: Vec<String> =
                errors(&node, &json!({"one": one})).iter().map(ToString::to_string).collect();
            assert_eq!(errors, told, "{one}");
        }
        let bad = good(json!({"namespace": "$", "labels": {"#": "#"}, "annotations": {"#": "#"}}));
        let fields: Vec<String> = errors(&node, &json!({"one": bad})).into_iter().map(|e| e.field).collect();
        assert_eq!(
            fields,
            [
                "one.metadata.namespace",
                "one.metadata.labels",
                "one.metadata.labels",
                "one.metadata.annotations"
            ]
        );
    }
}
