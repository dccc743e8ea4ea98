//! Deployments: replica sets of their templates, old and new, scaled so that one takes the other's place.
//!
//! Events, conditions and annotations are those of Kubernetes' `pkg/controller/deployment`; `kubectl rollout` reads them.

mod conditions;
mod plan;
mod revision;
mod scaling;
mod sets;
mod wanted;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use self::conditions::Conditions;
use self::plan::plan;
use self::sets::{Step, name, replicas, same_template};
use self::wanted::Wanted;
use super::owned::claim::claim;
use super::owned::pods::namespace_goes;
use super::owned::wake::enqueue_owners;
use super::owned::{Owner, selector, selects, state, status};
use super::{Next, at, enqueue, queue, seconds, work_side_by_side};
use crate::api::request::{DeleteOptions, PatchKind};
use crate::api::status::Status;
use crate::client::Client;
use crate::client::events::{EventType, Recorder};
use crate::client::reflector::{Reflector, key_of};
use crate::clock;

/// The name under which the controller speaks.
const COMPONENT: &str = "deployment-controller";
/// The reason when a replica set cannot be made.
const NOT_CREATED: &str = "ReplicaSetCreateError";

/// Runs until dropped.
pub async fn run(
    client: Client,
    deployments: Reflector<Deployment>,
    sets: Reflector<ReplicaSet>,
    pods: Reflector<Pod>,
) {
    deployments.synced().await;
    sets.synced().await;
    pods.synced().await;
    let (recorder, record) = Recorder::new(client.clone(), COMPONENT, "");
    let queue = queue(&client, "deployment");
    let by_deployment = enqueue(deployments.subscribe(), queue.clone());
    let selected = |deployment: &Deployment, set: &ReplicaSet| {
        selector(Some(&deployment.spec.selector)).is_ok_and(|selector| selects(&selector, &set.metadata))
    };
    // What pods do shows in the status of their replica sets.
    let by_set = enqueue_owners(&sets, &deployments, selected, &queue);
    let controller =
        Controller { client, recorder, deployments: deployments.clone(), sets: sets.clone(), pods };
    let work = work_side_by_side(COMPONENT, &queue, |key| controller.reconcile(key));
    tokio::join!(record, by_deployment, by_set, work);
}

struct Controller {
    client: Client,
    recorder: Recorder,
    deployments: Reflector<Deployment>,
    sets: Reflector<ReplicaSet>,
    pods: Reflector<Pod>,
}

