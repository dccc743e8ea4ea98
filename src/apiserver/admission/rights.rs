//! Questions about rights that come up in admission, put to the one function that decides about requests.

use crate::api::request::{Action, Request, Target, User};
use crate::api::status::Status;
use crate::apiserver::auth;
use crate::apiserver::registry::Registry;

/// Whether a user may do this to these objects.
pub fn may(_registry: &Registry, user: &User, _verb: &str, target: &Target) -> Result<(), Status> {
    let action = Action::Get { resource_version: String::new() };
    auth::authorize(&Request { user: user.clone(), target: target.clone(), action })
}

/// Whether a user may do this to this path, which is about no objects.
pub fn may_use_path(registry: &Registry, user: &User, verb: &str, _path: &str) -> Result<(), Status> {
    may(registry, user, verb, &Target::default())
}

/// A service account as a user.
pub fn service_account(namespace: &str, name: &str) -> User {
    User {
        name: format!("system:serviceaccount:{namespace}:{name}"),
        groups: vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".into(),
        ],
        uid: None,
    }
}
