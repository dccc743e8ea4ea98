//! Which other objects of the API a pod refers to.

use serde_json::Value;

use crate::api::value::{items, text};

/// Whether anything of a pod is from Secrets: its environment, its volumes, or the credentials of its images.
pub fn secrets(spec: &Value) -> bool {
    in_environment(spec, "secretKeyRef", "secretRef")
        || has_volume(spec, "secret")
        || projects(spec, "secret")
        || !items(spec, "imagePullSecrets").is_empty()
}

/// Whether anything of a pod is from ConfigMaps.
pub fn config_maps(spec: &Value) -> bool {
    in_environment(spec, "configMapKeyRef", "configMapRef")
        || has_volume(spec, "configMap")
        || projects(spec, "configMap")
}

/// Whether a projected volume of a pod has such a source, by its field: `serviceAccountToken`.
pub fn projects(spec: &Value, source: &str) -> bool {
    let has =
        |volume: &Value| items(&volume["projected"], "sources").iter().any(|given| !given[source].is_null());
    items(spec, "volumes").iter().any(has)
}

/// To what a pod refers, as Kubernetes names it (`HasAPIObjectReference` of `pkg/api/pod`); `None` if to nothing.
pub fn first(spec: &Value) -> Option<&'static str> {
    let accounts = ["serviceAccountName", "serviceAccount"];
    if accounts.iter().any(|field| !text(spec, field).is_empty()) {
        return Some("serviceaccounts");
    }
    if secrets(spec) {
        return Some("secrets");
    }
    if config_maps(spec) {
        return Some("configmaps");
    }
    if !items(spec, "resourceClaims").is_empty() {
        return Some("resourceclaims");
    }
    let volumes = [
        ("csi", "csidrivers (via CSI volumes)"),
        ("glusterfs", "endpoints (via glusterFS volumes)"),
        ("persistentVolumeClaim", "persistentvolumeclaims"),
        ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
        ("azureFile", "secrets (via azureFile volumes)"),
    ];
    let sources = [
        ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
        ("clusterTrustBundle", "clustertrustbundles"),
        ("podCertificate", "podcertificates"),
    ];
    let of_volume = volumes.into_iter().find(|(kind, _)| has_volume(spec, kind));
    let found = of_volume.or_else(|| sources.into_iter().find(|(source, _)| projects(spec, source)));
    found.map(|(_, name)| name)
}

fn in_environment(spec: &Value, key: &str, all: &str) -> bool {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    lists.iter().flat_map(|list| items(spec, list)).any(|container| {
        items(container, "env").iter().any(|env| !env["valueFrom"][key].is_null())
            || items(container, "envFrom").iter().any(|env| !env[all].is_null())
    })
}

fn has_volume(spec: &Value, kind: &str) -> bool {
    items(spec, "volumes").iter().any(|volume| !volume[kind].is_null())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_pod_refers_to_is_named() {
        let environment = |env: Value| json!({"containers": [{}], "initContainers": [env]});
        let volume = |volume: Value| json!({"volumes": [{"emptyDir": {}}, volume]});
        let projected = |source: Value| json!({"volumes": [{"projected": {"sources": [{"downwardAPI": {"items": []}}, source]}}]});
        for (spec, expected) in [
            (json!({"serviceAccountName": "a"}), Some("serviceaccounts")),
            (json!({"serviceAccount": "a"}), Some("serviceaccounts")),
            (json!({"serviceAccountName": ""}), None),
            (environment(json!({"env": [{"valueFrom": {"secretKeyRef": {"name": "s"}}}]})), Some("secrets")),
            (environment(json!({"envFrom": [{"secretRef": {"name": "s"}}]})), Some("secrets")),
            (volume(json!({"secret": {}})), Some("secrets")),
            (projected(json!({"secret": {}})), Some("secrets")),
            (json!({"imagePullSecrets": [{"name": "s"}]}), Some("secrets")),
            (
                environment(json!({"env": [{"valueFrom": {"configMapKeyRef": {"name": "m"}}}]})),
                Some("configmaps"),
            ),
            (environment(json!({"envFrom": [{"configMapRef": {"name": "m"}}]})), Some("configmaps")),
            (volume(json!({"configMap": {}})), Some("configmaps")),
            (projected(json!({"configMap": {}})), Some("configmaps")),
            (json!({"resourceClaims": [{"name": "c"}]}), Some("resourceclaims")),
            (volume(json!({"csi": {}})), Some("csidrivers (via CSI volumes)")),
            (volume(json!({"glusterfs": {}})), Some("endpoints (via glusterFS volumes)")),
            (volume(json!({"azureFile": {}})), Some("secrets (via azureFile volumes)")),
            (volume(json!({"persistentVolumeClaim": {}})), Some("persistentvolumeclaims")),
            (volume(json!({"ephemeral": {}})), Some("persistentvolumeclaims (via ephemeral volumes)")),
            (projected(json!({"serviceAccountToken": {}})), Some("serviceaccounts (via projected volumes)")),
            (projected(json!({"clusterTrustBundle": {}})), Some("clustertrustbundles")),
            (projected(json!({"podCertificate": {}})), Some("podcertificates")),
            (
                environment(json!({"env": [{"valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]})),
                None,
            ),
            (volume(json!({"hostPath": {"path": "/"}})), None),
            (projected(json!({})), None),
        ] {
            assert_eq!(first(&spec), expected, "{spec}");
        }
    }
}
