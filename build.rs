//! Writes the schema document: the structure and descriptions of every type that the API serves.
//!
//! Structure comes from `k8s-openapi`, what it lacks (list keys, patch strategies) from `src/api/schema/lists.rs`.
//! The result is one JSON object, type name to schema, compressed; `src/api/schema` embeds and reads it.

#[path = "src/api/schema/lists.rs"]
mod lists;

use std::error::Error;
use std::path::PathBuf;

use k8s_openapi::Resource;
use k8s_openapi::api::{
    authentication, authorization, certificates, coordination, core, discovery, events, policy, rbac,
};
use k8s_openapi::apimachinery::pkg::apis::meta;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/api/schema/lists.rs");
    let mut types = served();
    for schema in types.values_mut() {
        wrap_references(schema);
    }
    add_lists(&mut types)?;
    let document = serde_json::to_vec(&types)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("schema.json.zst");
    std::fs::write(out, zstd::encode_all(document.as_slice(), 19)?)?;
    Ok(())
}

/// Every type that a body or an answer can be, and all that these refer to.
fn served() -> Map<String, Value> {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = SchemaGenerator::new(settings);
    let mut kinds = Vec::new();
    kinds.extend(kind::<core::v1::Binding>(&mut generator));
    kinds.extend(kind::<core::v1::ConfigMap>(&mut generator));
    kinds.extend(kind::<core::v1::Endpoints>(&mut generator));
    kinds.extend(kind::<core::v1::Event>(&mut generator));
    kinds.extend(kind::<core::v1::Namespace>(&mut generator));
    kinds.extend(kind::<core::v1::Node>(&mut generator));
    kinds.extend(kind::<core::v1::Pod>(&mut generator));
    kinds.extend(kind::<core::v1::Secret>(&mut generator));
    kinds.extend(kind::<core::v1::ServiceAccount>(&mut generator));
    kinds.extend(kind::<core::v1::Service>(&mut generator));
    kinds.extend(kind::<events::v1::Event>(&mut generator));
    kinds.extend(kind::<coordination::v1::Lease>(&mut generator));
    kinds.extend(kind::<discovery::v1::EndpointSlice>(&mut generator));
    kinds.extend(kind::<policy::v1::Eviction>(&mut generator));
    kinds.extend(kind::<authentication::v1::SelfSubjectReview>(&mut generator));
    kinds.extend(kind::<authentication::v1::TokenRequest>(&mut generator));
    kinds.extend(kind::<authentication::v1::TokenReview>(&mut generator));
    kinds.extend(kind::<authorization::v1::LocalSubjectAccessReview>(&mut generator));
    kinds.extend(kind::<authorization::v1::SelfSubjectAccessReview>(&mut generator));
    kinds.extend(kind::<authorization::v1::SelfSubjectRulesReview>(&mut generator));
    kinds.extend(kind::<authorization::v1::SubjectAccessReview>(&mut generator));
    kinds.extend(kind::<certificates::v1::CertificateSigningRequest>(&mut generator));
    kinds.extend(kind::<rbac::v1::ClusterRole>(&mut generator));
    kinds.extend(kind::<rbac::v1::ClusterRoleBinding>(&mut generator));
    kinds.extend(kind::<rbac::v1::Role>(&mut generator));
    kinds.extend(kind::<rbac::v1::RoleBinding>(&mut generator));
    kinds.extend(kind::<meta::v1::Status>(&mut generator));
    generator.subschema_for::<meta::v1::DeleteOptions>();
    generator.subschema_for::<meta::v1::ListMeta>();
    generator.subschema_for::<meta::v1::LabelSelector>();
    let mut types = generator.take_definitions(true);
    for (name, group_version_kind) in kinds {
        if let Some(Value::Object(schema)) = types.get_mut(&name) {
            schema.insert("x-kubernetes-group-version-kind".to_owned(), json!([group_version_kind]));
        }
    }
    types
}

/// Adds a kind; its type's name and what it is called on the wire.
fn kind<T: JsonSchema + Resource>(generator: &mut SchemaGenerator) -> Option<(String, Value)> {
    let _: Schema = generator.subschema_for::<T>();
    let wire = json!({"group": T::GROUP, "version": T::VERSION, "kind": T::KIND});
    Some((T::schema_name().into_owned(), wire))
}

/// OpenAPI 3.0 ignores what stands beside a `$ref`, so references with a description go into an `allOf`.
fn wrap_references(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.values_mut().for_each(wrap_references);
            if map.len() > 1 && map.get("$ref").is_some_and(Value::is_string) {
                let reference = map.remove("$ref");
                map.insert("allOf".to_owned(), json!([{"$ref": reference}]));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(wrap_references),
        _ => {}
    }
}

/// Writes the `x-kubernetes-*` keys of the tables into the schemas; a row that names nothing is a mistake.
fn add_lists(types: &mut Map<String, Value>) -> Result<(), Box<dyn Error>> {
    for row in lists::FIELDS {
        let property = property(types, row.of, row.field)?;
        match row.list {
            Some(lists::List::Atomic) => property.insert("x-kubernetes-list-type".into(), json!("atomic")),
            Some(lists::List::Set) => property.insert("x-kubernetes-list-type".into(), json!("set")),
            Some(lists::List::Map(keys)) => {
                property.insert("x-kubernetes-list-map-keys".into(), json!(keys));
                property.insert("x-kubernetes-list-type".into(), json!("map"))
            }
            None => None,
        };
        if !row.merge_key.is_empty() {
            property.insert("x-kubernetes-patch-merge-key".into(), json!(row.merge_key));
        }
        if !row.strategy.is_empty() {
            property.insert("x-kubernetes-patch-strategy".into(), json!(row.strategy));
        }
    }
    for (of, field) in lists::ATOMIC_MAPS {
        property(types, of, field)?.insert("x-kubernetes-map-type".into(), json!("atomic"));
    }
    for (of, field, default) in lists::DEFAULTS {
        property(types, of, field)?.insert("default".into(), json!(default));
    }
    for of in lists::ATOMIC_TYPES {
        named(types, of)?.insert("x-kubernetes-map-type".into(), json!("atomic"));
    }
    Ok(())
}

fn named<'a>(types: &'a mut Map<String, Value>, of: &str) -> Result<&'a mut Map<String, Value>, String> {
    let prefix = if of.starts_with("meta.") { "io.k8s.apimachinery.pkg.apis" } else { "io.k8s.api" };
    let schema = types.get_mut(&format!("{prefix}.{of}")).and_then(Value::as_object_mut);
    schema.ok_or_else(|| format!("lists.rs names the unknown type {of}"))
}

fn property<'a>(
    types: &'a mut Map<String, Value>,
    of: &str,
    field: &str,
) -> Result<&'a mut Map<String, Value>, String> {
    let properties = named(types, of)?.get_mut("properties");
    let property = properties.and_then(|p| p.get_mut(field)).and_then(Value::as_object_mut);
    property.ok_or_else(|| format!("lists.rs names the unknown field {of}.{field}"))
}
