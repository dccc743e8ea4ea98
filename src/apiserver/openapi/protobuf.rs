//! `/openapi/v2` in protobuf, as kubectl asked for it up to 1.27: the message `openapi.v2.Document` of gnostic
//! (`openapiv2/OpenAPIv2.proto`), whose field numbers stand beside the fields here.

use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::{Map, Value};

/// The document as bytes. What the message has no field for is left out.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, 1, &document["swagger"]);
    message(&mut out, 2, |out| {
        text(out, 1, &document["info"]["title"]);
        text(out, 2, &document["info"]["version"]);
    });
    message(&mut out, 8, |out| {
        for (path, item) in fields(&document["paths"]) {
            named(out, 2, path, |out| path_item(out, item));
        }
    });
    message(&mut out, 9, |out| schemas(out, &document["definitions"]));
    security(&mut out, 12, &document["security"]);
    message(&mut out, 13, |out| {
        for (name, definition) in fields(&document["securityDefinitions"]) {
            // Of the ways that there are, Kubernetes has the key in a header.
            named(out, 1, name, |out| message(out, 2, |out| api_key(out, definition)));
        }
    });
    out
}

fn api_key(out: &mut Vec<u8>, definition: &Value) {
    for (number, field) in [(1, "type"), (2, "name"), (3, "in"), (4, "description")] {
        text(out, number, &definition[field]);
    }
}

fn security(out: &mut Vec<u8>, number: u32, requirements: &Value) {
    for requirement in items(requirements) {
        message(out, number, |out| {
            for (name, scopes) in fields(requirement) {
                named(out, 1, name, |out| texts(out, 1, scopes));
            }
        });
    }
}

fn path_item(out: &mut Vec<u8>, item: &Value) {
    let methods = ["get", "put", "post", "delete", "options", "head", "patch"];
    for (number, method) in (2..).zip(methods) {
        if let Some(of) = item.get(method) {
            message(out, number, |out| operation(out, of));
        }
    }
    parameters(out, 9, &item["parameters"]);
    extensions(out, 10, item);
}

fn operation(out: &mut Vec<u8>, operation: &Value) {
    texts(out, 1, &operation["tags"]);
    text(out, 3, &operation["description"]);
    text(out, 5, &operation["operationId"]);
    texts(out, 6, &operation["produces"]);
    texts(out, 7, &operation["consumes"]);
    parameters(out, 8, &operation["parameters"]);
    message(out, 9, |out| {
        for (code, answer) in fields(&operation["responses"]) {
            named(out, 1, code, |out| message(out, 1, |out| response(out, answer)));
        }
    });
    texts(out, 10, &operation["schemes"]);
    extensions(out, 13, operation);
}

fn response(out: &mut Vec<u8>, response: &Value) {
    text(out, 1, &response["description"]);
    if let Some(of) = response.get("schema") {
        message(out, 2, |out| message(out, 1, |out| schema(out, of)));
    }
}

fn parameters(out: &mut Vec<u8>, number: u32, parameters: &Value) {
    for parameter in items(parameters) {
        // A parameter that stands here and is no reference, in the body or elsewhere.
        message(out, number, |out| {
            message(out, 1, |out| match parameter["in"].as_str() {
                Some("body") => message(out, 1, |out| body(out, parameter)),
                Some("query") => message(out, 2, |out| message(out, 3, |out| plain(out, 1, parameter))),
                Some("path") => message(out, 2, |out| message(out, 4, |out| plain(out, 0, parameter))),
                _ => {}
            });
        });
    }
}

fn body(out: &mut Vec<u8>, parameter: &Value) {
    for (number, field) in [(1, "description"), (2, "name"), (3, "in")] {
        text(out, number, &parameter[field]);
    }
    flag(out, 4, &parameter["required"]);
    message(out, 5, |out| schema(out, &parameter["schema"]));
}

