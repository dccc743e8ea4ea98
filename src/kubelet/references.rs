//! The objects that a pod's spec refers to, and being told when one of them changes.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::env;
use super::volumes::files::Source;
use super::volumes::trust;
use crate::api::request::ListOptions;
use crate::client::reflector::Reflector;
use crate::client::{Api, Client, Resource};

/// Names of objects in the pod's namespace, and which ClusterTrustBundles it shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Of ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Of Secrets.
    pub secrets: BTreeSet<String>,
    /// ClusterTrustBundles, by field selectors.
    pub trust_bundles: BTreeSet<String>,
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
                Source::Trust(projection) => names.trust_bundles.extend(trust::field_selector(&projection)),
                Source::Downward { .. } | Source::Token { .. } | Source::Certificate { .. } => {}
            }
        }
        names
    }

    /// As what is to be watched for a pod of a namespace.
    fn objects(&self, namespace: &str) -> Vec<Objects> {
        let named = |kind| {
            move |name: &String| {
                let (namespace, field_selector) = (namespace.to_owned(), format!("metadata.name={name}"));
                Objects { kind, namespace, field_selector }
            }
        };
        let maps = self.config_maps.iter().map(named(Kind::ConfigMap));
        let secrets = self.secrets.iter().map(named(Kind::Secret));
        let bundles = self.trust_bundles.iter().map(|field_selector| Objects {
            kind: Kind::ClusterTrustBundle,
            namespace: String::new(),
            field_selector: field_selector.clone(),
        });
        maps.chain(secrets).chain(bundles).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    ConfigMap,
    Secret,
    ClusterTrustBundle,
}

/// What one watch follows: mostly a single object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Objects {
    kind: Kind,
    /// Empty for kinds of the cluster.
    namespace: String,
    field_selector: String,
}

/// The watches that the pods of a node share: one for what several refer to alike, for as long as a pod does.
pub struct Watches {
    client: Client,
    running: Mutex<HashMap<Objects, Weak<Watch>>>,
}

/// A watch that runs.
struct Watch {
    told: Arc<Told>,
    _task: AbortOnDropHandle<()>,
}

/// Who is told of changes. An entry ends with the [`References`] that hold the other end.
#[derive(Default)]
struct Told(Mutex<Vec<Weak<Subscriber>>>);

/// The worker of a pod that refers to the objects.
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

    /// The watch of these objects, if one runs, with one subscriber more.
    fn join(&self, objects: &Objects, subscriber: &Arc<Subscriber>) -> Option<Arc<Watch>> {
        let watch = lock(&self.running).get(objects)?.upgrade()?;
        watch.told.add(subscriber);
        Some(watch)
    }

    /// The watch of these objects, with one subscriber more, who is told at least once.
    fn watch(&self, objects: Objects, subscriber: &Arc<Subscriber>) -> Arc<Watch> {
        let mut running = lock(&self.running);
        if let Some(watch) = running.get(&objects).and_then(Weak::upgrade) {
            watch.told.add(subscriber);
            subscriber.0.notify_one();
            return watch;
        }
        let told = Arc::new(Told::default());
        told.add(subscriber);
        let (client, tell) = (&self.client, told.clone());
        let Objects { kind, namespace, field_selector } = objects.clone();
        let only = ListOptions { field_selector, ..ListOptions::default() };
        let task = match kind {
            Kind::ConfigMap => tokio::spawn(follow(client.namespaced::<ConfigMap>(&namespace), only, tell)),
            Kind::Secret => tokio::spawn(follow(client.namespaced::<Secret>(&namespace), only, tell)),
            Kind::ClusterTrustBundle => tokio::spawn(follow(client.all::<ClusterTrustBundle>(), only, tell)),
        };
        let watch = Arc::new(Watch { told, _task: AbortOnDropHandle::new(task) });
        running.retain(|_, watch| watch.strong_count() > 0);
        running.insert(objects, Arc::downgrade(&watch));
        watch
    }
}

/// A watch of everything that a pod refers to, for as long as this lives.
pub struct References {
    /// Where no watch runs yet.
    missing: Vec<Objects>,
    watches: Vec<Arc<Watch>>,
    subscriber: Arc<Subscriber>,
}

impl References {
    /// Notifies `changed` of objects that are watched already. Costs no request: this is for pods that start.
    pub fn join(shared: &Watches, pod: &Pod, changed: &Arc<Notify>) -> References {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let subscriber = Arc::new(Subscriber(changed.clone()));
        let (mut missing, mut watches) = (Vec::new(), Vec::new());
        for objects in Names::of(pod).objects(namespace) {
            match shared.join(&objects, &subscriber) {
                Some(watch) => watches.push(watch),
                None => missing.push(objects),
            }
        }
        References { missing, watches, subscriber }
    }

    /// Has every object watched. Tells at least once of each that was not, as it may have changed unseen.
    pub fn complete(&mut self, shared: &Watches) {
        for objects in std::mem::take(&mut self.missing) {
            self.watches.push(shared.watch(objects, &self.subscriber));
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

impl Referenced for ClusterTrustBundle {
    fn is_immutable(&self) -> bool {
        false
    }
}

/// Follows the selected objects; tells once when the first list is there, and then of every change. A single one that
/// never changes is followed no further.
async fn follow<K: Referenced>(api: Api<K>, only: ListOptions, told: Arc<Told>) {
    let (reflector, feed) = Reflector::<K>::new(api, only);
    let tell = async {
        reflector.synced().await;
        let mut keys = reflector.subscribe();
        while keys.try_next().is_some() {}
        told.tell();
        let is_final = || matches!(&reflector.list()[..], [object] if object.is_immutable());
        while !is_final() && keys.next().await.is_some() {
            told.tell();
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
                            {"serviceAccountToken": {"path": "t"}}, {"clusterTrustBundle": {"path": "p", "name": "b"}},
                            {"clusterTrustBundle": {"path": "q", "signerName": "a.b/c"}}]}},
                        {"name": "y", "emptyDir": {}}],
        }}))
        .unwrap();
        let names = Names::of(&pod);
        assert_eq!(names.config_maps.into_iter().collect::<Vec<_>>(), ["m1", "m2"]);
        let bundles: Vec<_> = names.trust_bundles.into_iter().collect();
        assert_eq!(bundles, ["metadata.name=b", "spec.signerName=a.b/c"]);
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
