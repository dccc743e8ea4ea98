//! One pod's life: observe, plan, act, write the status; again whenever something changes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{Notify, watch};

use super::context::Context;
use super::observed::{ObservedPod, label};
use super::plan::{Action, Goal, KillReason, Memory, Outcome, Plan, plan};
use super::pull;
use super::start::{self, Volumes};
use super::status::{Notes, Waiting, status};
use super::{hosts, messages};
use crate::api::request::DeleteOptions;
use crate::api::status::Status;
use crate::client::events::EventType;
use crate::runtime::{ContainerState, NetworkMode, PidMode, Runtime, SandboxConfig};

/// What the API server wants of the pod.
#[derive(Debug, Clone)]
pub enum Desired {
    /// As this object says, which may also say that it is being deleted.
    Pod(Arc<Pod>),
    /// Nothing: the object is gone.
    Gone(Arc<Pod>),
}

impl Desired {
    fn pod(&self) -> &Arc<Pod> {
        match self {
            Desired::Pod(pod) | Desired::Gone(pod) => pod,
        }
    }

    fn stops(&self) -> bool {
        match self {
            Desired::Pod(pod) => pod.metadata.deletion_timestamp.is_some(),
            Desired::Gone(_) => true,
        }
    }
}

/// How long processes get when the object vanished without saying.
const GONE_GRACE: Duration = Duration::from_secs(2);
/// How long to wait after something outside the pod failed (runtime, API server).
const RETRY: Duration = Duration::from_secs(1);
/// `SIGKILL`.
const KILL: i32 = 9;

