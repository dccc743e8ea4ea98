//! Nobody gives rights that they do not have: what writes of roles and bindings must fulfil.
//!
//! Source: Kubernetes `pkg/registry/rbac/*/policybased` and `pkg/registry/rbac/escalation_check.go`.

use serde_json::Value;

use super::policy::{self, GROUP, RoleRef, Sort};
use super::rules::Rule;
use super::{Authorizer, MASTERS};
use crate::api::meta;
use crate::api::request::User;
use crate::api::status::Status;
use crate::apiserver::auth::attributes::{Asked, Attributes};

/// Refuses a write of an object of the group [`GROUP`] by which this user would give more than they have; `old` is what
/// it changes.
pub fn check(
    authorizer: &Authorizer,
    user: &User,
    plural: &str,
    namespace: Option<&str>,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    let Some((sort, _)) = policy::sort_of(plural) else { return Ok(()) };
    let collected = old.is_some_and(|old| only_for_collector(new, old));
    if collected || user.groups.iter().any(|group| group == MASTERS) {
        return Ok(());
    }
    let (name, namespace) = (meta::name(new), namespace.unwrap_or_default());
    let may = |verb, resource, name| {
        let asked = Asked::Resource { group: GROUP, resource, subresource: "", namespace, name };
        authorizer.authorize(user, &Attributes { verb, asked }).is_ok()
    };
    let forbidden = |why: &str| Status::forbidden(GROUP, plural, name, why);
    let holds = |rules: &[Rule]| authorizer.policy().holds(user, namespace, rules);
    match sort {
        // Names of objects to be made are not known to authorization.
        Sort::Role if may("escalate", plural, if old.is_some() { name } else { "" }) => Ok(()),
        Sort::Role => {
            holds(&Rule::read_all(new)).map_err(|why| forbidden(&why))?;
            let aggregates = |role: &Value| role["aggregationRule"].is_object();
            if (aggregates(new) || old.is_some_and(aggregates)) && holds(&Rule::everything()).is_err() {
                return Err(forbidden("must have cluster-admin privileges to use the aggregationRule"));
            }
            Ok(())
        }
        Sort::Binding => {
            let role = RoleRef::of(new);
            let resource = if role.kind == "ClusterRole" { "clusterroles" } else { "roles" };
            if may("bind", resource, &role.name) {
                return Ok(());
            }
            let rules = authorizer.policy().rules_of(&role, namespace).map(<[Rule]>::to_vec);
            let rules = rules.map_err(|missing| missing.not_found())?;
            holds(&rules).map_err(|why| forbidden(&why))
        }
    }
}

/// Whether nothing changes but what the garbage collector changes.
pub fn only_for_collector(new: &Value, old: &Value) -> bool {
    let without = |object: &Value| {
        let mut object = object.clone();
        for key in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
            meta::remove(&mut object, key);
        }
        object
    };
    without(new) == without(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use bytes::Bytes;
    use serde_json::json;

    fn user(name: &str) -> User {
        User { name: name.into(), groups: vec!["system:authenticated".into()], ..User::default() }
    }

    async fn authorizer(store: &Store) -> Authorizer {
        let rule = |verbs: &[&str], group: &str, resource: &str| json!({"verbs": verbs, "apiGroups": [group], "resources": [resource]});
        let bind = |name: &str, role: &str| {
            json!({"metadata": {"name": name}, "roleRef": {"kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "User", "name": name}]})
        };
        for (key, object) in [
            (
                "clusterroles/reader",
                json!({"metadata": {"name": "reader"}, "rules": [rule(&["get"], "", "pods")]}),
            ),
            (
                "clusterroles/binder",
                json!({"metadata": {"name": "binder"},
                "rules": [{"verbs": ["bind"], "apiGroups": [GROUP], "resources": ["clusterroles"],
                    "resourceNames": ["admin"]}]}),
            ),
            (
                "clusterroles/escalator",
                json!({"metadata": {"name": "escalator"},
                "rules": [rule(&["escalate"], GROUP, "clusterroles")]}),
            ),
            ("clusterroles/admin", json!({"metadata": {"name": "admin"}, "rules": Rule::everything()})),
            ("clusterrolebindings/reader", bind("reader", "reader")),
            ("clusterrolebindings/binder", bind("binder", "binder")),
            ("clusterrolebindings/escalator", bind("escalator", "escalator")),
            ("clusterrolebindings/admin", bind("admin", "admin")),
        ] {
            let bytes = Bytes::from(serde_json::to_vec(&object).unwrap());
            store.create(key, move |_| bytes).await.unwrap();
        }
        Authorizer::new(store.clone()).unwrap()
    }

    #[tokio::test]
    async fn roles_and_bindings_give_what_their_maker_has() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let authorizer = authorizer(&store).await;
        let role = |verbs: &[&str]| json!({"metadata": {"name": "new"}, "rules": [{"verbs": verbs, "apiGroups": [""], "resources": ["pods"]}]});
        let aggregate = json!({"metadata": {"name": "new"}, "aggregationRule": {"clusterRoleSelectors": []}});
        let binding = |role: &str| json!({"metadata": {"name": "new"}, "roleRef": {"kind": "ClusterRole", "name": role}});
        let (roles, bindings) = ("clusterroles", "clusterrolebindings");
        for (who, plural, new, refused) in [
            ("reader", roles, role(&["get"]), None),
            (
                "reader",
                roles,
                role(&["list"]),
                Some(
                    "clusterroles.rbac.authorization.k8s.io \"new\" is forbidden: user \"reader\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\"]}",
                ),
            ),
            (
                "reader",
                roles,
                aggregate.clone(),
                Some(
                    "clusterroles.rbac.authorization.k8s.io \"new\" is forbidden: must have cluster-admin privileges to use the aggregationRule",
                ),
            ),
            ("admin", roles, aggregate, None),
            ("escalator", roles, role(&["list"]), None),
            (
                "escalator",
                bindings,
                binding("reader"),
                Some(
                    "clusterrolebindings.rbac.authorization.k8s.io \"new\" is forbidden: user \"escalator\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\"]}",
                ),
            ),
            ("reader", bindings, binding("reader"), None),
            ("binder", bindings, binding("admin"), None),
            (
                "reader",
                bindings,
                binding("gone"),
                Some("clusterroles.rbac.authorization.k8s.io \"gone\" not found"),
            ),
            ("admin", bindings, binding("admin"), None),
        ] {
            let checked = check(&authorizer, &user(who), plural, None, &new, None);
            assert_eq!(checked.err().map(|s| s.message).as_deref(), refused, "{who} {new}");
        }
        let masters = User::component("anybody");
        check(&authorizer, &masters, bindings, None, &binding("gone"), None).unwrap();
        // The collector may change owners of what it could not have made.
        let old = role(&["list"]);
        let mut new = old.clone();
        new["metadata"]["ownerReferences"] = json!([{"uid": "u"}]);
        check(&authorizer, &user("nobody"), roles, None, &new, Some(&old)).unwrap();
    }
}
