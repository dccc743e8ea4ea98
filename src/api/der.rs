//! Certificates, requests and keys as bytes (DER) and as text (PEM): what is written by hand.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use x509_parser::pem::Pem;

/// The tag of a whole number.
pub const INTEGER: u8 = 0x02;
/// The tag of bits.
pub const BIT_STRING: u8 = 0x03;
/// The tag of bytes.
pub const OCTET_STRING: u8 = 0x04;
/// The tag of an object identifier.
pub const OBJECT_IDENTIFIER: u8 = 0x06;
/// The tag of a sequence.
pub const SEQUENCE: u8 = 0x30;
/// The label of a certificate's block.
pub const CERTIFICATE: &str = "CERTIFICATE";

/// A value with its tag and length.
pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len().to_be_bytes();
    let digits = &length[length.iter().position(|byte| *byte != 0).unwrap_or(length.len() - 1)..];
    if content.len() >= 0x80 {
        out.push(0x80 | digits.len() as u8);
    }
    out.extend(digits);
    out.extend(content);
    out
}

/// Whole bytes as bits.
pub fn bits(bytes: &[u8]) -> Vec<u8> {
    tlv(BIT_STRING, &[&[0], bytes].concat())
}

/// A block of PEM.
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// What certificates in PEM are, without what stands around them.
pub fn certificates(pem: &str) -> impl Iterator<Item = Vec<u8>> {
    let blocks = Pem::iter_from_buffer(pem.as_bytes()).filter_map(Result::ok);
    blocks.filter(|block| block.label == CERTIFICATE).map(|block| block.contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_as_short_as_can_be() {
        assert_eq!(tlv(4, &[7; 3]), [4, 3, 7, 7, 7]);
        assert_eq!(tlv(4, &[]), [4, 0]);
        assert_eq!(tlv(4, &[0; 0x80])[..3], [4, 0x81, 0x80]);
        assert_eq!(tlv(4, &[0; 0x100])[..4], [4, 0x82, 1, 0]);
        assert_eq!(bits(&[7]), [3, 2, 0, 7]);
    }

    #[test]
    fn lines_of_pem_have_64_characters() {
        let text = pem(CERTIFICATE, &[0; 49]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "-----BEGIN CERTIFICATE-----");
        assert_eq!((lines[1].len(), lines[2].len(), lines[3]), (64, 4, "-----END CERTIFICATE-----"));
    }

    #[test]
    fn certificates_are_found_among_other_things() {
        let text =
            ["one\n", &pem(CERTIFICATE, &[1]), "two\n", &pem("X", &[2]), &pem(CERTIFICATE, &[3])].concat();
        assert_eq!(certificates(&text).collect::<Vec<_>>(), [[1], [3]]);
        assert_eq!(certificates("nothing").count(), 0);
    }
}
