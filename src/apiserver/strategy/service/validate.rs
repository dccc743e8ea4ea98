//! What is wrong with a service (`ValidateService` of Kubernetes' core validation).

use serde_json::{Value, json};

use super::super::address;
use super::super::value::{entries, is_set, items, text};
use super::addresses;
use super::exposure::{self, is_balanced, is_checked, is_exposed};
use crate::api::names;
use crate::api::status::FieldError;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
/// The ports that services may have on the node (`--service-node-port-range`'s default).
const NODE_PORTS: std::ops::RangeInclusive<i64> = 30000..=32767;

pub(super) fn service(service: &Value) -> Vec<FieldError> {
    let spec = &service["spec"];
    let kind = text(spec, "type");
    let headless = text(spec, "clusterIP") == "None";
    let mut errors = Vec::new();
    let all = items(spec, "ports");
    if all.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    errors.extend(by_type(spec, kind, headless));
    let mut names = Vec::new();
    for (i, one) in all.iter().enumerate() {
        errors.extend(port(&format!("spec.ports[{i}]"), one, all.len() > 1, &names));
        names.push(text(one, "name"));
    }
    for (key, value) in entries(spec, "selector") {
        for wrong in names::qualified_name(key) {
            errors.push(FieldError::invalid("spec.selector", &json!(key), &wrong));
        }
        for wrong in names::label_value(value.as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid("spec.selector", value, &wrong));
        }
    }
    errors.extend(affinity(spec));
    errors.extend(addresses::related(service));
    if !TYPES.contains(&kind) {
        errors.push(FieldError::not_supported("spec.type", &spec["type"], &TYPES));
    }
    errors.extend(node_ports(all, kind));
    errors.extend(exposure::balancer(spec));
    let external = is_exposed(spec);
    if !external && is_set(spec, "externalTrafficPolicy") {
        let why = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid("spec.externalTrafficPolicy", &spec["externalTrafficPolicy"], why));
    } else if external && !is_set(spec, "externalTrafficPolicy") {
        errors.push(FieldError::required("spec.externalTrafficPolicy", ""));
    }
    errors.extend(exposure::health_port(spec));
    errors.extend(twice(all));
    for (field, allowed) in
        [("externalTrafficPolicy", ["Cluster", "Local"]), ("internalTrafficPolicy", ["Cluster", "Local"])]
    {
        if is_set(spec, field) && !allowed.contains(&text(spec, field)) {
            errors.push(FieldError::not_supported(format!("spec.{field}"), &spec[field], &allowed));
        }
    }
    errors
}

fn by_type(spec: &Value, kind: &str, headless: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let why = format!("may not be set to 'None' for {kind} services");
            errors.push(FieldError::invalid("spec.clusterIPs[0]", &json!("None"), &why));
        }
        "ExternalName" => {
            if is_set(spec, "clusterIP") || is_set(spec, "clusterIPs") {
                errors.push(FieldError::forbidden(
                    "spec.clusterIPs",
                    "may not be set for ExternalName services",
                ));
            }
            let name = text(spec, "externalName").trim_end_matches('.');
            if name.is_empty() {
                errors.push(FieldError::required("spec.externalName", ""));
            } else {
                let wrong = names::dns_subdomain(name);
                errors.extend(
                    wrong.iter().map(|w| FieldError::invalid("spec.externalName", &spec["externalName"], w)),
                );
            }
        }
        _ => {}
    }
    errors
}

