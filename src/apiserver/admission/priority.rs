//! Priority: pods get the number of their PriorityClass, and only one class is the default.
//!
//! Source: Kubernetes `plugin/pkg/admission/priority`.

use serde_json::{Value, json};

use super::{Attributes, Operation};
use crate::api::meta;
use crate::api::status::Status;
use crate::apiserver::registry::Registry;

/// The preemption policy of classes, and of pods without one, that name none.
const PREEMPTS: &str = "PreemptLowerPriority";

/// Completes a pod that is to be made.
pub fn mutate(registry: &Registry, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    let name = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let class = if name.is_empty() {
        default_of(&classes(registry)).cloned()
    } else {
        let found = registry.store().get(&format!("priorityclasses/{name}"));
        let Some(found) = found else {
            let why = format!("no PriorityClass with name {name} was found");
            return Err(attributes.forbidden(pod, &why));
        };
        Some(found.json().clone())
    };
    set(pod, class.as_ref()).map_err(|why| attributes.forbidden(pod, &why))
}

/// Decides about a PriorityClass.
pub fn validate(registry: &Registry, attributes: &Attributes<'_>, class: &Value) -> Result<(), Status> {
    let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
    if !writes || !attributes.subresource.is_empty() || class["globalDefault"] != true {
        return Ok(());
    }
    match default_of(&classes(registry)).map(meta::name) {
        Some(other) if attributes.operation == Operation::Create || other != meta::name(class) => {
            let why =
                format!("PriorityClass {other} is already marked as default. Only one default can exist");
            Err(attributes.forbidden(class, &why))
        }
        _ => Ok(()),
    }
}

fn classes(registry: &Registry) -> Vec<Value> {
    registry.all("priorityclasses/").iter().map(|entry| entry.json().clone()).collect()
}

/// The class of pods that name none; the lowest, should there be several.
fn default_of(classes: &[Value]) -> Option<&Value> {
    let marked = classes.iter().filter(|class| class["globalDefault"] == true);
    marked.min_by_key(|class| class["value"].as_i64().unwrap_or(0))
}

fn set(pod: &mut Value, class: Option<&Value>) -> Result<(), String> {
    let priority = class.and_then(|class| class["value"].as_i64()).unwrap_or(0);
    let policy = class.and_then(|class| class["preemptionPolicy"].as_str()).unwrap_or(PREEMPTS);
    let computed = "priority admission controller computed";
    if let Some(given) = pod["spec"]["priority"].as_i64().filter(|given| *given != priority) {
        return Err(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; {computed} {priority} from the \
             given PriorityClass name"
        ));
    }
    if let Some(given) = pod["spec"]["preemptionPolicy"].as_str().filter(|given| *given != policy) {
        return Err(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; {computed} {policy} from \
             the given PriorityClass name"
        ));
    }
    if let Some(spec) = pod["spec"].as_object_mut() {
        spec.insert("priority".into(), json!(priority));
        spec.insert("preemptionPolicy".into(), json!(policy));
        if let Some(class) = class {
            spec.insert("priorityClassName".into(), json!(meta::name(class)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str, value: i64, default: bool) -> Value {
        json!({"metadata": {"name": name}, "value": value, "globalDefault": default,
            "preemptionPolicy": "Never"})
    }

    #[test]
    fn priorities_come_from_classes() {
        let high = class("high", 1000, false);
        for (spec, class, expected) in [
            (json!({}), None, Ok((0, "PreemptLowerPriority", ""))),
            (json!({"priority": 0}), None, Ok((0, "PreemptLowerPriority", ""))),
            (json!({}), Some(&high), Ok((1000, "Never", "high"))),
            (
                json!({"priority": 7}),
                Some(&high),
                Err(
                    "the integer value of priority (7) must not be provided in pod spec; priority admission \
                     controller computed 1000 from the given PriorityClass name",
                ),
            ),
            (
                json!({"preemptionPolicy": "Never"}),
                None,
                Err(
                    "the string value of PreemptionPolicy (Never) must not be provided in pod spec; priority \
                     admission controller computed PreemptLowerPriority from the given PriorityClass name",
                ),
            ),
        ] {
            let mut pod = json!({ "spec": spec });
            let set = set(&mut pod, class).map(|()| {
                let text = |key: &str| pod["spec"][key].as_str().unwrap_or_default();
                (
                    pod["spec"]["priority"].as_i64().unwrap(),
                    text("preemptionPolicy"),
                    text("priorityClassName"),
                )
            });
            assert_eq!(set, expected.map_err(str::to_owned), "{spec}");
        }
    }

    #[test]
    fn the_lowest_of_several_defaults_is_meant() {
        let classes = [class("a", 9, true), class("b", 3, true), class("c", 1, false)];
        assert_eq!(default_of(&classes).map(meta::name), Some("b"));
        assert_eq!(default_of(&classes[2..]), None);
    }
}
