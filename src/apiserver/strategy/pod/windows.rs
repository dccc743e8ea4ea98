//! What a pod says of its operating system, and what it cannot say then (`validateOS`, `validateWindows`,
//! `validateWindowsSecurityContextOptions`).

use serde_json::{Value, json};

use super::super::value::{is_zero, text};
use super::fields::invalid;
use super::references::containers;
use crate::api::names;
use crate::api::status::FieldError;

const SYSTEMS: [&str; 2] = ["linux", "windows"];
/// What the specification of a pod for Windows cannot have.
const OF_PODS: [&str; 15] = [
    "securityContext.appArmorProfile",
    "securityContext.seLinuxOptions",
    "hostUsers",
    "hostPID",
    "hostIPC",
    "securityContext.seccompProfile",
    "securityContext.fsGroup",
    "securityContext.fsGroupChangePolicy",
    "securityContext.sysctls",
    "shareProcessNamespace",
    "securityContext.runAsUser",
    "securityContext.runAsGroup",
    "securityContext.supplementalGroups",
    "securityContext.supplementalGroupsPolicy",
    "securityContext.seLinuxChangePolicy",
];
/// What the context of a container for Windows cannot have.
const OF_CONTAINERS: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];
const LONGEST_SPECIFICATION_KIB: usize = 64;
const LONGEST_DOMAIN: usize = 256;
const LONGEST_USER: usize = 104;

/// What is wrong with the system that a pod names and with what does not go with it.
pub(super) fn system(spec: &Value) -> Vec<FieldError> {
    let system = &spec["os"];
    if system.is_null() {
        return Vec::new();
    }
    match text(system, "name") {
        "" => vec![FieldError::required("spec.os.name", "cannot be empty")],
        "linux" => for_linux(spec),
        "windows" => for_windows(spec),
        // Kubernetes names the object here.
        _ => vec![FieldError::not_supported("spec.os", &system["name"], &SYSTEMS)],
    }
}

fn for_linux(spec: &Value) -> Vec<FieldError> {
    let contexts = [("spec.securityContext".to_owned(), &spec["securityContext"])].into_iter().chain(
        containers(spec).map(|(path, of)| (format!("{path}.securityContext"), &of["securityContext"])),
    );
    let given = contexts.filter(|(_, context)| !context["windowsOptions"].is_null());
    let why = "windows options cannot be set for a linux pod";
    given.map(|(path, _)| FieldError::forbidden(format!("{path}.windowsOptions"), why)).collect()
}

fn for_windows(spec: &Value) -> Vec<FieldError> {
    let given = OF_PODS.iter().filter(|field| {
        let value = field.split('.').fold(spec, |within, part| &within[part]);
        match **field {
            // Off, or empty, is as good as absent here.
            "hostPID" | "hostIPC" | "securityContext.sysctls" => !is_zero(value),
            _ => !value.is_null(),
        }
    });
    let mut given: Vec<String> = given.map(|field| format!("spec.{field}")).collect();
    for (path, container) in containers(spec) {
        let context = &container["securityContext"];
        let own = OF_CONTAINERS.iter().filter(|field| !context[**field].is_null());
        given.extend(own.map(|field| format!("{path}.securityContext.{field}")));
    }
    given.into_iter().map(|path| FieldError::forbidden(path, "cannot be set for a windows pod")).collect()
}

/// What is wrong with options for Windows.
pub(super) fn options(path: &str, options: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let field = "gmsaCredentialSpecName";
    if let Some(name) = options[field].as_str() {
        errors.extend(invalid(&format!("{path}.{field}"), &options[field], names::dns_subdomain(name)));
    }
    let field = "gmsaCredentialSpec";
    if let Some(specification) = options[field].as_str() {
        let why = match specification.len() {
            0 => Some(format!("{field} cannot be an empty string")),
            length if length > LONGEST_SPECIFICATION_KIB * 1024 => {
                Some(format!("{field} size must be under {LONGEST_SPECIFICATION_KIB} KiB"))
            }
            _ => None,
        };
        errors.extend(why.map(|why| FieldError::invalid(format!("{path}.{field}"), &options[field], &why)));
    }
    let field = "runAsUserName";
    if let Some(user) = options[field].as_str() {
        let told = |why: String| FieldError::invalid(format!("{path}.{field}"), &options[field], &why);
        errors.extend(user_name(user).into_iter().map(|why| told(format!("{field}{why}"))));
    }
    errors
}

