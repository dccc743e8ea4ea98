//! Who belongs to whom, as far as the watches have told: which objects must be looked at after a change.
//!
//! Only objects that have owners, or that wait for the collector, are kept, and of those no more than is asked
//! here: most objects of a cluster cost nothing.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::plan::{Hold, hold};

/// What is kept of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    uid: String,
    /// The owners' uids, and whether each must wait for this object when it is deleted in the foreground.
    owners: Vec<(String, bool)>,
    leaving: bool,
    hold: Option<Hold>,
}

/// The objects by their keys, `KIND/NAMESPACE/NAME` with the kind's place in the store.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
    /// The keys of the objects that name an owner, by the owner's uid.
    dependents: HashMap<String, BTreeSet<String>>,
    /// The keys of the objects that wait for their dependents, by their own uid.
    waiting: HashMap<String, String>,
}

impl Graph {
    /// An object is as `meta` says; answers the keys to look at.
    pub fn present(&mut self, key: &str, meta: &ObjectMeta) -> Vec<String> {
        let new = Node {
            uid: meta.uid.clone().unwrap_or_default(),
            owners: owners(meta),
            leaving: meta.deletion_timestamp.is_some(),
            hold: hold(meta),
        };
        let mut touched = Vec::new();
        match self.nodes.get(key) {
            Some(old) if *old == new => return touched,
            // Another object of the same name: the watch did not see the first one go.
            Some(old) if old.uid != new.uid => {
                let uid = old.uid.clone();
                touched.extend(self.forget(key, &uid));
            }
            _ => {}
        }
        touched.extend(self.detach(key));
        if new.owners.is_empty() && new.hold.is_none() {
            return touched;
        }
        touched.push(key.to_owned());
        for (owner, _) in &new.owners {
            self.dependents.entry(owner.clone()).or_default().insert(key.to_owned());
            touched.extend(self.waiting.get(owner).cloned());
        }
        if new.hold == Some(Hold::Foreground) {
            self.waiting.insert(new.uid.clone(), key.to_owned());
            touched.extend(self.dependents_of(&new.uid));
        }
        self.nodes.insert(key.to_owned(), new);
        touched
    }

    /// An object is gone; answers the keys to look at.
    pub fn gone(&mut self, key: &str, last: &ObjectMeta) -> Vec<String> {
        let mut touched = self.forget(key, last.uid.as_deref().unwrap_or_default());
        // The watch of an owner may be ahead of that of what belongs to it, or behind.
        touched.extend(owners(last).iter().filter_map(|(owner, _)| self.waiting.get(owner).cloned()));
        touched
    }

    /// All objects whose keys begin with `prefix` are these; answers the keys to look at, which are all: nobody
    /// knows what went while nothing was heard.
    pub fn listed<'a>(
        &mut self,
        prefix: &str,
        objects: impl Iterator<Item = (String, &'a ObjectMeta)>,
    ) -> Vec<String> {
        let mut left: BTreeSet<String> =
            self.nodes.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
        for (key, meta) in objects {
            self.present(&key, meta);
            left.remove(&key);
        }
        for key in left {
            self.detach(&key);
        }
        self.nodes.keys().cloned().collect()
    }

    /// Whether something is known for which this object, deleted in the foreground, must wait.
    pub fn is_blocked(&self, uid: &str) -> bool {
        let blocks = |key: &String| {
            let node = self.nodes.get(key);
            node.is_some_and(|node| node.owners.iter().any(|(owner, blocking)| owner == uid && *blocking))
        };
        self.dependents.get(uid).is_some_and(|keys| keys.iter().any(blocks))
    }

    fn forget(&mut self, key: &str, uid: &str) -> Vec<String> {
        let mut touched = self.detach(key);
        touched.extend(self.dependents_of(uid));
        touched
    }

    /// The keys of what is known to name an owner of this uid.
    pub fn dependents_of(&self, uid: &str) -> impl Iterator<Item = String> {
        self.dependents.get(uid).into_iter().flatten().cloned()
    }

