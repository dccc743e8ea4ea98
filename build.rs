//! Writes what the binary knows of the types that the API serves: their structure and their descriptions.
//!
//! Structure comes from `k8s-openapi`, what it lacks (list keys, patch strategies, defaults) from
//! `src/api/schema/rules.txt`. Two forms are embedded, and `src/api/schema/document.rs` reads both: the structure
//! alone as one text for each type, of which only those are parsed that are used, and everything as one
//! compressed JSON object, type name to schema, for the OpenAPI documents.

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use k8s_openapi::Resource;
use k8s_openapi::api::{
    admissionregistration, apps, authentication, authorization, autoscaling, batch, certificates,
    coordination, core, discovery, events, flowcontrol, networking, node, policy, rbac, scheduling, storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use k8s_openapi::apimachinery::pkg::{apis::meta, version};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

const RULES: &str = "src/api/schema/rules.txt";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={RULES}");
    let mut types = served();
    for schema in types.values_mut() {
        wrap_references(schema);
    }
    for row in rows(&std::fs::read_to_string(RULES)?)? {
        add(&mut types, &row)?;
    }
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let document = serde_json::to_vec(&types)?;
    std::fs::write(out.join("schema.json.zst"), zstd::encode_all(document.as_slice(), 19)?)?;
    write_structure(&mut types, &out.join("structure.rs"))
}

/// Adds kinds to the generator; their types' names and what they are called on the wire.
macro_rules! kinds {
    ($generator:ident: $($kind:ty),* $(,)?) => {
        [$(kind::<$kind>(&mut $generator)),*].into_iter().flatten().collect::<Vec<(String, Value)>>()
    };
}

/// Every type that a body or an answer can be, and all that these refer to.
fn served() -> Map<String, Value> {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = SchemaGenerator::new(settings);
    let kinds = kinds!(generator:
        core::v1::Binding,
        core::v1::ComponentStatus,
        core::v1::ConfigMap,
        core::v1::Endpoints,
        core::v1::Event,
        core::v1::LimitRange,
        core::v1::Namespace,
        core::v1::Node,
        core::v1::PersistentVolume,
        core::v1::PersistentVolumeClaim,
        core::v1::Pod,
        core::v1::PodTemplate,
        core::v1::ReplicationController,
        core::v1::ResourceQuota,
        core::v1::Secret,
        core::v1::Service,
        core::v1::ServiceAccount,
        admissionregistration::v1::MutatingAdmissionPolicy,
        admissionregistration::v1::MutatingAdmissionPolicyBinding,
        admissionregistration::v1::MutatingWebhookConfiguration,
        admissionregistration::v1::ValidatingAdmissionPolicy,
        admissionregistration::v1::ValidatingAdmissionPolicyBinding,
        admissionregistration::v1::ValidatingWebhookConfiguration,
        apiextensions::v1::CustomResourceDefinition,
        apiregistration::v1::APIService,
        apps::v1::ControllerRevision,
        apps::v1::DaemonSet,
        apps::v1::Deployment,
        apps::v1::ReplicaSet,
        apps::v1::StatefulSet,
        authentication::v1::SelfSubjectReview,
        authentication::v1::TokenRequest,
        authentication::v1::TokenReview,
        authorization::v1::LocalSubjectAccessReview,
        authorization::v1::SelfSubjectAccessReview,
        authorization::v1::SelfSubjectRulesReview,
        authorization::v1::SubjectAccessReview,
        autoscaling::v1::HorizontalPodAutoscaler,
        autoscaling::v1::Scale,
        autoscaling::v2::HorizontalPodAutoscaler,
        batch::v1::CronJob,
        batch::v1::Job,
        certificates::v1::CertificateSigningRequest,
        certificates::v1::ClusterTrustBundle,
        certificates::v1::PodCertificateRequest,
        coordination::v1::Lease,
        discovery::v1::EndpointSlice,
        events::v1::Event,
        flowcontrol::v1::FlowSchema,
        flowcontrol::v1::PriorityLevelConfiguration,
        networking::v1::IPAddress,
        networking::v1::Ingress,
        networking::v1::IngressClass,
        networking::v1::NetworkPolicy,
        networking::v1::ServiceCIDR,
        node::v1::RuntimeClass,
        policy::v1::Eviction,
        policy::v1::PodDisruptionBudget,
        rbac::v1::ClusterRole,
        rbac::v1::ClusterRoleBinding,
        rbac::v1::Role,
        rbac::v1::RoleBinding,
        scheduling::v1::PriorityClass,
        storage::v1::CSIDriver,
        storage::v1::CSINode,
        storage::v1::CSIStorageCapacity,
        storage::v1::StorageClass,
        storage::v1::VolumeAttachment,
        storage::v1::VolumeAttributesClass,
        meta::v1::APIGroup,
        meta::v1::APIVersions,
        meta::v1::Status,
    );
    generator.subschema_for::<meta::v1::APIGroupList>();
    generator.subschema_for::<meta::v1::APIResourceList>();
    generator.subschema_for::<meta::v1::Condition>();
    generator.subschema_for::<meta::v1::DeleteOptions>();
    generator.subschema_for::<meta::v1::LabelSelector>();
    generator.subschema_for::<meta::v1::ListMeta>();
    generator.subschema_for::<meta::v1::Patch>();
    generator.subschema_for::<meta::v1::WatchEvent<Value>>();
    generator.subschema_for::<version::Info>();
    let mut types = generator.take_definitions(true);
    for (name, group_version_kind) in kinds {
        if let Some(Value::Object(schema)) = types.get_mut(&name) {
            schema.insert("x-kubernetes-group-version-kind".to_owned(), json!([group_version_kind]));
        }
    }
    types
}

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

