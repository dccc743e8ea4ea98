//! The types of the documents, with what follows from their structure: objects are read, defaulted and compared by them at
//! every write, so that nothing of it is found out twice.

use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;

use serde_json::Value;

use super::{Scalar, Schema, Shape};

/// A type with a name.
#[derive(Debug)]
pub struct Type {
    /// `io.k8s.api.core.v1.Container`.
    pub name: String,
    /// An OpenAPI schema.
    pub schema: Value,
    /// What values look like.
    pub shape: Shape,
    fields: OnceLock<HashMap<&'static str, Place>>,
}

/// A field of a type, or an element of one.
pub struct Place {
    schema: Schema<'static>,
    element: OnceLock<Option<Box<Place>>>,
}

impl Type {
    /// A type of this structure.
    pub fn new(name: impl Into<String>, schema: Value) -> Type {
        let name = name.into();
        let shape = shape(&name, &schema);
        Type { name, schema, shape, fields: OnceLock::new() }
    }

    /// A field of a struct.
    pub fn field(&'static self, name: &str) -> Option<Schema<'static>> {
        let fields = self.fields.get_or_init(|| {
            let fields = self.schema.get("properties").and_then(Value::as_object);
            fields.into_iter().flatten().map(|(name, field)| (name.as_str(), Place::new(field))).collect()
        });
        fields.get(name).map(Place::schema)
    }
}

impl Place {
    fn new(site: &'static Value) -> Place {
        Place { schema: Schema::at(site), element: OnceLock::new() }
    }

    fn schema(&'static self) -> Schema<'static> {
        Schema { known: Some(self), ..self.schema }
    }

    /// The type of a list's items or of a map's values.
    pub fn element(&'static self) -> Option<Schema<'static>> {
        let find = || element(self.schema.target).map(|element| Box::new(Place::new(element)));
        self.element.get_or_init(find).as_deref().map(Place::schema)
    }
}

/// Types may have fields of themselves, without end.
impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place")
    }
}

/// The schema of the elements of a list or map of this one.
pub fn element(target: &Value) -> Option<&Value> {
    let element = target.get("items").or_else(|| target.get("additionalProperties"))?;
    Some(element).filter(|element| element.is_object())
}

/// What the values of a type look like; anonymous types have an empty name.
pub fn shape(name: &str, schema: &Value) -> Shape {
    match name.rsplit('.').next() {
        Some("Quantity") => return Shape::Scalar(Scalar::Quantity),
        Some("IntOrString") => return Shape::Scalar(Scalar::IntOrString),
        Some("MicroTime") => return Shape::Scalar(Scalar::MicroTime),
        Some("FieldsV1" | "RawExtension") => return Shape::Any,
        _ => {}
    }
    let text = |key: &str| schema.get(key).and_then(Value::as_str);
    match (text("type"), text("format")) {
        (Some("object"), _) if schema.get("properties").is_some() => Shape::Struct,
        (Some("object"), _) if schema.get("additionalProperties").is_some_and(Value::is_object) => Shape::Map,
        (Some("array"), _) => Shape::List,
        (Some("string"), Some("date-time")) => Shape::Scalar(Scalar::Time),
        (Some("string"), Some("byte")) => Shape::Scalar(Scalar::Bytes),
        (Some("string"), _) => Shape::Scalar(Scalar::String),
        (Some("boolean"), _) => Shape::Scalar(Scalar::Boolean),
        (Some("integer"), _) => Shape::Scalar(Scalar::Integer),
        (Some("number"), _) => Shape::Scalar(Scalar::Number),
        _ => Shape::Any,
    }
}
