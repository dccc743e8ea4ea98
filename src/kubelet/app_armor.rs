//! Whether the node takes pods that AppArmor is to confine (kubelet's `pkg/security/apparmor`).

use std::path::Path;

use k8s_openapi::api::core::v1::{AppArmorProfile, Pod, PodSecurityContext, SecurityContext};

use super::status::Waiting;

/// Says `Y` where the kernel confines programs by AppArmor.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";

/// Whether this machine's kernel does.
pub fn is_enabled() -> bool {
    is_on(Path::new(ENABLED))
}

fn is_on(file: &Path) -> bool {
    std::fs::read(file).is_ok_and(|text| text.first() == Some(&b'Y'))
}

/// The profile of a container: its own, or else its pod's.
pub fn profile<'a>(
    pod: &'a PodSecurityContext,
    container: &'a SecurityContext,
) -> Option<&'a AppArmorProfile> {
    container.app_armor_profile.as_ref().or(pod.app_armor_profile.as_ref())
}

/// Why a node where it is on or not does not take a pod (pure).
pub fn rejection(pod: &Pod, enabled: bool) -> Option<Waiting> {
    let spec = pod.spec.as_ref().filter(|_| !enabled)?;
    let own = spec.security_context.clone().unwrap_or_default();
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut contexts = containers.map(|container| container.security_context.clone().unwrap_or_default());
    let confined =
        contexts.any(|context| profile(&own, &context).is_some_and(|profile| profile.type_ != "Unconfined"));
    confined.then(|| Waiting {
        reason: "AppArmor".into(),
        message: "Cannot enforce AppArmor: AppArmor is not enabled on the host".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn who_is_to_be_confined_needs_a_kernel_that_does() {
        let of = |kind: &str| json!({"appArmorProfile": {"type": kind, "localhostProfile": "p"}});
        for (pod, container, expected) in [
            (Value::Null, Value::Null, false),
            (of("Unconfined"), Value::Null, false),
            (of("RuntimeDefault"), Value::Null, true),
            (of("Localhost"), Value::Null, true),
            (of("Localhost"), of("Unconfined"), false),
            (Value::Null, of("RuntimeDefault"), true),
        ] {
            for list in ["containers", "initContainers"] {
                let mut spec = json!({"securityContext": pod, "containers": []});
                spec[list] = json!([{"name": "c", "securityContext": container}]);
                let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
                let why = rejection(&pod, false);
                assert_eq!(why.is_some(), expected, "{list} {spec}");
                assert!(why.is_none_or(|why| why.message.ends_with("AppArmor is not enabled on the host")));
                assert_eq!(rejection(&pod, true), None);
            }
        }
    }

    #[test]
    fn the_kernel_says_whether_it_does() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("enabled");
        assert!(!is_on(&file));
        for (text, expected) in [("Y\n", true), ("N\n", false)] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(is_on(&file), expected);
        }
    }
}
