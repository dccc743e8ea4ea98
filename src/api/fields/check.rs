//! Whether an applied configuration fits its type.

use std::collections::BTreeSet;

use serde_json::Value;

use super::step::{Step, shown};
use super::types;
use crate::api::complaints::MOST;
use crate::api::go::{Plain, Syntax, type_of};
use crate::api::schema::{Scalar, Schema, Shape};

/// What does not fit in `value`, in the words of structured-merge-diff: `.spec.replicas: expected numeric (int or
/// float), got string`.
pub fn check(place: Option<Schema>, value: &Value) -> Vec<String> {
    let mut checker = Checker::default();
    checker.check(place, value, false);
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

    fn below(&mut self, step: Step, place: Option<Schema>, value: &Value, open: bool) {
        self.path.push(step);
        self.check(place, value, open);
        self.path.pop();
    }

    /// `open` says that unknown fields are kept, which what lies below takes over.
    fn check(&mut self, place: Option<Schema>, value: &Value, open: bool) {
        let Some(place) = place.filter(|_| !value.is_null()) else { return };
        let open = open || place.preserves_unknown();
        match (place.shape(), value) {
            (Shape::Any, _) => {}
            (Shape::Struct, Value::Object(fields)) => {
                for (name, value) in fields {
                    let step = Step::field(name);
                    match place.field(name) {
                        Some(field) => self.below(step, Some(field), value, open),
                        None if open => {}
                        None => {
                            self.path.push(step);
                            self.say("field not declared in schema");
                            self.path.pop();
                        }
                    }
                }
            }
            (Shape::Map, Value::Object(fields)) => {
                for (name, value) in fields {
                    self.below(Step::field(name), place.element(), value, open);
                }
            }
            (Shape::List, Value::Array(items)) => self.items(place, items, open),
            (Shape::Struct | Shape::Map, other) => {
                self.say(&format!("expected map, got &{{{}}}", Plain(other)))
            }
            (Shape::List, other) => self.say(&format!("expected list, got &{{{}}}", Plain(other))),
            (Shape::Scalar(scalar), value) => {
                if let Some(wrong) = wrong_scalar(scalar, value) {
                    self.say(&wrong);
                }
            }
        }
    }

    fn items(&mut self, list: Schema, items: &[Value], open: bool) {
        if types::is_atomic(list) {
            for (at, item) in (0..).zip(items) {
                self.below(Step::Index(at), list.element(), item, open);
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
            self.below(step, list.element(), item, open);
        }
    }
}

fn wrong_scalar(scalar: Scalar, value: &Value) -> Option<String> {
    match (scalar, value) {
        (Scalar::Integer | Scalar::Number, Value::Number(_)) | (Scalar::Boolean, Value::Bool(_)) => None,
        (Scalar::Integer | Scalar::Number, other) => {
            Some(format!("expected numeric (int or float), got {}", type_of(other)))
        }
        (Scalar::Boolean, other) => Some(format!("expected boolean, got &{{{}}}", Plain(other))),
        (Scalar::IntOrString | Scalar::Quantity, Value::Object(_) | Value::Array(_)) => {
            Some(format!("expected any scalar, got &{{{}}}", Plain(value)))
        }
        (Scalar::IntOrString | Scalar::Quantity, _) => None,
        (Scalar::String | Scalar::Time | Scalar::MicroTime | Scalar::Bytes, Value::String(_)) => None,
        (Scalar::String | Scalar::Time | Scalar::MicroTime | Scalar::Bytes, other) => {
            Some(format!("expected string, got &value.valueUnstructured{{Value:{}}}", Syntax(other)))
        }
    }
}
