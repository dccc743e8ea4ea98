//! Disruption budgets: how many pods may be missing, and which evictions that allows.

use k8s_openapi::api::core::v1::Pod;
use minik::api::request::WriteOptions;
use minik::api::status::Status;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::shows::{is_ready, names};

const GATE: &str = "example.com/up";

/// So many pods of a deployment that are ready when they are said to be.
pub async fn gated(replicas: usize, ready: usize) -> Cluster {
    let cluster = Cluster::start().await;
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"terminationGracePeriodSeconds": 1,
        "readinessGates": [{"conditionType": GATE}], "containers": [{"name": "c", "image": "web"}]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template}});
    cluster.apply(&deployment.to_string()).await;
    let running =
        |pods: &[Value]| pods.iter().filter(|pod| pod["status"]["phase"] == "Running").count() == replicas;
    let pods = cluster.until_all("pods", running).await;
    for name in &names(&pods)[..ready] {
        say_ready(&cluster, name).await;
    }
    cluster.until_all("pods", |pods| pods.iter().filter(|pod| is_ready(pod)).count() == ready).await;
    cluster
}

async fn say_ready(cluster: &Cluster, pod: &str) {
    let mut status = cluster.get(&format!("pods/{pod}")).await.unwrap()["status"].clone();
    status["conditions"].as_array_mut().unwrap().push(json!({"type": GATE, "status": "True"}));
    cluster.patch_status(&format!("pods/{pod}"), json!({"conditions": status["conditions"]})).await;
}

pub fn budget(name: &str, more: Value) -> String {
    let mut spec = json!({"selector": {"matchLabels": {"app": "web"}}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": spec}).to_string()
}

pub async fn evict(cluster: &Cluster, pod: &str) -> Result<(), Status> {
    let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "default"}});
    let api = cluster.client.namespaced::<Pod>("default");
    api.create_subresource(pod, "eviction", body, WriteOptions::default()).await.map(drop)
}

#[tokio::test]
async fn what_a_budget_allows() {
    let cluster = gated(10, 9).await;
    let cases = [
        ("a", json!({"minAvailable": 7}), (7, 2)),
        ("b", json!({"minAvailable": "50%"}), (5, 4)),
        // What must be there is rounded up; so is what may be missing.
        ("c", json!({"minAvailable": "55%"}), (6, 3)),
        ("d", json!({"maxUnavailable": 3}), (7, 2)),
        ("e", json!({"maxUnavailable": "25%"}), (7, 2)),
        ("f", json!({"maxUnavailable": 0}), (10, 0)),
        ("g", json!({"minAvailable": "100%"}), (10, 0)),
        ("h", json!({"minAvailable": 20}), (20, 0)),
        ("i", json!({"maxUnavailable": "100%"}), (0, 9)),
        ("j", json!({"minAvailable": 0}), (0, 9)),
        ("k", json!({"maxUnavailable": 20}), (0, 9)),
    ];
    for (name, spec, _) in &cases {
        cluster.apply(&budget(name, spec.clone())).await;
    }
    cluster.pass(5).await;
    for (name, _, (desired, allowed)) in &cases {
        let condition = if *allowed > 0 { "True SufficientPods" } else { "False InsufficientPods" };
        let status = json!({"status": {"expectedPods": 10, "currentHealthy": 9, "desiredHealthy": desired,
            "disruptionsAllowed": allowed, "observedGeneration": 1, "conditions": {"DisruptionAllowed": condition}}});
        cluster.is(&format!("poddisruptionbudgets/{name}"), status).await;
    }
}

#[tokio::test]
async fn who_is_refused_hears_why_and_one_goes_after_the_other() {
    let cluster = gated(3, 3).await;
    cluster.apply(&budget("web", json!({"minAvailable": 2}))).await;
    cluster.shows("poddisruptionbudgets/web", json!({"status": {"disruptionsAllowed": 1}})).await;
    let pods = cluster.list("pods").await;
    let name = names(&pods);
    evict(&cluster, name[0]).await.unwrap();
    let refused = evict(&cluster, name[1]).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (429, "TooManyRequests"));
    assert_eq!(refused.message, "Cannot evict pod as it would violate the pod's disruption budget.");
    let why = serde_json::to_value(&refused).unwrap();
    assert_eq!(why["details"]["causes"][0]["reason"], "DisruptionBudget");
    // The replacement has to be ready first.
    cluster.pass(60).await;
    evict(&cluster, name[1]).await.unwrap_err();
    let pods = cluster.list("pods").await;
    let new = names(&pods).into_iter().find(|pod| !name.contains(pod)).unwrap();
    say_ready(&cluster, new).await;
    cluster.shows("poddisruptionbudgets/web", json!({"status": {"disruptionsAllowed": 1}})).await;
    evict(&cluster, name[1]).await.unwrap();
}

#[tokio::test]
async fn a_pod_of_two_budgets_cannot_be_evicted_and_one_of_none_can() {
    let cluster = gated(2, 2).await;
    let pods = cluster.list("pods").await;
    evict(&cluster, names(&pods)[0]).await.unwrap();
    for name in ["one", "two"] {
        cluster.apply(&budget(name, json!({"minAvailable": 0}))).await;
    }
    cluster.pass(5).await;
    let refused = evict(&cluster, names(&pods)[1]).await.unwrap_err();
    assert_eq!(refused.code, 500, "{refused}");
    assert!(refused.message.contains("more than one PodDisruptionBudget"), "{refused}");
}

#[tokio::test]
async fn an_eviction_that_did_not_happen_is_forgiven() {
    let cluster = gated(3, 3).await;
    cluster.apply(&budget("web", json!({"minAvailable": 2}))).await;
    cluster.shows("poddisruptionbudgets/web", json!({"status": {"disruptionsAllowed": 1}})).await;
    // As when the pod's deletion did not go through.
    let pods = cluster.list("pods").await;
    let time = minik::clock::now().to_string();
    let status = json!({"disruptedPods": {names(&pods)[0]: time}, "disruptionsAllowed": 0});
    cluster.patch_status("poddisruptionbudgets/web", status).await;
    cluster.pass(60).await;
    cluster
        .is("poddisruptionbudgets/web", json!({"status": {"disruptionsAllowed": 0, "currentHealthy": 2}}))
        .await;
    cluster.pass(90).await;
    let status = json!({"status": {"disruptionsAllowed": 1, "currentHealthy": 3, "disruptedPods": null}});
    cluster.is("poddisruptionbudgets/web", status).await;
}
