//! One pod's life: observe, plan, act, write the status; again whenever something changes.

mod act;
mod drain;
mod holds;
mod hooks;
mod pulls;
mod sizes;
#[cfg(test)]
mod tests;
mod upkeep;
mod words;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Pod, PodStatus, ResourceRequirements};
use serde_json::json;
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::Instant;

use self::drain::Drain;
use self::holds::Holds;
use self::hooks::{Hooks, Moment};
use self::pulls::Pulls;
use self::sizes::Sizes;
use self::upkeep::Upkeep;
use self::words::{back_off_event, crash_loop, name_of};
use super::context::Context;
use super::observed::{ObservedContainer, ObservedPod, ObservedSandbox};
use super::plan::{Action, Goal, Memory, Outcome, Plan, grace_of, plan, sooner};
use super::pod::is_taken;
use super::probes::Probes;
use super::status::{Notes, Waiting, status};
use super::volumes::Volumes;
use super::{app_armor, messages, sandbox};
use crate::api::request::{DeleteOptions, PatchKind};
use crate::api::status::Status;
use crate::client::events::EventType;
use crate::clock;
use crate::runtime::{ContainerState, Runtime};

/// What the API server wants of the pod.
#[derive(Debug, Clone)]
pub enum Desired {
    /// As this object says, which may also say that it is being deleted.
    Pod(Arc<Pod>),
    /// Nothing: the object is gone.
    Gone(Arc<Pod>),
    /// Nothing runs any more in so much time, as the node stops; the object stays, for when it starts again.
    Stopped(Arc<Pod>, Duration),
}

impl Desired {
    /// The pod, also when it is gone.
    pub fn pod(&self) -> &Arc<Pod> {
        match self {
            Desired::Pod(pod) | Desired::Gone(pod) | Desired::Stopped(pod, _) => pod,
        }
    }

    fn stops(&self) -> bool {
        match self {
            Desired::Pod(pod) => pod.metadata.deletion_timestamp.is_some(),
            Desired::Gone(_) | Desired::Stopped(..) => true,
        }
    }
}

/// The least time that processes get when the object vanished without saying.
const GONE_GRACE_MIN: Duration = Duration::from_secs(1);
/// How long to wait after something outside the pod failed (runtime, API server).
const RETRY: Duration = Duration::from_secs(1);

/// The worker of one pod.
pub struct Worker<R> {
    context: Arc<Context<R>>,
    uid: String,
    desired: watch::Receiver<Desired>,
    /// The runtime saw something change in this pod.
    changed: Arc<Notify>,
    memory: Memory,
    notes: Notes,
    holds: Holds,
    pulls: Pulls,
    hooks: Hooks,
    probes: Probes,
    drain: Drain,
    sizes: Sizes,
    /// Whether the node has taken the pod, and keeps room for it.
    taken: bool,
    /// What containers (by id) were given since they were started.
    resized: HashMap<String, ResourceRequirements>,
    /// Why containers that are held back wait, by name.
    failures: HashMap<String, Waiting>,
    /// Attempts whose process could not be started, with the sandbox that they were for.
    unstarted: Vec<(String, ObservedContainer)>,
    volumes: Arc<Mutex<Volumes>>,
    upkeep: Upkeep,
    /// How long processes get once the pod has failed as a whole.
    failed_grace: Option<Duration>,
    /// When the grace period of a pod that stops is over.
    kill_at: Option<Instant>,
    /// The newest status written, with the resourceVersion that it got.
    written: Option<(u64, PodStatus)>,
}

/// What follows a round.
enum Next {
    Again,
    Wait(Option<Duration>),
    Finished,
}

