//! ValidatingAdmissionPolicy: expressions that must be true of what is to be written.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::binding::Binding;
use super::variables::Variables;
use super::{Policy, all, cases};
use crate::api::cel::{Env, OBJECT_LIMIT, Type, Val};
use crate::api::status::{Cause, Status};
use crate::apiserver::admission::Attributes;
use crate::apiserver::admission::hooks::expressions::{Budget, Expression, Spent, environment};
use crate::apiserver::audit::annotations::annotate;
use crate::apiserver::registry::Registry;

/// The most bytes of a message that an expression makes.
const MESSAGE_BYTES: usize = 5 * 1024;
/// The most bytes of an annotation that an expression makes.
const ANNOTATION_BYTES: usize = 10 * 1024;
/// The annotation that tells of violations which are to be recorded.
const VIOLATIONS: &str = "validation.policy.admission.k8s.io/validation_failure";
/// How many of them it tells.
const MOST_NOTED: usize = 50;

/// What a validating policy alone has.
pub struct Rules {
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
}

/// An expression that must be true.
struct Validation {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: String,
}

/// What a policy has against a request.
#[derive(Debug, PartialEq)]
struct Violation {
    /// The place of the expression that found it.
    index: usize,
    message: String,
    /// `Invalid`, `Forbidden`, ...
    reason: String,
}

impl Violation {
    /// That something could not be found out.
    fn failure(index: usize, message: String) -> Violation {
        Violation { index, message, reason: "Invalid".to_owned() }
    }
}

/// What the expressions of a policy say of a request.
#[derive(Debug, Default)]
struct Judgement {
    violations: Vec<Violation>,
    /// What is to be noted in the audit log, by key.
    annotations: Vec<(String, String)>,
    /// That this could not be found out, which refuses the request whatever a binding wants done about violations.
    failures: Vec<Violation>,
}

impl From<Violation> for Judgement {
    fn from(violation: Violation) -> Judgement {
        Judgement { violations: vec![violation], ..Judgement::default() }
    }
}

/// A violation as the audit log shows it, in the order of Kubernetes' fields.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Noted {
    message: String,
    policy: String,
    binding: String,
    expression_index: usize,
    validation_actions: Vec<String>,
}

/// What comes of the policies' judgements.
#[derive(Default)]
struct Consequences {
    /// By which policy and binding the request is refused, and why: the first of all reasons.
    denied: Option<(String, String, Violation)>,
    /// What is to be recorded.
    noted: Vec<Noted>,
}

fn read(policy: &Value) -> Policy<Rules> {
    Policy::read(policy, |policy, with| {
        let spec = &policy["spec"];
        let params = spec["paramKind"].is_object();
        let env: Env = with(environment(params, true));
        let plain = with(environment(params, false));
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let validation = |value: &Value| Validation {
            expression: Expression::new(&env, &text(value, "expression"), &[Type::Bool]),
            message: text(value, "message").trim().to_owned(),
            message_expression: value["messageExpression"]
                .as_str()
                .map(|text| Expression::new(&plain, text, &[Type::String])),
            reason: Some(text(value, "reason")).filter(|r| !r.is_empty()).unwrap_or("Invalid".to_owned()),
        };
        let annotation = |value: &Value| {
            let types = [Type::String, Type::Null];
            (text(value, "key"), Expression::new(&env, &text(value, "valueExpression"), &types))
        };
        let list = |key: &str| spec[key].as_array().cloned().unwrap_or_default();
        Rules {
            validations: list("validations").iter().map(validation).collect(),
            annotations: list("auditAnnotations").iter().map(annotation).collect(),
        }
    })
}

