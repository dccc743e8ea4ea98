//! Bodies in `application/vnd.kubernetes.protobuf`, read into the JSON they stand for.
//!
//! The wire holds numbers where JSON has names; `protobuf.txt` has the numbers, the schema document the types. The
//! encoder writes every field that is no pointer, so zero values of those are read as absent, as Go's types mean it.

use std::collections::HashMap;
use std::sync::OnceLock;

use base64::Engine;
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use serde_json::{Map, Value};

use super::{Scalar, Schema, Shape, document};
use crate::api::meta;

/// The media type of such bodies.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What each body begins with (k8s.io/apimachinery/pkg/runtime/serializer/protobuf).
const MAGIC: &[u8] = b"k8s\0";
/// Messages within messages: what the protobuf libraries themselves allow.
const DEPTH: usize = 100;

/// Why a body cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The first four bytes are others.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Prefix,
    /// The wire format is broken.
    #[error("the protobuf message is damaged: {0}")]
    Damaged(#[from] DecodeError),
    /// More than [`DEPTH`] messages within each other.
    #[error("the protobuf message is nested more than {DEPTH} deep")]
    Deep,
    /// The envelope says that the object is compressed or otherwise encoded.
    #[error("content encoding {0:?} is not known")]
    Encoding(String),
    /// An embedded object is no JSON.
    #[error("an embedded object is not JSON: {0}")]
    Embedded(#[from] serde_json::Error),
    /// The type is none that is served.
    #[error("no kind {kind:?} is registered for version {version:?} in scheme")]
    Kind {
        /// `v1`, `apps/v1`.
        version: String,
        /// `Pod`.
        kind: String,
    },
}

/// Reads an enveloped object (`runtime.Unknown`).
pub fn decode(bytes: &[u8]) -> Result<Value, Unreadable> {
    let mut rest = bytes.strip_prefix(MAGIC).ok_or(Unreadable::Prefix)?;
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    while let Some(field) = next(&mut rest)? {
        match field {
            (1, Wire::Bytes(mut type_meta)) => {
                while let Some(field) = next(&mut type_meta)? {
                    match field {
                        (1, Wire::Bytes(text)) => version = lossy(text),
                        (2, Wire::Bytes(text)) => kind = lossy(text),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(object)) => raw = object,
            (3, Wire::Bytes(encoding)) if !encoding.is_empty() => {
                return Err(Unreadable::Encoding(lossy(encoding)));
            }
            _ => {}
        }
    }
    let Some(schema) = registered(&version, &kind) else { return Err(Unreadable::Kind { version, kind }) };
    let mut object = Map::new();
    message(schema.name(), schema, raw, DEPTH, &mut object)?;
    object.insert("apiVersion".to_owned(), version.into());
    object.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(object))
}

/// The type of a kind. Options are registered in every group and version.
fn registered(version: &str, kind: &str) -> Option<Schema<'static>> {
    if kind == "DeleteOptions" {
        return Schema::of("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions");
    }
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let named = |of: &Value| of["group"] == group && of["version"] == version && of["kind"] == kind;
    let (name, _) = document().as_object()?.iter().find(|(_, schema)| {
        let kinds = schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array);
        kinds.is_some_and(|kinds| kinds.iter().any(named))
    })?;
    Schema::of(name)
}

/// A field of a message.
#[derive(Debug, PartialEq, Eq)]
enum Field {
    /// Its JSON name, and whether its zero value differs from its absence.
    Named { name: &'static str, pointer: bool },
    /// A message whose fields JSON writes among those of the outer one; its type.
    Inlined(&'static str),
}

/// Field numbers by short type name (`core.v1.Pod`).
type Numbers = HashMap<&'static str, HashMap<u32, Field>>;

fn numbers() -> &'static Numbers {
    static NUMBERS: OnceLock<Numbers> = OnceLock::new();
    NUMBERS.get_or_init(|| {
        let mut numbers = Numbers::new();
        let mut of = "";
        for line in include_str!("protobuf.txt").lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            if !line.starts_with(' ') {
                of = words.next().unwrap_or_default();
            }
            let fields = words.filter_map(|word| {
                let (name, number) = word.rsplit_once('=')?;
                let field = match name.strip_prefix('<').and_then(|name| name.strip_suffix('>')) {
                    Some(inlined) => Field::Inlined(inlined),
                    None => {
                        let plain = name.trim_end_matches('*');
                        Field::Named { name: plain, pointer: plain != name }
                    }
                };
                Some((number.parse().ok()?, field))
            });
            numbers.entry(of).or_default().extend(fields);
        }
        numbers
    })
}

