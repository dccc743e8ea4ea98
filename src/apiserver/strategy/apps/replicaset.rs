//! Replica sets, and what deployments have in common with them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::checks;
use super::super::column::{self, AGE, NAME};
use super::super::deprecated;
use super::super::pod::template;
use super::super::value::{fill, fill_zero_number, object};
use super::super::{Column, Strategy};
use crate::api::selector::LabelSelector;
use crate::api::status::FieldError;

/// The names of a template's containers.
pub(in super::super) const CONTAINERS: Column = column::wide("Containers", "The containers of the template.");
/// The images of a template's containers.
pub(in super::super) const IMAGES: Column =
    column::wide("Images", "The images of the template's containers.");
/// The pods that belong to the object.
pub(in super::super) const SELECTOR: Column = column::wide("Selector", "Which pods belong to it.");
/// How many pods are wanted, are there, and are ready.
pub(in super::super) const COUNTS: [Column; 3] = [
    column::integer("Desired", "How many pods there should be."),
    column::integer("Current", "How many pods there are."),
    column::integer("Ready", "How many of them are ready."),
];

/// The strategy of replica sets.
pub(in super::super) struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn default(&self, set: &mut Value) {
        object(set, "spec");
        let spec = &mut set["spec"];
        fill(spec, "replicas", 1);
        object(spec, "template");
        template::default(&mut spec["template"]);
    }

    fn prepare_create(&self, set: &mut Value) {
        set["status"] = json!({"replicas": 0});
    }

    fn prepare_status_update(&self, new: &mut Value, _old: &Value) {
        fill_zero_number(new, "status", &["replicas"]);
    }

    fn validate(&self, set: &Value) -> Vec<FieldError> {
        let spec = &set["spec"];
        let mut errors = checks::nonnegative("spec", spec, &["replicas", "minReadySeconds"]);
        errors.extend(selector_and_template(spec));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let selector = |object: &Value| object["spec"]["selector"].clone();
        checks::immutable("spec.selector", &selector(new), &selector(old)).into_iter().collect()
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        replica_counts(&new["status"])
    }

    fn warnings(&self, set: &Value) -> Vec<String> {
        template::warnings("spec.template", &set["spec"]["template"])
    }

    fn create_warnings(&self, set: &Value) -> Vec<String> {
        deprecated::pods_name(set).into_iter().chain(self.warnings(set)).collect()
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn generation_changes(&self, new: &Value, old: &Value) -> bool {
        !checks::same(&new["spec"], &old["spec"])
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, COUNTS[0], COUNTS[1], COUNTS[2], AGE, CONTAINERS, IMAGES, SELECTOR];
        COLUMNS
    }

    fn cells(&self, set: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (&set["spec"], &set["status"]);
        let count = |of: &Value, field: &str| Value::from(of[field].as_i64().unwrap_or(0));
        let [names, images] = template::cells(&spec["template"]);
        vec![
            column::name(set),
            count(spec, "replicas"),
            count(status, "replicas"),
            count(status, "readyReplicas"),
            column::age(set, now),
            names,
            images,
            column::selector(&spec["selector"]),
        ]
    }
}

/// What is wrong with the selector and the template of a replica set or of a deployment, which are in each other's words.
pub(super) fn selector_and_template(spec: &Value) -> Vec<FieldError> {
    let (selector, pods) = (&spec["selector"], &spec["template"]);
    let mut errors = checks::required_selector(selector, "deployment");
    match LabelSelector::from_object(selector) {
        Err(_) => errors.push(FieldError::invalid("spec.selector", selector, "invalid label selector")),
        Ok(read) => {
            errors.extend(checks::template_labels(&read, pods));
            errors.extend(template::validate("spec.template", pods));
            errors.extend(template::runs_for_ever(pods, "ReplicaSet"));
        }
    }
    errors
}

/// What is wrong with the counts of a replica set's or a replication controller's status.
pub(in super::super) fn replica_counts(status: &Value) -> Vec<FieldError> {
    const PARTS: &[&str] = &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    const OTHERS: &[&str] = &["observedGeneration", "terminatingReplicas"];
    let mut errors = checks::nonnegative("status", status, &["replicas"]);
    errors.extend(checks::nonnegative("status", status, PARTS));
    errors.extend(checks::nonnegative("status", status, OTHERS));
    errors.extend(checks::at_most(status, PARTS, "replicas", "cannot be greater than status.replicas"));
    let why = "cannot be greater than readyReplicas";
    errors.extend(checks::at_most(status, &["availableReplicas"], "readyReplicas", why));
    errors
}

#[cfg(test)]
mod tests {
    use super::super::testing::{pod_template, told};
    use super::*;

    fn set(spec: Value) -> Value {
        let mut set = json!({"metadata": {"name": "web-1"}, "spec": spec});
        ReplicaSet.default(&mut set);
        set
    }

    #[test]
    fn replica_sets_keep_their_selector() {
        let good = set(json!({"selector": {"matchLabels": {"app": "web"}}, "template": pod_template()}));
        assert_eq!(good["spec"]["replicas"], 1);
        assert!(ReplicaSet.validate(&good).is_empty());
        let mut other = good.clone();
        other["spec"]["selector"] = json!({"matchLabels": {"app": "web", "x": "y"}});
        assert_eq!(told(ReplicaSet.validate_update(&other, &good)).len(), 1);
        let bad = set(
            json!({"minReadySeconds": -1, "selector": {"matchExpressions": [{"key": "a", "operator": "Is"}]},
                             "template": pod_template()}),
        );
        assert_eq!(
            told(ReplicaSet.validate(&bad)),
            [
                "spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0",
                "spec.selector.matchExpressions[0].operator: Invalid value: \"Is\": not a valid selector operator",
                "spec.selector: Invalid value: {\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"Is\"}]}: invalid label selector",
            ]
        );
        assert_eq!(
            told(replica_counts(&json!({"replicas": 1, "fullyLabeledReplicas": 2, "availableReplicas": 1}))),
            [
                "status.fullyLabeledReplicas: Invalid value: 2: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 1: cannot be greater than readyReplicas",
            ]
        );
    }

    #[test]
    fn a_line_is_kubectls() {
        let mut shown = set(
            json!({"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": pod_template()}),
        );
        ReplicaSet.prepare_create(&mut shown);
        assert_eq!(shown["status"], json!({"replicas": 0}));
        let cells = ReplicaSet.cells(&shown, Timestamp::UNIX_EPOCH);
        assert_eq!(
            cells[1..],
            [
                json!(2),
                json!(0),
                json!(0),
                json!("<unknown>"),
                json!("c"),
                json!("nginx:1"),
                json!("app=web")
            ]
        );
    }
}
