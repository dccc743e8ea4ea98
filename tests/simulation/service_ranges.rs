//! Ranges of services' addresses come and go.

use minik::api::meta;
use minik::api::request::DeleteOptions;
use serde_json::json;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::shows::message;

const RANGE: &str = ":servicecidrs/more";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

fn range(name: &str, cidr: &str) -> String {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name},
        "spec": {"cidrs": [cidr]}})
    .to_string()
}

fn service(address: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"clusterIP": address, "ports": [{"port": 80}]}})
    .to_string()
}

/// Deletes the range; how many seconds it took to go.
async fn deleted(cluster: &Cluster) -> u64 {
    let begun = Instant::now();
    cluster.try_delete(RANGE, DeleteOptions::default()).await.unwrap();
    cluster.until_gone(RANGE).await;
    begun.elapsed().as_secs()
}

#[tokio::test]
async fn a_range_is_ready_and_goes_after_its_last_address() {
    let cluster = Cluster::start().await;
    cluster.apply(&range("more", "10.7.0.0/24")).await;
    let ready = cluster.shows(RANGE, json!({"status": {"conditions": {"Ready": "True"}}})).await;
    assert_eq!(meta::finalizers(&ready), [FINALIZER]);
    assert_eq!(message(&ready, "Ready"), "Kubernetes Service CIDR is ready");
    cluster.apply(&service("10.7.0.5")).await;
    cluster.try_delete(RANGE, DeleteOptions::default()).await.unwrap();
    let held = cluster.shows(RANGE, json!({"status": {"conditions": {"Ready": "False Terminating"}}})).await;
    assert!(message(&held, "Ready").starts_with("There are still IPAddresses referencing the ServiceCIDR"));
    cluster.pass(3600).await;
    cluster.is(RANGE, json!({"metadata": {"finalizers": [FINALIZER]}})).await;
    cluster.delete("services/web").await;
    cluster.until_gone(RANGE).await;
    // The cluster's own is as it was.
    cluster.is(":servicecidrs/kubernetes", json!({"status": {"conditions": {"Ready": "True"}}})).await;
}

#[tokio::test]
async fn a_range_that_another_covers_goes_with_its_addresses_in_use() {
    let cluster = Cluster::start().await;
    cluster.apply(&range("more", "10.7.0.0/24")).await;
    cluster.apply(&service("10.7.0.5")).await;
    cluster.try_delete(RANGE, DeleteOptions::default()).await.unwrap();
    cluster.shows(RANGE, json!({"status": {"conditions": {"Ready": "False Terminating"}}})).await;
    cluster.apply(&range("all", "10.7.0.0/16")).await;
    cluster.until_gone(RANGE).await;
    cluster.shows(":servicecidrs/all", json!({"status": {"conditions": {"Ready": "True"}}})).await;
    cluster.is(":ipaddresses/10.7.0.5", json!({"spec": {"parentRef": {"name": "web"}}})).await;
}

#[tokio::test]
async fn a_range_that_nobody_uses_goes_after_its_grace() {
    let cluster = Cluster::start().await;
    cluster.apply(&range("more", "10.7.0.0/24")).await;
    cluster.shows(RANGE, json!({"status": {"conditions": {"Ready": "True"}}})).await;
    let took = deleted(&cluster).await;
    assert!((9..=11).contains(&took), "{took}");
}
