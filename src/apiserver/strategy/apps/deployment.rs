//! Deployments (`pkg/apis/apps/validation`, `pkg/registry/apps/deployment`).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::checks;
use super::super::column::{self, AGE, NAME};
use super::super::deprecated;
use super::super::pod::template;
use super::super::value::{fill, fill_zero, object, text};
use super::super::{Column, Strategy};
use super::replicaset::{CONTAINERS, IMAGES, SELECTOR};
use crate::api::meta;
use crate::api::status::FieldError;

/// The strategy of deployments.
pub(in super::super) struct Deployment;

impl Strategy for Deployment {
    fn default(&self, deployment: &mut Value) {
        object(deployment, "spec");
        let spec = &mut deployment["spec"];
        fill(spec, "replicas", 1);
        fill(spec, "revisionHistoryLimit", 10);
        fill(spec, "progressDeadlineSeconds", 600);
        object(spec, "strategy");
        fill_zero(&mut spec["strategy"], "type", "RollingUpdate");
        if text(&spec["strategy"], "type") == "RollingUpdate" {
            let rolling = object(&mut spec["strategy"], "rollingUpdate");
            for field in ["maxUnavailable", "maxSurge"] {
                rolling.entry(field).or_insert_with(|| json!("25%"));
            }
        }
        object(spec, "template");
        template::default(&mut spec["template"]);
    }

    fn prepare_create(&self, deployment: &mut Value) {
        deployment["status"] = json!({});
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::carry(new, old, "labels");
    }

    fn validate(&self, deployment: &Value) -> Vec<FieldError> {
        let spec = &deployment["spec"];
        let mut errors = checks::nonnegative("spec", spec, &["replicas"]);
        errors.extend(super::replicaset::selector_and_template(spec));
        errors.extend(strategy(&spec["strategy"]));
        errors.extend(checks::nonnegative(
            "spec",
            spec,
            &["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"],
        ));
        let deadline = &spec["progressDeadlineSeconds"];
        let ready = spec["minReadySeconds"].as_i64().unwrap_or(0);
        if deadline.as_i64().is_some_and(|deadline| deadline <= ready) {
            let why = "must be greater than minReadySeconds";
            errors.push(FieldError::invalid("spec.progressDeadlineSeconds", deadline, why));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let selector = |object: &Value| object["spec"]["selector"].clone();
        checks::immutable("spec.selector", &selector(new), &selector(old)).into_iter().collect()
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        const COUNTS: &[&str] = &[
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "terminatingReplicas",
            "collisionCount",
        ];
        let status = &new["status"];
        let mut errors = checks::nonnegative("status", status, COUNTS);
        let parts = ["updatedReplicas", "readyReplicas", "availableReplicas"];
        errors.extend(checks::at_most(status, &parts, "replicas", "cannot be greater than status.replicas"));
        let why = "cannot be greater than readyReplicas";
        errors.extend(checks::at_most(status, &["availableReplicas"], "readyReplicas", why));
        errors.extend(checks::collisions(new, old));
        errors
    }

    fn warnings(&self, deployment: &Value) -> Vec<String> {
        template::warnings("spec.template", &deployment["spec"]["template"])
    }

    fn create_warnings(&self, deployment: &Value) -> Vec<String> {
        deprecated::pods_name(deployment).into_iter().chain(self.warnings(deployment)).collect()
    }

    fn has_generation(&self) -> bool {
        true
    }

    /// Annotations count, too: they are copied to the replica sets.
    fn generation_changes(&self, new: &Value, old: &Value) -> bool {
        !checks::same(&new["spec"], &old["spec"]) || meta::annotations(new) != meta::annotations(old)
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("Ready", "Ready pods of those wanted."),
            column::text("Up-to-date", "Pods made from the present template."),
            column::text("Available", "Pods that have been ready for long enough."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ];
        COLUMNS
    }

    fn cells(&self, deployment: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (&deployment["spec"], &deployment["status"]);
        let count = |of: &Value, field: &str| of[field].as_i64().unwrap_or(0);
        let ready = format!("{}/{}", count(status, "readyReplicas"), count(spec, "replicas"));
        let [names, images] = template::cells(&spec["template"]);
        let selector = crate::api::selector::text(&spec["selector"]);
        vec![
            column::name(deployment),
            ready.into(),
            count(status, "updatedReplicas").into(),
            count(status, "availableReplicas").into(),
            column::age(deployment, now),
            names,
            images,
            selector.unwrap_or_else(|_| "<invalid>".to_owned()).into(),
        ]
    }
}

fn strategy(strategy: &Value) -> Vec<FieldError> {
    const PATH: &str = "spec.strategy";
    let rolling = &strategy["rollingUpdate"];
    let mut errors = Vec::new();
    match text(strategy, "type") {
        "Recreate" if !rolling.is_null() => {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden(format!("{PATH}.rollingUpdate"), why));
        }
        "Recreate" => {}
        "RollingUpdate" => {
            let unavailable = format!("{PATH}.rollingUpdate.maxUnavailable");
            let (down, up) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            errors.extend(checks::int_or_percent(&unavailable, down));
            errors.extend(checks::int_or_percent(&format!("{PATH}.rollingUpdate.maxSurge"), up));
            if checks::amount(down) == 0 && checks::amount(up) == 0 {
                let why = "may not be 0 when `maxSurge` is 0";
                errors.push(FieldError::invalid(unavailable.as_str(), down, why));
            }
            errors.extend(checks::at_most_all(&unavailable, down));
        }
        _ => errors.push(FieldError::not_supported(PATH, strategy, &["Recreate", "RollingUpdate"])),
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::super::testing::{pod_template, told};
    use super::*;

    fn deployment(more: Value) -> Value {
        let mut deployment = json!({"metadata": {"name": "web"}, "spec": {
            "selector": {"matchLabels": {"app": "web"}}, "template": pod_template()}});
        for (key, value) in more.as_object().unwrap() {
            deployment["spec"][key] = value.clone();
        }
        Deployment.default(&mut deployment);
        deployment
    }

    #[test]
    fn a_minimal_deployment_is_filled_in_once() {
        let made = deployment(json!({}));
        let mut again = made.clone();
        Deployment.default(&mut again);
        assert_eq!(made, again);
        let mut spec = made["spec"].clone();
        assert_eq!(spec["template"]["spec"]["restartPolicy"], "Always");
        spec.as_object_mut().unwrap().remove("template");
        assert_eq!(
            spec,
            json!({"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
                "selector": {"matchLabels": {"app": "web"}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}}})
        );
        assert!(Deployment.validate(&made).is_empty());
        let recreate = deployment(json!({"strategy": {"type": "Recreate"}}));
        assert!(recreate["spec"]["strategy"].get("rollingUpdate").is_none());
        assert!(Deployment.validate(&recreate).is_empty());
    }

