//! Types that clients defined, as documents show them.
//!
//! Source: k8s.io/apiextensions-apiserver `pkg/controller/openapi/builder`, `pkg/controller/openapi/v2` for what the older
//! form leaves out, and `pkg/apiserver/schema/unfold.go` for what the newer one adds.

use serde_json::{Map, Value, json};

use super::form::Form;

/// A schema of a definition in this form; `common` are the fields that every object of the API has.
pub(super) fn described(schema: &Value, form: Form, common: &Map<String, Value>) -> Value {
    let whatever = || json!({"type": "object"});
    // Of an object of the older form whose fields are partly known, clients would think that they know all.
    if !schema.is_object() || (form == Form::V2 && is_set(schema, "x-kubernetes-preserve-unknown-fields")) {
        return whatever();
    }
    let mut schema = schema.clone();
    let Some(fields) = schema.as_object_mut() else { return whatever() };
    convert(fields, form, common);
    match fields.get_mut("properties").and_then(Value::as_object_mut) {
        Some(own) => own.extend(common.clone()),
        None => drop(fields.insert("properties".to_owned(), Value::Object(common.clone()))),
    }
    schema
}

fn is_set(schema: &Value, flag: &str) -> bool {
    schema[flag] == true
}

fn convert(schema: &mut Map<String, Value>, form: Form, common: &Map<String, Value>) {
    match form {
        Form::V2 => simplify(schema),
        Form::V3 => unfold(schema),
    }
    // What stands in alternatives speaks of values alone.
    for (key, value) in schema.iter_mut() {
        match (key.as_str(), value) {
            ("properties", Value::Object(fields)) => {
                fields.values_mut().filter_map(Value::as_object_mut).for_each(|f| convert(f, form, common));
            }
            ("items" | "additionalProperties", Value::Object(of)) => convert(of, form, common),
            _ => {}
        }
    }
    embed(schema, form, common);
}

/// Leaves out what the older form has no word for, and what kubectl stumbles over in it.
fn simplify(schema: &mut Map<String, Value>) {
    for key in ["allOf", "anyOf", "oneOf", "not"] {
        schema.remove(key);
    }
    let flag = |schema: &Map<String, Value>, key: &str| schema.get(key) == Some(&Value::Bool(true));
    let nullable = flag(schema, "nullable");
    let preserves = flag(schema, "x-kubernetes-preserve-unknown-fields");
    schema.remove("nullable");
    if nullable {
        schema.remove("type");
    }
    if nullable || preserves {
        schema.remove("items");
        schema.remove("properties");
    }
    let of = schema.get("type").and_then(Value::as_str).unwrap_or_default();
    if (of == "array" && !schema.contains_key("items")) || (of == "object" && preserves) {
        schema.remove("type");
    }
    let is_nullable = |schema: Option<&Value>| schema.is_some_and(|schema| is_set(schema, "nullable"));
    if is_nullable(schema.get("additionalProperties")) {
        schema.remove("required");
    }
    let properties = schema.get("properties").cloned().unwrap_or_default();
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| !is_nullable(name.as_str().and_then(|name| properties.get(name))));
        if required.is_empty() {
            schema.remove("required");
        }
    }
}

/// Says in the words of OpenAPI what `x-kubernetes-int-or-string` means, unless the schema does.
fn unfold(schema: &mut Map<String, Value>) {
    if schema.get("x-kubernetes-int-or-string") != Some(&Value::Bool(true)) {
        return;
    }
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    let first = schema.get("allOf").and_then(|all| all.get(0)).and_then(|first| first.get("anyOf"));
    if schema.get("anyOf") == Some(&either) || first == Some(&either) {
        return;
    }
    if !schema.contains_key("anyOf") {
        schema.insert("anyOf".to_owned(), either);
        return;
    }
    let mut all = vec![json!({ "anyOf": either })];
    if let Some(Value::Array(own)) = schema.remove("allOf") {
        all.extend(own);
    }
    schema.insert("allOf".to_owned(), all.into());
}

