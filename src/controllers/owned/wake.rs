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
