//! Stateful sets: pods with names and volumes that stay theirs (Kubernetes `pkg/controller/statefulset`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::owned::claim::claim;
use super::owned::pods::namespace_goes;
use super::owned::revisions::{self, Revisions, Wanted};
use super::owned::state::next_available;
use super::owned::wake::enqueue_owners;
use super::owned::{self, Owner, selector};
use super::{Next, at, enqueue, enqueue_selecting, queue, reflect, work_side_by_side};
use crate::api::request::{DeleteOptions, PatchKind};
use crate::api::status::Status;
use crate::client::Client;
use crate::client::events::{EventType, Recorder};
use crate::client::reflector::{Reflector, key_of};
use crate::clock;

mod claims;
mod plan;
mod pod;

use plan::{Action, Observed, plan};

/// Runs until dropped.
pub async fn run(client: Client, pods: Reflector<Pod>, revisions: Reflector<ControllerRevision>) {
    let mut tasks = JoinSet::new();
    let sets: Reflector<StatefulSet> = reflect(&mut tasks, &client);
    let claims: Reflector<PersistentVolumeClaim> = reflect(&mut tasks, &client);
    sets.synced().await;
    pods.synced().await;
    revisions.synced().await;
    claims.synced().await;
    let (recorder, record) = Recorder::new(client.clone(), "statefulset-controller", "");
    let queue = queue(&client, "statefulset");
    let controller = Controller {
        history: Revisions::new(client.clone(), revisions.clone()),
        client,
        recorder,
        sets: sets.clone(),
        pods: pods.clone(),
        claims: claims.clone(),
    };
    let selects = |set: &StatefulSet, pod: &Pod| {
        let selector = selector(Some(&set.spec.selector));
        selector.is_ok_and(|selector| owned::selects(&selector, &pod.metadata))
    };
    let mounts = |set: &StatefulSet, claim: &PersistentVolumeClaim| {
        let names = (set.metadata.name.as_deref(), claim.metadata.name.as_deref());
        let (set_name, claim_name) = (names.0.unwrap_or_default(), names.1.unwrap_or_default());
        claims::is_of(set_name, &set.spec, claim_name)
    };
    let reconcile = |key: String| {
        let controller = &controller;
        async move { controller.reconcile(&key).await }
    };
    tokio::join!(
        record,
        enqueue(sets.subscribe(), queue.clone()),
        enqueue_owners(&pods, &sets, selects, &queue),
        enqueue_selecting(&claims, &sets, mounts, &queue),
        work_side_by_side("statefulset", &queue, reconcile),
    );
}

struct Controller {
    client: Client,
    recorder: Recorder,
    sets: Reflector<StatefulSet>,
    pods: Reflector<Pod>,
    claims: Reflector<PersistentVolumeClaim>,
    history: Revisions,
}

/// The revisions of a set that matter.
struct Templates {
    current: Arc<ControllerRevision>,
    update: Arc<ControllerRevision>,
}

impl Templates {
    fn names(&self) -> [&str; 2] {
        [&self.current, &self.update].map(|revision| revision.metadata.name.as_deref().unwrap_or_default())
    }

    /// What the pods of a revision are made from.
    fn template(&self, updated: bool) -> Result<PodTemplateSpec, Status> {
        let revision = if updated { &self.update } else { &self.current };
        let mut template = revisions::data(revision)["spec"]["template"].clone();
        if let Some(template) = template.as_object_mut() {
            template.remove("$patch");
        }
        serde_json::from_value(template).map_err(Status::internal)
    }
}

impl Controller {
    async fn reconcile(&self, key: &str) -> Result<Next, Status> {
        let Some(set) = self.sets.get(key) else { return Ok(Next::Await) };
        let spec = set.spec.clone();
        let owner = Owner::new(&*set, selector(Some(&spec.selector)).map_err(Status::internal)?);
        let is_member = |pod: &Pod| {
            owned::selects(&owner.selector, &pod.metadata)
                && pod::ordinal_of(owner.name(), &pod.metadata).is_some()
        };
        let there = self.pods.in_namespace(&owner.namespace);
        let pods = claim::<StatefulSet, _>(&self.client, &owner, &self.pods, there, is_member).await?;
        let history = self.history.of::<StatefulSet>(&owner).await?;
        let mut collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let templates = self.templates(&set, &spec, &owner, &history, &mut collisions).await?;
        let acted = self.act(&owner, &spec, &templates, &pods).await;
        // As everything is after that.
        let there = self.pods.in_namespace(&owner.namespace).into_iter();
        let pods: Vec<Arc<Pod>> = there.filter(|pod| owner.controls(&pod.metadata)).collect();
        let (claims, now) = (self.claims_of(&owner), clock::now());
        let seen = observed(&owner, &spec, &templates, &pods, &claims, now);
        let status = seen.status(&set, collisions);
        if set.status.as_ref() != Some(&status) {
            let changed = StatefulSet { status: Some(status), ..(*set).clone() };
            let api = self.client.namespaced::<StatefulSet>(&owner.namespace);
            self.sets.reached(&api.update_status(&changed).await?).await;
        }
        self.forget(&spec, &templates, &pods, &history).await?;
        acted?;
        let min_ready = spec.min_ready_seconds.unwrap_or(0);
        Ok(at(next_available(pods.iter().map(|pod| &**pod), min_ready, now), now))
    }

