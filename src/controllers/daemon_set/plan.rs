//! Which of a daemon set's pods to make and which to delete, and what its status says. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};

use super::super::owned::amount::{self, Rounding};
use super::super::owned::state;
use super::placement::{Place, generation, is_current, place, target};

/// A daemon set with the nodes and the pods that are there.
pub struct Daemons<'a> {
    set: &'a DaemonSet,
    hash: &'a str,
    now: Timestamp,
    nodes: Vec<(&'a str, Place)>,
    /// By node, the oldest first.
    pods: BTreeMap<&'a str, Vec<&'a Arc<Pod>>>,
}

/// What to do.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Make pods for these nodes.
    pub create: Vec<String>,
    /// Delete these.
    pub delete: Vec<Arc<Pod>>,
    /// Of those, the ones that have ended, which is told.
    pub ended: Vec<Arc<Pod>>,
}

/// A node's pod of the present template, and its old one.
type Pair<'a> = (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>);

impl<'a> Daemons<'a> {
    /// Puts together what belongs together; `hash` is that of the present template.
    pub fn new(
        set: &'a DaemonSet,
        hash: &'a str,
        nodes: &'a [Arc<Node>],
        all: &'a [Arc<Pod>],
        now: Timestamp,
    ) -> Daemons<'a> {
        let name = |node: &'a Arc<Node>| node.metadata.name.as_deref().unwrap_or("");
        let nodes = nodes.iter().map(|node| (name(node), place(&set.spec.template, node))).collect();
        let mut pods: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
        for pod in all {
            // One that has ended and was let go takes no place.
            let over = state::is_finished(pod) && pod.metadata.deletion_timestamp.is_some();
            if let (false, Some(node)) = (over, target(pod)) {
                pods.entry(node).or_default().push(pod);
            }
        }
        for on_node in pods.values_mut() {
            on_node.sort_by_key(|pod| {
                let created = pod.metadata.creation_timestamp.clone();
                // A pod that runs somewhere before one that waits.
                (state::node(pod).is_none(), created, pod.metadata.name.clone())
            });
        }
        Daemons { set, hash, now, nodes, pods }
    }

    fn on(&self, node: &str) -> &[&'a Arc<Pod>] {
        self.pods.get(node).map_or(&[], Vec::as_slice)
    }

    fn is_current(&self, pod: &Pod) -> bool {
        is_current(pod, self.hash, generation(self.set))
    }

    fn is_available(&self, pod: &Pod) -> bool {
        state::is_available(pod, self.set.spec.min_ready_seconds.unwrap_or(0), self.now)
    }

    fn wanted(&self) -> usize {
        self.nodes.iter().filter(|(_, place)| *place == Place::Wanted).count()
    }

    /// How many pods may be added, and may be missing, while the template changes; nothing when only a user's deletion
    /// brings the change.
    fn limits(&self) -> Option<(usize, usize)> {
        let strategy = self.set.spec.update_strategy.clone().unwrap_or_default();
        if strategy.type_.as_deref() == Some("OnDelete") {
            return None;
        }
        let rolling = strategy.rolling_update.unwrap_or_default();
        let wanted = i32::try_from(self.wanted()).unwrap_or(i32::MAX);
        let read = |value: Option<_>, default: i32| {
            let number = value.map_or(Some(default), |value| amount::of(&value, wanted, Rounding::Up));
            usize::try_from(number.unwrap_or(default)).unwrap_or(0)
        };
        match (read(rolling.max_surge, 0), read(rolling.max_unavailable, 1)) {
            (0, 0) if wanted > 0 => Some((0, 1)),
            limits => Some(limits),
        }
    }

    fn allows_surge(&self) -> bool {
        self.limits().is_some_and(|(surge, _)| surge > 0)
    }

    /// What brings a pod to every node that needs one and takes the others away; when there is nothing of that, a step
    /// towards the present template.
    pub fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        for (node, place) in &self.nodes {
            self.keep(node, *place, &mut plan);
        }
        // Pods that wait for a node that is gone wait in vain.
        for (node, pods) in &self.pods {
            if !self.nodes.iter().any(|(name, _)| name == node) {
                plan.delete
                    .extend(pods.iter().filter(|pod| state::node(pod).is_none()).map(|p| Arc::clone(p)));
            }
        }
        if plan == Plan::default()
            && let Some((surge, unavailable)) = self.limits()
        {
            match surge {
                0 => self.replace(unavailable, &mut plan),
                surge => self.surge(surge, &mut plan),
            }
        }
        plan
    }

    /// One node as it should be, whatever the template.
    fn keep(&self, node: &str, place: Place, plan: &mut Plan) {
        let present = self.on(node);
        let living: Vec<&Arc<Pod>> =
            present.iter().copied().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
        match place {
            Place::Wanted if present.is_empty() => plan.create.push(node.to_owned()),
            Place::Unwanted => plan.delete.extend(living.into_iter().cloned()),
            Place::Wanted | Place::Tolerated => {
                let (ended, running): (Vec<_>, Vec<_>) =
                    living.into_iter().partition(|pod| state::is_finished(pod));
                plan.ended.extend(ended.iter().map(|pod| Arc::clone(pod)));
                plan.delete.extend(ended.into_iter().cloned());
                plan.delete.extend(self.excess(&running).into_iter().cloned());
            }
        }
    }

    /// Those of a node's pods that are too many.
    fn excess<'p>(&self, running: &[&'p Arc<Pod>]) -> Vec<&'p Arc<Pod>> {
        if !self.allows_surge() {
            return running.iter().skip(1).copied().collect();
        }
        let (current, old): (Vec<_>, Vec<_>) = running.iter().copied().partition(|pod| self.is_current(pod));
        let mut excess: Vec<_> = current.iter().skip(1).chain(old.iter().skip(1)).copied().collect();
        if let (Some(current), Some(old)) = (current.first(), old.first())
            && (!state::is_ready(old) || self.is_available(current))
        {
            excess.push(*old);
        }
        excess
    }

    /// The present and the old pod of a node; nothing when there are several of either.
    fn pair(&self, node: &str) -> Option<Pair<'a>> {
        let (mut current, mut old) = (None, None);
        let living = self.on(node).iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        for pod in living {
            let place = if self.is_current(pod) { &mut current } else { &mut old };
            if place.replace(*pod).is_some() {
                return None;
            }
        }
        Some((current, old))
    }

    /// The nodes that take part in a change of the template: those with pods, and those that need one.
    fn concerned(&self) -> impl Iterator<Item = &'a str> {
        let wanted = self
            .nodes
            .iter()
            .filter(|(node, place)| *place == Place::Wanted && !self.pods.contains_key(node));
        self.pods.keys().copied().chain(wanted.map(|(node, _)| *node))
    }

    /// Old pods that may go, so that at most so many nodes are without an available one.
    fn replace(&self, unavailable: usize, plan: &mut Plan) {
        let (mut missing, mut candidates) = (0, Vec::new());
        for node in self.concerned() {
            match self.pair(node) {
                Some((None, Some(old))) if self.is_available(old) => candidates.push(old),
                Some((None, Some(old))) => {
                    missing += 1;
                    plan.delete.push(Arc::clone(old));
                }
                Some((Some(current), None)) if self.is_available(current) => {}
                _ => missing += 1,
            }
        }
        let more = unavailable.saturating_sub(missing);
        plan.delete.extend(candidates.into_iter().take(more).cloned());
    }

    /// New pods beside old ones, at most so many; an old one goes when its successor is available.
    fn surge(&self, surge: usize, plan: &mut Plan) {
        let (mut added, mut available) = (0, 0);
        let (mut candidates, mut leaving) = (Vec::new(), Vec::new());
        for node in self.concerned() {
            let Some((current, old)) = self.pair(node) else {
                added += 1;
                continue;
            };
            available += usize::from(old.or(current).is_some_and(|pod| self.is_available(pod)));
            let wanted = self.nodes.iter().any(|(name, place)| *name == node && *place == Place::Wanted);
            match (current, old) {
                (_, None) => {}
                (None, Some(old)) => match (self.is_available(old), wanted) {
                    (false, false) => plan.delete.push(Arc::clone(old)),
                    (false, true) => plan.create.push(node.to_owned()),
                    (true, false) => leaving.push(old),
                    (true, true) => candidates.push(node),
                },
                (Some(current), Some(_)) if !self.is_available(current) => added += 1,
                (Some(_), Some(old)) => plan.delete.push(Arc::clone(old)),
            }
        }
        // From nodes that are no longer meant, pods go only when enough others are available.
        let spare = available.saturating_sub(self.wanted());
        plan.delete.extend(leaving.into_iter().take(spare).cloned());
        let more = surge.saturating_sub(added);
        plan.create.extend(candidates.into_iter().take(more).map(str::to_owned));
    }

    /// The status that says what there is, and when the next pod becomes available.
    pub fn status(&self, old: &DaemonSetStatus, collisions: i32) -> (DaemonSetStatus, Option<Timestamp>) {
        let mut status = DaemonSetStatus {
            observed_generation: self.set.metadata.generation,
            collision_count: Some(collisions).filter(|count| *count != 0).or(old.collision_count),
            conditions: old.conditions.clone(),
            ..DaemonSetStatus::default()
        };
        let (mut updated, mut available) = (0, 0);
        let mut first = Vec::new();
        for (node, place) in &self.nodes {
            let pod = self.on(node).first().copied();
            match (place, pod) {
                (Place::Wanted, pod) => {
                    status.desired_number_scheduled += 1;
                    let Some(pod) = pod else { continue };
                    first.push(&**pod);
                    status.current_number_scheduled += 1;
                    status.number_ready += i32::from(state::is_ready(pod));
                    available += i32::from(self.is_available(pod));
                    updated += i32::from(self.is_current(pod));
                }
                (_, Some(_)) => status.number_misscheduled += 1,
                (_, None) => {}
            }
        }
        let some = |count: i32| Some(count).filter(|count| *count != 0);
        status.updated_number_scheduled = some(updated);
        status.number_available = some(available);
        status.number_unavailable = some(status.desired_number_scheduled - available);
        let least = self.set.spec.min_ready_seconds.unwrap_or(0);
        (status, state::next_available(first, least, self.now))
    }
}
