//! `networking.k8s.io`: how traffic enters, who may talk to whom, which addresses services have.

mod cidr;
mod ingress;
mod ingressclass;
mod networkpolicy;

use super::Strategy;

/// The strategy of a kind of this group.
pub(super) fn of(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "IPAddress" => &cidr::IpAddress,
        "Ingress" => &ingress::Ingress,
        "IngressClass" => &ingressclass::IngressClass,
        "NetworkPolicy" => &networkpolicy::NetworkPolicy,
        "ServiceCIDR" => &cidr::ServiceCidr,
        _ => return None,
    })
}
