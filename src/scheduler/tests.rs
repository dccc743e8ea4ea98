//! The loops over a small API server.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::client::testing::FakeApi;

fn node(cpu: &str) -> Value {
    json!({"metadata": {"name": "n", "labels": {"kubernetes.io/hostname": "n"}}, "status": {
        "allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "110"},
        "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn pod(name: &str, cpu: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": {"containers": [
        {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

/// Runs a scheduler beside a test, which must end in time.
async fn beside(api: &FakeApi, test: impl Future<Output = ()>) {
    let both = async {
        tokio::select! {
            () = Scheduler::new(api.client()).run(std::future::pending()) => {}
            () = test => {}
        }
    };
    tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
}

/// Waits until an object of a kind is as it should be.
async fn until<K: Resource>(api: &FakeApi, look: impl Fn(&Reflector<K>) -> bool) {
    let (all, feed) = Reflector::<K>::new(api.client().all::<K>(), ListOptions::default());
    tokio::select! { () = feed => {}, () = all.until(look) => {} }
}

/// The pods that have a node.
fn bound(pods: &Reflector<Pod>) -> usize {
    pods.list().iter().filter(|pod| !node_of(pod).is_empty()).count()
}

#[tokio::test]
async fn many_pods_are_bound_without_waiting_for_one_another() {
    let api = FakeApi::default();
    api.put("nodes", node("2"));
    for number in 0..30 {
        api.put("pods", pod(&format!("p{number}"), "100m"));
    }
    beside(&api, async {
        // Two CPUs are twenty pods: those that are being bound count before anybody sees them bound.
        until::<Pod>(&api, |pods| {
            let told = |pod: &Pod| pod.status.as_ref().is_some_and(|status| status.conditions.is_some());
            pods.list().iter().filter(|pod| told(pod)).count() == 10 && bound(pods) == 20
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_was_refused_is_tried_when_room_comes() {
    let api = FakeApi::default();
    api.put("nodes", node("1"));
    api.put("pods", pod("p", "2"));
    let waits = |pods: &Reflector<Pod>| {
        let pod = pods.get("d/p");
        let status = pod.as_ref().and_then(|pod| pod.status.as_ref());
        status.and_then(|s| s.conditions.as_ref()).is_some_and(|all| {
            all.iter().any(|c| {
                c.reason.as_deref() == Some("Unschedulable")
                    && c.message.as_ref().unwrap().contains("Insufficient cpu")
            })
        })
    };
    beside(&api, async {
        until::<Pod>(&api, waits).await;
        api.put("nodes", node("3"));
        until::<Pod>(&api, |pods| bound(pods) == 1).await;
    })
    .await;
}

#[tokio::test]
async fn less_important_pods_go() {
    let api = FakeApi::default();
    api.put("nodes", node("1"));
    let mut there = pod("there", "1");
    there["spec"]["nodeName"] = json!("n");
    api.put("pods", there);
    let mut important = pod("p", "1");
    important["spec"]["priority"] = json!(5);
    api.put("pods", important);
    beside(&api, async {
        until::<Pod>(&api, |pods| pods.get("d/there").is_none()).await;
        until::<k8s_openapi::api::core::v1::Event>(&api, |events| {
            let told =
                |reason: &str| events.list().iter().any(|event| event.reason.as_deref() == Some(reason));
            told("Preempted") && told("Scheduled")
        })
        .await;
    })
    .await;
}

#[test]
fn gated_and_foreign_pods_do_not_wait_for_this_scheduler() {
    let read = |change: fn(&mut Value)| {
        let mut pod = pod("p", "1");
        change(&mut pod);
        serde_json::from_value::<Pod>(pod).unwrap()
    };
    assert!(waits(&read(|_| {})));
    assert!(!waits(&read(|p| p["spec"]["schedulingGates"] = json!([{"name": "x"}]))));
    assert!(waits(&read(|p| p["spec"]["schedulingGates"] = json!([]))));
    assert!(!waits(&read(|p| p["spec"]["schedulerName"] = json!("other"))));
    assert!(!waits(&read(|p| p["spec"]["nodeName"] = json!("n"))));
    assert!(!waits(&read(|p| p["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"))));
}
