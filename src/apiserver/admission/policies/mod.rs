//! Admission by policies: expressions that clients wrote, and bindings that say where they hold.
//!
//! Source: k8s.io/apiserver `pkg/admission/plugin/policy`.

mod binding;
pub mod mutating;
pub mod validating;
pub mod variables;

use std::sync::Arc;

use serde_json::Value;

use self::binding::{Binding, Params};
use self::variables::Variables;
use super::Attributes;
use super::hooks::expressions::{Condition, Input, all_hold, environment};
use super::hooks::matching::{Constraints, Seen};
use super::hooks::{Kept, is_exempt};
use crate::api::cel::{Env, Val};
use crate::api::meta;
use crate::api::status::Status;
use crate::apiserver::registry::Registry;
use crate::store::Entry;

/// What is kept of policies and bindings between requests.
#[derive(Default)]
pub struct Policies {
    validating: Kept<Vec<Policy<validating::Rules>>>,
    validating_bindings: Kept<Vec<Binding>>,
    mutating: Kept<Vec<Policy<mutating::Rules>>>,
    mutating_bindings: Kept<Vec<Binding>>,
}

/// What validating and mutating policies have in common, and their rules.
struct Policy<R> {
    name: String,
    constraints: Constraints,
    /// The group and version, and the kind, of its parameters.
    params: Option<(String, String)>,
    /// Whether it is passed over when it cannot be evaluated.
    ignores_failures: bool,
    conditions: Vec<Condition>,
    variables: Arc<Vec<variables::Variable>>,
    rules: R,
}

impl<R> Policy<R> {
    /// Reads a policy; `rules` reads what its sort alone has, given the environment of its expressions.
    fn read(policy: &Value, rules: impl Fn(&Value, &dyn Fn(Env) -> Env) -> R) -> Policy<R> {
        let spec = &policy["spec"];
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let kind = &spec["paramKind"];
        let params = kind.is_object().then(|| (text(kind, "apiVersion"), text(kind, "kind")));
        let env = environment(params.is_some(), true);
        let (variables, declared) = variables::all(&spec["variables"], &env);
        let with = |env: Env| env.variable("variables", declared.clone());
        Policy {
            name: meta::name(policy).to_owned(),
            constraints: Constraints::of_policy(&spec["matchConstraints"]),
            ignores_failures: spec["failurePolicy"] == "Ignore",
            conditions: Condition::all_in(&spec["matchConditions"], &with(env)),
            rules: rules(policy, &with),
            params,
            variables: Arc::new(variables),
        }
    }

    /// The values that its expressions may name, for one object of parameters.
    fn input(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: &Value,
        seen: &Seen,
        params: &Value,
    ) -> Arc<Variables> {
        let mut input = Input::of(registry, attributes, object, seen);
        input.params = Val::of_json(params, &crate::api::cel::Type::Dyn);
        Variables::new(self.variables.clone(), input)
    }

    /// Whether its match conditions hold; an error when that cannot be said and is not to be passed over.
    fn is_meant(&self, input: &Arc<Variables>) -> Result<bool, String> {
        all_hold(&self.conditions, &**input, self.ignores_failures)
    }
}

/// The policies of one sort, and their bindings.
type Bound<R> = (Arc<Vec<Policy<R>>>, Arc<Vec<Binding>>);

/// The policies of one sort that there are for a request; `None` when there are none.
fn all<R>(
    registry: &Registry,
    attributes: &Attributes<'_>,
    (policies, bindings): (&str, &str),
    (kept, kept_bindings): (&Kept<Vec<Policy<R>>>, &Kept<Vec<Binding>>),
    read: impl Fn(&Value) -> Policy<R>,
) -> Option<Bound<R>> {
    let entries = registry.all(&format!("{policies}/"));
    if entries.is_empty() || is_exempt(attributes) {
        return None;
    }
    let bound = registry.all(&format!("{bindings}/"));
    let each = |entries: &[Arc<Entry>]| entries.iter().map(|entry| read(entry.json())).collect();
    let policies = kept.of(&entries, each);
    let bindings =
        kept_bindings.of(&bound, |entries| entries.iter().map(|entry| Binding::read(entry.json())).collect());
    Some((policies, bindings))
}

/// What a policy is to be asked about a request: once for each of its bindings and of their parameters. An error is one
/// of the configuration, with the binding that it is in.
type Cases<'p> = Vec<(&'p Binding, Result<Params, String>)>;

fn cases<'p, R>(
    registry: &Registry,
    attributes: &Attributes<'_>,
    object: &Value,
    policy: &Policy<R>,
    bindings: &'p [Binding],
) -> Result<Cases<'p>, Status> {
    let mut cases = Vec::new();
    for binding in bindings.iter().filter(|binding| binding.policy == policy.name) {
        if binding.is_meant(registry, attributes, object)? {
            let params = policy.params.as_ref();
            cases.push((binding, binding.params(registry, attributes, params)));
        }
    }
    Ok(cases)
}
