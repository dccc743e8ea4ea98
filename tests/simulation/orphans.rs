//! Pods whose node does not end them.

use minik::runtime::sim::SimProgram;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::shows::names;

fn pod(name: &str, more: Value) -> String {
    let mut spec = json!({"terminationGracePeriodSeconds": 30, "containers": [{"name": "c", "image": name}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string()
}

#[tokio::test]
async fn pods_of_a_node_that_there_is_not_go() {
    let cluster = Cluster::start().await;
    cluster.apply(&pod("lost", json!({"nodeName": "never"}))).await;
    cluster.apply(&pod("late", json!({"nodeName": "later"}))).await;
    cluster.pass(30).await;
    assert_eq!(cluster.list("pods").await.len(), 2);
    // A node may be slower to come than its pods.
    cluster.apply("{apiVersion: v1, kind: Node, metadata: {name: later}}").await;
    cluster.pass(60).await;
    let pods = cluster.list("pods").await;
    assert_eq!(names(&pods), ["late"]);
    cluster.delete(":nodes/later").await;
    cluster.until_gone("pods/late").await;
}

#[tokio::test]
async fn pods_of_a_node_out_of_service_are_not_waited_for() {
    let cluster = Cluster::start().await;
    // Nobody speaks for this one.
    cluster.apply("{apiVersion: v1, kind: Node, metadata: {name: dead}}").await;
    for name in ["stuck", "stays"] {
        cluster.apply(&pod(name, json!({"nodeName": "dead", "tolerations": [{"operator": "Exists"}]}))).await;
    }
    cluster.delete("pods/stuck").await;
    cluster.pass(600).await;
    assert_eq!(cluster.list("pods").await.len(), 2, "nobody says that it has ended");
    let taint =
        json!([{"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}]);
    cluster.patch(":nodes/dead", json!({"spec": {"taints": taint}})).await;
    cluster.until_gone("pods/stuck").await;
    assert!(cluster.get("pods/stays").await.is_some());
    cluster.delete("pods/stays").await;
    cluster.until_gone("pods/stays").await;
}

#[tokio::test]
async fn a_pod_has_the_time_to_end_that_it_was_given() {
    for (grace, ignores, took) in [(30, false, 0), (30, true, 30), (300, true, 300), (0, true, 0)] {
        let cluster = Cluster::start().await;
        if ignores {
            cluster.program("web", SimProgram::IgnoreTerm);
        }
        cluster.apply(&pod("web", json!({"terminationGracePeriodSeconds": grace}))).await;
        cluster.shows("pods/web", json!({"status": {"phase": "Running"}})).await;
        let begun = tokio::time::Instant::now();
        cluster.delete("pods/web").await;
        cluster.until_gone("pods/web").await;
        let seconds = begun.elapsed().as_secs();
        assert!((took..took + 3).contains(&seconds), "{grace} {ignores}: {seconds}");
    }
}

#[tokio::test]
async fn a_pod_that_crashes_is_started_later_and_later() {
    let cluster = Cluster::start().await;
    cluster.program("bad", SimProgram::EndAtOnce(minik::stdio::Exit::Code(1)));
    cluster.apply(&pod("bad", json!({}))).await;
    let begun = tokio::time::Instant::now();
    let mut starts = Vec::new();
    for restarts in 1..=6 {
        let restarted =
            |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(restarts);
        cluster.until("pods/bad", restarted).await;
        starts.push(begun.elapsed().as_secs());
    }
    // 10, 20, 40, 80 and 160 seconds after the one before; the first at once.
    let waits: Vec<u64> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (wait, expected) in waits.iter().zip([10, 20, 40, 80, 160]) {
        assert!((expected..expected + 12).contains(wait), "{waits:?}");
    }
    let waiting = json!({"status": {"phase": "Running", "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}});
    cluster.shows("pods/bad", waiting).await;
}

#[tokio::test]
async fn a_pod_that_takes_too_long_fails() {
    let cluster = Cluster::start().await;
    cluster.apply(&pod("slow", json!({"activeDeadlineSeconds": 120}))).await;
    let begun = tokio::time::Instant::now();
    cluster.shows("pods/slow", json!({"status": {"phase": "Failed", "reason": "DeadlineExceeded"}})).await;
    let seconds = begun.elapsed().as_secs();
    assert!((120..125).contains(&seconds), "{seconds}");
}
