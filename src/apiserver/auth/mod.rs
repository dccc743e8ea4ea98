//! Who is asking, and whether they may.

use jiff::Timestamp;
use serde_json::Value;

use super::registry::Registry;
use crate::api::meta;
use crate::api::request::{Request, User};
use crate::api::status::Status;

pub mod tokens;

use self::tokens::{Binding, Bound, Claims, Tokens};

/// Every user that was recognised is in this group.
const AUTHENTICATED: &str = "system:authenticated";
/// How long after the end of its grace period an object that is still there makes its tokens worth nothing (the leeway of
/// Kubernetes' `pkg/serviceaccount/claims.go`).
const DELETED_FOR: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

/// Who is at the other end of a connection, by a certificate of this cluster.
#[derive(Debug, Clone)]
pub struct Certified {
    /// Whom it names.
    pub user: User,
    /// When it ends; the connection may live longer.
    pub not_after: Timestamp,
}

/// The user that a verified client certificate names: common name and organizations.
pub fn user_of_certificate(der: &[u8]) -> Option<Certified> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    groups.push(AUTHENTICATED.to_owned());
    let not_after = Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?;
    Some(Certified { user: User { name, groups, uid: None }, not_after })
}

/// The service account that a bearer token stands for; its account and pod must still be there.
pub fn user_of_token(tokens: &Tokens, registry: &Registry, token: &str) -> Result<User, Status> {
    let audience = [tokens::ISSUER.to_owned()];
    let now = Timestamp::now();
    let claims = tokens.check(token, &audience, now).map_err(|reason| {
        tracing::debug!(%reason, "refused a bearer token");
        Status::unauthorized()
    })?;
    if !still_bound(registry, &claims.binding, now) {
        return Err(Status::unauthorized());
    }
    Ok(service_account(&claims))
}

fn service_account(claims: &Claims) -> User {
    let Binding { namespace, serviceaccount, .. } = &claims.binding;
    User {
        name: format!("system:serviceaccount:{namespace}:{}", serviceaccount.name),
        groups: vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{namespace}"),
            AUTHENTICATED.into(),
        ],
        uid: Some(serviceaccount.uid.clone()),
    }
}

/// Whether everything that a token is bound to is still there, and not on its way out for longer than
/// [`DELETED_FOR`].
fn still_bound(registry: &Registry, binding: &Binding, now: Timestamp) -> bool {
    let namespaced = |storage: &str, bound: &Bound| format!("{storage}/{}/{}", binding.namespace, bound.name);
    let mut all = vec![(namespaced("serviceaccounts", &binding.serviceaccount), &binding.serviceaccount)];
    all.extend(binding.pod.as_ref().map(|pod| (namespaced("pods", pod), pod)));
    all.extend(binding.secret.as_ref().map(|secret| (namespaced("secrets", secret), secret)));
    // The node of a pod is told with the pod, but it is the pod that the token is bound to.
    let node = binding.node.as_ref().filter(|_| binding.pod.is_none());
    all.extend(node.map(|node| (format!("nodes/{}", node.name), node)));
    all.into_iter().all(|(key, bound)| {
        registry.store().get(&key).is_some_and(|entry| is_alive(entry.json(), &bound.uid, now))
    })
}

fn is_alive(object: &Value, uid: &str, now: Timestamp) -> bool {
    let ended = meta::deleted(object).is_some_and(|at| now.duration_since(at) > DELETED_FOR);
    meta::uid(object) == uid && !ended
}

/// Whether this user may do this. The place of RBAC: until it has its own rules, every user whom the cluster
/// recognised may do everything, service accounts included (dashboards of courses write through theirs).
pub fn authorize(request: &Request) -> Result<(), Status> {
    let user = &request.user;
    if user.groups.iter().any(|g| g == "system:masters" || g == AUTHENTICATED) {
        return Ok(());
    }
    let target = &request.target;
    let why = format!(
        "User {:?} cannot access resource {:?} in API group {:?}",
        user.name, target.resource, target.group
    );
    Err(Status::forbidden(&target.group, &target.resource, target.name.as_deref().unwrap_or_default(), &why))
}

/// A user as reviews show it.
pub fn user_info(user: &User) -> Value {
    let mut info = serde_json::json!({"username": user.name, "groups": user.groups});
    if let Some(uid) = &user.uid {
        info["uid"] = uid.as_str().into();
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
