//! The kubelet: makes the pods bound to this node real, and their status true.
//!
//! One [`worker`] a pod: it observes the runtime, asks [`plan`] what to do, does it, and writes the
//! [`status`]. Nothing else decides; a restarted kubelet picks up where it was from labels and statuses.

pub mod context;
pub mod worker;

pub mod allocation;
pub mod app_armor;

mod ending;

pub mod references;
pub mod sandbox;

pub mod backoff;
pub mod observed;
pub mod plan;
pub mod pod;
pub mod status;

pub mod handlers;
pub mod probes;

pub mod container;
pub mod downward;
pub mod env;
pub mod hosts;
pub mod messages;
pub mod pull;
pub mod resize;
pub mod resources;
pub mod start;
pub mod volumes;

pub mod disk;
pub mod eviction;
pub mod image_gc;
pub mod storage_limits;

pub mod directory;
pub mod statics;

pub mod logs;
pub mod node;
pub mod pages;
mod report;
pub mod server;
pub mod statistics;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::{Id, JoinSet};

use self::allocation::Allocations;
use self::context::{Addresses, Config, Context, ImageSource};
use self::eviction::Eviction;
use self::handlers::get::Getter;
use self::observed::label;
use self::pod::mirrored;
use self::references::Watches;
use self::server::Server;
use self::statics::Statics;
use self::volumes::certificates::Issuance;
use self::worker::{Desired, Worker};
use crate::api::request::ListOptions;
use crate::client::Client;
use crate::client::events::Recorder;
use crate::client::reflector::{Key, Reflector};
use crate::runtime::{Changed, Runtime};

/// The kubelet of one node.
pub struct Kubelet<R> {
    context: Arc<Context<R>>,
    pods: Reflector<Pod>,
    tasks: JoinSet<()>,
    machine: node::Machine,
    pod_cidrs: Vec<String>,
    /// Static pods, by uid, that run from before and have had no worker yet, as the API did not show them.
    unclaimed: BTreeSet<String>,
}

/// What the kubelet knows of a running worker.
struct Handle {
    key: Key,
    desired: watch::Sender<Desired>,
    changed: Arc<Notify>,
    task: Id,
}

/// How long a pod is left alone after its worker failed.
const AFTER_PANIC: Duration = Duration::from_secs(10);

/// Why the kubelet could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node object could not be written.
    #[error("cannot register node {node}: {status}")]
    Register {
        /// The node's name.
        node: String,
        /// What the API server said.
        status: crate::api::status::Status,
    },
}

impl<R: Runtime> Kubelet<R> {
    /// A kubelet that speaks through `client`; its feeding tasks start at once.
    pub fn new(
        config: Config,
        client: Client,
        runtime: R,
        images: Arc<dyn ImageSource>,
        network: Arc<dyn Addresses>,
        machine: node::Machine,
        pod_cidrs: Vec<String>,
    ) -> Kubelet<R> {
        let mut tasks = JoinSet::new();
        let (recorder, record) = Recorder::new(client.clone(), "kubelet", &config.node);
        let (services, feed_services) =
            Reflector::<Service>::new(client.all::<Service>(), ListOptions::default());
        let of_this_node = ListOptions {
            field_selector: format!("spec.nodeName={}", config.node),
            ..ListOptions::default()
        };
        let (pods, feed_pods) = Reflector::<Pod>::new(client.all::<Pod>(), of_this_node);
        let itself = ListOptions {
            field_selector: format!("metadata.name={}", config.node),
            ..ListOptions::default()
        };
        let (nodes, feed_nodes) = Reflector::<Node>::new(client.all::<Node>(), itself);
        tasks.spawn(record);
        tasks.spawn(feed_services);
        tasks.spawn(feed_pods);
        tasks.spawn(feed_nodes);
        let watches = Watches::new(client.clone());
        let (statics, http) = (Statics::default(), Getter::default());
        let issuance = Issuance {
            client: client.clone(),
            recorder: recorder.clone(),
            nodes: nodes.clone(),
            node: config.node.clone(),
        };
        let context = Arc::new(Context {
            config,
            client,
            runtime,
            images,
            network,
            services,
            watches,
            recorder,
            statics,
            eviction: Eviction::default(),
            allocations: Allocations::default(),
            nodes,
            issuance,
            http,
        });
        Kubelet { context, pods, tasks, machine, pod_cidrs, unclaimed: BTreeSet::new() }
    }

