//! Lists that are sets or maps: nothing stands twice in them.

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
                    let mut told: Vec<&Value> = Vec::new();
                    for (index, item) in items.iter().enumerate() {
                        if items[..index].contains(item) && !told.contains(&item) {
                            told.push(item);
                            errors.push(FieldError::duplicate(path.item(index).text(), item));
                        }
                    }
                }
                "map" => {
                    let keys: Vec<Value> = items.iter().map(|item| keys_of(node, item)).collect();
                    let mut told: Vec<&Value> = Vec::new();
                    for (index, key) in keys.iter().enumerate() {
                        if keys[..index].contains(key) && !told.contains(&key) {
                            told.push(key);
                            errors.push(FieldError::duplicate(path.item(index).text(), key));
                        }
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

/// The keys of an item with their values.
fn keys_of(node: &Node, item: &Value) -> Value {
    let present = node.list_map_keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
    Value::Object(present.collect::<Map<_, _>>())
}
