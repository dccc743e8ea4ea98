//! What was allocated to the containers of one pod, by name (pure).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, ResourceRequirements};

use crate::kubelet::observed::written_status;
use crate::kubelet::plan::is_sidecar;
use crate::kubelet::resize::{Resize, resize};

/// The resources of the containers that may be resized, by name.
pub type Record = BTreeMap<String, ResourceRequirements>;

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
    pod.spec.iter().flat_map(resizable).map(record).collect()
}

/// Whether a pod's spec asks for other resources than were allocated to it.
pub fn differs(pod: &Pod, record: &Record) -> bool {
    let mut containers = pod.spec.iter().flat_map(resizable);
    containers.any(|container| is_other(container, record))
}

fn is_other(container: &Container, record: &Record) -> bool {
    record.get(&container.name).is_some_and(|has| resize(has, container) != Resize::None)
}

/// The pod as it runs: with what was allocated to it where its spec asks for something else.
pub fn applied(mut pod: Pod, record: &Record) -> Pod {
    let Some(spec) = &mut pod.spec else { return pod };
    let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
    for container in containers {
        if is_other(container, record) {
            container.resources = record.get(&container.name).cloned();
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
}
