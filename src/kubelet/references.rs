//! The objects that a pod's spec refers to, and being told when one of them changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::env;
use super::volumes::files::Source;
use crate::api::request::ListOptions;
use crate::client::reflector::Reflector;
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
}

/// A watch of each object that a pod refers to, for as long as this lives.
pub struct References {
    _tasks: JoinSet<()>,
}

impl References {
    /// Notifies `changed` when an object appears, changes or goes.
    pub fn watch(client: &Client, pod: &Pod, changed: &Arc<Notify>) -> References {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let names = Names::of(pod);
        let mut tasks = JoinSet::new();
        for name in &names.config_maps {
            watch::<ConfigMap>(&mut tasks, client, namespace, name, changed);
        }
        for name in &names.secrets {
            watch::<Secret>(&mut tasks, client, namespace, name, changed);
        }
        References { _tasks: tasks }
    }
}

fn watch<K: Resource>(
    tasks: &mut JoinSet<()>,
    client: &Client,
    namespace: &str,
    name: &str,
    changed: &Arc<Notify>,
) {
    let only = ListOptions { field_selector: format!("metadata.name={name}"), ..ListOptions::default() };
    let (reflector, feed) = Reflector::<K>::new(client.namespaced::<K>(namespace), only);
    tasks.spawn(feed);
    let (key, changed) = (format!("{namespace}/{name}"), changed.clone());
    tasks.spawn(async move {
        let mut keys = reflector.subscribe();
        while let Some(next) = keys.next().await {
            if next == key {
                changed.notify_one();
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
}
