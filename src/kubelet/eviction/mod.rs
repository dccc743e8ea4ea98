//! What a node does when it runs short of memory, disk or processes: it says so, gives up images that nobody uses, and
//! then ends pods, one at a time (kubelet's eviction manager).
//!
//! Nothing is measured while no pod runs and enough is left. While some do, the pause between two looks is as long as
//! the nearest threshold needs to be reached at worst; the kernel tells of stalls for want of memory, and pulls ask for
//! a look.

pub mod measure;
pub mod rank;
pub mod thresholds;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::measure::measure;
use self::rank::{Candidate, is_critical, message, rank, refusal};
use self::thresholds::{Condition, Level, Levels, Seen, Signal, Since, Threshold, met, pause};
use super::context::Context;
use super::image_gc::{Collected, Collector, Policy};
use super::pod::is_over;
use super::status::Waiting;
use super::storage_limits::Usage;
use super::volumes::empty_dir;
use super::{disk, statistics};
use crate::api::request::PatchKind;
use crate::client::events::EventType;
use crate::client::reflector::{Key, Reflector, key_of};
use crate::clock;
use crate::runtime::Runtime;
use crate::sys::stall::Stalls;

/// The reason of pods that are evicted, and of those that are not taken.
pub const REASON: &str = "Evicted";
/// Why a pod that made room for a critical one has failed.
pub const PREEMPTED: &str = "Preempting";
/// How long an evicted pod is waited for before the next one goes (kubelet's `podCleanupTimeout`).
const CLEANUP: Duration = Duration::from_secs(30);
/// How soon is looked again while a node runs short (kubelet's eviction monitoring period).
const AGAIN: Duration = Duration::from_secs(10);
/// How long a pod has to end when it is evicted at once.
pub const GRACE: Duration = Duration::from_secs(1);
/// How soon when nothing is left that could go.
const HOPELESS: Duration = Duration::from_secs(60);
/// How long pods stay while unused images cannot go, as others are being fetched or taken.
const PULLS: Duration = Duration::from_secs(300);

/// When a node runs short.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What must be left.
    pub thresholds: Vec<Threshold>,
    /// How long pods have at most to end when a soft threshold was met for too long (kubelet's
    /// `evictionMaxPodGracePeriod`).
    pub pod_grace: Duration,
    /// How long the node shows a condition after it was last seen (kubelet's `evictionPressureTransitionPeriod`).
    pub stays: Duration,
    /// When images go.
    pub images: Policy,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            thresholds: thresholds::usual(),
            pod_grace: Duration::ZERO,
            stays: Duration::from_secs(300),
            images: Policy::default(),
        }
    }
}

/// What is decided about the pods of a node; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Eviction(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// A pod is to be evicted.
    decided: Notify,
    /// Somebody wants a look.
    wanted: Notify,
    /// What an evicted pod had is free.
    carried_out: Notify,
}

#[derive(Debug, Default)]
struct State {
    conditions: BTreeSet<Condition>,
    /// By uid.
    evicted: HashMap<String, Verdict>,
}

/// A pod is to go.
#[derive(Debug)]
struct Verdict {
    why: Waiting,
    /// How long it has to end, if its own grace period is not shorter.
    most: Duration,
    /// Whether what it had is free.
    carried_out: bool,
}

impl Eviction {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The conditions that the node is in.
    pub fn conditions(&self) -> BTreeSet<Condition> {
        self.lock().conditions.clone()
    }

    /// Why the node does not take a pod that has not begun.
    pub fn refusal(&self, pod: &Pod) -> Option<Waiting> {
        let conditions: Vec<Condition> = self.lock().conditions.iter().copied().collect();
        let message = refusal(pod, &conditions)?;
        Some(Waiting { reason: REASON.into(), message })
    }

    /// Why the pod with this uid is to go, and how long it has when its own grace period is this.
    pub fn of(&self, uid: &str, own: Duration) -> Option<(Waiting, Duration)> {
        let state = self.lock();
        let verdict = state.evicted.get(uid)?;
        // Nobody is killed unasked, as in Kubernetes.
        Some((verdict.why.clone(), own.min(verdict.most).max(GRACE)))
    }

