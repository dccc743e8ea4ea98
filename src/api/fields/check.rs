//! Whether an applied configuration fits its type.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::Value;

use super::step::{Step, shown};
use super::types;
use crate::api::complaints::MOST;
use crate::api::schema::{Scalar, Schema, Shape};

/// What does not fit in `value`, in the words of structured-merge-diff: `.spec.replicas: expected numeric (int or
/// float), got string`.
pub fn check(place: Option<Schema>, value: &Value) -> Vec<String> {
    let mut checker = Checker::default();
    checker.check(place, value);
    checker.found
}

#[derive(Default)]
struct Checker {
    path: Vec<Step>,
    found: Vec<String>,
}

impl Checker {
    fn say(&mut self, what: &str) {
        if self.found.len() < MOST {
            let at = shown(&self.path);
            self.found.push(if at.is_empty() { what.to_owned() } else { format!("{at}: {what}") });
        }
    }

    fn below(&mut self, step: Step, place: Option<Schema>, value: &Value) {
        self.path.push(step);
        self.check(place, value);
        self.path.pop();
    }

    fn check(&mut self, place: Option<Schema>, value: &Value) {
        let Some(place) = place.filter(|_| !value.is_null()) else { return };
        match (place.shape(), value) {
            (Shape::Any, _) => {}
            (Shape::Struct, Value::Object(fields)) => {
                for (name, value) in fields {
                    let step = Step::field(name);
                    match place.field(name) {
                        Some(field) => self.below(step, Some(field), value),
                        None if place.preserves_unknown() => {}
                        None => {
                            self.path.push(step);
                            self.say("field not declared in schema");
                            self.path.pop();
                        }
                    }
                }
            }
            (Shape::Map, Value::Object(fields)) => {
                fields.iter().for_each(|(name, value)| self.below(Step::field(name), place.element(), value));
            }
            (Shape::List, Value::Array(items)) => self.items(place, items),
            (Shape::Struct | Shape::Map, other) => self.say(&format!("expected map, got &{{{}}}", go(other))),
            (Shape::List, other) => self.say(&format!("expected list, got &{{{}}}", go(other))),
            (Shape::Scalar(scalar), value) => {
                if let Some(wrong) = wrong_scalar(scalar, value) {
                    self.say(&wrong);
                }
            }
        }
    }

    fn items(&mut self, list: Schema, items: &[Value]) {
        if types::is_atomic(list) {
            for (at, item) in (0..).zip(items) {
                self.below(Step::Index(at), list.element(), item);
            }
            return;
        }
        let mut seen = BTreeSet::new();
        for (i, item) in items.iter().enumerate() {
            let step = match types::item(list, item) {
                Ok(step) => step,
                Err(why) => return self.say(&format!("element {i}: {why}")),
            };
            if !seen.insert(step.clone()) {
                self.say(&format!("duplicate entries for key {step}"));
            }
            self.below(step, list.element(), item);
        }
    }
}

fn wrong_scalar(scalar: Scalar, value: &Value) -> Option<String> {
    match (scalar, value) {
        (Scalar::Integer | Scalar::Number, Value::Number(_)) | (Scalar::Boolean, Value::Bool(_)) => None,
        (Scalar::Integer | Scalar::Number, other) => {
            Some(format!("expected numeric (int or float), got {}", go_type(other)))
        }
        (Scalar::Boolean, other) => Some(format!("expected boolean, got &{{{}}}", go(other))),
        (Scalar::IntOrString | Scalar::Quantity, Value::Object(_) | Value::Array(_)) => {
            Some(format!("expected any scalar, got &{{{}}}", go(value)))
        }
        (Scalar::IntOrString | Scalar::Quantity, _) => None,
        (Scalar::String | Scalar::Time | Scalar::MicroTime | Scalar::Bytes, Value::String(_)) => None,
        (Scalar::String | Scalar::Time | Scalar::MicroTime | Scalar::Bytes, other) => {
            Some(format!("expected string, got &value.valueUnstructured{{Value:{}}}", go_syntax(other)))
        }
    }
}

/// The type that Go's JSON decoder gives the value.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// The value as Go prints it plainly.
fn go(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let pairs: Vec<String> = fields.iter().map(|(k, v)| format!("{k}:{}", go(v))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        scalar => scalar.to_string(),
    }
}

/// The value as Go writes it in source.
fn go_syntax(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_syntax).collect();
            // Writing to a text does not fail.
            let _ = write!(text, "{}{{{}}}", go_type(value), items.join(", "));
        }
        Value::Object(fields) => {
            let pairs: Vec<String> = fields.iter().map(|(k, v)| format!("{k:?}:{}", go_syntax(v))).collect();
            let _ = write!(text, "{}{{{}}}", go_type(value), pairs.join(", "));
        }
        Value::Null => text.push_str("interface {}(nil)"),
        scalar => text = scalar.to_string(),
    }
    text
}
