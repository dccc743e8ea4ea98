//! Pods get the service account that they run as: its existence checked, its token mounted.
//!
//! Source: Kubernetes `plugin/pkg/admission/serviceaccount/admission.go`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::registry::{Registry, metadata};
use crate::api::meta;
use crate::api::status::Status;
use crate::store::Entry;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// One hour, and seven seconds by which the mounted token is told from others.
const TOKEN_SECONDS: i64 = 3607;
/// How long the creation of a pod waits for a new namespace's `default` account.
const PATIENCE: Duration = Duration::from_secs(2);

/// Completes a pod that is to be made in `namespace`.
pub async fn admit(registry: &Registry, namespace: &str, pod: &mut Value) -> Result<(), Status> {
    let spec = &mut pod["spec"];
    let name = match spec["serviceAccountName"].as_str().or_else(|| spec["serviceAccount"].as_str()) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "default".to_owned(),
    };
    if let Some(spec) = spec.as_object_mut() {
        spec.insert("serviceAccountName".into(), json!(name));
        spec.insert("serviceAccount".into(), json!(name));
    }
    let Some(account) = find(registry, namespace, &name).await else {
        let why =
            format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
        return Err(Status::forbidden("", "pods", meta::name(pod), &why));
    };
    let account = account.json();
    let wants = pod["spec"]["automountServiceAccountToken"]
        .as_bool()
        .or_else(|| account["automountServiceAccountToken"].as_bool());
    if wants.unwrap_or(true) {
        mount_token(pod, &metadata::random_suffix()?);
    }
    let secrets = &account["imagePullSecrets"];
    let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    if empty(&pod["spec"]["imagePullSecrets"]) && !empty(secrets) {
        pod["spec"]["imagePullSecrets"] = secrets.clone();
    }
    Ok(())
}

/// The account; a `default` one that is about to be made is waited for.
async fn find(registry: &Registry, namespace: &str, name: &str) -> Option<Arc<Entry>> {
    let key = format!("serviceaccounts/{namespace}/{name}");
    let store = registry.store();
    let from = store.revision();
    if let Some(entry) = store.get(&key) {
        return Some(entry);
    }
    if name != "default" {
        return None;
    }
    let mut changes = store.watch(&key, from);
    let deadline = Instant::now() + PATIENCE;
    while let Ok(Ok(_)) = tokio::time::timeout_at(deadline, changes.next()).await {
        if let Some(entry) = store.get(&key) {
            return Some(entry);
        }
    }
    None
}

fn mount_token(pod: &mut Value, suffix: &str) {
    let Some(spec) = pod["spec"].as_object_mut() else { return };
    let volumes = spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
    let present = volumes.filter_map(|v| v["name"].as_str()).find(|n| n.starts_with(VOLUME_PREFIX));
    let (volume, is_new) = match present {
        Some(name) => (name.to_owned(), false),
        None => (format!("{VOLUME_PREFIX}{suffix}"), true),
    };
    let mut used = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let mounts = container["volumeMounts"].as_array().into_iter().flatten();
            if mounts.into_iter().any(|m| m["mountPath"] == MOUNT_PATH) || !container.is_object() {
                continue;
            }
            push(
                &mut container["volumeMounts"],
                json!({"name": volume, "mountPath": MOUNT_PATH, "readOnly": true}),
            );
            used = true;
        }
    }
    if used && is_new {
        push(spec.entry("volumes").or_insert(Value::Null), token_volume(&volume));
    }
}

fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(list) => list.push(item),
        other => *other = json!([item]),
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_container_without_a_mount_of_its_own_gets_the_token() {
        let mut pod = json!({"spec": {"initContainers": [{"name": "i"}], "containers": [
            {"name": "a", "volumeMounts": [{"name": "data", "mountPath": "/data"}]},
            {"name": "b", "volumeMounts": [{"name": "mine", "mountPath": MOUNT_PATH}]},
        ]}});
        mount_token(&mut pod, "xxxxx");
        let spec = &pod["spec"];
        assert_eq!(spec["volumes"][0]["name"], "kube-api-access-xxxxx");
        assert_eq!(spec["volumes"].as_array().unwrap().len(), 1);
        assert_eq!(spec["initContainers"][0]["volumeMounts"][0]["mountPath"], MOUNT_PATH);
        assert_eq!(spec["containers"][0]["volumeMounts"][1]["name"], "kube-api-access-xxxxx");
        assert_eq!(spec["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn no_container_no_volume() {
        let mut pod =
            json!({"spec": {"containers": [{"volumeMounts": [{"name": "m", "mountPath": MOUNT_PATH}]}]}});
        mount_token(&mut pod, "xxxxx");
        assert!(pod["spec"].get("volumes").is_none());
    }
}
