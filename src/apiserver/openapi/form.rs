//! The two generations of OpenAPI, which write the same things in different ways.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::operation::{Content, Operation};
use super::parameter::Parameter;
use super::types::REFERENCE;

/// A generation of OpenAPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    V2,
    V3,
}

impl Form {
    /// The path items of operations. What all operations of a path take is said once, at the path.
    pub(super) fn paths(self, operations: &[Operation]) -> Value {
        let mut by_path: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
        for operation in operations {
            by_path.entry(&operation.path).or_default().push(operation);
        }
        let items = by_path.into_iter().map(|(path, operations)| {
            let in_all = |parameter: &Parameter| operations.iter().all(|o| o.parameters.contains(parameter));
            let common: Vec<Parameter> =
                operations[0].parameters.iter().copied().filter(|parameter| in_all(parameter)).collect();
            let mut item = Map::new();
            if !common.is_empty() {
                item.insert("parameters".into(), self.parameters(&common));
            }
            for operation in operations {
                item.insert(operation.method.into(), self.operation(operation, &common));
            }
            (path.to_owned(), Value::Object(item))
        });
        Value::Object(items.collect())
    }

    fn operation(self, operation: &Operation, common: &[Parameter]) -> Value {
        let own: Vec<Parameter> =
            operation.parameters.iter().copied().filter(|parameter| !common.contains(parameter)).collect();
        let mut out = json!({
            "description": operation.description,
            "operationId": operation.id,
            "tags": [operation.tag],
            "responses": self.answers(operation),
        });
        if !own.is_empty() {
            out["parameters"] = self.parameters(&own);
        }
        if self == Form::V2 {
            out["consumes"] = json!(operation.consumes);
            out["produces"] = json!(operation.produces);
            out["schemes"] = json!(["https"]);
        }
        if !operation.action.is_empty() {
            out["x-kubernetes-action"] = operation.action.into();
        }
        if let Some(of) = &operation.of {
            out["x-kubernetes-group-version-kind"] = of.clone();
        }
        let Some((content, required)) = &operation.body else { return out };
        match self {
            Form::V3 => {
                out["requestBody"] = json!({"content": self.content(content, operation.consumes)});
                if *required {
                    out["requestBody"]["required"] = true.into();
                }
            }
            Form::V2 => {
                let mut body = json!({"in": "body", "name": "body", "schema": self.schema(content)});
                if *required {
                    body["required"] = true.into();
                }
                match out["parameters"].as_array_mut() {
                    Some(parameters) => parameters.push(body),
                    None => out["parameters"] = json!([body]),
                }
            }
        }
        out
    }

    fn answers(self, operation: &Operation) -> Value {
        let mut answers = Map::new();
        for (code, content) in &operation.answers {
            let description = match code {
                201 => "Created",
                202 => "Accepted",
                _ => "OK",
            };
            let answer = match self {
                Form::V3 => {
                    json!({"description": description, "content": self.content(content, operation.produces)})
                }
                Form::V2 => json!({"description": description, "schema": self.schema(content)}),
            };
            answers.insert(code.to_string(), answer);
        }
        answers.insert("401".into(), json!({"description": "Unauthorized"}));
        Value::Object(answers)
    }

    fn content(self, content: &Content, media: &[&str]) -> Value {
        let schema = self.schema(content);
        media
            .iter()
            .map(|media| ((*media).to_owned(), json!({ "schema": schema })))
            .collect::<Map<_, _>>()
            .into()
    }

    fn schema(self, content: &Content) -> Value {
        match content {
            Content::Type(name) => json!({"$ref": format!("{}{name}", self.base())}),
            Content::Text => json!({"type": "string"}),
        }
    }

    /// What references to types begin with.
    pub(super) fn base(self) -> &'static str {
        match self {
            Form::V2 => "#/definitions/",
            Form::V3 => REFERENCE,
        }
    }

    fn parameters(self, parameters: &[Parameter]) -> Value {
        let shown = parameters.iter().map(|parameter| {
            let mut out =
                json!({"name": parameter.name, "in": parameter.place, "description": parameter.description});
            if parameter.place == "path" {
                out["required"] = true.into();
            }
            match self {
                Form::V3 => out["schema"] = json!({"type": parameter.of, "uniqueItems": true}),
                Form::V2 => {
                    out["type"] = parameter.of.into();
                    out["uniqueItems"] = true.into();
                }
            }
            out
        });
        shown.collect()
    }

    /// The types of a document.
    pub(super) fn schemas(self, mut schemas: Map<String, Value>) -> Value {
        let plain = |of: &str| match (self, of) {
            (Form::V2, "Quantity") => Some(json!({"type": "string"})),
            (Form::V3, "Quantity") => Some(json!({"oneOf": [{"type": "string"}, {"type": "number"}]})),
            (Form::V2, "IntOrString") => Some(json!({"type": "string", "format": "int-or-string"})),
            (Form::V3, "IntOrString") => {
                Some(json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"}))
            }
            _ => None,
        };
        for (name, schema) in &mut schemas {
            let of = name.rsplit('.').next().unwrap_or_default();
            if let Some(mut replaced) = plain(of).filter(|_| name.starts_with("io.k8s.apimachinery.")) {
                replaced["description"] = schema["description"].clone();
                *schema = replaced;
            }
            if self == Form::V2 {
                as_v2(schema);
            }
        }
        Value::Object(schemas)
    }
}

/// Version 2 keeps types elsewhere, knows neither choices between types nor an `allOf` around one reference, and says
/// nothing of defaults.
fn as_v2(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    if let Some([one]) = fields.get("allOf").and_then(Value::as_array).map(Vec::as_slice)
        && let Some(reference) = one.get("$ref").cloned()
    {
        fields.remove("allOf");
        fields.insert("$ref".into(), reference);
    }
    fields.remove("oneOf");
    fields.remove("default");
    if let Some(name) = fields.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(REFERENCE)) {
        let moved = json!(format!("{}{name}", Form::V2.base()));
        fields.insert("$ref".into(), moved);
    }
    below(fields).for_each(as_v2);
}

/// The schemas that stand directly in a schema.
fn below(schema: &mut Map<String, Value>) -> impl Iterator<Item = &mut Value> {
    schema.iter_mut().flat_map(|(key, value)| -> Box<dyn Iterator<Item = &mut Value>> {
        match (key.as_str(), value) {
            ("properties", Value::Object(fields)) => Box::new(fields.values_mut()),
            ("allOf" | "anyOf" | "oneOf", Value::Array(list)) => Box::new(list.iter_mut()),
            ("items" | "additionalProperties" | "not", value @ Value::Object(_)) => {
                Box::new(std::iter::once(value))
            }
            _ => Box::new(std::iter::empty()),
        }
    })
}
