//! The API server: one generic registry over the store, and everything HTTP around it.
//!
//! A request, from wherever it comes, is a [`Request`] value; [`ApiServer`] answers it. HTTP only turns bytes
//! into requests and answers into bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use serde_json::Value;

use self::allocate::{Allocator, ServiceRanges};
use self::auth::attributes::Attributes;
use self::auth::rbac::Authorizer;
use self::auth::tokens::Tokens;
use self::registry::{Part, Place, Registry};
use self::served::Served;
use crate::api::kinds::Kind;
use crate::api::request::{Action, Request, Response, Target, Transport, User};
use crate::api::status::Status;
use crate::store::{self, Store};

pub mod registry;
pub mod served;

pub mod admission;
pub mod allocate;
pub mod custom;
pub mod definitions;
pub mod families;
pub mod patching;
pub mod strategy;
pub mod structure;

mod components;
pub mod resource_metrics;
pub mod reviews;
pub mod subresource;
pub mod webhook;

pub mod auth;
pub mod bootstrap;
pub mod fairness;
pub mod pki;
pub mod signing;
mod waited;

pub mod discovery;
pub mod openapi;
pub mod table;

pub mod answer;
pub mod proxy;
pub mod streaming;

pub mod aggregation;
pub mod audit;

pub mod http;

/// What an API server is made of.
pub struct Config {
    /// Where everything is kept.
    pub store: Store,
    /// From where services get their addresses.
    pub service_ranges: ServiceRanges,
    /// The key of service-account tokens ([`pki::Pki::token_key`]).
    pub token_key: Vec<u8>,
}

