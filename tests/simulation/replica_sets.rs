//! Replica sets and replication controllers.

use minik::runtime::sim::SimProgram;
use minik::stdio::Exit;
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// A replica set of so many pods of this image.
pub fn replica_set(name: &str, replicas: i32, image: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: ReplicaSet
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{{name: c, image: {image}}}]
"
    )
}

fn pods_of<'a>(pods: &'a [Value], owner: &str) -> Vec<&'a Value> {
    pods.iter().filter(|pod| pod["metadata"]["ownerReferences"][0]["name"] == owner).collect()
}

fn running(pods: &[Value]) -> usize {
    pods.iter().filter(|pod| pod["status"]["phase"] == "Running").count()
}

#[tokio::test]
async fn pods_are_made_replaced_and_taken_away() {
    let cluster = Cluster::start().await;
    cluster.apply(&replica_set("web", 3, "web")).await;
    let set = cluster.until("replicasets/web", |set| set["status"]["availableReplicas"] == 3).await;
    assert_eq!(
        set["status"],
        json!({"replicas": 3, "fullyLabeledReplicas": 3, "readyReplicas": 3, "availableReplicas": 3,
               "terminatingReplicas": 0, "observedGeneration": 1})
    );
    let pods = cluster.list("pods").await;
    assert_eq!((pods.len(), running(&pods)), (3, 3));
    let name = pods[0]["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("web-") && name.len() == "web-".len() + 5, "{name}");
    let owner = &pods[0]["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["controller"], &owner["blockOwnerDeletion"]), (&json!(true), &json!(true)));
    cluster.until_event("ReplicaSet/web", &format!("SuccessfulCreate: Created pod: {name}")).await;
    cluster.delete(&format!("pods/{name}")).await;
    cluster.until_gone(&format!("pods/{name}")).await;
    cluster.until("replicasets/web", |set| set["status"]["availableReplicas"] == 3).await;
    cluster.scale("replicasets/web", 1).await;
    cluster.until_event("ReplicaSet/web", "SuccessfulDelete: Deleted pod: web-").await;
    cluster.until_all("pods", |pods| pods.len() == 1).await;
    cluster.until("replicasets/web", |set| set["status"]["replicas"] == 1).await;
    cluster.delete("replicasets/web").await;
    cluster.until_all("pods", |pods| pods.is_empty()).await;
    assert!(cluster.get("replicasets/web").await.is_none());
}

#[tokio::test]
async fn a_pod_that_ends_for_good_is_replaced() {
    let cluster = Cluster::start().await;
    cluster.apply(&replica_set("web", 1, "web")).await;
    let pods = cluster.until_all("pods", |pods| running(pods) == 1).await;
    let name = pods[0]["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.patch_status(&format!("pods/{name}"), json!({"phase": "Failed", "reason": "Evicted"})).await;
    let pods = cluster.until_all("pods", |pods| pods.len() == 2 && running(pods) == 1).await;
    assert!(pods.iter().any(|pod| pod["metadata"]["name"] == name));
}

#[tokio::test]
async fn orphans_are_taken_on_and_let_go() {
    let cluster = Cluster::start().await;
    cluster
        .apply("{apiVersion: v1, kind: Pod, metadata: {name: free, labels: {app: web}}, spec: {containers: [{name: c, image: web}]}}")
        .await;
    cluster.apply(&replica_set("web", 2, "web")).await;
    let free = cluster.until("pods/free", |pod| !pod["metadata"]["ownerReferences"].is_null()).await;
    assert_eq!(free["metadata"]["ownerReferences"][0]["name"], "web");
    cluster.until("replicasets/web", |set| set["status"]["availableReplicas"] == 2).await;
    // A pod that no longer fits is let go and replaced.
    cluster.patch("pods/free", json!({"metadata": {"labels": {"app": "other"}}})).await;
    let free = cluster.until("pods/free", |pod| pod["metadata"]["ownerReferences"].is_null()).await;
    assert!(free["metadata"]["deletionTimestamp"].is_null());
    cluster.until_all("pods", |pods| pods.len() == 3 && pods_of(pods, "web").len() == 2).await;
    // Deleted without its pods, the set leaves them to the next one of its kind.
    cluster.delete_with("replicasets/web", "Orphan").await;
    cluster.until_gone("replicasets/web").await;
    let left = cluster.until_all("pods", |pods| pods_of(pods, "web").is_empty()).await;
    assert_eq!(left.len(), 3);
    cluster.apply(&replica_set("web", 2, "web")).await;
    let pods = cluster.until_all("pods", |pods| pods_of(pods, "web").len() == 2).await;
    assert_eq!(pods.len(), 3);
}

#[tokio::test]
async fn the_cheapest_pod_goes_first() {
    let cluster = Cluster::start().await;
    cluster.apply(&replica_set("web", 4, "web")).await;
    let pods = cluster.until_all("pods", |pods| running(pods) == 4).await;
    let name = |n: usize| pods[n]["metadata"]["name"].as_str().unwrap().to_owned();
    for (n, cost) in [(0, "5"), (1, "-10"), (2, "7"), (3, "-1")] {
        let annotations = json!({"controller.kubernetes.io/pod-deletion-cost": cost});
        let patch = json!({"metadata": {"annotations": annotations}});
        cluster.patch(&format!("pods/{}", name(n)), patch).await;
    }
    cluster.scale("replicasets/web", 2).await;
    let left = cluster.until_all("pods", |pods| pods.len() == 2).await;
    let left: Vec<_> = left.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(left, [name(0), name(2)]);
}

#[tokio::test]
async fn a_quota_that_is_full_shows() {
    let cluster = Cluster::start().await;
    cluster
        .apply("{apiVersion: v1, kind: ResourceQuota, metadata: {name: two}, spec: {hard: {pods: '2'}}}")
        .await;
    cluster.until("resourcequotas/two", |quota| quota["status"]["hard"]["pods"] == "2").await;
    cluster.apply(&replica_set("web", 5, "web")).await;
    let failed = |set: &Value| set["status"]["conditions"][0]["type"] == "ReplicaFailure";
    let set = cluster.until("replicasets/web", failed).await;
    let condition = &set["status"]["conditions"][0];
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("True"), &json!("FailedCreate")));
    assert!(condition["message"].as_str().unwrap().contains("exceeded quota: two"), "{condition}");
    let event = cluster.until_event("ReplicaSet/web", "FailedCreate: Error creating: pods ").await;
    assert!(event.contains("is forbidden: exceeded quota: two"), "{event}");
    cluster.patch("resourcequotas/two", json!({"spec": {"hard": {"pods": "5"}}})).await;
    let whole = |set: &Value| set["status"]["replicas"] == 5 && set["status"]["conditions"].is_null();
    cluster.until("replicasets/web", whole).await;
}

#[tokio::test]
async fn a_container_that_dies_is_started_again_in_its_pod() {
    let cluster = Cluster::start().await;
    cluster.program("flaky", SimProgram::EndAtOnce(Exit::Code(1)));
    cluster.program("flaky", SimProgram::RunUntilTerm(Exit::Code(0)));
    cluster.apply(&replica_set("web", 1, "flaky")).await;
    cluster.until("replicasets/web", |set| set["status"]["availableReplicas"] == 1).await;
    let pods = cluster.list("pods").await;
    assert_eq!(pods.len(), 1);
    assert_eq!(pods[0]["status"]["containerStatuses"][0]["restartCount"], 1);
}

#[tokio::test]
async fn replication_controllers_do_the_same() {
    let cluster = Cluster::start().await;
    cluster
        .apply(
            "apiVersion: v1
kind: ReplicationController
metadata: {name: old}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: old}}
    spec: {containers: [{name: c, image: web}]}
",
        )
        .await;
    let rc = cluster.until("replicationcontrollers/old", |rc| rc["status"]["availableReplicas"] == 2).await;
    assert_eq!(
        rc["status"],
        json!({"replicas": 2, "fullyLabeledReplicas": 2, "readyReplicas": 2, "availableReplicas": 2,
               "observedGeneration": 1})
    );
    let pods = cluster.list("pods").await;
    assert_eq!(pods[0]["metadata"]["ownerReferences"][0]["kind"], "ReplicationController");
    cluster.scale("replicationcontrollers/old", 0).await;
    cluster.until_all("pods", |pods| pods.is_empty()).await;
    cluster.until("replicationcontrollers/old", |rc| rc["status"]["replicas"] == 0).await;
}

#[tokio::test]
async fn pods_count_as_available_after_a_while() {
    let cluster = Cluster::start().await;
    let patient = |seconds: u32| {
        let seconds = format!("  replicas: 2\n  minReadySeconds: {seconds}");
        replica_set("web", 2, "web").replace("  replicas: 2", &seconds)
    };
    cluster.apply(&patient(3600)).await;
    let set = cluster.until("replicasets/web", |set| set["status"]["readyReplicas"] == 2).await;
    assert!(set["status"]["availableReplicas"].is_null(), "{}", set["status"]);
    cluster.apply(&patient(2)).await;
    cluster.until("replicasets/web", |set| set["status"]["availableReplicas"] == 2).await;
}
