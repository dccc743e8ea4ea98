//! MutatingAdmissionPolicy: expressions that change what is to be written.

use std::sync::Arc;

use json_patch::{Patch, PatchErrorKind};
use serde_json::{Value, json};

use super::binding::Binding;
use super::{Policy, all, cases};
use crate::api::cel::{Env, OBJECT_LIMIT, Type, Val};
use crate::api::fields;
use crate::api::kinds::Kind;
use crate::api::status::{Cause, Status};
use crate::apiserver::admission::Attributes;
use crate::apiserver::admission::hooks::expressions::{Budget, Expression, Names, environment};
use crate::apiserver::admission::hooks::matching::Match;
use crate::apiserver::registry::Registry;
use crate::apiserver::structure;

/// What a mutating policy alone has.
pub struct Rules {
    mutations: Vec<Mutation>,
    /// Whether it is asked again when the object changes after it.
    is_called_again: bool,
}

/// A change that an expression makes.
enum Mutation {
    /// The expression gives the fields to be set.
    Configuration(Expression),
    /// It gives a list of operations.
    Patch(Expression),
}

/// What the expression of an `applyConfiguration` gives.
pub fn configuration_type() -> Type {
    Type::Opaque("Object".into())
}

/// What the expression of a `jsonPatch` gives.
pub fn patch_type() -> Type {
    Type::list(Type::Opaque("JSONPatch".into()))
}

fn read(policy: &Value) -> Policy<Rules> {
    Policy::read(policy, |policy, with| {
        let spec = &policy["spec"];
        let env: Env = with(environment(spec["paramKind"].is_object(), true)).building_objects();
        let expression = |value: &Value, of: Type| {
            Expression::new(&env, value["expression"].as_str().unwrap_or_default(), &[of])
        };
        let mutation = |value: &Value| match value["patchType"].as_str() {
            Some("JSONPatch") => Mutation::Patch(expression(&value["jsonPatch"], patch_type())),
            _ => Mutation::Configuration(expression(&value["applyConfiguration"], configuration_type())),
        };
        Rules {
            mutations: spec["mutations"].as_array().into_iter().flatten().map(mutation).collect(),
            is_called_again: spec["reinvocationPolicy"] == "IfNeeded",
        }
    })
}

/// One policy as one binding has it, with one object of parameters.
struct Case {
    policy: usize,
    binding: String,
    params: Value,
    /// It was asked and wants to know of later changes.
    asked: bool,
    /// There was one.
    again: bool,
}

/// The policies of one request, and which of them are to be asked once more.
pub struct Round {
    policies: Arc<Vec<Policy<Rules>>>,
    bindings: Arc<Vec<Binding>>,
    cases: Vec<Case>,
    last: Value,
}

impl Round {
    /// The policies that there are; `None` when there are none at all.
    pub fn begin(registry: &Registry, attributes: &Attributes<'_>) -> Option<Round> {
        let kept = &registry.admission().policies;
        let names = ("mutatingadmissionpolicies", "mutatingadmissionpolicybindings");
        let kept = (&kept.mutating, &kept.mutating_bindings);
        let (policies, bindings) = all(registry, attributes, names, kept, read)?;
        Some(Round { policies, bindings, cases: Vec::new(), last: Value::Null })
    }

    /// Lets them change an object; whether one did.
    pub async fn call(
        &mut self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: &mut Value,
    ) -> Result<bool, Status> {
        if object.is_null() {
            return Ok(false);
        }
        for (i, policy) in self.policies.iter().enumerate() {
            if policy.constraints.matches(registry, attributes, object)?.is_none() {
                continue;
            }
            for (binding, params) in cases(registry, attributes, object, policy, &self.bindings)? {
                match params {
                    Ok(all) => self.cases.extend(all.into_iter().map(|params| Case {
                        policy: i,
                        binding: binding.name.clone(),
                        params,
                        asked: false,
                        again: false,
                    })),
                    Err(_) if policy.ignores_failures => {}
                    Err(why) => return Err(refusal(attributes, object, policy, &binding.name, &why)),
                }
            }
        }
        self.apply_all(registry, attributes, object, false).await
    }

    /// Lets those change it once more that want to know of changes that came after them.
    pub async fn again(
        &mut self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: &mut Value,
    ) -> Result<(), Status> {
        if *object != self.last {
            has_changed(&mut self.cases);
        }
        self.apply_all(registry, attributes, object, true).await.map(drop)
    }

