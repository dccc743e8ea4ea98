//! CustomResourceDefinitions.
//!
//! Source: k8s.io/apiextensions-apiserver `pkg/registry/customresourcedefinition` and
//! `pkg/apis/apiextensions/{v1/defaults.go,validation}`.

mod conversion;
mod costs;
mod schema;
mod structure;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::column::{self, NAME};
use super::value::{fill, fill_zero, is_set, items, object, text};
use super::{Column, Strategy};
use crate::api::custom::is_true;
use crate::api::json_path::JsonPath;
use crate::api::status::FieldError;
use crate::api::structural::{Node, rules};
use crate::api::{formats, meta, names};

/// The types of printer columns.
const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
/// The formats of printer columns.
const COLUMN_FORMATS: &[&str] =
    &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
/// The most fields that a version's objects can be selected by.
const MOST_SELECTABLE: usize = 8;
/// The annotation by which kinds of Kubernetes' own groups say who approved them.
const APPROVED: &str = "api-approved.kubernetes.io";

/// The strategy of definitions.
pub(super) struct CustomResourceDefinition;

impl Strategy for CustomResourceDefinition {
    fn default(&self, definition: &mut Value) {
        object(definition, "spec");
        let spec = &mut definition["spec"];
        object(spec, "names");
        let kind = text(&spec["names"], "kind").to_owned();
        fill_zero(&mut spec["names"], "singular", kind.to_lowercase());
        if !kind.is_empty() {
            fill_zero(&mut spec["names"], "listKind", format!("{kind}List"));
        }
        fill(spec, "conversion", json!({"strategy": "None"}));
        if spec["conversion"]["webhook"]["clientConfig"]["service"].is_object() {
            fill(&mut spec["conversion"]["webhook"]["clientConfig"]["service"], "port", 443);
        }
        object(definition, "status");
        let storage = storage_version(definition);
        if !is_set(&definition["status"], "storedVersions")
            && let Some(storage) = storage
        {
            definition["status"]["storedVersions"] = json!([storage]);
        }
    }

    fn prepare_create(&self, definition: &mut Value) {
        let stored: Vec<String> = storage_version(definition).into_iter().collect();
        definition["status"] = json!({ "storedVersions": stored });
    }

    fn prepare_update(&self, new: &mut Value, _old: &Value) {
        let Some(storage) = storage_version(new) else { return };
        fill(&mut new["status"], "storedVersions", json!([]));
        if let Some(stored) = new["status"]["storedVersions"].as_array_mut()
            && !stored.iter().any(|version| *version == storage)
        {
            stored.push(json!(storage));
        }
    }

    fn validate(&self, definition: &Value) -> Vec<FieldError> {
        let spec = &definition["spec"];
        let mut errors = Vec::new();
        let (name, plural, group) =
            (meta::name(definition), text(&spec["names"], "plural"), text(spec, "group"));
        if name != format!("{plural}.{group}") {
            let why = "must be spec.names.plural+\".\"+spec.group";
            errors.push(FieldError::invalid("metadata.name", &json!(name), why));
        }
        spec_errors(spec, &mut errors);
        names_errors(&definition["status"]["acceptedNames"], "status.acceptedNames", &mut errors);
        errors.extend(stored_errors(definition));
        errors.extend(approval_error(definition));
        if spec["preserveUnknownFields"] == true {
            let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
                       spec.versions[*].schema instead";
            errors.push(FieldError::invalid("spec.preserveUnknownFields", &json!(true), why));
        }
        errors
    }

    fn validate_create(&self, definition: &Value) -> Vec<FieldError> {
        cost_errors(definition, &Value::Null)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = cost_errors(new, old);
        let mut immutable = |path: &str| {
            let pointer = format!("/{}", path.replace('.', "/"));
            if new.pointer(&pointer) != old.pointer(&pointer) {
                let value = new.pointer(&pointer).unwrap_or(&Value::Null);
                errors.push(FieldError::invalid(path, value, "field is immutable"));
            }
        };
        if is_true(old, "Established") {
            immutable("spec.scope");
            immutable("spec.names.kind");
        }
        immutable("spec.group");
        immutable("spec.names.plural");
        errors
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        names_errors(&new["status"]["acceptedNames"], "status.acceptedNames", &mut errors);
        errors
    }

