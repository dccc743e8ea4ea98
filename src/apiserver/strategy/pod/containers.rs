//! What is wrong with a pod's containers (`validateContainers`, `validateInitContainers`).

use serde_json::{Value, json};

use super::super::value::{entries, is_set, items, text};
use super::fields::{id, invalid, one_of, seccomp};
use super::handlers::{handler, probe};
use super::references::{field_ref, resource_ref};
use super::volumes;
use crate::api::names;
use crate::api::quantity;
use crate::api::status::FieldError;

pub(super) const PULL: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

pub(super) fn validate(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if items(spec, "containers").is_empty() {
        errors.push(FieldError::required("spec.containers", ""));
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for (i, container) in items(spec, list).iter().enumerate() {
            let path = format!("spec.{list}[{i}]");
            let name = text(container, "name");
            let lists = if list == "containers" {
                &["containers"][..]
            } else {
                &["containers", "initContainers", "ephemeralContainers"]
            };
            let earlier = lists.iter().take_while(|l| **l != list).flat_map(|l| items(spec, l));
            if !name.is_empty() && earlier.chain(&items(spec, list)[..i]).any(|c| text(c, "name") == name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), &container["name"]));
            }
            errors.extend(self::container(&path, container, spec));
            if list == "initContainers" && container["restartPolicy"] != "Always" {
                let fields = PROBES.iter().chain(&["lifecycle"]).filter(|f| !container[**f].is_null());
                let why = "may not be set for init containers without restartPolicy=Always";
                errors.extend(fields.map(|f| FieldError::forbidden(format!("{path}.{f}"), why)));
            }
            if list == "ephemeralContainers" {
                errors.extend(ephemeral(&path, container, spec));
            }
        }
    }
    errors.extend(host_ports(spec));
    errors
}

/// What is wrong with an ephemeral container beyond what any container must heed (`validateEphemeralContainers`).
fn ephemeral(path: &str, container: &Value, spec: &Value) -> Vec<FieldError> {
    let why = "cannot be set for an Ephemeral Container";
    let fields = PROBES.iter().chain(&["lifecycle", "ports", "resources", "resizePolicy", "restartPolicy"]);
    let set = fields.filter(|field| is_set(container, field));
    let mut errors: Vec<_> = set.map(|f| FieldError::forbidden(format!("{path}.{f}"), why)).collect();
    let target = text(container, "targetContainerName");
    let mut others = ["containers", "initContainers"].iter().flat_map(|list| items(spec, list));
    if !target.is_empty() && !others.any(|other| text(other, "name") == target) {
        let at = format!("{path}.targetContainerName");
        errors.push(FieldError::not_found(at, &container["targetContainerName"]));
    }
    for (i, mount) in items(container, "volumeMounts").iter().enumerate() {
        for field in ["subPath", "subPathExpr"].iter().filter(|field| is_set(mount, field)) {
            errors.push(FieldError::forbidden(format!("{path}.volumeMounts[{i}].{field}"), why));
        }
    }
    errors
}

fn container(path: &str, container: &Value, spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = |field: &str| format!("{path}.{field}");
    match text(container, "name") {
        "" => errors.push(FieldError::required(at("name"), "")),
        name => errors.extend(invalid(&at("name"), &container["name"], names::dns_label(name))),
    }
    let image = text(container, "image");
    if image.is_empty() {
        errors.push(FieldError::required(at("image"), ""));
    } else if image.trim() != image {
        let why = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(at("image"), &container["image"], why));
    }
    match text(container, "terminationMessagePolicy") {
        "" => errors.push(FieldError::required(at("terminationMessagePolicy"), "")),
        "File" | "FallbackToLogsOnError" => {}
        _ => errors.push(FieldError::not_supported(
            at("terminationMessagePolicy"),
            &container["terminationMessagePolicy"],
            &["File", "FallbackToLogsOnError"],
        )),
    }
    errors.extend(ports(&at("ports"), container));
    errors.extend(environment(path, container));
    errors.extend(volumes::mounts(&at("volumeMounts"), container, spec));
    errors.extend(one_of(&at("imagePullPolicy"), &container["imagePullPolicy"], &PULL));
    errors.extend(resources(&at("resources"), &container["resources"]));
    for name in PROBES {
        errors.extend(probe(&at(name), name, &container[name]));
    }
    for hook in ["postStart", "preStop"] {
        let action = &container["lifecycle"][hook];
        if !action.is_null() {
            let grace = spec["terminationGracePeriodSeconds"].as_i64();
            errors.extend(handler(&format!("{path}.lifecycle.{hook}"), action, grace));
        }
    }
    errors.extend(security(&at("securityContext"), &container["securityContext"]));
    errors
}

