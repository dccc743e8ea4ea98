//! The worker's loop on a simulated runtime: what it asks for, how often, and what it says of the pod.

mod ends;
mod hooks;
mod probes;
mod pulls;
mod resizes;
mod starts;
mod upkeep;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Container, Node, Service};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::api::request::{Action as ApiAction, ListOptions, PatchKind, Request, Response, Transport, User};
use crate::client::Client;
use crate::client::events::Recorder;
use crate::client::reflector::Reflector;
use crate::client::testing::FakeApi;
use crate::image::{Access, Credential, Image};
use crate::kubelet::Kubelet;
use crate::kubelet::container::container_id;
use crate::kubelet::context::{Addresses, Config, ImageSource};
use crate::kubelet::node::Machine;
use crate::kubelet::references::Watches;
use crate::kubelet::resources::NodeCapacity;
use crate::kubelet::volumes::certificates::Issuance;
use crate::network::Attachment;
use crate::runtime::sim::{SimCall, SimExec, SimProgram, SimRuntime};
use crate::stdio::Exit;
use crate::store::Entry;

const TERM: i32 = 15;
const KILL: i32 = 9;

/// An API server that answers at once, so that a paused clock stands still meanwhile: it takes statuses and events,
/// and gives out one token, which has ended already.
#[derive(Default)]
struct Api {
    pod: StdMutex<Value>,
    events: StdMutex<Vec<String>>,
    deleted: StdMutex<bool>,
    revision: StdMutex<u64>,
    /// How many tokens were asked for.
    tokens: StdMutex<u32>,
}

impl Api {
    fn object(&self, mut value: Value) -> Response {
        let mut revision = self.revision.lock().unwrap();
        *revision += 1;
        value["metadata"]["resourceVersion"] = revision.to_string().into();
        let entry = Entry::new(String::new(), Bytes::from(value.to_string()), *revision, *revision);
        Response::Object { entry, created: false, warnings: vec![] }
    }

    fn token(&self, mut value: Value) -> Result<Response, Status> {
        let mut tokens = self.tokens.lock().unwrap();
        *tokens += 1;
        if *tokens > 1 {
            return Err(Status::unavailable("no tokens today"));
        }
        value["status"] = json!({"token": "t", "expirationTimestamp": "2020-01-01T00:00:00Z"});
        Ok(self.object(value))
    }
}

impl Transport for Api {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Response, Status>> {
        let answer = match request.action {
            ApiAction::Update(value, _) => {
                *self.pod.lock().unwrap() = value.clone();
                Ok(self.object(value))
            }
            ApiAction::Patch(PatchKind::Json, patch, _) => {
                let operations = patch.as_array().unwrap();
                let status = operations.iter().find(|operation| operation["path"] == "/status").unwrap();
                let mut pod = self.pod.lock().unwrap();
                pod["status"] = status["value"].clone();
                Ok(self.object(pod.clone()))
            }
            ApiAction::Create(value, _) if value["kind"] == "TokenRequest" => self.token(value),
            ApiAction::Create(value, _) => {
                let text = |field: &str| value[field].as_str().unwrap_or("").to_owned();
                self.events.lock().unwrap().push(format!("{}: {}", text("reason"), text("message")));
                Ok(self.object(value))
            }
            ApiAction::Delete(_) => {
                *self.deleted.lock().unwrap() = true;
                Ok(self.object(json!({"metadata": {}})))
            }
            _ => Err(Status::not_found("", "", "")),
        };
        async move { answer }.boxed()
    }

    fn discover(&self) -> BoxFuture<'_, Result<Value, Status>> {
        async { Err(Status::no_such_path()) }.boxed()
    }
}

/// Images by what their name says: `private` is here for somebody else, `slow` never comes, `late` comes when the test
/// says so, `broken` fails, every other one is here; the first to ask for `fatal` panics.
#[derive(Default)]
struct Images {
    panicked: AtomicBool,
    /// Every pull that was begun.
    pulls: StdMutex<Vec<String>>,
    /// How many of them go on.
    under_way: AtomicUsize,
    arrival: Notify,
}

