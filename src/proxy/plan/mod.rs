//! From services, endpoint slices and pods to what the proxy is to do. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::family::{Address, Range};
use super::state::{Backends, Endpoint, Frontend, Health, Protocol, State};

#[cfg(test)]
mod tests;

/// The label by which an endpoint slice names its service.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// How long a client stays with its endpoint unless the service says so, in seconds.
const STICKY_SECONDS: i32 = 10_800;

/// What of a plan is the node's own affair.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The node's name: policies tell its endpoints from those elsewhere.
    pub node: String,
    /// Whether services have the external addresses that they ask for. Whoever may write a service can take other hosts'
    /// traffic with them (CVE-2020-8554).
    pub external_ips: bool,
}

/// The ranges of services' addresses of one family beside the cluster's own: also of those that are not ready or are to go,
/// since services may have addresses of them still.
pub fn ranges<A: Address>(cidrs: &[Arc<ServiceCIDR>], own: A::Range) -> Vec<A::Range> {
    let all = cidrs.iter().filter_map(|cidr| cidr.spec.as_ref()?.cidrs.as_ref()).flatten();
    let mut ranges: Vec<A::Range> =
        all.filter_map(|text| text.parse().ok()).filter(|range| *range != own).collect();
    ranges.sort_unstable_by_key(|range| range.ends());
    ranges.dedup();
    ranges
}

/// What is to be done for these objects with packets of one family. Who comes first, in the order of the arguments, keeps a contested
/// address and port.
pub fn plan<A: Address>(
    options: &Options,
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    pods: &[Arc<Pod>],
) -> State<A> {
    let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == A::family().slices) {
        let labels = slice.metadata.labels.as_ref();
        if let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME)) {
            by_service.entry((namespace(&slice.metadata), service)).or_default().push(slice);
        }
    }
    let (mut state, mut led) = (State::default(), Vec::<A>::new());
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let slices = by_service.get(&(namespace(&service.metadata), name)).map_or(&[][..], Vec::as_slice);
        if let Some(spec) = service.spec.as_ref().filter(|spec| is_proxied(spec)) {
            plan_service(&mut state, options, service, spec, slices);
            led.extend(slices.iter().flat_map(|slice| lasting::<A>(slice)));
        }
    }
    state.led = Arc::new(led.into_iter().collect());
    for pod in pods {
        plan_host_ports(&mut state, pod);
    }
    state
}

/// Whether a pod can matter to the proxy, by asking for ports of the node.
pub fn has_host_ports(pod: &Pod) -> bool {
    host_ports(pod).next().is_some()
}

fn plan_service<A: Address>(
    state: &mut State<A>,
    options: &Options,
    service: &Service,
    spec: &ServiceSpec,
    slices: &[&EndpointSlice],
) {
    let own: BTreeSet<A> = cluster_addresses(spec);
    // A service of the other family only.
    if own.is_empty() {
        return;
    }
    let sticky = sticky(spec);
    let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let (inside, outside) =
        (is_local(&spec.internal_traffic_policy), is_local(&spec.external_traffic_policy));
    let sources: Option<Vec<A::Range>> = sources::<A>(service, spec);
    let balanced: BTreeSet<A> = balancer_addresses(service);
    let external = match options.external_ips {
        true => addresses(spec.external_ips.iter().flatten()),
        false => BTreeSet::new(),
    };
    for port in spec.ports.iter().flatten() {
        let Some(protocol) = protocol(port.protocol.as_deref()) else { continue };
        let Ok(number) = u16::try_from(port.port) else { continue };
        let behind = |local: bool| {
            let here = local.then_some(options.node.as_str());
            Backends { endpoints: endpoints(port, protocol, slices, here), sticky, sources: None }
        };
        let internal = behind(inside);
        let other = (outside != inside).then(|| behind(outside));
        let from_outside = other.as_ref().unwrap_or(&internal);
        let mut lead = |address: &A, backends: &Backends<A>, sources: Option<&Vec<A::Range>>| {
            let frontend = Frontend { address: Some(*address), protocol, port: number };
            let backends = || Backends { sources: sources.cloned(), ..backends.clone() };
            state.frontends.entry(frontend).or_insert_with(backends);
        };
        for address in &own {
            // Where it is the balancer's address as well, it is open to whom the balancer is.
            lead(address, &internal, sources.as_ref().filter(|_| balanced.contains(address)));
        }
        for address in balanced.difference(&own) {
            lead(address, from_outside, sources.as_ref());
        }
        for address in &external {
            lead(address, from_outside, None);
        }
        let node_port = port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        if let Some(port) = node_port {
            let frontend = Frontend { address: None, protocol, port };
            state.frontends.entry(frontend).or_insert_with(|| from_outside.clone());
            state.local.entry((protocol, port)).or_insert_with(|| from_outside.clone());
        }
    }
    let asked =
        spec.health_check_node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    if let Some(port) = asked.filter(|_| outside && spec.type_.as_deref() == Some("LoadBalancer")) {
        let here = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        let here = here.filter(|endpoint| is_ready(endpoint) && is_on(endpoint, &options.node));
        let addresses: BTreeSet<&String> = here.flat_map(|endpoint| &endpoint.addresses).collect();
        state.health.entry(port).or_insert_with(|| Health {
            namespace: namespace(&service.metadata).to_owned(),
            name: service.metadata.name.clone().unwrap_or_default(),
            endpoints: addresses.len(),
        });
    }
}

