//! The types of documents: those that are embedded, lists of them, and those that clients defined.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::custom;
use super::form::Form;
use crate::api::kinds::Kind;
use crate::api::schema::{document, legacy};

/// What references to types begin with, in the embedded types and in version 3.
pub(super) const REFERENCE: &str = "#/components/schemas/";
/// What the names of the types of all groups begin with.
pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
pub(super) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
pub(super) const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
pub(super) const WATCH_EVENT: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent";

/// The name of a kind's type: `io.k8s.api.core.v1.Pod`, and `com.example.v1.Widget` of the group `example.com`.
pub(super) fn name(kind: &Kind) -> String {
    match kind.types.name() {
        "" => {
            let group: Vec<&str> = kind.group.rsplit('.').collect();
            format!("{}.{}.{}", group.join("."), kind.version, kind.kind)
        }
        name => name.to_owned(),
    }
}

/// The name of the type of lists of a kind.
pub(super) fn list_name(kind: &Kind) -> String {
    let of = name(kind);
    let package = of.rsplit_once('.').map_or("", |(package, _)| package);
    format!("{package}.{}", kind.list)
}

/// All types that a document may need.
pub(super) struct Types<'a> {
    described: Map<String, Value>,
    /// Kinds by the names of their types, and by those of their lists.
    kinds: HashMap<String, &'a Kind>,
    lists: HashMap<String, &'a Kind>,
    /// Every group and version, in which options and events are registered.
    versions: Vec<(String, String)>,
}

impl<'a> Types<'a> {
    pub(super) fn new(served: &'a [Arc<Kind>]) -> Types<'a> {
        let mut versions: Vec<(String, String)> =
            served.iter().map(|kind| (kind.group.to_string(), kind.version.to_string())).collect();
        versions.sort();
        versions.dedup();
        let mut described = document::described();
        legacy::describe(&mut described);
        Types {
            described,
            kinds: served.iter().map(|kind| (name(kind), &**kind)).collect(),
            lists: served.iter().map(|kind| (list_name(kind), &**kind)).collect(),
            versions,
        }
    }

    /// The named types and everything that they refer to, for a document of this form.
    pub(super) fn closure(&self, names: impl Iterator<Item = String>, form: Form) -> Map<String, Value> {
        let mut found = Map::new();
        let mut wanted: Vec<String> = names.collect();
        while let Some(name) = wanted.pop() {
            if found.contains_key(&name) {
                continue;
            }
            let Some(schema) = self.schema(&name, form) else { continue };
            collect_references(&schema, REFERENCE, &mut wanted);
            found.insert(name, schema);
        }
        found
    }

    fn schema(&self, name: &str, form: Form) -> Option<Value> {
        if let Some(kind) = self.lists.get(name) {
            return Some(self.list(kind));
        }
        if let Some(version) = self.kinds.get(name).and_then(|kind| kind.types.custom()) {
            return Some(self.custom(self.kinds[name], &version.described(), form));
        }
        let mut schema = self.described.get(name)?.clone();
        if matches!(name, DELETE_OPTIONS | WATCH_EVENT) {
            let kind = name.rsplit('.').next().unwrap_or_default();
            let all = self.versions.iter();
            schema["x-kubernetes-group-version-kind"] = all
                .map(|(group, version)| json!({"group": group, "version": version, "kind": kind}))
                .collect();
        }
        Some(schema)
    }

    /// The fields that say what an object is, as the built-in types describe them.
    fn type_fields(&self) -> Map<String, Value> {
        let fields = ["apiVersion", "kind"].into_iter();
        fields.map(|field| (field.to_owned(), self.described[STATUS]["properties"][field].clone())).collect()
    }

    fn list(&self, kind: &Kind) -> Value {
        let mut properties = self.type_fields();
        let reference =
            |name: &str| json!({"default": {}, "allOf": [{"$ref": format!("{REFERENCE}{name}")}]});
        let items = json!({"type": "array", "description": "The objects.", "items": reference(&name(kind))});
        properties.insert("items".to_owned(), items);
        let mut metadata = reference(&format!("{META}.ListMeta"));
        metadata["description"] = "What is said of the list as a whole.".into();
        properties.insert("metadata".to_owned(), metadata);
        let mut list = json!({
            "type": "object",
            "description": format!("{} is a list of {}.", kind.list, kind.plural),
            "required": ["items"],
            "properties": properties,
            "x-kubernetes-group-version-kind": [group_version_kind(kind, &kind.list)],
        });
        say_selectable(kind, &mut list);
        list
    }

    /// A type that a client defined, with the fields that every object has.
    fn custom(&self, kind: &Kind, schema: &Value, form: Form) -> Value {
        let mut common = self.type_fields();
        let metadata = json!({
            "description": "What is said of every object.",
            "allOf": [{"$ref": format!("{REFERENCE}{META}.ObjectMeta")}],
        });
        common.insert("metadata".to_owned(), metadata);
        let mut schema = custom::described(schema, form, &common);
        schema["x-kubernetes-group-version-kind"] = json!([group_version_kind(kind, &kind.kind)]);
        say_selectable(kind, &mut schema);
        schema
    }
}

/// Names the fields by which objects of a kind that a client defined can be selected.
fn say_selectable(kind: &Kind, schema: &mut Value) {
    let Some(version) = kind.types.custom().filter(|version| !version.selectable.is_empty()) else { return };
    let fields = version.selectable.iter().map(|(path, _)| json!({"fieldPath": path}));
    schema["x-kubernetes-selectable-fields"] = fields.collect();
}

fn group_version_kind(kind: &Kind, named: &str) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": named})
}

/// The names of the types that a schema refers to, of those whose references begin with `base`.
pub(super) fn collect_references(value: &Value, base: &str, names: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str().and_then(|v| v.strip_prefix(base)) {
                    Some(name) if key == "$ref" => names.push(name.to_owned()),
                    _ => collect_references(value, base, names),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|v| collect_references(v, base, names)),
        _ => {}
    }
}
