//! What is wrong with probes and lifecycle hooks (`validateProbe`, `validateHandler`).

use serde_json::{Value, json};

use super::super::value::{items, text};
use super::fields::{invalid, one_of, word};
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
                errors.extend(headers(&at, body));
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

/// What is wrong with a container's hooks and with the signal that ends it (`validateLifecycle`).
pub(super) fn lifecycle(path: &str, lifecycle: &Value, spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for hook in ["postStart", "preStop"] {
        let action = &lifecycle[hook];
        if !action.is_null() {
            let grace = spec["terminationGracePeriodSeconds"].as_i64();
            errors.extend(handler(&format!("{path}.{hook}"), action, grace));
        }
    }
    let signal = &lifecycle["stopSignal"];
    let at = format!("{path}.stopSignal");
    match (signal, text(&spec["os"], "name")) {
        (Value::Null, _) => {}
        _ if spec["os"].is_null() => {
            let why = "may not be set for containers with empty `spec.os.name`";
            errors.push(FieldError::forbidden(at, why));
        }
        (_, "windows") => errors.extend(word(&at, signal, &["SIGKILL", "SIGTERM"])),
        (_, "linux") => {
            let signals = signals();
            errors.extend(word(&at, signal, &signals.iter().map(String::as_str).collect::<Vec<_>>()));
        }
        _ => {}
    }
    errors
}

/// The signals that end containers on Linux, sorted.
fn signals() -> Vec<String> {
    const NAMED: [&str; 36] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
        "PIPE", "POLL", "PROF", "PWR", "QUIT", "RTMAX", "RTMIN", "SEGV", "STKFLT", "STOP", "SYS", "TERM",
        "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
    ];
    let named = NAMED.iter().map(|name| format!("SIG{name}"));
    let least = (1..=15).map(|n| format!("SIGRTMIN+{n}"));
    let most = (1..=14).map(|n| format!("SIGRTMAX-{n}"));
    let mut all: Vec<String> = named.chain(least).chain(most).collect();
    all.sort_unstable();
    all
}

/// What is wrong with the names of headers, which Kubernetes tells of the list of them.
fn headers(path: &str, get: &Value) -> Vec<FieldError> {
    let allowed =
        |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let wrong =
        items(get, "httpHeaders").iter().map(|header| text(header, "name")).filter(|name| !allowed(name));
    let why = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used \
               for validation is '[-A-Za-z0-9]+')";
    wrong.map(|name| FieldError::invalid(format!("{path}.httpHeaders"), &json!(name), why)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_need_a_system_and_headers_a_name() {
        let told = |spec: Value, signal: &str| {
            let errors = lifecycle("l", &json!({"stopSignal": signal}), &spec);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let system = |name: &str| json!({"os": {"name": name}});
        assert!(told(system("linux"), "SIGRTMIN+15").is_empty());
        assert!(told(system("windows"), "SIGTERM").is_empty());
        assert_eq!(signals().len(), 65);
        assert_eq!(
            told(json!({}), "SIGTERM"),
            ["l.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`"]
        );
        assert_eq!(
            told(system("windows"), "SIGHUP"),
            ["l.stopSignal: Unsupported value: \"SIGHUP\": supported values: \"SIGKILL\", \"SIGTERM\""]
        );
        assert!(told(system("linux"), "TERM")[0].starts_with(
            "l.stopSignal: Unsupported value: \"TERM\": supported values: \"SIGABRT\", \"SIGALRM\", \"SIGBUS\", "
        ));
        let get = json!({"httpGet": {"path": "/", "port": 80, "scheme": "HTTP", "httpHeaders": [{"name": "X-A"}, {"name": "a b"}]}});
        let errors = handler("h", &get, None);
        assert!(
            errors[0]
                .to_string()
                .starts_with("h.httpGet.httpHeaders: Invalid value: \"a b\": a valid HTTP header")
        );
    }
}
