//! Calls on kinds known only by their row in the table: for work that is the same for every kind.

use serde_json::Value;

use super::{Client, unexpected};
use crate::api::kinds::Kind;
use crate::api::request::{Action, DeleteOptions, ListOptions, Response, Target, WriteOptions};
use crate::api::status::Status;

fn target(kind: &Kind, namespace: Option<&str>, name: Option<&str>, subresource: Option<&str>) -> Target {
    Target {
        group: kind.group.to_owned(),
        version: kind.version.to_owned(),
        resource: kind.plural.to_owned(),
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
        subresource: subresource.map(str::to_owned),
    }
}

impl Client {
    /// Deletes every object of a kind in a namespace; graceful deletions and finalizers take their time.
    pub async fn delete_all(&self, kind: &Kind, namespace: &str) -> Result<(), Status> {
        let action = Action::DeleteCollection(ListOptions::default(), DeleteOptions::default());
        self.call(target(kind, Some(namespace), None, None), action).await.map(drop)
    }

    /// How many objects of a kind a namespace holds.
    pub async fn count(&self, kind: &Kind, namespace: &str) -> Result<usize, Status> {
        match self
            .call(target(kind, Some(namespace), None, None), Action::List(ListOptions::default()))
            .await?
        {
            Response::List { snapshot, .. } => Ok(snapshot.entries.len()),
            _ => Err(unexpected("a list")),
        }
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
