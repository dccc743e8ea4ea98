//! Reading an object as Kubernetes' decoder reads it into its Go types.

use base64::Engine;
use serde_json::Value;

use super::{Scalar, Schema, Shape};
use crate::api::{complaints, go, meta, quantity};

/// What was found while an object was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// One message for each field that the types do not know, and that was dropped:
    /// `unknown field "spec.containers[0].imagee"`.
    pub unknown: Vec<String>,
    /// Why values do not fit their types, as the decoder puts it, without the head that names the object:
    /// `json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of
    /// type int32`. Any of them makes the object unacceptable.
    pub errors: Vec<String>,
}

impl Checked {
    /// The decoder's message for a body that does not fit its type; `None` when it fits.
    pub fn refusal(&self, version: &str, kind: &str) -> Option<String> {
        let first = self.errors.first()?;
        Some(format!("{kind} in version {version:?} cannot be handled as a {kind}: {first}"))
    }
}

/// Reads an object of this type: drops unknown fields and nulls, writes quantities and times in their
/// canonical forms, and collects what does not fit.
pub fn check(schema: Schema<'_>, object: &mut Value) -> Checked {
    let mut reader = Reader::default();
    reader.read(schema, object);
    reader.found
}

/// The same for an object that a strategic merge patch has made: Kubernetes converts it where it decodes others, and
/// tells what does not fit in other words.
pub fn check_converted(schema: Schema<'_>, object: &mut Value) -> Checked {
    let mut reader = Reader { converts: true, ..Reader::default() };
    reader.read(schema, object);
    reader.found
}

#[derive(Default)]
struct Reader {
    /// Whether complaints are in the words of the converter (k8s.io/apimachinery `pkg/runtime/converter.go`).
    converts: bool,
    found: Checked,
    /// The path with indexes, for messages on unknown fields: `spec`, `containers[0]`.
    path: Vec<Segment>,
    /// The innermost struct, which Go's decoder names.
    owner: &'static str,
}

enum Segment {
    Field(String),
    /// A key of a map, which Go's decoder does not tell.
    Key(String),
    Index(usize),
}

impl Reader {
    fn read(&mut self, schema: Schema<'_>, value: &mut Value) {
        match (schema.shape(), &mut *value) {
            (Shape::Struct, Value::Object(map)) => {
                let outer = std::mem::replace(&mut self.owner, type_name(schema.name()));
                map.retain(|key, value| {
                    self.path.push(Segment::Field(key.clone()));
                    let kept = match schema.field(key) {
                        None => {
                            if self.found.unknown.len() < complaints::MOST {
                                self.found.unknown.push(format!("unknown field {:?}", self.shown(true)));
                            }
                            false
                        }
                        Some(_) if value.is_null() => false,
                        Some(field) => {
                            self.read(field, value);
                            true
                        }
                    };
                    self.path.pop();
                    kept
                });
                self.owner = outer;
            }
            (Shape::Map, Value::Object(map)) => {
                let Some(element) = schema.element() else { return };
                for (key, value) in map {
                    self.path.push(Segment::Key(key.clone()));
                    self.read_element(element, value);
                    self.path.pop();
                }
            }
            (Shape::List, Value::Array(items)) => {
                let Some(element) = schema.element() else { return };
                for (i, item) in items.iter_mut().enumerate() {
                    self.path.push(Segment::Index(i));
                    self.read_element(element, item);
                    self.path.pop();
                }
            }
            (Shape::Scalar(scalar), value) => self.scalar(schema, scalar, value),
            (Shape::Any, _) => {}
            (_, other) => self.mismatch(other, schema),
        }
    }

    /// A null within a list or map is Go's zero value.
    fn read_element(&mut self, schema: Schema<'_>, value: &mut Value) {
        if !value.is_null() {
            return self.read(schema, value);
        }
        *value = match schema.shape() {
            Shape::Struct | Shape::Map => Value::Object(Default::default()),
            Shape::List => Value::Array(Vec::new()),
            Shape::Scalar(Scalar::Boolean) => false.into(),
            Shape::Scalar(Scalar::Integer | Scalar::Number) => 0.into(),
            Shape::Scalar(Scalar::Quantity) => "0".into(),
            Shape::Scalar(_) => "".into(),
            Shape::Any => return,
        };
    }

