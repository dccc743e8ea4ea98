//! Objects whose owners are gone go, too; owners that are deleted with a propagation policy wait as it says.
//!
//! The watches fill a [`Graph`] that only tells which objects to look at. What is then decided, in [`plan`],
//! rests on the live objects alone: an owner is gone when there is none of its name with its uid, and who has such
//! objects says so. Objects of other servers are collected as those of this one; while their server does not answer,
//! they are neither gone nor removed.

mod graph;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::{join_all, try_join_all};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::{AbortHandle, JoinError, JoinSet};

use self::graph::Graph;
use self::plan::{Action, Hold, Owner, hold, plan};
use super::elsewhere;
use super::kinds::Kinds;
use super::{Next, queue, work};
use crate::api::kinds::{Kind, Text};
use crate::api::meta;
use crate::api::request::{Change, DeleteOptions};
use crate::api::status::Status;
use crate::client::Client;
use crate::client::events::{EventType, Recorder};
use crate::client::follow::{Entry, Follower, Revision};
use crate::client::queue::Queue;

/// How many objects are looked at at a time: what they write shares the disk's transactions.
const WORKERS: usize = 16;

/// Runs until dropped.
pub async fn run(client: Client, kinds: Kinds) {
    let (graph, queue) =
        (Arc::new(Mutex::new(Graph::default())), queue(&client, "garbage_collector_attempt_to_delete"));
    let feeds = follow_all(client.clone(), kinds.clone(), graph.clone(), queue.clone());
    let (recorder, record) = Recorder::new(client.clone(), "garbage-collector-controller", "");
    let collector = Collector { client, kinds, graph, recorder };
    let reconcile = |key: String| collector.reconcile(key);
    let workers = join_all((0..WORKERS).map(|_| work("garbage-collector", &queue, reconcile)));
    tokio::select! {
        _ = workers => {}
        () = feeds => {}
        () = record => {}
    }
}

/// Follows every kind as long as there is one; ends when a watch does.
async fn follow_all(client: Client, mut kinds: Kinds, graph: Arc<Mutex<Graph>>, queue: Queue) {
    let mut tasks = JoinSet::new();
    let mut followed: HashMap<Text, (Arc<Kind>, AbortHandle)> = HashMap::new();
    loop {
        let now = collected(&kinds);
        followed.retain(|_, (kind, task)| {
            let stays = now.contains(kind);
            if !stays {
                task.abort();
                let touched =
                    lock(&graph).listed(&kind.prefix(None), std::iter::empty::<(String, &ObjectMeta)>());
                touched.iter().for_each(|key| queue.add(key));
            }
            stays
        });
        for kind in now {
            followed.entry(kind.storage.clone()).or_insert_with(|| {
                let feed = Feed { kind: kind.clone(), graph: graph.clone(), queue: queue.clone() };
                let task = tasks.spawn(client.follow(&kind, feed));
                (kind, task)
            });
        }
        tokio::select! {
            () = kinds.changed() => {}
            // What nobody follows any more would never be looked at.
            Some(ended) = tasks.join_next() => if !ended.as_ref().is_err_and(JoinError::is_cancelled) {
                return tracing::error!(?ended, "the garbage collector lost a watch");
            },
        }
    }
}

/// The kinds that are looked at: all but events, as in Kubernetes (pure).
fn collected(kinds: &Kinds) -> Vec<Arc<Kind>> {
    let elsewhere = kinds.elsewhere();
    let elsewhere = elsewhere.iter().filter(|kind| kind.verbs.contains(&"watch")).cloned();
    kinds.stored().into_iter().filter(|kind| kind.storage != "events").chain(elsewhere).collect()
}

/// All that is read of an object.
#[derive(Deserialize)]
struct Partial {
    metadata: Part,
}

/// What is read of the metadata: nothing of what takes long, such as who manages which fields.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<Time>,
    owner_references: Option<Vec<OwnerReference>>,
    finalizers: Option<Vec<String>>,
}

impl From<Part> for ObjectMeta {
    fn from(part: Part) -> ObjectMeta {
        ObjectMeta {
            name: part.name,
            namespace: part.namespace,
            uid: part.uid,
            resource_version: part.resource_version,
            deletion_timestamp: part.deletion_timestamp,
            owner_references: part.owner_references,
            finalizers: part.finalizers,
            ..ObjectMeta::default()
        }
    }
}

