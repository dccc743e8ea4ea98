//! Ending and removing what a cluster made, with its daemon or without. All of it is found by the cluster's name.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use super::configs::{self, CONTAINER_LOGS, POD_LOGS, Ranges, cgroup_parent};
use super::places::Places;
use super::{lock, unit};
use crate::kubelet::observed::label;
use crate::network::PodNetwork;
use crate::proxy::Proxy;
use crate::runtime::cgroups::Tree;
use crate::runtime::protocol::SOCKET;
use crate::runtime::{ContainerState, Runtime, linux};
use crate::store::{Entry, Store};
use crate::sys::{process, removal, socket};

/// `SIGTERM`.
const TERM: i32 = 15;
/// `SIGKILL`.
const KILL: i32 = 9;
/// `ESRCH`.
const NO_SUCH_PROCESS: i32 = 3;
/// How long the supervisor may take to answer beyond the containers' grace, and a killed process to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks every container to end, and makes those end that have not after `grace`.
pub async fn end_containers<R: Runtime>(runtime: &R, grace: Duration) -> Vec<String> {
    let mut failures = Vec::new();
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
                failures.push(format!("container {}: {error}", container.id));
            }
        }
    }
    failures
}

/// Whether containers of the cluster may run: their supervisor is there, whether or not a daemon is.
pub fn something_runs(places: &Places) -> bool {
    let tree = Tree::detect(&cgroup_parent(places));
    let processes = tree.and_then(|tree| tree.leaf("supervisor").processes());
    processes.is_ok_and(|processes| !processes.is_empty())
}

/// The daemons of a cluster, by the lock that they hold and by the group that they are in; never the calling process.
pub fn daemons(places: &Places) -> Vec<i32> {
    let holder = lock::held(&places.daemon_lock()).ok().flatten().and_then(|holder| holder.pid);
    let group = Tree::detect(&cgroup_parent(places)).and_then(|tree| tree.leaf("daemon").processes());
    let mut pids = group.unwrap_or_default();
    pids.extend(holder);
    pids.sort_unstable();
    pids.dedup();
    pids.retain(|pid| u32::try_from(*pid) != Ok(std::process::id()));
    pids
}

/// Kills a process and waits for its end.
pub fn kill(pid: i32) -> io::Result<()> {
    end_process(pid, true)
}

/// Waits for the end of a process that is about to end by itself, and kills it when it does not.
pub fn wait_or_kill(pid: i32) -> io::Result<()> {
    end_process(pid, false).or_else(|_| end_process(pid, true))
}

fn end_process(pid: i32, by_signal: bool) -> io::Result<()> {
    let about = |error: io::Error| io::Error::new(error.kind(), format!("process {pid}: {error}"));
    let pidfd = match process::pidfd_open(pid) {
        Ok(pidfd) => pidfd,
        // Gone already.
        Err(error) if error.raw_os_error() == Some(NO_SUCH_PROCESS) => return Ok(()),
        Err(error) => return Err(about(error)),
    };
    if by_signal {
        process::send_signal(pidfd.as_fd(), KILL).map_err(about)?;
    }
    let patience = u16::try_from(PATIENCE.as_millis()).unwrap_or(u16::MAX);
    match process::wait_ended(pidfd.as_fd(), patience).map_err(about)? {
        true => Ok(()),
        false => Err(about(io::Error::other("it does not end"))),
    }
}

/// Ends all that a cluster still runs, its daemon included if that is beyond asking; its containers get `grace` to end
/// by themselves. Its files stay.
pub async fn end_without_daemon(places: &Places, grace: Duration) -> Vec<String> {
    let work = places.clone();
    let ended = tokio::task::spawn_blocking(move || {
        // Before its unit is stopped: one that is wedged would make systemd wait.
        let killed = daemons(&work).into_iter().filter_map(|pid| kill(pid).err());
        let mut failures: Vec<String> = killed.map(|error| format!("daemon: {error}")).collect();
        failures.extend(unit::stop(&work).err().map(|error| error.to_string()));
        failures
    });
    let mut failures = ended.await.unwrap_or_else(|error| vec![error.to_string()]);
    failures.extend(end_runtime(places, grace).await);
    failures.extend(remove_network(places).await);
    failures.extend(remove_cgroups(places));
    failures
}

