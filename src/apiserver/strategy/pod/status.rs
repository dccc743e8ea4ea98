//! What a change of a pod's status must not do.
//!
//! Source: Kubernetes `pkg/apis/core/validation`, `ValidatePodStatusUpdate`.

use std::net::IpAddr;

use serde_json::Value;

use super::super::address::BAD_IP;
use super::super::value::{items, text};
use crate::api::meta;
use crate::api::names;
use crate::api::status::FieldError;

/// What is wrong with the change of the status from `old` to `new`.
pub(super) fn update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> = mirror(new, old).into_iter().collect();
    let (status, before) = (&new["status"], &old["status"]);
    let nominated = text(status, "nominatedNodeName");
    if !nominated.is_empty() && nominated != text(before, "nominatedNodeName") {
        let wrong = names::dns_subdomain(nominated);
        errors.extend(
            wrong
                .iter()
                .map(|w| FieldError::invalid("status.nominatedNodeName", &status["nominatedNodeName"], w)),
        );
    }
    let class = text(before, "qosClass");
    if !class.is_empty() && text(status, "qosClass") != class {
        errors.push(FieldError::invalid("status.qosClass", &status["qosClass"], "field is immutable"));
    }
    let policy = text(&old["spec"], "restartPolicy");
    for (list, policy) in [("containerStatuses", policy), ("ephemeralContainerStatuses", "Never")] {
        errors.extend(
            resurrections(status, before, list, policy)
                .filter(|(name, _)| {
                    let containers =
                        if list == "containerStatuses" { items(&old["spec"], "containers") } else { &[] };
                    // Some come back whatever the pod's policy is.
                    !containers.iter().any(|container| {
                        text(container, "name") == *name
                            && (text(container, "restartPolicy") == "Always"
                                || !items(container, "restartPolicyRules").is_empty())
                    })
                })
                .map(|(_, error)| error),
        );
    }
    for list in ["podIPs", "hostIPs"] {
        for (i, address) in items(status, list).iter().enumerate() {
            if text(address, "ip").parse::<IpAddr>().is_err() {
                errors.push(FieldError::invalid(format!("status.{list}[{i}]"), &address["ip"], BAD_IP));
            }
        }
    }
    errors
}

/// What says that a pod is the image of a static one: a pod is that or is not, for its whole life.
pub(super) fn mirror(new: &Value, old: &Value) -> Option<FieldError> {
    let of = |pod| meta::annotation(pod, meta::MIRROR);
    let why = "may not add, remove or update mirror pod annotation";
    (of(new) != of(old))
        .then(|| FieldError::forbidden("metadata.annotations[kubernetes.io/config.mirror]", why))
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
    use serde_json::json;

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
                json!({"qosClass": "BestEffort", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "x"}]}),
                "status.podIPs[1]",
            ),
            (json!({"qosClass": "BestEffort", "nominatedNodeName": "A b"}), "status.nominatedNodeName"),
        ] {
            let errors = update(&pod("Never", status), &old);
            assert_eq!(errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(), [wrong]);
        }
    }
}
