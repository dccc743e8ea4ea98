//! What is wrong with a pod's containers (`validateContainers`, `validateInitContainers`,
//! `validateEphemeralContainers`).

use serde_json::{Value, json};

use super::super::value::{is_set, items, text};
use super::environment;
use super::fields::{invalid, one_of};
use super::handlers::{lifecycle, probe};
use super::mounts::{devices, mounts};
use super::resources::{of_container, resize_policy};
use super::restart;
use super::security;
use super::volumes::Volumes;
use crate::api::names;
use crate::api::status::FieldError;

pub(super) const PULL: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// What is wrong with the containers of a specification whose volumes are known.
pub(super) fn validate(spec: &Value, volumes: &Volumes<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let containers = items(spec, "containers");
    if containers.is_empty() {
        errors.push(FieldError::required("spec.containers", ""));
    }
    for (i, container) in containers.iter().enumerate() {
        let path = format!("spec.containers[{i}]");
        errors.extend(common(&path, container, spec, volumes));
        errors.extend(duplicate(&path, container, containers[..i].iter()));
        errors.extend(running(&path, container, spec));
        errors.extend(restart::container(&path, container));
    }
    errors.extend(host_ports(containers.iter().enumerate(), "containers"));
    for (i, container) in items(spec, "initContainers").iter().enumerate() {
        let path = format!("spec.initContainers[{i}]");
        let others = containers.iter().chain(&items(spec, "initContainers")[..i]);
        errors.extend(common(&path, container, spec, volumes));
        errors.extend(restart::init_container(&path, container));
        errors.extend(duplicate(&path, container, others));
        // They run one after another, so that only each alone can be at odds with itself.
        errors.extend(host_ports([(0, container)].into_iter(), "initContainers"));
        if container["restartPolicy"] == "Always" {
            errors.extend(running(&path, container, spec));
        } else {
            let fields = ["lifecycle"].iter().chain(&PROBES).filter(|f| !container[**f].is_null());
            let why = "may not be set for init containers without restartPolicy=Always";
            errors.extend(fields.map(|f| FieldError::forbidden(format!("{path}.{f}"), why)));
        }
    }
    let ephemeral = items(spec, "ephemeralContainers");
    for (i, container) in ephemeral.iter().enumerate() {
        let path = format!("spec.ephemeralContainers[{i}]");
        let others = containers.iter().chain(items(spec, "initContainers")).chain(&ephemeral[..i]);
        errors.extend(common(&path, container, spec, volumes));
        errors.extend(padded_image(&path, container));
        errors.extend(duplicate(&path, container, others));
        errors.extend(self::ephemeral(&path, container, spec));
    }
    errors
}

/// What is wrong with containers of pods, which templates of pods may have.
pub(super) fn of_pods_only(spec: &Value) -> Vec<FieldError> {
    let lists = ["containers", "initContainers"].into_iter();
    let all = lists.flat_map(|list| items(spec, list).iter().enumerate().map(move |(i, c)| (list, i, c)));
    all.filter_map(|(list, i, container)| padded_image(&format!("spec.{list}[{i}]"), container)).collect()
}

/// The image's name begins and ends with itself.
pub(super) fn padded_image(path: &str, container: &Value) -> Option<FieldError> {
    let image = text(container, "image");
    let why = "must not have leading or trailing whitespace";
    (image.trim() != image).then(|| FieldError::invalid(format!("{path}.image"), &container["image"], why))
}

fn duplicate<'a>(
    path: &str,
    container: &Value,
    mut others: impl Iterator<Item = &'a Value>,
) -> Option<FieldError> {
    let name = text(container, "name");
    let twice = !name.is_empty() && others.any(|other| text(other, "name") == name);
    twice.then(|| FieldError::duplicate(format!("{path}.name"), &container["name"]))
}

