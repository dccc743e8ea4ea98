//! CEL's values, and their way from and to JSON.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use serde_json::{Map, Number, Value, json};

use super::library::{format, semver, time, url};
use super::types::{Object, Type};
use super::{Fault, Outcome};
use crate::api::quantity::Quantity;

/// A value of an expression; cheap to clone.
#[derive(Debug, Clone)]
pub enum Val {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number without a sign.
    Uint(u64),
    /// A floating-point number.
    Double(f64),
    /// Text.
    String(Arc<str>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A moment.
    Timestamp(jiff::Timestamp),
    /// A span of time in nanoseconds.
    Duration(i64),
    /// A list.
    List(Arc<Vec<Val>>),
    /// A map or an object.
    Map(Arc<Entries>),
    /// The name of a type.
    Type(Arc<str>),
    /// A value that may be missing.
    Optional(Option<Arc<Val>>),
    /// `quantity('1Gi')`.
    Quantity(Quantity),
    /// `url('https://example.com')`.
    Url(Arc<url::Url>),
    /// `ip('192.0.2.1')`.
    Ip(IpAddr),
    /// `cidr('192.0.2.0/24')`.
    Cidr(IpAddr, u8),
    /// `format.dns1123Label()`.
    Format(&'static format::Format),
    /// `semver('1.2.3')`.
    Semver(Arc<semver::Version>),
    /// An object that the expression builds: `Object.spec{replicas: 1}`.
    Struct(Arc<Built>),
    /// A regular expression that was read beforehand, where its text would stand.
    Pattern(Arc<regex::Regex>),
    /// Something of the caller's own.
    Foreign(Arc<dyn Foreign>),
}

/// The entries of a map, in the order of their keys.
pub type Entries = BTreeMap<Key, Val>;

/// An object that an expression built, with the name of its type.
#[derive(Debug)]
pub struct Built {
    /// `Object.spec`, `JSONPatch`.
    pub name: String,
    /// The fields that were set.
    pub fields: BTreeMap<String, Val>,
}

/// A value that only its maker knows, such as an authorizer: fields and functions of it are asked of it.
pub trait Foreign: fmt::Debug + Send + Sync {
    /// The name of its type, as it was declared.
    fn type_name(&self) -> &str;

    /// One of its fields; `None` when it has no such field.
    fn select(&self, field: &str) -> Option<Outcome>;

    /// What a function called on it gives.
    fn call(&self, function: &str, arguments: &[Val]) -> Outcome;
}

/// A key of a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number, whichever kind it was written as.
    Int(i64),
    /// A whole number that no signed one can hold.
    Uint(u64),
    /// Text.
    String(Arc<str>),
}

impl Key {
    /// A value as a key; lists, objects and the like are none.
    pub fn of(value: &Val) -> Option<Key> {
        Some(match value {
            Val::Bool(b) => Key::Bool(*b),
            Val::Int(n) => Key::Int(*n),
            Val::Uint(n) => i64::try_from(*n).map_or(Key::Uint(*n), Key::Int),
            Val::Double(n) if n.fract() == 0.0 && n.abs() < 9e15 => Key::Int(*n as i64),
            Val::String(s) => Key::String(s.clone()),
            _ => return None,
        })
    }

    /// The key as a value.
    pub fn value(&self) -> Val {
        match self {
            Key::Bool(b) => Val::Bool(*b),
            Key::Int(n) => Val::Int(*n),
            Key::Uint(n) => Val::Uint(*n),
            Key::String(s) => Val::String(s.clone()),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Bool(b) => write!(f, "{b}"),
            Key::Int(n) => write!(f, "{n}"),
            Key::Uint(n) => write!(f, "{n}"),
            Key::String(s) => f.write_str(s),
        }
    }
}

impl Val {
    /// Text.
    pub fn text(text: impl Into<Arc<str>>) -> Val {
        Val::String(text.into())
    }

    /// A list.
    pub fn list(items: Vec<Val>) -> Val {
        Val::List(Arc::new(items))
    }

    /// A value that is there.
    pub fn some(value: Val) -> Val {
        Val::Optional(Some(Arc::new(value)))
    }

    /// A list of texts.
    pub fn texts<T: Into<Arc<str>>>(texts: impl IntoIterator<Item = T>) -> Val {
        Val::list(texts.into_iter().map(Val::text).collect())
    }