fn plan_host_ports<A: Address>(state: &mut State<A>, pod: &Pod) {
    let Some(address) = pod_address::<A>(pod) else { return };
    for (host, protocol, port, target) in host_ports(pod) {
        let host: Option<A> = match host.as_deref() {
            None => None,
            // An address of the other family is served by the other plan.
            Some(text) => match text.parse::<A>() {
                Ok(address) => Some(address).filter(|address| *address != A::ANY),
                Err(_) => continue,
            },
        };
        let backends =
            Backends { endpoints: vec![Endpoint { address, port: target }], ..Backends::default() };
        if host.is_none_or(|host| is_loopback(host)) {
            state.local.entry((protocol, port)).or_insert_with(|| backends.clone());
        }
        if !host.is_some_and(|host| is_loopback(host)) {
            let frontend = Frontend { address: host, protocol, port };
            state.frontends.entry(frontend).or_insert(backends);
        }
    }
}

/// Where a pod is reached, as long as it has not finished.
pub(super) fn pod_address<A: Address>(pod: &Pod) -> Option<A> {
    let status = pod.status.as_ref()?;
    let finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let all = status.pod_ip.iter().chain(status.pod_ips.iter().flatten().map(|one| &one.ip));
    all.filter(|_| !finished).find_map(|text| text.parse().ok())
}

/// The host ports of a pod: on which address (as text), by which protocol, on which port, to which port of the pod.
fn host_ports(pod: &Pod) -> impl Iterator<Item = (Option<String>, Protocol, u16, u16)> {
    let spec = pod.spec.as_ref().filter(|spec| spec.host_network != Some(true));
    let containers =
        spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        let number = |port: i32| u16::try_from(port).ok().filter(|port| *port > 0);
        Some((
            port.host_ip.clone().filter(|address| !address.is_empty()),
            protocol(port.protocol.as_deref())?,
            number(port.host_port?)?,
            number(port.container_port)?,
        ))
    })
}

fn is_loopback<A: Address>(address: A) -> bool {
    A::LOOPBACK.has(address)
}

fn is_proxied(spec: &ServiceSpec) -> bool {
    let headless = matches!(spec.cluster_ip.as_deref(), None | Some("" | "None"));
    spec.type_.as_deref() != Some("ExternalName") && !headless
}

fn cluster_addresses<A: Address>(spec: &ServiceSpec) -> BTreeSet<A> {
    addresses(spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten()))
}

/// The addresses that a service's load balancer has.
fn balancer_addresses<A: Address>(service: &Service) -> BTreeSet<A> {
    let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = ingress.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    // A balancer that wants its traffic to pass through itself says so.
    let direct = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    addresses(direct.filter_map(|ingress| ingress.ip.as_ref()))
}

fn addresses<'a, A: Address>(texts: impl Iterator<Item = &'a String>) -> BTreeSet<A> {
    texts.filter_map(|text| text.parse().ok()).filter(|address: &A| address.can_be_led_elsewhere()).collect()
}

