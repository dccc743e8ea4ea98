//! The API over HTTP: authentication, bodies, content types; everything else is a [`Request`] value.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method};
use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use self::metrics::Metrics;
use self::negotiate::{Form, Shown};
use self::parse::{Route, Verb};
use self::query::Query;
use super::answer::{self, Body};
use super::auth::{self, Certified};
use super::table::IncludeObject;
use super::{ApiServer, reviews, streaming};
use crate::api::kinds::{self, Kind};
use crate::api::node::Node;
use crate::api::request::{Action, PatchKind, Request, Target, Transport, User, WriteOptions};
use crate::api::schema::protobuf;
use crate::api::status::{FieldError, Status};
use crate::api::{schema, yaml};

mod documents;
mod health;
mod metrics;
pub mod negotiate;
mod open_api;
pub mod parse;
pub mod query;
pub mod respond;
mod serve;
mod warnings;

/// Kubernetes' limit for request bodies.
const BODY_BYTES: usize = 3 * 1024 * 1024;
/// Answers from this size on are compressed for clients that accept it (as in k8s.io/apiserver).
const GZIP_BYTES: usize = 128 * 1024;
/// Subresources that are conversations with the node.
const STREAMING: &[&str] = &["log", "exec", "attach", "portforward"];
/// What anybody may read (`system:public-info-viewer`): whether a single check fails, and why, is not in it.
const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];
/// A watch without a time of its own ends after this and up to as much again, so that watchers spread.
const WATCH_SECONDS: u64 = 1800;

/// The API server with its HTTP side.
pub struct Server {
    api: Arc<ApiServer>,
    node: Arc<dyn Node>,
    metrics: Metrics,
    /// What this server says of its API; the same for its whole life.
    documents: open_api::Documents,
    /// Cancelled when the server drains: watches end.
    stopping: CancellationToken,
}

impl Server {
    /// Serves `api`; logs, exec, attach and port-forward go to `node`.
    pub fn new(api: Arc<ApiServer>, node: Arc<dyn Node>) -> Arc<Server> {
        Arc::new(Server {
            api,
            node,
            metrics: Metrics::default(),
            documents: open_api::Documents::default(),
            stopping: CancellationToken::new(),
        })
    }

    /// Answers one request; `peer` is whom the connection's client certificate names.
    pub async fn handle(
        &self,
        peer: Option<&Certified>,
        request: http::Request<Incoming>,
    ) -> http::Response<Body> {
        let head_only = request.method() == Method::HEAD;
        let compress = request.method() == Method::GET && accepts_gzip(request.headers());
        let watching = Query::parse(request.uri().query().unwrap_or_default()).flag("watch");
        let audit = request.headers().get("audit-id").cloned();
        let (verb, answer) = self.answer(peer, request).await;
        let response = answer.unwrap_or_else(|failed| answer::status(&failed));
        let streams = watching || verb == "watch" || verb == "connect";
        let mut response =
            if compress && !streams && response.headers().get(header::CONTENT_ENCODING).is_none() {
                respond::compressed(response, GZIP_BYTES).await
            } else {
                response
            };
        self.metrics.count(verb, response.status().as_u16());
        let audit = audit.or_else(|| {
            super::registry::metadata::new_uid().ok().and_then(|uid| HeaderValue::from_str(&uid).ok())
        });
        let headers = response.headers_mut();
        if let Some(audit) = audit {
            headers.insert(HeaderName::from_static("audit-id"), audit);
        }
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
        if head_only { respond::without_body(response) } else { response }
    }

