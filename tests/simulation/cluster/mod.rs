//! A whole cluster in this process, without containers and without root: an API server whose store is in memory, the
//! controllers, the scheduler, and kubelets over the simulated runtime.
//!
//! An image runs a program of its own name, until `SIGTERM`; [`Cluster::program`] gives it another behaviour.
//!
//! Time is simulated too: whenever nothing is left to do, it leaps to the next timer of any component. So what takes
//! hours of the cluster is waited for as if it took none ([`Cluster::until`]), and [`Cluster::pass`] lets some go by.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use minik::api::node::Node;
use minik::api::request::User;
use minik::apiserver::ApiServer;
use minik::client::Client;
use minik::client::follow::Revision;
use minik::clock;
use minik::controllers::{Config as ControllersConfig, Controllers};
use minik::kubelet::context::Config;
use minik::kubelet::image_gc::Policy;
use minik::kubelet::node::Machine;
use minik::kubelet::observed::label;
use minik::kubelet::resources::NodeCapacity;
use minik::kubelet::{Kubelet, eviction};
use minik::runtime::sim::{SimProgram, SimRuntime};
use minik::runtime::{ContainerState, Runtime};
use minik::scheduler::Scheduler;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use self::beginning::Beginning;
use self::fakes::{Disk, Images, Metrics, Network, NoKeys, authority};
use self::views::Shown;

mod beginning;
mod fakes;
mod objects;
mod views;

/// How long something is waited for, of the cluster's time. Far more than it takes.
const PATIENCE: Duration = Duration::from_secs(45 * 60);
/// The same where time is real. The machine may be busy.
const REAL_PATIENCE: Duration = Duration::from_secs(30);
/// When a cluster starts: a Monday.
const MORNING: &str = "2027-03-01T09:00:00Z";
/// The namespace of everything that does not say another.
const NAMESPACE: &str = "default";

/// The cluster; everything ends with it.
pub struct Cluster {
    /// The administrator.
    pub client: Client,
    /// The containers of the first node.
    pub runtime: SimRuntime,
    images: Arc<Images>,
    metrics: Arc<Metrics>,
    eviction: eviction::Settings,
    tasks: JoinSet<()>,
    kubelets: BTreeMap<String, AbortHandle>,
    networks: BTreeMap<String, Arc<Network>>,
    views: Mutex<BTreeMap<String, watch::Receiver<Shown>>>,
    /// What was last written of each kind: what is awaited afterwards has seen it.
    written: Mutex<BTreeMap<String, Revision>>,
    directory: tempfile::TempDir,
    patience: Duration,
}

impl Cluster {
    /// A cluster of one node, `minik`, that is ready for pods.
    pub async fn start() -> Cluster {
        Cluster::start_at(MORNING).await
    }

    /// The same, at another time.
    pub async fn start_at(time: &str) -> Cluster {
        simulate(time);
        let beginning = Beginning::at(time).await;
        simulate(time);
        Cluster::build(&beginning, roomy(), PATIENCE).await
    }

    /// The same, with nodes that run short when these settings say.
    pub async fn start_with(eviction: eviction::Settings) -> Cluster {
        simulate(MORNING);
        let beginning = Beginning::at(MORNING).await;
        simulate(MORNING);
        Cluster::build(&beginning, eviction, PATIENCE).await
    }

    /// The same in real time, for what a thread of its own or the kernel has a part in, such as news of the manifests of
    /// static pods: nothing knows how long that takes.
    pub async fn start_in_real_time(eviction: Option<eviction::Settings>) -> Cluster {
        let beginning = Beginning::make().await;
        Cluster::build(&beginning, eviction.unwrap_or_else(roomy), REAL_PATIENCE).await
    }

