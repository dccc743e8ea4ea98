//! Whether a certificate and a private key belong together, in the words of Go's `crypto/tls` (`X509KeyPair`).

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

const CERTIFICATE: &str = "CERTIFICATE";
const PRIVATE_KEY: &str = "PRIVATE KEY";

fn blocks(pem: &[u8]) -> Vec<Pem> {
    Pem::iter_from_buffer(pem).map_while(Result::ok).collect()
}

fn labels(blocks: &[Pem]) -> String {
    let labels: Vec<&str> = blocks.iter().map(|block| block.label.as_str()).collect();
    format!("[{}]", labels.join(" "))
}

fn is_key(block: &Pem) -> bool {
    block.label == PRIVATE_KEY || block.label.ends_with(" PRIVATE KEY")
}

/// What is wrong with a certificate (or a chain that begins with it) and its key, both as PEM.
pub fn wrong_pair(certificate: &[u8], key: &[u8]) -> Option<String> {
    let chain = blocks(certificate);
    let Some(leaf) = chain.iter().find(|block| block.label == CERTIFICATE) else {
        return Some(match chain.as_slice() {
            [] => "tls: failed to find any PEM data in certificate input".to_owned(),
            [one] if is_key(one) => {
                "tls: failed to find certificate PEM data in certificate input, but did find a \
                                     private key; PEM inputs may have been switched"
                    .to_owned()
            }
            others => format!(
                "tls: failed to find {CERTIFICATE:?} PEM block in certificate input after skipping PEM blocks of the \
                 following types: {}",
                labels(others)
            ),
        });
    };
    let keys = blocks(key);
    let Some(own) = keys.iter().find(|block| is_key(block)) else {
        return Some(match keys.as_slice() {
            [] => "tls: failed to find any PEM data in key input".to_owned(),
            [one] if one.label == CERTIFICATE => {
                "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
            }
            others => format!(
                "tls: failed to find PEM block with type ending in {PRIVATE_KEY:?} in key input after skipping PEM \
                 blocks of the following types: {}",
                labels(others)
            ),
        });
    };
    match leaf.parse_x509() {
        Err(error) => Some(format!("x509: malformed certificate: {error}")),
        Ok(leaf) => wrong_key(&leaf, own),
    }
}

fn wrong_key(leaf: &X509Certificate<'_>, key: &Pem) -> Option<String> {
    let contents = key.contents.clone();
    let key = match key.label.as_str() {
        "RSA PRIVATE KEY" => PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(contents)),
        "EC PRIVATE KEY" => PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(contents)),
        _ => PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(contents)),
    };
    let Ok(key) = any_supported_type(&key) else {
        return Some("tls: failed to parse private key".to_owned());
    };
    let spki = key.public_key()?;
    let (own, named) = (spki.as_ref(), leaf.public_key().raw);
    if own == named {
        return None;
    }
    let of = |spki: &[u8]| algorithm(spki);
    Some(match of(own) == of(named) {
        true => "tls: private key does not match public key".to_owned(),
        false => "tls: private key type does not match public key type".to_owned(),
    })
}

/// The algorithm that a public key names, without its parameters.
fn algorithm(spki: &[u8]) -> Option<String> {
    use x509_parser::prelude::FromDer;
    let (_, info) = x509_parser::x509::SubjectPublicKeyInfo::from_der(spki).ok()?;
    Some(info.algorithm.algorithm.to_id_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_belong_together() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap().pem();
        let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let elsewhere = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
        let own = key.serialize_pem();
        for (certificate, key, wrong) in [
            (certificate.as_str(), own.as_str(), None),
            (&certificate, &other, Some("tls: private key does not match public key")),
            (&certificate, &elsewhere, Some("tls: private key type does not match public key type")),
            ("text", &own, Some("tls: failed to find any PEM data in certificate input")),
            (&certificate, "text", Some("tls: failed to find any PEM data in key input")),
            (
                &own,
                &certificate,
                Some(
                    "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM \
                     inputs may have been switched",
                ),
            ),
            (
                &certificate,
                &certificate,
                Some("tls: found a certificate rather than a key in the PEM for the private key"),
            ),
            (
                &certificate,
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                Some("tls: failed to parse private key"),
            ),
        ] {
            assert_eq!(wrong_pair(certificate.as_bytes(), key.as_bytes()).as_deref(), wrong);
        }
    }
}
