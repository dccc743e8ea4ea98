//! Who is asking, and whether they may.

use jiff::Timestamp;
use serde_json::Value;

use super::registry::Registry;
use crate::api::meta;
use crate::api::request::{Request, User};
use crate::api::status::Status;

pub mod tokens;

use self::tokens::{Binding, Claims, Tokens};

/// Every user that was recognised is in this group.
const AUTHENTICATED: &str = "system:authenticated";

/// The user that a verified client certificate names: common name and organizations.
pub fn user_of_certificate(der: &[u8]) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    groups.push(AUTHENTICATED.to_owned());
    Some(User { name, groups, uid: None })
}

/// The service account that a bearer token stands for; its account and pod must still be there.
pub fn user_of_token(tokens: &Tokens, registry: &Registry, token: &str) -> Result<User, Status> {
    let audience = [tokens::ISSUER.to_owned()];
    let claims = tokens.check(token, &audience, Timestamp::now()).map_err(|reason| {
        tracing::debug!(%reason, "refused a bearer token");
        Status::unauthorized()
    })?;
    if !still_bound(registry, &claims.binding) {
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

fn still_bound(registry: &Registry, binding: &Binding) -> bool {
    let account = ("serviceaccounts", Some(&binding.serviceaccount));
    [account, ("pods", binding.pod.as_ref()), ("secrets", binding.secret.as_ref())].into_iter().all(
        |(storage, bound)| {
            let Some(bound) = bound else { return true };
            let entry = registry.store().get(&format!("{storage}/{}/{}", binding.namespace, bound.name));
            entry.is_some_and(|e| meta::uid(e.json()) == bound.uid)
        },
    )
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
