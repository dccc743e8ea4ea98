//! A local, always current copy of the objects of one kind.
//!
//! The protocol is one state machine: list, then watch from the list's revision; 410 or a broken watch lists
//! again. Readers get `Arc`s out of a map and wake when a key changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::{Api, Resource, decode};
use crate::api::request::{Change, Changes, ListOptions, WatchOptions};
use crate::api::status::Status;

/// `NAMESPACE/NAME`, or `NAME` for cluster-scoped kinds.
pub type Key = String;

/// The key of an object.
pub fn key_of<K: Resource>(object: &K) -> Key {
    let meta = object.metadata();
    let name = meta.name.as_deref().unwrap_or("");
    match meta.namespace.as_deref() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

/// A key's namespace (empty for cluster-scoped kinds) and name.
pub fn split_key(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}

/// The reading end: cheap to clone.
pub struct Reflector<K> {
    shared: Arc<Shared<K>>,
    synced: watch::Receiver<bool>,
}

impl<K> Clone for Reflector<K> {
    fn clone(&self) -> Self {
        Reflector { shared: self.shared.clone(), synced: self.synced.clone() }
    }
}

struct Shared<K> {
    cache: Mutex<Cache<K>>,
}

struct Cache<K> {
    objects: BTreeMap<Key, Arc<K>>,
    subscribers: Vec<Weak<Pending>>,
}

/// Keys that a subscriber has not yet taken.
struct Pending {
    keys: Mutex<(VecDeque<Key>, BTreeSet<Key>)>,
    wake: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pending {
    fn add(&self, key: &str) {
        let mut keys = lock(&self.keys);
        if keys.1.insert(key.to_owned()) {
            keys.0.push_back(key.to_owned());
        }
        drop(keys);
        self.wake.notify_one();
    }
}

/// Names keys that changed since the last call; a key may be named for no visible change, never missed.
pub struct Subscription {
    pending: Arc<Pending>,
    /// Closed when the feeding task is gone.
    synced: watch::Receiver<bool>,
}

impl Subscription {
    /// A changed key that is there already.
    pub fn try_next(&mut self) -> Option<Key> {
        let mut keys = lock(&self.pending.keys);
        let key = keys.0.pop_front()?;
        keys.1.remove(&key);
        Some(key)
    }

    /// The next changed key; `None` when the reflector ended.
    pub async fn next(&mut self) -> Option<Key> {
        loop {
            {
                let mut keys = lock(&self.pending.keys);
                if let Some(key) = keys.0.pop_front() {
                    keys.1.remove(&key);
                    return Some(key);
                }
            }
            tokio::select! {
                () = self.pending.wake.notified() => {}
                changed = self.synced.changed() => if changed.is_err() { return None },
            }
        }
    }
}

impl<K: Resource> Reflector<K> {
    /// A reflector and the task that feeds it; the task ends when dropped.
    pub fn new(
        api: Api<K>,
        options: ListOptions,
    ) -> (Reflector<K>, impl Future<Output = ()> + Send + 'static) {
        let cache = Cache { objects: BTreeMap::new(), subscribers: Vec::new() };
        let shared = Arc::new(Shared { cache: Mutex::new(cache) });
        let (synced_sender, synced) = watch::channel(false);
        let feeder = Feeder { api, options, shared: shared.clone(), synced: synced_sender };
        (Reflector { shared, synced }, feeder.run())
    }

    /// Waits until the first list has arrived (or the feeding task is gone).
    pub async fn synced(&self) {
        let mut synced = self.synced.clone();
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// The object of this key.
    pub fn get(&self, key: &str) -> Option<Arc<K>> {
        lock(&self.shared.cache).objects.get(key).cloned()
    }

    /// All objects, in key order.
    pub fn list(&self) -> Vec<Arc<K>> {
        lock(&self.shared.cache).objects.values().cloned().collect()
    }

    /// Keys that change from now on; begins by naming every present key.
    pub fn subscribe(&self) -> Subscription {
        let pending = Arc::new(Pending { keys: Mutex::default(), wake: Notify::new() });
        let mut cache = lock(&self.shared.cache);
        for key in cache.objects.keys() {
            pending.add(key);
        }
        cache.subscribers.push(Arc::downgrade(&pending));
        drop(cache);
        Subscription { pending, synced: self.synced.clone() }
    }
}

/// Where the conversation with the API server stands.
enum State {
    /// Nothing is known.
    Empty,
    /// Everything up to a revision is known.
    Listed { resource_version: String },
    /// Changes come in.
    Watching { resource_version: String, changes: Box<dyn Changes> },
    /// The last step failed; try again from the start after a while.
    Failed { tries: u32 },
}

/// The first wait after a failure.
const BACKOFF: Duration = Duration::from_millis(100);
/// The longest.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

struct Feeder<K> {
    api: Api<K>,
    options: ListOptions,
    shared: Arc<Shared<K>>,
    synced: watch::Sender<bool>,
}

impl<K: Resource> Feeder<K> {
    async fn run(self) {
        let mut state = State::Empty;
        let mut tries = 0;
        loop {
            state = match self.step(state, &mut tries).await {
                Ok(next) => next,
                Err(status) => {
                    // A watch that fell behind lists again at once; anything else waits a little.
                    if status.is("Expired") {
                        State::Empty
                    } else {
                        tracing::warn!(kind = K::KIND, %status, "list or watch failed");
                        tries += 1;
                        State::Failed { tries }
                    }
                }
            };
        }
    }

    async fn step(&self, state: State, tries: &mut u32) -> Result<State, Status> {
        match state {
            State::Failed { tries } => {
                let wait = BACKOFF.saturating_mul(1 << tries.min(7)).min(BACKOFF_MAX);
                tokio::time::sleep(wait.mul_f64(0.8 + 0.4 * super::random_fraction())).await;
                Ok(State::Empty)
            }
            State::Empty => {
                let listed = self.api.list(self.options.clone()).await?;
                self.replace(listed.items);
                self.synced.send_replace(true);
                *tries = 0;
                Ok(State::Listed { resource_version: listed.resource_version })
            }
            State::Listed { resource_version } => {
                let list = ListOptions { resource_version: resource_version.clone(), ..self.options.clone() };
                let options = WatchOptions { list, bookmarks: true, ..WatchOptions::default() };
                let changes = self.api.watch(options).await?;
                Ok(State::Watching { resource_version, changes })
            }
            State::Watching { mut resource_version, mut changes } => match changes.next().await {
                Some(Ok(change)) => {
                    let revision = self.take(change)?;
                    resource_version = revision.to_string();
                    Ok(State::Watching { resource_version, changes })
                }
                Some(Err(status)) => Err(status),
                None => Ok(State::Listed { resource_version }),
            },
        }
    }

    fn take(&self, change: Change) -> Result<u64, Status> {
        match change {
            Change::Added(entry) | Change::Modified(entry) => {
                let object: K = decode(&entry)?;
                let key = key_of(&object);
                let mut cache = lock(&self.shared.cache);
                cache.objects.insert(key.clone(), Arc::new(object));
                cache.tell(&key);
                Ok(entry.revision)
            }
            Change::Deleted(entry) => {
                let object: K = decode(&entry)?;
                let key = key_of(&object);
                let mut cache = lock(&self.shared.cache);
                cache.objects.remove(&key);
                cache.tell(&key);
                Ok(entry.revision)
            }
            Change::Bookmark { revision, .. } => Ok(revision),
        }
    }

    /// Puts a fresh list in place of what was known; names every key of either.
    fn replace(&self, items: Vec<K>) {
        let objects: BTreeMap<Key, Arc<K>> =
            items.into_iter().map(|object| (key_of(&object), Arc::new(object))).collect();
        let mut cache = lock(&self.shared.cache);
        let before = std::mem::replace(&mut cache.objects, objects);
        let keys: BTreeSet<Key> = before.into_keys().chain(cache.objects.keys().cloned()).collect();
        for key in &keys {
            cache.tell(key);
        }
    }
}

impl<K> Cache<K> {
    fn tell(&mut self, key: &str) {
        self.subscribers.retain(|subscriber| match subscriber.upgrade() {
            Some(pending) => {
                pending.add(key);
                true
            }
            None => false,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::testing::FakeApi;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    fn map(name: &str, value: &str) -> serde_json::Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
               "metadata": {"namespace": "d", "name": name}, "data": {"v": value}})
    }

    async fn until(reflector: &Reflector<ConfigMap>, changes: &mut Subscription, expected: &[(&str, &str)]) {
        loop {
            let now: Vec<(String, String)> = reflector
                .list()
                .iter()
                .map(|m| (m.metadata.name.clone().unwrap(), m.data.clone().unwrap()["v"].clone()))
                .collect();
            if now.iter().map(|(a, b)| (a.as_str(), b.as_str())).eq(expected.iter().copied()) {
                return;
            }
            changes.next().await.expect("the reflector ended");
        }
    }

    #[tokio::test]
    async fn follows_and_lists_again_after_falling_behind() {
        let api = FakeApi::default();
        api.put("configmaps", map("a", "1"));
        let (reflector, feed) =
            Reflector::<ConfigMap>::new(api.client().namespaced("d"), ListOptions::default());
        let task = tokio::spawn(feed);
        reflector.synced().await;
        let mut changes = reflector.subscribe();
        assert_eq!(changes.next().await.unwrap(), "d/a");
        api.put("configmaps", map("b", "1"));
        until(&reflector, &mut changes, &[("a", "1"), ("b", "1")]).await;
        api.break_watches();
        api.remove("configmaps", "d", "a");
        api.put("configmaps", map("b", "2"));
        until(&reflector, &mut changes, &[("b", "2")]).await;
        task.abort();
        let _ = task.await;
        while changes.next().await.is_some() {}
    }
}
