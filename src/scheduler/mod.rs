//! The scheduler: filters and scores nodes (pure), binds pods.
//!
//! A pod without a node is looked at the moment it appears; one that fits nowhere is looked at again when a node
//! or another pod changes.

pub mod fit;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;
use tokio::task::JoinSet;

use crate::api::request::{ListOptions, PatchKind, WriteOptions};
use crate::api::status::Status;
use crate::client::Client;
use crate::client::events::{EventType, Recorder, reference};
use crate::client::queue::Queue;
use crate::client::reflector::{Reflector, split_key};

/// The name that pods ask for.
const NAME: &str = "default-scheduler";
/// The first wait after a failed bind.
const RETRY: Duration = Duration::from_millis(10);
/// The longest.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// The scheduler of a cluster.
pub struct Scheduler {
    client: Client,
}

impl Scheduler {
    /// A scheduler that speaks through `client`.
    pub fn new(client: Client) -> Scheduler {
        Scheduler { client }
    }

    /// Binds pods until `shutdown`.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let mut tasks = JoinSet::new();
        let (recorder, record) = Recorder::new(self.client.clone(), NAME, "");
        let (pods, feed_pods) = Reflector::<Pod>::new(self.client.all::<Pod>(), ListOptions::default());
        let (nodes, feed_nodes) = Reflector::<Node>::new(self.client.all::<Node>(), ListOptions::default());
        tasks.spawn(record);
        tasks.spawn(feed_pods);
        tasks.spawn(feed_nodes);
        let loops = Loops { client: self.client, recorder, pods, nodes, queue: Queue::new(RETRY, RETRY_MAX) };
        tokio::select! {
            () = shutdown => {}
            () = loops.run() => {}
        }
    }
}

struct Loops {
    client: Client,
    recorder: Recorder,
    pods: Reflector<Pod>,
    nodes: Reflector<Node>,
    queue: Queue,
}

/// Whether a pod waits for this scheduler.
fn waits(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let unbound = spec.and_then(|s| s.node_name.as_deref()).is_none_or(str::is_empty);
    let ours = spec.and_then(|s| s.scheduler_name.as_deref()).unwrap_or(NAME) == NAME;
    let gated = spec.and_then(|s| s.scheduling_gates.as_ref()).is_some_and(|g| !g.is_empty());
    unbound && ours && !gated && pod.metadata.deletion_timestamp.is_none()
}

impl Loops {
    async fn run(&self) {
        self.pods.synced().await;
        self.nodes.synced().await;
        let pending: std::sync::Mutex<BTreeSet<String>> = std::sync::Mutex::default();
        let by_pod = async {
            let mut changes = self.pods.subscribe();
            while let Some(key) = changes.next().await {
                match self.pods.get(&key) {
                    Some(pod) if waits(&pod) => self.queue.add(&key),
                    // A pod that came, went or ended may have made room.
                    _ => self.again(&pending),
                }
            }
        };
        let by_node = async {
            let mut changes = self.nodes.subscribe();
            while changes.next().await.is_some() {
                self.again(&pending);
            }
        };
        let bind = async {
            loop {
                let key = self.queue.next().await;
                let Some(pod) = self.pods.get(&key).filter(|pod| waits(pod)) else {
                    lock(&pending).remove(&key);
                    self.queue.done(&key);
                    continue;
                };
                match self.place(&key, &pod).await {
                    Ok(bound) => {
                        if bound {
                            lock(&pending).remove(&key);
                        } else {
                            lock(&pending).insert(key.clone());
                        }
                        self.queue.done(&key);
                    }
                    Err(status) if status.is("NotFound") || status.is("Conflict") => self.queue.done(&key),
                    Err(status) => {
                        tracing::warn!(pod = key, %status, "pod not bound");
                        self.queue.retry(&key);
                    }
                }
            }
        };
        tokio::join!(by_pod, by_node, bind);
    }

    /// Looks again at every pod that fitted nowhere.
    fn again(&self, pending: &std::sync::Mutex<BTreeSet<String>>) {
        for key in lock(pending).iter() {
            self.queue.add(key);
        }
    }

    /// Binds a pod to the best node; `false` when it fits nowhere.
    async fn place(&self, key: &str, pod: &Arc<Pod>) -> Result<bool, Status> {
        let nodes = self.nodes.list();
        let pods = self.pods.list();
        let (namespace, name) = split_key(key);
        match fit::choose(pod, &nodes, &pods) {
            Ok(node) => {
                let body = json!({
                    "apiVersion": "v1", "kind": "Binding",
                    "metadata": {"name": name, "namespace": namespace, "uid": pod.metadata.uid},
                    "target": {"apiVersion": "v1", "kind": "Node", "name": node},
                });
                let api = self.client.namespaced::<Pod>(namespace);
                api.create_subresource(name, "binding", body, WriteOptions::default()).await?;
                // The next pod is measured against the room that this one left.
                let uid = &pod.metadata.uid;
                let waiting = |pod: &Arc<Pod>| pod.metadata.uid == *uid && waits(pod);
                self.pods.until(|pods| !pods.get(key).is_some_and(|pod| waiting(&pod))).await;
                let message = format!("Successfully assigned {key} to {node}");
                self.recorder.record(&reference(&**pod), EventType::Normal, "Scheduled", &message);
                Ok(true)
            }
            Err(message) => {
                self.unschedulable(namespace, name, pod, &message).await?;
                Ok(false)
            }
        }
    }

    async fn unschedulable(
        &self,
        namespace: &str,
        name: &str,
        pod: &Pod,
        message: &str,
    ) -> Result<(), Status> {
        let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let known = conditions.into_iter().any(|c| {
            c.type_ == "PodScheduled" && c.status == "False" && c.message.as_deref() == Some(message)
        });
        if known {
            return Ok(());
        }
        self.recorder.record(&reference(pod), EventType::Warning, "FailedScheduling", message);
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::now());
        let body = json!({"status": {"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastTransitionTime": now, "lastProbeTime": null,
        }]}});
        let api = self.client.namespaced::<Pod>(namespace);
        api.patch(name, Some("status"), PatchKind::Strategic, body).await.map(drop)
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
