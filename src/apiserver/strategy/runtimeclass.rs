//! `node.k8s.io`: RuntimeClasses, names for ways to run containers.

use jiff::Timestamp;
use serde_json::Value;

use super::column::{self, AGE, NAME};
use super::deprecated;
use super::error::{immutable, invalid, labels};
use super::value::{entries, text};
use super::{Column, Strategy};
use crate::api::status::FieldError;
use crate::api::{names, quantity};

/// The strategy of runtime classes.
pub(super) struct RuntimeClass;

impl Strategy for RuntimeClass {
    fn validate(&self, class: &Value) -> Vec<FieldError> {
        let handler = text(class, "handler");
        let mut errors = invalid("handler", &handler.into(), names::dns_label(handler));
        for (name, amount) in entries(&class["overhead"], "podFixed") {
            let parsed = amount.as_str().and_then(|text| quantity::parse(text).ok());
            if parsed.is_some_and(|amount| amount.is_negative()) {
                let why = "must be greater than or equal to 0";
                errors.push(FieldError::invalid(format!("overhead.limits[{name}]"), amount, why));
            }
        }
        errors.extend(labels("scheduling.nodeSelector", &class["scheduling"]["nodeSelector"]));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        immutable("handler", &new["handler"], &old["handler"]).into_iter().collect()
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn warnings(&self, class: &Value) -> Vec<String> {
        let labels = entries(&class["scheduling"], "nodeSelector");
        let told = labels.filter_map(|(label, _)| deprecated::node_label(label));
        told.map(|told| format!("scheduling.nodeSelector: {told}")).collect()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, column::text("Handler", "What the runtime is told to do otherwise."), AGE];
        COLUMNS
    }

    fn cells(&self, class: &Value, now: Timestamp) -> Vec<Value> {
        vec![column::name(class), text(class, "handler").into(), column::age(class, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn handlers_are_labels_and_stay() {
        assert!(RuntimeClass.validate(&json!({"handler": "gvisor"})).is_empty());
        let wrong = json!({"handler": "", "overhead": {"podFixed": {"cpu": "-1"}},
            "scheduling": {"nodeSelector": {"a": "b c"}}});
        let fields: Vec<String> = RuntimeClass.validate(&wrong).into_iter().map(|e| e.field).collect();
        assert_eq!(fields, ["handler", "overhead.limits[cpu]", "scheduling.nodeSelector"]);
        assert_eq!(RuntimeClass.validate_update(&json!({"handler": "a"}), &json!({"handler": "b"})).len(), 1);
    }
}
