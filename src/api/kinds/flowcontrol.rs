//! `flowcontrol.apiserver.k8s.io`.

use super::{GroupVersion, Kind};

const V1: GroupVersion =
    GroupVersion { group: "flowcontrol.apiserver.k8s.io", version: "v1", types: "io.k8s.api.flowcontrol.v1" };

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        V1.cluster("FlowSchema", "flowschemas").with_status(),
        V1.cluster("PriorityLevelConfiguration", "prioritylevelconfigurations").with_status(),
    ]
}
