//! What is wrong with a pod's volumes (`ValidateVolumes`).

use serde_json::{Value, json};

use super::super::value::{items, text};
use super::fields::invalid;
use super::sources;
use crate::api::meta;
use crate::api::names;
use crate::api::status::FieldError;

/// The volumes of a pod that nothing is wrong with, by which containers can refer to them.
pub(super) struct Volumes<'a>(Vec<&'a Value>);

impl<'a> Volumes<'a> {
    /// The volume of this name.
    pub(super) fn find(&self, name: &str) -> Option<&'a Value> {
        self.0.iter().copied().find(|volume| text(volume, "name") == name)
    }
}

/// The good volumes of a pod, and what is wrong with the others.
pub(super) fn validate(pod: &Value, is_pod: bool) -> (Volumes<'_>, Vec<FieldError>) {
    let all = items(&pod["spec"], "volumes");
    let pod_name = meta::name(pod);
    let claim_of = |volume: &Value| format!("{pod_name}-{}", text(volume, "name"));
    let mut good = Volumes(Vec::new());
    let mut errors = Vec::new();
    for (i, volume) in all.iter().enumerate() {
        let path = format!("spec.volumes[{i}]");
        let mut wrong = sources::validate(&path, volume, pod, is_pod);
        let at = format!("{path}.name");
        match text(volume, "name") {
            "" => wrong.push(FieldError::required(&at, "")),
            name => wrong.extend(invalid(&at, &volume["name"], names::dns_label(name))),
        }
        if good.find(text(volume, "name")).is_some() {
            wrong.push(FieldError::duplicate(at, &volume["name"]));
        }
        if wrong.is_empty() {
            good.0.push(volume);
        }
        errors.extend(wrong);
        let claim = &volume["persistentVolumeClaim"]["claimName"];
        let made = |other: &Value| !other["ephemeral"].is_null() && claim == &json!(claim_of(other));
        if !pod_name.is_empty() && all.iter().any(made) {
            let why = "must not reference a PVC that gets created for an ephemeral volume";
            let at = format!("{path}.persistentVolumeClaim.claimName");
            errors.push(FieldError::invalid(at, claim, why));
        }
    }
    (good, errors)
}

/// The mode of a file.
pub(super) fn mode(path: &str, mode: &Value) -> Option<FieldError> {
    let bits = mode.as_i64()?;
    let why = "must be a number between 0 and 0777 (octal), both inclusive";
    (!(0..=0o777).contains(&bits)).then(|| FieldError::invalid(path, mode, why))
}

/// A path within a volume (`validateLocalDescendingPath`).
pub(super) fn descending(path: &str, value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if value.as_str().is_some_and(|text| text.starts_with('/')) {
        errors.push(FieldError::invalid(path, value, "must be a relative path"));
    }
    errors.extend(no_way_back(path, value));
    errors
}

/// The same for what is written into a volume, where some names are the kubelet's own
/// (`validateLocalNonReservedPath`).
pub(super) fn relative(path: &str, value: &Value) -> Vec<FieldError> {
    let text = value.as_str().unwrap_or_default();
    let mut errors = descending(path, value);
    if text.starts_with("..") && !text.starts_with("../") {
        errors.push(FieldError::invalid(path, value, "must not start with '..'"));
    }
    errors
}

/// A path that does not lead back up.
pub(super) fn no_way_back(path: &str, value: &Value) -> Option<FieldError> {
    let back = value.as_str().unwrap_or_default().split('/').any(|part| part == "..");
    back.then(|| FieldError::invalid(path, value, "must not contain '..'"))
}
