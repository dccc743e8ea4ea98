//! What the author of a service should know though it is accepted (`pkg/api/service/warnings.go` of Kubernetes).

use serde_json::Value;

use super::super::deprecated::{address, range};
use super::super::value::{is_set, items, text};
use crate::api::meta;

/// The older name of the annotation by which traffic is kept near.
const HINTS: &str = "service.kubernetes.io/topology-aware-hints";

pub(super) fn service(service: &Value) -> Vec<String> {
    let spec = &service["spec"];
    let kind = text(spec, "type");
    let headless = kind == "ClusterIP" && text(spec, "clusterIP") == "None";
    let external = is_set(spec, "externalIPs");
    let mut warnings = Vec::new();
    if meta::annotation(service, HINTS).is_some() {
        warnings.push(format!(
            "annotation {HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead"
        ));
    }
    let addresses = |field: &str| {
        let all = items(spec, field).iter().enumerate();
        all.filter_map(|(i, given)| address(&format!("spec.{field}[{i}]"), given)).collect::<Vec<_>>()
    };
    warnings.extend(addresses("clusterIPs"));
    if headless {
        let ignored = [
            ("spec.loadBalancerIP", is_set(spec, "loadBalancerIP")),
            ("spec.externalIPs", external),
            ("spec.SessionAffinity", text(spec, "sessionAffinity") != "None"),
        ];
        let ignored = ignored.iter().filter(|(_, given)| *given);
        warnings.extend(ignored.map(|(field, _)| format!("{field} is ignored for headless services")));
    }
    warnings.extend(addresses("externalIPs"));
    if external && !headless && kind != "ExternalName" {
        warnings
            .push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".into());
    }
    warnings.extend(address("spec.loadBalancerIP", &spec["loadBalancerIP"]));
    for (i, given) in items(spec, "loadBalancerSourceRanges").iter().enumerate() {
        warnings.extend(range(&format!("spec.loadBalancerSourceRanges[{i}]"), given));
    }
    if kind == "ExternalName" && external {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".into());
    }
    if kind != "ExternalName" && is_set(spec, "externalName") {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".into());
    }
    if text(spec, "trafficDistribution") == "PreferClose" {
        warnings
            .push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".into());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::service;
    use serde_json::json;

    #[test]
    fn what_has_no_effect_or_no_future_is_told() {
        for (spec, told) in [
            (json!({"type": "ClusterIP", "sessionAffinity": "None"}), &[][..]),
            (
                json!({"type": "ClusterIP", "externalIPs": ["2001:DB8::1"], "externalName": "a.b", "trafficDistribution": "PreferClose"}),
                &[
                    "spec.externalIPs[0]: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")",
                    "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
                    "spec.externalName is ignored when spec.type is not \"ExternalName\"",
                    "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
                ],
            ),
            (
                json!({"type": "ClusterIP", "clusterIP": "None", "externalIPs": ["192.0.2.1"], "loadBalancerIP": "192.0.2.1", "sessionAffinity": "ClientIP"}),
                &[
                    "spec.loadBalancerIP is ignored for headless services",
                    "spec.externalIPs is ignored for headless services",
                    "spec.SessionAffinity is ignored for headless services",
                ],
            ),
            (
                json!({"type": "ExternalName", "externalIPs": ["192.0.2.1"], "externalName": "a.b"}),
                &["spec.externalIPs is ignored when spec.type is \"ExternalName\""],
            ),
        ] {
            assert_eq!(service(&json!({ "spec": spec })), told, "{spec}");
        }
        let hints =
            json!({"metadata": {"annotations": {"service.kubernetes.io/topology-aware-hints": "auto"}}});
        assert_eq!(service(&hints).len(), 1);
    }
}