/// What `rules.txt` says of a type or of one of its fields.
struct Row<'a> {
    of: &'a str,
    field: Option<&'a str>,
    /// Each rule's name and what stands in its parentheses.
    rules: Vec<(&'a str, String)>,
}

fn rows(text: &str) -> Result<Vec<Row<'_>>, String> {
    let mut rows: Vec<Row> = Vec::new();
    let mut lines = text.lines().filter(|line| !line.starts_with('#')).peekable();
    let mut of = "";
    while let Some(line) = lines.next() {
        let (first, rest) = line.trim_start().split_once(' ').unwrap_or((line.trim_start(), ""));
        let mut rules = rest.to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with("    ")) {
            rules.push(' ');
            rules.push_str(more.trim());
        }
        let field = if line.starts_with(' ') { Some(first) } else { None };
        if field.is_none() {
            of = first;
        }
        let mut row = Row { of, field, rules: Vec::new() };
        let mut rest = rules.as_str();
        while !rest.is_empty() {
            let end = rest.find([' ', '(']).unwrap_or(rest.len());
            let name = RULE_NAMES.iter().find(|name| **name == &rest[..end]);
            let name = name.ok_or_else(|| format!("{RULES} has an unknown rule at {of} {rest:?}"))?;
            let argument = match rest[end..].strip_prefix('(') {
                Some(argument) => {
                    argument.split_once(')').ok_or_else(|| format!("{RULES}: {of} {rest:?}"))?
                }
                None => ("", &rest[end..]),
            };
            row.rules.push((name, argument.0.to_owned()));
            rest = argument.1.trim_start();
        }
        rows.push(row);
    }
    Ok(rows)
}

const RULE_NAMES: &[&str] =
    &["atomic", "granular", "set", "map", "merge", "replace", "retainKeys", "default", "enum"];

/// Writes a row into the schema that it names; one that names nothing is a mistake.
fn add(types: &mut Map<String, Value>, row: &Row) -> Result<(), Box<dyn Error>> {
    let place = place(types, row)
        .ok_or_else(|| format!("{RULES} names nothing known: {} {:?}", row.of, row.field))?;
    // Bytes are lists, too.
    let is_list = place.get("type").is_some_and(|of| of == "array" || of == "string");
    let mut strategies = Vec::new();
    for (name, argument) in &row.rules {
        let values = || argument.split(", ").map(|value| if value == "\"\"" { "" } else { value });
        match *name {
            "atomic" | "set" if is_list => place.insert("x-kubernetes-list-type".into(), json!(name)),
            "atomic" | "granular" => place.insert("x-kubernetes-map-type".into(), json!(name)),
            "map" => {
                place.insert("x-kubernetes-list-map-keys".into(), values().collect());
                place.insert("x-kubernetes-list-type".into(), json!("map"))
            }
            "default" => place.insert("default".into(), serde_json::from_str(argument)?),
            "enum" => match place.get_mut("items").and_then(Value::as_object_mut) {
                Some(items) => items.insert("enum".into(), values().collect()),
                None => place.insert("enum".into(), values().collect()),
            },
            strategy => {
                strategies.push(strategy);
                match argument.as_str() {
                    "" => None,
                    key => place.insert("x-kubernetes-patch-merge-key".into(), json!(key)),
                }
            }
        };
    }
    if !strategies.is_empty() {
        place.insert("x-kubernetes-patch-strategy".into(), json!(strategies.join(",")));
    }
    Ok(())
}

fn place<'a>(types: &'a mut Map<String, Value>, row: &Row) -> Option<&'a mut Map<String, Value>> {
    let prefix = match row.of.split('.').next() {
        Some("meta") => "io.k8s.apimachinery.pkg.apis",
        Some("apiextensions") => "io.k8s.apiextensions-apiserver.pkg.apis",
        Some("apiregistration") => "io.k8s.kube-aggregator.pkg.apis",
        _ => "io.k8s.api",
    };
    let schema = types.get_mut(&format!("{prefix}.{}", row.of))?;
    match row.field {
        None => schema.as_object_mut(),
        Some(field) => schema.get_mut("properties")?.get_mut(field)?.as_object_mut(),
    }
}

/// Writes the types without their descriptions as Rust tables: by name, and the names by kind.
fn write_structure(types: &mut Map<String, Value>, path: &Path) -> Result<(), Box<dyn Error>> {
    let mut kinds = Vec::new();
    let mut source = String::new();
    writeln!(source, "static TYPES: [(&str, &str); {}] = [", types.len())?;
    for (name, schema) in types.iter_mut() {
        strip(schema);
        for kind in schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
            let text = |key: &str| kind[key].as_str().unwrap_or_default().to_owned();
            kinds.push((text("group"), text("version"), text("kind"), name.clone()));
        }
        writeln!(source, "({name:?}, {:?}),", schema.to_string())?;
    }
    kinds.sort();
    writeln!(source, "];\nstatic KINDS: [((&str, &str, &str), &str); {}] = [", kinds.len())?;
    for (group, version, kind, name) in kinds {
        writeln!(source, "(({group:?}, {version:?}, {kind:?}), {name:?}),")?;
    }
    source.push_str("];\n");
    Ok(std::fs::write(path, source)?)
}

/// Drops the descriptions of a type and of its fields (a field may be called `description` itself).
fn strip(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    map.remove("description");
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(strip);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            strip(inner);
        }
    }
}