fn port(path: &str, port: &Value, name_required: bool, names_before: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = text(port, "name");
    if name.is_empty() {
        if name_required {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        }
    } else {
        for wrong in names::dns_label(name) {
            errors.push(FieldError::invalid(format!("{path}.name"), &port["name"], &wrong));
        }
        if names_before.contains(&name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), &port["name"]));
        }
    }
    for wrong in names::port_number(port["port"].as_i64().unwrap_or(0)) {
        errors.push(FieldError::invalid(
            format!("{path}.port"),
            &json!(port["port"].as_i64().unwrap_or(0)),
            &wrong,
        ));
    }
    if !PROTOCOLS.contains(&text(port, "protocol")) {
        errors.push(FieldError::not_supported(format!("{path}.protocol"), &port["protocol"], &PROTOCOLS));
    }
    let target = &port["targetPort"];
    let wrong = match target {
        Value::Number(n) => names::port_number(n.as_i64().unwrap_or(0)),
        other => names::port_name(other.as_str().unwrap_or_default()),
    };
    errors.extend(wrong.iter().map(|w| FieldError::invalid(format!("{path}.targetPort"), target, w)));
    if is_set(port, "appProtocol") {
        let wrong = names::qualified_name(text(port, "appProtocol"));
        errors.extend(
            wrong.iter().map(|w| FieldError::invalid(format!("{path}.appProtocol"), &port["appProtocol"], w)),
        );
    }
    errors
}

fn affinity(spec: &Value) -> Vec<FieldError> {
    const KINDS: [&str; 2] = ["ClientIP", "None"];
    /// A day (`core.MaxClientIPServiceAffinitySeconds`).
    const LONGEST: i64 = 86400;
    let config = &spec["sessionAffinityConfig"];
    match text(spec, "sessionAffinity") {
        "" => vec![FieldError::required("spec.sessionAffinity", "")],
        "ClientIP" => {
            let timeout = &config["clientIP"]["timeoutSeconds"];
            let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            match timeout.as_i64() {
                None => vec![FieldError::required(path, "")],
                Some(seconds) if seconds <= 0 || seconds > LONGEST => {
                    let why = format!("must be greater than 0 and less than {LONGEST}");
                    vec![FieldError::invalid(path, timeout, &why)]
                }
                Some(_) => Vec::new(),
            }
        }
        "None" if !config.is_null() => {
            vec![FieldError::forbidden(
                "spec.sessionAffinityConfig",
                "must not be set when session affinity is None",
            )]
        }
        "None" => Vec::new(),
        _ => vec![FieldError::not_supported("spec.sessionAffinity", &spec["sessionAffinity"], &KINDS)],
    }
}

fn external_addresses(spec: &Value) -> Vec<FieldError> {
    let all = items(spec, "externalIPs").iter().enumerate();
    all.filter_map(|(i, ip)| address::endpoint(&format!("spec.externalIPs[{i}]"), ip)).collect()
}

/// What is wrong with fields that services of older versions have as they came: those may stay as they are. The old
/// service is null for a new one.
pub(super) fn ratcheted(service: &Value, before: &Value) -> Vec<FieldError> {
    let (new, old) = (&service["spec"], &before["spec"]);
    let changed = |field: &str| new[field] != old[field];
    let mut errors = Vec::new();
    if ["ipFamilies", "clusterIP", "clusterIPs"].into_iter().any(changed) {
        errors.extend(addresses::disagreements(service));
    }
    if changed("ipFamilies") || changed("ipFamilyPolicy") {
        errors.extend(addresses::families(new));
    }
    if changed("externalIPs") {
        errors.extend(external_addresses(new));
    }
    if changed("loadBalancerSourceRanges") {
        errors.extend(exposure::source_ranges(new, old));
    }
    errors
}

fn node_ports(ports: &[Value], kind: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = Vec::new();
    for (i, port) in ports.iter().enumerate().filter(|(_, port)| is_set(port, "nodePort")) {
        let path = format!("spec.ports[{i}].nodePort");
        let node_port = &port["nodePort"];
        if matches!(kind, "ClusterIP" | "ExternalName") {
            let why = format!("may not be used when `type` is '{kind}'");
            errors.push(FieldError::forbidden(&path, &why));
        } else if !NODE_PORTS.contains(&node_port.as_i64().unwrap_or(0)) {
            let why = "provided port is not in the valid range. The range of valid ports is 30000-32767";
            errors.push(FieldError::invalid(&path, node_port, why));
        }
        let key = (node_port, text(port, "protocol"));
        if seen.contains(&key) {
            errors.push(FieldError::duplicate(&path, node_port));
        }
        seen.push(key);
    }
    errors
}

