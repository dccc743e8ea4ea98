//! What was allocated to the containers of one pod, by name, and to all of them together (pure).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::kubelet::observed::written_status;
use crate::kubelet::plan::is_sidecar;
use crate::kubelet::resize::{Resize, is_other_whole, resize};

/// What was allocated to a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The resources of the containers that may be resized, by name.
    containers: BTreeMap<String, ResourceRequirements>,
    /// What the pod states for all of them.
    whole: Option<ResourceRequirements>,
}

impl Record {
    /// All that a pod's spec asks for.
    pub fn of(spec: &PodSpec) -> Record {
        let record = |c: &Container| (c.name.clone(), c.resources.clone().unwrap_or_default());
        Record { containers: resizable(spec).map(record).collect(), whole: spec.resources.clone() }
    }
}

/// The containers of a pod that may be resized.
fn resizable(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(|c| is_sidecar(c)))
}

/// What was allocated to a pod by its status; what that does not tell of, by its spec.
pub fn recorded(pod: &Pod) -> Record {
    let of_status = |status: &ContainerStatus| {
        Some(ResourceRequirements {
            requests: Some(status.allocated_resources.clone()?),
            limits: status.resources.as_ref()?.limits.clone(),
            ..ResourceRequirements::default()
        })
    };
    let record = |container: &Container| {
        let told = written_status(pod, &container.name).and_then(of_status);
        let record = told.unwrap_or_else(|| container.resources.clone().unwrap_or_default());
        (container.name.clone(), record)
    };
    let containers = pod.spec.iter().flat_map(resizable).map(record).collect();
    Record { containers, whole: recorded_whole(pod) }
}

/// The same for what a pod states for all of its containers: of anything else the status tells the sum.
fn recorded_whole(pod: &Pod) -> Option<ResourceRequirements> {
    type Amounts = BTreeMap<String, Quantity>;
    let stated = pod.spec.as_ref()?.resources.clone()?;
    let status = pod.status.as_ref();
    let told = |mut stated: Amounts, told: Option<&Amounts>| {
        for (name, amount) in &mut stated {
            if let Some(known) = told.and_then(|told| told.get(name)) {
                *amount = known.clone();
            }
        }
        stated
    };
    let allocated = status.and_then(|status| status.allocated_resources.as_ref());
    let given = status.and_then(|status| status.resources.as_ref()?.limits.as_ref());
    Some(ResourceRequirements {
        requests: stated.requests.map(|stated| told(stated, allocated)),
        limits: stated.limits.map(|stated| told(stated, given)),
        claims: stated.claims,
    })
}

/// Whether a pod's spec asks for other resources than were allocated to it.
pub fn differs(pod: &Pod, record: &Record) -> bool {
    let Some(spec) = &pod.spec else { return false };
    resizable(spec).any(|container| is_other(container, record))
        || is_other_whole(record.whole.as_ref(), spec.resources.as_ref())
}

fn is_other(container: &Container, record: &Record) -> bool {
    record.containers.get(&container.name).is_some_and(|has| resize(has, container) != Resize::None)
}

/// The pod as it runs: with what was allocated to it where its spec asks for something else.
pub fn applied(mut pod: Pod, record: &Record) -> Pod {
    let Some(spec) = &mut pod.spec else { return pod };
    if is_other_whole(record.whole.as_ref(), spec.resources.as_ref()) {
        spec.resources = record.whole.clone();
    }
    let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
    for container in containers {
        if is_other(container, record) {
            container.resources = record.containers.get(&container.name).cloned();
        }
    }
    pod
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(cpu: &str, status: Value) -> Pod {
        let resources = json!({"requests": {"cpu": cpu, "memory": "1Mi"}, "limits": {"cpu": "9"}});
        serde_json::from_value(json!({
            "metadata": {}, "status": {"containerStatuses": status},
            "spec": {"containers": [{"name": "c", "resources": resources}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_runs_with_what_its_status_says_was_allocated() {
        let status = json!([{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "allocatedResources": {"cpu": "1000m", "memory": "1Mi"}, "resources": {"limits": {"cpu": "9"}}}]);
        let cpu = |pod: &Pod| {
            let resources = pod.spec.as_ref().unwrap().containers[0].resources.clone().unwrap();
            resources.requests.unwrap()["cpu"].0.clone()
        };
        for (spec, status, other, runs_with) in
            [("2", &status, true, "1000m"), ("1", &status, false, "1"), ("2", &json!([]), false, "2")]
        {
            let pod = pod(spec, status.clone());
            let record = recorded(&pod);
            assert_eq!(differs(&pod, &record), other, "{spec} {status}");
            assert_eq!(cpu(&applied(pod, &record)), runs_with, "{spec} {status}");
        }
    }

    #[test]
    fn a_pod_as_a_whole_runs_with_what_its_status_says_was_allocated() {
        let told = json!({"allocatedResources": {"cpu": "1", "memory": "9Mi"},
            "resources": {"requests": {"cpu": "7"}, "limits": {"cpu": "2", "memory": "9Mi"}}});
        for (spec, status, other, runs_with) in [
            ("2", &told, true, ("1", "2")),
            ("1", &told, false, ("1", "2")),
            ("2", &json!({}), false, ("2", "4")),
        ] {
            let limit = if spec == "2" { "4" } else { "2" };
            let pod: Pod = serde_json::from_value(json!({"status": status, "spec": {"containers": [],
                "resources": {"requests": {"cpu": spec}, "limits": {"cpu": limit}}}}))
            .unwrap();
            let record = recorded(&pod);
            assert_eq!(differs(&pod, &record), other, "{spec} {status}");
            let resources = applied(pod, &record).spec.unwrap().resources.unwrap();
            let (requests, limits) = (resources.requests.unwrap(), resources.limits.unwrap());
            assert_eq!((requests["cpu"].0.as_str(), limits["cpu"].0.as_str()), runs_with, "{spec} {status}");
            assert!(!limits.contains_key("memory"), "the sum of containers is not the pod's own");
        }
    }
}
