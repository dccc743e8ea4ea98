//! Templates of pods within other kinds: defaults, rules, warnings and cells (`ValidatePodTemplateSpec`).

use serde_json::{Value, json};

use super::super::checks;
use super::super::value::{items, object, text};
use super::{annotations, defaults, validate, warnings};
use crate::api::status::FieldError;

/// Fills in what a template has of what a pod has.
pub fn default(template: &mut Value) {
    object(template, "metadata");
    object(template, "spec");
    defaults::spec(&mut template["spec"]);
}

/// What is wrong with the template at `path`.
pub fn validate(path: &str, template: &Value) -> Vec<FieldError> {
    let metadata = &template["metadata"];
    let mut errors = checks::labels(&format!("{path}.labels"), &metadata["labels"]);
    errors.extend(checks::annotations(&format!("{path}.annotations"), &metadata["annotations"]));
    errors.extend(annotations::validate(&format!("{path}.annotations"), template));
    let within = validate::spec(&as_pod(template), false);
    errors.extend(within.into_iter().map(|e| FieldError { field: format!("{path}.{}", e.field), ..e }));
    if !items(&template["spec"], "ephemeralContainers").is_empty() {
        let why = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(format!("{path}.spec.ephemeralContainers"), why));
    }
    errors
}

/// What the author of the template at `path` should know.
pub fn warnings(path: &str, template: &Value) -> Vec<String> {
    let within = warnings::pod(&as_pod(template)).into_iter();
    let is_path = |told: &str| told.starts_with("spec") || told.starts_with("metadata");
    within.map(|told| if is_path(&told) { format!("{path}.{told}") } else { told }).collect()
}

/// The template at `spec.template` makes pods that run for ever; `owner` is the kind in messages.
pub fn runs_for_ever(template: &Value, owner: &str) -> Vec<FieldError> {
    let spec = &template["spec"];
    let mut errors = Vec::new();
    if text(spec, "restartPolicy") != "Always" {
        let path = "spec.template.spec.restartPolicy";
        errors.push(FieldError::not_supported(path, &json!(text(spec, "restartPolicy")), &["Always"]));
    }
    if !spec["activeDeadlineSeconds"].is_null() {
        let why = format!("activeDeadlineSeconds in {owner} is not Supported");
        errors.push(FieldError::forbidden("spec.template.spec.activeDeadlineSeconds", &why));
    }
    errors
}

/// The cells of the names of a template's containers and of their images.
pub fn cells(template: &Value) -> [Value; 2] {
    let containers = items(&template["spec"], "containers");
    let all = |field: &str| containers.iter().map(|c| text(c, field)).collect::<Vec<_>>().join(",");
    [all("name").into(), all("image").into()]
}

fn as_pod(template: &Value) -> Value {
    json!({"metadata": template["metadata"], "spec": template["spec"]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_have_a_part_of_what_pods_have() {
        let mut template = json!({"spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "nginx:1",
            "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}}}]}});
        default(&mut template);
        let again = template.clone();
        default(&mut template);
        assert_eq!(template, again);
        assert_eq!(
            template,
            json!({"metadata": {}, "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "nginx:1",
                "ports": [{"containerPort": 80, "protocol": "TCP"}], "resources": {"limits": {"cpu": "1"}},
                "imagePullPolicy": "IfNotPresent", "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File"}], "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
                "schedulerName": "default-scheduler", "terminationGracePeriodSeconds": 30, "securityContext": {}}})
        );
        assert_eq!(cells(&template), [json!("c"), json!("nginx:1")]);
        assert!(validate("spec.template", &template).is_empty());
    }

    #[test]
    fn what_is_wrong_is_found_where_the_template_is() {
        let mut template = json!({"metadata": {"labels": {"a": "b c"}}, "spec": {"restartPolicy": "Never",
            "activeDeadlineSeconds": 5, "ephemeralContainers": [{"name": "d", "image": "x"}],
            "containers": [{"name": "c", "env": [{"name": "A"}, {"name": "A"}]}]}});
        default(&mut template);
        let told: Vec<String> =
            validate("spec.template", &template).iter().map(ToString::to_string).collect();
        assert!(
            told[0].starts_with("spec.template.labels: Invalid value: \"b c\": a valid label"),
            "{told:?}"
        );
        assert_eq!(
            told[1..],
            [
                "spec.template.spec.containers[0].image: Required value",
                "spec.template.spec.ephemeralContainers: Forbidden: ephemeral containers not allowed in pod template",
            ]
        );
        let told: Vec<String> =
            runs_for_ever(&template, "ReplicaSet").iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
            ]
        );
        assert_eq!(
            warnings("spec.template", &template),
            [
                "spec.template.spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply"
            ]
        );
    }
}