/// Decides about what is to be written.
pub async fn validate(
    registry: &Registry,
    attributes: &mut Attributes<'_>,
    object: &Value,
) -> Result<(), Status> {
    let kept = &registry.admission().policies;
    let names = ("validatingadmissionpolicies", "validatingadmissionpolicybindings");
    let kept = (&kept.validating, &kept.validating_bindings);
    let Some((policies, bindings)) = all(registry, attributes, names, kept, read) else { return Ok(()) };
    let mut consequences = Consequences::default();
    for policy in policies.iter() {
        let Some(found) = policy.constraints.matches(registry, attributes, object)? else { continue };
        let cases = cases(registry, attributes, object, policy, &bindings)?;
        if cases.is_empty() {
            continue;
        }
        let seen = found.see(registry, attributes, object).await;
        let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (binding, params) in cases {
            let both = params.and_then(|params| match &seen {
                Ok(seen) => Ok((params, seen)),
                Err(status) => Err(format!("failed to convert object version: {}", status.message)),
            });
            match both {
                Ok((params, seen)) => {
                    for params in &params {
                        let input = policy.input(registry, attributes, object, seen, params);
                        let judgement = judge(policy, &input);
                        for (key, value) in &judgement.annotations {
                            let values = annotations.entry(key.clone()).or_default();
                            if !values.contains(value) {
                                values.push(value.clone());
                            }
                        }
                        consequences.follow(attributes, policy, binding, judgement);
                    }
                }
                Err(_) if policy.ignores_failures => {}
                Err(why) => {
                    let violation = Violation::failure(0, format!("failed to configure binding: {why}"));
                    consequences.deny(policy, binding, violation);
                }
            }
        }
        for (key, values) in annotations {
            annotate(&format!("{}/{key}", policy.name), values.join(", "));
        }
    }
    if !consequences.noted.is_empty() {
        consequences.noted.truncate(MOST_NOTED);
        annotate(VIOLATIONS, serde_json::to_string(&consequences.noted).unwrap_or_default());
    }
    match consequences.denied {
        Some((policy, binding, violation)) => Err(refusal(attributes, object, &policy, &binding, violation)),
        None => Ok(()),
    }
}

impl Consequences {
    /// Does what a binding wants done about violations.
    fn follow(
        &mut self,
        attributes: &mut Attributes<'_>,
        policy: &Policy<Rules>,
        binding: &Binding,
        judgement: Judgement,
    ) {
        let (name, bound) = (&policy.name, &binding.name);
        for violation in judgement.violations {
            let message = &violation.message;
            for action in &binding.actions {
                match action.as_str() {
                    "Warn" => attributes.warnings.push(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{name}' with binding '{bound}': {message}"
                    )),
                    "Audit" => self.noted.push(Noted {
                        message: message.clone(),
                        policy: name.clone(),
                        binding: bound.clone(),
                        expression_index: violation.index,
                        validation_actions: binding.actions.clone(),
                    }),
                    _ => {}
                }
            }
            if binding.actions.iter().any(|action| action == "Deny") {
                self.deny(policy, binding, violation);
            }
        }
        for failure in judgement.failures {
            self.deny(policy, binding, failure);
        }
    }

    /// Refuses the request, unless it is refused already.
    fn deny(&mut self, policy: &Policy<Rules>, binding: &Binding, violation: Violation) {
        self.denied.get_or_insert((policy.name.clone(), binding.name.clone(), violation));
    }
}

