//! `discovery.k8s.io`.

use super::{GroupVersion, Kind};

const V1: GroupVersion =
    GroupVersion { group: "discovery.k8s.io", version: "v1", types: "io.k8s.api.discovery.v1" };

pub(super) fn kinds() -> Vec<Kind> {
    vec![V1.namespaced("EndpointSlice", "endpointslices")]
}