/// What is wrong with `DOMAIN\user`, of which the domain may be absent.
fn user_name(name: &str) -> Vec<String> {
    let one = |why: &str| vec![why.to_owned()];
    if name.is_empty() {
        return one(" cannot be an empty string");
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return one(" cannot contain control characters");
    }
    let parts: Vec<&str> = name.split('\\').collect();
    let (domain, user) = match parts[..] {
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => return one(" cannot contain more than one backslash"),
    };
    let mut wrong = Vec::new();
    if let Some(domain) = domain {
        if domain.len() >= LONGEST_DOMAIN {
            wrong.push(format!("'s Domain length must be under {LONGEST_DOMAIN} characters"));
        }
        if !is_net_bios(domain) && !is_dns(domain) {
            wrong.push("'s Domain doesn't match the NetBios nor the DNS format".to_owned());
        }
    }
    match user.len() {
        0 => wrong.push("'s User cannot be empty".to_owned()),
        length if length > LONGEST_USER => {
            wrong.push(format!("'s User length must not be longer than {LONGEST_USER} characters"));
        }
        _ => {}
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        wrong.push("'s User cannot contain only periods or spaces".to_owned());
    }
    if user.chars().any(|c| r#""/\:;|=,+*?<>@[]"#.contains(c)) {
        wrong.push(r#"'s User cannot contain the following characters: "/\:;|=,+*?<>@[]"#.to_owned());
    }
    wrong
}

fn is_net_bios(domain: &str) -> bool {
    let allowed = |c: char| !r#"\/:*?"<>|"#.contains(c);
    (1..=15).contains(&domain.chars().count()) && !domain.starts_with('.') && domain.chars().all(allowed)
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| names::dns_label(&label.to_ascii_lowercase()).is_empty())
}

/// Containers that are processes of a Windows node: all of a pod or none (`validateWindowsHostProcessPod`).
pub(super) fn host_processes(spec: &Value) -> Vec<FieldError> {
    let of = |holder: &Value| holder["securityContext"]["windowsOptions"]["hostProcess"].as_bool();
    let whole = of(spec);
    let (mut count, mut processes) = (0, 0);
    let mut errors = Vec::new();
    for (path, container) in containers(spec) {
        count += 1;
        let own = of(container);
        if let (Some(whole), Some(own)) = (whole, own)
            && whole != own
        {
            let at = format!("{path}.securityContext.windowsOptions.hostProcess");
            let why = format!("pod hostProcess value must be identical if both are specified, was {whole}");
            errors.push(FieldError::invalid(at, &json!(own), &why));
        }
        processes += usize::from(own.or(whole) == Some(true));
    }
    if processes > 0 && processes != count {
        let why =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(FieldError::invalid("spec", &json!(""), why));
    }
    if processes > 0 && spec["hostNetwork"] != true {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(FieldError::invalid("spec.hostNetwork", &json!(false), why));
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
    fn what_does_not_go_with_a_system_is_refused() {
        for (spec, expected) in [
            (json!({}), &[][..]),
            (json!({"os": {}}), &["spec.os.name: Required value: cannot be empty"]),
            (
                json!({"os": {"name": "plan9"}}),
                &["spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""],
            ),
            (
                json!({"os": {"name": "linux"}, "containers": [{"securityContext": {"windowsOptions": {}}}]}),
                &[
                    "spec.containers[0].securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod",
                ],
            ),
            (
                json!({"os": {"name": "windows"}, "hostPID": true, "securityContext": {"fsGroup": 1, "sysctls": []},
                    "containers": [{"securityContext": {"privileged": false}}]}),
                &[
                    "spec.hostPID: Forbidden: cannot be set for a windows pod",
                    "spec.securityContext.fsGroup: Forbidden: cannot be set for a windows pod",
                    "spec.containers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod",
                ],
            ),
        ] {
            assert_eq!(told(system(&spec)), expected, "{spec}");
        }
    }

    #[test]
    fn options_for_windows_are_checked() {
        for (name, expected) in [
            ("Administrator", &[][..]),
            ("DOMAIN\\user", &[]),
            ("", &[" cannot be an empty string"]),
            ("a\\b\\c", &[" cannot contain more than one backslash"]),
            ("a\n", &[" cannot contain control characters"]),
            ("a:b\\user", &["'s Domain doesn't match the NetBios nor the DNS format"]),
            ("DOMAIN\\", &["'s User cannot be empty"]),
            ("..", &["'s User cannot contain only periods or spaces"]),
        ] {
            assert_eq!(user_name(name), expected, "{name}");
        }
        let wrong = options("w", &json!({"gmsaCredentialSpec": "", "runAsUserName": ""}));
        assert_eq!(
            told(wrong),
            [
                "w.gmsaCredentialSpec: Invalid value: \"\": gmsaCredentialSpec cannot be an empty string",
                "w.runAsUserName: Invalid value: \"\": runAsUserName cannot be an empty string",
            ]
        );
        let process = |on: bool| json!({"securityContext": {"windowsOptions": {"hostProcess": on}}});
        let wrong = host_processes(&json!({"containers": [process(true), {}]}));
        assert_eq!(
            told(wrong),
            [
                "spec: Invalid value: \"\": If pod contains any hostProcess containers then all containers must be HostProcess containers",
                "spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess containers",
            ]
        );
    }
}
