//! CEL in admission: what expressions may name, and conditions made of them.
//!
//! Source: k8s.io/apiserver `pkg/admission/plugin/cel` and `plugin/webhook/matchconditions`.

use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

use super::authorizer::Authorizer;
use super::matching::Seen;
use super::review;
pub use crate::api::cel::admission::environment;
use crate::api::cel::admission::{NAMESPACE, REQUEST};
use crate::api::cel::{CALL_LIMIT, CONDITIONS_LIMIT, Env, Issues, Meter, Program, Type, Val};
use crate::api::meta;
use crate::apiserver::admission::Attributes;
use crate::apiserver::auth;
use crate::apiserver::registry::Registry;

/// The values of these names for one request.
pub struct Input {
    object: Val,
    old: Val,
    request: Val,
    namespace: Val,
    authorizer: Val,
    /// The object that a policy's binding names; null when it names none.
    pub params: Val,
}

impl Input {
    /// Those of a request that is seen like this.
    pub fn of(registry: &Registry, attributes: &Attributes<'_>, object: &Value, seen: &Seen) -> Input {
        let shown = |object: &Value| Val::of_json(object, &Type::Dyn);
        let request = review::about(attributes, object, &seen.found, auth::user_info(attributes.user));
        let namespace = attributes.namespace.map(|name| format!("namespaces/{name}"));
        let namespace = namespace.and_then(|key| registry.store().get(&key));
        let namespace = namespace.map_or(Value::Null, |entry| namespace_object(entry.json()));
        Input {
            object: shown(&seen.object),
            old: shown(&seen.old),
            request: Val::of_json(&request, &REQUEST),
            namespace: Val::of_json(&namespace, &NAMESPACE),
            authorizer: Val::Foreign(Arc::new(Authorizer::of(registry, attributes, object))),
            params: Val::Null,
        }
    }
}

/// What expressions may name.
pub trait Names {
    /// The value of a name.
    fn value(&self, name: &str) -> Option<Val>;

    /// What it cost to make values since this was asked last.
    fn cost(&self) -> u64 {
        0
    }
}

impl Names for Input {
    fn value(&self, name: &str) -> Option<Val> {
        Some(
            match name {
                "object" => &self.object,
                "oldObject" => &self.old,
                "request" => &self.request,
                "namespaceObject" => &self.namespace,
                "params" => &self.params,
                "authorizer" => &self.authorizer,
                _ => return None,
            }
            .clone(),
        )
    }
}

/// A namespace as expressions see it, who know its uid by a name of its own.
fn namespace_object(namespace: &Value) -> Value {
    let mut shown =
        json!({"metadata": namespace["metadata"], "spec": namespace["spec"], "status": namespace["status"]});
    shown["metadata"]["UID"] = json!(meta::uid(namespace));
    shown
}

/// An expression, or why it is none.
#[derive(Debug)]
pub struct Expression {
    /// Its text.
    pub text: String,
    /// It, compiled.
    pub program: Result<Program, String>,
}

/// Why an expression has no program.
pub fn uncompiled(issues: Issues) -> String {
    format!("compilation failed: {issues}")
}

impl Expression {
    /// Compiles an expression that must give one of these types, which is any when there are none.
    pub fn new(env: &Env, text: &str, wanted: &[Type]) -> Expression {
        let program = env.compile(text).map_err(uncompiled);
        let program = program.and_then(|program| {
            let given = program.result();
            let fits = wanted.is_empty() || wanted.contains(given);
            match wanted {
                _ if fits => Ok(program),
                [one] => Err(format!("must evaluate to {one} but got {given}")),
                many => {
                    let many: Vec<String> = many.iter().map(ToString::to_string).collect();
                    Err(format!("must evaluate to one of [{}] but got {given}", many.join(" ")))
                }
            }
        });
        Expression { text: text.to_owned(), program }
    }
}

/// What is left of what expressions may cost together.
#[derive(Debug)]
pub struct Budget {
    left: u64,
}

/// Nothing is left: what was found out so far does not count either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent;

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "validation failed due to running out of cost budget, no further validation rules will be run",
        )
    }
}

impl Budget {
    /// So much may be spent.
    pub fn new(limit: u64) -> Budget {
        Budget { left: limit }
    }

    /// The value of an expression, of which each may cost only so much by itself; why there is none in Kubernetes' words.
    pub fn evaluate(
        &mut self,
        expression: &Expression,
        names: &dyn Names,
    ) -> Result<Result<Val, String>, Spent> {
        let program = match &expression.program {
            Ok(program) => program,
            Err(why) => return Ok(Err(format!("compilation error: {why}"))),
        };
        let mut meter = Meter::new(CALL_LIMIT);
        let outcome = program.evaluate(|name| names.value(name), &mut meter);
        let cost = names.cost().saturating_add(meter.spent());
        self.left = self.left.checked_sub(cost).ok_or(Spent)?;
        Ok(outcome.map_err(|fault| format!("expression '{}' resulted in error: {fault}", expression.text)))
    }
}

/// A match condition.
#[derive(Debug)]
pub struct Condition {
    expression: Expression,
}