/// Undoes, in the daemon itself, what its failed start has made.
pub async fn undo_start(places: &Places) -> Vec<String> {
    let mut failures = end_runtime(places, Duration::ZERO).await;
    failures.extend(remove_network(places).await);
    failures
}

/// Ends the containers and their supervisor.
async fn end_runtime(places: &Places, grace: Duration) -> Vec<String> {
    let config = match configs::runtime(places, cgroup_parent(places)) {
        Ok(config) => config,
        Err(error) => return vec![error.to_string()],
    };
    // Only one that runs is asked: connecting would start another.
    let mut failures = Vec::new();
    let path = config.run_dir.join(SOCKET);
    let runs = tokio::task::spawn_blocking(move || socket::connect(&path, PATIENCE)).await;
    if runs.is_ok_and(|connection| connection.is_ok()) {
        let orderly = async {
            let runtime = linux::LinuxRuntime::connect(config.clone()).await?;
            Ok::<_, crate::runtime::Error>(end_containers(&runtime, grace).await)
        };
        match tokio::time::timeout(grace + PATIENCE, orderly).await {
            Ok(Ok(more)) => failures.extend(more),
            Ok(Err(error)) => tracing::debug!(%error, "the supervisor did not end its containers"),
            // It does not answer, and would not when it is told to end.
            Err(_) => failures.extend(kill_supervisor(places).err().map(|e| format!("supervisor: {e}"))),
        }
    }
    failures.extend(linux::destroy(config).await.err().map(|error| format!("containers: {error}")));
    failures
}

fn kill_supervisor(places: &Places) -> io::Result<()> {
    let tree = Tree::detect(&cgroup_parent(places))?;
    tree.leaf("supervisor").processes()?.into_iter().try_for_each(kill)
}

/// Removes links, namespaces, routes and rules; goes on after failures.
pub async fn remove_network(places: &Places) -> Vec<String> {
    let ranges = Ranges::left(places);
    let rules = Proxy::destroy(configs::proxy(places, ranges)).await;
    let network = PodNetwork::destroy(&configs::network(places, ranges)).await;
    let mut failures: Vec<String> = rules.err().map(|e| format!("service rules: {e}")).into_iter().collect();
    failures.extend(network.err().map(|error| format!("pod network: {error}")));
    let users = configs::users(places).give_all_back();
    failures.extend(users.err().map(|error| format!("user ids of pods: {error}")));
    failures
}

/// Removes the files of a cluster, the logs of its pods and its cgroups. Nothing of it may run any more.
pub fn remove_files(places: &Places) -> Vec<String> {
    let mut failures = Vec::new();
    failures.extend(unit::remove(places).err());
    remove_logs(places, &mut failures);
    failures.extend(remove_cgroups(places));
    // Last the directory with the lock that keeps other commands out.
    for directory in [places.data(), places.run()] {
        failures.extend(removal::tree_with_mounts(&directory).err().map(|error| error.to_string()));
    }
    failures
}

fn remove_cgroups(places: &Places) -> Vec<String> {
    let tree = match Tree::detect(&cgroup_parent(places)) {
        Ok(tree) => tree,
        Err(error) => return vec![format!("cgroups: {error}")],
    };
    let groups = [tree.leaf("daemon"), tree.leaf("pods"), tree.root()];
    groups.iter().filter_map(|group| group.remove().err()).map(|error| format!("cgroup: {error}")).collect()
}

/// The uids of all pods that a cluster knows or has directories of.
fn pod_uids(places: &Places) -> Vec<String> {
    let directories = [places.data().join("pods"), places.run().join("pods")];
    let entries =
        directories.iter().flat_map(|directory| fs::read_dir(directory).into_iter().flatten().flatten());
    let mut uids: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
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
    let logs = Path::new(POD_LOGS);
    for entry in fs::read_dir(logs).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if uids.iter().any(|uid| name.ends_with(&format!("_{uid}")))
            && let Err(error) = removal::tree(&entry.path())
        {
            failures.push(error.to_string());
        }
    }
    let links = Path::new(CONTAINER_LOGS);
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
