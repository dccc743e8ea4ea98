//! What within a pod refers to its fields and to its containers.

use serde_json::{Value, json};

use super::super::value::{items, text};
use super::fields::invalid;
use crate::api::names;
use crate::api::quantity;
use crate::api::status::FieldError;

/// The fields of pods that can be referred to somewhere.
const FIELDS: [&str; 15] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "spec.terminationGracePeriodSeconds",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// The containers of all three sorts with their paths, in the order in which Kubernetes visits them.
pub(super) fn containers(spec: &Value) -> impl Iterator<Item = (String, &Value)> {
    let lists = ["initContainers", "containers", "ephemeralContainers"].into_iter();
    lists.flat_map(move |list| {
        items(spec, list).iter().enumerate().map(move |(i, of)| (format!("spec.{list}[{i}]"), of))
    })
}

/// A field of the pod itself, by its path (`validateObjectFieldSelector`).
pub(super) fn field_ref(path: &str, reference: &Value, allowed: &[&str]) -> Vec<FieldError> {
    let at = format!("{path}.fieldPath");
    let field = text(reference, "fieldPath");
    if text(reference, "apiVersion").is_empty() {
        return vec![FieldError::required(format!("{path}.apiVersion"), "")];
    }
    if field.is_empty() {
        return vec![FieldError::required(at, "")];
    }
    let unknown = |why: &str| {
        let why = format!("error converting fieldPath: field label {why}: {field}");
        vec![FieldError::invalid(at.as_str(), &reference["fieldPath"], &why)]
    };
    match field.strip_suffix("']").and_then(|field| field.split_once("['")) {
        Some((map @ ("metadata.labels" | "metadata.annotations"), key)) => {
            let name = if map == "metadata.labels" { key.to_owned() } else { key.to_lowercase() };
            invalid(path, &json!(name), names::qualified_name(&name))
        }
        Some((of, _)) if !of.is_empty() => unknown("does not support subscript"),
        _ if allowed.contains(&field) => Vec::new(),
        _ if FIELDS.contains(&field) => {
            vec![FieldError::not_supported(at, &reference["fieldPath"], allowed)]
        }
        _ => unknown("not supported"),
    }
}

/// What is wrong with a reference to a resource of a container; one in a volume names the container
/// (`validateContainerResourceFieldSelector`).
pub(super) fn resource_ref(path: &str, reference: &Value, in_volume: bool) -> Vec<FieldError> {
    const ALLOWED: [&str; 6] = [
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    let resource = text(reference, "resource");
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    let mut errors = Vec::new();
    if in_volume && text(reference, "containerName").is_empty() {
        errors.push(FieldError::required(format!("{path}.containerName"), ""));
    } else if resource.is_empty() {
        errors.push(FieldError::required(format!("{path}.resource"), ""));
    } else if !huge && !ALLOWED.contains(&resource) {
        errors.push(FieldError::not_supported(format!("{path}.resource"), &reference["resource"], &ALLOWED));
    }
    errors.extend(divisor(&format!("{path}.divisor"), resource, &reference["divisor"]));
    errors
}

/// What amounts are told in: whole processors or thousandths of one, and bytes or the usual multiples of them.
fn divisor(path: &str, resource: &str, divisor: &Value) -> Option<FieldError> {
    const BYTES: [&str; 13] =
        ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let amount = divisor.as_str().and_then(|text| quantity::parse(text).ok()).filter(|a| !a.is_zero())?;
    let shown = amount.to_string();
    let (kind, said) = match resource.split_once('.')?.1 {
        "cpu" => ("cpu", "cpu"),
        "memory" => ("bytes", "memory"),
        "ephemeral-storage" => ("bytes", "local ephemeral storage"),
        other if other.starts_with("hugepages-") => ("bytes", "hugepages"),
        _ => return None,
    };
    let why = match kind {
        "cpu" if matches!(shown.as_str(), "1m" | "1") => return None,
        "cpu" => format!("only divisor's values 1m and 1 are supported with the {said} resource"),
        _ if BYTES.contains(&shown.as_str()) => return None,
        _ => format!("only divisor's values {} are supported with the {said} resource", BYTES.join(", ")),
    };
    // The value is what Kubernetes shows.
    Some(FieldError::invalid(path, &json!(resource), &why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_checked() {
        let told = |errors: Vec<FieldError>| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        let field = |path: &str| {
            told(field_ref("f", &json!({"apiVersion": "v1", "fieldPath": path}), &["metadata.name"]))
        };
        assert!(field("metadata.name").is_empty() && field("metadata.labels['a.b/c']").is_empty());
        assert!(field("metadata.annotations['A.b/C']").is_empty());
        assert!(
            field("metadata.labels['A.b/C']")[0].starts_with("f: Invalid value: \"A.b/C\": prefix part ")
        );
        assert_eq!(
            field("spec.nodeName"),
            ["f.fieldPath: Unsupported value: \"spec.nodeName\": supported values: \"metadata.name\""]
        );
        assert_eq!(
            field("spec.x"),
            [
                "f.fieldPath: Invalid value: \"spec.x\": error converting fieldPath: field label not supported: spec.x"
            ]
        );
        let resource = |reference: Value| told(resource_ref("r", &reference, true));
        assert!(
            resource(json!({"containerName": "c", "resource": "limits.cpu", "divisor": "1m"})).is_empty()
        );
        assert_eq!(resource(json!({"resource": "limits.cpu"})), ["r.containerName: Required value"]);
        assert_eq!(
            resource(json!({"containerName": "c", "resource": "limits.memory", "divisor": "2Mi"})),
            [
                "r.divisor: Invalid value: \"limits.memory\": only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource"
            ]
        );
    }
}
