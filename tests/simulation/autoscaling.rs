//! Autoscalers, which look at what pods use.

use serde_json::{Value, json};

use crate::cluster::Cluster;

const MEBIBYTE: u64 = 1 << 20;

/// A deployment of so many pods, with an autoscaler that wants each to use 100Mi of memory.
async fn deploy(cluster: &Cluster, name: &str, replicas: usize, used: u64) -> Vec<Value> {
    let template = json!({"metadata": {"labels": {"app": name}}, "spec": {"terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": name, "resources": {"requests": {"memory": "10Mi"}}}]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}});
    cluster.apply(&deployment.to_string()).await;
    let ready = |pod: &Value| {
        let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let mine = |pods: &[Value]| -> Vec<Value> {
        pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == name).cloned().collect()
    };
    let all_ready = |pods: &[Value]| mine(pods).len() == replicas && mine(pods).iter().all(ready);
    let pods = mine(&cluster.until_all("pods", all_ready).await);
    pods.iter().for_each(|pod| cluster.uses(pod["metadata"]["name"].as_str().unwrap(), used));
    pods
}

async fn autoscale(cluster: &Cluster, name: &str, target: &str) {
    let metric = json!({"type": "Resource", "resource": {"name": "memory",
        "target": {"type": "AverageValue", "averageValue": "100Mi"}}});
    let scaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name},
        "spec": {"minReplicas": 1, "maxReplicas": 5, "metrics": [metric],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target}}});
    cluster.apply(&scaler.to_string()).await;
}

#[tokio::test]
async fn a_deployment_grows_and_shrinks_with_what_its_pods_use() {
    let cluster = Cluster::start().await;
    deploy(&cluster, "busy", 2, 200 * MEBIBYTE).await;
    deploy(&cluster, "idle", 4, 40 * MEBIBYTE).await;
    for name in ["busy", "idle"] {
        autoscale(&cluster, name, name).await;
    }
    for (name, replicas, why) in [
        ("busy", 4, "New size: 4; reason: memory resource above target"),
        ("idle", 2, "New size: 2; reason: All metrics below target"),
    ] {
        cluster.until(&format!("deployments/{name}"), |d| d["status"]["readyReplicas"] == replicas).await;
        cluster
            .until_event(&format!("HorizontalPodAutoscaler/{name}"), &format!("SuccessfulRescale: {why}"))
            .await;
        let path = format!("horizontalpodautoscalers/{name}");
        let scaler = cluster.until(&path, |scaler| scaler["status"]["desiredReplicas"] == replicas).await;
        let conditions = scaler["status"]["conditions"].as_array().unwrap();
        let active = conditions.iter().find(|c| c["type"] == "ScalingActive").unwrap();
        assert_eq!((&active["status"], &active["reason"]), (&json!("True"), &json!("ValidMetricFound")));
    }
}

#[tokio::test]
async fn pods_of_two_autoscalers_are_scaled_by_neither() {
    let cluster = Cluster::start().await;
    deploy(&cluster, "web", 1, 100 * MEBIBYTE).await;
    autoscale(&cluster, "first", "web").await;
    cluster.until("horizontalpodautoscalers/first", |scaler| scaler["status"]["desiredReplicas"] == 1).await;
    autoscale(&cluster, "second", "web").await;
    let told = "pods by selector app=web are controlled by multiple HPAs: [{first default} {second default}]";
    let ambiguous = |scaler: &Value| {
        let mut conditions = scaler["status"]["conditions"].as_array().into_iter().flatten();
        conditions.any(|c| c["type"] == "ScalingActive" && c["message"] == told)
    };
    cluster.until("horizontalpodautoscalers/second", ambiguous).await;
    cluster.until_event("HorizontalPodAutoscaler/second", &format!("AmbiguousSelector: {told}")).await;
}
