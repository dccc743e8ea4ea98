//! Single values on the wire, and messages that JSON writes as something else than objects of their fields.

use std::collections::HashMap;

use base64::Engine;
use serde_json::{Map, Value};

use super::numbers::{numbers, short};
use super::{Unreadable, Wire, lossy, message, next};
use crate::api::meta;
use crate::api::schema::{Scalar, Schema, Shape};

/// A single value; null where the wire says that there is none.
pub(super) fn value(schema: Schema<'_>, wire: Wire<'_>, depth: usize) -> Result<Value, Unreadable> {
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
        (Shape::Scalar(Scalar::Number), Wire::Double(n)) => n.into(),
        (Shape::Any, Wire::Bytes(bytes)) => match Union::of(schema.name()) {
            Some(union) => union.read(bytes, depth)?,
            // A type without fields, whose presence is all that it says.
            None if numbers().get(short(schema.name())).is_some_and(HashMap::is_empty) => Map::new().into(),
            None => embedded(bytes)?,
        },
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

/// `RawExtension`, `FieldsV1` and `JSON`: JSON in the only field.
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

const PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// Types that JSON writes either as a schema or as something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Union {
    /// A list of schemas.
    Array,
    /// A boolean.
    Bool,
    /// A list of names.
    StringArray,
}

impl Union {
    fn of(name: &str) -> Option<Union> {
        match name.strip_prefix(PROPS)? {
            "OrArray" => Some(Union::Array),
            "OrBool" => Some(Union::Bool),
            "OrStringArray" => Some(Union::StringArray),
            _ => None,
        }
    }

    /// The schema has the number 1 except beside a boolean, where it has 2; the other form has the other number.
    fn read(self, mut bytes: &[u8], depth: usize) -> Result<Value, Unreadable> {
        let Some(props) = Schema::of(PROPS) else { return Ok(Value::Null) };
        let (mut schema, mut list, mut allows) = (None, Vec::new(), false);
        while let Some(field) = next(&mut bytes)? {
            match (self, field) {
                (Union::Bool, (1, Wire::Number(n))) => allows = n != 0,
                (Union::Bool, (2, wire)) | (_, (1, wire)) => schema = Some(value(props, wire, depth)?),
                (Union::Array, (2, wire)) => list.push(value(props, wire, depth)?),
                (Union::StringArray, (2, Wire::Bytes(name))) => list.push(lossy(name).into()),
                _ => {}
            }
        }
        Ok(match (schema, self) {
            _ if !list.is_empty() => Value::Array(list),
            (Some(schema), _) => schema,
            (None, Union::Bool) => allows.into(),
            (None, _) => Value::Null,
        })
    }
}
