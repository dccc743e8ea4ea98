//! Admission policies: expressions that are asked.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::column::{self, AGE, NAME};
use super::super::error::{invalid, one_of, word};
use super::super::value::{fill, items, object, text};
use super::super::{Column, Strategy};
use super::matching::{self, expression};
use super::{FAILURE_POLICIES, REINVOCATION_POLICIES, compiled};
use crate::api::cel::types::is_identifier;
use crate::api::status::FieldError;
use crate::api::{meta, names};

/// The most annotations of the audit, and the longest expression of one.
const AUDIT_ANNOTATIONS: usize = 20;
const AUDIT_BYTES: usize = 5 * 1024;
const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];

fn default(policy: &mut Value) {
    object(policy, "spec");
    let spec = &mut policy["spec"];
    fill(spec, "failurePolicy", "Fail");
    if let Some(constraints) = spec.get_mut("matchConstraints") {
        matching::default(constraints, &["resourceRules", "excludeResourceRules"]);
    }
}

/// What both kinds of policies say alike.
fn validate(spec: &Value) -> Vec<FieldError> {
    let policy = one_of("spec.failurePolicy", &spec["failurePolicy"], &FAILURE_POLICIES);
    let mut errors: Vec<FieldError> = policy.into_iter().collect();
    errors.extend(matching::param_kind("spec.paramKind", &spec["paramKind"]));
    errors.extend(matching::constraints(spec));
    errors
}

fn variables(variables: &[Value]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, variable) in variables.iter().enumerate() {
        let path = format!("spec.variables[{i}]");
        let name = text(variable, "name");
        if name.trim().is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), "name is not specified"));
        } else if !is_identifier(name) {
            let why = "must be a valid CEL identifier";
            errors.push(FieldError::invalid(format!("{path}.name"), &name.into(), why));
        }
        errors.extend(expression(&format!("{path}.expression"), variable, "expression is not specified"));
    }
    errors
}

/// `v1/ConfigMap`, as tables show it.
fn param_kind(policy: &Value) -> Value {
    let kind = &policy["spec"]["paramKind"];
    match kind.is_null() {
        true => "<unset>".into(),
        false => format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind")).into(),
    }
}

/// The strategy of policies that refuse.
pub(super) struct ValidatingAdmissionPolicy;

impl Strategy for ValidatingAdmissionPolicy {
    fn default(&self, policy: &mut Value) {
        default(policy);
    }

    fn prepare_create(&self, policy: &mut Value) {
        if let Some(fields) = policy.as_object_mut() {
            fields.insert("status".to_owned(), json!({}));
        }
    }

