//! What the server counts of its requests, for `/metrics`.
//!
//! Names and labels are those of k8s.io/apiserver `pkg/endpoints/metrics`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::Method;
use tokio::time::Instant;

#[cfg(test)]
use super::parse;
use super::parse::{Route, Verb};
use super::query::Query;
use crate::api::kinds::Text;
use crate::apiserver::served::Served;

mod page;
mod process;

pub use page::Store;

/// Upper bounds of durations in milliseconds.
const BOUNDS: [u64; 23] = [
    5, 25, 50, 100, 200, 400, 600, 800, 1000, 1250, 1500, 2000, 3000, 4000, 5000, 6000, 8000, 10_000, 15_000,
    20_000, 30_000, 45_000, 60_000,
];
/// Documents that are told apart by their paths; others share one line, whatever clients make up.
const DOCUMENTS: &[&str] =
    &["/api", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"];

/// What a request is about, as its figures are labelled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels {
    verb: &'static str,
    group: Text,
    version: Text,
    resource: Text,
    /// Of a document, its path.
    subresource: Text,
    scope: &'static str,
    dry_run: &'static str,
}

impl Labels {
    /// Those of a request; what is not served has no labels of its own.
    pub fn of(served: &Served, method: &Method, route: &Route, query: &Query) -> Labels {
        let mut labels = Labels {
            verb: verb_of(method),
            group: "".into(),
            version: "".into(),
            resource: "".into(),
            subresource: "".into(),
            scope: "",
            dry_run: if query.text("dryRun") == "All" { "All" } else { "" },
        };
        match route {
            Route::Document(path) => {
                let known = DOCUMENTS.iter().find(|known| **known == path.trim_end_matches('/'));
                labels.subresource = known.copied().unwrap_or_default().into();
            }
            Route::Resource(target, verb) => {
                let Some(kind) = served.by_resource(&target.group, &target.version, &target.resource) else {
                    return labels;
                };
                let row = target.subresource.as_deref().map(|name| kind.subresource(name));
                labels.verb = match verb {
                    Verb::List => "LIST",
                    Verb::Watch => "WATCH",
                    _ if super::is_conversation(target) => "CONNECT",
                    _ => labels.verb,
                };
                labels.subresource = row.flatten().map(|row| row.name).unwrap_or_default().into();
                labels.scope = match (&target.name, &target.namespace) {
                    (Some(_), _) => "resource",
                    (None, Some(_)) => "namespace",
                    (None, None) => "cluster",
                };
                (labels.group, labels.version) = (kind.group.clone(), kind.version.clone());
                labels.resource = kind.plural.clone();
            }
        }
        labels
    }

    /// Whether such a request stays open for as long as the client likes.
    pub fn is_long_running(&self) -> bool {
        matches!(self.verb, "WATCH" | "CONNECT")
    }

    fn kind_of_request(&self) -> usize {
        usize::from(!matches!(self.verb, "GET" | "LIST"))
    }
}

