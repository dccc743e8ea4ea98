//! Pods: the kind with most rules, in a file for each sort of them.

pub(super) mod affinity;
mod annotations;
mod columns;
mod containers;
mod environment;
mod fields;
mod handlers;
mod label_keys;
mod mounts;
mod narrowing;
mod overlaps;
mod projected;
mod references;
mod resize;
mod resources;
mod restart;
mod security;
pub(super) mod sources;
mod status;
pub(super) mod template;
mod update;
mod validate;
mod volumes;
mod warnings;
mod windows;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::deprecated;
use super::value::text;
use super::{Column, Strategy};
use crate::api::pod::{defaults, qos};
use crate::api::status::FieldError;

/// The strategy of pods.
pub(super) struct Pod;

impl Strategy for Pod {
    fn default(&self, pod: &mut Value) {
        defaults::pod(pod);
    }

    fn prepare_create(&self, pod: &mut Value) {
        // Once more, for what admission added.
        defaults::pod(pod);
        label_keys::merge(pod);
        let class = qos::class(pod);
        pod["status"] = json!({"phase": "Pending", "qosClass": class});
        if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
            pod["status"]["conditions"] = json!([{
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null, "lastTransitionTime": null,
            }]);
        }
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        // The class was settled at creation; a kubelet that does not know it yet must not drop it.
        if let (Some(status), Some(class)) = (new["status"].as_object_mut(), old["status"].get("qosClass")) {
            status.entry("qosClass").or_insert(class.clone());
        }
    }

    fn validate(&self, pod: &Value) -> Vec<FieldError> {
        validate::pod(pod)
    }

    fn validate_create(&self, pod: &Value) -> Vec<FieldError> {
        let spec = &pod["spec"];
        let mut errors = Vec::new();
        if super::value::is_set(spec, "ephemeralContainers") {
            errors.push(FieldError::forbidden("spec.ephemeralContainers", "cannot be set on create"));
        }
        if !text(spec, "nodeName").is_empty() && super::value::is_set(spec, "schedulingGates") {
            let why = "cannot be set until all schedulingGates have been cleared";
            errors.push(FieldError::forbidden("spec.nodeName", why));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        update::pod(new, old)
    }

    fn validate_ephemeral_containers_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        update::ephemeral_containers(new, old)
    }

    fn validate_resize(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        resize::resize(new, old)
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        status::update(new, old)
    }

    fn has_generation(&self) -> bool {
        true
    }

    /// What can be changed of a pod is nothing to tell of.
    fn create_warnings(&self, pod: &Value) -> Vec<String> {
        let named = deprecated::name(pod, "the Pod's hostname");
        named.into_iter().chain(warnings::pod(pod)).collect()
    }

    /// A pod that runs nowhere, or runs no more, has nothing to end gracefully.
    fn grace_period(&self, pod: &Value, asked: Option<i64>) -> Option<i64> {
        let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64();
        let finished = matches!(text(&pod["status"], "phase"), "Failed" | "Succeeded");
        if text(&pod["spec"], "nodeName").is_empty() || finished {
            return Some(0);
        }
        // A negative period means at once (but for a second, in which the kubelet can act).
        let period = asked.or(own).unwrap_or(30);
        Some(if period < 0 { 1 } else { period })
    }

    fn fields(&self, pod: &Value) -> Vec<(&'static str, String)> {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let ip = match text(status, "podIP") {
            "" => text(&status["podIPs"][0], "ip"),
            ip => ip,
        };
        vec![
            ("spec.nodeName", text(spec, "nodeName").to_owned()),
            ("spec.restartPolicy", text(spec, "restartPolicy").to_owned()),
            ("spec.schedulerName", text(spec, "schedulerName").to_owned()),
            ("spec.serviceAccountName", text(spec, "serviceAccountName").to_owned()),
            ("spec.hostNetwork", (spec["hostNetwork"] == true).to_string()),
            ("status.phase", text(status, "phase").to_owned()),
            ("status.podIP", ip.to_owned()),
            ("status.nominatedNodeName", text(status, "nominatedNodeName").to_owned()),
        ]
    }

    fn columns(&self) -> &'static [Column] {
        columns::COLUMNS
    }

    fn cells(&self, pod: &Value, now: Timestamp) -> Vec<Value> {
        columns::cells(pod, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grace_period_is_the_askers_then_the_pods() {
        let bound = |phase: &str| json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 10}, "status": {"phase": phase}});
        for (pod, asked, period) in [
            (bound("Running"), None, 10),
            (bound("Running"), Some(0), 0),
            (bound("Running"), Some(-1), 1),
            (bound("Succeeded"), None, 0),
            (json!({"spec": {"terminationGracePeriodSeconds": 10}}), Some(5), 0),
            (json!({"spec": {"nodeName": "n"}}), None, 30),
        ] {
            assert_eq!(Pod.grace_period(&pod, asked), Some(period), "{pod} {asked:?}");
        }
    }

    #[test]
    fn a_new_pod_is_pending() {
        let mut pod =
            json!({"spec": {"containers": [{}]}, "status": {"phase": "Running", "podIP": "1.2.3.4"}});
        Pod.prepare_create(&mut pod);
        assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
        assert_eq!(pod["spec"]["restartPolicy"], "Always");
        pod["spec"]["schedulingGates"] = json!([{"name": "example.com/wait"}]);
        Pod.prepare_create(&mut pod);
        assert_eq!(pod["status"]["conditions"][0]["reason"], "SchedulingGated");
        assert!(Pod.validate_create(&pod).is_empty());
        pod["spec"]["ephemeralContainers"] = json!([{"name": "d"}]);
        assert_eq!(
            Pod.validate_create(&pod)[0].to_string(),
            "spec.ephemeralContainers: Forbidden: cannot be set on create"
        );
        let keys = Pod.fields(&Value::Null);
        assert!(keys.contains(&("spec.hostNetwork", "false".to_owned())));
    }
}
