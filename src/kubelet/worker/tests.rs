//! The worker's loop on a simulated runtime: what it asks for, how often, and what it says of the pod.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::api::request::{Action as ApiAction, ListOptions, Request, Response, Transport, User};
use crate::client::Client;
use crate::client::events::Recorder;
use crate::client::reflector::Reflector;
use crate::client::testing::FakeApi;
use crate::image::{Credential, Image};
use crate::kubelet::Kubelet;
use crate::kubelet::container::container_id;
use crate::kubelet::context::{Addresses, Config, ImageSource};
use crate::kubelet::node::Machine;
use crate::kubelet::references::Watches;
use crate::kubelet::resources::NodeCapacity;
use crate::network::Attachment;
use crate::runtime::sim::{SimCall, SimProgram, SimRuntime};
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
}

/// Images by what their name says: `slow` never comes, `broken` fails, every other one is here; the first to ask
/// for `fatal` panics.
#[derive(Default)]
struct Images {
    panicked: AtomicBool,
}

impl ImageSource for Images {
    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Image>, String>> {
        async move {
            assert!(name != "fatal" || self.panicked.swap(true, Ordering::Relaxed), "as the test wants it");
            Ok((!["slow", "broken"].contains(&name)).then(Image::default))
        }
        .boxed()
    }

    fn pull<'a>(&'a self, name: &'a str, _: Vec<Credential>) -> BoxFuture<'a, Result<Image, String>> {
        async move {
            match name {
                "slow" => std::future::pending().await,
                name => Err(format!("no {name}")),
            }
        }
        .boxed()
    }
}

struct Network;

impl Addresses for Network {
    fn attach<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Attachment, String>> {
        let address = Ipv4Addr::new(10, 244, 0, 5);
        async move { Ok(Attachment { namespace: "/run/netns/test".into(), address }) }.boxed()
    }

    fn detach<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), String>> {
        async { Ok(()) }.boxed()
    }
}

