//! Nodes of which nothing is heard any more.

use minik::kubelet::context::Addresses;
use minik::runtime::sim::SimRuntime;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::shows::{message, names};

/// A deployment whose pods stay away from each other's nodes.
fn web(replicas: i32) -> String {
    let apart = json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1,
        "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}}]}});
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"terminationGracePeriodSeconds": 1,
        "affinity": apart, "containers": [{"name": "c", "image": "web"}]}});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template}})
    .to_string()
}

/// A cluster of so many nodes, `minik` and `n2` and so on, with a pod on each.
async fn cluster(nodes: usize) -> (Cluster, Vec<SimRuntime>) {
    let mut cluster = Cluster::start().await;
    let mut runtimes = vec![cluster.runtime.clone()];
    for n in 2..=nodes {
        runtimes.push(cluster.add_node(&format!("n{n}")).await);
    }
    cluster.apply(&web(nodes as i32)).await;
    cluster.shows("deployments/web", json!({"status": {"readyReplicas": nodes}})).await;
    (cluster, runtimes)
}

fn on<'a>(pods: &'a [Value], node: &str) -> Vec<&'a str> {
    let here: Vec<Value> = pods.iter().filter(|pod| pod["spec"]["nodeName"] == node).cloned().collect();
    let all = names(pods);
    all.into_iter().filter(|name| names(&here).contains(name)).collect()
}

