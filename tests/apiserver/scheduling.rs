//! The scheduler, and the binding of volumes, over the API.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use minik::api::request::{ListOptions, User};
use minik::client::Client;
use minik::client::reflector::Reflector;
use minik::controllers::volumes::{self, Storage};
use minik::scheduler::Scheduler;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::server::{Fixture, PODS};

const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";

fn client(f: &Fixture) -> Client {
    Client::new(f.api.clone(), User::component("system:kube-scheduler"))
}

/// A cluster with a scheduler and one node of two CPUs.
async fn scheduled(pods: &str) -> (Fixture, AbortOnDropHandle<()>) {
    let f = Fixture::start().await;
    account(&f).await;
    let node = json!({"metadata": {"name": "n", "labels": {"kubernetes.io/hostname": "n"}}});
    f.post("/api/v1/nodes", node).await.expect(201);
    grow(&f, "2", pods).await;
    let scheduler = Scheduler::new(client(&f)).run(std::future::pending());
    let scheduler = AbortOnDropHandle::new(tokio::spawn(scheduler));
    (f, scheduler)
}

async fn grow(f: &Fixture, cpu: &str, pods: &str) {
    let status = json!({"status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": pods},
        "conditions": [{"type": "Ready", "status": "True"}]}});
    f.patch("/api/v1/nodes/n/status", status).await.expect(200);
}

/// The account that pods run as.
async fn account(f: &Fixture) {
    let account = json!({"metadata": {"name": "default"}, "automountServiceAccountToken": false});
    f.post("/api/v1/namespaces/default/serviceaccounts", account).await.expect(201);
}

#[tokio::test]
async fn a_binding_names_its_pod_itself() {
    let f = Fixture::start().await;
    account(&f).await;
    f.post(PODS, pod("a", "1", |_| ())).await.expect(201);
    let bindings = "/api/v1/namespaces/default/bindings";
    let binding = |name: &str| json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": "n"}});
    f.post(bindings, binding("none")).await.expect(404);
    f.post(bindings, binding("")).await.expect(400);
    let done = f.post(bindings, binding("a")).await.expect(201);
    assert_eq!(done["status"], "Success");
    assert_eq!(f.get(&format!("{PODS}/a")).await.expect(200)["spec"]["nodeName"], "n");
    f.post(bindings, binding("a")).await.expect(409);
    f.get(bindings).await.expect(405);
}

fn pod(name: &str, cpu: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [
        {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}});
    change(&mut pod);
    pod
}

/// Waits until a pod is as it should be.
async fn until(f: &Fixture, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
    until_in(f, PODS, name, holds).await
}

/// Waits until an object of a collection is as it should be.
async fn until_in(f: &Fixture, all: &str, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let mut watch = f.watch(&format!("{all}?watch=1&fieldSelector=metadata.name={name}")).await;
    let found = async {
        loop {
            let event = watch.next().await;
            if holds(&event["object"]) {
                return event["object"].clone();
            }
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(30), found).await;
    found.unwrap_or_else(|_| panic!("{name} does not come to be as it should"))
}

fn scheduled_condition(pod: &Value) -> Value {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|c| c["type"] == "PodScheduled").cloned().unwrap_or(Value::Null)
}

fn is_bound(pod: &Value) -> bool {
    pod["spec"]["nodeName"] == "n" && scheduled_condition(pod)["status"] == "True"
}