    fn is_decided(&self, uid: &str) -> bool {
        self.lock().evicted.contains_key(uid)
    }

    /// A pod that has ended takes no room any more.
    pub fn cleaned(&self, uid: &str) {
        match self.lock().evicted.get_mut(uid) {
            Some(verdict) => verdict.carried_out = true,
            None => return,
        }
        self.0.carried_out.notify_waiters();
        self.look();
    }

    /// Nothing is left of a pod.
    pub fn forget(&self, uid: &str) {
        if self.lock().evicted.remove(uid).is_some() {
            self.0.carried_out.notify_waiters();
        }
    }

    /// More is used than before, or may be soon.
    pub fn look(&self) {
        self.0.wanted.notify_one();
    }

    /// Waits until a pod is to be evicted.
    pub async fn decided(&self) {
        self.0.decided.notified().await;
    }

    pub(super) fn evict(&self, uid: &str, message: String, most: Duration) {
        self.decide(uid, Waiting { reason: REASON.into(), message }, most);
    }

    /// Has a pod go so that a critical one can come.
    pub(super) fn preempt(&self, uid: &str) {
        let message = "Preempted in order to admit critical pod".to_owned();
        self.decide(uid, Waiting { reason: PREEMPTED.into(), message }, Duration::MAX);
    }

    /// What is decided about a pod already stays.
    fn decide(&self, uid: &str, why: Waiting, most: Duration) {
        let verdict = Verdict { why, most, carried_out: false };
        self.lock().evicted.entry(uid.to_owned()).or_insert(verdict);
        self.0.decided.notify_one();
    }

    /// Waits until an evicted pod takes no room any more.
    pub(super) async fn carried_out(&self, uid: &str) {
        loop {
            let told = self.0.carried_out.notified();
            tokio::pin!(told);
            // What is told from now on is heard: several may wait, each for its own pod.
            told.as_mut().enable();
            if self.lock().evicted.get(uid).is_none_or(|verdict| verdict.carried_out) {
                return;
            }
            told.await;
        }
    }
}

/// Watches over a node's resources.
pub struct Manager<R> {
    context: Arc<Context<R>>,
    pods: Reflector<Pod>,
    seen: Seen,
    since: Since,
    collector: Collector,
    /// What the node's object shows.
    shown: BTreeSet<Condition>,
    /// What was short at the last look.
    short: BTreeSet<Signal>,
    /// Of what there was too little for long enough that pods may go.
    told: BTreeSet<Signal>,
    /// Since when evictions are put off, as unused images cannot go.
    put_off: Option<Instant>,
}

/// What has come of an attempt to have more of what is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relief {
    /// A pod has gone: the next look tells whether that is enough.
    Pod,
    /// It is there or will be, without a further pod for now.
    Coming,
    /// Nothing could go.
    None,
}

impl<R: Runtime> Manager<R> {
    /// Looks for the first time, so that the node can be registered as it is.
    pub async fn new(context: Arc<Context<R>>, pods: Reflector<Pod>) -> Manager<R> {
        let mut manager = Manager {
            context,
            pods,
            seen: Seen::default(),
            since: Since::default(),
            collector: Collector::default(),
            shown: BTreeSet::new(),
            short: BTreeSet::new(),
            told: BTreeSet::new(),
            put_off: None,
        };
        let levels = manager.measure().await;
        let met = met(&manager.context.config.eviction.thresholds, &levels);
        manager.shown = manager.take(&met);
        manager
    }

