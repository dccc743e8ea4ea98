//! Bodies in `application/vnd.kubernetes.protobuf`, read into the JSON they stand for.
//!
//! The wire holds numbers where JSON has names; [`numbers`] has the numbers, the schema document the types. The
//! encoder writes every field that is no pointer, so zero values of those are read as absent, as Go's types mean it.

mod numbers;
mod values;

use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use serde_json::{Map, Value};

use self::numbers::{Field, numbers, short};
use self::values::value;
use super::{Schema, Shape, document};

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
    Schema::of(document::of_kind(group, version, kind)?)
}

/// One value on the wire.
enum Wire<'a> {
    Number(u64),
    Double(f64),
    Bytes(&'a [u8]),
    /// Narrow fixed-width numbers and groups, which no served type has.
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
        WireType::SixtyFourBit => match rest.split_first_chunk() {
            Some((bytes, after)) => {
                *rest = after;
                Wire::Double(f64::from_le_bytes(*bytes))
            }
            None => {
                skip_field(wire_type, number, rest, DecodeContext::default())?;
                Wire::Other
            }
        },
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

/// What Go's encoder writes for a field that is not set and no pointer. Structs stay, as they do in JSON.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests;
