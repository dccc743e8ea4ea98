//! The server's own documents: health, version, metrics, discovery, OpenAPI, token keys.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{HeaderMap, Method};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::negotiate::{Form, Shown};
use super::open_api::Subjects;
use super::query::Query;
use super::{Server, form_of, health, metrics, respond};
use crate::api::exposition::{self, Exposition};
use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::status::Status;
use crate::api::version::{self, ARCHITECTURE, MAJOR, MINOR};
use crate::apiserver::aggregation::Aggregator;
use crate::apiserver::answer::{self, Body};
use crate::apiserver::auth::tokens::ISSUER;
use crate::apiserver::discovery::{self, Asker};
use crate::apiserver::resource_metrics;
use crate::store::Store;

impl Server {
    /// Answers a request for a document of the server itself.
    pub(super) async fn document(
        &self,
        request: &http::Request<Incoming>,
        path: &str,
        query: &Query,
    ) -> Result<http::Response<Body>, Status> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Status::no_such_method());
        }
        let trimmed = path.trim_end_matches('/');
        if let Some(probe) = health::Probe::of(trimmed) {
            return self.health(probe, query).await;
        }
        if trimmed == "/metrics" {
            return Ok(answer::typed(200, exposition::MEDIA_TYPE, self.page_of_figures()));
        }
        if trimmed == "/metrics/slis" {
            return Ok(answer::typed(200, exposition::MEDIA_TYPE, self.checked.text()));
        }
        if trimmed.starts_with("/openapi") && trimmed != "/openapi/v1/jwks" {
            let (documents, kinds) = (self.documents.clone(), self.api.served().kinds());
            let others = self.aggregator.as_ref().map(Aggregator::descriptions).unwrap_or_default();
            let (path, hash) = (trimmed.to_owned(), query.text("hash").to_owned());
            let headers = request.headers().clone();
            let usage = resource_metrics::are_own(self.api.registry().store());
            let subjects = Subjects { kinds, usage, others };
            let answer = move || documents.answer(&subjects, &path, &hash, &headers);
            return tokio::task::spawn_blocking(answer).await.map_err(Status::internal)?;
        }
        if let Some((media, value)) = self.issuer(trimmed) {
            let mut response = answer::typed(200, media, value.to_string());
            // As long as Kubernetes lets others keep the keys.
            let kept = HeaderValue::from_static("public, max-age=3600");
            response.headers_mut().insert(header::CACHE_CONTROL, kept);
            return Ok(response);
        }
        let form = form_of(request.headers(), query)?;
        let value = self.described(trimmed, form, request.headers()).ok_or_else(Status::no_such_path)?;
        if form.shown == Shown::Discovery && matches!(trimmed, "/api" | "/apis") {
            return Ok(tagged(&value, request.headers()));
        }
        Ok(respond::value(200, &value, form))
    }

    /// What others need to check service-account tokens, with its media type.
    fn issuer(&self, path: &str) -> Option<(&'static str, Value)> {
        match path {
            "/.well-known/openid-configuration" => {
                let configuration = json!({"issuer": ISSUER,
                    "jwks_uri": format!("{ISSUER}/openid/v1/jwks"), "response_types_supported": ["id_token"],
                    "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"]});
                Some(("application/json", configuration))
            }
            "/openid/v1/jwks" => Some(("application/jwk-set+json", self.api.tokens().key_set())),
            _ => None,
        }
    }

    /// The page of metrics.
    fn page_of_figures(&self) -> String {
        let store = self.api.registry().store();
        let kinds = self.api.served().kinds();
        let mut objects: Vec<(&Kind, usize)> = Vec::new();
        for kind in kinds.iter() {
            // Two groups or versions may serve the same objects.
            if objects.iter().any(|(known, _)| known.storage == kind.storage) {
                continue;
            }
            // A page of one says how many follow.
            let counted = store.list(&kind.prefix(None), None, 1, None);
            objects.push((kind, counted.map_or(0, |page| page.entries.len() + page.remaining)));
        }
        let mut page = Exposition::default();
        self.metrics.write(&mut page, &metrics::Store { revision: store.revision(), objects }, &version());
        self.fairness.figures(&mut page);
        self.api.registry().admission().figures.write(&mut page);
        self.figures.iter().for_each(|figures| figures.write(&mut page));
        page.into_text()
    }

    /// What is served here with what other servers serve, when there are any.
    fn merged(
        &self,
        own: Vec<Value>,
        merge: fn(&Aggregator, &Store, Vec<Value>) -> Vec<Value>,
    ) -> Vec<Value> {
        match &self.aggregator {
            Some(aggregator) => merge(aggregator, self.api.registry().store(), own),
            None => own,
        }
    }

    /// The kinds that this server tells of itself.
    pub(super) fn discovered(&self) -> Vec<Arc<Kind>> {
        let mut kinds = self.api.served().kinds().to_vec();
        if resource_metrics::are_own(self.api.registry().store()) {
            kinds.extend(resource_metrics::KINDS.iter().cloned());
        }
        kinds
    }

    /// Aggregated discovery of all groups but the core one.
    pub(super) fn groups(&self, kinds: &[Arc<Kind>]) -> Value {
        let mut all = discovery::aggregated(kinds, false);
        all["items"] = self.merged(taken(&mut all["items"]), Aggregator::items).into();
        all
    }

    fn described(&self, path: &str, form: Form, headers: &HeaderMap) -> Option<Value> {
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        let aggregated = form.shown == Shown::Discovery;
        let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let asker = Asker::of(agent.unwrap_or_default());
        let kinds = &self.discovered();
        Some(match parts.as_slice() {
            [] => json!({"paths": paths(kinds)}),
            ["version"] => version(),
            ["api"] if aggregated => discovery::aggregated(kinds, true),
            ["apis"] if aggregated => self.groups(kinds),
            ["api"] => {
                let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
                discovery::core_versions(host)
            }
            ["apis"] => {
                let mut all = discovery::group_list(kinds, asker);
                all["groups"] = self.merged(taken(&mut all["groups"]), Aggregator::groups).into();
                all
            }
            ["api", version] => discovery::resources(kinds, "", version, asker)?,
            ["apis", group] => {
                let own = taken(&mut discovery::group_list(kinds, asker)["groups"]);
                let all = self.merged(own, Aggregator::groups);
                let mut found = all.into_iter().find(|known| known["name"] == *group)?;
                (found["kind"], found["apiVersion"]) = (json!("APIGroup"), json!("v1"));
                found
            }
            ["apis", group, version] => discovery::resources(kinds, group, version, asker)?,
            _ => return None,
        })
    }
}

