//! A deployment's conditions and counts. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::sets::{Sets, actual, available, name, ready, replicas, terminating};
use super::wanted::Wanted;

/// Whether a change of the template gets on.
pub const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const FAILURE: &str = "ReplicaFailure";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";
const PAUSED: &str = "DeploymentPaused";

/// The conditions of a deployment while they are worked on.
#[derive(Debug, Clone, PartialEq)]
pub struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    /// Those that a status has.
    pub fn of(status: &DeploymentStatus, now: Timestamp) -> Conditions {
        Conditions { list: status.conditions.clone().unwrap_or_default(), now }
    }

    /// What a status gets.
    pub fn into_list(self) -> Option<Vec<DeploymentCondition>> {
        Some(self.list).filter(|list| !list.is_empty())
    }

    fn get(&self, kind: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|condition| condition.type_.as_deref() == Some(kind))
    }

    /// The reason of the condition that tells of progress.
    fn progress(&self) -> Option<&str> {
        self.get(PROGRESSING).and_then(|condition| condition.reason.as_deref())
    }

    fn remove(&mut self, kind: &str) {
        self.list.retain(|condition| condition.type_.as_deref() != Some(kind));
    }

    /// Says something; one that has said the same, with the same reason, stays as it is.
    pub fn say(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let now = Some(Time(self.now));
        self.put(DeploymentCondition {
            type_: Some(kind.to_owned()),
            status: Some(status.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_update_time: now.clone(),
            last_transition_time: now,
        });
    }

    fn put(&mut self, mut condition: DeploymentCondition) {
        let kind = condition.type_.clone().unwrap_or_default();
        if let Some(old) = self.get(&kind)
            && old.status == condition.status
        {
            if old.reason == condition.reason {
                return;
            }
            condition.last_transition_time = old.last_transition_time.clone();
        }
        self.remove(&kind);
        self.list.push(condition);
    }

    /// Says that a deployment is held, or goes on, so that the time in between does not count against it.
    pub fn note_pause(&mut self, wanted: &Wanted) {
        let said = self.progress() == Some(PAUSED);
        if wanted.deadline.is_none() || self.progress() == Some(TIMED_OUT) || wanted.paused == said {
            return;
        }
        match wanted.paused {
            true => self.say(PROGRESSING, "Unknown", PAUSED, "Deployment is paused"),
            false => self.say(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed"),
        }
    }

    /// Says that the replica set of the present template was there already.
    pub fn note_found(&mut self, wanted: &Wanted, newest: &str) {
        if wanted.deadline.is_some() && self.get(PROGRESSING).is_none() {
            let message = format!("Found new replica set {newest:?}");
            self.say(PROGRESSING, "True", "FoundNewReplicaSet", &message);
        }
    }

    /// Says that it was made.
    pub fn note_created(&mut self, wanted: &Wanted, newest: &str) {
        if wanted.deadline.is_some() {
            let message = format!("Created new replica set {newest:?}");
            self.say(PROGRESSING, "True", "NewReplicaSetCreated", &message);
        }
    }

    /// Says that it could not be made.
    pub fn note_not_created(&mut self, wanted: &Wanted, reason: &str, message: &str) {
        if wanted.deadline.is_some() {
            self.say(PROGRESSING, "False", reason, message);
        }
    }

    /// Says how the change of the template gets on between two statuses.
    fn note_progress(&mut self, wanted: &Wanted, old: &Counts, new: &Counts, newest: Option<&str>) {
        let Some(deadline) = wanted.deadline else {
            self.remove(PROGRESSING);
            return;
        };
        if new.replicas == new.updated && self.progress() == Some(NEW_AVAILABLE) {
            return;
        }
        let subject = match newest {
            Some(name) => format!("ReplicaSet {name:?}"),
            None => format!("Deployment {:?}", wanted.name),
        };
        if new.is_complete(wanted) {
            let message = format!("{subject} has successfully progressed.");
            self.say(PROGRESSING, "True", NEW_AVAILABLE, &message);
        } else if new.is_further_than(old) {
            // The same again, as the time of the last progress is what the deadline is measured from.
            let message = format!("{subject} is progressing.");
            let before =
                self.get(PROGRESSING).filter(|condition| condition.status.as_deref() == Some("True"));
            let since = before.and_then(|condition| condition.last_transition_time.clone());
            self.remove(PROGRESSING);
            self.say(PROGRESSING, "True", "ReplicaSetUpdated", &message);
            if let (Some(since), Some(said)) = (since, self.list.last_mut()) {
                said.last_transition_time = Some(since);
            }
        } else if self.is_timed_out(deadline) {
            let message = format!("{subject} has timed out progressing.");
            self.say(PROGRESSING, "False", TIMED_OUT, &message);
        }
    }

    /// When lack of progress is too long.
    fn deadline(&self, seconds: i32) -> Option<Timestamp> {
        let last = self.get(PROGRESSING)?.last_update_time.as_ref()?.0;
        last.checked_add(SignedDuration::from_secs(i64::from(seconds))).ok()
    }

    fn is_timed_out(&self, seconds: i32) -> bool {
        match self.progress() {
            Some(NEW_AVAILABLE) | None => false,
            Some(TIMED_OUT) => true,
            Some(_) => self.deadline(seconds).is_some_and(|at| at <= self.now),
        }
    }

    /// Repeats what replica sets say of pods that cannot be made or deleted; the newest one's word counts most.
    fn note_failures(&mut self, sets: &Sets) {
        let failure = |set: &ReplicaSet| {
            let conditions = set.status.as_ref()?.conditions.as_ref()?;
            conditions.iter().find(|condition| condition.type_.as_deref() == Some(FAILURE)).cloned()
        };
        match sets.newest().and_then(failure).or_else(|| sets.all().find_map(failure)) {
            Some(failure) => self.put(DeploymentCondition {
                type_: failure.type_,
                status: failure.status,
                reason: failure.reason,
                message: failure.message,
                last_update_time: failure.last_transition_time.clone(),
                last_transition_time: failure.last_transition_time,
            }),
            None => self.remove(FAILURE),
        }
    }
}

/// The numbers of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    generation: i64,
    replicas: i32,
    updated: i32,
    ready: i32,
    available: i32,
}

