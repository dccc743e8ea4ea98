//! What within a pod refers to its fields and to its containers.

use serde_json::{Value, json};

use super::super::value::{items, text};
use crate::api::names;
use crate::api::status::FieldError;

/// The containers of all three sorts, with the paths of their lists.
fn all_containers(spec: &Value) -> impl Iterator<Item = (&'static str, &Value)> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|list| items(spec, list).iter().map(move |c| (list, c)))
}

/// Whether any container of the pod has that name.
pub(super) fn exists(spec: &Value, name: &str) -> bool {
    all_containers(spec).any(|(_, c)| text(c, "name") == name)
}

/// A field of the pod itself, by its path.
pub(super) fn field_ref(path: &str, reference: &Value, allowed: &[&str]) -> Option<FieldError> {
    let at = format!("{path}.fieldPath");
    let field = text(reference, "fieldPath");
    if field.is_empty() {
        return Some(FieldError::required(at, ""));
    }
    for map in ["metadata.labels", "metadata.annotations"] {
        if let Some(key) =
            field.strip_prefix(map).and_then(|k| k.strip_prefix("['")).and_then(|k| k.strip_suffix("']"))
        {
            return names::qualified_name(key)
                .first()
                .map(|w| FieldError::invalid(at.as_str(), &json!(key), w));
        }
    }
    (!allowed.contains(&field)).then(|| FieldError::not_supported(at, &reference["fieldPath"], allowed))
}

/// A resource of a container, by its name.
pub(super) fn resource_ref(path: &str, reference: &Value) -> Option<FieldError> {
    const ALLOWED: [&str; 6] = [
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    let at = format!("{path}.resource");
    let resource = text(reference, "resource");
    if resource.is_empty() {
        return Some(FieldError::required(at, ""));
    }
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    (!huge && !ALLOWED.contains(&resource))
        .then(|| FieldError::not_supported(at, &reference["resource"], &ALLOWED))
}
