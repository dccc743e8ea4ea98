//! The status of a pod from its spec and what is observed of it (pure).

mod conditions;
#[cfg(test)]
mod tests;
mod whole;

use std::collections::HashMap;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, ContainerUser, HostIP, LinuxContainerUser, Pod, PodIP, PodStatus,
    VolumeMount, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use self::conditions::{Condition, conditions, merged, unmet_gates};
use super::eviction;
use super::observed::{History, ObservedContainer, ObservedPod, UNSEEN, history, written_status};
use super::plan::{Outcome, is_sidecar};
use super::pod::{container, ephemeral};
use crate::runtime::ContainerState;
use crate::stdio::Exit;

/// Why a container does not run yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    /// `ContainerCreating`, `ErrImagePull`, ...
    pub reason: String,
    /// For people.
    pub message: String,
}

/// How a change of a pod's resources goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resizing {
    /// Why the node does not grant it.
    pub pending: Option<Waiting>,
    /// It is being carried out, or why that has failed.
    pub under_way: Option<Waiting>,
}

impl Resizing {
    fn conditions(&self) -> impl Iterator<Item = Condition<'_>> {
        let both = [("PodResizePending", &self.pending), ("PodResizeInProgress", &self.under_way)];
        both.into_iter().filter_map(|(type_, why)| {
            let Waiting { reason, message } = why.as_ref()?;
            let reason = Some(reason.as_str()).filter(|reason| !reason.is_empty());
            Some((type_, true, reason, Some(message.clone()).filter(|message| !message.is_empty())))
        })
    }
}

/// What the worker knows beside the runtime.
#[derive(Debug, Clone, Default)]
pub struct Notes {
    /// Why containers wait, by name.
    pub waiting: HashMap<String, Waiting>,
    /// Last words of ended containers, by runtime id.
    pub messages: HashMap<String, String>,
    /// The end that the plan has seen.
    pub outcome: Option<Outcome>,
    /// The pod's addresses, the one that is meant by "its address" first.
    pub addresses: Vec<String>,
    /// Why the pod as a whole failed, as reason and message.
    pub failure: Option<Waiting>,
    /// How a change of resources goes on.
    pub resize: Resizing,
    /// The node's addresses, likewise.
    pub host_addresses: Vec<String>,
}

