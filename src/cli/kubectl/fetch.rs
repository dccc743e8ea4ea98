//! kubectl from where Kubernetes publishes it, checked by the sum that is published beside it.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use super::super::failure::{Failure, Kind};
use super::super::output;
use crate::api::version::{ARCHITECTURE, KUBERNETES};
use crate::daemon::cluster;
use crate::daemon::places::Places;

/// Where Kubernetes publishes its programs (<https://kubernetes.io/releases/download>).
pub const OFFICIAL: &str = "https://dl.k8s.io/release";

/// Where fetched programs are kept: of root beside the clusters, of anybody else in their own cache.
///
/// # Errors
/// When they have no home: what lies where everybody may write is not to be run.
pub fn cache(places: &Places) -> Result<PathBuf, Failure> {
    if nix::unistd::geteuid().is_root() {
        return Ok(places.programs());
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    caches.map(|caches| caches.join("minik")).ok_or_else(|| {
        Failure::new(Kind::Host, "there is no kubectl on PATH, and no place to keep one that is fetched")
            .hint("install kubectl, or set HOME")
    })
}

/// The program in the cache, which is fetched from `mirror` when it is not there yet.
pub async fn fetched(mirror: &str, cache: &Path) -> Result<PathBuf, Failure> {
    let program = cache.join(format!("kubectl-{KUBERNETES}"));
    if program.is_file() {
        return Ok(program);
    }
    let url = format!("{}/{KUBERNETES}/bin/linux/{}/kubectl", mirror.trim_end_matches('/'), ARCHITECTURE);
    output::note(format!("minik: there is no kubectl on PATH; fetching {url}"));
    let about = |error: String| {
        Failure::new(Kind::Host, format!("cannot fetch kubectl from {url}: {error}"))
            .hint("install kubectl, or name a mirror that this machine reaches: --binary-mirror URL")
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().build().map_err(|error| about(error.to_string()))?;
    let get = async |url: &str| http.get(url).send().await.and_then(reqwest::Response::error_for_status);
    let sum = async { get(&format!("{url}.sha256")).await?.text().await }.await;
    let sum = sum.map_err(|error| about(error.to_string()))?;
    let answer = get(&url).await.map_err(|error| about(error.to_string()))?;
    let bytes = body(answer).await.map_err(|error| about(error.to_string()))?;
    let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if !is_sum(&sum, &found) {
        return Err(about(format!("its SHA-256 is {found}, published is {:?}", sum.trim())));
    }
    cluster::write_file(&program, &bytes, 0o755).map_err(|error| about(error.to_string()))?;
    Ok(program)
}

/// An answer's body; a terminal shows how far it is.
async fn body(mut answer: reqwest::Response) -> reqwest::Result<Vec<u8>> {
    let bar = match answer.content_length() {
        Some(length) if io::stderr().is_terminal() => ProgressBar::new(length),
        _ => ProgressBar::hidden(),
    };
    if let Ok(style) = ProgressStyle::with_template("kubectl [{bar:40}] {bytes}/{total_bytes}") {
        bar.set_style(style);
    }
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        body.extend(&piece[..]);
        bar.inc(piece.len() as u64);
    }
    bar.finish_and_clear();
    Ok(body)
}

/// Whether a published sum, which a file's name may follow, is this one.
fn is_sum(published: &str, found: &str) -> bool {
    published.split_ascii_whitespace().next().is_some_and(|sum| sum.eq_ignore_ascii_case(found))
}
