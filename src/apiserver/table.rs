//! Server-printed tables: what `kubectl get` shows.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::registry::{as_stored, stored_kind};
use super::strategy;
use crate::api::kinds::Kind;

/// How much of each object its row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// `PartialObjectMetadata`: identity and metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl IncludeObject {
    /// Reads the parameter `includeObject`; empty is the default.
    pub fn parse(text: &str) -> Option<IncludeObject> {
        match text {
            "None" => Some(IncludeObject::None),
            "" | "Metadata" => Some(IncludeObject::Metadata),
            "Object" => Some(IncludeObject::Object),
            _ => None,
        }
    }
}

/// The objects as a meta.k8s.io/v1 `Table`; its list metadata is for the caller to fill in. `now` is for ages.
///
/// Objects are given as `kind` serves them, and so they stand beside their cells.
pub fn render(kind: &Kind, objects: &[&Value], include: IncludeObject, now: Timestamp) -> Value {
    let strategy = strategy::of(kind);
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            // Cells are made of the stored form; most kinds have no other.
            let cells = match std::ptr::eq(stored_kind(kind), kind) {
                true => strategy.cells(object, now),
                false => strategy.cells(&as_stored(kind, (*object).clone()), now),
            };
            let mut row = json!({ "cells": cells });
            match include {
                IncludeObject::None => {}
                IncludeObject::Metadata => row["object"] = partial(object),
                IncludeObject::Object => row["object"] = (*object).clone(),
            }
            row
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": columns(kind),
        "rows": rows,
    })
}

/// The columns of a kind, as a `Table` defines them.
pub fn columns(kind: &Kind) -> Value {
    strategy::of(kind).column_definitions()
}

/// An object's metadata alone, as a meta.k8s.io/v1 `PartialObjectMetadata`.
pub fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}

/// Has a table, or metadata that stand alone, be of meta.k8s.io/v1beta1, with the metadata that stand in it.
pub fn as_beta(value: &mut Value) {
    const KINDS: [&str; 3] = ["Table", "PartialObjectMetadata", "PartialObjectMetadataList"];
    if value["apiVersion"] != "meta.k8s.io/v1" || !KINDS.iter().any(|kind| value["kind"] == *kind) {
        return;
    }
    value["apiVersion"] = json!("meta.k8s.io/v1beta1");
    for row in value.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten() {
        row.get_mut("object").map(as_beta).unwrap_or_default();
    }
    value.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(as_beta);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;

    #[test]
    fn a_table_has_a_cell_for_each_column() {
        let now = "2024-01-01T00:01:00Z".parse().unwrap();
        let kind = kinds::by_kind("", "v1", "ConfigMap").unwrap();
        let object = json!({"kind": "ConfigMap", "data": {"a": "b"},
                            "metadata": {"name": "x", "creationTimestamp": "2024-01-01T00:00:00Z"}});
        let table = render(kind, &[&object], IncludeObject::default(), now);
        assert_eq!(table["kind"], "Table");
        assert_eq!(table["columnDefinitions"][0]["format"], "name");
        let partial = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]});
        assert_eq!(table["rows"], json!([{"cells": ["x", 1, "60s"], "object": partial}]));
        assert_eq!(render(kind, &[&object], IncludeObject::Object, now)["rows"][0]["object"], object);
        assert_eq!(render(kind, &[&object], IncludeObject::None, now)["rows"][0].get("object"), None);
        let events = kinds::by_resource("events.k8s.io", "v1", "events").unwrap();
        let event = json!({"apiVersion": "events.k8s.io/v1", "note": "done", "metadata": {"name": "e"}});
        let row = &render(events, &[&event], IncludeObject::Object, now)["rows"][0];
        assert_eq!((&row["object"], &row["cells"][6]), (&event, &json!("done")));
        for kind in kinds::KINDS.iter() {
            let table = render(kind, &[&object], IncludeObject::None, now);
            let columns = table["columnDefinitions"].as_array().unwrap().len();
            assert_eq!(table["rows"][0]["cells"].as_array().unwrap().len(), columns, "{}", kind.kind);
        }
        assert_eq!(IncludeObject::parse("Some"), None);
        let mut old = table;
        as_beta(&mut old);
        assert_eq!(old["apiVersion"], "meta.k8s.io/v1beta1");
        assert_eq!(old["rows"][0]["object"]["apiVersion"], "meta.k8s.io/v1beta1");
    }
}