fn verb_of(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// The figures of requests with the same labels.
#[derive(Debug, Default)]
struct Series {
    /// Answers by code.
    codes: BTreeMap<u16, u64>,
    /// Durations up to each of [`BOUNDS`], and beyond.
    durations: [u64; BOUNDS.len() + 1],
    sum: Duration,
    /// Long-running requests that are open.
    open: i64,
    /// Events sent to watchers.
    events: Arc<AtomicU64>,
}

/// Everything that is counted; requests of the same labels share a line.
#[derive(Debug, Default)]
pub struct Metrics {
    series: Mutex<BTreeMap<Labels, Series>>,
    /// Requests being answered: those that read, those that write.
    inflight: [AtomicI64; 2],
}

/// A request that is being answered.
pub struct Running {
    metrics: Arc<Metrics>,
    labels: Labels,
    began: Instant,
    answered: bool,
}

impl Metrics {
    /// A request has come.
    pub fn begin(self: &Arc<Self>, labels: Labels) -> Running {
        if labels.is_long_running() {
            self.lock().entry(labels.clone()).or_default().open += 1;
        } else {
            self.inflight[labels.kind_of_request()].fetch_add(1, Ordering::Relaxed);
        }
        Running { metrics: self.clone(), labels, began: Instant::now(), answered: false }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Labels, Series>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// Whether the request stays open for as long as the client likes.
    pub fn is_long_running(&self) -> bool {
        self.labels.is_long_running()
    }

    /// Counts the events that a watcher is sent.
    pub fn events(&self) -> Arc<AtomicU64> {
        self.metrics.lock().entry(self.labels.clone()).or_default().events.clone()
    }

    /// It has its answer; one that is long-running goes on until this is dropped.
    pub fn answered(&mut self, code: u16) {
        let took = self.began.elapsed();
        {
            let mut all = self.metrics.lock();
            let series = all.entry(self.labels.clone()).or_default();
            *series.codes.entry(code).or_default() += 1;
            if !self.labels.is_long_running() {
                let millis = took.as_micros().div_ceil(1000);
                let bucket = BOUNDS.iter().position(|bound| millis <= u128::from(*bound));
                series.durations[bucket.unwrap_or(BOUNDS.len())] += 1;
                series.sum += took;
            }
        }
        self.settle();
    }

    fn settle(&mut self) {
        if !self.answered && !self.labels.is_long_running() {
            self.metrics.inflight[self.labels.kind_of_request()].fetch_sub(1, Ordering::Relaxed);
        }
        self.answered = true;
    }
}

impl Drop for Running {
    /// Also of a request whose client left before it was answered.
    fn drop(&mut self) {
        self.settle();
        if self.labels.is_long_running() {
            self.metrics.lock().entry(self.labels.clone()).or_default().open -= 1;
        }
    }
}

/// The labels of a request of this method and URI.
#[cfg(test)]
fn labelled(served: &Served, method: &Method, uri: &str) -> Labels {
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let query = Query::parse(query);
    Labels::of(served, method, &parse::parse(method, path, &query), &query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_labelled_as_kubernetes_labels_them() {
        let served = Served::default();
        for (method, uri, expected) in [
            ("GET", "/api/v1/pods", "LIST  v1 pods  cluster"),
            ("GET", "/api/v1/namespaces/a/pods", "LIST  v1 pods  namespace"),
            ("GET", "/api/v1/namespaces/a/pods?watch=1", "WATCH  v1 pods  namespace"),
            ("GET", "/api/v1/namespaces/a/pods/b", "GET  v1 pods  resource"),
            ("POST", "/api/v1/namespaces/a/pods", "POST  v1 pods  namespace"),
            ("GET", "/api/v1/namespaces/a/pods/b/log", "CONNECT  v1 pods log resource"),
            ("PUT", "/api/v1/namespaces/a/pods/b/status", "PUT  v1 pods status resource"),
            ("GET", "/api/v1/namespaces/a/pods/b/made-up", "GET  v1 pods  resource"),
            (
                "PATCH",
                "/apis/coordination.k8s.io/v1/namespaces/a/leases/b",
                "PATCH coordination.k8s.io v1 leases  resource",
            ),
            ("GET", "/apis/made.up/v1/things", "GET     "),
            ("GET", "/healthz", "GET    /healthz "),
            ("GET", "/made/up", "GET     "),
            ("MADEUP", "/api/v1/pods", "other  v1 pods  cluster"),
        ] {
            let l = labelled(&served, &Method::from_bytes(method.as_bytes()).unwrap(), uri);
            let seen = [l.verb, &*l.group, &*l.version, &*l.resource, &*l.subresource, l.scope].join(" ");
            assert_eq!(seen, expected, "{method} {uri}");
        }
    }

    #[test]
    fn what_is_open_is_counted_until_it_ends() {
        let metrics = Arc::new(Metrics::default());
        let of = |method: Method, uri: &str| metrics.begin(labelled(&Served::default(), &method, uri));
        let inflight = || [0, 1].map(|at: usize| metrics.inflight[at].load(Ordering::Relaxed));
        let mut read = of(Method::GET, "/api/v1/pods");
        let write = of(Method::POST, "/api/v1/namespaces/a/pods");
        let mut watch = of(Method::GET, "/api/v1/pods?watch=1");
        assert_eq!(inflight(), [1, 1]);
        read.answered(200);
        drop(read);
        // Its client did not wait.
        drop(write);
        assert_eq!(inflight(), [0, 0]);
        watch.answered(200);
        let open = || metrics.lock().values().map(|series| series.open).sum::<i64>();
        assert_eq!(open(), 1);
        drop(watch);
        assert_eq!(open(), 0);
    }
}
