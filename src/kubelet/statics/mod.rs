//! Static pods: manifests in a folder of this host run whatever the API says, which shows a mirror of each.
//!
//! The API server checks and completes a mirror like any pod, and the kubelet runs what it answers; so a static pod
//! lives like every other, but that its manifest alone says when it ends.

mod manifest;
mod plan;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::manifest::Static;
use self::plan::{Shown, Step, plan};
use super::backoff::Backoff;
use super::context::Context;
use super::directory::Watch;
use super::pod::mirrored;
use crate::api::request::DeleteOptions;
use crate::api::status::Status;
use crate::client::events::EventType;
use crate::client::reflector::{Key, Reflector, key_of, split_key};

/// How long the folder must have been quiet before it is read: a file that is being written changes several times.
const QUIET: Duration = Duration::from_millis(50);

/// How long to wait after the API server failed.
const RETRY: Duration = Duration::from_secs(1);

/// The static pods of a node; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Statics(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// A pod's worker has ended.
    ended: Notify,
    /// The folder was read.
    read: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// What the folder holds.
    wanted: BTreeMap<Key, Static>,
    /// Those that the API does not take, by hash: they run all the same.
    unshown: BTreeSet<String>,
    /// The pods of this node that have a worker, by the uid by which they are run.
    active: HashMap<String, Key>,
}

/// What the folder holds, and what is wrong in it, by file.
type Folder = (BTreeMap<Key, Static>, BTreeMap<PathBuf, String>);

impl Statics {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pod as it is run. A mirror stands for its static pod, which has its own uid and does not end when the mirror
    /// is deleted; `None` for one that only claims to be a mirror, or is one no longer.
    pub fn as_run(&self, pod: Arc<Pod>) -> Option<Arc<Pod>> {
        let Some(uid) = mirrored(&pod).map(str::to_owned) else { return Some(pod) };
        let genuine = self.lock().wanted.get(&key_of(&*pod)).is_some_and(|one| one.hash == uid);
        if !genuine || is_changed(&pod) {
            return None;
        }
        let mut run = Pod::clone(&pod);
        run.metadata.uid = Some(uid);
        run.metadata.deletion_timestamp = None;
        Some(Arc::new(run))
    }

    /// The static pod of this key, when the API does not take its mirror and what it replaces has ended.
    pub fn unshown(&self, key: &str) -> Option<Arc<Pod>> {
        let state = self.lock();
        let one = state.wanted.get(key).filter(|one| state.unshown.contains(&one.hash))?;
        let waits = state.active.iter().any(|(uid, of)| of == key && *uid != one.hash);
        let pod = (!waits).then(|| one.unshown())?;
        pod.inspect_err(|error| tracing::warn!(pod = key, %error, "no pod")).ok().map(Arc::new)
    }

    /// The keys of all of them.
    pub fn unshown_keys(&self) -> Vec<Key> {
        let state = self.lock();
        let unshown = state.wanted.values().filter(|one| state.unshown.contains(&one.hash));
        unshown.map(|one| one.key.clone()).collect()
    }

    /// Whether the pod with this uid is a static one whose manifest is there.
    pub fn keeps(&self, uid: &str) -> bool {
        self.lock().wanted.values().any(|one| one.hash == uid)
    }

    /// A pod's worker begins.
    pub fn began(&self, uid: &str, key: &Key) {
        self.lock().active.insert(uid.to_owned(), key.clone());
    }

    /// A pod's worker has ended, and nothing of the pod is left.
    pub fn ended(&self, uid: &str) {
        self.lock().active.remove(uid);
        self.0.ended.notify_one();
    }

    /// Waits until the folder was read anew.
    pub async fn was_read(&self) {
        self.0.read.notified().await;
    }