/// A worker with everything around it.
struct Bed {
    api: Arc<Api>,
    runtime: SimRuntime,
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
        dns: Ipv4Addr::LOCALHOST,
        domain: "cluster.local".into(),
        pods: dir.join("pods"),
        memory: dir.join("memory"),
        logs: dir.join("logs"),
        container_logs: dir.join("links"),
        seccomp: dir.join("seccomp"),
        capacity: NodeCapacity { milli_cpu: 1000, memory: 1 << 30, disk: 1 << 30 },
        share_processes: false,
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
        let (recorder, record) = Recorder::new(client.clone(), "kubelet", "n");
        let (services, _) = Reflector::<Service>::new(client.all::<Service>(), ListOptions::default());
        let context = Arc::new(Context {
            config,
            watches: Watches::new(client.clone()),
            client,
            runtime: runtime.clone(),
            images: Arc::new(Images::default()),
            network: Arc::new(Network),
            services,
            recorder,
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

    fn status(&self) -> Value {
        self.api.pod.lock().unwrap()["status"].clone()
    }

    fn state(&self) -> Value {
        self.status()["containerStatuses"][0]["state"].clone()
    }

    fn said(&self, event: &str) -> bool {
        self.api.events.lock().unwrap().iter().any(|said| said.contains(event))
    }
}

/// Lets this much of the paused clock's time go by.
async fn pass(seconds: u64) {
    // A little more, so that what happens at that second has happened.
    tokio::time::sleep(Duration::from_millis(seconds * 1000 + 50)).await;
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_cannot_be_made_is_tried_less_and_less() {
    let runtime = SimRuntime::new();
    (0..10_000).for_each(|_| runtime.fail_sandbox("no free address"));
    let bed = Bed::start(running("web"), runtime);
    pass(60).await;
    // At 0, 1, 3, 7, 15 and 31 s.
    assert_eq!(bed.count(|call| matches!(call, SimCall::EnsureSandbox(_))), 6);
    assert!(bed.said("FailedCreatePodSandBox: Failed to create pod sandbox: no free address"));
    assert_eq!(bed.state()["waiting"]["reason"], "ContainerCreating");
    bed.delete(30);
    pass(1).await;
    assert!(*bed.api.deleted.lock().unwrap(), "a pod that never began goes at once");
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_cannot_be_removed_is_tried_less_and_less() {
    let runtime = SimRuntime::new();
    let bed = Bed::start(running("web"), runtime.clone());
    pass(1).await;
    (0..4).for_each(|_| runtime.fail_removal("busy"));
    bed.delete(30);
    pass(10).await;
    // At 0, 1, 3 and 7 s.
    assert_eq!(bed.count(|call| matches!(call, SimCall::RemoveSandbox(_))), 4);
    assert!(!*bed.api.deleted.lock().unwrap());
    assert_eq!(bed.status()["phase"], "Succeeded", "all ended well, whatever the restart policy");
    pass(10).await;
    assert_eq!(bed.count(|call| matches!(call, SimCall::RemoveSandbox(_))), 5);
    assert!(*bed.api.deleted.lock().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_cannot_be_started_is_an_attempt_that_failed() {
    let runtime = SimRuntime::new();
    runtime.program("/nope", SimProgram::FailToStart("exec \"/nope\": no such file or directory".into()));
    let mut bed = Bed::start(running("/nope"), runtime);
    pass(65).await;
    // At 0 and, at once, again; then after 10, 20 and 40 s.
    assert_eq!(bed.starts(), 4);
    let status = &bed.status()["containerStatuses"][0];
    assert_eq!(status["restartCount"], 3);
    assert_eq!(status["state"]["waiting"]["reason"], "CrashLoopBackOff");
    let last = &status["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&json!(128), &json!("StartError")));
    assert!(last["message"].as_str().unwrap().contains("no such file or directory"));
    // The count goes on where the written status left it.
    bed.desired.send_modify(|desired| {
        *desired =
            Desired::Pod(Arc::new(serde_json::from_value(bed.api.pod.lock().unwrap().clone()).unwrap()));
    });
    bed.restart().await;
    pass(1).await;
    assert_eq!(bed.status()["containerStatuses"][0]["restartCount"], 5);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_cannot_be_started_fails_a_pod_that_never_restarts() {
    let runtime = SimRuntime::new();
    runtime.program("/nope", SimProgram::FailToStart("no such file or directory".into()));
    let mut pod = running("/nope");
    pod.spec.as_mut().unwrap().restart_policy = Some("Never".into());
    let bed = Bed::start(pod, runtime);
    pass(60).await;
    assert_eq!(bed.starts(), 1);
    assert_eq!(bed.status()["phase"], "Failed");
    assert_eq!(bed.state()["terminated"]["reason"], "StartError");
    assert_eq!(bed.count(|call| matches!(call, SimCall::RemoveSandbox(_))), 1);
}

#[tokio::test(start_paused = true)]
async fn crashes_pulls_and_missing_objects_wait_apart() {
    let runtime = SimRuntime::new();
    runtime.program("crash", SimProgram::EndAtOnce(Exit::Code(1)));
    let bed = Bed::start(
        pod(json!({"containers": [
            {"name": "a", "image": "img", "command": ["crash"]},
            {"name": "b", "image": "broken", "command": ["web"]},
            {"name": "c", "image": "img", "command": ["web"], "env": [
                {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "x"}}}]},
        ]})),
        runtime,
    );
    pass(9).await;
    assert_eq!(bed.starts(), 2, "the first restart is free, and counted once");
    let waiting = |i: usize| {
        bed.status()["containerStatuses"][i]["state"]["waiting"]["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        [waiting(0), waiting(1), waiting(2)],
        ["CrashLoopBackOff", "ImagePullBackOff", "CreateContainerConfigError"]
    );
    let message = bed.status()["containerStatuses"][0]["state"]["waiting"]["message"].clone();
    assert!(message.as_str().unwrap().starts_with("back-off 10s "), "{message}");
    pass(2).await;
    assert_eq!(bed.starts(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_pod_may_be_stopped_during_a_pull() {
    let bed = Bed::start(
        pod(json!({"containers": [
            {"name": "a", "image": "img", "command": ["web"]}, {"name": "b", "image": "slow", "command": ["web"]}]})),
        SimRuntime::new(),
    );
    pass(5).await;
    assert!(bed.state()["running"].is_object(), "{}", bed.status());
    bed.delete(30);
    pass(1).await;
    assert_eq!((bed.signals(TERM), bed.signals(KILL)), (1, 0));
    assert!(*bed.api.deleted.lock().unwrap() && bed.worker.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_deaf_process_gets_its_grace_period_in_full_and_is_killed_once() {
    let runtime = SimRuntime::new();
    runtime.program("deaf", SimProgram::IgnoreTerm);
    let bed = Bed::start(running("deaf"), runtime);
    pass(1).await;
    bed.delete(30);
    pass(29).await;
    assert_eq!((bed.signals(TERM), bed.signals(KILL)), (1, 0));
    pass(1).await;
    assert_eq!((bed.signals(TERM), bed.signals(KILL)), (1, 1));
    assert!(*bed.api.deleted.lock().unwrap());
    assert_eq!(bed.status()["phase"], "Failed");
    assert_eq!(bed.state()["terminated"]["exitCode"], 137);
}

#[tokio::test(start_paused = true)]
async fn a_second_delete_shortens_the_grace_period() {
    let runtime = SimRuntime::new();
    runtime.program("deaf", SimProgram::IgnoreTerm);
    let bed = Bed::start(running("deaf"), runtime);
    pass(1).await;
    bed.delete(300);
    pass(10).await;
    bed.delete(2);
    pass(1).await;
    assert_eq!(bed.signals(KILL), 0);
    pass(1).await;
    assert_eq!((bed.signals(TERM), bed.signals(KILL)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_vanished_pod_gets_the_grace_period_of_its_spec() {
    let runtime = SimRuntime::new();
    runtime.program("deaf", SimProgram::IgnoreTerm);
    let mut pod = running("deaf");
    pod.spec.as_mut().unwrap().termination_grace_period_seconds = Some(8);
    let bed = Bed::start(pod.clone(), runtime);
    pass(1).await;
    bed.desired.send_replace(Desired::Gone(Arc::new(pod)));
    pass(7).await;
    assert_eq!((bed.signals(TERM), bed.signals(KILL)), (1, 0));
    pass(1).await;
    assert!(bed.signals(KILL) == 1 && bed.worker.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_new_worker_takes_up_an_end_that_was_begun() {
    let runtime = SimRuntime::new();
    runtime.program("deaf", SimProgram::IgnoreTerm);
    let mut bed = Bed::start(running("deaf"), runtime);
    pass(1).await;
    bed.delete(30);
    pass(5).await;
    bed.restart().await;
    pass(29).await;
    assert_eq!((bed.signals(TERM), bed.signals(KILL)), (2, 0), "asked again, and given its time");
    pass(1).await;
    assert_eq!(bed.signals(KILL), 1);
    assert!(*bed.api.deleted.lock().unwrap());
    assert_eq!(bed.starts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pod_past_its_deadline_is_stopped_and_has_failed() {
    let mut pod = running("web");
    // The deadline is a matter of the wall's clock: an hour has passed before it is set.
    let started = jiff::Timestamp::now() - Duration::from_secs(3600);
    pod.status = serde_json::from_value(json!({"phase": "Pending", "startTime": started})).unwrap();
    let bed = Bed::start(pod, SimRuntime::new());
    pass(60).await;
    assert_eq!(bed.status()["phase"], "Running");
    bed.desired.send_modify(|desired| {
        let mut pod = Pod::clone(desired.pod());
        pod.spec.as_mut().unwrap().active_deadline_seconds = Some(60);
        *desired = Desired::Pod(Arc::new(pod));
    });
    pass(60).await;
    assert_eq!(bed.status()["phase"], "Failed");
    assert_eq!(bed.status()["reason"], "DeadlineExceeded");
    assert_eq!((bed.starts(), bed.signals(TERM), bed.signals(KILL)), (1, 1, 0));
    assert!(bed.said("DeadlineExceeded: Pod was active on the node longer than the specified deadline"));
    pass(60).await;
    assert_eq!(bed.starts(), 1, "it does not come back");
    assert_eq!(bed.status()["message"], "Pod was active on the node longer than the specified deadline");
}

#[tokio::test(start_paused = true)]
async fn a_forbidden_sysctl_fails_the_pod_before_it_begins() {
    let mut spec = running("web");
    let sysctls = json!({"sysctls": [{"name": "vm.overcommit_memory", "value": "1"}]});
    spec.spec.as_mut().unwrap().security_context = serde_json::from_value(sysctls).unwrap();
    let bed = Bed::start(spec, SimRuntime::new());
    pass(60).await;
    assert_eq!(bed.runtime.calls(), []);
    assert_eq!(
        (&bed.status()["phase"], &bed.status()["reason"]),
        (&json!("Failed"), &json!("SysctlForbidden"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_fills_its_disk_is_evicted() {
    let bed = Bed::start(
        pod(json!({
            "containers": [{"name": "a", "image": "img", "command": ["web"],
                            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "64Ki"}}],
        })),
        SimRuntime::new(),
    );
    pass(1).await;
    let file = bed.dir.path().join("pods/u/volumes/v/file");
    std::fs::write(file, vec![1; 128 << 10]).unwrap();
    pass(15).await;
    let status = bed.status();
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("Evicted")));
    assert_eq!(status["message"], "Usage of EmptyDir volume \"v\" exceeds the limit \"64Ki\". ");
    assert_eq!(bed.signals(TERM), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_renewed_is_asked_for_less_and_less_and_told_of_once() {
    let bed = Bed::start(
        pod(json!({
            "containers": [{"name": "a", "image": "img", "command": ["web"],
                            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}],
        })),
        SimRuntime::new(),
    );
    pass(60).await;
    // The first one is renewed after 10 s: that fails at 10, 11, 13, 17, 25 and 41 s.
    assert_eq!((bed.starts(), *bed.api.tokens.lock().unwrap()), (1, 7));
    let told = bed.api.events.lock().unwrap().iter().filter(|said| said.contains("no tokens today")).count();
    assert_eq!(told, 1);
}

/// A pod that runs this command and shows the ConfigMap `m`.
fn showing(command: &str) -> Pod {
    pod(json!({
        "containers": [{"name": "a", "image": "img", "command": [command],
                        "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "configMap": {"name": "m"}}],
    }))
}

fn map(value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "d", "name": "m"},
           "data": {"k": value}})
}

/// Waits for something that is soon to be so.
async fn until(what: &dyn Fn() -> bool) {
    let look = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), look).await.unwrap();
}

#[tokio::test]
async fn a_container_that_keeps_ending_comes_back_to_what_its_volumes_are_to_show() {
    let (server, runtime) = (FakeApi::default(), SimRuntime::new());
    runtime.program("crash", SimProgram::EndAtOnce(Exit::Code(1)));
    let pod = showing("crash");
    server.put("pods", serde_json::to_value(&pod).unwrap());
    server.put("configmaps", map("one"));
    let bed = Bed::on(server.client(), Arc::default(), pod, runtime);
    let watched = |seen: &str| server.seen.lock().unwrap().iter().position(|s| s.starts_with(seen));
    until(&|| watched("Watch configmaps").is_some()).await;
    assert!(watched("Get configmaps") < watched("List configmaps"), "a start does not wait for watches");
    until(&|| bed.starts() == 2).await;
    server.put("configmaps", map("two"));
    let file = bed.dir.path().join("memory/u/volumes/v/k");
    until(&|| std::fs::read_to_string(&file).is_ok_and(|shown| shown == "two")).await;
    assert_eq!(bed.starts(), 2, "before the third start");
}

#[tokio::test]
async fn volumes_and_waiting_containers_follow_their_objects() {
    let pod = showing("web");
    let server = FakeApi::default();
    server.put("pods", serde_json::to_value(&pod).unwrap());
    let mut bed = Bed::on(server.client(), Arc::default(), pod, SimRuntime::new());
    let file = bed.dir.path().join("memory/u/volumes/v/k");
    let failed = || server.all("events").iter().any(|event| event["reason"] == "FailedMount");
    until(&failed).await;
    // Several failures on, the wait is longer than what is allowed here.
    tokio::time::sleep(Duration::from_secs(4)).await;
    server.put("configmaps", map("one"));
    let quick = std::time::Instant::now();
    until(&|| bed.starts() == 1).await;
    assert!(quick.elapsed() < Duration::from_secs(2), "it starts when its map appears");
    let shows = |text: &str| std::fs::read_to_string(&file).is_ok_and(|shown| shown == text);
    assert!(shows("one"));
    server.put("configmaps", map("two"));
    until(&|| shows("two")).await;
    bed.restart().await;
    server.put("configmaps", map("three"));
    until(&|| shows("three")).await;
    assert_eq!(bed.starts(), 1);
    assert_eq!(container_id("u", "a", 0), bed.runtime.observe().await.unwrap().containers[0].id);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_panics_is_replaced() {
    let (server, runtime, dir) = (FakeApi::default(), SimRuntime::new(), tempfile::tempdir().unwrap());
    let pod =
        pod(json!({"nodeName": "n", "containers": [{"name": "a", "image": "fatal", "command": ["web"]}]}));
    server.put("pods", serde_json::to_value(&pod).unwrap());
    let kubelet = Kubelet::new(
        config(dir.path()),
        server.client(),
        runtime.clone(),
        Arc::new(Images::default()),
        Arc::new(Network),
        Machine::read(dir.path()),
        "10.244.0.0/24".into(),
    );
    let _kubelet = AbortOnDropHandle::new(tokio::spawn(kubelet.run(std::future::pending())));
    let running = async || !runtime.observe().await.unwrap().containers.is_empty();
    while !running().await {
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        pass(1).await;
    }
}
