//! What aggregated servers say of their API, as it stands among this server's own documents.
//!
//! Source: k8s.io/kube-aggregator `pkg/controllers/openapi` and `openapiv3`, k8s.io/kube-openapi `pkg/aggregator`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::form::Form;
use super::types::{REFERENCE, collect_references};
use crate::api::kinds::Kind;

/// The documents of one aggregated server, of which those about its own group and version are shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// Its APIService.
    pub service: String,
    /// The group that it serves.
    pub group: String,
    /// The version that it serves.
    pub version: String,
    /// Where it has its documents of version 3, by the names of its own index; `None` when it has none.
    pub documents: Option<Map<String, Value>>,
    /// Its document of version 2 as JSON, cut down to what is about its group and version.
    pub older: Option<Bytes>,
}

impl Description {
    /// The name of the document about its group and version: `apis/GROUP/VERSION`.
    pub fn own(&self) -> String {
        format!("apis/{}/{}", self.group, self.version)
    }

    /// Its own documents of version 3 that are shown: that of its version, and that of its group unless this server
    /// serves other versions of it.
    pub fn shown(&self, kinds: &[Arc<Kind>]) -> impl Iterator<Item = (&String, &Value)> {
        let (own, group) = (self.own(), format!("apis/{}", self.group));
        let alone = !kinds.iter().any(|kind| kind.group == self.group.as_str());
        let documents = self.documents.as_ref().into_iter().flatten();
        documents.filter(move |(name, _)| **name == own || (alone && **name == group))
    }

    /// Its document of version 3, made from that of version 2, when it has none itself.
    pub fn converted(&self) -> Option<Value> {
        self.older().filter(|_| self.documents.is_none()).map(|older| newer(&older))
    }

    /// Its document of version 2.
    pub fn older(&self) -> Option<Value> {
        serde_json::from_slice(self.older.as_ref()?).ok()
    }
}

/// The types that are used at the paths of an older document.
fn used(document: &Value) -> HashSet<String> {
    let (mut used, mut wanted) = (HashSet::new(), Vec::new());
    collect_references(&document["paths"], Form::V2.base(), &mut wanted);
    while let Some(name) = wanted.pop() {
        if let Some(schema) = document["definitions"].get(&name)
            && used.insert(name)
        {
            collect_references(schema, Form::V2.base(), &mut wanted);
        }
    }
    used
}

/// Leaves of an older document the paths that are so, and not the types that only the others use.
fn keep(document: &mut Value, is_kept: impl Fn(&str) -> bool) {
    let before = used(document);
    if let Some(paths) = document["paths"].as_object_mut() {
        paths.retain(|path, _| is_kept(path));
    }
    let after = used(document);
    if let Some(definitions) = document["definitions"].as_object_mut() {
        definitions.retain(|name, _| after.contains(name) || !before.contains(name));
    }
}

/// What an older document says of what is below `root`, with its parameters where they are used.
pub fn about(mut document: Value, root: &str) -> Value {
    let parameters = document["parameters"].take();
    for item in document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        for (key, value) in item.as_object_mut().into_iter().flatten() {
            let list = if key == "parameters" { value } else { &mut value["parameters"] };
            for parameter in list.as_array_mut().into_iter().flatten() {
                let name = parameter["$ref"].as_str().and_then(|r| r.strip_prefix("#/parameters/"));
                if let Some(named) = name.and_then(|name| parameters.get(name)) {
                    *parameter = named.clone();
                }
            }
        }
    }
    keep(&mut document, |path| path.starts_with(root));
    json!({"paths": document["paths"].take(), "definitions": document["definitions"].take()})
}

/// Adds another server's document to an older document. A path that is there stays what it is; a type that is called as
/// one that is there and not the same gets another name.
pub fn merge(into: &mut Value, mut other: Value) {
    keep(&mut other, |path| into["paths"].get(path).is_none());
    let Value::Object(definitions) = other["definitions"].take() else { return };
    let mut renamed = HashMap::new();
    let mut added = Vec::new();
    for (name, schema) in &definitions {
        let mut free = name.clone();
        for number in 2.. {
            match into["definitions"].get_mut(&free) {
                None if free == *name || !definitions.contains_key(&free) => {
                    added.push((free.clone(), schema.clone()));
                    break;
                }
                Some(there) if is_same(there, schema) => {
                    add_kinds(there, schema);
                    break;
                }
                _ => free = format!("{name}_v{number}"),
            }
        }
        if free != *name {
            renamed.insert(name.clone(), free);
        }
    }
    let mut paths = other["paths"].take();
    rename(&mut paths, &renamed);
    if let (Some(all), Value::Object(paths)) = (into["paths"].as_object_mut(), paths) {
        all.extend(paths);
    }
    for (name, mut schema) in added {
        rename(&mut schema, &renamed);
        into["definitions"][name] = schema;
    }
}

