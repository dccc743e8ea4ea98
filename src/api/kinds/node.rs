//! `node.k8s.io`.

use super::{GroupVersion, Kind};

const V1: GroupVersion = GroupVersion { group: "node.k8s.io", version: "v1", types: "io.k8s.api.node.v1" };

pub(super) fn kinds() -> Vec<Kind> {
    vec![V1.cluster("RuntimeClass", "runtimeclasses")]
}
