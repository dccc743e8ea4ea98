//! Certificates of webhooks that are their own authority.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

/// Takes what is issued by a trusted authority, and a trusted certificate itself even if it says of itself that it is an
/// authority, as `openssl req -x509` makes them and Go's clients take them.
#[derive(Debug)]
pub(super) struct OwnAuthority {
    /// Decides about all others.
    pub(super) strict: Arc<WebPkiServerVerifier>,
    /// What is trusted.
    pub(super) trusted: Vec<CertificateDer<'static>>,
}

impl OwnAuthority {
    /// Whether it is trusted itself, valid at this time, and for this name.
    fn is_trusted(
        &self,
        leaf: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        if !self.trusted.iter().any(|trusted| trusted == leaf) {
            return Err(unknown);
        }
        let (_, certificate) = x509_parser::parse_x509_certificate(leaf).map_err(|_| unknown)?;
        let (validity, now) = (certificate.validity(), i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        if now < validity.not_before.timestamp() {
            return Err(CertificateError::NotValidYet.into());
        }
        if now > validity.not_after.timestamp() {
            return Err(CertificateError::Expired.into());
        }
        rustls::client::verify_server_name(&ParsedCertificate::try_from(leaf)?, name)
    }
}

impl ServerCertVerifier for OwnAuthority {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let strictly = self.strict.verify_server_cert(leaf, intermediates, name, ocsp, now);
        match strictly {
            // What the library has no name for: among it that an authority stands where a server should.
            Err(Error::InvalidCertificate(CertificateError::Other(_))) => {
                match self.is_trusted(leaf, name, now) {
                    Ok(()) => Ok(ServerCertVerified::assertion()),
                    Err(_) => strictly,
                }
            }
            decided => decided,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.strict.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.strict.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.strict.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::RootCertStore;

    fn authority(names: &[&str], is_authority: bool) -> CertificateDer<'static> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        if is_authority {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().into()
    }

    #[test]
    fn a_trusted_certificate_is_taken_even_as_its_own_authority() {
        let (own, other) = (authority(&["hook.default.svc"], true), authority(&["hook.default.svc"], true));
        let mut roots = RootCertStore::empty();
        roots.add(own.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let strict = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let verifier = OwnAuthority { strict, trusted: vec![own.clone()] };
        let verify = |leaf: &CertificateDer<'_>, name: &str, now: UnixTime| {
            let name = ServerName::try_from(name.to_owned()).unwrap();
            verifier.verify_server_cert(leaf, &[], &name, &[], now).is_ok()
        };
        let now = UnixTime::now();
        assert!(verify(&own, "hook.default.svc", now));
        assert!(!verify(&own, "another.default.svc", now));
        assert!(!verify(&other, "hook.default.svc", now));
        let long_after = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1 << 37));
        assert!(!verify(&own, "hook.default.svc", long_after));
    }
}
