//! What is to become of a stateful set's pods (Kubernetes `pkg/controller/statefulset/stateful_set_control.go`). Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::claims;
use super::pod::{self, is_labelled, ordinal_of, range, revision_of};
use crate::controllers::owned::Owner;
use crate::controllers::owned::amount::{self, Rounding};
use crate::controllers::owned::state::{is_available, is_finished, is_ready, phase};

/// What there is.
pub(super) struct Observed<'a> {
    pub(super) owner: &'a Owner,
    pub(super) spec: &'a StatefulSetSpec,
    /// The names of the revisions that pods are, and are to be, of.
    pub(super) current: &'a str,
    pub(super) update: &'a str,
    pub(super) pods: &'a [Arc<Pod>],
    /// The claims of the namespace by their names.
    pub(super) claims: &'a BTreeMap<String, Arc<PersistentVolumeClaim>>,
    pub(super) now: Timestamp,
}

/// One step.
#[derive(Debug)]
pub(super) enum Action {
    /// The pod with this ordinal is made, with its claims.
    Create { ordinal: i32, updated: bool },
    /// The claims that a pod waits for are made.
    Claims(Arc<Pod>),
    /// A pod gets its labels.
    Label(Arc<Pod>),
    /// The claims of a pod get the owners that they are to go with.
    Owners(Arc<Pod>),
    /// A pod is deleted.
    Delete(Arc<Pod>),
}

/// A place in the set.
#[derive(Clone, Copy)]
enum Place<'a> {
    Taken(&'a Arc<Pod>),
    /// Empty; whether the updated revision is to fill it.
    Free {
        updated: bool,
    },
}

/// The steps that can be done now, in their order. A set that goes in order does one at a time and waits for it.
pub(super) fn plan(seen: &Observed<'_>) -> Vec<Action> {
    let mut actions = Vec::new();
    if seen.owner.deleting {
        return actions;
    }
    let in_order = seen.spec.pod_management_policy.as_deref() != Some("Parallel");
    let (places, surplus) = seen.places();
    for (ordinal, place) in range(seen.spec).zip(&places) {
        let waits = seen.fill(ordinal, *place, in_order, &mut actions);
        if in_order && waits {
            return actions;
        }
    }
    let keep = surplus.iter().filter(|pod| seen.wants_owners(pod));
    actions.extend(keep.map(|pod| Action::Owners(Arc::clone(pod))));
    for pod in &surplus {
        if in_order {
            // The last one goes, unless another one has trouble: then nothing does.
            let troubled = seen.first_unavailable(&places, &surplus);
            let goes_next =
                !seen.is_unavailable(pod) || troubled.is_some_and(|other| Arc::ptr_eq(other, pod));
            if pod.metadata.deletion_timestamp.is_none() && goes_next {
                actions.push(Action::Delete(Arc::clone(pod)));
            }
            return actions;
        }
        if pod.metadata.deletion_timestamp.is_none() {
            actions.push(Action::Delete(Arc::clone(pod)));
        }
    }
    let strategy = seen.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
    if strategy != Some("OnDelete") {
        seen.roll(&places, in_order, &mut actions);
    }
    actions
}

impl<'a> Observed<'a> {
    /// The places of the set in their order, and the pods that have none, the last first.
    fn places(&self) -> (Vec<Place<'a>>, Vec<&'a Arc<Pod>>) {
        let mut by_ordinal: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
        for pod in self.pods {
            if let Some(ordinal) = ordinal_of(self.owner.name(), &pod.metadata) {
                by_ordinal.insert(ordinal, pod);
            }
        }
        let range = range(self.spec);
        let old = range.start.saturating_add(self.partition());
        let place = |ordinal: i32| match by_ordinal.get(&ordinal) {
            Some(pod) => Place::Taken(pod),
            None => Place::Free { updated: !self.rolls() || ordinal >= old },
        };
        let places = range.clone().map(place).collect();
        let surplus = by_ordinal.iter().rev().filter(|(ordinal, _)| !range.contains(ordinal));
        (places, surplus.map(|(_, pod)| *pod).collect())
    }

    fn rolls(&self) -> bool {
        let strategy = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
        strategy.is_none_or(|strategy| strategy == "RollingUpdate")
    }

    /// How many places keep the revision that they have.
    fn partition(&self) -> i32 {
        let rolling =
            self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        rolling.and_then(|rolling| rolling.partition).unwrap_or(0)
    }

    /// What is to be done about one place; answers whether it must be waited for.
    fn fill(&self, ordinal: i32, place: Place<'_>, in_order: bool, actions: &mut Vec<Action>) -> bool {
        let pod = match place {
            Place::Taken(pod) => pod,
            Place::Free { updated } => {
                if !self.waits_for_claims(ordinal) {
                    actions.push(Action::Create { ordinal, updated });
                }
                return true;
            }
        };
        if is_finished(pod) {
            if pod.metadata.deletion_timestamp.is_none() {
                actions.push(Action::Delete(Arc::clone(pod)));
            }
            return true;
        }
        let missing = || {
            claims::names(self.owner.name(), self.spec, pod)
                .iter()
                .any(|name| !self.claims.contains_key(name))
        };
        if phase(pod) == "Pending" && missing() {
            actions.push(Action::Claims(Arc::clone(pod)));
        }
        if in_order && self.is_unavailable(pod) {
            return true;
        }
        if !is_labelled(pod) {
            actions.push(Action::Label(Arc::clone(pod)));
        }
        if self.wants_owners(pod) {
            actions.push(Action::Owners(Arc::clone(pod)));
        }
        false
    }

