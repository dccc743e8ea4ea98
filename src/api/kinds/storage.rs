//! `storage.k8s.io`.

use super::{GroupVersion, Kind};

const V1: GroupVersion =
    GroupVersion { group: "storage.k8s.io", version: "v1", types: "io.k8s.api.storage.v1" };

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        V1.cluster("CSIDriver", "csidrivers"),
        V1.cluster("CSINode", "csinodes"),
        V1.namespaced("CSIStorageCapacity", "csistoragecapacities"),
        V1.cluster("StorageClass", "storageclasses").short("sc"),
        V1.cluster("VolumeAttachment", "volumeattachments").with_status(),
        V1.cluster("VolumeAttributesClass", "volumeattributesclasses").short("vac"),
    ]
}
