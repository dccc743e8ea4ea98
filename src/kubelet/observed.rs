//! What the runtime and the last written status say about one pod, in the kubelet's own words (pure).

use std::collections::BTreeSet;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStatus, Pod, ResourceRequirements,
};

use super::probes::Kind;
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
    /// Its second one, of IPv6.
    pub const ADDRESS6: &str = "address6";
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
    /// The resources that it was started with, as JSON.
    pub const RESOURCES: &str = "resources";
    /// What its pod stated for all of its containers together, of a sandbox or a container, as JSON.
    pub const WHOLE: &str = "whole";
    /// As whom the process was started: `UID:GID:GROUP,GROUP`.
    pub const USER: &str = "user";
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
    /// What it was given for all containers together, where the pod states that.
    pub whole: Option<ResourceRequirements>,
    /// The pod's address; `None` on the host's network.
    pub address: Option<String>,
    /// Its second one, of IPv6, where it has one.
    pub address6: Option<String>,
}

impl ObservedSandbox {
    /// The pod's addresses, the one that is meant by "its address" first; none on the host's network.
    pub fn addresses(&self) -> Vec<String> {
        self.address.iter().chain(&self.address6).cloned().collect()
    }
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
    /// As whom it was started.
    pub user: Option<StartedAs>,
    /// What it was given of CPU and memory; `None` when nobody has written that down.
    pub resources: Option<ResourceRequirements>,
    /// What its pod stated for all of its containers when it was made, where it did.
    pub whole: Option<ResourceRequirements>,
    /// Why its process could not be started; it has ended then without having run.
    pub start_error: Option<String>,
    /// How it is while it runs.
    pub health: Health,
    /// Running or not.
    pub state: ContainerState,
}

/// As whom a container's first process was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartedAs {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
}

impl StartedAs {
    fn parse(text: &str) -> Option<StartedAs> {
        let mut parts = text.splitn(3, ':');
        let (uid, gid) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let groups = parts.next()?.split(',').filter(|group| !group.is_empty());
        Some(StartedAs { uid, gid, groups: groups.map(str::parse).collect::<Result<_, _>>().ok()? })
    }

    /// As [`label::USER`] has it.
    pub fn text(&self) -> String {
        let groups: Vec<String> = self.groups.iter().map(ToString::to_string).collect();
        format!("{}:{}:{}", self.uid, self.gid, groups.join(","))
    }
}

/// How a running container is, by its hooks and probes; one that has none is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Its postStart hook is behind it.
    pub hooked: bool,
    /// Its startup probe has succeeded.
    pub started: bool,
    /// Its readiness probe finds it ready.
    pub ready: bool,
    /// Why it must end.
    pub ailment: Option<Ailment>,
}

impl Default for Health {
    fn default() -> Health {
        Health { hooked: true, started: true, ready: true, ailment: None }
    }
}

impl Health {
    /// Whether the container is up, so that what comes after it may start.
    pub fn is_up(&self) -> bool {
        self.hooked && self.started
    }
}

/// What is wrong with a running container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ailment {
    /// This probe has failed too often.
    Probe(Kind),
    /// Its postStart hook has failed.
    PostStart,
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
            resources: resources(labels, label::RESOURCES),
            whole: resources(labels, label::WHOLE),
            user: labels.get(label::USER).and_then(|text| StartedAs::parse(text)),
            start_error: None,
            health: Health::default(),
            state,
        }
    }

    /// Its id as statuses show it.
    pub fn full_id(&self) -> String {
        format!("minik://{}", self.id)
    }

    /// One whose process could not be started: no runtime has it, yet it was an attempt that failed.
    pub fn unstarted(id: &str, labels: &Labels, error: String, now: SystemTime) -> ObservedContainer {
        let exit = Some(Exit::Code(START_ERROR));
        let state = ContainerState::Exited { started: now, finished: now, exit, oom_killed: false };
        ObservedContainer { start_error: Some(error), ..ObservedContainer::of(id, labels, state) }
    }
}

/// The resources that a label tells of.
fn resources(labels: &Labels, label: &str) -> Option<ResourceRequirements> {
    labels.get(label).and_then(|text| serde_json::from_str(text).ok())
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
                whole: resources(&newest.labels, label::WHOLE),
                address: newest.labels.get(label::ADDRESS).cloned(),
                address6: newest.labels.get(label::ADDRESS6).cloned(),
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

/// The exit code that stands for an end that nobody saw.
pub const UNSEEN: i32 = 137;
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
        /// With which code; what nobody saw is no success.
        code: i32,
    },
    /// Only an earlier sandbox knew it: it ended then, or was lost with it.
    Before {
        /// Attempt number, from 0.
        attempt: u32,
        /// With which code it is known to have ended.
        code: Option<i32>,
    },
}

/// What is known of the container of this name.
pub fn history(pod: &Pod, observed: &ObservedPod, name: &str) -> History {
    if let Some(container) = observed.newest(name) {
        let attempt = container.attempt;
        return match &container.state {
            ContainerState::Running { .. } => History::Running { attempt },
            ContainerState::Exited { exit, .. } => {
                History::Exited { attempt, code: exit.map_or(UNSEEN, Exit::shell_code) }
            }
        };
    }
    let Some(status) = written_status(pod, name) else { return History::Never };
    let attempt = u32::try_from(status.restart_count).unwrap_or(0);
    let ended = |state: &Option<ApiState>| state.as_ref().and_then(|s| s.terminated.clone());
    if let Some(terminated) = ended(&status.state) {
        History::Before { attempt, code: Some(terminated.exit_code) }
    } else if status.container_id.is_some()
        || status.last_state.as_ref().is_some_and(|s| s.terminated.is_some())
    {
        History::Before { attempt, code: None }
    } else {
        History::Never
    }
}

/// The status last written for the container of this name.
pub fn written_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|s| s.name == name)
}

/// A fingerprint of what makes a running container out of date when it changes: its image alone, as the
/// API allows no other change of a container that matters to a running process.
pub fn fingerprint(container: &Container) -> String {
    container.image.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_a_container_runs_as_is_read_back() {
        for (groups, text) in [(vec![], "1:2:"), (vec![3, 4], "1:2:3,4")] {
            let user = StartedAs { uid: 1, gid: 2, groups };
            assert_eq!(user.text(), text);
            assert_eq!(StartedAs::parse(text), Some(user));
        }
        assert_eq!(StartedAs::parse("1"), None);
    }
}
