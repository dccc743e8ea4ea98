//! An API server of a few lines for tests of clients: objects in memory, list, watch, create, merge patch.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use serde_json::{Value, json};

use super::Client;
use crate::api::request::{Action, Change, Changes, PatchKind, Request, Response, Transport, User};
use crate::api::status::Status;
use crate::store::{Entry, Error, Store, Watch};

/// The server; clones share their objects.
#[derive(Clone)]
pub struct FakeApi {
    store: Store,
    broken: Arc<tokio::sync::watch::Sender<u32>>,
    no_watches: Arc<AtomicBool>,
    brief_watches: Arc<AtomicBool>,
    /// Requests seen, as `VERB TARGET`.
    pub seen: Arc<Mutex<Vec<String>>>,
    _dir: Arc<tempfile::TempDir>,
}

impl Default for FakeApi {
    fn default() -> Self {
        let dir = tempfile::tempdir().unwrap();
        FakeApi {
            store: Store::open(&dir.path().join("store")).unwrap(),
            broken: Arc::new(tokio::sync::watch::channel(0).0),
            no_watches: Arc::default(),
            brief_watches: Arc::default(),
            seen: Arc::default(),
            _dir: Arc::new(dir),
        }
    }
}

fn encode(mut value: Value) -> impl FnOnce(u64) -> Bytes + Send + 'static {
    move |revision| {
        value["metadata"]["resourceVersion"] = revision.to_string().into();
        Bytes::from(value.to_string())
    }
}

fn key(resource: &str, value: &Value) -> String {
    let meta = &value["metadata"];
    match meta["namespace"].as_str() {
        Some(namespace) => format!("{resource}/{namespace}/{}", meta["name"].as_str().unwrap()),
        None => format!("{resource}/{}", meta["name"].as_str().unwrap()),
    }
}

impl FakeApi {
    /// A client of this server.
    pub fn client(&self) -> Client {
        Client::new(Arc::new(self.clone()), User::component("test"))
    }

    /// Makes or replaces an object.
    pub fn put(&self, resource: &str, value: Value) {
        let (key, store) = (key(resource, &value), self.store.clone());
        let write = async move {
            match store.get(&key) {
                Some(old) => store.update(&key, old.revision, encode(value)).await,
                None => store.create(&key, encode(value)).await,
            }
        };
        futures::executor::block_on(write).unwrap();
    }

    /// Removes an object, whoever writes it at the same time.
    pub fn remove(&self, resource: &str, namespace: &str, name: &str) {
        let key = format!("{resource}/{namespace}/{name}");
        loop {
            let old = self.store.get(&key).unwrap();
            let value = old.json().clone();
            match futures::executor::block_on(self.store.delete(&key, old.revision, encode(value))) {
                Err(Error::Conflict { .. }) => {}
                removed => return drop(removed.unwrap()),
            }
        }
    }

    /// All objects of a resource.
    pub fn all(&self, resource: &str) -> Vec<Value> {
        let found = self.store.list(&format!("{resource}/"), None, 0, None).unwrap();
        found.entries.iter().map(|entry| entry.json().clone()).collect()
    }

    /// Ends every running watch with 410.
    pub fn break_watches(&self) {
        self.broken.send_modify(|n| *n += 1);
    }

    /// Fails every watch from now on.
    pub fn refuse_watches(&self) {
        self.no_watches.store(true, Ordering::Relaxed);
    }

    /// Ends every watch from now on before it tells anything.
    pub fn end_watches(&self) {
        self.brief_watches.store(true, Ordering::Relaxed);
    }

    /// Changes an object, whatever others do to it meanwhile; `None` when it is not there.
    async fn change(&self, key: &str, change: impl Fn(&mut Value)) -> Option<Arc<Entry>> {
        loop {
            let old = self.store.get(key)?;
            let mut value = old.json().clone();
            change(&mut value);
            if let Ok(changed) = self.store.update(key, old.revision, encode(value)).await {
                return Some(changed);
            }
        }
    }

