//! An ordinary Kubernetes client: typed calls over any [`Transport`], reflectors, work queues, event recording.
//!
//! Controllers, scheduler, kubelet, proxy and DNS know the cluster only through this module.

use std::hash::{BuildHasher, RandomState};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use self::figures::Figures;
use self::queue::Queue;
use crate::api::request::{
    Action, Changes, DeleteOptions, ListOptions, PatchKind, Request, Response, Target, Transport, User,
    WatchOptions, WriteOptions,
};
use crate::api::status::Status;
use crate::store::{Entry, Snapshot};

pub mod dynamic;
pub mod events;
pub mod figures;
pub mod follow;
pub mod queue;
pub mod reflector;
mod resources;
pub mod rest;
#[cfg(test)]
pub mod testing;

/// A typed kind that a component acts on.
pub trait Resource:
    k8s_openapi::Resource
    + k8s_openapi::Metadata<Ty = ObjectMeta>
    + DeserializeOwned
    + Serialize
    + Clone
    + Send
    + Sync
    + 'static
{
    /// `pods`.
    const PLURAL: &'static str;
}

/// A connection to an API server as one user.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    user: User,
    figures: Arc<Figures>,
}

impl Client {
    /// A client that speaks as `user`.
    pub fn new(transport: Arc<dyn Transport>, user: User) -> Client {
        Client { transport, user, figures: Arc::default() }
    }

    /// The same client, whose requests and queues are counted there.
    pub fn recorded_in(self, figures: Arc<Figures>) -> Client {
        Client { figures, ..self }
    }

    /// What is counted of its requests and queues.
    pub fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }

    /// A work queue that is counted under this name.
    pub fn queue(&self, name: &'static str, base: Duration, max: Duration) -> Queue {
        let queue = Queue::new(base, max);
        self.figures.show(name, queue.clone());
        queue
    }

    /// Carries out one request as this client's user.
    pub async fn call(&self, target: Target, action: Action) -> Result<Response, Status> {
        let (method, began) = (figures::method_of(&action), Instant::now());
        let answer = self.transport.call(Request { user: self.user.clone(), target, action }).await;
        self.figures.answered(method, &answer, began.elapsed());
        answer
    }

    /// What is served of all groups but the core one: an `APIGroupDiscoveryList` of `apidiscovery.k8s.io/v2`.
    pub async fn discover(&self) -> Result<Value, Status> {
        self.transport.discover().await
    }

    /// Is told whenever other servers serve something else than before; `None` where there are no such.
    pub fn elsewhere(&self) -> Option<watch::Receiver<()>> {
        self.transport.elsewhere()
    }

    /// The selected objects of a collection as they are stored, and the revision that they show.
    pub async fn snapshot(&self, target: Target, options: ListOptions) -> Result<Snapshot, Status> {
        match self.call(target, Action::List(options)).await? {
            Response::List { snapshot, .. } => Ok(snapshot),
            _ => Err(unexpected("a list")),
        }
    }

    /// Follows the selected objects of a collection.
    pub async fn watch(&self, target: Target, options: WatchOptions) -> Result<Box<dyn Changes>, Status> {
        match self.call(target, Action::Watch(options)).await? {
            Response::Watch(changes) => Ok(changes),
            _ => Err(unexpected("a watch")),
        }
    }

    /// The objects of a kind in one namespace.
    pub fn namespaced<K: Resource>(&self, namespace: &str) -> Api<K> {
        Api { client: self.clone(), namespace: Some(namespace.to_owned()), kind: PhantomData }
    }

    /// The objects of a kind in all namespaces, or of a cluster-scoped kind.
    pub fn all<K: Resource>(&self) -> Api<K> {
        Api { client: self.clone(), namespace: None, kind: PhantomData }
    }
}

/// The objects of one kind, in one namespace or in all.
#[derive(Clone)]
pub struct Api<K> {
    client: Client,
    namespace: Option<String>,
    kind: PhantomData<fn() -> K>,
}

/// Reads a stored object as its type.
pub fn decode<K: Resource>(entry: &Entry) -> Result<K, Status> {
    serde_json::from_slice(&entry.bytes)
        .map_err(|error| Status::internal(format!("{} is not a {}: {error}", entry.key, K::KIND)))
}

/// The same, read at most once for all who read the entry so.
pub(crate) fn read<K: Resource>(entry: &Entry) -> Result<Arc<K>, Status> {
    let mut failure = None;
    let made = entry.typed(|_| decode(entry).map_err(|status| failure = Some(status)).ok());
    made.ok_or_else(|| failure.unwrap_or_else(|| unexpected("an object")))
}

