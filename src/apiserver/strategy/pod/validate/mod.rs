//! What is wrong with a pod beyond its containers and volumes (`ValidatePodSpec`).

use std::net::IpAddr;

use serde_json::{Value, json};

use super::super::address::BAD_IP;
use super::super::value::{entries, is_set, items, text};
use super::fields::{id, invalid, one_of, seccomp};
use super::{affinity, containers, volumes};
use crate::api::names;
use crate::api::status::FieldError;

// In the order of Kubernetes' messages.
const RESTART: [&str; 3] = ["Always", "OnFailure", "Never"];
const DNS: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];

pub(super) fn pod(pod: &Value) -> Vec<FieldError> {
    let spec = &pod["spec"];
    let mut errors = volumes::validate(spec);
    errors.extend(containers::validate(spec));
    errors.extend(one_of("spec.restartPolicy", &spec["restartPolicy"], &RESTART));
    errors.extend(one_of("spec.dnsPolicy", &spec["dnsPolicy"], &DNS));
    for (key, value) in entries(spec, "nodeSelector") {
        errors.extend(invalid("spec.nodeSelector", &json!(key), names::qualified_name(key)));
        errors.extend(invalid(
            "spec.nodeSelector",
            value,
            names::label_value(value.as_str().unwrap_or_default()),
        ));
    }
    errors.extend(affinity::validate(spec));
    errors.extend(security(spec));
    errors.extend(dns_config(spec));
    errors.extend(gates(spec));
    for field in ["hostname", "subdomain"] {
        if is_set(spec, field) {
            errors.extend(invalid(
                &format!("spec.{field}"),
                &spec[field],
                names::dns_label(text(spec, field)),
            ));
        }
    }
    for field in ["serviceAccountName", "nodeName"] {
        if is_set(spec, field) {
            errors.extend(invalid(
                &format!("spec.{field}"),
                &spec[field],
                names::dns_subdomain(text(spec, field)),
            ));
        }
    }
    if spec["activeDeadlineSeconds"].as_i64().is_some_and(|s| !(1..=i64::from(i32::MAX)).contains(&s)) {
        let why = "must be between 1 and 2147483647, inclusive";
        errors.push(FieldError::invalid("spec.activeDeadlineSeconds", &spec["activeDeadlineSeconds"], why));
    }
    // A negative terminationGracePeriodSeconds is taken, warned about and treated as 1 (`Pod::grace_period`).
    errors.extend(tolerations(spec));
    errors.extend(host_aliases(spec));
    errors
}

fn security(spec: &Value) -> Vec<FieldError> {
    let context = &spec["securityContext"];
    let mut errors = Vec::new();
    if spec["hostPID"] == true && spec["shareProcessNamespace"] == true {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        let path = "spec.securityContext.shareProcessNamespace";
        errors.push(FieldError::invalid(path, &json!(true), why));
    }
    if spec["hostUsers"] == false {
        // The names are those that Kubernetes says.
        for (field, said) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")]
        {
            if spec[field] == true {
                errors.push(FieldError::forbidden(format!("spec.{said}"), "when `hostUsers` is false"));
            }
        }
    }
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        errors.extend(id(&format!("spec.securityContext.{field}"), &context[field]));
    }
    for (i, group) in items(context, "supplementalGroups").iter().enumerate() {
        errors.extend(id(&format!("spec.securityContext.supplementalGroups[{i}]"), group));
    }
    for (i, sysctl) in items(context, "sysctls").iter().enumerate() {
        let path = format!("spec.securityContext.sysctls[{i}].name");
        let name = text(sysctl, "name");
        let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_./".contains(c);
        if name.is_empty() {
            errors.push(FieldError::required(path, ""));
        } else if !name.chars().all(part) {
            let why = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.push(FieldError::invalid(path, &sysctl["name"], why));
        }
    }
    errors.extend(seccomp("spec.securityContext.seccompProfile", &context["seccompProfile"]));
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
    let config = &spec["dnsConfig"];
    let servers = items(config, "nameservers");
    let mut errors = Vec::new();
    if text(spec, "dnsPolicy") == "None" {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        if config.is_null() {
            let why = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.push(FieldError::required("spec.dnsConfig", why));
        } else if servers.is_empty() {
            errors.push(FieldError::required("spec.dnsConfig.nameservers", why));
        }
    }
    if servers.len() > 3 {
        let why = "must not have more than 3 nameservers";
        errors.push(FieldError::invalid("spec.dnsConfig.nameservers", &config["nameservers"], why));
    }
    for (i, server) in servers.iter().enumerate() {
        if server.as_str().unwrap_or_default().parse::<IpAddr>().is_err() {
            errors.push(FieldError::invalid(format!("spec.dnsConfig.nameservers[{i}]"), server, BAD_IP));
        }
    }
    let searches = items(config, "searches");
    if searches.len() > 32 {
        let why = "must not have more than 32 search paths";
        errors.push(FieldError::invalid("spec.dnsConfig.searches", &config["searches"], why));
    }
    for (i, search) in searches.iter().enumerate() {
        let name = search.as_str().unwrap_or_default().trim_end_matches('.');
        // "." alone stands for no search at all; underscores occur in practice and are allowed.
        if !name.is_empty() {
            let wrong = names::dns_subdomain(&name.replace('_', "a"));
            errors.extend(invalid(&format!("spec.dnsConfig.searches[{i}]"), search, wrong));
        }
    }
    for (i, option) in items(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.push(FieldError::required(format!("spec.dnsConfig.options[{i}]"), "must not be empty"));
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
                let wrong = names::label_value(text(toleration, "value"));
                errors.extend(invalid(&format!("{path}.operator"), &toleration["value"], wrong));
            }
            "Exists" if is_set(toleration, "value") => {
                let why = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(format!("{path}.operator"), &toleration["value"], why));
            }
            "Exists" => {}
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

fn host_aliases(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, alias) in items(spec, "hostAliases").iter().enumerate() {
        if text(alias, "ip").parse::<IpAddr>().is_err() {
            errors.push(FieldError::invalid(format!("spec.hostAliases[{i}].ip"), &alias["ip"], BAD_IP));
        }
        for (j, name) in items(alias, "hostnames").iter().enumerate() {
            let wrong = names::dns_subdomain(name.as_str().unwrap_or_default());
            errors.extend(invalid(&format!("spec.hostAliases[{i}].hostnames[{j}]"), name, wrong));
        }
    }
    errors
}

#[cfg(test)]
mod tests;