    async fn apply_all(
        &mut self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: &mut Value,
        only_again: bool,
    ) -> Result<bool, Status> {
        let policies = self.policies.clone();
        let before = object.clone();
        for i in 0..self.cases.len() {
            let case = &self.cases[i];
            let policy = &policies[case.policy];
            if only_again && !case.again {
                continue;
            }
            let Some(found) = policy.constraints.by_rules(&registry.served().kinds(), attributes, object)
            else {
                continue;
            };
            match change(registry, attributes, policy, &found, &case.params, object).await {
                Ok(None) => {}
                Ok(Some(changed)) => {
                    *object = changed;
                    has_changed(&mut self.cases);
                }
                Err(Failure::Server(status)) => return Err(*status),
                Err(Failure::Policy(_)) if policy.ignores_failures => {}
                Err(Failure::Policy(why)) => {
                    return Err(refusal(attributes, object, policy, &case.binding, &why));
                }
            }
            self.cases[i].asked |= policy.rules.is_called_again;
        }
        self.last = object.clone();
        Ok(before != *object)
    }
}

/// Everybody who was asked so far and wants to know of changes has missed one.
fn has_changed(cases: &mut [Case]) {
    for case in cases {
        case.again |= case.asked;
        case.asked = false;
    }
}

/// Why a policy changes nothing.
enum Failure {
    /// It cannot be evaluated: what then happens is in the policy.
    Policy(String),
    /// The object cannot be shown to it.
    Server(Box<Status>),
}

impl From<String> for Failure {
    fn from(why: String) -> Failure {
        Failure::Policy(why)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure::Server(Box::new(status))
    }
}

/// The object as a policy changes it; `None` when it does not.
async fn change(
    registry: &Registry,
    attributes: &Attributes<'_>,
    policy: &Policy<Rules>,
    found: &Match,
    params: &Value,
    object: &Value,
) -> Result<Option<Value>, Failure> {
    let mut seen = found.see(registry, attributes, object).await?;
    if !policy.is_meant(&policy.input(registry, attributes, object, &seen, params))? {
        return Ok(None);
    }
    let mut changed = object.clone();
    for mutation in &policy.rules.mutations {
        let mutated = {
            // Each sees what those before it made.
            let input = policy.input(registry, attributes, &changed, &seen, params);
            mutation.apply(&*input, found.kind(), &seen.object)?
        };
        let mutated = match attributes.subresource.is_empty() {
            true => structure::read_merged(found.kind(), mutated)?,
            false => mutated,
        };
        if mutated != seen.object {
            changed = found.taken(registry, attributes, mutated).await?;
            seen = found.see(registry, attributes, &changed).await?;
        }
    }
    Ok((changed != *object).then_some(changed))
}

impl Mutation {
    /// The object with the change (pure).
    fn apply(&self, names: &dyn Names, kind: &Kind, object: &Value) -> Result<Value, String> {
        let evaluate = |expression: &Expression| {
            let value = Budget::new(OBJECT_LIMIT).evaluate(expression, names);
            value.unwrap_or_else(|spent| Err(spent.to_string()))
        };
        match self {
            Mutation::Configuration(expression) => {
                let value = evaluate(expression)?;
                let Val::Struct(_) = value else {
                    let of = value.type_name();
                    return Err(format!("unsupported return type from ApplyConfiguration expression: {of}"));
                };
                let Some(mut set) = value.to_json() else {
                    return Err("error applying patch: the value is none of JSON".to_owned());
                };
                let schema = kind.types.schema();
                let replaced = fields::atomics(schema, &set);
                if !replaced.is_empty() {
                    return Err(format!(
                        "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or \
                         structs: {}",
                        replaced.join(", ")
                    ));
                }
                set["apiVersion"] = object["apiVersion"].clone();
                set["kind"] = object["kind"].clone();
                fields::merge(schema, object, &set)
                    .map_err(|error| format!("error applying patch: failed to merge patch: {error}"))
            }
            Mutation::Patch(expression) => {
                let value = evaluate(expression)?;
                let operations = operations(&value)?;
                let patch: Patch =
                    serde_json::from_value(operations).map_err(|error| format!("JSON Patch: {error}"))?;
                let mut patched = object.clone();
                match json_patch::patch(&mut patched, &patch) {
                    Ok(()) => Ok(patched),
                    // A test that fails says that there is nothing to do.
                    Err(error) if matches!(error.kind, PatchErrorKind::TestFailed) => Ok(object.clone()),
                    Err(error) => Err(format!("JSON Patch: {error}")),
                }
            }
        }
    }
}

