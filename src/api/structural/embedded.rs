//! Objects within objects (`x-kubernetes-embedded-resource`), which say of what kind they are and have metadata.
//!
//! Source: k8s.io/apiextensions-apiserver `pkg/apiserver/schema/objectmeta`.

use serde_json::{Map, Value};

use super::{Additional, Node, Path};
use crate::api::schema::{self, Checked, Schema};
use crate::api::status::FieldError;

/// The type of metadata.
const METADATA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Drops what the metadata of embedded objects does not know; tells of it, and of the first value that does not fit.
pub fn coerce(node: &Node, object: &mut Value) -> Checked {
    let mut found = Checked::default();
    if node.any(&|node| node.embedded) {
        visit(node, object, &Path::default(), &mut found);
    }
    found.unknown.sort();
    found
}

fn visit(node: &Node, value: &mut Value, path: &Path, found: &mut Checked) {
    match value {
        Value::Object(fields) => {
            if node.embedded {
                own(fields, path, found);
            }
            for (name, value) in fields {
                if let Some((child, path)) = below(node, name, path) {
                    visit(child, value, &path, found);
                }
            }
        }
        Value::Array(items) => {
            if let Some(element) = &node.items {
                for (index, item) in items.iter_mut().enumerate() {
                    visit(element, item, &path.item(index), found);
                }
            }
        }
        _ => {}
    }
}

/// The field of an object, when the schema knows it, and its path.
fn below<'n>(node: &'n Node, name: &str, path: &Path) -> Option<(&'n Node, Path)> {
    match (node.properties.get(name), &node.additional) {
        (Some(child), _) => Some((child, path.field(name))),
        (None, Some(Additional::Node(child))) => Some((child, path.key(name))),
        _ => None,
    }
}

/// What an embedded object says of itself.
fn own(fields: &mut Map<String, Value>, path: &Path, found: &mut Checked) {
    for name in ["apiVersion", "kind"] {
        if let Some(value) = fields.get(name).filter(|value| !value.is_string()) {
            let error = FieldError::invalid(path.field(name).text(), value, "must be a string");
            found.errors.push(error.to_string());
        }
    }
    let (Some(metadata), Some(of)) = (fields.get_mut("metadata"), Schema::of(METADATA)) else { return };
    let path = path.field("metadata");
    if metadata.is_null() {
        *metadata = Value::Object(Map::new());
    }
    let given = metadata.clone();
    let checked = schema::check(of, metadata);
    if let Some(why) = checked.errors.first() {
        found.errors.push(FieldError::invalid(path.text(), &given, why).to_string());
    }
    let known = |complaint: &String| match complaint.strip_prefix("unknown field \"") {
        Some(rest) => format!("unknown field \"{}.{rest}", path.text()),
        None => complaint.clone(),
    };
    found.unknown.extend(checked.unknown.iter().map(known));
    // What is empty is not there.
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.retain(|name, value| match value {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            value => name != "generation" || *value != 0,
        });
    }
}

/// Tells of each embedded object of an object, by its path.
pub fn each<'v>(node: &Node, object: &'v Value, told: &mut dyn FnMut(&Path, &'v Map<String, Value>)) {
    if node.any(&|node| node.embedded) {
        look(node, object, &Path::default(), told);
    }
}

fn look<'v>(node: &Node, value: &'v Value, path: &Path, told: &mut dyn FnMut(&Path, &'v Map<String, Value>)) {
    match value {
        Value::Object(fields) => {
            if node.embedded {
                told(path, fields);
            }
            for (name, value) in fields {
                if let Some((child, path)) = below(node, name, path) {
                    look(child, value, &path, told);
                }
            }
        }
        Value::Array(items) => {
            if let Some(element) = &node.items {
                for (index, item) in items.iter().enumerate() {
                    look(element, item, &path.item(index), told);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node() -> Node {
        let object = json!({"type": "object", "x-kubernetes-embedded-resource": true,
            "x-kubernetes-preserve-unknown-fields": true});
        Node::read(&json!({"type": "object", "properties": {
            "one": object, "many": {"type": "array", "items": object},
            "named": {"type": "object", "additionalProperties": object}}}))
    }

    #[test]
    fn metadata_is_what_it_must_be() {
        let mut object = json!({
            "metadata": {"odd": true},
            "one": {"apiVersion": "v1", "kind": "A", "metadata": {"name": "a", "odd": 1, "labels": {"x": "y"},
                "annotations": {}, "creationTimestamp": null}},
            "many": [{"metadata": null}, {"metadata": {"namespace": "", "odder": {}}}],
            "named": {"k": {"metadata": {"odd": 1}}},
        });
        let found = coerce(&node(), &mut object);
        assert_eq!(
            found.unknown,
            [
                "unknown field \"many[1].metadata.odder\"",
                "unknown field \"named[k].metadata.odd\"",
                "unknown field \"one.metadata.odd\""
            ]
        );
        assert_eq!(found.errors, [""; 0]);
        assert_eq!(object["one"]["metadata"], json!({"name": "a", "labels": {"x": "y"}}));
        assert_eq!(
            (&object["many"][0]["metadata"], &object["many"][1]["metadata"]),
            (&json!({}), &json!({}))
        );
        assert_eq!(object["metadata"], json!({"odd": true}), "the object's own is read elsewhere");
    }

    #[test]
    fn values_that_do_not_fit_are_told() {
        for (one, told) in [
            (json!({"kind": 5}), "one.kind: Invalid value: 5: must be a string"),
            (
                json!({"metadata": {"labels": "x"}}),
                "one.metadata: Invalid value: {\"labels\":\"x\"}: json: cannot unmarshal string into Go struct field \
                 ObjectMeta.labels of type map[string]string",
            ),
        ] {
            assert_eq!(coerce(&node(), &mut json!({"one": one})).errors, [told]);
        }
    }

    #[test]
    fn each_is_found() {
        let object = json!({"one": {}, "many": [{}, 1], "named": {"k": {}}});
        let mut paths = Vec::new();
        each(&node(), &object, &mut |path, _| paths.push(path.text().to_owned()));
        assert_eq!(paths, ["many[0]", "named[k]", "one"]);
    }
}
