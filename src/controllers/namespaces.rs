//! Deleted namespaces: everything in them goes, then they do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::kinds::Kinds;
use super::{Next, enqueue, queue, work};
use crate::api::kinds::{self, Kind};
use crate::api::meta;
use crate::api::request::PatchKind;
use crate::api::status::Status;
use crate::client::Client;
use crate::client::reflector::{Reflector, split_key};
use crate::clock;

/// Between the first two looks at what finalizers hold; a pod that goes is heard of at once.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Between two later ones.
const LOOK_AGAIN_MOST: Duration = Duration::from_secs(30);
/// The finalizer that this controller takes away.
const FINALIZER: &str = "kubernetes";

/// Runs until dropped.
pub async fn run(client: Client, kinds: Kinds, namespaces: Reflector<Namespace>, pods: Reflector<Pod>) {
    let queue = queue(&client, "namespace");
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

/// What is still in a namespace.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    /// How many objects of each kind, as `PLURAL.GROUP`.
    objects: BTreeMap<String, usize>,
    /// How many objects each finalizer holds.
    finalizers: BTreeMap<String, usize>,
}

impl Left {
    fn add<'o>(&mut self, kind: &Kind, objects: impl Iterator<Item = &'o Value>) {
        for object in objects {
            *self.objects.entry(format!("{}.{}", kind.plural, kind.group)).or_default() += 1;
            for finalizer in meta::finalizers(object) {
                *self.finalizers.entry(finalizer.to_owned()).or_default() += 1;
            }
        }
    }

    /// As a namespace tells it (`pkg/controller/namespace/deletion/status_condition_utils.go` of Kubernetes); what has
    /// not changed keeps its time.
    fn conditions(&self, before: &[NamespaceCondition], now: &Time) -> Vec<NamespaceCondition> {
        let listed = |counts: &BTreeMap<String, usize>, verb: &str| {
            let each = counts.iter().map(|(of, count)| format!("{of} {verb} {count} resource instances"));
            each.collect::<Vec<_>>().join(", ")
        };
        let remaining = format!("Some resources are remaining: {}", listed(&self.objects, "has"));
        let held = format!(
            "Some content in the namespace has finalizers remaining: {}",
            listed(&self.finalizers, "in")
        );
        let told = [
            (
                "NamespaceDeletionDiscoveryFailure",
                false,
                "ResourcesDiscovered",
                "All resources successfully discovered",
            ),
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                false,
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed",
            ),
            (
                "NamespaceDeletionContentFailure",
                false,
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
            match self.objects.is_empty() {
                false => ("NamespaceContentRemaining", true, "SomeResourcesRemain", &*remaining),
                true => {
                    ("NamespaceContentRemaining", false, "ContentRemoved", "All content successfully removed")
                }
            },
            match self.finalizers.is_empty() {
                false => ("NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", &*held),
                true => (
                    "NamespaceFinalizersRemaining",
                    false,
                    "ContentHasNoFinalizers",
                    "All content-preserving finalizers finished",
                ),
            },
        ];
        let condition = |(of, holds, reason, message): (&str, bool, &str, &str)| {
            let status = if holds { "True" } else { "False" };
            let known = before.iter().find(|condition| condition.type_ == of && condition.status == status);
            NamespaceCondition {
                type_: of.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_transition_time: known
                    .and_then(|condition| condition.last_transition_time.clone())
                    .or_else(|| Some(now.clone())),
            }
        };
        told.into_iter().map(condition).collect()
    }
}