    async fn build(beginning: &Beginning, eviction: eviction::Settings, patience: Duration) -> Cluster {
        let directory = directory();
        let api = beginning.server(beginning.store.simulated_copy());
        let client = |name: &str| Client::new(api.clone(), User::component(name));
        let mut cluster = Cluster {
            client: client("kubernetes-admin"),
            runtime: SimRuntime::new(),
            images: Arc::default(),
            metrics: Arc::new(Metrics {
                client: client("kubernetes-admin"),
                pods: Mutex::default(),
                apps: Mutex::default(),
            }),
            eviction,
            tasks: JoinSet::new(),
            kubelets: BTreeMap::new(),
            networks: BTreeMap::new(),
            views: Mutex::default(),
            written: Mutex::default(),
            directory,
            patience,
        };
        let volumes = cluster.directory.path().join("volumes");
        let controllers = controllers(&api, volumes, cluster.metrics.clone());
        cluster.tasks.spawn(controllers.run(std::future::pending()));
        let scheduler = Scheduler::new(client("system:kube-scheduler"));
        cluster.tasks.spawn(scheduler.run(std::future::pending()));
        let runtime = cluster.runtime.clone();
        cluster.run_node("minik", runtime).await;
        cluster.until("serviceaccounts/default", |_| true).await;
        cluster
    }

    /// One more node; the runtime of its containers.
    pub async fn add_node(&mut self, name: &str) -> SimRuntime {
        let runtime = SimRuntime::new();
        self.run_node(name, runtime.clone()).await;
        runtime
    }

    /// Has a node fall silent: nobody hears of it any more, though its containers run on.
    pub fn silence(&mut self, name: &str) {
        self.kubelets.remove(name).unwrap().abort();
    }

    /// Has the kubelet of a node begin again, on these containers.
    pub async fn wake(&mut self, name: &str, runtime: SimRuntime) {
        self.run_node(name, runtime).await;
    }

    /// The pod network of a node.
    pub fn network(&self, name: &str) -> Arc<Network> {
        self.networks[name].clone()
    }

    async fn run_node(&mut self, name: &str, runtime: SimRuntime) {
        let dir = self.directory.path().join(name);
        let kubelet = Kubelet::new(
            config(name, &dir, self.eviction.clone()),
            self.client.clone(),
            runtime,
            self.images.clone(),
            self.networks.entry(name.to_owned()).or_default().clone(),
            Machine::read(self.directory.path()),
            vec!["192.0.2.0/24".into()],
        );
        let run = self.tasks.spawn(async move { kubelet.run(std::future::pending()).await.unwrap() });
        self.kubelets.insert(name.to_owned(), run);
        let ready = |node: &Value| node["status"]["conditions"].as_array().is_some();
        self.until(&format!(":nodes/{name}"), ready).await;
    }

