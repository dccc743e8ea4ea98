//! The stub requests (PKCS #10) by which pods ask for certificates: they carry a key and prove that it is held.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p521::ecdsa::signature::hazmat::PrehashVerifier;
use p521::ecdsa::{DerSignature, VerifyingKey};
use serde_json::Value;
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::der_parser::Oid;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ECDSA_WITH_SHA512, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::api::status::FieldError;

/// The longest request.
const BYTES: usize = 10 << 10;

/// What is wrong with a request (DER in base64).
pub(super) fn error(path: &str, given: &Value) -> Option<FieldError> {
    let der = decoded(given);
    if der.len() > BYTES {
        return Some(FieldError::too_long(path, BYTES));
    }
    let Some(request) = read(&der) else {
        return Some(FieldError::invalid(path, given, "must be a valid PKCS#10 certificate signing request"));
    };
    if let Err((shown, why)) = check(&request.certification_request_info.subject_pki) {
        let shown = shown.map_or_else(|| given.clone(), Value::from);
        return Some(FieldError::invalid(path, &shown, why));
    }
    let wrong = !is_signed(&request);
    wrong.then(|| FieldError::invalid_without_value(path, "could not verify the signature of the request"))
}

/// Whether the holder of the key has signed the request.
fn is_signed(request: &X509CertificationRequest<'_>) -> bool {
    let info = &request.certification_request_info;
    match curve(&info.subject_pki) == Some(OID_NIST_EC_P521) {
        true => is_signed_on_p521(request).is_some(),
        false => request.verify_signature().is_ok(),
    }
}

/// The same for keys that ring does not know.
fn is_signed_on_p521(request: &X509CertificationRequest<'_>) -> Option<()> {
    let info = &request.certification_request_info;
    let algorithm = &request.signature_algorithm.algorithm;
    let digest = if *algorithm == OID_SIG_ECDSA_WITH_SHA512 {
        Sha512::digest(info.raw).to_vec()
    } else if *algorithm == OID_SIG_ECDSA_WITH_SHA384 {
        Sha384::digest(info.raw).to_vec()
    } else if *algorithm == OID_SIG_ECDSA_WITH_SHA256 {
        Sha256::digest(info.raw).to_vec()
    } else {
        return None;
    };
    let key = VerifyingKey::from_sec1_bytes(&info.subject_pki.subject_public_key.data).ok()?;
    let signature = DerSignature::from_bytes(&request.signature_value.data).ok()?;
    key.verify_prehash(&digest, &signature).ok()
}

/// The curve of an elliptic key, as its object identifier.
fn curve<'a>(key: &'a SubjectPublicKeyInfo<'a>) -> Option<Oid<'a>> {
    let algorithm = &key.algorithm;
    let elliptic = algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY;
    algorithm.parameters.as_ref().filter(|_| elliptic)?.as_oid().ok()
}

/// The public key that a request is for, as certificates have it.
pub(super) fn key(given: &Value) -> Option<Vec<u8>> {
    let der = decoded(given);
    read(&der).map(|request| request.certification_request_info.subject_pki.raw.to_vec())
}

fn decoded(given: &Value) -> Vec<u8> {
    STANDARD.decode(given.as_str().unwrap_or_default()).unwrap_or_default()
}

fn read(der: &[u8]) -> Option<X509CertificationRequest<'_>> {
    let (rest, request) = X509CertificationRequest::from_der(der).ok()?;
    rest.is_empty().then_some(request)
}

