//! Requests of components in this process to aggregated servers: reads, watches, merge patches and deletions of objects.

use hyper::Method;
use serde_json::{Value, json};

use super::events::{self, Events};
use super::question::{self, Question, Told};
use super::{Aggregator, Unreached, availability};
use crate::api::meta;
use crate::api::request::{
    Action, DeleteOptions, ListOptions, PatchKind, Request, Response, Target, WatchOptions,
};
use crate::api::status::{Details, Status};
use crate::apiserver::http::DEADLINE;
use crate::apiserver::proxy::Proxy;
use crate::apiserver::registry::{Registry, encode};
use crate::store::{Entry, Revision, Snapshot};

/// The most that is read of an answer.
const ANSWER_BYTES: usize = 32 << 20;

impl Aggregator {
    /// Carries out a request at the server of this APIService; the user may make it.
    pub async fn call(
        &self,
        registry: &Registry,
        proxy: &Proxy,
        service: &Value,
        request: Request,
    ) -> Result<Response, Status> {
        let Request { user, target, action } = request;
        let Asked { method, query, body, media } = asked(&target, &action)?;
        if !availability::is_available(service) {
            return Err(Status::unavailable("service unavailable"));
        }
        let backend = self.backend(registry, proxy, service).map_err(|unreached| match unreached {
            Unreached::NoEndpoint(why) => Status::unavailable(why),
            Unreached::Settings(why) => Status::internal(why),
        })?;
        let path = format!("{}{query}", path(&target));
        let body = body.map(|body| encode(&body)).unwrap_or_default();
        let question = Question { method, body, media, ..Question::read(&path, user, ANSWER_BYTES) };
        let told = async {
            let response = question::begin(proxy.dial(), &backend, question).await?;
            match &action {
                Action::Watch(_) if response.status().is_success() => Ok(Err(response)),
                _ => question::whole(response, ANSWER_BYTES).await.map(Ok),
            }
        };
        let told = tokio::time::timeout(DEADLINE, told).await;
        let told = told.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()));
        match told.map_err(|why| Status::unavailable(format!("error trying to reach service: {why}")))? {
            Ok(told) => answer(&target, &action, told),
            Err(going_on) => Ok(Response::Watch(Box::new(Events::of(target, going_on.into_body())))),
        }
    }
}

/// A request in HTTP.
#[derive(Debug, PartialEq)]
struct Asked {
    method: Method,
    query: String,
    body: Option<Value>,
    /// What the body is.
    media: &'static str,
}

/// How a request is put in HTTP. (pure)
fn asked(target: &Target, action: &Action) -> Result<Asked, Status> {
    let whole =
        |options: &ListOptions| options.label_selector.is_empty() && options.field_selector.is_empty();
    let plain = |method, body| Asked { method, query: String::new(), body, media: "application/json" };
    match action {
        Action::Get { .. } => Ok(plain(Method::GET, None)),
        Action::List(list) if whole(list) => Ok(plain(Method::GET, None)),
        Action::Watch(WatchOptions { list, .. }) if whole(list) => Ok(Asked {
            query: format!(
                "?watch=true&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds={}",
                list.resource_version,
                events::LASTS.as_secs()
            ),
            ..plain(Method::GET, None)
        }),
        Action::Patch(PatchKind::Merge, patch, options) if !options.dry_run => {
            Ok(Asked { media: "application/merge-patch+json", ..plain(Method::PATCH, Some(patch.clone())) })
        }
        Action::Delete(options) => Ok(plain(Method::DELETE, Some(deletion(options)))),
        Action::DeleteCollection(list, options) if whole(list) => {
            Ok(plain(Method::DELETE, Some(deletion(options))))
        }
        _ => Err(Status::internal(format!(
            "{target}: another server has this, and is only read, merged into, or emptied whole"
        ))),
    }
}

/// `DeleteOptions` as they are sent.
fn deletion(options: &DeleteOptions) -> Value {
    let mut body = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
    if let Some(seconds) = options.grace_period_seconds {
        body["gracePeriodSeconds"] = seconds.into();
    }
    if let Some(policy) = &options.propagation_policy {
        body["propagationPolicy"] = policy.as_str().into();
    }
    if let Some(uid) = &options.precondition_uid {
        body["preconditions"]["uid"] = uid.as_str().into();
    }
    if let Some(version) = &options.precondition_resource_version {
        body["preconditions"]["resourceVersion"] = version.as_str().into();
    }
    if options.dry_run {
        body["dryRun"] = json!(["All"]);
    }
    body
}

/// Where a target is.
fn path(target: &Target) -> String {
    let Target { group, version, .. } = target;
    let mut path = format!("/apis/{group}/{version}");
    if let Some(namespace) = &target.namespace {
        path.extend(["/namespaces/", namespace]);
    }
    let rest = [Some(&target.resource), target.name.as_ref(), target.subresource.as_ref()];
    for part in rest.into_iter().flatten() {
        path.extend(["/", part]);
    }
    path
}

