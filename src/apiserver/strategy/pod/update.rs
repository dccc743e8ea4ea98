//! What an update of a pod may change (`ValidatePodUpdate` of Kubernetes' core validation).

use serde_json::{Value, json};

use super::super::checks::difference;
use super::super::value::{entries, fill, items, text};
use super::{annotations, narrowing};
use crate::api::meta;
use crate::api::status::FieldError;

const ALLOWED: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
                       `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions \
                       to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it \
                       was previously negative)";

pub(super) fn pod(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = annotations::update(new, old);
    let (new, old) = (&new["spec"], &old["spec"]);
    for list in ["containers", "initContainers"] {
        if items(new, list).len() != items(old, list).len() {
            let why = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(format!("spec.{list}"), why));
            return errors;
        }
    }
    let shortened = deadline(new, old);
    if let Some(error) = shortened {
        let stops = !new["activeDeadlineSeconds"].is_null();
        errors.push(error);
        if stops {
            return errors;
        }
    }
    // The rest must be as it was once the fields that may change are set aside.
    let mut munged = new.clone();
    for list in ["containers", "initContainers"] {
        for (i, before) in items(old, list).iter().enumerate() {
            munged[list][i]["image"] = before["image"].clone();
        }
    }
    put_back(&mut munged, old, "activeDeadlineSeconds");
    let negative = old["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0);
    if negative && munged["terminationGracePeriodSeconds"] == 1 {
        put_back(&mut munged, old, "terminationGracePeriodSeconds");
    }
    if !keeps_tolerations(items(new, "tolerations"), items(old, "tolerations")) {
        errors.push(FieldError::forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        ));
    }
    put_back(&mut munged, old, "tolerations");
    let gates = items(old, "schedulingGates");
    for (i, gate) in items(new, "schedulingGates").iter().enumerate() {
        if !gates.iter().any(|before| before["name"] == gate["name"]) {
            let why =
                format!("only deletion is allowed, but found new scheduling gate '{}'", text(gate, "name"));
            errors.push(FieldError::forbidden(format!("spec.schedulingGates[{i}].name"), &why));
        }
    }
    put_back(&mut munged, old, "schedulingGates");
    // Before it is scheduled, a pod may be held to fewer nodes.
    if !gates.is_empty() {
        let kept = |(key, value): (&String, &Value)| new["nodeSelector"][key.as_str()] == *value;
        if !entries(old, "nodeSelector").all(kept) {
            let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            errors.push(FieldError::invalid("spec.nodeSelector", &new["nodeSelector"], why));
        }
        put_back(&mut munged, old, "nodeSelector");
        errors.extend(narrowing::node_affinity(new, old));
        narrowing::put_back(&mut munged, old);
    }
    let mut before = old.clone();
    // Binding sets the node by its own path; defaults make an absent list and an empty one alike.
    fill(&mut before, "nodeName", "");
    fill(&mut munged, "nodeName", "");
    if munged != before {
        errors.push(FieldError::forbidden("spec", &format!("{ALLOWED}\n{}", difference(&before, &munged))));
    }
    errors
}

/// What a change of the ephemeral containers may do: add some (`ValidatePodEphemeralContainersUpdate`).
pub(super) fn ephemeral_containers(new: &Value, old: &Value) -> Vec<FieldError> {
    if meta::annotation(old, meta::MIRROR).is_some() {
        return vec![FieldError::forbidden("", "static pods do not support ephemeral containers")];
    }
    let path = "spec.ephemeralContainers";
    let mut errors = Vec::new();
    for before in items(&old["spec"], "ephemeralContainers") {
        let name = &before["name"];
        let after = items(&new["spec"], "ephemeralContainers").iter().find(|c| c["name"] == *name);
        let why = match after {
            None => format!("existing ephemeral containers {name} may not be removed\n"),
            Some(after) if after != before => {
                format!(
                    "existing ephemeral containers {name} may not be changed\n{}",
                    difference(before, after)
                )
            }
            Some(_) => continue,
        };
        errors.push(FieldError::forbidden(path, &why));
    }
    errors
}

/// Whether every old toleration is still there; for how long it holds may change.
fn keeps_tolerations(new: &[Value], old: &[Value]) -> bool {
    let without_time = |toleration: &Value| {
        let mut toleration = toleration.clone();
        put_back(&mut toleration, &Value::Null, "tolerationSeconds");
        toleration
    };
    let new: Vec<Value> = new.iter().map(without_time).collect();
    old.iter().all(|toleration| new.contains(&without_time(toleration)))
}

fn put_back(new: &mut Value, old: &Value, field: &str) {
    super::super::value::carry_over(new, old, field);
}

/// A deadline may be set, and only shortened afterwards.
fn deadline(new: &Value, old: &Value) -> Option<FieldError> {
    let path = "spec.activeDeadlineSeconds";
    let given = &new["activeDeadlineSeconds"];
    match (given.as_i64(), old["activeDeadlineSeconds"].as_i64()) {
        (Some(new), Some(old)) if new > old => {
            Some(FieldError::invalid(path, given, "must be less than or equal to previous value"))
        }
        (None, Some(_)) => Some(FieldError::invalid(
            path,
            &json!(null),
            "must not update from a positive integer to nil value",
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ephemeral_containers_are_only_added() {
        let pod = |containers: Value| json!({"metadata": {}, "spec": {"ephemeralContainers": containers}});
        let (one, two) = (json!({"name": "one", "image": "x"}), json!({"name": "two", "image": "x"}));
        let told = |new: Value, old: &Value| {
            ephemeral_containers(&new, old).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let old = pod(json!([one]));
        assert!(told(pod(json!([one, two])), &old).is_empty());
        let removed =
            "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"one\" may not be removed\n";
        assert_eq!(told(pod(json!([two])), &old), [removed]);
        let changed = told(pod(json!([{"name": "one", "image": "y"}])), &old);
        assert!(
            changed[0].contains("existing ephemeral containers \"one\" may not be changed\n"),
            "{changed:?}"
        );
        let mut mirror = old.clone();
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "h"});
        assert!(told(mirror.clone(), &mirror)[0].contains("static pods do not support ephemeral containers"));
    }

    #[test]
    fn gates_are_taken_away_and_nodes_narrowed_meanwhile() {
        let gated = json!({"spec": {"containers": [], "nodeSelector": {"a": "1"},
            "schedulingGates": [{"name": "x.io/a"}, {"name": "x.io/b"}]}});
        let told = |new: Value, old: &Value| {
            pod(&json!({"spec": new}), old).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let free = json!({"containers": [], "nodeSelector": {"a": "1"}});
        assert!(told(free.clone(), &gated).is_empty());
        let narrowed = json!({"containers": [], "nodeSelector": {"a": "1", "b": "2"}, "schedulingGates": [{"name": "x.io/b"}]});
        assert!(told(narrowed.clone(), &gated).is_empty());
        let moved =
            json!({"containers": [], "nodeSelector": {"a": "2"}, "schedulingGates": [{"name": "x.io/b"}]});
        assert_eq!(
            told(moved, &gated),
            [
                "spec.nodeSelector: Invalid value: {\"a\":\"2\"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)"
            ]
        );
        let more =
            json!({"containers": [], "nodeSelector": {"a": "1"}, "schedulingGates": [{"name": "x.io/c"}]});
        let why = "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'x.io/c'";
        assert_eq!(told(more, &gated), [why]);
        assert!(told(narrowed, &json!({"spec": free}))[0].contains("schedulingGates"));
    }

    #[test]
    fn images_and_little_else_change() {
        let old = json!({"spec": {
            "containers": [{"name": "a", "image": "x"}], "activeDeadlineSeconds": 10,
            "tolerations": [{"key": "a", "effect": "NoExecute", "tolerationSeconds": 300}], "ephemeralContainers": []
        }});
        let change = |pointer: &str, value: Value| {
            let mut new = old.clone();
            *new.pointer_mut(pointer).unwrap() = value;
            pod(&new, &old)
        };
        assert!(pod(&old, &old).is_empty());
        assert!(change("/spec/containers/0/image", json!("y")).is_empty());
        assert!(change("/spec/activeDeadlineSeconds", json!(5)).is_empty());
        let shorter = json!([{"key": "a", "effect": "NoExecute", "tolerationSeconds": 5}, {"key": "b"}]);
        assert!(change("/spec/tolerations", shorter).is_empty());
        let debug = change("/spec/ephemeralContainers", json!([{"name": "d", "image": "busybox"}]));
        assert!(
            debug[0].to_string().contains("- ephemeralContainers: []\n+ ephemeralContainers: [{"),
            "{debug:?}"
        );
        let errors = change("/spec/containers/0/name", json!("b"));
        assert!(errors[0].to_string().starts_with(
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.init"
        ));
        for (pointer, value, error) in [
            ("/spec/activeDeadlineSeconds", json!(20), "must be less than or equal to previous value"),
            ("/spec/containers", json!([]), "pod updates may not add or remove containers"),
            ("/spec/tolerations", json!([]), "existing toleration can not be modified"),
        ] {
            assert!(change(pointer, value)[0].to_string().contains(error), "{pointer}");
        }
    }
}