/// Why a key is none of those that are taken, and what to show of it when it is not the request.
fn check(key: &SubjectPublicKeyInfo<'_>) -> Result<(), (Option<String>, &'static str)> {
    let algorithm = &key.algorithm;
    if algorithm.algorithm == OID_SIG_ED25519 {
        return Ok(());
    }
    if algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let known = [OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521];
        return match curve(key) {
            Some(curve) if known.contains(&curve) => Ok(()),
            curve => {
                let shown = curve.map(|curve| format!("curve {curve}"));
                Err((shown, "elliptic public keys must use curve P256, P384, or P521"))
            }
        };
    }
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if algorithm.algorithm == OID_PKCS1_RSAENCRYPTION => match rsa.key_size() {
            3072 | 4096 => Ok(()),
            bits => {
                let shown = format!("{bits}-bit modulus");
                Err((Some(shown), "RSA keys must have modulus size 3072 or 4096"))
            }
        },
        _ => Err((None, "unknown public key type; supported types are Ed25519, ECDSA, and RSA")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests as openssl writes them.
    const RSA_2048: &str = concat!(
        "MIICRTCCAS0CAQAwADCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBAK53hbB+PIQfRuF46WKsfoJQb53C8g8qUlZ3",
        "ulAOKsqUaj1SClAECxcBjMZT5oKwuqrFNXSWNe7qs7uS5Tv1FAHHnBXpN450teGE88jxyHfafM3BUi0Zh57O94ov25j7n1OF",
        "9dZ3whsPerNJGiB9UikHX5vX/Awf7v0mHClgBZiFwI6iAU5zjxsjMiD2Ge/RPfPAmFyw2BKU4zh9RbRGQgTsFk7TSUWu+5K5",
        "RB7/p+EnOOCxcRcUHYG/VgDr7NwqtHCOkDGElEzLJMhoU4ci1Nek98mv4LA+O5p7JHjqsBa/qzeYfWfDP34x2YtLOHQRNV5S",
        "yoN5d5nLzY5zpW3hyx8CAwEAAaAAMA0GCSqGSIb3DQEBCwUAA4IBAQB2rHt36HE4GkOnzLFQqy4wJiCgCOjLIZyhozAjiZRS",
        "J+IQ4IMXUgAoysusI4D+FgIdcr0RTDn8iZ26qAps5FsSfjCm8k0qcEwLUm/3RRXa7WaLb8+4DTwuhkSnqSDmre+kLuMnxu6T",
        "cVsn+6BjZLmNLqRxgvEtFNOjXQAH55ZuNeul64OJIAju6yL7jKMHRcjDU9YL8o1ag5PbjfWRmRidk4uS0xLBsIEyzFtuAMBH",
        "aSsPGYKQHMJFyiWWJUxtGM1HI62jcs/nE13wsSsoDiWYn2eDYW2JM9WpPuGv90qq2emaR7EYXvoA6BWKbtj6wKw1Vl9GFC9x",
        "LX5tojieQVB8",
    );
    const RSA_3072: &str = concat!(
        "MIIDRTCCAa0CAQAwADCCAaIwDQYJKoZIhvcNAQEBBQADggGPADCCAYoCggGBAM0fxjWP9Gojk++Q3SrEQNwpvoQS8ksjBekF",
        "7SBj6d6e5zQl1NQdE+iT2AyJNux0uCxetL7zTU7datm5DEWKrqUaWPA+rZH/jgSBtCHqfq1kXATAAjSxMBOT3r0ZZN+kJDrQ",
        "7+NzMbS74RrS1NDTVfc9FZlzOBpKLX239XPqCPWY1lpkQafKQOkG51QEaXbFtf0ZlAuxCP6Kq8LqQjndz+pjPxy7H/RCgorr",
        "WZ7j+6OwHFSX0qGuvicJTNObOfIbmxG8WwemCddpGdtRwV79gXDwpwXhcLSDYNj83sNmjbOO6gyw/S9xU1HCjCgE3I9MVHf0",
        "TUNYK2Pjajwu98XqwNGcMn3zX2gBCuIA5bNFk1OBRWIwOw541/simi9bbCu6S6HOXCBOfDLF9jOqmNwOWGZap2kVp8yea5kM",
        "4K78hDzDzwe3zyoYohfZ6Wp158b4JQv+W8oZdiupA3rLtJ9YamilyONt6cUdjG5ISsL/EbuBDANl1Nh8QGue7tYtnCC6pQID",
        "AQABoAAwDQYJKoZIhvcNAQELBQADggGBAAAbvcIfom37JrgVt6UF6MMS9PoCM4n6iZ5VX5BSJIb1/H8XwFIknEEkkV2nH950",
        "OXQBvFyqceC6+Sd+pgbuUlwO7f7t7qC7x0Wj0qdMZPdm3W3kNw2mEdxw91f3DWU60maVzAa58bGQOGenaLEWVC5gVoS0zOeB",
        "lqwyeG3tQMQB1XM9xC6ubEDgSPb3XQ5+bsziiu6K4jNPdZm8zZKQAhu7vJUaq/5pZIVMA1IZqeP79kvlxCEF074t57SUwqCe",
        "ObkF1MFC7qA9kC3sDOQoGfB/PWvNHS6jhaisGLP58tnot0hPCJzNiR0PEGrXuxpVQmxBWYWFcggckalFk+ayO7h/lDm2aTVr",
        "nBvPtUOADFbiKNvvT1ySXjkKpd1N8swhD7qsovcHEVCdyXcGJdsW0Wz3uSDvXn5kLmItM1FmRbELRyP2WazJtyEJWUXOEpWt",
        "539419VUDvVH6lIpBEuFxeuhVe+5JPvDM+ja79jq0g5SWr1vPvpC/ivaIGI1H6ivWw==",
    );
    const P_521: &str = concat!(
        "MIIBQzCBpQIBADAAMIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQBycimQe9rqKqMiNxbCWSz5J8gIU0NGAzBGt8vjpjA7UJQ",
        "u/zyW3uXBpHIX+tRSaHz8uL/7T3fGQSB+B7c372pcIEAGgGXjxRKW/eSpSqFs5UgfCzSG92t+hinzOTDyvaqvp5dGwpSKR1k",
        "w9sLbFADSv7omeUY+BeG2mj6T2qdB/T2gV6gADAKBggqhkjOPQQDAgOBjAAwgYgCQgHqMxiqgP48RCTIZrK7ikjXeqWpKtXx",
        "c7MERZwsCmq/Y5X8snw9XyBtR89Kjq5EyiOxkglPKCfGc9o1joZnytlw1AJCAajY1sfmZNBqd72AJxZ26yywfIXiVWOZsOWl",
        "HleAlIj7AM7uwTm61FFSp8O7RuYQ2HzKS1mG0ARszz7Mnwc1V42c",
    );
    const P_224: &str = concat!(
        "MIGnMFcCAQAwADBOMBAGByqGSM49AgEGBSuBBAAhAzoABCbGCBO2N4IB7IE+vm4k20W0C51DJAIVIhyqBq7Q3c+0eYNQQDAg",
        "mDcjxe9CNp4VyCYY6hodi30HoAAwCgYIKoZIzj0EAwIDQAAwPQIcL4fc0FTGYb2oq2lrcSApb8NofxO7V/bsEeDp/gIdALSc",
        "j8/FKBufk9zbplLkMbzMZ+ufSGSkHtySqY4=",
    );

    fn told(given: &Value) -> String {
        error("spec.stub", given).map(|error| error.to_string()).unwrap_or_default()
    }

    fn made(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
    }

    #[test]
    fn keys_are_of_a_few_kinds() {
        for algorithm in
            [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519]
        {
            let der = made(algorithm);
            let given = STANDARD.encode(&der).into();
            assert_eq!((told(&given).as_str(), key(&given).is_some()), ("", true), "{algorithm:?}");
        }
        for (given, expected) in [
            (RSA_3072, ""),
            (
                RSA_2048,
                "spec.stub: Invalid value: \"2048-bit modulus\": RSA keys must have modulus size 3072 or 4096",
            ),
            (
                P_224,
                "spec.stub: Invalid value: \"curve 1.3.132.0.33\": elliptic public keys must use curve P256, P384, or P521",
            ),
            (P_521, ""),
            (
                "eA==",
                "spec.stub: Invalid value: \"eA==\": must be a valid PKCS#10 certificate signing request",
            ),
        ] {
            assert_eq!(told(&given.into()), expected);
        }
        let long = STANDARD.encode(vec![0; BYTES + 1]).into();
        assert_eq!(told(&long), "spec.stub: Too long: may not be more than 10240 bytes");
    }

    #[test]
    fn the_key_is_held() {
        let expected = "spec.stub: Invalid value: could not verify the signature of the request";
        let mut der = Vec::new();
        for right in [decoded(&P_521.into()), made(&rcgen::PKCS_ED25519)] {
            der = right;
            let last = der.len() - 1;
            der[last] ^= 1;
            assert_eq!(told(&STANDARD.encode(&der).into()), expected);
        }
        der.push(0);
        assert!(
            told(&STANDARD.encode(&der).into())
                .ends_with("must be a valid PKCS#10 certificate signing request")
        );
        assert!(told(&Value::Null).ends_with("must be a valid PKCS#10 certificate signing request"));
    }
}
