//! What is written so that a default role or binding is as it must be: what is missing is added, what there is more
//! stays.
//!
//! Source: Kubernetes `component-helpers/auth/rbac/reconciliation`.

use serde_json::Value;

use super::defaults::AUTO_UPDATE;
use super::rules::{self, Rule};
use crate::api::meta;

/// What is to be done about an object that is there.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Nothing.
    None,
    /// It is replaced by this.
    Update(Value),
    /// It is removed and made anew: a binding to another role.
    Recreate,
}

/// Compares an object that is there with the default of its name.
pub fn plan(present: &Value, wanted: &Value) -> Change {
    if meta::annotation(present, AUTO_UPDATE) == Some("false") {
        return Change::None;
    }
    if present["roleRef"] != wanted["roleRef"] {
        return Change::Recreate;
    }
    let mut next = present.clone();
    for key in ["labels", "annotations"] {
        for (name, value) in wanted["metadata"][key].as_object().into_iter().flatten() {
            // What somebody has set to another value stays so.
            if next["metadata"][key].get(name).is_none() {
                let map = meta::metadata_mut(&mut next).entry(key).or_insert(Value::Null);
                meta::map_mut(map).insert(name.clone(), value.clone());
            }
        }
    }
    if wanted.get("roleRef").is_some() {
        add(&mut next, "subjects", &wanted["subjects"]);
    } else if wanted.get("aggregationRule").is_some() {
        // The rules of such a role are those of its parts.
        let selectors = &wanted["aggregationRule"]["clusterRoleSelectors"];
        if !next["aggregationRule"].is_object() {
            next["aggregationRule"] = Value::Object(serde_json::Map::new());
        }
        add(&mut next["aggregationRule"], "clusterRoleSelectors", selectors);
    } else {
        let held = Rule::read_all(present);
        let missing = rules::missing(&held, &Rule::read_all(wanted));
        let missing = serde_json::to_value(missing).unwrap_or_default();
        add(&mut next, "rules", &missing);
    }
    if next == *present { Change::None } else { Change::Update(next) }
}

/// Appends to a list what it has not.
fn add(object: &mut Value, key: &str, wanted: &Value) {
    let wanted: Vec<&Value> = wanted.as_array().into_iter().flatten().collect();
    let mut list = object[key].as_array().cloned().unwrap_or_default();
    let before = list.len();
    for item in wanted {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
    if list.len() != before {
        object[key] = Value::Array(list);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_missing_comes_and_what_is_more_stays() {
        let metadata =
            |auto: &str| json!({"name": "a", "annotations": {AUTO_UPDATE: auto}, "labels": {"l": "v"}});
        let rule = |verbs: &[&str]| json!({"verbs": verbs, "apiGroups": [""], "resources": ["pods"]});
        let role = |auto: &str, verbs: &[&str]| json!({"metadata": metadata(auto), "rules": [rule(verbs)]});
        let wanted = role("true", &["get", "list"]);
        assert_eq!(plan(&role("true", &["get", "list", "watch"]), &wanted), Change::None);
        assert_eq!(plan(&role("false", &[]), &wanted), Change::None);
        let mut grown = role("true", &["get", "watch"]);
        let Change::Update(next) = plan(&grown, &wanted) else { panic!("a verb is missing") };
        grown["rules"] = json!([rule(&["get", "watch"]), rule(&["list"])]);
        assert_eq!(next, grown);

        let binding = |role: &str, subjects: &[&str]| {
            let subjects: Vec<Value> = subjects.iter().map(|s| json!({"kind": "User", "name": s})).collect();
            json!({"metadata": metadata("true"), "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": subjects})
        };
        assert_eq!(plan(&binding("x", &["a"]), &binding("y", &["a"])), Change::Recreate);
        assert_eq!(plan(&binding("x", &["a", "b"]), &binding("x", &["a"])), Change::None);
        assert_eq!(
            plan(&binding("x", &["b"]), &binding("x", &["a"])),
            Change::Update(binding("x", &["b", "a"]))
        );

        let selector = |label: &str| json!({"matchLabels": {label: "true"}});
        let parts = |selectors: &[Value]| json!({"metadata": metadata("true"), "aggregationRule": {"clusterRoleSelectors": selectors}});
        let mut present = parts(&[selector("mine")]);
        present["rules"] = json!([rule(&["get"])]);
        let Change::Update(next) = plan(&present, &parts(&[selector("theirs")])) else {
            panic!("a part is missing")
        };
        assert_eq!(
            next["aggregationRule"]["clusterRoleSelectors"],
            json!([selector("mine"), selector("theirs")])
        );
        assert_eq!(next["rules"], present["rules"]);

        let bare =
            json!({"metadata": {"name": "a", "labels": {"l": "mine"}}, "rules": [rule(&["get", "list"])]});
        let Change::Update(next) = plan(&bare, &wanted) else { panic!("an annotation is missing") };
        assert_eq!(
            (&next["metadata"]["labels"]["l"], meta::annotation(&next, AUTO_UPDATE)),
            (&json!("mine"), Some("true"))
        );
    }
}
