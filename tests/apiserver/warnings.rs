//! What the author of an object is told in the header `Warning` though it is accepted.

use serde_json::{Value, json};

use super::kubectl::Kubectl;
use super::server::Fixture;

/// No controller makes the account without which there are no pods.
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const OLD: &str = "beta.kubernetes.io/os";
const TOLD: &str = "deprecated since v1.14; use \"kubernetes.io/os\" instead";

fn pod(spec: Value) -> Value {
    json!({"containers": [{"name": "a", "image": "a"}], "nodeSelector": spec})
}

/// Where each is sent, what it is, and what is told of it.
fn cases() -> Vec<(&'static str, Value, Vec<String>)> {
    let named = |kind: &str, version: &str, rest: Value| {
        let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a.b"}});
        for (field, value) in rest.as_object().unwrap() {
            object[field] = value.clone();
        }
        object
    };
    let simple = |rest: Value| json!({"metadata": {"name": "simple"}, "spec": rest});
    let hosts = |used: &str| {
        format!(
            "metadata.name: this is used in {used}, which can result in surprising behavior; a DNS label is recommended: \
             [must not contain dots]"
        )
    };
    let old = json!({OLD: "linux"});
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod(old.clone())});
    let selector = json!({"matchLabels": {"a": "b"}});
    vec![
        (
            "/api/v1/namespaces/default/pods",
            named("Pod", "v1", json!({"spec": pod(old.clone())})),
            vec![hosts("the Pod's hostname"), format!("spec.nodeSelector[{OLD}]: {TOLD}")],
        ),
        (
            "/apis/apps/v1/namespaces/default/deployments",
            named("Deployment", "apps/v1", json!({"spec": {"selector": selector, "template": template}})),
            vec![hosts("Pod names and hostnames"), format!("spec.template.spec.nodeSelector[{OLD}]: {TOLD}")],
        ),
        (
            "/api/v1/namespaces/default/secrets",
            named(
                "Secret",
                "v1",
                json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "eA==", "tls.key": "eA=="}}),
            ),
            vec!["tls: failed to find any PEM data in certificate input".to_owned()],
        ),
        (
            "/api/v1/namespaces/default/services",
            named(
                "Service",
                "v1",
                simple(json!({"ports": [{"port": 80}], "externalIPs": ["2001:DB8::1"]})),
            ),
            vec![
                "spec.externalIPs[0]: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format \
                 (\"2001:db8::1\")"
                    .to_owned(),
                "spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned(),
            ],
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
            named(
                "Ingress",
                "networking.k8s.io/v1",
                json!({"metadata": {"name": "old", "annotations": {"kubernetes.io/ingress.class": "nginx"}},
                    "spec": {"defaultBackend": {"service": {"name": "a", "port": {"number": 80}}}}}),
            ),
            vec![
                "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"
                    .to_owned(),
            ],
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
            named(
                "NetworkPolicy",
                "networking.k8s.io/v1",
                simple(
                    json!({"podSelector": {}, "egress": [{"to": [{"ipBlock": {"cidr": "2001:DB8::/32"}}]}]}),
                ),
            ),
            vec![
                "spec.egress[0].to[0].ipBlock.cidr: IPv6 CIDR value \"2001:DB8::/32\" should be in RFC 5952 canonical \
                 format (\"2001:db8::/32\")"
                    .to_owned(),
            ],
        ),
        (
            "/api/v1/persistentvolumes",
            named(
                "PersistentVolume",
                "v1",
                json!({"metadata": {"name": "a", "annotations": {"volume.beta.kubernetes.io/storage-class": "fast"}},
                    "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
                        "persistentVolumeReclaimPolicy": "Recycle", "hostPath": {"path": "/data"}}}),
            ),
            vec![
                "metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use \
                 \"storageClassName\" attribute instead"
                    .to_owned(),
                "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended \
                 approach is to use dynamic provisioning."
                    .to_owned(),
            ],
        ),
        (
            "/apis/storage.k8s.io/v1/storageclasses",
            named(
                "StorageClass",
                "storage.k8s.io/v1",
                json!({"provisioner": "a.b", "allowedTopologies":
                    [{"matchLabelExpressions": [{"key": OLD, "values": ["linux"]}]}]}),
            ),
            vec![format!("allowedTopologies[0].matchLabelExpressions[0].key: {TOLD}")],
        ),
        (
            "/apis/node.k8s.io/v1/runtimeclasses",
            named("RuntimeClass", "node.k8s.io/v1", json!({"handler": "a", "scheduling": {"nodeSelector": old}})),
            vec![format!("scheduling.nodeSelector: {TOLD}")],
        ),
        (
            "/api/v1/nodes",
            named("Node", "v1", json!({"spec": {"externalID": "a"}})),
            vec!["spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned()],
        ),
        (
            ACCOUNTS,
            named(
                "ServiceAccount",
                "v1",
                json!({"metadata": {"name": "a", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}}),
            ),
            vec![
                "metadata.annotations[kubernetes.io/enforce-mountable-secrets]: deprecated in v1.32+; prefer separate \
                 namespaces to isolate access to mounted secrets"
                    .to_owned(),
            ],
        ),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            named(
                "EndpointSlice",
                "discovery.k8s.io/v1",
                json!({"addressType": "IPv6", "endpoints": [{"addresses": ["2001:DB8::1"]}], "ports": []}),
            ),
            vec![
                "endpoints[0].addresses[0]: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format \
                 (\"2001:db8::1\")"
                    .to_owned(),
            ],
        ),
    ]
}

#[tokio::test]
async fn what_is_accepted_and_yet_odd_is_told() {
    let api = Fixture::start().await;
    api.post(ACCOUNTS, json!({"metadata": {"name": "default"}})).await.expect(201);
    for (path, object, told) in cases() {
        let made = api.post(path, object.clone()).await;
        assert_eq!(made.code, 201, "{path}: {}", made.text());
        assert_eq!(made.warnings(), told, "{path}");
    }
    // The author of a pod has heard it; of a deployment it is told again when what is wanted changes.
    let labels = json!({"metadata": {"labels": {"more": "b"}}});
    for (path, patch, told) in [
        ("/api/v1/namespaces/default/pods/a.b", &labels, 0),
        ("/apis/apps/v1/namespaces/default/deployments/a.b", &labels, 0),
        ("/apis/apps/v1/namespaces/default/deployments/a.b", &json!({"spec": {"replicas": 2}}), 1),
    ] {
        let changed = api.patch(path, patch.clone()).await;
        assert_eq!((changed.code, changed.warnings().len()), (200, told), "{path}: {}", changed.text());
    }
}

#[tokio::test]
async fn kubectl_prints_what_is_told() {
    let kubectl = Kubectl::start().await;
    kubectl.ok("create serviceaccount default", "").await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": pod(json!({OLD: "linux"}))});
    let printed = kubectl.ok("apply -f -", &pod.to_string()).await;
    assert!(printed.contains(&format!("Warning: spec.nodeSelector[{OLD}]: {TOLD}\n")), "{printed}");
    assert!(printed.contains("pod/a created\n"), "{printed}");
}
