//! Daemon sets: one pod on every node that is meant.
//!
//! Events, labels and order are those of Kubernetes' `pkg/controller/daemon`.

mod placement;
mod plan;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::time::Instant;

use self::placement::template_for;
use self::plan::Daemons;
use super::owned::claim::claim;
use super::owned::pods::{self, BURST, Pods};
use super::owned::revisions::{self, REVISION, Revisions, Wanted};
use super::owned::wake::enqueue_owners;
use super::owned::{Owner, selector, selects, status};
use super::{Next, at, enqueue, queue, work_side_by_side};
use crate::api::status::Status;
use crate::client::Client;
use crate::client::events::{EventType, Recorder};
use crate::client::reflector::{Reflector, key_of};
use crate::clock;

/// The name under which the controller speaks.
const COMPONENT: &str = "daemonset-controller";
/// How long a pod that ended is left alone at first, before the next one is made in its place.
const PAUSE: Duration = Duration::from_secs(1);
/// And at most.
const PAUSE_MAX: Duration = Duration::from_secs(15 * 60);

/// What the controller looks at.
#[derive(Clone)]
pub struct Watched {
    /// Daemon sets.
    pub sets: Reflector<DaemonSet>,
    /// Their pods.
    pub pods: Reflector<Pod>,
    /// Their histories.
    pub revisions: Reflector<ControllerRevision>,
    /// Where their pods go.
    pub nodes: Reflector<Node>,
}

/// Runs until dropped.
pub async fn run(client: Client, watched: Watched) {
    let Watched { sets, pods, revisions, nodes } = &watched;
    sets.synced().await;
    pods.synced().await;
    revisions.synced().await;
    nodes.synced().await;
    let (recorder, record) = Recorder::new(client.clone(), COMPONENT, "");
    let queue = queue(&client, "daemonset");
    let by_set = enqueue(sets.subscribe(), queue.clone());
    let selected = |set: &DaemonSet, pod: &Pod| {
        selector(Some(&set.spec.selector)).is_ok_and(|selector| selects(&selector, &pod.metadata))
    };
    let by_pod = enqueue_owners(pods, sets, selected, &queue);
    let same = |set: &DaemonSet, revision: &ControllerRevision| {
        selector(Some(&set.spec.selector)).is_ok_and(|selector| selects(&selector, &revision.metadata))
    };
    let by_revision = enqueue_owners(revisions, sets, same, &queue);
    let by_node = async {
        let mut changes = nodes.subscribe();
        let mut known: HashMap<String, Arc<Node>> = HashMap::new();
        while let Some(key) = changes.next().await {
            let node = nodes.get(&key);
            let before = match &node {
                Some(node) => known.insert(key, node.clone()),
                None => known.remove(&key),
            };
            // Heartbeats change nothing for a daemon.
            if node.as_deref().map(relevant) != before.as_deref().map(relevant) {
                sets.list().iter().for_each(|set| queue.add(&key_of(&**set)));
            }
        }
    };
    let writer = Pods::new(client.clone(), recorder, pods.clone());
    let histories = Revisions::new(client.clone(), revisions.clone());
    let controller =
        Controller { client, watched: watched.clone(), writer, histories, pauses: Mutex::default() };
    let work = work_side_by_side(COMPONENT, &queue, |key| controller.reconcile(key));
    tokio::join!(record, by_set, by_pod, by_revision, by_node, work);
}

/// What of a node decides about daemons.
fn relevant(node: &Node) -> (Option<&BTreeMap<String, String>>, Option<serde_json::Value>) {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    (node.metadata.labels.as_ref(), taints.and_then(|taints| serde_json::to_value(taints).ok()))
}

/// When a pod of a daemon set (by uid) last ended on a node, and how long the next one waits.
type Pauses = HashMap<(String, String), (Instant, Duration)>;

struct Controller {
    client: Client,
    watched: Watched,
    writer: Pods,
    histories: Revisions,
    pauses: Mutex<Pauses>,
}

impl Controller {
    async fn reconcile(&self, key: String) -> Result<Next, Status> {
        let Some(set) = self.watched.sets.get(&key) else { return Ok(Next::Await) };
        let selector = match selector(Some(&set.spec.selector)) {
            Ok(selector) => selector,
            Err(error) => {
                // The next change of the object is the next chance.
                tracing::warn!(key, error, "the selector cannot be read");
                return Ok(Next::Await);
            }
        };
        let owner = Owner::new(&*set, selector);
        if owner.selector.is_everything() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.writer.tell(&owner, EventType::Warning, "SelectingAll", message);
            return Ok(Next::Await);
        }
        if owner.deleting {
            return Ok(Next::Await);
        }
        let history = self.histories.of::<DaemonSet>(&owner).await?;
        let old = set.status.clone().unwrap_or_default();
        let mut collisions = old.collision_count.unwrap_or(0);
        let current = self.histories.ensure(&owner, &wanted(&set)?, &history, &mut collisions).await?;
        let hash = revision_of(&current);
        let matches = |pod: &Pod| selects(&owner.selector, &pod.metadata);
        let all = self.watched.pods.in_namespace(&owner.namespace);
        let pods = claim::<DaemonSet, _>(&self.client, &owner, &self.watched.pods, all, matches).await?;
        let nodes = self.watched.nodes.list();
        let plan = Daemons::new(&set, hash, &nodes, &pods, clock::now()).plan();
        let (done, wait) = self.act(&set, &owner, hash, plan).await;

