//! What a job's pods add up to, beside what its status has counted already. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use super::backoff::finished_at;
use super::indexes::Indexes;
use super::policies::{self, Failure};
use super::{FAILURES, FINALIZER, IGNORED, INDEX};
use crate::controllers::owned::state::{is_active, is_ready, is_terminating, phase};

/// The pods of a job, counted.
pub(super) struct Tally<'a> {
    /// What is asked for.
    pub(super) spec: &'a JobSpec,
    /// What has been counted.
    pub(super) status: JobStatus,
    /// All pods; those of an indexed job in the order of their indexes.
    pub(super) pods: Vec<&'a Arc<Pod>>,
    /// Those that have not ended and are not to.
    pub(super) active: Vec<&'a Arc<Pod>>,
    /// How many of those are ready.
    pub(super) ready: i32,
    /// How many are on their way out.
    pub(super) terminating: i32,
    /// Those that have ended since the last count, well or not.
    pub(super) newly: Newly<'a>,
    /// How many have ended well.
    pub(super) succeeded: i32,
    /// How many failures count.
    pub(super) failed: i32,
    /// What more there is of an indexed job.
    pub(super) indexed: Option<Indexed<'a>>,
}

/// Pods that no count has seen.
pub(super) struct Newly<'a> {
    pub(super) succeeded: Vec<&'a Pod>,
    pub(super) failed: Vec<&'a Pod>,
}

/// The indexes of an indexed job.
pub(super) struct Indexed<'a> {
    /// All are below this.
    pub(super) completions: i32,
    /// Those that have succeeded.
    pub(super) succeeded: Indexes,
    /// Those that have failed for good, where each has a limit of its own.
    pub(super) failed: Option<Indexes>,
    /// The last failed pods of indexes that are to be tried again, where each has a limit of its own: their failures
    /// are to be told to the next ones.
    pub(super) last_failed: BTreeMap<i32, &'a Arc<Pod>>,
}

impl<'a> Tally<'a> {
    /// Counts.
    pub(super) fn new(job: &Job, spec: &'a JobSpec, pods: &'a [Arc<Pod>]) -> Tally<'a> {
        let mut status = job.status.clone().unwrap_or_default();
        let uncounted = status.uncounted_terminated_pods.get_or_insert_default().clone();
        let mut pods: Vec<&Arc<Pod>> = pods.iter().collect();
        if is_indexed(spec) {
            pods.sort_by_key(|pod| index_of(pod));
        }
        let active: Vec<&Arc<Pod>> = pods.iter().copied().filter(|pod| is_active(pod)).collect();
        let count = |list: &[&Arc<Pod>], of: fn(&Pod) -> bool| {
            i32::try_from(list.iter().filter(|pod| of(pod)).count()).unwrap_or(i32::MAX)
        };
        let newly = Newly::new(spec, &uncounted, &pods);
        let known = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
        let sum = |counted: Option<i32>, known: usize, new: usize| {
            counted.unwrap_or(0).saturating_add(i32::try_from(known + new).unwrap_or(i32::MAX))
        };
        let failures = newly.failed.iter().filter(|pod| counts(spec, pod)).count();
        let mut tally = Tally {
            spec,
            ready: count(&active, is_ready),
            terminating: count(&pods, is_terminating),
            succeeded: sum(status.succeeded, known(&uncounted.succeeded), newly.succeeded.len()),
            failed: sum(status.failed, known(&uncounted.failed), failures),
            status,
            pods,
            active,
            newly,
            indexed: None,
        };
        if is_indexed(spec) {
            let indexed = Indexed::new(&tally);
            tally.succeeded = indexed.succeeded.total();
            tally.indexed = Some(indexed);
        }
        tally
    }
}

