//! What is wrong with the variables of a container and where they come from (`ValidateEnv`, `ValidateEnvFrom`).

use serde_json::{Value, json};

use super::super::value::{is_set, items, text};
use super::fields::invalid;
use super::references::{field_ref, resource_ref};
use super::volumes::no_way_back;
use crate::api::names;
use crate::api::status::FieldError;

const SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
const SEVERAL: &str = "may not have more than one field specified at a time";
/// The fields that a variable can have, in Kubernetes' (sorted) order.
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// What is wrong with a container's variables.
pub(super) fn variables(path: &str, container: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, variable) in items(container, "env").iter().enumerate() {
        let at = |field: &str| format!("{path}.env[{i}].{field}");
        match text(variable, "name") {
            "" => errors.push(FieldError::required(at("name"), "")),
            name => errors.extend(invalid(&at("name"), &variable["name"], names::env_name(name))),
        }
        let from = &variable["valueFrom"];
        if !from.is_null() {
            errors.extend(value_from(&at("valueFrom"), from, is_set(variable, "value")));
        }
    }
    errors
}

fn value_from(path: &str, from: &Value, has_value: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !from["fieldRef"].is_null() {
        errors.extend(field_ref(&format!("{path}.fieldRef"), &from["fieldRef"], &FIELDS));
    }
    if !from["resourceFieldRef"].is_null() {
        let of = &from["resourceFieldRef"];
        errors.extend(resource_ref(&format!("{path}.resourceFieldRef"), of, false));
    }
    for source in ["configMapKeyRef", "secretKeyRef"] {
        errors.extend(key_of(&format!("{path}.{source}"), &from[source]));
    }
    if !from["fileKeyRef"].is_null() {
        errors.extend(file(&format!("{path}.fileKeyRef"), &from["fileKeyRef"]));
    }
    let why = match SOURCES.iter().filter(|source| !from[**source].is_null()).count() {
        0 => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        }
        _ if has_value => "may not be specified when `value` is not empty",
        1 => return errors,
        _ => SEVERAL,
    };
    errors.push(FieldError::invalid(path, &json!(""), why));
    errors
}

fn key_of(path: &str, reference: &Value) -> Vec<FieldError> {
    if reference.is_null() {
        return Vec::new();
    }
    let name = text(reference, "name");
    let mut errors = invalid(&format!("{path}.name"), &json!(name), names::dns_subdomain(name));
    match text(reference, "key") {
        "" => errors.push(FieldError::required(format!("{path}.key"), "")),
        key => errors.extend(invalid(&format!("{path}.key"), &reference["key"], names::config_key(key))),
    }
    errors
}

/// A variable of a file in a volume (`validateFileKeySelector`).
fn file(path: &str, reference: &Value) -> Vec<FieldError> {
    let at = |field: &str| format!("{path}.{field}");
    let mut errors = Vec::new();
    match text(reference, "key") {
        "" => errors.push(FieldError::required(at("key"), "")),
        key => errors.extend(invalid(&at("key"), &reference["key"], names::env_name(key))),
    }
    match text(reference, "volumeName") {
        "" => errors.push(FieldError::required(at("volumeName"), "")),
        name => errors.extend(invalid(&at("volumeName"), &reference["volumeName"], names::dns_label(name))),
    }
    match text(reference, "path") {
        "" => errors.push(FieldError::required(at("path"), "")),
        _ => errors.extend(no_way_back(&at("path"), &reference["path"])),
    }
    errors
}

/// Files of variables are in volumes that live as long as the pod (`validateFileKeyRefVolumes`).
pub(super) fn volumes_of_files(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (path, container) in super::references::containers(spec) {
        for (i, variable) in items(container, "env").iter().enumerate() {
            let reference = &variable["valueFrom"]["fileKeyRef"];
            if reference.is_null() {
                continue;
            }
            let name = text(reference, "volumeName");
            let at = format!("{path}.env[{i}].valueFrom.fileKeyRef.volumeName");
            match items(spec, "volumes").iter().find(|volume| text(volume, "name") == name) {
                None => errors.push(FieldError::not_found(at, &json!(name))),
                Some(volume) if volume["emptyDir"].is_null() => {
                    let why = "referenced volume must be of type emptyDir";
                    errors.push(FieldError::invalid(at, &json!(name), why));
                }
                Some(_) => {}
            }
        }
    }
    errors
}

/// What is wrong with the objects whose keys become variables. Where their number is wrong Kubernetes names the list.
pub(super) fn sources(path: &str, container: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, from) in items(container, "envFrom").iter().enumerate() {
        if is_set(from, "prefix") {
            let wrong = names::env_name(text(from, "prefix"));
            errors.extend(invalid(&format!("{path}[{i}].prefix"), &from["prefix"], wrong));
        }
        let given = ["configMapRef", "secretRef"].into_iter().filter(|source| !from[*source].is_null());
        let given: Vec<&str> = given.collect();
        for source in &given {
            let at = format!("{path}[{i}].{source}.name");
            match text(&from[*source], "name") {
                "" => errors.push(FieldError::required(at, "")),
                name => errors.extend(invalid(&at, &from[*source]["name"], names::dns_subdomain(name))),
            }
        }
        let why = match given.len() {
            0 => "must specify one of: `configMapRef` or `secretRef`",
            1 => continue,
            _ => SEVERAL,
        };
        errors.push(FieldError::invalid(path, &json!(""), why));
    }
    errors
}
