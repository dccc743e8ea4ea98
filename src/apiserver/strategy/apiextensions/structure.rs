//! Whether a schema is structural: whether it says what an object looks like apart from what its values must be.
//!
//! Source: k8s.io/apiextensions-apiserver `pkg/apiserver/schema/validation.go`.

use serde_json::{Value, json};

use crate::api::cel;
use crate::api::status::FieldError;
use crate::apiserver::strategy::value::{entries, items, text};

/// How far down a schema a place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What makes a schema not structural, in the order of the messages.
pub(super) fn errors(schema: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    place(schema, Level::Root, path, &mut errors);
    completeness(schema, path, &mut errors);
    errors.sort_by_key(ToString::to_string);
    errors
}

fn flag(schema: &Value, key: &str) -> bool {
    schema[key] == true
}

fn place(schema: &Value, level: Level, path: &str, errors: &mut Vec<FieldError>) {
    let of = text(schema, "type");
    if of == "array" && !schema["items"].is_object() {
        errors.push(FieldError::required(format!("{path}.items"), "must be specified"));
    }
    if schema["items"].is_object() {
        place(&schema["items"], Level::Item, &format!("{path}.items"), errors);
    }
    for (name, child) in entries(schema, "properties") {
        place(child, Level::Field, &format!("{path}.properties[{name}]"), errors);
    }
    let additional = &schema["additionalProperties"];
    if !additional.is_null() {
        if level == Level::Root {
            errors.push(FieldError::forbidden(
                format!("{path}.additionalProperties"),
                "must not be used at the root",
            ));
        }
        if additional.is_object() {
            place(additional, Level::Field, &format!("{path}.additionalProperties"), errors);
        }
    }
    let (either, preserve, embedded) = (
        flag(schema, "x-kubernetes-int-or-string"),
        flag(schema, "x-kubernetes-preserve-unknown-fields"),
        flag(schema, "x-kubernetes-embedded-resource"),
    );
    for (key, set) in
        [("x-kubernetes-preserve-unknown-fields", preserve), ("x-kubernetes-embedded-resource", embedded)]
    {
        if either && set {
            let why = "must be false if x-kubernetes-int-or-string is true";
            errors.push(FieldError::invalid(format!("{path}.{key}"), &json!(true), why));
        }
    }
    let skip_any = is_either(&schema["anyOf"]);
    let skip_first = is_either(&schema["allOf"][0]["anyOf"]);
    values(schema, skip_any, skip_first, path, errors);
    if embedded && of != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(match of {
            "" => FieldError::required(format!("{path}.type"), why),
            _ => FieldError::invalid(format!("{path}.type"), &json!(of), why),
        });
    } else if of.is_empty() && !either && !preserve {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(format!("{path}.type"), why));
    }
    if embedded && !additional.is_null() {
        let why = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(FieldError::forbidden(format!("{path}.additionalProperties"), why));
    }
    if level == Level::Root && !of.is_empty() && of != "object" {
        errors.push(FieldError::invalid(format!("{path}.type"), &json!(of), "must be object at the root"));
    }
    resource(schema, level, embedded, path, errors);
    if embedded && !preserve && entries(schema, "properties").next().is_none() {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without \
                   x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(format!("{path}.properties"), why));
    }
}

/// What a schema may say of the fields that every object has.
fn resource(schema: &Value, level: Level, embedded: bool, path: &str, errors: &mut Vec<FieldError>) {
    let properties = &schema["properties"];
    if level == Level::Root || embedded {
        for key in ["kind", "apiVersion"] {
            if properties[key].is_object() && text(&properties[key], "type") != "string" {
                let at = format!("{path}.properties[{key}].type");
                errors.push(FieldError::invalid(
                    at,
                    &json!(text(&properties[key], "type")),
                    "must be string",
                ));
            }
        }
        if properties["metadata"].is_object() && text(&properties["metadata"], "type") != "object" {
            let at = format!("{path}.properties[metadata].type");
            errors.push(FieldError::invalid(
                at,
                &json!(text(&properties["metadata"], "type")),
                "must be object",
            ));
        }
    }
    if level == Level::Root
        && let Some(metadata) = properties["metadata"].as_object()
    {
        let known = |name: &str| ["name", "generateName"].contains(&name);
        let plain = metadata.iter().all(|(key, value)| match key.as_str() {
            "type" | "description" => true,
            "properties" => value.as_object().is_some_and(|fields| fields.keys().all(|name| known(name))),
            _ => false,
        });
        if !plain {
            let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errors.push(FieldError::forbidden(format!("{path}.properties[metadata]"), why));
        }
    }
}

/// Whether these alternatives are those of a value that is a number or a text.
fn is_either(alternatives: &Value) -> bool {
    *alternatives == json!([{"type": "integer"}, {"type": "string"}])
}

