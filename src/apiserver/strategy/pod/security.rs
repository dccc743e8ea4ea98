//! What is wrong with what a pod and its containers may do (`ValidateSecurityContext`,
//! `validatePodSpecSecurityContext`).

use serde_json::{Value, json};

use super::super::value::{is_set, items, text};
use super::fields::{id, word};
use super::volumes::descending;
use super::windows;
use crate::api::status::FieldError;

/// The longest path of a profile: that of the kernel, without the zero that ends it.
const LONGEST_PROFILE: usize = 4095;
/// The longest name of a kernel parameter.
const LONGEST_SYSCTL: usize = 253;

/// What is wrong with a container's context.
pub(super) fn container(path: &str, context: &Value, spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["runAsUser", "runAsGroup"] {
        errors.extend(id(&format!("{path}.{field}"), &context[field]));
    }
    let mount = format!("{path}.procMount");
    errors.extend(word(&mount, &context["procMount"], &["Default", "Unmasked"]));
    if context["procMount"] == "Unmasked" && spec["hostUsers"] != false {
        let why = "`hostUsers` must be false to use `Unmasked`";
        errors.push(FieldError::invalid(mount, &context["procMount"], why));
    }
    errors.extend(seccomp(&format!("{path}.seccompProfile"), &context["seccompProfile"]));
    if context["allowPrivilegeEscalation"] == false {
        if context["privileged"] == true {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(path, context, why));
        }
        if items(&context["capabilities"], "add").iter().any(|c| c == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(FieldError::invalid(path, context, why));
        }
    }
    errors.extend(windows::options(&format!("{path}.windowsOptions"), &context["windowsOptions"]));
    errors.extend(apparmor(&format!("{path}.appArmorProfile"), &context["appArmorProfile"]));
    errors
}

/// What is wrong with a pod's context.
pub(super) fn pod(spec: &Value) -> Vec<FieldError> {
    const PATH: &str = "spec.securityContext";
    let context = &spec["securityContext"];
    let mut errors = Vec::new();
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        errors.extend(id(&format!("{PATH}.{field}"), &context[field]));
    }
    for (i, group) in items(context, "supplementalGroups").iter().enumerate() {
        errors.extend(id(&format!("{PATH}.supplementalGroups[{i}]"), group));
    }
    if spec["hostPID"] == true && spec["shareProcessNamespace"] == true {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(format!("{PATH}.shareProcessNamespace"), &json!(true), why));
    }
    errors.extend(sysctls(spec, items(context, "sysctls")));
    let at = |field: &str| format!("{PATH}.{field}");
    let field = "fsGroupChangePolicy";
    errors.extend(word(&at(field), &context[field], &["Always", "OnRootMismatch"]));
    errors.extend(seccomp(&at("seccompProfile"), &context["seccompProfile"]));
    errors.extend(windows::options(&at("windowsOptions"), &context["windowsOptions"]));
    errors.extend(apparmor(&at("appArmorProfile"), &context["appArmorProfile"]));
    let field = "supplementalGroupsPolicy";
    errors.extend(word(&at(field), &context[field], &["Merge", "Strict"]));
    let field = "seLinuxChangePolicy";
    errors.extend(word(&at(field), &context[field], &["MountOption", "Recursive"]));
    errors
}

/// A user namespace of its own does not go with namespaces of the node, nor with devices (`validateHostUsers`).
pub(super) fn host_users(spec: &Value) -> Vec<FieldError> {
    const WHY: &str = "when `hostUsers` is false";
    if spec["hostUsers"] != false {
        return Vec::new();
    }
    let mut errors = Vec::new();
    // The names are those that Kubernetes says.
    for (field, said) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec[field] == true {
            errors.push(FieldError::forbidden(format!("spec.{said}"), WHY));
        }
    }
    for (path, container) in super::references::containers(spec) {
        if is_set(container, "volumeDevices") {
            errors.push(FieldError::forbidden(format!("{path}.volumeDevices"), WHY));
        }
    }
    errors
}