impl<R: Runtime> Worker<R> {
    /// A worker for the pod with this uid.
    pub fn new(
        context: Arc<Context<R>>,
        uid: String,
        desired: watch::Receiver<Desired>,
        changed: Arc<Notify>,
    ) -> Worker<R> {
        let notes = Notes { host_addresses: context.config.addresses(), ..Notes::default() };
        let upkeep = Upkeep::default();
        Worker {
            context,
            uid,
            desired,
            changed,
            memory: Memory::default(),
            notes,
            holds: Holds::default(),
            pulls: Pulls::default(),
            hooks: Hooks::default(),
            probes: Probes::default(),
            drain: Drain::default(),
            sizes: Sizes::default(),
            taken: false,
            resized: HashMap::new(),
            failures: HashMap::new(),
            unstarted: Vec::new(),
            volumes: upkeep.no_volumes(),
            upkeep,
            failed_grace: None,
            kill_at: None,
            written: None,
        }
    }

    /// Works until nothing of the pod is left.
    pub async fn run(mut self) {
        let referenced = self.upkeep.referenced();
        let mut room = self.context.allocations.changes();
        loop {
            room.mark_unchanged();
            let wait = match self.round().await {
                Next::Finished => return,
                Next::Again => continue,
                Next::Wait(wait) => wait,
            };
            let timer = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = referenced.notified() => self.reference_changed().await,
                changed = self.desired.changed() => if changed.is_err() { return },
                changed = room.changed(), if self.waits_for_room() => if changed.is_err() { return },
                () = timer => {}
            }
        }
    }

    async fn round(&mut self) -> Next {
        let desired = self.desired.borrow_and_update().clone();
        let pod = self.with_newest_status(desired.pod());
        let pod = self.allocate(&desired, pod);
        self.hooks.look();
        let mut observed = match self.observe(&pod).await {
            Ok(observed) => observed,
            Err(error) => {
                tracing::warn!(pod = name_of(&pod), %error, "cannot observe the pod");
                return Next::Wait(Some(RETRY));
            }
        };
        let now = Instant::now();
        self.remember(&observed, now);
        let deadline = self.judge(&desired, &pod, &observed).await;
        let goal = self.goal(&desired, now);
        match goal {
            Goal::Run => observed.pulling = self.pulls.under_way(&pod),
            Goal::Stop { .. } => self.pulls.cancel(),
        }
        // Services hear nothing of pods that end with their node.
        let told = desired.stops() && !matches!(desired, Desired::Stopped(..));
        self.memory.led = goal != Goal::Run && told && self.is_led(&observed);
        self.probes.tend(&self.context, &pod, &observed, goal != Goal::Run, &self.changed);
        self.follow_resize(&pod, &observed);
        let mut plan = plan(&pod, goal, &observed, &self.memory, now);
        let held = self.holds.apply(&mut plan, &pod, now);
        self.keep_room(&pod, plan.outcome.is_some() || matches!(desired, Desired::Gone(_)));
        self.take_notes(&pod, &observed, &plan, &held).await;
        // A sandbox is made in less time than it takes to tell that it will be.
        let begins = matches!(plan.actions[..], [Action::CreateSandbox { .. }]);
        if matches!(desired, Desired::Pod(_)) && !begins && !self.write_status(&pod, &observed).await {
            return Next::Wait(Some(RETRY));
        }
        if plan.outcome.is_some() && plan.actions.is_empty() && held.is_empty() {
            if let Desired::Stopped(..) = desired {
                return Next::Finished;
            }
            return self.end(&desired, &pod, plan.outcome == Some(Outcome::Gone)).await;
        }
        if goal == Goal::Run {
            let next = self.keep_up(&pod, &observed, &plan.actions).await;
            next.into_iter().chain(deadline).for_each(|left| sooner(&mut plan.wake, left));
        }
        if plan.actions.is_empty() {
            return Next::Wait(plan.wake);
        }
        self.act(&pod, &observed, plan.actions, goal, deadline).await;
        Next::Again
    }

    /// The pod with the status that this worker last wrote, when the object at hand is older.
    fn with_newest_status(&self, pod: &Arc<Pod>) -> Pod {
        let mut pod = Pod::clone(pod);
        if let Some((revision, status)) = &self.written
            && *revision > revision_of(&pod)
        {
            pod.status = Some(status.clone());
            pod.metadata.resource_version = Some(revision.to_string());
        }
        pod
    }

    async fn observe(&self, pod: &Pod) -> Result<ObservedPod, crate::runtime::Error> {
        let mut observed = self.context.observe(&self.uid).await?;
        if let Some(id) = observed.sandbox.as_ref().map(|s| s.id.clone()) {
            let here = self.unstarted.iter().filter(|(sandbox, _)| *sandbox == id);
            observed.add(here.map(|(_, container)| container.clone()));
        }
        if let Some(sandbox) = &mut observed.sandbox
            && let Some(whole) = self.resized.get(&sandbox.id)
        {
            sandbox.whole = Some(whole.clone());
        }
        for container in &mut observed.containers {
            if let Some(resources) = self.resized.get(&container.id) {
                container.resources = Some(resources.clone());
            }
        }
        self.hooks.judge(&mut observed);
        self.probes.judge(pod, &mut observed);
        Ok(observed)
    }

    /// Notes when containers were first seen to have ended, and forgets those that are no more.
    fn remember(&mut self, observed: &ObservedPod, now: Instant) {
        for container in &observed.containers {
            if matches!(container.state, ContainerState::Exited { .. }) {
                self.memory.ended.entry(container.id.clone()).or_insert(now);
            }
        }
        let here = |id: &String| observed.containers.iter().any(|c| &c.id == id);
        self.memory.ended.retain(|id, _| here(id));
        self.memory.signalled.retain(|id, _| here(id));
        self.memory.pre_stops.retain(|id, _| here(id));
        let sandbox = observed.sandbox.as_ref().map(|s| s.id.as_str());
        self.resized.retain(|id, _| here(id) || sandbox == Some(id));
        self.hooks.retain(observed);
        for (id, hook) in &mut self.memory.pre_stops {
            hook.over |= self.hooks.went(id, Moment::PreStop).is_some();
        }
        self.notes.messages.retain(|id, _| here(id));
        self.unstarted.retain(|(of, _)| Some(of.as_str()) == sandbox);
    }

    /// Sees whether the pod has failed as a whole; answers what is left of its deadline.
    async fn judge(&mut self, desired: &Desired, pod: &Pod, observed: &ObservedPod) -> Option<Duration> {
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("");
        if desired.stops() || self.failed_grace.is_some() || phase == "Succeeded" || phase == "Failed" {
            return None;
        }
        if observed.sandbox.is_none()
            && phase != "Running"
            && let Some(rejection) = self.rejection(pod)
        {
            self.reject(pod, rejection);
            return None;
        }
        if !self.taken {
            let began = observed.sandbox.is_some() || is_taken(pod);
            if !began && let Err(rejection) = self.admit(pod).await {
                self.reject(pod, rejection);
                return None;
            }
            self.taken = true;
        }
        let own = pod.spec.as_ref().map(grace_of).unwrap_or_default();
        if let Some((evicted, grace)) = self.context.eviction.of(&self.uid, own) {
            self.fail(pod, EventType::Warning, evicted, grace);
            return None;
        }
        let left = deadline(pod, SystemTime::from(clock::now()))?;
        if left.is_zero() {
            let failure = Waiting {
                reason: "DeadlineExceeded".into(),
                message: "Pod was active on the node longer than the specified deadline".into(),
            };
            self.fail(pod, EventType::Normal, failure, own);
            return None;
        }
        Some(left)
    }

    /// Why the node does not take a pod, whatever room there is.
    fn rejection(&self, pod: &Pod) -> Option<Waiting> {
        sandbox::rejection(pod)
            .or_else(|| app_armor::rejection(pod, self.context.config.app_armor))
            .or_else(|| self.context.eviction.refusal(pod))
    }

    /// The node does not take the pod, which has failed before it began.
    fn reject(&mut self, pod: &Pod, why: Waiting) {
        self.context.event(pod, None, EventType::Warning, &why.reason, &why.message);
        let message = format!("Pod was rejected: {}", why.message);
        self.notes.failure = Some(Waiting { message, ..why });
        self.failed_grace = Some(Duration::ZERO);
    }

    /// The pod has failed as a whole: its containers end, and do not come back.
    fn fail(&mut self, pod: &Pod, kind: EventType, failure: Waiting, grace: Duration) {
        self.context.event(pod, None, kind, &failure.reason, &failure.message);
        self.notes.failure = Some(failure);
        self.failed_grace = Some(grace);
    }

    fn goal(&mut self, desired: &Desired, now: Instant) -> Goal {
        let (grace, then) = match (desired, self.failed_grace) {
            (Desired::Gone(pod), _) => {
                let grace = pod.spec.as_ref().map(grace_of).unwrap_or_default();
                (grace.max(GONE_GRACE_MIN), Outcome::Gone)
            }
            (Desired::Stopped(pod, time), _) => {
                (pod.spec.as_ref().map(grace_of).unwrap_or_default().min(*time), Outcome::Gone)
            }
            (Desired::Pod(pod), _) if pod.metadata.deletion_timestamp.is_some() => {
                let seconds = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
                (Duration::from_secs(u64::try_from(seconds).unwrap_or(0)), Outcome::Gone)
            }
            (_, Some(grace)) => (grace, Outcome::Failed),
            (_, None) => {
                // The manifest of a static pod may come back: its next end is one from the beginning.
                self.kill_at = None;
                self.drain = Drain::default();
                return Goal::Run;
            }
        };
        // Processes get their time in full from when this worker first knew; a second word can only shorten it.
        let until = *self.kill_at.insert(self.kill_at.map_or(now + grace, |at| at.min(now + grace)));
        Goal::Stop { grace, left: until.saturating_duration_since(now), then }
    }

    /// Whether services still lead new connections to a pod that is deleted; the end of that wakes the worker.
    fn is_led(&mut self, observed: &ObservedPod) -> bool {
        let addresses = observed.sandbox.as_ref().map(ObservedSandbox::addresses).unwrap_or_default();
        let addresses: Vec<IpAddr> = addresses.iter().filter_map(|address| address.parse().ok()).collect();
        // Those on the host's own network share its addresses with others.
        !addresses.is_empty() && self.drain.lasts(&self.context.network, &self.uid, addresses, &self.changed)
    }

    /// Learns what the status is to say: addresses, last words, back-offs, the outcome.
    async fn take_notes(&mut self, pod: &Pod, observed: &ObservedPod, plan: &Plan, held: &[Action]) {
        if let Some(sandbox) = &observed.sandbox {
            self.notes.addresses = match sandbox.addresses() {
                own if own.is_empty() => self.context.config.addresses(),
                own => own,
            };
        }
        self.notes.outcome = plan.outcome;
        let start = |action: &Action| match action {
            Action::Start { container, .. } => Some(container.clone()),
            _ => None,
        };
        let starting: Vec<String> = plan.actions.iter().chain(&plan.pulling).filter_map(start).collect();
        let mut waiting: HashMap<String, Waiting> = HashMap::new();
        for name in held.iter().filter_map(start) {
            if let Some(failure) = self.failures.get(&name) {
                waiting.insert(name.clone(), failure.clone());
            }
        }
        for (name, delay) in &plan.backing_off {
            waiting.insert(name.clone(), crash_loop(pod, name, *delay));
        }
        for (name, waiting) in &waiting {
            if self.notes.waiting.get(name) != Some(waiting) {
                self.tell_back_off(pod, name, waiting);
            }
        }
        for name in &starting {
            let ended = observed.newest(name).and_then(|c| self.hooks.went(&c.id, Moment::PostStart));
            if let Some(Err(message)) = ended {
                let failed = Waiting { reason: "PostStartHookError".into(), message: message.clone() };
                waiting.entry(name.clone()).or_insert(failed);
            }
        }
        let before = std::mem::take(&mut self.notes.waiting);
        self.notes.waiting = before.into_iter().filter(|(name, _)| starting.contains(name)).collect();
        self.notes.waiting.extend(waiting);
        for container in &observed.containers {
            let ended = matches!(container.state, ContainerState::Exited { .. });
            if ended && container.start_error.is_none() && !self.notes.messages.contains_key(&container.id) {
                let words = messages::last_words(&self.context, pod, container).await;
                self.notes.messages.insert(container.id.clone(), words);
            }
        }
    }

    fn tell_back_off(&self, pod: &Pod, name: &str, waiting: &Waiting) {
        if let Some((kind, message)) = back_off_event(pod, name, waiting) {
            self.context.event(pod, Some(name), kind, "BackOff", &message);
        }
    }

    /// Writes the status when it changed; `false` when that failed for a passing reason.
    async fn write_status(&mut self, pod: &Pod, observed: &ObservedPod) -> bool {
        // What a stopped node's pods last were is what they are to be again.
        if matches!(*self.desired.borrow(), Desired::Stopped(..)) {
            return true;
        }
        let new = status(pod, observed, &self.notes, SystemTime::from(clock::now()));
        if pod.status.as_ref() == Some(&new) {
            return true;
        }
        // The status alone, and only over the one that it was made from: others write conditions and phases, too.
        let version = &pod.metadata.resource_version;
        let patch = [
            json!({"op": "test", "path": "/metadata/resourceVersion", "value": version}),
            json!({"op": "add", "path": "/status", "value": new}),
        ];
        let api =
            self.context.client.namespaced::<Pod>(pod.metadata.namespace.as_deref().unwrap_or_default());
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match api.patch(name, Some("status"), PatchKind::Json, json!(patch)).await {
            Ok(written) => {
                let revision = revision_of(&written);
                self.written = written.status.map(|status| (revision, status));
                true
            }
            // Gone, newer, or another pod by that name: the next desired state will say so.
            Err(error) if error.is("NotFound") || error == Status::unprocessable() => true,
            // The API will never take this one: the pod's life must not wait for it.
            Err(error) if error.is("Invalid") => {
                tracing::warn!(pod = name_of(pod), %error, "status refused");
                true
            }
            Err(error) => {
                tracing::warn!(pod = name_of(pod), %error, "status not written");
                false
            }
        }
    }

    /// Nothing runs any more: give back what the pod held; forget the pod itself when it is deleted.
    async fn end(&mut self, desired: &Desired, pod: &Pod, gone: bool) -> Next {
        self.upkeep.stop();
        if let Err(message) = self.context.network.detach(&self.uid).await {
            tracing::warn!(pod = name_of(pod), message, "network not given back");
        }
        if gone {
            // While the object is there, somebody knows whose logs these are.
            messages::remove_logs(&self.context, pod).await;
        }
        let dirs = self.context.dirs(&self.uid);
        let remove = move || if gone { dirs.remove() } else { dirs.empty() };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(remove).await {
            tracing::warn!(pod = name_of(pod), %error, "volumes not removed");
            return Next::Wait(Some(RETRY));
        }
        self.volumes = self.upkeep.no_volumes();
        self.context.eviction.cleaned(&self.uid);
        if !gone {
            return Next::Wait(None);
        }
        if let Desired::Pod(_) = desired
            && let Err(error) = self.delete_object(pod).await
        {
            tracing::warn!(pod = name_of(pod), %error, "pod not deleted");
            return Next::Wait(Some(RETRY));
        }
        Next::Finished
    }

    async fn delete_object(&self, pod: &Pod) -> Result<(), Status> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            precondition_uid: Some(self.uid.clone()),
            ..DeleteOptions::default()
        };
        let name = pod.metadata.name.as_deref().unwrap_or("");
        match self.context.client.namespaced::<Pod>(namespace).delete(name, options).await {
            Err(error) if !error.is("NotFound") && !error.is("Conflict") => Err(error),
            _ => Ok(()),
        }
    }
}

fn revision_of(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// What is left of a pod's `activeDeadlineSeconds`; nothing when it is over (pure).
fn deadline(pod: &Pod, now: SystemTime) -> Option<Duration> {
    let seconds = u64::try_from(pod.spec.as_ref()?.active_deadline_seconds?).ok()?;
    let started = SystemTime::from(pod.status.as_ref()?.start_time.as_ref()?.0);
    let active = now.duration_since(started).unwrap_or_default();
    Some(Duration::from_secs(seconds).saturating_sub(active))
}
