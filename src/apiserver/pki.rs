//! The cluster's certificate authority, the certificates signed by it, and the key of service-account tokens.
//!
//! The authority and the token key are made once and kept in a directory that only root can read. Leaf
//! certificates live in memory: the server's is renewed in the running process, clients' are issued on demand.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CipherSuite, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};

use crate::clock;

/// How long leaf certificates are valid.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates begin a little in the past, for clients whose clock is behind.
const CLOCK_SKEW: Duration = Duration::from_secs(300);
/// How often the age of certificates is looked at. Timers stand still while the machine is suspended; the calendar, by
/// which certificates end, does not.
const CHECK: Duration = Duration::from_secs(3600);

/// Why keys or certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory or a file in it.
    #[error("pki file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A certificate could not be made, or the stored authority is damaged.
    #[error("certificate of {subject}: {source}")]
    Certificate {
        /// Whose certificate.
        subject: String,
        /// What was wrong.
        source: rcgen::Error,
    },
    /// A key could not be made or read.
    #[error("{what}: {message}")]
    Key {
        /// Which key.
        what: &'static str,
        /// What was wrong.
        message: String,
    },
    /// The TLS settings do not fit together.
    #[error("tls settings: {0}")]
    Tls(#[from] rustls::Error),
    /// The authority does not do as the root of client certificates.
    #[error("client certificate verifier: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// What the server's certificate must be good for.
#[derive(Debug, Clone)]
pub struct ServerNames {
    /// The node's name.
    pub node: String,
    /// Every address the server is reached at; loopback is added.
    pub addresses: Vec<IpAddr>,
}

/// A client's certificate and key, in PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS #8).
    pub key: String,
}

/// The keys of one cluster.
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
    token_key: Vec<u8>,
}

impl Pki {
    /// Reads the keys in `directory`, or makes them.
    pub fn open(directory: &Path) -> Result<Pki, Error> {
        Pki::open_as(directory, "minik-ca")
    }

