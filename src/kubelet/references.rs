//! The objects that a pod's spec refers to, and being told when one of them changes.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::env;
use super::volumes::files::Source;
use crate::api::request::ListOptions;
use crate::client::reflector::{Reflector, split_key};
use crate::client::{Client, Resource};

/// Names of objects in the pod's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Of ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Of Secrets.
    pub secrets: BTreeSet<String>,
}

impl Names {
    /// What the environments and volumes of a pod are made from (pure).
    pub fn of(pod: &Pod) -> Names {
        let mut names = Names::default();
        let Some(spec) = &pod.spec else { return names };
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            let (maps, secrets) = env::references(container);
            names.config_maps.extend(maps);
            names.secrets.extend(secrets);
        }
        let sources = spec.volumes.iter().flatten().filter_map(|v| Source::of(v).ok());
        for part in sources.flat_map(|s| s.parts) {
            match part {
                Source::ConfigMap { name, .. } => drop(names.config_maps.insert(name)),
                Source::Secret { name, .. } => drop(names.secrets.insert(name)),
                Source::Downward { .. } | Source::Token { .. } => {}
            }
        }
        names
    }

    /// As objects of a namespace.
    fn objects(&self, namespace: &str) -> Vec<Object> {
        let object = |kind| move |name: &String| (kind, format!("{namespace}/{name}"));
        let maps = self.config_maps.iter().map(object(Kind::ConfigMap));
        maps.chain(self.secrets.iter().map(object(Kind::Secret))).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    ConfigMap,
    Secret,
}

/// A kind, and `NAMESPACE/NAME`.
type Object = (Kind, String);

/// The watches of single objects that the pods of a node share: one an object, for as long as a pod refers to it.
pub struct Watches {
    client: Client,
    running: Mutex<HashMap<Object, Weak<Watch>>>,
}

/// One watch of one object.
struct Watch {
    told: Arc<Told>,
    _task: AbortOnDropHandle<()>,
}

/// Who is told of changes. An entry ends with the [`References`] that hold the other end.
#[derive(Default)]
struct Told(Mutex<Vec<Weak<Subscriber>>>);

/// The worker of a pod that refers to the object.
struct Subscriber(Arc<Notify>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Told {
    fn add(&self, subscriber: &Arc<Subscriber>) {
        let mut subscribers = lock(&self.0);
        subscribers.retain(|subscriber| subscriber.strong_count() > 0);
        subscribers.push(Arc::downgrade(subscriber));
    }

    fn tell(&self) {
        lock(&self.0).iter().filter_map(Weak::upgrade).for_each(|subscriber| subscriber.0.notify_one());
    }
}

impl Watches {
    /// None yet; they are going to ask through `client`.
    pub fn new(client: Client) -> Watches {
        Watches { client, running: Mutex::default() }
    }

    /// The watch of an object, if one runs, with one subscriber more.
    fn join(&self, object: &Object, subscriber: &Arc<Subscriber>) -> Option<Arc<Watch>> {
        let watch = lock(&self.running).get(object)?.upgrade()?;
        watch.told.add(subscriber);
        Some(watch)
    }

    /// The watch of an object, with one subscriber more, who is told at least once.
    fn watch(&self, object: Object, subscriber: &Arc<Subscriber>) -> Arc<Watch> {
        let mut running = lock(&self.running);
        if let Some(watch) = running.get(&object).and_then(Weak::upgrade) {
            watch.told.add(subscriber);
            subscriber.0.notify_one();
            return watch;
        }
        let told = Arc::new(Told::default());
        told.add(subscriber);
        let (kind, key) = object.clone();
        let (client, tell) = (self.client.clone(), told.clone());
        let task = match kind {
            Kind::ConfigMap => tokio::spawn(follow::<ConfigMap>(client, key, tell)),
            Kind::Secret => tokio::spawn(follow::<Secret>(client, key, tell)),
        };
        let watch = Arc::new(Watch { told, _task: AbortOnDropHandle::new(task) });
        running.retain(|_, watch| watch.strong_count() > 0);
        running.insert(object, Arc::downgrade(&watch));
        watch
    }
}

/// A watch of each object that a pod refers to, for as long as this lives.
pub struct References {
    /// Where no watch runs yet.
    missing: Vec<Object>,
    watches: Vec<Arc<Watch>>,
    subscriber: Arc<Subscriber>,
}

impl References {
    /// Notifies `changed` of objects that are watched already. Costs no request: this is for pods that start.
    pub fn join(shared: &Watches, pod: &Pod, changed: &Arc<Notify>) -> References {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let subscriber = Arc::new(Subscriber(changed.clone()));
        let (mut missing, mut watches) = (Vec::new(), Vec::new());
        for object in Names::of(pod).objects(namespace) {
            match shared.join(&object, &subscriber) {
                Some(watch) => watches.push(watch),
                None => missing.push(object),
            }
        }
        References { missing, watches, subscriber }
    }

    /// Has every object watched. Tells at least once of each that was not, as it may have changed unseen.
    pub fn complete(&mut self, shared: &Watches) {
        for object in std::mem::take(&mut self.missing) {
            self.watches.push(shared.watch(object, &self.subscriber));
        }
    }
}

/// A kind of object that pods refer to.
trait Referenced: Resource {
    /// Whether it never changes.
    fn is_immutable(&self) -> bool;
}

impl Referenced for ConfigMap {
    fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }
}

