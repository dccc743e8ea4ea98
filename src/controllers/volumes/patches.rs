//! The writes by which claims and volumes come to be what is planned (pure): merge patches, `None` when nothing differs.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Map, Value, json};

use super::plan::DATA_FINALIZER;
use crate::api::volumes::tie::{claim_reference, is_bound_by_controller, versioned};
use crate::api::volumes::{self, BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONED_BY};

/// Annotations that say who makes a claim's volume.
const PROVISIONER_OF: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];

/// Has a claim name its volume.
pub fn tie_claim(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Value> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let (mut annotations, mut spec) = (Map::new(), Value::Null);
    if volumes::volume_of(claim) != name {
        spec = json!({"volumeName": name});
        if volumes::of_claim(claim, BOUND_BY_CONTROLLER).is_none() {
            annotations.insert(BOUND_BY_CONTROLLER.to_owned(), json!("yes"));
        }
    }
    if volumes::of_claim(claim, BIND_COMPLETED).is_none() {
        annotations.insert(BIND_COMPLETED.to_owned(), json!("yes"));
    }
    versioned(&claim.metadata.resource_version, annotations, spec)
}

/// Has a volume forget its claim; one that its user meant for that claim stays meant for it.
pub fn untie_volume(volume: &PersistentVolume) -> Value {
    let version = &volume.metadata.resource_version;
    match is_bound_by_controller(volume) {
        true => json!({"metadata": {"resourceVersion": version, "annotations": {BOUND_BY_CONTROLLER: null}},
            "spec": {"claimRef": null}}),
        false => json!({"metadata": {"resourceVersion": version},
            "spec": {"claimRef": {"uid": null, "resourceVersion": null}}}),
    }
}

/// The status of a claim in a phase; with a volume, what it has of that.
pub fn claim_status(
    claim: &PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
) -> Option<Value> {
    let status = claim.status.clone().unwrap_or_default();
    let moves = volumes::claim_phase(claim) != phase;
    let mut patch = Map::new();
    if moves {
        patch.insert("phase".to_owned(), json!(phase));
    }
    match volume.and_then(|volume| volume.spec.as_ref()) {
        None => {
            for (field, set) in
                [("accessModes", status.access_modes.is_some()), ("capacity", status.capacity.is_some())]
            {
                if set {
                    patch.insert(field.to_owned(), Value::Null);
                }
            }
        }
        Some(spec) => {
            if status.access_modes != spec.access_modes {
                patch.insert("accessModes".to_owned(), json!(spec.access_modes));
            }
            // A bound claim that grows shows what it has until it has more.
            if moves || status.capacity.is_none() {
                patch.insert("capacity".to_owned(), json!(spec.capacity));
            }
        }
    }
    (!patch.is_empty()).then(|| json!({"status": patch}))
}

/// Says on a claim who makes its volume.
pub fn provisioner(claim: &PersistentVolumeClaim, name: &str) -> Option<Value> {
    let missing = PROVISIONER_OF.iter().filter(|key| volumes::of_claim(claim, key) != Some(name));
    let annotations = missing.map(|key| ((*key).to_owned(), json!(name))).collect();
    versioned(&claim.metadata.resource_version, annotations, Value::Null)
}

/// The finalizers of a volume with that of its data, or without.
pub fn guard(volume: &PersistentVolume, hold: bool) -> Value {
    let others = volume.metadata.finalizers.iter().flatten().filter(|one| *one != DATA_FINALIZER).cloned();
    let finalizers: Vec<String> = others.chain(hold.then(|| DATA_FINALIZER.to_owned())).collect();
    json!({"metadata": {"resourceVersion": volume.metadata.resource_version, "finalizers": finalizers}})
}

/// The name of the volume that is made for a claim.
pub fn made_name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default())
}

/// The volume that is made for a claim, with its data in a directory of the host.
pub fn made(claim: &PersistentVolumeClaim, class: &StorageClass, path: &str) -> Value {
    let spec = claim.spec.as_ref();
    let modes = spec.and_then(|spec| spec.access_modes.as_ref());
    let amount = spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"));
    json!({
        "metadata": {
            "name": made_name(claim),
            "annotations": {PROVISIONED_BY: class.provisioner},
            "finalizers": [DATA_FINALIZER],
        },
        "spec": {
            "accessModes": modes,
            "capacity": {"storage": amount},
            "claimRef": claim_reference(claim),
            // The directory is there from the start: one that has gone must not be replaced by an empty one.
            "hostPath": {"path": path, "type": "Directory"},
            "mountOptions": class.mount_options,
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "storageClassName": class.metadata.name,
            "volumeMode": "Filesystem",
        },
    })
}
