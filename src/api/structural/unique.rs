//! Lists that are sets or maps: nothing stands twice in them.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{Additional, Node, Path};
use crate::api::status::FieldError;

/// What stands twice in the lists of a value.
pub fn duplicates(node: &Node, value: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (node.properties.get(name), &node.additional) {
                    (Some(child), _) => duplicates(child, value, &path.field(name), errors),
                    (None, Some(Additional::Node(child))) => {
                        duplicates(child, value, &path.key(name), errors)
                    }
                    _ => {}
                }
            }
        }
        Value::Array(items) => {
            match node.list_type.as_str() {
                "set" => {
                    for index in repeated(items) {
                        errors.push(FieldError::duplicate(path.item(index).text(), &items[index]));
                    }
                }
                "map" => {
                    let keys: Vec<Value> = items.iter().map(|item| keys_of(node, item)).collect();
                    for index in repeated(&keys) {
                        errors.push(FieldError::duplicate(path.item(index).text(), &keys[index]));
                    }
                }
                _ => {}
            }
            if let Some(element) = &node.items {
                for (index, item) in items.iter().enumerate() {
                    duplicates(element, item, &path.item(index), errors);
                }
            }
        }
        _ => {}
    }
}

/// Where values stand for the second time. Lists may be long.
pub(super) fn repeated(items: &[Value]) -> Vec<usize> {
    let mut times: HashMap<String, usize> = HashMap::with_capacity(items.len());
    let mut again = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let seen = times.entry(item.to_string()).or_default();
        *seen += 1;
        if *seen == 2 {
            again.push(index);
        }
    }
    again
}

/// The keys of an item with their values.
fn keys_of(node: &Node, item: &Value) -> Value {
    let present = node.list_map_keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
    Value::Object(present.collect::<Map<_, _>>())
}
