//! An ordinary Kubernetes client: typed calls over any [`Transport`], reflectors, work queues, event recording.
//!
//! Controllers, scheduler, kubelet, proxy and DNS know the cluster only through this module.

use std::marker::PhantomData;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::request::{
    Changes, DeleteOptions, ListOptions, PatchKind, Transport, User, WatchOptions, WriteOptions,
};
use crate::api::status::Status;

pub mod events;
pub mod queue;
pub mod reflector;

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
}

impl Client {
    /// A client that speaks as `user`.
    pub fn new(transport: Arc<dyn Transport>, user: User) -> Client {
        Client { transport, user }
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

impl<K: Resource> Api<K> {
    /// Reads one object.
    pub async fn get(&self, _name: &str) -> Result<K, Status> {
        let _ = (&self.client.transport, &self.client.user, &self.namespace);
        todo!()
    }

    /// Reads the selected objects and the resourceVersion that they show.
    pub async fn list(&self, _options: ListOptions) -> Result<(Vec<K>, String), Status> {
        todo!()
    }

    /// Follows the selected objects.
    pub async fn watch(&self, _options: WatchOptions) -> Result<Box<dyn Changes>, Status> {
        todo!()
    }

    /// Makes an object.
    pub async fn create(&self, _object: &K) -> Result<K, Status> {
        todo!()
    }

    /// Replaces an object; its resourceVersion, when set, must be current.
    pub async fn update(&self, _object: &K) -> Result<K, Status> {
        todo!()
    }

    /// Replaces an object's status.
    pub async fn update_status(&self, _object: &K) -> Result<K, Status> {
        todo!()
    }

    /// Changes an object, or with `subresource` that part of it.
    pub async fn patch(
        &self,
        _name: &str,
        _subresource: Option<&str>,
        _kind: PatchKind,
        _body: Value,
    ) -> Result<K, Status> {
        todo!()
    }

    /// Removes an object; an already missing one is an error of reason `NotFound`.
    pub async fn delete(&self, _name: &str, _options: DeleteOptions) -> Result<(), Status> {
        todo!()
    }

    /// Posts to a subresource such as `binding`.
    pub async fn create_subresource(
        &self,
        _name: &str,
        _subresource: &str,
        _body: Value,
        _options: WriteOptions,
    ) -> Result<Value, Status> {
        todo!()
    }
}
