//! What the runtime and the last written status say about one pod, in the kubelet's own words (pure).

use std::collections::BTreeSet;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::{Container, ContainerState as ApiState, ContainerStatus, Pod};

use crate::runtime::{ContainerState, Labels, Observed};
use crate::stdio::Exit;

/// Label keys that the kubelet puts on sandboxes and containers, to find its way back after a restart.
pub mod label {
    /// The pod's uid.
    pub const UID: &str = "pod-uid";
    /// The pod's namespace.
    pub const NAMESPACE: &str = "pod-namespace";
    /// The pod's name.
    pub const POD: &str = "pod-name";
    /// How often it was made before.
    pub const ATTEMPT: &str = "attempt";
    /// The pod's address.
    pub const ADDRESS: &str = "address";
    /// The container's name within the pod.
    pub const CONTAINER: &str = "container";
    /// A fingerprint of the container's part of the spec.
    pub const HASH: &str = "hash";
    /// The image as the status shows it.
    pub const IMAGE: &str = "image";
    /// The image's digest as the status shows it.
    pub const IMAGE_ID: &str = "image-id";
    /// The signal that asks the process to end.
    pub const STOP_SIGNAL: &str = "stop-signal";
}

/// A pod as the runtime holds it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ObservedPod {
    /// Its newest sandbox.
    pub sandbox: Option<ObservedSandbox>,
    /// Containers of that sandbox, oldest attempt first.
    pub containers: Vec<ObservedContainer>,
    /// Sandboxes that a newer one has replaced.
    pub stale_sandboxes: Vec<String>,
    /// Containers, by name, whose image is being fetched.
    pub pulling: BTreeSet<String>,
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq)]
pub struct ObservedSandbox {
    /// The runtime's id.
    pub id: String,
    /// How many came before it.
    pub attempt: u32,
    /// Whether it can still hold containers.
    pub alive: bool,
    /// The pod's address; `None` on the host's network.
    pub address: Option<String>,
}

/// A container.
#[derive(Debug, Clone, PartialEq)]
pub struct ObservedContainer {
    /// The runtime's id.
    pub id: String,
    /// Its name within the pod.
    pub name: String,
    /// How many came before it.
    pub attempt: u32,
    /// A fingerprint of what it was made from.
    pub hash: String,
    /// As the status shows it.
    pub image: String,
    /// As the status shows it.
    pub image_id: String,
    /// What asks it to end.
    pub stop_signal: i32,
    /// Why its process could not be started; it has ended then without having run.
    pub start_error: Option<String>,
    /// Running or not.
    pub state: ContainerState,
}

