//! Who is asking, and whether they may.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::registry::Registry;
use crate::api::request::User;
use crate::api::status::Status;
use crate::api::{meta, names};
use crate::clock;

pub mod attributes;
pub mod impersonation;
pub mod rbac;
pub mod tokens;

use self::tokens::{Binding, Bound, Claims, Refused, Tokens};

/// Every user that was recognised is in this group.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Who brings no credentials is in this one.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of who brings no credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// The extra that names the node of a service account's pod.
pub const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// The extra that tells one credential from another.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
/// The part of a certificate's subject that is its user's uid.
const UID_ATTRIBUTE: &str = "1.3.6.1.4.1.57683.2";
/// How long after the end of its grace period an object that is still there makes its tokens worth nothing (the leeway of
/// Kubernetes' `pkg/serviceaccount/claims.go`).
const DELETED_FOR: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub enum Peer {
    /// Somebody without a certificate.
    Unnamed,
    /// Somebody with a certificate that this cluster does not vouch for.
    Unknown,
    /// The user of a certificate of this cluster.
    Certified(Certified),
}

/// Whom a certificate of this cluster names.
#[derive(Debug, Clone)]
pub struct Certified {
    /// The user.
    pub user: User,
    /// When it ends; the connection may live longer.
    pub not_after: Timestamp,
}