    fn warnings(&self, definition: &Value) -> Vec<String> {
        let mut told = Vec::new();
        for version in items(&definition["spec"], "versions") {
            unknown_formats(&version["schema"]["openAPIV3Schema"], &mut told);
        }
        told
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column {
                name: "Created At",
                kind: "date",
                format: "",
                description: "CreationTimestamp is a timestamp representing the server time when this object was \
                              created.",
                priority: 0,
            },
        ];
        COLUMNS
    }

    fn cells(&self, definition: &Value, _now: Timestamp) -> Vec<Value> {
        let created = &definition["metadata"]["creationTimestamp"];
        vec![column::name(definition), if created.is_null() { "<unknown>".into() } else { created.clone() }]
    }
}

fn storage_version(definition: &Value) -> Option<String> {
    let mut versions = items(&definition["spec"], "versions").iter();
    let storage = versions.find(|version| version["storage"] == true)?;
    Some(text(storage, "name").to_owned())
}

fn joined(path: &str, value: &str, wrong: &[String], errors: &mut Vec<FieldError>) {
    if !wrong.is_empty() {
        errors.push(FieldError::invalid(path, &json!(value), &wrong.join(",")));
    }
}

fn spec_errors(spec: &Value, errors: &mut Vec<FieldError>) {
    match text(spec, "group") {
        "" => errors.push(FieldError::required("spec.group", "")),
        group => {
            let wrong = names::dns_subdomain(group);
            joined("spec.group", group, &wrong, errors);
            if wrong.is_empty() && !group.contains('.') {
                let why = "should be a domain with at least one dot";
                errors.push(FieldError::invalid("spec.group", &json!(group), why));
            }
        }
    }
    match text(spec, "scope") {
        "" => errors.push(FieldError::required("spec.scope", "")),
        "Cluster" | "Namespaced" => {}
        _ => errors.push(FieldError::not_supported("spec.scope", &spec["scope"], &["Cluster", "Namespaced"])),
    }
    let versions = items(spec, "versions");
    for (i, version) in versions.iter().enumerate() {
        if !version["schema"]["openAPIV3Schema"].is_object() {
            errors.push(FieldError::required(format!("spec.versions[{i}].schema.openAPIV3Schema"), ""));
        }
    }
    for (i, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{i}]");
        let name = text(version, "name");
        joined(&format!("{path}.name"), name, &names::dns1035_label(name), errors);
        version_errors(version, &path, errors);
    }
    let mut seen = std::collections::HashSet::new();
    if !versions.iter().all(|version| seen.insert(text(version, "name"))) {
        let why = "must contain unique version names";
        errors.push(FieldError::invalid("spec.versions", &spec["versions"], why));
    }
    if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", &spec["versions"], why));
    }
    for key in ["plural", "singular", "kind", "listKind"] {
        if text(&spec["names"], key).is_empty() {
            errors.push(FieldError::required(format!("spec.names.{key}"), ""));
        }
    }
    names_errors(&spec["names"], "spec.names", errors);
    conversion::errors(&spec["conversion"], errors);
}

fn names_errors(given: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for key in ["plural", "singular"] {
        let name = text(given, key);
        if !name.is_empty() {
            joined(&format!("{path}.{key}"), name, &names::dns1035_label(name), errors);
        }
    }
    for key in ["kind", "listKind"] {
        let name = text(given, key);
        let wrong = names::dns1035_label(&name.to_lowercase());
        if !name.is_empty() && !wrong.is_empty() {
            let why = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
            errors.push(FieldError::invalid(format!("{path}.{key}"), &json!(name), &why));
        }
    }
    let list = |key: &str, errors: &mut Vec<FieldError>| {
        for (i, name) in items(given, key).iter().filter_map(Value::as_str).enumerate() {
            joined(&format!("{path}.{key}[{i}]"), name, &names::dns1035_label(name), errors);
        }
    };
    list("shortNames", errors);
    let kind = text(given, "kind");
    if !kind.is_empty() && kind == text(given, "listKind") {
        let why = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(format!("{path}.listKind"), &json!(kind), why));
    }
    list("categories", errors);
}

