//! What is wrong with the schema of a version.
//!
//! Source: k8s.io/apiextensions-apiserver `pkg/apis/apiextensions/validation/validation.go`.

use serde_json::{Value, json};

use super::structure;
use crate::api::status::FieldError;
use crate::api::structural::{self, Node, rules};
use crate::apiserver::strategy::embedded;
use crate::apiserver::strategy::value::{entries, is_set, items, text};

const TYPES: &[&str] = &["", "array", "boolean", "integer", "null", "number", "object", "string"];
const REASONS: &[&str] =
    &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
/// What the root of a schema may say when the status is written apart.
const AT_ROOT: &[&str] = &[
    "description",
    "type",
    "format",
    "title",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "multipleOf",
    "required",
    "items",
    "properties",
    "externalDocs",
    "example",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];

/// What is wrong with a schema: its form first, then its defaults, then its expressions.
pub(super) fn errors(schema: &Value, path: &str, status: bool, errors: &mut Vec<FieldError>) {
    let before = errors.len();
    if status {
        if text(schema, "type") != "object" && is_set(schema, "type") {
            let why = "only \"object\" is allowed as the type at the root of the schema if the status subresource is \
                       enabled";
            errors.push(FieldError::invalid(format!("{path}.type"), &schema["type"], why));
        }
        let unknown = schema.as_object().into_iter().flatten().find(|(key, value)| {
            !AT_ROOT.contains(&key.as_str()) && !value.is_null() && **value != json!(false)
        });
        if unknown.is_some() {
            let why = "only [Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength \
                       MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties \
                       ExternalDocs Example XPreserveUnknownFields XValidations] fields are allowed at the root of \
                       the schema if the status subresource is enabled";
            errors.push(FieldError::invalid(path, schema, why));
        }
    }
    if schema["nullable"] == true {
        errors.push(FieldError::forbidden(format!("{path}.nullable"), "nullable cannot be true at the root"));
    }
    let not_structural = structure::errors(schema, path);
    let structural = not_structural.is_empty();
    errors.extend(not_structural);
    if structural {
        default_errors(schema, path, true, errors);
    }
    place(schema, path, true, errors);
    if errors.len() == before {
        rule_errors(schema, path, errors);
    }
}

fn place(schema: &Value, path: &str, root: bool, errors: &mut Vec<FieldError>) {
    if !schema.is_object() {
        return;
    }
    let of = text(schema, "type");
    if !TYPES.contains(&of) || of == "null" {
        let known = ["array", "boolean", "integer", "number", "object", "string"];
        errors.push(FieldError::not_supported(format!("{path}.type"), &schema["type"], &known));
    }
    let mut forbid = |key: &str, set: bool, why: &str| {
        if set {
            errors.push(FieldError::forbidden(format!("{path}.{key}"), why));
        }
    };
    forbid("id", is_set(schema, "id"), "id is not supported");
    forbid("additionalItems", !schema["additionalItems"].is_null(), "additionalItems is not supported");
    forbid("patternProperties", is_set(schema, "patternProperties"), "patternProperties is not supported");
    forbid("definitions", is_set(schema, "definitions"), "definitions is not supported");
    forbid("dependencies", is_set(schema, "dependencies"), "dependencies is not supported");
    forbid("$ref", is_set(schema, "$ref"), "$ref is not supported");
    forbid("items", schema["items"].is_array(), "items must be a schema object and not an array");
    forbid(
        "uniqueItems",
        schema["uniqueItems"] == true,
        "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
    );
    let additional = &schema["additionalProperties"];
    let both = is_set(schema, "properties") && (additional.is_object() || *additional == false);
    forbid("additionalProperties", both, "additionalProperties and properties are mutual exclusive");
    place(additional, &format!("{path}.additionalProperties"), false, errors);
    for (name, child) in entries(schema, "properties") {
        let of_resource = root && ["metadata", "kind", "apiVersion"].contains(&name.as_str());
        let at = format!("{path}.properties[{name}]");
        if of_resource && !child["default"].is_null() {
            errors.push(FieldError::forbidden(
                format!("{at}.default"),
                &format!("must not be set in top-level {name}"),
            ));
        }
        place(child, &at, false, errors);
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (i, child) in items(schema, key).iter().enumerate() {
            place(child, &format!("{path}.{key}[{i}]"), false, errors);
        }
    }
    place(&schema["not"], &format!("{path}.not"), false, errors);
    place(&schema["items"], &format!("{path}.items"), false, errors);
    extension_errors(schema, of, path, errors);
    for (i, rule) in items(schema, "x-kubernetes-validations").iter().enumerate() {
        rule_form(rule, schema, &format!("{path}.x-kubernetes-validations[{i}]"), errors);
    }
}

