//! Filling in defaults.

use serde_json::Value;

use super::{Additional, Node};

/// Fills in what the schema has a default for; nulls that are no values are as good as absent.
pub fn fill(node: &Node, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let stays = |name: &String| match (node.properties.get(name), &node.additional) {
                (Some(child), _) => child.nullable,
                (None, Some(Additional::Node(child))) => child.nullable || child.default.is_some(),
                (None, _) => true,
            };
            fields.retain(|name, value| !value.is_null() || stays(name));
            for (name, child) in &node.properties {
                if let Some(default) = &child.default
                    && !fields.contains_key(name)
                {
                    fields.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in fields.iter_mut() {
                match (node.properties.get(name), &node.additional) {
                    (Some(child), _) => fill(child, value),
                    (None, Some(Additional::Node(child))) => {
                        if value.is_null()
                            && !child.nullable
                            && let Some(default) = &child.default
                        {
                            *value = default.clone();
                        }
                        fill(child, value);
                    }
                    _ => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(element) = &node.items {
                for item in items {
                    if item.is_null()
                        && !element.nullable
                        && let Some(default) = &element.default
                    {
                        *item = default.clone();
                    }
                    fill(element, item);
                }
            }
        }
        _ => {}
    }
}