/// `core.v1.Pod` of `io.k8s.api.core.v1.Pod`.
fn short(schema: &str) -> &str {
    let known = ["io.k8s.api.", "io.k8s.apimachinery.pkg.apis."];
    known.iter().find_map(|prefix| schema.strip_prefix(prefix)).unwrap_or(schema)
}

/// One value on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Fixed-width numbers and groups, which no served type has.
    Other,
}

/// The next field's number and value; `None` at the end.
fn next<'a>(rest: &mut &'a [u8]) -> Result<Option<(u32, Wire<'a>)>, DecodeError> {
    if rest.is_empty() {
        return Ok(None);
    }
    let (number, wire_type) = decode_key(rest)?;
    let value = match wire_type {
        WireType::Varint => Wire::Number(decode_varint(rest)?),
        WireType::LengthDelimited => {
            let before = *rest;
            let length = usize::try_from(decode_varint(rest)?).unwrap_or(usize::MAX);
            if length > rest.len() {
                // The library words the error, as it does for every other.
                *rest = before;
                skip_field(wire_type, number, rest, DecodeContext::default())?;
                return Ok(None);
            }
            let (bytes, after) = rest.split_at(length);
            *rest = after;
            Wire::Bytes(bytes)
        }
        _ => {
            skip_field(wire_type, number, rest, DecodeContext::default())?;
            Wire::Other
        }
    };
    Ok(Some((number, value)))
}

/// Reads a message's fields into `out`; `of` has the numbers, `schema` the types (they differ where a struct is inlined).
fn message(
    of: &str,
    schema: Schema<'_>,
    mut bytes: &[u8],
    depth: usize,
    out: &mut Map<String, Value>,
) -> Result<(), Unreadable> {
    let depth = depth.checked_sub(1).ok_or(Unreadable::Deep)?;
    let Some(fields) = numbers().get(short(of)) else { return Ok(()) };
    while let Some((number, wire)) = next(&mut bytes)? {
        let (name, pointer) = match (fields.get(&number), &wire) {
            (Some(Field::Named { name, pointer }), _) => (*name, *pointer),
            (Some(Field::Inlined(inner)), Wire::Bytes(inlined)) => {
                message(inner, schema, inlined, depth, out)?;
                continue;
            }
            _ => continue,
        };
        let Some(site) = schema.field(name) else { continue };
        match (site.shape(), site.element()) {
            (Shape::List, Some(element)) => {
                let place = out.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(items) = place {
                    items.push(value(element, wire, depth)?);
                }
            }
            (Shape::Map, Some(element)) => {
                let (key, value) = entry(element, wire, depth)?;
                let place = out.entry(name).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(map) = place {
                    map.insert(key, value);
                }
            }
            _ => {
                let value = value(site, wire, depth)?;
                if !value.is_null() && (pointer || !is_zero(&value)) {
                    out.insert(name.to_owned(), value);
                }
            }
        }
    }
    Ok(())
}

/// A map's entry: a message of the key and the value.
fn entry(element: Schema<'_>, wire: Wire<'_>, depth: usize) -> Result<(String, Value), Unreadable> {
    let (mut key, mut content) = (String::new(), Wire::Bytes(&[]));
    if let Wire::Bytes(mut bytes) = wire {
        while let Some((number, wire)) = next(&mut bytes)? {
            match (number, wire) {
                (1, Wire::Bytes(text)) => key = lossy(text),
                (2, wire) => content = wire,
                _ => {}
            }
        }
    }
    Ok((key, value(element, content, depth)?))
}