/// What was fetched with the secret of somebody else.
fn others() -> Access {
    Access::of(Some(&Credential {
        registry: "docker.io".into(),
        username: "other".into(),
        password: "secret".into(),
        identity_token: None,
        holder: "other".into(),
    }))
}

/// Counts a pull for as long as it is.
struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ImageSource for Images {
    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Image>, String>> {
        async move {
            assert!(name != "fatal" || self.panicked.swap(true, Ordering::Relaxed), "as the test wants it");
            let access = || [("docker.io/library/private".to_owned(), others())].into();
            Ok(match name {
                "slow" | "late" | "broken" => None,
                "private" => Some(Image { access: access(), ..Image::default() }),
                _ => Some(Image::default()),
            })
        }
        .boxed()
    }

    fn pull<'a>(&'a self, name: &'a str, _: Vec<Credential>) -> BoxFuture<'a, Result<Image, String>> {
        async move {
            self.pulls.lock().unwrap().push(name.to_owned());
            self.under_way.fetch_add(1, Ordering::Relaxed);
            let _under_way = UnderWay(&self.under_way);
            match name {
                "slow" => std::future::pending().await,
                "late" => {
                    self.arrival.notified().await;
                    Ok(Image::default())
                }
                name => Err(format!("no {name}")),
            }
        }
        .boxed()
    }

    fn free(&self, _: u64, _: Duration) -> BoxFuture<'_, Result<Option<u64>, String>> {
        async { Ok(Some(0)) }.boxed()
    }
}

/// Services lead to its pods for as long as the sender of `led` says so.
struct Network {
    led: watch::Receiver<bool>,
}

impl Default for Network {
    fn default() -> Network {
        Network { led: watch::channel(false).1 }
    }
}

impl Addresses for Network {
    fn left(&self, _: Vec<IpAddr>) -> BoxFuture<'static, ()> {
        let mut led = self.led.clone();
        async move {
            // A sender that is gone leads nowhere.
            let _ = led.wait_for(|led| !led).await;
        }
        .boxed()
    }

    fn attach<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Attachment, String>> {
        let address = Ipv4Addr::new(10, 244, 0, 5);
        async move { Ok(Attachment { namespace: "/run/netns/test".into(), address, address6: None }) }.boxed()
    }

    fn detach<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), String>> {
        async { Ok(()) }.boxed()
    }

    fn held(&self) -> BoxFuture<'_, Result<BTreeSet<String>, String>> {
        async { Ok(BTreeSet::new()) }.boxed()
    }
}

/// A worker with everything around it.
struct Bed {
    api: Arc<Api>,
    runtime: SimRuntime,
    images: Arc<Images>,
    /// Whether services lead to the pod.
    led: watch::Sender<bool>,
    context: Arc<Context<SimRuntime>>,
    desired: watch::Sender<Desired>,
    changed: Arc<Notify>,
    worker: AbortOnDropHandle<()>,
    _events: AbortOnDropHandle<()>,
    _changes: AbortOnDropHandle<()>,
    dir: tempfile::TempDir,
}

fn pod(spec: Value) -> Pod {
    let mut spec = spec;
    spec["restartPolicy"] = spec.get("restartPolicy").cloned().unwrap_or(json!("Always"));
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec,
    }))
    .unwrap()
}

/// A pod of one container that runs this command.
fn running(command: &str) -> Pod {
    pod(json!({"containers": [{"name": "a", "image": "img", "command": [command]}]}))
}

fn config(dir: &Path) -> Config {
    Config {
        node: "n".into(),
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
        capacity: NodeCapacity { milli_cpu: 1000, memory: 1 << 30, disk: 1 << 30 },
        share_processes: false,
        max_pods: 110,
        eviction: Default::default(),
    }
}

impl Bed {
    fn start(pod: Pod, runtime: SimRuntime) -> Bed {
        let api = Arc::new(Api::default());
        Bed::on(Client::new(api.clone(), User::component("test")), api, pod, runtime)
    }

