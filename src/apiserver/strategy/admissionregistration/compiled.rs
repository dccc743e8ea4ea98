//! Expressions are compiled when they come, so that who writes one that is none is told at once.

use serde_json::Value;

use super::super::value::{items, text};
use crate::api::cel::{Env, Type};
use crate::api::status::FieldError;
use crate::apiserver::admission::hooks::expressions::{Expression, environment};
use crate::apiserver::admission::policies::mutating::{configuration_type, patch_type};
use crate::apiserver::admission::policies::variables;

/// What is wrong with the expressions of a configuration of webhooks.
pub(super) fn of_webhooks(configuration: &Value) -> Vec<FieldError> {
    let env = environment(false, true);
    let hooks = items(configuration, "webhooks").iter().enumerate();
    hooks.flat_map(|(i, hook)| conditions(&format!("webhooks[{i}]"), hook, &env)).collect()
}

/// What is wrong with the expressions of a policy of either sort.
pub(super) fn of_policy(policy: &Value) -> Vec<FieldError> {
    let spec = &policy["spec"];
    let params = spec["paramKind"].is_object();
    let (known, declared) = variables::all(&spec["variables"], &environment(params, true));
    let with = |env: Env| env.variable("variables", declared.clone());
    let (env, plain) = (with(environment(params, true)), with(environment(params, false)));
    let mut errors = Vec::new();
    for (i, variable) in known.iter().enumerate() {
        errors.extend(error(&format!("spec.variables[{i}].expression"), variable.expression()));
    }
    errors.extend(conditions("spec", spec, &env));
    for (i, one) in items(spec, "validations").iter().enumerate() {
        let path = format!("spec.validations[{i}]");
        errors.extend(check(&path, one, "expression", &env, &[Type::Bool]));
        errors.extend(check(&path, one, "messageExpression", &plain, &[Type::String]));
    }
    for (i, one) in items(spec, "auditAnnotations").iter().enumerate() {
        let path = format!("spec.auditAnnotations[{i}]");
        errors.extend(check(&path, one, "valueExpression", &env, &[Type::String, Type::Null]));
    }
    let building = env.building_objects();
    for (i, one) in items(spec, "mutations").iter().enumerate() {
        for (of, gives) in [("applyConfiguration", configuration_type()), ("jsonPatch", patch_type())] {
            let path = format!("spec.mutations[{i}].{of}");
            errors.extend(check(&path, &one[of], "expression", &building, &[gives]));
        }
    }
    errors
}

fn conditions(path: &str, of: &Value, env: &Env) -> Vec<FieldError> {
    let conditions = items(of, "matchConditions").iter().enumerate();
    let check =
        |(i, one)| check(&format!("{path}.matchConditions[{i}]"), one, "expression", env, &[Type::Bool]);
    conditions.filter_map(check).collect()
}

/// What is wrong with one expression; that it is missing is told elsewhere.
fn check(path: &str, of: &Value, field: &str, env: &Env, wanted: &[Type]) -> Option<FieldError> {
    let given = text(of, field);
    if given.trim().is_empty() {
        return None;
    }
    error(&format!("{path}.{field}"), &Expression::new(env, given, wanted))
}

fn error(path: &str, expression: &Expression) -> Option<FieldError> {
    let why = expression.program.as_ref().err().filter(|_| !expression.text.trim().is_empty())?;
    Some(FieldError::invalid(path, &expression.text.as_str().into(), why))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_does_not_compile_is_told_by_its_field() {
        let policy = json!({"spec": {
            "variables": [{"name": "a", "expression": "1 +"}, {"name": "b", "expression": "2"}],
            "matchConditions": [{"name": "c", "expression": "object.spec.x == 1"}],
            "validations": [{"expression": "variables.b", "messageExpression": "'text'"}, {"expression": "true"}],
            "mutations": [{"jsonPatch": {"expression": "[JSONPatch{op: 'add', path: '/a', value: 1}]"}},
                {"jsonPatch": {"expression": "[]"}}],
        }});
        let errors: Vec<String> = of_policy(&policy).iter().map(ToString::to_string).collect();
        let [variable, validation, mutation] = errors.as_slice() else { panic!("{errors:?}") };
        assert!(
            variable.starts_with(
                "spec.variables[0].expression: Invalid value: \"1 +\": compilation failed: ERROR: <input>:1:"
            ),
            "{variable}"
        );
        assert_eq!(
            validation,
            "spec.validations[0].expression: Invalid value: \"variables.b\": must evaluate to bool but got int"
        );
        assert_eq!(
            mutation,
            "spec.mutations[1].jsonPatch.expression: Invalid value: \"[]\": must evaluate to list(JSONPatch) but got list(dyn)"
        );
        let hooks = json!({"webhooks": [{}, {"matchConditions": [{"name": "c", "expression": "nothing"}]}]});
        assert_eq!(of_webhooks(&hooks)[0].field, "webhooks[1].matchConditions[0].expression");
    }
}
