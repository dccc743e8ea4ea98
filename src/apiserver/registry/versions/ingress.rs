//! Ingresses as `extensions/v1beta1` and `networking.k8s.io/v1beta1` wrote them: a backend was the name and the port of
//! a service, and a path needed no type (Kubernetes `pkg/apis/networking/v1beta1`).

use serde_json::{Map, Value, json};

use super::rename;

/// Every backend of the rules' paths, with the path that it stands in.
fn paths(ingress: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    let rules = ingress.pointer_mut("/spec/rules").and_then(Value::as_array_mut);
    rules.into_iter().flatten().flat_map(|rule| {
        let paths = rule.pointer_mut("/http/paths").and_then(Value::as_array_mut);
        paths.into_iter().flatten().filter_map(Value::as_object_mut)
    })
}

/// The version of today.
pub(super) fn to_new(ingress: &mut Value) {
    if let Some(spec) = ingress.get_mut("spec") {
        rename(spec, "backend", "defaultBackend");
        if let Some(backend) = spec.get_mut("defaultBackend") {
            new_backend(backend);
        }
    }
    for path in paths(ingress) {
        if path.get("pathType").is_none_or(Value::is_null) {
            path.insert("pathType".into(), json!("ImplementationSpecific"));
        }
        if let Some(backend) = path.get_mut("backend") {
            new_backend(backend);
        }
    }
}

fn new_backend(backend: &mut Value) {
    let Some(fields) = backend.as_object_mut() else { return };
    let name = fields.remove("serviceName").filter(|name| name != "" && !name.is_null());
    let port = fields.remove("servicePort").filter(|port| !port.is_null() && *port != 0);
    if name.is_none() && port.is_none() {
        return;
    }
    let mut service = json!({"name": name.unwrap_or_else(|| json!(""))});
    match port {
        Some(port) if port.is_string() => service["port"] = json!({"name": port}),
        Some(port) => service["port"] = json!({"number": port}),
        None => {}
    }
    fields.insert("service".into(), service);
}

/// The old versions.
pub(super) fn to_old(ingress: &mut Value) {
    if let Some(spec) = ingress.get_mut("spec") {
        rename(spec, "defaultBackend", "backend");
        if let Some(backend) = spec.get_mut("backend") {
            old_backend(backend);
        }
    }
    for path in paths(ingress) {
        if let Some(backend) = path.get_mut("backend") {
            old_backend(backend);
        }
    }
}

fn old_backend(backend: &mut Value) {
    let Some(fields) = backend.as_object_mut() else { return };
    let service = fields.remove("service").unwrap_or_default();
    let port = match &service["port"] {
        port if port["name"].as_str().is_some_and(|name| !name.is_empty()) => port["name"].clone(),
        port => json!(port["number"].as_i64().unwrap_or(0)),
    };
    if let Some(name) = service["name"].as_str() {
        fields.insert("serviceName".into(), json!(name));
        fields.insert("servicePort".into(), port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_change_their_form_and_come_back() {
        let resource = json!({"kind": "Bucket", "name": "b"});
        let old = |path_type: &Value| {
            json!({"spec": {
                "backend": {"serviceName": "www", "servicePort": 80},
                "ingressClassName": "traefik",
                "rules": [{"host": "a.example", "http": {"paths": [
                    {"path": "/", "pathType": path_type, "backend": {"serviceName": "vote", "servicePort": "http"}},
                    {"path": "/b", "pathType": "Prefix", "backend": {"resource": resource}},
                ]}}, {"host": "b.example"}],
            }})
        };
        let specific = json!("ImplementationSpecific");
        let new = json!({"spec": {
            "defaultBackend": {"service": {"name": "www", "port": {"number": 80}}},
            "ingressClassName": "traefik",
            "rules": [{"host": "a.example", "http": {"paths": [
                {"path": "/", "pathType": specific,
                 "backend": {"service": {"name": "vote", "port": {"name": "http"}}}},
                {"path": "/b", "pathType": "Prefix", "backend": {"resource": resource}},
            ]}}, {"host": "b.example"}],
        }});
        for given in [&Value::Null, &specific] {
            let mut ingress = old(given);
            to_new(&mut ingress);
            assert_eq!(ingress, new);
        }
        let mut ingress = new;
        to_old(&mut ingress);
        assert_eq!(ingress, old(&specific));
    }

    #[test]
    fn a_backend_without_a_port_is_left_for_validation() {
        let mut ingress = json!({"spec": {"backend": {"serviceName": "www"}}});
        to_new(&mut ingress);
        assert_eq!(ingress["spec"]["defaultBackend"], json!({"service": {"name": "www"}}));
    }
}
