//! `certificates.k8s.io`: requests for certificates, and bundles of those that are trusted. Who signs is a
//! controller's business.

mod bundle;
mod issued;
mod pair;
mod pem;
mod pod;
mod request;
pub(super) mod signer;
mod stub;

use super::Strategy;

pub(super) use self::pair::wrong_pair;
pub use self::request::set_requester;

/// The strategy of a kind of this group.
pub(super) fn of(kind: &str) -> Option<&'static dyn Strategy> {
    match kind {
        "ClusterTrustBundle" => Some(&bundle::ClusterTrustBundle),
        "CertificateSigningRequest" => Some(&request::CertificateSigningRequest),
        "PodCertificateRequest" => Some(&pod::PodCertificateRequest),
        _ => None,
    }
}
