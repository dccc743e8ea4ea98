//! RuntimeClass: pods get the overhead and the scheduling of the class that they name.
//!
//! Source: Kubernetes `plugin/pkg/admission/runtimeclass` and `pkg/util/tolerations`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Attributes, Operation};
use crate::api::meta;
use crate::api::resources;
use crate::api::status::Status;
use crate::apiserver::registry::Registry;
use crate::store::Entry;

const OTHER_OVERHEAD: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
const NO_OVERHEAD: &str =
    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";

/// Completes a pod that is to be made.
pub fn mutate(registry: &Registry, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    let Some(class) = class_of(registry, attributes, pod)? else { return Ok(()) };
    complete(pod, class.json()).map_err(|why| attributes.forbidden(pod, &why))
}

/// Decides about a pod that is to be made.
pub fn validate(registry: &Registry, attributes: &Attributes<'_>, pod: &Value) -> Result<(), Status> {
    if attributes.operation != Operation::Create || !attributes.subresource.is_empty() {
        return Ok(());
    }
    let class = class_of(registry, attributes, pod)?;
    let class = class.as_ref().map_or(&Value::Null, |entry| entry.json());
    check(pod, class).map_err(|why| attributes.forbidden(pod, why))
}

fn class_of(
    registry: &Registry,
    attributes: &Attributes<'_>,
    pod: &Value,
) -> Result<Option<Arc<Entry>>, Status> {
    let Some(name) = pod["spec"]["runtimeClassName"].as_str() else { return Ok(None) };
    match registry.store().get(&format!("runtimeclasses/{name}")) {
        Some(class) => Ok(Some(class)),
        None => {
            let why = format!("pod rejected: RuntimeClass {name:?} not found");
            Err(attributes.forbidden(pod, &why))
        }
    }
}

fn is_overhead(pod: &Value, class: &Value) -> bool {
    resources::read(&pod["spec"]["overhead"]) == resources::read(&class["overhead"]["podFixed"])
}

fn complete(pod: &mut Value, class: &Value) -> Result<(), String> {
    if !class["overhead"].is_null() {
        if !pod["spec"]["overhead"].is_null() && !is_overhead(pod, class) {
            return Err(OTHER_OVERHEAD.to_owned());
        }
        pod["spec"]["overhead"] = class["overhead"]["podFixed"].clone();
    }
    let scheduling = &class["scheduling"];
    if scheduling.is_null() {
        return Ok(());
    }
    for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        let asked = &pod["spec"]["nodeSelector"][key];
        if !asked.is_null() && asked != value {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                text(value),
                text(asked)
            ));
        }
        let selector = meta::child_mut(pod, "spec").entry("nodeSelector").or_insert(Value::Null);
        meta::map_mut(selector).insert(key.clone(), value.clone());
    }
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let all = [list(&pod["spec"]["tolerations"]), list(&scheduling["tolerations"])].concat();
    if !all.is_empty() {
        pod["spec"]["tolerations"] = json!(without_subsets(all));
    }
    Ok(())
}

fn check(pod: &Value, class: &Value) -> Result<(), &'static str> {
    match (class["overhead"].is_null(), pod["spec"]["overhead"].is_null()) {
        (false, _) if !is_overhead(pod, class) => Err(OTHER_OVERHEAD),
        (true, false) => Err(NO_OVERHEAD),
        _ => Ok(()),
    }
}

/// The tolerations that no other one covers; of equal ones the first.
fn without_subsets(all: Vec<Value>) -> Vec<Value> {
    let mut kept: Vec<Value> = Vec::new();
    for (i, toleration) in all.iter().enumerate() {
        let earlier = kept.iter().any(|other| covers(other, toleration));
        let later = all[i + 1..].iter().any(|other| other != toleration && covers(other, toleration));
        if !earlier && !later {
            kept.push(toleration.clone());
        }
    }
    kept
}

fn covers(wide: &Value, narrow: &Value) -> bool {
    let text = |toleration: &'_ Value, key: &str| toleration[key].as_str().unwrap_or_default().to_owned();
    let operator = text(wide, "operator");
    if wide == narrow {
        return true;
    }
    let (key, effect) = (text(wide, "key"), text(wide, "effect"));
    if text(narrow, "key") != key && !(key.is_empty() && operator == "Exists") {
        return false;
    }
    if text(narrow, "effect") != effect && !effect.is_empty() {
        return false;
    }
    if effect == "NoExecute"
        && let Some(seconds) = wide["tolerationSeconds"].as_i64()
        && narrow["tolerationSeconds"].as_i64().is_none_or(|narrow| narrow > seconds)
    {
        return false;
    }
    match operator.as_str() {
        "" | "Equal" => {
            ["", "Equal"].contains(&text(narrow, "operator").as_str())
                && text(narrow, "value") == text(wide, "value")
        }
        "Exists" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_what_their_class_says() {
        let class = json!({"overhead": {"podFixed": {"cpu": "250m"}}, "scheduling": {
            "nodeSelector": {"sandbox": "yes"}, "tolerations": [{"key": "sandbox", "operator": "Exists"}]}});
        let mut pod = json!({"spec": {"nodeSelector": {"disk": "ssd"}, "tolerations": [
            {"key": "sandbox", "operator": "Equal", "value": "yes"}]}});
        complete(&mut pod, &class).unwrap();
        assert_eq!(
            pod["spec"],
            json!({"overhead": {"cpu": "250m"}, "nodeSelector": {"disk": "ssd", "sandbox": "yes"},
                "tolerations": [{"key": "sandbox", "operator": "Exists"}]})
        );
        assert_eq!(check(&pod, &class), Ok(()));
        assert_eq!(check(&pod, &Value::Null), Err(NO_OVERHEAD));
        let mut pod = json!({"spec": {"nodeSelector": {"sandbox": "no"}}});
        assert_eq!(
            complete(&mut pod, &class).unwrap_err(),
            "conflict: runtimeClass.scheduling.nodeSelector[sandbox] = yes; pod.spec.nodeSelector[sandbox] = no"
        );
        let mut pod = json!({"spec": {"overhead": {"cpu": "1"}}});
        assert_eq!(complete(&mut pod, &class).unwrap_err(), OTHER_OVERHEAD);
        let mut pod = json!({"spec": {"overhead": {"cpu": "0.25"}}});
        assert_eq!(complete(&mut pod, &class), Ok(()));
    }
}
