//! The types of the objects of kinds, as expressions know them.

use super::Type;
use crate::api::kinds::Kind;
use crate::api::schema::{Scalar, Schema, Shape};
use crate::api::structural::rules;

/// The type of the metadata that every object has.
const METADATA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The type of a kind's objects; `None` when nothing is known of them.
pub fn type_of(kind: &Kind) -> Option<Type> {
    let Some(version) = kind.types.custom() else {
        return kind.types.schema().map(|schema| of_schema(schema, &[]));
    };
    let Type::Object(object) = rules::type_of(&version.node, true)? else { return None };
    let known = object.fields.values().filter(|field| field.key != "metadata");
    let mut fields: Vec<(String, Type)> = known.map(|field| (field.key.clone(), field.of.clone())).collect();
    fields.extend(Schema::of(METADATA).map(|schema| ("metadata".to_owned(), of_schema(schema, &[]))));
    Some(Type::object(&kind.kind, fields))
}

/// The type of values of a schema that stands within these types; one that stands within itself is open.
fn of_schema(schema: Schema<'_>, within: &[&str]) -> Type {
    let name = schema.name();
    if !name.is_empty() && within.contains(&name) {
        return Type::Dyn;
    }
    let within: Vec<&str> = within.iter().copied().chain([name]).collect();
    let element = || schema.element().map_or(Type::Dyn, |element| of_schema(element, &within));
    match schema.shape() {
        Shape::Struct => {
            let fields = schema.fields();
            let typed = fields.map(|(name, field)| (name.to_owned(), of_schema(field, &within)));
            Type::object(name.rsplit('.').next().unwrap_or_default(), typed)
        }
        Shape::Map => Type::map(element()),
        Shape::List => Type::list(element()),
        Shape::Scalar(scalar) => match scalar {
            Scalar::String => Type::String,
            Scalar::Boolean => Type::Bool,
            Scalar::Integer => Type::Int,
            Scalar::Number => Type::Double,
            Scalar::Time | Scalar::MicroTime => Type::Timestamp,
            Scalar::Bytes => Type::Bytes,
            // Either a number or a text.
            Scalar::IntOrString | Scalar::Quantity => Type::Dyn,
        },
        Shape::Any => Type::Dyn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::cel::Env;
    use crate::api::{custom, kinds};
    use serde_json::json;

    fn complaints(of: Type, expression: &str) -> Vec<String> {
        let compiled = Env::new().variable("object", of).compile(expression);
        compiled.err().into_iter().flat_map(|issues| issues.issues).map(|issue| issue.message).collect()
    }

    #[test]
    fn fields_of_objects_are_known() {
        let deployment = || type_of(kinds::by_kind("apps", "v1", "Deployment").unwrap()).unwrap();
        for (expression, complaint) in [
            ("object.spec.replicas <= 5", None),
            ("object.spec.template.spec.containers.all(c, c.image.startsWith('a/'))", None),
            ("object.metadata.labels['a'] == 'b' && object.kind == 'Deployment'", None),
            ("object.metadata.creationTimestamp < timestamp('2026-01-01T00:00:00Z')", None),
            ("object.spec.strategy.rollingUpdate.maxSurge == 1", None),
            ("object.spec.template.spec.containers[0].resources.limits['cpu'] == '1'", None),
            ("object.spec.replica <= 5", Some("undefined field 'replica'")),
            (
                "object.spec.replicas == 'five'",
                Some("found no matching overload for '_==_' applied to '(int, string)'"),
            ),
        ] {
            assert_eq!(complaints(deployment(), expression), Vec::from_iter(complaint), "{expression}");
        }
        // A schema that contains itself ends somewhere.
        let definition = kinds::by_kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
        assert!(complaints(type_of(definition).unwrap(), "object.spec.versions.size() == 1").is_empty());
    }

    #[test]
    fn fields_of_custom_objects_are_known() {
        let definition = json!({"metadata": {"name": "widgets.example.com"},
            "spec": {"group": "example.com", "names": {"plural": "widgets", "kind": "Widget"}, "scope": "Namespaced",
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                    "type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}}}]},
            "status": {"acceptedNames": {"plural": "widgets", "kind": "Widget"},
                "conditions": [{"type": "Established", "status": "True"}, {"type": "NamesAccepted", "status": "True"}]}});
        let kinds = custom::kinds(&definition, &definition.to_string().into(), 1);
        let of = type_of(&kinds[0]).unwrap();
        assert!(
            complaints(of.clone(), "object.spec.size > 1 && object.metadata.labels.size() > 0").is_empty()
        );
        assert_eq!(complaints(of, "object.spec.colour == 'red'"), ["undefined field 'colour'"]);
    }
}
