//! Ingresses: which service answers for which host and path.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::address;
use super::super::column::{self, AGE, NAME, NONE};
use super::super::error::{if_set, invalid, named};
use super::super::value::{is_set, items, text};
use super::super::{Column, Strategy};
use crate::api::meta;
use crate::api::names;
use crate::api::status::FieldError;

/// How the class was said before it had a field.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];

/// The strategy of ingresses.
pub(super) struct Ingress;

impl Strategy for Ingress {
    fn prepare_create(&self, ingress: &mut Value) {
        if let Some(fields) = ingress.as_object_mut() {
            fields.insert("status".to_owned(), json!({"loadBalancer": {}}));
        }
    }

    fn validate(&self, ingress: &Value) -> Vec<FieldError> {
        let spec = &ingress["spec"];
        let mut errors = Vec::new();
        let default = &spec["defaultBackend"];
        if items(spec, "rules").is_empty() && default.is_null() {
            let why = "either `defaultBackend` or `rules` must be specified";
            errors.push(FieldError::invalid("spec", &spec["rules"], why));
        }
        if !default.is_null() {
            errors.extend(backend("spec.defaultBackend", default));
        }
        for (i, one) in items(spec, "rules").iter().enumerate() {
            errors.extend(rule(&format!("spec.rules[{i}]"), one));
        }
        for (i, one) in items(spec, "tls").iter().enumerate() {
            errors.extend(tls(&format!("spec.tls[{i}]"), one));
        }
        errors.extend(if_set("spec.ingressClassName", &spec["ingressClassName"], names::dns_subdomain));
        errors
    }