    #[test]
    fn rules_and_words_are_kubernetes() {
        for (more, errors) in [
            (
                json!({"replicas": -1}),
                &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"][..],
            ),
            (
                json!({"selector": null}),
                &[
                    "spec.selector: Required value",
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
                ],
            ),
            (
                json!({"selector": {}}),
                &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
            ),
            (
                json!({"selector": {"matchLabels": {"app": "other"}}}),
                &[
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
                ],
            ),
            (
                json!({"strategy": {"type": "Recreate", "rollingUpdate": {}}}),
                &[
                    "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
                ],
            ),
            (
                json!({"strategy": {"type": "X"}}),
                &[
                    "spec.strategy: Unsupported value: {\"type\":\"X\"}: supported values: \"Recreate\", \"RollingUpdate\"",
                ],
            ),
            (
                json!({"strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": "0%"}}}),
                &[
                    "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
                ],
            ),
            (
                json!({"strategy": {"rollingUpdate": {"maxUnavailable": "200%", "maxSurge": "200%"}}}),
                &[
                    "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"200%\": must not be greater than 100%",
                ],
            ),
            (
                json!({"minReadySeconds": 600}),
                &["spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"],
            ),
        ] {
            assert_eq!(told(Deployment.validate(&deployment(more.clone()))), errors, "{more}");
        }
        let mut never = deployment(json!({}));
        never["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
        assert_eq!(
            told(Deployment.validate(&never)),
            ["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""]
        );
    }

    #[test]
    fn the_selector_stays_and_counts_make_sense() {
        let old = deployment(json!({}));
        let mut new = old.clone();
        new["spec"]["replicas"] = json!(3);
        assert!(Deployment.validate_update(&new, &old).is_empty());
        assert!(Deployment.generation_changes(&new, &old));
        assert!(!Deployment.generation_changes(&old, &old));
        new["spec"]["selector"]["matchLabels"]["app"] = json!("x");
        assert_eq!(
            told(Deployment.validate_update(&new, &old)),
            ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"x\"}}: field is immutable"]
        );
        let mut annotated = old.clone();
        annotated["metadata"]["annotations"] = json!({"a": "b"});
        assert!(Deployment.generation_changes(&annotated, &old));
        let status = |status: Value| json!({"metadata": {"labels": {"a": "b"}}, "status": status});
        let wrong = status(
            json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": 3, "unavailableReplicas": -1}),
        );
        assert_eq!(
            told(Deployment.validate_status_update(&wrong, &status(json!({})))),
            [
                "status.unavailableReplicas: Invalid value: -1: must be greater than or equal to 0",
                "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 3: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 3: cannot be greater than readyReplicas",
            ]
        );
        let mut written = wrong.clone();
        Deployment.prepare_status_update(&mut written, &json!({"metadata": {}}));
        assert!(written["metadata"].get("labels").is_none());
    }

    #[test]
    fn a_line_is_kubectls() {
        let mut shown = deployment(json!({"replicas": 3}));
        shown["metadata"]["creationTimestamp"] = json!("2024-01-01T00:00:00Z");
        shown["status"] =
            json!({"replicas": 3, "readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2});
        assert_eq!(
            Deployment.cells(&shown, "2024-01-01T00:01:00Z".parse().unwrap()),
            [
                json!("web"),
                json!("2/3"),
                json!(3),
                json!(2),
                json!("60s"),
                json!("c"),
                json!("nginx:1"),
                json!("app=web")
            ]
        );
    }
}
