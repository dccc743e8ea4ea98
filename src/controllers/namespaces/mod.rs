//! Deleted namespaces: everything in them goes, then they do.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use self::contents::{Collection, Contents};
use self::left::Left;
use super::kinds::Kinds;
use super::{Next, enqueue, queue, work};
use crate::api::request::{Action, DeleteOptions, ListOptions, PatchKind, Target};
use crate::api::status::Status;
use crate::api::{kinds, meta};
use crate::client::Client;
use crate::client::reflector::{Reflector, split_key};
use crate::clock;

mod contents;
mod left;

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

async fn empty(client: &Client, kinds: &Kinds, namespace: &Namespace) -> Result<Next, Status> {
    let name = namespace.metadata.name.as_deref().unwrap_or("");
    let mut left = Left::default();
    let discovery = client.discover().await.unwrap_or_else(|status| {
        left.undiscovered = status.message;
        Value::Null
    });
    let contents = Contents::of(kinds, &discovery);
    left.unknown(&contents.unknown);
    // Programs end before what they live on is taken from them.
    let (pods, others): (Vec<_>, Vec<_>) = contents.collections.into_iter().partition(Collection::is_pods);
    for round in [pods, others] {
        if left.objects.is_empty() {
            for collection in round {
                match empty_of(client, &collection, name, &mut left).await {
                    // The kind itself has gone meanwhile.
                    Err(status) if status.is("NotFound") => {}
                    // What else there is can be deleted all the same.
                    Err(status) => {
                        tracing::warn!(namespace = name, kind = collection.plural, %status, "emptying a namespace");
                        left.fail(&status);
                    }
                    Ok(()) => {}
                }
            }
        }
    }
    if !left.is_nothing() {
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

/// Deletes the objects of a collection; what is left of them is added.
async fn empty_of(
    client: &Client,
    collection: &Collection,
    namespace: &str,
    left: &mut Left,
) -> Result<(), Status> {
    let target = collection.within(namespace);
    let present = || async {
        match collection.lists {
            true => client.snapshot(target.clone(), ListOptions::default()).await.map(|list| list.entries),
            false => Ok(Vec::new()),
        }
    };
    let objects = present().await?;
    if objects.is_empty() && collection.lists {
        return Ok(());
    }
    match collection.deletes_all {
        true => {
            let all = Action::DeleteCollection(ListOptions::default(), DeleteOptions::default());
            client.call(target.clone(), all).await?;
        }
        false => {
            for entry in &objects {
                let one = Target { name: Some(meta::name(entry.json()).to_owned()), ..target.clone() };
                match client.call(one, Action::Delete(DeleteOptions::default())).await {
                    Err(status) if status.is("NotFound") => {}
                    done => drop(done?),
                }
            }
        }
    }
    left.add(collection, present().await?.iter().map(|entry| entry.json()));
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
