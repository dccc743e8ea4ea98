//! Resizing containers in place: whether and how their CPU and memory are to change.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
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

/// What can be resized.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// What two have of different amounts.
fn changed(has: &ResourceRequirements, wants: &ResourceRequirements) -> Vec<&'static str> {
    let differs = |name: &&str| {
        amount(has.requests.as_ref(), name) != amount(wants.requests.as_ref(), name)
            || amount(has.limits.as_ref(), name) != amount(wants.limits.as_ref(), name)
    };
    RESIZABLE.into_iter().filter(differs).collect()
}

/// Whether a container is to start anew when its amount of this changes.
fn restarts(container: &Container, name: &str) -> bool {
    let mut policies = container.resize_policy.iter().flatten();
    policies.any(|p| p.resource_name == name && p.restart_policy == "RestartContainer")
}

/// What a container that has these resources needs to have those of its spec (pure).
pub fn resize(has: &ResourceRequirements, container: &Container) -> Resize {
    let wants = container.resources.clone().unwrap_or_default();
    match changed(has, &wants).as_slice() {
        [] => Resize::None,
        changed if changed.iter().any(|name| restarts(container, name)) => Resize::Restart,
        _ => Resize::InPlace,
    }
}

/// Whether a pod states something else for all of its containers than it has (pure).
pub fn is_other_whole(has: Option<&ResourceRequirements>, wants: Option<&ResourceRequirements>) -> bool {
    let of = |resources: Option<&ResourceRequirements>| resources.cloned().unwrap_or_default();
    !changed(&of(has), &of(wants)).is_empty()
}

/// Whether a container must start anew as the limit of its pod changes, by which it lives since that stated this (pure).
pub fn restarts_with_whole(
    has: Option<&ResourceRequirements>,
    wants: Option<&ResourceRequirements>,
    container: &Container,
) -> bool {
    let limit = |resources: Option<&ResourceRequirements>, name: &str| {
        amount(resources.and_then(|resources| resources.limits.as_ref()), name)
    };
    let has_own = |name: &str| limit(container.resources.as_ref(), name).is_some_and(|own| !own.is_zero());
    let moves = |name: &&str| !has_own(name) && limit(has, name) != limit(wants, name);
    // Of one that was made before the pod stated anything, nobody knows by what it lives.
    has.is_some() && RESIZABLE.iter().any(|name| moves(name) && restarts(container, name))
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
    let stated = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let whole = observed.sandbox.as_ref().filter(|sandbox| sandbox.alive);
    containers.chain(sidecars.filter(|c| is_sidecar(c))).any(differs)
        || whole.is_some_and(|sandbox| is_other_whole(sandbox.whole.as_ref(), stated))
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

/// Gives a pod what its spec states for all of its containers, and those of them that live by its limits.
pub fn whole<R: Runtime>(context: &Context<R>, pod: &Pod, observed: &ObservedPod) -> Result<(), Waiting> {
    let (Some(spec), Some(sandbox)) = (&pod.spec, &observed.sandbox) else { return Ok(()) };
    let failed = |message: String| Waiting { reason: "Error".into(), message };
    let runtime = &context.runtime;
    let (has, wanted) = (sandbox.whole.as_ref(), of_pod(spec));
    let itself = Consumer::Sandbox(sandbox.id.clone());
    if let Some(limit) = wanted.memory_limit {
        let used = runtime.stats(&itself).map_err(|error| failed(error.to_string()))?.memory_usage;
        if used > limit {
            let why = format!("attempting to set pod memory limit ({limit}) below current usage ({used})");
            return Err(failed(why));
        }
    }
    let before = of_pod(&PodSpec { resources: has.cloned(), ..spec.clone() });
    let below = all_containers(spec).filter_map(|container| {
        let running =
            observed.newest(&container.name).filter(|c| matches!(c.state, ContainerState::Running { .. }))?;
        let stays = !restarts_with_whole(running.whole.as_ref(), spec.resources.as_ref(), container);
        // What it is to have of its own is a change of its own.
        let now = Container { resources: running.resources.clone(), ..Container::default() };
        let of = Consumer::Container { sandbox: sandbox.id.clone(), id: running.id.clone() };
        stays.then(|| (of, of_container(spec, &now)))
    });
    let mut steps: Vec<_> = below.collect();
    let grows = wanted.cpu_quota.unwrap_or(u64::MAX) >= before.cpu_quota.unwrap_or(u64::MAX);
    steps.insert(if grows { 0 } else { steps.len() }, (itself, wanted));
    steps.iter().try_for_each(|(of, limits)| runtime.limit(of, limits)).map_err(|e| failed(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_container_without_a_limit_lives_by_that_of_its_pod() {
        let whole = |cpu: &str, memory: &str| -> ResourceRequirements {
            serde_json::from_value(
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": cpu, "memory": memory}}),
            )
            .unwrap()
        };
        let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        for (limits, wants, expected) in [
            (json!({}), whole("2", "2Gi"), true),
            (json!({}), whole("4", "1Gi"), false),
            (json!({}), whole("2", "1024Mi"), false),
            (json!({"memory": "1Mi"}), whole("2", "2Gi"), false),
            (json!({"cpu": "1"}), whole("2", "2Gi"), true),
        ] {
            let container = json!({"name": "a", "resources": {"limits": limits}, "resizePolicy": policy});
            let container: Container = serde_json::from_value(container).unwrap();
            let has = whole("2", "1Gi");
            assert_eq!(
                restarts_with_whole(Some(&has), Some(&wants), &container),
                expected,
                "{limits} {wants:?}"
            );
        }
        assert!(is_other_whole(None, Some(&whole("1", "1Gi"))) && !is_other_whole(None, None));
        assert!(!is_other_whole(Some(&whole("1", "1Gi")), Some(&whole("1000m", "1024Mi"))));
    }

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
