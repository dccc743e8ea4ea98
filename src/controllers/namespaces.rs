//! Deleted namespaces: everything in them goes, then they do.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use serde_json::json;

use super::kinds::Kinds;
use super::{Next, enqueue, queue, work};
use crate::api::kinds::{self, Kind};
use crate::api::status::Status;
use crate::client::Client;
use crate::client::reflector::{Reflector, split_key};

/// Between two looks at what finalizers hold; a pod that goes is heard of at once.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The finalizer that this controller takes away.
const FINALIZER: &str = "kubernetes";

/// Runs until dropped.
pub async fn run(client: Client, kinds: Kinds, namespaces: Reflector<Namespace>, pods: Reflector<Pod>) {
    let queue = queue();
    let by_namespace = enqueue(namespaces.subscribe(), queue.clone());
    let by_pod = async {
        let mut changes = pods.subscribe();
        while let Some(key) = changes.next().await {
            let namespace = split_key(&key).0;
            if pods.get(&key).is_none() && namespaces.get(namespace).is_some_and(|n| is_leaving(&n)) {
                queue.add(namespace);
            }
        }
    };
    let reconcile = |key: String| {
        let (client, kinds, namespace) = (&client, &kinds, namespaces.get(&key));
        async move {
            match namespace {
                Some(namespace) if is_leaving(&namespace) => empty(client, kinds, &namespace).await,
                _ => Ok(Next::Await),
            }
        }
    };
    tokio::join!(by_namespace, by_pod, work("namespace", &queue, reconcile));
}

fn is_leaving(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_some()
}

/// The kinds whose objects live in namespaces (pure).
fn contents(kinds: &Kinds) -> impl Iterator<Item = Arc<Kind>> + use<> {
    kinds.stored().into_iter().filter(|kind| kind.namespaced)
}

async fn empty(client: &Client, kinds: &Kinds, namespace: &Namespace) -> Result<Next, Status> {
    let name = namespace.metadata.name.as_deref().unwrap_or("");
    let mut left = 0;
    for kind in contents(kinds) {
        match empty_of(client, &kind, name).await {
            // The kind itself has gone meanwhile.
            Err(status) if status.is("NotFound") => {}
            found => left += found?,
        }
    }
    if left > 0 {
        return Ok(Next::After(LOOK_AGAIN));
    }
    let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.clone()).unwrap_or_default();
    let rest: Vec<&String> = finalizers.iter().filter(|f| *f != FINALIZER).collect();
    if rest.len() == finalizers.len() {
        return Ok(Next::Await);
    }
    let Some(kind) = kinds::by_kind("", "v1", "Namespace") else { return Ok(Next::Await) };
    let body = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "uid": namespace.metadata.uid},
        "spec": {"finalizers": rest},
    });
    match client.put_subresource(kind, None, name, "finalize", body).await {
        Err(status) if status.is("NotFound") => Ok(Next::Await),
        other => other.map(|()| Next::Await),
    }
}

/// How many objects of a kind are left after all were deleted.
async fn empty_of(client: &Client, kind: &Kind, namespace: &str) -> Result<usize, Status> {
    if client.count(kind, namespace).await? == 0 {
        return Ok(0);
    }
    client.delete_all(kind, namespace).await?;
    client.count(kind, namespace).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_storage_is_emptied_once_and_cluster_kinds_stay() {
        let contents = || contents(&Kinds::built_in());
        assert_eq!(contents().filter(|k| k.storage == "events").count(), 1);
        assert!(contents().any(|k| k.kind == "Pod") && contents().all(|k| k.kind != "Node"));
    }
}
