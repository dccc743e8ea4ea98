//! The page `/metrics`.

use std::sync::atomic::Ordering;

use serde_json::Value;

use super::{BOUNDS, Labels, Metrics, process};
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
}

impl Metrics {
    /// The page; `version` is what `/version` answers.
    pub fn text(&self, store: &Store<'_>, version: &Value) -> String {
        let mut page = Exposition::default();
        self.requests(&mut page);
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
        build_info(&mut page, version);
        process::figures(&mut page);
        page.into_text()
    }

    fn requests(&self, page: &mut Exposition) {
        let all = self.lock();
        let name = "apiserver_request_total";
        let help = "[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.";
        page.family(name, Type::Counter, help);
        for (labels, series) in all.iter() {
            for (code, count) in &series.codes {
                page.sample(name, &labels.with(&[("code", &code.to_string())]), count);
            }
        }
        let name = "apiserver_request_duration_seconds";
        let help = "[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.";
        page.family(name, Type::Histogram, help);
        let (bucket, sum, count) = (format!("{name}_bucket"), format!("{name}_sum"), format!("{name}_count"));
        for (labels, series) in all.iter().filter(|(labels, _)| !labels.is_long_running()) {
            let mut total = 0;
            let bounds = BOUNDS
                .iter()
                .map(|millis| format!("{}", std::time::Duration::from_millis(*millis).as_secs_f64()));
            for (bound, more) in bounds.chain(["+Inf".to_owned()]).zip(series.durations) {
                total += more;
                let mut all = labels.with(&[]);
                all.push(("le", &bound));
                page.sample(&bucket, &all, total);
            }
            page.sample(&sum, &labels.with(&[]), series.sum.as_secs_f64());
            page.sample(&count, &labels.with(&[]), total);
        }
        let name = "apiserver_longrunning_requests";
        let help = "[STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.";
        page.family(name, Type::Gauge, help);
        for (labels, series) in all.iter().filter(|(labels, _)| labels.is_long_running()) {
            page.sample(name, &labels.with(&[]), series.open);
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
        begin(Method::GET, "/api/v1/namespaces/a/pods/b").answered(404);
        let mut watch = begin(Method::GET, "/api/v1/pods?watch=1");
        watch.answered(200);
        watch.events().fetch_add(3, Ordering::Relaxed);
        let store = Store { revision: 7, objects: vec![(kinds::by_resource("", "v1", "pods").unwrap(), 2)] };
        let page = metrics.text(&store, &json!({"major": "1", "gitVersion": "v1.37.0"}));
        let of = "component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"\",\
                  verb=\"GET\",version=\"v1\"";
        for line in [
            &format!("apiserver_request_total{{code=\"404\",{of}}} 1"),
            &format!("apiserver_request_duration_seconds_bucket{{{of},le=\"0.025\"}} 1"),
            &format!("apiserver_request_duration_seconds_bucket{{{of},le=\"+Inf\"}} 1"),
            &format!("apiserver_request_duration_seconds_count{{{of}}} 1"),
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
