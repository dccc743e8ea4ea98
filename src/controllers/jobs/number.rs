//! How many pods a job that goes on is to have. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::backoff::{self, Backoff};
use super::plan::{NewPod, Pods, cloned, is_suspended};
use super::tally::{Tally, all_failures, failures_after, index_of, replaces_only_failed, uid, valid_index};
use crate::controllers::owned::rank;
use crate::controllers::owned::state::is_terminating;

/// The most pods that are made or removed at a time.
const MOST_AT_ONCE: i32 = 500;

/// What is to become of the pods of a job that goes on.
pub(super) fn manage(
    tally: &Tally,
    backoff: &Backoff,
    now: Timestamp,
    again: &mut Option<SignedDuration>,
) -> Pods {
    let spec = tally.spec;
    let active = i32::try_from(tally.active.len()).unwrap_or(i32::MAX);
    let parallelism = spec.parallelism.unwrap_or(1);
    let wanted = match spec.completions {
        _ if is_suspended(spec) => 0,
        // Whatever runs is left running after the first success.
        None if tally.succeeded > 0 => active,
        None => parallelism,
        Some(completions) => (completions - tally.succeeded).min(parallelism).max(0),
    };
    let remove = too_many(tally, (active - wanted).max(0), now);
    if !remove.is_empty() {
        return Pods::Remove(remove);
    }
    let leaving = if replaces_only_failed(spec) { tally.terminating } else { 0 };
    let missing = wanted - leaving - active;
    if missing <= 0 {
        return Pods::Stay;
    }
    let mut wait = |left: SignedDuration| {
        *again = Some(again.map_or(left, |other| other.min(left)));
        Pods::Stay
    };
    let per_index = spec.backoff_limit_per_index.is_some();
    let left = backoff.left(now);
    if !per_index && left > SignedDuration::ZERO {
        return wait(left);
    }
    let missing = usize::try_from(missing.min(MOST_AT_ONCE)).unwrap_or(0);
    let Some(indexed) = &tally.indexed else {
        return Pods::Create(vec![NewPod { index: None, failures: None }; missing]);
    };
    let mut taken = indexed.succeeded.clone();
    tally.active.iter().filter_map(|pod| index_of(pod)).for_each(|index| taken.add(index));
    if replaces_only_failed(spec) {
        let leaving = tally.pods.iter().filter(|pod| is_terminating(pod));
        leaving.filter_map(|pod| index_of(pod)).for_each(|index| taken.add(index));
    }
    indexed.failed.iter().for_each(|failed| taken.merge(failed));
    let indexes = taken.first_missing(indexed.completions, missing);
    if !per_index {
        let new = indexes.into_iter().map(|index| NewPod { index: Some(index), failures: None });
        return Pods::Create(new.collect());
    }
    let left = |index: &i32| {
        indexed.last_failed.get(index).map_or(SignedDuration::ZERO, |pod| {
            backoff::left(all_failures(pod).saturating_add(1), backoff::finished_at(pod), now)
        })
    };
    let (ready, early): (Vec<i32>, Vec<i32>) = indexes.into_iter().partition(|i| left(i).is_zero());
    let soonest = early.iter().map(left).min();
    if ready.is_empty() {
        return soonest.map_or(Pods::Stay, wait);
    }
    let new = ready.into_iter().map(|index| {
        let failures = indexed.last_failed.get(&index).map_or((0, 0), |pod| failures_after(spec, pod));
        NewPod { index: Some(index), failures: Some(failures) }
    });
    Pods::Create(new.collect())
}

/// At least so many active pods to be removed: those that have no index of their own first, then those that are the
/// least far.
fn too_many(tally: &Tally, at_least: i32, now: Timestamp) -> Vec<Arc<Pod>> {
    let mut remove: Vec<Arc<Pod>> = Vec::new();
    let mut rest: Vec<Arc<Pod>> = Vec::new();
    if tally.indexed.is_some() {
        let mut by_index: BTreeMap<i32, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in cloned(&tally.active) {
            match valid_index(tally.spec, &pod) {
                Some(index) => by_index.entry(index).or_default().push(pod),
                None => remove.push(pod),
            }
        }
        for same in by_index.into_values() {
            let twice = rank::for_deletion(&same, &[], same.len() - 1, now);
            rest.extend(same.into_iter().filter(|pod| !twice.iter().any(|other| uid(other) == uid(pod))));
            remove.extend(twice);
        }
    } else {
        rest = cloned(&tally.active);
    }
    let more = usize::try_from(at_least).unwrap_or(0).saturating_sub(remove.len());
    remove.extend(rank::for_deletion(&rest, &[], more, now));
    remove.truncate(usize::try_from(MOST_AT_ONCE).unwrap_or(usize::MAX));
    remove
}