/// A moment as the API writes it.
pub fn time(at: SystemTime) -> Time {
    Time(jiff::Timestamp::try_from(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

/// The status to write; parts that others own (conditions set by the scheduler, the QoS class) are kept.
pub fn status(pod: &Pod, observed: &ObservedPod, notes: &Notes, now: SystemTime) -> PodStatus {
    let old = pod.status.clone().unwrap_or_default();
    let Some(spec) = &pod.spec else { return old };
    let initialized = initialized(pod, spec.init_containers.as_deref().unwrap_or(&[]), observed);
    let containers: Vec<ContainerStatus> = spec
        .containers
        .iter()
        .map(|c| {
            container_status(
                pod,
                c,
                observed,
                notes,
                if initialized { "ContainerCreating" } else { "PodInitializing" },
            )
        })
        .collect();
    let init: Vec<ContainerStatus> = spec
        .init_containers
        .iter()
        .flatten()
        .map(|c| {
            let mut status = container_status(pod, c, observed, notes, "PodInitializing");
            if !is_sidecar(c) {
                status.ready = terminated(&status.state).is_some_and(|t| t.exit_code == 0);
            }
            status
        })
        .collect();
    // Nobody waits for these, so that nothing says whether they are ready.
    let ephemeral: Vec<ContainerStatus> = ephemeral(pod)
        .filter_map(|c| container(pod, &c.name))
        .map(|c| ContainerStatus {
            ready: false,
            started: None,
            ..container_status(pod, &c, observed, notes, "ContainerCreating")
        })
        .collect();
    let phase = phase(pod, notes, &containers, initialized);
    let finished = phase == "Succeeded" || phase == "Failed";
    let pod_ips: Vec<PodIP> = match notes.addresses.as_slice() {
        [] => old.pod_ips.clone().unwrap_or_default(),
        known => known.iter().cloned().map(|ip| PodIP { ip }).collect(),
    };
    let pod_ip = pod_ips.first().map(|one| one.ip.clone()).or_else(|| old.pod_ip.clone());
    let host_ips = notes.host_addresses.iter().cloned();
    // A pod shows why it failed when it has: until then its containers run out their time.
    let failure = notes.failure.as_ref().filter(|_| phase == "Failed");
    let mut status = PodStatus {
        phase: Some(phase.clone()),
        container_statuses: Some(containers),
        init_container_statuses: (!init.is_empty()).then_some(init),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        host_ip: notes.host_addresses.first().cloned(),
        host_ips: Some(host_ips.map(|ip| HostIP { ip }).collect()),
        pod_ips: Some(pod_ips).filter(|ips| !ips.is_empty()),
        pod_ip,
        start_time: old.start_time.clone().or_else(|| Some(time(now))),
        observed_generation: pod.metadata.generation,
        reason: failure.map(|f| f.reason.clone()).or(old.reason.clone()),
        message: failure.map(|f| f.message.clone()).or(old.message.clone()),
        ..old
    };
    if observed.sandbox.is_some() {
        status.allocated_resources = whole::allocated(spec);
        status.resources = whole::given(spec, observed);
    }
    let sandboxed = observed.sandbox.as_ref().is_some_and(|s| s.alive);
    shorten_messages(&mut status);
    let sidecars: Vec<&str> =
        spec.init_containers.iter().flatten().filter(|c| is_sidecar(c)).map(|c| c.name.as_str()).collect();
    let gates = spec.readiness_gates.iter().flatten().map(|gate| gate.condition_type.as_str());
    let unmet = unmet_gates(gates, status.conditions.as_deref().unwrap_or(&[]));
    let mut conditions = conditions(&status, &sidecars, finished, initialized, sandboxed, unmet);
    let disrupted = failure.and_then(|failure| match failure.reason.as_str() {
        eviction::REASON => Some(failure.message.clone()),
        eviction::PREEMPTED => Some("Pod was preempted by Kubelet to accommodate a critical pod.".to_owned()),
        _ => None,
    });
    if disrupted.is_some() {
        conditions.push(("DisruptionTarget", true, Some("TerminationByKubelet"), disrupted));
    }
    conditions.extend(notes.resize.conditions());
    status.conditions = Some(merged(status.conditions.take().unwrap_or_default(), conditions, pod, now));
    status
}

/// The most that a pod's termination messages may take together, in bytes (kubelet's
/// `MaxPodTerminationMessageLogLength`).
const MESSAGES_MAX: usize = 12 << 10;

/// Cuts each termination message to its container's share.
fn shorten_messages(status: &mut PodStatus) {
    let lists = [
        &mut status.container_statuses,
        &mut status.init_container_statuses,
        &mut status.ephemeral_container_statuses,
    ];
    let mut containers: Vec<_> = lists.into_iter().flatten().flatten().collect();
    let share = MESSAGES_MAX / containers.len().max(1);
    let states = containers.iter_mut().flat_map(|c| [&mut c.state, &mut c.last_state]);
    let messages = states.flatten().filter_map(|s| s.terminated.as_mut()?.message.as_mut());
    for message in messages.filter(|m| m.len() > share) {
        message.truncate(message.floor_char_boundary(share));
    }
}

/// Whether all init containers are behind, and all sidecars beside the others.
fn initialized(pod: &Pod, inits: &[Container], observed: &ObservedPod) -> bool {
    let succeeded = |c: &Container| match history(pod, observed, &c.name) {
        History::Running { .. } => {
            is_sidecar(c) && observed.newest(&c.name).is_some_and(|c| c.health.is_up())
        }
        History::Exited { code: 0, .. } | History::Before { code: Some(0), .. } => !is_sidecar(c),
        History::Exited { .. } | History::Before { .. } | History::Never => false,
    };
    let containers = pod.spec.iter().flat_map(|s| &s.containers);
    inits.iter().all(succeeded) || containers.into_iter().any(|c| observed.newest(&c.name).is_some())
}

fn terminated(state: &Option<ApiState>) -> Option<&ContainerStateTerminated> {
    state.as_ref()?.terminated.as_ref()
}

fn waiting_state(waiting: Waiting) -> ApiState {
    ApiState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(waiting.reason),
            message: Some(waiting.message).filter(|m| !m.is_empty()),
        }),
        ..ApiState::default()
    }
}

