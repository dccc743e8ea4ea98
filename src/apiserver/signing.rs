//! Certificates that are asked for by a signing request: written by hand, because a subject may name several
//! organizations and any key, which must reach the certificate as they are.
//!
//! Source of the rules: Kubernetes `pkg/controller/certificates/authority`; of the form: RFC 5280.

use jiff::{SignedDuration, Timestamp};
use rcgen::SigningKey;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{OID_X509_EXT_SUBJECT_ALT_NAME, OID_X509_EXT_SUBJECT_KEY_IDENTIFIER};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::pki::Pki;
use crate::api::certificate_request;
use crate::api::der::{
    BIT_STRING, CERTIFICATE, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, bits, pem, tlv,
};

/// How long before it is issued a certificate begins, for servers whose clock is behind.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// Certificates for less than this are not shortened by what they begin earlier.
const SHORT: SignedDuration = SignedDuration::from_hours(8);

/// The tags of times.
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `AlgorithmIdentifier` of ECDSA with SHA-256, with which the authority signs.
const ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// The value of a `BOOLEAN` that is true.
const CRITICAL: &[u8] = &[0x01, 0x01, 0xff];
/// The last bytes of `2.5.29.N`, the identifiers of extensions.
const KEY_USAGE: u8 = 15;
const SUBJECT_ALT_NAME: u8 = 17;
const BASIC_CONSTRAINTS: u8 = 19;
const AUTHORITY_KEY_IDENTIFIER: u8 = 35;
const EXTENDED_KEY_USAGE: u8 = 37;

