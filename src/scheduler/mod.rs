//! The scheduler: filters and scores nodes, makes room for important pods (all of it pure), binds pods.
//!
//! One pod after another is decided upon; bindings go on beside that. A pod that is being bound counts as if it were, so
//! that the next one is measured against what is left.

pub mod cluster;
pub mod decide;
pub mod figures;
pub mod filter;
pub mod hints;
pub mod preemption;
pub mod queue;
pub mod score;

mod act;
mod memory;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::cluster::{Cluster, NodeInfo, is_over, labels, node_of, priority, spec};
use self::decide::{Decision, decide};
use self::figures::{Figures, Outcome};
use self::hints::Event;
use self::memory::Memory;
use self::queue::Queue;
use crate::api::request::ListOptions;
use crate::api::volumes;
use crate::client::events::Recorder;
use crate::client::reflector::{Key, Reflector};
use crate::client::{Client, Resource};

/// The name that pods ask for.
const NAME: &str = "default-scheduler";

/// The scheduler of a cluster.
pub struct Scheduler {
    client: Client,
    queue: Queue,
    figures: Arc<Figures>,
}

impl Scheduler {
    /// A scheduler that speaks through `client`.
    pub fn new(client: Client) -> Scheduler {
        let queue = Queue::default();
        Scheduler { client, figures: Arc::new(Figures::of(queue.clone())), queue }
    }

    /// What it counts.
    pub fn figures(&self) -> Arc<Figures> {
        self.figures.clone()
    }

    /// Binds pods until `shutdown`.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let mut tasks = JoinSet::new();
        let (recorder, record) = Recorder::new(self.client.clone(), NAME, "");
        tasks.spawn(record);
        let (client, tasks) = (&self.client, &mut tasks);
        let loops = Arc::new(Loops {
            pods: reflect(tasks, client),
            nodes: reflect(tasks, client),
            namespaces: reflect(tasks, client),
            claims: reflect(tasks, client),
            volumes: reflect(tasks, client),
            classes: reflect(tasks, client),
            budgets: reflect(tasks, client),
            client: self.client.clone(),
            recorder,
            queue: self.queue,
            figures: self.figures,
            memory: Mutex::default(),
        });
        tokio::select! {
            () = shutdown => {}
            () = loops.run() => {}
        }
    }
}

fn reflect<K: Resource>(tasks: &mut JoinSet<()>, client: &Client) -> Reflector<K> {
    let (reflector, feed) = Reflector::new(client.all::<K>(), ListOptions::default());
    tasks.spawn(feed);
    reflector
}

struct Loops {
    client: Client,
    recorder: Recorder,
    pods: Reflector<Pod>,
    nodes: Reflector<Node>,
    namespaces: Reflector<Namespace>,
    claims: Reflector<PersistentVolumeClaim>,
    volumes: Reflector<PersistentVolume>,
    classes: Reflector<StorageClass>,
    budgets: Reflector<PodDisruptionBudget>,
    queue: Queue,
    figures: Arc<Figures>,
    memory: Mutex<Memory>,
}

/// Whether a pod waits for this scheduler.
fn waits(pod: &Pod) -> bool {
    let spec = spec(pod);
    let ours = spec.scheduler_name.as_deref().unwrap_or(NAME) == NAME;
    node_of(pod).is_empty()
        && ours
        && !is_gated(pod)
        && !is_over(pod)
        && pod.metadata.deletion_timestamp.is_none()
}

/// Whether gates hold a pod back.
fn is_gated(pod: &Pod) -> bool {
    spec(pod).scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty())
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

