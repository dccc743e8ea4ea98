//! What the server says of itself as objects: the groups and versions that it answers, the range of services.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::discovery;
use crate::api::kinds::Kind;
use crate::api::meta;

/// The priorities of groups: those of higher ones come first (`pkg/controlplane/apiserver/aggregator.go`).
const PRIORITIES: &[(&str, i64)] = &[
    ("", 18000),
    ("apps", 17800),
    ("events.k8s.io", 17750),
    ("authentication.k8s.io", 17700),
    ("authorization.k8s.io", 17600),
    ("autoscaling", 17500),
    ("batch", 17400),
    ("certificates.k8s.io", 17300),
    ("networking.k8s.io", 17200),
    ("policy", 17100),
    ("rbac.authorization.k8s.io", 17000),
    ("storage.k8s.io", 16800),
    ("apiextensions.k8s.io", 16700),
    ("admissionregistration.k8s.io", 16700),
    ("scheduling.k8s.io", 16600),
    ("coordination.k8s.io", 16500),
    ("node.k8s.io", 16300),
    ("discovery.k8s.io", 16200),
    ("flowcontrol.apiserver.k8s.io", 16100),
];

/// The priority of a version within its group.
fn version_priority(group: &str, version: &str) -> i64 {
    match (group, version) {
        ("", "v1") => 1,
        ("autoscaling", "v2") => 30,
        ("flowcontrol.apiserver.k8s.io", "v1") => 21,
        _ => 15,
    }
}

/// The names and objects of the API services that are this server's own. The group of API services is not among them.
pub(super) fn local(kinds: &[Arc<Kind>]) -> Vec<(String, Value)> {
    let served = discovery::group_versions(kinds).into_iter();
    let registered = served.filter_map(|(group, version)| {
        let (_, priority) = PRIORITIES.iter().find(|(known, _)| *known == group)?;
        let name = format!("{version}.{group}");
        let object = json!({
            "metadata": {"name": name, "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"}},
            "spec": {
                "group": group,
                "version": version,
                "groupPriorityMinimum": priority,
                "versionPriority": version_priority(&group, &version),
            },
        });
        Some((name, object))
    });
    registered.collect()
}

/// The range of the addresses of services, which is in use from the start.
pub(super) fn service_range(range: &str) -> Value {
    json!({
        "metadata": {"name": "kubernetes", "finalizers": ["networking.k8s.io/service-cidr-finalizer"]},
        "spec": {"cidrs": [range]},
        "status": {"conditions": [{
            "type": "Ready",
            "status": "True",
            "reason": "",
            "message": "Kubernetes Service CIDR is ready",
            "lastTransitionTime": meta::timestamp(Timestamp::now()),
        }]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds::KINDS;

    #[test]
    fn every_group_and_version_is_registered() {
        let local = local(&KINDS);
        let names: Vec<&str> = local.iter().map(|(name, _)| name.as_str()).collect();
        for name in ["v1.", "v1.networking.k8s.io", "v1.rbac.authorization.k8s.io", "v1.authorization.k8s.io"]
        {
            assert!(names.contains(&name), "{name}");
        }
        let served = discovery::group_versions(&KINDS);
        let own = served.iter().filter(|(group, _)| group != "apiregistration.k8s.io").count();
        assert_eq!(local.len(), own);
    }
}