/// The worker of one pod.
pub struct Worker<R> {
    context: Arc<Context<R>>,
    uid: String,
    desired: watch::Receiver<Desired>,
    /// The runtime saw something change in this pod.
    changed: Arc<Notify>,
    memory: Memory,
    notes: Notes,
    /// Why containers could not be started, by name.
    failures: HashMap<String, Waiting>,
    volumes: Volumes,
    gone_since: Option<SystemTime>,
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
        let notes = Notes { host_address: context.config.address.to_string(), ..Notes::default() };
        Worker {
            context,
            uid,
            desired,
            changed,
            memory: Memory::default(),
            notes,
            failures: HashMap::new(),
            volumes: Volumes::default(),
            gone_since: None,
            written: None,
        }
    }

    /// Works until nothing of the pod is left.
    pub async fn run(mut self) {
        loop {
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
                changed = self.desired.changed() => if changed.is_err() { return },
                () = timer => {}
            }
        }
    }

    async fn round(&mut self) -> Next {
        let desired = self.desired.borrow_and_update().clone();
        let pod = self.with_newest_status(desired.pod());
        let observed = match self.observe().await {
            Ok(observed) => observed,
            Err(error) => {
                tracing::warn!(pod = self.name(&pod), %error, "cannot observe the pod");
                return Next::Wait(Some(RETRY));
            }
        };
        let now = SystemTime::now();
        let goal = self.goal(&desired, now);
        let plan = plan(&pod, goal, &observed, &self.memory, now);
        self.take_notes(&pod, &observed, &plan).await;
        if matches!(desired, Desired::Pod(_)) && !self.write_status(&pod, &observed).await {
            return Next::Wait(Some(RETRY));
        }
        if plan.outcome.is_some() && plan.actions.is_empty() {
            return self.end(&desired, &pod, plan.outcome == Some(Outcome::Gone)).await;
        }
        if plan.actions.is_empty() {
            return Next::Wait(plan.wake);
        }
        self.act(&pod, &observed, plan.actions, desired.stops()).await;
        Next::Again
    }

    fn name(&self, pod: &Pod) -> String {
        let meta = &pod.metadata;
        format!("{}/{}", meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""))
    }

    /// The pod with the status that this worker last wrote, when the object at hand is older.
    fn with_newest_status(&self, pod: &Arc<Pod>) -> Pod {
        let mut pod = Pod::clone(pod);
        if let Some((revision, status)) = &self.written
            && *revision > revision_of(&pod)
        {
            pod.status = Some(status.clone());
        }
        pod
    }

    async fn observe(&self) -> Result<ObservedPod, crate::runtime::Error> {
        Ok(ObservedPod::of(&self.uid, &self.context.runtime.observe().await?))
    }

    fn goal(&mut self, desired: &Desired, now: SystemTime) -> Goal {
        match desired {
            Desired::Gone(_) => Goal::Stop { since: *self.gone_since.get_or_insert(now), grace: GONE_GRACE },
            Desired::Pod(pod) => match &pod.metadata.deletion_timestamp {
                None => Goal::Run,
                Some(until) => {
                    let seconds = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
                    let grace = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
                    // The timestamp is when the grace ends; it began that much earlier, but never before the
                    // worker could know: a clock that jumped must not turn TERM into KILL.
                    let since = SystemTime::from(until.0).checked_sub(grace).unwrap_or(now);
                    Goal::Stop { since, grace }
                }
            },
        }
    }

    /// Learns what the status is to say: addresses, last words, back-offs, the outcome.
    async fn take_notes(&mut self, pod: &Pod, observed: &ObservedPod, plan: &Plan) {
        if let Some(sandbox) = &observed.sandbox {
            let host = self.context.config.address.to_string();
            self.notes.address = Some(sandbox.address.clone().unwrap_or(host));
        }
        self.notes.outcome = plan.outcome;
        let starting: Vec<&str> = plan
            .actions
            .iter()
            .filter_map(|a| match a {
                Action::Start { container, .. } => Some(container.as_str()),
                _ => None,
            })
            .collect();
        self.notes.waiting.retain(|name, _| starting.contains(&name.as_str()));
        for (name, delay) in &plan.backing_off {
            let waiting = match self.failures.get(name) {
                Some(failure) => pull::backed_off(failure, image_of(pod, name)),
                None => crash_loop(pod, name, *delay),
            };
            if self.notes.waiting.insert(name.clone(), waiting.clone()).as_ref() != Some(&waiting) {
                self.back_off_event(pod, name, &waiting);
            }
        }
        for container in &observed.containers {
            let ended = matches!(container.state, ContainerState::Exited { .. });
            if ended && !self.notes.messages.contains_key(&container.id) {
                let words = messages::last_words(&self.context, pod, container).await;
                self.notes.messages.insert(container.id.clone(), words);
            }
        }
        self.notes.messages.retain(|id, _| observed.containers.iter().any(|c| &c.id == id));
        self.memory.signalled.retain(|id, _| observed.containers.iter().any(|c| &c.id == id));
    }

    fn back_off_event(&self, pod: &Pod, name: &str, waiting: &Waiting) {
        let (kind, message) = match waiting.reason.as_str() {
            "CrashLoopBackOff" => {
                let meta = &pod.metadata;
                let of = format!(
                    "{}_{}({})",
                    meta.name.as_deref().unwrap_or(""),
                    meta.namespace.as_deref().unwrap_or(""),
                    self.uid
                );
                (EventType::Warning, format!("Back-off restarting failed container {name} in pod {of}"))
            }
            "ImagePullBackOff" => {
                (EventType::Normal, format!("Back-off pulling image {:?}", image_of(pod, name)))
            }
            _ => return,
        };
        self.context.event(pod, Some(name), kind, "BackOff", &message);
    }

    /// Writes the status when it changed; `false` when that failed for a passing reason.
    async fn write_status(&mut self, pod: &Pod, observed: &ObservedPod) -> bool {
        let new = status(pod, observed, &self.notes, SystemTime::now());
        if pod.status.as_ref() == Some(&new) {
            return true;
        }
        let mut object = pod.clone();
        object.metadata.resource_version = None;
        object.metadata.managed_fields = None;
        object.status = Some(new);
        match self.context.client.all::<Pod>().update_status(&object).await {
            Ok(written) => {
                let revision = revision_of(&written);
                self.written = written.status.map(|status| (revision, status));
                true
            }
            // Gone or another pod by that name: the next desired state will say so.
            Err(error) if error.is("NotFound") || error.is("Conflict") => true,
            Err(error) => {
                tracing::warn!(pod = self.name(pod), %error, "status not written");
                false
            }
        }
    }

    /// Carries out actions side by side, showing each one's effect at once; gives way when the pod is to stop.
    async fn act(&mut self, pod: &Pod, observed: &ObservedPod, actions: Vec<Action>, stopping: bool) {
        self.before(pod, observed, &actions);
        let context = self.context.clone();
        let mut desired = self.desired.clone();
        let volumes = self.volumes.clone();
        let mut pending: FuturesUnordered<_> = actions
            .into_iter()
            .map(|action| {
                let (context, volumes) = (context.clone(), volumes.clone());
                async move {
                    let result = perform(&context, pod, observed, &volumes, &action).await;
                    (action, result)
                }
            })
            .collect();
        loop {
            let stop = async {
                if stopping || desired.wait_for(Desired::stops).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let (action, result) = tokio::select! {
                done = pending.next() => match done {
                    Some(done) => done,
                    None => return,
                },
                // A pull may take minutes; a pod that is to stop need not wait for it.
                () = stop => return,
            };
            self.after(pod, action, result);
            if !pending.is_empty()
                && let Ok(observed) = self.observe().await
            {
                let pod = self.with_newest_status(&Arc::new(pod.clone()));
                self.write_status(&pod, &observed).await;
            }
        }
    }

    /// Restarts count against the back-off when they begin.
    fn before(&mut self, pod: &Pod, observed: &ObservedPod, actions: &[Action]) {
        let now = SystemTime::now();
        for action in actions {
            match action {
                Action::Start { container, .. } => {
                    let ended = observed.newest(container).map(|c| &c.state);
                    if let Some(ContainerState::Exited { finished, .. }) = ended {
                        self.memory.restarts.entry(container.clone()).or_default().grow(*finished, now);
                    }
                }
                Action::Signal { id, container, reason, .. } => {
                    self.memory.signalled.insert(id.clone(), now);
                    let message = match reason {
                        KillReason::PodStops => format!("Stopping container {container}"),
                        KillReason::Changed => {
                            format!("Container {container} definition changed, will be restarted")
                        }
                    };
                    self.context.event(pod, Some(container), EventType::Normal, "Killing", &message);
                }
                _ => {}
            }
        }
    }

    fn after(&mut self, pod: &Pod, action: Action, result: Result<(), Waiting>) {
        let now = SystemTime::now();
        match (action, result) {
            (Action::Start { container, .. }, Ok(())) => {
                self.failures.remove(&container);
                self.notes.waiting.remove(&container);
                self.memory.failed_starts.remove(&container);
            }
            (Action::Start { container, .. }, Err(waiting)) => {
                self.memory.restarts.entry(container.clone()).or_default().grow(now, now);
                self.memory.failed_starts.insert(container.clone(), now);
                self.notes.waiting.insert(container.clone(), waiting.clone());
                self.failures.insert(container, waiting);
            }
            (Action::CreateSandbox { .. }, Err(waiting)) => {
                let message = format!("Failed to create pod sandbox: {}", waiting.message);
                self.context.event(pod, None, EventType::Warning, "FailedCreatePodSandBox", &message);
            }
            (action, Err(waiting)) => {
                tracing::warn!(pod = self.name(pod), ?action, message = waiting.message, "action failed");
            }
            (_, Ok(())) => {}
        }
    }

    /// Nothing runs any more: give back what the pod held; forget the pod itself when it is deleted.
    async fn end(&mut self, desired: &Desired, pod: &Pod, gone: bool) -> Next {
        if let Err(message) = self.context.network.detach(&self.uid).await {
            tracing::warn!(pod = self.name(pod), message, "network not given back");
        }
        let dirs = self.context.dirs(&self.uid);
        let removed = tokio::task::spawn_blocking(move || dirs.remove()).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(pod = self.name(pod), %error, "volumes not removed");
            return Next::Wait(Some(RETRY));
        }
        self.volumes = Volumes::default();
        if !gone {
            return Next::Wait(None);
        }
        if let Desired::Pod(_) = desired
            && let Err(error) = self.delete_object(pod).await
        {
            tracing::warn!(pod = self.name(pod), %error, "pod not deleted");
            return Next::Wait(Some(RETRY));
        }
        messages::remove_logs(&self.context, pod).await;
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

fn image_of<'a>(pod: &'a Pod, container: &str) -> &'a str {
    let spec = pod.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    spec.into_iter().find(|c| c.name == container).and_then(|c| c.image.as_deref()).unwrap_or("")
}

