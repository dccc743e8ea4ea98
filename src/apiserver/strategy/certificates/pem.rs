//! What requests and certificates look like, as far as the API checks it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

/// Why the bytes of a field (in base64) are no request that its maker signed.
pub(super) fn wrong_request(given: &Value) -> Option<String> {
    const LABEL: &str = "CERTIFICATE REQUEST";
    let bytes = STANDARD.decode(given.as_str().unwrap_or_default()).unwrap_or_default();
    let Some(block) = Pem::iter_from_buffer(&bytes).find_map(Result::ok).filter(|b| b.label == LABEL) else {
        return Some(format!("PEM block type must be {LABEL}"));
    };
    match X509CertificationRequest::from_der(&block.contents) {
        Err(error) => Some(format!("asn1: structure error: {error}")),
        Ok((rest, _)) if !rest.is_empty() => Some("asn1: syntax error: trailing data".to_owned()),
        Ok((_, request)) => request
            .verify_signature()
            .err()
            .map(|_| "x509: the signature is not that of the request".to_owned()),
    }
}

/// Why the bytes of a field (in base64) are no certificates; none at all are right.
pub(super) fn wrong_certificate(given: &Value) -> Option<String> {
    const LABEL: &str = "CERTIFICATE";
    let bytes = STANDARD.decode(given.as_str().unwrap_or_default()).unwrap_or_default();
    if bytes.is_empty() {
        return None;
    }
    let mut blocks = 0;
    for block in Pem::iter_from_buffer(&bytes).map_while(Result::ok) {
        if block.label != LABEL {
            return Some(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        blocks += 1;
        if let Err(error) = block.parse_x509() {
            return Some(format!("x509: malformed certificate: {error}"));
        }
    }
    (blocks == 0).then(|| "must contain at least one CERTIFICATE PEM block".to_owned())
}

/// Why a text is not the certificates of authorities, each once.
pub(super) fn wrong_authorities(text: &str) -> Vec<String> {
    let (mut wrong, mut seen) = (Vec::new(), Vec::new());
    for (i, block) in Pem::iter_from_buffer(text.as_bytes()).map_while(Result::ok).enumerate() {
        let why = match block.parse_x509() {
            _ if block.label != "CERTIFICATE" => format!("entry {i} has bad block type: {}", block.label),
            Err(_) => format!("entry {i} does not parse as X.509"),
            Ok(certificate) if !certificate.is_ca() => format!("entry {i} does not have the CA bit set"),
            Ok(_) => {
                seen.push(block.contents.clone());
                continue;
            }
        };
        wrong.push(why);
    }
    if wrong.is_empty() && seen.is_empty() {
        wrong.push("at least one trust anchor must be provided".to_owned());
    }
    if !wrong.is_empty() {
        return wrong;
    }
    for (i, contents) in seen.iter().enumerate() {
        if let Some(first) = seen[..i].iter().position(|before| before == contents) {
            wrong.push(format!("duplicate trust anchor (indices [{first} {i}])"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str) -> Value {
        STANDARD.encode(text).into()
    }

    #[test]
    fn requests_are_signed_by_their_maker() {
        let key = rcgen::KeyPair::generate().unwrap();
        let request = rcgen::CertificateParams::new(vec![]).unwrap().serialize_request(&key).unwrap();
        assert_eq!(wrong_request(&encoded(&request.pem().unwrap())), None);
        let mut der = request.der().to_vec();
        let last = der.len() - 1;
        der[last] ^= 1;
        let body = STANDARD.encode(&der);
        let damaged =
            format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
        assert!(wrong_request(&encoded(&damaged)).is_some());
        assert_eq!(
            wrong_request(&encoded("hello")).as_deref(),
            Some("PEM block type must be CERTIFICATE REQUEST")
        );
        assert!(wrong_request(&Value::Null).is_some());
    }

    #[test]
    fn certificates_are_pem() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap().pem();
        assert_eq!(wrong_certificate(&encoded(&certificate)), None);
        assert_eq!(wrong_certificate(&Value::Null), None);
        assert!(wrong_certificate(&encoded("x")).is_some());
        assert!(wrong_certificate(&encoded(&key.serialize_pem())).unwrap().starts_with("only CERTIFICATE"));
    }

    #[test]
    fn bundles_hold_authorities() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        let leaf = params.self_signed(&key).unwrap().pem();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().pem();
        assert!(wrong_authorities(&authority).is_empty());
        assert_eq!(wrong_authorities(""), ["at least one trust anchor must be provided"]);
        assert_eq!(wrong_authorities(&leaf), ["entry 0 does not have the CA bit set"]);
        let twice = format!("{authority}{authority}");
        assert_eq!(wrong_authorities(&twice), ["duplicate trust anchor (indices [0 1])"]);
        assert_eq!(wrong_authorities(&key.serialize_pem()), ["entry 0 has bad block type: PRIVATE KEY"]);
    }
}
