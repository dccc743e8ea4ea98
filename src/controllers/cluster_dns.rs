//! The `kube-dns` Service and its slice, which lead pods to the DNS server in this process.

use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::api::request::PatchKind;
use crate::api::status::Status;
use crate::client::{Client, Resource};

const NAME: &str = "kube-dns";
const NAMESPACE: &str = "kube-system";
/// Before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Writes both objects, then rests until dropped.
pub async fn run(client: Client, service: Ipv4Addr, server: (Ipv4Addr, u16)) {
    loop {
        match announce(&client, service, server).await {
            Ok(()) => return std::future::pending().await,
            Err(status) => tracing::warn!(%status, "cannot announce the cluster's DNS"),
        }
        tokio::time::sleep(RETRY).await;
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
