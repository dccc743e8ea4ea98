//! A whole cluster in this process, without containers and without root: an API server on a temporary directory, the
//! controllers, the scheduler, and kubelets over the simulated runtime.
//!
//! An image runs a program of its own name, until `SIGTERM`; [`Cluster::program`] gives it another behaviour.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use minik::api::kinds::{self, Kind};
use minik::api::node::{
    ContainerRef, ExecOptions, LogOptions, NoNode, Node, NodeUsage, Page, PodUsage, Taken, Usage,
};
use minik::api::request::{Action, Change, DeleteOptions, PatchKind, Response, Target, User, WriteOptions};
use minik::api::status::Status;
use minik::api::{meta, yaml};
use minik::apiserver::allocate::ServiceRanges;
use minik::apiserver::{ApiServer, Config as ServerConfig};
use minik::client::Client;
use minik::client::follow::{Entry, Follower, Revision};
use minik::controllers::volumes::Storage;
use minik::controllers::{Authority, Config as ControllersConfig, Controllers};
use minik::image::{Credential, Image, ImageConfig};
use minik::kubelet::context::{Addresses, Config, ImageSource};
use minik::kubelet::image_gc::Policy;
use minik::kubelet::node::Machine;
use minik::kubelet::observed::label;
use minik::kubelet::resources::NodeCapacity;
use minik::kubelet::{Kubelet, eviction};
use minik::network::Attachment;
use minik::runtime::sim::{SimProgram, SimRuntime};
use minik::runtime::{ContainerState, Runtime};
use minik::scheduler::Scheduler;
use minik::stdio::{Duplex, Reader, Session};
use minik::store::Store;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long something is waited for. Far more than it takes: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);
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
    views: Mutex<BTreeMap<String, watch::Receiver<Shown>>>,
    /// What was last written of each kind: what is awaited afterwards has seen it.
    written: Mutex<BTreeMap<String, Revision>>,
    directory: tempfile::TempDir,
}

/// Images that are all here, but for those that are held back.
#[derive(Default)]
struct Images(watch::Sender<BTreeSet<String>>);

impl ImageSource for Images {
    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Image>, String>> {
        let config = ImageConfig { cmd: vec![name.to_owned()], ..ImageConfig::default() };
        let image = Image { id: format!("sha256:{name}"), config, ..Image::default() };
        let here = !self.0.borrow().contains(name);
        async move { Ok(here.then_some(image)) }.boxed()
    }

    fn pull<'a>(&'a self, name: &'a str, _: Vec<Credential>) -> BoxFuture<'a, Result<Image, String>> {
        async move {
            let mut held = self.0.subscribe();
            let _ = held.wait_for(|held| !held.contains(name)).await;
            Ok(self.find(name).await?.unwrap_or_default())
        }
        .boxed()
    }

    fn free(&self, _: u64, _: Duration) -> BoxFuture<'_, Result<Option<u64>, String>> {
        async { Ok(Some(0)) }.boxed()
    }
}

/// What pods use, as the test says: the memory of their container `c` by `NAMESPACE/NAME`; nothing else of a node.
#[derive(Default)]
struct Metrics(Mutex<BTreeMap<String, u64>>);

impl Node for Metrics {
    fn logs(&self, of: ContainerRef, options: LogOptions) -> BoxFuture<'_, Result<Reader, Status>> {
        NoNode.logs(of, options)
    }

    fn exec(&self, of: ContainerRef, options: ExecOptions) -> BoxFuture<'_, Result<Session, Status>> {
        NoNode.exec(of, options)
    }

    fn attach(&self, of: ContainerRef, options: ExecOptions) -> BoxFuture<'_, Result<Session, Status>> {
        NoNode.attach(of, options)
    }

    fn port_forward(
        &self,
        namespace: String,
        pod: String,
        port: u16,
    ) -> BoxFuture<'_, Result<Box<dyn Duplex>, Status>> {
        NoNode.port_forward(namespace, pod, port)
    }

    fn usage(&self) -> BoxFuture<'_, Result<NodeUsage, Status>> {
        let taken = Taken { at: Timestamp::now(), window: Duration::from_secs(1) };
        let of = |(key, bytes): (&String, &u64)| {
            let (namespace, name) = key.split_once('/').unwrap();
            let usage = Usage { nano_cpus: 0, working_set: *bytes };
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            PodUsage { namespace, name, taken, containers: vec![("c".into(), usage)] }
        };
        let pods = self.0.lock().unwrap().iter().map(of).collect();
        let usage = NodeUsage { node: "minik".into(), taken, machine: Usage::default(), pods };
        async { Ok(usage) }.boxed()
    }

    fn page(&self, path: String, query: String) -> BoxFuture<'_, Result<Page, Status>> {
        NoNode.page(path, query)
    }
}