fn refusal(
    attributes: &Attributes<'_>,
    object: &Value,
    policy: &str,
    binding: &str,
    violation: Violation,
) -> Status {
    let message = format!(
        "ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {}",
        violation.message
    );
    let mut status = attributes.forbidden(object, &message);
    status.code = match violation.reason.as_str() {
        "Forbidden" => 403,
        "Unauthorized" => 401,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    status.reason = violation.reason;
    let cause = Cause { message, ..Cause::default() };
    status.details.get_or_insert_default().causes.push(cause);
    status
}

/// What a policy says of a request (pure).
fn judge(policy: &Policy<Rules>, input: &Arc<Variables>) -> Judgement {
    match policy.is_meant(input) {
        Ok(true) => {}
        Ok(false) => return Judgement::default(),
        Err(_) if policy.ignores_failures => return Judgement::default(),
        Err(why) => return Violation::failure(0, why).into(),
    }
    match judged(policy, input) {
        Ok(judgement) => judgement,
        Err(_) if policy.ignores_failures => Judgement::default(),
        // Nothing else is known of the request then.
        Err(spent) => Violation::failure(0, spent.to_string()).into(),
    }
}

/// What the expressions of a policy that is meant say of a request.
fn judged(policy: &Policy<Rules>, input: &Arc<Variables>) -> Result<Judgement, Spent> {
    let mut budget = Budget::new(OBJECT_LIMIT);
    let mut outcomes = Vec::new();
    for validation in &policy.rules.validations {
        outcomes.push((validation, budget.evaluate(&validation.expression, &**input)?));
    }
    let mut judgement = Judgement::default();
    let found = &mut judgement.violations;
    for (index, (validation, outcome)) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(Val::Bool(true)) => {}
            Ok(_) => match message(validation, input, &mut budget) {
                Ok(message) => found.push(Violation { index, message, reason: validation.reason.clone() }),
                Err(_) if policy.ignores_failures => {}
                Err(spent) => {
                    found.push(Violation::failure(index, format!("failed messageExpression: {spent}")));
                }
            },
            Err(_) if policy.ignores_failures => {}
            Err(why) => found.push(Violation::failure(index, why)),
        }
    }
    let mut budget = Budget::new(OBJECT_LIMIT);
    for (key, expression) in &policy.rules.annotations {
        match budget.evaluate(expression, &**input)? {
            Ok(Val::String(value)) if !value.trim().is_empty() => {
                let value = value.trim();
                let most = value.floor_char_boundary(ANNOTATION_BYTES);
                judgement.annotations.push((key.clone(), value[..most].to_owned()));
            }
            Ok(_) => {}
            Err(_) if policy.ignores_failures => {}
            Err(why) => judgement.failures.push(Violation::failure(0, why)),
        }
    }
    Ok(judgement)
}