fn version_errors(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let warning = &version["deprecationWarning"];
    let mut about_warning =
        |why: &str| errors.push(FieldError::invalid(format!("{path}.deprecationWarning"), warning, why));
    match warning.as_str() {
        Some(_) if version["deprecated"] != true => about_warning("can only be set for deprecated versions"),
        Some("") => about_warning("must not be an empty string"),
        Some(warning) if warning.len() > 256 => about_warning("must be <= 256 characters long"),
        _ => {}
    }
    let document = &version["schema"]["openAPIV3Schema"];
    let status = version["subresources"]["status"].is_object();
    if document.is_object() {
        schema::errors(document, &format!("{path}.schema.openAPIV3Schema"), status, errors);
    }
    scale_errors(&version["subresources"]["scale"], &format!("{path}.subresources.scale"), errors);
    for (i, column) in items(version, "additionalPrinterColumns").iter().enumerate() {
        column_errors(column, &format!("{path}.additionalPrinterColumns[{i}]"), errors);
    }
    selectable_errors(version, path, errors);
}

/// What is wrong with the costs of the expressions of schemas that are not as they were.
fn cost_errors(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, version) in items(&new["spec"], "versions").iter().enumerate() {
        let schema = &version["schema"]["openAPIV3Schema"];
        let mut before = items(&old["spec"], "versions").iter();
        let before = before.find(|before| before["name"] == version["name"]);
        if schema.is_object() && before.is_none_or(|before| before["schema"]["openAPIV3Schema"] != *schema) {
            let path = format!("spec.versions[{i}].schema.openAPIV3Schema");
            errors.extend(costs::errors(schema, &path, version["subresources"]["status"].is_object()));
        }
    }
    errors
}

fn scale_errors(scale: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if !scale.is_object() {
        return;
    }
    let mut check = |key: &str, under: &[&str], needed: bool| {
        let (field, given) = (format!("{path}.{key}"), text(scale, key));
        if given.is_empty() {
            if needed {
                errors.push(FieldError::required(field, ""));
            }
        } else if given.contains(['[', ']', '*', '?', '@']) || !given.starts_with('.') {
            let why = "should be a valid JSON path, with no array notation";
            errors.push(FieldError::invalid(field, &scale[key], why));
        } else if !under.iter().any(|under| given.starts_with(under)) {
            let why = format!("should be a json path under {}", under.join(" or ").replace("s.", "s"));
            errors.push(FieldError::invalid(field, &scale[key], why.trim_end_matches('.')));
        }
    };
    check("specReplicasPath", &[".spec."], true);
    check("statusReplicasPath", &[".status."], true);
    check("labelSelectorPath", &[".spec.", ".status."], false);
}

fn column_errors(column: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if text(column, "name").is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    }
    let types = format!("must be one of {}", COLUMN_TYPES.join(","));
    match text(column, "type") {
        "" => errors.push(FieldError::required(format!("{path}.type"), &types)),
        known if COLUMN_TYPES.contains(&known) => {}
        _ => errors.push(FieldError::invalid(format!("{path}.type"), &column["type"], &types)),
    }
    let format_name = text(column, "format");
    if !format_name.is_empty() && !COLUMN_FORMATS.contains(&format_name) {
        let why = format!("must be one of {}", COLUMN_FORMATS.join(","));
        errors.push(FieldError::invalid(format!("{path}.format"), &column["format"], &why));
    }
    match text(column, "jsonPath") {
        "" => errors.push(FieldError::required(format!("{path}.JSONPath"), "")),
        given if !given.starts_with(['.', '[']) => {
            let why = "must be a simple json path starting with .";
            errors.push(FieldError::invalid(format!("{path}.JSONPath"), &column["jsonPath"], why));
        }
        given => {
            if let Err(why) = JsonPath::parse(given) {
                errors.push(FieldError::invalid(format!("{path}.JSONPath"), &column["jsonPath"], &why));
            }
        }
    }
}

