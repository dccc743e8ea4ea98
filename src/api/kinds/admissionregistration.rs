//! `admissionregistration.k8s.io`.

use super::{GroupVersion, Kind};

const V1: GroupVersion = GroupVersion {
    group: "admissionregistration.k8s.io",
    version: "v1",
    types: "io.k8s.api.admissionregistration.v1",
};

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        V1.cluster("MutatingAdmissionPolicy", "mutatingadmissionpolicies").among("api-extensions"),
        V1.cluster("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings")
            .among("api-extensions"),
        V1.cluster("MutatingWebhookConfiguration", "mutatingwebhookconfigurations").among("api-extensions"),
        V1.cluster("ValidatingAdmissionPolicy", "validatingadmissionpolicies")
            .among("api-extensions")
            .with_status(),
        V1.cluster("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings")
            .among("api-extensions"),
        V1.cluster("ValidatingWebhookConfiguration", "validatingwebhookconfigurations")
            .among("api-extensions"),
    ]
}
