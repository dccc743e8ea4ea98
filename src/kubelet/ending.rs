//! The end of all pods of a node that stops: those of the system last (kubelet's graceful node shutdown).
//!
//! Their objects stay as they are, so that the node runs the same pods when it is started again; Kubernetes, whose nodes
//! are replaced rather than started again, has them fail.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::eviction::rank::is_of_the_system;
use super::worker::Desired;
use super::{Handle, told};
use crate::runtime::Changed;

/// What of the time is kept for pods of the system, one part of so many (as 10 of 30 seconds in Kubernetes' example).
const SYSTEM_PART: u32 = 3;

/// How long the pods of the first turn and then all have, by whether there are any for the second (pure).
fn turns(time: Duration, has_second: bool) -> Duration {
    if has_second { time - time / SYSTEM_PART } else { time }
}

/// Ends all pods in so much time.
pub(super) async fn all(
    time: Duration,
    workers: &HashMap<String, Handle>,
    running: &mut JoinSet<String>,
    changes: &mut broadcast::Receiver<Changed>,
) {
    let began = Instant::now();
    let of_the_system = |handle: &Handle| is_of_the_system(handle.desired.borrow().pod());
    let (second, first): (Vec<_>, Vec<_>) = workers.iter().partition(|(_, handle)| of_the_system(handle));
    let first_time = turns(time, !second.is_empty());
    // Some of the second turn end in the first, as they were about to.
    let mut over: HashSet<String> = HashSet::new();
    for (turn, until) in [(first, began + first_time), (second, began + time)] {
        let left = until.saturating_duration_since(Instant::now());
        let mut awaited: Vec<&String> = Vec::new();
        for (uid, handle) in turn.into_iter().filter(|(uid, _)| !over.contains(*uid)) {
            handle.desired.send_modify(|desired| end(desired, left));
            awaited.push(uid);
        }
        while !awaited.is_empty() {
            tokio::select! {
                ended = running.join_next() => match ended {
                    Some(Ok(uid)) => {
                        awaited.retain(|awaited| **awaited != uid);
                        over.insert(uid);
                    }
                    Some(Err(error)) => tracing::error!(%error, "a pod's worker failed"),
                    None => break,
                },
                change = changes.recv() => if !told(change, workers) { break },
                () = tokio::time::sleep_until(until) => break,
            }
        }
    }
}

/// What a worker is told; one that brings its pod to its end already goes on with that.
fn end(desired: &mut Desired, time: Duration) {
    if let Desired::Pod(pod) = desired
        && !is_being_deleted(pod)
    {
        *desired = Desired::Stopped(pod.clone(), time);
    }
}

fn is_being_deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_system_has_the_last_third() {
        let seconds = Duration::from_secs;
        assert_eq!(turns(seconds(30), true), seconds(20));
        assert_eq!(turns(seconds(30), false), seconds(30));
        assert_eq!(turns(Duration::ZERO, true), Duration::ZERO);
    }

    #[test]
    fn a_pod_that_ends_already_is_not_told_otherwise() {
        let told = |mut desired: Desired| {
            end(&mut desired, Duration::from_secs(5));
            matches!(desired, Desired::Stopped(_, time) if time.as_secs() == 5)
        };
        let mut deleted = Pod::default();
        deleted.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        assert!(told(Desired::Pod(Arc::default())));
        assert!(!told(Desired::Pod(Arc::new(deleted))) && !told(Desired::Gone(Arc::default())));
    }
}
