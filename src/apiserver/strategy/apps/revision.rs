//! Controller revisions: the states that daemon sets and stateful sets can go back to.

use jiff::Timestamp;
use serde_json::Value;

use super::super::checks;
use super::super::column::{self, AGE, NAME, NONE};
use super::super::{Column, Strategy};
use crate::api::meta;
use crate::api::status::FieldError;

/// The strategy of controller revisions.
pub(in super::super) struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn validate(&self, revision: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if revision["data"].is_null() {
            errors.push(FieldError::required("data", "data is mandatory"));
        }
        if revision["revision"].as_i64().is_some_and(|n| n < 0) {
            errors.push(FieldError::invalid("revision", &revision["revision"], checks::NEGATIVE));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::immutable("data", &new["data"], &old["data"]).into_iter().collect()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("Controller", "Whose state it is."),
            column::text("Revision", "Its number among the states of its controller."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, revision: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            column::name(revision),
            controller(revision).into(),
            revision["revision"].as_i64().unwrap_or(0).into(),
            column::age(revision, now),
        ]
    }
}

/// `statefulset.apps/web`.
fn controller(object: &Value) -> String {
    let Some(owner) = meta::controller(object) else { return NONE.to_owned() };
    let text = |key: &str| owner[key].as_str().unwrap_or_default();
    let (group, _) = meta::group_version(text("apiVersion"));
    let dot = if group.is_empty() { "" } else { "." };
    format!("{}{dot}{group}/{}", text("kind").to_lowercase(), text("name"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::told;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_state_does_not_change() {
        let old = json!({"metadata": {"name": "web-1", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "controller": true}]},
            "data": {"spec": 1}, "revision": 3});
        assert!(ControllerRevision.validate(&old).is_empty());
        let mut new = old.clone();
        new["revision"] = json!(4);
        assert!(ControllerRevision.validate_update(&new, &old).is_empty());
        new["data"] = json!({"spec": 2});
        assert_eq!(
            told(ControllerRevision.validate_update(&new, &old)),
            ["data: Invalid value: {\"spec\":2}: field is immutable"]
        );
        assert_eq!(
            told(ControllerRevision.validate(&json!({"revision": -1}))),
            [
                "data: Required value: data is mandatory",
                "revision: Invalid value: -1: must be greater than or equal to 0"
            ]
        );
        let cells = ControllerRevision.cells(&old, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[..3], [json!("web-1"), json!("statefulset.apps/web"), json!(3)]);
    }
}
