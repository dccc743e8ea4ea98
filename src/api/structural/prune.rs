//! Dropping what a schema does not know.

use serde_json::{Map, Value};

use super::{Additional, Node};
use crate::api::complaints;

/// What an embedded object has whatever its schema says.
const OF_EMBEDDED: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Drops the fields of an object that the schema does not know; tells of each by its path.
///
/// `root` is whether this is an object of the API, whose kind and metadata belong to it anyway.
pub fn prune(node: &Node, object: &mut Value, root: bool) -> Vec<String> {
    let mut pruner = Pruner { path: Vec::new(), unknown: Vec::new() };
    pruner.value(node, object, root, false);
    pruner.unknown
}

enum Segment {
    Field(String),
    Item(usize),
}

struct Pruner {
    path: Vec<Segment>,
    unknown: Vec<String>,
}

impl Pruner {
    /// `keep` is whether unknown fields are kept for the sake of the list that the value is an item of.
    fn value(&mut self, node: &Node, value: &mut Value, root: bool, keep: bool) {
        match value {
            Value::Object(fields) => self.object(node, fields, root || node.embedded, keep),
            Value::Array(items) => {
                if let Some(element) = &node.items {
                    for (index, item) in items.iter_mut().enumerate() {
                        self.path.push(Segment::Item(index));
                        self.value(element, item, false, keep || node.preserve);
                        self.path.pop();
                    }
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, node: &Node, fields: &mut Map<String, Value>, has_kind: bool, keep: bool) {
        fields.retain(|name, value| {
            let own = has_kind && OF_EMBEDDED.contains(&name.as_str());
            let known = match (node.properties.get(name), &node.additional) {
                (Some(child), _) if !(own && name == "metadata") => Some(child),
                (None, Some(Additional::Node(child))) => Some(&**child),
                _ => None,
            };
            self.path.push(Segment::Field(name.clone()));
            let kept = match known {
                Some(child) => {
                    self.value(child, value, false, false);
                    true
                }
                None => {
                    own || keep || node.preserve || matches!(node.additional, Some(Additional::Allowed(true)))
                }
            };
            if !kept && self.unknown.len() < complaints::MOST {
                self.unknown.push(self.shown());
            }
            self.path.pop();
            kept
        });
    }

    fn shown(&self) -> String {
        complaints::path(|text| {
            self.path.iter().try_for_each(|segment| match segment {
                Segment::Field(name) => text.field(name),
                Segment::Item(index) => text.item(*index),
            })
        })
    }
}