        let now = clock::now();
        let mut pods = self.watched.pods.in_namespace(&owner.namespace);
        pods.retain(|pod| owner.controls(&pod.metadata) && matches(pod));
        let daemons = Daemons::new(&set, hash, &nodes, &pods, now);
        let (status, next) = daemons.status(&old, collisions);
        if status != old || set.status.is_none() {
            status::write(&self.client, &self.watched.sets, &*set, |set| set.status = Some(status.clone()))
                .await?;
        }
        done?;
        self.clean_up(&set, &owner, &pods).await?;
        let next = match at(next, clock::now()) {
            Next::After(next) => Some(next).into_iter().chain(wait).min(),
            Next::Await => wait,
        };
        Ok(next.map_or(Next::Await, Next::After))
    }

    /// Carries a plan out, as far as pods that ended do not ask for patience; answers for how long then.
    async fn act(
        &self,
        set: &DaemonSet,
        owner: &Owner,
        hash: &str,
        mut plan: plan::Plan,
    ) -> (Result<(), Status>, Option<Duration>) {
        let mut wait: Option<Duration> = None;
        for ended in &plan.ended {
            let node = placement::target(ended).unwrap_or("");
            match self.pause(&owner.reference.uid, node) {
                None => self.tell_ended(owner, ended, node),
                Some(left) => {
                    wait = Some(wait.map_or(left, |wait| wait.min(left)));
                    plan.delete.retain(|pod| pod.metadata.uid != ended.metadata.uid);
                }
            }
        }
        plan.create.truncate(BURST);
        plan.delete.truncate(BURST);
        let make = |n: usize| pods::from_template(owner, &template_for(set, hash, &plan.create[n]));
        let made = self.writer.create_all(owner, plan.create.len(), make).await;
        let deleted = self.writer.delete_all(owner, &plan.delete).await;
        let made = match made.error {
            // A namespace that goes takes the set with it.
            Some(error) if !pods::namespace_goes(&error) => Err(error),
            _ => Ok(()),
        };
        (made.and(deleted), wait)
    }

    /// For how long a pod that ended on a node has to be left alone; nothing when it may go now.
    fn pause(&self, set: &str, node: &str) -> Option<Duration> {
        let mut pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // Who has been well for long enough begins anew.
        pauses.retain(|_, (last, _)| now.duration_since(*last) < 2 * PAUSE_MAX);
        let key = (set.to_owned(), node.to_owned());
        let pause = match pauses.get(&key) {
            None => PAUSE,
            Some((last, pause)) => {
                let left = pause.saturating_sub(now.duration_since(*last));
                if !left.is_zero() {
                    return Some(left);
                }
                (*pause * 2).min(PAUSE_MAX)
            }
        };
        pauses.insert(key, (now, pause));
        None
    }

    fn tell_ended(&self, owner: &Owner, pod: &Pod, node: &str) {
        let name = pod.metadata.name.as_deref().unwrap_or("");
        let full = format!("{}/{name} on node {node}", owner.namespace);
        let (kind, reason, message) = match super::owned::state::phase(pod) {
            "Failed" => (
                EventType::Warning,
                "FailedDaemonPod",
                format!("Found failed daemon pod {full}, will try to kill it"),
            ),
            _ => (
                EventType::Normal,
                "SucceededDaemonPod",
                format!("Found succeeded daemon pod {full}, will try to delete it"),
            ),
        };
        self.writer.tell(owner, kind, reason, &message);
    }

    /// Lets go of the oldest revisions that no pod is made from.
    async fn clean_up(&self, set: &DaemonSet, owner: &Owner, pods: &[Arc<Pod>]) -> Result<(), Status> {
        let Some(limit) = set.spec.revision_history_limit.and_then(|n| usize::try_from(n).ok()) else {
            return Ok(());
        };
        let mut history = self.histories.of::<DaemonSet>(owner).await?;
        // The present one does not count.
        history.pop();
        let label = |pod: &Arc<Pod>| pod.metadata.labels.as_ref()?.get(REVISION).cloned();
        let live: BTreeSet<String> = pods.iter().filter_map(label).collect();
        let in_use = history.iter().filter(|revision| live.contains(revision_of(revision)));
        let in_use: BTreeSet<&str> =
            in_use.filter_map(|revision| revision.metadata.name.as_deref()).collect();
        let limit = limit.saturating_sub(in_use.len());
        for revision in revisions::surplus(&history, &in_use, limit) {
            self.histories.delete(&revision).await?;
        }
        Ok(())
    }
}

/// What the revision of a daemon set's present template is to be.
fn wanted(set: &DaemonSet) -> Result<Wanted, Status> {
    let labels = set.spec.template.metadata.as_ref().and_then(|meta| meta.labels.clone());
    Ok(Wanted {
        data: revisions::data_of(&set.spec.template)?,
        labels: labels.unwrap_or_default(),
        annotations: set.metadata.annotations.clone().unwrap_or_default(),
        hash_label: Some(REVISION),
    })
}

/// What pods bear that are made from a revision.
fn revision_of(revision: &ControllerRevision) -> &str {
    let label = revision.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION));
    label.or(revision.metadata.name.as_ref()).map_or("", String::as_str)
}

#[cfg(test)]
mod tests;
