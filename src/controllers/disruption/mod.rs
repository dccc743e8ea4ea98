//! Disruption budgets: how many pods may be sent away at this moment (Kubernetes `pkg/controller/disruption`). The
//! subresource `eviction` reads what is written here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::Value;
use tokio::task::JoinSet;

use super::kinds::Kinds;
use super::owned::{self, controller_of, selector};
use super::{Next, enqueue, enqueue_selecting, queue, reflect, seconds, work};
use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::status::Status;
use crate::client::Client;
use crate::client::events::{EventType, Recorder, reference};
use crate::client::reflector::{Reflector, split_key};
use crate::clock;

mod plan;
mod stale;

/// Runs until dropped.
pub async fn run(client: Client, pods: Reflector<Pod>, kinds: Kinds) {
    let mut tasks = JoinSet::new();
    let budgets: Reflector<PodDisruptionBudget> = reflect(&mut tasks, &client);
    budgets.synced().await;
    pods.synced().await;
    let (recorder, record) = Recorder::new(client.clone(), "controllermanager", "");
    let queue = queue(&client, "disruption");
    let stale = stale::run(&client, &pods);
    let client = client.clone();
    let controller = Controller { client, budgets: budgets.clone(), pods: pods.clone(), kinds, recorder };
    let reconcile = |key: String| {
        let controller = &controller;
        async move { controller.reconcile(&key).await }
    };
    tokio::join!(
        record,
        enqueue(budgets.subscribe(), queue.clone()),
        enqueue_selecting(&pods, &budgets, selects, &queue),
        work("disruption", &queue, reconcile),
        stale,
    );
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = selector(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()));
    selector.is_ok_and(|selector| owned::selects(&selector, &pod.metadata))
}

struct Controller {
    client: Client,
    budgets: Reflector<PodDisruptionBudget>,
    pods: Reflector<Pod>,
    kinds: Kinds,
    recorder: Recorder,
}

impl Controller {
    async fn reconcile(&self, key: &str) -> Result<Next, Status> {
        let Some(budget) = self.budgets.get(key) else { return Ok(Next::Await) };
        let about = reference(&*budget);
        let pods: Vec<Arc<Pod>> = self.pods.in_namespace(split_key(key).0);
        let pods: Vec<Arc<Pod>> = pods.into_iter().filter(|pod| selects(&budget, pod)).collect();
        if pods.is_empty() {
            self.recorder.record(&about, EventType::Normal, "NoPods", "No matching pods found");
        }
        let now = seconds(clock::now());
        let planned = match self.scale(&budget, &pods, &about).await {
            Ok(scale) => plan::plan(&budget, &pods, scale, now),
            Err(why) => Err(why),
        };
        let (status, next) = match planned {
            Ok(planned) => {
                let meta = &budget.metadata;
                let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
                let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
                let why = format!("Pod was expected by PDB {namespace}/{name} to be deleted but it wasn't");
                for pod in planned.stayed {
                    self.recorder.record(&reference(&*pod), EventType::Warning, "NotDeleted", &why);
                }
                let again = planned.again.map(|again| Duration::try_from(again).unwrap_or_default());
                (planned.status, again.map_or(Next::Await, Next::After))
            }
            Err(why) => {
                let told = format!("Failed to calculate the number of expected pods: {why}");
                self.recorder.record(&about, EventType::Warning, "CalculateExpectedPodCountFailed", &told);
                (plan::failed(&budget, &why, now), Next::Await)
            }
        };
        if budget.status.as_ref() != Some(&status) {
            let changed = PodDisruptionBudget { status: Some(status), ..(*budget).clone() };
            let namespace = split_key(key).0;
            let api = self.client.namespaced::<PodDisruptionBudget>(namespace);
            self.budgets.reached(&api.update_status(&changed).await?).await;
        }
        Ok(next)
    }

    /// How many pods the controllers of these are asked for together.
    async fn scale(
        &self,
        budget: &PodDisruptionBudget,
        pods: &[Arc<Pod>],
        about: &ObjectReference,
    ) -> Result<i32, String> {
        let Some(spec) = budget.spec.as_ref().filter(|spec| plan::needs_scale(spec)) else { return Ok(0) };
        let mut scales: BTreeMap<String, i32> = BTreeMap::new();
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut unmanaged = false;
        for pod in pods {
            let Some(owner) = controller_of(&pod.metadata) else {
                unmanaged = true;
                continue;
            };
            if seen.insert(&owner.uid) {
                let (name, namespace) = (&pod.metadata.name, pod.metadata.namespace.as_deref());
                let found = self.controller_scale(owner, namespace.unwrap_or_default()).await?;
                let none =
                    || format!("found no controllers for pod {:?}", name.as_deref().unwrap_or_default());
                let (uid, scale) = found.ok_or_else(none)?;
                scales.insert(uid, scale);
            }
        }
        if unmanaged {
            let selector = serde_json::to_string(&spec.selector).unwrap_or_default();
            let why = format!(
                "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a \
                 result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. \
                 To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value."
            );
            self.recorder.record(about, EventType::Warning, "UnmanagedPods", &why);
        }
        Ok(scales.into_values().fold(0, i32::saturating_add))
    }

    /// The uid of what decides about the number of a controller's pods, and that number; a replica set's may be that of
    /// its deployment.
    async fn controller_scale(
        &self,
        owner: &OwnerReference,
        namespace: &str,
    ) -> Result<Option<(String, i32)>, String> {
        let Some((kind, object)) = self.object(owner, namespace).await? else { return Ok(None) };
        let deployment = meta::controller(&object)
            .filter(|owner| kind.kind == "ReplicaSet" && owner["kind"] == "Deployment")
            .and_then(|owner| serde_json::from_value::<OwnerReference>(owner.clone()).ok());
        let above = match &deployment {
            Some(deployment) => self.object(deployment, namespace).await?,
            None => None,
        };
        let (kind, object) = above.unwrap_or((kind, object));
        if !kind.subresources.iter().any(|part| part.name == "scale") {
            let group = if kind.group.is_empty() { String::new() } else { format!(".{}", kind.group) };
            return Err(format!("{}{group} does not implement the scale subresource", kind.plural));
        }
        let replicas = match kind.types.custom() {
            None => object["spec"]["replicas"].as_i64(),
            Some(_) => {
                let scale =
                    self.client.subresource(&kind, Some(namespace), meta::name(&object), "scale").await;
                scale.map_err(|status| status.to_string())?["spec"]["replicas"].as_i64()
            }
        };
        let scale = replicas.and_then(|replicas| i32::try_from(replicas).ok()).unwrap_or(0);
        Ok(Some((meta::uid(&object).to_owned(), scale)))
    }

    /// The object that a reference means, if it is still that one.
    async fn object(
        &self,
        owner: &OwnerReference,
        namespace: &str,
    ) -> Result<Option<(Arc<Kind>, Value)>, String> {
        let (group, version) = meta::group_version(&owner.api_version);
        let Some(kind) = self.kinds.by_kind(group, version, &owner.kind) else { return Ok(None) };
        match self.client.object(&kind, kind.namespaced.then_some(namespace), &owner.name).await {
            Ok(entry) => {
                let object = entry.json().clone();
                Ok((meta::uid(&object) == owner.uid).then_some((kind, object)))
            }
            Err(status) if status.is("NotFound") => Ok(None),
            Err(status) => Err(status.to_string()),
        }
    }
}
