//! APIServices: groups and versions that other servers serve, and those that this one serves itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::select_all;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use serde_json::{Value, json};
use tokio::sync::watch;

use self::availability::Condition;
use self::description::Descriptions;
use self::identity::FrontProxy;
use self::question::Question;
use self::registration::Action;
use super::answer::{self, Body};
use super::openapi::others::Description;
use super::proxy::exchange::Backend;
use super::proxy::{Passage, Proxy, port_of_service};
use super::registry::{Part, Place, Registry};
use super::{ApiServer, discovery, resource_metrics};
use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::request::{DeleteOptions, PatchKind, User, WriteOptions};
use crate::api::status::Status;
use crate::clock;
use crate::store::{Entry, Store};

mod availability;
mod calls;
mod description;
mod events;
pub mod identity;
pub mod merge;
mod question;
mod registration;

/// Where APIServices are in the store.
const SERVICES: &str = "apiservices/";
/// How often servers are asked again of which nothing is heard, and at most after a failure.
const RESYNC: Duration = Duration::from_secs(30);
/// After a first failure.
const RETRY: Duration = Duration::from_millis(100);
/// How long a server may take to say what it serves.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most that is read of what it says.
const LIST_BYTES: usize = 3 << 20;

/// Leads requests to aggregated servers, and looks after APIServices.
pub struct Aggregator {
    front: FrontProxy,
    /// What servers said that they serve, by their APIServices.
    lists: Mutex<HashMap<String, Value>>,
    descriptions: Descriptions,
    /// Tells that one serves something else, or has come or gone.
    news: watch::Sender<()>,
}

/// What is left to do after a round.
#[derive(Debug, Default)]
struct Round {
    /// Something failed that may go well later.
    failed: bool,
    /// APIServices of other servers.
    remotes: Vec<Arc<Entry>>,
}

/// The APIService by which another server serves this path; `None` for what is served here.
pub fn remote(store: &Store, path: &str) -> Option<Arc<Entry>> {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let (group, version) = match (segments.next()?, segments.next()?) {
        ("apis", group) => (group, segments.next()?),
        _ => return None,
    };
    remote_of(store, group, version)
}

/// The APIService by which another server serves this group and version.
pub fn remote_of(store: &Store, group: &str, version: &str) -> Option<Arc<Entry>> {
    let entry = store.get(&format!("{SERVICES}{}", registration::name(group, version)))?;
    (!entry.json()["spec"]["service"].is_null()).then_some(entry)
}

impl Aggregator {
    /// An aggregator that is vouched for by `front`.
    pub fn new(front: FrontProxy) -> Aggregator {
        let (lists, descriptions) = (Mutex::default(), Descriptions::default());
        Aggregator { front, lists, descriptions, news: watch::channel(()).0 }
    }

    /// Is told whenever other servers serve something else than before, or can be asked again.
    pub fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// How other servers describe what they serve.
    pub fn descriptions(&self) -> Arc<Vec<Description>> {
        self.descriptions.all()
    }

    /// The APIService by which another server answers at this path: it serves what is there, or describes what it serves.
    pub fn behind(&self, api: &ApiServer, path: &str) -> Option<Arc<Entry>> {
        let store = api.registry().store();
        let Some(name) = path.strip_prefix("/openapi/v3/") else { return remote(store, path) };
        let (all, kinds) = (self.descriptions(), api.served().kinds());
        let shows = |description: &&Description| description.shown(&kinds).any(|(shown, _)| shown == name);
        store.get(&format!("{SERVICES}{}", all.iter().find(shows)?.service))
    }

