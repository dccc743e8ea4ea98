//! Static pods, whose manifests alone say when they run.

use serde_json::{Value, json};

use crate::cluster::Cluster;

const TEAM: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: team}}";

fn manifest(image: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: web, namespace: team}}, \
         spec: {{terminationGracePeriodSeconds: 2, containers: [{{name: c, image: '{image}'}}]}}}}"
    )
}

fn runs(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running"
}

/// A cluster with a running static pod whose mirror is gone for good: there is no namespace for it.
async fn unshown() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.apply(TEAM).await;
    cluster.put_manifest("web.yaml", &manifest("web:1"));
    cluster.until("team:pods/web-minik", runs).await;
    cluster.delete(":namespaces/team").await;
    cluster.until_gone(":namespaces/team").await;
    assert_eq!(cluster.running().await, ["web:1"], "it runs on");
    cluster
}

#[tokio::test]
async fn a_pod_that_the_api_does_not_show_ends_with_its_manifest() {
    let cluster = unshown().await;
    cluster.remove_manifest("web.yaml");
    cluster.until_running(&[]).await;
}

#[tokio::test]
async fn a_pod_that_the_api_does_not_show_is_replaced_as_its_manifest_says() {
    let cluster = unshown().await;
    cluster.put_manifest("web.yaml", &manifest("web:2"));
    cluster.until_running(&["web:2"]).await;
    cluster.apply(TEAM).await;
    let pod = cluster.until("team:pods/web-minik", runs).await;
    assert_eq!(pod["spec"]["containers"][0]["image"], json!("web:2"));
    assert_eq!(cluster.running().await, ["web:2"]);
}

#[tokio::test]
async fn a_manifest_that_comes_back_at_once_is_run() {
    let cluster = Cluster::start().await;
    cluster.apply(TEAM).await;
    for _ in 0..3 {
        cluster.put_manifest("web.yaml", &manifest("web:1"));
        cluster.until("team:pods/web-minik", runs).await;
        cluster.until_running(&["web:1"]).await;
        cluster.remove_manifest("web.yaml");
        cluster.until_gone("team:pods/web-minik").await;
    }
}

#[tokio::test]
async fn a_pod_runs_though_the_api_does_not_take_its_mirror() {
    let cluster = Cluster::start().await;
    let elsewhere = manifest("lost").replace("namespace: team", "namespace: nowhere");
    cluster.put_manifest("lost.yaml", &elsewhere.replace("name: web", "name: lost"));
    cluster.until_running(&["lost"]).await;
    cluster.apply(TEAM).await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": "team"},
        "spec": {"hard": {"pods": "0"}}});
    cluster.apply(&quota.to_string()).await;
    cluster.until("team:resourcequotas/none", |quota| quota["status"]["hard"]["pods"] == "0").await;
    cluster.put_manifest("web.yaml", &manifest("web:1"));
    cluster.until_running(&["lost", "web:1"]).await;
    cluster
        .until_event("Node/minik", "FailedValidation: Failed creating a mirror pod for team/web-minik: ")
        .await;
    assert_eq!(cluster.get("team:pods/web-minik").await, None);
    // What is no pod does not run.
    cluster.put_manifest("web.yaml", &manifest("web:1").replace("name: c", "name: \'C\'"));
    cluster.until_running(&["lost"]).await;
}
