//! What to do about a deployment. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};

use super::conditions::{self, Conditions, Counts, Rollout};
use super::revision;
use super::scaling;
use super::sets::{Sets, Step, actual, name, replicas};
use super::wanted::{Strategy, Wanted};

/// What was decided.
#[derive(Debug, PartialEq)]
pub struct Plan {
    /// What happens to replica sets, in this order.
    pub steps: Vec<Step>,
    /// What the status becomes.
    pub status: DeploymentStatus,
    /// The number of the present template.
    pub revision: Option<String>,
    /// When to look again, whatever happens.
    pub next: Option<Timestamp>,
}

/// What leads from the replica sets of a deployment to what it asks for, by one step that keeps enough pods available.
/// `runs` says whether a replica set has pods that have not ended.
pub fn plan(
    deployment: &Deployment,
    wanted: &Wanted,
    present: &[Arc<ReplicaSet>],
    runs: impl Fn(&ReplicaSet) -> bool,
    now: Timestamp,
) -> Plan {
    let old = deployment.status.clone().unwrap_or_default();
    let none = BTreeMap::new();
    let annotations = deployment.metadata.annotations.as_ref().unwrap_or(&none);
    let mut progress = Progress {
        wanted,
        annotations,
        sets: Sets::new(wanted, present),
        conditions: Conditions::of(&old, now),
        complete: Counts::of(&old).is_complete(wanted),
    };
    progress.stamp_newest();
    let rollout = if wanted.deleting {
        Rollout::Rests
    } else {
        progress.conditions.note_pause(wanted);
        if wanted.paused {
            scaling::resize(&mut progress.sets, wanted);
            progress.clean_up();
            Rollout::Rests
        } else if scaling::is_due(&progress.sets, wanted) {
            scaling::resize(&mut progress.sets, wanted);
            Rollout::Rests
        } else {
            match wanted.strategy {
                Strategy::Rolling { .. } => progress.roll(),
                Strategy::Recreate => progress.recreate(runs),
            }
            Rollout::Goes
        }
    };
    let Progress { sets, conditions, .. } = progress;
    let number =
        sets.newest().and_then(|newest| newest.metadata.annotations.as_ref()?.get(revision::REVISION));
    let revision = number.or_else(|| annotations.get(revision::REVISION)).cloned();
    let (status, next) = conditions::status(wanted, &sets, &old, conditions, rollout);
    Plan { steps: sets.steps(), status, revision, next }
}

/// A plan while it is made.
struct Progress<'a> {
    wanted: &'a Wanted,
    annotations: &'a BTreeMap<String, String>,
    sets: Sets,
    conditions: Conditions,
    /// Whether the status says that everything is as wanted.
    complete: bool,
}

impl Progress<'_> {
    /// Carries to the replica set of the present template what it has of the deployment.
    fn stamp_newest(&mut self) {
        let number = revision::latest(self.sets.old()) + 1;
        let seconds = self.wanted.min_ready_seconds;
        let Some(newest) = self.sets.newest_mut() else { return };
        revision::stamp(newest, self.annotations, number);
        if newest.spec.min_ready_seconds.unwrap_or(0) != seconds {
            newest.spec.min_ready_seconds = Some(seconds);
        }
        let name = name(newest).to_owned();
        self.conditions.note_found(self.wanted, &name);
    }

    /// Sees to it that there is a replica set of the present template.
    fn ensure_newest(&mut self) {
        if self.sets.newest().is_some() {
            return;
        }
        self.sets.add_newest(self.wanted, self.annotations);
        let count = scaling::of_newest(&self.sets, self.wanted);
        if let Some(newest) = self.sets.newest_mut() {
            scaling::set(newest, count, self.wanted);
            let name = name(newest).to_owned();
            self.conditions.note_created(self.wanted, &name);
        }
    }

    /// One step of a rolling update: more new pods, or fewer old ones.
    fn roll(&mut self) {
        self.ensure_newest();
        let count = match self.sets.newest().map_or(0, replicas) {
            present if present > self.wanted.replicas => self.wanted.replicas,
            _ => scaling::of_newest(&self.sets, self.wanted),
        };
        let grown =
            self.sets.newest_mut().is_some_and(|newest| scaling::set_if_other(newest, count, self.wanted));
        if !grown && !scaling::shrink_old(&mut self.sets, self.wanted) && self.complete {
            self.clean_up();
        }
    }

    /// One step of a replacement at once: no old pods, then all the new ones.
    fn recreate(&mut self, runs: impl Fn(&ReplicaSet) -> bool) {
        if scaling::empty_old(&mut self.sets, self.wanted) {
            return;
        }
        if self.sets.old().any(|set| actual(set) > 0 || runs(set)) {
            return;
        }
        self.ensure_newest();
        if let Some(newest) = self.sets.newest_mut() {
            scaling::set_if_other(newest, self.wanted.replicas, self.wanted);
        }
        if self.complete {
            self.clean_up();
        }
    }

    /// Lets go of the oldest replica sets without pods that are beyond the limit.
    fn clean_up(&mut self) {
        let Some(limit) = self.wanted.history else { return };
        let mut old: Vec<_> =
            self.sets.old_mut().filter(|set| set.next.metadata.deletion_timestamp.is_none()).collect();
        old.sort_by_key(|set| revision::of(&set.next).unwrap_or(0));
        let beyond = old.len().saturating_sub(limit);
        for set in old.into_iter().take(beyond) {
            let seen = set.next.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
            let idle = actual(&set.next) == 0 && replicas(&set.next) == 0;
            set.gone = idle && set.next.metadata.generation.unwrap_or(0) <= seen;
        }
    }
}
