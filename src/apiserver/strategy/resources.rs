//! The names of resources, as quotas and limits have them (`pkg/apis/core/helper`).

use serde_json::{Value, json};

use crate::api::names;
use crate::api::status::FieldError;

const COMPUTE: &[&str] = &["cpu", "memory", "ephemeral-storage"];
/// What a quota can hold to a number of objects.
const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// Whether a name stands for huge pages of one size.
pub(super) fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Whether a name is Kubernetes' own.
pub(super) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether more of a resource can be promised than there is.
pub(super) fn can_be_overcommitted(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether a resource comes in whole numbers.
pub(super) fn is_counted(name: &str) -> bool {
    COUNTED.contains(&name) || is_extended(name)
}

/// Whether a quota knows the name.
pub(super) fn is_quota(name: &str) -> bool {
    let bounded = name.strip_prefix("requests.").or(name.strip_prefix("limits.")).unwrap_or(name);
    let huge = is_huge_pages(name) || name.starts_with("requests.hugepages-");
    COMPUTE.contains(&bounded) || COUNTED.contains(&name) || name == "requests.storage" || huge
}

/// A name that is Kubernetes' own or qualified.
pub(super) fn name(path: &str, name: &str) -> Vec<FieldError> {
    let wrong = names::qualified_name(name);
    if !wrong.is_empty() {
        return wrong.iter().map(|w| FieldError::invalid(path, &json!(name), w)).collect();
    }
    if name.contains('/') || is_quota(name) || name == "storage" {
        return Vec::new();
    }
    vec![FieldError::invalid(path, &json!(name), "must be a standard resource type or fully qualified")]
}

/// A name of what a container can ask for.
pub(super) fn container_name(path: &str, given: &str) -> Vec<FieldError> {
    let mut errors = name(path, given);
    if !given.contains('/') {
        if !COMPUTE.contains(&given) && !is_huge_pages(given) {
            errors.push(FieldError::invalid(
                path,
                &json!(given),
                "must be a standard resource for containers",
            ));
        }
    } else if !is_native(given) && !is_extended(given) {
        errors.push(FieldError::invalid(
            path,
            &json!(given),
            "doesn't follow extended resource name standard",
        ));
    }
    errors
}

/// A name of what a quota can hold to a limit.
pub(super) fn quota_name(path: &str, given: &str) -> Vec<FieldError> {
    let mut errors = name(path, given);
    if !given.contains('/') && !is_quota(given) {
        errors.push(FieldError::invalid(path, &json!(given), "must be a standard resource for quota"));
    }
    errors
}

/// An amount of a resource, which is not below nothing and whole where it is counted.
pub(super) fn amount(path: &str, name: &str, value: &Value) -> Vec<FieldError> {
    let Some(amount) = value.as_str().and_then(|text| crate::api::quantity::parse(text).ok()) else {
        return Vec::new();
    };
    let mut errors = Vec::new();
    if amount.is_negative() {
        errors.push(FieldError::invalid(path, value, super::checks::NEGATIVE));
    }
    if is_counted(name) && !amount.is_integer() {
        errors.push(FieldError::invalid(path, value, "must be an integer"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        for (given, counted, quota, container) in [
            ("cpu", false, true, true),
            ("requests.cpu", false, true, false),
            ("limits.memory", false, true, false),
            ("requests.storage", false, true, false),
            ("hugepages-2Mi", false, true, true),
            ("pods", true, true, false),
            ("services.nodeports", true, true, false),
            ("count/deployments.apps", true, true, true),
            ("nvidia.com/gpu", true, true, true),
            ("gold.storageclass.storage.k8s.io/requests.storage", true, true, true),
            ("storage", false, false, false),
            ("cpus", false, false, false),
        ] {
            assert_eq!(is_counted(given), counted, "{given}");
            assert_eq!(quota_name("p", given).is_empty(), quota, "{given}");
            assert_eq!(container_name("p", given).is_empty(), container, "{given}");
        }
        let told: Vec<String> = quota_name("p", "cpus").iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "p: Invalid value: \"cpus\": must be a standard resource type or fully qualified",
                "p: Invalid value: \"cpus\": must be a standard resource for quota"
            ]
        );
        assert_eq!(amount("p", "pods", &json!("500m")).len(), 1);
        assert_eq!(amount("p", "cpu", &json!("-1")).len(), 1);
    }
}
