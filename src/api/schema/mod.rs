//! The types of the served kinds: structure, descriptions, list keys and patch strategies.
//!
//! [`document`] holds them. [`Schema`] walks their structure; [`check`] reads an object as Kubernetes' decoder
//! would, which prunes what the types do not know.

mod check;
pub mod document;
pub mod legacy;
pub mod protobuf;
mod strict;
mod types;

use serde_json::Value;

pub use self::check::{Checked, check, check_converted};
pub use self::document::of_kind;
pub use self::strict::strict_json;
use self::types::{Place, Type};

/// What a single value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    /// Any text.
    String,
    /// `true` or `false`.
    Boolean,
    /// A whole number of 32 or 64 bits.
    Integer,
    /// A number.
    Number,
    /// A port number or name, a count or a percentage.
    IntOrString,
    /// `100m`.
    Quantity,
    /// RFC 3339 to the second.
    Time,
    /// RFC 3339 to the microsecond.
    MicroTime,
    /// Base64.
    Bytes,
}

/// The form of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// An object with known fields.
    Struct,
    /// An object with any keys and values of one type.
    Map,
    /// A list of values of one type.
    List,
    /// A single value.
    Scalar(Scalar),
    /// Anything at all.
    Any,
}

/// A place in the schema document: a type, or a field with what is special about that field.
#[derive(Debug, Clone, Copy)]
pub struct Schema<'a> {
    /// The schema as it stands at the field, which carries the merge rules.
    site: &'a Value,
    /// The type behind the field's reference.
    target: &'a Value,
    /// The same, when it has a name.
    named: Option<&'static Type>,
    /// The same place in the document, where what follows from it has been found out.
    known: Option<&'static Place>,
    shape: Shape,
}

impl Schema<'static> {
    /// A type of the schema document by its name.
    pub fn of(name: &str) -> Option<Schema<'static>> {
        let named = document::structure(name).or_else(|| legacy::structure(name))?;
        Some(Schema::behind(named))
    }

    /// A place of which only the type is known.
    fn behind(named: &'static Type) -> Schema<'static> {
        let target = &named.schema;
        Schema { site: target, target, named: Some(named), known: None, shape: named.shape }
    }
}

impl<'a> Schema<'a> {
    /// A schema that stands in no document. It may refer to the types that are in it.
    pub fn own(schema: &'a Value) -> Schema<'a> {
        Schema::at(schema)
    }

    fn at(site: &'a Value) -> Schema<'a> {
        let reference = site.get("$ref").or_else(|| site.get("allOf")?.get(0)?.get("$ref"));
        let named = reference.and_then(Value::as_str).and_then(|r| Schema::of(r.rsplit('/').next()?));
        match named {
            Some(named) => Schema { site, ..named },
            None => Schema { site, target: site, named: None, known: None, shape: types::shape("", site) },
        }
    }

    /// The type's name: `io.k8s.api.core.v1.Container`; empty for maps, lists and scalars.
    pub fn name(&self) -> &'static str {
        self.named.map_or("", |named| &named.name)
    }

    /// What values look like.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// `int32`, `int64`, ...
    pub fn format(&self) -> &'a str {
        self.target.get("format").and_then(Value::as_str).unwrap_or_default()
    }

    /// A field of a struct.
    pub fn field(&self, name: &str) -> Option<Schema<'a>> {
        match self.named {
            Some(named) => named.field(name),
            None => self.target.get("properties")?.get(name).map(Schema::at),
        }
    }

    /// The fields of a struct.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, Schema<'a>)> {
        let fields = self.target.get("properties").and_then(Value::as_object);
        fields.into_iter().flatten().map(|(name, field)| (name.as_str(), Schema::at(field)))
    }

    /// The type of a list's items or of a map's values.
    pub fn element(&self) -> Option<Schema<'a>> {
        match self.known {
            Some(place) => place.element(),
            None => types::element(self.target).map(Schema::at),
        }
    }

    /// What lies at a key of an object, be it a struct or a map.
    pub fn child(&self, key: &str) -> Option<Schema<'a>> {
        match self.shape() {
            Shape::Struct => self.field(key),
            Shape::Map => self.element(),
            _ => None,
        }
    }

    /// `atomic`, `set`, `map`, or nothing: how server-side apply merges the list.
    pub fn list_type(&self) -> &'a str {
        self.extension("x-kubernetes-list-type")
    }

    /// The keys of a list of type `map`.
    pub fn list_map_keys(&self) -> impl Iterator<Item = &'a str> {
        let keys = self.site.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
        keys.into_iter().flatten().filter_map(Value::as_str)
    }

    /// `atomic` or nothing: how server-side apply merges the object.
    pub fn map_type(&self) -> &'a str {
        match self.extension("x-kubernetes-map-type") {
            "" => self.target.get("x-kubernetes-map-type").and_then(Value::as_str).unwrap_or_default(),
            own => own,
        }
    }

    /// The field by which a strategic merge patch tells the items of a list apart.
    pub fn merge_key(&self) -> &'a str {
        self.extension("x-kubernetes-patch-merge-key")
    }

    /// Whether a strategic merge patch does so with the field: `merge`, `replace`, `retainKeys`.
    pub fn has_strategy(&self, strategy: &str) -> bool {
        self.extension("x-kubernetes-patch-strategy").split(',').any(|s| s == strategy)
    }

    /// Whether fields that the type does not know are kept.
    pub fn preserves_unknown(&self) -> bool {
        self.target.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true))
    }

    /// The default that the field's schema states.
    pub fn default_value(&self) -> Option<&'a Value> {
        self.site.get("default")
    }

    fn extension(&self, key: &str) -> &'a str {
        self.site.get(key).and_then(Value::as_str).unwrap_or_default()
    }
}

/// Calls `visit` with every single value of an object of this type.
pub fn walk_scalars(schema: Schema<'_>, value: &mut Value, visit: &mut dyn FnMut(Scalar, &mut Value)) {
    if let Shape::Scalar(scalar) = schema.shape() {
        return visit(scalar, value);
    }
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if let Some(child) = schema.child(key) {
                    walk_scalars(child, value, visit);
                }
            }
        }
        Value::Array(items) => {
            if let Some(element) = schema.element() {
                items.iter_mut().for_each(|item| walk_scalars(element, item, visit));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