/// Parameters of the kernel: those of a namespace that the pod shares with the node are the node's.
fn sysctls(spec: &Value, sysctls: &[Value]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, sysctl) in sysctls.iter().enumerate() {
        let path = format!("spec.securityContext.sysctls[{i}].name");
        let name = text(sysctl, "name");
        if name.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if name.len() > LONGEST_SYSCTL || !is_sysctl(name) {
            let why = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.push(FieldError::invalid(&path, &sysctl["name"], why));
        } else if sysctls[..i].iter().any(|before| before["name"] == sysctl["name"]) {
            errors.push(FieldError::duplicate(&path, &sysctl["name"]));
        }
        let of = name.replace('/', ".");
        let shared = [("hostNetwork", of.starts_with("net.")), ("hostIPC", is_of_ipc(&of))];
        for (field, _) in shared.into_iter().filter(|(field, within)| *within && spec[*field] == true) {
            let why = format!("may not be specified when '{field}' is true");
            errors.push(FieldError::invalid(&path, &sysctl["name"], &why));
        }
    }
    errors
}

fn is_sysctl(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let part = |part: &str| {
        let bytes = part.as_bytes();
        let ends = bytes.first().zip(bytes.last()).is_some_and(|(first, last)| plain(*first) && plain(*last));
        ends && bytes.iter().all(|b| plain(*b) || matches!(b, b'-' | b'_'))
    };
    name.split(['.', '/']).all(part)
}

/// Whether a parameter belongs to a namespace of interprocess communication.
fn is_of_ipc(name: &str) -> bool {
    name == "kernel.sem" || ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|of| name.starts_with(of))
}

/// A profile of system calls.
fn seccomp(path: &str, profile: &Value) -> Vec<FieldError> {
    const TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
    if profile.is_null() {
        return Vec::new();
    }
    let kind = text(profile, "type");
    let mut errors = Vec::new();
    match kind {
        "" => {
            let why = "type is required when seccompProfile is set";
            errors.push(FieldError::required(format!("{path}.type"), why));
        }
        _ => errors.extend(word(&format!("{path}.type"), &profile["type"], &TYPES)),
    }
    let file = &profile["localhostProfile"];
    let at = format!("{path}.localhostProfile");
    match (kind, file) {
        ("Localhost", Value::Null) => {
            errors.push(FieldError::required(at, "must be set when seccomp type is Localhost"));
        }
        ("Localhost", file) => errors.extend(descending(&at, file)),
        (_, Value::Null) => {}
        _ => {
            let why = "can only be set when seccomp type is Localhost";
            errors.push(FieldError::invalid(at, profile, why));
        }
    }
    errors
}