fn ports(path: &str, container: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = Vec::new();
    for (i, port) in items(container, "ports").iter().enumerate() {
        let at = |field: &str| format!("{path}[{i}].{field}");
        let name = text(port, "name");
        if !name.is_empty() {
            let wrong = names::port_name(name);
            if wrong.is_empty() && seen.contains(&name) {
                errors.push(FieldError::duplicate(at("name"), &port["name"]));
            }
            errors.extend(invalid(&at("name"), &port["name"], wrong));
            seen.push(name);
        }
        match port["containerPort"].as_i64().unwrap_or(0) {
            0 => errors.push(FieldError::required(at("containerPort"), "")),
            number => errors.extend(invalid(
                &at("containerPort"),
                &port["containerPort"],
                names::port_number(number),
            )),
        }
        if let Some(number) = port["hostPort"].as_i64().filter(|n| *n != 0) {
            errors.extend(invalid(&at("hostPort"), &port["hostPort"], names::port_number(number)));
        }
        errors.extend(one_of(&at("protocol"), &port["protocol"], &PROTOCOLS));
    }
    errors
}

/// Two containers of a pod cannot have the same port of the host; with the host's network every port is one.
fn host_ports(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen: Vec<(&Value, &str, &str)> = Vec::new();
    for (i, container) in items(spec, "containers").iter().enumerate() {
        for (j, port) in items(container, "ports").iter().enumerate() {
            let path = format!("spec.containers[{i}].ports[{j}]");
            if spec["hostNetwork"] == true
                && is_set(port, "hostPort")
                && port["hostPort"] != port["containerPort"]
            {
                let why = "must match `hostPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(
                    format!("{path}.containerPort"),
                    &port["containerPort"],
                    why,
                ));
            }
            if !is_set(port, "hostPort") {
                continue;
            }
            let key = (&port["hostPort"], text(port, "protocol"), text(port, "hostIP"));
            if seen.contains(&key) {
                let shown = format!("{}/{}/{}", key.1, key.2, key.0);
                errors.push(FieldError::duplicate(format!("{path}.hostPort"), &json!(shown)));
            }
            seen.push(key);
        }
    }
    errors
}

