//! What is wrong with a pod beyond its containers and volumes (`ValidatePodSpec`).

use serde_json::{Value, json};

use super::super::address;
use super::super::checks;
use super::super::value::{is_set, items, text};
use super::fields::{invalid, one_of};
use super::{affinity, annotations, containers, environment, resources, security, volumes, windows};
use crate::api::names;
use crate::api::status::FieldError;

/// The longest name of a host that the kernel takes.
const LONGEST_HOSTNAME: usize = 64;
const LONGEST_SEARCHES: usize = 2048;
// In the order of Kubernetes' messages.
const RESTART: [&str; 3] = ["Always", "OnFailure", "Never"];
const DNS: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];

/// What is wrong with a pod.
pub(super) fn pod(pod: &Value) -> Vec<FieldError> {
    let mut errors = annotations::validate("metadata.annotations", pod);
    errors.extend(spec(pod, true));
    errors.extend(tokens(&pod["spec"]));
    errors.extend(containers::of_pods_only(&pod["spec"]));
    errors
}

/// What is wrong with the specification of a pod, or of a template of pods.
pub(super) fn spec(pod: &Value, is_pod: bool) -> Vec<FieldError> {
    let spec = &pod["spec"];
    let (volumes, mut errors) = volumes::validate(pod, is_pod);
    errors.extend(resources::pod_claims(spec));
    errors.extend(containers::validate(spec, &volumes));
    errors.extend(resources::of_pod(spec));
    errors.extend(containers::node_ports(spec, is_pod));
    errors.extend(one_of("spec.restartPolicy", &spec["restartPolicy"], &RESTART));
    errors.extend(one_of("spec.dnsPolicy", &spec["dnsPolicy"], &DNS));
    errors.extend(checks::labels("spec.nodeSelector", &spec["nodeSelector"]));
    errors.extend(security::pod(spec));
    errors.extend(affinity::validate(spec));
    errors.extend(dns_config(spec));
    errors.extend(gates(spec));
    errors.extend(affinity::spread(spec));
    errors.extend(windows::host_processes(spec));
    errors.extend(security::host_users(spec));
    errors.extend(hostname_override(spec));
    errors.extend(named(spec, &["serviceAccountName", "nodeName"], names::dns_subdomain));
    if spec["activeDeadlineSeconds"].as_i64().is_some_and(|s| !(1..=i64::from(i32::MAX)).contains(&s)) {
        let why = "must be between 1 and 2147483647, inclusive";
        errors.push(FieldError::invalid("spec.activeDeadlineSeconds", &spec["activeDeadlineSeconds"], why));
    }
    // A negative terminationGracePeriodSeconds is taken, warned about and treated as 1 (`Pod::grace_period`).
    errors.extend(named(spec, &["hostname", "subdomain"], names::dns_label));
    errors.extend(tolerations(spec));
    errors.extend(host_aliases(spec));
    errors.extend(named(spec, &["priorityClassName"], names::dns_subdomain));
    if let Some(class) = spec["runtimeClassName"].as_str() {
        let path = "spec.runtimeClassName";
        errors.extend(invalid(path, &spec["runtimeClassName"], names::dns_subdomain(class)));
    }
    if !spec["preemptionPolicy"].is_null() {
        let policies = ["PreemptLowerPriority", "Never"];
        errors.extend(one_of("spec.preemptionPolicy", &spec["preemptionPolicy"], &policies));
    }
    errors.extend(resources::overhead(spec));
    errors.extend(windows::system(spec));
    errors.extend(environment::volumes_of_files(spec));
    errors
}

/// Names of other objects, and those that the pod has itself, where they are given.
fn named(spec: &Value, fields: &[&str], rule: fn(&str) -> Vec<String>) -> Vec<FieldError> {
    let given = fields.iter().filter(|field| is_set(spec, field));
    given
        .flat_map(|field| invalid(&format!("spec.{field}"), &spec[*field], rule(text(spec, field))))
        .collect()
}

/// A name for the pod's host of the author's own (`validatePodHostName`).
fn hostname_override(spec: &Value) -> Vec<FieldError> {
    const PATH: &str = "spec.hostnameOverride";
    let Some(name) = spec["hostnameOverride"].as_str() else { return Vec::new() };
    let mut errors = Vec::new();
    for field in ["setHostnameAsFQDN", "hostNetwork"] {
        if spec[field] == true {
            let why = format!("may not be specified when {field} is true");
            errors.push(FieldError::forbidden(PATH, &why));
        }
    }
    if name.len() > LONGEST_HOSTNAME {
        errors.push(FieldError::too_long(PATH, LONGEST_HOSTNAME));
    }
    errors.extend(invalid(PATH, &spec["hostnameOverride"], names::dns_subdomain(name)));
    errors
}

/// A pod without an account has no tokens of one.
fn tokens(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let volumes = items(spec, "volumes").iter().enumerate();
    for (i, volume) in volumes.filter(|_| text(spec, "serviceAccountName").is_empty()) {
        for (j, source) in items(&volume["projected"], "sources").iter().enumerate() {
            if !source["serviceAccountToken"].is_null() {
                let path = format!("spec.volumes[{i}].projected.sources[{j}].serviceAccountToken");
                let why = "must not be specified when serviceAccountName is not set";
                errors.push(FieldError::forbidden(path, why));
            }
        }
    }
    errors
}