    fn lists(&self) -> MutexGuard<'_, HashMap<String, Value>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a request on to the server of this APIService; the user may make it.
    pub async fn serve(
        &self,
        registry: &Registry,
        proxy: &Proxy,
        service: &Value,
        user: &User,
        request: http::Request<Incoming>,
    ) -> http::Response<Body> {
        if !availability::is_available(service) {
            return plain(503, "service unavailable");
        }
        let backend = match self.backend(registry, proxy, service) {
            Ok(backend) => backend,
            Err(Unreached::NoEndpoint(why)) => {
                tracing::debug!(service = meta::name(service), why, "an aggregated server has no endpoint");
                return plain(503, "service unavailable");
            }
            Err(Unreached::Settings(why)) => return plain(500, &why),
        };
        let path = request.uri().path().to_owned();
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        let passage = Passage {
            uri: format!("{path}{query}"),
            asked: path,
            prefix: None,
            headers: identity::headers(user),
            host: HeaderValue::from_str(&backend.address.to_string()).ok(),
        };
        match proxy.pass(&backend, passage, request).await {
            Err(status) => plain(503, &status.message),
            Ok(response) if response.status().is_redirection() && has_location(&response) => {
                plain(502, "the backend attempted to redirect this request, which is not permitted")
            }
            Ok(response) => response,
        }
    }

    fn backend(&self, registry: &Registry, proxy: &Proxy, service: &Value) -> Result<Backend, Unreached> {
        let (namespace, name) = backing(service);
        let backing = registry.store().get(&format!("services/{namespace}/{name}"));
        let backing = backing.ok_or_else(|| Unreached::NoEndpoint(format!("services {name:?} not found")))?;
        let port = port_of_service(backing.json(), availability::port(service), name);
        let address = port.and_then(|port| proxy.endpoint(registry, namespace, name, port));
        let address = address.map_err(|status| Unreached::NoEndpoint(status.message))?;
        Ok(Backend { address, tls: Some(self.front.secure(service).map_err(Unreached::Settings)?) })
    }

    /// The groups of `/apis` with those of aggregated servers among them.
    pub fn groups(&self, store: &Store, groups: Vec<Value>) -> Vec<Value> {
        self.merged(store, |remotes, order| merge::groups(groups, remotes, order))
    }

    /// The items of aggregated discovery likewise.
    pub fn items(&self, store: &Store, items: Vec<Value>) -> Vec<Value> {
        self.merged(store, |remotes, order| merge::items(items, remotes, order))
    }

    fn merged<T>(
        &self,
        store: &Store,
        merge: impl FnOnce(&[merge::Remote<'_>], &merge::Order<'_>) -> T,
    ) -> T {
        let services = services(store);
        let lists = self.lists();
        let remotes: Vec<merge::Remote<'_>> = services
            .iter()
            .map(|entry| entry.json())
            .filter(|service| !service["spec"]["service"].is_null())
            .map(|service| merge::Remote {
                service,
                resources: lists.get(meta::name(service)),
                available: availability::is_available(service),
            })
            .collect();
        merge(&remotes, &merge::Order::of(services.iter().map(|entry| entry.json())))
    }

    /// Keeps APIServices as they must be and asks other servers whether they are there, until dropped.
    pub async fn keep(&self, api: &ApiServer, proxy: &Proxy) {
        let mut retry = RETRY;
        let mut told = HashMap::new();
        loop {
            let seen = api.registry().store().revision();
            let round = self.round(api, proxy).await;
            let served = self.served(api.registry().store());
            if served != told {
                told = served;
                self.news.send_replace(());
            }
            let pause = match (round.failed, round.remotes.is_empty()) {
                (true, _) => Some(retry),
                (false, false) => Some(RESYNC),
                (false, true) => None,
            };
            retry = if round.failed { (retry * 2).min(RESYNC) } else { RETRY };
            let later = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed(api.registry().store(), seen, &round.remotes) => {}
                () = later => {}
            }
        }
    }

    /// What servers that can be asked said that they serve.
    fn served(&self, store: &Store) -> HashMap<String, Value> {
        let mut lists = self.lists().clone();
        let there = services(store).into_iter().filter(|entry| availability::is_available(entry.json()));
        let there: Vec<String> = there.map(|entry| meta::name(entry.json()).to_owned()).collect();
        lists.retain(|name, _| there.contains(name));
        lists
    }

