//! Stateful sets: order, names, claims, updates.

use minik::runtime::sim::SimProgram;
use minik::stdio::Exit;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::shows::names;

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

pub fn ready(count: i64) -> impl Fn(&Value) -> bool {
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

/// A set of so many pods with more in its specification.
pub fn set(replicas: i32, more: Value) -> String {
    let template = json!({"metadata": {"labels": {"app": "db"}}, "spec": {"terminationGracePeriodSeconds": 10,
        "containers": [{"name": "c", "image": "db:1"}]}});
    let mut spec = json!({"replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}}, "template": template});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": spec})
        .to_string()
}

pub fn image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

#[tokio::test]
async fn places_begin_where_they_are_to() {
    let cluster = Cluster::start().await;
    cluster.apply(&set(2, json!({"ordinals": {"start": 5}}))).await;
    cluster.until("statefulsets/db", ready(2)).await;
    let pods = cluster.list("pods").await;
    assert_eq!(names(&pods), ["db-5", "db-6"]);
    cluster.patch("statefulsets/db", json!({"spec": {"ordinals": {"start": 6}}})).await;
    cluster.until_gone("pods/db-5").await;
    cluster.until("statefulsets/db", ready(2)).await;
    let pods = cluster.list("pods").await;
    assert_eq!(names(&pods), ["db-6", "db-7"]);
}

#[tokio::test]
async fn one_that_does_not_come_holds_those_after_it() {
    let cluster = Cluster::start().await;
    cluster.program("db:1", SimProgram::RunUntilTerm(Exit::Code(0)));
    cluster.program("db:1", SimProgram::EndAtOnce(Exit::Code(1)));
    cluster.apply(&set(3, json!({}))).await;
    cluster.pass(600).await;
    let pods = cluster.list("pods").await;
    assert_eq!(names(&pods), ["db-0", "db-1"]);
    cluster.is("statefulsets/db", json!({"status": {"replicas": 2, "readyReplicas": 1}})).await;
}

#[tokio::test]
async fn one_counts_when_it_has_been_ready_for_long_enough() {
    let cluster = Cluster::start().await;
    let begun = Instant::now();
    cluster.apply(&set(3, json!({"minReadySeconds": 30}))).await;
    cluster.shows("statefulsets/db", json!({"status": {"readyReplicas": 3}})).await;
    let took = begun.elapsed().as_secs();
    assert!((60..70).contains(&took), "each waits for the one before it: {took}");
    cluster.shows("statefulsets/db", json!({"status": {"availableReplicas": 3}})).await;
    let took = begun.elapsed().as_secs();
    assert!((90..105).contains(&took), "{took}");
}

#[tokio::test]
async fn several_may_be_updated_at_a_time() {
    for (parallel, most, expected) in [
        (false, json!(1), vec!["db:1", "db:1", "db:1", "db:1", "db:2"]),
        (true, json!(2), vec!["db:1", "db:1", "db:1", "db:2", "db:2"]),
        (true, json!("50%"), vec!["db:1", "db:1", "db:1", "db:2", "db:2"]),
        (true, json!("60%"), vec!["db:1", "db:1", "db:2", "db:2", "db:2"]),
    ] {
        let cluster = Cluster::start().await;
        let policy = if parallel { "Parallel" } else { "OrderedReady" };
        let strategy = json!({"rollingUpdate": {"maxUnavailable": most}});
        cluster.apply(&set(5, json!({"podManagementPolicy": policy, "updateStrategy": strategy}))).await;
        cluster.until("statefulsets/db", ready(5)).await;
        cluster.hold_image("db:2");
        cluster.patch("statefulsets/db", image("db:2")).await;
        cluster.pass(120).await;
        let pods = cluster.list("pods").await;
        let images: Vec<&str> =
            pods.iter().map(|pod| pod["spec"]["containers"][0]["image"].as_str().unwrap()).collect();
        assert_eq!(images, expected, "{policy} {most}");
        cluster.release_image("db:2");
        cluster.shows("statefulsets/db", json!({"status": {"updatedReplicas": 5, "readyReplicas": 5}})).await;
    }
}

#[tokio::test]
async fn an_update_waits_for_the_user() {
    let cluster = Cluster::start().await;
    cluster.apply(&set(2, json!({"updateStrategy": {"type": "OnDelete"}}))).await;
    cluster.until("statefulsets/db", ready(2)).await;
    cluster.patch("statefulsets/db", image("db:2")).await;
    cluster.pass(300).await;
    cluster
        .is(
            "statefulsets/db",
            json!({"status": {"updatedReplicas": null, "currentReplicas": 2, "readyReplicas": 2}}),
        )
        .await;
    cluster.delete("pods/db-0").await;
    cluster
        .shows(
            "statefulsets/db",
            json!({"status": {"updatedReplicas": 1, "currentReplicas": 1, "readyReplicas": 2}}),
        )
        .await;
    cluster.is("pods/db-0", json!({"spec": {"containers": [{"image": "db:2"}]}})).await;
}

#[tokio::test]
async fn claims_by_every_policy() {
    for (scaled, deleted, after_scale, after_deletion) in [
        ("Retain", "Retain", 2, 2),
        ("Delete", "Retain", 1, 1),
        ("Retain", "Delete", 2, 0),
        ("Delete", "Delete", 1, 0),
    ] {
        let cluster = Cluster::start().await;
        let template = json!({"metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        let policy = json!({"whenScaled": scaled, "whenDeleted": deleted});
        let more =
            json!({"volumeClaimTemplates": [template], "persistentVolumeClaimRetentionPolicy": policy});
        cluster.apply(&set(2, more)).await;
        cluster.until("statefulsets/db", ready(2)).await;
        cluster.scale("statefulsets/db", 1).await;
        cluster.until_gone("pods/db-1").await;
        cluster.pass(60).await;
        assert_eq!(cluster.list("persistentvolumeclaims").await.len(), after_scale, "{scaled} {deleted}");
        cluster.delete("statefulsets/db").await;
        cluster.until_all("pods", |pods| pods.is_empty()).await;
        cluster.pass(60).await;
        // The claim of a place that was left before is nobody's any more.
        let left = cluster.list("persistentvolumeclaims").await;
        assert_eq!(left.len(), after_deletion, "{scaled} {deleted}: {:?}", names(&left));
    }
}

#[tokio::test]
async fn a_place_is_not_filled_before_it_is_free() {
    let cluster = Cluster::start().await;
    cluster.program("db:1", SimProgram::IgnoreTerm);
    let mut slow: Value = serde_json::from_str(&set(1, json!({}))).unwrap();
    slow["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(120);
    cluster.apply(&slow.to_string()).await;
    let before = cluster.until("pods/db-0", |pod| pod["status"]["phase"] == "Running").await;
    let begun = Instant::now();
    cluster.delete("pods/db-0").await;
    let uid = before["metadata"]["uid"].clone();
    cluster.until("pods/db-0", move |pod| pod["metadata"]["uid"] != uid).await;
    let took = begun.elapsed().as_secs();
    assert!((120..125).contains(&took), "{took}");
}
