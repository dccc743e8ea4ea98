//! `certificates.k8s.io`: requests for certificates. Who signs them is a controller's business.

mod pem;
mod request;
mod signer;

use super::Strategy;

pub use self::request::set_requester;

/// The strategy of a kind of this group.
pub(super) fn of(kind: &str) -> Option<&'static dyn Strategy> {
    match kind {
        "CertificateSigningRequest" => Some(&request::CertificateSigningRequest),
        _ => None,
    }
}