/// Where a load balancer's clients must come from, by the service's field or the annotation that came before it; ranges
/// of the other family have no clients here.
fn sources<A: Address>(service: &Service, spec: &ServiceSpec) -> Option<Vec<A::Range>> {
    const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let annotated = || {
        let all = service.metadata.annotations.as_ref()?.get(ANNOTATION)?;
        Some(all.split(',').map(str::to_owned).collect::<Vec<_>>()).filter(|_| !all.trim().is_empty())
    };
    let field = spec.load_balancer_source_ranges.clone().filter(|ranges| !ranges.is_empty());
    let ranges = field.or_else(annotated)?;
    Some(ranges.iter().filter_map(|range| range.trim().parse().ok()).collect())
}

fn sticky(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|client| client.timeout_seconds).unwrap_or(STICKY_SECONDS);
    u32::try_from(seconds).ok().filter(|seconds| *seconds > 0)
}

/// The endpoints of a service port, of those on a node where one is given: the ready ones; when there is none, those that
/// end but still serve.
fn endpoints<A: Address>(
    port: &ServicePort,
    protocol: Protocol,
    slices: &[&EndpointSlice],
    node: Option<&str>,
) -> Vec<Endpoint<A>> {
    let select = |wanted: &dyn Fn(&SliceEndpoint) -> bool| -> Vec<Endpoint<A>> {
        let mut found = BTreeSet::new();
        for slice in slices {
            let Some(number) = target_port(port, protocol, slice) else { continue };
            let here = slice.endpoints.iter().flatten().filter(|e| node.is_none_or(|node| is_on(e, node)));
            let parsed =
                here.filter(|e| wanted(e)).flat_map(|e| &e.addresses).filter_map(|text| text.parse().ok());
            found.extend(parsed.map(|address| Endpoint { address, port: number }));
        }
        found.into_iter().collect()
    };
    let ready = select(&is_ready);
    if !ready.is_empty() {
        return ready;
    }
    select(&|endpoint| condition(endpoint, |c| c.serving) == Some(true) && ends(endpoint))
}

/// The addresses of a slice that are led to and do not end.
fn lasting<A: Address>(slice: &EndpointSlice) -> impl Iterator<Item = A> {
    let lasting = slice.endpoints.iter().flatten().filter(|endpoint| is_ready(endpoint) && !ends(endpoint));
    lasting.flat_map(|endpoint| &endpoint.addresses).filter_map(|text| text.parse().ok())
}

/// Unknown is ready.
fn is_ready(endpoint: &SliceEndpoint) -> bool {
    condition(endpoint, |c| c.ready).unwrap_or(true)
}

fn ends(endpoint: &SliceEndpoint) -> bool {
    condition(endpoint, |c| c.terminating) == Some(true)
}

fn is_on(endpoint: &SliceEndpoint, node: &str) -> bool {
    endpoint.node_name.as_deref() == Some(node)
}

fn condition(
    endpoint: &SliceEndpoint,
    which: impl Fn(&k8s_openapi::api::discovery::v1::EndpointConditions) -> Option<bool>,
) -> Option<bool> {
    endpoint.conditions.as_ref().and_then(which)
}

/// The port of a slice that stands for a service port: the one of the same name and protocol.
fn target_port(port: &ServicePort, protocol: Protocol, slice: &EndpointSlice) -> Option<u16> {
    let candidates = slice.ports.iter().flatten();
    let wanted = port.name.as_deref().unwrap_or_default();
    let same = |candidate: &&k8s_openapi::api::discovery::v1::EndpointPort| {
        candidate.name.as_deref().unwrap_or_default() == wanted
            && self::protocol(candidate.protocol.as_deref()) == Some(protocol)
    };
    let found = candidates.into_iter().find(same)?;
    let number = found.port.or(match port.target_port {
        Some(IntOrString::Int(number)) => Some(number),
        _ => None,
    })?;
    u16::try_from(number).ok().filter(|number| *number > 0)
}

pub(super) fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

pub(super) fn namespace(metadata: &ObjectMeta) -> &str {
    metadata.namespace.as_deref().unwrap_or_default()
}
