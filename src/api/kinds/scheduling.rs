//! `scheduling.k8s.io`.

use super::{GroupVersion, Kind};

const V1: GroupVersion =
    GroupVersion { group: "scheduling.k8s.io", version: "v1", types: "io.k8s.api.scheduling.v1" };

pub(super) fn kinds() -> Vec<Kind> {
    vec![V1.cluster("PriorityClass", "priorityclasses").short("pc")]
}
