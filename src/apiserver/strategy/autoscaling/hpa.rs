//! Horizontal pod autoscalers in the form of `autoscaling/v2` (`pkg/apis/autoscaling/validation`).

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::super::checks;
use super::super::column::{self, AGE, NAME, UNSET};
use super::super::value::{fill, fill_zero_number, items, object, text};
use super::super::{Column, Strategy};
use super::metrics;
use crate::api::names;
use crate::api::status::FieldError;

/// The longest period of a policy and the longest window of looking back, in seconds.
const LONGEST_PERIOD: i64 = 1800;
const LONGEST_WINDOW: i64 = 3600;
const SELECTIONS: &[&str] = &["Disabled", "Max", "Min"];

/// The strategy of autoscalers.
pub(in super::super) struct HorizontalPodAutoscaler;

impl Strategy for HorizontalPodAutoscaler {
    fn default(&self, scaler: &mut Value) {
        object(scaler, "spec");
        let spec = &mut scaler["spec"];
        fill(spec, "minReplicas", 1);
        if items(spec, "metrics").is_empty() {
            spec["metrics"] = json!([{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 80}}}]);
        }
        if spec["behavior"].is_object() {
            let behavior = &mut spec["behavior"];
            let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
            let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
            let up =
                json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [pods, percent]});
            let down = json!({"selectPolicy": "Max", "policies": [percent]});
            for (direction, rules) in [("scaleUp", up), ("scaleDown", down)] {
                let given = object(behavior, direction);
                if let Value::Object(rules) = rules {
                    fill_all(given, rules);
                }
            }
        }
    }

    fn prepare_create(&self, scaler: &mut Value) {
        scaler["status"] = json!({"currentMetrics": null, "desiredReplicas": 0});
    }

    fn prepare_status_update(&self, new: &mut Value, _old: &Value) {
        fill_zero_number(new, "status", &["desiredReplicas"]);
    }

    fn validate(&self, scaler: &Value) -> Vec<FieldError> {
        let spec = &scaler["spec"];
        let (least, most) = (&spec["minReplicas"], &spec["maxReplicas"]);
        let number = most.as_i64().unwrap_or(0);
        let mut errors = Vec::new();
        if least.as_i64().is_some_and(|least| least < 1) {
            let why = "must be greater than or equal to 1";
            errors.push(FieldError::invalid("spec.minReplicas", least, why));
        }
        if number < 1 {
            errors.push(FieldError::invalid("spec.maxReplicas", &json!(number), "must be greater than 0"));
        }
        if least.as_i64().is_some_and(|least| number < least) {
            let why = "must be greater than or equal to `minReplicas`";
            errors.push(FieldError::invalid("spec.maxReplicas", &json!(number), why));
        }
        errors.extend(reference("spec.scaleTargetRef", &spec["scaleTargetRef"]));
        errors.extend(metrics::validate("spec.metrics", items(spec, "metrics")));
        for direction in ["scaleUp", "scaleDown"] {
            errors.extend(rules(&format!("spec.behavior.{direction}"), &spec["behavior"][direction]));
        }
        errors
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        checks::nonnegative("status", &new["status"], &["currentReplicas", "desiredReplicas"])
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("Reference", "What is scaled."),
            column::text("Targets", "The present values of its metrics and those wanted."),
            column::text("MinPods", "How few pods there may be."),
            column::text("MaxPods", "How many pods there may be."),
            column::text("Replicas", "How many pods there are."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, scaler: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (&scaler["spec"], &scaler["status"]);
        let target = &spec["scaleTargetRef"];
        let least = spec["minReplicas"].as_i64().map_or(UNSET.to_owned(), |least| least.to_string());
        vec![
            column::name(scaler),
            format!("{}/{}", text(target, "kind"), text(target, "name")).into(),
            metrics::shown(items(spec, "metrics"), items(status, "currentMetrics")).into(),
            least.into(),
            spec["maxReplicas"].as_i64().unwrap_or(0).into(),
            status["currentReplicas"].as_i64().unwrap_or(0).into(),
            column::age(scaler, now),
        ]
    }
}

fn fill_all(given: &mut Map<String, Value>, defaults: Map<String, Value>) {
    for (field, value) in defaults {
        given.entry(field).or_insert(value);
    }
}

/// What is scaled, or looked at.
pub(super) fn reference(path: &str, reference: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["kind", "name"] {
        let at = format!("{path}.{field}");
        match text(reference, field) {
            "" => errors.push(FieldError::required(at, "")),
            named => {
                let wrong = names::path_segment(named);
                errors.extend(wrong.iter().map(|w| FieldError::invalid(at.as_str(), &json!(named), w)));
            }
        }
    }
    errors
}

