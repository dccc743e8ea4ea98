//! The first half of a binding: the patch by which a volume comes to name its claim. The controller writes it, and the
//! scheduler for claims that wait for a pod.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use serde_json::{Map, Value, json};

use super::{BOUND_BY_CONTROLLER, claim_of, is_meant_for, of_volume};

/// Whether the controller, not the user, tied a volume to its claim.
pub fn is_bound_by_controller(volume: &PersistentVolume) -> bool {
    of_volume(volume, BOUND_BY_CONTROLLER).is_some()
}

/// A patch that holds only for the version at hand.
pub fn versioned(version: &Option<String>, annotations: Map<String, Value>, spec: Value) -> Option<Value> {
    let mut patch = json!({"metadata": {"resourceVersion": version}});
    if !annotations.is_empty() {
        patch["metadata"]["annotations"] = Value::Object(annotations);
    }
    if !spec.is_null() {
        patch["spec"] = spec;
    }
    let changes = patch["metadata"].get("annotations").is_some() || patch.get("spec").is_some();
    changes.then_some(patch)
}

/// A reference to a claim, as volumes hold it.
pub fn claim_reference(claim: &PersistentVolumeClaim) -> Value {
    let meta = &claim.metadata;
    json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": meta.namespace, "name": meta.name,
        "uid": meta.uid, "resourceVersion": meta.resource_version})
}

/// Has a volume name its claim.
pub fn volume(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<Value> {
    let mut annotations = Map::new();
    if !is_meant_for(volume, claim) && !is_bound_by_controller(volume) {
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), json!("yes"));
    }
    let complete = is_meant_for(volume, claim)
        && claim_of(volume).is_some_and(|reference| reference.uid == claim.metadata.uid);
    let spec = if complete { Value::Null } else { json!({"claimRef": claim_reference(claim)}) };
    versioned(&volume.metadata.resource_version, annotations, spec)
}
