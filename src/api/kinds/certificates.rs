//! `certificates.k8s.io`.

use super::{GroupVersion, Kind, PART_VERBS};

const V1: GroupVersion =
    GroupVersion { group: "certificates.k8s.io", version: "v1", types: "io.k8s.api.certificates.v1" };

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        V1.cluster("CertificateSigningRequest", "certificatesigningrequests")
            .short("csr")
            .with_own("approval", "CertificateSigningRequest", PART_VERBS)
            .with_status(),
        V1.cluster("ClusterTrustBundle", "clustertrustbundles"),
        V1.namespaced("PodCertificateRequest", "podcertificaterequests").with_status(),
    ]
}