impl Referenced for Secret {
    fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }
}

/// Follows one object (`NAMESPACE/NAME`); tells once when the first list is there, and then of every change. One that
/// never changes is followed no further.
async fn follow<K: Referenced>(client: Client, key: String, told: Arc<Told>) {
    let (namespace, name) = split_key(&key);
    let only = ListOptions { field_selector: format!("metadata.name={name}"), ..ListOptions::default() };
    let (reflector, feed) = Reflector::<K>::new(client.namespaced::<K>(namespace), only);
    let tell = async {
        reflector.synced().await;
        let mut keys = reflector.subscribe();
        while keys.try_next().is_some() {}
        told.tell();
        while !reflector.get(&key).is_some_and(|object| object.is_immutable())
            && let Some(next) = keys.next().await
        {
            if next == key {
                told.tell();
            }
        }
    };
    tokio::select! {
        () = feed => {}
        () = tell => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::testing::FakeApi;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn everything_that_containers_and_volumes_read_is_named_once() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "s1"}}]}],
            "containers": [{"name": "a", "env": [
                {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m1", "key": "k"}}}]}],
            "volumes": [{"name": "v", "configMap": {"name": "m1"}}, {"name": "w", "secret": {"secretName": "s2"}},
                        {"name": "x", "projected": {"sources": [{"configMap": {"name": "m2"}},
                            {"serviceAccountToken": {"path": "t"}}]}}, {"name": "y", "emptyDir": {}}],
        }}))
        .unwrap();
        let names = Names::of(&pod);
        assert_eq!(names.config_maps.into_iter().collect::<Vec<_>>(), ["m1", "m2"]);
        assert_eq!(names.secrets.into_iter().collect::<Vec<_>>(), ["s1", "s2"]);
        assert_eq!(Names::of(&Pod::default()), Names::default());
    }

    #[tokio::test]
    async fn pods_share_the_watch_of_an_object_until_none_is_left() {
        let server = FakeApi::default();
        let put = |value: &str| {
            server.put(
                "configmaps",
                json!({"metadata": {"name": "m", "namespace": "d"}, "data": {"k": value}}),
            );
        };
        put("one");
        let asked = || server.seen.lock().unwrap().iter().filter(|seen| seen.starts_with("Watch")).count();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {
            "containers": [], "volumes": [{"name": "v", "configMap": {"name": "m"}}]}}))
        .unwrap();
        let shared = Watches::new(server.client());
        let told = |notify: &Arc<Notify>| {
            let notify = notify.clone();
            async move { tokio::time::timeout(Duration::from_secs(20), notify.notified()).await.unwrap() }
        };
        let notifies: Vec<Arc<Notify>> = (0..3).map(|_| Arc::default()).collect();
        let mut first = References::join(&shared, &pod, &notifies[0]);
        assert!(server.seen.lock().unwrap().is_empty(), "a pod that starts asks for nothing");
        let mut second = References::join(&shared, &pod, &notifies[1]);
        first.complete(&shared);
        second.complete(&shared);
        told(&notifies[0]).await;
        told(&notifies[1]).await;
        let third = References::join(&shared, &pod, &notifies[2]);
        assert!(third.missing.is_empty());
        put("two");
        for notify in &notifies {
            told(notify).await;
        }
        assert_eq!(asked(), 1);
        drop((first, second, third));
        assert_eq!(References::join(&shared, &pod, &notifies[0]).missing.len(), 1, "nobody watches");
    }
}
