//! Pod disruption budgets (`pkg/apis/policy/validation`).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::checks;
use super::super::column::{self, AGE, NAME};
use super::super::value::{fill_zero_number, items, object};
use super::super::{Column, Strategy};
use crate::api::status::FieldError;

/// The counts that a status always shows.
const SHOWN: &[&str] = &["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
const POLICIES: &[&str] = &["AlwaysAllow", "IfHealthyBudget"];

/// The strategy of disruption budgets.
pub(in super::super) struct PodDisruptionBudget;

impl Strategy for PodDisruptionBudget {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn default(&self, budget: &mut Value) {
        object(budget, "spec");
    }

    fn prepare_create(&self, budget: &mut Value) {
        budget["status"] = json!({});
        fill_zero_number(budget, "status", SHOWN);
    }

    fn prepare_status_update(&self, new: &mut Value, _old: &Value) {
        fill_zero_number(new, "status", SHOWN);
    }

    fn validate(&self, budget: &Value) -> Vec<FieldError> {
        let spec = &budget["spec"];
        let mut errors = Vec::new();
        if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
            let why = "minAvailable and maxUnavailable cannot be both set";
            let form = format!(
                "{{\"MinAvailable\":{},\"Selector\":{},\"MaxUnavailable\":{},\"UnhealthyPodEvictionPolicy\":{}}}",
                spec["minAvailable"],
                spec["selector"],
                spec["maxUnavailable"],
                spec["unhealthyPodEvictionPolicy"]
            );
            errors.push(FieldError::invalid("spec", spec, why).showing(spec, &form));
        }
        for field in ["minAvailable", "maxUnavailable"] {
            let path = format!("spec.{field}");
            errors.extend(checks::int_or_percent(&path, &spec[field]));
            errors.extend(checks::at_most_all(&path, &spec[field]));
        }
        errors.extend(checks::label_selector("spec.selector", &spec["selector"]));
        let policy = &spec["unhealthyPodEvictionPolicy"];
        if policy.as_str().is_some_and(|policy| !POLICIES.contains(&policy)) {
            errors.push(FieldError::not_supported("spec.unhealthyPodEvictionPolicy", policy, POLICIES));
        }
        errors
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = checks::conditions(items(&new["status"], "conditions"));
        errors.extend(checks::nonnegative("status", &new["status"], SHOWN));
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn generation_changes(&self, new: &Value, old: &Value) -> bool {
        !checks::same(&new["spec"], &old["spec"])
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("Min Available", "How many pods must stay."),
            column::text("Max Unavailable", "How many pods may be away."),
            column::integer("Allowed Disruptions", "How many pods may be sent away at this moment."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, budget: &Value, now: Timestamp) -> Vec<Value> {
        let amount = |field: &str| match &budget["spec"][field] {
            Value::Null => Value::from("N/A"),
            Value::String(percent) => Value::from(percent.as_str()),
            number => Value::from(number.to_string()),
        };
        vec![
            column::name(budget),
            amount("minAvailable"),
            amount("maxUnavailable"),
            budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0).into(),
            column::age(budget, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_and_words_are_kubernetes() {
        for (spec, errors) in [
            (json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}), &[][..]),
            (
                json!({"minAvailable": 1, "maxUnavailable": "101%"}),
                &[
                    "spec: Invalid value: {\"MinAvailable\":1,\"Selector\":null,\"MaxUnavailable\":\"101%\",\"UnhealthyPodEvictionPolicy\":null}: minAvailable and maxUnavailable cannot be both set",
                    "spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
                ],
            ),
            (
                json!({"unhealthyPodEvictionPolicy": "X"}),
                &[
                    "spec.unhealthyPodEvictionPolicy: Unsupported value: \"X\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\"",
                ],
            ),
        ] {
            assert_eq!(told(PodDisruptionBudget.validate(&json!({"spec": spec}))), errors, "{spec}");
        }
        let status = json!({"status": {"expectedPods": -1, "conditions": [
            {"type": "A", "status": "X", "lastTransitionTime": "t", "reason": "r"}, {"type": "A", "status": "True"}]}});
        assert_eq!(
            told(PodDisruptionBudget.validate_status_update(&status, &Value::Null)),
            [
                "status.conditions[0].status: Unsupported value: \"X\": supported values: \"False\", \"True\", \"Unknown\"",
                "status.conditions[1]: Duplicate value: \"A\"",
                "status.conditions[1].lastTransitionTime: Required value",
                "status.conditions[1].reason: Required value",
                "status.expectedPods: Invalid value: -1: must be greater than or equal to 0",
            ]
        );
    }

    #[test]
    fn a_line_is_kubectls() {
        let mut budget = json!({"metadata": {"name": "web"}, "spec": {"maxUnavailable": "20%"}});
        PodDisruptionBudget.prepare_create(&mut budget);
        assert_eq!(
            PodDisruptionBudget.cells(&budget, Timestamp::UNIX_EPOCH),
            [json!("web"), json!("N/A"), json!("20%"), json!(0), json!("<unknown>")]
        );
    }
}