/// A single value; null where the wire says that there is none.
fn value(schema: Schema<'_>, wire: Wire<'_>, depth: usize) -> Result<Value, Unreadable> {
    let shape = schema.shape();
    Ok(match (shape, wire) {
        (Shape::Scalar(Scalar::Boolean), Wire::Number(n)) => (n != 0).into(),
        (Shape::Scalar(Scalar::Integer), Wire::Number(n)) if schema.format() == "int32" => (n as i32).into(),
        (Shape::Scalar(Scalar::Integer), Wire::Number(n)) => (n as i64).into(),
        (Shape::Scalar(Scalar::String), Wire::Bytes(text)) => lossy(text).into(),
        (Shape::Scalar(Scalar::Bytes), Wire::Bytes(bytes)) => {
            base64::engine::general_purpose::STANDARD.encode(bytes).into()
        }
        (Shape::Scalar(Scalar::Quantity), Wire::Bytes(mut bytes)) => {
            let mut text = String::new();
            while let Some(field) = next(&mut bytes)? {
                if let (1, Wire::Bytes(number)) = field {
                    text = lossy(number);
                }
            }
            if text.is_empty() { "0".into() } else { text.into() }
        }
        (Shape::Scalar(Scalar::IntOrString), Wire::Bytes(bytes)) => int_or_string(bytes)?,
        (Shape::Scalar(scalar @ (Scalar::Time | Scalar::MicroTime)), Wire::Bytes(bytes)) => {
            time(scalar, bytes)?
        }
        (Shape::Struct, Wire::Bytes(bytes)) => {
            let mut object = Map::new();
            message(schema.name(), schema, bytes, depth, &mut object)?;
            Value::Object(object)
        }
        // A list as a map's value is a message of its own, with the items as its only field.
        (Shape::List, Wire::Bytes(mut bytes)) => {
            let mut items = Vec::new();
            while let Some((_, wire)) = next(&mut bytes)? {
                items.push(value(schema.element().unwrap_or(schema), wire, depth)?);
            }
            Value::Array(items)
        }
        (Shape::Any, Wire::Bytes(bytes)) => embedded(bytes)?,
        _ => Value::Null,
    })
}

/// `intstr.IntOrString`: which of the two it is, the number, the text.
fn int_or_string(mut bytes: &[u8]) -> Result<Value, Unreadable> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    while let Some(field) = next(&mut bytes)? {
        match field {
            (1, Wire::Number(kind)) => is_text = kind == 1,
            (2, Wire::Number(n)) => number = n as i32,
            (3, Wire::Bytes(t)) => text = lossy(t),
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// `metav1.Time` and `metav1.MicroTime`: seconds and nanoseconds since 1970; an empty message is no time.
fn time(scalar: Scalar, mut bytes: &[u8]) -> Result<Value, Unreadable> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanoseconds) = (0, 0);
    while let Some(field) = next(&mut bytes)? {
        match field {
            (1, Wire::Number(n)) => seconds = n as i64,
            (2, Wire::Number(n)) => nanoseconds = n as i32,
            _ => {}
        }
    }
    let Ok(at) = jiff::Timestamp::new(seconds, nanoseconds) else { return Ok(Value::Null) };
    Ok(if scalar == Scalar::Time { meta::timestamp(at) } else { meta::micro_timestamp(at) }.into())
}

/// `RawExtension` and `FieldsV1`: JSON in the only field.
fn embedded(mut bytes: &[u8]) -> Result<Value, Unreadable> {
    let mut found = Value::Null;
    while let Some(field) = next(&mut bytes)? {
        if let (1, Wire::Bytes(json)) = field
            && !json.is_empty()
        {
            found = serde_json::from_slice(json)?;
        }
    }
    Ok(found)
}

