//! The page `/metrics`.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use serde_json::Value;

use super::{Labels, Metrics, Series, process};
use crate::api::exposition::{Exposition, Type};
use crate::api::kinds::Kind;

/// What is told of the store.
pub struct Store<'a> {
    /// The revision of the newest change.
    pub revision: u64,
    /// How many objects there are of each kind.
    pub objects: Vec<(&'a Kind, usize)>,
}

impl Labels {
    /// All of them, beside those that come first.
    fn with<'a>(&'a self, first: &[(&'static str, &'a str)]) -> Vec<(&'static str, &'a str)> {
        let own = [
            ("component", "apiserver"),
            ("dry_run", self.dry_run),
            ("group", &*self.group),
            ("resource", &*self.resource),
            ("scope", self.scope),
            ("subresource", &*self.subresource),
            ("verb", self.verb),
            ("version", &*self.version),
        ];
        first.iter().copied().chain(own).collect()
    }

    fn without_dry_run(&self) -> Vec<(&'static str, &str)> {
        self.with(&[]).into_iter().filter(|(label, _)| *label != "dry_run").collect()
    }
}

impl Metrics {
    /// Writes all of it; `version` is what `/version` answers.
    pub fn write(&self, page: &mut Exposition, store: &Store<'_>, version: &Value) {
        self.requests(page);
        let name = "apiserver_current_inflight_requests";
        let help = "[STABLE] Maximal number of currently used inflight request limit of this apiserver per request kind in last second.";
        page.family(name, Type::Gauge, help);
        for (kind, count) in ["readOnly", "mutating"].iter().zip(&self.inflight) {
            page.sample(name, &[("request_kind", kind)], count.load(Ordering::Relaxed));
        }
        for (name, help) in [
            (
                "apiserver_resource_objects",
                "[ALPHA] Number of stored objects at the time of last check split by kind.",
            ),
            (
                "apiserver_storage_objects",
                "[STABLE] Number of stored objects at the time of last check split by kind.",
            ),
        ] {
            page.family(name, Type::Gauge, help);
            for (kind, count) in &store.objects {
                let qualified = match &*kind.group {
                    "" => kind.plural.to_string(),
                    group => format!("{}.{group}", kind.plural),
                };
                match name {
                    "apiserver_storage_objects" => page.sample(name, &[("resource", &qualified)], count),
                    _ => page.sample(name, &[("group", &kind.group), ("resource", &kind.plural)], count),
                };
            }
        }
        let help = "Revision of the newest change.";
        page.single("minik_store_revision", Type::Gauge, help, store.revision);
        build_info(page, version);
        process::figures(page);
    }

    fn requests(&self, page: &mut Exposition) {
        let all = self.all();
        let name = "apiserver_request_total";
        let help = "[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.";
        page.family(name, Type::Counter, help);
        for (labels, series) in &all {
            for (code, count) in series.codes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                page.sample(name, &labels.with(&[("code", &code.to_string())]), count);
            }
        }
        let name = "apiserver_request_duration_seconds";
        let help = "[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.";
        page.family(name, Type::Histogram, help);
        for (labels, series) in all.iter().filter(|(_, series)| series.durations.count() > 0) {
            page.histogram(name, &labels.with(&[]), &series.durations);
        }
        let name = "apiserver_request_sli_duration_seconds";
        let help = "[STABLE] Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in seconds for each verb, group, version, resource, subresource, scope and component.";
        page.family(name, Type::Histogram, help);
        // Dry runs are not told apart here, so that they would come twice.
        for (labels, series) in
            all.iter().filter(|(l, series)| series.own.count() > 0 && l.dry_run.is_empty())
        {
            page.histogram(name, &labels.without_dry_run(), &series.own);
        }
        let name = "apiserver_response_sizes";
        let help = "[STABLE] Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.";
        page.family(name, Type::Histogram, help);
        for (labels, series) in
            all.iter().filter(|(l, series)| series.sizes.count() > 0 && l.dry_run.is_empty())
        {
            page.histogram(name, &labels.without_dry_run(), &series.sizes);
        }
        deprecated(page, &all);
        let name = "apiserver_longrunning_requests";
        let help = "[STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.";
        page.family(name, Type::Gauge, help);
        for (labels, series) in all.iter().filter(|(labels, _)| labels.is_long_running()) {
            page.sample(name, &labels.with(&[]), series.open.load(Ordering::Relaxed));
        }
        let name = "apiserver_watch_events_total";
        page.family(name, Type::Counter, "[ALPHA] Number of events sent in watch clients");
        for (labels, series) in all.iter().filter(|(labels, _)| labels.verb == "WATCH") {
            let of =
                [("group", &*labels.group), ("resource", &*labels.resource), ("version", &*labels.version)];
            let of = of.into_iter().chain([("scope", labels.scope)]).collect::<Vec<_>>();
            page.sample(name, &of, series.events.load(Ordering::Relaxed));
        }
    }
}

