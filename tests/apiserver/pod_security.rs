//! Pod security as kubectl's users meet it.

use serde_json::{Value, json};

use super::server::Fixture;

/// A namespace with these labels, and the account that its pods run as.
async fn namespace(f: &Fixture, name: &str, labels: Value) {
    f.post("/api/v1/namespaces", json!({"metadata": {"name": name, "labels": labels}})).await.expect(201);
    let accounts = format!("/api/v1/namespaces/{name}/serviceaccounts");
    f.post(&accounts, json!({"metadata": {"name": "default"}})).await.expect(201);
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": name, "image": "nginx"}]}})
}

fn hardened(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": name, "image": "nginx", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}})
}

const VIOLATIONS: &str = "PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"web\" must \
    set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"web\" must set \
    securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"web\" must set \
    securityContext.runAsNonRoot=true), seccompProfile (pod or container \"web\" must set \
    securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")";

#[tokio::test]
async fn a_restricted_namespace_refuses_what_is_not_hardened() {
    let f = Fixture::start().await;
    namespace(&f, "shop", json!({"pod-security.kubernetes.io/enforce": "restricted"})).await;
    let pods = "/api/v1/namespaces/shop/pods";
    let refused = f.post(pods, pod("web")).await.expect(403);
    assert_eq!(refused["message"], format!("pods \"web\" is forbidden: violates {VIOLATIONS}"));
    assert_eq!(refused["reason"], "Forbidden");
    f.post(pods, hardened("safe")).await.expect(201);
    // What makes pods is made, but told; enforcing is warning, too.
    let template = pod("web");
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": template["spec"]}}});
    let made = f.post("/apis/apps/v1/namespaces/shop/deployments", deployment).await;
    assert!(made.warnings().contains(&format!("would violate {VIOLATIONS}")), "{:?}", made.warnings());
    made.expect(201);
}

#[tokio::test]
async fn namespaces_are_told_of_pods_that_are_there() {
    let f = Fixture::start().await;
    namespace(&f, "shop", json!({})).await;
    let mut host = pod("host");
    host["spec"]["hostNetwork"] = json!(true);
    f.post("/api/v1/namespaces/shop/pods", host).await.expect(201);
    let label = |level: &str| json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}});
    let refused = f.patch("/api/v1/namespaces/shop", label("strict")).await.expect(422);
    assert_eq!(
        refused["message"],
        "Namespace \"shop\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": \
         must be one of privileged, baseline, restricted"
    );
    let answer = f.patch("/api/v1/namespaces/shop", label("baseline")).await;
    assert_eq!(
        answer.warnings(),
        [
            "existing pods in namespace \"shop\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "host: host namespaces",
        ]
    );
    answer.expect(200);
}