    /// The same with an authority of this name.
    pub fn open_as(directory: &Path, name: &str) -> Result<Pki, Error> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| Error::File { path: directory.to_owned(), source })?;
        let (cert_path, key_path) = (directory.join("ca.crt"), directory.join("ca.key"));
        if !cert_path.exists() {
            let (certificate, key) = new_authority(name)?;
            // The certificate comes last: with it, the pair is complete.
            write_private(&key_path, key.as_bytes())?;
            write_private(&cert_path, certificate.as_bytes())?;
        }
        let (ca_pem, key_pem) = (read_text(&cert_path)?, read_text(&key_path)?);
        let of_ca = |source| Error::Certificate { subject: "the cluster's authority".into(), source };
        let key = KeyPair::from_pem(&key_pem).map_err(of_ca)?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, key).map_err(of_ca)?;
        Ok(Pki { issuer, ca_pem, token_key: token_key(&directory.join("sa.key"))? })
    }

    /// The authority's certificate, which clients trust.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The authority's key.
    pub(super) fn key(&self) -> &KeyPair {
        self.issuer.key()
    }

    /// The key that signs service-account tokens (ECDSA P-256, PKCS #8 in DER).
    pub fn token_key(&self) -> &[u8] {
        &self.token_key
    }

    /// A certificate for a user: the common name is the user's name, organizations are groups.
    pub fn client(&self, name: &str, groups: &[&str], lifetime: Duration) -> Result<Identity, Error> {
        let mut params = leaf(name, lifetime, ExtendedKeyUsagePurpose::ClientAuth);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        self.sign(name, &params)
    }

    fn server(&self, names: &ServerNames, lifetime: Duration) -> Result<Identity, Error> {
        let subject = "kube-apiserver";
        let mut params = leaf(subject, lifetime, ExtendedKeyUsagePurpose::ServerAuth);
        let dns = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            &names.node,
        ];
        for name in dns {
            let name = name
                .try_into()
                .map_err(|source| Error::Certificate { subject: format!("{subject} as {name}"), source })?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
        let addresses = loopback.iter().chain(&names.addresses);
        params.subject_alt_names.extend(addresses.map(|a| SanType::IpAddress(*a)));
        self.sign(subject, &params)
    }

    fn sign(&self, subject: &str, params: &CertificateParams) -> Result<Identity, Error> {
        let failed = |source| Error::Certificate { subject: subject.to_owned(), source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn new_authority(name: &str) -> Result<(String, String), Error> {
    let failed = |source| Error::Certificate { subject: format!("the authority {name}"), source };
    let mut params = CertificateParams::default();
    set_validity(&mut params, CA_LIFETIME);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn leaf(name: &str, lifetime: Duration, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    set_validity(&mut params, lifetime);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    params
}

fn set_validity(params: &mut CertificateParams, lifetime: Duration) {
    let now = SystemTime::from(clock::now()).duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(CLOCK_SKEW);
    params.not_after = epoch + now + lifetime;
}

fn token_key(path: &Path) -> Result<Vec<u8>, Error> {
    match std::fs::read(path) {
        Ok(key) => Ok(key),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let key = ring::signature::EcdsaKeyPair::generate_pkcs8(
                &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
                &ring::rand::SystemRandom::new(),
            )
            .map_err(|e| Error::Key { what: "service account key", message: e.to_string() })?;
            write_private(path, key.as_ref())?;
            Ok(key.as_ref().to_vec())
        }
        Err(source) => Err(Error::File { path: path.to_owned(), source }),
    }
}

/// Writes a file of mode 0600 whole or not at all.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension("new");
    let write = || {
        // A leftover of an earlier attempt may have another mode.
        let _ = std::fs::remove_file(&temporary);
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|source| Error::File { path: path.to_owned(), source })
}

fn read_text(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

/// The server's certificate, swapped for a new one while connections come and go.
#[derive(Debug)]
struct Current(RwLock<Issued>);

#[derive(Debug, Clone)]
struct Issued {
    key: Arc<CertifiedKey>,
    at: SystemTime,
}

impl Current {
    fn read(&self) -> Issued {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.read().key)
    }
}

/// Who says whose client certificates are this cluster's.
#[derive(Debug, Clone)]
pub struct ClientAuthority(Arc<dyn ClientCertVerifier>);

impl ClientAuthority {
    /// Whether the first of these certificates, helped by the others, is one of this cluster that is valid now.
    pub fn vouches_for(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> bool {
        let Some((leaf, others)) = chain.split_first() else { return false };
        let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        self.0.verify_client_cert(leaf, others, now).is_ok()
    }
}

/// Lets the handshake prove only that the client has the key of its certificate. Whose certificate it is, is asked
/// afterwards ([`ClientAuthority`]): a client with a wrong one gets an answer that says so, not a broken connection.
#[derive(Debug)]
struct AnyCertificate(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// What connections are accepted with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// TLS 1.2 and 1.3, h2 and http/1.1; a client certificate is optional.
    pub server: Arc<ServerConfig>,
    /// Whose client certificates count.
    pub clients: ClientAuthority,
}

/// The TLS side of the server: settings for connections, and the task that keeps the certificate fresh.
pub struct Tls {
    /// For every connection.
    pub config: Settings,
    pki: Arc<Pki>,
    names: ServerNames,
    lifetime: Duration,
    current: Arc<Current>,
}

impl Tls {
    /// Settings with a first server certificate of this lifetime.
    pub fn new(pki: Arc<Pki>, names: ServerNames, lifetime: Duration) -> Result<Tls, Error> {
        let current = Arc::new(Current(RwLock::new(issued(&pki, &names, lifetime)?)));
        let mut roots = RootCertStore::empty();
        let pem = |message: String| Error::Key { what: "authority certificate", message };
        roots.add(CertificateDer::from_pem_slice(pki.ca_pem.as_bytes()).map_err(|e| pem(e.to_string()))?)?;
        let mut provider = rustls::crypto::ring::default_provider();
        // The cheaper one of those that are safe, as Go's servers choose; stable, so that the rest keeps its order.
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        let provider = Arc::new(provider);
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(AnyCertificate(clients.clone())))
            .with_cert_resolver(current.clone());
        server.ignore_client_order = true;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let config = Settings { server: Arc::new(server), clients: ClientAuthority(clients) };
        Ok(Tls { config, pki, names, lifetime, current })
    }

    /// Renews the certificate each time a third of its life is left, and has `also` renew what was issued with it; runs
    /// until dropped.
    pub async fn renew(&self, also: impl Fn()) {
        loop {
            tokio::time::sleep(CHECK.min(self.lifetime / 12)).await;
            if !is_due(self.current.read().at, self.lifetime, SystemTime::from(clock::now())) {
                continue;
            }
            match issued(&self.pki, &self.names, self.lifetime) {
                Ok(new) => {
                    *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = new;
                    tracing::info!("renewed the server certificate");
                    also();
                }
                Err(error) => tracing::error!(%error, "could not renew the server certificate"),
            }
        }
    }
}

/// Whether what was issued then should be issued anew: two thirds of its life are over, or the calendar was set back to
/// before it begins.
fn is_due(issued: SystemTime, lifetime: Duration, now: SystemTime) -> bool {
    now.duration_since(issued)
        .map_or_else(|earlier| earlier.duration() > CLOCK_SKEW, |age| age >= lifetime.mul_f64(2.0 / 3.0))
}

fn issued(pki: &Pki, names: &ServerNames, lifetime: Duration) -> Result<Issued, Error> {
    let at = SystemTime::from(clock::now());
    Ok(Issued { key: certified(&pki.server(names, lifetime)?)?, at })
}

fn certified(identity: &Identity) -> Result<Arc<CertifiedKey>, Error> {
    let failed = |e: rustls::pki_types::pem::Error| Error::Key { what: "server key", message: e.to_string() };
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).map_err(failed)?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(failed)?;
    let key = rustls::crypto::ring::sign::any_ecdsa_type(&key)?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate], key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_are_made_once_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pki");
        let first = Pki::open(&path).unwrap();
        let second = Pki::open(&path).unwrap();
        assert_eq!(first.ca_pem(), second.ca_pem());
        assert_eq!(first.token_key(), second.token_key());
        for file in ["ca.crt", "ca.key", "sa.key"] {
            let mode = std::fs::metadata(path.join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }

    #[test]
    fn certificates_are_renewed_by_the_calendar() {
        let issued = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let life = Duration::from_secs(300_000);
        for (seconds, due) in [
            (0, false),
            (199_999, false),
            (200_000, true),
            // Suspended for longer than the certificate lived.
            (900_000, true),
            (-100, false),
            (-301, true),
        ] {
            let now = match u64::try_from(seconds) {
                Ok(later) => issued + Duration::from_secs(later),
                Err(_) => issued - Duration::from_secs(i64::unsigned_abs(seconds)),
            };
            assert_eq!(is_due(issued, life, now), due, "{seconds}");
        }
    }
}