fn rules(path: &str, rules: &Value) -> Vec<FieldError> {
    if rules.is_null() {
        return Vec::new();
    }
    let at = |field: &str| format!("{path}.{field}");
    let mut errors = Vec::new();
    let window = &rules["stabilizationWindowSeconds"];
    match window.as_i64() {
        Some(seconds) if seconds < 0 => {
            let why = "must be greater than or equal to zero";
            errors.push(FieldError::invalid(at("stabilizationWindowSeconds"), window, why));
        }
        Some(seconds) if seconds > LONGEST_WINDOW => {
            let why = format!("must be less than or equal to {LONGEST_WINDOW}");
            errors.push(FieldError::invalid(at("stabilizationWindowSeconds"), window, &why));
        }
        _ => {}
    }
    let selection = &rules["selectPolicy"];
    if selection.as_str().is_some_and(|selection| !SELECTIONS.contains(&selection)) {
        errors.push(FieldError::not_supported(at("selectPolicy"), selection, SELECTIONS));
    }
    let policies = items(rules, "policies");
    if policies.is_empty() {
        errors.push(FieldError::required(at("policies"), "must specify at least one Policy"));
    }
    for (i, policy) in policies.iter().enumerate() {
        errors.extend(self::policy(&format!("{path}.policies[{i}]"), policy));
    }
    if let Some(tolerance) =
        rules["tolerance"].as_str().and_then(|text| crate::api::quantity::parse(text).ok())
        && tolerance.is_negative()
    {
        let why = "must be greater than or equal to zero";
        errors.push(FieldError::invalid(at("tolerance"), &rules["tolerance"], why));
    }
    errors
}

fn policy(path: &str, policy: &Value) -> Vec<FieldError> {
    let at = |field: &str| format!("{path}.{field}");
    let number = |field: &str| policy[field].as_i64().unwrap_or(0);
    let mut errors = Vec::new();
    if !["Pods", "Percent"].contains(&text(policy, "type")) {
        let given = json!(text(policy, "type"));
        errors.push(FieldError::not_supported(at("type"), &given, &["Percent", "Pods"]));
    }
    for field in ["value", "periodSeconds"] {
        if number(field) <= 0 {
            errors.push(FieldError::invalid(at(field), &json!(number(field)), "must be greater than zero"));
        }
    }
    if number("periodSeconds") > LONGEST_PERIOD {
        let why = format!("must be less than or equal to {LONGEST_PERIOD}");
        errors.push(FieldError::invalid(at("periodSeconds"), &policy["periodSeconds"], &why));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaler(more: Value) -> Value {
        let mut scaler = json!({"metadata": {"name": "web"}, "spec": {"maxReplicas": 3,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}});
        for (key, value) in more.as_object().unwrap() {
            scaler["spec"][key] = value.clone();
        }
        HorizontalPodAutoscaler.default(&mut scaler);
        scaler
    }

    #[test]
    fn a_minimal_autoscaler_is_filled_in_once() {
        let made = scaler(json!({"behavior": {"scaleDown": {"selectPolicy": "Min"}}}));
        let mut again = made.clone();
        HorizontalPodAutoscaler.default(&mut again);
        assert_eq!(made, again);
        assert_eq!(made["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
        assert_eq!(
            made["spec"]["behavior"],
            json!({"scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
                {"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]},
                "scaleDown": {"selectPolicy": "Min", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}})
        );
        assert!(HorizontalPodAutoscaler.validate(&made).is_empty());
        assert_eq!(
            HorizontalPodAutoscaler.cells(&made, Timestamp::UNIX_EPOCH),
            [
                json!("web"),
                json!("Deployment/web"),
                json!("cpu: <unknown>/80%"),
                json!("1"),
                json!(3),
                json!(0),
                json!("<unknown>")
            ]
        );
    }

    #[test]
    fn rules_and_words_are_kubernetes() {
        for (more, errors) in [
            (
                json!({"minReplicas": 0, "maxReplicas": 0, "scaleTargetRef": {}}),
                &[
                    "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
                    "spec.maxReplicas: Invalid value: 0: must be greater than 0",
                    "spec.scaleTargetRef.kind: Required value",
                    "spec.scaleTargetRef.name: Required value",
                ][..],
            ),
            (
                json!({"minReplicas": 4}),
                &["spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`"],
            ),
            (
                json!({"behavior": {"scaleUp": {"stabilizationWindowSeconds": 3601, "selectPolicy": "X", "policies": []},
                    "scaleDown": {"policies": [{"type": "X", "value": 0, "periodSeconds": 1801}]}}}),
                &[
                    "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
                    "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"X\": supported values: \"Disabled\", \"Max\", \"Min\"",
                    "spec.behavior.scaleUp.policies: Required value: must specify at least one Policy",
                    "spec.behavior.scaleDown.policies[0].type: Unsupported value: \"X\": supported values: \"Percent\", \"Pods\"",
                    "spec.behavior.scaleDown.policies[0].value: Invalid value: 0: must be greater than zero",
                    "spec.behavior.scaleDown.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
                ],
            ),
        ] {
            let told: Vec<String> = HorizontalPodAutoscaler
                .validate(&scaler(more.clone()))
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(told, errors, "{more}");
        }
    }
}