    /// The answer, and the verb for the metrics.
    async fn answer(
        &self,
        peer: Option<&Certified>,
        request: http::Request<Incoming>,
    ) -> (&'static str, Result<http::Response<Body>, Status>) {
        let path = request.uri().path().to_owned();
        let public = PUBLIC.contains(&path.as_str());
        let user = match self.user(peer, request.headers()) {
            Ok(user) => user,
            Err(_) if public => User { name: "system:anonymous".into(), groups: Vec::new(), uid: None },
            Err(status) => return ("", Err(status)),
        };
        let query = Query::parse(request.uri().query().unwrap_or_default());
        match parse::parse(request.method(), &path, &query) {
            Err(status) => ("", Err(status)),
            Ok(Route::Document(path)) => ("get", self.document(&request, &path, &query).await),
            Ok(Route::Resource(target, verb)) => match conversation_verbs(&target) {
                Some(verbs) if verbs.contains(&verb.name()) => {
                    ("connect", self.converse(user, target, request).await)
                }
                Some(_) => (verb.name(), Err(not_allowed())),
                None => (verb.name(), self.resource(user, target, verb, &query, request).await),
            },
        }
    }

    /// Who asks: the certificate's user as long as it is valid, or the bearer token's.
    fn user(&self, peer: Option<&Certified>, headers: &HeaderMap) -> Result<User, Status> {
        if let Some(peer) = peer.filter(|peer| Timestamp::now() < peer.not_after) {
            return Ok(peer.user.clone());
        }
        let authorization = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let token = authorization
            .and_then(|a| a.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        match token {
            Some((_, token)) => auth::user_of_token(self.api.tokens(), self.api.registry(), token.trim()),
            None => Err(Status::unauthorized()),
        }
    }

    async fn converse(
        &self,
        user: User,
        target: Target,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Body>, Status> {
        let action = Action::Get { resource_version: String::new() };
        let whole = Target { subresource: None, ..target.clone() };
        auth::authorize(&Request { user: user.clone(), target: target.clone(), action: action.clone() })?;
        // The pod must be there before its node is asked.
        self.api.call(Request { user, target: whole, action }).await?;
        let query = request.uri().query().unwrap_or_default().to_owned();
        Ok(streaming::serve(self.node.clone(), &target, &query, request).await)
    }

    async fn resource(
        &self,
        user: User,
        target: Target,
        verb: Verb,
        query: &Query,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Body>, Status> {
        let kind = self.api.served().by_resource(&target.group, &target.version, &target.resource);
        if kind.is_none() && reviews::find(&target).is_none() {
            // Said before the body is read, which may be of a kind that is not known either.
            return Err(Status::no_such_path());
        }
        let act = async {
            let show = shown(kind.clone(), request.headers(), query)?;
            let action = read_action(verb, query, request).await?;
            let answer = self.api.call(Request { user, target, action }).await?;
            Ok(respond::response(answer, show, &self.stopping))
        };
        let answer = act.await;
        let Some(deprecated) = kind.as_ref().and_then(|kind| kind.deprecated.clone()) else { return answer };
        let mut response = answer.unwrap_or_else(|failed| answer::status(&failed));
        warnings::add(&mut response, &[deprecated.into_owned()]);
        Ok(response)
    }
}

/// The verbs of a subresource that is a conversation with the node; `None` for anything else.
fn conversation_verbs(target: &Target) -> Option<&'static [&'static str]> {
    let name = target.subresource.as_deref().filter(|name| STREAMING.contains(name))?;
    let kind = kinds::by_resource(&target.group, &target.version, &target.resource)?;
    kind.subresources.iter().find(|row| row.name == name).map(|row| row.verbs)
}

/// 405: the path does not know the method.
fn not_allowed() -> Status {
    let message = "the server does not allow this method on the requested resource";
    Status::failure(405, "MethodNotAllowed", message)
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

/// Reads the body as the verb needs it.
async fn read_action(verb: Verb, query: &Query, request: http::Request<Incoming>) -> Result<Action, Status> {
    match verb {
        Verb::Get => Ok(Action::Get { resource_version: query.text("resourceVersion").to_owned() }),
        Verb::List => Ok(Action::List(query.list()?)),
        Verb::Watch => {
            let mut options = query.watch()?;
            options.timeout_seconds =
                options.timeout_seconds.or_else(|| Some(WATCH_SECONDS + random_below(WATCH_SECONDS)));
            Ok(Action::Watch(options))
        }
        Verb::Create | Verb::Update => {
            let of = if verb == Verb::Create { "CreateOptions" } else { "UpdateOptions" };
            let mut options = managed_by(query.write(of)?, request.headers());
            let (media, bytes) = body(request).await?;
            let value;
            (value, options.duplicates) = document(&media, &bytes)?;
            let action = if verb == Verb::Create { Action::Create } else { Action::Update };
            Ok(action(value, options))
        }
        Verb::Patch => {
            let headers = request.headers().clone();
            let (media, bytes) = body(request).await?;
            let kind = patch_kind(&media)?;
            let mut options = managed_by(query.patch(kind == PatchKind::Apply)?, &headers);
            let (value, duplicates) = match kind {
                PatchKind::Apply => yaml::strict_yaml(&bytes)
                    .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?,
                _ => document("application/json", &bytes)?,
            };
            let within = if kind == PatchKind::Json { "json patch " } else { "" };
            options.duplicates = duplicates.iter().map(|twice| format!("{within}{twice}")).collect();
            Ok(Action::Patch(kind, value, options))
        }
        Verb::Delete | Verb::DeleteCollection => {
            let (media, bytes) = body(request).await?;
            let value = if bytes.is_empty() { Value::Null } else { document(&media, &bytes)?.0 };
            let options = query.delete(value)?;
            Ok(match verb {
                Verb::Delete => Action::Delete(options),
                _ => Action::DeleteCollection(query.list()?, options),
            })
        }
    }
}

/// Options with the manager that the client's name stands for, when they name none.
fn managed_by(mut options: WriteOptions, headers: &HeaderMap) -> WriteOptions {
    let agent = || headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    options.field_manager.get_or_insert_with(|| query::agent_manager(agent()));
    options
}

fn random_below(limit: u64) -> u64 {
    let mut bytes = [0u8; 8];
    // Without random bytes watches only spread less.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes) % limit
}

/// The media type and the bytes of a body.
async fn body(request: http::Request<Incoming>) -> Result<(String, Bytes), Status> {
    let media = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match Limited::new(request.into_body(), BODY_BYTES).collect().await {
        Ok(bytes) => Ok((media, bytes.to_bytes())),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Status::too_large(format!("Request entity too large: limit is {BODY_BYTES}")))
        }
        Err(error) => Err(Status::bad_request(format!("the body could not be read: {error}"))),
    }
}

/// A body's JSON, and a message for each field that it gives twice.
fn document(media: &str, bytes: &[u8]) -> Result<(Value, Vec<String>), Status> {
    let unreadable =
        |e: String| Status::bad_request(format!("couldn't get version/kind; json parse error: {e}"));
    match media {
        "" | "application/json" | "*/*" => schema::strict_json(bytes).map_err(|e| unreadable(e.to_string())),
        "application/yaml" => yaml::strict_yaml(bytes).map_err(unreadable),
        protobuf::MEDIA_TYPE => {
            let read = protobuf::decode(bytes);
            Ok((read.map_err(|e| Status::bad_request(e.to_string()))?, Vec::new()))
        }
        _ => Err(Status::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: \
             application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

fn patch_kind(media: &str) -> Result<PatchKind, Status> {
    match media {
        "application/json-patch+json" => Ok(PatchKind::Json),
        "application/merge-patch+json" => Ok(PatchKind::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchKind::Strategic),
        "application/apply-patch+yaml" => Ok(PatchKind::Apply),
        _ => Err(Status::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: \
             application/json-patch+json, application/merge-patch+json, \
             application/strategic-merge-patch+json, application/apply-patch+yaml",
        )),
    }
}

#[cfg(test)]
mod tests;