    fn validate_create(&self, ingress: &Value) -> Vec<FieldError> {
        let class = ingress["spec"]["ingressClassName"].as_str();
        let annotated = meta::annotation(ingress, CLASS_ANNOTATION);
        match (annotated, class) {
            (Some(annotated), Some(class)) if annotated != class => {
                let why = "must match `ingressClassName` when both are specified";
                let path = format!("annotations.{CLASS_ANNOTATION}");
                vec![FieldError::invalid(path, &annotated.into(), why)]
            }
            _ => Vec::new(),
        }
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let of = |object: &'_ Value| object["status"]["loadBalancer"].clone();
        let (new, old) = (of(new), of(old));
        let kept = |given: &Value| items(&old, "ingress").iter().any(|point| point["ip"] == *given);
        let mut errors = Vec::new();
        for (i, point) in items(&new, "ingress").iter().enumerate() {
            let path = format!("status.loadBalancer.ingress[{i}]");
            if is_set(point, "ip") && !kept(&point["ip"]) {
                errors.extend(address::ip(&format!("{path}.ip"), &point["ip"]));
            }
            if is_set(point, "hostname") {
                errors.extend(host_name(
                    &format!("{path}.hostname"),
                    &point["hostname"],
                    names::dns_subdomain,
                ));
            }
        }
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn create_warnings(&self, ingress: &Value) -> Vec<String> {
        let old = meta::annotation(ingress, CLASS_ANNOTATION).is_some();
        let told = format!(
            "annotation \"{CLASS_ANNOTATION}\" is deprecated, please use 'spec.ingressClassName' instead"
        );
        (old && ingress["spec"]["ingressClassName"].is_null()).then_some(told).into_iter().collect()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("Class", "The class, which says who carries out the ingress."),
            column::text("Hosts", "The hosts that requests are for."),
            column::text("Address", "Where requests come in."),
            column::text("Ports", "The ports on which requests come in."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, ingress: &Value, now: Timestamp) -> Vec<Value> {
        let spec = &ingress["spec"];
        let points = items(&ingress["status"]["loadBalancer"], "ingress").iter();
        let addresses: BTreeSet<&str> = points
            .map(|point| if is_set(point, "ip") { text(point, "ip") } else { text(point, "hostname") })
            .filter(|address| !address.is_empty())
            .collect();
        vec![
            column::name(ingress),
            spec["ingressClassName"].as_str().unwrap_or(NONE).into(),
            hosts(items(spec, "rules")).into(),
            addresses.into_iter().collect::<Vec<_>>().join(",").into(),
            if is_set(spec, "tls") { "80, 443" } else { "80" }.into(),
            column::age(ingress, now),
        ]
    }
}

/// The first three hosts, and how many rules there are beyond three.
fn hosts(rules: &[Value]) -> String {
    const SHOWN: usize = 3;
    let named: Vec<&str> =
        rules.iter().map(|rule| text(rule, "host")).filter(|host| !host.is_empty()).collect();
    let shown = named[..named.len().min(SHOWN)].join(",");
    // Kubernetes looks for a rule after the third host, whether it has a host or not.
    let third = rules.iter().enumerate().filter(|(_, rule)| is_set(rule, "host")).nth(SHOWN - 1);
    match third {
        _ if named.is_empty() => "*".to_owned(),
        Some((at, _)) if at + 1 < rules.len() => format!("{shown} + {} more...", rules.len() - SHOWN),
        _ => shown,
    }
}

/// A host's name, which is no address.
fn host_name(path: &str, host: &Value, rule: fn(&str) -> Vec<String>) -> Vec<FieldError> {
    let text = host.as_str().unwrap_or_default();
    let mut errors = invalid(path, host, rule(text));
    if address::ip(path, host).is_none() {
        errors.push(FieldError::invalid(path, host, "must be a DNS name, not an IP address"));
    }
    errors
}

fn host_rule(host: &str) -> fn(&str) -> Vec<String> {
    if host.contains('*') { names::wildcard_subdomain } else { names::dns_subdomain }
}

fn rule(path: &str, rule: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if is_set(rule, "host") {
        errors.extend(host_name(&format!("{path}.host"), &rule["host"], host_rule(text(rule, "host"))));
    }
    let http = &rule["http"];
    if http.is_null() {
        return errors;
    }
    let paths = items(http, "paths");
    if paths.is_empty() {
        errors.push(FieldError::required(format!("{path}.http.paths"), ""));
    }
    for (i, one) in paths.iter().enumerate() {
        errors.extend(http_path(&format!("{path}.http.paths[{i}]"), one));
    }
    errors
}

fn http_path(path: &str, given: &Value) -> Vec<FieldError> {
    let Some(of) = given["pathType"].as_str() else {
        return vec![FieldError::required(format!("{path}.pathType"), "pathType must be specified")];
    };
    let at = format!("{path}.path");
    let value: Value = text(given, "path").into();
    let target = text(given, "path");
    let mut errors = Vec::new();
    let mut wrong = |why: &str| errors.push(FieldError::invalid(&at, &value, why));
    match of {
        "Exact" | "Prefix" => {
            if !target.starts_with('/') {
                wrong("must be an absolute path");
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|part| target.contains(**part)) {
                wrong(&format!("must not contain '{part}'"));
            }
            for end in ["/..", "/."].iter().filter(|end| target.ends_with(**end)) {
                wrong(&format!("cannot end with '{end}'"));
            }
        }
        "ImplementationSpecific" => {
            if !target.is_empty() && !target.starts_with('/') {
                wrong("must be an absolute path");
            }
        }
        _ => {
            let path = format!("{path}.pathType");
            errors.push(FieldError::not_supported(path, &given["pathType"], &PATH_TYPES));
        }
    }
    errors.extend(backend(&format!("{path}.backend"), &given["backend"]));
    errors
}

fn backend(path: &str, backend: &Value) -> Vec<FieldError> {
    let none = json!("");
    let (resource, service) = (&backend["resource"], &backend["service"]);
    match (resource.is_null(), service.is_null()) {
        (false, false) => {
            vec![FieldError::invalid(path, &none, "cannot set both resource and service backends")]
        }
        (true, true) => vec![FieldError::invalid(path, &none, "resource or service backend is required")],
        (false, true) => {
            let path = |field: &str| format!("{path}.resource.{field}");
            let mut errors = if_set(&path("apiGroup"), &resource["apiGroup"], names::dns_subdomain);
            errors.extend(named(&path("kind"), &resource["kind"], names::path_segment));
            errors.extend(named(&path("name"), &resource["name"], names::path_segment));
            errors
        }
        (true, false) => {
            let mut errors = named(&format!("{path}.service.name"), &service["name"], names::dns_label);
            let port = &service["port"];
            match (is_set(port, "name"), is_set(port, "number")) {
                (true, true) => {
                    errors.push(FieldError::invalid(path, &none, "cannot set both port name & port number"));
                }
                (true, false) => {
                    let wrong = names::port_name(text(port, "name"));
                    errors.extend(invalid(&format!("{path}.service.port.name"), &port["name"], wrong));
                }
                (false, true) => {
                    let wrong = names::port_number(port["number"].as_i64().unwrap_or(0));
                    errors.extend(invalid(&format!("{path}.service.port.number"), &port["number"], wrong));
                }
                (false, false) => errors.push(FieldError::required(path, "port name or number is required")),
            }
            errors
        }
    }
}

fn tls(path: &str, tls: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, host) in items(tls, "hosts").iter().enumerate() {
        let name = host.as_str().unwrap_or_default();
        errors.extend(invalid(&format!("{path}.hosts[{i}]"), host, host_rule(name)(name)));
    }
    if is_set(tls, "secretName") {
        errors.extend(if_set(&format!("{path}.secretName"), &tls["secretName"], names::dns_subdomain));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Value {
        json!({"service": {"name": "web", "port": {"number": 80}}})
    }

    fn with_path(path: Value) -> Value {
        json!({"rules": [{"host": "a.example.com", "http": {"paths": [path]}}]})
    }

    #[test]
    fn ingresses_are_checked() {
        let at = "spec.rules[0].http.paths[0]";
        let path = |of: &str, path: &str| json!({"path": path, "pathType": of, "backend": service()});
        for (spec, errors) in [
            (json!({"defaultBackend": service()}), vec![]),
            (with_path(path("Prefix", "/")), vec![]),
            (json!({"rules": [{"host": "*.example.com"}]}), vec![]),
            (
                json!({}),
                vec![
                    "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"
                        .to_owned(),
                ],
            ),
            (
                with_path(json!({"backend": service()})),
                vec![format!("{at}.pathType: Required value: pathType must be specified")],
            ),
            (
                with_path(path("Exact", "a//b/..")),
                vec![
                    format!("{at}.path: Invalid value: \"a//b/..\": must be an absolute path"),
                    format!("{at}.path: Invalid value: \"a//b/..\": must not contain '//'"),
                    format!("{at}.path: Invalid value: \"a//b/..\": cannot end with '/..'"),
                ],
            ),
            (
                with_path(path("Regex", "/")),
                vec![format!(
                    "{at}.pathType: Unsupported value: \"Regex\": supported values: \"Exact\", \
                     \"ImplementationSpecific\", \"Prefix\""
                )],
            ),
            (
                json!({"rules": [{"host": "10.0.0.1"}]}),
                vec![
                    "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address"
                        .into(),
                ],
            ),
            (json!({"rules": [{"http": {}}]}), vec!["spec.rules[0].http.paths: Required value".into()]),
            (
                json!({"defaultBackend": {"service": {"port": {}}}}),
                vec![
                    "spec.defaultBackend.service.name: Required value".into(),
                    "spec.defaultBackend: Required value: port name or number is required".into(),
                ],
            ),
            (
                json!({"defaultBackend": {}}),
                vec![
                    "spec.defaultBackend: Invalid value: \"\": resource or service backend is required"
                        .into(),
                ],
            ),
        ] {
            let told: Vec<String> =
                Ingress.validate(&json!({ "spec": spec })).iter().map(ToString::to_string).collect();
            assert_eq!(told, errors);
        }
    }

    #[test]
    fn the_class_is_said_once() {
        let ingress =
            json!({"metadata": {"annotations": {CLASS_ANNOTATION: "a"}}, "spec": {"ingressClassName": "b"}});
        assert_eq!(
            Ingress.validate_create(&ingress)[0].to_string(),
            "annotations.kubernetes.io/ingress.class: Invalid value: \"a\": must match `ingressClassName` when both \
             are specified"
        );
    }

    #[test]
    fn status_addresses_are_checked() {
        let status = |point: Value| json!({"status": {"loadBalancer": {"ingress": [point]}}});
        let empty = json!({});
        assert!(Ingress.validate_status_update(&status(json!({"ip": "10.0.0.1"})), &empty).is_empty());
        let wrong = status(json!({"ip": "x", "hostname": "10.0.0.1"}));
        assert_eq!(Ingress.validate_status_update(&wrong, &empty).len(), 2);
    }

    #[test]
    fn cells_are_those_of_kubectl() {
        let rules: Vec<Value> = ["a", "b", "", "c", "d"].iter().map(|host| json!({ "host": host })).collect();
        assert_eq!(hosts(&rules), "a,b,c + 2 more...");
        assert_eq!(hosts(&rules[..4]), "a,b,c");
        assert_eq!(hosts(&rules[2..3]), "*");
        let ingress = json!({"metadata": {"name": "i"}, "spec": {"tls": [{}]}, "status": {"loadBalancer":
            {"ingress": [{"hostname": "h"}, {"ip": "1.2.3.4"}]}}});
        let cells = Ingress.cells(&ingress, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..5], [json!("<none>"), json!("*"), json!("1.2.3.4,h"), json!("80, 443")]);
    }
}