fn crash_loop(pod: &Pod, name: &str, delay: Duration) -> Waiting {
    let meta = &pod.metadata;
    let delay = match delay.as_secs() {
        s if s >= 60 => format!("{}m{}s", s / 60, s % 60),
        s => format!("{s}s"),
    };
    Waiting {
        reason: "CrashLoopBackOff".into(),
        message: format!(
            "back-off {delay} restarting failed container={name} pod={}_{}({})",
            meta.name.as_deref().unwrap_or(""),
            meta.namespace.as_deref().unwrap_or(""),
            meta.uid.as_deref().unwrap_or("")
        ),
    }
}

/// Does one action; an error is why the container (or pod) waits.
async fn perform<R: Runtime>(
    context: &Context<R>,
    pod: &Pod,
    observed: &ObservedPod,
    volumes: &Volumes,
    action: &Action,
) -> Result<(), Waiting> {
    let runtime = &context.runtime;
    let result = match action {
        Action::CreateSandbox { attempt } => return create_sandbox(context, pod, *attempt).await,
        Action::Start { container, attempt } => {
            let sandbox = observed.sandbox.as_ref().map_or("", |s| s.id.as_str());
            let address = observed.sandbox.as_ref().and_then(|s| s.address.as_deref());
            return start::container(context, pod, container, *attempt, sandbox, address, volumes).await;
        }
        Action::RemoveSandbox { id } => runtime.remove_sandbox(id).await,
        Action::Signal { id, signal, .. } => runtime.signal(id, *signal).await,
        Action::Kill { id } => runtime.signal(id, KILL).await,
        Action::Forget { id, container, attempt } => {
            let forgotten = runtime.remove(id).await;
            messages::remove_log(context, pod, container, *attempt).await;
            forgotten
        }
    };
    result.map_err(|error| Waiting { reason: "RuntimeError".into(), message: error.to_string() })
}

