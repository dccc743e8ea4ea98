//! What a node has room for: which pods it takes, and how they are resized.

use serde_json::{Value, json};

use crate::cluster::Cluster;

/// A pod that asks for so much CPU; its spec may say more.
fn pod(name: &str, cpu: &str, more: Value) -> String {
    let mut spec = json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": name,
        "resources": {"requests": {"cpu": cpu}}}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string()
}

fn runs(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running"
}

fn pending(pod: &Value) -> (&str, &str) {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let pending = conditions.find(|condition| condition["type"] == "PodResizePending");
    pending.map_or(("", ""), |c| (c["reason"].as_str().unwrap(), c["message"].as_str().unwrap()))
}

fn has(cpu: &str) -> impl Fn(&Value) -> bool {
    move |pod| pod["status"]["containerStatuses"][0]["resources"]["requests"]["cpu"] == cpu
}

#[tokio::test]
async fn a_resize_that_the_node_can_never_grant_takes_no_room() {
    let cluster = Cluster::start().await;
    cluster.apply(&pod("big", "1", json!({}))).await;
    cluster.until("pods/big", runs).await;
    cluster.resize("big", json!({"requests": {"cpu": "100"}})).await;
    let big = cluster.until("pods/big", |pod| pending(pod).0 == "Infeasible").await;
    let message = "Node didn't have enough capacity: cpu, requested: 100000, capacity: 8000";
    assert_eq!(pending(&big).1, message);
    assert_eq!(big["status"]["containerStatuses"][0]["allocatedResources"]["cpu"], "1");
    cluster.apply(&pod("other", "6", json!({}))).await;
    cluster.until("pods/other", runs).await;
    let event = cluster.until_event("Pod/big", "ResizeInfeasible: Pod resize Infeasible: ").await;
    assert!(event.contains(r#""generation":2,"error":"Node didn't have enough capacity"#), "{event}");
}

#[tokio::test]
async fn a_resize_waits_for_room_and_comes_when_there_is_some() {
    let cluster = Cluster::start().await;
    for (name, cpu) in [("grows", "1"), ("other", "6")] {
        cluster.apply(&pod(name, cpu, json!({}))).await;
        cluster.until(&format!("pods/{name}"), runs).await;
    }
    cluster.resize("grows", json!({"requests": {"cpu": "3"}})).await;
    let grows = cluster.until("pods/grows", |pod| pending(pod).0 == "Deferred").await;
    let message = "Node didn't have enough resource: cpu, requested: 3000, used: 6000, capacity: 8000";
    assert_eq!((pending(&grows).1, has("1")(&grows)), (message, true));
    // What another pod gives up is room as well as what it leaves.
    cluster.resize("other", json!({"requests": {"cpu": "5"}})).await;
    cluster.until("pods/grows", has("3")).await;
    for event in ["ResizeDeferred: ", "ResizeStarted: ", "ResizeCompleted: "] {
        cluster.until_event("Pod/grows", event).await;
    }
    cluster.resize("grows", json!({"requests": {"cpu": "4"}})).await;
    cluster.until("pods/grows", |pod| pending(pod).0 == "Deferred").await;
    cluster.delete("pods/other").await;
    let grows = cluster.until("pods/grows", has("4")).await;
    assert_eq!(pending(&grows).0, "");
}

#[tokio::test]
async fn a_pod_as_a_whole_is_resized_when_there_is_room() {
    let cluster = Cluster::start().await;
    let stating = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}, "limits": {"cpu": "9"}}});
    cluster.apply(&pod("grows", "1", stating("2"))).await;
    cluster.apply(&pod("other", "5", json!({}))).await;
    for name in ["grows", "other"] {
        cluster.until(&format!("pods/{name}"), runs).await;
    }
    let has = |cpu: &'static str| {
        move |pod: &Value| {
            pod["status"]["allocatedResources"]["cpu"] == cpu
                && pod["status"]["resources"]["requests"]["cpu"] == cpu
        }
    };
    cluster.until("pods/grows", has("2")).await;
    cluster.resize_spec("grows", stating("4")).await;
    let grows = cluster.until("pods/grows", |pod| pending(pod).0 == "Deferred").await;
    let message = "Node didn't have enough resource: cpu, requested: 4000, used: 5000, capacity: 8000";
    assert_eq!((pending(&grows).1, has("2")(&grows)), (message, true));
    cluster.delete("pods/other").await;
    let grows = cluster.until("pods/grows", has("4")).await;
    assert_eq!(
        (pending(&grows).0, &grows["status"]["containerStatuses"][0]["restartCount"]),
        ("", &json!(0))
    );
    for event in ["ResizeDeferred: ", "ResizeStarted: ", "ResizeCompleted: "] {
        cluster.until_event("Pod/grows", event).await;
    }
    // What it has counts for others.
    cluster.apply(&pod("late", "5", json!({}))).await;
    cluster.pass(5).await;
    assert!(!runs(&cluster.get("pods/late").await.unwrap()));
}

