//! Horizontal pod autoscalers: as many pods as the use of CPU and memory asks for (Kubernetes
//! `pkg/controller/podautoscaler`).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus, MetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::kinds::Kinds;
use super::owned::{Owner, selector, selects};
use super::{Next, enqueue, queue, reflect, seconds, work};
use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::node::Node;
use crate::api::selector::LabelSelector;
use crate::api::status::Status;
use crate::client::Client;
use crate::client::events::{EventType, Recorder};
use crate::client::reflector::{Reflector, split_key};
use crate::clock;

mod conditions;
mod limits;
mod metrics;
mod replicas;

use conditions::set;
use limits::{Limits, Memory};
use metrics::{Unusable, look, tolerance};

/// How often autoscalers are looked at (`--horizontal-pod-autoscaler-sync-period`).
const PERIOD: Duration = Duration::from_secs(15);

/// Runs until dropped.
pub async fn run(client: Client, pods: Reflector<Pod>, kinds: Kinds, node: Arc<dyn Node>) {
    let mut tasks = JoinSet::new();
    let scalers: Reflector<HorizontalPodAutoscaler> = reflect(&mut tasks, &client);
    scalers.synced().await;
    pods.synced().await;
    let (recorder, record) = Recorder::new(client.clone(), "horizontal-pod-autoscaler", "");
    let queue = queue(&client, "horizontalpodautoscaler");
    let controller = Controller {
        client,
        scalers: scalers.clone(),
        pods,
        kinds,
        node,
        recorder,
        memories: Mutex::default(),
        selectors: Mutex::default(),
    };
    let reconcile = |key: String| {
        let controller = &controller;
        async move { controller.reconcile(&key).await }
    };
    let by_change = enqueue(scalers.subscribe(), queue.clone());
    tokio::join!(record, by_change, work("horizontal-pod-autoscaler", &queue, reconcile));
}

struct Controller {
    client: Client,
    scalers: Reflector<HorizontalPodAutoscaler>,
    pods: Reflector<Pod>,
    kinds: Kinds,
    node: Arc<dyn Node>,
    recorder: Recorder,
    /// By key; after a restart the windows begin anew.
    memories: Mutex<HashMap<String, (Timestamp, Memory)>>,
    /// Which pods each autoscaler was last seen to scale, by key.
    selectors: Mutex<BTreeMap<String, LabelSelector>>,
}

/// The autoscalers of a namespace that scale some of these pods, when they are several (pure).
fn rivals(namespace: &str, pods: &[Arc<Pod>], selectors: &BTreeMap<String, LabelSelector>) -> Option<String> {
    let scales = |selector: &LabelSelector| pods.iter().any(|pod| selects(selector, &pod.metadata));
    let names: Vec<String> = selectors
        .iter()
        .map(|(key, selector)| (split_key(key), selector))
        .filter(|((of, _), selector)| *of == namespace && scales(selector))
        .map(|((_, name), _)| format!("{{{name} {namespace}}}"))
        .collect();
    (names.len() > 1).then(|| names.join(" "))
}

/// What an autoscaler scales.
struct Scaled {
    kind: Arc<Kind>,
    scale: Value,
}

impl Scaled {
    fn number(&self, part: &str) -> i32 {
        let number = self.scale[part]["replicas"].as_i64().unwrap_or(0);
        i32::try_from(number).unwrap_or(i32::MAX)
    }
}

/// What all metrics together ask for.
struct Asked {
    replicas: i32,
    metric: String,
    statuses: Vec<MetricStatus>,
}