/// The state that the API shows for an observed one.
fn api_state(container: &ObservedContainer, notes: &Notes) -> ApiState {
    match &container.state {
        ContainerState::Running { started, .. } => ApiState {
            running: Some(ContainerStateRunning { started_at: Some(time(*started)) }),
            ..ApiState::default()
        },
        ContainerState::Exited { started, finished, exit, oom_killed } => {
            let reason = match (exit, oom_killed) {
                _ if container.start_error.is_some() => "StartError",
                (_, true) => "OOMKilled",
                (None, _) => "ContainerStatusUnknown",
                (Some(Exit::Code(0)), _) => "Completed",
                _ => "Error",
            };
            let words = container.start_error.as_ref().or(notes.messages.get(&container.id)).cloned();
            let message = words.or_else(|| {
                exit.is_none()
                    .then(|| "The container could not be located when the pod was terminated".to_owned())
            });
            ApiState {
                terminated: Some(ContainerStateTerminated {
                    container_id: Some(container.full_id()),
                    // A signal shows as 128+n; the signal field is for what has no code at all.
                    exit_code: exit.map_or(UNSEEN, Exit::shell_code),
                    finished_at: Some(time(*finished)),
                    message,
                    reason: Some(reason.to_owned()),
                    signal: None,
                    started_at: Some(time(*started)),
                }),
                ..ApiState::default()
            }
        }
    }
}

fn container_status(
    pod: &Pod,
    container: &Container,
    observed: &ObservedPod,
    notes: &Notes,
    default_reason: &str,
) -> ContainerStatus {
    let name = &container.name;
    let attempts: Vec<&ObservedContainer> =
        observed.containers.iter().filter(|c| &c.name == name && is_shown(c)).collect();
    let old = written_status(pod, name);
    let waiting = notes.waiting.get(name).cloned();
    let mut status = ContainerStatus {
        name: name.clone(),
        image: container.image.clone().unwrap_or_default(),
        started: Some(false),
        ..ContainerStatus::default()
    };
    let previous = |n: usize| attempts.len().checked_sub(n).map(|i| api_state(attempts[i], notes));
    if let Some(newest) = attempts.last() {
        status.container_id = Some(newest.full_id());
        status.image = newest.image.clone();
        status.image_id = newest.image_id.clone();
        status.restart_count = i32::try_from(newest.attempt).unwrap_or(i32::MAX);
        given(&mut status, container, newest);
        let state = api_state(newest, notes);
        let older =
            previous(2).or_else(|| old.and_then(|o| o.last_state.clone()).filter(|_| newest.attempt > 0));
        match (waiting, state.terminated.is_some()) {
            // It ended and waits to be started again: its end moves to lastState.
            (Some(waiting), true) => {
                status.state = Some(waiting_state(waiting));
                status.last_state = Some(state);
            }
            _ => {
                let (runs, health) = (state.running.is_some(), newest.health);
                status.ready = runs && health.started && health.ready;
                status.started = Some(runs && health.started);
                status.state = Some(state);
                status.last_state = older;
            }
        }
    } else if let Some(old) = old.filter(|o| o.container_id.is_some()) {
        // Only an earlier sandbox knew it.
        status.container_id = old.container_id.clone();
        status.image = old.image.clone();
        status.image_id = old.image_id.clone();
        status.restart_count = old.restart_count;
        status.allocated_resources = container.resources.as_ref().and_then(|r| r.requests.clone());
        status.resources = old.resources.clone();
        let ended =
            terminated(&old.state).map_or_else(|| lost(old), |_| old.state.clone().unwrap_or_default());
        if waiting.is_none() && notes.outcome.is_some()
            || terminated(&old.state).is_some() && waiting.is_none()
        {
            status.state = Some(ended);
            status.last_state = old.last_state.clone();
        } else {
            status.state = Some(waiting_state(waiting.unwrap_or_else(|| default_waiting(default_reason))));
            status.last_state = Some(ended);
        }
    } else {
        status.state = Some(waiting_state(waiting.unwrap_or_else(|| default_waiting(default_reason))));
    }
    status.last_state.get_or_insert_default();
    status
}