/// What an answer in HTTP means. (pure)
fn answer(target: &Target, action: &Action, told: Told) -> Result<Response, Status> {
    if !(200..300).contains(&told.code) {
        return Err(failure(&told));
    }
    let value: Value = serde_json::from_slice(&told.bytes).map_err(|error| {
        Status::internal(format!("{target}: the answer of its server is no JSON: {error}"))
    })?;
    match action {
        Action::List(_) => {
            let entries = value["items"].as_array().into_iter().flatten().map(|item| entry(target, item));
            let (revision, entries) = (revision(&value), entries.collect());
            let snapshot = Snapshot { revision, entries, remaining: 0 };
            let continue_token = value["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            Ok(Response::List { snapshot, continue_token })
        }
        Action::Get { .. } | Action::Patch(..) => {
            Ok(Response::Object { entry: entry(target, &value), created: false, warnings: Vec::new() })
        }
        _ => Ok(Response::Status(Status::success(Details::default()))),
    }
}

/// Why it was refused, in the server's own words.
fn failure(told: &Told) -> Status {
    match serde_json::from_slice::<Status>(&told.bytes) {
        Ok(status) if status.kind == "Status" && status.code == told.code => status,
        _ => {
            let reason = match told.code {
                404 => "NotFound",
                405 => "MethodNotAllowed",
                409 => "Conflict",
                503 => "ServiceUnavailable",
                _ => "",
            };
            Status::failure(told.code, reason, String::from_utf8_lossy(&told.bytes).trim())
        }
    }
}

/// An object of another server's store.
pub(super) fn entry(target: &Target, object: &Value) -> std::sync::Arc<Entry> {
    let (namespace, name) = (meta::namespace(object), meta::name(object));
    Entry::new(format!("{}/{namespace}/{name}", target.resource), encode(object), 0, revision(object))
}

/// The revision of an object or a list; where that is no number, 0, which is any of the server's that there are.
pub(super) fn revision(value: &Value) -> Revision {
    value["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::api::request::WriteOptions;

    fn target(name: Option<&str>) -> Target {
        Target {
            group: "wardle.io".into(),
            version: "v1".into(),
            resource: "flunders".into(),
            namespace: Some("n".into()),
            name: name.map(str::to_owned),
            subresource: None,
        }
    }

    #[test]
    fn requests_become_http() {
        let list = || Action::List(ListOptions::default());
        let all = Action::DeleteCollection(ListOptions::default(), DeleteOptions::default());
        let selected = Action::List(ListOptions { label_selector: "a=b".into(), ..ListOptions::default() });
        let of = |action: &Action| {
            asked(&target(None), action).map(|asked| (asked.method, asked.query, asked.body.is_some()))
        };
        assert_eq!(of(&list()).unwrap(), (Method::GET, String::new(), false));
        assert_eq!(of(&all).unwrap(), (Method::DELETE, String::new(), true));
        let from = ListOptions { resource_version: "7".into(), ..ListOptions::default() };
        let watch = Action::Watch(WatchOptions { list: from, bookmarks: true, ..WatchOptions::default() });
        let query = "?watch=true&allowWatchBookmarks=true&resourceVersion=7&timeoutSeconds=480";
        assert_eq!(of(&watch).unwrap(), (Method::GET, query.to_owned(), false));
        let patch = |kind| Action::Patch(kind, json!({"a": 1}), WriteOptions::default());
        let merged = asked(&target(Some("a")), &patch(PatchKind::Merge)).unwrap();
        assert_eq!((merged.method, merged.media), (Method::PATCH, "application/merge-patch+json"));
        assert!(of(&patch(PatchKind::Strategic)).is_err());
        assert!(of(&selected).is_err(), "what is not sent must not be taken for sent");
        assert_eq!(path(&target(None)), "/apis/wardle.io/v1/namespaces/n/flunders");
        assert_eq!(path(&target(Some("a"))), "/apis/wardle.io/v1/namespaces/n/flunders/a");
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            precondition_uid: Some("u".into()),
            propagation_policy: Some("Background".into()),
            ..DeleteOptions::default()
        };
        assert_eq!(
            deletion(&options),
            json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0,
                "preconditions": {"uid": "u"}, "propagationPolicy": "Background"})
        );
    }

    #[test]
    fn answers_are_read() {
        let told =
            |code, value: Value| Told { code, tag: String::new(), bytes: Bytes::from(value.to_string()) };
        let items = json!({"metadata": {}, "items": [{"metadata": {"name": "a", "namespace": "n"}}]});
        match answer(&target(None), &Action::List(ListOptions::default()), told(200, items)).ok().unwrap() {
            Response::List { snapshot, .. } => assert_eq!(snapshot.entries[0].key, "flunders/n/a"),
            _ => panic!("no list"),
        }
        let own = serde_json::to_value(Status::not_found("wardle.io", "flunders", "a")).unwrap();
        let refused = |told: Told| {
            let read = answer(&target(Some("a")), &Action::Delete(DeleteOptions::default()), told);
            read.err().map(|status| (status.reason, status.message)).unwrap()
        };
        let words = "flunders.wardle.io \"a\" not found".to_owned();
        assert_eq!(refused(told(404, own)), ("NotFound".to_owned(), words));
        let plain = Told { code: 503, tag: String::new(), bytes: Bytes::from_static(b"not today\n") };
        assert_eq!(refused(plain), ("ServiceUnavailable".to_owned(), "not today".to_owned()));
    }
}
