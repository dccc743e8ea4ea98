//! What a change of a pod's status must not do.
//!
//! Source: Kubernetes `pkg/apis/core/validation`, `ValidatePodStatusUpdate`.

use serde_json::{Value, json};

use super::super::address;
use super::super::value::{items, text};
use super::annotations;
use super::fields::invalid;
use crate::api::names;
use crate::api::status::FieldError;

const NEGATIVE: &str = "must be a non-negative integer";

/// What is wrong with the change of the status from `old` to `new`.
pub(super) fn update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = annotations::update(new, old);
    let (status, before) = (&new["status"], &old["status"]);
    errors.extend(conditions(items(status, "conditions")));
    let nominated = text(status, "nominatedNodeName");
    if !nominated.is_empty() && nominated != text(before, "nominatedNodeName") {
        let wrong = names::dns_subdomain(nominated);
        errors.extend(
            wrong
                .iter()
                .map(|w| FieldError::invalid("status.nominatedNodeName", &status["nominatedNodeName"], w)),
        );
    }
    let bound = !text(&old["spec"], "nodeName").is_empty();
    if bound && !nominated.is_empty() && nominated != text(before, "nominatedNodeName") {
        let why = "may not be set on pods that are already bound to a node";
        errors.push(FieldError::forbidden("status.nominatedNodeName", why));
    }
    if status["observedGeneration"].as_i64().is_some_and(|generation| generation < 0) {
        let given = &status["observedGeneration"];
        errors.push(FieldError::invalid("status.observedGeneration", given, NEGATIVE));
    }
    let class = text(before, "qosClass");
    if !class.is_empty() && text(status, "qosClass") != class {
        errors.push(FieldError::invalid("status.qosClass", &status["qosClass"], "field is immutable"));
    }
    let policy = text(&old["spec"], "restartPolicy");
    for (list, of, policy) in [
        ("containerStatuses", "containers", policy),
        ("initContainerStatuses", "initContainers", policy),
        ("ephemeralContainerStatuses", "", "Never"),
    ] {
        errors.extend(
            resurrections(status, before, list, policy)
                .filter(|(name, _)| {
                    // Some come back whatever the pod's policy is.
                    !items(&old["spec"], of).iter().any(|container| {
                        text(container, "name") == *name
                            && (text(container, "restartPolicy") == "Always"
                                || !items(container, "restartPolicyRules").is_empty())
                    })
                })
                .map(|(_, error)| error),
        );
    }
    let hosts = items(status, "hostIPs");
    if let Some(first) = hosts.first().filter(|first| text(first, "ip") != text(status, "hostIP")) {
        let why = "must be equal to `hostIP`";
        errors.push(FieldError::invalid("status.hostIPs[0].ip", &first["ip"], why));
    }
    for list in ["podIPs", "hostIPs"] {
        errors.extend(addresses(&format!("status.{list}"), &status[list], items(before, list)));
    }
    errors
}

/// Addresses are in order, unless they were there before; and there is one of each family at most.
fn addresses(path: &str, given: &Value, before: &[Value]) -> Vec<FieldError> {
    let all = given.as_array().map_or(&[][..], Vec::as_slice);
    let mut errors = Vec::new();
    for (i, one) in all.iter().enumerate().filter(|(_, one)| !before.contains(one)) {
        errors.extend(address::ip(&format!("{path}[{i}]"), &json!(text(one, "ip"))));
    }
    let four = all.iter().filter(|one| !text(one, "ip").contains(':')).count();
    if all.len() > 1 && (all.len() > 2 || four != 1) {
        let why = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(path, given, why));
    }
    errors
}

/// Conditions have names, and were looked at for some generation of the pod.
fn conditions(conditions: &[Value]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, condition) in conditions.iter().enumerate() {
        let path = format!("status.conditions[{i}]");
        if condition["observedGeneration"].as_i64().is_some_and(|generation| generation < 0) {
            let given = &condition["observedGeneration"];
            errors.push(FieldError::invalid(format!("{path}.observedGeneration"), given, NEGATIVE));
        }
        let kind = text(condition, "type");
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            let wrong = names::qualified_name(kind);
            errors.extend(invalid(&format!("{path}.Type"), &json!(kind), wrong));
        }
    }
    errors
}

/// Containers that have ended for good and would not have, by their names.
fn resurrections<'a>(
    new: &'a Value,
    old: &'a Value,
    list: &'static str,
    policy: &'a str,
) -> impl Iterator<Item = (&'a str, FieldError)> + use<'a> {
    let ended = items(old, list).iter().enumerate().filter(move |(_, status)| {
        let code = &status["state"]["terminated"]["exitCode"];
        match policy {
            "Never" => status["state"]["terminated"].is_object(),
            "OnFailure" => status["state"]["terminated"].is_object() && code.as_i64().unwrap_or(0) == 0,
            _ => false,
        }
    });
    let runs = move |name: &str| {
        let same = items(new, list).iter().find(|status| text(status, "name") == name);
        same.is_some_and(|status| !status["state"]["terminated"].is_object())
    };
    ended.filter(move |(_, status)| runs(text(status, "name"))).map(move |(i, status)| {
        let field = format!("status.{list}[{i}].state");
        let error = FieldError::forbidden(field, "may not be transitioned to non-terminated state");
        (text(status, "name"), error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_stays_so_and_the_class_is_settled() {
        let ended = |code: i64| json!([{"name": "c", "state": {"terminated": {"exitCode": code}}}]);
        let running = json!([{"name": "c", "state": {"running": {}}}]);
        let pod = |policy: &str, status: Value| json!({"spec": {"restartPolicy": policy}, "status": status});
        for (policy, code, refused) in
            [("Always", 0, false), ("OnFailure", 1, false), ("OnFailure", 0, true), ("Never", 1, true)]
        {
            let old = pod(policy, json!({"containerStatuses": ended(code)}));
            let new = pod(policy, json!({"containerStatuses": running}));
            assert_eq!(!update(&new, &old).is_empty(), refused, "{policy} {code}");
            assert!(update(&old, &old).is_empty());
        }
        // A container of a policy of its own comes back.
        let mut old = pod("Never", json!({"containerStatuses": ended(1)}));
        old["spec"]["containers"] = json!([{"name": "c", "restartPolicy": "Always"}]);
        let new = pod("Never", json!({"containerStatuses": running}));
        assert!(update(&new, &old).is_empty());
        let old = pod("Never", json!({"qosClass": "BestEffort"}));
        for (status, wrong) in [
            (json!({"qosClass": "Guaranteed"}), "status.qosClass"),
            (
                json!({"qosClass": "BestEffort", "podIPs": [{"ip": "2001:db8::1"}, {"ip": "x"}]}),
                "status.podIPs[1]",
            ),
            (json!({"qosClass": "BestEffort", "nominatedNodeName": "A b"}), "status.nominatedNodeName"),
            (
                json!({"qosClass": "BestEffort", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}),
                "status.podIPs",
            ),
            (json!({"qosClass": "BestEffort", "hostIPs": [{"ip": "10.0.0.1"}]}), "status.hostIPs[0].ip"),
            (json!({"qosClass": "BestEffort", "conditions": [{"type": "a b"}]}), "status.conditions[0].Type"),
            (json!({"qosClass": "BestEffort", "observedGeneration": -1}), "status.observedGeneration"),
        ] {
            let errors = update(&pod("Never", status), &old);
            assert_eq!(errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(), [wrong]);
        }
    }
}
