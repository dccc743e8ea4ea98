//! `certificates.k8s.io`.

use super::{GroupVersion, Kind, PART_VERBS};

const V1: GroupVersion =
    GroupVersion { group: "certificates.k8s.io", version: "v1", types: "io.k8s.api.certificates.v1" };

pub(super) fn kinds() -> Vec<Kind> {
    let kind = "CertificateSigningRequest";
    let requests = V1.cluster(kind, "certificatesigningrequests").short("csr");
    vec![requests.with_own("approval", kind, PART_VERBS).with_status()]
}
