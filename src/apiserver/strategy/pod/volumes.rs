//! What is wrong with a pod's volumes and with their mounts (`ValidateVolumes`, `ValidateVolumeMounts`).

use serde_json::{Value, json};

use super::super::value::{is_set, items, text};
use super::containers::PULL;
use super::fields::invalid;
use super::references;
use crate::api::names;
use crate::api::quantity;
use crate::api::status::FieldError;

const HOST_PATHS: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

pub(super) fn validate(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let all = items(spec, "volumes");
    for (i, volume) in all.iter().enumerate() {
        let path = format!("spec.volumes[{i}]");
        errors.extend(sources(&path, volume, spec));
        match text(volume, "name") {
            "" => errors.push(FieldError::required(format!("{path}.name"), "")),
            name => {
                errors.extend(invalid(&format!("{path}.name"), &volume["name"], names::dns_label(name)));
                if all[..i].iter().any(|v| text(v, "name") == name) {
                    errors.push(FieldError::duplicate(format!("{path}.name"), &volume["name"]));
                }
            }
        }
    }
    errors
}

fn sources(path: &str, volume: &Value, spec: &Value) -> Vec<FieldError> {
    let given =
        volume.as_object().into_iter().flatten().filter(|(key, source)| *key != "name" && !source.is_null());
    let given: Vec<(&String, &Value)> = given.collect();
    let mut errors = Vec::new();
    if given.is_empty() {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
    for (extra, _) in given.iter().skip(1) {
        errors.push(FieldError::forbidden(
            format!("{path}.{extra}"),
            "may not specify more than 1 volume type",
        ));
    }
    if let Some((kind, source)) = given.first() {
        errors.extend(self::source(&format!("{path}.{kind}"), kind, source, spec));
    }
    errors
}

/// A volume's source of this kind; `spec` is the pod's, whose containers some refer to.
pub(in super::super) fn source(path: &str, kind: &str, source: &Value, spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let required = |field: &str| {
        text(source, field).is_empty().then(|| FieldError::required(format!("{path}.{field}"), ""))
    };
    match kind {
        "emptyDir" => {
            let limit = source["sizeLimit"].as_str().and_then(|t| quantity::parse(t).ok());
            if limit.is_some_and(|l| l.is_negative()) {
                let why = "SizeLimit field must be a valid resource quantity";
                errors.push(FieldError::forbidden(format!("{path}.sizeLimit"), why));
            }
        }
        "hostPath" => {
            errors.extend(required("path"));
            errors.extend(no_way_back(&format!("{path}.path"), &source["path"]));
            if !HOST_PATHS.contains(&text(source, "type")) {
                errors.push(FieldError::not_supported(format!("{path}.type"), &source["type"], &HOST_PATHS));
            }
        }
        "configMap" => {
            errors.extend(required("name"));
            errors.extend(files(path, source));
        }
        "secret" => {
            errors.extend(required("secretName"));
            errors.extend(files(path, source));
        }
        "downwardAPI" => {
            errors.extend(mode(&format!("{path}.defaultMode"), &source["defaultMode"]));
            errors.extend(downward(path, source, spec));
        }
        "projected" => {
            errors.extend(mode(&format!("{path}.defaultMode"), &source["defaultMode"]));
            for (i, one) in items(source, "sources").iter().enumerate() {
                errors.extend(projected(&format!("{path}.sources[{i}]"), one, spec));
            }
        }
        "persistentVolumeClaim" => errors.extend(required("claimName")),
        "image" => {
            errors.extend(required("reference"));
            let policy = format!("{path}.pullPolicy");
            match text(source, "pullPolicy") {
                "" => errors.push(FieldError::required(policy, "")),
                given if PULL.contains(&given) => {}
                _ => errors.push(FieldError::not_supported(policy, &source["pullPolicy"], &PULL)),
            }
        }
        "nfs" => {
            errors.extend(required("server"));
            errors.extend(required("path"));
        }
        _ => {}
    }
    errors
}

fn projected(path: &str, source: &Value, spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for kind in ["configMap", "secret"] {
        let one = &source[kind];
        if !one.is_null() {
            if text(one, "name").is_empty() {
                errors.push(FieldError::required(format!("{path}.{kind}.name"), ""));
            }
            errors.extend(files(&format!("{path}.{kind}"), one));
        }
    }
    if source["downwardAPI"].is_object() {
        errors.extend(downward(&format!("{path}.downwardAPI"), &source["downwardAPI"], spec));
    }
    let token = &source["serviceAccountToken"];
    if token.is_object() {
        let at = format!("{path}.serviceAccountToken");
        match token["expirationSeconds"].as_i64() {
            Some(seconds) if seconds < 600 => {
                let why = "may not specify a duration less than 10 minutes";
                errors.push(FieldError::invalid(
                    format!("{at}.expirationSeconds"),
                    &token["expirationSeconds"],
                    why,
                ));
            }
            Some(seconds) if seconds > 1 << 32 => {
                let why = "may not specify a duration larger than 2^32 seconds";
                errors.push(FieldError::invalid(
                    format!("{at}.expirationSeconds"),
                    &token["expirationSeconds"],
                    why,
                ));
            }
            _ => {}
        }
        if text(token, "path").is_empty() {
            errors.push(FieldError::required(format!("{at}.path"), ""));
        }
        errors.extend(relative(&format!("{at}.path"), &token["path"]));
    }
    errors
}

/// The files that keys become.
fn files(path: &str, source: &Value) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> =
        mode(&format!("{path}.defaultMode"), &source["defaultMode"]).into_iter().collect();
    for (i, item) in items(source, "items").iter().enumerate() {
        let at = format!("{path}.items[{i}]");
        for field in ["key", "path"] {
            if text(item, field).is_empty() {
                errors.push(FieldError::required(format!("{at}.{field}"), ""));
            }
        }
        errors.extend(relative(&format!("{at}.path"), &item["path"]));
        errors.extend(mode(&format!("{at}.mode"), &item["mode"]));
    }
    errors
}