/// Addresses that nobody has.
#[derive(Default)]
struct Network(AtomicU32);

impl Addresses for Network {
    fn attach<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Attachment, String>> {
        let host = 2 + self.0.fetch_add(1, Ordering::Relaxed);
        let address = Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(192, 0, 2, 0)) + host);
        async move { Ok(Attachment { namespace: "/nowhere".into(), address, address6: None }) }.boxed()
    }

    fn detach<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), String>> {
        async { Ok(()) }.boxed()
    }
}

/// Nothing is signed here.
struct NoKeys;

impl Authority for NoKeys {
    fn token(&self, _: &str, _: &str, _: &str, _: &str) -> Option<String> {
        None
    }

    fn certificate(&self, _: &[u8], _: &[String], _: SignedDuration, _: Timestamp) -> Result<String, String> {
        Err("nothing is signed here".into())
    }
}

/// Volumes are directories here.
struct Disk(PathBuf);

impl Storage for Disk {
    fn make(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.0.join(name);
        std::fs::create_dir_all(&path).map_err(|error| error.to_string())?;
        Ok(path)
    }

    fn remove(&self, path: &Path) -> Result<(), String> {
        std::fs::remove_dir_all(path).map_err(|error| error.to_string())
    }
}

/// A kind's objects by `NAMESPACE/NAME`.
type Objects = BTreeMap<String, Value>;

/// What is known of a kind's objects, and up to which revision.
#[derive(Default)]
struct Shown {
    objects: Objects,
    revision: Revision,
}

struct Feed(watch::Sender<Shown>);

fn key(object: &Value) -> String {
    format!("{}/{}", meta::namespace(object), meta::name(object))
}

impl Follower for Feed {
    fn listed(&mut self, entries: &[Arc<Entry>], revision: Revision) {
        let objects = entries.iter().map(|entry| (key(entry.json()), entry.json().clone())).collect();
        self.0.send_replace(Shown { objects, revision });
    }

    fn changed(&mut self, change: &Change, revision: Revision) {
        self.0.send_modify(|shown| {
            shown.revision = revision;
            match change {
                Change::Added(entry) | Change::Modified(entry) => {
                    shown.objects.insert(key(entry.json()), entry.json().clone());
                }
                Change::Deleted(entry) => {
                    shown.objects.remove(&key(entry.json()));
                }
                Change::Bookmark { .. } => {}
            }
        });
    }
}

/// `deployments/web`, or `NAMESPACE:deployments/web`, taken apart.
struct Name<'a> {
    namespace: &'a str,
    plural: &'a str,
    name: &'a str,
}

fn parse(path: &str) -> Name<'_> {
    let (namespace, rest) = path.split_once(':').unwrap_or((NAMESPACE, path));
    let (plural, name) = rest.split_once('/').unwrap_or((rest, ""));
    Name { namespace, plural, name }
}

impl Cluster {
    /// A cluster of one node, `minik`, that is ready for pods.
    pub async fn start() -> Cluster {
        // Whatever is left of the disk that the tests run on.
        let images = Policy { high: 100, ..Policy::default() };
        Cluster::start_with(eviction::Settings { thresholds: Vec::new(), images, ..Default::default() }).await
    }