    async fn round(&self, api: &ApiServer, proxy: &Proxy) -> Round {
        let mut round = Round::default();
        let Some(kind) = api.served().by_resource("apiregistration.k8s.io", "v1", "apiservices") else {
            return round;
        };
        let keeper =
            Keeper { registry: api.registry(), kind: &kind, user: User::component("system:kube-aggregator") };
        let mut note = |done: Result<(), Status>| {
            if let Err(status) = done {
                tracing::debug!(%status, "an object of the aggregation is not as it must be");
                round.failed = true;
            }
        };
        note(keeper.configuration(api, self.front.configuration()).await);
        let mut served = api.served().kinds().to_vec();
        served.extend(resource_metrics::KINDS.iter().cloned());
        let wanted = registration::wanted(&discovery::current_group_versions(&served));
        let present = services(api.registry().store());
        for action in registration::plan(wanted, present.iter().map(|entry| entry.json())) {
            note(keeper.act(action).await);
        }
        let remotes = services(api.registry().store())
            .into_iter()
            .filter(|entry| !entry.json()["spec"]["service"].is_null())
            .collect::<Vec<_>>();
        let is_there = |name: &str| remotes.iter().any(|entry| meta::name(entry.json()) == name);
        self.lists().retain(|name, _| is_there(name));
        self.descriptions.retain(is_there);
        for entry in &remotes {
            let service = entry.json();
            let condition = self.check(api.registry(), proxy, service).await;
            let available = condition.available;
            round.failed |= !available;
            if let Some(conditions) = condition.into_conditions(service, clock::now()) {
                let written = keeper.conditions(meta::name(service), conditions).await;
                round.failed |= written.is_err();
            }
            if available && let Ok(backend) = self.backend(api.registry(), proxy, service) {
                self.descriptions.ask(proxy.dial(), &backend, service).await;
            }
        }
        round.remotes = remotes;
        round
    }

    /// Asks an aggregated server what it serves.
    async fn check(&self, registry: &Registry, proxy: &Proxy, service: &Value) -> Condition {
        let (namespace, name) = backing(service);
        let store = registry.store();
        let found = store.get(&format!("services/{namespace}/{name}"));
        let all = store.list(&format!("endpointslices/{namespace}/"), None, 0, None);
        let all = all.map(|snapshot| snapshot.entries).unwrap_or_default();
        let slices: Vec<&Value> = all
            .iter()
            .map(|entry| entry.json())
            .filter(|slice| meta::label(slice, "kubernetes.io/service-name") == Some(name))
            .collect();
        if let Err(condition) = availability::look(service, found.as_ref().map(|entry| entry.json()), &slices)
        {
            return condition;
        }
        let backend = match self.backend(registry, proxy, service) {
            Ok(backend) => backend,
            Err(Unreached::NoEndpoint(why) | Unreached::Settings(why)) => return Condition::failed(why),
        };
        let path = availability::path(service);
        let url = format!("https://{}{path}", backend.address);
        let user =
            User { groups: vec!["system:masters".to_owned()], ..User::component("system:kube-aggregator") };
        let question = Question::read(&path, user, LIST_BYTES);
        let asked = tokio::time::timeout(PATIENCE, question::ask(proxy.dial(), &backend, question));
        let missing =
            |why: String| Condition::failed(format!("failing or missing response from {url}: {why}"));
        match asked.await.unwrap_or_else(|_| Err("context deadline exceeded".to_owned())) {
            Ok(told) if (200..300).contains(&told.code) => {
                // What is no list of resources says at least that somebody is there.
                let list = serde_json::from_slice(&told.bytes).unwrap_or(Value::Null);
                self.lists().insert(meta::name(service).to_owned(), list);
                Condition::passed()
            }
            Ok(told) => missing(format!("bad status from {url}: {}", told.code)),
            Err(why) => missing(why),
        }
    }
}

/// Why a request cannot be passed on.
enum Unreached {
    NoEndpoint(String),
    Settings(String),
}