#[tokio::test]
async fn a_silent_node_is_unknown_and_its_pods_leave_it() {
    let (mut cluster, _) = cluster(2).await;
    let pods = cluster.list("pods").await;
    let lost = on(&pods, "n2")[0].to_owned();
    cluster.pass(600).await;
    cluster
        .is(
            ":nodes/n2",
            json!({"status": {"conditions": {"Ready": "True KubeletReady"}}, "spec": {"taints": null}}),
        )
        .await;
    cluster.silence("n2");
    let begun = Instant::now();
    let unknown = json!({"status": {"conditions": {"Ready": "Unknown NodeStatusUnknown", "MemoryPressure": "Unknown NodeStatusUnknown",
        "DiskPressure": "Unknown NodeStatusUnknown", "PIDPressure": "Unknown NodeStatusUnknown"}}});
    let node = cluster.shows(":nodes/n2", unknown).await;
    let took = begun.elapsed().as_secs();
    assert!((40..=60).contains(&took), "{took}");
    assert_eq!(message(&node, "Ready"), "Kubelet stopped posting node status.");
    cluster.until_event("Node/n2", "NodeNotReady: Node n2 status is now: NodeNotReady").await;
    cluster.until_event(&format!("Pod/{lost}"), "NodeNotReady: Node is not ready").await;
    cluster
        .shows(
            &format!("pods/{lost}"),
            json!({"status": {"phase": "Running", "conditions": {"Ready": "False"}}}),
        )
        .await;
    let tainted = |node: &Value| {
        let taints = node["spec"]["taints"].as_array().into_iter().flatten();
        let effects = taints
            .filter(|taint| taint["key"] == "node.kubernetes.io/unreachable")
            .map(|taint| taint["effect"].clone());
        effects.collect::<Vec<_>>() == ["NoSchedule", "NoExecute"]
    };
    cluster.until(":nodes/n2", tainted).await;
    cluster.shows("deployments/web", json!({"status": {"readyReplicas": 1}})).await;
    // By default pods bear it for five minutes.
    cluster.pass(290).await;
    cluster.is(&format!("pods/{lost}"), json!({"metadata": {"deletionTimestamp": null}})).await;
    cluster.pass(20).await;
    cluster.is("deployments/web", json!({"status": {"readyReplicas": 2}})).await;
    // Nobody says that the old one has ended.
    let old = cluster.get(&format!("pods/{lost}")).await.unwrap();
    assert!(old["metadata"]["deletionTimestamp"].is_string());
    let taint =
        json!([{"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}]);
    cluster.patch(":nodes/n2", json!({"spec": {"taints": taint}})).await;
    cluster.until_gone(&format!("pods/{lost}")).await;
}

#[tokio::test]
async fn a_node_that_comes_back_keeps_its_pods() {
    let (mut cluster, runtimes) = cluster(2).await;
    cluster.silence("n2");
    cluster.shows(":nodes/n2", json!({"status": {"conditions": {"Ready": "Unknown"}}})).await;
    cluster.pass(120).await;
    cluster.wake("n2", runtimes[1].clone()).await;
    cluster
        .shows(
            ":nodes/n2",
            json!({"status": {"conditions": {"Ready": "True KubeletReady"}}, "spec": {"taints": null}}),
        )
        .await;
    cluster.shows("deployments/web", json!({"status": {"readyReplicas": 2}})).await;
    cluster.pass(900).await;
    let pods = cluster.list("pods").await;
    assert_eq!(pods.len(), 2);
    assert!(pods.iter().all(|pod| pod["status"]["containerStatuses"][0]["restartCount"] == 0), "{pods:#?}");
}

#[tokio::test]
async fn where_nobody_answers_nobody_leaves() {
    for silent in [2, 3] {
        let (mut cluster, _) = cluster(3).await;
        for node in &["minik", "n2", "n3"][..silent] {
            cluster.silence(node);
        }
        cluster.pass(900).await;
        let pods = cluster.list("pods").await;
        let leaving = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_string()).count();
        assert_eq!(leaving, if silent == 3 { 0 } else { 2 }, "{silent} silent");
    }
}

#[tokio::test]
async fn a_node_without_a_kubelet_is_unknown_after_a_minute() {
    let cluster = Cluster::start().await;
    cluster.apply("{apiVersion: v1, kind: Node, metadata: {name: paper}}").await;
    cluster
        .until_event("Node/paper", "RegisteredNode: Node paper event: Registered Node paper in Controller")
        .await;
    let begun = Instant::now();
    let never = json!({"status": {"conditions": {"Ready": "Unknown NodeStatusNeverUpdated"}}});
    let node = cluster.shows(":nodes/paper", never).await;
    let took = begun.elapsed().as_secs();
    assert!((59..=62).contains(&took), "{took}");
    assert_eq!(message(&node, "Ready"), "Kubelet never posted node status.");
    cluster.delete(":nodes/paper").await;
    cluster
        .until_event("Node/paper", "RemovingNode: Node paper event: Removing Node paper from Controller")
        .await;
}

#[tokio::test]
async fn what_somebody_else_says_of_a_node_is_put_right() {
    let cluster = Cluster::start().await;
    cluster
        .patch_status(
            ":nodes/minik",
            json!({"conditions": [{"type": "Ready", "status": "False", "reason": "Nonsense"}]}),
        )
        .await;
    cluster.pass(15).await;
    let well = json!({"status": {"conditions": {"Ready": "True KubeletReady", "DiskPressure": "False KubeletHasNoDiskPressure"}}});
    cluster.is(":nodes/minik", well).await;
}

#[tokio::test]
async fn a_node_that_comes_back_gives_back_what_pods_had_that_are_gone() {
    let (mut cluster, runtimes) = cluster(2).await;
    let pods = cluster.list("pods").await;
    let stays = cluster.get(&format!("pods/{}", on(&pods, "n2")[0])).await.unwrap();
    let stays = stays["metadata"]["uid"].as_str().unwrap().to_owned();
    cluster.silence("n2");
    // It died before it had made a sandbox for this one.
    let network = cluster.network("n2");
    network.attach("half-made").await.unwrap();
    assert_eq!(network.held().await.unwrap().len(), 2);
    cluster.wake("n2", runtimes[1].clone()).await;
    cluster.pass(1).await;
    assert_eq!(network.held().await.unwrap(), [stays].into());
}

#[tokio::test]
async fn nodes_say_what_others_of_the_cluster_want_to_know() {
    let (mut cluster, runtimes) = cluster(2).await;
    let attach = "volumes.kubernetes.io/controller-managed-attach-detach";
    let said = json!({"metadata": {"annotations": {"node.alpha.kubernetes.io/ttl": "0", attach: "true"}}});
    cluster.shows(":nodes/minik", said.clone()).await;
    // A node that does not say it yet comes to.
    cluster.silence("n2");
    let none = json!({"metadata": {"annotations": {"node.alpha.kubernetes.io/ttl": null, attach: null, "mine": "1"}}});
    cluster.patch(":nodes/n2", none).await;
    let ttl = |node: &Value| node["metadata"]["annotations"]["node.alpha.kubernetes.io/ttl"] == "0";
    let node = cluster.until(":nodes/n2", ttl).await;
    assert_eq!(node["metadata"]["annotations"][attach], Value::Null, "its kubelet's business");
    cluster.wake("n2", runtimes[1].clone()).await;
    cluster.shows(":nodes/n2", said).await;
    cluster.is(":nodes/n2", json!({"metadata": {"annotations": {"mine": "1"}}})).await;
}