    async fn answer(&self, request: Request) -> Result<Response, Status> {
        let target = request.target;
        let resource = target.resource.clone();
        let prefix = match &target.namespace {
            Some(namespace) => format!("{resource}/{namespace}/"),
            None => format!("{resource}/"),
        };
        let verb = format!("{:?}", request.action);
        let verb = verb.split([' ', '(']).next().unwrap_or("").to_owned();
        self.seen.lock().unwrap().push(format!("{verb} {target}"));
        let key_of = |name: &str| format!("{prefix}{name}");
        let missing = |name: &str| Status::not_found("", &resource, name);
        let object = |entry: Arc<Entry>| Response::Object { entry, created: false, warnings: vec![] };
        match request.action {
            Action::Get { .. } => {
                let name = target.name.unwrap_or_default();
                self.store.get(&key_of(&name)).map(object).ok_or_else(|| missing(&name))
            }
            Action::List(_) => {
                let snapshot = self.store.list(&prefix, None, 0, None).unwrap();
                Ok(Response::List { snapshot, continue_token: String::new() })
            }
            Action::Watch(_) if self.no_watches.load(Ordering::Relaxed) => {
                Err(Status::unavailable("no watches today"))
            }
            Action::Watch(options) => {
                let from = options.list.resource_version.parse().unwrap();
                let watch = self.store.watch(&prefix, from);
                let brief = self.brief_watches.load(Ordering::Relaxed);
                Ok(Response::Watch(Box::new(FakeWatch { watch, broken: self.broken.subscribe(), brief })))
            }
            Action::Create(binding, _) if target.subresource.as_deref() == Some("binding") => {
                let name = target.name.unwrap_or_default();
                let node = &binding["target"]["name"];
                let bind = |pod: &mut Value| pod["spec"]["nodeName"] = node.clone();
                self.change(&key_of(&name), bind).await.map(object).ok_or_else(|| missing(&name))
            }
            Action::Create(mut value, _) => {
                if let Some(prefix) = value["metadata"]["generateName"].as_str() {
                    value["metadata"]["name"] = format!("{prefix}{:x}", super::random_u64()).into();
                }
                let made = self.store.create(&key(&resource, &value), encode(value)).await;
                made.map(object).map_err(|_| Status::already_exists("", &resource, ""))
            }
            Action::Update(value, _) => {
                let old = self.store.get(&key(&resource, &value)).ok_or_else(|| missing(""))?;
                Ok(object(self.store.update(&old.key, old.revision, encode(value)).await.unwrap()))
            }
            Action::Patch(PatchKind::Json, body, _) => {
                let name = target.name.unwrap_or_default();
                let operations: json_patch::Patch = serde_json::from_value(body).unwrap();
                let old = self.store.get(&key_of(&name)).ok_or_else(|| missing(&name))?;
                let mut value = old.json().clone();
                json_patch::patch(&mut value, &operations).map_err(|_| Status::unprocessable())?;
                let written = self.store.update(&old.key, old.revision, encode(value)).await;
                written.map(object).map_err(|_| Status::unprocessable())
            }
            Action::Patch(_, body, _) => {
                let name = target.name.unwrap_or_default();
                let patch = |value: &mut Value| json_patch::merge(value, &body);
                self.change(&key_of(&name), patch).await.map(object).ok_or_else(|| missing(&name))
            }
            Action::Delete(_) => {
                let name = target.name.unwrap_or_default();
                let old = self.store.get(&key_of(&name)).ok_or_else(|| missing(&name))?;
                let value = old.json().clone();
                Ok(object(self.store.delete(&old.key, old.revision, encode(value)).await.unwrap()))
            }
            Action::DeleteCollection(..) => {
                for old in self.store.list(&prefix, None, 0, None).unwrap().entries {
                    let value = old.json().clone();
                    self.store.delete(&old.key, old.revision, encode(value)).await.unwrap();
                }
                Ok(Response::Status(Status::success(Default::default())))
            }
        }
    }
}

impl Transport for FakeApi {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Response, Status>> {
        self.answer(request).boxed()
    }

    fn discover(&self) -> BoxFuture<'_, Result<Value, Status>> {
        ready(Ok(json!({"items": []}))).boxed()
    }
}

struct FakeWatch {
    watch: Watch,
    broken: tokio::sync::watch::Receiver<u32>,
    brief: bool,
}

impl Changes for FakeWatch {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Change, Status>>> {
        async move {
            if self.brief {
                return None;
            }
            tokio::select! {
                biased;
                _ = self.broken.changed() => Some(Err(Status::expired("too old resource version"))),
                event = self.watch.next() => {
                    let event = event.unwrap();
                    Some(Ok(match (event.deleted, event.previous.is_some()) {
                        (true, _) => Change::Deleted(event.entry),
                        (false, true) => Change::Modified(event.entry),
                        (false, false) => Change::Added(event.entry),
                    }))
                }
            }
        }
        .boxed()
    }
}