/// Why an API server could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Which service addresses are taken, or who may do what, could not be read.
    #[error("cannot read the cluster's objects: {0}")]
    Store(#[from] store::Error),
    /// The key of tokens cannot be used.
    #[error(transparent)]
    Keys(#[from] pki::Error),
}

/// What has been done since the server was made, as its readiness shows it.
#[derive(Debug, Default)]
struct Started {
    /// The first namespaces are there.
    namespaces: AtomicBool,
    /// The roles and bindings that every cluster has are there.
    roles: AtomicBool,
    /// The `kubernetes` service is there and names this server.
    service: AtomicBool,
}

/// The API server of a cluster.
pub struct ApiServer {
    registry: Registry,
    tokens: Tokens,
    authorizer: Arc<Authorizer>,
    started: Started,
}

impl ApiServer {
    /// Reads from the store which service addresses are taken, and is ready to answer.
    pub fn new(config: Config) -> Result<Arc<ApiServer>, Error> {
        let services = config.store.list("services/", None, 0, None)?.entries;
        let allocator = Allocator::new(config.service_ranges, services.iter().map(|e| e.json()));
        let authorizer = Arc::new(Authorizer::new(config.store.clone())?);
        let registry = Registry::new(config.store, Arc::new(allocator), authorizer.clone())?;
        let tokens = Tokens::new(&config.token_key)?;
        Ok(Arc::new(ApiServer { registry, tokens, authorizer, started: Started::default() }))
    }

    /// What must have happened before the server is ready, by the names of Kubernetes' post-start hooks.
    pub fn post_start_hooks(&self) -> [(&'static str, bool); 3] {
        let done = |flag: &AtomicBool| flag.load(Ordering::Acquire);
        [
            ("poststarthook/start-system-namespaces-controller", done(&self.started.namespaces)),
            ("poststarthook/rbac/bootstrap-roles", done(&self.started.roles)),
            ("poststarthook/bootstrap-controller", done(&self.started.service)),
        ]
    }

    /// The objects, without authorisation: for this server's own work.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The kinds that are served.
    pub fn served(&self) -> &Served {
        self.registry.served()
    }

    /// Signs and checks service-account tokens.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Decides who may do what.
    pub fn authorizer(&self) -> &Authorizer {
        &self.authorizer
    }

    /// Carries out a request that its user may make.
    pub async fn answer(&self, request: Request) -> Result<Response, Status> {
        let Request { ref user, ref target, .. } = request;
        let Some(kind) = self.served().by_resource(&target.group, &target.version, &target.resource) else {
            return reviews::answer(self, &request).unwrap_or_else(|| Err(Status::no_such_path()));
        };
        let kind = &kind;
        let namespace = namespace_of(kind, target)?;
        if components::concerns(kind) && target.subresource.is_none() {
            let revision = self.registry.store().revision();
            return components::answer(kind, target.name.as_deref(), request.action, revision);
        }
        let answer = match (&target.name, &target.subresource) {
            (Some(name), Some(subresource)) => {
                let place = Place { kind, namespace, name };
                Box::pin(subresource::answer(self, user, place, subresource, request.action)).await
            }
            (Some(name), None) => self.on_object(user, Place { kind, namespace, name }, request.action).await,
            (None, _) => self.on_collection(user, kind, namespace, request.action).await,
        };
        custom::conversion::finish(&self.registry, kind, answer?).await
    }

    // Writes are aside: what they take would be moved with every read.
    async fn on_object(&self, user: &User, place: Place<'_>, action: Action) -> Result<Response, Status> {
        let registry = &self.registry;
        let object = |entry| Response::Object { entry, created: false, warnings: Vec::new() };
        match action {
            Action::Get { resource_version } => registry.get(place, &resource_version).map(object),
            Action::Watch(options) => {
                registry.watch(place.kind, place.namespace, Some(place.name), &options).map(Response::Watch)
            }
            Action::Update(body, options) => {
                Box::pin(registry.replace(user, place, Part::Object, body, &options)).await
            }
            Action::Patch(how, patch, options) => {
                Box::pin(registry.patch(user, place, Part::Object, how, &patch, &options)).await
            }
            Action::Delete(options) => Box::pin(registry.delete(user, place, &options)).await,
            Action::Create(..) | Action::List(_) | Action::DeleteCollection(..) => {
                Err(Status::no_such_method())
            }
        }
    }

    async fn on_collection(
        &self,
        user: &User,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        action: Action,
    ) -> Result<Response, Status> {
        let registry = &self.registry;
        let unsupported = |verb| Err(Status::method_not_allowed(&kind.group, &kind.plural, verb));
        match action {
            Action::List(options) => registry.list(kind, namespace, &options),
            Action::Watch(options) => registry.watch(kind, namespace, None, &options).map(Response::Watch),
            Action::Create(..) if kind.namespaced && namespace.is_none() => unsupported("create"),
            Action::Create(..) if !kind.verbs.contains(&"create") => {
                let why = "create not allowed while custom resource definition is terminating";
                Err(Status::failure(405, "MethodNotAllowed", why))
            }
            Action::Create(body, options) if kind.is("", "bindings") => {
                Box::pin(subresource::bind_by_name(self, user, kind, namespace, (body, &options))).await
            }
            Action::Create(body, options) => {
                Box::pin(registry.create(user, kind, namespace, body, &options)).await
            }
            Action::DeleteCollection(list, options) if kind.verbs.contains(&"deletecollection") => {
                Box::pin(registry.delete_collection(user, kind, namespace, &list, &options)).await
            }
            Action::DeleteCollection(..) => unsupported("deletecollection"),
            Action::Get { .. } => unsupported("get"),
            Action::Update(..) => unsupported("update"),
            Action::Patch(..) => unsupported("patch"),
            Action::Delete(_) => unsupported("delete"),
        }
    }
}

/// The namespace that the request is about, fitting the kind.
fn namespace_of<'a>(kind: &Kind, target: &'a Target) -> Result<Option<&'a str>, Status> {
    match (&target.namespace, kind.namespaced) {
        (Some(namespace), true) => Ok(Some(namespace)),
        (None, true) if target.name.is_some() => Err(Status::no_such_path()),
        (Some(_), false) => Err(Status::no_such_path()),
        (None, _) => Ok(None),
    }
}

impl Transport for ApiServer {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Response, Status>> {
        async move {
            self.authorizer.authorize(&request.user, &Attributes::of_request(&request))?;
            self.answer(request).await
        }
        .boxed()
    }

    fn discover(&self) -> BoxFuture<'_, Result<Value, Status>> {
        ready(Ok(discovery::aggregated(self.served().kinds().as_ref(), false))).boxed()
    }
}