/// A profile of AppArmor.
fn apparmor(path: &str, profile: &Value) -> Vec<FieldError> {
    const TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
    if profile.is_null() {
        return Vec::new();
    }
    let file = &profile["localhostProfile"];
    let at = format!("{path}.localhostProfile");
    let name = file.as_str().unwrap_or_default();
    let mut errors = Vec::new();
    match text(profile, "type") {
        "" => {
            let why = "type is required when appArmorProfile is set";
            errors.push(FieldError::required(format!("{path}.type"), why));
        }
        "Localhost" => {
            if name.trim() != name {
                errors.push(FieldError::invalid(&at, file, "must not be padded with whitespace"));
            } else if name.is_empty() {
                errors.push(FieldError::required(&at, "must be set when AppArmor type is Localhost"));
            }
            if name.len() > LONGEST_PROFILE {
                errors.push(FieldError::too_long(&at, LONGEST_PROFILE));
            }
        }
        "RuntimeDefault" | "Unconfined" if !file.is_null() => {
            errors.push(FieldError::invalid(at, file, "can only be set when AppArmor type is Localhost"));
        }
        _ => errors.extend(word(&format!("{path}.type"), &profile["type"], &TYPES)),
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn contexts_of_containers_are_checked() {
        for (context, expected) in [
            (
                json!({"procMount": "Unmasked"}),
                &["c.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`"][..],
            ),
            (
                json!({"procMount": "X"}),
                &["c.procMount: Unsupported value: \"X\": supported values: \"Default\", \"Unmasked\""],
            ),
            (
                json!({"appArmorProfile": {}}),
                &["c.appArmorProfile.type: Required value: type is required when appArmorProfile is set"],
            ),
            (
                json!({"appArmorProfile": {"type": "X"}}),
                &[
                    "c.appArmorProfile.type: Unsupported value: \"X\": supported values: \"Localhost\", \"RuntimeDefault\", \"Unconfined\"",
                ],
            ),
            (
                json!({"appArmorProfile": {"type": "Localhost"}}),
                &[
                    "c.appArmorProfile.localhostProfile: Required value: must be set when AppArmor type is Localhost",
                ],
            ),
            (
                json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": " a"}}),
                &[
                    "c.appArmorProfile.localhostProfile: Invalid value: \" a\": must not be padded with whitespace",
                ],
            ),
            (
                json!({"appArmorProfile": {"type": "Unconfined", "localhostProfile": "a"}}),
                &[
                    "c.appArmorProfile.localhostProfile: Invalid value: \"a\": can only be set when AppArmor type is Localhost",
                ],
            ),
            (
                json!({"seccompProfile": {}}),
                &["c.seccompProfile.type: Required value: type is required when seccompProfile is set"],
            ),
            (
                json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "/a"}}),
                &["c.seccompProfile.localhostProfile: Invalid value: \"/a\": must be a relative path"],
            ),
            (
                json!({"seccompProfile": {"type": "Unconfined", "localhostProfile": "a"}}),
                &[
                    "c.seccompProfile.localhostProfile: Invalid value: {\"localhostProfile\":\"a\",\"type\":\"Unconfined\"}: can only be set when seccomp type is Localhost",
                ],
            ),
        ] {
            assert_eq!(told(container("c", &context, &json!({}))), expected, "{context}");
        }
        assert!(container("c", &json!({"procMount": "Unmasked"}), &json!({"hostUsers": false})).is_empty());
    }

    #[test]
    fn contexts_of_pods_are_checked() {
        let sysctls =
            |names: &[&str]| names.iter().map(|name| json!({"name": name, "value": "1"})).collect::<Vec<_>>();
        for (spec, expected) in [
            (
                json!({"securityContext": {"sysctls": sysctls(&["net.core.somaxconn", "kernel.shmmax"])}}),
                &[][..],
            ),
            (
                json!({"securityContext": {"sysctls": sysctls(&["a.b", "a.b", "a..b", ".a", ""])}}),
                &[
                    "spec.securityContext.sysctls[1].name: Duplicate value: \"a.b\"",
                    "spec.securityContext.sysctls[2].name: Invalid value: \"a..b\": must have",
                    "spec.securityContext.sysctls[3].name: Invalid value: \".a\": must have",
                    "spec.securityContext.sysctls[4].name: Required value",
                ],
            ),
            (
                json!({"hostNetwork": true, "hostIPC": true, "securityContext": {"sysctls": sysctls(&["net/core/somaxconn", "kernel.sem"])}}),
                &[
                    "spec.securityContext.sysctls[0].name: Invalid value: \"net/core/somaxconn\": may not be specified when 'hostNetwork' is true",
                    "spec.securityContext.sysctls[1].name: Invalid value: \"kernel.sem\": may not be specified when 'hostIPC' is true",
                ],
            ),
            (
                json!({"securityContext": {"fsGroupChangePolicy": "X", "supplementalGroupsPolicy": "Y", "seLinuxChangePolicy": "Z"}}),
                &[
                    "spec.securityContext.fsGroupChangePolicy: Unsupported value: \"X\": supported values: \"Always\", \"OnRootMismatch\"",
                    "spec.securityContext.supplementalGroupsPolicy: Unsupported value: \"Y\": supported values: \"Merge\", \"Strict\"",
                    "spec.securityContext.seLinuxChangePolicy: Unsupported value: \"Z\": supported values: \"MountOption\", \"Recursive\"",
                ],
            ),
        ] {
            let told = told(pod(&spec));
            assert_eq!(told.len(), expected.len(), "{told:?}");
            assert!(told.iter().zip(expected).all(|(told, expected)| told.starts_with(expected)), "{told:?}");
        }
        let spec =
            json!({"hostUsers": false, "hostIPC": true, "containers": [{"volumeDevices": [{"name": "v"}]}]});
        assert_eq!(
            told(host_users(&spec)),
            [
                "spec.HostIPC: Forbidden: when `hostUsers` is false",
                "spec.containers[0].volumeDevices: Forbidden: when `hostUsers` is false",
            ]
        );
    }
}
