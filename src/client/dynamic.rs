//! Calls on kinds known only by their row in the table: for work that is the same for every kind.

use std::sync::Arc;

use serde_json::Value;

use super::follow::{Follower, follow};
use super::{Client, unexpected};
use crate::api::kinds::Kind;
use crate::api::request::{Action, DeleteOptions, ListOptions, PatchKind, Response, Target, WriteOptions};
use crate::api::status::Status;
use crate::store::Entry;

fn target(kind: &Kind, namespace: Option<&str>, name: Option<&str>, subresource: Option<&str>) -> Target {
    Target {
        group: kind.group.to_string(),
        version: kind.version.to_string(),
        resource: kind.plural.to_string(),
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
        subresource: subresource.map(str::to_owned),
    }
}

impl Client {
    /// The objects of a kind in one namespace or in all, as they are stored.
    pub async fn objects(&self, kind: &Kind, namespace: Option<&str>) -> Result<Vec<Arc<Entry>>, Status> {
        let listed = self.snapshot(target(kind, namespace, None, None), ListOptions::default());
        Ok(listed.await?.entries)
    }

    /// One object, as it is stored.
    pub async fn object(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Arc<Entry>, Status> {
        let action = Action::Get { resource_version: String::new() };
        match self.call(target(kind, namespace, Some(name), None), action).await? {
            Response::Object { entry, .. } => Ok(entry),
            _ => Err(unexpected("an object")),
        }
    }

    /// A part of an object that is served by itself, such as a `scale`.
    pub async fn subresource(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        subresource: &str,
    ) -> Result<Value, Status> {
        let action = Action::Get { resource_version: String::new() };
        match self.call(target(kind, namespace, Some(name), Some(subresource)), action).await? {
            Response::Object { entry, .. } => Ok(entry.json().clone()),
            Response::Transient { value, .. } => Ok(value),
            _ => Err(unexpected("an object")),
        }
    }

    /// Makes an object.
    pub async fn make(&self, kind: &Kind, namespace: Option<&str>, body: Value) -> Result<(), Status> {
        let action = Action::Create(body, WriteOptions::default());
        self.call(target(kind, namespace, None, None), action).await.map(drop)
    }

    /// Changes an object by a merge patch.
    pub async fn merge(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        patch: Value,
    ) -> Result<(), Status> {
        self.merged(kind, namespace, name, patch).await.map(drop)
    }

    /// The same; answers the object.
    pub async fn merged(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        patch: Value,
    ) -> Result<Arc<Entry>, Status> {
        let action = Action::Patch(PatchKind::Merge, patch, WriteOptions::default());
        match self.call(target(kind, namespace, Some(name), None), action).await? {
            Response::Object { entry, .. } => Ok(entry),
            _ => Err(unexpected("an object")),
        }
    }

    /// Removes an object, or begins to.
    pub async fn remove(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        options: DeleteOptions,
    ) -> Result<(), Status> {
        self.call(target(kind, namespace, Some(name), None), Action::Delete(options)).await.map(drop)
    }

    /// Tells `follower` of all objects of a kind until dropped.
    pub fn follow<F: Follower>(&self, kind: &Kind, follower: F) -> impl Future<Output = ()> + Send + use<F> {
        follow(self.clone(), target(kind, None, None, None), ListOptions::default(), follower)
    }

    /// Replaces a subresource of an object, such as a namespace's `finalize`.
    pub async fn put_subresource(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        subresource: &str,
        body: Value,
    ) -> Result<(), Status> {
        let action = Action::Update(body, WriteOptions::default());
        self.call(target(kind, namespace, Some(name), Some(subresource)), action).await.map(drop)
    }
}