/// What is wrong with how lists and maps are merged.
fn extension_errors(schema: &Value, of: &str, path: &str, errors: &mut Vec<FieldError>) {
    if schema["x-kubernetes-preserve-unknown-fields"] == false {
        let at = format!("{path}.x-kubernetes-preserve-unknown-fields");
        errors.push(FieldError::invalid(at, &json!(false), "must be true or undefined"));
    }
    let mut of_type = |key: &str, wanted: &str, known: &[&str]| {
        let Some(given) = schema[key].as_str() else { return };
        let why = format!("must be {wanted} if {key} is specified");
        match of {
            "" => errors.push(FieldError::required(format!("{path}.type"), &why)),
            of if of != wanted => errors.push(FieldError::invalid(format!("{path}.type"), &json!(of), &why)),
            _ => {}
        }
        if !known.contains(&given) {
            errors.push(FieldError::not_supported(format!("{path}.{key}"), &schema[key], known));
        }
    };
    of_type("x-kubernetes-map-type", "object", &["atomic", "granular"]);
    of_type("x-kubernetes-list-type", "array", &["atomic", "set", "map"]);
    let (list_type, element) = (schema["x-kubernetes-list-type"].as_str(), &schema["items"]);
    if list_type == Some("set") && of == "array" {
        let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let (key, given) = match text(element, "type") {
            "array" => {
                ("x-kubernetes-list-type", element["x-kubernetes-list-type"].as_str().unwrap_or("atomic"))
            }
            "object" => {
                ("x-kubernetes-map-type", element["x-kubernetes-map-type"].as_str().unwrap_or("granular"))
            }
            _ => ("", "atomic"),
        };
        if given != "atomic" {
            errors.push(FieldError::invalid(format!("{path}.items.{key}"), &element[key], why));
        }
    }
    let keys = items(schema, "x-kubernetes-list-map-keys");
    if !keys.is_empty() && list_type != Some("map") {
        let (at, why) = (
            format!("{path}.x-kubernetes-list-type"),
            "must be map if x-kubernetes-list-map-keys is non-empty",
        );
        errors.push(match list_type {
            None => FieldError::required(at, why),
            Some(given) => FieldError::invalid(at, &json!(given), why),
        });
    }
    if list_type == Some("map") {
        map_list_errors(element, keys, path, errors);
    }
}

fn map_list_errors(element: &Value, keys: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let at_keys = format!("{path}.x-kubernetes-list-map-keys");
    if keys.is_empty() {
        errors.push(FieldError::required(&*at_keys, "must not be empty if x-kubernetes-list-type is map"));
    }
    if element.is_null() {
        let why = "must have a schema if x-kubernetes-list-type is map";
        errors.push(FieldError::required(format!("{path}.items"), why));
        return;
    }
    if text(element, "type") != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(FieldError::invalid(format!("{path}.items.type"), &json!(text(element, "type")), why));
        return;
    }
    for (i, key) in keys.iter().enumerate() {
        let name = key.as_str().unwrap_or_default();
        match element["properties"].get(name) {
            Some(of) if ["array", "object"].contains(&text(of, "type")) => {
                let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                let at = format!("{path}.items.properties[{name}].type");
                errors.push(FieldError::invalid(at, &element["type"], why));
            }
            Some(of) => {
                let at = format!("{path}.items.properties[{name}]");
                if of["default"].is_null() && !items(element, "required").contains(key) {
                    let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a \
                               required property";
                    errors.push(FieldError::required(format!("{at}.default"), why));
                }
                if of["nullable"] == true {
                    let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
                    errors.push(FieldError::forbidden(format!("{at}.nullable"), why));
                }
            }
            None => {
                let why = "entries must all be names of item properties";
                errors.push(FieldError::invalid(&*at_keys, &json!(keys), why));
            }
        }
        if keys[..i].contains(key) {
            errors.push(FieldError::invalid(&*at_keys, &json!(keys), "must not contain duplicate entries"));
        }
    }
}

/// What is wrong with the words of a rule.
fn rule_form(rule: &Value, schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let (body, message) = (text(rule, "rule"), text(rule, "message"));
    let lines = |text: &str| text.trim().contains('\n');
    let at = |key: &str| format!("{path}.{key}");
    if body.trim().is_empty() {
        errors.push(FieldError::required(at("rule"), "rule is not specified"));
    } else if !message.is_empty() && message.trim().is_empty() {
        errors.push(FieldError::invalid(at("message"), &json!(message), "must be non-empty if specified"));
    } else if lines(message) {
        errors.push(FieldError::invalid(at("message"), &json!(message), "must not contain line breaks"));
    } else if lines(body) && message.trim().is_empty() {
        errors.push(FieldError::required(
            at("message"),
            "message must be specified if rule contains line breaks",
        ));
    }
    let expression = text(rule, "messageExpression");
    if !expression.is_empty() && expression.trim().is_empty() {
        let why = "messageExpression must be non-empty if specified";
        errors.push(FieldError::required(at("messageExpression"), why));
    }
    if let Some(reason) = rule["reason"].as_str()
        && !REASONS.contains(&reason)
    {
        errors.push(FieldError::not_supported(at("reason"), &rule["reason"], REASONS));
    }
    let field = text(rule, "fieldPath");
    if !field.is_empty() {
        if field.trim().is_empty() {
            errors.push(FieldError::invalid(
                at("fieldPath"),
                &json!(field),
                "must be non-empty if specified",
            ));
        }
        if field.contains('\n') {
            errors.push(FieldError::invalid(at("fieldPath"), &json!(field), "must not contain line breaks"));
        }
        if rules::field_path(field, &Node::read(schema), true).is_err() {
            errors.push(FieldError::invalid(at("fieldPath"), &json!(field), "must be a valid path"));
        }
    }
}

