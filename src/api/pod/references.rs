//! Which other objects of the API a pod refers to.

use serde_json::Value;

/// Whether anything of a pod is from Secrets: its environment, its volumes, or the credentials of its images.
pub fn secrets(spec: &Value) -> bool {
    in_environment(spec, "secretKeyRef", "secretRef")
        || has_volume(spec, "secret")
        || projects(spec, "secret")
        || items(spec, "imagePullSecrets").next().is_some()
}

/// Whether anything of a pod is from ConfigMaps.
pub fn config_maps(spec: &Value) -> bool {
    in_environment(spec, "configMapKeyRef", "configMapRef")
        || has_volume(spec, "configMap")
        || projects(spec, "configMap")
}

/// Whether a projected volume of a pod has such a source, by its field: `serviceAccountToken`.
pub fn projects(spec: &Value, source: &str) -> bool {
    items(spec, "volumes")
        .any(|volume| items(&volume["projected"], "sources").any(|given| !given[source].is_null()))
}

/// To what a pod refers, as Kubernetes names it (`HasAPIObjectReference` of `pkg/api/pod`); `None` if to nothing.
pub fn first(spec: &Value) -> Option<&'static str> {
    let accounts = ["serviceAccountName", "serviceAccount"];
    if accounts.iter().any(|field| spec[*field].as_str().is_some_and(|name| !name.is_empty())) {
        return Some("serviceaccounts");
    }
    if secrets(spec) {
        return Some("secrets");
    }
    if config_maps(spec) {
        return Some("configmaps");
    }
    if items(spec, "resourceClaims").next().is_some() {
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
    let volumes = volumes.into_iter().filter(|(kind, _)| has_volume(spec, kind));
    volumes
        .chain(sources.into_iter().filter(|(source, _)| projects(spec, source)))
        .map(|(_, name)| name)
        .next()
}

fn in_environment(spec: &Value, key: &str, all: &str) -> bool {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    lists.iter().flat_map(|list| items(spec, list)).any(|container| {
        items(container, "env").any(|env| !env["valueFrom"][key].is_null())
            || items(container, "envFrom").any(|env| !env[all].is_null())
    })
}

fn has_volume(spec: &Value, kind: &str) -> bool {
    items(spec, "volumes").any(|volume| !volume[kind].is_null())
}

fn items<'a>(value: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[list].as_array().into_iter().flatten()
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
