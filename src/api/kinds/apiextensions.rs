//! `apiextensions.k8s.io`.

use super::{GroupVersion, Kind};

const V1: GroupVersion = GroupVersion {
    group: "apiextensions.k8s.io",
    version: "v1",
    types: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1",
};

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        V1.cluster("CustomResourceDefinition", "customresourcedefinitions")
            .short("crd")
            .short("crds")
            .among("api-extensions")
            .with_status(),
    ]
}
