//! The API over HTTP: authentication, bodies, content types; everything else is a [`Request`] value.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method};
use serde_json::Value;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::metrics::{Labels, Metrics};
use self::negotiate::{Form, Shown};
use self::parse::{PROXY, Route, Verb};
use self::query::Query;
use super::aggregation::Aggregator;
use super::aggregation::identity::FrontProxy;
use super::answer::{self, Body};
use super::audit::{self, Audit, Received, Record, annotations};
use super::auth::Peer;
use super::auth::attributes::Attributes;
use super::fairness::{Class, Fairness};
use super::proxy::exchange::Dial;
use super::proxy::{Origin, Proxy};
use super::table::IncludeObject;
use super::{ApiServer, admission, resource_metrics, reviews, streaming, waited};
use crate::api::exposition::Source;
use crate::api::kinds::{self, Kind};
use crate::api::node::Node;
use crate::api::request::{Action, Request, Target, User};
use crate::api::status::{FieldError, Status};

mod action;
mod documents;
mod health;
mod identity;
mod methods;
mod metrics;
pub mod negotiate;
mod open_api;
pub mod parse;
pub mod query;
pub mod respond;
mod serve;
mod transport;
mod warnings;

/// Answers from this size on are compressed for clients that accept it (as in k8s.io/apiserver).
const GZIP_BYTES: usize = 128 * 1024;
/// Subresources that are conversations with a node or with what runs on it.
const CONVERSATIONS: &[&str] = &["log", "exec", "attach", "portforward", PROXY];
/// Conversations that start something in a pod: whoever opens one by a GET must have the right to make it as well.
const STARTING: &[&str] = &["exec", "attach", "portforward"];
/// How long requests may take in Kubernetes (`--request-timeout`).
pub const DEADLINE: Duration = Duration::from_secs(60);
/// What one is told that took longer.
const LATE: &str = "Timeout: request did not complete within the allotted timeout";
/// Tells a request from all others.
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// What an API server has around it.
pub struct Config {
    /// Logs, exec, attach and port-forward go there, and what nodes tell of themselves comes from there.
    pub node: Arc<dyn Node>,
    /// How proxied requests reach their backends.
    pub dial: Arc<dyn Dial>,
    /// Vouches for this server before aggregated ones; without it there are none.
    pub front_proxy: Option<FrontProxy>,
    /// Where requests are recorded, if they are.
    pub audit: Option<Audit>,
    /// How long a request may take that is neither a watch nor a conversation: who sends or answers slowly must not hold a
    /// place that others wait for. Usually [`DEADLINE`].
    pub deadline: Duration,
    /// The figures of what runs in the same process, which `/metrics` shows too.
    pub figures: Vec<Arc<dyn Source>>,
}

/// The API server with its HTTP side.
pub struct Server {
    api: Arc<ApiServer>,
    node: Arc<dyn Node>,
    proxy: Proxy,
    aggregator: Option<Aggregator>,
    audit: Option<Audit>,
    deadline: Duration,
    metrics: Arc<Metrics>,
    /// Of what runs beside it.
    figures: Vec<Arc<dyn Source>>,
    fairness: Fairness,
    checked: health::Checked,
    /// What this server says of its API; the same for its whole life.
    documents: open_api::Documents,
    /// Cancelled when the server drains: watches end.
    stopping: CancellationToken,
}

impl Server {
    /// Serves `api`.
    pub fn new(api: Arc<ApiServer>, config: Config) -> Arc<Server> {
        Arc::new(Server {
            api,
            node: config.node,
            proxy: Proxy::new(config.dial),
            aggregator: config.front_proxy.map(Aggregator::new),
            audit: config.audit,
            deadline: config.deadline,
            metrics: Arc::default(),
            figures: config.figures,
            fairness: Fairness::default(),
            checked: health::Checked::default(),
            documents: open_api::Documents::default(),
            stopping: CancellationToken::new(),
        })
    }

