//! What a certificate signing request (PKCS #10) asks for.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// The label of its PEM block.
const LABEL: &str = "CERTIFICATE REQUEST";

/// The names that a certificate is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CertificateRequest {
    /// The subject's common name: of clients the user.
    pub common_name: String,
    /// The subject's organizations: of clients the groups.
    pub organizations: Vec<String>,
    /// How many host names it is to be good for.
    pub hosts: usize,
    /// How many addresses.
    pub addresses: usize,
    /// How many e-mail addresses.
    pub emails: usize,
    /// How many URIs.
    pub uris: usize,
}

/// The bytes within the PEM block of a request.
pub fn der(pem: &[u8]) -> Result<Vec<u8>, String> {
    let block = x509_parser::pem::parse_x509_pem(pem).ok().map(|(_, block)| block);
    let block = block.filter(|block| block.label == LABEL);
    block.map(|block| block.contents).ok_or_else(|| format!("PEM block type must be {LABEL}"))
}

/// Reads a request in PEM.
pub fn read(pem: &[u8]) -> Result<CertificateRequest, String> {
    let der = der(pem)?;
    let (_, request) = X509CertificationRequest::from_der(&der).map_err(|error| error.to_string())?;
    let subject = &request.certification_request_info.subject;
    // Others may read what is not read here: a name that nobody has checked is not to be signed.
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        let text = attribute.as_str().map(str::to_owned);
        text.map_err(|_| "a text of the subject is neither UTF-8 nor printable ASCII".to_owned())
    };
    let mut read = CertificateRequest {
        common_name: subject.iter_common_name().last().map(text).transpose()?.unwrap_or_default(),
        organizations: subject.iter_organization().map(text).collect::<Result<_, String>>()?,
        ..CertificateRequest::default()
    };
    // Only the first of several would be looked at.
    let asked = request.certification_request_info.iter_attributes();
    let asked = asked.filter(|a| matches!(a.parsed_attribute(), ParsedCriAttribute::ExtensionRequest(_)));
    if asked.count() > 1 {
        return Err("it has more than one request for extensions".to_owned());
    }
    for extension in request.requested_extensions().into_iter().flatten() {
        let names = match extension {
            ParsedExtension::SubjectAlternativeName(names) => names,
            ParsedExtension::ParseError { .. } => return Err("an extension cannot be read".to_owned()),
            _ => continue,
        };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(_) => read.hosts += 1,
                GeneralName::IPAddress(_) => read.addresses += 1,
                GeneralName::RFC822Name(_) => read.emails += 1,
                GeneralName::URI(_) => read.uris += 1,
                other => return Err(format!("a name of this kind is not supported: {other}")),
            }
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        // Two organizations, and a common name as openssl writes it: `/O=devs/O=ops/CN=jane`.
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.subject_alt_names.push(rcgen::SanType::IpAddress([192, 0, 2, 1].into()));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "devs");
        params.distinguished_name.push(rcgen::DnType::CommonName, "jane");
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        assert_eq!(
            read(pem.as_bytes()),
            Ok(CertificateRequest {
                common_name: "jane".into(),
                organizations: vec!["devs".into()],
                hosts: 1,
                addresses: 1,
                ..CertificateRequest::default()
            })
        );
        let wrong = pem.replace("CERTIFICATE REQUEST", "CERTIFICATE");
        for pem in [wrong.as_str(), "", "x"] {
            assert_eq!(read(pem.as_bytes()).unwrap_err(), "PEM block type must be CERTIFICATE REQUEST");
        }
    }
}
