//! What a pod has of CPU, memory and the rest, all of its containers together (pure).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::api::resources::{Resources, amounts, of_containers, stated};
use crate::kubelet::observed::ObservedPod;
use crate::kubelet::pod::all_containers;

type Amounts = BTreeMap<String, Quantity>;

fn written(amounts: Resources) -> Option<Amounts> {
    let written = amounts.into_iter().map(|(name, amount)| (name, Quantity(amount.to_string())));
    Some(written.collect::<Amounts>()).filter(|written| !written.is_empty())
}

/// What was set aside for a pod that runs by this spec.
pub(super) fn allocated(spec: &PodSpec) -> Option<Amounts> {
    let requests = |resources: &ResourceRequirements| resources.requests.clone();
    let asked = |container: &Container| amounts(container.resources.as_ref().and_then(requests).as_ref());
    let mut all = of_containers(spec, asked);
    all.extend(stated(spec.resources.as_ref().and_then(requests).as_ref()));
    written(all)
}

/// What it was given. Limits are those of all containers only where each has one.
pub(super) fn given(spec: &PodSpec, observed: &ObservedPod) -> Option<ResourceRequirements> {
    let made = |container: &Container| {
        let made = observed.newest(&container.name).and_then(|made| made.resources.clone());
        made.or_else(|| container.resources.clone()).unwrap_or_default()
    };
    let whole = observed.sandbox.as_ref().and_then(|sandbox| sandbox.whole.as_ref());
    let mut requests = of_containers(spec, |container| amounts(made(container).requests.as_ref()));
    requests.extend(stated(whole.and_then(|whole| whole.requests.as_ref())));
    let limits_of = |container: &Container| amounts(made(container).limits.as_ref());
    let mut limits = of_containers(spec, limits_of);
    limits.retain(|name, _| all_containers(spec).all(|container| limits_of(container).contains_key(name)));
    limits.extend(stated(whole.and_then(|whole| whole.limits.as_ref())));
    let (requests, limits) = (written(requests), written(limits));
    let some = requests.is_some() || limits.is_some();
    some.then(|| ResourceRequirements { requests, limits, ..ResourceRequirements::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_pod_has_what_its_containers_have_or_what_it_states() {
        let container = |requests: Value, limits: Value| json!({"name": "c", "resources": {"requests": requests, "limits": limits}});
        let one = container(json!({"cpu": "1"}), json!({"cpu": "2", "memory": "1Mi"}));
        let other = container(json!({"cpu": "500m", "memory": "1Mi"}), json!({"cpu": "1"}));
        let stated = json!({"requests": {"cpu": "3"}, "limits": {"memory": "9Mi"}});
        for (spec, set_aside, has) in [
            (json!({"containers": [{"name": "c"}]}), Value::Null, Value::Null),
            (
                json!({"containers": [one, other], "overhead": {"cpu": "1"}}),
                json!({"cpu": "1500m", "memory": "1Mi"}),
                json!({"requests": {"cpu": "1500m", "memory": "1Mi"}, "limits": {"cpu": "3"}}),
            ),
            // What it states for itself was not given to it yet.
            (
                json!({"containers": [one], "resources": stated}),
                json!({"cpu": "3"}),
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1Mi"}}),
            ),
        ] {
            let spec: PodSpec = serde_json::from_value(spec).unwrap();
            assert_eq!(json!(allocated(&spec)), set_aside, "{spec:?}");
            assert_eq!(json!(given(&spec, &ObservedPod::default())), has, "{spec:?}");
        }
    }
}