    /// The same, with nodes that run short when these settings say.
    pub async fn start_with(eviction: eviction::Settings) -> Cluster {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let service_ranges = ServiceRanges::parse("10.96.0.0/16").unwrap();
        let token_key = minik::apiserver::pki::Pki::open(&directory.path().join("pki")).unwrap();
        let token_key = token_key.token_key().to_vec();
        let api = ApiServer::new(ServerConfig { store, service_ranges, token_key }).unwrap();
        api.bootstrap([192, 0, 2, 1].into(), 6443).await.unwrap();
        let client = |name: &str| Client::new(api.clone(), User::component(name));
        let mut cluster = Cluster {
            client: client("kubernetes-admin"),
            runtime: SimRuntime::new(),
            images: Arc::default(),
            metrics: Arc::default(),
            eviction,
            tasks: JoinSet::new(),
            views: Mutex::default(),
            written: Mutex::default(),
            directory,
        };
        let config = ControllersConfig {
            authority: Arc::new(NoKeys),
            ca_pem: "none".into(),
            dns_service: Ipv4Addr::new(10, 96, 0, 10),
            dns_server: (Ipv4Addr::new(192, 0, 2, 1), 53),
            storage: Arc::new(Disk(cluster.directory.path().join("volumes"))),
            node: cluster.metrics.clone(),
        };
        let controllers = Controllers::new(client("system:kube-controller-manager"), config);
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

    async fn run_node(&mut self, name: &str, runtime: SimRuntime) {
        let dir = self.directory.path().join(name);
        let kubelet = Kubelet::new(
            config(name, &dir, self.eviction.clone()),
            self.client.clone(),
            runtime,
            self.images.clone(),
            Arc::new(Network::default()),
            Machine::read(self.directory.path()),
            vec!["192.0.2.0/24".into()],
        );
        self.tasks.spawn(async move { kubelet.run(std::future::pending()).await.unwrap() });
        let ready = |node: &Value| node["status"]["conditions"].as_array().is_some();
        self.until(&format!(":nodes/{name}"), ready).await;
    }

    /// Has the containers of an image do something else when they start.
    pub fn program(&self, image: &str, program: SimProgram) {
        self.runtime.program(image, program);
    }

    /// Says how much memory a pod of the first node uses, to who asks for metrics.
    pub fn uses(&self, pod: &str, bytes: u64) {
        self.metrics.0.lock().unwrap().insert(format!("{NAMESPACE}/{pod}"), bytes);
    }

    /// Has pulls of an image take until it is released: its pods wait.
    pub fn hold_image(&self, image: &str) {
        self.images.0.send_modify(|held| {
            held.insert(image.to_owned());
        });
    }

    /// Has a held image come.
    pub fn release_image(&self, image: &str) {
        self.images.0.send_modify(|held| {
            held.remove(image);
        });
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
        tokio::time::timeout(PATIENCE, come).await.unwrap_or_else(|_| panic!("{images:?} never ran alone"));
    }

    /// Makes the objects of a manifest (YAML, one or several documents), or changes what exists to what it says.
    pub async fn apply(&self, manifest: &str) {
        for object in yaml::documents(manifest.as_bytes()).unwrap() {
            self.apply_object(object).await;
        }
    }

    async fn apply_object(&self, object: Value) {
        let (group, version) = meta::group_version(meta::api_version(&object));
        let kind = kinds::by_kind(group, version, meta::kind(&object));
        let kind = kind.unwrap_or_else(|| panic!("no kind is that of {object}"));
        let namespace = Some(meta::namespace(&object)).filter(|n| !n.is_empty()).unwrap_or(NAMESPACE);
        let options = WriteOptions {
            field_manager: Some("kubectl-client-side-apply".into()),
            ..WriteOptions::default()
        };
        let made = Action::Create(object.clone(), options.clone());
        let written = match self.write(target(kind, namespace, None), made).await {
            Err(status) if status.is("AlreadyExists") => {
                let patch = Action::Patch(PatchKind::Strategic, object.clone(), options);
                self.write(target(kind, namespace, Some(meta::name(&object))), patch).await
            }
            other => other,
        };
        written.unwrap_or_else(|status| panic!("{status}: {object}"));
    }

    /// Makes a change, which whatever is awaited afterwards has seen; answers the object.
    async fn write(&self, target: Target, action: Action) -> Result<Value, Status> {
        let plural = target.resource.clone();
        let Response::Object { entry, .. } = self.client.call(target, action).await? else {
            return Ok(Value::Null);
        };
        let mut written = self.written.lock().unwrap();
        let last = written.entry(plural).or_default();
        *last = entry.revision.max(*last);
        Ok(entry.json().clone())
    }

    /// Changes an object by a merge patch.
    pub async fn patch(&self, path: &str, patch: Value) -> Value {
        self.try_patch(path, patch).await.unwrap()
    }

    /// The same, when it may be refused.
    pub async fn try_patch(&self, path: &str, patch: Value) -> Result<Value, Status> {
        let Name { namespace, plural, name } = parse(path);
        let action = Action::Patch(PatchKind::Merge, patch, WriteOptions::default());
        self.write(target(&kind(plural), namespace, Some(name)), action).await
    }

    /// Changes an object's status.
    pub async fn patch_status(&self, path: &str, status: Value) {
        let Name { namespace, plural, name } = parse(path);
        let action = Action::Patch(PatchKind::Merge, json!({"status": status}), WriteOptions::default());
        let mut target = target(&kind(plural), namespace, Some(name));
        target.subresource = Some("status".into());
        self.write(target, action).await.unwrap();
    }

    /// Changes what the container `c` of a pod may use.
    pub async fn resize(&self, name: &str, resources: Value) {
        let patch = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
        let action = Action::Patch(PatchKind::Strategic, patch, WriteOptions::default());
        let mut target = target(&kind("pods"), NAMESPACE, Some(name));
        target.subresource = Some("resize".into());
        self.write(target, action).await.unwrap();
    }

    /// Changes the number of pods that an object wants.
    pub async fn scale(&self, path: &str, replicas: i32) {
        self.patch(path, json!({"spec": {"replicas": replicas}})).await;
    }

    /// Deletes an object as kubectl does.
    pub async fn delete(&self, path: &str) {
        self.delete_with(path, "Background").await;
    }

    /// Deletes an object with this propagation policy.
    pub async fn delete_with(&self, path: &str, policy: &str) {
        let Name { namespace, plural, name } = parse(path);
        let options =
            DeleteOptions { propagation_policy: Some(policy.to_owned()), ..DeleteOptions::default() };
        let target = target(&kind(plural), namespace, Some(name));
        self.write(target, Action::Delete(options)).await.unwrap();
    }

    /// An object as it is now.
    pub async fn get(&self, path: &str) -> Option<Value> {
        let Name { namespace, plural, name } = parse(path);
        let action = Action::Get { resource_version: String::new() };
        match self.client.call(target(&kind(plural), namespace, Some(name)), action).await {
            Ok(Response::Object { entry, .. }) => Some(entry.json().clone()),
            Err(status) if status.is("NotFound") => None,
            other => panic!("{path}: {}", other.err().unwrap()),
        }
    }

    /// The objects of `pods`, or `NAMESPACE:pods`, as they are now, by name.
    pub async fn list(&self, path: &str) -> Vec<Value> {
        let Name { namespace, plural, .. } = parse(path);
        let kind = kind(plural);
        let entries = self.client.objects(&kind, kind.namespaced.then_some(namespace)).await.unwrap();
        let mut objects: Vec<Value> = entries.iter().map(|entry| entry.json().clone()).collect();
        objects.sort_by_key(key);
        objects
    }

    /// Waits until an object is there and looks so; answers it. `:nodes/NAME` for kinds without namespace.
    pub async fn until(&self, path: &str, looks: impl Fn(&Value) -> bool) -> Value {
        let name = key_of(path);
        let shows = |objects: &Objects| objects.get(&name).filter(|o| looks(o)).cloned();
        self.wait(path, shows, |objects| objects.get(&name).cloned().unwrap_or_default()).await
    }

    /// Waits until an object is gone.
    pub async fn until_gone(&self, path: &str) {
        let name = key_of(path);
        let shows = |objects: &Objects| (!objects.contains_key(&name)).then_some(());
        self.wait(path, shows, |objects| objects.get(&name).cloned().unwrap_or_default()).await;
    }

    /// Waits until the objects of `pods`, or `NAMESPACE:pods`, look so together; answers them.
    pub async fn until_all(&self, path: &str, look: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let prefix = format!("{}/", parse(path).namespace);
        let of = |objects: &Objects| -> Vec<Value> {
            let inside = objects.iter().filter(|(key, _)| key.starts_with(&prefix));
            inside.map(|(_, object)| object.clone()).collect()
        };
        let shows = |objects: &Objects| Some(of(objects)).filter(|all| look(all));
        self.wait(path, shows, |objects| of(objects).into()).await
    }

    /// Waits for what a kind's objects are to show; when it does not come, says what they showed.
    async fn wait<T>(
        &self,
        path: &str,
        shows: impl Fn(&Objects) -> Option<T>,
        tell: impl Fn(&Objects) -> Value,
    ) -> T {
        let plural = parse(path).plural;
        let written = self.written.lock().unwrap().get(plural).copied().unwrap_or_default();
        let mut view = self.view(plural);
        let come = async {
            loop {
                let now = view.borrow_and_update();
                // Before the first list, nothing is known.
                if now.revision > 0
                    && now.revision >= written
                    && let Some(shown) = shows(&now.objects)
                {
                    return shown;
                }
                drop(now);
                view.changed().await.unwrap();
            }
        };
        let come = tokio::time::timeout(PATIENCE, come).await;
        come.unwrap_or_else(|_| {
            let last = serde_json::to_string_pretty(&tell(&self.view(plural).borrow().objects));
            panic!("{path} did not come to look as awaited, but so:\n{}", last.unwrap())
        })
    }

    /// The objects of a kind, followed from the first time they are asked for.
    fn view(&self, plural: &str) -> watch::Receiver<Shown> {
        let mut views = self.views.lock().unwrap();
        let view = views.entry(plural.to_owned()).or_insert_with(|| {
            let (sender, view) = watch::channel(Shown::default());
            // It ends with the test.
            tokio::spawn(self.client.follow(&kind(plural), Feed(sender)));
            view
        });
        view.clone()
    }

    /// The events about an object (`Deployment/web`) so far, oldest first, as `REASON: MESSAGE`.
    pub async fn events(&self, about: &str) -> Vec<String> {
        let (kind, name) = about.split_once('/').unwrap();
        let mut events = self.list("events").await;
        events.retain(|event| {
            event["involvedObject"]["kind"] == kind && event["involvedObject"]["name"] == name
        });
        events.sort_by_key(|event| meta::resource_version(event).parse::<u64>().unwrap());
        events.iter().map(told).collect()
    }

    /// Waits for an event about an object that begins so: `ScalingReplicaSet: Scaled up`.
    pub async fn until_event(&self, about: &str, begins: &str) -> String {
        let (kind, name) = about.split_once('/').unwrap();
        let is = |event: &&Value| {
            let object = &event["involvedObject"];
            object["kind"] == kind && object["name"] == name && told(event).starts_with(begins)
        };
        let all = self.until_all("events", |events| events.iter().any(|event| is(&event))).await;
        all.iter().find(is).map(told).unwrap()
    }
}

fn told(event: &Value) -> String {
    format!("{}: {}", event["reason"].as_str().unwrap_or(""), event["message"].as_str().unwrap_or(""))
}

fn key_of(path: &str) -> String {
    let Name { namespace, name, .. } = parse(path);
    format!("{namespace}/{name}")
}

/// The kind of this plural that is stored.
fn kind(plural: &str) -> Arc<Kind> {
    // Events have two groups; the older one is what controllers write.
    let found = kinds::by_resource("", "v1", plural).or_else(|| kinds::stored().find(|k| k.plural == plural));
    found.unwrap_or_else(|| panic!("no kind has the plural {plural}")).clone()
}

fn target(kind: &Kind, namespace: &str, name: Option<&str>) -> Target {
    Target {
        group: kind.group.to_string(),
        version: kind.version.to_string(),
        resource: kind.plural.to_string(),
        namespace: kind.namespaced.then(|| namespace.to_owned()),
        name: name.map(str::to_owned),
        subresource: None,
    }
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
        capacity: NodeCapacity { milli_cpu: 8000, memory: 8 << 30, disk: 8 << 30 },
        share_processes: false,
        max_pods: 110,
        eviction,
    }
}