/// Namespace and name of the service behind an APIService.
fn backing(service: &Value) -> (&str, &str) {
    let text = |field: &str| service["spec"]["service"][field].as_str().unwrap_or_default();
    (text("namespace"), text("name"))
}

fn services(store: &Store) -> Vec<Arc<Entry>> {
    // A store that fails has told so elsewhere; then nobody else's groups are known.
    store.list(SERVICES, None, 0, None).map(|snapshot| snapshot.entries).unwrap_or_default()
}

fn plain(code: u16, text: &str) -> http::Response<Body> {
    answer::typed(code, "text/plain; charset=utf-8", format!("{text}\n"))
}

fn has_location(response: &http::Response<Body>) -> bool {
    response.headers().contains_key(header::LOCATION)
}

/// Resolves when something changes on which APIServices depend.
async fn changed(store: &Store, seen: u64, remotes: &[Arc<Entry>]) {
    let mut prefixes: Vec<String> = vec![
        SERVICES.to_owned(),
        "customresourcedefinitions/".to_owned(),
        "configmaps/kube-system/extension-apiserver-authentication".to_owned(),
    ];
    for entry in remotes {
        let (namespace, name) = backing(entry.json());
        prefixes.push(format!("services/{namespace}/{name}"));
        prefixes.push(format!("endpointslices/{namespace}/"));
    }
    let next = |prefix: &String| {
        let mut watch = store.watch(prefix, seen);
        // An error means that the log does not reach back that far: time to look.
        async move { drop(watch.next().await) }.boxed()
    };
    select_all(prefixes.iter().map(next)).await;
}

/// Writes the objects of the aggregation.
struct Keeper<'a> {
    registry: &'a Registry,
    kind: &'a Arc<Kind>,
    user: User,
}

impl Keeper<'_> {
    async fn act(&self, action: Action) -> Result<(), Status> {
        let options = WriteOptions::default();
        match action {
            Action::Create(service) => {
                self.registry.create(&self.user, self.kind, None, service, &options).await.map(drop)
            }
            Action::Update(service) => {
                let name = meta::name(&service);
                let place = Place { kind: self.kind, namespace: None, name };
                let mut change = json!({"spec": service["spec"]});
                change["spec"]["service"] = Value::Null;
                let how = PatchKind::Merge;
                self.registry.patch(&self.user, place, Part::Object, how, &change, &options).await.map(drop)
            }
            Action::Delete(name) => {
                let place = Place { kind: self.kind, namespace: None, name: &name };
                match self.registry.delete(&self.user, place, &DeleteOptions::default()).await {
                    Err(status) if !status.is("NotFound") => Err(status),
                    _ => Ok(()),
                }
            }
        }
    }

    async fn conditions(&self, name: &str, conditions: Value) -> Result<(), Status> {
        let place = Place { kind: self.kind, namespace: None, name };
        let change = json!({"status": {"conditions": conditions}});
        let (how, options) = (PatchKind::Merge, WriteOptions::default());
        self.registry.patch(&self.user, place, Part::Status, how, &change, &options).await.map(drop)
    }

    /// The config map by which aggregated servers know whom to believe.
    async fn configuration(&self, api: &ApiServer, wanted: Value) -> Result<(), Status> {
        let Some(kind) = api.served().by_resource("", "v1", "configmaps") else { return Ok(()) };
        let name = meta::name(&wanted).to_owned();
        let place = Place { kind: &kind, namespace: Some("kube-system"), name: &name };
        let options = WriteOptions::default();
        match self.registry.find(place) {
            Err(_) => {
                self.registry.create(&self.user, &kind, place.namespace, wanted, &options).await.map(drop)
            }
            Ok(there) if there.json()["data"] == wanted["data"] => Ok(()),
            Ok(_) => {
                let (how, change) = (PatchKind::Merge, json!({"data": wanted["data"]}));
                self.registry.patch(&self.user, place, Part::Object, how, &change, &options).await.map(drop)
            }
        }
    }
}
