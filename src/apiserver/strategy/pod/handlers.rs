//! What is wrong with probes and lifecycle hooks (`validateProbe`, `validateHandler`).

use serde_json::{Value, json};

use super::super::value::{items, text};
use super::fields::{invalid, one_of};
use crate::api::names;
use crate::api::status::FieldError;

const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

/// A probe, if there is one; `name` is its field.
pub(super) fn probe(path: &str, name: &str, probe: &Value) -> Vec<FieldError> {
    if probe.is_null() {
        return Vec::new();
    }
    let mut errors = handler(path, probe, None);
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        if probe[field].as_i64().is_some_and(|n| n < 0) {
            let why = "must be greater than or equal to 0";
            errors.push(FieldError::invalid(format!("{path}.{field}"), &probe[field], why));
        }
    }
    if name != "readinessProbe" && probe["successThreshold"].as_i64().is_some_and(|n| n != 1) {
        errors.push(FieldError::invalid(
            format!("{path}.successThreshold"),
            &probe["successThreshold"],
            "must be 1",
        ));
    }
    let grace = &probe["terminationGracePeriodSeconds"];
    if name == "readinessProbe" && !grace.is_null() {
        let why = "must not be set for readinessProbes";
        errors.push(FieldError::invalid(format!("{path}.terminationGracePeriodSeconds"), grace, why));
    } else if grace.as_i64().is_some_and(|n| n <= 0) {
        errors.push(FieldError::invalid(
            format!("{path}.terminationGracePeriodSeconds"),
            grace,
            "must be greater than 0",
        ));
    }
    errors
}

/// A probe's or hook's way of asking: exactly one. A hook that sleeps has the pod's time to end, where that is known.
pub(super) fn handler(path: &str, handler: &Value, grace: Option<i64>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let given: Vec<&str> = HANDLERS.into_iter().filter(|h| !handler[*h].is_null()).collect();
    if given.is_empty() {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
    for extra in given.iter().skip(1) {
        errors.push(FieldError::forbidden(
            format!("{path}.{extra}"),
            "may not specify more than 1 handler type",
        ));
    }
    for kind in given.iter().take(1) {
        let (at, body) = (format!("{path}.{kind}"), &handler[*kind]);
        match *kind {
            "exec" if items(body, "command").is_empty() => {
                errors.push(FieldError::required(format!("{at}.command"), ""));
            }
            "httpGet" => {
                if text(body, "path").is_empty() {
                    errors.push(FieldError::required(format!("{at}.path"), ""));
                }
                errors.extend(port_or_name(&format!("{at}.port"), &body["port"]));
                errors.extend(one_of(&format!("{at}.scheme"), &body["scheme"], &["HTTP", "HTTPS"]));
            }
            "tcpSocket" | "grpc" => errors.extend(port_or_name(&format!("{at}.port"), &body["port"])),
            "sleep" => {
                let seconds = body["seconds"].as_i64().unwrap_or(0);
                if let Some(most) = grace.filter(|grace| !(0..=*grace).contains(&seconds)) {
                    let why =
                        format!("must be non-negative and less than terminationGracePeriodSeconds ({most})");
                    errors.push(FieldError::invalid(at, &json!(seconds), &why));
                }
            }
            _ => {}
        }
    }
    errors
}

fn port_or_name(path: &str, port: &Value) -> Vec<FieldError> {
    match port {
        Value::String(name) => invalid(path, port, names::port_name(name)),
        other => invalid(
            path,
            &json!(other.as_i64().unwrap_or(0)),
            names::port_number(other.as_i64().unwrap_or(0)),
        ),
    }
}