    /// What answers the API server's streaming requests.
    pub fn server(&self) -> Server<R> {
        Server::new(self.context.clone(), self.pods.clone())
    }

    /// Registers the node, then runs pods until `shutdown`. Where that says in what time, pods end before this returns;
    /// otherwise they go on.
    pub async fn run(mut self, shutdown: impl Future<Output = Option<Duration>>) -> Result<(), Error> {
        let (client, config) = (&self.context.client, &self.context.config);
        let manager = eviction::Manager::new(self.context.clone(), self.pods.clone()).await;
        let pressure = self.context.eviction.conditions();
        node::register(client, config, &self.machine, &self.pod_cidrs, &pressure)
            .await
            .map_err(|status| Error::Register { node: config.node.clone(), status })?;
        self.tasks.spawn(node::heartbeat(client.clone(), config.node.clone()));
        let mut runtime_changes = self.context.runtime.changes();
        self.pods.synced().await;
        self.context.services.synced().await;
        self.context.nodes.synced().await;
        // What runs from before has its room before anybody asks for any.
        for pod in self.pods.list().into_iter().filter_map(|pod| self.context.statics.as_run(pod)) {
            if pod::is_taken(&pod) && !pod::is_over(&pod) {
                let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                self.context.allocations.hold(uid, &pod);
            }
        }
        let follow_manifests =
            self.context.statics.clone().follow(self.context.clone(), self.pods.clone()).await;
        let mut workers: HashMap<String, Handle> = HashMap::new();
        self.remove_orphans(&workers).await;
        self.tasks.spawn(follow_manifests);
        self.tasks.spawn(manager.run());
        self.tasks.spawn(report::run(self.context.clone()));
        let (statics, eviction) = (self.context.statics.clone(), self.context.eviction.clone());
        let mut running: JoinSet<String> = JoinSet::new();
        let mut pods = self.pods.subscribe();
        tokio::pin!(shutdown);
        let time = loop {
            tokio::select! {
                time = &mut shutdown => break time,
                key = pods.next() => match key {
                    Some(key) => self.direct(&key, &mut workers, &mut running),
                    None => break None,
                },
                () = eviction.decided() => {
                    workers.values().for_each(|handle| handle.changed.notify_one());
                }
                () = statics.was_read() => self.follow_folder(&mut workers, &mut running).await,
                change = runtime_changes.recv() => if !told(change, &workers) { break None },
                Some(ended) = running.join_next() => match ended {
                    Ok(uid) => {
                        let ended = workers.remove(&uid);
                        statics.ended(&uid);
                        eviction.forget(&uid);
                        // The manifest may have come back, and its mirror with it, too late for this worker.
                        if let Some(handle) = ended.filter(|_| statics.keeps(&uid)) {
                            self.direct(&handle.key, &mut workers, &mut running);
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "a pod's worker failed");
                        let failed = workers.iter_mut().find(|(_, handle)| handle.task == error.id());
                        if let Some((uid, handle)) = failed {
                            let wanted = handle.desired.subscribe();
                            let worker = self.worker(uid, wanted, &handle.changed);
                            handle.task = spawn(&mut running, worker, uid, AFTER_PANIC);
                        }
                    }
                },
            }
        };
        if let Some(time) = time {
            ending::all(time, &workers, &mut running, &mut runtime_changes).await;
        }
        // No worker may act on what happens from now on: a cluster that stops must not restart what it ends.
        running.shutdown().await;
        self.tasks.shutdown().await;
        Ok(())
    }

