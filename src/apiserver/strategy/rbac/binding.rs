//! RoleBindings and ClusterRoleBindings: who has a role.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::column::{self, AGE, NAME};
use super::super::error::{invalid, named};
use super::super::value::{fill_zero, items, items_mut, text};
use super::super::{Column, Strategy};
use super::GROUP;
use crate::api::names;
use crate::api::status::FieldError;

/// The strategy of bindings.
pub(super) struct Binding {
    /// Whether it is about one namespace.
    namespaced: bool,
    /// The kinds of roles that it can be about.
    roles: &'static [&'static str],
}

pub(super) const ROLE_BINDING: Binding = Binding { namespaced: true, roles: &["Role", "ClusterRole"] };
pub(super) const CLUSTER_ROLE_BINDING: Binding = Binding { namespaced: false, roles: &["ClusterRole"] };

impl Strategy for Binding {
    fn default(&self, binding: &mut Value) {
        if let Some(role) = binding.get_mut("roleRef") {
            fill_zero(role, "apiGroup", GROUP);
        }
        for subject in items_mut(binding, "subjects") {
            if matches!(text(subject, "kind"), "User" | "Group") {
                fill_zero(subject, "apiGroup", GROUP);
            }
        }
    }

    fn name_errors(&self, _object: &Value, name: &str) -> Vec<String> {
        names::path_segment(name)
    }

    fn created_on_update(&self) -> bool {
        true
    }

    fn validate(&self, binding: &Value) -> Vec<FieldError> {
        let role = &binding["roleRef"];
        let mut errors = Vec::new();
        errors.extend(other("roleRef.apiGroup", text(role, "apiGroup"), &[GROUP]));
        errors.extend(other("roleRef.kind", text(role, "kind"), self.roles));
        errors.extend(named("roleRef.name", &role["name"], names::path_segment));
        for (i, one) in items(binding, "subjects").iter().enumerate() {
            errors.extend(subject(&format!("subjects[{i}]"), one, self.namespaced));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let role = |binding: &Value| {
            let role = &binding["roleRef"];
            // The names of the fields are those of Kubernetes' own type, which its message shows.
            json!({"APIGroup": text(role, "apiGroup"), "Kind": text(role, "kind"), "Name": text(role, "name")})
        };
        let changed = role(new) != role(old);
        let error = || FieldError::invalid("roleRef", &role(new), "cannot change roleRef");
        changed.then(error).into_iter().collect()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("Role", "The role."),
            AGE,
            column::wide("Users", "The users who have the role."),
            column::wide("Groups", "The groups that have the role."),
            column::wide("ServiceAccounts", "The service accounts that have the role."),
        ];
        COLUMNS
    }

    fn cells(&self, binding: &Value, now: Timestamp) -> Vec<Value> {
        let role = &binding["roleRef"];
        let subjects = |kind: &str| {
            let of_kind = items(binding, "subjects").iter().filter(|subject| text(subject, "kind") == kind);
            let shown: Vec<String> = of_kind
                .map(|subject| match kind {
                    "ServiceAccount" => format!("{}/{}", text(subject, "namespace"), text(subject, "name")),
                    _ => text(subject, "name").to_owned(),
                })
                .collect();
            Value::from(shown.join(", "))
        };
        vec![
            column::name(binding),
            format!("{}/{}", text(role, "kind"), text(role, "name")).into(),
            column::age(binding, now),
            subjects("User"),
            subjects("Group"),
            subjects("ServiceAccount"),
        ]
    }
}

/// A word, said or not, that is none of those allowed.
fn other(path: &str, given: &str, allowed: &[&str]) -> Option<FieldError> {
    (!allowed.contains(&given)).then(|| FieldError::not_supported(path, &given.into(), allowed))
}

fn subject(path: &str, subject: &Value, namespaced: bool) -> Vec<FieldError> {
    let (name, group) = (text(subject, "name"), text(subject, "apiGroup"));
    let (name_path, group_path) = (format!("{path}.name"), format!("{path}.apiGroup"));
    let mut errors = Vec::new();
    if name.is_empty() {
        errors.push(FieldError::required(&name_path, ""));
    }
    let kind = text(subject, "kind");
    match kind {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.extend(invalid(&name_path, &name.into(), names::dns_subdomain(name)));
            }
            errors.extend(other(&group_path, group, &[""]));
            if !namespaced && text(subject, "namespace").is_empty() {
                errors.push(FieldError::required(format!("{path}.namespace"), ""));
            }
        }
        "User" | "Group" => {
            if name.is_empty() {
                let why = format!("{} name cannot be empty", kind.to_lowercase());
                errors.push(FieldError::invalid(&name_path, &name.into(), &why));
            }
            errors.extend(other(&group_path, group, &[GROUP]));
        }
        _ => errors.extend(other(&format!("{path}.kind"), kind, &["ServiceAccount", "User", "Group"])),
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(role: Value, subject: Value) -> Value {
        json!({"roleRef": role, "subjects": [subject]})
    }

    #[test]
    fn bindings_name_a_role_and_subjects() {
        let role = || json!({"kind": "ClusterRole", "name": "view"});
        let account = || json!({"kind": "ServiceAccount", "name": "a", "namespace": "n"});
        let rows: Vec<(&Binding, Value, &[&str])> = vec![
            (&ROLE_BINDING, binding(role(), account()), &[]),
            (&CLUSTER_ROLE_BINDING, binding(role(), json!({"kind": "User", "name": "jane"})), &[]),
            (
                &CLUSTER_ROLE_BINDING,
                binding(json!({"kind": "Role", "name": "a/b"}), account()),
                &[
                    "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                    "roleRef.name: Invalid value: \"a/b\": may not contain '/'",
                ],
            ),
            (
                &CLUSTER_ROLE_BINDING,
                binding(role(), json!({"kind": "ServiceAccount", "name": "a", "apiGroup": "x"})),
                &[
                    "subjects[0].apiGroup: Unsupported value: \"x\": supported values: \"\"",
                    "subjects[0].namespace: Required value",
                ],
            ),
            (
                &ROLE_BINDING,
                binding(role(), json!({"kind": "Group"})),
                &[
                    "subjects[0].name: Required value",
                    "subjects[0].name: Invalid value: \"\": group name cannot be empty",
                ],
            ),
            (
                &ROLE_BINDING,
                binding(role(), json!({"kind": "Robot", "name": "r"})),
                &["subjects[0].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \
                   \"User\", \"Group\""],
            ),
        ];
        for (strategy, mut object, errors) in rows {
            strategy.default(&mut object);
            let told: Vec<String> = strategy.validate(&object).iter().map(ToString::to_string).collect();
            assert_eq!(told, errors);
        }
    }

    #[test]
    fn the_role_stays() {
        let of = |name: &str| binding(json!({"apiGroup": GROUP, "kind": "Role", "name": name}), json!({}));
        assert!(ROLE_BINDING.validate_update(&of("a"), &of("a")).is_empty());
        assert_eq!(
            ROLE_BINDING.validate_update(&of("a"), &of("b"))[0].to_string(),
            "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"Role\",\"Name\":\"a\"}: \
             cannot change roleRef"
        );
    }
}
