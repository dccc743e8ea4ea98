//! Carrying out a plan's actions, and remembering how that went.

use std::borrow::Cow;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::hooks::Moment;
use super::pulls::Pulled;
use super::words::{killing, name_of};
use super::{Desired, Worker};
use crate::client::events::EventType;
use crate::kubelet::backoff::Backoff;
use crate::kubelet::container::container_id;
use crate::kubelet::context::Context;
use crate::kubelet::observed::ObservedPod;
use crate::kubelet::plan::{Action, Goal, PreStop};
use crate::kubelet::pod::{container, image_of};
use crate::kubelet::start::{self, NotStarted, Start};
use crate::kubelet::status::Waiting;
use crate::kubelet::volumes::Volumes;
use crate::kubelet::{messages, pull, resize, sandbox};
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
                && let Ok(observed) = self.observe(pod).await
            {
                let pod = self.with_newest_status(&std::sync::Arc::new(pod.clone()));
                self.write_status(&pod, &observed).await;
            }
        }
    }

    /// Tells of containers that are to end.
    fn announce(&self, pod: &Pod, actions: &[Action]) {
        for action in actions {
            let (container, reason) = match action {
                Action::PreStop { container, reason, .. } => (container, reason),
                // Of those with a hook it is told already.
                Action::Signal { id, container, reason, .. } if !self.memory.pre_stops.contains_key(id) => {
                    (container, reason)
                }
                _ => continue,
            };
            let message = killing(container, *reason);
            self.context.event(pod, Some(container), EventType::Normal, "Killing", &message);
        }
    }

    fn after(&mut self, pod: &Pod, observed: &ObservedPod, action: Action, result: Result<(), NotStarted>) {
        let now = Instant::now();
        match (&action, result) {
            (Action::Start { container, attempt }, Ok(())) => {
                let id = container_id(&self.uid, container, *attempt);
                self.begin_hook(pod, observed, container, &id, Moment::PostStart);
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
                self.failures.insert(container.clone(), waiting);
                self.holds.failed(action, now);
            }
            (Action::Start { container, .. }, Err(NotStarted::NotPulled(failure))) => {
                self.notes.waiting.insert(container.clone(), failure.waiting());
                self.failures.insert(container.clone(), failure.backed_off());
                self.holds.failed_pull(action.clone(), image_of(pod, container), now);
            }
            (Action::CreateSandbox { .. }, Err(NotStarted::Waits(waiting))) => {
                let message = format!("Failed to create pod sandbox: {}", waiting.message);
                self.context.event(pod, None, EventType::Warning, "FailedCreatePodSandBox", &message);
                self.holds.failed(action, now);
            }
            (Action::Resize { .. } | Action::ResizePod { .. }, Err(NotStarted::Waits(why))) => {
                self.resize_failed(pod, why);
                self.holds.failed(action, now);
            }
            (Action::Resize { id, container: name, .. }, Ok(())) => {
                let resources = container(pod, name).and_then(|c| c.resources.clone()).unwrap_or_default();
                self.resized.insert(id.clone(), resources);
                self.holds.done(action, now);
            }
            (Action::ResizePod { id, .. }, Ok(())) => {
                let stated = pod.spec.as_ref().and_then(|spec| spec.resources.clone());
                self.resized.insert(id.clone(), stated.unwrap_or_default());
                self.holds.done(action, now);
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
            (Action::PreStop { id, container, reason }, Ok(())) => {
                let hook = PreStop { since: now, reason: *reason, over: false };
                self.memory.pre_stops.insert(id.clone(), hook);
                self.begin_hook(pod, observed, container, id, Moment::PreStop);
            }
            (Action::CreateSandbox { .. } | Action::RemoveSandbox { .. } | Action::Kill { .. }, Ok(())) => {
                self.holds.done(action, now);
            }
        }
    }

    /// Fetches a container's image beside everything else: that may take minutes.
    fn begin_pull(&mut self, pod: &Pod, name: &str) {
        let Some(container) = container(pod, name).map(Cow::into_owned) else { return };
        let (context, of) = (self.context.clone(), pod.clone());
        let fetch = async move { pull::fetch(&context, &of, &container).await };
        self.pulls.begin(pod, name, &self.changed, fetch);
    }

    fn begin_hook(&mut self, pod: &Pod, observed: &ObservedPod, name: &str, id: &str, moment: Moment) {
        let Some(container) = container(pod, name) else { return };
        let host = self.context.config.address.to_string();
        let address = observed.sandbox.as_ref().and_then(|s| s.address.clone()).unwrap_or(host);
        self.hooks.begin(&self.context, pod, &container, (id, &address), moment, &self.changed);
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
            let addresses = observed.sandbox.as_ref().map(|s| s.addresses()).unwrap_or_default();
            resize::around(context, pod, observed, container)?;
            let (name, attempt) = (container, *attempt);
            let start = Start { name, attempt, pulled, sandbox, observed, addresses: &addresses };
            return start::container(context, pod, start, volumes).await;
        }
        Action::RemoveSandbox { id } => runtime.remove_sandbox(id).await,
        Action::Resize { id, container: name, .. } => {
            let sandbox = observed.sandbox.as_ref().map_or("", |s| s.id.as_str());
            let running = observed.containers.iter().find(|c| c.id == *id);
            let (Some(spec), Some(before)) =
                (container(pod, name), running.and_then(|c| c.resources.as_ref()))
            else {
                return Ok(());
            };
            return Ok(resize::in_place(context, pod, (sandbox, id), &spec, before)?);
        }
        Action::ResizePod { .. } => return Ok(resize::whole(context, pod, observed)?),
        // It goes on beside everything else.
        Action::PreStop { .. } => return Ok(()),
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
