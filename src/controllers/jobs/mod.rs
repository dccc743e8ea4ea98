//! Jobs: pods that are to come to a good end, so and so often (Kubernetes `pkg/controller/job`).
//!
//! A pod is counted exactly once, although the count and the pod are different objects: each pod holds a finalizer
//! until the status names it among the uncounted ones, and once it is let go the number grows in its stead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::owned::claim::claim;
use super::owned::pods::{Pods as Writer, namespace_goes};
use super::owned::wake::enqueue_owners;
use super::owned::{self, Owner, batch, controller_of, selector};
use super::{Next, enqueue, queue, seconds, work_side_by_side};
use crate::api::request::PatchKind;
use crate::api::status::Status;
use crate::client::Client;
use crate::client::events::Recorder;
use crate::client::reflector::{Reflector, split_key};
use crate::clock;

mod backoff;
mod expiry;
mod indexes;
mod number;
mod plan;
mod pod;
mod policies;
mod tally;

use backoff::Backoff;
use plan::{Plan, Pods, plan};
pub(super) use plan::{is_finished, is_true};

/// Holds a pod until it is counted.
const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// A pod's index.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How many failures of a pod's index came before it and count.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// How many do not.
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// The name of this controller among those that may manage a job.
const CONTROLLER: &str = "kubernetes.io/job-controller";

/// Runs until dropped.
pub async fn run(client: Client, jobs: Reflector<Job>, pods: Reflector<Pod>) {
    jobs.synced().await;
    pods.synced().await;
    let (recorder, record) = Recorder::new(client.clone(), "job-controller", "");
    let queue = queue(&client, "job");
    let controller = Controller {
        writer: Writer::new(client.clone(), recorder, pods.clone()),
        client: client.clone(),
        jobs: jobs.clone(),
        pods: pods.clone(),
        backoffs: Mutex::default(),
    };
    let selects = |job: &Job, pod: &Pod| {
        let selector = selector(job.spec.as_ref().and_then(|spec| spec.selector.as_ref()));
        selector.is_ok_and(|selector| owned::selects(&selector, &pod.metadata))
    };
    let reconcile = |key: String| {
        let controller = &controller;
        async move { controller.reconcile(&key).await }
    };
    tokio::join!(
        record,
        enqueue(jobs.subscribe(), queue.clone()),
        enqueue_owners(&pods, &jobs, selects, &queue),
        work_side_by_side("job", &queue, reconcile),
        expiry::run(&client, &jobs),
    );
}

struct Controller {
    client: Client,
    jobs: Reflector<Job>,
    pods: Reflector<Pod>,
    writer: Writer,
    /// The failures of running jobs by key; after a restart the waits begin anew.
    backoffs: Mutex<HashMap<String, Backoff>>,
}

impl Controller {
    fn backoffs(&self) -> MutexGuard<'_, HashMap<String, Backoff>> {
        self.backoffs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn reconcile(&self, key: &str) -> Result<Next, Status> {
        let (namespace, _) = split_key(key);
        let job = self.jobs.get(key);
        self.release(self.orphans(namespace)).await?;
        let Some(job) = job.filter(|job| is_ours(job) && !is_finished(job)) else {
            self.backoffs().remove(key);
            return Ok(Next::Await);
        };
        let wanted = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let owner = Owner::new(&*job, selector(wanted).map_err(Status::internal)?);
        let owner = Owner { finalizer: Some(FINALIZER), ..owner };
        let before = self.backoffs().get(key).cloned().unwrap_or_default();
        let matches = |pod: &Pod| owned::selects(&owner.selector, &pod.metadata);
        let there = self.pods.in_namespace(namespace);
        let pods = claim::<Job, _>(&self.client, &owner, &self.pods, there, matches).await?;
        let mut next = plan(&job, &pods, &before, seconds(clock::now()));
        let mut failure = None;
        if !matches!(next.pods, Pods::Stay) {
            failure = self.act(&owner, &job, &next.pods).await.err();
            let there = self.pods.in_namespace(namespace);
            let pods: Vec<Arc<Pod>> = there.into_iter().filter(|pod| owner.controls(&pod.metadata)).collect();
            next = plan(&job, &pods, &before, seconds(clock::now()));
        }
        self.record(key, &owner, &job, &next).await?;
        self.release(next.release).await?;
        match (failure, next.again) {
            (Some(status), _) => Err(status),
            (None, Some(again)) => Ok(Next::After(Duration::try_from(again).unwrap_or_default())),
            (None, None) => Ok(Next::Await),
        }
    }

