//! A local, always current copy of the objects of one kind.
//!
//! It [`follow`]s the collection. Readers get `Arc`s out of a map and wake when a key changes; a writer that must read its own writes
//! waits until the copy has [`reached`](Reflector::reached) them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde::Deserialize;
use tokio::sync::{Notify, watch};

use super::follow::{Follower, follow};
use super::{Api, Resource};
use crate::api::request::{Change, ListOptions};
use crate::store::{Entry, Revision};

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
    shown: watch::Receiver<Revision>,
}

impl<K> Clone for Reflector<K> {
    fn clone(&self) -> Self {
        Reflector { shared: self.shared.clone(), synced: self.synced.clone(), shown: self.shown.clone() }
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
        let (show, shown) = watch::channel(0);
        let feeder = Feeder::<K> { shared: shared.clone(), synced: synced_sender, show };
        let target = api.target(None, None);
        (Reflector { shared, synced, shown }, follow(api.client, target, options, feeder))
    }

    /// Waits until the first list has arrived (or the feeding task is gone).
    pub async fn synced(&self) {
        let mut synced = self.synced.clone();
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Waits until the copy shows what `look` looks for (or the feeding task is gone).
    pub async fn until(&self, look: impl Fn(&Reflector<K>) -> bool) {
        let mut shown = self.shown.clone();
        while !look(self) {
            if shown.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until the copy shows what a write answered (or the feeding task is gone).
    pub async fn reached(&self, written: &K) {
        let revision = written.metadata().resource_version.as_deref().and_then(|r| r.parse().ok());
        let revision: Revision = revision.unwrap_or_default();
        self.until(|reflector| *reflector.shown.borrow() >= revision).await;
    }

    /// The object of this key.
    pub fn get(&self, key: &str) -> Option<Arc<K>> {
        lock(&self.shared.cache).objects.get(key).cloned()
    }

    /// All objects, in key order.
    pub fn list(&self) -> Vec<Arc<K>> {
        lock(&self.shared.cache).objects.values().cloned().collect()
    }

    /// The objects of one namespace, in key order.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let prefix = format!("{namespace}/");
        let cache = lock(&self.shared.cache);
        let from_there = cache.objects.range(prefix.clone()..);
        let inside = from_there.take_while(|(key, _)| key.starts_with(&prefix));
        inside.map(|(_, object)| object.clone()).collect()
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

struct Feeder<K> {
    shared: Arc<Shared<K>>,
    synced: watch::Sender<bool>,
    show: watch::Sender<Revision>,
}

impl<K: Resource> Follower for Feeder<K> {
    fn listed(&mut self, entries: &[Arc<Entry>], revision: Revision) {
        self.replace(entries);
        self.show.send_replace(revision);
        self.synced.send_replace(true);
    }

    fn changed(&mut self, change: &Change, revision: Revision) {
        self.take(change);
        self.show.send_replace(revision);
    }
}

impl<K: Resource> Feeder<K> {
    fn take(&self, change: &Change) {
        match change {
            Change::Added(entry) | Change::Modified(entry) => {
                // What cannot be read stays as it was last understood.
                if let Some(object) = read::<K>(entry) {
                    let key = key_of(&*object);
                    let mut cache = lock(&self.shared.cache);
                    cache.objects.insert(key.clone(), object);
                    cache.tell(&key);
                }
            }
            Change::Deleted(entry) => {
                let key = key_of_entry(entry);
                let mut cache = lock(&self.shared.cache);
                cache.objects.remove(&key);
                cache.tell(&key);
            }
            Change::Bookmark { .. } => {}
        }
    }

    /// Puts a fresh list in place of what was known; names every key of either.
    fn replace(&self, entries: &[Arc<Entry>]) {
        let mut cache = lock(&self.shared.cache);
        let mut before = std::mem::take(&mut cache.objects);
        for entry in entries {
            let key = key_of_entry(entry);
            if let Some(object) = read(entry).or_else(|| before.get(&key).cloned()) {
                cache.objects.insert(key, object);
            }
        }
        before.retain(|key, _| !cache.objects.contains_key(key));
        let keys: Vec<Key> = before.into_keys().chain(cache.objects.keys().cloned()).collect();
        for key in &keys {
            cache.tell(key);
        }
    }
}

/// An object as its type, which all components share; one that cannot be read must not keep the others away.
fn read<K: Resource>(entry: &Entry) -> Option<Arc<K>> {
    super::read(entry).inspect_err(|status| tracing::warn!(%status, "object left out")).ok()
}

/// The key of an object in its stored form, of which nothing else is parsed.
fn key_of_entry(entry: &Entry) -> Key {
    #[derive(Default, Deserialize)]
    struct Names {
        #[serde(default)]
        name: String,
        namespace: Option<String>,
    }
    #[derive(Default, Deserialize)]
    struct Named {
        #[serde(default)]
        metadata: Names,
    }
    let Named { metadata } = serde_json::from_slice(&entry.bytes).unwrap_or_default();
    match metadata.namespace.as_deref() {
        None | Some("") => metadata.name,
        Some(namespace) => format!("{namespace}/{}", metadata.name),
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
    use std::time::Duration;

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

    #[tokio::test]
    async fn an_unreadable_object_keeps_no_other_away() {
        let api = FakeApi::default();
        let broken = |name: &str| json!({"metadata": {"namespace": "d", "name": name}, "data": "no map"});
        api.put("configmaps", map("a", "1"));
        api.put("configmaps", broken("b"));
        let (reflector, feed) =
            Reflector::<ConfigMap>::new(api.client().namespaced("d"), ListOptions::default());
        let _task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(feed));
        reflector.synced().await;
        let mut changes = reflector.subscribe();
        until(&reflector, &mut changes, &[("a", "1")]).await;
        api.put("configmaps", broken("a"));
        api.put("configmaps", map("c", "1"));
        until(&reflector, &mut changes, &[("a", "1"), ("c", "1")]).await;
        api.remove("configmaps", "d", "a");
        until(&reflector, &mut changes, &[("c", "1")]).await;
    }

    #[tokio::test]
    async fn a_writer_can_wait_for_what_it_wrote() {
        let api = FakeApi::default();
        let maps = api.client().namespaced::<ConfigMap>("d");
        let (reflector, feed) = Reflector::<ConfigMap>::new(maps.clone(), ListOptions::default());
        let task = tokio::spawn(feed);
        for n in 0..50 {
            let name = format!("m{n}");
            let made = maps.create(&serde_json::from_value(map(&name, "1")).unwrap()).await.unwrap();
            reflector.reached(&made).await;
            assert!(reflector.get(&format!("d/{name}")).is_some());
        }
        assert_eq!((reflector.in_namespace("d").len(), reflector.in_namespace("").len()), (50, 0));
        task.abort();
        let _ = task.await;
        // Nobody waits for a copy that nothing feeds any more.
        reflector.until(|_| false).await;
    }

    #[tokio::test(start_paused = true)]
    async fn watches_that_keep_failing_are_tried_less_and_less() {
        for fail in [FakeApi::refuse_watches, FakeApi::end_watches] {
            let api = FakeApi::default();
            fail(&api);
            let (_reflector, feed) =
                Reflector::<ConfigMap>::new(api.client().namespaced("d"), ListOptions::default());
            let _task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(feed));
            tokio::time::sleep(Duration::from_secs(60)).await;
            let watches = api.seen.lock().unwrap().iter().filter(|s| s.starts_with("Watch")).count();
            assert!((5..20).contains(&watches), "{watches}");
        }
    }
}