fn environment(path: &str, container: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, variable) in items(container, "env").iter().enumerate() {
        let at = |field: &str| format!("{path}.env[{i}].{field}");
        match text(variable, "name") {
            "" => errors.push(FieldError::required(at("name"), "")),
            name => errors.extend(invalid(&at("name"), &variable["name"], names::env_name(name))),
        }
        let from = &variable["valueFrom"];
        if from.is_null() {
            continue;
        }
        const SOURCES: [&str; 5] =
            ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
        let count = SOURCES.iter().filter(|s| !from[**s].is_null()).count();
        if count == 0 {
            let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
            errors.push(FieldError::invalid(at("valueFrom"), &json!(""), why));
        } else if is_set(variable, "value") {
            let why = "may not be specified when `value` is not empty";
            errors.push(FieldError::invalid(at("valueFrom"), &json!(""), why));
        } else if count > 1 {
            let why = "may not have more than one field specified at a time";
            errors.push(FieldError::invalid(at("valueFrom"), &json!(""), why));
        }
        errors.extend(key_of(&at("valueFrom"), from, "configMapKeyRef"));
        errors.extend(key_of(&at("valueFrom"), from, "secretKeyRef"));
        if !from["fieldRef"].is_null() {
            errors.extend(field_ref(&at("valueFrom.fieldRef"), &from["fieldRef"], &ENV_FIELDS));
        }
        if from["resourceFieldRef"].is_object() {
            errors.extend(resource_ref(&at("valueFrom.resourceFieldRef"), &from["resourceFieldRef"]));
        }
    }
    for (i, from) in items(container, "envFrom").iter().enumerate() {
        let at = format!("{path}.envFrom[{i}]");
        if is_set(from, "prefix") {
            errors.extend(invalid(
                &format!("{at}.prefix"),
                &from["prefix"],
                names::env_name(text(from, "prefix")),
            ));
        }
        let sources: Vec<&str> =
            ["configMapRef", "secretRef"].into_iter().filter(|s| !from[*s].is_null()).collect();
        match sources.as_slice() {
            [] => {
                let why = "must specify one of: `configMapRef` or `secretRef`";
                errors.push(FieldError::invalid(&at, &json!(""), why));
            }
            [one] if text(&from[*one], "name").is_empty() => {
                errors.push(FieldError::required(format!("{at}.{one}.name"), ""));
            }
            [_] => {}
            _ => errors.push(FieldError::invalid(
                &at,
                &json!(""),
                "may not have more than one field specified at a time",
            )),
        }
    }
    errors
}

fn key_of(path: &str, from: &Value, source: &str) -> Vec<FieldError> {
    let reference = &from[source];
    if reference.is_null() {
        return Vec::new();
    }
    match (text(reference, "name"), text(reference, "key")) {
        ("", _) => vec![FieldError::required(format!("{path}.{source}.name"), "")],
        (_, "") => vec![FieldError::required(format!("{path}.{source}.key"), "")],
        (_, key) => invalid(&format!("{path}.{source}.key"), &reference["key"], names::config_key(key)),
    }
}

/// The fields that a variable can have, in Kubernetes' (sorted) order.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn resources(path: &str, resources: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let amount = |value: &Value| value.as_str().and_then(|t| quantity::parse(t).ok());
    for list in ["limits", "requests"] {
        for (name, value) in entries(resources, list) {
            let at = format!("{path}.{list}[{name}]");
            errors.extend(resource_name(&format!("{path}.{list}"), name));
            let Some(amount) = amount(value) else { continue };
            if amount.is_negative() {
                errors.push(FieldError::invalid(&at, value, "must be greater than or equal to 0"));
            }
            if name.contains('/') && !amount.is_integer() {
                errors.push(FieldError::invalid(&at, value, "must be an integer"));
            }
        }
    }
    for (name, value) in entries(resources, "requests") {
        let limit = &resources["limits"][name];
        let (Some(request), Some(limited)) = (amount(value), amount(limit)) else { continue };
        if request > limited {
            let why = format!("must be less than or equal to {name} limit of {limited}");
            errors.push(FieldError::invalid(format!("{path}.requests"), value, &why));
        }
    }
    errors
}

fn resource_name(path: &str, name: &str) -> Vec<FieldError> {
    let at = format!("{path}[{name}]");
    let wrong = names::qualified_name(name);
    if !wrong.is_empty() {
        return invalid(&at, &json!(name), wrong);
    }
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if name.contains('/') || standard {
        return Vec::new();
    }
    vec![FieldError::invalid(&at, &json!(name), "must be a standard resource for containers")]
}

fn security(path: &str, context: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["runAsUser", "runAsGroup"] {
        errors.extend(id(&format!("{path}.{field}"), &context[field]));
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
    errors
}
