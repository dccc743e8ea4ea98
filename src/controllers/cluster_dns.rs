//! The `kube-dns` Service and its slice, which lead pods to the DNS server in this process.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Next, queue, work};
use crate::api::request::{ListOptions, PatchKind};
use crate::api::status::Status;
use crate::client::queue::Queue;
use crate::client::reflector::{Reflector, Subscription};
use crate::client::{Client, Resource};

const NAME: &str = "kube-dns";
const NAMESPACE: &str = "kube-system";

/// Writes both objects, and writes them again whenever somebody has changed or deleted one, until dropped.
pub async fn run(client: Client, service: Ipv4Addr, server: (Ipv4Addr, u16)) {
    let mut tasks = JoinSet::new();
    let named = || ListOptions { field_selector: format!("metadata.name={NAME}"), ..ListOptions::default() };
    let (services, feed_services) = Reflector::new(client.namespaced::<Service>(NAMESPACE), named());
    let (slices, feed_slices) = Reflector::new(client.namespaced::<EndpointSlice>(NAMESPACE), named());
    tasks.spawn(feed_services);
    tasks.spawn(feed_slices);
    services.synced().await;
    slices.synced().await;
    let queue = queue(&client, "cluster_dns");
    queue.add(NAME);
    let by_service = touch(services.subscribe(), &queue);
    let by_slice = touch(slices.subscribe(), &queue);
    let reconcile = |_| {
        let client = &client;
        async move { announce(client, service, server).await.map(|()| Next::Await) }
    };
    tokio::join!(by_service, by_slice, work("cluster-dns", &queue, reconcile));
}

/// Has both objects looked at whenever one changes.
async fn touch(mut changes: Subscription, queue: &Queue) {
    while changes.next().await.is_some() {
        queue.add(NAME);
    }
}

/// The Service (pure).
fn service(address: Ipv4Addr) -> Value {
    let labels =
        json!({"k8s-app": NAME, "kubernetes.io/name": "CoreDNS", "kubernetes.io/cluster-service": "true"});
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": labels},
        "spec": {"type": "ClusterIP", "clusterIP": address.to_string(), "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
        ]},
    })
}

/// The slice (pure).
fn slice((address, port): (Ipv4Addr, u16)) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {
            "kubernetes.io/service-name": NAME, "endpointslice.kubernetes.io/managed-by": "minik",
        }},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true, "serving": true}}],
        "ports": [
            {"name": "dns", "port": port, "protocol": "UDP"},
            {"name": "dns-tcp", "port": port, "protocol": "TCP"},
        ],
    })
}

async fn announce(client: &Client, address: Ipv4Addr, server: (Ipv4Addr, u16)) -> Result<(), Status> {
    ensure::<Service>(client, service(address)).await?;
    ensure::<EndpointSlice>(client, slice(server)).await
}

/// Makes an object, or brings an old one to what it must be.
async fn ensure<K: Resource>(client: &Client, object: Value) -> Result<(), Status> {
    let api = client.namespaced::<K>(NAMESPACE);
    match api.patch(NAME, None, PatchKind::Merge, object.clone()).await {
        Err(status) if status.is("NotFound") => {
            let typed: K = serde_json::from_value(object).map_err(Status::internal)?;
            api.create(&typed).await.map(drop)
        }
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::testing::FakeApi;

    #[tokio::test]
    async fn what_is_deleted_comes_back() {
        let api = FakeApi::default();
        let client = api.client();
        let (seen, feed) =
            Reflector::new(client.namespaced::<EndpointSlice>(NAMESPACE), ListOptions::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(feed);
        tasks.spawn(run(client, Ipv4Addr::new(10, 96, 0, 10), (Ipv4Addr::new(10, 244, 0, 1), 53)));
        let key = format!("{NAMESPACE}/{NAME}");
        seen.until(|slices| slices.get(&key).is_some()).await;
        let first = seen.get(&key).and_then(|slice| slice.metadata.resource_version.clone());
        api.remove("endpointslices", NAMESPACE, NAME);
        seen.until(|slices| slices.get(&key).is_some_and(|s| s.metadata.resource_version != first)).await;
        assert_eq!(api.all("services")[0]["spec"]["clusterIP"], "10.96.0.10");
    }
}
