//! How containers come to their end: hook, word, kill, in their turn (pure).

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use tokio::time::Instant;

use super::policy::is_sidecar;
use super::{Action, KillReason, Memory, Outcome, Plan, grace_of, runs, sooner};
use crate::kubelet::observed::{Ailment, ObservedContainer, ObservedPod};
use crate::kubelet::pod::container;

/// Brings all containers of a pod to their end, and then the pod.
pub(super) fn stop(
    pod: &Pod,
    spec: &PodSpec,
    observed: &ObservedPod,
    (memory, now): (&Memory, Instant),
    (grace, left): (Duration, Duration),
    then: Outcome,
    plan: &mut Plan,
) {
    let running: Vec<_> = observed.containers.iter().filter(|c| runs(c)).collect();
    if running.is_empty() {
        plan.outcome = Some(then);
        if let Some(sandbox) = &observed.sandbox {
            plan.actions.push(Action::RemoveSandbox { id: sandbox.id.clone() });
        }
        return;
    }
    // Sidecars serve the others to their end, then each other: the last one goes first.
    let sidecars: Vec<&str> =
        spec.init_containers.iter().flatten().filter(|c| is_sidecar(c)).map(|c| c.name.as_str()).collect();
    let turn = |c: &ObservedContainer| {
        sidecars.iter().position(|name| *name == c.name).map_or(0, |i| sidecars.len() - i)
    };
    let first = running.iter().map(|c| turn(c)).min();
    for found in running {
        let spec = container(pod, &found.name);
        let ending = Ending {
            reason: KillReason::PodStops,
            grace,
            left,
            turn: Some(turn(found)) == first,
            waits: turn(found) > 0,
        };
        end(found, spec.as_deref(), ending, memory, now, plan);
    }
}

/// The least time between the word to end and the kill of a container that had to wait for its hook or its turn
/// (kubelet's `minimumGracePeriodInSeconds`).
const LAST_MOMENTS: Duration = Duration::from_secs(2);

/// How a container comes to its end.
pub(super) struct Ending {
    /// Why.
    pub reason: KillReason,
    /// How long it may take in all.
    pub grace: Duration,
    /// What is left of that.
    pub left: Duration,
    /// Whether nothing must end before it.
    pub turn: bool,
    /// Whether something had to end before it.
    pub waits: bool,
}

/// Asks a running container to end, after its preStop hook; kills it when nothing is left of its time.
pub(super) fn end(
    found: &ObservedContainer,
    spec: Option<&Container>,
    ending: Ending,
    memory: &Memory,
    now: Instant,
    plan: &mut Plan,
) {
    let Ending { reason, grace, left, turn, waits } = ending;
    let (id, name) = (&found.id, &found.name);
    let hook = memory.pre_stops.get(id);
    match memory.signalled.get(id) {
        None if grace.is_zero() => plan.actions.push(Action::Kill { id: id.clone() }),
        None if !left.is_zero() && hook.is_none() && has_pre_stop(spec) => {
            plan.actions.push(Action::PreStop { id: id.clone(), container: name.clone(), reason });
        }
        // Who no longer listens would refuse the connections that are still led there.
        None if left.is_zero() || turn && !memory.led && hook.is_none_or(|hook| hook.over) => {
            let signal = found.stop_signal;
            plan.actions.push(Action::Signal { id: id.clone(), container: name.clone(), signal, reason });
        }
        None => sooner(&mut plan.wake, left),
        Some((asked, _)) => {
            let least = if waits || hook.is_some() { LAST_MOMENTS } else { Duration::ZERO };
            let left = left.max(least.saturating_sub(now.duration_since(*asked)));
            match left.is_zero() {
                true => plan.actions.push(Action::Kill { id: id.clone() }),
                false => sooner(&mut plan.wake, left),
            }
        }
    }
}

fn has_pre_stop(spec: Option<&Container>) -> bool {
    spec.and_then(|c| c.lifecycle.as_ref()).is_some_and(|l| l.pre_stop.is_some())
}

/// How long a container may take to end for this: a probe may have its own word on that.
pub(super) fn grace_for(spec: &PodSpec, container: &Container, reason: KillReason) -> Duration {
    let own = match reason {
        KillReason::Ails { ailment: Ailment::Probe(kind), .. } => {
            kind.of(container).and_then(|probe| probe.termination_grace_period_seconds)
        }
        _ => None,
    };
    own.and_then(|seconds| u64::try_from(seconds).ok()).map_or(grace_of(spec), Duration::from_secs)
}