/// What Go's encoder writes for a field that is not set and no pointer. Structs stay, as they do in JSON.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Every property of every served type has its number, and no number names what the type does not have.
    #[test]
    fn the_numbers_fit_the_schemas() {
        let mut missing = Vec::new();
        for (name, schema) in document().as_object().unwrap() {
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else { continue };
            let mut named = Vec::new();
            names(short(name), &mut named);
            for property in properties.keys().filter(|p| !["apiVersion", "kind"].contains(&p.as_str())) {
                if !named.contains(&property.as_str()) {
                    missing.push(format!("{name}.{property}"));
                }
            }
        }
        assert_eq!(missing, Vec::<String>::new());
    }

    fn names(of: &str, into: &mut Vec<&'static str>) {
        for field in numbers().get(of).into_iter().flat_map(HashMap::values) {
            match field {
                Field::Named { name, .. } => into.push(name),
                Field::Inlined(inner) => names(inner, into),
            }
        }
    }

    fn bytes(number: u32, content: impl AsRef<[u8]>) -> Vec<u8> {
        let mut out = Vec::new();
        prost::encoding::bytes::encode(number, &content.as_ref().to_vec(), &mut out);
        out
    }

    fn number(number: u32, n: u64) -> Vec<u8> {
        let mut out = Vec::new();
        prost::encoding::uint64::encode(number, &n, &mut out);
        out
    }

    fn envelope(version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
        let type_meta = [bytes(1, version), bytes(2, kind)].concat();
        [MAGIC.to_vec(), bytes(1, type_meta), bytes(2, object), bytes(3, ""), bytes(4, "")].concat()
    }

    #[test]
    fn objects_are_read_as_their_json() {
        let metadata = [
            bytes(1, "wp"),
            bytes(3, ""),
            number(7, 0),
            bytes(8, ""),
            bytes(11, [bytes(1, "app"), bytes(2, "wp")].concat()),
        ]
        .concat();
        let volume = [bytes(1, "data"), bytes(2, bytes(2, bytes(1, "")))].concat();
        let limits = [bytes(1, "memory"), bytes(2, bytes(1, "64Mi"))].concat();
        let port = [bytes(1, ""), number(3, 80)].concat();
        let http = [bytes(1, "/"), bytes(2, [number(1, 1), bytes(3, "web")].concat())].concat();
        let probe = [bytes(1, bytes(2, http)), number(3, 0), number(4, 5)].concat();
        let container = [
            bytes(1, "web"),
            bytes(4, ""),
            bytes(6, port),
            bytes(8, bytes(1, limits)),
            bytes(10, probe),
            number(16, 0),
        ]
        .concat();
        let spec =
            [bytes(1, volume), bytes(2, container), number(4, 0), number(11, 0), number(21, 0)].concat();
        let pod = [bytes(1, metadata), bytes(2, spec), bytes(3, bytes(1, ""))].concat();
        assert_eq!(
            decode(&envelope("v1", "Pod", &pod)).unwrap(),
            json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "wp", "labels": {"app": "wp"}},
                "spec": {
                    "volumes": [{"name": "data", "emptyDir": {}}],
                    "containers": [{
                        "name": "web",
                        // An empty argument is one.
                        "args": [""],
                        "ports": [{"containerPort": 80}],
                        "resources": {"limits": {"memory": "64Mi"}},
                        "livenessProbe": {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 5},
                    }],
                    // Pointers, whose zero is said.
                    "terminationGracePeriodSeconds": 0,
                    "automountServiceAccountToken": false,
                },
                "status": {},
            })
        );
    }

    #[test]
    fn times_bytes_and_options_are_read() {
        let at = [number(1, 1_700_000_000), number(2, 0)].concat();
        let secret = [
            bytes(1, [bytes(1, "s"), bytes(8, at)].concat()),
            bytes(2, [bytes(1, "key"), bytes(2, [0u8, 255])].concat()),
            bytes(2, bytes(1, "empty")),
        ]
        .concat();
        assert_eq!(
            decode(&envelope("v1", "Secret", &secret)).unwrap(),
            json!({
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "s", "creationTimestamp": "2023-11-14T22:13:20Z"},
                "data": {"key": "AP8=", "empty": ""},
            })
        );
        let options = [number(1, 0), bytes(4, "Foreground")].concat();
        assert_eq!(
            decode(&envelope("apps/v1", "DeleteOptions", &options)).unwrap(),
            json!({
                "apiVersion": "apps/v1",
                "kind": "DeleteOptions",
                "gracePeriodSeconds": 0,
                "propagationPolicy": "Foreground",
            })
        );
    }

    #[test]
    fn damaged_bodies_are_refused() {
        let message = |body: &[u8]| decode(body).unwrap_err().to_string();
        assert!(message(b"{}").contains("expected prefix"));
        assert!(message(&envelope("v1", "Wolf", b"")).contains("no kind \"Wolf\" is registered"));
        assert!(message(&envelope("v1", "Pod", &[0x0a, 0x7f, 1])).contains("damaged"));
        assert!(message(&envelope("v1", "Pod", &[0xff])).contains("damaged"));
        assert!(message(&[MAGIC, &bytes(3, "gzip")].concat()).contains("\"gzip\""));
        let mut whole = envelope("v1", "Pod", &bytes(1, bytes(1, "name")));
        while whole.pop().is_some() {
            // A cut body is read or refused; it never panics.
            let _ = decode(&whole);
        }
    }
}
