//! What the server counts of its requests, for `/metrics`.
//!
//! Names and labels are those of k8s.io/apiserver `pkg/endpoints/metrics`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use hyper::Method;
use tokio::time::Instant;

#[cfg(test)]
use super::parse;
use super::parse::{Route, Verb};
use super::query::Query;
use crate::api::histogram::{Bounds, Histogram, MICROS};
use crate::api::kinds::Text;
use crate::apiserver::served::Served;

mod page;
mod process;

pub use page::Store;

/// Upper bounds of durations.
static DURATIONS: Bounds = Bounds {
    upper: &[
        5_000, 25_000, 50_000, 100_000, 200_000, 400_000, 600_000, 800_000, 1_000_000, 1_250_000, 1_500_000,
        2_000_000, 3_000_000, 4_000_000, 5_000_000, 6_000_000, 8_000_000, 10_000_000, 15_000_000, 20_000_000,
        30_000_000, 45_000_000, 60_000_000,
    ],
    unit: MICROS,
};
/// Upper bounds of the sizes of answers.
static SIZES: Bounds =
    Bounds { upper: &[1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000], unit: 1 };
/// Documents that are told apart by their paths; others share one line, whatever clients make up.
const DOCUMENTS: &[&str] = &[
    "/api",
    "/apis",
    "/healthz",
    "/livez",
    "/metrics",
    "/metrics/slis",
    "/openapi/v2",
    "/openapi/v3",
    "/readyz",
    "/version",
];

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
    /// Of a deprecated version, the release in which it ends; empty when none is named.
    removed: Option<Text>,
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
            removed: None,
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
                labels.removed = kind.deprecated.as_deref().map(|told| removed_in(told).to_owned().into());
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

/// The release that a warning of a deprecated version names as the one in which it ends.
fn removed_in(warning: &str) -> &str {
    let rest = warning.split_once("unavailable in v").map_or("", |(_, rest)| rest);
    rest.split('+').next().unwrap_or_default()
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
#[derive(Debug)]
struct Series {
    /// Answers by code.
    codes: Mutex<BTreeMap<u16, u64>>,
    /// How long they took.
    durations: Histogram,
    /// How much of that was the server's own work.
    own: Histogram,
    /// How long the answers were that were read.
    sizes: Histogram,
    /// Long-running requests that are open.
    open: AtomicI64,
    /// Events sent to watchers.
    events: Arc<AtomicU64>,
}

impl Default for Series {
    fn default() -> Series {
        Series {
            codes: Mutex::default(),
            durations: Histogram::new(&DURATIONS),
            own: Histogram::new(&DURATIONS),
            sizes: Histogram::new(&SIZES),
            open: AtomicI64::default(),
            events: Arc::default(),
        }
    }
}

/// Everything that is counted; requests of the same labels share a line.
#[derive(Debug, Default)]
pub struct Metrics {
    series: RwLock<BTreeMap<Labels, Arc<Series>>>,
    /// Requests being answered: those that read, those that write.
    inflight: [AtomicI64; 2],
}

/// A request that is being answered.
pub struct Running {
    metrics: Arc<Metrics>,
    labels: Labels,
    series: Arc<Series>,
    began: Instant,
    answered: bool,
}

impl Metrics {
    /// A request has come.
    pub fn begin(self: &Arc<Self>, labels: Labels) -> Running {
        let series = self.series(&labels);
        if labels.is_long_running() {
            series.open.fetch_add(1, Ordering::Relaxed);
        } else {
            self.inflight[labels.kind_of_request()].fetch_add(1, Ordering::Relaxed);
        }
        Running { metrics: self.clone(), labels, series, began: Instant::now(), answered: false }
    }

    fn series(&self, labels: &Labels) -> Arc<Series> {
        if let Some(known) = self.series.read().unwrap_or_else(PoisonError::into_inner).get(labels) {
            return known.clone();
        }
        let mut all = self.series.write().unwrap_or_else(PoisonError::into_inner);
        all.entry(labels.clone()).or_default().clone()
    }

    /// All of them as they are now.
    fn all(&self) -> Vec<(Labels, Arc<Series>)> {
        let all = self.series.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(labels, series)| (labels.clone(), series.clone())).collect()
    }
}

impl Running {
    /// Whether the request stays open for as long as the client likes.
    pub fn is_long_running(&self) -> bool {
        self.labels.is_long_running()
    }

    /// Counts the events that a watcher is sent.
    pub fn events(&self) -> Arc<AtomicU64> {
        self.series.events.clone()
    }

    /// It has its answer, of so many bytes if that is known, and `waited` for others; one that is long-running goes on
    /// until this is dropped.
    pub fn answered(&mut self, code: u16, size: Option<u64>, waited: Duration) {
        let took = self.began.elapsed();
        let series = &self.series;
        *series.codes.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_default() += 1;
        if !self.labels.is_long_running() {
            series.durations.took(took);
            series.own.took(took.saturating_sub(waited));
        }
        if let (Some(size), Some(tell)) = (size, self.sizes()) {
            tell(size);
        }
        self.settle();
    }

    /// Takes the size of the answer of a request that reads.
    pub fn sizes(&self) -> Option<impl Fn(u64) + use<>> {
        let series = self.series.clone();
        matches!(self.labels.verb, "GET" | "LIST").then_some(move |size| series.sizes.add(size))
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
            self.series.open.fetch_sub(1, Ordering::Relaxed);
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
        read.answered(200, None, Duration::ZERO);
        drop(read);
        // Its client did not wait.
        drop(write);
        assert_eq!(inflight(), [0, 0]);
        watch.answered(200, None, Duration::ZERO);
        let open =
            || metrics.all().iter().map(|(_, series)| series.open.load(Ordering::Relaxed)).sum::<i64>();
        assert_eq!(open(), 1);
        drop(watch);
        assert_eq!(open(), 0);
    }
}
