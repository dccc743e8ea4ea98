//! Who may ask for certificates, approve requests for them, and sign them.
//!
//! Sources: Kubernetes `plugin/pkg/admission/certificates` and `pkg/registry/certificates`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::attributes::{Asked, Attributes};
use super::rbac::{Authorizer, MASTERS};
use crate::api::certificate_request;
use crate::api::meta;
use crate::api::request::User;
use crate::api::status::{FieldError, Status};

/// The API group of signing requests.
pub const GROUP: &str = "certificates.k8s.io";
/// Their plural.
pub const REQUESTS: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

fn forbidden(request: &Value, why: &str) -> Status {
    Status::forbidden(GROUP, REQUESTS, meta::name(request), why)
}

/// Notes who makes a request, and refuses one for a user who could do everything.
pub fn create(user: &User, request: &mut Value) -> Result<(), Status> {
    let spec = meta::child_mut(request, "spec");
    for key in ["uid", "groups", "extra"] {
        spec.remove(key);
    }
    spec.insert("username".into(), json!(user.name));
    let uid = user.uid.as_deref().filter(|uid| !uid.is_empty());
    spec.extend(uid.map(|uid| ("uid".to_owned(), json!(uid))));
    spec.extend((!user.groups.is_empty()).then(|| ("groups".to_owned(), json!(user.groups))));
    spec.extend((!user.extra.is_empty()).then(|| ("extra".to_owned(), json!(user.extra))));
    if request["spec"]["signerName"] != CLIENT_SIGNER {
        return Ok(());
    }
    let pem = BASE64.decode(request["spec"]["request"].as_str().unwrap_or_default()).unwrap_or_default();
    let asked = certificate_request::read(&pem)
        .map_err(|why| forbidden(request, &format!("failed to parse CSR: {why}")))?;
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

/// The request with the conditions that an approval gives it, and nothing else changed; what is wrong with them.
pub fn approved(given: &Value, old: &Value, now: Timestamp) -> (Value, Vec<FieldError>) {
    let mut new = old.clone();
    let list = |object: &Value| object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let before = list(old);
    let mut conditions = list(given);
    for condition in &mut conditions {
        let earlier = before.iter().find(|c| c["type"] == condition["type"]);
        let same = earlier.filter(|c| c["status"] == condition["status"]);
        let since = same.map(|c| c["lastTransitionTime"].clone()).filter(|at| !at.is_null());
        let now = json!(meta::timestamp(now));
        let mut fill = |key: &str, value: Value| {
            if condition[key].is_null() {
                condition[key] = value;
            }
        };
        fill("lastUpdateTime", now.clone());
        fill("lastTransitionTime", since.unwrap_or(now));
    }
    let mut errors = Vec::new();
    let at = |name: &str| conditions.iter().position(|condition| condition["type"] == name);
    if let (Some(_), Some(denied)) = (at("Approved"), at("Denied")) {
        let field = format!("status.conditions[{denied}].type");
        let why = "Approved and Denied conditions are mutually exclusive";
        errors.push(FieldError::invalid(field, &json!("Denied"), why));
    }
    for name in ["Approved", "Denied", "Failed"] {
        if before.iter().any(|c| c["type"] == name) && at(name).is_none() {
            let why = format!("updates may not remove a condition of type {name:?}");
            errors.push(FieldError::forbidden("status.conditions", &why));
        }
    }
    meta::child_mut(&mut new, "status").insert("conditions".into(), Value::Array(conditions));
    (new, errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn approvals_change_conditions_alone() {
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        let with = |conditions: Value| json!({"spec": {"a": 1}, "status": {"conditions": conditions, "certificate": "x"}});
        let old = with(json!([]));
        let mut given = with(json!([{"type": "Approved", "status": "True"}]));
        given["spec"]["a"] = json!(2);
        given["status"]["certificate"] = json!("y");
        let (new, errors) = approved(&given, &old, now);
        assert_eq!(errors, []);
        let time = "2030-01-01T00:00:00Z";
        let condition =
            json!({"type": "Approved", "status": "True", "lastUpdateTime": time, "lastTransitionTime": time});
        assert_eq!(new, with(json!([condition])));
        let both = with(json!([{"type": "Approved"}, {"type": "Denied"}]));
        let (_, errors) = approved(&both, &new, now);
        assert_eq!(
            errors[0].to_string(),
            "status.conditions[1].type: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive"
        );
        let (_, errors) = approved(&old, &new, now);
        assert_eq!(
            errors[0].to_string(),
            "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""
        );
    }

    #[test]
    fn requests_say_who_makes_them() {
        let jane = User { name: "jane".into(), groups: vec!["devs".into()], ..User::default() };
        let mut request = json!({"metadata": {"name": "r"},
            "spec": {"signerName": "example.com/x", "username": "root", "uid": "0", "request": "eA=="}});
        create(&jane, &mut request).unwrap();
        assert_eq!(
            request["spec"],
            json!({"signerName": "example.com/x", "username": "jane", "groups": ["devs"], "request": "eA=="})
        );
        request["spec"]["signerName"] = json!(CLIENT_SIGNER);
        assert_eq!(
            create(&jane, &mut request).unwrap_err().message,
            "certificatesigningrequests.certificates.k8s.io \"r\" is forbidden: failed to parse CSR: PEM block type must \
             be CERTIFICATE REQUEST"
        );
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, MASTERS);
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        request["spec"]["request"] = json!(BASE64.encode(pem));
        assert_eq!(
            create(&jane, &mut request).unwrap_err().message,
            "certificatesigningrequests.certificates.k8s.io \"r\" is forbidden: use of kubernetes.io/kube-apiserver-client \
             signer with system:masters group is not allowed"
        );
    }
}
