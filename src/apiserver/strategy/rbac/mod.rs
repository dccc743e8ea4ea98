//! `rbac.authorization.k8s.io`: roles, and who has them. What they allow is decided elsewhere.

mod binding;
mod role;

use super::Strategy;

/// The strategy of a kind of this group.
pub(super) fn of(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "ClusterRole" => &role::CLUSTER_ROLE,
        "ClusterRoleBinding" => &binding::CLUSTER_ROLE_BINDING,
        "Role" => &role::ROLE,
        "RoleBinding" => &binding::ROLE_BINDING,
        _ => return None,
    })
}

/// The group's name, which is also that of users and groups as subjects.
const GROUP: &str = "rbac.authorization.k8s.io";
