//! `apiregistration.k8s.io`.

use super::{GroupVersion, Kind};

const V1: GroupVersion = GroupVersion {
    group: "apiregistration.k8s.io",
    version: "v1",
    types: "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1",
};

pub(super) fn kinds() -> Vec<Kind> {
    vec![V1.cluster("APIService", "apiservices").among("api-extensions").with_status()]
}
