//! The EndpointSlices of services with a selector, and how a set of wanted slices is made of those there are. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::members::{
    addresses, families, hostname, inherited_labels, is_ready, ports_of, publishes_all, reference,
};
use super::{Action, SERVICE_NAME, delete_all, listed};

/// The label that says whose slice it is.
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// This controller's name, as Kubernetes' own has it.
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
/// kube-controller-manager's `--max-endpoints-per-slice`.
const PER_SLICE: usize = 100;

/// What one slice holds: endpoints with the same ports.
pub(super) type Content = (Vec<EndpointPort>, Vec<Endpoint>);

/// Whether a slice is a service's and was made by this manager.
pub(super) fn is_managed(slice: &EndpointSlice, namespace: &str, service: &str, manager: &str) -> bool {
    let label = |key: &str| slice.metadata.labels.as_ref().and_then(|l| l.get(key)).map(String::as_str);
    slice.metadata.namespace.as_deref() == Some(namespace)
        && label(SERVICE_NAME) == Some(service)
        && label(MANAGED_BY) == Some(manager)
}

/// What to do so that the slices of a service say what it and its pods say: for each of its families, endpoints in
/// groups of equal ports, each in slices of at most [`PER_SLICE`].
pub(super) fn plan(service: &Service, members: &[&Arc<Pod>], present: &[Arc<EndpointSlice>]) -> Vec<Action> {
    let families = families(service);
    let mut actions = Vec::new();
    for family in &families {
        let of_family: Vec<Arc<EndpointSlice>> =
            present.iter().filter(|slice| slice.address_type == *family).cloned().collect();
        actions.extend(fit(&template(service, family), wanted(service, members, family), &of_family));
    }
    // Their type cannot change.
    let others = present.iter().filter(|slice| !families.contains(&slice.address_type.as_str()));
    actions.extend(delete_all(others));
    actions
}

fn wanted(service: &Service, members: &[&Arc<Pod>], family: &str) -> Vec<Content> {
    let mut groups: Vec<Content> = Vec::new();
    for pod in members {
        let addresses = addresses(pod, family);
        if !addresses.is_empty() {
            add(&mut groups, ports_of(service, pod), endpoint(service, pod, addresses));
        }
    }
    let mut wanted: Vec<Content> = groups
        .into_iter()
        .flat_map(|(ports, endpoints)| {
            endpoints.chunks(PER_SLICE).map(|chunk| (ports.clone(), chunk.to_vec())).collect::<Vec<_>>()
        })
        .collect();
    if wanted.is_empty() {
        // A service without endpoints has one empty slice, so that watchers see it.
        wanted.push((Vec::new(), Vec::new()));
    }
    wanted
}

fn template(service: &Service, family: &str) -> EndpointSlice {
    EndpointSlice {
        address_type: family.to_owned(),
        endpoints: None,
        metadata: ObjectMeta {
            generate_name: service.metadata.name.as_ref().map(|name| format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: Some(vec![owner("Service", &service.metadata)]),
            ..ObjectMeta::default()
        },
        ports: None,
    }
}

/// Puts an endpoint to those with the same ports.
pub(super) fn add(groups: &mut Vec<Content>, ports: Vec<EndpointPort>, endpoint: Endpoint) {
    match groups.iter_mut().find(|(others, _)| *others == ports) {
        Some((_, endpoints)) => endpoints.push(endpoint),
        None => groups.push((ports, vec![endpoint])),
    }
}

/// Makes slices like the template with the wanted contents, out of those that are there as far as they go.
pub(super) fn fit(
    template: &EndpointSlice,
    wanted: Vec<Content>,
    present: &[Arc<EndpointSlice>],
) -> Vec<Action> {
    let mut left: Vec<&Arc<EndpointSlice>> = present.iter().collect();
    let mut actions = Vec::new();
    for (ports, endpoints) in wanted {
        // The slice with these very endpoints, or with these ports, or any.
        let best = left
            .iter()
            .position(|s| listed(&s.endpoints) == endpoints && listed(&s.ports) == ports)
            .or_else(|| left.iter().position(|s| listed(&s.ports) == ports))
            .or_else(|| (!left.is_empty()).then_some(0));
        let meta = &template.metadata;
        match best.map(|index| left.remove(index)) {
            Some(slice) => {
                let same = listed(&slice.endpoints) == endpoints
                    && listed(&slice.ports) == ports
                    && slice.metadata.labels == meta.labels
                    && meta
                        .annotations
                        .iter()
                        .all(|wanted| slice.metadata.annotations.as_ref() == Some(wanted));
                if !same {
                    let mut changed = EndpointSlice::clone(slice);
                    changed.metadata.labels = meta.labels.clone();
                    if meta.annotations.is_some() {
                        changed.metadata.annotations = meta.annotations.clone();
                    }
                    changed.endpoints = Some(endpoints);
                    changed.ports = Some(ports);
                    actions.push(Action::UpdateSlice(Box::new(changed)));
                }
            }
            None => actions.push(Action::CreateSlice(Box::new(EndpointSlice {
                endpoints: Some(endpoints),
                ports: Some(ports),
                ..template.clone()
            }))),
        }
    }
    actions.extend(left.iter().filter_map(|s| s.metadata.name.clone()).map(Action::DeleteSlice));
    actions
}

fn endpoint(service: &Service, pod: &Pod, addresses: Vec<String>) -> Endpoint {
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let serving = is_ready(pod);
    let ready = publishes_all(service) || serving && !terminating;
    let node = pod.spec.as_ref().and_then(|s| s.node_name.clone());
    Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name: node.clone(),
        hints: node
            .filter(|_| ready && stays_on_its_node(service))
            .map(|name| EndpointHints { for_nodes: Some(vec![ForNode { name }]), for_zones: None }),
        target_ref: Some(reference(pod)),
        ..Endpoint::default()
    }
}

/// Whether clients are to be led to endpoints of their own node. Nodes here are in no zone.
fn stays_on_its_node(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.traffic_distribution.as_deref()) == Some("PreferSameNode")
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = inherited_labels(service);
    labels.insert(SERVICE_NAME.to_owned(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

/// What a slice belongs to: an object of the core group.
pub(super) fn owner(kind: &str, meta: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: "v1".into(),
        kind: kind.to_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
