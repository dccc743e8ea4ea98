//! How many pods each replica set gets. Pure.

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::sets::{DESIRED, MOST, Sets, available, by_age, number, replicas};
use super::wanted::{Strategy, Wanted};

/// Has a replica set want so many pods, and notes for which size of the deployment. Answers whether the number changed.
pub fn set(set: &mut ReplicaSet, count: i32, wanted: &Wanted) -> bool {
    let changed = replicas(set) != count;
    set.spec.replicas = Some(count);
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.to_owned(), wanted.replicas.to_string());
    annotations.insert(MOST.to_owned(), wanted.most().to_string());
    changed
}

/// The same when the number differs; otherwise all stays.
pub fn set_if_other(one: &mut ReplicaSet, count: i32, wanted: &Wanted) -> bool {
    replicas(one) != count && set(one, count, wanted)
}

/// How many pods the newest replica set may want now.
pub fn of_newest(sets: &Sets, wanted: &Wanted) -> i32 {
    let present = sets.newest().map_or(0, replicas);
    match wanted.strategy {
        Strategy::Recreate => wanted.replicas,
        Strategy::Rolling { .. } => {
            let room = (wanted.most() - sets.total()).max(0);
            present + room.min(wanted.replicas - present).max(0)
        }
    }
}

/// Takes pods from old replica sets as far as enough stay available: first those that are not, then others. Answers
/// whether any were taken.
pub fn shrink_old(sets: &mut Sets, wanted: &Wanted) -> bool {
    if sets.old().map(replicas).sum::<i32>() == 0 {
        return false;
    }
    let least = wanted.replicas - wanted.max_unavailable();
    let missing = sets.newest().map_or(0, |newest| replicas(newest) - available(newest));
    let most = sets.total() - least - missing;
    if most <= 0 {
        return false;
    }
    let mut taken = 0;
    for old in sets.old_mut() {
        let unhealthy = (replicas(&old.next) - available(&old.next)).max(0).min(most - taken);
        let count = replicas(&old.next) - unhealthy;
        if set_if_other(&mut old.next, count, wanted) {
            taken += unhealthy;
        }
    }
    // A set that was told to shrink still shows pods that it is about to take: they are spoken for.
    let mut spare = sets.all().map(|set| available(set).min(replicas(set))).sum::<i32>() - least;
    for old in sets.old_mut() {
        let less = replicas(&old.next).min(spare).max(0);
        let count = replicas(&old.next) - less;
        if set_if_other(&mut old.next, count, wanted) {
            taken += less;
            spare -= less;
        }
    }
    taken > 0
}

/// Takes all pods from old replica sets. Answers whether any were taken.
pub fn empty_old(sets: &mut Sets, wanted: &Wanted) -> bool {
    let mut taken = false;
    for old in sets.old_mut() {
        taken |= set_if_other(&mut old.next, 0, wanted);
    }
    taken
}

/// Whether the deployment's size has changed since its replica sets were scaled.
pub fn is_due(sets: &Sets, wanted: &Wanted) -> bool {
    let mut active = sets.all().filter(|set| replicas(set) > 0);
    active.any(|set| number(set, DESIRED).is_some_and(|desired| desired != wanted.replicas))
}

/// Brings replica sets to the deployment's size without going on with a change of the template: what several of them
/// share stays shared as it was.
pub fn resize(sets: &mut Sets, wanted: &Wanted) {
    if let Some(only) = only_active_or_latest(sets) {
        set(only, wanted.replicas, wanted);
        return;
    }
    if sets.newest().is_some_and(|newest| is_saturated(newest, wanted)) {
        empty_old(sets, wanted);
        return;
    }
    if matches!(wanted.strategy, Strategy::Rolling { .. }) {
        share(sets, wanted);
    }
}

/// The only replica set with pods; without any, the newest one, or the youngest of the old ones.
fn only_active_or_latest(sets: &mut Sets) -> Option<&mut ReplicaSet> {
    match sets.all().filter(|set| replicas(set) > 0).count() {
        0 if sets.newest().is_some() => sets.newest_mut(),
        0 => sets.old_mut().last().map(|set| &mut set.next),
        1 => sets.all_mut().find(|set| replicas(set) > 0),
        _ => None,
    }
}

/// Whether a replica set has, and can have, all the pods that are wanted.
fn is_saturated(set: &ReplicaSet, wanted: &Wanted) -> bool {
    replicas(set) == wanted.replicas
        && number(set, DESIRED) == Some(wanted.replicas)
        && available(set) == wanted.replicas
}

/// Adds to, or takes from, every active replica set in proportion to its size.
fn share(sets: &mut Sets, wanted: &Wanted) {
    let allowed = if wanted.replicas > 0 { wanted.most() } else { 0 };
    let actual: i32 = sets.all().map(super::sets::actual).sum();
    let mut active: Vec<&mut ReplicaSet> = sets.all_mut().filter(|set| replicas(set) > 0).collect();
    let to_add = allowed - active.iter().map(|set| replicas(set)).sum::<i32>();
    // The largest first: of equal ones, the youngest when they grow, the oldest when they shrink.
    active.sort_by(|a, b| {
        let age = if to_add > 0 { by_age(b, a) } else { by_age(a, b) };
        replicas(b).cmp(&replicas(a)).then(age)
    });
    let mut added = 0;
    let mut sizes = Vec::with_capacity(active.len());
    for set in &active {
        let part = part(set, wanted, actual, to_add, added);
        sizes.push(replicas(set) + part);
        added += part;
    }
    // What rounding left over goes to the largest.
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    for (one, size) in active.into_iter().zip(sizes) {
        set(one, size, wanted);
    }
}

/// How many pods a replica set gets (or loses, when negative) of those to be added, after so many were given out.
fn part(set: &ReplicaSet, wanted: &Wanted, actual: i32, to_add: i32, added: i32) -> i32 {
    if to_add == 0 || to_add == added {
        return 0;
    }
    let present = replicas(set);
    let fraction = match wanted.replicas {
        0 => -present,
        _ => {
            let before = number(set, MOST).filter(|most| *most != 0).unwrap_or(actual);
            if before == 0 {
                return 0;
            }
            let grown = f64::from(present) * f64::from(wanted.most()) / f64::from(before);
            // The sizes of deployments are far from the limits of these numbers.
            grown.round() as i32 - present
        }
    };
    let left = to_add - added;
    if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
}
