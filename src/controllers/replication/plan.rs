//! How many pods to make or which to delete, and what the status says. Pure.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;

use super::super::owned::pods::BURST;
use super::super::owned::{rank, state};
use super::kind::Wanted;

/// The condition that says that pods could not be made, or deleted.
pub const FAILURE: &str = "ReplicaFailure";

/// What to do about the number of pods.
#[derive(Debug, PartialEq)]
pub enum Scaling {
    /// Make so many.
    Create(usize),
    /// Delete these.
    Delete(Vec<Arc<Pod>>),
    /// Nothing.
    Done,
}

/// What leads from the `active` pods to so many of them. `related` are the pods that may stand in for each other.
pub fn plan(
    replicas: i32,
    active: &[Arc<Pod>],
    related: impl FnOnce() -> Vec<Arc<Pod>>,
    now: Timestamp,
) -> Scaling {
    let wanted = usize::try_from(replicas).unwrap_or(0);
    if active.len() < wanted {
        return Scaling::Create((wanted - active.len()).min(BURST));
    }
    match (active.len() - wanted).min(BURST) {
        0 => Scaling::Done,
        count => Scaling::Delete(rank::for_deletion(active, &related(), count, now)),
    }
}

/// What there is of the pods of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    replicas: i32,
    fully_labeled: i32,
    ready: i32,
    available: i32,
    terminating: Option<i32>,
    /// When the next pod becomes available, if all stays as it is.
    pub next: Option<Timestamp>,
}

impl Counted {
    /// Counts the pods that belong to a set.
    pub fn new(pods: &[Arc<Pod>], wanted: &Wanted, now: Timestamp) -> Counted {
        let count = |of: &dyn Fn(&Pod) -> bool| {
            i32::try_from(pods.iter().filter(|pod| of(pod)).count()).unwrap_or(i32::MAX)
        };
        let active = |of: &dyn Fn(&Pod) -> bool| count(&|pod| state::is_active(pod) && of(pod));
        let template = wanted.template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
        let labeled = |pod: &Pod| {
            let labels = pod.metadata.labels.as_ref();
            template
                .into_iter()
                .flatten()
                .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
        };
        let least = wanted.min_ready_seconds;
        let living = pods.iter().map(|pod| &**pod).filter(|pod| state::is_active(pod));
        Counted {
            replicas: active(&|_| true),
            fully_labeled: active(&labeled),
            ready: active(&state::is_ready),
            available: active(&|pod| state::is_available(pod, least, now)),
            terminating: Some(count(&state::is_terminating)),
            next: state::next_available(living, least, now),
        }
    }

    /// The status that says so; conditions stay.
    pub fn status(&self, old: &ReplicaSetStatus, generation: Option<i64>) -> ReplicaSetStatus {
        let some = |count: i32| Some(count).filter(|count| *count != 0);
        ReplicaSetStatus {
            replicas: self.replicas,
            fully_labeled_replicas: some(self.fully_labeled),
            ready_replicas: some(self.ready),
            available_replicas: some(self.available),
            terminating_replicas: self.terminating,
            observed_generation: generation,
            conditions: old.conditions.clone(),
        }
    }
}

/// Says that something failed, or that nothing does any more. One that is there already stays as it is.
pub fn set_failure(conditions: &mut Option<Vec<ReplicaSetCondition>>, failure: Option<ReplicaSetCondition>) {
    let list = conditions.get_or_insert_default();
    match failure {
        Some(failure) if list.iter().any(|condition| condition.type_ == failure.type_) => {}
        Some(failure) => list.push(failure),
        None => list.retain(|condition| condition.type_.as_deref() != Some(FAILURE)),
    }
    if list.is_empty() {
        *conditions = None;
    }
}
