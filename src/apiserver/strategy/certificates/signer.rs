//! Names of signers: `kubernetes.io/kube-apiserver-client`.

use serde_json::Value;

use crate::api::names;
use crate::api::status::FieldError;

/// The longest domain, and the longest name: a domain, a namespace and an object's name.
const DOMAIN_BYTES: usize = 253;
const BYTES: usize = DOMAIN_BYTES + 1 + 63 + 1 + 253;

/// What is wrong with a signer's name.
pub(in super::super) fn errors(path: &str, given: &Value) -> Vec<FieldError> {
    let name = given.as_str().unwrap_or_default();
    if name.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let [domain, of] = name.split('/').collect::<Vec<_>>()[..] else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return vec![FieldError::invalid(path, given, why)];
    };
    let mut errors = Vec::new();
    if domain.len() > DOMAIN_BYTES {
        errors.push(FieldError::too_long(path, DOMAIN_BYTES));
    }
    errors.extend(labels(path, domain, names::dns_label));
    if !domain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(path, &domain.into(), why));
    }
    errors.extend(labels(path, of, names::dns_subdomain));
    if name.len() > BYTES {
        errors.push(FieldError::too_long(path, BYTES));
    }
    errors
}

/// What is wrong with the first wrong label between dots.
fn labels(path: &str, text: &str, rule: fn(&str) -> Vec<String>) -> Vec<FieldError> {
    let wrong = text.split('.').map(|label| (label, rule(label))).find(|(_, wrong)| !wrong.is_empty());
    let Some((label, wrong)) = wrong else { return Vec::new() };
    let told = |why| FieldError::invalid(path, &text.into(), &format!("validating label {label:?}: {why}"));
    wrong.into_iter().map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::errors;

    #[test]
    fn signers_have_a_domain_and_a_name() {
        for (name, count) in [
            ("kubernetes.io/kube-apiserver-client", 0),
            ("example.com/ns.signer", 0),
            ("", 1),
            ("signer", 1),
            ("a.b/c/d", 1),
            ("example/signer", 1),
            ("A.b/C", 2),
        ] {
            assert_eq!(errors("spec.signerName", &name.into()).len(), count, "{name}");
        }
    }
}