    /// Tells the workers of a key what is wanted now; a new pod gets a worker.
    fn direct(&self, key: &Key, workers: &mut HashMap<String, Handle>, running: &mut JoinSet<String>) {
        let statics = &self.context.statics;
        let shown = self.pods.get(key).and_then(|pod| statics.as_run(pod));
        let present = shown.or_else(|| statics.unshown(key));
        let present_uid = present.as_ref().and_then(|pod| pod.metadata.uid.clone());
        for (uid, handle) in workers.iter().filter(|(_, handle)| &handle.key == key) {
            // A static pod is there as long as its manifest is.
            if Some(uid) != present_uid.as_ref() && !self.context.statics.keeps(uid) {
                handle.desired.send_modify(|desired| {
                    if let Desired::Pod(pod) = desired {
                        *desired = Desired::Gone(pod.clone());
                    }
                });
                // Others may come in its place before the last of its processes has ended.
                self.context.allocations.release(uid);
            }
        }
        let (Some(pod), Some(uid)) = (present, present_uid) else { return };
        if pod::is_over(&pod) {
            self.context.allocations.release(&uid);
        }
        if let Some(handle) = workers.get(&uid) {
            handle.desired.send_replace(Desired::Pod(pod));
            return;
        }
        let (desired, wanted) = watch::channel(Desired::Pod(pod));
        let changed = Arc::new(Notify::new());
        let worker = self.worker(&uid, wanted, &changed);
        let task = spawn(running, worker, &uid, Duration::ZERO);
        self.context.statics.began(&uid, key);
        self.context.eviction.look();
        workers.insert(uid, Handle { key: key.clone(), desired, changed, task });
    }

    /// The folder of static pods was read: what has gone from it ends, and what is in it runs, whether the API shows it
    /// or not.
    async fn follow_folder(&mut self, workers: &mut HashMap<String, Handle>, running: &mut JoinSet<String>) {
        let of_static = |handle: &&Handle| mirrored(handle.desired.borrow().pod()).is_some();
        let mut keys: BTreeSet<Key> =
            workers.values().filter(of_static).map(|handle| handle.key.clone()).collect();
        keys.extend(self.context.statics.unshown_keys());
        for key in keys {
            self.direct(&key, workers, running);
        }
        self.unclaimed.retain(|uid| !workers.contains_key(uid));
        if self.unclaimed.iter().any(|uid| !self.context.statics.keeps(uid)) {
            self.remove_orphans(workers).await;
        }
    }

    fn worker(&self, uid: &str, wanted: watch::Receiver<Desired>, changed: &Arc<Notify>) -> Worker<R> {
        Worker::new(self.context.clone(), uid.to_owned(), wanted, changed.clone())
    }

    /// Ends what runs, and removes what lies here, for pods that vanished while nobody was here.
    async fn remove_orphans(&mut self, workers: &HashMap<String, Handle>) {
        let observed = match self.context.runtime.observe().await {
            Ok(observed) => observed,
            Err(error) => {
                tracing::warn!(%error, "cannot look for orphans");
                return;
            }
        };
        // A kubelet may have died when a pod had its network and no sandbox yet.
        let mut held = self.context.network.held().await.unwrap_or_else(|message| {
            tracing::warn!(message, "cannot look for orphans' networks");
            BTreeSet::new()
        });
        let pods = self.pods.list().into_iter().filter_map(|pod| self.context.statics.as_run(pod));
        let mut known: Vec<String> = pods.filter_map(|pod| pod.metadata.uid.clone()).collect();
        known.extend(workers.keys().cloned());
        // A static pod stays as long as its manifest, whether the API shows its mirror or not.
        let uids = observed.sandboxes.iter().filter_map(|sandbox| sandbox.labels.get(label::UID));
        self.unclaimed = uids.chain(&held).filter(|uid| self.context.statics.keeps(uid)).cloned().collect();
        known.extend(self.unclaimed.iter().cloned());
        for sandbox in observed.sandboxes {
            let uid = sandbox.labels.get(label::UID).cloned().unwrap_or_default();
            if known.contains(&uid) {
                continue;
            }
            tracing::info!(sandbox = sandbox.id, "removing the sandbox of a pod that is gone");
            if let Err(error) = self.context.runtime.remove_sandbox(&sandbox.id).await {
                tracing::warn!(sandbox = sandbox.id, %error, "orphan not removed");
                // What may still run keeps its address and its users.
                held.remove(&uid);
            }
        }
        for uid in held.iter().filter(|uid| !known.contains(uid)) {
            if let Err(message) = self.context.network.detach(uid).await {
                tracing::warn!(uid, message, "orphan's network not given back");
            }
        }
        let config = self.context.config.clone();
        // What to remove is known before the first pod starts; the removal itself may take its time.
        let orphans = tokio::task::spawn_blocking(move || Orphans::find(&config, &known)).await;
        match orphans.unwrap_or_else(|error| Err(error.into())) {
            Ok(orphans) => drop(tokio::task::spawn_blocking(move || orphans.remove())),
            Err(error) => tracing::warn!(%error, "cannot look for orphans' files"),
        }
    }
}

