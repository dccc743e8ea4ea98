//! Whether a value is what a schema demands.
//!
//! The order of the complaints and their words are those of k8s.io/kube-openapi `pkg/validation/validate` as
//! k8s.io/apiextensions-apiserver `pkg/apiserver/validation` passes them on.

use serde_json::{Map, Value, json};

use super::{Additional, Node, OldItems, Path, unique};
use crate::api::formats;
use crate::api::status::FieldError;

/// The most complaints about one object; a client chooses how many there are.
const MOST: usize = 1000;

/// What is wrong with an object; what stands the same in `old` is not looked at again.
pub fn validate(node: &Node, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(node, object, old, &Path::default(), &mut errors);
    errors.truncate(MOST);
    if errors.is_empty() && old != Some(object) {
        unique::duplicates(node, object, &Path::default(), &mut errors);
        if let Some(old) = old
            && !errors.is_empty()
        {
            // Who had duplicates before may keep them.
            let mut before = Vec::new();
            unique::duplicates(node, old, &Path::default(), &mut before);
            errors.retain(|error| !before.contains(error));
        }
    }
    errors
}

fn check(node: &Node, value: &Value, old: Option<&Value>, path: &Path, errors: &mut Vec<FieldError>) {
    if old == Some(value) || errors.len() >= MOST {
        return;
    }
    if value.is_null() && node.nullable {
        return;
    }
    check_type(node, value, path, errors);
    check_quantifiers(node, value, old, path, errors);
    match value {
        Value::String(text) => check_text(node, text, path, errors),
        Value::Number(number) => check_number(node, number.as_f64().unwrap_or(f64::NAN), value, path, errors),
        Value::Array(items) => check_list(node, items, old, path, errors),
        _ => {}
    }
    check_enumeration(node, value, path, errors);
    if let Value::Object(fields) = value {
        check_object(node, fields, old, path, errors);
    }
}

/// The name of a value's type.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn check_type(node: &Node, value: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let given = type_of(value);
    let fits = match node.type_name() {
        "" => true,
        "integer,string" => matches!(given, "integer" | "string"),
        "integer" => given == "integer" || value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => matches!(given, "integer" | "number"),
        wanted => wanted == given,
    };
    if !fits {
        errors.push(wrong_type(path, node.type_name(), given));
    }
}

fn wrong_type(path: &Path, wanted: &str, given: &str) -> FieldError {
    FieldError {
        field: path.named(),
        reason: "FieldValueTypeInvalid",
        message: format!(
            "Invalid value: {given:?}: {} in body must be of type {wanted}: {given:?}",
            path.text()
        ),
    }
}

fn wrong(path: &Path, value: &Value, rule: &str) -> FieldError {
    FieldError::invalid(path.named(), value, &format!("{} in body {rule}", path.text()))
}

/// A complaint about alternatives, which names its place in its words alone.
fn wrong_whole(path: &Path, rule: &str) -> FieldError {
    FieldError::invalid("<nil>", &json!(""), &format!("{:?} {rule}", path.text()))
}

fn check_quantifiers(
    node: &Node,
    value: &Value,
    old: Option<&Value>,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    let limits = &node.value;
    let tried = |alternative: &Node| {
        let mut found = Vec::new();
        check(alternative, value, old, path, &mut found);
        found
    };
    if !limits.any_of.is_empty() {
        let failures: Vec<Vec<FieldError>> = limits.any_of.iter().map(tried).collect();
        if failures.iter().all(|found| !found.is_empty()) {
            errors.push(wrong_whole(path, "must validate at least one schema (anyOf)"));
            errors.extend(fewest(failures));
        }
    }
    if !limits.one_of.is_empty() {
        let failures: Vec<Vec<FieldError>> = limits.one_of.iter().map(tried).collect();
        match failures.iter().filter(|found| found.is_empty()).count() {
            1 => {}
            0 => {
                errors.push(wrong_whole(
                    path,
                    "must validate one and only one schema (oneOf). Found none valid",
                ));
                errors.extend(fewest(failures));
            }
            found => {
                let rule = format!(
                    "must validate one and only one schema (oneOf). Found {found} valid alternatives"
                );
                errors.push(wrong_whole(path, &rule));
            }
        }
    }
    if !limits.all_of.is_empty() {
        let failures: Vec<Vec<FieldError>> = limits.all_of.iter().map(tried).collect();
        let failed = failures.iter().filter(|found| !found.is_empty()).count();
        errors.extend(failures.into_iter().flatten());
        if failed > 0 {
            let none = if failed == limits.all_of.len() { ". None validated" } else { "" };
            errors.push(wrong_whole(path, &format!("must validate all the schemas (allOf){none}")));
        }
    }
    if let Some(not) = &limits.not
        && tried(not).is_empty()
    {
        errors.push(wrong_whole(path, "must not validate the schema (not)"));
    }
}