impl Loops {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: &Arc<Self>) {
        tokio::join!(
            self.pods.synced(),
            self.nodes.synced(),
            self.namespaces.synced(),
            self.claims.synced(),
            self.volumes.synced(),
            self.classes.synced(),
            self.budgets.synced(),
        );
        let schedule = async {
            let mut work = JoinSet::new();
            loop {
                let key = self.queue.next().await;
                self.attempt(&key, &mut work);
                while work.try_join_next().is_some() {}
                // What happened meanwhile is heard before the next pod's turn.
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(
            self.by_pod(),
            self.by_node(),
            self.by_claim(),
            self.by_any(&self.volumes, Event::Volume),
            self.by_any(&self.classes, Event::Volume),
            self.by_any(&self.namespaces, Event::Namespace),
            schedule
        );
    }

    async fn by_pod(&self) {
        let mut known: HashMap<Key, Arc<Pod>> = HashMap::new();
        let mut changes = self.pods.subscribe();
        while let Some(key) = changes.next().await {
            let after = self.pods.get(&key);
            let before = match &after {
                Some(pod) => known.insert(key.clone(), pod.clone()),
                None => known.remove(&key),
            };
            let replaced =
                before.as_ref().filter(|before| after.as_ref().is_none_or(|a| uid(a) != uid(before)));
            if let Some(gone) = replaced {
                self.memory().forget(uid(gone));
            }
            self.queue.gate(&key, after.as_ref().is_some_and(|pod| is_gated(pod) && !is_over(pod)));
            match after.as_ref().filter(|pod| waits(pod)) {
                Some(pod) => {
                    let changed = before.as_ref().is_none_or(|before| hints::is_other(before, pod));
                    self.queue.put(&key, uid(pod), priority(pod), changed);
                }
                None => {
                    self.queue.remove(&key);
                    if let Some(pod) = &after {
                        self.memory().seen(uid(pod));
                    }
                }
            }
            if let Some(event) = hints::pod_changed(before.as_deref(), after.as_deref()) {
                self.wake(event);
            }
        }
    }

    async fn by_node(&self) {
        let mut known: HashMap<Key, Arc<Node>> = HashMap::new();
        let mut changes = self.nodes.subscribe();
        while let Some(key) = changes.next().await {
            match self.nodes.get(&key) {
                Some(node) => {
                    let before = known.insert(key, node.clone());
                    if hints::node_changed(before.as_deref(), &node) {
                        self.wake(Event::Node);
                    }
                }
                None => drop(known.remove(&key)),
            }
        }
    }

    async fn by_claim(&self) {
        let mut changes = self.claims.subscribe();
        while let Some(key) = changes.next().await {
            self.wake(Event::Claim(&key));
        }
    }

    async fn by_any<K: Resource>(&self, reflector: &Reflector<K>, event: Event<'static>) {
        let mut changes = reflector.subscribe();
        while changes.next().await.is_some() {
            self.wake(event);
        }
    }

    /// Has those pods tried again that an event may help.
    fn wake(&self, event: Event<'_>) {
        self.queue.helped(|key, plugins| {
            let claims: Vec<String> = match (event, self.pods.get(key)) {
                (Event::Claim(_), Some(pod)) => {
                    let namespace = cluster::namespace(&pod);
                    volumes::claims_of(&pod).map(|name| format!("{namespace}/{name}")).collect()
                }
                _ => Vec::new(),
            };
            plugins.iter().any(|plugin| hints::helps(event, *plugin, &claims))
        });
    }

    /// The cluster as it is known now, with what is under way.
    fn cluster(&self, memory: &mut Memory) -> Cluster {
        let info = |node| NodeInfo { node, pods: Vec::new(), nominated: Vec::new() };
        let mut nodes: Vec<NodeInfo> = self.nodes.list().into_iter().map(info).collect();
        let index: HashMap<String, usize> =
            nodes.iter().enumerate().map(|(index, node)| (node.name().to_owned(), index)).collect();
        for pod in self.pods.list().iter().filter(|pod| !is_over(pod)) {
            let pod = memory.newest(pod);
            if let Some(at) = index.get(node_of(&pod)) {
                nodes[*at].pods.push(memory.placed(&pod));
            } else if let Some(at) = memory.hope(&pod).and_then(|node| index.get(node).copied())
                && waits(&pod)
            {
                nodes[at].nominated.push(memory.placed(&pod));
            }
        }
        let named = |name: &Option<String>| name.clone().unwrap_or_default();
        let key = |claim: &PersistentVolumeClaim| crate::client::reflector::key_of(claim);
        Cluster {
            nodes,
            namespaces: self
                .namespaces
                .list()
                .iter()
                .map(|space| (named(&space.metadata.name), labels(&space.metadata.labels).clone()))
                .collect(),
            claims: self.claims.list().into_iter().map(|claim| (key(&claim), claim)).collect(),
            volumes: self.volumes.list().iter().map(|volume| memory.newest_volume(volume)).collect(),
            classes: self.classes.list().into_iter().map(|c| (named(&c.metadata.name), c)).collect(),
            budgets: self.budgets.list(),
        }
    }

    /// Decides about a pod, and has that carried out.
    fn attempt(self: &Arc<Self>, key: &str, work: &mut JoinSet<()>) {
        let Some(pod) = self.pods.get(key).filter(|pod| waits(pod)) else {
            self.queue.remove(key);
            return;
        };
        let began = Instant::now();
        let mut memory = self.memory();
        let cluster = self.cluster(&mut memory);
        let hoping = memory.hoping(&pod);
        let placed = memory.placed(&hoping);
        let (this, key) = (self.clone(), key.to_owned());
        let decision = decide(&placed, &cluster);
        self.figures.decided(began.elapsed());
        match decision {
            Decision::Bind { node, volumes } => {
                memory.assume(&pod, &node);
                memory.tie(&volumes);
                // Once it is bound, it is in the queue no more.
                let tries = self.queue.tries(&key);
                work.spawn(async move {
                    let bound = this.bind(&key, &pod, &node, volumes).await;
                    let outcome = if bound { Outcome::Scheduled } else { Outcome::Error };
                    this.figures.tried(outcome, began.elapsed());
                    if let Some(tries) = tries.filter(|_| bound) {
                        this.figures.bound(tries);
                    }
                });
            }
            Decision::Wait(wait) => {
                self.figures.tried(Outcome::Unschedulable, began.elapsed());
                if wait.preemption.is_some() || wait.hopeless {
                    self.figures.preempted(wait.preemption.as_ref().map(|found| found.victims.len()));
                }
                self.queue.refused(&key, wait.plugins.clone());
                match &wait.preemption {
                    Some(preemption) => memory.nominate(&pod, &preemption.node),
                    None if wait.hopeless => memory.give_up(&pod),
                    None => {}
                }
                work.spawn(async move { this.report(&key, &pod, wait).await });
            }
        }
    }
}
