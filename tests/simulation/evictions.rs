//! Pods that are to leave: budgets, cordons, taints.

use k8s_openapi::api::core::v1::Pod;
use minik::api::request::WriteOptions;
use minik::api::status::Status;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const SET: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: 'web:1'}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec:
  maxUnavailable: 1
  selector: {matchLabels: {app: web}}
";

async fn evict(cluster: &Cluster, pod: &str) -> Result<(), Status> {
    let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "default"}});
    let api = cluster.client.namespaced::<Pod>("default");
    api.create_subresource(pod, "eviction", body, WriteOptions::default()).await.map(drop)
}

fn allows(count: i64) -> impl Fn(&Value) -> bool {
    move |budget| {
        let status = &budget["status"];
        status["observedGeneration"] == 1
            && status["disruptionsAllowed"] == count
            && status["expectedPods"] == 2
    }
}

#[tokio::test]
async fn a_budget_lets_one_go_at_a_time() {
    let cluster = Cluster::start().await;
    cluster.apply(SET).await;
    let budget = cluster.until("poddisruptionbudgets/web", allows(1)).await;
    assert_eq!(
        (&budget["status"]["desiredHealthy"], &budget["status"]["currentHealthy"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(budget["status"]["conditions"][0]["reason"], "SufficientPods");
    // The set must not replace it meanwhile.
    cluster.patch(":nodes/minik", json!({"spec": {"unschedulable": true}})).await;
    evict(&cluster, "web-0").await.unwrap();
    let budget = cluster.until("poddisruptionbudgets/web", allows(0)).await;
    assert_eq!(budget["status"]["conditions"][0]["reason"], "InsufficientPods");
    let refused = evict(&cluster, "web-1").await.unwrap_err();
    assert_eq!(refused.code, 429, "{refused}");
    cluster.patch(":nodes/minik", json!({"spec": {"unschedulable": false}})).await;
    cluster.until("poddisruptionbudgets/web", allows(1)).await;
    evict(&cluster, "web-1").await.unwrap();
}

#[tokio::test]
async fn a_cordoned_node_is_tainted() {
    let cluster = Cluster::start().await;
    cluster.patch(":nodes/minik", json!({"spec": {"unschedulable": true}})).await;
    let tainted = |node: &Value| node["spec"]["taints"][0]["key"] == "node.kubernetes.io/unschedulable";
    let node = cluster.until(":nodes/minik", tainted).await;
    assert_eq!(node["spec"]["taints"][0]["effect"], "NoSchedule");
    cluster.patch(":nodes/minik", json!({"spec": {"unschedulable": false}})).await;
    cluster.until(":nodes/minik", |node| node["spec"]["taints"].as_array().is_none_or(Vec::is_empty)).await;
}

#[tokio::test]
async fn pods_leave_a_node_that_they_do_not_tolerate() {
    let cluster = Cluster::start().await;
    let pod = |name: &str, tolerations: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 1, \
             tolerations: {tolerations}, containers: [{{name: c, image: web}}]}}}}"
        )
    };
    let tolerates = |more: &str| format!("[{{key: gone, operator: Exists, effect: NoExecute{more}}}]");
    for (name, tolerations) in
        [("not", "[]".to_owned()), ("long", tolerates("")), ("short", tolerates(", tolerationSeconds: 1"))]
    {
        cluster.apply(&pod(name, &tolerations)).await;
        cluster.until(&format!("pods/{name}"), |pod| pod["status"]["phase"] == "Running").await;
    }
    let taint = json!({"key": "gone", "value": "yes", "effect": "NoExecute"});
    cluster.patch(":nodes/minik", json!({"spec": {"taints": [taint]}})).await;
    cluster.until_gone("pods/not").await;
    cluster.until_event("Pod/not", "TaintManagerEviction: Marking for deletion Pod default/not").await;
    cluster.until_gone("pods/short").await;
    assert_eq!(cluster.get("pods/long").await.unwrap()["status"]["phase"], "Running");
}