    /// Reads the folder; the answer follows it, and keeps the API's mirrors, for ever.
    pub async fn follow<R: Send + Sync + 'static>(
        self,
        context: Arc<Context<R>>,
        pods: Reflector<Pod>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let folder = context.config.manifests.clone();
        let watch = fs::create_dir_all(&folder).and_then(|()| Watch::new(&folder));
        let mut mirrors =
            Mirrors { statics: self, context, pods, refusals: HashMap::new(), told: BTreeMap::new() };
        mirrors.read(&folder).await;
        async move {
            match watch {
                Ok(watch) => mirrors.keep(&folder, &watch).await,
                Err(error) => {
                    tracing::error!(folder = %folder.display(), %error, "cannot watch the manifests of static pods");
                }
            }
        }
    }
}

/// Whether somebody has changed a mirror's spec, which then shows its static pod no longer.
fn is_changed(pod: &Pod) -> bool {
    pod.metadata.generation.is_some_and(|generation| generation > 1)
}

/// Keeps the mirrors.
struct Mirrors<R> {
    statics: Statics,
    context: Arc<Context<R>>,
    pods: Reflector<Pod>,
    /// Static pods, by hash, that the API does not take, and when they are tried again.
    refusals: HashMap<String, (Backoff, Instant)>,
    /// What is wrong in the folder, by file, and has been told.
    told: BTreeMap<PathBuf, String>,
}

impl<R> Mirrors<R> {
    async fn keep(&mut self, folder: &Path, watch: &Watch) {
        let mut keys = self.pods.subscribe();
        loop {
            loop {
                let again = self.reconcile().await;
                let timer = async {
                    match again {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = watch.changed() => break,
                    () = self.statics.0.ended.notified() => {}
                    key = keys.next() => if key.is_none() { return },
                    () = timer => {}
                }
            }
            while tokio::time::timeout(QUIET, watch.changed()).await.is_ok() {}
            self.read(folder).await;
        }
    }

    /// Reads the folder; what is wrong in it is told once.
    async fn read(&mut self, folder: &Path) {
        let (at, node) = (folder.to_owned(), self.context.config.node.clone());
        let read = tokio::task::spawn_blocking(move || read_folder(&at, &node)).await;
        let (wanted, wrong) = match read.map_err(io::Error::other).flatten() {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(folder = %folder.display(), %error, "cannot read the manifests of static pods");
                return;
            }
        };
        for (file, why) in wrong.iter().filter(|(file, why)| self.told.get(*file) != Some(why)) {
            let message = format!(
                "Error reading static pod manifest {:?}, ignoring: {why}",
                file.display().to_string()
            );
            tracing::warn!("{message}");
            self.tell(&message);
        }
        self.told = wrong;
        self.refusals.retain(|hash, _| wanted.values().any(|one| one.hash == *hash));
        let mut state = self.statics.lock();
        state.unshown.retain(|hash| wanted.values().any(|one| one.hash == *hash));
        state.wanted = wanted;
        drop(state);
        self.statics.0.read.notify_one();
    }

    /// A warning about the node, whose folder it is.
    fn tell(&self, message: &str) {
        self.context.node_event(EventType::Warning, "FailedValidation", message);
    }

    /// Brings the mirrors in line; answers when to try again what failed.
    async fn reconcile(&mut self) -> Option<Instant> {
        let steps = {
            let state = self.statics.lock();
            plan(&state.wanted, &self.shown(&state.wanted), &state.active)
        };
        let mut again: Option<Instant> = None;
        for step in steps {
            let done = match &step {
                Step::Delete { key, uid } => self.delete(key, uid).await,
                Step::Create(key) => match self.create(key).await {
                    Ok(wait) => {
                        again = again.into_iter().chain(wait).min();
                        Ok(())
                    }
                    Err(status) => Err(status),
                },
            };
            if let Err(status) = done {
                tracing::warn!(?step, %status, "mirror of a static pod not kept");
                let soon = Instant::now() + RETRY;
                again = Some(again.map_or(soon, |at| at.min(soon)));
            }
        }
        again
    }