/// What must be before a pod is ready, or is scheduled.
fn gates(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, gate) in items(spec, "readinessGates").iter().enumerate() {
        let wrong = names::qualified_name(text(gate, "conditionType"));
        let path = format!("spec.readinessGates[{i}].conditionType");
        errors.extend(invalid(&path, &gate["conditionType"], wrong));
    }
    let gates = items(spec, "schedulingGates");
    for (i, gate) in gates.iter().enumerate() {
        let path = format!("spec.schedulingGates[{i}]");
        errors.extend(invalid(&path, &json!(text(gate, "name")), names::qualified_name(text(gate, "name"))));
        if gates[..i].iter().any(|before| before["name"] == gate["name"]) {
            errors.push(FieldError::duplicate(path, &gate["name"]));
        }
    }
    errors
}

fn dns_config(spec: &Value) -> Vec<FieldError> {
    const PATH: &str = "spec.dnsConfig";
    let config = &spec["dnsConfig"];
    let at = |field: &str| format!("{PATH}.{field}");
    let (servers, searches) = (items(config, "nameservers"), items(config, "searches"));
    if text(spec, "dnsPolicy") == "None" && config.is_null() {
        return vec![FieldError::required(PATH, "must provide `dnsConfig` when `dnsPolicy` is None")];
    }
    if text(spec, "dnsPolicy") == "None" && servers.is_empty() {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        return vec![FieldError::required(at("nameservers"), why)];
    }
    let mut errors = Vec::new();
    if servers.len() > 3 {
        let why = "must not have more than 3 nameservers";
        errors.push(FieldError::invalid(at("nameservers"), &config["nameservers"], why));
    }
    for (i, server) in servers.iter().enumerate() {
        errors.extend(address::ip(&at(&format!("nameservers[{i}]")), server));
    }
    if searches.len() > 32 {
        let why = "must not have more than 32 search paths";
        errors.push(FieldError::invalid(at("searches"), &config["searches"], why));
    }
    let texts: Vec<&str> = searches.iter().map(|search| search.as_str().unwrap_or_default()).collect();
    if texts.join(" ").len() > LONGEST_SEARCHES {
        let why = "must not have more than 2048 characters (including spaces) in the search list";
        errors.push(FieldError::invalid(at("searches"), &config["searches"], why));
    }
    for (i, search) in texts.iter().enumerate().filter(|(_, search)| **search != ".") {
        // A dot alone stands for no search at all.
        let name = search.strip_suffix('.').unwrap_or(search);
        let wrong = names::dns_subdomain_with_underscores(name);
        errors.extend(invalid(&at(&format!("searches[{i}]")), &json!(name), wrong));
    }
    for (i, option) in items(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.push(FieldError::required(at(&format!("options[{i}]")), "must not be empty"));
        }
    }
    errors
}

fn tolerations(spec: &Value) -> Vec<FieldError> {
    const OPERATORS: [&str; 2] = ["Equal", "Exists"];
    const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    let mut errors = Vec::new();
    for (i, toleration) in items(spec, "tolerations").iter().enumerate() {
        let path = format!("spec.tolerations[{i}]");
        let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
        if !key.is_empty() {
            errors.extend(invalid(&format!("{path}.key"), &toleration["key"], names::qualified_name(key)));
        } else if operator != "Exists" {
            let why =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(format!("{path}.operator"), &json!(operator), why));
        }
        if !toleration["tolerationSeconds"].is_null() && text(toleration, "effect") != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(
                format!("{path}.effect"),
                &json!(text(toleration, "effect")),
                why,
            ));
        }
        match operator {
            "" | "Equal" => {
                let wrong = names::label_value(text(toleration, "value")).join(";");
                if !wrong.is_empty() {
                    let at = format!("{path}.operator");
                    errors.push(FieldError::invalid(at, &toleration["value"], &wrong));
                }
            }
            "Exists" if is_set(toleration, "value") => {
                let why = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(format!("{path}.operator"), &toleration["value"], why));
            }
            "Exists" => {}
            "Gt" | "Lt" => errors.extend(number(&format!("{path}.value"), text(toleration, "value"))),
            _ => errors.push(FieldError::not_supported(
                format!("{path}.operator"),
                &json!(operator),
                &OPERATORS,
            )),
        }
        if is_set(toleration, "effect") {
            errors.extend(one_of(&format!("{path}.effect"), &toleration["effect"], &EFFECTS));
        }
    }
    errors
}

/// A value that taints are compared with by their size.
fn number(path: &str, value: &str) -> Option<FieldError> {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let plain = value == "0" || (!digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()));
    let why = "must be a valid decimal integer in canonical form";
    let good = !digits.is_empty() && plain && value.parse::<i64>().is_ok();
    (!good).then(|| FieldError::invalid(path, &json!(value), why))
}

fn host_aliases(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, alias) in items(spec, "hostAliases").iter().enumerate() {
        errors.extend(address::ip(&format!("spec.hostAliases[{i}].ip"), &json!(text(alias, "ip"))));
        for (j, name) in items(alias, "hostnames").iter().enumerate() {
            let wrong = names::dns_subdomain(name.as_str().unwrap_or_default());
            errors.extend(invalid(&format!("spec.hostAliases[{i}].hostnames[{j}]"), name, wrong));
        }
    }
    errors
}

#[cfg(test)]
mod tests;