async fn create_sandbox<R: Runtime>(context: &Context<R>, pod: &Pod, attempt: u32) -> Result<(), Waiting> {
    let fail = |message: String| Waiting { reason: "CreatePodSandboxError".into(), message };
    let meta = &pod.metadata;
    let uid = meta.uid.clone().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let on_host = spec.host_network == Some(true);
    let mut labels = [
        (label::UID, uid.clone()),
        (label::NAMESPACE, meta.namespace.clone().unwrap_or_default()),
        (label::POD, meta.name.clone().unwrap_or_default()),
        (label::ATTEMPT, attempt.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into_iter()
    .collect::<crate::runtime::Labels>();
    let network = if on_host {
        NetworkMode::Host
    } else {
        let attachment = context.network.attach(&uid).await.map_err(fail)?;
        labels.insert(label::ADDRESS.to_owned(), attachment.address.to_string());
        NetworkMode::Namespace(attachment.namespace)
    };
    let sysctls = spec.security_context.iter().flat_map(|c| c.sysctls.iter().flatten());
    let config = SandboxConfig {
        id: format!("{uid}-{attempt}"),
        labels,
        hostname: (!on_host).then(|| hosts::hostname(pod)),
        pid: match (spec.host_pid, spec.share_process_namespace) {
            (Some(true), _) => PidMode::Host,
            (_, Some(true)) => PidMode::Shared,
            (_, Some(false)) => PidMode::PerContainer,
            (_, None) if context.config.share_processes => PidMode::Shared,
            (_, None) => PidMode::PerContainer,
        },
        network,
        host_ipc: spec.host_ipc == Some(true),
        sysctls: sysctls.map(|s| (s.name.clone(), s.value.clone())).collect(),
        resources: super::resources::of_pod(&spec),
    };
    context.runtime.ensure_sandbox(&config).await.map_err(|error| fail(error.to_string()))
}
