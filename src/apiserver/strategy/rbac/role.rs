//! Roles and ClusterRoles: what may be done.

use jiff::Timestamp;
use serde_json::Value;

use super::super::column::{self, NAME};
use super::super::value::{is_set, items};
use super::super::{Column, Strategy};
use crate::api::names;
use crate::api::status::FieldError;

/// The strategy of roles.
pub(super) struct Role {
    /// Whether it is about one namespace.
    namespaced: bool,
}

pub(super) const ROLE: Role = Role { namespaced: true };
pub(super) const CLUSTER_ROLE: Role = Role { namespaced: false };

impl Strategy for Role {
    fn name_errors(&self, _object: &Value, name: &str) -> Vec<String> {
        names::path_segment(name)
    }

    fn created_on_update(&self) -> bool {
        true
    }

    fn validate(&self, role: &Value) -> Vec<FieldError> {
        let rules = items(role, "rules").iter().enumerate();
        rules.flat_map(|(i, one)| rule(&format!("rules[{i}]"), one, self.namespaced)).collect()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, column::CREATED_AT];
        COLUMNS
    }

    fn cells(&self, role: &Value, _now: Timestamp) -> Vec<Value> {
        vec![column::name(role), column::created_at(role)]
    }
}

fn rule(path: &str, rule: &Value, namespaced: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !is_set(rule, "verbs") {
        let why = "verbs must contain at least one value";
        errors.push(FieldError::required(format!("{path}.verbs"), why));
    }
    if is_set(rule, "nonResourceURLs") {
        let mut wrong = |why| {
            let urls = &rule["nonResourceURLs"];
            errors.push(FieldError::invalid(format!("{path}.nonResourceURLs"), urls, why));
        };
        if namespaced {
            wrong("namespaced rules cannot apply to non-resource URLs");
        }
        if ["apiGroups", "resources", "resourceNames"].iter().any(|field| is_set(rule, field)) {
            wrong("rules cannot apply to both regular resources and non-resource URLs");
        }
        return errors;
    }
    for (field, why) in [
        ("apiGroups", "resource rules must supply at least one api group"),
        ("resources", "resource rules must supply at least one resource"),
    ] {
        if !is_set(rule, field) {
            errors.push(FieldError::required(format!("{path}.{field}"), why));
        }
    }
    if is_set(rule, "resourceNames") && items(rule, "resources").len() > 1 {
        let why = "resource names cannot apply to multiple resources";
        errors.push(FieldError::required(format!("{path}.resourceNames"), why));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_are_about_resources_or_urls() {
        let urls = json!({"verbs": ["get"], "nonResourceURLs": ["/metrics"]});
        let rows: &[(&Role, Value, &[&str])] = &[
            (&ROLE, json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}), &[]),
            (&CLUSTER_ROLE, urls.clone(), &[]),
            (
                &ROLE,
                urls,
                &[
                    "rules[0].nonResourceURLs: Invalid value: [\"/metrics\"]: namespaced rules cannot apply to \
                   non-resource URLs",
                ],
            ),
            (
                &ROLE,
                json!({}),
                &[
                    "rules[0].verbs: Required value: verbs must contain at least one value",
                    "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                    "rules[0].resources: Required value: resource rules must supply at least one resource",
                ],
            ),
            (
                &CLUSTER_ROLE,
                json!({"verbs": ["get"], "apiGroups": [""], "resources": ["a", "b"], "resourceNames": ["c"]}),
                &[
                    "rules[0].resourceNames: Required value: resource names cannot apply to multiple resources",
                ],
            ),
        ];
        for (role, rule, errors) in rows {
            let told: Vec<String> =
                role.validate(&json!({ "rules": [rule] })).iter().map(ToString::to_string).collect();
            assert_eq!(told, *errors);
        }
        assert!(ROLE.name_errors(&Value::Null, "system:node").is_empty());
    }
}