    /// Whether a claim of a pod that was there before is still to go.
    fn waits_for_claims(&self, ordinal: i32) -> bool {
        let name = pod::name(self.owner.name(), ordinal);
        let wanted = claims::wanted(self.owner, self.spec, ordinal);
        let found = wanted.iter().filter_map(|(_, claim)| self.claims.get(claim.metadata.name.as_ref()?));
        found.into_iter().any(|claim| claims::is_stale(self.spec, &name, claim))
    }

    fn wants_owners(&self, pod: &Pod) -> bool {
        !self.other_owners(&pod.metadata).is_empty()
    }

    /// The claims of a pod whose owners are to change, with those to come.
    pub(super) fn other_owners(
        &self,
        pod: &ObjectMeta,
    ) -> Vec<(Arc<PersistentVolumeClaim>, Vec<OwnerReference>)> {
        let Some(ordinal) = ordinal_of(self.owner.name(), pod) else { return Vec::new() };
        let wanted = claims::wanted(self.owner, self.spec, ordinal);
        let found = wanted.iter().filter_map(|(_, claim)| self.claims.get(claim.metadata.name.as_ref()?));
        let others = |claim: &Arc<PersistentVolumeClaim>| {
            Some((Arc::clone(claim), claims::other_owners(self.owner, self.spec, pod, claim)?))
        };
        found.filter_map(others).collect()
    }

    fn min_ready(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    fn is_unavailable(&self, pod: &Pod) -> bool {
        pod.metadata.deletion_timestamp.is_some()
            || phase(pod) != "Running"
            || !is_available(pod, self.min_ready(), self.now)
    }

    /// The first pod that is not well: of the places, else the lowest of the surplus.
    fn first_unavailable<'b>(&self, places: &[Place<'b>], surplus: &[&'b Arc<Pod>]) -> Option<&'b Arc<Pod>> {
        let taken = places.iter().filter_map(|place| match place {
            Place::Taken(pod) => Some(*pod),
            Place::Free { .. } => None,
        });
        taken.chain(surplus.iter().rev().copied()).find(|pod| self.is_unavailable(pod))
    }

    /// Takes pods of another revision away, from the last, as long as few enough are unavailable.
    fn roll(&self, places: &[Place<'_>], in_order: bool, actions: &mut Vec<Action>) {
        let rolling =
            self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let most = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let replicas = self.spec.replicas.unwrap_or(1);
        let most = most.and_then(|most| amount::of(most, replicas, Rounding::Down)).unwrap_or(1).max(1);
        let unavailable = places.iter().filter(|place| match place {
            Place::Taken(pod) => self.is_unavailable(pod),
            Place::Free { .. } => true,
        });
        let left = usize::try_from(most).unwrap_or(0).saturating_sub(unavailable.count());
        let kept = usize::try_from(self.partition()).unwrap_or(0);
        let old = |place: &Place<'_>| match place {
            Place::Taken(pod) if revision_of(pod) != self.update => {
                pod.metadata.deletion_timestamp.is_none().then(|| Arc::clone(pod))
            }
            _ => None,
        };
        let old: Vec<Arc<Pod>> = places.iter().skip(kept).rev().filter_map(old).collect();
        let well = |pod: &&Arc<Pod>| !self.is_unavailable(pod);
        let gone = |pod: &Arc<Pod>| deletes(actions, pod);
        let old: Vec<Arc<Pod>> = old.into_iter().filter(|pod| !gone(pod)).collect();
        if in_order {
            actions.extend(old.into_iter().take(left).map(Action::Delete));
            return;
        }
        // Where nothing waits for anything, those that are not well go whatever the limit is: they cost nothing.
        let unwell = old.iter().filter(|pod| !well(pod)).cloned();
        let further = old.iter().filter(well).take(left).cloned();
        let next: Vec<Action> = unwell.chain(further).map(Action::Delete).collect();
        actions.extend(next);
    }

    /// What the set's status is to say of its pods.
    pub(super) fn status(&self, set: &StatefulSet, collisions: i32) -> StatefulSetStatus {
        let created = self.pods.iter().filter(|pod| !phase(pod).is_empty());
        let created: Vec<&Arc<Pod>> = created.collect();
        let count = |of: &dyn Fn(&Pod) -> bool| {
            i32::try_from(created.iter().filter(|pod| of(pod)).count()).unwrap_or(i32::MAX)
        };
        let stays = |pod: &Pod| pod.metadata.deletion_timestamp.is_none();
        let ready = |pod: &Pod| phase(pod) == "Running" && is_ready(pod);
        let replicas = count(&|_| true);
        let ready_replicas = count(&ready);
        let updated = count(&|pod| stays(pod) && revision_of(pod) == self.update);
        let mut current = count(&|pod| stays(pod) && revision_of(pod) == self.current);
        let mut current_revision = self.current;
        let wanted = self.spec.replicas.unwrap_or(1);
        if self.rolls() && [updated, ready_replicas, replicas] == [wanted; 3] {
            (current, current_revision) = (updated, self.update);
        }
        let some = |count: i32| Some(count).filter(|count| *count != 0);
        StatefulSetStatus {
            available_replicas: Some(count(&|pod| {
                ready(pod) && is_available(pod, self.min_ready(), self.now)
            })),
            collision_count: Some(collisions),
            conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
            current_replicas: some(current),
            current_revision: Some(current_revision.to_owned()),
            observed_generation: set.metadata.generation,
            ready_replicas: some(ready_replicas),
            replicas,
            update_revision: Some(self.update.to_owned()),
            updated_replicas: some(updated),
        }
    }
}

/// Whether a pod is to be deleted already.
fn deletes(actions: &[Action], pod: &Arc<Pod>) -> bool {
    actions.iter().any(|action| matches!(action, Action::Delete(other) if Arc::ptr_eq(other, pod)))
}
