//! `rbac.authorization.k8s.io`.

use super::{GroupVersion, Kind};

const V1: GroupVersion =
    GroupVersion { group: "rbac.authorization.k8s.io", version: "v1", types: "io.k8s.api.rbac.v1" };

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        V1.cluster("ClusterRoleBinding", "clusterrolebindings"),
        V1.cluster("ClusterRole", "clusterroles"),
        V1.namespaced("RoleBinding", "rolebindings"),
        V1.namespaced("Role", "roles"),
    ]
}
