//! How a pod that waits at its gates may be held to fewer nodes (`validateNodeAffinityMutation`).

use serde_json::Value;

use super::super::value::{carry_over, items};
use crate::api::status::FieldError;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// What is wrong with the change of what a specification requires of nodes.
pub(super) fn node_affinity(new: &Value, old: &Value) -> Vec<FieldError> {
    let terms = |spec: &Value| spec["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"].clone();
    let (new, old) = (terms(new), terms(old));
    let list = |terms: &Value| terms.as_array().cloned().unwrap_or_default();
    let (new_terms, old_terms) = (list(&new), list(&old));
    let path = format!("spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms");
    if !old_terms.is_empty() && old_terms.len() != new_terms.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return vec![FieldError::invalid(path, &new, why)];
    }
    let pairs = new_terms.iter().zip(&old_terms).enumerate();
    let why = "only additions are allowed (no mutations or deletions)";
    pairs
        .filter(|(_, (new, old))| !only_adds(new, old))
        .map(|(i, (new, _))| FieldError::invalid(format!("{path}[{i}]"), new, why))
        .collect()
}

/// Whether a term asks for what it asked for, and for no more where it asked for nothing: that fits no node.
fn only_adds(new: &Value, old: &Value) -> bool {
    const LISTS: [&str; 2] = ["matchExpressions", "matchFields"];
    let nothing = |term: &Value| LISTS.iter().all(|list| items(term, list).is_empty());
    let kept = LISTS.iter().all(|list| items(new, list).starts_with(items(old, list)));
    kept && (nothing(new) || !nothing(old))
}

/// Sets the change aside: what the new specification wants of nodes becomes what the old one wanted.
pub(super) fn put_back(new: &mut Value, old: &Value) {
    let before = &old["affinity"]["nodeAffinity"];
    if new["affinity"].is_object() {
        carry_over(&mut new["affinity"], &old["affinity"], "nodeAffinity");
        let empty = new["affinity"].as_object().is_some_and(serde_json::Map::is_empty);
        if empty && old["affinity"].is_null() {
            carry_over(new, old, "affinity");
        }
    } else if !before.is_null() {
        new["affinity"] = serde_json::json!({ "nodeAffinity": before });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn terms_only_ask_for_more() {
        let spec =
            |terms: Value| json!({"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}}});
        let term = |keys: &[&str]| {
            let of = |key: &&str| json!({"key": key, "operator": "Exists"});
            json!({"matchExpressions": keys.iter().map(of).collect::<Vec<_>>()})
        };
        for (new, old, error) in [
            (json!([term(&["a", "b"])]), json!([term(&["a"])]), ""),
            (json!([term(&["a"])]), json!([]), ""),
            (json!([term(&["b"])]), json!([term(&["a"])]), "only additions are allowed"),
            (json!([term(&["a"])]), json!([term(&[])]), "only additions are allowed"),
            (json!([]), json!([term(&["a"])]), "no additions/deletions to non-empty NodeSelectorTerms list"),
        ] {
            let told: Vec<String> = node_affinity(&spec(new.clone()), &spec(old.clone()))
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(told.is_empty(), error.is_empty(), "{new} {old}");
            assert!(told.iter().all(|told| told.contains(error)), "{told:?}");
        }
        assert!(node_affinity(&spec(json!([term(&["a"])])), &json!({})).is_empty());
        for old in [json!({}), spec(json!([term(&["a"])]))] {
            for mut new in [json!({}), spec(json!([term(&["b"])]))] {
                put_back(&mut new, &old);
                assert_eq!(new, old);
            }
        }
    }
}
