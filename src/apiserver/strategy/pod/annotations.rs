//! What is wrong with the annotations of pods that mean something (`ValidatePodSpecificAnnotations`).

use serde_json::{Value, json};

use super::super::value::text;
use super::references::containers;
use super::volumes::descending;
use crate::api::meta;
use crate::api::status::FieldError;

const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SECCOMP: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_OF: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APPARMOR_OF: &str = "container.apparmor.security.beta.kubernetes.io/";

/// What is wrong with the annotations of a pod, or of a template of pods; `path` is that of its annotations.
pub(super) fn validate(path: &str, pod: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in meta::annotations(pod).as_object().into_iter().flatten() {
        let given = value.as_str().unwrap_or_default();
        let at = format!("{path}[{key}]");
        match key.as_str() {
            meta::MIRROR if text(&pod["spec"], "nodeName").is_empty() => {
                let why = "must set spec.nodeName if mirror pod annotation is set";
                errors.push(FieldError::invalid(at, value, why));
            }
            COST if !is_cost(given) => {
                errors.push(FieldError::invalid(at, value, "must be a 32bit integer"));
            }
            // Kubernetes writes these as if they were fields.
            key if key == SECCOMP || key.starts_with(SECCOMP_OF) => {
                errors.extend(seccomp(&format!("{path}.{key}"), given));
            }
            key => {
                let Some(name) = key.strip_prefix(APPARMOR_OF) else { continue };
                if !containers(&pod["spec"]).any(|(_, container)| text(container, "name") == name) {
                    errors.push(FieldError::invalid(&at, &json!(name), "container not found"));
                }
                let known = matches!(given, "" | "runtime/default" | "unconfined");
                if !known && !given.starts_with("localhost/") {
                    let why = format!("invalid AppArmor profile name: {given:?}");
                    errors.push(FieldError::invalid(at, value, &why));
                }
            }
        }
    }
    errors
}

/// What is wrong with the change of annotations that a pod keeps for its whole life: whether it is the image of a static
/// one, and the profiles of AppArmor of old (`ValidatePodSpecificAnnotationUpdates`).
pub(super) fn update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut told = |key: &str, what: &str| {
        let of = if key == meta::MIRROR {
            "mirror pod annotation"
        } else if key.starts_with(APPARMOR_OF) {
            "AppArmor annotations"
        } else {
            return;
        };
        let path = format!("metadata.annotations[{key}]");
        errors.push(FieldError::forbidden(path, &format!("may not {what} {of}")));
    };
    let entries = |pod| meta::annotations(pod).as_object().into_iter().flatten();
    for (key, value) in entries(old) {
        if meta::annotations(new)[key] != *value {
            told(key, "remove or update");
        }
    }
    for (key, _) in entries(new).filter(|(key, _)| meta::annotations(old)[key.as_str()].is_null()) {
        told(key, "add");
    }
    errors
}

/// Whether a text is a number without a sign of plus and without zeros in front.
fn is_cost(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = text == "0" || digits.starts_with(|c: char| ('1'..='9').contains(&c));
    text.is_empty() || (plain && text.parse::<i32>().is_ok())
}

fn seccomp(path: &str, profile: &str) -> Vec<FieldError> {
    if matches!(profile, "runtime/default" | "docker/default" | "unconfined") {
        return Vec::new();
    }
    match profile.strip_prefix("localhost/") {
        Some(file) => descending(path, &json!(file)),
        None => vec![FieldError::invalid(path, &json!(profile), "must be a valid seccomp profile")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_a_mirror_for_its_whole_life() {
        let plain = json!({"metadata": {"annotations": {}}});
        let mirror = json!({"metadata": {"annotations": {meta::MIRROR: "h", "a": "b"}}});
        for (new, old, what) in [(&mirror, &plain, "add"), (&plain, &mirror, "remove or update")] {
            let told = format!(
                "metadata.annotations[{}]: Forbidden: may not {what} mirror pod annotation",
                meta::MIRROR
            );
            assert_eq!(update(new, old).iter().map(ToString::to_string).collect::<Vec<_>>(), [told]);
        }
        assert!(update(&mirror, &mirror).is_empty());
    }

    #[test]
    fn annotations_with_a_meaning_are_checked() {
        let told = |annotations: Value| {
            let pod =
                json!({"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "c"}]}});
            validate("a", &pod).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(told(json!({COST: "-10", "x.io/y": "z", SECCOMP: "localhost/a"})).is_empty());
        assert_eq!(
            told(json!({COST: "+1"})),
            ["a[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"+1\": must be a 32bit integer"]
        );
        assert_eq!(
            told(json!({"kubernetes.io/config.mirror": "h"})),
            [
                "a[kubernetes.io/config.mirror]: Invalid value: \"h\": must set spec.nodeName if mirror pod annotation is set"
            ]
        );
        assert_eq!(told(json!({format!("{APPARMOR_OF}d"): "x"})).len(), 2);
        assert_eq!(
            told(json!({SECCOMP: "x"})),
            [
                "a.seccomp.security.alpha.kubernetes.io/pod: Invalid value: \"x\": must be a valid seccomp profile"
            ]
        );
    }
}
