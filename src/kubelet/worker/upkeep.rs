//! What is done for a pod while it runs: volumes follow the objects that they show, disk use is measured.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Mutex, Notify, oneshot};
use tokio::time::Instant;

use super::Worker;
use crate::client::events::EventType;
use crate::kubelet::backoff::Backoff;
use crate::kubelet::observed::ObservedPod;
use crate::kubelet::plan::{Action, sooner};
use crate::kubelet::references::References;
use crate::kubelet::status::Waiting;
use crate::kubelet::storage_limits::Limits;
use crate::kubelet::volumes::Volumes;
use crate::kubelet::{disk, eviction};
use crate::runtime::{ContainerState, Runtime};

/// How often what is limited on disk is measured (kubelet's eviction monitoring period).
const MEASURE: Duration = Duration::from_secs(10);

/// Where the upkeep of a pod stands.
#[derive(Default)]
pub struct Upkeep {
    /// Told when an object that the pod refers to changes, or a certificate of the pod.
    referenced: Arc<Notify>,
    references: Option<References>,
    trouble: Option<Trouble>,
    measured: Option<Instant>,
    /// What a measurement finds wrong.
    excess: Option<oneshot::Receiver<Option<String>>>,
}

/// Volumes that could not be brought up to date.
struct Trouble {
    backoff: Backoff,
    until: Instant,
    /// What was wrong, and is not to be told again.
    told: Vec<String>,
}

impl Upkeep {
    /// Told when an object that the pod refers to changes, or a certificate of the pod.
    pub fn referenced(&self) -> Arc<Notify> {
        self.referenced.clone()
    }

    /// The volumes of a pod that has none yet.
    pub fn no_volumes(&self) -> Arc<Mutex<Volumes>> {
        Arc::new(Mutex::new(Volumes::new(self.referenced.clone())))
    }

    /// What was wrong may be right now.
    pub fn try_again(&mut self) {
        if let Some(trouble) = &mut self.trouble {
            trouble.until = Instant::now();
        }
    }

    /// Nothing is to be kept up any more.
    pub fn stop(&mut self) {
        self.references = None;
    }

    /// How long volumes that could not be brought up to date are left as they are.
    fn left(&self, now: Instant) -> Option<Duration> {
        self.trouble.as_ref()?.until.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// Takes what went wrong; answers what is new of it.
    fn failed(&mut self, errors: Vec<String>, now: Instant) -> Vec<String> {
        let before = self.trouble.take();
        let (mut backoff, told) =
            before.map_or((Backoff::quick(), Vec::new()), |trouble| (trouble.backoff, trouble.told));
        backoff.grow(now, now);
        let new = errors.iter().filter(|error| !told.contains(error)).cloned().collect();
        self.trouble = Some(Trouble { backoff, until: now + backoff.delay(), told: errors });
        new
    }
}

impl<R: Runtime> Worker<R> {
    /// An object that the pod refers to changed.
    pub(super) async fn reference_changed(&mut self) {
        self.volumes.lock().await.outdate();
        self.upkeep.try_again();
        self.holds.release();
    }

    /// Brings what the pod's containers see up to date before it is acted on; answers when to look again.
    pub(super) async fn keep_up(
        &mut self,
        pod: &Pod,
        observed: &ObservedPod,
        actions: &[Action],
    ) -> Option<Duration> {
        let (shared, changed) = (&self.context.watches, &self.upkeep.referenced);
        let references = self.upkeep.references.get_or_insert_with(|| References::join(shared, pod, changed));
        // New watches can wait until nothing is left to start: the first thing that each tells closes the gap.
        if !actions.iter().any(|a| matches!(a, Action::CreateSandbox { .. } | Action::Start { .. })) {
            references.complete(shared);
        }
        let mut wake = None;
        if let Some(renew) = self.refresh_volumes(pod, observed).await {
            sooner(&mut wake, renew);
        }
        if observed.containers.iter().any(|c| matches!(c.state, ContainerState::Running { .. }))
            && let Some(again) = self.measure_storage(pod, observed)
        {
            sooner(&mut wake, again);
        }
        wake
    }

    /// Brings the volumes that are made up to date, also for containers that come back.
    async fn refresh_volumes(&mut self, pod: &Pod, observed: &ObservedPod) -> Option<Duration> {
        let volumes = self.volumes.clone();
        let mut volumes = volumes.lock().await;
        // Where there is a container, an earlier daemon has made them.
        if !volumes.made() && observed.containers.is_empty() {
            return None;
        }
        let now = Instant::now();
        if volumes.outdated(pod, now) {
            if let Some(left) = self.upkeep.left(now) {
                return Some(left);
            }
            let dirs = self.context.dirs(&self.uid);
            let maker = self.context.maker(pod, &dirs);
            let errors: Vec<String> = volumes.refresh(&maker).await.iter().map(ToString::to_string).collect();
            if !errors.is_empty() {
                for error in self.upkeep.failed(errors, now) {
                    self.context.event(pod, None, EventType::Warning, "FailedMount", &error);
                }
                return self.upkeep.left(now);
            }
            self.upkeep.trouble = None;
        }
        volumes.renew().map(|renew| renew.saturating_duration_since(now).max(super::RETRY))
    }

    /// Measures what a pod has on disk where that is limited, beside all else; one that has too much is evicted.
    fn measure_storage(&mut self, pod: &Pod, observed: &ObservedPod) -> Option<Duration> {
        let limits = Limits::of(pod);
        if limits.is_empty() {
            return None;
        }
        if let Some(excess) = &mut self.upkeep.excess {
            match excess.try_recv() {
                Ok(Some(message)) => {
                    let failure = Waiting { reason: eviction::REASON.into(), message };
                    self.upkeep.excess = None;
                    self.fail(pod, EventType::Warning, failure, eviction::GRACE);
                    return Some(Duration::ZERO);
                }
                // A volume of many files may take longer than the time between two looks.
                Err(oneshot::error::TryRecvError::Empty) => return Some(MEASURE),
                Ok(None) | Err(oneshot::error::TryRecvError::Closed) => self.upkeep.excess = None,
            }
        }
        let now = Instant::now();
        let next = self.upkeep.measured.map_or(now, |measured| measured + MEASURE);
        if let Some(left) = next.checked_duration_since(now).filter(|left| !left.is_zero()) {
            return Some(left);
        }
        self.upkeep.measured = Some(now);
        let (context, pod) = (self.context.clone(), pod.clone());
        let (found, excess) = oneshot::channel();
        self.upkeep.excess = Some(excess);
        let changed = self.changed.clone();
        let running =
            observed.containers.iter().filter(|c| matches!(c.state, ContainerState::Running { .. }));
        let containers: Vec<(String, String)> = match limits.counts_all() {
            true => running.map(|c| (c.id.clone(), c.name.clone())).collect(),
            false => Vec::new(),
        };
        tokio::task::spawn_blocking(move || {
            let taken = disk::measure(&context, &pod, limits.volumes(&pod), containers.into_iter());
            let excess = limits.excess(&taken);
            let evict = excess.is_some();
            if found.send(excess).is_ok() && evict {
                changed.notify_one();
            }
        });
        Some(MEASURE)
    }
}
