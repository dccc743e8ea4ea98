//! What is done for a pod while it runs: volumes follow the objects that they show, disk use is measured.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{EVICTION_GRACE, Worker};
use crate::client::events::EventType;
use crate::kubelet::observed::ObservedPod;
use crate::kubelet::plan::sooner;
use crate::kubelet::references::References;
use crate::kubelet::status::Waiting;
use crate::kubelet::volumes::{Maker, empty_dir};
use crate::runtime::{ContainerState, Runtime};

/// How often the size of a limited volume is measured (kubelet's eviction monitoring period).
const MEASURE: Duration = Duration::from_secs(10);

/// Labels and annotations.
type Marks = (Option<BTreeMap<String, String>>, Option<BTreeMap<String, String>>);

/// Where the upkeep of a pod stands.
#[derive(Default)]
pub struct Upkeep {
    /// Told when an object that the pod refers to changes.
    referenced: Arc<Notify>,
    references: Option<References>,
    /// What volumes show of the pod itself; `None` when anything that they show may be out of date.
    shown: Option<Marks>,
    measured: Option<Instant>,
}

impl Upkeep {
    /// Told when an object that the pod refers to changes.
    pub fn referenced(&self) -> Arc<Notify> {
        self.referenced.clone()
    }

    /// Volumes may be out of date.
    pub fn reference_changed(&mut self) {
        self.shown = None;
    }

    /// Nothing is to be kept up any more.
    pub fn stop(&mut self) {
        self.references = None;
    }
}

impl<R: Runtime> Worker<R> {
    /// Brings what the pod's containers see up to date; answers when to look again.
    pub(super) async fn keep_up(&mut self, pod: &Pod, observed: &ObservedPod) -> Option<Duration> {
        if self.upkeep.references.is_none() {
            let references = References::watch(&self.context.client, pod, &self.upkeep.referenced);
            self.upkeep.references = Some(references);
        }
        if !observed.containers.iter().any(|c| matches!(c.state, ContainerState::Running { .. })) {
            return None;
        }
        let mut wake = None;
        if let Some(renew) = self.refresh_volumes(pod).await {
            sooner(&mut wake, renew);
        }
        if let Some(again) = self.measure_volumes(pod).await {
            sooner(&mut wake, again);
        }
        wake
    }

    async fn refresh_volumes(&mut self, pod: &Pod) -> Option<Duration> {
        let volumes = self.volumes.clone();
        let mut volumes = volumes.lock().await;
        let marks = (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
        let due = volumes.renew().is_some_and(|renew| renew <= Instant::now());
        if due || self.upkeep.shown.as_ref() != Some(&marks) {
            let dirs = self.context.dirs(&self.uid);
            let node = &self.context.config.capacity;
            let maker = Maker { client: &self.context.client, pod, dirs: &dirs, node };
            let errors = volumes.refresh(&maker).await;
            for error in &errors {
                self.context.event(pod, None, EventType::Warning, "FailedMount", &error.to_string());
            }
            self.upkeep.shown = Some(marks);
            if due && !errors.is_empty() {
                return Some(super::RETRY);
            }
        }
        volumes.renew().map(|renew| renew.saturating_duration_since(Instant::now()).max(super::RETRY))
    }

    /// Measures volumes whose size is limited; a pod that has filled one is evicted.
    async fn measure_volumes(&mut self, pod: &Pod) -> Option<Duration> {
        let limited = empty_dir::limited(pod);
        if limited.is_empty() {
            return None;
        }
        let now = Instant::now();
        let next = self.upkeep.measured.map_or(now, |measured| measured + MEASURE);
        if let Some(left) = next.checked_duration_since(now).filter(|left| !left.is_zero()) {
            return Some(left);
        }
        self.upkeep.measured = Some(now);
        let dirs = self.context.dirs(&self.uid);
        let excess = tokio::task::spawn_blocking(move || empty_dir::excess(&dirs, &limited)).await;
        let Ok(Some(message)) = excess else { return Some(MEASURE) };
        let failure = Waiting { reason: "Evicted".into(), message };
        self.fail(pod, EventType::Warning, failure, EVICTION_GRACE);
        Some(Duration::ZERO)
    }
}
