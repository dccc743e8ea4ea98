//! Taking fields out of an object.

use serde_json::{Map, Value};

use super::set::Set;
use super::step::Step;
use super::types::{self, Form};
use crate::api::schema::Schema;

/// The value without these fields. An object or list of which nothing is left is null.
pub(super) fn remove(place: Option<Schema>, value: &Value, gone: &Set) -> Value {
    if gone.is_empty() {
        return value.clone();
    }
    match (types::form(place, value), value) {
        (Form::Object, Value::Object(fields)) => {
            let mut left = Map::new();
            for (name, value) in fields {
                match gone.node(&Step::field(name)) {
                    Some(node) if node.member => {}
                    Some(node) => {
                        let value = remove(types::child(place, name), value, &node.below);
                        left.insert(name.clone(), value);
                    }
                    None => {
                        left.insert(name.clone(), value.clone());
                    }
                }
            }
            if left.is_empty() { Value::Null } else { Value::Object(left) }
        }
        (Form::List, Value::Array(items)) => {
            let Some(list) = place else { return value.clone() };
            let kept = |item: &Value| match types::item(list, item).ok().and_then(|s| gone.node(&s).cloned())
            {
                Some(node) if node.member => None,
                Some(node) => Some(remove(list.element(), item, &node.below)),
                None => Some(item.clone()),
            };
            let left: Vec<Value> = items.iter().filter_map(kept).collect();
            if left.is_empty() { Value::Null } else { Value::Array(left) }
        }
        (Form::Leaf, Value::Object(_) | Value::Array(_)) => Value::Null,
        (_, other) => other.clone(),
    }
}
