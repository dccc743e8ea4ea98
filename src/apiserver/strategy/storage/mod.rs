//! `storage.k8s.io`: how volumes are made and attached, and by which drivers.

mod attachment;
mod capacity;
mod class;
mod driver;
mod node;

use serde_json::Value;

use super::Strategy;
use super::value::entries;
use crate::api::names;
use crate::api::status::FieldError;

/// The strategy of a kind of this group.
pub(super) fn of(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "CSIDriver" => &driver::CsiDriver,
        "CSINode" => &node::CsiNode,
        "CSIStorageCapacity" => &capacity::CsiStorageCapacity,
        "StorageClass" => &class::StorageClass,
        "VolumeAttachment" => &attachment::VolumeAttachment,
        "VolumeAttributesClass" => &class::VolumeAttributesClass,
        _ => return None,
    })
}

/// The most parameters of a class, and their most bytes, keys and values together.
const PARAMETERS: usize = 512;
const PARAMETER_BYTES: usize = 256 * 1024;
/// The longest name of a driver.
const DRIVER_BYTES: usize = 63;

/// Who carries out a class.
fn provisioner(path: &str, given: &Value) -> Vec<FieldError> {
    let name = given.as_str().unwrap_or_default().to_lowercase();
    match name.is_empty() {
        true => vec![FieldError::required(path, "")],
        false => super::error::invalid(path, &name.as_str().into(), names::qualified_name(&name)),
    }
}

/// What the provisioner of a class is told.
fn parameters(object: &Value) -> Vec<FieldError> {
    const PATH: &str = "parameters";
    if entries(object, "parameters").count() > PARAMETERS {
        return vec![FieldError::too_long(PATH, PARAMETERS)];
    }
    let mut errors = Vec::new();
    if entries(object, "parameters").any(|(key, _)| key.is_empty()) {
        errors.push(FieldError::invalid(PATH, &"".into(), "field can not be empty."));
    }
    if bytes(object, "parameters") > PARAMETER_BYTES {
        errors.push(FieldError::too_long(PATH, PARAMETER_BYTES));
    }
    errors
}

/// The bytes of a field's keys and values together.
fn bytes(object: &Value, field: &str) -> usize {
    entries(object, field).map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum()
}

/// The name of a CSI driver, as other objects name it.
fn driver_name(path: &str, given: &Value) -> Vec<FieldError> {
    let name = given.as_str().unwrap_or_default();
    let mut errors = Vec::new();
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    if name.len() > DRIVER_BYTES {
        errors.push(FieldError::too_long(path, DRIVER_BYTES));
    }
    errors.extend(super::error::invalid(path, &name.into(), names::dns_subdomain(&name.to_lowercase())));
    errors
}

/// What changed though it may not, in the words of classes.
fn frozen(new: &Value, old: &Value, field: &str) -> Option<FieldError> {
    let changed = !super::error::same(&new[field], &old[field]);
    changed.then(|| FieldError::forbidden(field, &format!("updates to {field} are forbidden.")))
}