    fn shown(&self, wanted: &BTreeMap<Key, Static>) -> Vec<Shown> {
        let pods = self.pods.list();
        let relevant =
            pods.iter().filter(|pod| mirrored(pod).is_some() || wanted.contains_key(&key_of(&***pod)));
        relevant
            .map(|pod| Shown {
                key: key_of(&**pod),
                uid: pod.metadata.uid.clone().unwrap_or_default(),
                of: mirrored(pod).map(str::to_owned),
                over: pod.metadata.deletion_timestamp.is_some() || is_changed(pod),
            })
            .collect()
    }

    async fn delete(&self, key: &Key, uid: &str) -> Result<(), Status> {
        let (namespace, name) = split_key(key);
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            precondition_uid: Some(uid.to_owned()),
            ..DeleteOptions::default()
        };
        match self.context.client.namespaced::<Pod>(namespace).delete(name, options).await {
            Err(status) if !status.is("NotFound") && !status.is("Conflict") => Err(status),
            _ => Ok(()),
        }
    }

    /// Shows a static pod; one that the API does not take is told of and tried again later, as what it lacks (its
    /// namespace) may come. It runs meanwhile, unless it is no pod at all.
    async fn create(&mut self, key: &Key) -> Result<Option<Instant>, Status> {
        let Some(one) = self.statics.lock().wanted.get(key).cloned() else { return Ok(None) };
        let now = Instant::now();
        if let Some((_, until)) = self.refusals.get(&one.hash).filter(|(_, until)| *until > now) {
            return Ok(Some(*until));
        }
        let node = &self.context.config.node;
        let owner = self.context.client.all::<Node>().get(node).await?;
        let mut mirror = one.mirror;
        mirror["metadata"]["annotations"]["kubernetes.io/config.seen"] =
            json!(jiff::Timestamp::now().to_string());
        mirror["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "v1", "kind": "Node", "name": node, "uid": owner.metadata.uid, "controller": true,
        }]);
        let (namespace, _) = split_key(key);
        let made =
            match serde_json::from_value::<Pod>(mirror) {
                Ok(pod) => {
                    self.context.client.namespaced::<Pod>(namespace).create(&pod).await.map_err(|status| {
                        (status.to_string(), !status.is("Invalid") && !status.is("BadRequest"))
                    })
                }
                Err(error) => Err((error.to_string(), false)),
            };
        match made {
            Ok(pod) => {
                self.refusals.remove(&one.hash);
                self.statics.lock().unshown.remove(&one.hash);
                self.pods.reached(&pod).await;
                Ok(None)
            }
            Err((why, runs)) => {
                if runs && self.statics.lock().unshown.insert(one.hash.clone()) {
                    self.statics.0.read.notify_one();
                }
                let (backoff, until) =
                    self.refusals.entry(one.hash).or_insert_with(|| (Backoff::quick(), now));
                backoff.grow(now, now);
                *until = now + backoff.delay();
                let until = *until;
                let message = match runs {
                    true => format!("Failed creating a mirror pod for {key}: {why}"),
                    false => format!("Error validating pod {key} from file, ignoring: {why}"),
                };
                tracing::warn!("{message}");
                self.tell(&message);
                Ok(Some(until))
            }
        }
    }
}

/// Reads every manifest of a folder; of two with the same name the first counts.
fn read_folder(folder: &Path, node: &str) -> io::Result<Folder> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Editors keep what is not ready in hidden files.
        if !entry.file_name().to_string_lossy().starts_with('.') && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    let (mut wanted, mut wrong) = (BTreeMap::new(), BTreeMap::new());
    for file in files {
        let read = match fs::read(&file) {
            // It went while the others were read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => Err(error.to_string()),
            Ok(bytes) => manifest::read(&bytes, node),
        };
        match read {
            Ok(None) => {}
            Ok(Some(one)) if wanted.contains_key(&one.key) => {
                wrong.insert(file, format!("pod {} is in another file of the folder too", one.key));
            }
            Ok(Some(one)) => drop(wanted.insert(one.key.clone(), one)),
            Err(why) => drop(wrong.insert(file, why)),
        }
    }
    Ok((wanted, wrong))
}

#[cfg(test)]
mod tests;
