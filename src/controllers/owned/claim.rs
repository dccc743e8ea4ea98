//! Which objects belong to an owner: those it controls and still selects, and orphans that it may take on.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::{Owner, controller_of};
use crate::api::request::PatchKind;
use crate::api::status::Status;
use crate::client::reflector::Reflector;
use crate::client::{Client, Resource};

/// What an owner has to do with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// It has it.
    Own,
    /// Nobody has it, and it may take it.
    Adopt,
    /// It has it and must let it go.
    Release,
    /// Nothing.
    Leave,
}

fn decide(owner: &Owner, meta: &ObjectMeta, matches: bool) -> Claim {
    match controller_of(meta) {
        Some(controller) if controller.uid != owner.reference.uid => Claim::Leave,
        Some(_) if matches => Claim::Own,
        Some(_) if owner.deleting => Claim::Leave,
        Some(_) => Claim::Release,
        None if matches && !owner.deleting && meta.deletion_timestamp.is_none() => Claim::Adopt,
        None => Claim::Leave,
    }
}

/// The objects of `candidates` that belong to `owner`, an object of kind `O`: takes on the orphans among those that
/// `matches` finds fit, and lets go of what it has that is not. `mirror` shows what was written afterwards.
pub async fn claim<O: Resource, K: Resource>(
    client: &Client,
    owner: &Owner,
    mirror: &Reflector<K>,
    candidates: impl IntoIterator<Item = Arc<K>>,
    matches: impl Fn(&K) -> bool,
) -> Result<Vec<Arc<K>>, Status> {
    let api = client.namespaced::<K>(&owner.namespace);
    let mut claimed = Vec::new();
    let mut error = None;
    // Asked at most once: the answer is the same for all.
    let mut may_adopt: Option<Result<(), Status>> = None;
    for object in candidates {
        let meta = object.metadata();
        let name = meta.name.as_deref().unwrap_or("");
        match decide(owner, meta, matches(&object)) {
            Claim::Own => claimed.push(object),
            Claim::Leave => {}
            Claim::Release => match api.patch(name, None, PatchKind::Strategic, release(owner, meta)).await {
                Ok(released) => mirror.reached(&released).await,
                // It is gone, or another one, or somebody else has released it.
                Err(status) if status.is("NotFound") || status.is("Invalid") => {}
                Err(status) => error = error.or(Some(status)),
            },
            Claim::Adopt => {
                if may_adopt.is_none() {
                    may_adopt = Some(recheck::<O>(client, owner).await);
                }
                let adopted = match may_adopt.clone() {
                    Some(Err(status)) => Err(status),
                    _ => api.patch(name, None, PatchKind::Strategic, adoption(owner, meta)).await,
                };
                match adopted {
                    Ok(adopted) => {
                        mirror.reached(&adopted).await;
                        claimed.push(Arc::new(adopted));
                    }
                    Err(status) if status.is("NotFound") => {}
                    Err(status) => error = error.or(Some(status)),
                }
            }
        }
    }
    error.map_or(Ok(claimed), Err)
}

/// Asks the server whether the owner is still there: what a cache shows may be gone, or on its way out.
async fn recheck<O: Resource>(client: &Client, owner: &Owner) -> Result<(), Status> {
    let (kind, namespace, name) = (O::KIND, &owner.namespace, owner.name());
    let wanted = &owner.reference.uid;
    let fresh = client.namespaced::<O>(namespace).get(name).await?;
    let meta = fresh.metadata();
    let uid = meta.uid.as_deref().unwrap_or("");
    if uid != wanted {
        let what = format!("original {kind} {namespace}/{name} is gone: got uid {uid}, wanted {wanted}");
        return Err(Status::conflict(O::GROUP, O::PLURAL, name, &what));
    }
    match &meta.deletion_timestamp {
        Some(at) => {
            let what = format!("{namespace}/{name} has just been deleted at {}", at.0);
            Err(Status::conflict(O::GROUP, O::PLURAL, name, &what))
        }
        None => Ok(()),
    }
}

fn adoption(owner: &Owner, meta: &ObjectMeta) -> Value {
    let mut patch = json!({"metadata": {"uid": meta.uid, "ownerReferences": [owner.reference]}});
    if let Some(finalizer) = owner.finalizer {
        patch["metadata"]["finalizers"] = json!([finalizer]);
    }
    patch
}

fn release(owner: &Owner, meta: &ObjectMeta) -> Value {
    let reference = json!({"$patch": "delete", "uid": owner.reference.uid});
    let mut patch = json!({"metadata": {"uid": meta.uid, "ownerReferences": [reference]}});
    if let Some(finalizer) = owner.finalizer {
        patch["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::owned::selector;
    use k8s_openapi::api::apps::v1::ReplicaSet;

    #[test]
    fn only_what_is_selected_and_free_is_taken() {
        let set = |deleting: bool| {
            let mut set: ReplicaSet =
                serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "d", "uid": "mine"}}))
                    .unwrap();
            if deleting {
                set.metadata.deletion_timestamp =
                    serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
            }
            Owner::new(&set, selector(None).unwrap())
        };
        let meta = |uid: Option<&str>, deleting: bool| -> ObjectMeta {
            let owners: Vec<_> = uid
                .iter()
                .map(|uid| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "s", "uid": uid, "controller": true}))
                .collect();
            let at = if deleting { json!("2026-01-01T00:00:00Z") } else { Value::Null };
            serde_json::from_value(json!({"name": "p", "ownerReferences": owners, "deletionTimestamp": at}))
                .unwrap()
        };
        for (owner_goes, controller, object_goes, matches, expected) in [
            (false, Some("mine"), false, true, Claim::Own),
            (false, Some("mine"), true, true, Claim::Own),
            (true, Some("mine"), false, true, Claim::Own),
            (false, Some("mine"), false, false, Claim::Release),
            (true, Some("mine"), false, false, Claim::Leave),
            (false, Some("other"), false, true, Claim::Leave),
            (false, Some("other"), false, false, Claim::Leave),
            (false, None, false, true, Claim::Adopt),
            (false, None, true, true, Claim::Leave),
            (true, None, false, true, Claim::Leave),
            (false, None, false, false, Claim::Leave),
        ] {
            let decided = decide(&set(owner_goes), &meta(controller, object_goes), matches);
            assert_eq!(decided, expected, "{owner_goes} {controller:?} {object_goes} {matches}");
        }
    }

    #[test]
    fn patches_name_the_object_that_is_meant() {
        let set: ReplicaSet =
            serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "d", "uid": "mine"}}))
                .unwrap();
        let mut owner = Owner::new(&set, selector(None).unwrap());
        let meta = ObjectMeta { uid: Some("p".into()), ..ObjectMeta::default() };
        assert_eq!(
            adoption(&owner, &meta),
            json!({"metadata": {"uid": "p", "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "s", "uid": "mine",
                "controller": true, "blockOwnerDeletion": true}]}})
        );
        owner.finalizer = Some("f");
        assert_eq!(adoption(&owner, &meta)["metadata"]["finalizers"], json!(["f"]));
        assert_eq!(
            release(&owner, &meta)["metadata"],
            json!({"uid": "p", "ownerReferences": [{"$patch": "delete", "uid": "mine"}],
                   "$deleteFromPrimitiveList/finalizers": ["f"]})
        );
    }
}
