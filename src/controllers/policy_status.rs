//! Validating admission policies say which generation of them was looked at.
//!
//! Kubernetes' controller tells there, too, what it finds when it checks the types in their expressions against the
//! kinds that they are about; here nothing is found, as every object of an expression is of any type.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Next, queue, work};
use crate::api::kinds::{self, Kind};
use crate::api::meta;
use crate::api::request::Change;
use crate::api::status::Status;
use crate::client::Client;
use crate::client::follow::{Entry, Follower, Revision};
use crate::client::queue::Queue;

/// Runs until dropped.
pub async fn run(client: Client) {
    let group = "admissionregistration.k8s.io";
    let Some(kind) = kinds::by_resource(group, "v1", "validatingadmissionpolicies") else { return };
    let queue = queue(&client, "validatingadmissionpolicy-status");
    let follow = client.follow(kind, Feed { queue: queue.clone() });
    let reconcile = |name: String| {
        let client = &client;
        async move { observe(client, kind, &name).await }
    };
    tokio::join!(follow, work("policy-status", &queue, reconcile));
}

struct Feed {
    queue: Queue,
}

impl Follower for Feed {
    fn listed(&mut self, entries: &[Arc<Entry>], _: Revision) {
        entries.iter().for_each(|entry| self.queue.add(meta::name(entry.json())));
    }

    fn changed(&mut self, change: &Change, _: Revision) {
        if let Change::Added(entry) | Change::Modified(entry) = change {
            self.queue.add(meta::name(entry.json()));
        }
    }
}

async fn observe(client: &Client, kind: &Kind, name: &str) -> Result<Next, Status> {
    let policy = match client.object(kind, None, name).await {
        Ok(entry) => entry.json().clone(),
        Err(status) if status.is("NotFound") => return Ok(Next::Await),
        Err(status) => return Err(status),
    };
    let Some(status) = plan(&policy) else { return Ok(Next::Await) };
    let mut body = policy;
    body["status"] = status;
    match client.put_subresource(kind, None, name, "status", body).await {
        Err(status) if status.is("NotFound") => Ok(Next::Await),
        other => other.map(|()| Next::Await),
    }
}

/// The status that a policy must have; `None` when it has it.
fn plan(policy: &Value) -> Option<Value> {
    let generation = meta::generation(policy);
    let status = &policy["status"];
    let seen =
        status["observedGeneration"].as_i64() == Some(generation) && status["typeChecking"].is_object();
    (!seen).then(|| {
        let mut status = status.clone();
        meta::map_mut(&mut status).insert("observedGeneration".to_owned(), json!(generation));
        meta::map_mut(&mut status).insert("typeChecking".to_owned(), json!({}));
        status
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_generation_is_looked_at_once() {
        let mut policy = json!({"metadata": {"generation": 2}, "status": {"conditions": []}});
        let status = plan(&policy).unwrap();
        assert_eq!(status, json!({"observedGeneration": 2, "typeChecking": {}, "conditions": []}));
        policy["status"] = status;
        assert_eq!(plan(&policy), None);
        policy["metadata"]["generation"] = json!(3);
        assert_eq!(plan(&policy).unwrap()["observedGeneration"], 3);
    }
}