impl Counts {
    /// Those that were written.
    pub fn of(status: &DeploymentStatus) -> Counts {
        Counts {
            generation: status.observed_generation.unwrap_or(0),
            replicas: status.replicas.unwrap_or(0),
            updated: status.updated_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
        }
    }

    /// Whether all wanted pods are of the present template and available, and no others are there.
    pub fn is_complete(&self, wanted: &Wanted) -> bool {
        [self.updated, self.replicas, self.available].iter().all(|count| *count == wanted.replicas)
            && self.generation >= wanted.generation
    }

    fn is_further_than(&self, old: &Counts) -> bool {
        self.updated > old.updated
            || self.replicas - self.updated < old.replicas - old.updated
            || self.ready > old.ready
            || self.available > old.available
    }
}

/// Whether a change of the template is under way, as opposed to a hold or a change of the size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rollout {
    /// Its progress is told.
    Goes,
    /// It is left as it was.
    Rests,
}

/// The status of a deployment with these replica sets, and when lack of progress will have to be told.
pub fn status(
    wanted: &Wanted,
    sets: &Sets,
    old: &DeploymentStatus,
    mut conditions: Conditions,
    rollout: Rollout,
) -> (DeploymentStatus, Option<Timestamp>) {
    let sum = |of: fn(&ReplicaSet) -> i32| sets.all().map(of).sum::<i32>();
    let counts = Counts {
        generation: wanted.generation,
        replicas: sum(actual),
        updated: sets.newest().map_or(0, actual),
        ready: sum(ready),
        available: sum(available),
    };
    if counts.available >= wanted.replicas - wanted.max_unavailable() {
        let message = "Deployment has minimum availability.";
        conditions.say(AVAILABLE, "True", "MinimumReplicasAvailable", message);
    } else {
        let message = "Deployment does not have minimum availability.";
        conditions.say(AVAILABLE, "False", "MinimumReplicasUnavailable", message);
    }
    let mut next = None;
    if rollout == Rollout::Goes {
        conditions.note_progress(wanted, &Counts::of(old), &counts, sets.newest().map(name));
        conditions.note_failures(sets);
        // What was complete once never times out, and what has timed out does not again.
        if !counts.is_complete(wanted) && !matches!(conditions.progress(), Some(TIMED_OUT | NEW_AVAILABLE)) {
            next = wanted.deadline.and_then(|seconds| conditions.deadline(seconds));
        }
    }
    let some = |count: i32| Some(count).filter(|count| *count != 0);
    let status = DeploymentStatus {
        observed_generation: Some(counts.generation).filter(|generation| *generation != 0),
        replicas: some(counts.replicas),
        updated_replicas: some(counts.updated),
        ready_replicas: some(counts.ready),
        available_replicas: some(counts.available),
        unavailable_replicas: some((sum(replicas) - counts.available).max(0)),
        terminating_replicas: Some(sum(terminating)),
        collision_count: old.collision_count,
        conditions: conditions.into_list(),
    };
    (status, next)
}