    fn validate(&self, policy: &Value) -> Vec<FieldError> {
        let spec = &policy["spec"];
        let mut errors = validate(spec);
        errors.extend(matching::conditions("spec.matchConditions", items(spec, "matchConditions")));
        errors.extend(variables(items(spec, "variables")));
        let (validations, annotations) = (items(spec, "validations"), items(spec, "auditAnnotations"));
        if validations.is_empty() && annotations.is_empty() {
            for field in ["validations", "auditAnnotations"] {
                let why = "validations or auditAnnotations must contain at least one item";
                errors.push(FieldError::required(format!("spec.{field}"), why));
            }
        }
        for (i, one) in validations.iter().enumerate() {
            errors.extend(validation(&format!("spec.validations[{i}]"), one));
        }
        if annotations.len() > AUDIT_ANNOTATIONS {
            let why = format!("must not have more than {AUDIT_ANNOTATIONS} auditAnnotations");
            errors.push(FieldError::invalid("spec.auditAnnotations", &spec["auditAnnotations"], &why));
        }
        for (i, one) in annotations.iter().enumerate() {
            let path = format!("spec.auditAnnotations[{i}]");
            errors.extend(annotation(&path, one, meta::name(policy)));
            if annotations[..i].iter().any(|before| before["key"] == one["key"]) {
                errors.push(FieldError::duplicate(format!("{path}.key"), &one["key"]));
            }
        }
        if errors.is_empty() {
            errors = compiled::of_policy(policy);
        }
        errors
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (i, warning) in items(&new["status"]["typeChecking"], "expressionWarnings").iter().enumerate() {
            for field in ["warning", "fieldRef"] {
                if text(warning, field).trim().is_empty() {
                    let path = format!("status.typeChecking.expressionWarnings[{i}].{field}");
                    errors.push(FieldError::required(path, ""));
                }
            }
        }
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
            Column { kind: "integer", ..column::text("Validations", "How many expressions refuse.") },
            column::text("ParamKind", "The kind of the objects by which the policy is set up."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, policy: &Value, now: Timestamp) -> Vec<Value> {
        let count = items(&policy["spec"], "validations").len();
        vec![column::name(policy), count.into(), param_kind(policy), column::age(policy, now)]
    }
}

fn validation(path: &str, given: &Value) -> Vec<FieldError> {
    let expression = expression(&format!("{path}.expression"), given, "expression is not specified");
    let mut errors: Vec<FieldError> = expression.into_iter().collect();
    for field in ["messageExpression", "message"] {
        let said = text(given, field);
        let why = if !said.is_empty() && said.trim().is_empty() {
            "must be non-empty if specified"
        } else if field == "message" && said.trim().contains(['\n', '\r']) {
            "must not contain line breaks"
        } else {
            continue;
        };
        errors.push(FieldError::invalid(format!("{path}.{field}"), &said.into(), why));
    }
    errors.extend(word(&format!("{path}.reason"), &given["reason"], &REASONS));
    errors
}

fn annotation(path: &str, given: &Value, policy: &str) -> Vec<FieldError> {
    let at = format!("{path}.key");
    let key = text(given, "key");
    let mut errors = match policy.is_empty() {
        true => vec![FieldError::invalid(&at, &key.into(), "requires metadata.name be non-empty")],
        false => {
            let full = format!("{policy}/{key}");
            invalid(&at, &full.as_str().into(), names::qualified_name(&full))
        }
    };
    let why = match text(given, "valueExpression").trim().len() {
        0 => "valueExpression is not specified".to_owned(),
        1..=AUDIT_BYTES => return errors,
        _ => format!("must not exceed {AUDIT_BYTES} bytes in length"),
    };
    errors.push(FieldError::required(format!("{path}.valueExpression"), &why));
    errors
}

/// The strategy of policies that change objects.
pub(super) struct MutatingAdmissionPolicy;

impl Strategy for MutatingAdmissionPolicy {
    fn default(&self, policy: &mut Value) {
        default(policy);
    }

