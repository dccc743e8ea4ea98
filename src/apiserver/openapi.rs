//! OpenAPI documents, made from the table of kinds and the embedded schemas.
//!
//! kubectl reads them before it writes: which query parameters a resource's operations know, and how objects
//! are built (`explain`, validation, patches).

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::discovery;
use crate::api::kinds::{Kind, Subresource};
use crate::api::{schema, version};

/// `/openapi/v3/...` of one group and version; `None` when it is not served.
pub fn v3(kinds: &[Arc<Kind>], group: &str, version: &str) -> Option<Value> {
    discovery::group_versions(kinds).into_iter().find(|gv| gv.0 == group && gv.1 == version)?;
    let mut paths = Map::new();
    let mut roots = Vec::new();
    for kind in kinds.iter().filter(|k| k.group == group && k.version == version) {
        roots.push(kind.types.name());
        add_paths(&mut paths, kind, &|kind| Form::V3.body(kind));
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": version::KUBERNETES},
        "paths": paths,
        "components": {"schemas": schemas(kinds, &roots)},
    }))
}

/// `/openapi/v2`: everything in one document, in the older form.
pub fn v2(kinds: &[Arc<Kind>]) -> Value {
    let mut paths = Map::new();
    let mut roots = Vec::new();
    for kind in kinds {
        roots.push(kind.types.name());
        add_paths(&mut paths, kind, &|kind| Form::V2.body(kind));
    }
    let mut definitions = Value::Object(schemas(kinds, &roots));
    rename_references(&mut definitions);
    json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": version::KUBERNETES}, "paths": paths,
        "definitions": definitions})
}

/// The two generations of OpenAPI differ in how bodies and parameters are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    V2,
    V3,
}

/// How operations describe a parameter, their body and their answer.
struct Bodies {
    form: Form,
    schema: Value,
}

impl Form {
    fn body(self, kind: &Kind) -> Bodies {
        let base = if self == Form::V3 { "#/components/schemas/" } else { "#/definitions/" };
        Bodies { form: self, schema: json!({"$ref": format!("{base}{}", kind.types.name())}) }
    }
}

impl Bodies {
    fn parameter(&self, name: &str, place: &str, kind: &str) -> Value {
        match self.form {
            Form::V3 => json!({"name": name, "in": place, "required": place == "path",
                "schema": {"type": kind, "uniqueItems": true}}),
            Form::V2 => json!({"name": name, "in": place, "required": place == "path", "type": kind,
                "uniqueItems": true}),
        }
    }

    fn operation(&self, method: &str, action: &str, kind: &Kind, row: (&str, &str, &str)) -> Value {
        let (group, version, name) = row;
        let mut parameters: Vec<Value> =
            query_parameters(action).iter().map(|(name, of)| self.parameter(name, "query", of)).collect();
        let mut operation = json!({
            "operationId": format!("{action}{}{}{name}", group.replace('.', ""), version),
            "tags": [if kind.group.is_empty() { "core_v1".to_owned() } else { kind.api_version().replace('/', "_") }],
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": name},
            "responses": self.responses(),
        });
        let media = if method == "patch" { PATCHES } else { BODIES };
        if matches!(method, "post" | "put" | "patch") {
            match self.form {
                Form::V3 => {
                    let content: Map<String, Value> =
                        media.iter().map(|m| ((*m).to_owned(), json!({"schema": self.schema}))).collect();
                    operation["requestBody"] = json!({"content": content, "required": true});
                }
                Form::V2 => {
                    parameters
                        .push(json!({"name": "body", "in": "body", "required": true, "schema": self.schema}));
                    operation["consumes"] = json!(media);
                }
            }
        }
        if self.form == Form::V2 {
            operation["produces"] = json!(BODIES);
        }
        operation["parameters"] = json!(parameters);
        operation
    }

    fn responses(&self) -> Value {
        match self.form {
            Form::V3 => {
                json!({"200": {"description": "OK", "content": {"application/json": {"schema": self.schema}}}})
            }
            Form::V2 => json!({"200": {"description": "OK", "schema": self.schema}}),
        }
    }
}

const BODIES: &[&str] = &["application/json", "application/yaml"];
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

fn query_parameters(action: &str) -> &'static [(&'static str, &'static str)] {
    match action {
        "post" | "put" | "patch" => &[
            ("pretty", "string"),
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
            ("force", "boolean"),
        ],
        "delete" => &[
            ("pretty", "string"),
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
        ],
        "list" | "deletecollection" => &[
            ("pretty", "string"),
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("dryRun", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ],
        _ => &[("pretty", "string")],
    }
}