/// A parameter outside of the body; those of a query have one more field before the type.
fn plain(out: &mut Vec<u8>, more: u32, parameter: &Value) {
    flag(out, 1, &parameter["required"]);
    for (number, field) in [(2, "in"), (3, "description"), (4, "name"), (5 + more, "type")] {
        text(out, number, &parameter[field]);
    }
    flag(out, 19 + more, &parameter["uniqueItems"]);
}

fn schemas(out: &mut Vec<u8>, all: &Value) {
    for (name, of) in fields(all) {
        named(out, 1, name, |out| schema(out, of));
    }
}

fn schema(out: &mut Vec<u8>, of: &Value) {
    for (number, field) in [(1, "$ref"), (2, "format"), (3, "title"), (4, "description"), (13, "pattern")] {
        text(out, number, &of[field]);
    }
    for (number, field) in [(5, "default"), (30, "example")] {
        if let Some(value) = of.get(field) {
            message(out, number, |out| any(out, value));
        }
    }
    for (number, field) in [(6, "multipleOf"), (7, "maximum"), (9, "minimum")] {
        if let Some(value) = of[field].as_f64() {
            encode_key(number, WireType::SixtyFourBit, out);
            out.extend(value.to_le_bytes());
        }
    }
    for (number, field) in [(8, "exclusiveMaximum"), (10, "exclusiveMinimum"), (16, "uniqueItems")] {
        flag(out, number, &of[field]);
    }
    for (number, field) in [
        (11, "maxLength"),
        (12, "minLength"),
        (14, "maxItems"),
        (15, "minItems"),
        (17, "maxProperties"),
        (18, "minProperties"),
    ] {
        if let Some(count) = of[field].as_u64() {
            encode_key(number, WireType::Varint, out);
            encode_varint(count, out);
        }
    }
    texts(out, 19, &of["required"]);
    for value in items(&of["enum"]) {
        message(out, 20, |out| any(out, value));
    }
    match &of["additionalProperties"] {
        Value::Null => {}
        allowed @ Value::Bool(_) => message(out, 21, |out| flag(out, 2, allowed)),
        value => message(out, 21, |out| message(out, 1, |out| schema(out, value))),
    }
    if of["type"].is_string() {
        message(out, 22, |out| text(out, 1, &of["type"]));
    }
    if of["items"].is_object() {
        message(out, 23, |out| message(out, 1, |out| schema(out, &of["items"])));
    }
    for part in items(&of["allOf"]) {
        message(out, 24, |out| schema(out, part));
    }
    if of["properties"].is_object() {
        message(out, 25, |out| schemas(out, &of["properties"]));
    }
    extensions(out, 31, of);
}

/// What begins with `x-`.
fn extensions(out: &mut Vec<u8>, number: u32, of: &Value) {
    for (name, value) in fields(of).filter(|(name, _)| name.starts_with("x-")) {
        named(out, number, name, |out| any(out, value));
    }
}

/// A value of any form, as YAML: every JSON document is one.
fn any(out: &mut Vec<u8>, value: &Value) {
    bytes(out, 2, value.to_string().as_bytes());
}

fn fields(of: &Value) -> impl Iterator<Item = (&String, &Value)> {
    of.as_object().into_iter().flat_map(Map::iter)
}

fn items(of: &Value) -> impl Iterator<Item = &Value> {
    of.as_array().into_iter().flatten()
}

/// An entry of a map: a message of a name and a message.
fn named(out: &mut Vec<u8>, number: u32, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
    message(out, number, |out| {
        bytes(out, 1, name.as_bytes());
        message(out, 2, value);
    });
}

fn message(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    bytes(out, number, &inner);
}

fn text(out: &mut Vec<u8>, number: u32, value: &Value) {
    if let Some(text) = value.as_str() {
        bytes(out, number, text.as_bytes());
    }
}

fn texts(out: &mut Vec<u8>, number: u32, values: &Value) {
    items(values).for_each(|value| text(out, number, value));
}