/// Gives an object within an object what every object of the API has.
fn embed(schema: &mut Map<String, Value>, form: Form, common: &Map<String, Value>) {
    let flag = |key: &str| schema.get(key) == Some(&Value::Bool(true));
    let open = form == Form::V2 && flag("x-kubernetes-preserve-unknown-fields");
    if !flag("x-kubernetes-embedded-resource") || open {
        return;
    }
    let properties = schema.entry("properties").or_insert_with(|| json!({}));
    if let Some(properties) = properties.as_object_mut() {
        properties.extend(common.clone());
    }
    let required = schema.entry("required").or_insert_with(|| json!([]));
    if let Some(required) = required.as_array_mut() {
        for name in ["kind", "apiVersion"].map(Value::from) {
            if !required.contains(&name) {
                required.push(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(field: Value, form: Form) -> Value {
        let common = json!({"kind": {"type": "string"}});
        let schema = json!({"type": "object", "properties": {"f": field}});
        let shown = described(&schema, form, common.as_object().unwrap());
        assert_eq!(shown["properties"]["kind"], json!({"type": "string"}));
        shown["properties"]["f"].clone()
    }

    #[test]
    fn the_older_form_leaves_out_what_it_has_no_words_for() {
        for (field, expected) in [
            (
                json!({"type": "string", "anyOf": [{"minLength": 1}], "oneOf": [{"minLength": 1}],
                    "allOf": [{"minLength": 1}], "not": {"minLength": 9}, "maxLength": 5}),
                json!({"type": "string", "maxLength": 5}),
            ),
            (
                json!({"type": "object", "nullable": true, "properties": {"a": {"type": "string"}}, "description": "d"}),
                json!({"description": "d"}),
            ),
            (json!({"type": "string", "nullable": false}), json!({"type": "string"})),
            (
                json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {}}}),
                json!({"x-kubernetes-preserve-unknown-fields": true}),
            ),
            (
                json!({"type": "array", "x-kubernetes-preserve-unknown-fields": true, "items": {"type": "string"}}),
                json!({"x-kubernetes-preserve-unknown-fields": true}),
            ),
            (
                json!({"type": "object", "required": ["a", "b"], "properties": {
                    "a": {"type": "string", "nullable": true}, "b": {"type": "string"}}}),
                json!({"type": "object", "required": ["b"], "properties": {"a": {}, "b": {"type": "string"}}}),
            ),
            (
                json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string", "nullable": true}}}),
                json!({"type": "object", "properties": {"a": {}}}),
            ),
            (
                json!({"type": "object", "required": ["a"], "additionalProperties": {"type": "string", "nullable": true}}),
                json!({"type": "object", "additionalProperties": {}}),
            ),
            (
                json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
                json!({"x-kubernetes-int-or-string": true}),
            ),
            (
                json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}),
                json!({"x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}),
            ),
            // What is called as a word of schemas is a field all the same.
            (
                json!({"type": "object", "properties": {"not": {"type": "string"}, "default": {"type": "string"}}}),
                json!({"type": "object", "properties": {"not": {"type": "string"}, "default": {"type": "string"}}}),
            ),
        ] {
            assert_eq!(shown(field.clone(), Form::V2), expected, "{field}");
        }
        let open =
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {}}});
        assert_eq!(described(&open, Form::V2, &Map::new()), json!({"type": "object"}));
        assert_eq!(described(&Value::Null, Form::V3, &Map::new()), json!({"type": "object"}));
    }

    #[test]
    fn the_newer_form_says_it_all() {
        let either = json!([{"type": "integer"}, {"type": "string"}]);
        for (field, expected) in [
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!({"x-kubernetes-int-or-string": true, "anyOf": either}),
            ),
            (
                json!({"x-kubernetes-int-or-string": true, "anyOf": either}),
                json!({"x-kubernetes-int-or-string": true, "anyOf": either}),
            ),
            (
                json!({"x-kubernetes-int-or-string": true, "anyOf": [{"maximum": 5}], "allOf": [{"minimum": 1}]}),
                json!({"x-kubernetes-int-or-string": true, "anyOf": [{"maximum": 5}],
                    "allOf": [{"anyOf": either}, {"minimum": 1}]}),
            ),
            (
                json!({"type": "object", "x-kubernetes-embedded-resource": true, "required": ["kind", "spec"]}),
                json!({"type": "object", "x-kubernetes-embedded-resource": true,
                    "required": ["kind", "spec", "apiVersion"], "properties": {"kind": {"type": "string"}}}),
            ),
            (json!({"type": "string", "nullable": true}), json!({"type": "string", "nullable": true})),
        ] {
            assert_eq!(shown(field.clone(), Form::V3), expected, "{field}");
        }
    }
}
