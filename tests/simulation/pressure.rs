//! Nodes that run short.

use std::time::Duration;

use minik::kubelet::eviction::{Settings, thresholds};
use minik::kubelet::image_gc::Policy;
use serde_json::{Value, json};

use crate::cluster::Cluster;

fn pod(name: &str, more: &Value) -> String {
    let spec = json!({"terminationGracePeriodSeconds": 1, "nodeName": "minik",
        "containers": [{"name": "c", "image": name, "resources": {"requests": more["requests"]}}],
        "tolerations": more["tolerations"]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string()
}

fn runs(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running"
}

fn failed(pod: &Value) -> bool {
    pod["status"]["phase"] == "Failed"
}

fn condition<'a>(object: &'a Value, type_: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|condition| condition["type"] == type_).unwrap_or(&Value::Null)
}

fn tainted(node: &Value, key: &str) -> bool {
    node["spec"]["taints"].as_array().into_iter().flatten().any(|taint| taint["key"] == key)
}

#[tokio::test]
async fn a_pod_that_takes_all_memory_is_evicted_and_the_others_stay() {
    // Whatever is left of the disk that the tests run on.
    let memory = |threshold: &thresholds::Threshold| threshold.signal == thresholds::Signal::Memory;
    let thresholds = thresholds::usual().into_iter().filter(memory).collect();
    let settings = Settings { thresholds, stays: Duration::from_secs(60), ..Settings::default() };
    let cluster = Cluster::start_with(settings).await;
    for name in ["hog", "modest"] {
        cluster.apply(&pod(name, &Value::Null)).await;
        cluster.until(&format!("pods/{name}"), runs).await;
    }
    cluster.runtime.use_memory("hog", (8 << 30) - (60 << 20));
    // One more pod is a reason to look.
    cluster.apply(&pod("next", &json!({"requests": {"memory": "1Gi"}}))).await;
    let hog = cluster.until("pods/hog", failed).await;
    assert_eq!(hog["status"]["reason"], "Evicted");
    let message = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 58Mi. Container c was \
                   using 8134Mi, request is 0, has larger consumption of memory. ";
    assert_eq!(hog["status"]["message"], message);
    assert_eq!(condition(&hog, "DisruptionTarget")["reason"], "TerminationByKubelet");
    cluster.until_event("Pod/hog", "Evicted: The node was low on resource: memory.").await;
    let node =
        cluster.until(":nodes/minik", |node| tainted(node, "node.kubernetes.io/memory-pressure")).await;
    assert_eq!(condition(&node, "MemoryPressure")["reason"], "KubeletHasInsufficientMemory");
    cluster.until_event("Node/minik", "EvictionThresholdMet: Attempting to reclaim memory").await;
    cluster.until_event("Node/minik", "NodeHasInsufficientMemory: Node minik status is now").await;
    cluster.until("pods/next", runs).await;
    let node =
        cluster.until(":nodes/minik", |node| !tainted(node, "node.kubernetes.io/memory-pressure")).await;
    assert_eq!(condition(&node, "MemoryPressure")["status"], "False");
    assert!(runs(&cluster.get("pods/modest").await.unwrap()));
}

#[tokio::test]
async fn a_soft_threshold_is_borne_for_its_time_and_then_pods_have_time_to_end() {
    let statements = thresholds::statements("memory.available<200Mi").unwrap();
    let grace = [("memory.available".to_owned(), Duration::from_secs(25))].into();
    let settings = Settings {
        thresholds: thresholds::parse_soft(&statements, &grace).unwrap(),
        pod_grace: Duration::from_secs(20),
        stays: Duration::from_secs(60),
        ..Settings::default()
    };
    let cluster = Cluster::start_with(settings).await;
    cluster.apply(&pod("hog", &Value::Null)).await;
    cluster.until("pods/hog", runs).await;
    cluster.runtime.use_memory("hog", (8 << 30) - (150 << 20));
    // One more pod is a reason to look.
    cluster.apply(&pod("next", &json!({"requests": {"memory": "1Gi"}}))).await;
    let under_pressure = |node: &Value| condition(node, "MemoryPressure")["status"] == "True";
    cluster.until(":nodes/minik", under_pressure).await;
    let began = tokio::time::Instant::now();
    assert!(runs(&cluster.get("pods/hog").await.unwrap()), "a soft threshold is borne for a while");
    let hog = cluster.until("pods/hog", failed).await;
    assert!(began.elapsed() >= Duration::from_secs(15), "{:?}", began.elapsed());
    let message = hog["status"]["message"].as_str().unwrap();
    assert!(message.contains("Threshold quantity: 200Mi"), "{message}");
    cluster.until_event("Node/minik", "EvictionThresholdMet: Attempting to reclaim memory").await;
}

#[tokio::test]
async fn a_node_whose_disk_is_full_takes_no_pods_but_those_of_the_system() {
    let statements = thresholds::statements("nodefs.available<1Ei").unwrap();
    let settings = Settings { thresholds: thresholds::parse(&statements).unwrap(), ..Settings::default() };
    let cluster = Cluster::start_in_real_time(Some(settings)).await;
    let node = cluster.until(":nodes/minik", |node| tainted(node, "node.kubernetes.io/disk-pressure")).await;
    assert_eq!(condition(&node, "DiskPressure")["message"], "kubelet has disk pressure");
    cluster.apply(&pod("plain", &json!({"requests": {"memory": "1Gi"}}))).await;
    let plain = cluster.until("pods/plain", failed).await;
    assert_eq!(plain["status"]["reason"], "Evicted");
    let message = "Pod was rejected: The node had condition: [DiskPressure]. ";
    assert_eq!(plain["status"]["message"], message);
    cluster.put_manifest(
        "own.yaml",
        "{apiVersion: v1, kind: Pod, metadata: {name: own}, spec: {containers: [{name: c, image: own}]}}",
    );
    cluster.until("pods/own-minik", runs).await;
}

#[tokio::test]
async fn a_disk_that_stays_full_is_told_of() {
    let images = Policy { high: 0, low: 0, enough: None, ..Policy::default() };
    let cluster = Cluster::start_with(Settings { images, ..Settings::default() }).await;
    let begins =
        "FreeDiskSpaceFailed: Failed to garbage collect required amount of images. Attempted to free";
    let told = cluster.until_event("Node/minik", begins).await;
    assert!(told.ends_with("but only found 0 bytes eligible to free."), "{told}");
}