fn selectable_errors(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let fields = items(version, "selectableFields");
    let node = Node::read(&version["schema"]["openAPIV3Schema"]);
    let mut seen = Vec::new();
    for (i, field) in fields.iter().enumerate() {
        let at = format!("{path}.selectableFields[{i}].jsonPath");
        let given = text(field, "jsonPath");
        if given.is_empty() {
            errors.push(FieldError::required(at, ""));
            continue;
        }
        match rules::field_path(given, &node, false) {
            Err(why) => {
                let why = format!("is an invalid path: {why}");
                errors.push(FieldError::invalid(at, &field["jsonPath"], &why));
            }
            Ok((found, of)) => {
                if found.starts_with(".metadata") {
                    let why = "must not point to fields in metadata";
                    errors.push(FieldError::invalid(at.clone(), &field["jsonPath"], why));
                }
                if !["string", "boolean", "integer"].contains(&of.of.as_str()) {
                    let why = "must point to a field of type string, boolean or integer. Enum string fields and \
                               strings with formats are allowed.";
                    errors.push(FieldError::invalid(at.clone(), &field["jsonPath"], why));
                }
                if seen.contains(&found) {
                    errors.push(FieldError::duplicate(at, &field["jsonPath"]));
                } else {
                    seen.push(found);
                }
            }
        }
    }
    if seen.len() > MOST_SELECTABLE {
        errors.push(FieldError::too_many(format!("{path}.selectableFields"), seen.len(), MOST_SELECTABLE));
    }
}

fn stored_errors(definition: &Value) -> Vec<FieldError> {
    const PATH: &str = "status.storedVersions";
    let stored = items(&definition["status"], "storedVersions");
    if stored.is_empty() {
        return vec![FieldError::invalid(PATH, &json!([]), "must have at least one stored version")];
    }
    let versions = items(&definition["spec"], "versions");
    let mut errors = Vec::new();
    for version in versions.iter().filter(|version| version["storage"] == true) {
        if !stored.contains(&version["name"]) {
            let why = format!("must have the storage version {}", text(version, "name"));
            errors.push(FieldError::invalid(PATH, &json!(stored), &why));
        }
    }
    for (i, name) in stored.iter().enumerate() {
        if !versions.iter().any(|version| version["name"] == *name) {
            let name = name.as_str().unwrap_or_default();
            let why = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in \
                 spec.versions until a storage migration ensures no data remains persisted in {name} and removes \
                 {name} from status.storedVersions"
            );
            errors.push(FieldError::invalid(format!("{PATH}[{i}]"), &json!(name), &why));
        }
    }
    errors
}

/// Groups of Kubernetes itself hold only kinds that were approved.
fn approval_error(definition: &Value) -> Option<FieldError> {
    let group = text(&definition["spec"], "group");
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|owner| group == *owner || group.strip_suffix(owner).is_some_and(|rest| rest.ends_with('.')));
    if !protected || meta::annotation(definition, APPROVED).is_some_and(|by| !by.is_empty()) {
        return None;
    }
    let why = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see \
               https://github.com/kubernetes/enhancements/pull/1111";
    Some(FieldError::required(format!("metadata.annotations[{APPROVED}]"), why))
}

fn unknown_formats(schema: &Value, told: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            let (of, format) = (text(schema, "type"), text(schema, "format"));
            let known = match of {
                "" | "string" => formats::is_known(format),
                "integer" => ["int32", "int64"].contains(&format),
                "number" => ["float", "double"].contains(&format),
                _ => false,
            };
            if !format.is_empty() && !known {
                told.push(format!("unrecognized format {format:?}"));
            }
            for (key, value) in fields {
                if !["default", "enum", "example", "format"].contains(&key.as_str()) {
                    unknown_formats(value, told);
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| unknown_formats(value, told)),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
