//! `certificates.k8s.io`: requests for certificates, and bundles of those that are trusted. Who signs is a
//! controller's business.

mod bundle;
mod pair;
mod pem;
mod request;
pub(super) mod signer;

use super::Strategy;

pub(super) use self::pair::wrong_pair;
pub use self::request::set_requester;

/// The strategy of a kind of this group.
pub(super) fn of(kind: &str) -> Option<&'static dyn Strategy> {
    match kind {
        "ClusterTrustBundle" => Some(&bundle::ClusterTrustBundle),
        "CertificateSigningRequest" => Some(&request::CertificateSigningRequest),
        _ => None,
    }
}