    /// Answers one request; `peer` is whom the connection's client certificate names.
    pub async fn handle(&self, peer: &Peer, mut request: http::Request<Incoming>) -> http::Response<Body> {
        let head_only = request.method() == Method::HEAD;
        let compress = request.method() == Method::GET && accepts_gzip(request.headers());
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let route = parse::parse(request.method(), request.uri().path(), &query);
        let labels = Labels::of(self.api.served(), request.method(), &route, &query);
        let mut running = self.metrics.begin(labels);
        if running.is_long_running() {
            request.extensions_mut().insert(Watched(running.events()));
        }
        let given = request.headers().get(AUDIT_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
        let id = given.unwrap_or_else(super::registry::metadata::new_uid);
        let record = self.audit.as_ref().map(|audit| audit.begin(received(&request, &route, &id)));
        if let Some(record) = &record {
            request.extensions_mut().insert(record.clone());
        }
        let answering = waited::measured(self.answer(peer, route, &query, request));
        let ((verb, answer), waited) = match &record {
            Some(record) => annotations::noting(record.clone(), answering).await,
            None => answering.await,
        };
        let mut response = answer.unwrap_or_else(|failed| answer::status(&failed));
        if let Some(record) = record {
            response = record.answered(response, running.is_long_running());
        }
        let streams = query.flag("watch") || verb == "watch" || verb == "connect";
        let mut response =
            if compress && !streams && response.headers().get(header::CONTENT_ENCODING).is_none() {
                respond::compressed(response, GZIP_BYTES).await
            } else {
                response
            };
        let size = response.body().size_hint().exact();
        running.answered(response.status().as_u16(), size, waited);
        if let (None, Some(tell)) = (size, running.sizes()) {
            let body = std::mem::replace(response.body_mut(), answer::full(Bytes::new()));
            *response.body_mut() = answer::counted(body, tell);
        }
        if running.is_long_running() {
            let body = std::mem::replace(response.body_mut(), answer::full(Bytes::new()));
            *response.body_mut() = answer::holding(body, running);
        }
        let headers = response.headers_mut();
        if let Ok(mut id) = HeaderValue::from_str(&id) {
            // No other answer has it: HTTP/2 need not remember it.
            id.set_sensitive(true);
            headers.insert(AUDIT_ID, id);
        }
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
        // A backend has answered a HEAD as it should be answered.
        if head_only && verb != "connect" { respond::without_body(response) } else { response }
    }

    /// The answer, and the verb for the metrics.
    async fn answer(
        &self,
        peer: &Peer,
        route: Route,
        query: &Query,
        request: http::Request<Incoming>,
    ) -> (&'static str, Result<http::Response<Body>, Status>) {
        let user = match self.user(peer, request.headers()) {
            Ok(user) => user,
            Err(status) => return ("", Err(status)),
        };
        let record = request.extensions().get::<Record>().cloned();
        if let Some(record) = &record {
            record.identified(&user);
        }
        let (method, selected) = (request.method().as_str().to_ascii_lowercase(), route.selected_name(query));
        let (verb, attributes) = match &route {
            Route::Document(path) => ("get", Attributes::path(path, &method)),
            Route::Resource(target, verb) => {
                (verb.name(), Attributes::of(target, verb.name()).named(&selected))
            }
        };
        let user = match self.acting(user, request.headers(), &attributes) {
            Ok(user) => user,
            Err(status) => return (verb, Err(status)),
        };
        if let Some(record) = &record {
            record.acting_as(&user);
        }
        let class = self.fairness.classify(&user, &attributes);
        let permit = match route.is_long() {
            true => Ok(None),
            false => class.enter().await.map(|permit| Some((permit, class.running()))),
        };
        let allowed = permit.and_then(|permit| {
            self.authorize(record.as_ref(), &user, &attributes)?;
            Ok(permit)
        });
        let (verb, answer) = match allowed {
            // The permit ends with the answer.
            Ok(_permit) if route.is_long() => self.act(user, route, query, request).await,
            Ok(_permit) => {
                let acted = timeout(self.deadline, self.act(user, route, query, request)).await;
                acted.unwrap_or_else(|_| (verb, Err(Status::failure(504, "Timeout", LATE))))
            }
            Err(status) => (verb, Err(status)),
        };
        let mut response = answer.unwrap_or_else(|failed| answer::status(&failed));
        tell_class(&class, &mut response);
        (verb, Ok(response))
    }

    /// Refuses what the user may not do; of a recorded request it is noted why.
    fn authorize(
        &self,
        record: Option<&Record>,
        user: &User,
        attributes: &Attributes<'_>,
    ) -> Result<(), Status> {
        let Some(record) = record else { return self.api.authorizer().authorize(user, attributes) };
        let decision = self.api.authorizer().decide(user, attributes);
        record.authorized(&decision);
        if decision.allowed { Ok(()) } else { Err(attributes.forbidden(user, &decision.reason)) }
    }

    /// Carries out what may be carried out.
    async fn act(
        &self,
        user: User,
        route: Route,
        query: &Query,
        request: http::Request<Incoming>,
    ) -> (&'static str, Result<http::Response<Body>, Status>) {
        if let Some(aggregator) = &self.aggregator
            && let Some(service) = aggregator.behind(&self.api, request.uri().path())
        {
            // Aside, as all that few requests need: it would be moved with every one.
            let answer = aggregator.serve(self.api.registry(), &self.proxy, service.json(), &user, request);
            return ("connect", Ok(Box::pin(answer).await));
        }
        let (target, verb) = match route {
            Route::Document(path) => return ("get", Box::pin(self.document(&request, &path, query)).await),
            Route::Resource(target, verb) => (target, verb),
        };
        match conversation_verbs(&target) {
            Some(verbs)
                if verbs.contains(&verb.name())
                    || (verb == Verb::Options && target.subresource.as_deref() == Some(PROXY)) =>
            {
                ("connect", Box::pin(self.converse(user, target, verb, query, request)).await)
            }
            Some(_) => (verb.name(), Err(Status::no_such_method())),
            None => (verb.name(), self.resource(user, target, verb, query, request).await),
        }
    }

    /// Keeps APIServices as they must be, until dropped.
    async fn keep_api_services(self: Arc<Self>) {
        match &self.aggregator {
            Some(aggregator) => aggregator.keep(&self.api, &self.proxy).await,
            None => std::future::pending().await,
        }
    }

    /// Sorts requests by the objects that say how, until dropped.
    async fn keep_fair(self: Arc<Self>) {
        self.fairness.keep(self.api.registry()).await;
    }

    async fn converse(
        &self,
        user: User,
        target: Target,
        verb: Verb,
        query: &Query,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Body>, Status> {
        let starts = target.subresource.as_deref().is_some_and(|name| STARTING.contains(&name));
        if starts && verb != Verb::Create {
            self.api.authorizer().authorize(&user, &Attributes::of(&target, Verb::Create.name()))?;
        }
        let uri = request.uri().clone();
        let admitted = admission::connect(self.api.registry(), &user, &target, uri.path(), query);
        if target.subresource.as_deref() == Some(PROXY) {
            admitted.await?;
            return self.proxy.serve(self.api.registry(), &*self.node, &target, request).await;
        }
        // The pod must be there before its node is asked.
        let name = target.name.as_deref().unwrap_or_default();
        let key = format!("pods/{}/{name}", target.namespace.as_deref().unwrap_or_default());
        if self.api.registry().store().get(&key).is_none() {
            return Err(Status::not_found("", "pods", name));
        }
        admitted.await?;
        Ok(streaming::serve(self.node.clone(), &target, uri.query().unwrap_or_default(), request).await)
    }

    async fn resource(
        &self,
        user: User,
        target: Target,
        verb: Verb,
        query: &Query,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Body>, Status> {
        if let Some(kind) = resource_metrics::find(&target) {
            return Box::pin(self.usage(kind, &target, verb, query, request.headers())).await;
        }
        let kind = self.api.served().by_resource(&target.group, &target.version, &target.resource);
        // Said before the body is read, which may be of a kind that is not known either.
        let of = match (&kind, reviews::find(&target)) {
            (Some(kind), _) => methods::check(kind, &target, verb)?.to_owned(),
            (None, Some(review)) if verb == Verb::Create => review.kind.to_owned(),
            (None, Some(_)) => return Err(Status::no_such_method()),
            (None, None) => return Err(Status::no_such_path()),
        };
        let act = async {
            let watched = request.extensions().get::<Watched>().cloned().unwrap_or_default();
            let scale = target.subresource.as_deref() == Some("scale");
            let answered = if scale { Some(kinds::SCALE.clone()) } else { kind.clone() };
            let show = shown(answered, request.headers(), query)?;
            let record = request.extensions().get::<Record>().cloned();
            let action = action::read(verb, &of, query, request).await?;
            if let (Some(record), Some(object)) = (&record, sent(&action)) {
                record.sent(object);
            }
            let answer = self.api.answer(Request { user, target, action }).await?;
            Ok(respond::response(answer, show, &self.stopping, watched.0))
        };
        let answer = act.await;
        let Some(deprecated) = kind.as_ref().and_then(|kind| kind.deprecated.clone()) else { return answer };
        annotations::annotate("k8s.io/deprecated", "true");
        let mut response = answer.unwrap_or_else(|failed| answer::status(&failed));
        warnings::add(&mut response, &[deprecated.into_owned()]);
        Ok(response)
    }

    /// What nodes and pods use, asked of the node.
    async fn usage(
        &self,
        kind: &Kind,
        target: &Target,
        verb: Verb,
        query: &Query,
        headers: &HeaderMap,
    ) -> Result<http::Response<Body>, Status> {
        if !matches!(verb, Verb::Get | Verb::List) {
            return Err(Status::no_such_method());
        }
        let show = shown(None, headers, query)?;
        let usage = self.node.usage().await?;
        let all = resource_metrics::objects(kind, &usage, self.api.registry().store());
        let (objects, whole) = match verb {
            Verb::Get => {
                let object = resource_metrics::named(all, target)?;
                (vec![object.clone()], object)
            }
            _ => {
                let found = resource_metrics::selected(all, target.namespace.as_deref(), &query.list()?)?;
                let whole = resource_metrics::list(kind, &found);
                (found, whole)
            }
        };
        let value = match show.form.shown {
            Shown::Table => resource_metrics::table(&objects, show.include),
            _ => whole,
        };
        Ok(respond::value(200, &respond::in_version(value, show.form), show.form))
    }
}

/// The head of a request, as it is recorded.
fn received(request: &http::Request<Incoming>, route: &Route, id: &str) -> Received {
    let path = request.uri().path();
    let (verb, target) = match route {
        Route::Resource(target, verb) => (verb.name().to_owned(), Some(target.clone())),
        Route::Document(_) => (request.method().as_str().to_lowercase(), None),
    };
    let peer = request.extensions().get::<Origin>().map(|origin| origin.0.ip());
    let agent = request.headers().get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    Received {
        id: id.to_owned(),
        uri: request.uri().path_and_query().map_or(path, |uri| uri.as_str()).to_owned(),
        path: path.to_owned(),
        verb,
        target,
        agent: agent.unwrap_or_default().to_owned(),
        sources: audit::sources(request.headers(), peer),
    }
}

/// The object that an action brings.
fn sent(action: &Action) -> Option<&Value> {
    match action {
        Action::Create(object, _) | Action::Update(object, _) | Action::Patch(_, object, _) => Some(object),
        _ => None,
    }
}

/// Where the events are counted that a watcher is sent, as an extension of its request.
#[derive(Debug, Clone, Default)]
struct Watched(Arc<AtomicU64>);

/// Whether a request is a conversation with a node or with what runs on it.
fn is_conversation(target: &Target) -> bool {
    target.subresource.as_deref().is_some_and(|name| CONVERSATIONS.contains(&name))
}

/// The verbs of a subresource that is a conversation with the node; `None` for anything else.
fn conversation_verbs(target: &Target) -> Option<&'static [&'static str]> {
    let name = target.subresource.as_deref().filter(|_| is_conversation(target))?;
    let kind = kinds::by_resource(&target.group, &target.version, &target.resource)?;
    kind.subresources.iter().find(|row| row.name == name).map(|row| row.verbs)
}

/// How the client wants to see the answer.
fn shown(kind: Option<Arc<Kind>>, headers: &HeaderMap, query: &Query) -> Result<respond::Show, Status> {
    let form = form_of(headers, query)?;
    let asked = query.text("includeObject");
    let include = match IncludeObject::parse(asked) {
        Some(include) => include,
        None if form.shown == Shown::Table => {
            let why = "must be 'Metadata', 'Object', 'None', or empty";
            let error = FieldError::invalid("includeObject", &asked.into(), why);
            return Err(Status::bad_request(format!("Unable to convert to Table as requested: {error}")));
        }
        None => IncludeObject::default(),
    };
    Ok(respond::Show { kind, form, include })
}

/// Tells by uids, which say nothing to others, how the request was sorted.
fn tell_class(class: &Class, response: &mut http::Response<Body>) {
    let (schema, level) = class.uids();
    for (header, uid) in
        [("x-kubernetes-pf-flowschema-uid", schema), ("x-kubernetes-pf-prioritylevel-uid", level)]
    {
        if let Some(uid) = HeaderValue::from_str(uid).ok().filter(|uid| !uid.is_empty()) {
            response.headers_mut().insert(HeaderName::from_static(header), uid);
        }
    }
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|choice| {
        let mut parts = choice.split(';').map(str::trim);
        let refused = |weight: &str| weight.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
        parts.next() == Some("gzip") && !parts.any(refused)
    })
}

fn form_of(headers: &HeaderMap, query: &Query) -> Result<Form, Status> {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    negotiate::form(accept, query.flag("pretty"))
}

#[cfg(test)]
mod tests;
