//! The certificate that a client is shown: by the name that it asks for, swapped whole; a generated one for all others.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, ServerConfig};

/// How the generated certificate names itself, as with ingress-nginx.
const DEFAULT_NAME: &str = "Kubernetes Ingress Controller Fake Certificate";
/// For which host it would be good.
const DEFAULT_HOST: &str = "ingress.local";

/// Certificates by host; `*.example.com` for one label, an empty name for all hosts.
pub type Certificates = HashMap<String, Arc<CertifiedKey>>;

/// The certificate for a host of this name.
pub fn for_host<'a>(all: &'a Certificates, host: &str) -> Option<&'a Arc<CertifiedKey>> {
    all.get(host).or_else(|| all.get(&format!("*.{}", host.split_once('.')?.1)))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A certificate with its chain, and the key that belongs to it, both in PEM.
pub fn certified(certificate: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("tls.crt is not a certificate in PEM: {error}"))?;
    if chain.is_empty() {
        return Err("tls.crt holds no certificate in PEM".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| format!("tls.key is not a private key in PEM: {error}"))?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key)
        .map_err(|error| format!("tls.key cannot be used: {error}"))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // Not every kind of key tells.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(Arc::new(certified)),
        Err(_) => Err("tls.key is not the key of tls.crt".to_owned()),
    }
}

/// A certificate that nobody has a reason to trust.
fn generated() -> Result<Arc<CertifiedKey>, String> {
    let make = || {
        let mut params = CertificateParams::new([DEFAULT_HOST.to_owned()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Acme Co");
        params.distinguished_name.push(DnType::CommonName, DEFAULT_NAME);
        let key = KeyPair::generate()?;
        Ok::<_, rcgen::Error>((params.self_signed(&key)?.pem(), key.serialize_pem()))
    };
    let (certificate, key) = make().map_err(|error| error.to_string())?;
    certified(certificate.as_bytes(), key.as_bytes())
}

/// Which certificate a client gets.
#[derive(Debug)]
pub struct Shown {
    by_host: RwLock<Arc<Certificates>>,
    default: Arc<CertifiedKey>,
}

impl Shown {
    /// Only a generated one to begin with.
    pub fn new() -> Result<Shown, String> {
        Ok(Shown { by_host: RwLock::default(), default: generated()? })
    }

    /// From now on these.
    pub fn set(&self, certificates: Certificates) {
        *self.by_host.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(certificates);
    }

    fn choose(&self, host: Option<&str>) -> Arc<CertifiedKey> {
        let all = self.by_host.read().unwrap_or_else(PoisonError::into_inner).clone();
        let host = host.unwrap_or_default().to_lowercase();
        for_host(&all, &host).or_else(|| all.get("")).unwrap_or(&self.default).clone()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.choose(hello.server_name()))
    }
}

/// How connections are accepted: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
pub fn server(shown: Arc<Shown>) -> Result<Arc<ServerConfig>, String> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_cert_resolver(shown);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A certificate for these hosts and its key.
    pub fn pair(hosts: &[&str]) -> (String, String) {
        let params = CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>());
        let key = KeyPair::generate().unwrap();
        (params.unwrap().self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn certificate(host: &str) -> Arc<CertifiedKey> {
        let (certificate, key) = pair(&[host]);
        certified(certificate.as_bytes(), key.as_bytes()).unwrap()
    }

    #[test]
    fn the_name_chooses_the_certificate() {
        let shown = Shown::new().unwrap();
        let [a, star, all] = ["a.example", "star", "all"].map(certificate);
        let is = |host, wanted: &Arc<CertifiedKey>| Arc::ptr_eq(&shown.choose(host), wanted);
        assert!(is(None, &shown.default) && is(Some("a.example"), &shown.default));
        let mut some =
            Certificates::from([("a.example".into(), a.clone()), ("*.example".into(), star.clone())]);
        shown.set(some.clone());
        assert!(is(Some("a.example"), &a) && is(Some("A.EXAMPLE"), &a));
        assert!(is(Some("b.example"), &star) && is(Some("c.b.example"), &shown.default));
        some.insert(String::new(), all.clone());
        shown.set(some);
        assert!(is(Some("other"), &all) && is(None, &all));
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_told() {
        let ((certificate, key), (_, other)) = (pair(&["a"]), pair(&["a"]));
        for (certificate, key, wrong) in [
            (certificate.as_str(), key.as_str(), None),
            ("", key.as_str(), Some("tls.crt holds no certificate in PEM")),
            (certificate.as_str(), "", Some("tls.key is not a private key in PEM")),
            (certificate.as_str(), other.as_str(), Some("tls.key is not the key of tls.crt")),
        ] {
            let got = certified(certificate.as_bytes(), key.as_bytes()).err();
            assert_eq!(got.is_some(), wrong.is_some(), "{got:?}");
            assert!(got.unwrap_or_default().starts_with(wrong.unwrap_or_default()));
        }
    }
}