/// Defaults must be values of the places where they stand.
fn default_errors(schema: &Value, path: &str, root: bool, errors: &mut Vec<FieldError>) {
    let default = &schema["default"];
    if !default.is_null() && !root {
        let node = Node::read(schema);
        let mut filled = default.clone();
        if !structural::prune(&node, &mut filled, false).is_empty() {
            let why = "must not have unknown fields";
            errors.push(FieldError::invalid(format!("{path}.default"), default, why));
        }
        structural::fill(&node, &mut filled);
        let within = embedded::errors(&node, &filled);
        for error in within.into_iter().chain(structural::validate(&node, &filled, None)) {
            let below = if error.field == "<nil>" { String::new() } else { format!(".{}", error.field) };
            errors.push(FieldError { field: format!("{path}.default{below}"), ..error });
        }
    }
    for (name, child) in entries(schema, "properties") {
        default_errors(child, &format!("{path}.properties[{name}]"), false, errors);
    }
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            default_errors(&schema[key], &format!("{path}.{key}"), false, errors);
        }
    }
}

/// What is wrong with the expressions of a sound schema.
fn rule_errors(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut node = Node::read(schema);
    rules::compile(&mut node, true, "", &mut |below, index, rule, faults| {
        let below = if below.is_empty() { String::new() } else { format!(".{below}") };
        let at = format!("{path}{below}.x-kubernetes-validations[{index}]");
        let pointer = format!("{below}.x-kubernetes-validations[{index}]");
        let given = whole_rule(schema, &pointer);
        if let Some(why) = faults.rule {
            errors.push(FieldError::invalid(format!("{at}.rule"), &given, &why));
        }
        if let Some(why) = faults.message {
            errors.push(FieldError::invalid(format!("{at}.messageExpression"), &given, &why));
        }
        if faults.uses_old_self {
            if let Some(list) = uncorrelated(schema, &pointer) {
                let why = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {path}{list}"
                );
                errors.push(FieldError::invalid(format!("{at}.rule"), &json!(rule.rule), &why));
            }
        } else if let Some(optional) = rule.optional_old_self {
            let why = "may not be set if oldSelf is not used in rule";
            errors.push(FieldError::invalid(format!("{at}.optionalOldSelf"), &json!(optional), why));
        }
    });
}

/// The steps of a path as [`rules::compile`] tells them: `.properties[spec].items`.
fn steps(path: &str) -> Vec<String> {
    let mut steps = Vec::new();
    let mut rest = path;
    while let Some(after) = rest.strip_prefix('.') {
        let end = after.find(['.', '[']).unwrap_or(after.len());
        steps.push(after[..end].to_owned());
        rest = &after[end..];
        if let Some(inner) = rest.strip_prefix('[') {
            let Some(close) = inner.find(']') else { break };
            steps.push(inner[..close].to_owned());
            rest = &inner[close + 1..];
        }
    }
    steps
}

fn step<'s>(schema: &'s Value, step: &str) -> &'s Value {
    match (schema, step.parse::<usize>()) {
        (Value::Array(list), Ok(index)) => list.get(index).unwrap_or(&Value::Null),
        (schema, _) => schema.get(step).unwrap_or(&Value::Null),
    }
}

fn whole_rule(schema: &Value, path: &str) -> Value {
    steps(path).iter().fold(schema, |schema, name| step(schema, name)).clone()
}

/// The path of the outermost list around a place whose items are not told apart by keys.
fn uncorrelated(schema: &Value, path: &str) -> Option<String> {
    let (mut at, mut shown) = (schema, String::new());
    let mut names = steps(path).into_iter();
    while let Some(name) = names.next() {
        if name == "items" && at["x-kubernetes-list-type"] != "map" {
            return Some(shown);
        }
        at = step(at, &name);
        if name == "properties" {
            let field = names.next()?;
            at = step(at, &field);
            shown = format!("{shown}.properties[{field}]");
        } else {
            shown = format!("{shown}.{name}");
        }
    }
    None
}