    fn validate(&self, policy: &Value) -> Vec<FieldError> {
        let spec = &policy["spec"];
        let mut errors = validate(spec);
        errors.extend(matching::only_mutating("spec.matchConstraints", &spec["matchConstraints"]));
        errors.extend(matching::conditions("spec.matchConditions", items(spec, "matchConditions")));
        errors.extend(variables(items(spec, "variables")));
        let mutations = items(spec, "mutations");
        if mutations.is_empty() {
            errors.push(FieldError::required("spec.mutations", "mutations must contain at least one item"));
        }
        for (i, one) in mutations.iter().enumerate() {
            errors.extend(mutation(&format!("spec.mutations[{i}]"), one));
        }
        let again = &spec["reinvocationPolicy"];
        errors.extend(one_of("spec.reinvocationPolicy", again, &REINVOCATION_POLICIES));
        if errors.is_empty() {
            errors = compiled::of_policy(policy);
        }
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
            Column { kind: "integer", ..column::text("Mutations", "How many expressions change objects.") },
            column::text("ParamKind", "The kind of the objects by which the policy is set up."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, policy: &Value, now: Timestamp) -> Vec<Value> {
        let count = items(&policy["spec"], "mutations").len();
        vec![column::name(policy), count.into(), param_kind(policy), column::age(policy, now)]
    }
}

/// A mutation is of the one form that it names.
fn mutation(path: &str, given: &Value) -> Vec<FieldError> {
    const FORMS: [(&str, &str); 2] =
        [("ApplyConfiguration", "applyConfiguration"), ("JSONPatch", "jsonPatch")];
    let form = text(given, "patchType");
    let Some((_, own)) = FORMS.iter().find(|(known, _)| *known == form) else {
        let allowed = FORMS.map(|(form, _)| form);
        return one_of(&format!("{path}.patchType"), &given["patchType"], &allowed).into_iter().collect();
    };
    let mut errors = Vec::new();
    let at = format!("{path}.{own}");
    match given[*own].is_null() {
        true => {
            let why = format!("must be specified when patchType is {form}");
            errors.push(FieldError::required(at, &why));
        }
        false => errors.extend(expression(&format!("{at}.expression"), &given[*own], "")),
    }
    for (_, other) in FORMS.iter().filter(|(known, other)| *known != form && !given[*other].is_null()) {
        let why = format!("must not be specified when patchType is {form}");
        let value = format!("{{{other}}}");
        errors.push(FieldError::invalid(format!("{path}.{other}"), &value.into(), &why));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn constraints(operations: &[&str]) -> Value {
        json!({"resourceRules": [{"operations": operations, "apiGroups": ["apps"], "apiVersions": ["v1"],
            "resources": ["deployments"]}]})
    }

    #[test]
    fn validating_policies_are_checked() {
        let mut policy = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": constraints(&["CREATE"]),
            "validations": [{"expression": "object.spec.replicas <= 5"}]}});
        let strategy = ValidatingAdmissionPolicy;
        strategy.default(&mut policy);
        assert_eq!(policy["spec"]["matchConstraints"]["matchPolicy"], "Equivalent");
        assert!(strategy.validate(&policy).is_empty());
        let mut wrong = json!({"metadata": {"name": "p"}, "spec": {"variables": [{"name": "if", "expression": "1"}],
            "validations": [{"expression": " ", "message": "a\nb", "reason": "Bad"}],
            "auditAnnotations": [{"key": "a b"}]}});
        strategy.default(&mut wrong);
        let fields: Vec<String> = strategy.validate(&wrong).into_iter().map(|e| e.field).collect();
        assert_eq!(
            fields,
            [
                "spec.matchConstraints",
                "spec.variables[0].name",
                "spec.validations[0].expression",
                "spec.validations[0].message",
                "spec.validations[0].reason",
                "spec.auditAnnotations[0].key",
                "spec.auditAnnotations[0].valueExpression",
            ]
        );
        let mut empty = json!({});
        strategy.default(&mut empty);
        assert_eq!(strategy.validate(&empty).len(), 3);
    }

    #[test]
    fn mutating_policies_are_checked() {
        let strategy = MutatingAdmissionPolicy;
        let policy = |mutation: Value, operation: &str| {
            let mut policy = json!({"spec": {"matchConstraints": constraints(&[operation]),
                "reinvocationPolicy": "Never", "mutations": [mutation]}});
            strategy.default(&mut policy);
            told(strategy.validate(&policy))
        };
        let patch = || json!({"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'remove', path: '/data'}]"}});
        assert!(policy(patch(), "CREATE").is_empty());
        assert_eq!(policy(patch(), "DELETE").len(), 1);
        assert_eq!(
            policy(
                json!({"patchType": "ApplyConfiguration", "jsonPatch": {"expression": "[JSONPatch{op: 'remove', path: '/data'}]"}}),
                "UPDATE"
            ),
            [
                "spec.mutations[0].applyConfiguration: Required value: must be specified when patchType is \
                 ApplyConfiguration",
                "spec.mutations[0].jsonPatch: Invalid value: \"{jsonPatch}\": must not be specified when patchType is \
                 ApplyConfiguration",
            ]
        );
    }
}