    /// Takes an object out; answers the keys of the owners that wait for it.
    fn detach(&mut self, key: &str) -> Vec<String> {
        let Some(node) = self.nodes.remove(key) else { return Vec::new() };
        self.waiting.remove(&node.uid);
        for (owner, _) in &node.owners {
            if let Some(keys) = self.dependents.get_mut(owner) {
                keys.remove(key);
                if keys.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
        node.owners.iter().filter_map(|(owner, _)| self.waiting.get(owner).cloned()).collect()
    }
}

fn owners(meta: &ObjectMeta) -> Vec<(String, bool)> {
    let references = meta.owner_references.iter().flatten();
    references.map(|owner| (owner.uid.clone(), owner.block_owner_deletion == Some(true))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn meta(value: Value) -> ObjectMeta {
        serde_json::from_value(value).unwrap()
    }

    fn owned(uid: &str, owner: &str, blocking: bool) -> ObjectMeta {
        meta(json!({"uid": uid, "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "o",
            "uid": owner, "blockOwnerDeletion": blocking}]}))
    }

    fn foreground(uid: &str) -> ObjectMeta {
        meta(
            json!({"uid": uid, "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["foregroundDeletion"]}),
        )
    }

    #[test]
    fn what_belongs_to_nobody_is_not_kept() {
        let mut graph = Graph::default();
        assert!(graph.present("pods/d/a", &meta(json!({"uid": "a"}))).is_empty());
        assert!(graph.nodes.is_empty());
    }

    #[test]
    fn an_owner_that_goes_touches_what_belongs_to_it() {
        let mut graph = Graph::default();
        let a = owned("a", "o", false);
        assert_eq!(graph.present("pods/d/a", &a), ["pods/d/a"]);
        assert!(graph.present("pods/d/a", &a).is_empty(), "nothing that matters changed");
        assert_eq!(graph.gone("configmaps/d/o", &meta(json!({"uid": "o"}))), ["pods/d/a"]);
        assert!(graph.gone("pods/d/a", &a).is_empty());
        assert!(graph.nodes.is_empty() && graph.dependents.is_empty());
    }

    #[test]
    fn an_owner_that_waits_is_touched_by_what_goes() {
        let mut graph = Graph::default();
        let a = owned("a", "o", true);
        graph.present("pods/d/a", &a);
        assert_eq!(graph.present("configmaps/d/o", &foreground("o")), ["configmaps/d/o", "pods/d/a"]);
        assert!(graph.is_blocked("o"));
        // One that does not block any more, and one that nothing was known of, touch it too.
        assert_eq!(
            graph.present("pods/d/a", &owned("a", "o", false)),
            ["configmaps/d/o", "pods/d/a", "configmaps/d/o"]
        );
        assert!(!graph.is_blocked("o"));
        assert_eq!(graph.gone("pods/d/b", &owned("b", "o", true)), ["configmaps/d/o"]);
        graph.gone("pods/d/a", &a);
        assert!(graph.gone("configmaps/d/o", &foreground("o")).is_empty());
        assert!(graph.nodes.is_empty() && graph.dependents.is_empty() && graph.waiting.is_empty());
    }

    #[test]
    fn a_list_touches_everything_and_drops_what_it_lacks() {
        let mut graph = Graph::default();
        graph.present("pods/d/a", &owned("a", "o", false));
        graph.present("services/d/s", &owned("s", "o", false));
        let b = owned("b", "x", false);
        let mut touched = graph.listed("pods/", [("pods/d/b".to_owned(), &b)].into_iter());
        touched.sort();
        assert_eq!(touched, ["pods/d/b", "services/d/s"]);
    }

    #[test]
    fn another_object_of_the_same_name_is_another_owner() {
        let mut graph = Graph::default();
        graph.present("pods/d/a", &owned("a", "o", true));
        graph.present("configmaps/d/o", &foreground("o"));
        let touched = graph.present("configmaps/d/o", &meta(json!({"uid": "new"})));
        assert_eq!(touched, ["pods/d/a"]);
        assert!(graph.waiting.is_empty());
    }
}
