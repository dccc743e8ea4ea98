//! Waking owners when what they own, or could own, has changed.

use std::collections::HashMap;

use super::controller_of;
use crate::client::Resource;
use crate::client::queue::Queue;
use crate::client::reflector::{Key, Reflector, split_key};

/// Adds the owner of every object that changes, before or after the change; a change of an orphan wakes all that
/// would take it on. Goes on until the reflector ends.
pub async fn enqueue_owners<O: Resource, K: Resource>(
    owned: &Reflector<K>,
    owners: &Reflector<O>,
    selects: impl Fn(&O, &K) -> bool,
    queue: &Queue,
) {
    let mut changes = owned.subscribe();
    let mut known: HashMap<Key, Key> = HashMap::new();
    while let Some(key) = changes.next().await {
        let namespace = split_key(&key).0;
        let object = owned.get(&key);
        let controller = object.as_ref().and_then(|object| controller_of(object.metadata()));
        if let (Some(object), None) = (&object, controller) {
            for owner in owners.in_namespace(namespace) {
                if selects(&owner, object) {
                    queue.add(&format!("{namespace}/{}", owner.metadata().name.as_deref().unwrap_or("")));
                }
            }
        }
        let of_this_kind = |kind: &str, api_version: &str| {
            kind == O::KIND && crate::api::meta::group_version(api_version).0 == O::GROUP
        };
        let now = controller
            .filter(|owner| of_this_kind(&owner.kind, &owner.api_version))
            .map(|owner| format!("{namespace}/{}", owner.name));
        let before = match &now {
            Some(owner) => known.insert(key, owner.clone()),
            None => known.remove(&key),
        };
        for owner in now.iter().chain(before.iter().filter(|before| Some(*before) != now.as_ref())) {
            queue.add(owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};
    use tokio::task::JoinSet;

    use super::*;
    use crate::client::testing::FakeApi;
    use crate::controllers::owned::{selector, selects};
    use crate::controllers::{queue, reflect};

    fn pod(name: &str, owner: Option<&str>) -> Value {
        let owners: Vec<Value> = owner
            .iter()
            .map(|owner| {
                let (kind, name) = owner.split_once('/').unwrap();
                json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": name, "controller": true})
            })
            .collect();
        json!({"metadata": {"name": name, "namespace": "d", "labels": {"app": "web"}, "ownerReferences": owners}})
    }

    #[tokio::test]
    async fn owners_wake_before_and_after_and_orphans_wake_who_wants_them() {
        let api = FakeApi::default();
        for (name, app) in [("web", "web"), ("other", "other")] {
            let spec = json!({"selector": {"matchLabels": {"app": app}}});
            api.put("replicasets", json!({"metadata": {"name": name, "namespace": "d"}, "spec": spec}));
        }
        let mut tasks = JoinSet::new();
        let (sets, pods) =
            (reflect::<ReplicaSet>(&mut tasks, &api.client()), reflect(&mut tasks, &api.client()));
        sets.synced().await;
        pods.synced().await;
        let queue = queue(&api.client(), "test");
        let wake = {
            let queue = queue.clone();
            async move {
                let wanted = |set: &ReplicaSet, pod: &Pod| {
                    selector(Some(&set.spec.selector)).is_ok_and(|wanted| selects(&wanted, &pod.metadata))
                };
                enqueue_owners(&pods, &sets, wanted, &queue).await;
            }
        };
        tasks.spawn(wake);
        for (change, expected) in [
            (Some(pod("a", None)), &["d/web"][..]),
            (Some(pod("a", Some("ReplicaSet/other"))), &["d/other"]),
            (Some(pod("a", Some("ReplicaSet/gone"))), &["d/gone", "d/other"]),
            (None, &["d/gone"]),
            // What belongs to another kind wakes nobody: the next change is the first that shows.
            (Some(pod("b", Some("Job/web"))), &[]),
            (Some(pod("c", Some("ReplicaSet/last"))), &["d/last"]),
        ] {
            match change {
                Some(pod) => api.put("pods", pod),
                None => api.remove("pods", "d", "a"),
            }
            let mut woken = Vec::new();
            for _ in expected {
                let key = queue.next().await;
                queue.done(&key);
                woken.push(key);
            }
            woken.sort();
            assert_eq!(woken, expected);
        }
        tasks.shutdown().await;
    }
}
