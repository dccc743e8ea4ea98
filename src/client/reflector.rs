//! A local, always current copy of the objects of one kind.
//!
//! The protocol is one state machine: list, then watch from the list's revision; 410 or a broken watch lists
//! again. Readers get `Arc`s out of a map and wake when a key changes.

use std::sync::Arc;

use super::{Api, Resource};
use crate::api::request::ListOptions;

/// `NAMESPACE/NAME`, or `NAME` for cluster-scoped kinds.
pub type Key = String;

/// The reading end: cheap to clone.
pub struct Reflector<K> {
    marker: std::marker::PhantomData<fn() -> K>,
}

impl<K> Clone for Reflector<K> {
    fn clone(&self) -> Self {
        Reflector { marker: std::marker::PhantomData }
    }
}

/// Names keys that changed since the last call; a key may be named for no visible change, never missed.
pub struct Subscription {}

impl Subscription {
    /// The next changed key; `None` when the reflector ended.
    pub async fn next(&mut self) -> Option<Key> {
        todo!()
    }
}

impl<K: Resource> Reflector<K> {
    /// A reflector and the task that feeds it; the task ends when dropped.
    pub fn new(_api: Api<K>, _options: ListOptions) -> (Reflector<K>, impl Future<Output = ()> + Send + 'static) {
        (Reflector { marker: std::marker::PhantomData }, async {})
    }

    /// Waits until the first list has arrived.
    pub async fn synced(&self) {
        todo!()
    }

    /// The object of this key.
    pub fn get(&self, _key: &str) -> Option<Arc<K>> {
        todo!()
    }

    /// All objects, in key order.
    pub fn list(&self) -> Vec<Arc<K>> {
        todo!()
    }

    /// Keys that change from now on; begins by naming every present key.
    pub fn subscribe(&self) -> Subscription {
        todo!()
    }
}