/// What is told of a violation: what the policy's own expression makes, or its text, or the expression that failed.
fn message(validation: &Validation, input: &Arc<Variables>, budget: &mut Budget) -> Result<String, Spent> {
    let made = match &validation.message_expression {
        Some(expression) => budget.evaluate(expression, &**input)?.ok(),
        None => None,
    };
    let made = made.as_ref().and_then(Val::as_str).map(str::trim);
    let made = made.filter(|text| !text.is_empty() && text.len() <= MESSAGE_BYTES && !text.contains('\n'));
    Ok(match (made, validation.message.as_str()) {
        (Some(made), _) => made.to_owned(),
        (None, "") => format!("failed expression: {}", validation.expression.text.trim()),
        (None, message) => message.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::apiserver::admission::hooks::expressions::testing;

    fn found(spec: Value, object: Value) -> Vec<(String, String)> {
        let policy = read(&json!({"metadata": {"name": "p"}, "spec": spec}));
        let input = Variables::new(policy.variables.clone(), testing::input(object, Value::Null));
        let judgement = judge(&policy, &input);
        let all = judgement.violations.into_iter().chain(judgement.failures);
        all.map(|found| (found.message, found.reason)).collect()
    }

    #[test]
    fn annotations_are_made_of_objects() {
        let policy = read(&json!({"metadata": {"name": "p"}, "spec": {
            "validations": [{"expression": "true"}, {"expression": "false"}],
            "auditAnnotations": [
                {"key": "a", "valueExpression": "' ' + string(object.spec.replicas) + ' '"},
                {"key": "b", "valueExpression": "null"},
                {"key": "c", "valueExpression": "string(object.spec.nothing)"}]}}));
        let object = json!({"spec": {"replicas": 7}});
        let input = Variables::new(policy.variables.clone(), testing::input(object, Value::Null));
        let judgement = judge(&policy, &input);
        assert_eq!(judgement.annotations, [("a".to_owned(), "7".to_owned())]);
        assert_eq!(judgement.violations[0].index, 1);
        let failures: Vec<&str> = judgement.failures.iter().map(|failure| failure.message.as_str()).collect();
        assert_eq!(
            failures,
            ["expression 'string(object.spec.nothing)' resulted in error: no such key: nothing"]
        );
    }

    #[test]
    fn what_is_not_true_is_told() {
        let object = json!({"spec": {"replicas": 7}});
        let rule = |change: Value| {
            let mut validation = json!({"expression": "object.spec.replicas <= 5"});
            json_patch::merge(&mut validation, &change);
            json!({ "validations": [validation] })
        };
        for (spec, expected) in [
            (rule(json!({})), Some(("failed expression: object.spec.replicas <= 5", "Invalid"))),
            (rule(json!({"message": "too many", "reason": "Forbidden"})), Some(("too many", "Forbidden"))),
            (
                rule(
                    json!({"message": "too many", "messageExpression": "'has ' + string(object.spec.replicas)"}),
                ),
                Some(("has 7", "Invalid")),
            ),
            (
                rule(json!({"message": "too many", "messageExpression": "object.nothing"})),
                Some(("too many", "Invalid")),
            ),
            (rule(json!({"expression": "object.spec.replicas == 7"})), None),
            (
                rule(json!({"expression": "object.nothing == 1"})),
                Some(("expression 'object.nothing == 1' resulted in error: no such key: nothing", "Invalid")),
            ),
        ] {
            let expected: Vec<_> = expected.into_iter().map(|(m, r)| (m.to_owned(), r.to_owned())).collect();
            assert_eq!(found(spec.clone(), object.clone()), expected, "{spec}");
        }
    }

    #[test]
    fn expressions_may_cost_only_so_much() {
        let budget =
            "validation failed due to running out of cost budget, no further validation rules will be run";
        let (long, longer) = (testing::laborious(5), testing::laborious(7));
        let exceeded = format!(
            "expression '{longer}' resulted in error: operation cancelled: actual cost limit exceeded"
        );
        let one = |message: &str| vec![(message.to_owned(), "Invalid".to_owned())];
        let many = |count: usize| vec![json!({ "expression": long }); count];
        // A variable is evaluated once, and whoever names it first pays for it.
        let variables: Vec<Value> =
            (0..40).map(|i| json!({"name": format!("v{i}"), "expression": long})).collect();
        let named: Vec<Value> = (0..40).map(|i| json!({"expression": format!("variables.v{i}")})).collect();
        let twice: Vec<Value> = (0..40).map(|_| json!({"expression": "variables.v0"})).collect();
        let mut late = many(40);
        late[0] = json!({"expression": "false"});
        for (spec, expected) in [
            (json!({"validations": many(1)}), vec![]),
            (json!({"validations": [{"expression": longer}]}), one(&exceeded)),
            (json!({"validations": late}), one(budget)),
            (json!({"validations": many(40), "failurePolicy": "Ignore"}), vec![]),
            (json!({"validations": named, "variables": variables}), one(budget)),
            (json!({"validations": twice, "variables": variables}), vec![]),
        ] {
            assert_eq!(found(spec, json!({})), expected);
        }
    }

    #[test]
    fn conditions_and_failures_leave_a_policy_out() {
        let object = json!({"spec": {"replicas": 7}});
        let mut spec =
            json!({"validations": [{"expression": "object.nothing == 1"}], "failurePolicy": "Ignore"});
        assert!(found(spec.clone(), object.clone()).is_empty());
        spec = json!({"validations": [{"expression": "false"}],
            "matchConditions": [{"name": "c", "expression": "object.spec.replicas < 5"}]});
        assert!(found(spec, object).is_empty());
    }
}
