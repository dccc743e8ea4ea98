//! What to do next for one pod: spec and observed state in, actions out (pure).

mod ends;
mod policy;
mod run;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use tokio::time::Instant;

pub use self::policy::{RestartPolicy, is_sidecar};
use super::backoff::Backoff;
use super::observed::{Ailment, ObservedContainer, ObservedPod};
use crate::runtime::ContainerState;

/// What is wanted of the pod as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Its containers run.
    Run,
    /// Everything of it ends.
    Stop {
        /// How long processes may take in all; without any they are killed unasked.
        grace: Duration,
        /// What is left of that.
        left: Duration,
        /// What has become of the pod then.
        then: Outcome,
    },
}

/// What the worker remembers between rounds and no one else knows.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Of restarts after an end, by container name.
    pub restarts: HashMap<String, Backoff>,
    /// When containers (by id) were first seen to have ended.
    pub ended: HashMap<String, Instant>,
    /// When and why containers (by id) were asked to end.
    pub signalled: HashMap<String, (Instant, KillReason)>,
    /// The preStop hooks of containers (by id).
    pub pre_stops: HashMap<String, PreStop>,
    /// Whether the pod is deleted and services still lead new connections to it.
    pub led: bool,
}

impl Memory {
    /// When and why it was decided that a container must end.
    fn ending(&self, id: &str) -> Option<(Instant, KillReason)> {
        let hook = self.pre_stops.get(id).map(|hook| (hook.since, hook.reason));
        hook.or_else(|| self.signalled.get(id).copied())
    }
}

/// A preStop hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreStop {
    /// When it began.
    pub since: Instant,
    /// Why its container must end.
    pub reason: KillReason,
    /// Whether it has ended.
    pub over: bool,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Make the pod's sandbox.
    CreateSandbox {
        /// How many came before.
        attempt: u32,
    },
    /// End a sandbox and forget it and its containers.
    RemoveSandbox {
        /// The runtime's id.
        id: String,
    },
    /// Start a container, or begin to fetch its image when that is missing.
    Start {
        /// Its name within the pod.
        container: String,
        /// How many came before.
        attempt: u32,
    },
    /// Begin a container's preStop hook.
    PreStop {
        /// The runtime's id.
        id: String,
        /// Its name within the pod.
        container: String,
        /// Why it is to end, for the `Killing` event.
        reason: KillReason,
    },
    /// Ask a container's process to end.
    Signal {
        /// The runtime's id.
        id: String,
        /// Its name within the pod.
        container: String,
        /// What to send.
        signal: i32,
        /// Why, for the `Killing` event.
        reason: KillReason,
    },
    /// End a container's processes at once.
    Kill {
        /// The runtime's id.
        id: String,
    },
    /// Give a running container the resources of its spec.
    Resize {
        /// The runtime's id.
        id: String,
        /// Its name within the pod.
        container: String,
        /// These, as JSON.
        to: String,
    },
    /// Give a pod what its spec states for all of its containers together.
    ResizePod {
        /// Its sandbox.
        id: String,
        /// That, as JSON.
        to: String,
    },
    /// Forget an ended container that two newer attempts have replaced.
    Forget {
        /// The runtime's id.
        id: String,
        /// Its name within the pod.
        container: String,
        /// Its attempt number.
        attempt: u32,
    },
}

/// Why a container is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KillReason {
    /// The pod ends.
    PodStops,
    /// Its image changed.
    Changed,
    /// Its resources change, and its policy for that is a restart.
    Resized,
    /// It is not well, and comes back if the pod's restart policy says so.
    Ails {
        /// What it has.
        ailment: Ailment,
        /// Whether it comes back whatever its exit code.
        returns: bool,
    },
}

impl KillReason {
    /// Whether the container that is ended for this comes back whatever its exit code.
    fn returns(self) -> bool {
        match self {
            KillReason::PodStops => false,
            KillReason::Changed | KillReason::Resized => true,
            KillReason::Ails { returns, .. } => returns,
        }
    }
}

/// Actions that can be carried out side by side, and when to look again if nothing happens before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Side by side.
    pub actions: Vec<Action>,
    /// At the latest.
    pub wake: Option<Duration>,
    /// Starts that wait for their image, whose coming wakes the worker.
    pub pulling: Vec<Action>,
    /// Containers that wait for their back-off, with the back-off in full.
    pub backing_off: Vec<(String, Duration)>,
    /// How the pod stands when there is nothing more to do for it.
    pub outcome: Option<Outcome>,
}

/// A pod that has come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All containers succeeded.
    Succeeded,
    /// One failed for good.
    Failed,
    /// Stopped, nothing of it is left.
    Gone,
}

/// How long the processes of a pod may take to end when nobody says otherwise.
pub fn grace_of(spec: &PodSpec) -> Duration {
    Duration::from_secs(u64::try_from(spec.termination_grace_period_seconds.unwrap_or(30)).unwrap_or(0))
}

/// Makes a wake-up earlier.
pub fn sooner(wake: &mut Option<Duration>, left: Duration) {
    *wake = Some(wake.map_or(left, |w| w.min(left)));
}

/// What to do now.
pub fn plan(pod: &Pod, goal: Goal, observed: &ObservedPod, memory: &Memory, now: Instant) -> Plan {
    let mut plan = Plan::default();
    for id in &observed.stale_sandboxes {
        plan.actions.push(Action::RemoveSandbox { id: id.clone() });
    }
    let Some(spec) = &pod.spec else { return plan };
    match goal {
        Goal::Stop { grace, left, then } => {
            ends::stop(pod, spec, observed, (memory, now), (grace, left), then, &mut plan);
        }
        Goal::Run => run::run(pod, spec, observed, memory, now, &mut plan),
    }
    plan
}

fn runs(container: &ObservedContainer) -> bool {
    matches!(container.state, ContainerState::Running { .. })
}
