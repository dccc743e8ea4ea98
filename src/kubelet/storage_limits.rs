//! How much of the node's disk a pod may take: limits of its volumes, its containers, and all of it (pure).

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::pod::all_containers;
use super::volumes::empty_dir;
use crate::api::quantity::{self, Quantity};

/// The resource by which containers are limited.
const RESOURCE: &str = "ephemeral-storage";

/// What a pod may take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Volumes on disk: name, bytes, limit as written.
    volumes: Vec<(String, u64, String)>,
    /// Containers that have a limit: name, bytes, limit as written.
    containers: Vec<(String, u64, String)>,
    /// All of it, where any container has a limit.
    pod: Option<(u64, String)>,
}

/// What it has taken, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Volumes on disk, by name.
    pub volumes: HashMap<String, u64>,
    /// Writable layers and logs, by container.
    pub containers: HashMap<String, u64>,
}

fn limit_of(container: &Container) -> Option<Quantity> {
    let text = &container.resources.as_ref()?.limits.as_ref()?.get(RESOURCE)?.0;
    quantity::parse(text).ok().filter(|limit| !limit.is_zero())
}

fn bytes(limit: &Quantity) -> u64 {
    u64::try_from(limit.value()).unwrap_or(0)
}

impl Usage {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.volumes.values().chain(self.containers.values()).sum()
    }
}

impl Limits {
    /// Those of a pod.
    pub fn of(pod: &Pod) -> Limits {
        let Some(spec) = &pod.spec else { return Limits::default() };
        let limited = all_containers(spec).filter_map(|c| Some((c.name.clone(), limit_of(c)?)));
        let containers = limited.map(|(name, limit)| (name, bytes(&limit), limit.to_string())).collect();
        let own = spec.containers.iter().filter_map(limit_of).reduce(|sum, limit| sum.plus(&limit));
        // Init containers run before the others: the largest of them may exceed the sum.
        let inits = spec.init_containers.iter().flatten().filter_map(limit_of).max();
        let total = own.into_iter().chain(inits).max();
        Limits {
            volumes: empty_dir::limited(pod),
            containers,
            pod: total.map(|limit| (bytes(&limit), limit.to_string())),
        }
    }

    /// Whether there is nothing to measure.
    pub fn is_empty(&self) -> bool {
        self.volumes.is_empty() && self.pod.is_none()
    }

    /// Whether the containers and all volumes count, not only the limited volumes.
    pub fn counts_all(&self) -> bool {
        self.pod.is_some()
    }

    /// The volumes that count: all on disk, or those with a limit.
    pub fn volumes<'a>(&self, pod: &'a Pod) -> impl Iterator<Item = &'a str> {
        let limited = |name: &str| self.volumes.iter().any(|(limited, ..)| limited == name);
        empty_dir::on_disk(pod).filter(move |name| self.counts_all() || limited(name))
    }

    /// What is wrong with this use, in Kubernetes' words (its trailing blank is theirs).
    pub fn excess(&self, usage: &Usage) -> Option<String> {
        let over = |taken: &HashMap<String, u64>, name: &str, limit: u64| {
            taken.get(name).is_some_and(|taken| *taken > limit)
        };
        if let Some((name, _, limit)) = self.volumes.iter().find(|(n, l, _)| over(&usage.volumes, n, *l)) {
            return Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit {limit:?}. "));
        }
        let total = usage.total();
        if let Some((_, limit)) = self.pod.as_ref().filter(|(bytes, _)| total > *bytes) {
            return Some(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
            ));
        }
        let (name, _, limit) = self.containers.iter().find(|(n, l, _)| over(&usage.containers, n, *l))?;
        Some(format!("Container {name} exceeded its local ephemeral storage limit {limit:?}. "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(first: Value, second: Value) -> Pod {
        let container = |name: &str, limit: Value| json!({"name": name, "resources": {"limits": limit}});
        serde_json::from_value(json!({"metadata": {}, "spec": {
            "containers": [container("a", first), container("b", second)],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Ki"}}, {"name": "w", "emptyDir": {}}]}}))
        .unwrap()
    }

    #[test]
    fn volumes_then_the_pod_then_containers_may_be_too_large() {
        let limited = pod(json!({"ephemeral-storage": "1Ki"}), json!({"ephemeral-storage": "2Ki"}));
        let limits = Limits::of(&limited);
        let usage = |volumes: &[(&str, u64)], containers: &[(&str, u64)]| {
            let map = |list: &[(&str, u64)]| list.iter().map(|(n, u)| ((*n).to_owned(), *u)).collect();
            Usage { volumes: map(volumes), containers: map(containers) }
        };
        for (volumes, containers, expected) in [
            (vec![("v", 1024)], vec![("a", 1024), ("b", 1024)], None),
            (vec![("v", 1025)], vec![], Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\". ")),
            (
                vec![("w", 3000)],
                vec![("a", 100)],
                Some("Pod ephemeral local storage usage exceeds the total limit of containers 3Ki. "),
            ),
            (
                vec![],
                vec![("a", 1025)],
                Some("Container a exceeded its local ephemeral storage limit \"1Ki\". "),
            ),
        ] {
            let told = limits.excess(&usage(&volumes, &containers));
            assert_eq!(told.as_deref(), expected, "{volumes:?} {containers:?}");
        }
        assert_eq!(limits.volumes(&limited).collect::<Vec<_>>(), ["v", "w"]);
        let free = pod(json!({}), json!({}));
        let only_volumes = Limits::of(&free);
        assert_eq!(only_volumes.volumes(&free).collect::<Vec<_>>(), ["v"]);
        assert!(!only_volumes.is_empty() && !only_volumes.counts_all());
        assert!(Limits::of(&Pod::default()).is_empty());
    }
}