/// The deprecated versions that anybody has asked for.
fn deprecated(page: &mut Exposition, all: &[(Labels, Arc<Series>)]) {
    let name = "apiserver_requested_deprecated_apis";
    let help = "[STABLE] Gauge of deprecated APIs that have been requested, broken out by API group, version, resource, subresource, and removed_release.";
    page.family(name, Type::Gauge, help);
    let mut told = BTreeSet::new();
    for (labels, _) in all {
        let Some(removed) = &labels.removed else { continue };
        let of = [
            ("group", &*labels.group),
            ("removed_release", &**removed),
            ("resource", &*labels.resource),
            ("subresource", &*labels.subresource),
            ("version", &*labels.version),
        ];
        if told.insert(of) {
            page.sample(name, &of, 1);
        }
    }
}

fn build_info(page: &mut Exposition, version: &Value) {
    const NAMES: [(&str, &str); 9] = [
        ("build_date", "buildDate"),
        ("compiler", "compiler"),
        ("git_commit", "gitCommit"),
        ("git_tree_state", "gitTreeState"),
        ("git_version", "gitVersion"),
        ("go_version", "goVersion"),
        ("major", "major"),
        ("minor", "minor"),
        ("platform", "platform"),
    ];
    let labels = NAMES.map(|(label, field)| (label, version[field].as_str().unwrap_or_default()));
    let name = "kubernetes_build_info";
    let help = "[ALPHA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.";
    page.family(name, Type::Gauge, help).sample(name, &labels, 1);
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;
    use crate::api::kinds;
    use serde_json::json;

    #[test]
    fn the_page_has_the_usual_names() {
        let metrics = Arc::new(Metrics::default());
        let begin = |method: Method, uri: &str| metrics.begin(labelled(&Served::default(), &method, uri));
        begin(Method::GET, "/api/v1/namespaces/a/pods/b").answered(
            404,
            Some(1500),
            std::time::Duration::from_secs(60),
        );
        begin(Method::GET, "/api/v1/endpoints").answered(200, None, std::time::Duration::ZERO);
        let mut watch = begin(Method::GET, "/api/v1/pods?watch=1");
        watch.answered(200, None, std::time::Duration::ZERO);
        watch.events().fetch_add(3, Ordering::Relaxed);
        let store = Store { revision: 7, objects: vec![(kinds::by_resource("", "v1", "pods").unwrap(), 2)] };
        let mut page = Exposition::default();
        metrics.write(&mut page, &store, &json!({"major": "1", "gitVersion": "v1.37.0"}));
        let page = page.into_text();
        let of = "component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"\",\
                  verb=\"GET\",version=\"v1\"";
        for line in [
            &format!("apiserver_request_total{{code=\"404\",{of}}} 1"),
            &format!("apiserver_request_duration_seconds_bucket{{{of},le=\"0.025\"}} 1"),
            &format!("apiserver_request_duration_seconds_bucket{{{of},le=\"+Inf\"}} 1"),
            &format!("apiserver_request_duration_seconds_count{{{of}}} 1"),
            &format!("apiserver_request_sli_duration_seconds_sum{{{}}} 0", of.replace("dry_run=\"\",", "")),
            &format!("apiserver_response_sizes_bucket{{{},le=\"10000\"}} 1", of.replace("dry_run=\"\",", "")),
            "apiserver_requested_deprecated_apis{group=\"\",removed_release=\"\",resource=\"endpoints\",\
             subresource=\"\",version=\"v1\"} 1",
            "apiserver_longrunning_requests{component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",\
             scope=\"cluster\",subresource=\"\",verb=\"WATCH\",version=\"v1\"} 1",
            "apiserver_watch_events_total{group=\"\",resource=\"pods\",version=\"v1\",scope=\"cluster\"} 3",
            "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 0",
            "apiserver_storage_objects{resource=\"pods\"} 2",
            "minik_store_revision 7",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
        }
        for begin in
            ["kubernetes_build_info{", "process_resident_memory_bytes ", "process_cpu_seconds_total "]
        {
            assert!(page.lines().any(|l| l.starts_with(begin)), "{begin}");
        }
    }
}
