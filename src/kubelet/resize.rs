//! Resizing containers in place: whether and how their CPU and memory are to change.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::context::Context;
use super::observed::ObservedPod;
use super::plan::is_sidecar;
use super::pod::all_containers;
use super::resources::{of_container, of_pod};
use super::status::Waiting;
use crate::api::quantity;
use crate::runtime::{Consumer, ContainerState, Runtime};

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

/// Whether a container that runs has other resources than its spec says (pure).
pub fn under_way(pod: &Pod, observed: &ObservedPod) -> bool {
    let differs = |container: &Container| {
        let running =
            observed.newest(&container.name).filter(|c| matches!(c.state, ContainerState::Running { .. }));
        let has = running.and_then(|running| running.resources.as_ref());
        has.is_some_and(|has| resize(has, container) != Resize::None)
    };
    let sidecars = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.chain(sidecars.filter(|c| is_sidecar(c))).any(differs)
}

/// Gives a pod the limits of the spec before one of its containers starts again with other resources than before.
pub fn around<R: Runtime>(
    context: &Context<R>,
    pod: &Pod,
    observed: &ObservedPod,
    name: &str,
) -> Result<(), Waiting> {
    let (Some(spec), Some(sandbox)) = (&pod.spec, &observed.sandbox) else { return Ok(()) };
    let before = observed.newest(name).and_then(|container| container.resources.as_ref());
    let now = all_containers(spec).find(|container| container.name == name);
    match before.zip(now) {
        Some((before, now)) if resize(before, now) != Resize::None => {
            let limited = context.runtime.limit(&Consumer::Sandbox(sandbox.id.clone()), &of_pod(spec));
            limited
                .map_err(|error| Waiting { reason: "RunContainerError".into(), message: error.to_string() })
        }
        _ => Ok(()),
    }
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
    let failed = |message: String| Waiting { reason: "Error".into(), message };
    let runtime = &context.runtime;
    let wanted = of_container(spec, container);
    let itself = Consumer::Container { sandbox: sandbox.to_owned(), id: id.to_owned() };
    if let Some(limit) = wanted.memory_limit {
        let used = runtime.stats(&itself).map_err(|error| failed(error.to_string()))?.memory_usage;
        if used > limit {
            let why = format!("attempting to set memory limit ({limit}) below current usage ({used})");
            return Err(failed(why));
        }
    }
    // Where a group must not allow more than the one above it, that one grows first and shrinks last.
    let before = of_container(spec, &Container { resources: Some(before.clone()), ..Container::default() });
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
}
