//! Definitions of kinds that go: first their objects, then they, and then whoever wanted their names gets them.

use std::collections::BTreeSet;
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
    let queue = queue(&client, "crd_finalizer");
    let follow = client.follow(kind, Feed { queue: queue.clone(), refused: BTreeSet::new() });
    let reconcile = |name: String| {
        let client = &client;
        async move {
            match reconcile(client, kind, &name).await {
                Err(status) if status.is("NotFound") => Ok(Next::Await),
                other => other,
            }
        }
    };
    tokio::join!(follow, work("custom-resource", &queue, reconcile));
}

/// Brings into the queue definitions that are leaving, and when one is gone those whose names were taken.
struct Feed {
    queue: Queue,
    refused: BTreeSet<String>,
}

impl Feed {
    fn look(&mut self, entry: &Entry) {
        let name = meta::name(entry.json());
        if is_leaving(entry) {
            self.queue.add(name);
        }
        if is_refused(entry) {
            self.refused.insert(name.to_owned());
        } else {
            self.refused.remove(name);
        }
    }

    /// Names are free that were not: every loser may be the next.
    fn freed(&self) {
        self.refused.iter().for_each(|name| self.queue.add(name));
    }
}

impl Follower for Feed {
    fn listed(&mut self, entries: &[Arc<Entry>], _: Revision) {
        self.refused.clear();
        entries.iter().for_each(|entry| self.look(entry));
        self.freed();
    }

    fn changed(&mut self, change: &Change, _: Revision) {
        match change {
            Change::Added(entry) | Change::Modified(entry) => self.look(entry),
            Change::Deleted(entry) => {
                self.refused.remove(meta::name(entry.json()));
                self.freed();
            }
            Change::Bookmark { .. } => {}
        }
    }
}

/// Whether some of its names belong to another definition.
fn is_refused(entry: &Entry) -> bool {
    let conditions = entry.json()["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|is| is["type"] == "NamesAccepted" && is["status"] == "False")
}

fn is_leaving(entry: &Entry) -> bool {
    meta::is_deleting(entry.json()) && meta::finalizers(entry.json()).contains(&FINALIZER)
}

async fn reconcile(client: &Client, definitions: &Arc<Kind>, name: &str) -> Result<Next, Status> {
    let definition = client.object(definitions, None, name).await?;
    match (is_leaving(&definition), is_refused(&definition)) {
        (true, _) => clean_up(client, definitions, &definition).await,
        // The server decides about names whenever a definition is written.
        (false, true) => client.merge(definitions, None, name, json!({})).await.map(|()| Next::Await),
        (false, false) => Ok(Next::Await),
    }
}

async fn clean_up(client: &Client, definitions: &Arc<Kind>, definition: &Entry) -> Result<Next, Status> {
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
    client.merge(definitions, None, meta::name(definition.json()), patch).await.map(|()| Next::Await)
}
