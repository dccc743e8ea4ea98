//! Claims stay as long as pods use them, and volumes as long as they are bound: deleted ones are let go after that.
//!
//! Source: Kubernetes `pkg/controller/volume/pvcprotection` and `pvprotection`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Next, queue, work};
use crate::api::kinds::{self, Kind};
use crate::api::meta;
use crate::api::request::Change;
use crate::api::status::Status;
use crate::api::volumes::claims_of;
use crate::client::Client;
use crate::client::follow::{Entry, Follower, Revision};
use crate::client::queue::Queue;
use crate::client::reflector::{Reflector, split_key};

const CLAIMS: &str = "persistentvolumeclaims";
const VOLUMES: &str = "persistentvolumes";

/// Runs until dropped.
pub async fn run(client: Client, pods: Reflector<Pod>) {
    pods.synced().await;
    let (queue, waiting) = (queue(&client, "pvcprotection"), Waiting::default());
    let mut tasks = JoinSet::new();
    for kind in [CLAIMS, VOLUMES].iter().filter_map(|plural| kinds::by_resource("", "v1", plural)) {
        let feed = Feed { kind, queue: queue.clone(), waiting: waiting.clone() };
        tasks.spawn(client.follow(kind, feed));
    }
    // A pod that goes may be the last that used a claim.
    let by_pod = async {
        let mut changes = pods.subscribe();
        while let Some(key) = changes.next().await {
            let prefix = format!("{CLAIMS}/{}/", split_key(&key).0);
            for claim in waiting.lock().iter().filter(|claim| claim.starts_with(&prefix)) {
                queue.add(claim);
            }
        }
    };
    let reconcile = |key: String| {
        let (client, pods) = (&client, &pods);
        async move { let_go(client, pods, &key).await }
    };
    tokio::join!(by_pod, work("volume-protection", &queue, reconcile));
}

/// The keys of what was deleted and is held still.
#[derive(Clone, Default)]
struct Waiting(Arc<Mutex<BTreeSet<String>>>);

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Feed {
    kind: &'static Arc<Kind>,
    queue: Queue,
    waiting: Waiting,
}

impl Feed {
    fn take(&self, object: &Value) {
        let namespace = self.kind.namespaced.then(|| meta::namespace(object));
        let key = self.kind.key(namespace, meta::name(object));
        if meta::is_deleting(object) && is_held(self.kind, object) {
            self.waiting.lock().insert(key.clone());
            self.queue.add(&key);
        } else {
            self.waiting.lock().remove(&key);
        }
    }
}

impl Follower for Feed {
    fn listed(&mut self, entries: &[Arc<Entry>], _: Revision) {
        let prefix = self.kind.prefix(None);
        self.waiting.lock().retain(|key| !key.starts_with(&prefix));
        entries.iter().for_each(|entry| self.take(entry.json()));
    }

    fn changed(&mut self, change: &Change, _: Revision) {
        match change {
            Change::Added(entry) | Change::Modified(entry) => self.take(entry.json()),
            Change::Deleted(entry) => drop(self.waiting.lock().remove(&entry.key)),
            Change::Bookmark { .. } => {}
        }
    }
}

/// The finalizer by which a claim or a volume is held.
fn finalizer(kind: &Kind) -> &'static str {
    if kind.plural == CLAIMS { "kubernetes.io/pvc-protection" } else { "kubernetes.io/pv-protection" }
}

fn is_held(kind: &Kind, object: &Value) -> bool {
    meta::finalizers(object).contains(&finalizer(kind))
}

async fn let_go(client: &Client, pods: &Reflector<Pod>, key: &str) -> Result<Next, Status> {
    let Some((plural, rest)) = key.split_once('/') else { return Ok(Next::Await) };
    let Some(kind) = kinds::by_resource("", "v1", plural) else { return Ok(Next::Await) };
    let (namespace, name) = split_key(rest);
    let namespace = kind.namespaced.then_some(namespace);
    let entry = match client.object(kind, namespace, name).await {
        Ok(entry) => entry,
        Err(status) if status.is("NotFound") => return Ok(Next::Await),
        Err(status) => return Err(status),
    };
    let object = entry.json();
    let users = pods.list();
    if !meta::is_deleting(object) || !is_held(kind, object) || is_used(kind, object, &users) {
        return Ok(Next::Await);
    }
    let rest: Vec<&str> = meta::finalizers(object).into_iter().filter(|f| *f != finalizer(kind)).collect();
    let version = meta::resource_version(object);
    let patch = json!({"metadata": {"finalizers": rest, "resourceVersion": version}});
    match client.merge(kind, namespace, name, patch).await {
        Err(status) if status.is("NotFound") => Ok(Next::Await),
        other => other.map(|()| Next::Await),
    }
}

/// Whether a claim is one of a pod that still runs, or a volume is bound (pure).
fn is_used(kind: &Kind, object: &Value, pods: &[Arc<Pod>]) -> bool {
    if kind.plural == VOLUMES {
        return object["status"]["phase"] == "Bound";
    }
    let (namespace, name) = (meta::namespace(object), meta::name(object));
    pods.iter().any(|pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let over = matches!(phase, Some("Succeeded" | "Failed"));
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        // What no node has begun uses nothing once it goes.
        let gone = pod.metadata.deletion_timestamp.is_some() && node.is_empty();
        pod.metadata.namespace.as_deref() == Some(namespace)
            && !over
            && !gone
            && claims_of(pod).any(|used| used == name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_used_by_pods_that_run() {
        let kind = kinds::by_resource("", "v1", CLAIMS).unwrap();
        let claim = json!({"metadata": {"namespace": "shop", "name": "data"}});
        let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "data"}});
        let pod = |namespace: &str, volume: &Value, phase: &str| {
            let pod = json!({"metadata": {"namespace": namespace, "name": "p"},
                "spec": {"containers": [], "volumes": [volume]}, "status": {"phase": phase}});
            Arc::new(serde_json::from_value::<Pod>(pod).unwrap())
        };
        for (pod, used) in [
            (pod("shop", &volume, "Running"), true),
            (pod("shop", &volume, "Succeeded"), false),
            (pod("other", &volume, "Running"), false),
            (pod("shop", &json!({"name": "v", "emptyDir": {}}), "Running"), false),
        ] {
            assert_eq!(is_used(kind, &claim, std::slice::from_ref(&pod)), used, "{pod:?}");
        }
        let own = json!({"metadata": {"namespace": "shop", "name": "p-scratch"}});
        let ephemeral = pod("shop", &json!({"name": "scratch", "ephemeral": {}}), "Pending");
        assert!(is_used(kind, &own, &[ephemeral]));
    }

    #[test]
    fn volumes_are_used_while_bound() {
        let kind = kinds::by_resource("", "v1", VOLUMES).unwrap();
        let volume = |phase: &str| json!({"metadata": {"name": "v"}, "status": {"phase": phase}});
        assert!(is_used(kind, &volume("Bound"), &[]));
        assert!(!is_used(kind, &volume("Released"), &[]));
    }
}
