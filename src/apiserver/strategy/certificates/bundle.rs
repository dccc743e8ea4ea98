//! ClusterTrustBundles: certificates of authorities that a signer's users trust.

use jiff::Timestamp;
use serde_json::Value;

use super::super::column::{self, NAME};
use super::super::error::immutable;
use super::super::value::text;
use super::super::{Column, Strategy};
use super::{pem, signer};
use crate::api::names;
use crate::api::status::FieldError;

/// The longest bundle.
const BYTES: usize = 1 << 20;

/// The strategy of trust bundles.
pub(super) struct ClusterTrustBundle;

impl Strategy for ClusterTrustBundle {
    fn name_errors(&self, bundle: &Value, name: &str) -> Vec<String> {
        let signer = text(&bundle["spec"], "signerName");
        if signer.is_empty() {
            return match name.contains(':') {
                true => {
                    vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()]
                }
                false => names::dns_subdomain(name),
            };
        }
        let prefix = format!("{}:", signer.replace('/', ":"));
        match name.strip_prefix(&prefix) {
            Some(rest) => names::dns_subdomain(rest),
            None => {
                vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}")]
            }
        }
    }

    fn validate(&self, bundle: &Value) -> Vec<FieldError> {
        let signer = &bundle["spec"]["signerName"];
        match signer.as_str() {
            None | Some("") => Vec::new(),
            Some(_) => signer::errors("spec.signerName", signer),
        }
    }

    fn validate_create(&self, bundle: &Value) -> Vec<FieldError> {
        certificates(text(&bundle["spec"], "trustBundle"))
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let (new, old) = (&new["spec"], &old["spec"]);
        let mut errors = Vec::new();
        if new["trustBundle"] != old["trustBundle"] {
            errors.extend(certificates(text(new, "trustBundle")));
        }
        errors.extend(immutable("spec.signerName", &new["signerName"], &old["signerName"]));
        errors
    }

    fn fields(&self, bundle: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", text(&bundle["spec"], "signerName").to_owned())]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, column::text("SignerName", "Whose certificates are to be trusted.")];
        COLUMNS
    }

    fn cells(&self, bundle: &Value, _now: Timestamp) -> Vec<Value> {
        let signer = text(&bundle["spec"], "signerName");
        vec![column::name(bundle), if signer.is_empty() { "<none>" } else { signer }.into()]
    }
}

fn certificates(bundle: &str) -> Vec<FieldError> {
    const PATH: &str = "spec.trustBundle";
    if bundle.len() > BYTES {
        return vec![FieldError::too_long(PATH, BYTES)];
    }
    let wrong = pem::wrong_authorities(bundle);
    wrong.iter().map(|why| FieldError::invalid(PATH, &"<value omitted>".into(), why)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bundles_are_named_by_their_signers() {
        let with = |signer: &str| json!({"spec": {"signerName": signer}});
        let wrong = |signer: &str, name: &str| ClusterTrustBundle.name_errors(&with(signer), name);
        assert!(wrong("", "mine").is_empty());
        assert!(wrong("example.com/ca", "example.com:ca:v1").is_empty());
        assert_eq!(
            wrong("", "a:b"),
            ["ClusterTrustBundle without signer name must not have \":\" in its name"]
        );
        assert_eq!(
            wrong("example.com/ca", "v1"),
            ["ClusterTrustBundle for signerName example.com/ca must be named with prefix example.com:ca:"]
        );
        assert_eq!(ClusterTrustBundle.validate(&with("nobody")).len(), 1);
        assert_eq!(ClusterTrustBundle.validate_update(&with("a.b/c"), &with("a.b/d")).len(), 1);
        assert_eq!(
            ClusterTrustBundle.validate_create(&json!({}))[0].to_string(),
            "spec.trustBundle: Invalid value: \"<value omitted>\": at least one trust anchor must be provided"
        );
    }
}
