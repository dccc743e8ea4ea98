//! HTTP clients: with the host's certificates or whatever certificate comes, through the proxy or past it.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Url};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(15);
/// How long a registry may be silent in the middle of an answer.
const STALL: Duration = Duration::from_secs(30);

/// One client for each way to connect.
pub struct Clients {
    verified: Pair,
    lax: Pair,
}

struct Pair {
    /// Through the proxy that the environment names, if any.
    proxied: Client,
    /// To the machine itself, which no proxy stands for.
    direct: Client,
}

impl Clients {
    /// Reads the host's certificates and the environment's proxies.
    pub fn new() -> reqwest::Result<Clients> {
        // Another part of the process may have installed the same provider before.
        let provider = rustls::crypto::ring::default_provider();
        let _ = provider.clone().install_default();
        let mut roots = RootCertStore::empty();
        for certificate in rustls_native_certs::load_native_certs().certs {
            // A certificate that the host trusts and this library cannot read helps nobody: pass over it.
            let _ = roots.add(certificate);
        }
        let verified = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let lax = ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        Ok(Clients { verified: pair(&verified)?, lax: pair(&lax)? })
    }

    /// The client for an address.
    pub fn of(&self, verify: bool, url: &str) -> &Client {
        let pair = if verify { &self.verified } else { &self.lax };
        let local = Url::parse(url).is_ok_and(|url| url.host_str().is_some_and(is_loopback));
        if local { &pair.direct } else { &pair.proxied }
    }
}

fn pair(tls: &ClientConfig) -> reqwest::Result<Pair> {
    let builder = || {
        Client::builder()
            .user_agent(concat!("minik/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(tls.clone())
            .connect_timeout(CONNECT)
            .read_timeout(STALL)
    };
    Ok(Pair { proxied: builder().build()?, direct: builder().no_proxy().build()? })
}

/// Whether a host is this machine by its name.
pub fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// For registries that the user has called insecure: any certificate will do, if its key signs the handshake.
#[derive(Debug)]
struct AnyCertificate(CryptoProvider);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_itself_is_known_by_its_names() {
        for host in ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["example.test", "10.0.0.1", "localhost.example", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