/// The operations of a JSON patch, from the `JSONPatch` objects that an expression built.
fn operations(value: &Val) -> Result<Value, String> {
    let Val::List(items) = value else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned());
    };
    let read = |item: &Val| match item {
        Val::Struct(built) if built.name == "JSONPatch" => {
            let unsayable =
                || "JSONPath valueExpression evaluated to a type that could not marshal to JSON".to_owned();
            item.to_json().ok_or_else(unsayable)
        }
        other => Err(format!(
            "type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch, got element of {}",
            other.type_name()
        )),
    };
    items.iter().map(read).collect::<Result<Vec<Value>, String>>().map(|list| json!(list))
}

fn refusal(
    attributes: &Attributes<'_>,
    object: &Value,
    policy: &Policy<Rules>,
    binding: &str,
    why: &str,
) -> Status {
    let name = &policy.name;
    let message = format!("policy '{name}' with binding '{binding}' denied request: {why}");
    let mut status = attributes.forbidden(object, "");
    status.message.clone_from(&message);
    status.reason = "Invalid".to_owned();
    let cause = Cause { message, ..Cause::default() };
    status.details.get_or_insert_default().causes.push(cause);
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;
    use crate::apiserver::admission::hooks::expressions::testing;

    fn mutated(mutation: Value, object: &Value) -> Result<Value, String> {
        let policy = read(&json!({"spec": {"mutations": [mutation]}}));
        let input = testing::input(object.clone(), Value::Null);
        let pods = kinds::by_resource("", "v1", "pods").unwrap();
        policy.rules.mutations[0].apply(&input, pods, object)
    }

    #[test]
    fn expressions_change_objects() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
        let configure = |text: &str| json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": text}});
        let patch = |text: &str| json!({"patchType": "JSONPatch", "jsonPatch": {"expression": text}});
        let sidecar =
            "Object{spec: Object.spec{containers: [Object.spec.containers{name: 'b', image: 'y'}]}}";
        let names = |pod: &Value| {
            let list = pod["spec"]["containers"].as_array().unwrap();
            list.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&mutated(configure(sidecar), &pod).unwrap()), ["a", "b"]);
        let tolerant = "Object{spec: Object.spec{tolerations: [Object.spec.tolerations{key: 'a'}]}}";
        assert_eq!(
            mutated(configure(tolerant), &pod).unwrap_err(),
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: \
             .spec.tolerations"
        );
        let label = "[JSONPatch{op: 'test', path: '/metadata/name', value: 'p'}, \
                      JSONPatch{op: 'add', path: '/metadata/labels', value: {'a': 'b'}}]";
        assert_eq!(mutated(patch(label), &pod).unwrap()["metadata"]["labels"], json!({"a": "b"}));
        let other = "[JSONPatch{op: 'test', path: '/metadata/name', value: 'q'}, \
                      JSONPatch{op: 'remove', path: '/spec'}]";
        assert_eq!(mutated(patch(other), &pod).unwrap(), pod);
        let key = "[JSONPatch{op: 'add', path: '/metadata/labels', value: {}}, JSONPatch{op: 'add', \
                    path: '/metadata/labels/' + jsonpatch.escapeKey('a.io/b~c'), value: 'd'}]";
        assert_eq!(mutated(patch(key), &pod).unwrap()["metadata"]["labels"], json!({"a.io/b~c": "d"}));
        let either =
            "has(object.metadata.labels) ? [] : [JSONPatch{op: 'add', path: '/metadata/labels', value: {}}]";
        assert_eq!(mutated(patch(either), &pod).unwrap()["metadata"]["labels"], json!({}));
        for (mutation, why) in [
            (patch("[1]"), "must evaluate to list(JSONPatch) but got list(int)"),
            (patch("Object{}"), "must evaluate to list(JSONPatch) but got Object"),
            (configure("Object.spec{}"), "must evaluate to Object but got Object.spec"),
            (configure("object"), "must evaluate to Object but got dyn"),
        ] {
            assert_eq!(mutated(mutation, &pod).unwrap_err(), format!("compilation error: {why}"));
        }
    }
}
