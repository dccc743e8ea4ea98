//! Pod templates as objects of their own.

use jiff::Timestamp;
use serde_json::Value;

use super::checks;
use super::column::{self, NAME};
use super::pod::template;
use super::value::object;
use super::{Column, Strategy};
use crate::api::status::FieldError;

/// The strategy of pod templates.
pub(super) struct PodTemplate;

impl Strategy for PodTemplate {
    fn default(&self, holder: &mut Value) {
        object(holder, "template");
        template::default(&mut holder["template"]);
    }

    fn validate(&self, holder: &Value) -> Vec<FieldError> {
        template::validate("template", &holder["template"])
    }

    fn warnings(&self, holder: &Value) -> Vec<String> {
        template::warnings("template", &holder["template"])
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn generation_changes(&self, new: &Value, old: &Value) -> bool {
        !checks::same(&new["template"], &old["template"])
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("Containers", "The containers of the template."),
            column::text("Images", "The images of the template's containers."),
            column::text("Pod Labels", "The labels of its pods."),
        ];
        COLUMNS
    }

    fn cells(&self, holder: &Value, _now: Timestamp) -> Vec<Value> {
        let [names, images] = template::cells(&holder["template"]);
        let labels = column::labels(&holder["template"]["metadata"]["labels"]);
        vec![column::name(holder), names, images, labels]
    }
}

#[cfg(test)]
mod tests {
    use super::super::apps::testing::{pod_template, told};
    use super::*;
    use serde_json::json;

    #[test]
    fn a_template_is_held_to_the_rules_of_pods() {
        let mut made = json!({"metadata": {"name": "web"}, "template": pod_template()});
        PodTemplate.default(&mut made);
        assert!(PodTemplate.validate(&made).is_empty());
        let cells = PodTemplate.cells(&made, Timestamp::UNIX_EPOCH);
        assert_eq!(cells, ["web", "c", "nginx:1", "app=web"].map(Value::from));
        let mut other = made.clone();
        other["template"]["spec"]["containers"] = json!([]);
        assert!(PodTemplate.generation_changes(&other, &made));
        assert_eq!(told(PodTemplate.validate(&other)), ["template.spec.containers: Required value"]);
    }
}
