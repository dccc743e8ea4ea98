//! `/livez`, `/readyz` and `/healthz`: what is checked, and Kubernetes' words about it.
//!
//! Source: k8s.io/apiserver `pkg/server/healthz`.

use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};

use super::Server;
use super::query::Query;
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
type Checked = (&'static str, Result<(), String>);

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

    async fn checks(&self, probe: &str) -> Vec<Checked> {
        let store = self.api.registry().store();
        let stored = match tokio::time::timeout(STORE_PATIENCE, store.check()).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err("the store does not answer".to_owned()),
        };
        // The store goes by the name of the one that everybody else's clusters have.
        let mut checks: Vec<Checked> = vec![("ping", Ok(())), ("log", Ok(())), ("etcd", stored)];
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
fn report(probe: &str, checks: &[Checked], excluded: &[&str], verbose: bool) -> (u16, String) {
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
        let well: &[Checked] = &[("ping", Ok(())), ("store", Ok(()))];
        let ill: &[Checked] = &[("ping", Ok(())), ("store", Err("full".into()))];
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