/// The collection's, the object's and the subresources' paths of one kind.
fn add_paths(paths: &mut Map<String, Value>, kind: &Kind, bodies: &dyn Fn(&Kind) -> Bodies) {
    let root = match &*kind.group {
        "" => format!("/api/{}", kind.version),
        group => format!("/apis/{group}/{}", kind.version),
    };
    let collection = match kind.namespaced {
        true => format!("{root}/namespaces/{{namespace}}/{}", kind.plural),
        false => format!("{root}/{}", kind.plural),
    };
    let bodies = bodies(kind);
    let row = (&*kind.group, &*kind.version, &*kind.kind);
    let verb = |verb: &str| kind.verbs.contains(&verb);
    let of = |wanted: &[(&str, &str, &str)]| -> Map<String, Value> {
        wanted
            .iter()
            .filter(|(_, _, needs)| verb(needs))
            .map(|(method, action, _)| ((*method).to_owned(), bodies.operation(method, action, kind, row)))
            .collect()
    };
    let mut on_collection = of(&[
        ("get", "list", "list"),
        ("post", "post", "create"),
        ("delete", "deletecollection", "deletecollection"),
    ]);
    let mut on_object = of(&[
        ("get", "get", "get"),
        ("put", "put", "update"),
        ("patch", "patch", "patch"),
        ("delete", "delete", "delete"),
    ]);
    let named = if kind.namespaced { vec!["namespace"] } else { Vec::new() };
    add_path_parameters(&bodies, &mut on_collection, &named);
    let named: Vec<&str> = std::iter::once("name").chain(named).collect();
    add_path_parameters(&bodies, &mut on_object, &named);
    if kind.namespaced {
        paths.insert(format!("{root}/{}", kind.plural), Value::Object(of(&[("get", "list", "list")])));
    }
    paths.insert(collection.clone(), Value::Object(on_collection));
    for sub in &kind.subresources {
        let mut operations = subresource(&bodies, kind, sub);
        add_path_parameters(&bodies, &mut operations, &named);
        paths.insert(format!("{collection}/{{name}}/{}", sub.name), Value::Object(operations));
    }
    paths.insert(format!("{collection}/{{name}}"), Value::Object(on_object));
}

fn subresource(bodies: &Bodies, kind: &Kind, sub: &Subresource) -> Map<String, Value> {
    let (group, version) = sub.group_version.unwrap_or((&kind.group, &kind.version));
    let row = (group, version, &*sub.kind);
    let methods = sub.verbs.iter().filter_map(|verb| match *verb {
        "create" => Some(("post", "post")),
        "get" => Some(("get", "get")),
        "update" => Some(("put", "put")),
        "patch" => Some(("patch", "patch")),
        _ => None,
    });
    methods.map(|(method, action)| (method.to_owned(), bodies.operation(method, action, kind, row))).collect()
}

fn add_path_parameters(bodies: &Bodies, operations: &mut Map<String, Value>, names: &[&str]) {
    if !names.is_empty() {
        let list: Vec<Value> = names.iter().map(|name| bodies.parameter(name, "path", "string")).collect();
        operations.insert("parameters".into(), json!(list));
    }
}

/// The named types and everything that they refer to, marked with the kinds that they are.
fn schemas(kinds: &[Arc<Kind>], roots: &[&str]) -> Map<String, Value> {
    let all = schema::document::described();
    let mut found = Map::new();
    let mut wanted: Vec<String> = roots.iter().map(|r| (*r).to_owned()).collect();
    while let Some(name) = wanted.pop() {
        if found.contains_key(&name) {
            continue;
        }
        let Some(schema) = all.get(&name) else { continue };
        let mut schema = schema.clone();
        let kinds: Vec<Value> = kinds
            .iter()
            .filter(|k| k.types.name() == name)
            .map(|k| json!({"group": k.group, "version": k.version, "kind": k.kind}))
            .collect();
        if !kinds.is_empty() {
            schema["x-kubernetes-group-version-kind"] = json!(kinds);
        }
        collect_references(&schema, &mut wanted);
        found.insert(name, schema);
    }
    found
}

const V3_REFERENCE: &str = "#/components/schemas/";

fn collect_references(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str().and_then(|v| v.strip_prefix(V3_REFERENCE)) {
                    Some(name) if key == "$ref" => names.push(name.to_owned()),
                    _ => collect_references(value, names),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|v| collect_references(v, names)),
        _ => {}
    }
}

/// Version 2 keeps types elsewhere, and knows no `allOf` around a reference with a default beside it.
fn rename_references(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some([one]) = fields.get("allOf").and_then(Value::as_array).map(Vec::as_slice)
                && let Some(reference) = one.get("$ref").cloned()
            {
                fields.remove("allOf");
                fields.insert("$ref".into(), reference);
            }
            for (key, value) in fields.iter_mut() {
                match value.as_str().and_then(|v| v.strip_prefix(V3_REFERENCE)) {
                    Some(name) if key == "$ref" => *value = json!(format!("#/definitions/{name}")),
                    _ => rename_references(value),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(rename_references),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds::KINDS;

    #[test]
    fn writes_know_field_validation_and_every_reference_is_there() {
        for (group, version) in discovery::group_versions(&KINDS) {
            let document = v3(&KINDS, &group, &version).unwrap();
            for (path, item) in document["paths"].as_object().unwrap() {
                for method in ["post", "put", "patch"] {
                    let Some(operation) = item.get(method) else { continue };
                    let parameters = operation["parameters"].as_array().unwrap();
                    assert!(parameters.iter().any(|p| p["name"] == "fieldValidation"), "{method} {path}");
                    assert!(operation["x-kubernetes-group-version-kind"]["kind"].is_string());
                }
            }
            let mut names = Vec::new();
            collect_references(&document, &mut names);
            for name in names {
                assert!(document["components"]["schemas"].get(&name).is_some(), "{name} is missing");
            }
        }
        assert!(v3(&KINDS, "nonsense", "v1").is_none());
    }
}
