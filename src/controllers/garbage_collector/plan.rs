//! What becomes of an object that has owners, and whom a deleted object still waits for; pure.
//!
//! The rules are those of Kubernetes' `pkg/controller/garbagecollector`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// How a deleted object waits for the collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Until what belongs to it belongs to it no more.
    Orphan,
    /// Until what belongs to it, and blocks it, is gone.
    Foreground,
}

impl Hold {
    /// The finalizer that holds the object.
    pub fn finalizer(self) -> &'static str {
        match self {
            Hold::Orphan => "orphan",
            Hold::Foreground => "foregroundDeletion",
        }
    }
}

/// A finalizer of the collector's on an object, deleted or not.
fn chosen(meta: &ObjectMeta) -> Option<Hold> {
    let has = |hold: &Hold| meta.finalizers.iter().flatten().any(|f| f == hold.finalizer());
    [Hold::Orphan, Hold::Foreground].into_iter().find(has)
}

/// How the object waits for the collector, when it is deleted.
pub fn hold(meta: &ObjectMeta) -> Option<Hold> {
    meta.deletion_timestamp.as_ref().and_then(|_| chosen(meta))
}

/// How an owner that an object names is found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// It is there.
    There,
    /// It waits for its dependents to go.
    Waiting,
    /// There is no such object.
    Gone,
}

/// What is to be done to an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Nothing.
    Keep,
    /// It goes on with these owners.
    SetOwners(Vec<OwnerReference>),
    /// It goes, by this propagation policy.
    Delete(&'static str),
}

/// Decides about an object that is not being deleted, from its owners and from what belongs to itself.
pub fn plan(meta: &ObjectMeta, owners: &[(&OwnerReference, Owner)], dependents: &[ObjectMeta]) -> Action {
    let some = |wanted: Owner| owners.iter().any(|(_, owner)| *owner == wanted);
    if owners.is_empty() {
        return Action::Keep;
    }
    if some(Owner::There) {
        let staying = owners.iter().filter(|(_, owner)| *owner == Owner::There);
        let staying: Vec<OwnerReference> = staying.map(|(reference, _)| (*reference).clone()).collect();
        return if staying.len() == owners.len() { Action::Keep } else { Action::SetOwners(staying) };
    }
    if some(Owner::Waiting) && !dependents.is_empty() {
        let circle = dependents.iter().any(|dependent| hold(dependent) == Some(Hold::Foreground));
        let blocks = |reference: &OwnerReference| reference.block_owner_deletion == Some(true);
        if circle && owners.iter().any(|(reference, _)| blocks(reference)) {
            // Owners that wait for each other would wait for ever.
            let free = |(reference, _): &(&OwnerReference, Owner)| OwnerReference {
                block_owner_deletion: Some(false),
                ..(*reference).clone()
            };
            return Action::SetOwners(owners.iter().map(free).collect());
        }
        return Action::Delete("Foreground");
    }
    Action::Delete(match chosen(meta) {
        Some(Hold::Orphan) => "Orphan",
        Some(Hold::Foreground) => "Foreground",
        None => "Background",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn owner(name: &str, blocking: bool) -> OwnerReference {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": name,
            "blockOwnerDeletion": blocking}))
        .unwrap()
    }

    fn meta(finalizers: &[&str], deleted: bool) -> ObjectMeta {
        let at = deleted.then_some("2026-01-01T00:00:00Z");
        serde_json::from_value(json!({"finalizers": finalizers, "deletionTimestamp": at})).unwrap()
    }

    #[test]
    fn objects_go_when_their_last_owner_has_gone() {
        use Owner::{Gone, There, Waiting};
        let (a, b) = (owner("a", true), owner("b", false));
        let plain = meta(&[], false);
        for (owners, dependents, expected) in [
            (vec![], vec![], Action::Keep),
            (vec![(&a, There)], vec![], Action::Keep),
            (vec![(&a, There), (&b, There)], vec![], Action::Keep),
            (vec![(&a, Gone)], vec![], Action::Delete("Background")),
            (vec![(&a, Gone), (&b, Gone)], vec![], Action::Delete("Background")),
            (vec![(&a, Gone), (&b, There)], vec![], Action::SetOwners(vec![b.clone()])),
            (vec![(&a, Waiting), (&b, There)], vec![], Action::SetOwners(vec![b.clone()])),
            (vec![(&a, Waiting)], vec![], Action::Delete("Background")),
            (vec![(&a, Waiting)], vec![meta(&[], false)], Action::Delete("Foreground")),
            (vec![(&a, Gone)], vec![meta(&[], false)], Action::Delete("Background")),
            (
                vec![(&a, Waiting)],
                vec![meta(&["foregroundDeletion"], true)],
                Action::SetOwners(vec![owner("a", false)]),
            ),
            (vec![(&b, Waiting)], vec![meta(&["foregroundDeletion"], true)], Action::Delete("Foreground")),
        ] {
            assert_eq!(plan(&plain, &owners, &dependents), expected, "{owners:?}");
        }
        // What the object chose for itself is kept to.
        assert_eq!(plan(&meta(&["orphan"], false), &[(&a, Gone)], &[]), Action::Delete("Orphan"));
        let own = meta(&["foregroundDeletion"], false);
        assert_eq!(plan(&own, &[(&a, Gone)], &[]), Action::Delete("Foreground"));
    }

    #[test]
    fn only_a_deleted_object_waits() {
        assert_eq!(hold(&meta(&["orphan"], false)), None);
        assert_eq!(hold(&meta(&["x/y", "orphan"], true)), Some(Hold::Orphan));
        assert_eq!(hold(&meta(&["foregroundDeletion"], true)), Some(Hold::Foreground));
        assert_eq!(hold(&meta(&["x/y"], true)), None);
    }
}