    /// Lets so many seconds go by.
    pub async fn pass(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    /// Lets everybody do what there is to do at present. A whole second goes by, as the times that objects bear have no
    /// parts of one; in real time nothing is let go by, and tests await what they build on.
    async fn settle(&self) {
        if self.patience != REAL_PATIENCE {
            self.pass(1).await;
        }
    }

    /// Has the containers of an image do something else when they start.
    pub fn program(&self, image: &str, program: SimProgram) {
        self.runtime.program(image, program);
    }

    /// Says how much memory a pod uses, to who asks for metrics.
    pub fn uses(&self, pod: &str, bytes: u64) {
        self.metrics.pods.lock().unwrap().insert(pod.to_owned(), bytes);
    }

    /// Says how much memory the running pods with the label `app` of this value use together.
    pub fn load(&self, app: &str, bytes: u64) {
        self.metrics.apps.lock().unwrap().insert(app.to_owned(), bytes);
    }

    /// Has pulls of an image take until it is released: its pods wait.
    pub fn hold_image(&self, image: &str) {
        self.images.held.send_modify(|held| {
            held.insert(image.to_owned());
        });
    }

    /// Has a held image come.
    pub fn release_image(&self, image: &str) {
        self.images.held.send_modify(|held| {
            held.remove(image);
        });
    }

    /// Has pulls of an image fail, with this message, or not any more.
    pub fn break_image(&self, image: &str, why: Option<&str>) {
        let mut broken = self.images.broken.lock().unwrap();
        match why {
            Some(why) => drop(broken.insert(image.to_owned(), why.to_owned())),
            None => drop(broken.remove(image)),
        }
    }

    /// When an image was fetched, in seconds since the first time.
    pub fn pulls(&self, image: &str) -> Vec<u64> {
        let pulls = self.images.pulls.lock().unwrap();
        let of: Vec<Instant> = pulls.iter().filter(|(name, _)| name == image).map(|(_, at)| *at).collect();
        of.iter().map(|at| at.duration_since(of[0]).as_secs()).collect()
    }

    /// Where a volume in memory of a pod of the first node is.
    pub fn volume(&self, pod: &Value, name: &str) -> PathBuf {
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        self.directory.path().join("minik/memory").join(uid).join("volumes").join(name)
    }

    /// Puts a manifest into the first node's folder of static pods, or changes what is there.
    pub fn put_manifest(&self, file: &str, manifest: &str) {
        let folder = self.directory.path().join("minik/manifests");
        let new = folder.join(format!(".{file}"));
        std::fs::write(&new, manifest).unwrap();
        std::fs::rename(new, folder.join(file)).unwrap();
    }

    /// Takes a manifest out of it.
    pub fn remove_manifest(&self, file: &str) {
        std::fs::remove_file(self.directory.path().join("minik/manifests").join(file)).unwrap();
    }

    /// The images of the first node's running containers.
    pub async fn running(&self) -> Vec<String> {
        let observed = self.runtime.observe().await.unwrap();
        let running =
            observed.containers.iter().filter(|c| matches!(c.state, ContainerState::Running { .. }));
        let mut images: Vec<String> = running.map(|c| c.labels[label::IMAGE].clone()).collect();
        images.sort();
        images
    }

    /// Waits until the first node's running containers have these images.
    pub async fn until_running(&self, images: &[&str]) {
        let mut changes = self.runtime.changes();
        let come = async {
            while self.running().await != images {
                // Who lags looks again.
                let _ = changes.recv().await;
            }
        };
        let come = tokio::time::timeout(self.patience, come).await;
        come.unwrap_or_else(|_| panic!("{images:?} never ran alone"));
    }
}

/// The controllers of a cluster.
fn controllers(api: &Arc<ApiServer>, volumes: PathBuf, node: Arc<dyn Node>) -> Controllers {
    let config = ControllersConfig {
        authority: Arc::new(NoKeys),
        ca_pem: authority().into(),
        dns_service: Ipv4Addr::new(10, 96, 0, 10),
        dns_server: (Ipv4Addr::new(192, 0, 2, 1), 53),
        storage: Arc::new(Disk(volumes)),
        node,
    };
    Controllers::new(Client::new(api.clone(), User::component("system:kube-controller-manager")), config)
}

/// Has this test's time begin at a moment, and go on as its work does.
fn simulate(time: &str) {
    thread_local!(static PAUSED: Cell<bool> = const { Cell::new(false) });
    // A test may start several clusters, one after the other.
    if !PAUSED.replace(true) {
        tokio::time::pause();
    }
    clock::simulate(time.parse().unwrap());
}

/// Where a cluster keeps its files: in memory, where the machine has such a place.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Nodes that never run short, whatever is left of the disk that the tests run on.
fn roomy() -> eviction::Settings {
    let images = Policy { high: 100, ..Policy::default() };
    eviction::Settings { thresholds: Vec::new(), images, ..Default::default() }
}

fn config(node: &str, dir: &Path, eviction: eviction::Settings) -> Config {
    Config {
        node: node.to_owned(),
        address: Ipv4Addr::LOCALHOST,
        address6: None,
        dns: Ipv4Addr::LOCALHOST,
        domain: "cluster.local".into(),
        pods: dir.join("pods"),
        memory: dir.join("memory"),
        logs: dir.join("logs"),
        container_logs: dir.join("links"),
        images: dir.join("images"),
        manifests: dir.join("manifests"),
        seccomp: dir.join("seccomp"),
        app_armor: false,
        capacity: NodeCapacity { milli_cpu: 8000, memory: 8 << 30, disk: 8 << 30 },
        share_processes: false,
        max_pods: 110,
        eviction,
    }
}
