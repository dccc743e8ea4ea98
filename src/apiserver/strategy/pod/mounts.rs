//! What is wrong with how a container uses the pod's volumes (`ValidateVolumeMounts`, `ValidateVolumeDevices`).

use serde_json::{Value, json};

use super::super::value::{is_set, items, text};
use super::fields::word;
use super::volumes::{Volumes, descending, no_way_back};
use crate::api::status::FieldError;

/// What is wrong with a container's mounts.
pub(super) fn mounts(path: &str, container: &Value, volumes: &Volumes<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let all = items(container, "volumeMounts");
    let devices = items(container, "volumeDevices");
    for (i, mount) in all.iter().enumerate() {
        let at = |field: &str| format!("{path}[{i}].{field}");
        let (name, place) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            errors.push(FieldError::required(at("name"), ""));
        }
        if volumes.find(name).is_none() {
            errors.push(FieldError::not_found(at("name"), &json!(name)));
        }
        if place.is_empty() {
            errors.push(FieldError::required(at("mountPath"), ""));
        }
        if all[..i].iter().any(|before| text(before, "mountPath") == place) {
            errors.push(FieldError::invalid(at("mountPath"), &json!(place), "must be unique"));
        }
        if devices.iter().any(|device| text(device, "name") == name) {
            let why = "must not already exist in volumeDevices";
            errors.push(FieldError::invalid(at("name"), &json!(name), why));
        }
        if devices.iter().any(|device| text(device, "devicePath") == place) {
            let why = "must not already exist as a path in volumeDevices";
            errors.push(FieldError::invalid(at("mountPath"), &json!(place), why));
        }
        errors.extend(descending(&format!("{path}.subPath"), &mount["subPath"]));
        if is_set(mount, "subPath") && is_set(mount, "subPathExpr") {
            let why = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(at("subPathExpr"), &mount["subPathExpr"], why));
        }
        errors.extend(descending(&format!("{path}.subPathExpr"), &mount["subPathExpr"]));
        errors.extend(propagation(&format!("{path}.mountPropagation"), mount, container));
        errors.extend(recursive(&format!("{path}.recursiveReadOnly"), mount));
    }
    errors
}

/// Whether mounts below are seen on the other side; Kubernetes does not say of which mount it tells.
fn propagation(path: &str, mount: &Value, container: &Value) -> Vec<FieldError> {
    const KINDS: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
    let kind = &mount["mountPropagation"];
    let mut errors: Vec<FieldError> = word(path, kind, &KINDS).into_iter().collect();
    if kind == "Bidirectional" && container["securityContext"]["privileged"] != true {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(path, why));
    }
    errors
}

/// Whether mounts below a read-only one are read-only, too.
fn recursive(path: &str, mount: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match mount["recursiveReadOnly"].as_str() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount["readOnly"] != true {
                errors.push(FieldError::forbidden(path, "may only be specified when readOnly is true"));
            }
            if mount["mountPropagation"].as_str().is_some_and(|kind| kind != "None") {
                let why = "may only be specified when mountPropagation is None or not specified";
                errors.push(FieldError::forbidden(path, why));
            }
        }
        Some(_) => {
            let kinds = ["Disabled", "Enabled", "IfPossible"];
            errors.push(FieldError::not_supported(path, &mount["recursiveReadOnly"], &kinds));
        }
    }
    errors
}

/// What is wrong with a container's devices.
pub(super) fn devices(path: &str, container: &Value, volumes: &Volumes<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let all = items(container, "volumeDevices");
    let mounts = items(container, "volumeMounts");
    for (i, device) in all.iter().enumerate() {
        let at = |field: &str| format!("{path}[{i}].{field}");
        let (name, place) = (text(device, "name"), text(device, "devicePath"));
        let wrong_name = |why: &str| FieldError::invalid(at("name"), &json!(name), why);
        let wrong_place = |why: &str| FieldError::invalid(at("devicePath"), &json!(place), why);
        let before = |field: &str, value: &str| all[..i].iter().any(|before| text(before, field) == value);
        if name.is_empty() {
            errors.push(FieldError::required(at("name"), ""));
        } else if before("name", name) {
            errors.push(wrong_name("must be unique"));
        }
        match volumes.find(name) {
            None => errors.push(FieldError::not_found(at("name"), &json!(name))),
            Some(volume) if volume["persistentVolumeClaim"].is_null() && volume["ephemeral"].is_null() => {
                errors.push(wrong_name(
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                ));
            }
            Some(_) => {}
        }
        if place.is_empty() {
            errors.push(FieldError::required(at("devicePath"), ""));
        }
        if before("devicePath", place) {
            errors.push(wrong_place("must be unique"));
        }
        if no_way_back("", &device["devicePath"]).is_some() {
            errors.push(wrong_place("can not contain backsteps ('..')"));
        }
        if mounts.iter().any(|mount| text(mount, "name") == name) {
            errors.push(wrong_name("must not already exist in volumeMounts"));
        }
        if mounts.iter().any(|mount| text(mount, "mountPath") == place) {
            errors.push(wrong_place("must not already exist as a path in volumeMounts"));
        }
    }
    errors
}
