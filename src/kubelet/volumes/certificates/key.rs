//! New keys for pods' certificates, each with the request (PKCS #10) that proves that it is held.

use getrandom::SysRng;
use p521::ecdsa::DerSignature;
use p521::ecdsa::signature::RandomizedSigner;
use p521::elliptic_curve::Generate;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SignatureAlgorithm};
use rsa::pkcs8::{EncodePrivateKey, EncodePublicKey};
use rsa::rand_core::UnwrapErr;
use rustls::pki_types::PrivatePkcs8KeyDer;

use crate::api::der::{self, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, bits, tlv};

/// The label of a key's PEM block.
const LABEL: &str = "PRIVATE KEY";
/// `AlgorithmIdentifier` of Ed25519.
const ED25519: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
/// The object identifier of ECDSA with SHA-512.
const ECDSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04];

/// A key with its request.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// PKCS #8, as PEM.
    pub pem: String,
    /// The request, which says nothing but the key; DER.
    pub request: Vec<u8>,
}

/// Makes a key of a type that Kubernetes has a name for. It takes its time: seconds, for a large one of RSA.
pub fn make(kind: &str) -> Result<Key, String> {
    match kind {
        "RSA3072" => of_rsa(3072),
        "RSA4096" => of_rsa(4096),
        "ECDSAP256" => generated(&rcgen::PKCS_ECDSA_P256_SHA256),
        "ECDSAP384" => generated(&rcgen::PKCS_ECDSA_P384_SHA384),
        "ECDSAP521" => of_p521().map_err(|error| error.to_string()),
        "ED25519" => of_ed25519(),
        other => Err(format!("unknown key type {other:?}")),
    }
}

fn generated(algorithm: &'static SignatureAlgorithm) -> Result<Key, String> {
    let pair = KeyPair::generate_for(algorithm).map_err(|error| error.to_string())?;
    of_pair(&pair)
}

fn of_rsa(length: usize) -> Result<Key, String> {
    let key = rsa::PrivateKey::new(&mut UnwrapErr(SysRng), length).map_err(|error| error.to_string())?;
    let pkcs8 = key.to_pkcs8_der().map_err(|error| error.to_string())?;
    of_pkcs8(pkcs8.as_bytes(), &rcgen::PKCS_RSA_SHA256)
}

/// Without its public key beside it, as ring would write it: older programs cannot read that.
fn of_ed25519() -> Result<Key, String> {
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed).map_err(|error| format!("no random number: {error}"))?;
    let private = tlv(OCTET_STRING, &tlv(OCTET_STRING, &seed));
    let pkcs8 = tlv(SEQUENCE, &[tlv(INTEGER, &[0]), ED25519.to_vec(), private].concat());
    of_pkcs8(&pkcs8, &rcgen::PKCS_ED25519)
}

fn of_pkcs8(pkcs8: &[u8], algorithm: &'static SignatureAlgorithm) -> Result<Key, String> {
    let pair = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), algorithm);
    of_pair(&pair.map_err(|error| error.to_string())?)
}

fn of_pair(pair: &KeyPair) -> Result<Key, String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(pair).map_err(|error| error.to_string())?;
    Ok(Key { pem: der::pem(LABEL, &pair.serialize_der()), request: request.der().to_vec() })
}

/// ring knows nothing of this curve, so that the request is written by hand.
fn of_p521() -> Result<Key, rsa::pkcs8::Error> {
    let random = &mut UnwrapErr(SysRng);
    let key = p521::SecretKey::generate_from_rng(random);
    let (pkcs8, public) = (key.to_pkcs8_der()?, key.public_key().to_public_key_der()?);
    let no_name = tlv(SEQUENCE, &[]);
    let no_attributes = tlv(0xa0, &[]);
    let content = [tlv(INTEGER, &[0]), no_name, public.as_bytes().to_vec(), no_attributes];
    let content = tlv(SEQUENCE, &content.concat());
    let signature: DerSignature = p521::ecdsa::SigningKey::from(&key).sign_with_rng(random, &content);
    let algorithm = tlv(SEQUENCE, &tlv(OBJECT_IDENTIFIER, ECDSA_SHA512));
    let request = tlv(SEQUENCE, &[content, algorithm, bits(signature.as_bytes())].concat());
    Ok(Key { pem: der::pem(LABEL, pkcs8.as_bytes()), request })
}

#[cfg(test)]
mod tests {
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer;
    use x509_parser::public_key::PublicKey;

    use super::*;

    #[test]
    fn keys_of_every_type_are_proven_to_be_held() {
        for (kind, length) in [
            ("RSA3072", 3072),
            ("RSA4096", 4096),
            ("ECDSAP256", 256),
            ("ECDSAP384", 384),
            // Points are of whole bytes.
            ("ECDSAP521", 528),
            ("ED25519", 256),
        ] {
            let key = make(kind).unwrap();
            let (rest, request) = X509CertificationRequest::from_der(&key.request).unwrap();
            assert!(rest.is_empty(), "{kind}");
            let info = &request.certification_request_info;
            assert_eq!((info.subject.iter().count(), info.attributes().len()), (0, 0), "{kind}");
            let public = info.subject_pki.parsed().unwrap();
            let size = match &public {
                PublicKey::Unknown(bytes) => bytes.len() * 8,
                known => known.key_size(),
            };
            assert_eq!(size, length, "{kind}");
            // The API server's own tests see to the signature that is not ring's.
            assert!(kind == "ECDSAP521" || request.verify_signature().is_ok(), "{kind}");
            let block = x509_parser::pem::parse_x509_pem(key.pem.as_bytes()).unwrap().1;
            assert_eq!(block.label, "PRIVATE KEY", "{kind}");
        }
        assert!(make("ED25519").unwrap() != make("ED25519").unwrap(), "each is new");
        assert_eq!(make("DSA").err().as_deref(), Some("unknown key type \"DSA\""));
    }
}
