//! ServiceAccount: pods get the service account that they run as, its token mounted, its secrets alone allowed where it
//! says so.
//!
//! Source: Kubernetes `plugin/pkg/admission/serviceaccount/admission.go`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Attributes, Operation};
use crate::api::meta;
use crate::api::pod::references;
use crate::api::status::Status;
use crate::api::value::items;
use crate::apiserver::auth::rbac::MASTERS;
use crate::apiserver::registry::{Registry, metadata};
use crate::store::Entry;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// A service account with this annotation lends its pods the secrets that it names and no others.
const ENFORCED: &str = "kubernetes.io/enforce-mountable-secrets";
/// One hour, and seven seconds by which the mounted token is told from others.
const TOKEN_SECONDS: i64 = 3607;
/// How long the creation of a pod waits for a new namespace's `default` account.
const PATIENCE: Duration = Duration::from_secs(2);

/// Completes a pod that is to be made.
pub async fn mutate(registry: &Registry, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    if meta::annotation(pod, meta::MIRROR).is_some() {
        return Ok(());
    }
    let spec = &mut pod["spec"];
    let name = match spec["serviceAccountName"].as_str().or_else(|| spec["serviceAccount"].as_str()) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "default".to_owned(),
    };
    if let Some(spec) = spec.as_object_mut() {
        spec.insert("serviceAccountName".into(), json!(name));
        spec.insert("serviceAccount".into(), json!(name));
    }
    let namespace = attributes.namespace.unwrap_or_default();
    let Some(account) = find(registry, namespace, &name).await else {
        return Err(no_account(attributes, pod, &name));
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

/// Decides about a pod that is to be made.
pub fn validate(registry: &Registry, attributes: &Attributes<'_>, pod: &Value) -> Result<(), Status> {
    if attributes.operation != Operation::Create || !attributes.subresource.is_empty() {
        return Ok(());
    }
    if meta::annotation(pod, meta::MIRROR).is_some() {
        // Whoever has the image of a static pod has its place: the kubelet takes it for its own.
        let user = attributes.user;
        if !user.name.starts_with("system:node:") && !user.groups.iter().any(|group| group == MASTERS) {
            return Err(attributes.forbidden(pod, "only a node may create mirror pods"));
        }
        return may_be_mirror(&pod["spec"]).map_err(|why| attributes.forbidden(pod, why));
    }
    let name = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default();
    let namespace = attributes.namespace.unwrap_or_default();
    let Some(account) = registry.store().get(&format!("serviceaccounts/{namespace}/{name}")) else {
        return Err(no_account(attributes, pod, name));
    };
    let account = account.json();
    // What Go's strconv.ParseBool takes for true.
    let enforced = ["1", "t", "T", "TRUE", "true", "True"];
    if meta::annotation(account, ENFORCED).is_some_and(|value| enforced.contains(&value)) {
        only_own_secrets(account, &pod["spec"]).map_err(|why| attributes.forbidden(pod, &why))?;
    }
    Ok(())
}

fn no_account(attributes: &Attributes<'_>, pod: &Value, name: &str) -> Status {
    let namespace = attributes.namespace.unwrap_or_default();
    let why =
        format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
    attributes.forbidden(pod, &why)
}

fn may_be_mirror(spec: &Value) -> Result<(), &'static str> {
    if spec["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        return Err("a mirror pod may not reference service accounts");
    }
    if references::secrets(spec) {
        return Err("a mirror pod may not reference secrets");
    }
    if references::projects(spec, "serviceAccountToken") {
        return Err("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

fn only_own_secrets(account: &Value, spec: &Value) -> Result<(), String> {
    let of = meta::name(account);
    let names =
        |list: &str| items(account, list).iter().filter_map(|s| s["name"].as_str()).collect::<Vec<_>>();
    let (secrets, pull_secrets) = (names("secrets"), names("imagePullSecrets"));
    let other = |name: &Value| name.as_str().filter(|name| !secrets.contains(name)).map(str::to_owned);
    let refused = |what: String, secret: &str| {
        Err(format!(
            "{what} secret.secretName=\"{secret}\" is not allowed because service account {of} does not \
             reference that secret"
        ))
    };
    for volume in items(spec, "volumes") {
        if let Some(secret) = other(&volume["secret"]["secretName"]) {
            return refused("volume with".to_owned(), &secret);
        }
    }
    for (list, called) in [("initContainers", "init container"), ("containers", "container")] {
        for container in items(spec, list) {
            for env in items(container, "env") {
                if let Some(secret) = other(&env["valueFrom"]["secretKeyRef"]["name"]) {
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    let (container, variable) = (text(&container["name"]), text(&env["name"]));
                    return refused(
                        format!("{called} {container} with envVar {variable} referencing"),
                        &secret,
                    );
                }
            }
        }
    }
    for (i, secret) in items(spec, "imagePullSecrets").iter().enumerate() {
        let name = secret["name"].as_str().unwrap_or_default();
        if !pull_secrets.contains(&name) {
            return Err(format!(
                "imagePullSecrets[{i}].name=\"{name}\" is not allowed because service account {of} does not \
                 reference that imagePullSecret"
            ));
        }
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

    #[test]
    fn an_account_may_keep_its_pods_to_its_own_secrets() {
        let account = json!({"metadata": {"name": "robot"}, "secrets": [{"name": "mine"}],
            "imagePullSecrets": [{"name": "pull"}]});
        let env = |secret: &str| {
            json!({"containers": [{"name": "c", "env": [
            {"name": "E", "valueFrom": {"secretKeyRef": {"name": secret}}}]}]})
        };
        for (spec, expected) in [
            (
                json!({"volumes": [{"secret": {"secretName": "mine"}}], "imagePullSecrets": [{"name": "pull"}]}),
                "",
            ),
            (env("mine"), ""),
            (
                json!({"volumes": [{"secret": {"secretName": "other"}}]}),
                "volume with secret.secretName=\"other\" is not allowed because service account robot does not \
                 reference that secret",
            ),
            (
                env("other"),
                "container c with envVar E referencing secret.secretName=\"other\" is not allowed because service \
                 account robot does not reference that secret",
            ),
            (
                json!({"imagePullSecrets": [{"name": "other"}]}),
                "imagePullSecrets[0].name=\"other\" is not allowed because service account robot does not \
                 reference that imagePullSecret",
            ),
        ] {
            assert_eq!(only_own_secrets(&account, &spec).err().unwrap_or_default(), expected, "{spec}");
        }
    }

    #[test]
    fn mirror_pods_show_nothing_of_the_cluster() {
        for (spec, allowed) in [
            (json!({"volumes": [{"hostPath": {"path": "/"}}]}), true),
            (json!({"serviceAccountName": "default"}), false),
            (json!({"volumes": [{"secret": {}}]}), false),
            (json!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {}}]}}]}), false),
            (json!({"containers": [{"envFrom": [{"secretRef": {"name": "s"}}]}]}), false),
        ] {
            assert_eq!(may_be_mirror(&spec).is_ok(), allowed, "{spec}");
        }
    }
}