    /// Watches for ever.
    pub async fn run(mut self) {
        let mut stalls =
            Stalls::listen().inspect_err(|error| tracing::debug!(%error, "no word on stalls")).ok();
        let shared = self.context.eviction.clone();
        loop {
            let pause = self.look().await;
            let timer = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            let stalled = async {
                match &stalls {
                    Some(stalls) => stalls.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = timer => {}
                told = stalled => if told.is_err() { stalls = None },
                () = shared.0.wanted.notified() => {}
            }
        }
    }

    async fn measure(&self) -> Levels {
        let context = self.context.clone();
        let measured = tokio::task::spawn_blocking(move || measure(&context.config, &context.runtime)).await;
        measured.unwrap_or_default()
    }

    fn take(&mut self, met: &[Threshold]) -> BTreeSet<Condition> {
        let conditions = self.seen.take(met, Instant::now(), self.context.config.eviction.stays);
        self.context.eviction.lock().conditions = conditions.clone();
        conditions
    }

    /// Looks once, and does something about what is short; answers how long nobody need look again.
    async fn look(&mut self) -> Option<Duration> {
        let thresholds = self.context.config.eviction.thresholds.clone();
        let mut levels = self.measure().await;
        let collected = self.collector.collect(&self.context, levels.get(&Signal::ImageFs)).await;
        if collected == Collected::Some {
            levels = self.measure().await;
        }
        let met = met(&thresholds, &levels);
        let conditions = self.take(&met);
        let shown = self.show(&conditions).await;
        self.warn(&met, &levels);
        let due = self.since.take(&met, Instant::now());
        self.tell(&due);
        let relief = match due.first() {
            Some(threshold) => self.relieve(threshold, &levels).await,
            None => {
                self.put_off = None;
                Relief::Coming
            }
        };
        if relief == Relief::Pod {
            return Some(Duration::ZERO);
        }
        if !shown || collected == Collected::Later {
            return Some(AGAIN);
        }
        if !conditions.is_empty() {
            return Some(if relief == Relief::None { HOPELESS } else { AGAIN });
        }
        let runs = self.pods.list().iter().any(|pod| !is_over(pod));
        runs.then(|| pause(&thresholds, &levels))
    }

    /// Has the node's object show the conditions; `false` when that failed.
    async fn show(&mut self, conditions: &BTreeSet<Condition>) -> bool {
        let changed: Vec<Condition> = self.shown.symmetric_difference(conditions).copied().collect();
        if changed.is_empty() {
            return true;
        }
        let now = Time(clock::now());
        let condition = |condition: &Condition| {
            let holds = conditions.contains(condition);
            let (reason, message, _) = condition.words(holds);
            json!({
                "type": condition.name(), "status": if holds { "True" } else { "False" }, "reason": reason,
                "message": message, "lastHeartbeatTime": now, "lastTransitionTime": now,
            })
        };
        let body = json!({"status": {"conditions": changed.iter().map(condition).collect::<Vec<_>>()}});
        let node = &self.context.config.node;
        let nodes = self.context.client.all::<Node>();
        if let Err(status) = nodes.patch(node, Some("status"), PatchKind::Strategic, body).await {
            tracing::warn!(%status, "the node's conditions are not shown");
            return false;
        }
        for condition in &changed {
            let (_, _, reason) = condition.words(conditions.contains(condition));
            let message = format!("Node {node} status is now: {reason}");
            self.context.node_event(EventType::Normal, reason, &message);
        }
        self.shown = conditions.clone();
        true
    }

    /// Tells of thresholds on whose account pods may go, when they are others than before.
    fn tell(&mut self, due: &[Threshold]) {
        let signals = due.iter().map(|threshold| threshold.signal).collect();
        let before = std::mem::replace(&mut self.told, signals);
        if let Some(first) = due.first().filter(|_| before != self.told) {
            let message = format!("Attempting to reclaim {}", first.signal.resource());
            self.context.node_event(EventType::Warning, "EvictionThresholdMet", &message);
        }
    }

    /// Has the log say what has become short.
    fn warn(&mut self, met: &[Threshold], levels: &Levels) {
        let signals = met.iter().map(|threshold| threshold.signal).collect();
        let before = std::mem::replace(&mut self.short, signals);
        for threshold in met.iter().filter(|threshold| !before.contains(&threshold.signal)) {
            let Some(level) = levels.get(&threshold.signal) else { continue };
            let signal = threshold.signal;
            let (left, least) = (signal.amount(level.available), threshold.amount(level.capacity));
            let directory = match signal {
                Signal::NodeFs | Signal::NodeFsInodes => Some(&self.context.config.pods),
                Signal::ImageFs | Signal::ImageFsInodes => Some(&self.context.config.images),
                Signal::Memory | Signal::Pid => None,
            };
            tracing::warn!(
                signal = signal.name(), %left, %least, directory = directory.map(tracing::field::debug),
                "the node runs short and refuses pods: free some, or set another threshold in {}",
                if threshold.is_hard() { "evictionHard" } else { "evictionSoft" }
            );
        }
    }

    /// Has more of what is short.
    async fn relieve(&mut self, threshold: &Threshold, levels: &Levels) -> Relief {
        let Some(level) = levels.get(&threshold.signal) else { return Relief::None };
        let disk = threshold.signal.condition() == Condition::DiskPressure;
        if disk && self.reclaim(threshold, *level).await {
            return Relief::Coming;
        }
        self.evict(threshold, *level).await
    }

    /// Gives up what no pod needs; `true` when no pod must go for now.
    async fn reclaim(&mut self, threshold: &Threshold, level: Level) -> bool {
        let settings = &self.context.config.eviction;
        match self.context.images.free(u64::MAX, settings.images.age).await {
            // A pull that takes long must not keep a full disk full.
            Ok(None) => {
                let since = *self.put_off.get_or_insert_with(Instant::now);
                if since.elapsed() < PULLS && !threshold.is_grave(level) {
                    return true;
                }
            }
            Ok(Some(_)) => self.put_off = None,
            Err(message) => tracing::warn!(message, "cannot remove unused images"),
        }
        met(&settings.thresholds, &self.measure().await).is_empty()
    }

    /// Ends the pod that is to go first, and waits until what it had is free.
    async fn evict(&self, threshold: &Threshold, level: Level) -> Relief {
        let candidates = self.candidates(threshold.signal).await;
        let Some(first) = rank(candidates, threshold.signal).into_iter().next() else { return Relief::None };
        let key: Key = key_of(&*first.pod);
        let uid = first.pod.metadata.uid.clone().unwrap_or_default();
        let message = message(&first, threshold, level);
        tracing::warn!(pod = key, message, "evicting a pod");
        let eviction = &self.context.eviction;
        let most = if threshold.is_hard() { GRACE } else { self.context.config.eviction.pod_grace };
        eviction.evict(&uid, message, most);
        // Kubelet waits for the end of the pod itself, however long that may take, and then so long for the rest.
        if tokio::time::timeout(most + CLEANUP, eviction.carried_out(&uid)).await.is_err() {
            tracing::warn!(pod = key, "the evicted pod has not ended in time");
            return Relief::Coming;
        }
        Relief::Pod
    }

    /// The pods that run, with what they use.
    async fn candidates(&self, short: Signal) -> Vec<Candidate> {
        let may_go = |pod: &Arc<Pod>| {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            let ends = pod.metadata.deletion_timestamp.is_some() || is_over(pod);
            !ends && !is_critical(pod) && !self.context.eviction.is_decided(uid)
        };
        let pods: Vec<Arc<Pod>> = self.pods.list().into_iter().filter(may_go).collect();
        if pods.is_empty() {
            return Vec::new();
        }
        let reading = match statistics::read(&self.context).await {
            Ok(reading) => reading,
            Err(error) => {
                tracing::warn!(%error, "cannot see what pods use");
                return Vec::new();
            }
        };
        let context = self.context.clone();
        let measured = tokio::task::spawn_blocking(move || {
            let mut candidates = Vec::new();
            for read in &reading.pods {
                let read_of = |pod: &&Arc<Pod>| pod.metadata.uid.as_ref() == Some(&read.uid);
                let Some(pod) = pods.iter().find(read_of) else { continue };
                // Only a full disk is worth the walk over all that is on it.
                let disk = match short.condition() {
                    Condition::DiskPressure => {
                        let containers = read.containers.iter().map(|c| (c.id.clone(), c.name.clone()));
                        disk::measure(&context, pod, empty_dir::on_disk(pod), containers)
                    }
                    _ => Usage::default(),
                };
                let containers = read.containers.iter().map(|c| {
                    let on_disk = disk.containers.get(&c.name).copied().unwrap_or(0);
                    (c.name.clone(), c.stats.memory_working_set, on_disk)
                });
                candidates.push(Candidate {
                    pod: pod.clone(),
                    memory: read.stats.memory_working_set,
                    pids: read.stats.pids,
                    disk: disk.total(),
                    containers: containers.collect(),
                });
            }
            candidates
        });
        measured.await.unwrap_or_default()
    }
}
