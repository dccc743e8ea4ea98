//! Replication controllers, which came before replica sets.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::apps::replicaset::{CONTAINERS, COUNTS, IMAGES, SELECTOR, replica_counts};
use super::checks;
use super::column::{self, AGE, NAME};
use super::deprecated;
use super::pod::template;
use super::value::{entries, fill, fill_zero_number, is_set, object};
use super::{Column, Strategy};
use crate::api::meta;
use crate::api::selector::LabelSelector;
use crate::api::status::FieldError;

/// The strategy of replication controllers.
pub(super) struct ReplicationController;

impl Strategy for ReplicationController {
    fn default(&self, controller: &mut Value) {
        object(controller, "spec");
        let labels = controller["spec"]["template"]["metadata"]["labels"].clone();
        if labels.as_object().is_some_and(|labels| !labels.is_empty()) {
            if !is_set(&controller["spec"], "selector") {
                controller["spec"]["selector"] = labels.clone();
            }
            if meta::labels(controller).as_object().is_none_or(|own| own.is_empty()) {
                meta::set(controller, "labels", labels);
            }
        }
        let spec = &mut controller["spec"];
        fill(spec, "replicas", 1);
        if spec["template"].is_object() {
            template::default(&mut spec["template"]);
        }
    }

    fn prepare_create(&self, controller: &mut Value) {
        controller["status"] = json!({"replicas": 0});
    }

    fn prepare_status_update(&self, new: &mut Value, _old: &Value) {
        fill_zero_number(new, "status", &["replicas"]);
    }

    fn validate(&self, controller: &Value) -> Vec<FieldError> {
        let spec = &controller["spec"];
        let mut errors = checks::nonnegative("spec", spec, &["minReadySeconds"]);
        if entries(spec, "selector").next().is_none() {
            errors.push(FieldError::required("spec.selector", ""));
        }
        errors.extend(checks::nonnegative("spec", spec, &["replicas"]));
        let pods = &spec["template"];
        if pods.is_null() {
            errors.push(FieldError::required("spec.template", ""));
            return errors;
        }
        if entries(spec, "selector").next().is_some() {
            errors.extend(checks::template_labels(&LabelSelector::from_map(&spec["selector"]), pods));
        }
        errors.extend(template::validate("spec.template", pods));
        errors.extend(template::runs_for_ever(pods, "ReplicationController"));
        errors
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        replica_counts(&new["status"])
    }

    fn warnings(&self, controller: &Value) -> Vec<String> {
        template::warnings("spec.template", &controller["spec"]["template"])
    }

    fn create_warnings(&self, controller: &Value) -> Vec<String> {
        deprecated::pods_name(controller).into_iter().chain(self.warnings(controller)).collect()
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn generation_changes(&self, new: &Value, old: &Value) -> bool {
        !checks::same(&new["spec"], &old["spec"])
    }

    fn fields(&self, controller: &Value) -> Vec<(&'static str, String)> {
        let replicas = controller["status"]["replicas"].as_i64().unwrap_or(0);
        vec![("status.replicas", replicas.to_string())]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, COUNTS[0], COUNTS[1], COUNTS[2], AGE, CONTAINERS, IMAGES, SELECTOR];
        COLUMNS
    }

    fn cells(&self, controller: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (&controller["spec"], &controller["status"]);
        let count = |of: &Value, field: &str| Value::from(of[field].as_i64().unwrap_or(0));
        let [names, images] = template::cells(&spec["template"]);
        vec![
            column::name(controller),
            count(spec, "replicas"),
            count(status, "replicas"),
            count(status, "readyReplicas"),
            column::age(controller, now),
            names,
            images,
            column::labels(&spec["selector"]),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::apps::testing::{pod_template, told};
    use super::*;

    #[test]
    fn the_template_says_what_is_not_said() {
        let mut made = json!({"metadata": {"name": "web"}, "spec": {"template": pod_template()}});
        ReplicationController.default(&mut made);
        let again = made.clone();
        ReplicationController.default(&mut made);
        assert_eq!(made, again);
        assert_eq!(made["spec"]["selector"], json!({"app": "web"}));
        assert_eq!(made["metadata"]["labels"], json!({"app": "web"}));
        assert!(ReplicationController.validate(&made).is_empty());
        let cells = ReplicationController.cells(&made, Timestamp::UNIX_EPOCH);
        assert_eq!((&cells[1], &cells[7]), (&json!(1), &json!("app=web")));
        let mut bad = json!({"spec": {}});
        ReplicationController.default(&mut bad);
        assert_eq!(
            told(ReplicationController.validate(&bad)),
            ["spec.selector: Required value", "spec.template: Required value"]
        );
        made["spec"]["selector"] = json!({"app": "db"});
        assert_eq!(
            told(ReplicationController.validate(&made)),
            [
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`"
            ]
        );
        assert_eq!(ReplicationController.fields(&Value::Null), [("status.replicas", "0".to_owned())]);
    }
}