    /// The text that it is.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Val::String(text) => Some(text),
            _ => None,
        }
    }

    /// The type's name, as `type(x)` gives it.
    pub fn type_name(&self) -> &str {
        match self {
            Val::Null => "null_type",
            Val::Bool(_) => "bool",
            Val::Int(_) => "int",
            Val::Uint(_) => "uint",
            Val::Double(_) => "double",
            Val::String(_) | Val::Pattern(_) => "string",
            Val::Bytes(_) => "bytes",
            Val::Timestamp(_) => "google.protobuf.Timestamp",
            Val::Duration(_) => "google.protobuf.Duration",
            Val::List(_) => "list",
            Val::Map(_) => "map",
            Val::Type(_) => "type",
            Val::Optional(_) => "optional_type",
            Val::Quantity(_) => "kubernetes.Quantity",
            Val::Url(_) => "kubernetes.URL",
            Val::Ip(_) => "net.IP",
            Val::Cidr(..) => "net.CIDR",
            Val::Format(_) => "kubernetes.NamedFormat",
            Val::Semver(_) => "kubernetes.Semver",
            Val::Struct(built) => &built.name,
            Val::Foreign(own) => own.type_name(),
        }
    }

    /// How much a walk through it costs: its length where it has one.
    pub fn size(&self) -> u64 {
        match self {
            Val::String(text) => text.len() as u64,
            Val::Bytes(bytes) => bytes.len() as u64,
            Val::Pattern(pattern) => pattern.as_str().len() as u64,
            Val::List(items) => items.len() as u64,
            Val::Map(entries) => entries.len() as u64,
            _ => 1,
        }
    }

    /// Whether two values are the same; numbers of different kinds are compared by what they say.
    pub fn same(&self, other: &Val) -> bool {
        match (self, other) {
            (Val::Null, Val::Null) => true,
            (Val::Bool(a), Val::Bool(b)) => a == b,
            (Val::String(a), Val::String(b)) | (Val::Type(a), Val::Type(b)) => a == b,
            (Val::Bytes(a), Val::Bytes(b)) => a == b,
            (Val::Timestamp(a), Val::Timestamp(b)) => a == b,
            (Val::Duration(a), Val::Duration(b)) => a == b,
            (Val::List(a), Val::List(b)) => {
                a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.same(b))
            }
            (Val::Map(a), Val::Map(b)) => {
                a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| a.same(b)))
            }
            (Val::Optional(a), Val::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.same(b),
                (None, None) => true,
                _ => false,
            },
            (Val::Quantity(a), Val::Quantity(b)) => a == b,
            (Val::Url(a), Val::Url(b)) => a == b,
            (Val::Ip(a), Val::Ip(b)) => a == b,
            (Val::Cidr(a, n), Val::Cidr(b, m)) => a == b && n == m,
            (Val::Format(a), Val::Format(b)) => a.name == b.name,
            (Val::Semver(a), Val::Semver(b)) => a == b,
            (Val::Struct(a), Val::Struct(b)) => {
                a.name == b.name
                    && a.fields.len() == b.fields.len()
                    && a.fields.iter().all(|(key, a)| b.fields.get(key).is_some_and(|b| a.same(b)))
            }
            (Val::Foreign(a), Val::Foreign(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.numeric(b) == Some(Ordering::Equal),
        }
    }

    /// The order of two numbers, whichever kinds they are of.
    fn numeric(&self, other: &Val) -> Option<Ordering> {
        match (self, other) {
            (Val::Int(a), Val::Int(b)) => Some(a.cmp(b)),
            (Val::Uint(a), Val::Uint(b)) => Some(a.cmp(b)),
            (Val::Int(a), Val::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Val::Uint(a), Val::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
            (Val::Double(a), Val::Int(b)) => a.partial_cmp(&(*b as f64)),
            (Val::Double(a), Val::Uint(b)) => a.partial_cmp(&(*b as f64)),
            (Val::Int(a), Val::Double(b)) => (*a as f64).partial_cmp(b),
            (Val::Uint(a), Val::Double(b)) => (*a as f64).partial_cmp(b),
            _ => None,
        }
    }

    /// The order of two values of an ordered type.
    pub fn order(&self, other: &Val) -> Result<Option<Ordering>, Fault> {
        Ok(match (self, other) {
            (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
            (Val::String(a), Val::String(b)) => Some(a.cmp(b)),
            (Val::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
            (Val::Timestamp(a), Val::Timestamp(b)) => Some(a.cmp(b)),
            (Val::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
            (Val::Int(_) | Val::Uint(_) | Val::Double(_), Val::Int(_) | Val::Uint(_) | Val::Double(_)) => {
                self.numeric(other)
            }
            _ => return Err(Fault::no_overload()),
        })
    }

    /// JSON as a value of the declared type: a `number` is a double even when it has no fraction, a `date-time` is
    /// a moment, and an object shows its declared fields alone.
    pub fn of_json(json: &Value, of: &Type) -> Val {
        match (json, of) {
            (Value::Null, _) => Val::Null,
            (Value::Bool(b), _) => Val::Bool(*b),
            (Value::Number(n), Type::Double) => Val::Double(n.as_f64().unwrap_or(f64::NAN)),
            (Value::Number(n), _) => match (n.as_i64(), n.as_f64()) {
                (Some(n), _) => Val::Int(n),
                (None, Some(n)) if *of == Type::Int && n.fract() == 0.0 => Val::Int(n as i64),
                (None, n) => Val::Double(n.unwrap_or(f64::NAN)),
            },
            (Value::String(text), Type::Timestamp) => {
                time::parse_moment(text).map_or_else(|| Val::text(text.as_str()), Val::Timestamp)
            }
            (Value::String(text), Type::Duration) => {
                time::parse_span(text).map_or_else(|| Val::text(text.as_str()), Val::Duration)
            }
            (Value::String(text), Type::Bytes) => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(text);
                bytes.map_or_else(|_| Val::text(text.as_str()), |bytes| Val::Bytes(bytes.into()))
            }
            (Value::String(text), _) => Val::text(text.as_str()),
            (Value::Array(items), of) => {
                let element = match of {
                    Type::List(of) => of,
                    _ => &Type::Dyn,
                };
                Val::list(items.iter().map(|item| Val::of_json(item, element)).collect())
            }
            (Value::Object(fields), Type::Object(object)) => {
                Val::Map(Arc::new(object_entries(fields, object)))
            }
            (Value::Object(fields), of) => {
                let element = match of {
                    Type::Map(_, of) => of,
                    _ => &Type::Dyn,
                };
                let entries = fields
                    .iter()
                    .map(|(key, value)| (Key::String(key.as_str().into()), Val::of_json(value, element)));
                Val::Map(Arc::new(entries.collect()))
            }
        }
    }

    /// The value as JSON; `None` for what JSON cannot say.
    pub fn to_json(&self) -> Option<Value> {
        Some(match self {
            Val::Null => Value::Null,
            Val::Bool(b) => json!(b),
            Val::Int(n) => json!(n),
            Val::Uint(n) => json!(n),
            Val::Double(n) => Value::Number(Number::from_f64(*n)?),
            Val::String(text) => json!(text.as_ref()),
            Val::Bytes(bytes) => json!(base64::engine::general_purpose::STANDARD.encode(bytes)),
            Val::Timestamp(at) => json!(at.to_string()),
            Val::Duration(nanos) => json!(time::show_span(*nanos)),
            Val::List(items) => Value::Array(items.iter().map(Val::to_json).collect::<Option<_>>()?),
            Val::Map(entries) => {
                let fields = entries.iter().map(|(key, value)| Some((key.to_string(), value.to_json()?)));
                Value::Object(fields.collect::<Option<Map<_, _>>>()?)
            }
            Val::Struct(built) => {
                let fields = built.fields.iter().map(|(key, value)| Some((key.clone(), value.to_json()?)));
                Value::Object(fields.collect::<Option<Map<_, _>>>()?)
            }
            Val::Optional(Some(value)) => value.to_json()?,
            Val::Quantity(quantity) => json!(quantity.to_string()),
            _ => return None,
        })
    }
}

fn object_entries(fields: &Map<String, Value>, object: &Object) -> Entries {
    let known = object.fields.iter().filter_map(|(name, field)| {
        let value = fields.get(&field.key)?;
        Some((Key::String(name.as_str().into()), Val::of_json(value, &field.of)))
    });
    known.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_becomes_what_is_declared() {
        let of = Type::object(
            "object",
            [
                ("ratio".to_owned(), Type::Double),
                ("count".to_owned(), Type::Int),
                ("at".to_owned(), Type::Timestamp),
                ("a-b".to_owned(), Type::map(Type::Dyn)),
            ],
        );
        let json = json!({"ratio": 2, "count": 3, "at": "2024-01-02T03:04:05Z", "a-b": {"x": 1}, "other": 1});
        let Val::Map(entries) = Val::of_json(&json, &of) else { panic!("an object") };
        let of_type = |key: &str| entries.get(&Key::String(key.into())).map(|v| v.type_name().to_owned());
        assert_eq!(of_type("ratio").as_deref(), Some("double"));
        assert_eq!(of_type("count").as_deref(), Some("int"));
        assert_eq!(of_type("at").as_deref(), Some("google.protobuf.Timestamp"));
        assert_eq!(of_type("a__dash__b").as_deref(), Some("map"));
        assert_eq!(of_type("other"), None);
    }

    #[test]
    fn numbers_are_the_same_across_kinds() {
        assert!(Val::Int(1).same(&Val::Double(1.0)) && Val::Uint(1).same(&Val::Int(1)));
        assert!(!Val::Int(-1).same(&Val::Uint(u64::MAX)) && !Val::Int(1).same(&Val::text("1")));
    }
}
