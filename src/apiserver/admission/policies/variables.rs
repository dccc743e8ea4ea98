//! The variables of a policy: expressions that are evaluated when another one names them, and only once.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::Value;

use crate::api::cel::{CALL_LIMIT, Env, Fault, Foreign, Meter, Outcome, Type, Val, admission};
use crate::apiserver::admission::hooks::expressions::{Expression, Input, Names, uncompiled};

/// A name for an expression.
pub struct Variable {
    name: String,
    expression: Expression,
}

impl Variable {
    /// What it stands for.
    pub fn expression(&self) -> &Expression {
        &self.expression
    }
}

/// The variables of a policy, each of which may name those before it, and the type of all together.
pub fn all(list: &Value, env: &Env) -> (Vec<Variable>, Type) {
    let (variables, of) = admission::variables(list, env);
    let read = |variable: admission::Variable| Variable {
        name: variable.name,
        expression: Expression { text: variable.text, program: variable.program.map_err(uncompiled) },
    };
    (variables.into_iter().map(read).collect(), of)
}

/// Everything that the expressions of a policy may name, for one request.
pub struct Variables {
    variables: Arc<Vec<Variable>>,
    input: Input,
    known: Mutex<HashMap<String, Outcome>>,
    /// What evaluating them cost that nobody has paid for yet.
    cost: AtomicU64,
    itself: Weak<Variables>,
}

impl Variables {
    /// None of them is evaluated yet.
    pub fn new(variables: Arc<Vec<Variable>>, input: Input) -> Arc<Variables> {
        Arc::new_cyclic(|itself| Variables {
            variables,
            input,
            known: Mutex::default(),
            cost: AtomicU64::default(),
            itself: itself.clone(),
        })
    }

    fn evaluate(&self, variable: &Variable) -> Outcome {
        let mut meter = Meter::new(CALL_LIMIT);
        let value = match &variable.expression.program {
            Err(why) => Err(format!("fails to compile: {why}")),
            Ok(program) => program
                .evaluate(|name| self.value(name), &mut meter)
                .map_err(|fault| format!("fails to evaluate: {fault}")),
        };
        self.cost.fetch_add(meter.spent(), Ordering::Relaxed);
        value.map_err(|why| Fault::new(format!("composited variable {:?} {why}", variable.name)))
    }
}

impl Names for Variables {
    fn value(&self, name: &str) -> Option<Val> {
        if name == "variables" {
            let itself: Arc<dyn Foreign> = self.itself.upgrade()?;
            return Some(Val::Foreign(itself));
        }
        self.input.value(name)
    }

    fn cost(&self) -> u64 {
        self.cost.swap(0, Ordering::Relaxed)
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("variables of a policy")
    }
}

impl Foreign for Variables {
    fn type_name(&self) -> &str {
        "kubernetes.variables"
    }

    fn select(&self, field: &str) -> Option<Outcome> {
        let variable = self.variables.iter().find(|variable| variable.name == field)?;
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = known().get(field) {
            return Some(outcome.clone());
        }
        let outcome = self.evaluate(variable);
        known().insert(field.to_owned(), outcome.clone());
        Some(outcome)
    }

    fn call(&self, _: &str, _: &[Val]) -> Outcome {
        Err(Fault::no_overload())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::cel::OBJECT_LIMIT;
    use crate::apiserver::admission::hooks::expressions::{Budget, environment, testing};

    #[test]
    fn variables_may_name_those_before_them() {
        let env = environment(false, false);
        let list = json!([
            {"name": "replicas", "expression": "object.spec.replicas"},
            {"name": "most", "expression": "5"},
            {"name": "fits", "expression": "variables.replicas <= variables.most"},
            {"name": "broken", "expression": "object.nothing"},
        ]);
        let (variables, declared) = all(&list, &env);
        let input = testing::input(json!({"spec": {"replicas": 3}}), Value::Null);
        let variables = Variables::new(Arc::new(variables), input);
        let env = env.variable("variables", declared);
        let value = |text: &str| {
            let expression = Expression::new(&env, text, &[]);
            Budget::new(OBJECT_LIMIT).evaluate(&expression, &*variables).unwrap()
        };
        assert_eq!(value("variables.fits").unwrap().to_json(), Some(json!(true)));
        assert_eq!(
            value("variables.broken").unwrap_err(),
            "expression 'variables.broken' resulted in error: composited variable \"broken\" fails to evaluate: no \
             such key: nothing"
        );
        assert!(value("variables.unknown").unwrap_err().contains("undefined field 'unknown'"));
    }
}