/// What names the kinds of a type, which several groups may have.
const KINDS: &str = "x-kubernetes-group-version-kind";

/// Whether two types are the same, of whatever kinds they are.
fn is_same(one: &Value, two: &Value) -> bool {
    let fields = |of: &Value| of.as_object().map_or(0, Map::len) - usize::from(of.get(KINDS).is_some());
    let rest = one.as_object().into_iter().flatten().filter(|(key, _)| *key != KINDS);
    let mut rest = rest.map(|(key, value)| two.get(key) == Some(value));
    fields(one) == fields(two) && rest.all(|same| same)
}

/// Has a type name the kinds of another one, too.
fn add_kinds(there: &mut Value, schema: &Value) {
    let Some(kinds) = schema[KINDS].as_array() else { return };
    match there[KINDS].as_array_mut() {
        Some(known) => {
            let new: Vec<Value> = kinds.iter().filter(|kind| !known.contains(kind)).cloned().collect();
            known.extend(new);
        }
        None => there[KINDS] = kinds.clone().into(),
    }
}

/// Has references follow types to their new names.
fn rename(value: &mut Value, renamed: &HashMap<String, String>) {
    let base = Form::V2.base();
    refer(value, &|reference| {
        let name = renamed.get(reference.strip_prefix(base)?)?;
        Some(format!("{base}{name}"))
    });
}

/// Gives references other targets.
fn refer(value: &mut Value, target: &dyn Fn(&str) -> Option<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str().filter(|_| key == "$ref").and_then(target) {
                    Some(other) => *value = other.into(),
                    None => refer(value, target),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| refer(value, target)),
        _ => {}
    }
}

/// An older document in the newer form.
fn newer(older: &Value) -> Value {
    let paths = older["paths"].as_object().into_iter().flatten();
    let paths = paths.map(|(path, item)| {
        let item = item.as_object().into_iter().flatten().map(|(key, value)| {
            let value = match key.as_str() {
                "parameters" => value.as_array().into_iter().flatten().map(parameter).collect(),
                key if key.starts_with("x-") || key == "$ref" => value.clone(),
                _ => operation(value),
            };
            (key.clone(), value)
        });
        (path.clone(), Value::Object(item.collect()))
    });
    let mut document = json!({"openapi": "3.0.0", "info": super::info(), "paths": paths.collect::<Map<_, _>>(),
        "components": {"schemas": older["definitions"]}});
    refer(&mut document, &|reference| {
        Some(format!("{REFERENCE}{}", reference.strip_prefix(Form::V2.base())?))
    });
    document
}

/// Bodies of these media types.
fn content(media: &Value, schema: &Value) -> Value {
    let media = media.as_array().into_iter().flatten().filter_map(Value::as_str);
    let content: Map<String, Value> =
        media.map(|media| (media.to_owned(), json!({ "schema": schema }))).collect();
    if content.is_empty() { json!({"*/*": {"schema": schema}}) } else { content.into() }
}

/// A parameter, whose type has a place of its own in the newer form.
fn parameter(older: &Value) -> Value {
    let mut schema = older.clone();
    let mut shown = Map::new();
    for key in ["name", "in", "description", "required"] {
        if let Some(value) = schema.as_object_mut().and_then(|fields| fields.remove(key)) {
            shown.insert(key.to_owned(), value);
        }
    }
    shown.insert("schema".to_owned(), schema);
    shown.into()
}