    async fn templates(
        &self,
        set: &StatefulSet,
        spec: &StatefulSetSpec,
        owner: &Owner,
        history: &[Arc<ControllerRevision>],
        collisions: &mut i32,
    ) -> Result<Templates, Status> {
        let labels = spec.template.metadata.as_ref().and_then(|meta| meta.labels.clone());
        let wanted = Wanted {
            data: revisions::data_of(&spec.template)?,
            labels: labels.unwrap_or_default(),
            annotations: set.metadata.annotations.clone().unwrap_or_default(),
            hash_label: None,
        };
        let update = self.history.ensure(owner, &wanted, history, collisions).await?;
        let known = set.status.as_ref().and_then(|status| status.current_revision.as_deref());
        let current = history.iter().find(|revision| revision.metadata.name.as_deref() == known);
        Ok(Templates { current: current.unwrap_or(&update).clone(), update })
    }

    fn claims_of(&self, owner: &Owner) -> BTreeMap<String, Arc<PersistentVolumeClaim>> {
        let claims = self.claims.in_namespace(&owner.namespace).into_iter();
        claims.filter_map(|claim| Some((claim.metadata.name.clone()?, claim))).collect()
    }

    /// Takes the steps that can be taken, up to the first that fails.
    async fn act(
        &self,
        owner: &Owner,
        spec: &StatefulSetSpec,
        templates: &Templates,
        pods: &[Arc<Pod>],
    ) -> Result<(), Status> {
        let claims = self.claims_of(owner);
        let seen = observed(owner, spec, templates, pods, &claims, clock::now());
        for action in plan(&seen) {
            match action {
                Action::Create { ordinal, updated } => {
                    let [current, update] = templates.names();
                    let revision = if updated { update } else { current };
                    let template = templates.template(updated)?;
                    let pod = pod::pod(owner, spec, &template, revision, ordinal);
                    self.make_claims(owner, spec, &pod).await?;
                    self.create(owner, &pod).await?;
                }
                Action::Claims(pod) => self.make_claims(owner, spec, &pod).await?,
                Action::Label(pod) => self.label(owner, &pod).await?,
                Action::Owners(pod) => {
                    for (claim, owners) in seen.other_owners(&pod.metadata) {
                        let mut changed = PersistentVolumeClaim::clone(&claim);
                        changed.metadata.owner_references = Some(owners).filter(|owners| !owners.is_empty());
                        let api = self.client.namespaced::<PersistentVolumeClaim>(&owner.namespace);
                        self.claims.reached(&api.update(&changed).await?).await;
                    }
                }
                Action::Delete(pod) => self.delete(owner, &pod).await?,
            }
        }
        Ok(())
    }

    async fn create(&self, owner: &Owner, pod: &Pod) -> Result<(), Status> {
        match self.client.namespaced::<Pod>(&owner.namespace).create(pod).await {
            Ok(made) => {
                self.tell(owner, pod, "create", None);
                self.pods.reached(&made).await;
                Ok(())
            }
            Err(status) if namespace_goes(&status) => Ok(()),
            Err(status) => {
                // A pod of that name that is not the set's needs no words: it may go yet.
                if !status.is("AlreadyExists") {
                    self.tell(owner, pod, "create", Some(&status));
                }
                Err(status)
            }
        }
    }

