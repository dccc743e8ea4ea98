//! CertificateApproval, CertificateSigning, ClusterTrustBundleAttest and CertificateSubjectRestriction: who may vouch for
//! a signer, and what is never signed.
//!
//! Source: Kubernetes `plugin/pkg/admission/certificates` and `pkg/certauthorization`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::{Attributes, Operation, rights};
use crate::api::certificate_request;
use crate::api::request::{Target, User};
use crate::api::status::{FieldError, Status};
use crate::api::value::text;
use crate::apiserver::auth::rbac::MASTERS;
use crate::apiserver::auth::rbac::escalation::only_for_collector;
use crate::apiserver::registry::Registry;

/// The signer of certificates that this server takes from its clients.
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Decides about a request for a certificate, its approval, and its certificate.
pub fn validate(registry: &Registry, attributes: &Attributes<'_>, request: &Value) -> Result<(), Status> {
    match (attributes.operation, attributes.subresource, attributes.old) {
        (Operation::Create, "", _) => {
            not_masters(&request["spec"]).map_err(|why| attributes.forbidden(request, &why))
        }
        (Operation::Update, "approval", Some(old)) => {
            may_vouch(registry, attributes, request, old, "approve")
        }
        (Operation::Update, "status", Some(old)) if is_signed(&request["status"], &old["status"]) => {
            may_vouch(registry, attributes, request, old, "sign")
        }
        _ => Ok(()),
    }
}

/// Whether a status differs in what a signer says in it.
fn is_signed(new: &Value, old: &Value) -> bool {
    ["certificate", "conditions"].iter().any(|field| new[*field] != old[*field])
}

/// The user must have the right for the signer. It is the old object's: a change of it is refused elsewhere.
fn may_vouch(
    registry: &Registry,
    attributes: &Attributes<'_>,
    request: &Value,
    old: &Value,
    verb: &str,
) -> Result<(), Status> {
    let signer = text(&old["spec"], "signerName");
    if has_right(registry, attributes.user, verb, signer) {
        return Ok(());
    }
    let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
    Err(attributes.forbidden(request, &why))
}

/// Whoever writes what became of a pod's request must have the right to sign for its signer. Kubernetes checks it where
/// it validates, and says so.
pub fn validate_pods(
    registry: &Registry,
    attributes: &Attributes<'_>,
    request: &Value,
) -> Result<(), Status> {
    let (Operation::Update, "status", Some(old)) =
        (attributes.operation, attributes.subresource, attributes.old)
    else {
        return Ok(());
    };
    let signer = text(&old["spec"], "signerName");
    if request["status"] == old["status"] || has_right(registry, attributes.user, "sign", signer) {
        return Ok(());
    }
    let why = format!("User {:?} is not permitted to \"sign\" for signer {signer:?}", attributes.user.name);
    let errors = [FieldError::forbidden("spec.signerName", &why)];
    let kind = attributes.kind;
    Err(Status::invalid(&kind.group, &kind.kind, text(&request["metadata"], "name"), &errors))
}

/// Whoever says which certificates a signer's users are to trust must have the right to. The signer is the new object's:
/// a change of it is refused elsewhere.
pub fn validate_bundle(
    registry: &Registry,
    attributes: &Attributes<'_>,
    bundle: &Value,
) -> Result<(), Status> {
    let signer = text(&bundle["spec"], "signerName");
    let collected = attributes.old.is_some_and(|old| only_for_collector(bundle, old));
    if signer.is_empty() || collected || has_right(registry, attributes.user, "attest", signer) {
        return Ok(());
    }
    let why = format!("user not permitted to attest for signerName {signer:?}");
    Err(attributes.forbidden(bundle, &why))
}

/// Whether a user may do this for a signer: by its name, or for all signers of its domain.
fn has_right(registry: &Registry, user: &User, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    let over = |name: &str| Target {
        group: "certificates.k8s.io".to_owned(),
        version: "*".to_owned(),
        resource: "signers".to_owned(),
        name: Some(name.to_owned()),
        ..Target::default()
    };
    let may = |name: &str| rights::may(registry, user, verb, &over(name)).is_ok();
    may(signer) || may(&format!("{domain}/*"))
}

/// Nobody becomes a master by a certificate that the cluster signs.
fn not_masters(spec: &Value) -> Result<(), String> {
    if spec["signerName"] != CLIENT_SIGNER {
        return Ok(());
    }
    let failed = |why: &str| format!("failed to parse CSR: {why}");
    let pem = BASE64.decode(spec["request"].as_str().unwrap_or_default());
    let pem = pem.map_err(|error| failed(&error.to_string()))?;
    let request = certificate_request::read(&pem).map_err(|error| failed(&error))?;
    if request.organizations.iter().any(|group| group == MASTERS) {
        return Err(format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};
    use serde_json::json;

    use super::*;

    fn request(signer: &str, group: &str) -> Value {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, group);
        let key = KeyPair::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        json!({"signerName": signer, "request": BASE64.encode(pem)})
    }

    #[test]
    fn nobody_becomes_a_master() {
        for (spec, expected) in [
            (request(CLIENT_SIGNER, "dev"), ""),
            (request("example.com/own", MASTERS), ""),
            (
                request(CLIENT_SIGNER, MASTERS),
                "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed",
            ),
            (
                json!({"signerName": CLIENT_SIGNER, "request": BASE64.encode("no pem")}),
                "failed to parse CSR: PEM block type must be CERTIFICATE REQUEST",
            ),
        ] {
            assert_eq!(not_masters(&spec).err().unwrap_or_default(), expected);
        }
    }

    #[test]
    fn a_status_is_signed_by_its_certificate_or_conditions() {
        let old = json!({"conditions": []});
        assert!(!is_signed(&old, &old));
        assert!(is_signed(&json!({"conditions": [], "certificate": "x"}), &old));
        assert!(is_signed(&json!({"conditions": [{"type": "Failed"}]}), &old));
    }
}