    /// Makes or deletes pods.
    async fn act(&self, owner: &Owner, job: &Job, pods: &Pods) -> Result<(), Status> {
        match pods {
            Pods::Stay => Ok(()),
            Pods::End(pods) => self.writer.delete_all(owner, pods).await,
            Pods::Remove(pods) => {
                self.release(pods.clone()).await?;
                self.writer.delete_all(owner, pods).await
            }
            Pods::Create(new) => {
                let spec = job.spec.clone().unwrap_or_default();
                let made =
                    self.writer.create_all(owner, new.len(), |n| pod::pod(owner, &spec, &new[n])).await;
                made.error.filter(|status| !namespace_goes(status)).map_or(Ok(()), Err)
            }
        }
    }

    /// Writes the status, when it changed, and tells what there is to tell.
    async fn record(&self, key: &str, owner: &Owner, job: &Job, plan: &Plan) -> Result<(), Status> {
        if job.status.as_ref() != Some(&plan.status) {
            let changed = Job { status: Some(plan.status.clone()), ..job.clone() };
            let written = self.client.namespaced::<Job>(&owner.namespace).update_status(&changed).await?;
            self.backoffs().insert(key.to_owned(), plan.backoff.clone());
            self.jobs.reached(&written).await;
        }
        for (kind, reason, message) in &plan.events {
            self.writer.tell(owner, *kind, reason, message);
        }
        Ok(())
    }

    /// Pods that nobody counts: their job is gone, or has ended without them.
    fn orphans(&self, namespace: &str) -> Vec<Arc<Pod>> {
        let counted = |pod: &Pod| {
            let Some(owner) = controller_of(&pod.metadata) else { return false };
            let job = self.jobs.get(&format!("{namespace}/{}", owner.name));
            let job = job.filter(|job| job.metadata.uid.as_deref() == Some(owner.uid.as_str()));
            job.is_some_and(|job| !is_ours(&job) || !is_finished(&job))
        };
        let pods = self.pods.in_namespace(namespace).into_iter();
        pods.filter(|pod| tally::is_tracked(pod) && !counted(pod)).collect()
    }

    /// Lets pods go as far as this controller holds them.
    async fn release(&self, pods: Vec<Arc<Pod>>) -> Result<(), Status> {
        let calls = pods.iter().filter(|pod| tally::is_tracked(pod)).map(|pod| async move {
            let meta = &pod.metadata;
            let api = self.client.namespaced::<Pod>(meta.namespace.as_deref().unwrap_or_default());
            let patch =
                json!({"metadata": {"uid": meta.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
            let name = meta.name.as_deref().unwrap_or_default();
            match api.patch(name, None, PatchKind::Strategic, patch).await {
                Ok(released) => {
                    self.pods.reached(&released).await;
                    Ok(())
                }
                // It, or what bore its name, is gone.
                Err(status) if status.is("NotFound") || status.is("Conflict") => Ok(()),
                Err(status) => Err(status),
            }
        });
        batch::all(calls).await.error.map_or(Ok(()), Err)
    }
}

/// Whether this controller manages a job.
fn is_ours(job: &Job) -> bool {
    let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
    manager.is_none_or(|manager| manager == CONTROLLER)
}

#[cfg(test)]
mod tests;
