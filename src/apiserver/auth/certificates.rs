//! Who may ask for certificates, approve requests for them, and sign them.
//!
//! Sources: Kubernetes `plugin/pkg/admission/certificates` and `pkg/registry/certificates`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::attributes::{Asked, Attributes};
use super::rbac::{Authorizer, MASTERS};
use crate::api::certificate_request;
use crate::api::meta;
use crate::api::request::User;
use crate::api::status::Status;

/// The API group of signing requests.
pub const GROUP: &str = "certificates.k8s.io";
/// Their plural.
pub const REQUESTS: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

fn forbidden(request: &Value, why: &str) -> Status {
    Status::forbidden(GROUP, REQUESTS, meta::name(request), why)
}

/// Refuses a request for a user who could do everything.
pub fn create(request: &Value) -> Result<(), Status> {
    if request["spec"]["signerName"] != CLIENT_SIGNER {
        return Ok(());
    }
    let pem = BASE64.decode(request["spec"]["request"].as_str().unwrap_or_default()).unwrap_or_default();
    // What cannot be read is refused for that.
    let Ok(asked) = certificate_request::read(&pem) else { return Ok(()) };
    if asked.organizations.iter().any(|group| group == MASTERS) {
        let why = format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed");
        return Err(forbidden(request, &why));
    }
    Ok(())
}

/// Refuses an approval to who may not approve for the signer.
pub fn approve(authorizer: &Authorizer, user: &User, old: &Value) -> Result<(), Status> {
    let signer = old["spec"]["signerName"].as_str().unwrap_or_default();
    if may(authorizer, user, "approve", signer) {
        return Ok(());
    }
    Err(forbidden(old, &format!("user not permitted to approve requests with signerName {signer:?}")))
}

/// Refuses a change of the status to who may not sign for the signer.
pub fn sign(authorizer: &Authorizer, user: &User, new: &Value, old: &Value) -> Result<(), Status> {
    let same = |key: &str| new["status"][key] == old["status"][key];
    let signer = old["spec"]["signerName"].as_str().unwrap_or_default();
    if same("certificate") && same("conditions") || may(authorizer, user, "sign", signer) {
        return Ok(());
    }
    Err(forbidden(old, &format!("user not permitted to sign requests with signerName {signer:?}")))
}

/// Whether a user may do this for the signer, or for all signers of its domain.
fn may(authorizer: &Authorizer, user: &User, verb: &str, signer: &str) -> bool {
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    let all = format!("{domain}/*");
    [signer, &all].into_iter().any(|name| {
        let asked =
            Asked::Resource { group: GROUP, resource: "signers", subresource: "", namespace: "", name };
        authorizer.authorize(user, &Attributes { verb, asked }).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nobody_asks_to_do_everything() {
        let mut request =
            json!({"metadata": {"name": "r"}, "spec": {"signerName": "example.com/x", "request": "eA=="}});
        create(&request).unwrap();
        request["spec"]["signerName"] = json!(CLIENT_SIGNER);
        create(&request).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, MASTERS);
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        request["spec"]["request"] = json!(BASE64.encode(pem));
        assert_eq!(
            create(&request).unwrap_err().message,
            "certificatesigningrequests.certificates.k8s.io \"r\" is forbidden: use of kubernetes.io/kube-apiserver-client \
             signer with system:masters group is not allowed"
        );
    }
}