/// The metadata, read past everything else.
fn metadata(entry: &Entry) -> Result<ObjectMeta, Status> {
    let read: Result<Partial, _> = serde_json::from_slice(&entry.bytes);
    let unreadable = |e| Status::internal(format!("the metadata of {} cannot be read: {e}", entry.key));
    read.map(|partial| partial.metadata.into()).map_err(unreadable)
}

/// An object's place: its kind, its namespace and its name.
#[derive(Debug, Clone)]
struct Place {
    kind: Arc<Kind>,
    namespace: Option<String>,
    name: String,
}

impl Place {
    fn of(kind: &Arc<Kind>, meta: &ObjectMeta) -> Place {
        Place {
            kind: kind.clone(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }

    fn key(&self) -> String {
        self.kind.key(self.namespace.as_deref(), &self.name)
    }

    fn parse(kinds: &Kinds, key: &str) -> Option<Place> {
        let (storage, rest) = key.split_once('/')?;
        let kind = kinds.by_storage(storage).filter(|kind| kind.storage != "events")?;
        let (namespace, name) = match rest.split_once('/') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
            None => (None, rest),
        };
        Some(Place { kind, namespace, name: name.to_owned() })
    }
}

/// Whether it is said of that very object that it is not there. Where another server's are concerned, somebody may have
/// answered who has never had any.
fn says_of(place: &Place, status: &Status) -> bool {
    !elsewhere::has(&place.kind) || status.details.as_ref().is_some_and(|about| about.name == place.name)
}

fn lock(graph: &Mutex<Graph>) -> MutexGuard<'_, Graph> {
    graph.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Brings what the watch of one kind tells into the graph, and what must be looked at into the queue.
struct Feed {
    kind: Arc<Kind>,
    graph: Arc<Mutex<Graph>>,
    queue: Queue,
}

impl Feed {
    fn touch(&self, keys: Vec<String>) {
        for key in keys {
            self.queue.add(&key);
        }
    }
}

impl Follower for Feed {
    fn listed(&mut self, entries: &[Arc<Entry>], _: Revision) {
        let objects: Vec<ObjectMeta> = entries.iter().filter_map(|entry| metadata(entry).ok()).collect();
        let objects = objects.iter().map(|meta| (Place::of(&self.kind, meta).key(), meta));
        let touched = lock(&self.graph).listed(&self.kind.prefix(None), objects);
        self.touch(touched);
    }

    fn changed(&mut self, change: &Change, _: Revision) {
        let (entry, gone) = match change {
            Change::Added(entry) | Change::Modified(entry) => (entry, false),
            Change::Deleted(entry) => (entry, true),
            Change::Bookmark { .. } => return,
        };
        // What cannot be read is nobody's, as far as is known.
        let Ok(meta) = metadata(entry) else { return };
        let key = Place::of(&self.kind, &meta).key();
        let mut graph = lock(&self.graph);
        let touched = if gone { graph.gone(&key, &meta) } else { graph.present(&key, &meta) };
        drop(graph);
        self.touch(touched);
    }
}

struct Collector {
    client: Client,
    kinds: Kinds,
    graph: Arc<Mutex<Graph>>,
    recorder: Recorder,
}

impl Collector {
    async fn reconcile(&self, key: String) -> Result<Next, Status> {
        let Some(place) = Place::parse(&self.kinds, &key) else { return Ok(Next::Await) };
        let Some(meta) = self.live(&place).await? else { return Ok(Next::Await) };
        let done = match hold(&meta) {
            Some(Hold::Orphan) => self.orphan(&place, &meta).await,
            Some(Hold::Foreground) => self.finish(&place, &meta).await,
            // It is on its way; what belongs to it is looked at when it is gone.
            None if meta.deletion_timestamp.is_some() => Ok(()),
            None => self.collect(&place, &meta).await,
        };
        match done {
            Err(status) if status.is("NotFound") => Ok(Next::Await),
            other => other.map(|()| Next::Await),
        }
    }

    /// The object's metadata now. One that cannot be read is there, whatever it is.
    async fn live(&self, place: &Place) -> Result<Option<ObjectMeta>, Status> {
        match self.client.object(&place.kind, place.namespace.as_deref(), &place.name).await {
            Ok(entry) => metadata(&entry).map(Some),
            Err(status) if status.is("NotFound") && says_of(place, &status) => Ok(None),
            // Whoever said so knows nothing of such objects: it is no answer.
            Err(status) if status.is("NotFound") => Err(Status::unavailable(status.message)),
            Err(status) => Err(status),
        }
    }

