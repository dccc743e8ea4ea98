//! Lifecycle hooks of one pod's containers that run beside its worker, however long they take.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use tokio::sync::{Notify, oneshot};
use tokio_util::task::AbortOnDropHandle;

use crate::client::events::EventType;
use crate::kubelet::context::Context;
use crate::kubelet::handlers::{self, Target};
use crate::kubelet::observed::{Ailment, ObservedPod};
use crate::runtime::Runtime;

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    /// Right after the container's start.
    PostStart,
    /// Before it is asked to end.
    PreStop,
}

impl Moment {
    /// What a container wants to be done at this moment.
    pub fn of(self, container: &Container) -> Option<&LifecycleHandler> {
        let lifecycle = container.lifecycle.as_ref()?;
        match self {
            Moment::PostStart => lifecycle.post_start.as_ref(),
            Moment::PreStop => lifecycle.pre_stop.as_ref(),
        }
    }

    /// Reason and message of the event that tells of a hook's failure. What the hook said is left out: it may be secret.
    fn failure(self) -> (&'static str, &'static str) {
        match self {
            Moment::PostStart => ("FailedPostStartHook", "PostStartHook failed"),
            Moment::PreStop => ("FailedPreStopHook", "PreStopHook failed"),
        }
    }
}

/// How a hook went.
pub type Went = Result<(), String>;

/// The hooks by container id; one that is dropped is given up.
#[derive(Default)]
pub struct Hooks(HashMap<(String, Moment), Hook>);

enum Hook {
    UnderWay { end: oneshot::Receiver<Went>, _task: AbortOnDropHandle<()> },
    Ended(Went),
}

impl Hooks {
    /// Begins the hook of a container, if it has one; its end wakes the worker.
    pub fn begin<R: Runtime>(
        &mut self,
        context: &Arc<Context<R>>,
        pod: &Pod,
        container: &Container,
        (id, address): (&str, &str),
        moment: Moment,
        wake: &Arc<Notify>,
    ) {
        let Some(handler) = moment.of(container).cloned() else { return };
        let (tell, end) = oneshot::channel();
        let (context, pod, container) = (context.clone(), pod.clone(), container.clone());
        let (of, address, wake) = (id.to_owned(), address.to_owned(), wake.clone());
        let task = tokio::spawn(async move {
            let target = Target { pod: &pod, container: &container, id: &of, address: &address };
            let went = handlers::hook(&context, &target, &handler).await;
            if let Err(message) = &went {
                tracing::debug!(container = container.name, message, ?moment, "lifecycle hook failed");
                let (reason, message) = moment.failure();
                context.event(&pod, Some(&container.name), EventType::Warning, reason, message);
            }
            // A worker that is gone does not want to know.
            if tell.send(went).is_ok() {
                wake.notify_one();
            }
        });
        let hook = Hook::UnderWay { end, _task: AbortOnDropHandle::new(task) };
        self.0.insert((id.to_owned(), moment), hook);
    }

    /// Forgets the hooks of containers that are gone.
    pub fn retain(&mut self, observed: &ObservedPod) {
        self.0.retain(|(id, _), _| observed.containers.iter().any(|c| &c.id == id));
    }

    /// Sees which have ended.
    pub fn look(&mut self) {
        for hook in self.0.values_mut() {
            let Hook::UnderWay { end, .. } = hook else { continue };
            match end.try_recv() {
                Ok(went) => *hook = Hook::Ended(went),
                Err(oneshot::error::TryRecvError::Closed) => {
                    *hook = Hook::Ended(Err("the hook ended unexpectedly".to_owned()));
                }
                Err(oneshot::error::TryRecvError::Empty) => {}
            }
        }
    }

    /// How a container's hook went, once it has ended.
    pub fn went(&self, id: &str, moment: Moment) -> Option<&Went> {
        match self.0.get(&(id.to_owned(), moment))? {
            Hook::Ended(went) => Some(went),
            Hook::UnderWay { .. } => None,
        }
    }

    /// Writes on containers what their postStart hooks say of them; one whose hook nobody here has begun was started
    /// by an earlier daemon, and is as it is.
    pub fn judge(&self, observed: &mut ObservedPod) {
        if self.0.is_empty() {
            return;
        }
        for container in &mut observed.containers {
            match self.0.get(&(container.id.clone(), Moment::PostStart)) {
                Some(Hook::UnderWay { .. }) => container.health.hooked = false,
                Some(Hook::Ended(Err(_))) => {
                    container.health.hooked = false;
                    container.health.ailment = Some(Ailment::PostStart);
                }
                Some(Hook::Ended(Ok(()))) | None => {}
            }
        }
    }
}