fn operation(older: &Value) -> Value {
    let mut shown = older.clone();
    let Some(fields) = shown.as_object_mut() else { return shown };
    for key in ["consumes", "produces", "schemes", "parameters"] {
        fields.remove(key);
    }
    let all = || older["parameters"].as_array().into_iter().flatten();
    let others: Vec<Value> = all().filter(|of| of["in"] != "body").map(parameter).collect();
    if !others.is_empty() {
        fields.insert("parameters".to_owned(), others.into());
    }
    if let Some(body) = all().find(|of| of["in"] == "body") {
        let mut request = json!({"content": content(&older["consumes"], &body["schema"])});
        if body["required"] == true {
            request["required"] = true.into();
        }
        fields.insert("requestBody".to_owned(), request);
    }
    for response in fields["responses"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        if let Some(schema) = response.as_object_mut().and_then(|response| response.remove("schema")) {
            response["content"] = content(&older["produces"], &schema);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(reference: &str) -> Value {
        json!({"get": {"produces": ["application/json"],
            "responses": {"200": {"description": "OK", "schema": {"$ref": format!("#/definitions/{reference}")}}}}})
    }

    #[test]
    fn of_another_servers_document_only_its_own_part_is_taken() {
        let document = json!({
            "paths": {"/apis/w/v1/f": reads("F"), "/apis/": reads("Groups"),
                "/apis/w/v1/g": {"parameters": [{"$ref": "#/parameters/p"}]}},
            "parameters": {"p": {"name": "pretty", "in": "query"}},
            "definitions": {"F": {"properties": {"m": {"$ref": "#/definitions/M"}}}, "M": {}, "Groups": {}, "Loose": {}},
        });
        let about = about(document, "/apis/w/v1/");
        let names = |of: &Value| of.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&about["paths"]), ["/apis/w/v1/f", "/apis/w/v1/g"]);
        assert_eq!(about["paths"]["/apis/w/v1/g"]["parameters"], json!([{"name": "pretty", "in": "query"}]));
        assert_eq!(names(&about["definitions"]), ["F", "Loose", "M"]);
    }

    #[test]
    fn types_of_the_same_name_stay_apart() {
        let gvk = |group: &str| json!([{"group": group, "version": "v1", "kind": "O"}]);
        let mut own = json!({"paths": {"/a": reads("M")},
            "definitions": {"M": {"type": "object"}, "O": {"type": "string", "x-kubernetes-group-version-kind": gvk("a")}}});
        let other = json!({"paths": {"/a": reads("Gone"), "/b": reads("M"), "/c": reads("O"), "/n": reads("N")},
            "definitions": {"Gone": {}, "O": {"type": "string", "x-kubernetes-group-version-kind": gvk("b")},
                "M": {"type": "object", "properties": {"a": {"type": "string"}}},
                "N": {"type": "array", "items": {"$ref": "#/definitions/M"}}}});
        merge(&mut own, other.clone());
        assert_eq!(own["paths"]["/a"], reads("M"));
        assert_eq!((&own["paths"]["/b"], &own["paths"]["/c"]), (&reads("M_v2"), &reads("O")));
        assert_eq!(own["definitions"]["M"], json!({"type": "object"}));
        assert_eq!(own["definitions"]["M_v2"], other["definitions"]["M"]);
        assert_eq!(own["definitions"]["N"]["items"]["$ref"], "#/definitions/M_v2");
        assert_eq!(own["definitions"]["O"][KINDS].as_array().unwrap().len(), 2);
        assert!(own["definitions"].get("Gone").is_none());
        // A second server that says the same shares the name.
        let mut third = other;
        third["paths"] = json!({"/d": reads("M")});
        merge(&mut own, third);
        assert_eq!(own["paths"]["/d"], reads("M_v2"));
        assert!(own["definitions"].get("M_v3").is_none());
    }

    #[test]
    fn a_server_of_the_older_form_is_shown_in_the_newer_one() {
        let body =
            json!({"in": "body", "name": "body", "required": true, "schema": {"$ref": "#/definitions/F"}});
        let older = json!({"definitions": {"F": {"properties": {"f": {"$ref": "#/definitions/F"}}}}, "paths": {"/f": {
            "parameters": [{"in": "path", "name": "n", "required": true, "type": "string"}],
            "post": {"consumes": ["*/*"], "produces": ["application/json"], "schemes": ["https"], "operationId": "o",
                "parameters": [body],
                "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/F"}}}}}}});
        let description = Description {
            service: "v1.w".into(),
            group: "w".into(),
            version: "v1".into(),
            documents: None,
            older: Some(older.to_string().into()),
        };
        let newer = description.converted().unwrap();
        let reference = json!({"$ref": "#/components/schemas/F"});
        assert_eq!(newer["components"]["schemas"]["F"]["properties"]["f"], reference);
        let item = &newer["paths"]["/f"];
        assert_eq!(
            item["parameters"],
            json!([{"in": "path", "name": "n", "required": true, "schema": {"type": "string"}}])
        );
        assert_eq!(
            item["post"],
            json!({"operationId": "o", "requestBody": {"required": true, "content": {"*/*": {"schema": reference}}},
                "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": reference}}}}})
        );
        let asked = Description { documents: Some(Map::new()), ..description };
        assert_eq!(asked.converted(), None);
    }
}