    fn on(client: Client, api: Arc<Api>, pod: Pod, runtime: SimRuntime) -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        *api.pod.lock().unwrap() = json!(pod);
        let (recorder, record) = Recorder::new(client.clone(), "kubelet", "n");
        let (services, _) = Reflector::<Service>::new(client.all::<Service>(), ListOptions::default());
        let (nodes, _) = Reflector::<Node>::new(client.all::<Node>(), ListOptions::default());
        let images = Arc::new(Images::default());
        let (led, is_led) = watch::channel(false);
        let context = Arc::new(Context {
            config,
            watches: Watches::new(client.clone()),
            client: client.clone(),
            runtime: runtime.clone(),
            images: images.clone(),
            network: Arc::new(Network { led: is_led }),
            services,
            issuance: Issuance {
                client: client.clone(),
                recorder: recorder.clone(),
                nodes: nodes.clone(),
                node: "n".into(),
            },
            recorder,
            statics: Default::default(),
            eviction: Default::default(),
            allocations: Default::default(),
            nodes,
            http: Default::default(),
        });
        let (desired, wanted) = watch::channel(Desired::Pod(Arc::new(pod)));
        let changed = Arc::new(Notify::new());
        let mut changes = runtime.changes();
        let tell = changed.clone();
        let forward = async move {
            while changes.recv().await.is_ok() {
                tell.notify_one();
            }
        };
        let worker = Worker::new(context.clone(), "u".into(), wanted, changed.clone());
        Bed {
            api,
            runtime,
            images,
            led,
            context,
            desired,
            changed,
            worker: AbortOnDropHandle::new(tokio::spawn(worker.run())),
            _events: AbortOnDropHandle::new(tokio::spawn(record)),
            _changes: AbortOnDropHandle::new(tokio::spawn(forward)),
            dir,
        }
    }

    /// As when the daemon starts again: a new worker that knows nothing.
    async fn restart(&mut self) {
        self.worker.abort();
        let _ = (&mut self.worker).await;
        let wanted = self.desired.subscribe();
        let worker = Worker::new(self.context.clone(), "u".into(), wanted, self.changed.clone());
        self.worker = AbortOnDropHandle::new(tokio::spawn(worker.run()));
    }

    /// Asks for the pod's end with so many seconds of grace, as the API server writes it. The written time says that
    /// the grace began long ago: what counts is what the worker saw.
    fn delete(&self, grace: i64) {
        self.desired.send_modify(|desired| {
            let mut pod = Pod::clone(desired.pod());
            pod.metadata.deletion_timestamp =
                Some(serde_json::from_value(json!("2020-01-01T00:00:00Z")).unwrap());
            pod.metadata.deletion_grace_period_seconds = Some(grace);
            *desired = Desired::Pod(Arc::new(pod));
        });
    }

    fn count(&self, wanted: impl Fn(&SimCall) -> bool) -> usize {
        self.runtime.calls().iter().filter(|call| wanted(call)).count()
    }

    fn starts(&self) -> usize {
        self.count(|call| matches!(call, SimCall::Start(_)))
    }

    fn signals(&self, signal: i32) -> usize {
        self.count(|call| matches!(call, SimCall::Signal(_, sent) if *sent == signal))
    }

    fn execs(&self, command: &str) -> usize {
        self.count(|call| matches!(call, SimCall::Exec(_, args) if args == &[command]))
    }

    /// What the status says of a condition.
    fn condition(&self, type_: &str) -> Value {
        let status = self.status();
        let found = status["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == type_);
        found.map_or(Value::Null, |c| c["status"].clone())
    }

    fn status(&self) -> Value {
        self.api.pod.lock().unwrap()["status"].clone()
    }

    fn state(&self) -> Value {
        self.status()["containerStatuses"][0]["state"].clone()
    }

    fn said(&self, event: &str) -> bool {
        self.times_said(event) > 0
    }

    fn times_said(&self, event: &str) -> usize {
        self.api.events.lock().unwrap().iter().filter(|said| said.contains(event)).count()
    }

    fn under_way(&self) -> usize {
        self.images.under_way.load(Ordering::Relaxed)
    }
}

/// Lets this much of the paused clock's time go by.
async fn pass(seconds: u64) {
    // A little more, so that what happens at that second has happened.
    tokio::time::sleep(Duration::from_millis(seconds * 1000 + 50)).await;
}
