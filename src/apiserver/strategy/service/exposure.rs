//! How a service shows itself outside of the cluster: what goes with its type, and what is wrong with that.

use serde_json::{Value, json};

use super::super::address;
use super::super::value::{carry_over, is_set, items, text};
use crate::api::names;
use crate::api::status::FieldError;

/// Whether a service answers outside of the cluster (`ExternallyAccessible`).
pub(super) fn is_exposed(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => is_set(spec, "externalIPs"),
        _ => false,
    }
}

pub(super) fn is_balanced(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer"
}

/// Whether load balancers ask whether the service has endpoints on the node.
pub(super) fn is_checked(spec: &Value) -> bool {
    is_balanced(spec) && text(spec, "externalTrafficPolicy") == "Local"
}

/// Takes away what a change of type leaves without a meaning, unless the change is of these fields too
/// (`dropTypeDependentFields`).
pub(super) fn drop_unused(new: &mut Value, old: &Value) {
    let before = &old["spec"];
    let no_more = |is: fn(&Value) -> bool| is(before) && !is(&new["spec"]);
    let fields = [
        (no_more(is_checked), "healthCheckNodePort"),
        (no_more(is_balanced), "allocateLoadBalancerNodePorts"),
        (no_more(is_balanced), "loadBalancerClass"),
        (no_more(is_exposed), "externalTrafficPolicy"),
    ];
    for (_, field) in fields.into_iter().filter(|(unused, _)| *unused) {
        if new["spec"][field] == before[field] {
            carry_over(&mut new["spec"], &Value::Null, field);
        }
    }
    if !is_balanced(&new["spec"]) && !new["status"].is_null() {
        new["status"]["loadBalancer"] = json!({});
    }
}

/// What only load balancers have.
pub(super) fn balancer(spec: &Value) -> Vec<FieldError> {
    const WHY: &str = "may only be used when `type` is 'LoadBalancer'";
    /// Among others, by which endpoints are preferred.
    const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    let mut errors = Vec::new();
    if is_set(spec, "loadBalancerSourceRanges") && !is_balanced(spec) {
        errors.push(FieldError::forbidden("spec.LoadBalancerSourceRanges", WHY));
    }
    if !spec["allocateLoadBalancerNodePorts"].is_null() && !is_balanced(spec) {
        errors.push(FieldError::forbidden("spec.allocateLoadBalancerNodePorts", WHY));
    }
    if let Some(class) = spec["loadBalancerClass"].as_str() {
        match is_balanced(spec) {
            true => errors.extend(names::qualified_name(class).iter().map(|wrong| {
                FieldError::invalid("spec.loadBalancerClass", &spec["loadBalancerClass"], wrong)
            })),
            false => errors.push(FieldError::forbidden("spec.loadBalancerClass", WHY)),
        }
    }
    if is_set(spec, "trafficDistribution") && !DISTRIBUTIONS.contains(&text(spec, "trafficDistribution")) {
        let given = &spec["trafficDistribution"];
        errors.push(FieldError::not_supported("spec.trafficDistribution", given, &DISTRIBUTIONS));
    }
    errors
}

/// The port itself is the allocator's to choose.
pub(super) fn health_port(spec: &Value) -> Vec<FieldError> {
    const FIELD: &str = "spec.healthCheckNodePort";
    let (given, number) = (&spec["healthCheckNodePort"], spec["healthCheckNodePort"].as_i64().unwrap_or(0));
    match (number, is_checked(spec)) {
        (0, _) => Vec::new(),
        (_, false) => {
            let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            vec![FieldError::invalid(FIELD, given, why)]
        }
        (number, true) => {
            names::port_number(number).iter().map(|wrong| FieldError::invalid(FIELD, given, wrong)).collect()
        }
    }
}

/// Ranges that the old service has may stay; the field's name is written as Kubernetes writes it here.
pub(super) fn source_ranges(new: &Value, old: &Value) -> Vec<FieldError> {
    let trimmed = |range: &Value| json!(range.as_str().unwrap_or_default().trim());
    let before: Vec<Value> = items(old, "loadBalancerSourceRanges").iter().map(trimmed).collect();
    let all = items(new, "loadBalancerSourceRanges").iter().map(trimmed).enumerate();
    all.filter(|(_, range)| !before.contains(range))
        .filter_map(|(i, range)| address::cidr(&format!("spec.LoadBalancerSourceRanges[{i}]"), &range))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_type_takes_along_what_only_the_old_one_has() {
        let old = json!({
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
                     "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Cluster", "healthCheckNodePort": 30009,
                     "allocateLoadBalancerNodePorts": true, "loadBalancerClass": "a/b", "ports": [{"port": 80}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "10.96.0.9"}]}}
        });
        for (kind, left) in [
            (
                "LoadBalancer",
                vec![
                    "externalTrafficPolicy",
                    "healthCheckNodePort",
                    "allocateLoadBalancerNodePorts",
                    "loadBalancerClass",
                ],
            ),
            ("NodePort", vec!["externalTrafficPolicy"]),
            ("ClusterIP", vec![]),
        ] {
            let mut new = old.clone();
            new["spec"]["type"] = kind.into();
            drop_unused(&mut new, &old);
            let fields = [
                "externalTrafficPolicy",
                "healthCheckNodePort",
                "allocateLoadBalancerNodePorts",
                "loadBalancerClass",
            ];
            let found: Vec<_> = fields.into_iter().filter(|field| !new["spec"][field].is_null()).collect();
            assert_eq!(found, left, "{kind}");
            assert_eq!(new["status"]["loadBalancer"] == json!({}), kind != "LoadBalancer", "{kind}");
        }
        // Who changes such a field at the same time is told that it has no place there.
        let mut new = old.clone();
        new["spec"]["type"] = "ClusterIP".into();
        new["spec"]["healthCheckNodePort"] = json!(30010);
        drop_unused(&mut new, &old);
        assert_eq!(new["spec"]["healthCheckNodePort"], 30010);
        // The policy alone decides about the port as well.
        let mut new = old.clone();
        new["spec"]["externalTrafficPolicy"] = "Cluster".into();
        drop_unused(&mut new, &old);
        assert!(new["spec"]["healthCheckNodePort"].is_null());
    }
}
