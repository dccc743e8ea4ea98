//! Which pods are behind a service, and what each of them offers. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ContainerPort, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointPort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::HEADLESS;

/// Whether a service says by itself which pods are behind it.
pub(super) fn has_selector(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty())
}

/// Whether a service's selector matches a pod; without a selector none does.
pub(super) fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(selector) = service.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty())
    else {
        return false;
    };
    let labels = pod.metadata.labels.as_ref();
    selector.iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
}

/// The families of a service's addresses, as slices name their types, the first first: what it has of addresses, and of
/// one that has none what it names.
pub(super) fn families(service: &Service) -> Vec<&'static str> {
    const KNOWN: [&str; 2] = ["IPv4", "IPv6"];
    let spec = service.spec.as_ref();
    let one = spec.and_then(|spec| spec.cluster_ip.as_ref());
    let listed = spec.and_then(|spec| spec.cluster_ips.as_deref()).unwrap_or_default();
    let addresses = listed.iter().chain(one).filter_map(|text| text.parse::<IpAddr>().ok());
    let named = spec.iter().flat_map(|spec| spec.ip_families.iter().flatten());
    let named = named.filter_map(|name| KNOWN.into_iter().find(|known| known == name));
    let mut families: Vec<&str> = Vec::new();
    for family in addresses.map(|address| KNOWN[usize::from(address.is_ipv6())]) {
        // The one address is the first of the list.
        if !families.contains(&family) {
            families.push(family);
        }
    }
    if families.is_empty() {
        families.extend(named);
    }
    if families.is_empty() {
        families.push(KNOWN[0]);
    }
    families
}

/// The addresses that a pod has of a family.
pub(super) fn addresses(pod: &Pod, family: &str) -> Vec<String> {
    let status = pod.status.as_ref();
    let listed = status.and_then(|status| status.pod_ips.as_deref()).unwrap_or_default();
    let first = status.and_then(|status| status.pod_ip.as_ref()).filter(|_| listed.is_empty());
    let all = listed.iter().map(|ip| &ip.ip).chain(first);
    let is_of_family =
        |text: &&String| text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == (family == "IPv6"));
    all.filter(is_of_family).cloned().collect()
}

/// Whether a pod can be an endpoint: it has an address and has not come to its end.
pub(super) fn has_place(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let phase = status.and_then(|s| s.phase.as_deref());
    status.and_then(|s| s.pod_ip.as_deref()).is_some_and(|ip| !ip.is_empty())
        && phase != Some("Succeeded")
        && phase != Some("Failed")
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

pub(super) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

/// The labels that what belongs to a service has of it.
pub(super) fn inherited_labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

pub(super) fn publishes_all(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true)
}

/// The host name that a pod has within the domain of a service, when it says that it is there.
pub(super) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let here = spec.subdomain.as_deref() == service.metadata.name.as_deref();
    spec.hostname.clone().filter(|name| here && !name.is_empty())
}

/// The port of a pod that a service's port leads to; `None` when the pod has no port of that name.
fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        Some(IntOrString::Int(number)) if *number > 0 => Some(*number),
        Some(IntOrString::String(name)) => {
            let is_meant = |candidate: &&ContainerPort| {
                candidate.name.as_ref() == Some(name)
                    && candidate.protocol.as_deref().unwrap_or("TCP") == protocol(port)
            };
            lasting_containers(pod)
                .flat_map(|container| container.ports.iter().flatten())
                .find(is_meant)
                .map(|found| found.container_port)
        }
        _ => Some(port.port),
    }
}

/// The containers that run for as long as the pod does: its own, then the init containers that stay beside them.
fn lasting_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let stays = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    pod.spec.iter().flat_map(move |spec| {
        spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(stays))
    })
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

/// The ports of a service as one pod has them.
pub(super) fn ports_of(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(EndpointPort {
                app_protocol: port.app_protocol.clone(),
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target_port(port, pod)?),
                protocol: Some(protocol(port).to_owned()),
            })
        })
        .collect()
}

pub(super) fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_families_of_a_service_are_those_of_its_addresses() {
        for (spec, expected) in [
            (json!({}), vec!["IPv4"]),
            (json!({"clusterIP": "fd00::1"}), vec!["IPv6"]),
            (json!({"clusterIP": "None", "ipFamilies": ["IPv6", "IPv4"]}), vec!["IPv6", "IPv4"]),
            (json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.0.0.1"]}), vec!["IPv6", "IPv4"]),
            // As an older minik took it.
            (
                json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv6"]}),
                vec!["IPv4"],
            ),
        ] {
            let of = |spec: &Value| -> Service { serde_json::from_value(json!({"spec": spec})).unwrap() };
            assert_eq!(families(&of(&spec)), expected, "{spec}");
        }
    }
}
