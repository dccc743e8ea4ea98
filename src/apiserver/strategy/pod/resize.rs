//! What a resize of a pod may change: CPU and memory of its containers, and of all of them together
//! (`ValidatePodResize`).

use serde_json::{Value, json};

use super::super::value::{entries, items, text};
use crate::api::meta;
use crate::api::pod::qos;
use crate::api::status::FieldError;

/// What may change, in a list's requests or limits.
const MUTABLE: [&str; 2] = ["cpu", "memory"];

pub(super) fn resize(new: &Value, old: &Value) -> Vec<FieldError> {
    if meta::annotation(old, meta::MIRROR).is_some() {
        return vec![FieldError::forbidden("", "static pods cannot be resized")];
    }
    let mut errors = Vec::new();
    let class = qos::class(new);
    if text(&old["status"], "qosClass") != class {
        let why = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid("spec", &json!(class), why));
    }
    errors.extend(whole(&new["spec"]["resources"], &old["spec"]["resources"]));
    let misplaced = misplaced(&new["spec"], &old["spec"]);
    if !misplaced.is_empty() {
        errors.extend(misplaced);
        return errors;
    }
    for list in ["initContainers", "containers"] {
        for (i, (new, old)) in items(&new["spec"], list).iter().zip(items(&old["spec"], list)).enumerate() {
            let path = format!("spec.{list}[{i}]");
            let same_policy = new["resizePolicy"] == old["resizePolicy"];
            let (new, old) = (&new["resources"], &old["resources"]);
            for kind in ["requests", "limits"] {
                if entries(old, kind).any(|(name, _)| new[kind][name].is_null()) {
                    let why = format!("resource {kind} cannot be removed");
                    errors.push(FieldError::forbidden(format!("{path}.resources.{kind}"), &why));
                }
            }
            if fixed(new) != fixed(old) || !same_policy {
                errors.push(match list {
                    "containers" => {
                        FieldError::forbidden("spec", "only cpu and memory resources are mutable")
                    }
                    _ => {
                        let why = "only cpu and memory resources for init or sidecar containers are mutable";
                        FieldError::forbidden(path, why)
                    }
                });
            }
        }
    }
    errors
}

/// What is wrong with a change of what a pod states for all of its containers (`validatePodLevelResourcesResize`).
fn whole(new: &Value, old: &Value) -> Vec<FieldError> {
    const PATH: &str = "spec.resources";
    if new.is_null() && !old.is_null() {
        return vec![FieldError::forbidden(PATH, "pod-level resources cannot be removed")];
    }
    let mut errors = Vec::new();
    for kind in ["requests", "limits"] {
        if entries(old, kind).any(|(name, _)| new[kind][name].is_null()) {
            let why = format!("pod-level resource {kind} cannot be removed");
            errors.push(FieldError::forbidden(format!("{PATH}.{kind}"), &why));
        }
    }
    let beside = |resources: &Value| {
        Some(fixed(resources)).filter(|left| left.as_object().is_some_and(|l| !l.is_empty()))
    };
    if beside(new) != beside(old) {
        errors.push(FieldError::forbidden("spec", "only cpu and memory resources are mutable at pod-level"));
    }
    errors
}

/// Containers that a resize would add, remove, rename or move.
fn misplaced(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for list in ["containers", "initContainers"] {
        let (new, old) = (items(new, list), items(old, list));
        if new.len() != old.len() {
            let why = format!("{list} may not be added or removed on resize");
            errors.push(FieldError::forbidden(format!("spec.{list}"), &why));
            continue;
        }
        for (i, _) in new.iter().zip(old).enumerate().filter(|(_, (new, old))| new["name"] != old["name"]) {
            let why = format!("{list} may not be renamed or reordered on resize");
            errors.push(FieldError::forbidden(format!("spec.{list}[{i}].name"), &why));
        }
    }
    errors
}