fn flag(out: &mut Vec<u8>, number: u32, value: &Value) {
    if value == true {
        encode_key(number, WireType::Varint, out);
        encode_varint(1, out);
    }
}

fn bytes(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The content of the first field of this number.
    fn field(mut bytes: &[u8], wanted: u32) -> Vec<u8> {
        use prost::encoding::{decode_key, decode_varint};
        while !bytes.is_empty() {
            let (number, wire) = decode_key(&mut bytes).unwrap();
            let length = match wire {
                WireType::Varint => {
                    decode_varint(&mut bytes).unwrap();
                    0
                }
                WireType::SixtyFourBit => 8,
                _ => usize::try_from(decode_varint(&mut bytes).unwrap()).unwrap(),
            };
            if number == wanted {
                return bytes[..length].to_vec();
            }
            bytes = &bytes[length..];
        }
        panic!("field {wanted} is there");
    }

    fn at(bytes: &[u8], path: &[u32]) -> String {
        let inner = path.iter().fold(bytes.to_vec(), |bytes, number| field(&bytes, *number));
        String::from_utf8(inner).unwrap()
    }

    #[test]
    fn fields_have_their_numbers() {
        let document = json!({
            "swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.37.0"},
            "paths": {"/a/{name}": {
                "parameters": [{"in": "path", "name": "name", "type": "string", "required": true}],
                "post": {"operationId": "make", "consumes": ["*/*"], "x-kubernetes-action": "post",
                    "parameters": [
                        {"in": "query", "name": "dryRun", "type": "string", "uniqueItems": true},
                        {"in": "body", "name": "body", "schema": {"$ref": "#/definitions/A"}}],
                    "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/A"}}}}}},
            "definitions": {"A": {"type": "object", "required": ["b"], "minProperties": 1, "maximum": 2,
                "properties": {"b": {"type": "array", "items": {"type": "string"}, "default": []}},
                "additionalProperties": {"type": "integer"},
                "x-kubernetes-group-version-kind": [{"group": "", "kind": "A", "version": "v1"}]}},
            "securityDefinitions": {"BearerToken": {"type": "apiKey", "in": "header"}},
            "security": [{"BearerToken": []}],
        });
        let bytes = encode(&document);
        for (path, content) in [
            (&[1][..], "2.0"),
            (&[2, 2], "v1.37.0"),
            (&[8, 2, 1], "/a/{name}"),
            (&[8, 2, 2, 9, 1, 2, 4, 4], "name"),
            (&[8, 2, 2, 9, 1, 2, 4, 5], "string"),
            (&[8, 2, 2, 4, 5], "make"),
            (&[8, 2, 2, 4, 7], "*/*"),
            (&[8, 2, 2, 4, 8, 1, 2, 3, 6], "string"),
            (&[8, 2, 2, 4, 9, 1, 1], "200"),
            (&[8, 2, 2, 4, 9, 1, 2, 1, 2, 1, 1], "#/definitions/A"),
            (&[8, 2, 2, 4, 13, 2, 2], "\"post\""),
            (&[9, 1, 1], "A"),
            (&[9, 1, 2, 22, 1], "object"),
            (&[9, 1, 2, 19], "b"),
            (&[9, 1, 2, 25, 1, 2, 23, 1, 22, 1], "string"),
            (&[9, 1, 2, 25, 1, 2, 5, 2], "[]"),
            (&[9, 1, 2, 21, 1, 22, 1], "integer"),
            (&[9, 1, 2, 31, 1], "x-kubernetes-group-version-kind"),
            (&[9, 1, 2, 31, 2, 2], "[{\"group\":\"\",\"kind\":\"A\",\"version\":\"v1\"}]"),
            (&[12, 1, 1], "BearerToken"),
            (&[13, 1, 2, 2, 3], "header"),
        ] {
            assert_eq!(at(&bytes, path), content, "{path:?}");
        }
    }
}