#[tokio::test]
async fn pods_wait_for_room_and_say_so() {
    let (f, _scheduler) = scheduled("10").await;
    f.post(PODS, pod("large", "3", |_| {})).await.expect(201);
    let large = until(&f, "large", |pod| scheduled_condition(pod)["status"] == "False").await;
    let condition = scheduled_condition(&large);
    assert_eq!(condition["reason"], "Unschedulable");
    assert_eq!(
        condition["message"],
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: \
         1 Preemption is not helpful for scheduling."
    );
    grow(&f, "4", "10").await;
    until(&f, "large", is_bound).await;
    let told = async {
        loop {
            let events = f.get("/api/v1/namespaces/default/events").await.expect(200);
            if events["items"].as_array().unwrap().iter().any(|event| event["reason"] == "FailedScheduling") {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), told).await.unwrap();
}

#[tokio::test]
async fn gated_pods_wait_until_their_gates_are_gone() {
    let (f, _scheduler) = scheduled("10").await;
    let gated =
        pod("gated", "1", |pod| pod["spec"]["schedulingGates"] = json!([{"name": "example.com/wait"}]));
    let made = f.post(PODS, gated).await.expect(201);
    assert_eq!(scheduled_condition(&made)["reason"], "SchedulingGated");
    f.post(PODS, pod("free", "1", |_| {})).await.expect(201);
    until(&f, "free", is_bound).await;
    let waits = f.get(&format!("{PODS}/gated")).await.expect(200);
    assert_eq!(waits["spec"]["nodeName"], Value::Null);
    f.patch(&format!("{PODS}/gated"), json!({"spec": {"schedulingGates": null}})).await.expect(200);
    until(&f, "gated", is_bound).await;
}

#[tokio::test]
async fn important_pods_take_the_place_of_others() {
    let (f, _scheduler) = scheduled("10").await;
    let class = json!({"metadata": {"name": "high"}, "value": 1000});
    f.post("/apis/scheduling.k8s.io/v1/priorityclasses", class).await.expect(201);
    f.post(PODS, pod("small", "1500m", |_| {})).await.expect(201);
    until(&f, "small", is_bound).await;
    let important = pod("important", "1", |pod| pod["spec"]["priorityClassName"] = json!("high"));
    f.post(PODS, important).await.expect(201);
    let small = until(&f, "small", |pod| pod["metadata"]["deletionTimestamp"].is_string()).await;
    assert_eq!(small["metadata"]["deletionGracePeriodSeconds"], 30);
    let conditions = small["status"]["conditions"].as_array().unwrap();
    let target = conditions.iter().find(|c| c["type"] == "DisruptionTarget").unwrap();
    assert_eq!(target["reason"], "PreemptionByScheduler");
    assert_eq!(target["message"], "default-scheduler: preempting to accommodate a higher priority pod");
    let important = until(&f, "important", |pod| pod["status"]["nominatedNodeName"] == "n").await;
    assert_eq!(scheduled_condition(&important)["message"], "0/1 nodes are available: 1 Insufficient cpu.");
    // The room is the important pod's: another one of less importance does not get it.
    f.delete(&format!("{PODS}/small?gracePeriodSeconds=0")).await.expect(200);
    f.post(PODS, pod("late", "1500m", |_| {})).await.expect(201);
    let important = until(&f, "important", is_bound).await;
    assert_eq!(important["status"]["nominatedNodeName"], Value::Null);
    let late = until(&f, "late", |pod| scheduled_condition(pod)["status"] == "False").await;
    assert_eq!(late["spec"]["nodeName"], Value::Null);
}

#[tokio::test]
async fn a_hundred_pods_are_bound_at_once() {
    let (f, _scheduler) = scheduled("110").await;
    let (pods, feed) = Reflector::<Pod>::new(client(&f).all::<Pod>(), ListOptions::default());
    let _feed = AbortOnDropHandle::new(tokio::spawn(feed));
    for number in 0..100 {
        f.post(PODS, pod(&format!("p{number}"), "10m", |_| {})).await.expect(201);
    }
    let from = Instant::now();
    let all = pods.until(|pods| {
        let bound = |pod: &Arc<Pod>| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        pods.list().iter().filter(|pod| bound(pod)).count() == 100
    });
    tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
    tracing::info!(took = ?from.elapsed(), "all bound");
}

/// Directories of a test.
struct Directory(PathBuf);

impl Storage for Directory {
    fn make(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.0.join(name);
        std::fs::create_dir_all(&path).map_err(|error| error.to_string())?;
        Ok(path)
    }

    fn remove(&self, path: &Path) -> Result<(), String> {
        std::fs::remove_dir_all(path).map_err(|error| error.to_string())
    }

    fn scrub(&self, path: &Path) -> Result<(), String> {
        Err(format!("{} is not this test's", path.display()))
    }
}

fn storage(f: &Fixture, directory: &Path) -> Vec<AbortOnDropHandle<()>> {
    let client = client(f);
    let (pods, feed) = Reflector::<Pod>::new(client.all::<Pod>(), ListOptions::default());
    let controller = volumes::run(client, pods, Arc::new(Directory(directory.to_owned())));
    vec![AbortOnDropHandle::new(tokio::spawn(feed)), AbortOnDropHandle::new(tokio::spawn(controller))]
}

fn claim(name: &str, class: Option<&str>) -> Value {
    json!({"metadata": {"name": name}, "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}})
}

fn with_claim(name: &str, claim: &str) -> Value {
    pod(name, "10m", |pod| {
        pod["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]);
    })
}

#[tokio::test]
async fn volumes_are_bound_before_their_pods() {
    let (f, _scheduler) = scheduled("10").await;
    let directory = tempfile::tempdir().unwrap();
    f.post(PODS, with_claim("first", "data")).await.expect(201);
    let first = until(&f, "first", |pod| scheduled_condition(pod)["status"] == "False").await;
    assert_eq!(
        scheduled_condition(&first)["message"],
        "0/1 nodes are available: persistentvolumeclaim \"data\" not found. not found"
    );
    let _storage = storage(&f, directory.path());
    let class = json!({"metadata": {"name": "late"}, "provisioner": "minik.io/hostpath",
        "volumeBindingMode": "WaitForFirstConsumer"});
    f.post(CLASSES, class).await.expect(201);
    f.post(CLAIMS, claim("data", Some("late"))).await.expect(201);
    until(&f, "first", is_bound).await;
    let data = until_in(&f, CLAIMS, "data", |claim| claim["status"]["phase"] == "Bound").await;
    let marks = &data["metadata"]["annotations"];
    assert_eq!(marks["volume.kubernetes.io/selected-node"], "n");
    assert_eq!(marks["pv.kubernetes.io/bind-completed"], "yes");
    assert_eq!(marks["volume.kubernetes.io/storage-provisioner"], "minik.io/hostpath");
    let name = data["spec"]["volumeName"].as_str().unwrap();
    let volume = f.get(&format!("/api/v1/persistentvolumes/{name}")).await.expect(200);
    assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Delete");
    assert!(directory.path().join(name).is_dir());
    // One of the class that the controller makes where there is none, bound before any pod comes.
    f.post(CLAIMS, claim("manual", Some(""))).await.expect(201);
    let made = json!({"metadata": {"name": "by-hand"}, "spec": {"capacity": {"storage": "5Gi"},
        "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/data"}}});
    f.post("/api/v1/persistentvolumes", made).await.expect(201);
    f.post(PODS, with_claim("second", "manual")).await.expect(201);
    until(&f, "second", is_bound).await;
    let manual = until_in(&f, CLAIMS, "manual", |claim| claim["status"]["phase"] == "Bound").await;
    assert_eq!(manual["status"]["capacity"]["storage"], "5Gi");
}

#[tokio::test]
async fn volumes_made_by_hand_go_to_the_pods_that_reach_them() {
    let (f, _scheduler) = scheduled("10").await;
    let directory = tempfile::tempdir().unwrap();
    let _storage = storage(&f, directory.path());
    let class = json!({"metadata": {"name": "local"}, "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer"});
    f.post(CLASSES, class).await.expect(201);
    let volume = |name: &str, node: &str| {
        json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": "5Gi"}, "storageClassName": "local",
            "accessModes": ["ReadWriteOnce"], "local": {"path": "/data"}, "nodeAffinity": {"required": {
                "nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}}})
    };
    f.post("/api/v1/persistentvolumes", volume("far", "m")).await.expect(201);
    f.post(CLAIMS, claim("data", Some("local"))).await.expect(201);
    f.post(PODS, with_claim("p", "data")).await.expect(201);
    let waits = until(&f, "p", |pod| scheduled_condition(pod)["status"] == "False").await;
    let message = scheduled_condition(&waits)["message"].as_str().unwrap().to_owned();
    assert!(
        message.starts_with(
            "0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind."
        ),
        "{message}"
    );
    f.post("/api/v1/persistentvolumes", volume("near", "n")).await.expect(201);
    until(&f, "p", is_bound).await;
    let data = f.get(&format!("{CLAIMS}/data")).await.expect(200);
    assert_eq!(data["spec"]["volumeName"], "near");
}

#[tokio::test]
async fn pods_select_by_their_own_labels_and_keep_their_containers_in_order() {
    let f = Fixture::start().await;
    f.pod("any").await;
    let term = json!({"matchLabelKeys": ["hash"], "mismatchLabelKeys": ["tenant"], "topologyKey": "t",
        "labelSelector": {"matchLabels": {"app": "web"}}});
    let spread = json!({"maxSkew": 1, "topologyKey": "t", "whenUnsatisfiable": "ScheduleAnyway",
        "matchLabelKeys": ["hash"], "labelSelector": {}});
    let container = |name: &str| json!({"name": name, "image": "a", "resources": {"requests": {"cpu": "1"}}});
    let mut pod = json!({"metadata": {"name": "two", "labels": {"hash": "1", "tenant": "a"}}, "spec": {
        "containers": [container("a"), container("b")],
        "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}},
        "topologySpreadConstraints": [spread]}});
    let made = f.post(PODS, pod.clone()).await.expect(201);
    let hash = json!({"key": "hash", "operator": "In", "values": ["1"]});
    let tenant = json!({"key": "tenant", "operator": "NotIn", "values": ["a"]});
    let affinity = &made["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(affinity[0]["labelSelector"]["matchExpressions"], json!([hash, tenant]));
    let spread = &made["spec"]["topologySpreadConstraints"][0];
    assert_eq!(spread["labelSelector"]["matchExpressions"], json!([hash]));
    pod["metadata"]["name"] = json!("twice");
    pod["spec"]["topologySpreadConstraints"][0]["labelSelector"] = json!({"matchLabels": {"hash": "1"}});
    let refused = f.post(PODS, pod).await.expect(422);
    assert!(
        refused["message"].as_str().unwrap().ends_with(
            "spec.topologySpreadConstraints[0][0]: Invalid value: \"hash\": exists in both matchLabelKeys and labelSelector"
        ),
        "{refused}"
    );
    let resize = format!("{PODS}/two/resize");
    let mut turned = made.clone();
    turned["spec"]["containers"].as_array_mut().unwrap().reverse();
    let refused = f.put(&resize, turned).await.expect(422);
    assert_eq!(
        refused["message"],
        "Pod \"two\" is invalid: [spec.containers[0].name: Forbidden: containers may not be renamed or reordered on \
         resize, spec.containers[1].name: Forbidden: containers may not be renamed or reordered on resize]"
    );
    let mut larger = made.clone();
    larger["spec"]["containers"][1]["resources"]["requests"]["cpu"] = json!("2");
    let resized = f.put(&resize, larger).await.expect(200);
    assert_eq!(resized["spec"]["containers"][1]["resources"]["requests"]["cpu"], "2");
}
