//! What a resize of a pod may change: CPU and memory of its containers (`ValidatePodResize`).

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
    for list in ["initContainers", "containers"] {
        for (i, (new, old)) in items(&new["spec"], list).iter().zip(items(&old["spec"], list)).enumerate() {
            let path = format!("spec.{list}[{i}]");
            let (new, old) = (&new["resources"], &old["resources"]);
            for kind in ["requests", "limits"] {
                if entries(old, kind).any(|(name, _)| new[kind][name].is_null()) {
                    let why = format!("resource {kind} cannot be removed");
                    errors.push(FieldError::forbidden(format!("{path}.resources.{kind}"), &why));
                }
            }
            if fixed(new) != fixed(old) {
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
        let mut mirror = old.clone();
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "h"});
        assert!(resize(&old, &mirror)[0].to_string().contains("static pods cannot be resized"));
    }
}