    /// What belongs to an object now, among the objects of kinds that are asked for. What belongs to one in a namespace
    /// is in that namespace.
    async fn dependents(
        &self,
        place: &Place,
        uid: &str,
        asked: impl Fn(&Kind) -> bool,
    ) -> Result<Vec<(Place, ObjectMeta)>, Status> {
        let mut found = Vec::new();
        let kinds = collected(&self.kinds).into_iter();
        for kind in kinds.filter(|kind| asked(kind) && (kind.namespaced || place.namespace.is_none())) {
            let entries = match self.client.objects(&kind, place.namespace.as_deref()).await {
                // The kind itself has gone meanwhile, and its objects with it.
                Err(status) if status.is("NotFound") && !elsewhere::has(&kind) => continue,
                Err(status) if status.is("NotFound") => return Err(Status::unavailable(status.message)),
                listed => listed?,
            };
            for entry in entries {
                let Ok(meta) = metadata(&entry) else { continue };
                if meta.owner_references.iter().flatten().any(|owner| owner.uid == uid) {
                    found.push((Place::of(&kind, &meta), meta));
                }
            }
        }
        Ok(found)
    }

    /// What the watches have told to belong to an object, as it is now: to look at every object for each of many that
    /// go together would take the square of their number.
    async fn known_dependents(&self, place: &Place, uid: &str) -> Result<Vec<ObjectMeta>, Status> {
        let keys: Vec<String> = lock(&self.graph).dependents_of(uid).collect();
        let near = |below: &Place| place.namespace.is_none() || below.namespace == place.namespace;
        let mut found = Vec::new();
        for below in keys.iter().filter_map(|key| Place::parse(&self.kinds, key)).filter(near) {
            let meta = self.live(&below).await?;
            let belongs = |meta: &ObjectMeta| meta.owner_references.iter().flatten().any(|o| o.uid == uid);
            found.extend(meta.filter(belongs));
        }
        Ok(found)
    }

    /// Frees what belongs to a deleted object, then lets the object go.
    async fn orphan(&self, place: &Place, meta: &ObjectMeta) -> Result<(), Status> {
        let uid = meta.uid.as_deref().unwrap_or_default();
        // Nothing is let go before all say what they have of it: what came to be without an owner would be removed.
        let freed =
            self.dependents(place, uid, |_| true).await?.into_iter().map(|(place, meta)| async move {
                let left = meta.owner_references.iter().flatten().filter(|owner| owner.uid != uid).cloned();
                match self.set_owners(&place, &meta, left.collect()).await {
                    Err(status) if !status.is("NotFound") => Err(status),
                    _ => Ok(()),
                }
            });
        try_join_all(freed).await?;
        self.let_go(place, meta, Hold::Orphan).await
    }

    /// Lets a deleted object go when nothing is left that it waits for.
    async fn finish(&self, place: &Place, meta: &ObjectMeta) -> Result<(), Status> {
        let uid = meta.uid.as_deref().unwrap_or_default();
        // Whatever is known to block it names it again when it goes.
        if lock(&self.graph).is_blocked(uid) {
            return Ok(());
        }
        // What the watches have not told yet blocks as well, and names it when they do.
        let blocks = |owner: &OwnerReference| owner.uid == uid && owner.block_owner_deletion == Some(true);
        // That others may have more of it holds nobody up: it goes in the background.
        let dependents = self.dependents(place, uid, |kind| !elsewhere::has(kind)).await?;
        if dependents.iter().any(|(_, meta)| meta.owner_references.iter().flatten().any(blocks)) {
            return Ok(());
        }
        self.let_go(place, meta, Hold::Foreground).await
    }

