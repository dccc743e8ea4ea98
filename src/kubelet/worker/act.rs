//! Carrying out a plan's actions, and remembering how that went.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::pulls::Pulled;
use super::words::name_of;
use super::{Desired, Worker};
use crate::client::events::EventType;
use crate::kubelet::backoff::Backoff;
use crate::kubelet::context::Context;
use crate::kubelet::observed::ObservedPod;
use crate::kubelet::plan::{Action, Goal, KillReason};
use crate::kubelet::pod::{container, image_of};
use crate::kubelet::start::{self, NotStarted, Start};
use crate::kubelet::status::Waiting;
use crate::kubelet::volumes::Volumes;
use crate::kubelet::{messages, pull, sandbox};
use crate::runtime::Runtime;

/// `SIGKILL`.
const KILL: i32 = 9;

impl<R: Runtime> Worker<R> {
    /// Carries out actions side by side, showing each one's effect at once; gives way when the pod is to stop.
    pub(super) async fn act(
        &mut self,
        pod: &Pod,
        observed: &ObservedPod,
        actions: Vec<Action>,
        goal: Goal,
        deadline: Option<Duration>,
    ) {
        self.announce(pod, &actions);
        let context = self.context.clone();
        let mut desired = self.desired.clone();
        let volumes = self.volumes.clone();
        let mut pending: FuturesUnordered<_> = actions
            .into_iter()
            .map(|action| {
                let (context, volumes) = (context.clone(), volumes.clone());
                let pulled = match &action {
                    Action::Start { container, .. } => self.pulls.take(container),
                    _ => None,
                };
                async move {
                    let result = perform(&context, pod, observed, &volumes, &action, pulled).await;
                    (action, result)
                }
            })
            .collect();
        let deadline = deadline.map(|left| Instant::now() + left);
        loop {
            let stop = async {
                if goal != Goal::Run {
                    return std::future::pending::<()>().await;
                }
                let over = async {
                    match deadline {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                let stops = async {
                    if desired.wait_for(Desired::stops).await.is_err() {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    () = stops => {}
                    () = over => {}
                }
            };
            let (action, result) = tokio::select! {
                done = pending.next() => match done {
                    Some(done) => done,
                    None => return,
                },
                // What a start needs may be long in coming; a pod that is to stop need not wait for it.
                () = stop => return,
            };
            self.after(pod, observed, action, result);
            if !pending.is_empty()
                && let Ok(observed) = self.observe().await
            {
                let pod = self.with_newest_status(&std::sync::Arc::new(pod.clone()));
                self.write_status(&pod, &observed).await;
            }
        }
    }

    /// Tells of containers that are asked to end.
    fn announce(&self, pod: &Pod, actions: &[Action]) {
        for action in actions {
            if let Action::Signal { container, reason, .. } = action {
                let message = match reason {
                    KillReason::PodStops => format!("Stopping container {container}"),
                    KillReason::Changed => {
                        format!("Container {container} definition changed, will be restarted")
                    }
                };
                self.context.event(pod, Some(container), EventType::Normal, "Killing", &message);
            }
        }
    }

    fn after(&mut self, pod: &Pod, observed: &ObservedPod, action: Action, result: Result<(), NotStarted>) {
        let now = Instant::now();
        match (&action, result) {
            (Action::Start { container, .. }, Ok(())) => {
                self.count_restart(observed, container, now);
                self.failures.remove(container);
                self.notes.waiting.remove(container);
                self.holds.pulled(image_of(pod, container));
                self.holds.done(action, now);
            }
            (Action::Start { container, .. }, Err(NotStarted::Ended(ended))) => {
                self.count_restart(observed, container, now);
                self.failures.remove(container);
                self.holds.pulled(image_of(pod, container));
                let message = ended.start_error.clone().unwrap_or_default();
                let waiting = Waiting { reason: "RunContainerError".into(), message };
                self.notes.waiting.insert(container.clone(), waiting);
                let sandbox = observed.sandbox.as_ref().map(|s| s.id.clone()).unwrap_or_default();
                self.unstarted.push((sandbox, *ended));
            }
            (Action::Start { container, .. }, Err(NotStarted::NoImage)) => self.begin_pull(pod, container),
            (Action::Start { container, .. }, Err(NotStarted::Waits(waiting))) => {
                self.notes.waiting.insert(container.clone(), waiting.clone());
                let pulls = waiting.reason == "ErrImagePull";
                self.failures.insert(container.clone(), waiting);
                match pulls {
                    true => self.holds.failed_pull(action.clone(), image_of(pod, container), now),
                    false => self.holds.failed(action, now),
                }
            }
            (Action::CreateSandbox { attempt }, Ok(())) => {
                if *attempt == 0 {
                    for (container, message) in pod.spec.iter().flat_map(sandbox::unobserved) {
                        let reason = "NotObserved";
                        self.context.event(pod, Some(&container), EventType::Warning, reason, &message);
                    }
                }
                self.holds.done(action, now);
            }
            (Action::CreateSandbox { .. }, Err(NotStarted::Waits(waiting))) => {
                let message = format!("Failed to create pod sandbox: {}", waiting.message);
                self.context.event(pod, None, EventType::Warning, "FailedCreatePodSandBox", &message);
                self.holds.failed(action, now);
            }
            (_, Err(why)) => {
                tracing::warn!(pod = name_of(pod), ?action, ?why, "action failed");
                self.holds.failed(action, now);
            }
            (Action::Signal { id, reason, .. }, Ok(())) => {
                self.memory.signalled.insert(id.clone(), (now, *reason));
                self.holds.done(action, now);
            }
            (Action::Forget { id, .. }, Ok(())) => {
                self.unstarted.retain(|(_, container)| &container.id != id);
                self.holds.done(action, now);
            }
            (Action::RemoveSandbox { .. } | Action::Kill { .. }, Ok(())) => self.holds.done(action, now),
        }
    }

    /// Fetches a container's image beside everything else: that may take minutes.
    fn begin_pull(&mut self, pod: &Pod, name: &str) {
        let Some(container) = container(pod, name).cloned() else { return };
        let (context, of) = (self.context.clone(), pod.clone());
        let fetch = async move { pull::fetch(&context, &of, &container).await };
        self.pulls.begin(pod, name, &self.changed, fetch);
    }

    /// A start after an end counts against the back-off.
    fn count_restart(&mut self, observed: &ObservedPod, container: &str, now: Instant) {
        let ended = observed.newest(container).and_then(|c| self.memory.ended.get(&c.id));
        if let Some(ended) = ended {
            self.memory.restarts.entry(container.to_owned()).or_insert_with(Backoff::slow).grow(*ended, now);
        }
    }
}

/// Does one action; an error is why the container (or pod) waits.
async fn perform<R: Runtime>(
    context: &Context<R>,
    pod: &Pod,
    observed: &ObservedPod,
    volumes: &Mutex<Volumes>,
    action: &Action,
    pulled: Option<Pulled>,
) -> Result<(), NotStarted> {
    let runtime = &context.runtime;
    let result = match action {
        Action::CreateSandbox { attempt } => return Ok(sandbox::create(context, pod, *attempt).await?),
        Action::Start { container, attempt } => {
            let sandbox = observed.sandbox.as_ref().map_or("", |s| s.id.as_str());
            let address = observed.sandbox.as_ref().and_then(|s| s.address.as_deref());
            let start = Start { name: container, attempt: *attempt, pulled, sandbox, address };
            return start::container(context, pod, start, volumes).await;
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
    result.map_err(|error| {
        NotStarted::Waits(Waiting { reason: "RuntimeError".into(), message: error.to_string() })
    })
}