fn downward(path: &str, source: &Value, spec: &Value) -> Vec<FieldError> {
    const FIELDS: [&str; 5] =
        ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
    let mut errors = Vec::new();
    for (i, item) in items(source, "items").iter().enumerate() {
        // Kubernetes names the list itself here.
        let at = format!("{path}.items[{i}]");
        if text(item, "path").is_empty() {
            errors.push(FieldError::required(format!("{at}.path"), ""));
        }
        errors.extend(relative(&format!("{at}.path"), &item["path"]));
        match (&item["fieldRef"], &item["resourceFieldRef"]) {
            (Value::Null, Value::Null) => {
                errors.push(FieldError::required(&at, "one of fieldRef and resourceFieldRef is required"));
            }
            (Value::Null, reference) => {
                errors.extend(references::resource_ref(&format!("{at}.resourceFieldRef"), reference));
                let container = text(reference, "containerName");
                if container.is_empty() {
                    errors.push(FieldError::required(format!("{at}.resourceFieldRef.containerName"), ""));
                } else if !references::exists(spec, container) {
                    let given = &reference["containerName"];
                    errors.push(FieldError::not_found(format!("{at}.resourceFieldRef.containerName"), given));
                }
            }
            (reference, Value::Null) => {
                errors.extend(references::field_ref(&format!("{at}.fieldRef"), reference, &FIELDS));
            }
            _ => {
                let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(&at, &json!(""), why));
            }
        }
        errors.extend(mode(&format!("{at}.mode"), &item["mode"]));
    }
    errors
}

fn mode(path: &str, mode: &Value) -> Option<FieldError> {
    let bits = mode.as_i64()?;
    let why = "must be a number between 0 and 0777 (octal), both inclusive";
    (!(0..=0o777).contains(&bits)).then(|| FieldError::invalid(path, mode, why))
}

/// A path within a volume (`validateLocalDescendingPath`).
fn descending(path: &str, value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if value.as_str().is_some_and(|text| text.starts_with('/')) {
        errors.push(FieldError::invalid(path, value, "must be a relative path"));
    }
    errors.extend(no_way_back(path, value));
    errors
}

/// The same for what is written into a volume, where some names are the kubelet's own
/// (`validateLocalNonReservedPath`).
fn relative(path: &str, value: &Value) -> Vec<FieldError> {
    let text = value.as_str().unwrap_or_default();
    let mut errors = descending(path, value);
    if text.starts_with("..") && !text.starts_with("../") && text != ".." {
        errors.push(FieldError::invalid(path, value, "must not start with '..'"));
    }
    errors
}

fn no_way_back(path: &str, value: &Value) -> Option<FieldError> {
    let back = value.as_str().unwrap_or_default().split('/').any(|part| part == "..");
    back.then(|| FieldError::invalid(path, value, "must not contain '..'"))
}

/// A container's mounts, against the pod's volumes.
pub(super) fn mounts(path: &str, container: &Value, spec: &Value) -> Vec<FieldError> {
    const PROPAGATION: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
    let mut errors = Vec::new();
    let all = items(container, "volumeMounts");
    for (i, mount) in all.iter().enumerate() {
        let at = |field: &str| format!("{path}[{i}].{field}");
        let name = text(mount, "name");
        if name.is_empty() {
            errors.push(FieldError::required(at("name"), ""));
        } else if !items(spec, "volumes").iter().any(|v| text(v, "name") == name) {
            errors.push(FieldError::not_found(at("name"), &mount["name"]));
        }
        if text(mount, "mountPath").is_empty() {
            errors.push(FieldError::required(at("mountPath"), ""));
        }
        if all[..i].iter().any(|m| m["mountPath"] == mount["mountPath"]) {
            errors.push(FieldError::invalid(at("mountPath"), &mount["mountPath"], "must be unique"));
        }
        if is_set(mount, "subPath") && is_set(mount, "subPathExpr") {
            let why = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(at("subPathExpr"), &mount["subPathExpr"], why));
        }
        for field in ["subPath", "subPathExpr"] {
            errors.extend(descending(&at(field), &mount[field]));
        }
        if is_set(mount, "mountPropagation") {
            let kind = text(mount, "mountPropagation");
            if !PROPAGATION.contains(&kind) {
                errors.push(FieldError::not_supported(
                    at("mountPropagation"),
                    &mount["mountPropagation"],
                    &PROPAGATION,
                ));
            } else if kind == "Bidirectional" && container["securityContext"]["privileged"] != true {
                let why = "Bidirectional mount propagation is available only to privileged containers";
                errors.push(FieldError::forbidden(at("mountPropagation"), why));
            }
        }
    }
    errors
}