impl Condition {
    /// The `matchConditions` of a webhook.
    pub fn all(list: &Value) -> Vec<Condition> {
        Condition::all_in(list, &environment(false, true))
    }

    /// Those of whoever has more to name.
    pub fn all_in(list: &Value, env: &Env) -> Vec<Condition> {
        let text = |condition: &Value, key: &str| condition[key].as_str().unwrap_or_default().to_owned();
        let Some(list) = list.as_array() else { return Vec::new() };
        let read = |condition: &Value| Condition {
            expression: Expression::new(env, &text(condition, "expression"), &[Type::Bool]),
        };
        list.iter().map(read).collect()
    }
}

/// Whether all conditions hold. One that does not decides alone; else failures do, as whoever asks wants them: they are
/// no match, or an error.
pub fn all_hold(conditions: &[Condition], names: &dyn Names, ignores_failures: bool) -> Result<bool, String> {
    let mut budget = Budget::new(CONDITIONS_LIMIT);
    let mut failures = Vec::new();
    for condition in conditions {
        match budget.evaluate(&condition.expression, names) {
            Ok(Ok(Val::Bool(true))) => {}
            Ok(Ok(_)) => return Ok(false),
            Ok(Err(why)) => failures.push(why),
            Err(_) if ignores_failures => return Ok(false),
            Err(spent) => return Err(spent.to_string()),
        }
    }
    match failures.as_slice() {
        [] => Ok(true),
        _ if ignores_failures => Ok(false),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

#[cfg(test)]
pub mod testing {
    //! Inputs for tests of expressions.

    use super::*;

    /// An input of these objects, of a request to create a pod in `default`.
    pub fn input(object: Value, old: Value) -> Input {
        let request = json!({"operation": "CREATE", "name": "p", "namespace": "default",
            "userInfo": {"username": "jane", "groups": ["dev"]}});
        Input {
            object: Val::of_json(&object, &Type::Dyn),
            old: Val::of_json(&old, &Type::Dyn),
            request: Val::of_json(&request, &REQUEST),
            namespace: Val::of_json(&json!({"metadata": {"labels": {"tier": "db"}}}), &NAMESPACE),
            authorizer: Val::Null,
            params: Val::Null,
        }
    }

    /// An expression that takes about ten to the power of `depth` steps, and is true.
    pub fn laborious(depth: usize) -> String {
        let inner = "true".to_owned();
        (0..depth).fold(inner, |inner, at| {
            format!("[0, 1, 2, 3, 4, 5, 6, 7, 8, 9].all(v{at}, v{at} < 0 || {inner})")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_hold_fail_or_cannot_say() {
        let input = testing::input(json!({"spec": {"replicas": 3}}), Value::Null);
        for (expressions, strict, lenient) in [
            (vec!["object.spec.replicas == 3", "request.userInfo.username == 'jane'"], Ok(true), Ok(true)),
            (vec!["object.spec.missing == 3", "oldObject != null"], Ok(false), Ok(false)),
            (
                vec!["object.spec.missing == 3", "namespaceObject.metadata.labels['tier'] == 'db'"],
                Err("expression 'object.spec.missing == 3' resulted in error: no such key: missing"),
                Ok(false),
            ),
        ] {
            let list: Vec<Value> =
                expressions.iter().map(|e| json!({"name": "c", "expression": e})).collect();
            let conditions = Condition::all(&json!(list));
            let strict: Result<bool, String> = strict.map_err(str::to_owned);
            assert_eq!(all_hold(&conditions, &input, false), strict, "{expressions:?}");
            assert_eq!(all_hold(&conditions, &input, true), lenient, "{expressions:?}");
        }
    }

    #[test]
    fn conditions_may_cost_only_so_much() {
        let conditions = |count: usize, depth: usize| {
            let one = json!({"name": "c", "expression": testing::laborious(depth)});
            Condition::all(&json!(vec![one; count]))
        };
        let input = testing::input(json!({}), Value::Null);
        assert_eq!(all_hold(&conditions(1, 4), &input, false), Ok(true));
        let alone = all_hold(&conditions(1, 7), &input, false).unwrap_err();
        assert!(
            alone.ends_with("resulted in error: operation cancelled: actual cost limit exceeded"),
            "{alone}"
        );
        assert_eq!(all_hold(&conditions(40, 5), &input, false), Err(Spent.to_string()));
        assert_eq!(all_hold(&conditions(40, 5), &input, true), Ok(false));
    }

    #[test]
    fn expressions_are_checked_before_they_are_asked() {
        let env = environment(false, false);
        for (text, error) in [
            ("object.spec.replicas", "must evaluate to bool but got dyn"),
            ("object.spec.replicas == 1", ""),
            ("1 + 1", "must evaluate to bool but got int"),
            ("request.nothing == 'x'", "compilation failed: ERROR: <input>:1:8: undefined field 'nothing'"),
            ("params.x", "compilation failed: ERROR: <input>:1:1: undeclared reference to 'params'"),
        ] {
            let compiled = Expression::new(&env, text, &[Type::Bool]).program;
            let told = compiled.err().unwrap_or_default();
            assert!(told.starts_with(error), "{text}: {told}");
        }
    }
}