#[tokio::test]
async fn a_pod_that_names_its_node_must_fit_all_the_same() {
    let cluster = Cluster::start().await;
    let port = json!([{"name": "c", "image": "first", "ports": [{"containerPort": 80, "hostPort": 80}]}]);
    let here = |more: Value| {
        let mut spec = json!({"nodeName": "minik"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    cluster.apply(&pod("first", "1", here(json!({"containers": port})))).await;
    cluster.until("pods/first", runs).await;
    for (name, cpu, more, reason, message) in [
        (
            "greedy",
            "100",
            json!({}),
            "OutOfcpu",
            "Node didn't have enough resource: cpu, requested: 100000, used: 0, capacity: 8000",
        ),
        (
            "picky",
            "1",
            json!({"nodeSelector": {"disk": "ssd"}}),
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ),
    ] {
        cluster.apply(&pod(name, cpu, here(more))).await;
        let refused = cluster.until(&format!("pods/{name}"), |pod| pod["status"]["phase"] == "Failed").await;
        assert_eq!(refused["status"]["reason"], reason);
        assert_eq!(refused["status"]["message"], format!("Pod was rejected: {message}"));
        cluster.until_event(&format!("Pod/{name}"), &format!("{reason}: {message}")).await;
    }
    // The kubelet knows of a label at once.
    cluster.patch(":nodes/minik", json!({"metadata": {"labels": {"disk": "ssd"}}})).await;
    cluster.apply(&pod("pleased", "1", here(json!({"nodeSelector": {"disk": "ssd"}})))).await;
    cluster.until("pods/pleased", runs).await;
}

#[tokio::test]
async fn a_port_of_the_host_is_one_pods() {
    let cluster = Cluster::start().await;
    let here = |image: &str| {
        let ports = json!([{"containerPort": 80, "hostPort": 80}]);
        json!({"nodeName": "minik", "containers": [{"name": "c", "image": image, "ports": ports}]})
    };
    cluster.apply(&pod("first", "0", here("first"))).await;
    cluster.until("pods/first", runs).await;
    cluster.apply(&pod("second", "0", here("second"))).await;
    let refused = cluster.until("pods/second", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(refused["status"]["reason"], "NodePorts");
    cluster.delete("pods/first").await;
    cluster.until_gone("pods/first").await;
    cluster.apply(&pod("third", "0", here("third"))).await;
    cluster.until("pods/third", runs).await;
}

#[tokio::test]
async fn others_make_room_for_a_pod_that_the_node_needs() {
    let cluster = Cluster::start().await;
    cluster.program("slow", minik::runtime::sim::SimProgram::IgnoreTerm);
    for (name, cpu) in [("large", "4"), ("slow", "3")] {
        cluster.apply(&pod(name, cpu, json!({"terminationGracePeriodSeconds": 20}))).await;
        cluster.until(&format!("pods/{name}"), runs).await;
    }
    let critical = json!({"nodeName": "minik", "priorityClassName": "system-node-critical"});
    cluster.apply(&pod("needed", "3", critical.clone())).await;
    cluster.until_event("Pod/slow", "Preempting: Preempted in order to admit critical pod").await;
    cluster.pass(10).await;
    assert!(!runs(&cluster.get("pods/needed").await.unwrap()), "the room is not free yet");
    cluster.until("pods/needed", runs).await;
    let slow = cluster.get("pods/slow").await.unwrap();
    assert_eq!(
        (&slow["status"]["phase"], &slow["status"]["reason"]),
        (&json!("Failed"), &json!("Preempting"))
    );
    let told = "Pod was preempted by Kubelet to accommodate a critical pod.";
    assert_eq!(crate::shows::message(&slow, "DisruptionTarget"), told);
    assert!(runs(&cluster.get("pods/large").await.unwrap()));
    // Without anybody who could go, there is no room.
    cluster.apply(&pod("huge", "9", critical)).await;
    let huge = cluster.until("pods/huge", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(huge["status"]["reason"], "UnexpectedAdmissionError");
    assert!(runs(&cluster.get("pods/large").await.unwrap()));
}

#[tokio::test]
async fn a_pod_that_apparmor_is_to_confine_needs_a_node_that_can() {
    let cluster = Cluster::start().await;
    for (name, kind, taken) in [("open", "Unconfined", true), ("usual", "RuntimeDefault", false)] {
        let security = json!({"securityContext": {"appArmorProfile": {"type": kind}}});
        cluster.apply(&pod(name, "1", security)).await;
        let phase = if taken { "Running" } else { "Failed" };
        cluster.shows(&format!("pods/{name}"), json!({"status": {"phase": phase}})).await;
    }
    let told = "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host";
    cluster.is("pods/usual", json!({"status": {"reason": "AppArmor", "message": told}})).await;
}