    async fn delete(&self, owner: &Owner, pod: &Pod) -> Result<(), Status> {
        let options =
            DeleteOptions { precondition_uid: pod.metadata.uid.clone(), ..DeleteOptions::default() };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match self.client.namespaced::<Pod>(&owner.namespace).delete(name, options).await {
            Ok(()) => self.tell(owner, pod, "delete", None),
            Err(status) if status.is("NotFound") || status.is("Conflict") => {}
            Err(status) => {
                self.tell(owner, pod, "delete", Some(&status));
                return Err(status);
            }
        }
        let key = key_of(pod);
        let goes = |shown: Arc<Pod>| {
            shown.metadata.uid != pod.metadata.uid || shown.metadata.deletion_timestamp.is_some()
        };
        self.pods.until(|pods| pods.get(&key).is_none_or(goes)).await;
        Ok(())
    }

    async fn label(&self, owner: &Owner, pod: &Pod) -> Result<(), Status> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let mut labels = json!({pod::POD_NAME: name});
        if let Some(ordinal) = pod::ordinal_of(owner.name(), &pod.metadata) {
            labels[pod::POD_INDEX] = json!(ordinal.to_string());
        }
        let body: Value = json!({"metadata": {"uid": pod.metadata.uid, "labels": labels}});
        let patched =
            self.client.namespaced::<Pod>(&owner.namespace).patch(name, None, PatchKind::Merge, body).await;
        self.tell(owner, pod, "update", patched.as_ref().err());
        self.pods.reached(&patched?).await;
        Ok(())
    }

    /// Makes the claims of a pod that are not there.
    async fn make_claims(&self, owner: &Owner, spec: &StatefulSetSpec, pod: &Pod) -> Result<(), Status> {
        let Some(ordinal) = pod::ordinal_of(owner.name(), &pod.metadata) else { return Ok(()) };
        let api = self.client.namespaced::<PersistentVolumeClaim>(&owner.namespace);
        for (_, mut claim) in claims::wanted(owner, spec, ordinal) {
            let name = claim.metadata.name.clone().unwrap_or_default();
            if let Some(there) = self.claims.get(&format!("{}/{name}", owner.namespace)) {
                if there.metadata.deletion_timestamp.is_some() {
                    return Err(Status::internal(format!("pvc {name} is being deleted")));
                }
                continue;
            }
            claim.metadata.owner_references = claims::other_owners(owner, spec, &pod.metadata, &claim);
            let (kind, reason, end, answer) = match api.create(&claim).await {
                Ok(made) => {
                    self.claims.reached(&made).await;
                    (EventType::Normal, "SuccessfulCreate", "success".to_owned(), Ok(()))
                }
                Err(status) if namespace_goes(&status) => return Ok(()),
                Err(status) => {
                    (EventType::Warning, "FailedCreate", format!("failed error: {status}"), Err(status))
                }
            };
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            let for_pod = if answer.is_ok() { "Pod" } else { "for Pod" };
            let message =
                format!("create Claim {name} {for_pod} {pod} in StatefulSet {} {end}", owner.name());
            self.recorder.record(&owner.about, kind, reason, &message);
            answer?;
        }
        Ok(())
    }

    /// Removes revisions that no pod is of, beyond those that are to be kept.
    async fn forget(
        &self,
        spec: &StatefulSetSpec,
        templates: &Templates,
        pods: &[Arc<Pod>],
        history: &[Arc<ControllerRevision>],
    ) -> Result<(), Status> {
        let of_pods = pods.iter().map(|pod| pod::revision_of(pod));
        let in_use: BTreeSet<&str> = templates.names().into_iter().chain(of_pods).collect();
        let limit = usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
        for revision in revisions::surplus(history, &in_use, limit) {
            self.history.delete(&revision).await?;
        }
        Ok(())
    }

    /// Records what was done to a pod, or why not.
    fn tell(&self, owner: &Owner, pod: &Pod, verb: &str, failure: Option<&Status>) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let what = format!("{verb} Pod {name} in StatefulSet {}", owner.name());
        let (kind, begin, end) = match failure {
            None => (EventType::Normal, "Successful", "successful".to_owned()),
            Some(status) => (EventType::Warning, "Failed", format!("failed error: {status}")),
        };
        let reason = format!("{begin}{}{}", verb[..1].to_uppercase(), &verb[1..]);
        self.recorder.record(&owner.about, kind, &reason, &format!("{what} {end}"));
    }
}

fn observed<'a>(
    owner: &'a Owner,
    spec: &'a StatefulSetSpec,
    templates: &'a Templates,
    pods: &'a [Arc<Pod>],
    claims: &'a BTreeMap<String, Arc<PersistentVolumeClaim>>,
    now: Timestamp,
) -> Observed<'a> {
    let [current, update] = templates.names();
    Observed { owner, spec, current, update, pods, claims, now }
}

#[cfg(test)]
mod tests;