/// What is said of the alternative that came nearest.
fn fewest(failures: Vec<Vec<FieldError>>) -> Vec<FieldError> {
    failures.into_iter().min_by_key(Vec::len).unwrap_or_default()
}

fn check_text(node: &Node, text: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let limits = &node.value;
    let length = || text.chars().count() as i64;
    if let Some(most) = limits.max_length.filter(|most| length() > *most) {
        errors.push(FieldError::too_long(path.named(), usize::try_from(most).unwrap_or(0)));
    }
    if let Some(least) = limits.min_length.filter(|least| length() < *least) {
        errors.push(wrong(path, &json!(text), &format!("should be at least {least} chars long")));
    }
    if let Some((pattern, compiled)) = &limits.pattern
        && !compiled.as_ref().is_some_and(|compiled| compiled.is_match(text))
    {
        errors.push(wrong(path, &json!(text), &format!("should match '{pattern}'")));
    }
    let format = limits.format.as_str();
    if !format.is_empty() && formats::is_known(format) && !formats::matches(format, text) {
        errors.push(wrong_type(path, format, text));
    }
}

fn check_number(node: &Node, number: f64, value: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let limits = &node.value;
    if let Some(step) = limits.multiple_of
        && (number / step).fract().abs() > f64::EPSILON
    {
        errors.push(wrong(path, value, &format!("should be a multiple of {step}")));
    }
    match limits.maximum {
        Some((most, true)) if number >= most => {
            errors.push(wrong(path, value, &format!("should be less than {most}")));
        }
        Some((most, false)) if number > most => {
            errors.push(wrong(path, value, &format!("should be less than or equal to {most}")));
        }
        _ => {}
    }
    match limits.minimum {
        Some((least, true)) if number <= least => {
            errors.push(wrong(path, value, &format!("should be greater than {least}")));
        }
        Some((least, false)) if number < least => {
            errors.push(wrong(path, value, &format!("should be greater than or equal to {least}")));
        }
        _ => {}
    }
    let (low, high) = (f64::from(i32::MIN), f64::from(i32::MAX));
    if node.of == "integer" && limits.format == "int32" && !(low..=high).contains(&number) {
        let rule = format!("Checked value must be of type integer with format int32 in body: {value}");
        errors.push(FieldError::invalid(path.named(), value, &rule));
    }
}

fn check_list(node: &Node, items: &[Value], old: Option<&Value>, path: &Path, errors: &mut Vec<FieldError>) {
    let limits = &node.value;
    if let Some(element) = &node.items {
        let before = OldItems::of(node, old);
        for (index, item) in items.iter().enumerate() {
            check(element, item, before.same(item), &path.item(index), errors);
        }
    }
    let count = items.len() as i64;
    if let Some(least) = limits.min_items.filter(|least| count < *least) {
        errors.push(wrong(path, &json!(count), &format!("should have at least {least} items")));
    }
    if let Some(most) = limits.max_items.filter(|most| count > *most) {
        errors.push(FieldError::too_many(path.named(), items.len(), usize::try_from(most).unwrap_or(0)));
    }
    if limits.unique_items && !unique::repeated(items).is_empty() {
        errors.push(wrong(path, &json!(""), "shouldn't contain duplicates"));
    }
}

fn check_enumeration(node: &Node, value: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let allowed = &node.value.enumeration;
    if !allowed.is_empty() && !allowed.contains(value) {
        let shown: Vec<String> = allowed
            .iter()
            .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            .collect();
        let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
        errors.push(FieldError::not_supported(path.named(), value, &shown));
    }
}

fn check_object(
    node: &Node,
    fields: &Map<String, Value>,
    old: Option<&Value>,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    let limits = &node.value;
    let count = fields.len() as i64;
    if let Some(least) = limits.min_properties.filter(|least| count < *least) {
        errors.push(wrong(path, &json!(count), &format!("should have at least {least} properties")));
    }
    if let Some(most) = limits.max_properties.filter(|most| count > *most) {
        errors.push(FieldError::too_many(path.named(), fields.len(), usize::try_from(most).unwrap_or(0)));
    }
    let before = |name: &str| old.and_then(|old| old.get(name));
    if let Some(Additional::Node(child)) = &node.additional {
        for (name, value) in fields.iter().filter(|(name, _)| !node.properties.contains_key(*name)) {
            check(child, value, before(name), &path.field(name), errors);
        }
    }
    for (name, child) in &node.properties {
        if let Some(value) = fields.get(name) {
            check(child, value, before(name), &path.field(name), errors);
        }
    }
    for name in limits.required.iter().filter(|name| !fields.contains_key(*name)) {
        errors.push(FieldError::required(path.field(name).text(), ""));
    }
}
