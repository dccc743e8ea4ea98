//! What every cluster has from the start: the first namespaces and the `kubernetes` service.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{select_all, try_join_all};
use serde_json::{Value, json};

use super::ApiServer;
use super::allocate;
use super::auth::rbac::defaults::{self, Preset};
use super::auth::rbac::policy;
use super::auth::rbac::reconcile::{self, Change};
use super::fairness;
use super::registry::{Part, Place};
use crate::api::kinds;
use crate::api::meta;
use crate::api::request::{DeleteOptions, User, WriteOptions};
use crate::api::status::Status;
use crate::clock;
use crate::store::Revision;

/// Before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The classes of pods that a cluster cannot do without, with their values and descriptions (`pkg/apis/scheduling`).
const PRIORITY_CLASSES: &[(&str, i64, &str)] = &[
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

impl ApiServer {
    /// Makes what is missing of the first objects; `address` and `port` are where this server listens, as
    /// pods reach it. Calling it again changes only what differs.
    pub async fn bootstrap(&self, address: IpAddr, port: u16) -> Result<(), Status> {
        let namespaces = NAMESPACES.iter().map(|name| {
            let namespace =
                json!({"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}});
            self.ensure("", "namespaces", None, name, namespace)
        });
        try_join_all(namespaces).await?;
        self.started.namespaces.store(true, Ordering::Release);
        // None of these needs another, and what is written at the same time shares the disk's transactions.
        tokio::try_join!(
            self.ensure_classes(),
            self.ensure_roles(),
            self.ensure_service(address, port),
            self.ensure_flow_control(),
            self.ensure_service_range(),
        )?;
        self.started.service.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes what is missing of the priority classes.
    async fn ensure_classes(&self) -> Result<(), Status> {
        let classes = PRIORITY_CLASSES.iter().map(|(name, value, description)| {
            let class = json!({"metadata": {"name": name}, "value": value, "description": description});
            self.ensure("scheduling.k8s.io", "priorityclasses", None, name, class)
        });
        try_join_all(classes).await.map(drop)
    }

    /// Makes the service by which pods reach this server, and says where that is.
    async fn ensure_service(&self, address: IpAddr, port: u16) -> Result<(), Status> {
        let labels = json!({"component": "apiserver", "provider": "kubernetes"});
        let service = json!({"metadata": {"name": "kubernetes", "labels": labels}, "spec": {
            "type": "ClusterIP", "clusterIP": self.registry.allocator().ranges().first().nth(1).to_string(),
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
        self.ensure("discovery.k8s.io", "endpointslices", Some("default"), "kubernetes", slice).await
    }

    /// Makes what is missing of the roles and bindings that every cluster has, and adds what they lack.
    async fn ensure_roles(&self) -> Result<(), Status> {
        if self.started.roles.load(Ordering::Acquire) {
            return Ok(());
        }
        // Bindings follow the roles that they name. All of a sort at once, so that the store writes them together.
        let (bindings, roles): (Vec<Preset>, Vec<Preset>) =
            defaults::all().into_iter().partition(|preset| preset.object.get("roleRef").is_some());
        for presets in [roles, bindings] {
            try_join_all(presets.into_iter().map(|preset| self.ensure_preset(preset))).await?;
        }
        self.started.roles.store(true, Ordering::Release);
        Ok(())
    }

    async fn ensure_preset(&self, preset: Preset) -> Result<(), Status> {
        let Preset { plural, namespace, name, object } = preset;
        let kind = kinds::by_resource(policy::GROUP, "v1", plural);
        let kind = kind.ok_or_else(|| Status::internal(format!("{plural} are not served")))?;
        let (user, options) = (server(), WriteOptions::default());
        let place = Place { kind, namespace, name: &name };
        let create = || self.registry.create(&user, kind, namespace, object.clone(), &options);
        match self.registry.store().get(&place.key()) {
            None => create().await.map(drop),
            Some(present) => match reconcile::plan(present.json(), &object) {
                Change::None => Ok(()),
                Change::Update(next) => {
                    self.registry.replace(&user, place, Part::Object, next, &options).await.map(drop)
                }
                Change::Recreate => {
                    self.registry.delete(&user, place, &DeleteOptions::default()).await?;
                    create().await.map(drop)
                }
            },
        }
    }

    /// Makes what is missing of the priority levels and flow schemas; what is there stays as it is.
    async fn ensure_flow_control(&self) -> Result<(), Status> {
        let levels = fairness::defaults::LEVELS.iter().map(|level| (level.name, level.object()));
        let schemas = fairness::defaults::schemas().into_iter().map(|schema| (schema.name, schema.object));
        let named = |plural, (name, object): (&str, Value)| (plural, name.to_owned(), object);
        let all = levels.map(|one| named("prioritylevelconfigurations", one));
        let all = all.chain(schemas.map(|one| named("flowschemas", one)));
        self.ensure_some("flowcontrol.apiserver.k8s.io", all).await
    }

    /// Says from which ranges services have their addresses.
    async fn ensure_service_range(&self) -> Result<(), Status> {
        let ranges: Vec<String> =
            self.registry.allocator().ranges().all().map(|range| range.to_string()).collect();
        let (group, plural) = ("networking.k8s.io", "servicecidrs");
        let present = kinds::by_resource(group, "v1", plural)
            .and_then(|kind| self.registry.store().get(&kind.key(None, allocate::OWN)));
        match present {
            None => {
                self.ensure_some(group, [(plural, allocate::OWN.to_owned(), service_cidr(&ranges))]).await
            }
            // A cluster that begins to have both families; whatever else differs is for people to settle.
            Some(entry) if ranges.len() == 2 && entry.json()["spec"]["cidrs"] == json!(ranges[..1]) => {
                let both = json!({"metadata": {"name": allocate::OWN}, "spec": {"cidrs": ranges}});
                self.ensure(group, plural, None, allocate::OWN, both).await
            }
            Some(_) => Ok(()),
        }
    }

    /// Makes those of a group's cluster-wide objects that are not there, all at once.
    async fn ensure_some(
        &self,
        group: &str,
        objects: impl IntoIterator<Item = (&'static str, String, Value)>,
    ) -> Result<(), Status> {
        let missing = objects.into_iter().filter_map(|(plural, name, object)| {
            let kind = kinds::by_resource(group, "v1", plural)?;
            let there = self.registry.store().get(&kind.key(None, &name)).is_some();
            (!there).then_some((kind, object))
        });
        let create = |(kind, object)| async move {
            let made = self.registry.create(&server(), kind, None, object, &WriteOptions::default()).await;
            made.map(drop)
        };
        try_join_all(missing.map(create)).await.map(drop)
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
        let classes = PRIORITY_CLASSES.iter().map(|(name, ..)| format!("priorityclasses/{name}"));
        let keys = keys.chain(classes).chain([format!("servicecidrs/{}", allocate::OWN)]);
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
        let (user, options) = (server(), WriteOptions::default());
        match self.registry.create(&user, kind, namespace, object.clone(), &options).await {
            Err(status) if status.is("AlreadyExists") => {}
            other => return other.map(drop),
        }
        let place = Place { kind, namespace, name };
        let part = Part::Object;
        let merge = crate::api::request::PatchKind::Merge;
        self.registry.patch(&user, place, part, merge, &object, &options).await.map(drop)
    }
}

/// The ranges of the addresses of services, which are in use from the start.
fn service_cidr(ranges: &[String]) -> Value {
    json!({
        "metadata": {"name": allocate::OWN, "finalizers": ["networking.k8s.io/service-cidr-finalizer"]},
        "spec": {"cidrs": ranges},
        "status": {"conditions": [{
            "type": "Ready",
            "status": "True",
            "reason": "",
            "message": "Kubernetes Service CIDR is ready",
            "lastTransitionTime": meta::timestamp(clock::now()),
        }]},
    })
}

/// As whom the server makes its first objects.
fn server() -> User {
    User::component("system:apiserver")
}