/// What a key is good for: its bit in the extension, by the names of Kubernetes.
const BITS: &[(&str, u8)] = &[
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];
/// What a certificate is good for: the encoded object identifiers.
const PURPOSES: &[(&str, &[u8])] = &[
    ("any", &[0x55, 0x1d, 0x25, 0x00]),
    ("server auth", &[0x2b, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[0x2b, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[0x2b, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[0x2b, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[0x2b, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[0x2b, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[0x2b, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[0x2b, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[0x2b, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[0x2b, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 10, 3, 3]),
    ("netscape sgc", &[0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 4, 1]),
];

impl Pki {
    /// The certificate, in PEM, that a request (in PEM) asks for, good for these usages and about so long.
    pub fn sign_request(
        &self,
        request: &[u8],
        usages: &[String],
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<String, String> {
        let request = certificate_request::der(request)?;
        let (_, request) = X509CertificationRequest::from_der(&request).map_err(|error| error.to_string())?;
        request.verify_signature().map_err(|_| "the request is not signed by its own key".to_owned())?;
        let authority = x509_parser::pem::parse_x509_pem(self.ca_pem().as_bytes());
        let (_, authority) = authority.map_err(|error| format!("the cluster's authority: {error}"))?;
        let (_, authority) = X509Certificate::from_der(&authority.contents)
            .map_err(|error| format!("the cluster's authority: {error}"))?;
        let last = Timestamp::from_second(authority.validity().not_after.timestamp())
            .map_err(|error| format!("the cluster's authority: {error}"))?;
        let (begins, ends) = span(now, lifetime, last)?;

        let mut extensions = extensions(usages)?;
        if let Some(id) = key_identifier(&authority) {
            extensions.extend(extension(AUTHORITY_KEY_IDENTIFIER, false, &tlv(SEQUENCE, &tlv(0x80, &id))));
        }
        if let Some(names) = alternative_names(&request) {
            extensions.extend(extension(SUBJECT_ALT_NAME, false, &names));
        }
        let info = &request.certification_request_info;
        let certificate = tlv(
            SEQUENCE,
            &[
                // Version 3.
                tlv(0xa0, &tlv(INTEGER, &[2])),
                tlv(INTEGER, &serial()?),
                ECDSA_SHA256.to_vec(),
                authority.subject().as_raw().to_vec(),
                tlv(SEQUENCE, &[time(begins), time(ends)].concat()),
                info.subject.as_raw().to_vec(),
                info.subject_pki.raw.to_vec(),
                tlv(0xa3, &tlv(SEQUENCE, &extensions)),
            ]
            .concat(),
        );
        let signature = self.key().sign(&certificate).map_err(|error| error.to_string())?;
        let signed = [certificate, ECDSA_SHA256.to_vec(), bits(&signature)];
        Ok(pem(CERTIFICATE, &tlv(SEQUENCE, &signed.concat())))
    }
}

/// When a certificate begins and ends; it does not outlive the authority.
fn span(now: Timestamp, lifetime: SignedDuration, last: Timestamp) -> Result<(Timestamp, Timestamp), String> {
    let begins = now.saturating_sub(BACKDATE).unwrap_or(Timestamp::MIN);
    let from = if lifetime < SHORT { now } else { begins };
    let ends = from.saturating_add(lifetime).unwrap_or(Timestamp::MAX).min(last);
    if begins >= last { Err(format!("the signer has expired: NotAfter={last}")) } else { Ok((begins, ends)) }
}

/// The extensions for these usages, and that the certificate is no authority.
fn extensions(usages: &[String]) -> Result<Vec<u8>, String> {
    let mut bits = [0u8; 2];
    let mut purposes: Vec<&[u8]> = Vec::new();
    for usage in usages {
        let bit = BITS.iter().find(|(name, _)| name == usage);
        let purpose = PURPOSES.iter().find(|(name, _)| name == usage);
        match (bit, purpose) {
            (Some((_, bit)), _) => bits[usize::from(bit / 8)] |= 0x80 >> (bit % 8),
            (None, Some((_, purpose))) if !purposes.contains(purpose) => purposes.push(purpose),
            (None, Some(_)) => {}
            (None, None) => return Err(format!("unrecognized usage value: {usage:?}")),
        }
    }
    let mut all = Vec::new();
    if bits != [0, 0] {
        let used = if bits[1] == 0 { &bits[..1] } else { &bits[..] };
        let unused = used.last().map_or(0, |byte| byte.trailing_zeros() as u8);
        all.extend(extension(KEY_USAGE, true, &tlv(BIT_STRING, &[&[unused][..], used].concat())));
    }
    if !purposes.is_empty() {
        let list: Vec<u8> = purposes.iter().flat_map(|oid| tlv(OBJECT_IDENTIFIER, oid)).collect();
        all.extend(extension(EXTENDED_KEY_USAGE, false, &tlv(SEQUENCE, &list)));
    }
    all.extend(extension(BASIC_CONSTRAINTS, true, &tlv(SEQUENCE, &[])));
    Ok(all)
}

fn extension(id: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let mut content = tlv(OBJECT_IDENTIFIER, &[0x55, 0x1d, id]);
    if critical {
        content.extend(CRITICAL);
    }
    content.extend(tlv(OCTET_STRING, value));
    tlv(SEQUENCE, &content)
}

fn key_identifier(authority: &X509Certificate<'_>) -> Option<Vec<u8>> {
    let extension = authority.get_extension_unique(&OID_X509_EXT_SUBJECT_KEY_IDENTIFIER).ok()??;
    match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    }
}

/// The names beside the subject as the request has them.
fn alternative_names(request: &X509CertificationRequest<'_>) -> Option<Vec<u8>> {
    use x509_parser::cri_attributes::ParsedCriAttribute;
    let attributes = request.certification_request_info.iter_attributes();
    let asked = attributes.filter_map(|attribute| match attribute.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(asked) => Some(&asked.extensions),
        _ => None,
    });
    let mut extensions = asked.flatten();
    let names = extensions.find(|extension| extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME)?;
    Some(names.value.to_vec())
}

/// A positive number that no other certificate has.
fn serial() -> Result<[u8; 16], String> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| format!("no random number: {error}"))?;
    // Positive, and without leading zeros.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(bytes)
}

fn time(at: Timestamp) -> Vec<u8> {
    let (tag, form) = if at.strftime("%Y").to_string().as_str() < "2050" {
        (UTC_TIME, "%y%m%d%H%M%SZ")
    } else {
        (GENERALIZED_TIME, "%Y%m%d%H%M%SZ")
    };
    tlv(tag, at.strftime(form).to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::auth;

    #[test]
    fn a_certificate_says_what_was_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(&directory.path().join("pki")).unwrap();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "devs");
        params.distinguished_name.push(rcgen::DnType::CommonName, "jane");
        let request = params.serialize_request(&key).unwrap().pem().unwrap();
        let usages =
            ["client auth", "digital signature", "key encipherment", "client auth"].map(str::to_owned);
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        let sign = |usages: &[String], hours| {
            pki.sign_request(request.as_bytes(), usages, SignedDuration::from_hours(hours), now)
        };
        let signed = sign(&usages, 24).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(signed.as_bytes()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&block.contents).unwrap();
        let (_, ca) = x509_parser::pem::parse_x509_pem(pki.ca_pem().as_bytes()).unwrap();
        let (_, ca) = X509Certificate::from_der(&ca.contents).unwrap();
        certificate.verify_signature(Some(ca.public_key())).unwrap();
        let at = |second| Timestamp::from_second(second).unwrap().to_string();
        let validity = certificate.validity();
        assert_eq!(at(validity.not_before.timestamp()), "2029-12-31T23:55:00Z");
        assert_eq!(at(validity.not_after.timestamp()), "2030-01-01T23:55:00Z");
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.digital_signature() && usage.value.key_encipherment());
        assert!(!usage.value.key_cert_sign() && !usage.value.data_encipherment());
        let purpose = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(purpose.client_auth && !purpose.server_auth);
        assert!(!certificate.is_ca());
        assert_eq!(certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
        assert_eq!(certificate.public_key().raw, key_info(&request));
        let user = auth::user_of_certificate(&block.contents).unwrap().user;
        assert_eq!((user.name.as_str(), user.groups[0].as_str()), ("jane", "devs"));

        assert_eq!(sign(&["x".to_owned()], 1).unwrap_err(), "unrecognized usage value: \"x\"");
        // Nothing outlives the authority, which begins now and lasts ten years.
        let long = sign(&usages, 24 * 365 * 100).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(long.as_bytes()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&block.contents).unwrap();
        assert_eq!(certificate.validity().not_after, ca.validity().not_after);
    }

    fn key_info(request: &str) -> Vec<u8> {
        let der = certificate_request::der(request.as_bytes()).unwrap();
        let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
        request.certification_request_info.subject_pki.raw.to_vec()
    }

    #[test]
    fn times_and_short_lives() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(time(at("2049-12-31T00:00:00Z")), tlv(UTC_TIME, b"491231000000Z"));
        assert_eq!(time(at("2050-01-01T00:00:00Z")), tlv(GENERALIZED_TIME, b"20500101000000Z"));
        let now = at("2030-01-01T00:00:00Z");
        let (_, ends) = span(now, SignedDuration::from_mins(10), at("2040-01-01T00:00:00Z")).unwrap();
        assert_eq!(ends, at("2030-01-01T00:10:00Z"));
        assert!(span(now, SignedDuration::from_mins(10), at("2020-01-01T00:00:00Z")).is_err());
    }
}