/// What a container was given when it was made.
fn given(status: &mut ContainerStatus, container: &Container, made: &ObservedContainer) {
    status.allocated_resources = container.resources.as_ref().and_then(|r| r.requests.clone());
    let resources = made.resources.clone().or(container.resources.clone());
    status.resources = Some(resources.unwrap_or_default());
    let mount = |mount: &VolumeMount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only.filter(|read_only| *read_only),
        recursive_read_only: (mount.read_only == Some(true)).then(|| {
            let asked = matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
            if asked { "Enabled" } else { "Disabled" }.to_owned()
        }),
        ..VolumeMountStatus::default()
    };
    status.volume_mounts = container.volume_mounts.as_ref().map(|mounts| mounts.iter().map(mount).collect());
    status.user = made.user.as_ref().map(|user| ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: user.uid.into(),
            gid: user.gid.into(),
            supplemental_groups: Some(user.groups.iter().copied().map(i64::from).collect()),
        }),
    });
}

/// Whether an attempt shows: one whose postStart hook is not over looks as if it were still being made.
fn is_shown(container: &ObservedContainer) -> bool {
    container.health.hooked || !matches!(container.state, ContainerState::Running { .. })
}

fn default_waiting(reason: &str) -> Waiting {
    Waiting { reason: reason.to_owned(), message: String::new() }
}

/// The end of a container that vanished with its sandbox, as Kubernetes words it.
fn lost(old: &ContainerStatus) -> ApiState {
    let started = old.state.as_ref().and_then(|s| s.running.as_ref()).and_then(|r| r.started_at.clone());
    if let Some(last) = old.last_state.as_ref().filter(|l| started.is_none() && l.terminated.is_some()) {
        return last.clone();
    }
    ApiState {
        terminated: Some(ContainerStateTerminated {
            container_id: old.container_id.clone(),
            exit_code: UNSEEN,
            message: Some("The container could not be located when the pod was terminated".to_owned()),
            reason: Some("ContainerStatusUnknown".to_owned()),
            started_at: started,
            ..ContainerStateTerminated::default()
        }),
        ..ApiState::default()
    }
}

fn phase(pod: &Pod, notes: &Notes, containers: &[ContainerStatus], initialized: bool) -> String {
    let old = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    if old == "Succeeded" || old == "Failed" {
        return old.to_owned();
    }
    match notes.outcome {
        Some(Outcome::Succeeded) => return "Succeeded".to_owned(),
        Some(Outcome::Failed) => return "Failed".to_owned(),
        // Stopped from outside: whatever the restart policy, it failed unless every container had ended well.
        Some(Outcome::Gone) => {
            let well = |c: &ContainerStatus| terminated(&c.state).is_some_and(|t| t.exit_code == 0);
            let succeeded = notes.failure.is_none() && containers.iter().all(well);
            return if succeeded { "Succeeded" } else { "Failed" }.to_owned();
        }
        None => {}
    }
    let ever = |c: &ContainerStatus| c.container_id.is_some();
    if initialized && !containers.is_empty() && containers.iter().all(ever) {
        "Running".to_owned()
    } else {
        "Pending".to_owned()
    }
}