/// Two ports of one protocol and number.
fn twice(ports: &[Value]) -> Vec<FieldError> {
    let same = |a: &Value, b: &Value| a["port"] == b["port"] && a["protocol"] == b["protocol"];
    let again = |i: usize| ports[..i].iter().any(|before| same(before, &ports[i]));
    (0..ports.len())
        .filter(|i| again(*i))
        .map(|i| {
            let (port, protocol) = (&ports[i]["port"], &ports[i]["protocol"]);
            let form = format!(
                "{{\"Name\":\"\",\"Protocol\":{protocol},\"AppProtocol\":null,\"Port\":{port},\"TargetPort\":0,\"NodePort\":0}}"
            );
            FieldError::duplicate(format!("spec.ports[{i}]"), port).showing(port, &form)
        })
        .collect()
}

/// What stays while the service has it.
pub(super) fn update(new: &Value, old: &Value) -> Vec<FieldError> {
    const FIXED: &str = "may not change once set";
    let mut errors = addresses::update(new, old);
    let (new, old) = (&new["spec"], &old["spec"]);
    if is_balanced(new) && is_balanced(old) && new["loadBalancerClass"] != old["loadBalancerClass"] {
        errors.push(FieldError::invalid("spec.loadBalancerClass", &new["loadBalancerClass"], FIXED));
    }
    let port = |spec: &Value| spec["healthCheckNodePort"].as_u64().unwrap_or(0);
    if is_checked(new) && is_checked(old) && ![0, port(old)].contains(&port(new)) {
        errors.push(FieldError::forbidden("spec.healthCheckNodePort", "field is immutable"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::super::{Service, Strategy};
    use super::*;

    fn wrong(spec: Value) -> Vec<String> {
        let mut object = json!({ "spec": spec });
        Service.default(&mut object);
        let errors = service(&object).into_iter().chain(ratcheted(&object, &Value::Null));
        errors.map(|error| error.to_string()).collect()
    }

    #[test]
    fn rules_and_words_are_kubernetes() {
        for (spec, errors) in [
            (json!({"ports": [{"port": 80}]}), vec![]),
            (json!({"clusterIP": "None"}), vec![]),
            (json!({"type": "ExternalName", "externalName": "a.b."}), vec![]),
            (json!({}), vec!["spec.ports: Required value"]),
            (
                json!({"type": "X", "ports": [{"port": 80}]}),
                vec![
                    "spec.type: Unsupported value: \"X\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
                ],
            ),
            (
                json!({"ports": [{"port": 0, "targetPort": 1}]}),
                vec!["spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"],
            ),
            (
                json!({"ports": [{"port": 80}, {"name": "a", "port": 81}]}),
                vec!["spec.ports[0].name: Required value"],
            ),
            (
                json!({"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 81}]}),
                vec!["spec.ports[1].name: Duplicate value: \"a\""],
            ),
            (
                json!({"ports": [{"port": 80, "nodePort": 30000}]}),
                vec!["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
            ),
            (
                json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}),
                vec![
                    "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767",
                ],
            ),
            (
                json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 80}]}),
                vec![
                    "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
                ],
            ),
            (json!({"type": "ExternalName"}), vec!["spec.externalName: Required value"]),
            (json!({"ports": [{"port": 80}], "sessionAffinityConfig": {}}), vec![]),
            (
                json!({"ports": [{"port": 80}], "clusterIP": "x"}),
                vec![
                    "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                ],
            ),
            (
                json!({"ports": [{"port": 80}], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}),
                vec![],
            ),
            (
                json!({"ports": [{"port": 80}], "ipFamilies": ["IPv5", "IPv4", "IPv4"], "ipFamilyPolicy": "foo"}),
                vec![
                    "spec.ipFamilies[0]: Unsupported value: \"IPv5\": supported values: \"IPv4\", \"IPv6\"",
                    "spec.ipFamilies[2]: Duplicate value: \"IPv4\"",
                    "spec.ipFamilyPolicy: Unsupported value: \"foo\": supported values: \"PreferDualStack\", \"RequireDualStack\", \"SingleStack\"",
                ],
            ),
            (
                json!({"ports": [{"port": 80}], "externalIPs": ["192.0.2.1", "127.0.0.1"]}),
                vec![
                    "spec.externalIPs[1]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                ],
            ),
        ] {
            assert_eq!(wrong(spec.clone()), errors, "{spec}");
        }
        let balanced = |field: &str, value: Value| {
            let mut spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
            spec[field] = value.clone();
            let mut plain = json!({"ports": [{"port": 80}]});
            plain[field] = value;
            (wrong(spec), wrong(plain))
        };
        const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
        for (field, value, shown) in [
            ("loadBalancerSourceRanges", json!(["10.0.0.0/8", " 192.0.2.0/24"]), "LoadBalancerSourceRanges"),
            ("allocateLoadBalancerNodePorts", json!(false), "allocateLoadBalancerNodePorts"),
            ("loadBalancerClass", json!("a.b/c"), "loadBalancerClass"),
        ] {
            let (with, without) = balanced(field, value);
            assert!(with.is_empty(), "{field}: {with:?}");
            assert_eq!(without, [format!("spec.{shown}: Forbidden: {ONLY}")], "{field}");
        }
        let (ranges, _) = balanced("loadBalancerSourceRanges", json!(["10.0.0.1/33"]));
        assert!(
            ranges[0].starts_with("spec.LoadBalancerSourceRanges[0]: Invalid value: \"10.0.0.1/33\""),
            "{ranges:?}"
        );
        let (port, _) = balanced("healthCheckNodePort", json!(30000));
        assert_eq!(
            port,
            [
                "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
            ]
        );
        let (distribution, _) = balanced("trafficDistribution", json!("Near"));
        assert_eq!(
            distribution,
            [
                "spec.trafficDistribution: Unsupported value: \"Near\": supported values: \"PreferClose\", \"PreferSameNode\", \"PreferSameZone\""
            ]
        );
        let selector = wrong(json!({"ports": [{"port": 80}], "selector": {"a b": "c d"}}));
        assert_eq!(selector.len(), 2);
        let ports = json!([{"name": "a", "port": 80}, {"name": "b", "port": 80}]);
        assert_eq!(wrong(json!({"ports": ports})).len(), 1);
    }

    #[test]
    fn what_was_taken_once_may_stay() {
        let contradictory =
            json!({"spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv6"]}});
        assert!(ratcheted(&contradictory, &contradictory).is_empty());
        assert_eq!(ratcheted(&contradictory, &Value::Null).len(), 1);
        let old = json!({"spec": {"ipFamilies": ["IPv5"], "externalIPs": ["127.0.0.1"]}});
        let mut new = old.clone();
        new["spec"]["type"] = json!("ClusterIP");
        assert!(ratcheted(&new, &old).is_empty());
        new["spec"]["externalIPs"] = json!(["127.0.0.1", "192.0.2.1"]);
        assert_eq!(ratcheted(&new, &old).len(), 1);
        new["spec"]["ipFamilyPolicy"] = json!("SingleStack");
        assert_eq!(ratcheted(&new, &old).len(), 2);
    }

    #[test]
    fn the_address_stays() {
        let of = |ip: &str| json!({"spec": {"type": "ClusterIP", "clusterIP": ip}});
        assert_eq!(update(&of("10.96.0.2"), &of("10.96.0.1")).len(), 1);
        assert!(update(&of("10.96.0.1"), &of("10.96.0.1")).is_empty());
        let balanced = |class: &str, port: u16| {
            json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "loadBalancerClass": class,
                            "healthCheckNodePort": port}})
        };
        assert!(update(&balanced("a/b", 30000), &balanced("a/b", 30000)).is_empty());
        let errors = update(&balanced("a/c", 30001), &balanced("a/b", 30000));
        let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "spec.loadBalancerClass: Invalid value: \"a/c\": may not change once set",
                "spec.healthCheckNodePort: Forbidden: field is immutable"
            ]
        );
    }
}