/// What is wrong with an ephemeral container beyond what any container must heed.
fn ephemeral(path: &str, container: &Value, spec: &Value) -> Vec<FieldError> {
    const WHY: &str = "cannot be set for an Ephemeral Container";
    // In the order in which containers have them.
    const FIELDS: [&str; 9] = [
        "ports",
        "resources",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
    ];
    let mut errors = Vec::new();
    let target = text(container, "targetContainerName");
    let mut others = ["containers", "initContainers"].iter().flat_map(|list| items(spec, list));
    if !target.is_empty() && !others.any(|other| text(other, "name") == target) {
        let at = format!("{path}.targetContainerName");
        errors.push(FieldError::not_found(at, &container["targetContainerName"]));
    }
    let set = FIELDS.iter().filter(|field| is_set(container, field));
    errors.extend(set.map(|field| FieldError::forbidden(format!("{path}.{field}"), WHY)));
    for (i, mount) in items(container, "volumeMounts").iter().enumerate() {
        for field in ["subPath", "subPathExpr"].iter().filter(|field| is_set(mount, field)) {
            errors.push(FieldError::forbidden(format!("{path}.volumeMounts[{i}].{field}"), WHY));
        }
    }
    errors
}

/// What containers of every sort must heed (`validateContainerCommon`).
fn common(path: &str, container: &Value, spec: &Value, volumes: &Volumes<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = |field: &str| format!("{path}.{field}");
    match text(container, "name") {
        "" => errors.push(FieldError::required(at("name"), "")),
        name => errors.extend(invalid(&at("name"), &container["name"], names::dns_label(name))),
    }
    if text(container, "image").is_empty() {
        errors.push(FieldError::required(at("image"), ""));
    }
    let policies = ["File", "FallbackToLogsOnError"];
    let field = "terminationMessagePolicy";
    errors.extend(one_of(&at(field), &container[field], &policies));
    errors.extend(ports(&at("ports"), container));
    errors.extend(environment::variables(path, container));
    errors.extend(environment::sources(&at("envFrom"), container));
    errors.extend(mounts(&at("volumeMounts"), container, volumes));
    errors.extend(devices(&at("volumeDevices"), container, volumes));
    errors.extend(one_of(&at("imagePullPolicy"), &container["imagePullPolicy"], &PULL));
    errors.extend(of_container(&at("resources"), &container["resources"], spec));
    errors.extend(resize_policy(&at("resizePolicy"), container, spec));
    errors.extend(security::container(&at("securityContext"), &container["securityContext"], spec));
    errors
}

/// What only containers have that run on.
fn running(path: &str, container: &Value, spec: &Value) -> Vec<FieldError> {
    let mut errors = lifecycle(&format!("{path}.lifecycle"), &container["lifecycle"], spec);
    for name in PROBES {
        errors.extend(probe(&format!("{path}.{name}"), name, &container[name]));
    }
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

/// Containers that run at one time cannot have the same port of the host.
fn host_ports<'a>(containers: impl Iterator<Item = (usize, &'a Value)>, list: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    for (i, container) in containers {
        for (j, port) in
            items(container, "ports").iter().enumerate().filter(|(_, port)| is_set(port, "hostPort"))
        {
            let key = format!("{}/{}/{}", text(port, "protocol"), text(port, "hostIP"), port["hostPort"]);
            if seen.contains(&key) {
                let path = format!("spec.{list}[{i}].ports[{j}].hostPort");
                errors.push(FieldError::duplicate(path, &json!(key)));
            }
            seen.push(key);
        }
    }
    errors
}

/// With the node's network every port is one of the node; the field may be left to the defaults of pods in a template.
pub(super) fn node_ports(spec: &Value, is_pod: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if spec["hostNetwork"] != true {
        return errors;
    }
    for (i, container) in items(spec, "containers").iter().enumerate() {
        for (j, port) in items(container, "ports").iter().enumerate() {
            let number = |field: &str| port[field].as_i64().unwrap_or(0);
            let host = number("hostPort");
            if (is_pod || host != 0) && host != number("containerPort") {
                let path = format!("spec.containers[{i}].ports[{j}].hostPort");
                let why = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(path, &json!(host), why));
            }
        }
    }
    errors
}
