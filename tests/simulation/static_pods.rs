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
    cluster.until_running(&[]).await;
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
