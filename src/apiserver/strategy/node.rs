//! Nodes: here one, which the kubelet registers and keeps.

use jiff::Timestamp;
use serde_json::Value;

use super::column::{self, AGE, NAME, NONE, UNKNOWN};
use super::value::{is_set, items, object, text};
use super::{Column, Strategy};
use crate::api::meta;
use crate::api::names;
use crate::api::status::FieldError;

/// The strategy of nodes.
pub(super) struct Node;

impl Strategy for Node {
    fn default(&self, node: &mut Value) {
        object(node, "spec");
        object(node, "status");
        let status = &mut node["status"];
        if is_set(status, "capacity") && !is_set(status, "allocatable") {
            status["allocatable"] = status["capacity"].clone();
        }
    }

    fn validate(&self, node: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (i, taint) in items(&node["spec"], "taints").iter().enumerate() {
            let path = format!("spec.taints[{i}]");
            for wrong in names::qualified_name(text(taint, "key")) {
                errors.push(FieldError::invalid(format!("{path}.key"), &taint["key"], &wrong));
            }
            for wrong in names::label_value(text(taint, "value")) {
                errors.push(FieldError::invalid(format!("{path}.value"), &taint["value"], &wrong));
            }
            const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            match text(taint, "effect") {
                "" => errors.push(FieldError::required(format!("{path}.effect"), "")),
                effect if EFFECTS.contains(&effect) => {}
                _ => {
                    errors.push(FieldError::not_supported(
                        format!("{path}.effect"),
                        &taint["effect"],
                        &EFFECTS,
                    ));
                }
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for field in ["podCIDR", "podCIDRs", "providerID"] {
            let (new, old) = (&new["spec"][field], &old["spec"][field]);
            if !super::value::is_zero(old) && new != old {
                errors.push(FieldError::forbidden(
                    format!("spec.{field}"),
                    "node updates may not change this field except from \"\" to valid",
                ));
            }
        }
        errors
    }

    fn fields(&self, node: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.unschedulable", (node["spec"]["unschedulable"] == true).to_string())]
    }

    fn warnings(&self, node: &Value) -> Vec<String> {
        let told = [
            ("configSource", "the feature is removed"),
            ("externalID", "this field is deprecated, and is unused by Kubernetes"),
        ];
        let told = told.iter().filter(|(field, _)| is_set(&node["spec"], field));
        told.map(|(field, told)| format!("spec.{field}: {told}")).collect()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("Status", "The status of the node"),
            column::text("Roles", "The roles of the node"),
            AGE,
            column::text("Version", "Kubelet Version reported by the node."),
            column::wide("Internal-IP", "List of addresses reachable to the node."),
            column::wide("External-IP", "List of addresses reachable to the node."),
            column::wide(
                "OS-Image",
                "OS Image reported by the node from /etc/os-release (e.g. Debian GNU/Linux 7 (wheezy)).",
            ),
            column::wide(
                "Kernel-Version",
                "Kernel Version reported by the node from 'uname -r' (e.g. 3.16.0-0.bpo.4-amd64).",
            ),
            column::wide(
                "Container-Runtime",
                "ContainerRuntime Version reported by the node through runtime remote API (e.g. containerd://1.4.2).",
            ),
        ];
        COLUMNS
    }

    fn cells(&self, node: &Value, now: Timestamp) -> Vec<Value> {
        let info = &node["status"]["nodeInfo"];
        let known = |key| match text(info, key) {
            "" => UNKNOWN.into(),
            text => Value::from(text),
        };
        vec![
            column::name(node),
            condition(node).into(),
            roles(node).into(),
            column::age(node, now),
            text(info, "kubeletVersion").into(),
            address(node, "InternalIP").into(),
            address(node, "ExternalIP").into(),
            known("osImage"),
            known("kernelVersion"),
            known("containerRuntimeVersion"),
        ]
    }
}

fn condition(node: &Value) -> String {
    let ready = items(&node["status"], "conditions").iter().find(|c| c["type"] == "Ready");
    let state = match ready.map(|c| text(c, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let cordoned = if node["spec"]["unschedulable"] == true { ",SchedulingDisabled" } else { "" };
    format!("{state}{cordoned}")
}

/// From the labels `node-role.kubernetes.io/ROLE` and `kubernetes.io/role=ROLE`.
fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = meta::labels(node)
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.as_str() {
            "kubernetes.io/role" => value.as_str(),
            key => key.strip_prefix("node-role.kubernetes.io/"),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { NONE.to_owned() } else { roles.join(",") }
}

fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let addresses = items(&node["status"], "addresses").iter();
    addresses.filter(|a| a["type"] == kind).map(|a| text(a, "address")).next().unwrap_or(NONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_are_kubectls() {
        let node = json!({
            "metadata": {"name": "minik", "creationTimestamp": "2024-01-01T00:00:00Z",
                         "labels": {"node-role.kubernetes.io/control-plane": "", "a": "b"}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                       "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                       "nodeInfo": {"kubeletVersion": "v1.37.0", "osImage": "Debian"}}
        });
        let now = "2024-01-01T00:01:00Z".parse().unwrap();
        assert_eq!(
            Node.cells(&node, now),
            json!([
                "minik",
                "Ready,SchedulingDisabled",
                "control-plane",
                "60s",
                "v1.37.0",
                "10.0.0.1",
                "<none>",
                "Debian",
                "<unknown>",
                "<unknown>"
            ])
            .as_array()
            .unwrap()
            .clone()
        );
        assert_eq!(Node.cells(&json!({}), now)[1], "Unknown");
    }

    #[test]
    fn taints_are_checked() {
        let errors = Node.validate(&json!({"spec": {"taints": [{"key": "a", "effect": "X"}, {"key": ""}]}}));
        assert!(errors.len() >= 3);
        assert!(
            Node.validate(&json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}})).is_empty()
        );
    }
}