    /// Decides about an object by its owners.
    async fn collect(&self, place: &Place, meta: &ObjectMeta) -> Result<(), Status> {
        let references = meta.owner_references.as_deref().unwrap_or_default();
        let mut owners = Vec::with_capacity(references.len());
        for reference in references {
            let owner = self.owner(place, reference).await?;
            if matches!(owner, None | Some(Owner::Gone)) {
                self.tell_of_other_namespace(place, meta, reference).await?;
            }
            let Some(owner) = owner else {
                // Nobody can say whether such an owner is there, so the object stays.
                return Ok(());
            };
            owners.push((reference, owner));
        }
        let mut dependents = Vec::new();
        if owners.iter().any(|(_, owner)| *owner == Owner::Waiting) {
            dependents = self.known_dependents(place, meta.uid.as_deref().unwrap_or_default()).await?;
        }
        match plan(meta, &owners, &dependents) {
            Action::Keep => Ok(()),
            Action::SetOwners(owners) => self.set_owners(place, meta, owners).await,
            Action::Delete(policy) => {
                let options = DeleteOptions {
                    precondition_uid: meta.uid.clone(),
                    precondition_resource_version: meta.resource_version.clone(),
                    propagation_policy: Some(policy.to_owned()),
                    ..DeleteOptions::default()
                };
                self.client.remove(&place.kind, place.namespace.as_deref(), &place.name, options).await
            }
        }
    }

    /// How an owner that an object names is; None for a kind that is not served, and for an owner in a namespace
    /// of an object outside of all.
    async fn owner(&self, object: &Place, reference: &OwnerReference) -> Result<Option<Owner>, Status> {
        let (group, version) = meta::group_version(&reference.api_version);
        let kind = self.kinds.by_kind_anywhere(group, version, &reference.kind);
        let Some(kind) = kind else { return Ok(None) };
        if kind.namespaced && object.namespace.is_none() {
            return Ok(None);
        }
        let namespace = object.namespace.clone().filter(|_| kind.namespaced);
        let found = self.live(&Place { kind, namespace, name: reference.name.clone() }).await?;
        let found = found.filter(|meta| meta.uid.as_ref() == Some(&reference.uid));
        Ok(Some(match found.map(|meta| hold(&meta)) {
            None => Owner::Gone,
            Some(Some(Hold::Foreground)) => Owner::Waiting,
            Some(_) => Owner::There,
        }))
    }

    /// Says of an object that the owner it names is in a namespace where it may not be: owners are looked for in the
    /// object's own.
    async fn tell_of_other_namespace(
        &self,
        place: &Place,
        meta: &ObjectMeta,
        reference: &OwnerReference,
    ) -> Result<(), Status> {
        let (group, version) = meta::group_version(&reference.api_version);
        let kind = self.kinds.by_kind(group, version, &reference.kind).filter(|kind| kind.namespaced);
        let Some(kind) = kind else { return Ok(()) };
        let name = format!("/{}", reference.name);
        let is = |entry: &Arc<Entry>| {
            entry.key.ends_with(&name)
                && metadata(entry).is_ok_and(|meta| meta.uid.as_ref() == Some(&reference.uid))
        };
        if !self.client.objects(&kind, None).await?.iter().any(is) {
            return Ok(());
        }
        let about = ObjectReference {
            api_version: Some(place.kind.api_version().to_string()),
            kind: Some(place.kind.kind.to_string()),
            namespace: place.namespace.clone(),
            name: Some(place.name.clone()),
            uid: meta.uid.clone(),
            ..ObjectReference::default()
        };
        let namespace = place.namespace.as_deref().unwrap_or_default();
        let OwnerReference { api_version, kind, name, uid, .. } = reference;
        let owner = format!("[{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}]");
        let message = format!("ownerRef {owner} does not exist in namespace {namespace:?}");
        self.recorder.record(&about, EventType::Warning, "OwnerRefInvalidNamespace", &message);
        Ok(())
    }

    async fn set_owners(
        &self,
        place: &Place,
        meta: &ObjectMeta,
        owners: Vec<OwnerReference>,
    ) -> Result<(), Status> {
        let owners = if owners.is_empty() { Value::Null } else { json!(owners) };
        self.set(place, meta, "ownerReferences", owners).await
    }

    async fn let_go(&self, place: &Place, meta: &ObjectMeta, hold: Hold) -> Result<(), Status> {
        let left = meta.finalizers.iter().flatten().filter(|f| *f != hold.finalizer());
        let left: Vec<&String> = left.collect();
        let left = if left.is_empty() { Value::Null } else { json!(left) };
        self.set(place, meta, "finalizers", left).await
    }

    /// Writes a field of the metadata of the very state that was decided on.
    async fn set(&self, place: &Place, meta: &ObjectMeta, field: &str, value: Value) -> Result<(), Status> {
        let patch =
            json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, field: value}});
        self.client.merge(&place.kind, place.namespace.as_deref(), &place.name, patch).await
    }
}