impl<K: Resource> Api<K> {
    fn target(&self, name: Option<&str>, subresource: Option<&str>) -> Target {
        Target {
            group: K::GROUP.to_owned(),
            version: K::VERSION.to_owned(),
            resource: K::PLURAL.to_owned(),
            namespace: self.namespace.clone(),
            name: name.map(str::to_owned),
            subresource: subresource.map(str::to_owned),
        }
    }

    /// The target of an object that says itself where it belongs.
    fn target_of(&self, object: &K, subresource: Option<&str>) -> Target {
        let meta = object.metadata();
        let mut target = self.target(Some(meta.name.as_deref().unwrap_or("")), subresource);
        if target.namespace.is_none() {
            target.namespace = meta.namespace.clone();
        }
        target
    }

    async fn object(&self, target: Target, action: Action) -> Result<K, Status> {
        let looks = matches!(action, Action::Get { .. });
        match self.client.call(target, action).await? {
            // What is only looked at stays as it is, in the store too.
            Response::Object { entry, .. } if looks => match entry.typed(|_| None::<K>) {
                Some(known) => Ok(Arc::unwrap_or_clone(known)),
                None => decode(&entry),
            },
            // Who reflects the kind reads what was written, too: it is read once.
            Response::Object { entry, .. } => read(&entry).map(Arc::unwrap_or_clone),
            Response::Transient { value, .. } => serde_json::from_value(value)
                .map_err(|error| Status::internal(format!("the answer is not a {}: {error}", K::KIND))),
            _ => Err(unexpected("an object")),
        }
    }

    fn encode(object: &K) -> Result<Value, Status> {
        serde_json::to_value(object).map_err(|error| Status::internal(format!("{}: {error}", K::KIND)))
    }

    /// Reads one object.
    pub async fn get(&self, name: &str) -> Result<K, Status> {
        self.object(self.target(Some(name), None), Action::Get { resource_version: String::new() }).await
    }

    /// Reads the selected objects.
    pub async fn list(&self, options: ListOptions) -> Result<Vec<K>, Status> {
        let snapshot = self.client.snapshot(self.target(None, None), options).await?;
        snapshot.entries.iter().map(|entry| decode(entry)).collect()
    }

    /// Follows the selected objects.
    pub async fn watch(&self, options: WatchOptions) -> Result<Box<dyn Changes>, Status> {
        self.client.watch(self.target(None, None), options).await
    }

    /// Makes an object.
    pub async fn create(&self, object: &K) -> Result<K, Status> {
        let mut target = self.target_of(object, None);
        target.name = None;
        self.object(target, Action::Create(Self::encode(object)?, WriteOptions::default())).await
    }

    /// Replaces an object; its resourceVersion, when set, must be current.
    pub async fn update(&self, object: &K) -> Result<K, Status> {
        let action = Action::Update(Self::encode(object)?, WriteOptions::default());
        self.object(self.target_of(object, None), action).await
    }

    /// Replaces an object's status.
    pub async fn update_status(&self, object: &K) -> Result<K, Status> {
        let action = Action::Update(Self::encode(object)?, WriteOptions::default());
        self.object(self.target_of(object, Some("status")), action).await
    }

    /// Changes an object, or with `subresource` that part of it.
    pub async fn patch(
        &self,
        name: &str,
        subresource: Option<&str>,
        kind: PatchKind,
        body: Value,
    ) -> Result<K, Status> {
        let action = Action::Patch(kind, body, WriteOptions::default());
        self.object(self.target(Some(name), subresource), action).await
    }

    /// Removes an object; an already missing one is an error of reason `NotFound`.
    pub async fn delete(&self, name: &str, options: DeleteOptions) -> Result<(), Status> {
        self.client.call(self.target(Some(name), None), Action::Delete(options)).await.map(drop)
    }

    /// Posts to a subresource such as `binding`.
    pub async fn create_subresource(
        &self,
        name: &str,
        subresource: &str,
        body: Value,
        options: WriteOptions,
    ) -> Result<Value, Status> {
        let target = self.target(Some(name), Some(subresource));
        match self.client.call(target, Action::Create(body, options)).await? {
            Response::Object { entry, .. } => Ok(entry.json().clone()),
            Response::Transient { value, .. } => Ok(value),
            Response::Status(status) => serde_json::to_value(status).map_err(Status::internal),
            _ => Err(unexpected("an object")),
        }
    }
}

fn unexpected(what: &str) -> Status {
    Status::internal(format!("the API server answered with something else than {what}"))
}

/// 64 random bits, for names that must not collide.
pub fn random_u64() -> u64 {
    // A keyed hash. Its key is a count beside what the kernel gave to this thread, which so is not called each time.
    RandomState::new().hash_one(())
}

/// A number in `0.0..1.0`, for jitter.
fn random_fraction() -> f64 {
    (random_u64() >> 11) as f64 / (1u64 << 53) as f64
}
