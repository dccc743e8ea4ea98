//! What every cluster has from the start: the first namespaces and the `kubernetes` service.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use futures::future::select_all;
use serde_json::{Value, json};

use super::ApiServer;
use super::registry::Place;
use crate::api::kinds;
use crate::api::request::{User, WriteOptions};
use crate::api::status::Status;
use crate::store::Revision;

/// Before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

impl ApiServer {
    /// Makes what is missing of the first objects; `address` and `port` are where this server listens, as
    /// pods reach it. Calling it again changes only what differs.
    pub async fn bootstrap(&self, address: IpAddr, port: u16) -> Result<(), Status> {
        for name in NAMESPACES {
            let namespace =
                json!({"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}});
            self.ensure("", "namespaces", None, name, namespace).await?;
        }
        self.started.namespaces.store(true, Ordering::Release);
        let labels = json!({"component": "apiserver", "provider": "kubernetes"});
        let service = json!({"metadata": {"name": "kubernetes", "labels": labels}, "spec": {
            "type": "ClusterIP", "clusterIP": self.registry.allocator().range().nth(1).to_string(),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
            "sessionAffinity": "None",
        }});
        self.ensure("", "services", Some("default"), "kubernetes", service).await?;
        let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
        let endpoints = json!({
            "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{"addresses": [{"ip": address.to_string()}], "ports": ports}],
        });
        self.ensure("", "endpoints", Some("default"), "kubernetes", endpoints).await?;
        let slice = json!({
            "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
            "ports": ports,
        });
        self.ensure("discovery.k8s.io", "endpointslices", Some("default"), "kubernetes", slice).await?;
        self.started.service.store(true, Ordering::Release);
        Ok(())
    }

    /// Does the same again whenever somebody has changed or deleted one of the first objects, until dropped.
    pub async fn keep(&self, address: IpAddr, port: u16) {
        loop {
            let seen = self.registry.store().revision();
            match self.bootstrap(address, port).await {
                Ok(()) => self.touched(seen).await,
                Err(status) => {
                    tracing::warn!(%status, "the cluster's first objects are not as they must be");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Waits for a change of one of the first objects after a revision.
    async fn touched(&self, after: Revision) {
        let next = |key: String| {
            let mut watch = self.registry.store().watch(&key, after);
            // An error means that the log does not reach back that far: time to look.
            async move { while watch.next().await.is_ok_and(|event| event.entry.key != key) {} }.boxed()
        };
        let service = ["services", "endpoints", "endpointslices"];
        let keys = service.map(|plural| format!("{plural}/default/kubernetes")).into_iter();
        let keys = keys.chain(NAMESPACES.iter().map(|name| format!("namespaces/{name}")));
        select_all(keys.map(next)).await;
    }

    /// Makes the object, or brings the fields that are given here back to what they must be.
    async fn ensure(
        &self,
        group: &str,
        plural: &str,
        namespace: Option<&str>,
        name: &str,
        object: Value,
    ) -> Result<(), Status> {
        let Some(kind) = kinds::by_resource(group, "v1", plural) else {
            return Err(Status::internal(format!("{plural} are not served")));
        };
        let (user, options) = (User::component("system:apiserver"), WriteOptions::default());
        match self.registry.create(&user, kind, namespace, object.clone(), &options).await {
            Err(status) if status.is("AlreadyExists") => {}
            other => return other.map(drop),
        }
        let place = Place { kind, namespace, name };
        let part = super::registry::Part::Object;
        let merge = crate::api::request::PatchKind::Merge;
        self.registry.patch(&user, place, part, merge, &object, &options).await.map(drop)
    }
}
