//! Replica sets and replication controllers: so many pods of a template, replaced when they go.

mod kind;
mod plan;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSetCondition;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use self::kind::Replicated;
use self::plan::{Counted, Scaling, plan};
use super::owned::claim::claim;
use super::owned::pods::{self, Pods};
use super::owned::wake::enqueue_owners;
use super::owned::{Owner, controller_of, selects, state, status};
use super::{Next, at, enqueue, queue, seconds, work_side_by_side};
use crate::api::status::Status;
use crate::client::Client;
use crate::client::events::Recorder;
use crate::client::reflector::Reflector;
use crate::clock;

/// Runs the controller of one of the two kinds until dropped.
pub async fn run<K: Replicated>(client: Client, sets: Reflector<K>, pods: Reflector<Pod>) {
    sets.synced().await;
    pods.synced().await;
    let (recorder, record) = Recorder::new(client.clone(), K::COMPONENT, "");
    let queue = queue(&client, K::QUEUE);
    let by_set = enqueue(sets.subscribe(), queue.clone());
    let by_pod = enqueue_owners(
        &pods,
        &sets,
        |set: &K, pod: &Pod| set.wanted().is_ok_and(|wanted| selects(&wanted.selector, &pod.metadata)),
        &queue,
    );
    let writer = Pods::new(client.clone(), recorder, pods.clone());
    let controller = Controller { client, sets: sets.clone(), pods: pods.clone(), writer };
    let work = work_side_by_side(K::COMPONENT, &queue, |key| controller.reconcile(key));
    tokio::join!(record, by_set, by_pod, work);
}

struct Controller<K> {
    client: Client,
    sets: Reflector<K>,
    pods: Reflector<Pod>,
    writer: Pods,
}

impl<K: Replicated> Controller<K> {
    async fn reconcile(&self, key: String) -> Result<Next, Status> {
        let Some(set) = self.sets.get(&key) else { return Ok(Next::Await) };
        let wanted = match set.wanted() {
            Ok(wanted) => wanted,
            Err(error) => {
                // The next change of the object is the next chance.
                tracing::warn!(key, error, "the selector cannot be read");
                return Ok(Next::Await);
            }
        };
        let owner = Owner::new(&*set, wanted.selector.clone());
        let matches = |pod: &Pod| selects(&wanted.selector, &pod.metadata);
        let candidates = pods::active(self.pods.in_namespace(&owner.namespace));
        let active = claim::<K, _>(&self.client, &owner, &self.pods, candidates, matches).await?;
        let mut failure = None;
        if !owner.deleting {
            let related = || self.related(&set, &owner.namespace);
            failure = match plan(wanted.replicas, &active, related, clock::now()) {
                Scaling::Create(count) => self.create(&owner, &wanted, count).await.err(),
                Scaling::Delete(gone) => self.writer.delete_all(&owner, &gone).await.err(),
                Scaling::Done => None,
            };
        }
        let now = clock::now();
        let mut present = self.pods.in_namespace(&owner.namespace);
        present.retain(|pod| owner.controls(&pod.metadata) && matches(pod));
        let counted = Counted::new(&present, &wanted, now);
        let old = set.status();
        let mut new = counted.status(&old, set.metadata().generation);
        let failed = failure.as_ref().map(|error| {
            let too_few = i64::try_from(active.len()).is_ok_and(|count| count < i64::from(wanted.replicas));
            (if too_few { "FailedCreate" } else { "FailedDelete" }, error.to_string())
        });
        plan::set_failure(
            &mut new.conditions,
            failed.map(|(reason, message)| ReplicaSetCondition {
                type_: Some(plan::FAILURE.into()),
                status: Some("True".into()),
                reason: Some(reason.into()),
                message: Some(message),
                last_transition_time: Some(Time(seconds(now))),
            }),
        );
        if set.shown(&new) != old {
            status::write(&self.client, &self.sets, &*set, |set| set.set_status(new.clone())).await?;
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(at(counted.next, clock::now())),
        }
    }

    async fn create(&self, owner: &Owner, wanted: &kind::Wanted, count: usize) -> Result<(), Status> {
        let template = pods::from_template(owner, &wanted.template);
        match self.writer.create_all(owner, count, |_| template.clone()).await.error {
            // A namespace that goes takes the set with it.
            Some(error) if !pods::namespace_goes(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// The pods of all sets that belong to the same object as this one.
    fn related(&self, set: &K, namespace: &str) -> Vec<Arc<Pod>> {
        let Some(parent) = controller_of(set.metadata()) else { return Vec::new() };
        let siblings = self.sets.in_namespace(namespace);
        let siblings: Vec<_> = siblings
            .iter()
            .filter(|sibling| controller_of(sibling.metadata()).is_some_and(|p| p.uid == parent.uid))
            .filter_map(|sibling| sibling.metadata().uid.as_deref())
            .collect();
        let mut pods = self.pods.in_namespace(namespace);
        pods.retain(|pod| {
            let owner = controller_of(&pod.metadata);
            state::is_active(pod) && owner.is_some_and(|owner| siblings.contains(&owner.uid.as_str()))
        });
        pods
    }
}

#[cfg(test)]
mod tests;