    fn scalar(&mut self, schema: Schema<'_>, scalar: Scalar, value: &mut Value) {
        match (scalar, &*value) {
            (Scalar::String, Value::String(_)) | (Scalar::Boolean, Value::Bool(_)) => {}
            (Scalar::Number, Value::Number(_)) => {}
            (Scalar::IntOrString, Value::String(_)) => {}
            (Scalar::Integer | Scalar::IntOrString, Value::Number(n)) => {
                let narrow = schema.format() == "int32" || scalar == Scalar::IntOrString;
                let fits = n.as_i64().is_some_and(|n| !narrow || i32::try_from(n).is_ok());
                if !fits {
                    self.mismatch(value, schema);
                }
            }
            (Scalar::Quantity, Value::String(_) | Value::Number(_)) => {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                match quantity::parse(text.trim()) {
                    Ok(q) => *value = q.to_string().into(),
                    // An empty quantity is none.
                    Err(quantity::ParseError::Empty) => *value = "0".into(),
                    Err(e) => self.wrong(|_| e.to_string()),
                }
            }
            (Scalar::Time | Scalar::MicroTime, Value::String(text)) => match text.parse() {
                Ok(at) if scalar == Scalar::Time => *value = meta::timestamp(at).into(),
                Ok(at) => *value = meta::micro_timestamp(at).into(),
                Err(_) => {
                    let layout = match scalar {
                        Scalar::Time => "2006-01-02T15:04:05Z07:00",
                        _ => "2006-01-02T15:04:05.000000Z07:00",
                    };
                    let text = text.as_str();
                    self.wrong(|_| {
                        format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\"")
                    });
                }
            },
            (Scalar::Bytes, Value::String(text)) => {
                if let Some(at) = not_base64(text) {
                    self.wrong(|_| format!("illegal base64 data at input byte {at}"));
                }
            }
            (_, other) => self.mismatch(other, schema),
        }
    }

    /// Records a value that does not fit.
    fn wrong(&mut self, say: impl FnOnce(&Reader) -> String) {
        if self.found.errors.len() < complaints::MOST {
            let said = say(self);
            self.found.errors.push(said);
        }
    }

    fn mismatch(&mut self, value: &Value, schema: Schema<'_>) {
        if self.converts
            && let Some(said) = unconvertible(value, schema)
        {
            return self.wrong(|_| said);
        }
        let (given, wanted) = (given(value, schema), go_type(schema));
        self.wrong(|reader| {
            let at = if reader.owner.is_empty() {
                "Go value".to_owned()
            } else {
                format!("Go struct field {}.{}", reader.owner, reader.shown(false))
            };
            format!("json: cannot unmarshal {given} into {at} of type {wanted}")
        });
    }

    fn shown(&self, indexes: bool) -> String {
        complaints::path(|text| {
            self.path.iter().try_for_each(|segment| match segment {
                Segment::Field(key) => text.field(key),
                Segment::Key(key) if indexes => text.field(key),
                Segment::Index(i) if indexes => text.item(*i),
                Segment::Key(_) | Segment::Index(_) => Ok(()),
            })
        })
    }
}

/// The first byte that cannot stand in base64 (Go's decoder ignores line ends).
fn not_base64(text: &str) -> Option<usize> {
    let joined;
    let plain = if text.contains(['\n', '\r']) {
        joined = text.replace(['\n', '\r'], "");
        &joined
    } else {
        text
    };
    match base64::engine::general_purpose::STANDARD.decode(plain) {
        Ok(_) => None,
        Err(base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _)) => {
            Some(at)
        }
        // Go points at the end of the last whole group.
        Err(_) => Some(plain.len() / 4 * 4),
    }
}

/// What Go's decoder calls a value that does not fit: a number that is only too large or too exact is told itself.
fn given(value: &Value, wanted: Schema<'_>) -> String {
    match (value, wanted.shape()) {
        (Value::Number(n), Shape::Scalar(Scalar::Integer | Scalar::IntOrString)) => format!("number {n}"),
        _ => go::given(value).to_owned(),
    }
}

/// What the converter says of a value that does not fit; `None` for types that decode themselves.
fn unconvertible(value: &Value, wanted: Schema<'_>) -> Option<String> {
    let kind = match value {
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
        other => go::type_of(other),
    };
    let simple = |of: &str| match (value, of) {
        (Value::Number(_), "string") => format!("cannot convert {kind} to {of}"),
        (Value::Number(n), "int32" | "int64") if n.is_f64() => format!("cannot convert {kind} to {of}"),
        _ => format!("unrecognized type: {of}"),
    };
    match wanted.shape() {
        Shape::Struct => Some(format!("cannot restore struct from: {kind}")),
        Shape::Map => Some(format!("cannot restore map from {kind}")),
        Shape::List => Some(format!("cannot restore slice from {kind}")),
        Shape::Scalar(Scalar::String | Scalar::Boolean | Scalar::Integer | Scalar::Number) => {
            Some(simple(&go_type(wanted)))
        }
        Shape::Scalar(_) | Shape::Any => None,
    }
}

/// `Container` of `io.k8s.api.core.v1.Container`.
fn type_name(schema: &'static str) -> &'static str {
    schema.rsplit('.').next().unwrap_or(schema)
}

/// What the type is called in Kubernetes' Go code.
fn go_type(schema: Schema<'_>) -> String {
    let element = || schema.element().map_or_else(|| "interface {}".to_owned(), go_type);
    match schema.shape() {
        Shape::Struct => {
            let mut parts = schema.name().rsplit('.');
            let (name, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            format!("{version}.{name}")
        }
        Shape::Map => format!("map[string]{}", element()),
        Shape::List => format!("[]{}", element()),
        Shape::Any => "interface {}".to_owned(),
        Shape::Scalar(scalar) => match scalar {
            Scalar::String => "string",
            Scalar::Boolean => "bool",
            Scalar::Integer if schema.format() == "int32" => "int32",
            Scalar::Integer => "int64",
            Scalar::Number => "float64",
            Scalar::IntOrString => "intstr.IntOrString",
            Scalar::Quantity => "resource.Quantity",
            Scalar::Time => "v1.Time",
            Scalar::MicroTime => "v1.MicroTime",
            Scalar::Bytes => "[]uint8",
        }
        .to_owned(),
    }
}
