//! Services: a name and an address for the pods that a selector picks.
//!
//! Addresses and node ports are handed out by the registry's allocator; here is what needs no memory.

mod addresses;
mod exposure;
mod validate;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::column::{self, AGE, NAME, NONE};
use super::value::{fill, fill_zero, is_set, items, items_mut, object, text};
use super::{Column, Strategy};
use crate::api::names;
use crate::api::status::FieldError;

/// The strategy of services.
pub(super) struct Service;

impl Strategy for Service {
    fn name_errors(&self, _object: &Value, name: &str) -> Vec<String> {
        names::dns1035_label(name)
    }

    fn created_on_update(&self) -> bool {
        true
    }

    fn default(&self, service: &mut Value) {
        object(service, "spec");
        object(service, "status");
        fill(&mut service["status"], "loadBalancer", json!({}));
        let spec = &mut service["spec"];
        fill_zero(spec, "type", "ClusterIP");
        fill_zero(spec, "sessionAffinity", "None");
        if text(spec, "sessionAffinity") == "None"
            && let Some(spec) = spec.as_object_mut()
        {
            // What is left of it when it is switched off.
            spec.remove("sessionAffinityConfig");
        }
        if text(spec, "sessionAffinity") == "ClientIP" {
            let timeout = object(spec, "sessionAffinityConfig").entry("clientIP").or_insert(Value::Null);
            if timeout["timeoutSeconds"].is_null() {
                *timeout = json!({"timeoutSeconds": 10800});
            }
        }
        for port in items_mut(spec, "ports") {
            fill_zero(port, "protocol", "TCP");
            if super::value::is_zero(&port["targetPort"]) {
                let number = port["port"].clone();
                if let Some(port) = port.as_object_mut() {
                    port.insert("targetPort".into(), number);
                }
            }
        }
        let external = matches!(text(spec, "type"), "NodePort" | "LoadBalancer");
        if external || is_set(spec, "externalIPs") {
            fill_zero(spec, "externalTrafficPolicy", "Cluster");
        }
        if text(spec, "type") != "ExternalName" {
            fill(spec, "internalTrafficPolicy", "Cluster");
        }
        if text(spec, "type") == "LoadBalancer" {
            fill(spec, "allocateLoadBalancerNodePorts", true);
        }
    }

    fn prepare_create(&self, service: &mut Value) {
        service["status"] = json!({"loadBalancer": {}});
        addresses::prepare_create(service);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        object(new, "spec");
        addresses::prepare_update(new, old);
        exposure::drop_unused(new, old);
    }

    fn validate(&self, service: &Value) -> Vec<FieldError> {
        validate::service(service)
    }

    fn validate_create(&self, service: &Value) -> Vec<FieldError> {
        validate::ratcheted(service, &Value::Null)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = validate::update(new, old);
        errors.extend(validate::ratcheted(new, old));
        errors
    }

    fn fields(&self, service: &Value) -> Vec<(&'static str, String)> {
        let of = |key| text(&service["spec"], key).to_owned();
        vec![("spec.clusterIP", of("clusterIP")), ("spec.type", of("type"))]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("Type", "type determines how the Service is exposed."),
            column::text(
                "Cluster-IP",
                "clusterIP is the IP address of the service and is usually assigned randomly.",
            ),
            column::text(
                "External-IP",
                "externalIPs is a list of IP addresses for which nodes in the cluster will also accept traffic for this service.",
            ),
            column::text("Port(s)", "The list of ports that are exposed by this service."),
            AGE,
            column::wide(
                "Selector",
                "Route service traffic to pods with label keys and values matching this selector.",
            ),
        ];
        COLUMNS
    }

    fn cells(&self, service: &Value, now: Timestamp) -> Vec<Value> {
        let spec = &service["spec"];
        vec![
            column::name(service),
            text(spec, "type").into(),
            column::or_none(text(spec, "clusterIP")),
            external(service).into(),
            ports(spec).into(),
            column::age(service, now),
            column::labels(&spec["selector"]),
        ]
    }
}

fn external(service: &Value) -> String {
    let spec = &service["spec"];
    let mut all: Vec<&str> = items(spec, "externalIPs").iter().filter_map(Value::as_str).collect();
    match text(spec, "type") {
        "ExternalName" => return text(spec, "externalName").to_owned(),
        "LoadBalancer" => {
            let ingress = items(&service["status"]["loadBalancer"], "ingress").iter();
            let balancers: Vec<&str> = ingress
                .map(|i| if is_set(i, "ip") { text(i, "ip") } else { text(i, "hostname") })
                .filter(|shown| !shown.is_empty())
                .collect();
            all = balancers.into_iter().chain(all).collect();
            if all.is_empty() {
                return "<pending>".to_owned();
            }
        }
        _ => {}
    }
    if all.is_empty() { NONE.to_owned() } else { all.join(",") }
}

/// `80/TCP,443:30443/TCP`.
fn ports(spec: &Value) -> String {
    let shown: Vec<String> = items(spec, "ports")
        .iter()
        .map(|port| {
            let node =
                if is_set(port, "nodePort") { format!(":{}", port["nodePort"]) } else { String::new() };
            format!("{}{node}/{}", port["port"], text(port, "protocol"))
        })
        .collect();
    if shown.is_empty() { NONE.to_owned() } else { shown.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_kubernetes() {
        let mut service =
            json!({"spec": {"type": "NodePort", "sessionAffinity": "ClientIP", "ports": [{"port": 80}]}});
        Service.default(&mut service);
        let again = service.clone();
        Service.default(&mut service);
        assert_eq!(service, again);
        assert_eq!(
            service,
            json!({
                "spec": {
                    "type": "NodePort", "sessionAffinity": "ClientIP",
                    "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
                    "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
                    "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster"
                },
                "status": {"loadBalancer": {}}
            })
        );
    }

    #[test]
    fn an_update_keeps_what_was_allocated() {
        let ports = json!([{"port": 80, "protocol": "TCP", "nodePort": 30001}]);
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
                                  "ports": ports}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": ports}});
        Service.prepare_update(&mut new, &old);
        assert_eq!(new, old);
    }

    #[test]
    fn cells_are_kubectls() {
        let now = "2024-01-01T00:00:00Z".parse().unwrap();
        let service = json!({
            "metadata": {"name": "vote", "creationTimestamp": "2023-12-31T23:59:00Z"},
            "spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "selector": {"app": "vote", "a": "b"},
                     "ports": [{"port": 80, "nodePort": 31000, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}
        });
        assert_eq!(
            json!(Service.cells(&service, now)),
            json!(["vote", "NodePort", "10.96.0.9", "<none>", "80:31000/TCP,53/UDP", "60s", "a=b,app=vote"])
        );
        let name = json!({"spec": {"type": "ExternalName", "externalName": "a.b"}});
        assert_eq!(json!(Service.cells(&name, now)[2..5]), json!(["<none>", "a.b", "<none>"]));
        assert_eq!(Service.cells(&json!({"spec": {"type": "LoadBalancer"}}), now)[3], "<pending>");
    }
}