impl<'a> Newly<'a> {
    fn new(spec: &JobSpec, uncounted: &UncountedTerminatedPods, pods: &[&'a Arc<Pod>]) -> Newly<'a> {
        let new = |list: &Option<Vec<String>>, ended: &dyn Fn(&Pod) -> bool| -> Vec<&'a Pod> {
            let known = |pod: &Pod| list.iter().flatten().any(|known| known == uid(pod));
            let valid = |pod: &Pod| !is_indexed(spec) || valid_index(spec, pod).is_some();
            let found = pods.iter().map(|pod| &***pod);
            found.filter(|pod| is_tracked(pod) && !known(pod) && valid(pod) && ended(pod)).collect()
        };
        Newly {
            succeeded: new(&uncounted.succeeded, &has_succeeded),
            failed: new(&uncounted.failed, &|pod| has_failed(spec, pod)),
        }
    }
}

impl<'a> Indexed<'a> {
    fn new(tally: &Tally<'a>) -> Indexed<'a> {
        let (spec, completions) = (tally.spec, tally.spec.completions.unwrap_or(0));
        let read = |text: &Option<String>| Indexes::parse(text.as_deref().unwrap_or(""), completions);
        let mut succeeded = read(&tally.status.completed_indexes);
        let tracked = || tally.pods.iter().copied().filter(|pod| is_tracked(pod));
        let indexes = || tracked().filter_map(|pod| Some((valid_index(spec, pod)?, pod)));
        indexes().filter(|(_, pod)| has_succeeded(pod)).for_each(|(index, _)| succeeded.add(index));
        let mut indexed = Indexed { completions, succeeded, failed: None, last_failed: BTreeMap::new() };
        if spec.backoff_limit_per_index.is_some() {
            let mut failed = read(&tally.status.failed_indexes);
            indexes().filter(|(_, pod)| fails_index(spec, pod)).for_each(|(index, _)| failed.add(index));
            let active: BTreeSet<i32> = tally.active.iter().filter_map(|pod| index_of(pod)).collect();
            for (index, pod) in indexes().filter(|(_, pod)| has_failed(spec, pod)) {
                let settled = indexed.succeeded.has(index) || failed.has(index) || active.contains(&index);
                let later = |other: &&Arc<Pod>| {
                    all_failures(other) <= all_failures(pod) && finished_at(pod) >= finished_at(other)
                };
                if !settled && indexed.last_failed.get(&index).is_none_or(later) {
                    indexed.last_failed.insert(index, pod);
                }
            }
            indexed.failed = Some(failed);
        }
        indexed
    }
}

/// Whether a job's pods each have an index.
pub(super) fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// Whether pods are replaced only once they have ended, not when they begin to.
pub(super) fn replaces_only_failed(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

pub(super) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Whether a pod is still to be counted.
pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

pub(super) fn has_succeeded(pod: &Pod) -> bool {
    phase(pod) == "Succeeded"
}

/// Whether a pod has failed; one that is taken away counts as failed where it is replaced at once.
pub(super) fn has_failed(spec: &JobSpec, pod: &Pod) -> bool {
    phase(pod) == "Failed" || !replaces_only_failed(spec) && is_terminating(pod)
}

/// Whether a failed pod counts towards the limit.
pub(super) fn counts(spec: &JobSpec, pod: &Pod) -> bool {
    policies::failure(spec.pod_failure_policy.as_ref(), pod) != Failure::Ignored
}

/// Whether an index has failed for good with a pod.
fn fails_index(spec: &JobSpec, pod: &Pod) -> bool {
    let limit = spec.backoff_limit_per_index.unwrap_or(i32::MAX);
    has_failed(spec, pod)
        && match policies::failure(spec.pod_failure_policy.as_ref(), pod) {
            Failure::FailsIndex => true,
            Failure::Ignored => false,
            Failure::Counted | Failure::FailsJob(_) => annotated(pod, FAILURES).unwrap_or(0) >= limit,
        }
}

/// How often an index had failed before a pod, and after: what counts, and what does not.
pub(super) fn failures_after(spec: &JobSpec, pod: &Pod) -> (i32, i32) {
    let (counted, ignored) = (annotated(pod, FAILURES).unwrap_or(0), annotated(pod, IGNORED).unwrap_or(0));
    if counts(spec, pod) {
        (counted.saturating_add(1), ignored)
    } else {
        (counted, ignored.saturating_add(1))
    }
}

/// How often an index had failed before a pod.
pub(super) fn all_failures(pod: &Pod) -> i32 {
    annotated(pod, FAILURES).unwrap_or(0).saturating_add(annotated(pod, IGNORED).unwrap_or(0))
}

/// A pod's index, when it has one.
pub(super) fn index_of(pod: &Pod) -> Option<i32> {
    annotated(pod, INDEX)
}

/// A pod's index, when the job has such a one.
pub(super) fn valid_index(spec: &JobSpec, pod: &Pod) -> Option<i32> {
    index_of(pod).filter(|index| *index < spec.completions.unwrap_or(0))
}

/// A number that an annotation holds, not negative.
fn annotated(pod: &Pod, key: &str) -> Option<i32> {
    let text = pod.metadata.annotations.as_ref()?.get(key)?;
    text.parse().ok().filter(|number| *number >= 0)
}