fn number(labels: &Labels, key: &str) -> u32 {
    labels.get(key).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn text(labels: &Labels, key: &str) -> String {
    labels.get(key).cloned().unwrap_or_default()
}

impl ObservedContainer {
    /// A container by what the kubelet wrote on it.
    pub fn of(id: &str, labels: &Labels, state: ContainerState) -> ObservedContainer {
        ObservedContainer {
            id: id.to_owned(),
            name: text(labels, label::CONTAINER),
            attempt: number(labels, label::ATTEMPT),
            hash: text(labels, label::HASH),
            image: text(labels, label::IMAGE),
            image_id: text(labels, label::IMAGE_ID),
            stop_signal: text(labels, label::STOP_SIGNAL).parse().unwrap_or(TERM),
            start_error: None,
            state,
        }
    }

    /// One whose process could not be started: no runtime has it, yet it was an attempt that failed.
    pub fn unstarted(id: &str, labels: &Labels, error: String, now: SystemTime) -> ObservedContainer {
        let exit = Some(Exit::Code(START_ERROR));
        let state = ContainerState::Exited { started: now, finished: now, exit, oom_killed: false };
        ObservedContainer { start_error: Some(error), ..ObservedContainer::of(id, labels, state) }
    }
}

/// The exit code of a process that could not be started, as containerd reports it.
const START_ERROR: i32 = 128;

impl ObservedPod {
    /// The part of the runtime's state that belongs to this pod.
    pub fn of(uid: &str, all: &Observed) -> ObservedPod {
        let is_ours = |labels: &Labels| labels.get(label::UID).is_some_and(|u| u == uid);
        let mut sandboxes: Vec<_> = all.sandboxes.iter().filter(|s| is_ours(&s.labels)).collect();
        sandboxes.sort_by_key(|s| number(&s.labels, label::ATTEMPT));
        let Some(newest) = sandboxes.pop() else { return ObservedPod::default() };
        let mut containers: Vec<ObservedContainer> = all
            .containers
            .iter()
            .filter(|c| c.sandbox == newest.id)
            .map(|c| ObservedContainer::of(&c.id, &c.labels, c.state.clone()))
            .collect();
        containers.sort_by_key(|c| c.attempt);
        ObservedPod {
            sandbox: Some(ObservedSandbox {
                id: newest.id.clone(),
                attempt: number(&newest.labels, label::ATTEMPT),
                alive: newest.alive,
                address: newest.labels.get(label::ADDRESS).cloned(),
            }),
            containers,
            stale_sandboxes: sandboxes.iter().map(|s| s.id.clone()).collect(),
            pulling: BTreeSet::new(),
        }
    }

    /// Adds attempts in the present sandbox that only the worker knows of.
    pub fn add(&mut self, unstarted: impl Iterator<Item = ObservedContainer>) {
        self.containers.extend(unstarted);
        self.containers.sort_by_key(|c| c.attempt);
    }

    /// The newest attempt of a container in the present sandbox.
    pub fn newest(&self, name: &str) -> Option<&ObservedContainer> {
        self.containers.iter().rfind(|c| c.name == name)
    }
}

/// `SIGTERM`.
const TERM: i32 = 15;

/// The last that is known of a container, wherever it is known from.
#[derive(Debug, Clone, PartialEq)]
pub enum History {
    /// It never ran.
    Never,
    /// It runs, as this attempt.
    Running {
        /// Attempt number, from 0.
        attempt: u32,
    },
    /// It ended in the present sandbox.
    Exited {
        /// Attempt number, from 0.
        attempt: u32,
        /// Whether it succeeded.
        success: bool,
    },
    /// Only an earlier sandbox knew it: it ended then, or was lost with it.
    Before {
        /// Attempt number, from 0.
        attempt: u32,
        /// Whether it is known to have ended with success.
        success: bool,
        /// Whether it is known to have ended at all.
        ended: bool,
    },
}

/// What is known of the container of this name.
pub fn history(pod: &Pod, observed: &ObservedPod, name: &str) -> History {
    if let Some(container) = observed.newest(name) {
        let attempt = container.attempt;
        return match &container.state {
            ContainerState::Running { .. } => History::Running { attempt },
            ContainerState::Exited { exit, .. } => {
                History::Exited { attempt, success: *exit == Some(Exit::Code(0)) }
            }
        };
    }
    let Some(status) = written_status(pod, name) else { return History::Never };
    let attempt = u32::try_from(status.restart_count).unwrap_or(0);
    let ended = |state: &Option<ApiState>| state.as_ref().and_then(|s| s.terminated.clone());
    if let Some(terminated) = ended(&status.state) {
        History::Before { attempt, success: terminated.exit_code == 0, ended: true }
    } else if status.container_id.is_some()
        || status.last_state.as_ref().is_some_and(|s| s.terminated.is_some())
    {
        History::Before { attempt, success: false, ended: false }
    } else {
        History::Never
    }
}

/// The status last written for the container of this name.
pub fn written_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let init = status.init_container_statuses.iter().flatten();
    status.container_statuses.iter().flatten().chain(init).find(|s| s.name == name)
}

/// A fingerprint of what makes a running container out of date when it changes: its image alone, as the
/// API allows no other change of a container that matters to a running process.
pub fn fingerprint(container: &Container) -> String {
    container.image.clone().unwrap_or_default()
}
