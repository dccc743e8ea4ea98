//! `/livez`, `/readyz` and `/healthz`: what is checked, and Kubernetes' words about it.
//!
//! Source: k8s.io/apiserver `pkg/server/healthz`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};

use super::Server;
use super::query::Query;
use crate::api::exposition::{Exposition, Type};
use crate::api::status::Status;
use crate::apiserver::answer::{self, Body};

/// How long the store may take to answer.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// One of the three questions, perhaps about a single check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Probe<'a> {
    name: &'static str,
    check: Option<&'a str>,
}

/// A check's name and, when it fails, why.
type Check = (&'static str, Result<(), String>);

/// What was checked so far, for `/metrics/slis`.
#[derive(Debug, Default)]
pub(super) struct Checked(Mutex<BTreeMap<(&'static str, &'static str), Outcomes>>);

/// How the last check of a name went, and how many went well and ill.
#[derive(Debug, Default, Clone, Copy)]
struct Outcomes {
    well: bool,
    counts: [u64; 2],
}

impl Checked {
    fn add(&self, probe: &'static str, checks: &[Check]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, result) in checks {
            let outcomes = all.entry((*name, probe)).or_default();
            outcomes.well = result.is_ok();
            outcomes.counts[usize::from(result.is_err())] += 1;
        }
    }

    /// The page, with the names of k8s.io/component-base `metrics/prometheus/slis`.
    pub(super) fn text(&self) -> String {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut page = Exposition::default();
        let name = "kubernetes_healthcheck";
        page.family(name, Type::Gauge, "[STABLE] This metric records the result of a single healthcheck.");
        for ((check, probe), outcomes) in &all {
            page.sample(name, &[("name", check), ("type", probe)], u8::from(outcomes.well));
        }
        let name = "kubernetes_healthchecks_total";
        page.family(name, Type::Counter, "[STABLE] This metric records the results of all healthcheck.");
        for ((check, probe), outcomes) in &all {
            for (status, count) in ["success", "error"].iter().zip(outcomes.counts).filter(|(_, n)| *n > 0) {
                page.sample(name, &[("name", check), ("status", status), ("type", probe)], count);
            }
        }
        page.into_text()
    }
}

impl<'a> Probe<'a> {
    /// The question that a path asks.
    pub(super) fn of(path: &'a str) -> Option<Probe<'a>> {
        ["healthz", "livez", "readyz"].into_iter().find_map(|name| {
            let rest = path.strip_prefix('/')?.strip_prefix(name)?;
            match rest.strip_prefix('/') {
                Some(check) => Some(Probe { name, check: Some(check) }),
                None => rest.is_empty().then_some(Probe { name, check: None }),
            }
        })
    }
}

impl Server {
    /// Asks what the probe asks.
    pub(super) async fn health(
        &self,
        probe: Probe<'_>,
        query: &Query,
    ) -> Result<http::Response<Body>, Status> {
        let checks = self.checks(probe.name).await;
        self.checked.add(probe.name, &checks);
        let (code, text) = match probe.check {
            None => {
                let excluded: Vec<&str> = query.all("exclude").collect();
                report(probe.name, &checks, &excluded, query.all("verbose").next().is_some())
            }
            Some(name) => {
                let (_, found) =
                    checks.iter().find(|(known, _)| *known == name).ok_or_else(Status::no_such_path)?;
                match found {
                    Ok(()) => (200, "ok".to_owned()),
                    Err(why) => (500, format!("internal server error: {why}\n")),
                }
            }
        };
        let mut response = answer::typed(code, "text/plain; charset=utf-8", text);
        let headers = response.headers_mut();
        headers
            .insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
        Ok(response)
    }

    async fn checks(&self, probe: &str) -> Vec<Check> {
        let store = self.api.registry().store();
        let stored = match tokio::time::timeout(STORE_PATIENCE, store.check()).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err("the store does not answer".to_owned()),
        };
        // The store goes by the name of the one that everybody else's clusters have.
        let mut checks: Vec<Check> = vec![("ping", Ok(())), ("log", Ok(())), ("etcd", stored)];
        checks.extend(
            self.api
                .post_start_hooks()
                .map(|(name, done)| (name, if done { Ok(()) } else { Err("not finished".to_owned()) })),
        );
        if probe == "readyz" {
            let stopping = self.stopping.is_cancelled();
            let state = if stopping { Err("process is shutting down".to_owned()) } else { Ok(()) };
            checks.push(("shutdown", state));
        }
        checks
    }
}

/// Code and text for all checks together; a failure is always told in full, though without its reason.
fn report(probe: &str, checks: &[Check], excluded: &[&str], verbose: bool) -> (u16, String) {
    let mut text = String::new();
    let mut failed = false;
    for (name, result) in checks {
        if excluded.contains(name) {
            text.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        match result {
            Ok(()) => text.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                failed = true;
                tracing::warn!(check = name, probe, %why, "a health check failed");
                text.push_str(&format!("[-]{name} failed: reason withheld\n"));
            }
        }
    }
    let mut unknown: Vec<String> = excluded
        .iter()
        .filter(|name| !checks.iter().any(|(known, _)| known == *name))
        .map(|name| format!("{name:?}"))
        .collect();
    unknown.sort();
    unknown.dedup();
    if !unknown.is_empty() {
        let names = unknown.join(",");
        text.push_str(&format!("warn: some health checks cannot be excluded: no matches for {names}\n"));
    }
    match (failed, verbose) {
        (true, _) => (500, format!("{text}{probe} check failed\n")),
        (false, true) => (200, format!("{text}{probe} check passed\n")),
        (false, false) => (200, "ok".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_read_as_kubernetes_does() {
        let well: &[Check] = &[("ping", Ok(())), ("store", Ok(()))];
        let ill: &[Check] = &[("ping", Ok(())), ("store", Err("full".into()))];
        for (checks, excluded, verbose, code, text) in [
            (well, &[][..], false, 200, "ok"),
            (well, &[], true, 200, "[+]ping ok\n[+]store ok\nreadyz check passed\n"),
            (ill, &[], false, 500, "[+]ping ok\n[-]store failed: reason withheld\nreadyz check failed\n"),
            (ill, &["store"], false, 200, "ok"),
            (ill, &["store"], true, 200, "[+]ping ok\n[+]store excluded: ok\nreadyz check passed\n"),
            (
                well,
                &["b", "a"],
                true,
                200,
                "[+]ping ok\n[+]store ok\nwarn: some health checks cannot be excluded: no matches for \
                 \"a\",\"b\"\nreadyz check passed\n",
            ),
        ] {
            assert_eq!(report("readyz", checks, excluded, verbose), (code, text.to_owned()));
        }
    }

    #[test]
    fn what_was_checked_is_counted() {
        let checked = Checked::default();
        checked.add("livez", &[("ping", Ok(()))]);
        checked.add("livez", &[("ping", Err("ill".into()))]);
        let page = checked.text();
        for line in [
            "kubernetes_healthcheck{name=\"ping\",type=\"livez\"} 0",
            "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"livez\"} 1",
            "kubernetes_healthchecks_total{name=\"ping\",status=\"error\",type=\"livez\"} 1",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
        }
    }

    #[test]
    fn paths_name_probes_and_checks() {
        assert_eq!(Probe::of("/readyz"), Some(Probe { name: "readyz", check: None }));
        let hook = "poststarthook/bootstrap-controller";
        assert_eq!(
            Probe::of("/livez/poststarthook/bootstrap-controller"),
            Some(Probe { name: "livez", check: Some(hook) })
        );
        assert_eq!(Probe::of("/readyzz"), None);
    }
}
