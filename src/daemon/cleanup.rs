//! Ending and removing what a cluster made, with its daemon or without.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::config::{Cluster, Places};
use super::{Ranges, cgroup_parent, network_config, proxy_config, runtime_config, unit};
use crate::kubelet::observed::label;
use crate::network::{Cidr, PodNetwork};
use crate::proxy::Proxy;
use crate::runtime::cgroups::Tree;
use crate::runtime::{ContainerState, Runtime, linux};
use crate::store::{Entry, Store};
use crate::sys::mount;

/// `SIGTERM`.
const TERM: i32 = 15;
/// `SIGKILL`.
const KILL: i32 = 9;

/// Asks every container to end, and makes those end that have not after `grace`.
pub async fn end_containers<R: Runtime>(runtime: &R, grace: Duration) {
    let mut changes = runtime.changes();
    let running = || async {
        let observed = runtime.observe().await.unwrap_or_default();
        let alive =
            observed.containers.into_iter().filter(|c| matches!(c.state, ContainerState::Running { .. }));
        alive.collect::<Vec<_>>()
    };
    for container in running().await {
        let signal = container.labels.get(label::STOP_SIGNAL).and_then(|s| s.parse().ok()).unwrap_or(TERM);
        if let Err(error) = runtime.signal(&container.id, signal).await {
            tracing::warn!(container = container.id, %error, "not signalled");
        }
    }
    let all_ended = async {
        while !running().await.is_empty() {
            // Lagging is as good a reason to look again as a change.
            let _ = changes.recv().await;
        }
    };
    if tokio::time::timeout(grace, all_ended).await.is_err() {
        for container in running().await {
            if let Err(error) = runtime.signal(&container.id, KILL).await {
                tracing::warn!(container = container.id, %error, "not killed");
            }
        }
    }
}

/// Removes links, namespaces, routes and rules; goes on after failures.
pub async fn remove_network(places: &Places, cluster: &Cluster, pods: Cidr) -> Vec<String> {
    let mut failures = Vec::new();
    match Ranges::of(cluster) {
        Ok(ranges) => {
            if let Err(error) = Proxy::destroy(&proxy_config(places, ranges)).await {
                failures.push(format!("service rules: {error}"));
            }
        }
        Err(error) => failures.push(error.to_string()),
    }
    if let Err(error) = PodNetwork::destroy(&network_config(places, pods)).await {
        failures.push(format!("pod network: {error}"));
    }
    failures
}

/// Ends all that a cluster without a daemon still runs. Its files stay.
pub async fn end_without_daemon(places: &Places, cluster: &Cluster) -> Vec<String> {
    let mut failures = Vec::new();
    if let Err(error) = unit::stop(places) {
        failures.push(error.to_string());
    }
    match runtime_config(places, cgroup_parent(places)) {
        Ok(config) => {
            if let Err(error) = linux::destroy(config).await {
                failures.push(format!("containers: {error}"));
            }
        }
        Err(error) => failures.push(error.to_string()),
    }
    match Ranges::of(cluster) {
        Ok(ranges) => failures.extend(remove_network(places, cluster, ranges.pods).await),
        Err(error) => failures.push(error.to_string()),
    }
    failures
}

/// Removes the files of a cluster, the logs of its pods and its cgroups. Nothing of it may run any more.
pub fn remove_files(places: &Places) -> Vec<String> {
    let mut failures = Vec::new();
    failures.extend(unit::remove(places).err());
    remove_logs(places, &mut failures);
    for directory in [places.run(), places.data()] {
        if let Err(error) = remove_tree(&directory) {
            failures.push(format!("{}: {error}", directory.display()));
        }
    }
    // What this leaves empty goes too.
    let _ = fs::remove_dir(places.run().parent().unwrap_or(Path::new("/run/minik")));
    remove_cgroups(places, &mut failures);
    failures
}

fn remove_cgroups(places: &Places, failures: &mut Vec<String>) {
    match Tree::detect(&cgroup_parent(places)) {
        Ok(tree) => {
            for group in [tree.leaf("daemon"), tree.leaf("pods"), tree.root()] {
                if let Err(error) = group.remove() {
                    failures.push(format!("cgroup: {error}"));
                }
            }
        }
        Err(error) => failures.push(format!("cgroups: {error}")),
    }
}

/// Removes a directory with all that is mounted below it.
fn remove_tree(directory: &Path) -> io::Result<()> {
    for point in mount::below(directory)?.iter().rev() {
        mount::detach(point)?;
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The uids of all pods that a cluster knows or has directories of.
fn pod_uids(places: &Places) -> Vec<String> {
    let directories = fs::read_dir(places.data().join("pods")).into_iter().flatten().flatten();
    let mut uids: Vec<String> = directories.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    let path = places.data().join("store");
    if path.is_file()
        && let Ok(store) = Store::open(&path)
        && let Ok(pods) = store.list("pods/", None, 0, None)
    {
        let of = |entry: &Entry| entry.json()["metadata"]["uid"].as_str().map(str::to_owned);
        uids.extend(pods.entries.iter().filter_map(|entry| of(entry)));
    }
    uids
}

/// Removes logs of this cluster's pods, known by the uid at the end of their directories' names.
fn remove_logs(places: &Places, failures: &mut Vec<String>) {
    let uids = pod_uids(places);
    let logs = Path::new(super::POD_LOGS);
    for entry in fs::read_dir(logs).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if uids.iter().any(|uid| name.ends_with(&format!("_{uid}")))
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            failures.push(format!("{}: {error}", entry.path().display()));
        }
    }
    let links = Path::new(super::CONTAINER_LOGS);
    for entry in fs::read_dir(links).into_iter().flatten().flatten() {
        let dangling = fs::read_link(entry.path()).is_ok_and(|to| to.starts_with(logs) && !to.exists());
        if dangling {
            let _ = fs::remove_file(entry.path());
        }
    }
    for directory in [links, logs] {
        // Only when nothing else keeps logs there.
        let _ = fs::remove_dir(directory);
    }
}