impl Controller {
    async fn reconcile(&self, key: String) -> Result<Next, Status> {
        let Some(deployment) = self.deployments.get(&key) else { return Ok(Next::Await) };
        let selector = match selector(Some(&deployment.spec.selector)) {
            Ok(selector) => selector,
            Err(error) => {
                // The next change of the object is the next chance.
                tracing::warn!(key, error, "the selector cannot be read");
                return Ok(Next::Await);
            }
        };
        if selector.is_everything() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            let owner = Owner::new(&*deployment, selector);
            self.recorder.record(&owner.about, EventType::Warning, "SelectingAll", message);
            return Ok(Next::Await);
        }
        let owner = Owner::new(&*deployment, selector);
        let candidates = self.sets.in_namespace(&owner.namespace);
        let matches = |set: &ReplicaSet| selects(&owner.selector, &set.metadata);
        let sets = claim::<Deployment, _>(&self.client, &owner, &self.sets, candidates, matches).await?;
        let pods = self.pods.in_namespace(&owner.namespace);
        let runs = |set: &ReplicaSet| {
            let own = Owner::new(set, Default::default());
            pods.iter().any(|pod| own.controls(&pod.metadata) && !state::is_finished(pod))
        };
        let now = seconds(clock::now());
        let wanted = Wanted::of(&deployment, &owner);
        let plan = plan(&deployment, &wanted, &sets, runs, now);
        for step in plan.steps {
            match self.act(&deployment, &wanted, &owner, step).await {
                Err(status) if namespace_goes(&status) => return Ok(Next::Await),
                other => other?,
            }
        }
        let shown = deployment.metadata.annotations.as_ref().and_then(|a| a.get(revision::REVISION));
        if deployment.status.as_ref() != Some(&plan.status) || shown != plan.revision.as_ref() {
            status::write(&self.client, &self.deployments, &*deployment, |deployment| {
                deployment.status = Some(plan.status.clone());
                if let Some(revision) = &plan.revision {
                    let annotations = deployment.metadata.annotations.get_or_insert_default();
                    annotations.insert(revision::REVISION.to_owned(), revision.clone());
                }
            })
            .await?;
        }
        Ok(at(plan.next, clock::now()))
    }

    /// Carries a step out; the next plan sees what it wrote.
    async fn act(
        &self,
        deployment: &Deployment,
        wanted: &Wanted,
        owner: &Owner,
        step: Step,
    ) -> Result<(), Status> {
        let api = self.client.namespaced::<ReplicaSet>(&owner.namespace);
        match step {
            Step::Create(set) => match api.create(&set).await {
                Ok(made) => {
                    self.sets.reached(&made).await;
                    self.tell_scaled(owner, name(&made), 0, replicas(&made));
                    Ok(())
                }
                Err(status) if status.is("AlreadyExists") => {
                    let taken = api.get(name(&set)).await?;
                    let template = taken.spec.template.as_ref();
                    let same = template.is_some_and(|template| same_template(template, &wanted.template));
                    if !(owner.controls(&taken.metadata) && same) {
                        self.count_collision(deployment).await?;
                    }
                    // In both cases there is something new to look at.
                    Err(status)
                }
                Err(error) if namespace_goes(&error) => Err(error),
                Err(error) => {
                    let message = format!("Failed to create new replica set {:?}: {error}", name(&set));
                    self.recorder.record(&owner.about, EventType::Warning, NOT_CREATED, &message);
                    let now = seconds(clock::now());
                    let say = |deployment: &mut Deployment| {
                        let status = deployment.status.get_or_insert_default();
                        let mut conditions = Conditions::of(status, now);
                        conditions.note_not_created(wanted, NOT_CREATED, &message);
                        status.conditions = conditions.into_list();
                    };
                    status::write(&self.client, &self.deployments, deployment, say).await?;
                    Err(error)
                }
            },
            Step::Update { set, from } => {
                let body = json!({
                    "metadata": {"uid": set.metadata.uid, "annotations": set.metadata.annotations},
                    "spec": {
                        "replicas": replicas(&set),
                        "minReadySeconds": set.spec.min_ready_seconds,
                    },
                });
                let written = api.patch(name(&set), None, PatchKind::Merge, body).await?;
                self.sets.reached(&written).await;
                self.tell_scaled(owner, name(&set), from, replicas(&set));
                Ok(())
            }
            Step::Delete(set) => {
                let uid = set.metadata.uid.clone();
                let options = DeleteOptions { precondition_uid: uid.clone(), ..DeleteOptions::default() };
                match api.delete(name(&set), options).await {
                    Err(status) if !status.is("NotFound") => return Err(status),
                    _ => {}
                }
                let key = key_of(&*set);
                let stays =
                    |set: &ReplicaSet| set.metadata.uid == uid && set.metadata.deletion_timestamp.is_none();
                self.sets.until(|sets| !sets.get(&key).is_some_and(|set| stays(&set))).await;
                Ok(())
            }
        }
    }

    fn tell_scaled(&self, owner: &Owner, set: &str, from: i32, to: i32) {
        let way = match from.cmp(&to) {
            std::cmp::Ordering::Less => "up",
            std::cmp::Ordering::Greater => "down",
            std::cmp::Ordering::Equal => return,
        };
        let message = format!("Scaled {way} replica set {set} from {from} to {to}");
        self.recorder.record(&owner.about, EventType::Normal, "ScalingReplicaSet", &message);
    }

    /// Notes that the name of a new replica set was somebody else's, which leads to another name.
    async fn count_collision(&self, deployment: &Deployment) -> Result<(), Status> {
        let before = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let count = |deployment: &mut Deployment| {
            deployment.status.get_or_insert_default().collision_count = Some(before + 1);
        };
        status::write(&self.client, &self.deployments, deployment, count).await
    }
}

#[cfg(test)]
mod tests;