async fn empty(client: &Client, kinds: &Kinds, namespace: &Namespace) -> Result<Next, Status> {
    let name = namespace.metadata.name.as_deref().unwrap_or("");
    // Programs end before what they live on is taken from them.
    let (pods, others): (Vec<_>, Vec<_>) =
        contents(kinds).partition(|kind| kind.kind == "Pod" && kind.group.is_empty());
    let mut left = Left::default();
    for round in [pods, others] {
        if left.objects.is_empty() {
            for kind in round {
                match empty_of(client, &kind, name, &mut left).await {
                    // The kind itself has gone meanwhile.
                    Err(status) if status.is("NotFound") => {}
                    done => done?,
                }
            }
        }
    }
    if !left.objects.is_empty() {
        tell(client, namespace, &left).await?;
        return Ok(Next::After(pause(namespace, clock::now())));
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

/// Deletes the objects of a kind; what is left of them is added.
async fn empty_of(client: &Client, kind: &Kind, namespace: &str, left: &mut Left) -> Result<(), Status> {
    if client.objects(kind, Some(namespace)).await?.is_empty() {
        return Ok(());
    }
    client.delete_all(kind, namespace).await?;
    let objects = client.objects(kind, Some(namespace)).await?;
    left.add(kind, objects.iter().map(|entry| entry.json()));
    Ok(())
}

/// Writes into a namespace what holds it, when that is news.
async fn tell(client: &Client, namespace: &Namespace, left: &Left) -> Result<(), Status> {
    let status = namespace.status.as_ref();
    let before = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let conditions = left.conditions(before, &Time(clock::now()));
    if conditions.iter().all(|condition| before.contains(condition)) {
        return Ok(());
    }
    let name = namespace.metadata.name.as_deref().unwrap_or("");
    let patch = json!({"metadata": {"uid": namespace.metadata.uid}, "status": {"conditions": conditions}});
    client.all::<Namespace>().patch(name, Some("status"), PatchKind::Strategic, patch).await.map(drop)
}

/// How long to wait before the next look: longer when it has been in vain for long.
fn pause(namespace: &Namespace, now: Timestamp) -> Duration {
    let since = namespace.metadata.deletion_timestamp.as_ref().map_or(now, |time| time.0);
    let waited = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    (waited / 4).clamp(LOOK_AGAIN, LOOK_AGAIN_MOST)
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

    #[test]
    fn what_is_left_is_told() {
        let kind = kinds::by_kind("", "v1", "ConfigMap").unwrap();
        let object = |finalizers: Value| json!({"metadata": {"name": "a", "finalizers": finalizers}});
        let mut left = Left::default();
        left.add(kind, [object(json!(["x.io/f"])), object(json!(null))].iter());
        let (early, late) = (Time(Timestamp::UNIX_EPOCH), Time(Timestamp::now()));
        let told = left.conditions(&[], &early);
        let of = |name: &str, told: &[NamespaceCondition]| {
            let found = told.iter().find(|condition| condition.type_ == name).unwrap();
            (
                found.status.clone(),
                found.message.clone().unwrap(),
                found.last_transition_time.clone().unwrap(),
            )
        };
        let remaining = "Some resources are remaining: configmaps. has 2 resource instances".to_owned();
        assert_eq!(of("NamespaceContentRemaining", &told), ("True".into(), remaining, early.clone()));
        let held = "Some content in the namespace has finalizers remaining: x.io/f in 1 resource instances";
        assert_eq!(of("NamespaceFinalizersRemaining", &told).1, held);
        assert_eq!(of("NamespaceDeletionContentFailure", &told).0, "False");
        // What holds goes on holding; what has changed has a new time.
        assert_eq!(left.conditions(&told, &late), told);
        assert_eq!(of("NamespaceContentRemaining", &Left::default().conditions(&told, &late)).2, late);
    }

    #[test]
    fn looks_become_rarer() {
        let now = Timestamp::now();
        for (seconds, expected) in [(0, 1), (3, 1), (40, 10), (3600, 30)] {
            let deleted = Time(now - jiff::SignedDuration::from_secs(seconds));
            let mut namespace = Namespace::default();
            namespace.metadata.deletion_timestamp = Some(deleted);
            assert_eq!(pause(&namespace, now), Duration::from_secs(expected), "{seconds}");
        }
    }
}
