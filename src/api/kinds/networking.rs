//! `networking.k8s.io`.

use super::{GroupVersion, Kind};

const V1: GroupVersion =
    GroupVersion { group: "networking.k8s.io", version: "v1", types: "io.k8s.api.networking.v1" };

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        V1.cluster("IPAddress", "ipaddresses").short("ip"),
        V1.cluster("IngressClass", "ingressclasses"),
        V1.namespaced("Ingress", "ingresses").short("ing").with_status(),
        V1.namespaced("NetworkPolicy", "networkpolicies").short("netpol"),
        V1.cluster("ServiceCIDR", "servicecidrs").with_status(),
    ]
}