/// What of a container's resources a resize leaves as it is.
fn fixed(resources: &Value) -> Value {
    let mut fixed = resources.clone();
    for kind in ["requests", "limits"] {
        let Some(amounts) = fixed.get_mut(kind).and_then(Value::as_object_mut) else { continue };
        amounts.retain(|name, _| !MUTABLE.contains(&name.as_str()));
        if amounts.is_empty()
            && let Some(fields) = fixed.as_object_mut()
        {
            fields.remove(kind);
        }
    }
    fixed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_and_memory_of_all_containers_change_as_well() {
        let pod = |resources: Value| {
            json!({"metadata": {}, "status": {"qosClass": "Burstable"}, "spec": {"resources": resources,
                "containers": [{"name": "a", "resources": {"requests": {"cpu": "1m"}}}]}})
        };
        let some = json!({"requests": {"cpu": "1", "memory": "1Mi"}, "limits": {"cpu": "2"}});
        for (old, new, error) in [
            (
                &some,
                json!({"requests": {"cpu": "2", "memory": "2Mi"}, "limits": {"cpu": "3", "memory": "9Mi"}}),
                None,
            ),
            (&Value::Null, json!({"requests": {"cpu": "2"}}), None),
            (&some, Value::Null, Some("spec.resources: Forbidden: pod-level resources cannot be removed")),
            (
                &some,
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}),
                Some("spec.resources.requests: Forbidden: pod-level resource requests cannot be removed"),
            ),
            (
                &some,
                json!({"requests": {"cpu": "1", "memory": "1Mi"}}),
                Some("spec.resources.limits: Forbidden: pod-level resource limits cannot be removed"),
            ),
            (
                &some,
                json!({"requests": {"cpu": "1", "memory": "1Mi", "hugepages-2Mi": "2Mi"}, "limits": {"cpu": "2"}}),
                Some("spec: Forbidden: only cpu and memory resources are mutable at pod-level"),
            ),
        ] {
            let told: Vec<String> =
                resize(&pod(new.clone()), &pod(old.clone())).iter().map(ToString::to_string).collect();
            assert_eq!(told, error.into_iter().collect::<Vec<_>>(), "{old} {new}");
        }
    }

    #[test]
    fn cpu_and_memory_change_within_the_class() {
        let pod = |resources: Value| {
            json!({"metadata": {}, "status": {"qosClass": "Burstable"},
                "spec": {"containers": [{"name": "a", "resources": resources}]}})
        };
        let old = pod(json!({"requests": {"cpu": "1", "memory": "1Mi"}, "limits": {"cpu": "2"}}));
        for (resources, error) in [
            (
                json!({"requests": {"cpu": "2", "memory": "2Mi"}, "limits": {"cpu": "3", "memory": "9Mi"}}),
                None,
            ),
            (
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}),
                Some("spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"),
            ),
            (
                json!({"requests": {"cpu": "1", "memory": "1Mi"}}),
                Some("spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"),
            ),
            (
                json!({"requests": {"cpu": "1", "memory": "1Mi"}, "limits": {"cpu": "1", "memory": "1Mi"}}),
                Some(
                    "spec: Invalid value: \"Guaranteed\": Pod QOS Class may not change as a result of resizing",
                ),
            ),
            (
                json!({"requests": {"cpu": "1", "memory": "1Mi", "ephemeral-storage": "1"}, "limits": {"cpu": "2"}}),
                Some("spec: Forbidden: only cpu and memory resources are mutable"),
            ),
        ] {
            let told = resize(&pod(resources.clone()), &old).first().map(ToString::to_string);
            assert_eq!(told.as_deref(), error, "{resources}");
        }
        let named = |names: &[&str]| {
            let containers: Vec<Value> = names
                .iter()
                .map(|name| json!({"name": name, "resources": {"requests": {"cpu": "1"}}}))
                .collect();
            json!({"status": {"qosClass": "Burstable"}, "spec": {"containers": containers}})
        };
        let told = |new: &Value, old: &Value| -> Vec<String> {
            resize(new, old).iter().map(ToString::to_string).collect()
        };
        let reordered = |i: usize| {
            format!(
                "spec.containers[{i}].name: Forbidden: containers may not be renamed or reordered on resize"
            )
        };
        assert_eq!(told(&named(&["b", "a"]), &named(&["a", "b"])), [reordered(0), reordered(1)]);
        assert_eq!(
            told(&named(&["a"]), &named(&["a", "b"])),
            ["spec.containers: Forbidden: containers may not be added or removed on resize"]
        );
        let mut restarts = named(&["a"]);
        restarts["spec"]["containers"][0]["resizePolicy"] =
            json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
        assert_eq!(
            told(&restarts, &named(&["a"])),
            ["spec: Forbidden: only cpu and memory resources are mutable"]
        );
        let mut mirror = old.clone();
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "h"});
        assert!(resize(&old, &mirror)[0].to_string().contains("static pods cannot be resized"));
    }
}
