//! What the scheduler knows before the API server's changes show it: bindings that are under way, and who hopes for a
//! node.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, Pod};

use super::cluster::{Placed, node_of};
use super::filter::volumes::Bindings;
use super::uid;
use crate::api::resources::{Resources, held};
use crate::api::volumes;

/// By the uids of pods.
#[derive(Debug, Default)]
pub struct Memory {
    /// Pods that are being bound, as they will be.
    assumed: HashMap<String, Arc<Pod>>,
    /// Nodes that pods hope for; an empty name is that of none.
    nominated: HashMap<String, String>,
    /// Volumes that are being tied to claims, as they will be, by name.
    tied: HashMap<String, Arc<PersistentVolume>>,
    /// What pods ask for, and in which version.
    requests: HashMap<String, (Option<String>, Arc<Resources>)>,
}

impl Memory {
    /// The pod as it will be when it is being bound.
    pub fn newest(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        match self.assumed.get(uid(pod)) {
            Some(assumed) if node_of(pod).is_empty() => assumed.clone(),
            _ => pod.clone(),
        }
    }

    /// The volume as it will be when it is being tied to a claim.
    pub fn newest_volume(&self, volume: &Arc<PersistentVolume>) -> Arc<PersistentVolume> {
        let tied = volume.metadata.name.as_ref().and_then(|name| self.tied.get(name));
        tied.filter(|_| volumes::claim_of(volume).is_none()).unwrap_or(volume).clone()
    }

    /// The node that a pod hopes for.
    pub fn hope<'a>(&'a self, pod: &'a Pod) -> Option<&'a str> {
        let written = || pod.status.as_ref()?.nominated_node_name.as_deref();
        self.nominated.get(uid(pod)).map(String::as_str).or_else(written).filter(|node| !node.is_empty())
    }

    /// The pod with the node that it hopes for.
    pub fn hoping(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        let hope = self.hope(pod);
        if hope == pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref()) {
            return pod.clone();
        }
        let mut hoping = Pod::clone(pod);
        hoping.status.get_or_insert_default().nominated_node_name = hope.map(str::to_owned);
        Arc::new(hoping)
    }

    /// The pod with what it asks for.
    pub fn placed(&mut self, pod: &Arc<Pod>) -> Placed {
        let version = &pod.metadata.resource_version;
        let known = self.requests.get(uid(pod)).filter(|(of, _)| of == version);
        let requests = match known {
            Some((_, requests)) => requests.clone(),
            None => {
                let requests = Arc::new(held(pod));
                self.requests.insert(uid(pod).to_owned(), (version.clone(), requests.clone()));
                requests
            }
        };
        Placed { pod: pod.clone(), requests }
    }

    /// A pod is being bound to a node.
    pub fn assume(&mut self, pod: &Pod, node: &str) {
        let mut assumed = pod.clone();
        assumed.spec.get_or_insert_default().node_name = Some(node.to_owned());
        self.assumed.insert(uid(pod).to_owned(), Arc::new(assumed));
    }

    /// A pod's volumes are being tied to its claims.
    pub fn tie(&mut self, bindings: &Bindings) {
        for (volume, claim) in &bindings.tied {
            let mut tied = PersistentVolume::clone(volume);
            let meta = &claim.metadata;
            tied.spec.get_or_insert_default().claim_ref = Some(ObjectReference {
                name: meta.name.clone(),
                namespace: meta.namespace.clone(),
                uid: meta.uid.clone(),
                ..ObjectReference::default()
            });
            self.tied.insert(volume.metadata.name.clone().unwrap_or_default(), Arc::new(tied));
        }
    }

    /// They are tied, or will not be.
    pub fn untie(&mut self, bindings: &Bindings) {
        for (volume, _) in &bindings.tied {
            self.tied.remove(volume.metadata.name.as_deref().unwrap_or_default());
        }
    }

    /// A pod hopes for a node.
    pub fn nominate(&mut self, pod: &Pod, node: &str) {
        self.nominated.insert(uid(pod).to_owned(), node.to_owned());
    }

    /// A pod hopes for no node.
    pub fn give_up(&mut self, pod: &Pod) {
        self.nominate(pod, "");
    }

    /// A pod waits no more: what is known of it is what the API server shows.
    pub fn seen(&mut self, uid: &str) {
        self.assumed.remove(uid);
        self.nominated.remove(uid);
    }

    /// A pod's binding has failed.
    pub fn unassume(&mut self, uid: &str) {
        self.assumed.remove(uid);
    }

    /// A pod is gone.
    pub fn forget(&mut self, uid: &str) {
        self.seen(uid);
        self.requests.remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::cluster::testing::{asking, pod};
    use serde_json::json;

    #[test]
    fn what_is_under_way_counts_until_it_is_seen() {
        let mut memory = Memory::default();
        let waits = pod("p", asking("1", "1Mi"));
        memory.assume(&waits, "n");
        assert_eq!(node_of(&memory.newest(&waits)), "n");
        let elsewhere = pod("p", json!({"nodeName": "m"}));
        assert_eq!(node_of(&memory.newest(&elsewhere)), "m", "what is seen is true");
        memory.seen("p");
        assert_eq!(node_of(&memory.newest(&waits)), "");
        memory.nominate(&waits, "n");
        assert_eq!(memory.hope(&memory.hoping(&waits)), Some("n"));
        memory.give_up(&waits);
        assert_eq!(memory.hope(&waits), None);
        assert_eq!(memory.placed(&waits).requests["cpu"].to_string(), "1");
    }
}