/// A list, taken out of its document.
fn taken(list: &mut Value) -> Vec<Value> {
    match list.take() {
        Value::Array(list) => list,
        _ => Vec::new(),
    }
}

fn version() -> Value {
    // A build says what it was made of when whoever makes it says so; nothing of it comes from the machine.
    let commit = option_env!("MINIK_GIT_COMMIT").unwrap_or_default();
    let built = option_env!("SOURCE_DATE_EPOCH").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    let built = Timestamp::from_second(built).unwrap_or_default();
    json!({"major": MAJOR, "minor": MINOR, "emulationMajor": MAJOR, "emulationMinor": MINOR,
        "minCompatibilityMajor": MAJOR, "minCompatibilityMinor": "36",
        "gitVersion": format!("{}+minik.{}", version::KUBERNETES, env!("CARGO_PKG_VERSION")),
        "gitCommit": commit, "gitTreeState": if commit.is_empty() { "" } else { "clean" },
        "buildDate": meta::timestamp(built), "goVersion": "",
        "compiler": "rustc", "platform": format!("{}/{ARCHITECTURE}", std::env::consts::OS)})
}

fn paths(kinds: &[Arc<Kind>]) -> Vec<String> {
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/metrics/slis",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    for (group, version) in
        discovery::current_group_versions(kinds).into_iter().filter(|(group, _)| !group.is_empty())
    {
        paths.push(format!("/apis/{group}"));
        paths.push(format!("/apis/{group}/{version}"));
    }
    paths.sort();
    paths.dedup();
    paths
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02X}")).collect()
}

/// Aggregated discovery, which clients keep and ask for again by its tag.
fn tagged(value: &Value, headers: &HeaderMap) -> http::Response<Body> {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let tag = format!("\"{}\"", hash(&bytes));
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|given| given.as_bytes() == tag.as_bytes());
    let content = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let mut response =
        if known { answer::typed(304, content, "") } else { answer::typed(200, content, bytes) };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}