impl Controller {
    fn memories(&self) -> MutexGuard<'_, HashMap<String, (Timestamp, Memory)>> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn selectors(&self) -> MutexGuard<'_, BTreeMap<String, LabelSelector>> {
        self.selectors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at an autoscaler once a period, however often it changes.
    async fn reconcile(&self, key: &str) -> Result<Next, Status> {
        let Some(scaler) = self.scalers.get(key) else {
            self.memories().remove(key);
            self.selectors().remove(key);
            return Ok(Next::Await);
        };
        let now = clock::now();
        let (last, mut memory) = self.memories().get(key).cloned().unwrap_or_default();
        let left = last + SignedDuration::try_from(PERIOD).unwrap_or_default() - now;
        if let Ok(left) = Duration::try_from(left)
            && !left.is_zero()
        {
            return Ok(Next::After(left));
        }
        let owner = Owner::new(&*scaler, selector(None).map_err(Status::internal)?);
        let mut status = scaler.status.clone().unwrap_or_default();
        let scaled = self.scale(&scaler, &owner, &mut status, &mut memory, now).await;
        if let Err(why) = scaled {
            tracing::debug!(key, why, "not scaled");
        }
        self.memories().insert(key.to_owned(), (now, memory));
        if scaler.status.as_ref() != Some(&status) {
            let changed = HorizontalPodAutoscaler { status: Some(status), ..(*scaler).clone() };
            let (namespace, _) = split_key(key);
            let api = self.client.namespaced::<HorizontalPodAutoscaler>(namespace);
            self.scalers.reached(&api.update_status(&changed).await?).await;
        }
        Ok(Next::After(PERIOD))
    }

    /// Looks at the metrics and scales; what there is to say stands in the status.
    async fn scale(
        &self,
        scaler: &HorizontalPodAutoscaler,
        owner: &Owner,
        status: &mut HorizontalPodAutoscalerStatus,
        memory: &mut Memory,
        now: Timestamp,
    ) -> Result<(), String> {
        let tell =
            |kind, reason: &str, message: &str| self.recorder.record(&owner.about, kind, reason, message);
        let target = match self.target(scaler, owner).await {
            Ok(target) => target,
            Err(why) => {
                tell(EventType::Warning, "FailedGetScale", &why);
                let told = format!("the HPA controller was unable to get the target's current scale: {why}");
                set(status, "AbleToScale", false, "FailedGetScale", &told, now);
                return Err(why);
            }
        };
        let told = "the HPA controller was able to get the target's current scale";
        set(status, "AbleToScale", true, "SucceededGetScale", told, now);
        let current = target.number("spec");
        memory.begin(current, now);
        status.current_replicas = Some(target.number("status"));
        let (least, most) = (scaler.spec.min_replicas.unwrap_or(1), scaler.spec.max_replicas);
        let (desired, why) = if current == 0 && least != 0 {
            let told = "scaling is disabled since the replica count of the target is zero";
            set(status, "ScalingActive", false, "ScalingDisabled", told, now);
            status.desired_replicas = 0;
            status.current_metrics = None;
            return Ok(());
        } else if current > most {
            (most, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < least {
            (least, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            let asked = match self.asked(scaler, owner, &target, status, now).await {
                Ok(asked) => asked,
                Err(why) => {
                    tell(EventType::Warning, "FailedComputeMetricsReplicas", &why);
                    return Err(why);
                }
            };
            status.current_metrics = Some(asked.statuses);
            let limits = Limits { least, most, behavior: scaler.spec.behavior.as_ref() };
            let outcome = memory.settle(limits, current, asked.replicas, now);
            set(status, "AbleToScale", true, outcome.able.0, outcome.able.1, now);
            set(status, "ScalingLimited", outcome.limited, outcome.limit.0, outcome.limit.1, now);
            let why = if asked.replicas > current {
                format!("{} above target", asked.metric)
            } else {
                "All metrics below target".to_owned()
            };
            (outcome.replicas, why)
        };
        if desired != current {
            self.write(&target, owner, desired).await.map_err(|failure| {
                let told = format!("New size: {desired}; reason: {why}; error: {failure}");
                tell(EventType::Warning, "FailedRescale", &told);
                let told = format!("the HPA controller was unable to update the target scale: {failure}");
                set(status, "AbleToScale", false, "FailedUpdateScale", &told, now);
                failure.to_string()
            })?;
            let told = format!("the HPA controller was able to update the target scale to {desired}");
            set(status, "AbleToScale", true, "SucceededRescale", &told, now);
            tell(EventType::Normal, "SuccessfulRescale", &format!("New size: {desired}; reason: {why}"));
            memory.changed(current, desired, now);
            status.last_scale_time = Some(Time(seconds(now)));
        }
        status.desired_replicas = desired;
        Ok(())
    }

    /// The scale of what is to be scaled.
    async fn target(&self, scaler: &HorizontalPodAutoscaler, owner: &Owner) -> Result<Scaled, String> {
        let reference = &scaler.spec.scale_target_ref;
        let (group, version) = meta::group_version(reference.api_version.as_deref().unwrap_or_default());
        let unknown = || {
            let group = if group.is_empty() { String::new() } else { format!(" in group \"{group}\"") };
            format!("no matches for kind \"{}\"{group}", reference.kind)
        };
        let kind = self.kinds.by_kind(group, version, &reference.kind).ok_or_else(unknown)?;
        let scale = self.client.subresource(&kind, Some(&owner.namespace), &reference.name, "scale").await;
        scale.map(|scale| Scaled { kind, scale }).map_err(|status| status.to_string())
    }

    async fn write(&self, target: &Scaled, owner: &Owner, replicas: i32) -> Result<(), Status> {
        let mut scale = target.scale.clone();
        scale["spec"]["replicas"] = json!(replicas);
        let name = meta::name(&target.scale).to_owned();
        self.client.put_subresource(&target.kind, Some(&owner.namespace), &name, "scale", scale).await
    }

    /// The largest number that any metric asks for; one that cannot be looked at keeps no other from counting.
    async fn asked(
        &self,
        scaler: &HorizontalPodAutoscaler,
        owner: &Owner,
        target: &Scaled,
        status: &mut HorizontalPodAutoscalerStatus,
        now: Timestamp,
    ) -> Result<Asked, String> {
        let tell = |reason: &str, message: &str| {
            self.recorder.record(&owner.about, EventType::Warning, reason, message);
        };
        let chosen = target.scale["status"]["selector"].as_str().unwrap_or_default();
        if chosen.is_empty() {
            let told = "selector is required";
            tell("SelectorRequired", told);
            let told_too = "the HPA target's scale is missing a selector";
            set(status, "ScalingActive", false, "InvalidSelector", told_too, now);
            return Err(told.to_owned());
        }
        let text = chosen;
        let chosen = LabelSelector::parse(text)?;
        let pods = self.pods.in_namespace(&owner.namespace).into_iter();
        let pods: Vec<Arc<Pod>> = pods.filter(|pod| selects(&chosen, &pod.metadata)).collect();
        let name = scaler.metadata.name.as_deref().unwrap_or_default();
        let rivals = {
            let mut selectors = self.selectors();
            selectors.insert(format!("{}/{name}", owner.namespace), chosen);
            rivals(&owner.namespace, &pods, &selectors)
        };
        if let Some(rivals) = rivals {
            let told = format!("pods by selector {text} are controlled by multiple HPAs: [{rivals}]");
            tell("AmbiguousSelector", &told);
            set(status, "ScalingActive", false, "AmbiguousSelector", &told, now);
            return Err(told);
        }
        let usage = self.node.usage().await.map_err(|status| status.to_string());
        let specs = scaler.spec.metrics.as_deref().unwrap_or_default();
        let mut asked = Asked { replicas: 0, metric: String::new(), statuses: Vec::new() };
        let mut unusable: Vec<Unusable> = Vec::new();
        let (up, down) = tolerance(scaler);
        for spec in specs {
            match look(spec, target.number("spec"), &pods, &usage, (down, up), now) {
                Ok((proposal, metric, shown)) => {
                    if proposal.replicas > asked.replicas || asked.statuses.is_empty() {
                        (asked.replicas, asked.metric) = (proposal.replicas, metric);
                    }
                    asked.statuses.push(shown);
                }
                Err(why) => {
                    tell(why.reason, &why.what);
                    unusable.push(why);
                }
            }
        }
        // While anything is not known nothing is taken away.
        let fewer = asked.replicas < target.number("spec");
        if let Some(first) = unusable.first().filter(|_| asked.statuses.is_empty() || fewer) {
            let told = format!("the HPA was unable to compute the replica count: {}", first.what);
            set(status, "ScalingActive", false, first.reason, &told, now);
            let (bad, all) = (unusable.len(), specs.len());
            return Err(format!(
                "invalid metrics ({bad} invalid out of {all}), first error is: {}",
                first.told
            ));
        }
        let metric = &asked.metric;
        let told = format!("the HPA was able to successfully calculate a replica count from {metric}");
        set(status, "ScalingActive", true, "ValidMetricFound", &told, now);
        Ok(asked)
    }
}

#[cfg(test)]
mod tests;
