//! Reading and filling fields of JSON values, without ever failing.

use serde_json::{Map, Value};

use super::meta;

/// A text field; empty when absent.
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// A list field; empty when absent.
pub fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// The items of a list field, for writing.
pub fn items_mut<'a>(value: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    value.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The entries of an object field.
pub fn entries<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
    value[key].as_object().into_iter().flatten()
}

/// Whether a field is there and says something: not null, not empty, not zero.
pub fn is_set(value: &Value, key: &str) -> bool {
    !is_zero(&value[key])
}

/// Whether a value is what Go's JSON leaves out.
pub fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(n) => n.as_i64() == Some(0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

/// Fills a field that is absent or null (a pointer in Go, or an object).
pub fn fill(object: &mut Value, key: &str, default: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        let field = map.entry(key).or_insert(Value::Null);
        if field.is_null() {
            *field = default.into();
        }
    }
}

/// Fills a field that is absent, null, empty or zero (a plain value in Go).
pub fn fill_zero(object: &mut Value, key: &str, default: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        let field = map.entry(key).or_insert(Value::Null);
        if is_zero(field) {
            *field = default.into();
        }
    }
}

/// A field as an object, for writing; made when absent.
pub fn object<'a>(value: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    meta::child_mut(value, key)
}

/// Puts `key` of `old` into `new`, or removes it there when `old` has none.
pub fn carry_over(new: &mut Value, old: &Value, key: &str) {
    if let Some(map) = new.as_object_mut() {
        match old.get(key) {
            Some(value) => map.insert(key.to_owned(), value.clone()),
            None => map.remove(key),
        };
    }
}

/// Writes the zeros of numbers that an object within another always shows.
pub fn fill_zero_number(value: &mut Value, key: &str, fields: &[&str]) {
    let within = object(value, key);
    for field in fields {
        let number = within.entry(*field).or_insert(Value::Null);
        if number.is_null() {
            *number = 0.into();
        }
    }
}
