//! Bindings of admission policies: where a policy is in force, and with which parameters.

use jiff::Timestamp;
use serde_json::Value;

use super::super::column::{self, AGE, NAME};
use super::super::error::{named, word};
use super::super::selector;
use super::super::value::{fill, text};
use super::super::{Column, Strategy};
use super::matching;
use crate::api::names;
use crate::api::status::FieldError;

const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];

/// The strategy of bindings.
pub(super) struct Binding {
    /// Whether their policies change objects.
    mutating: bool,
}

pub(super) const MUTATING: Binding = Binding { mutating: true };
pub(super) const VALIDATING: Binding = Binding { mutating: false };

impl Strategy for Binding {
    fn default(&self, binding: &mut Value) {
        let Some(spec) = binding.get_mut("spec") else { return };
        if let Some(parameters) = spec.get_mut("paramRef").filter(|parameters| parameters.is_object()) {
            fill(parameters, "parameterNotFoundAction", "Deny");
        }
        if let Some(resources) = spec.get_mut("matchResources") {
            matching::default(resources, &["resourceRules", "excludeResourceRules"]);
        }
    }

    fn validate(&self, binding: &Value) -> Vec<FieldError> {
        const RESOURCES: &str = "spec.matchResources";
        let spec = &binding["spec"];
        let mut errors = named("spec.policyName", &spec["policyName"], names::dns_subdomain);
        errors.extend(matching::param_ref("spec.paramRef", &spec["paramRef"]));
        errors.extend(matching::resources(RESOURCES, &spec["matchResources"]));
        errors.extend(match self.mutating {
            true => matching::only_mutating(RESOURCES, &spec["matchResources"]),
            false => actions(&spec["validationActions"]),
        });
        errors
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("PolicyName", "The policy."),
            column::text("ParamRef", "The objects by which the policy is set up here."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, binding: &Value, now: Timestamp) -> Vec<Value> {
        let spec = &binding["spec"];
        let of = &spec["paramRef"];
        let parameters = match (text(of, "name"), text(of, "namespace")) {
            ("", _) if of["selector"].is_null() => "<unset>".to_owned(),
            ("", _) => selector::shown(&of["selector"]),
            (name, "") => format!("*/{name}"),
            (name, namespace) => format!("{namespace}/{name}"),
        };
        let policy = text(spec, "policyName");
        vec![column::name(binding), policy.into(), parameters.into(), column::age(binding, now)]
    }
}

/// What is done about a request that a policy refuses.
fn actions(given: &Value) -> Vec<FieldError> {
    const PATH: &str = "spec.validationActions";
    let actions = given.as_array().map_or(&[][..], Vec::as_slice);
    let mut errors = Vec::new();
    for (i, action) in actions.iter().enumerate() {
        let path = format!("{PATH}[{i}]");
        errors.extend(word(&path, action, &ACTIONS));
        if actions[..i].contains(action) {
            errors.push(FieldError::duplicate(path, action));
        }
    }
    let has = |action: &str| actions.iter().any(|given| given == action);
    if has("Deny") && has("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                   response and headers serves no purpose)";
        errors.push(FieldError::invalid(PATH, given, why));
    }
    if actions.is_empty() {
        errors.push(FieldError::required(PATH, "at least one validation action is required"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bindings_say_what_to_do() {
        let told = |actions: Value| {
            let mut binding = json!({"spec": {"policyName": "p", "validationActions": actions,
                "paramRef": {"name": "x"}, "matchResources": {}}});
            VALIDATING.default(&mut binding);
            VALIDATING.validate(&binding).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(told(json!(["Deny", "Audit"])).is_empty());
        assert_eq!(
            told(json!([])),
            ["spec.validationActions: Required value: at least one validation action is required"]
        );
        assert_eq!(told(json!(["Deny", "Warn"])).len(), 1);
        assert_eq!(told(json!(["Warn", "Warn", "Stop"])).len(), 2);
        assert!(MUTATING.validate(&json!({"spec": {"policyName": "p"}})).is_empty());
        assert_eq!(MUTATING.validate(&json!({}))[0].to_string(), "spec.policyName: Required value");
    }

    #[test]
    fn parameters_are_shown() {
        let shown = |of: Value| {
            VALIDATING.cells(&json!({"spec": {"paramRef": of}}), Timestamp::UNIX_EPOCH)[2].clone()
        };
        assert_eq!(shown(json!({"name": "a"})), "*/a");
        assert_eq!(shown(json!({"name": "a", "namespace": "n"})), "n/a");
        assert_eq!(shown(json!({"selector": {"matchLabels": {"a": "b"}}})), "a=b");
        assert_eq!(shown(Value::Null), "<unset>");
    }
}
