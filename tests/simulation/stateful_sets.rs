//! Stateful sets: order, names, claims, updates.

use serde_json::{Value, json};

use crate::cluster::Cluster;

const DB: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 3
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: 'db:1'}]
";

fn ready(count: i64) -> impl Fn(&Value) -> bool {
    move |set| {
        let status = &set["status"];
        status["observedGeneration"] == set["metadata"]["generation"]
            && status["replicas"] == count
            && status["readyReplicas"].as_i64().unwrap_or(0) == count
    }
}

/// Whether every pod is of the newest revision.
fn updated(set: &Value) -> bool {
    let status = &set["status"];
    ready(3)(set) && status["updatedReplicas"] == 3 && status["currentRevision"] == status["updateRevision"]
}

#[tokio::test]
async fn places_are_filled_in_order_and_left_in_reverse() {
    let cluster = Cluster::start().await;
    cluster.apply(DB).await;
    let set = cluster.until("statefulsets/db", ready(3)).await;
    let pods = cluster.list("pods").await;
    let names: Vec<&str> = pods.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["db-0", "db-1", "db-2"]);
    let labels = &pods[1]["metadata"]["labels"];
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "db-1");
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "1");
    assert_eq!(labels["controller-revision-hash"], set["status"]["currentRevision"]);
    assert_eq!((&pods[1]["spec"]["hostname"], &pods[1]["spec"]["subdomain"]), (&json!("db-1"), &json!("db")));
    let last = "SuccessfulCreate: create Pod db-2 in StatefulSet db successful";
    cluster.until_event("StatefulSet/db", last).await;
    let made: Vec<String> = cluster.events("StatefulSet/db").await;
    let expected: Vec<String> =
        (0..3).map(|n| format!("SuccessfulCreate: create Pod db-{n} in StatefulSet db successful")).collect();
    assert_eq!(made, expected);
    cluster.scale("statefulsets/db", 1).await;
    cluster.until_gone("pods/db-1").await;
    assert!(cluster.get("pods/db-2").await.is_none());
    let gone = "SuccessfulDelete: delete Pod db-2 in StatefulSet db successful";
    cluster.until_event("StatefulSet/db", gone).await;
    cluster.delete("statefulsets/db").await;
    cluster.until_all("pods", |pods| pods.is_empty()).await;
    cluster.until_all("controllerrevisions", |revisions| revisions.is_empty()).await;
}

#[tokio::test]
async fn an_update_rolls_from_the_last_and_back() {
    let cluster = Cluster::start().await;
    cluster.apply(DB).await;
    let before = cluster.until("statefulsets/db", updated).await;
    let image = |image: &str, partition: i32| {
        json!({"spec": {
            "updateStrategy": {"rollingUpdate": {"partition": partition}},
            "template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
    };
    cluster.patch("statefulsets/db", image("db:2", 2)).await;
    let one = |set: &Value| ready(3)(set) && set["status"]["updatedReplicas"] == 1;
    let set = cluster.until("statefulsets/db", one).await;
    assert_eq!(set["status"]["currentRevision"], before["status"]["currentRevision"]);
    let of = |pod: &Value| pod["spec"]["containers"][0]["image"].clone();
    assert_eq!(cluster.list("pods").await.iter().map(of).collect::<Vec<_>>(), ["db:1", "db:1", "db:2"]);
    cluster.patch("statefulsets/db", image("db:2", 0)).await;
    let set = cluster.until("statefulsets/db", updated).await;
    assert_ne!(set["status"]["currentRevision"], before["status"]["currentRevision"]);
    cluster.patch("statefulsets/db", image("db:1", 0)).await;
    let set = cluster.until("statefulsets/db", updated).await;
    assert_eq!(set["status"]["currentRevision"], before["status"]["currentRevision"]);
    assert_eq!(cluster.list("controllerrevisions").await.len(), 2);
}

#[tokio::test]
async fn all_places_are_filled_at_once_where_that_is_asked_for() {
    let cluster = Cluster::start().await;
    cluster.hold_image("db:1");
    cluster.apply(&DB.replace("replicas: 3", "replicas: 3\n  podManagementPolicy: Parallel")).await;
    // None of them runs.
    cluster.until_all("pods", |pods| pods.len() == 3).await;
    cluster.release_image("db:1");
    cluster.until("statefulsets/db", ready(3)).await;
}

#[tokio::test]
async fn claims_stay_or_go_as_is_asked_for() {
    let cluster = Cluster::start().await;
    let claims = "replicas: 2\n  persistentVolumeClaimRetentionPolicy: {whenScaled: Delete, whenDeleted: Retain}
  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]";
    let set = DB
        .replace("replicas: 3", claims)
        .replace("serviceName: db", "serviceName: db\n  podManagementPolicy: Parallel");
    cluster.apply(&set).await;
    let made = cluster.until_all("persistentvolumeclaims", |claims| claims.len() == 2).await;
    assert_eq!(made[1]["metadata"]["name"], "data-db-1");
    assert_eq!(made[1]["metadata"]["labels"]["app"], "db");
    let told = "SuccessfulCreate: create Claim data-db-1 Pod db-1 in StatefulSet db success";
    cluster.until_event("StatefulSet/db", told).await;
    cluster.scale("statefulsets/db", 1).await;
    cluster.until_gone("pods/db-1").await;
    cluster.until_gone("persistentvolumeclaims/data-db-1").await;
    cluster.delete("statefulsets/db").await;
    cluster.until_all("pods", |pods| pods.is_empty()).await;
    assert_eq!(cluster.list("persistentvolumeclaims").await.len(), 1);
}
