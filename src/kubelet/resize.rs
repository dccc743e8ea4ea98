//! Resizing containers in place: whether and how their CPU and memory are to change.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::context::Context;
use super::plan::is_sidecar;
use super::resources::{NodeCapacity, of_container, of_pod};
use super::status::Waiting;
use crate::api::quantity;
use crate::runtime::{Consumer, Runtime};

/// How a container's change of resources is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// There is none.
    None,
    /// While it runs.
    InPlace,
    /// By a restart, as the container's `resizePolicy` asks.
    Restart,
}

fn amount(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<quantity::Quantity> {
    quantity::parse(&list?.get(name)?.0).ok()
}

/// What a container that has these resources needs to have those of its spec (pure).
pub fn resize(has: &ResourceRequirements, container: &Container) -> Resize {
    let wants = container.resources.clone().unwrap_or_default();
    let differs = |name: &str| {
        amount(has.requests.as_ref(), name) != amount(wants.requests.as_ref(), name)
            || amount(has.limits.as_ref(), name) != amount(wants.limits.as_ref(), name)
    };
    let restarts = |name: &str| {
        let policies = container.resize_policy.as_deref().unwrap_or(&[]);
        policies.iter().any(|p| p.resource_name == name && p.restart_policy == "RestartContainer")
    };
    let changed: Vec<&str> = ["cpu", "memory"].into_iter().filter(|name| differs(name)).collect();
    match changed.as_slice() {
        [] => Resize::None,
        changed if changed.iter().any(|name| restarts(name)) => Resize::Restart,
        _ => Resize::InPlace,
    }
}

/// Why the node can never give a pod what it asks for (pure).
pub fn infeasible(spec: &PodSpec, node: &NodeCapacity) -> Option<String> {
    let lasting =
        spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(|c| is_sidecar(c)));
    let requests: Vec<_> = lasting.filter_map(|c| c.resources.as_ref()?.requests.as_ref()).collect();
    let total = |name: &str, of: fn(&quantity::Quantity) -> i64| -> u64 {
        requests
            .iter()
            .filter_map(|r| amount(Some(r), name))
            .map(|a| u64::try_from(of(&a)).unwrap_or(0))
            .fold(0, u64::saturating_add)
    };
    let asked = [
        ("cpu", total("cpu", quantity::Quantity::milli_value), node.milli_cpu),
        ("memory", total("memory", quantity::Quantity::value), node.memory),
    ];
    let (name, asked, there) = asked.into_iter().find(|(_, asked, there)| asked > there)?;
    Some(format!("Node didn't have enough capacity: {name}, requested: {asked}, capacity: {there}"))
}

/// Gives a running container, which has `before`, and its pod the limits of the spec.
pub fn in_place<R: Runtime>(
    context: &Context<R>,
    pod: &Pod,
    (sandbox, id): (&str, &str),
    container: &Container,
    before: &ResourceRequirements,
) -> Result<(), Waiting> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    if let Some(message) = infeasible(spec, &context.config.capacity) {
        return Err(Waiting { reason: "Infeasible".into(), message });
    }
    let failed = |message: String| Waiting { reason: "Error".into(), message };
    let runtime = &context.runtime;
    let wanted = of_container(container);
    let itself = Consumer::Container { sandbox: sandbox.to_owned(), id: id.to_owned() };
    if let Some(limit) = wanted.memory_limit {
        let used = runtime.stats(&itself).map_err(|error| failed(error.to_string()))?.memory_usage;
        if used > limit {
            let why = format!("attempting to set memory limit ({limit}) below current usage ({used})");
            return Err(failed(why));
        }
    }
    // Where a group must not allow more than the one above it, that one grows first and shrinks last.
    let before = of_container(&Container { resources: Some(before.clone()), ..Container::default() });
    let grows = wanted.cpu_quota.unwrap_or(u64::MAX) >= before.cpu_quota.unwrap_or(u64::MAX);
    let whole = (Consumer::Sandbox(sandbox.to_owned()), of_pod(spec));
    let steps = if grows { [whole, (itself, wanted)] } else { [(itself, wanted), whole] };
    steps.iter().try_for_each(|(of, limits)| runtime.limit(of, limits)).map_err(|e| failed(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_change_is_made_as_the_policy_of_its_resource_says() {
        let has: ResourceRequirements = serde_json::from_value(
            json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2"}}),
        )
        .unwrap();
        let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"},
                            {"resourceName": "cpu", "restartPolicy": "NotRequired"}]);
        for (wants, expected) in [
            (json!({"requests": {"cpu": "1000m", "memory": "1024Mi"}, "limits": {"cpu": "2"}}), Resize::None),
            (json!({"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"cpu": "2"}}), Resize::InPlace),
            (json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "3"}}), Resize::InPlace),
            (json!({"requests": {"cpu": "2", "memory": "2Gi"}, "limits": {"cpu": "2"}}), Resize::Restart),
        ] {
            let container: Container =
                serde_json::from_value(json!({"name": "a", "resources": wants, "resizePolicy": policy}))
                    .unwrap();
            assert_eq!(resize(&has, &container), expected, "{wants}");
        }
    }

    #[test]
    fn what_the_node_does_not_have_is_infeasible() {
        let node = NodeCapacity { milli_cpu: 2000, memory: 1 << 30, disk: 0 };
        let spec = |cpu: &str| -> PodSpec {
            let container = |cpu: &str| json!({"name": "a", "resources": {"requests": {"cpu": cpu}}});
            serde_json::from_value(json!({"containers": [container(cpu), container("500m")]})).unwrap()
        };
        assert_eq!(infeasible(&spec("1500m"), &node), None);
        assert_eq!(
            infeasible(&spec("4"), &node).unwrap(),
            "Node didn't have enough capacity: cpu, requested: 4500, capacity: 2000"
        );
    }
}