fn values(schema: &Value, skip_any: bool, skip_first: bool, path: &str, errors: &mut Vec<FieldError>) {
    if !skip_any {
        for (i, nested) in items(schema, "anyOf").iter().enumerate() {
            nested_values(nested, false, &format!("{path}.anyOf[{i}]"), errors);
        }
    }
    for (i, nested) in items(schema, "allOf").iter().enumerate() {
        nested_values(nested, skip_first && i == 0, &format!("{path}.allOf[{i}]"), errors);
    }
    for (i, nested) in items(schema, "oneOf").iter().enumerate() {
        nested_values(nested, false, &format!("{path}.oneOf[{i}]"), errors);
    }
    if schema["not"].is_object() {
        nested_values(&schema["not"], false, &format!("{path}.not"), errors);
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && let Err(why) = cel::pattern(pattern)
    {
        let why = format!("must be a valid regular expression, but isn't: {why}");
        errors.push(FieldError::invalid(format!("{path}.pattern"), &json!(pattern), &why));
    }
}

/// What stands under `anyOf` and the like may limit values, and nothing else.
fn nested_values(schema: &Value, skip_any: bool, path: &str, errors: &mut Vec<FieldError>) {
    values(schema, skip_any, false, path, errors);
    if schema["items"].is_object() {
        nested_values(&schema["items"], false, &format!("{path}.items"), errors);
    }
    for (name, child) in entries(schema, "properties") {
        nested_values(child, false, &format!("{path}.properties[{name}]"), errors);
    }
    let mut forbid = |key: &str, set: bool, why: &str| {
        if set {
            errors.push(FieldError::forbidden(format!("{path}.{key}"), &format!("{why} to be structural")));
        }
    };
    forbid("type", !text(schema, "type").is_empty(), "must be empty");
    forbid("additionalProperties", !schema["additionalProperties"].is_null(), "must be undefined");
    forbid("default", !schema["default"].is_null(), "must be undefined");
    forbid("title", !text(schema, "title").is_empty(), "must be empty");
    forbid("description", !text(schema, "description").is_empty(), "must be empty");
    for key in [
        "nullable",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-int-or-string",
    ] {
        forbid(key, flag(schema, key), "must be false");
    }
    for key in ["x-kubernetes-list-map-keys", "x-kubernetes-validations"] {
        forbid(key, !items(schema, key).is_empty(), "must be empty");
    }
    for key in ["x-kubernetes-list-type", "x-kubernetes-map-type"] {
        forbid(key, !schema[key].is_null(), "must be undefined");
    }
    if schema["properties"]["metadata"].is_object() {
        let at = format!("{path}.properties[metadata]");
        errors.push(FieldError::forbidden(at, "must not be specified in a nested context"));
    }
}

/// Every field that limits values name must be specified outside of them, too.
fn completeness(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for key in ["anyOf", "allOf", "oneOf"] {
        for (i, nested) in items(schema, key).iter().enumerate() {
            specified(nested, schema, &format!("{path}.{key}[{i}]"), path, errors);
        }
    }
    if schema["not"].is_object() {
        specified(&schema["not"], schema, &format!("{path}.not"), path, errors);
    }
    for (name, child) in entries(schema, "properties") {
        completeness(child, &format!("{path}.properties[{name}]"), errors);
    }
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            completeness(&schema[key], &format!("{path}.{key}"), errors);
        }
    }
}

fn specified(nested: &Value, spine: &Value, path: &str, spine_path: &str, errors: &mut Vec<FieldError>) {
    const WHY: &str = "because it is defined in ";
    if nested["items"].is_object() {
        if spine["items"].is_object() {
            specified(
                &nested["items"],
                &spine["items"],
                &format!("{path}.items"),
                &format!("{spine_path}.items"),
                errors,
            );
        } else {
            errors.push(FieldError::required(format!("{spine_path}.items"), &format!("{WHY}{path}.items")));
        }
    }
    for (name, child) in entries(nested, "properties") {
        let (at, spine_at) =
            (format!("{path}.properties[{name}]"), format!("{spine_path}.properties[{name}]"));
        match spine["properties"].get(name) {
            Some(spine_child) => specified(child, spine_child, &at, &spine_at, errors),
            None => errors.push(FieldError::required(spine_at, &format!("{WHY}{at}"))),
        }
    }
    for key in ["anyOf", "allOf", "oneOf"] {
        for (i, inner) in items(nested, key).iter().enumerate() {
            specified(inner, spine, &format!("{path}.{key}[{i}]"), spine_path, errors);
        }
    }
    if nested["not"].is_object() {
        specified(&nested["not"], spine, &format!("{path}.not"), spine_path, errors);
    }
}
