//! Questions about rights that come up in admission, put to the one authorizer that decides about requests.

use crate::api::request::{Target, User};
use crate::api::status::Status;
use crate::apiserver::auth::attributes::Attributes;
use crate::apiserver::auth::{self, AUTHENTICATED};
use crate::apiserver::registry::Registry;

/// Whether a user may do this to these objects.
pub fn may(registry: &Registry, user: &User, verb: &str, target: &Target) -> Result<(), Status> {
    registry.authorizer().authorize(user, &Attributes::of(target, verb))
}

/// Whether a user may do this to this path, which is about no objects.
pub fn may_use_path(registry: &Registry, user: &User, verb: &str, path: &str) -> Result<(), Status> {
    registry.authorizer().authorize(user, &Attributes::path(path, verb))
}

/// A service account as a user.
pub fn service_account(namespace: &str, name: &str) -> User {
    let mut groups = auth::account_groups(namespace);
    groups.push(AUTHENTICATED.to_owned());
    User { name: auth::account_user(namespace, name), groups, ..User::default() }
}
