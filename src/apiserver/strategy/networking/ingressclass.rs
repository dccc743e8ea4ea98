//! IngressClasses: who carries out ingresses.

use jiff::Timestamp;
use serde_json::Value;

use super::super::column::{self, AGE, NAME, NONE};
use super::super::error::{if_set, immutable, invalid, named};
use super::super::value::{fill, text};
use super::super::{Column, Strategy};
use crate::api::names;
use crate::api::status::FieldError;

/// The longest name of a controller.
const CONTROLLER_BYTES: usize = 250;

/// The strategy of ingress classes.
pub(super) struct IngressClass;

impl Strategy for IngressClass {
    fn default(&self, object: &mut Value) {
        if let Some(parameters) = object.pointer_mut("/spec/parameters") {
            fill(parameters, "scope", "Cluster");
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let spec = &object["spec"];
        let mut errors = controller(&spec["controller"]);
        errors.extend(parameters(&spec["parameters"]));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let of = |object: &Value| object["spec"]["controller"].clone();
        immutable("spec.controller", &of(new), &of(old)).into_iter().collect()
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("Controller", "Who carries out the ingresses of this class."),
            column::text("Parameters", "The object with further settings."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let spec = &object["spec"];
        let parameters = &spec["parameters"];
        let shown = match (parameters.is_object(), parameters["apiGroup"].as_str()) {
            (false, _) => NONE.to_owned(),
            (true, None) => format!("{}/{}", text(parameters, "kind"), text(parameters, "name")),
            (true, Some(group)) => {
                format!("{}.{group}/{}", text(parameters, "kind"), text(parameters, "name"))
            }
        };
        let controller = text(spec, "controller");
        vec![column::name(object), controller.into(), shown.into(), column::age(object, now)]
    }
}

/// `acme.io/ingress`: a domain and a path.
fn controller(given: &Value) -> Vec<FieldError> {
    const PATH: &str = "spec.controller";
    let text = given.as_str().unwrap_or_default();
    if text.is_empty() {
        return vec![FieldError::required(PATH, "")];
    }
    let mut errors = Vec::new();
    if text.len() > CONTROLLER_BYTES {
        errors.push(FieldError::too_long(PATH, CONTROLLER_BYTES));
    }
    let Some((domain, path)) = text.split_once('/').filter(|(d, p)| !d.is_empty() && !p.is_empty()) else {
        let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.push(FieldError::invalid(PATH, given, why));
        return errors;
    };
    errors.extend(invalid(PATH, &domain.into(), names::dns_subdomain(domain)));
    errors.extend(invalid(PATH, &path.into(), names::http_path(path)));
    errors
}

fn parameters(parameters: &Value) -> Vec<FieldError> {
    if parameters.is_null() {
        return Vec::new();
    }
    let path = |field: &str| format!("spec.parameters.{field}");
    let mut errors = if_set(&path("apiGroup"), &parameters["apiGroup"], names::dns_subdomain);
    errors.extend(named(&path("kind"), &parameters["kind"], names::path_segment));
    errors.extend(named(&path("name"), &parameters["name"], names::path_segment));
    let namespace = &parameters["namespace"];
    match (parameters["scope"].as_str(), namespace.as_str()) {
        (None, _) => errors.push(FieldError::required(path("scope"), "")),
        (Some("Namespace"), None) => {
            let why = "`parameters.scope` is set to 'Namespace'";
            errors.push(FieldError::required(path("namespace"), why));
        }
        (Some("Namespace"), Some(_)) => {
            errors.extend(if_set(&path("namespace"), namespace, names::dns_label));
        }
        (Some("Cluster"), None) => {}
        (Some("Cluster"), Some(_)) => {
            let why = "`parameters.scope` is set to 'Cluster'";
            errors.push(FieldError::forbidden(path("namespace"), why));
        }
        (Some(_), _) => {
            let scope = &parameters["scope"];
            errors.push(FieldError::not_supported(path("scope"), scope, &["Cluster", "Namespace"]));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes_name_a_controller() {
        for (spec, error) in [
            (json!({"controller": "acme.io/foo"}), None),
            (json!({}), Some("spec.controller: Required value")),
            (
                json!({"controller": "acme"}),
                Some(
                    "spec.controller: Invalid value: \"acme\": must be a domain-prefixed path (such as \
                      \"acme.io/foo\")",
                ),
            ),
            (
                json!({"controller": "a.io/b", "parameters": {"kind": "K", "name": "n", "scope": "Namespace"}}),
                Some("spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"),
            ),
            (
                json!({"controller": "a.io/b", "parameters": {"kind": "K", "name": "n", "namespace": "x"}}),
                Some("spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"),
            ),
            (
                json!({"controller": "a.io/b", "parameters": {"kind": "K", "name": "n", "scope": "x"}}),
                Some(
                    "spec.parameters.scope: Unsupported value: \"x\": supported values: \"Cluster\", \
                      \"Namespace\"",
                ),
            ),
        ] {
            let mut class = json!({ "spec": spec });
            IngressClass.default(&mut class);
            let errors: Vec<String> = IngressClass.validate(&class).iter().map(ToString::to_string).collect();
            assert_eq!(errors, error.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_controller_stays() {
        let class = |controller: &str| json!({"spec": {"controller": controller}});
        let errors = IngressClass.validate_update(&class("a.io/b"), &class("a.io/c"));
        assert_eq!(errors[0].to_string(), "spec.controller: Invalid value: \"a.io/b\": field is immutable");
    }
}