/// The user that a verified client certificate names: common name and organizations.
pub fn user_of_certificate(der: &[u8]) -> Option<Certified> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    // Of several the last one counts, as where requests for certificates are checked.
    let name = subject.iter_common_name().last()?.as_str().ok().filter(|name| !name.is_empty())?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    groups.push(AUTHENTICATED.to_owned());
    let uid = subject.iter_attributes().find(|a| a.attr_type().to_id_string() == UID_ATTRIBUTE);
    let uid = uid.and_then(|a| a.as_str().ok()).map(str::to_owned);
    let fingerprint: String = Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
    let extra = [(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={fingerprint}")])].into();
    let not_after = Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?;
    Some(Certified { user: User { name, groups, uid, extra }, not_after })
}

/// Who brings no credentials at all.
pub fn anonymous() -> User {
    User { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..User::default() }
}

/// The service account that a bearer token stands for; its account and pod must still be there.
pub fn user_of_token(tokens: &Tokens, registry: &Registry, token: &str) -> Result<User, Status> {
    let audience = [tokens::ISSUER.to_owned()];
    user_for(tokens, registry, token, &audience).map(|(user, _)| user).map_err(|reason| {
        tracing::debug!(%reason, "refused a bearer token");
        Status::unauthorized()
    })
}

/// The user of a token that is for one of these audiences, and for which of them it is; or why it is worth nothing.
pub fn user_for(
    tokens: &Tokens,
    registry: &Registry,
    token: &str,
    audiences: &[String],
) -> Result<(User, Vec<String>), Refused> {
    let now = clock::now();
    let claims = tokens.check(token, audiences, now)?;
    still_bound(registry, token, &claims.binding, now)?;
    let meant = audiences.iter().filter(|audience| claims.aud.contains(audience)).cloned().collect();
    Ok((service_account(&claims), meant))
}

/// The user name of a service account.
pub fn account_user(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// The namespace and name of the service account that a user name stands for.
pub fn account_of(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let valid = names::dns_label(namespace).is_empty() && names::dns_subdomain(name).is_empty();
    valid.then_some((namespace, name))
}

/// The groups of the service accounts of a namespace.
pub fn account_groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}

fn service_account(claims: &Claims) -> User {
    let Binding { namespace, serviceaccount, pod, node, .. } = &claims.binding;
    let mut groups = account_groups(namespace);
    groups.push(AUTHENTICATED.to_owned());
    let mut extra = BTreeMap::new();
    let mut add = |key: &str, value: String| extra.insert(key.to_owned(), vec![value]);
    if !claims.jti.is_empty() {
        add(CREDENTIAL_ID, format!("JTI={}", claims.jti));
    }
    if let Some(Bound { name, uid }) = node {
        add(NODE_NAME, name.clone());
        if !uid.is_empty() {
            add("authentication.kubernetes.io/node-uid", uid.clone());
        }
    }
    if let Some(Bound { name, uid }) = pod {
        add("authentication.kubernetes.io/pod-name", name.clone());
        add("authentication.kubernetes.io/pod-uid", uid.clone());
    }
    let uid = Some(serviceaccount.uid.clone());
    User { name: account_user(namespace, &serviceaccount.name), groups, uid, extra }
}

/// Refuses a token of which something that it is bound to is no longer there, or is on its way out for longer than
/// [`DELETED_FOR`].
fn still_bound(registry: &Registry, token: &str, binding: &Binding, now: Timestamp) -> Result<(), Refused> {
    let at = |storage: &str, bound: &Bound| {
        registry.store().get(&format!("{storage}/{}/{}", binding.namespace, bound.name))
    };
    let account = &binding.serviceaccount;
    match at("serviceaccounts", account) {
        None => return Err(Refused::NoAccount { name: account.name.clone() }),
        Some(entry) if is_alive(entry.json(), &account.uid, now) => {}
        Some(entry) => {
            let actual = meta::uid(entry.json()).to_owned();
            return Err(Refused::OtherAccount { actual, claimed: account.uid.clone() });
        }
    }
    let pod = binding.pod.as_ref().map(|pod| (at("pods", pod), pod));
    // The node of a pod is told with the pod, but it is the pod that the token is bound to.
    let node = binding.node.as_ref().filter(|_| pod.is_none());
    let node = node.map(|node| (registry.store().get(&format!("nodes/{}", node.name)), node));
    let secret = binding.secret.as_ref().map(|secret| (at("secrets", secret), secret));
    let whole = [pod, node, secret].into_iter().flatten().all(|(entry, bound)| {
        entry.is_some_and(|entry| match bound.uid.as_str() {
            "" => !meta::is_deleting(entry.json()) && holds_token(entry.json(), token),
            uid => is_alive(entry.json(), uid, now),
        })
    });
    if whole { Ok(()) } else { Err(Refused::Invalidated) }
}

/// Whether a secret holds this token.
fn holds_token(secret: &Value, token: &str) -> bool {
    let held = secret["data"]["token"].as_str().and_then(|data| BASE64.decode(data).ok());
    held.is_some_and(|held| held == token.as_bytes())
}

fn is_alive(object: &Value, uid: &str, now: Timestamp) -> bool {
    let ended = meta::deleted(object).is_some_and(|at| now.duration_since(at) > DELETED_FOR);
    meta::uid(object) == uid && !ended
}

/// A user as reviews show it.
pub fn user_info(user: &User) -> Value {
    let mut info = serde_json::json!({"username": user.name, "groups": user.groups});
    if let Some(uid) = &user.uid {
        info["uid"] = uid.as_str().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = serde_json::json!(user.extra);
    }
    info
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_long_deleted_lends_no_identity() {
        let now: Timestamp = "2024-01-01T00:01:00Z".parse().unwrap();
        for (metadata, alive) in [
            (json!({"uid": "u"}), true),
            (json!({"uid": "v"}), false),
            (json!({"uid": "u", "deletionTimestamp": "2024-01-01T00:05:00Z"}), true),
            (json!({"uid": "u", "deletionTimestamp": "2024-01-01T00:00:00Z"}), true),
            (json!({"uid": "u", "deletionTimestamp": "2023-12-31T23:59:59Z"}), false),
            (json!({"uid": "u", "deletionTimestamp": Timestamp::MAX.to_string()}), true),
            (json!({"uid": "u", "deletionTimestamp": Timestamp::MIN.to_string()}), false),
        ] {
            assert_eq!(is_alive(&json!({ "metadata": metadata }), "u", now), alive, "{metadata}");
        }
    }
}
