//! Deleted definitions of kinds: their objects go, then they do.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::kinds::definitions;
use super::{Next, queue, work};
use crate::api::kinds::Kind;
use crate::api::request::{Change, DeleteOptions};
use crate::api::status::Status;
use crate::api::{custom, meta};
use crate::client::Client;
use crate::client::follow::{Entry, Follower, Revision};
use crate::client::queue::Queue;

/// Between two looks at what finalizers hold.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The finalizer that this controller takes away.
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Runs until dropped.
pub async fn run(client: Client) {
    let Some(kind) = definitions() else { return };
    let queue = queue();
    let follow = client.follow(kind, Feed(queue.clone()));
    let reconcile = |name: String| {
        let client = &client;
        async move {
            match clean_up(client, kind, &name).await {
                Err(status) if status.is("NotFound") => Ok(Next::Await),
                other => other,
            }
        }
    };
    tokio::join!(follow, work("custom-resource", &queue, reconcile));
}

/// Brings definitions that are leaving into the queue.
struct Feed(Queue);

impl Feed {
    fn look(&self, entry: &Entry) {
        if is_leaving(entry) {
            self.0.add(meta::name(entry.json()));
        }
    }
}

impl Follower for Feed {
    fn listed(&mut self, entries: &[Arc<Entry>], _: Revision) {
        entries.iter().for_each(|entry| self.look(entry));
    }

    fn changed(&mut self, change: &Change, _: Revision) {
        if let Change::Added(entry) | Change::Modified(entry) = change {
            self.look(entry);
        }
    }
}

fn is_leaving(entry: &Entry) -> bool {
    meta::is_deleting(entry.json()) && meta::finalizers(entry.json()).contains(&FINALIZER)
}

async fn clean_up(client: &Client, definitions: &Arc<Kind>, name: &str) -> Result<Next, Status> {
    let definition = client.object(definitions, None, name).await?;
    if !is_leaving(&definition) {
        return Ok(Next::Await);
    }
    if let Some(kind) = custom::row(definition.json()) {
        for entry in client.objects(&kind, None).await? {
            let object = entry.json();
            if meta::is_deleting(object) {
                continue;
            }
            let namespace = Some(meta::namespace(object)).filter(|_| kind.namespaced);
            match client.remove(&kind, namespace, meta::name(object), DeleteOptions::default()).await {
                Err(status) if !status.is("NotFound") => return Err(status),
                _ => {}
            }
        }
        if !client.objects(&kind, None).await?.is_empty() {
            return Ok(Next::After(LOOK_AGAIN));
        }
    }
    let left: Vec<&str> =
        meta::finalizers(definition.json()).into_iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    let left = if left.is_empty() { serde_json::Value::Null } else { json!(left) };
    let patch = json!({"metadata": {"uid": meta::uid(definition.json()), "finalizers": left}});
    client.merge(definitions, None, name, patch).await.map(|()| Next::Await)
}