/// Tells workers that the runtime saw something change; `false` when it will see nothing any more.
fn told(change: Result<Changed, broadcast::error::RecvError>, workers: &HashMap<String, Handle>) -> bool {
    match change {
        Ok(change) => {
            // A sandbox's id begins with its pod's uid.
            let uid = change.sandbox.rsplit_once('-').map_or("", |(uid, _)| uid);
            if let Some(handle) = workers.get(uid) {
                handle.changed.notify_one();
            }
            true
        }
        Err(broadcast::error::RecvError::Lagged(_)) => {
            workers.values().for_each(|handle| handle.changed.notify_one());
            true
        }
        Err(broadcast::error::RecvError::Closed) => false,
    }
}

/// What lies here of pods that are gone.
struct Orphans {
    container_logs: PathBuf,
    /// By uid: a pod's directories, and that of its logs.
    files: Vec<(String, volumes::PodDirs, Option<PathBuf>)>,
}

impl Orphans {
    /// Looks for directories and logs of pods other than the known ones. The names in the cluster's own directories
    /// say which logs are its own: other clusters of the host keep theirs beside them.
    fn find(config: &Config, known: &[String]) -> std::io::Result<Orphans> {
        let mut uids = BTreeSet::new();
        for directory in [&config.pods, &config.memory] {
            for entry in present(std::fs::read_dir(directory))?.into_iter().flatten() {
                uids.insert(entry?.file_name().to_string_lossy().into_owned());
            }
        }
        uids.retain(|uid| !known.contains(uid));
        let mut logs = match uids.is_empty() {
            true => HashMap::new(),
            false => present(messages::log_dirs(&config.logs))?.unwrap_or_default(),
        };
        let of = |uid: String| {
            let dirs = volumes::PodDirs::new(&config.pods, &config.memory, &uid);
            let logs = logs.remove(&uid);
            (uid, dirs, logs)
        };
        let files = uids.into_iter().map(of).collect();
        Ok(Orphans { container_logs: config.container_logs.clone(), files })
    }

    fn remove(self) {
        for (uid, dirs, logs) in self.files {
            // The directories go last: they are the mark that logs are there.
            let removed = logs
                .map_or(Ok(()), |logs| messages::remove_log_dir(&logs, &self.container_logs))
                .and_then(|()| dirs.remove());
            if let Err(error) = removed {
                tracing::warn!(uid, %error, "orphan's files not removed");
            }
        }
    }
}

/// `None` for what is not there.
fn present<T>(result: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// Has a worker begin after a while.
fn spawn<R: Runtime>(running: &mut JoinSet<String>, worker: Worker<R>, uid: &str, after: Duration) -> Id {
    let uid = uid.to_owned();
    let work = async move {
        // Even a sleep of no length lasts until the timer's next tick.
        if !after.is_zero() {
            tokio::time::sleep(after).await;
        }
        worker.run().await;
        uid
    };
    running.spawn(work).id()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::resources::NodeCapacity;
    use std::fs;

    #[test]
    fn only_files_of_this_clusters_vanished_pods_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        let config = Config {
            node: "n".into(),
            address: [127, 0, 0, 1].into(),
            address6: None,
            dns: [127, 0, 0, 1].into(),
            domain: "d".into(),
            pods: at("pods"),
            memory: at("memory"),
            logs: at("logs"),
            container_logs: at("links"),
            images: at("images"),
            manifests: at("manifests"),
            seccomp: at("seccomp"),
            app_armor: false,
            capacity: NodeCapacity { milli_cpu: 1, memory: 1, disk: 1 },
            share_processes: false,
            max_pods: 110,
            eviction: eviction::Settings::default(),
        };
        let remove = |known: &[String]| Orphans::find(&config, known).unwrap().remove();
        remove(&[]);
        for path in
            ["pods/gone", "pods/here", "memory/gone", "logs/d_p_gone/c", "logs/d_p_here/c", "logs/d_p_other"]
        {
            fs::create_dir_all(at(path)).unwrap();
        }
        remove(&["here".to_owned()]);
        for (path, stays) in [
            ("pods/gone", false),
            ("memory/gone", false),
            ("logs/d_p_gone", false),
            ("pods/here", true),
            ("logs/d_p_here", true),
            ("logs/d_p_other", true),
        ] {
            assert_eq!(at(path).exists(), stays, "{path}");
        }
    }
}
