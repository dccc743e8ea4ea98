//! From services, endpoint slices and pods to what the proxy is to do. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::state::{Backends, Endpoint, Frontend, Protocol, State};

/// The label by which an endpoint slice names its service.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// How long a client stays with its endpoint unless the service says so, in seconds.
const STICKY_SECONDS: i32 = 10_800;

/// What is to be done for these objects. Who comes first, in the order of the arguments, keeps a contested
/// address and port.
pub fn plan(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>], pods: &[Arc<Pod>]) -> State {
    let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let labels = slice.metadata.labels.as_ref();
        if let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME)) {
            by_service.entry((namespace(&slice.metadata), service)).or_default().push(slice);
        }
    }
    let mut state = State::default();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let slices = by_service.get(&(namespace(&service.metadata), name)).map_or(&[][..], Vec::as_slice);
        if let Some(spec) = service.spec.as_ref().filter(|spec| is_proxied(spec)) {
            plan_service(&mut state, service, spec, slices);
        }
    }
    for pod in pods {
        plan_host_ports(&mut state, pod);
    }
    state
}

/// Whether a pod can matter to the proxy, by asking for ports of the node.
pub fn has_host_ports(pod: &Pod) -> bool {
    host_ports(pod).next().is_some()
}

fn plan_service(state: &mut State, service: &Service, spec: &ServiceSpec, slices: &[&EndpointSlice]) {
    let sticky = sticky(spec);
    let addresses = cluster_addresses(service, spec);
    for port in spec.ports.iter().flatten() {
        let Some(protocol) = protocol(port.protocol.as_deref()) else { continue };
        let Ok(number) = u16::try_from(port.port) else { continue };
        let backends = Backends { endpoints: endpoints(port, protocol, slices), sticky };
        for address in &addresses {
            let frontend = Frontend { address: Some(*address), protocol, port: number };
            state.frontends.entry(frontend).or_insert_with(|| backends.clone());
        }
        let node_port = port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        if let Some(port) = node_port {
            let frontend = Frontend { address: None, protocol, port };
            state.frontends.entry(frontend).or_insert_with(|| backends.clone());
            state.local.entry((protocol, port)).or_insert(backends);
        }
    }
}

fn plan_host_ports(state: &mut State, pod: &Pod) {
    let Some(address) = pod_address(pod) else { return };
    for (host, protocol, port, target) in host_ports(pod) {
        let backends = Backends { endpoints: vec![Endpoint { address, port: target }], sticky: None };
        if host.is_none_or(|host| host.is_loopback()) {
            state.local.entry((protocol, port)).or_insert_with(|| backends.clone());
        }
        if !host.is_some_and(|host| host.is_loopback()) {
            let frontend = Frontend { address: host, protocol, port };
            state.frontends.entry(frontend).or_insert(backends);
        }
    }
}

/// Where a pod is reached, as long as it has not finished.
pub(super) fn pod_address(pod: &Pod) -> Option<Ipv4Addr> {
    let status = pod.status.as_ref()?;
    let finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    status.pod_ip.as_deref().filter(|_| !finished)?.parse().ok()
}

/// The host ports of a pod: on which address, by which protocol, on which port, to which port of the pod.
fn host_ports(pod: &Pod) -> impl Iterator<Item = (Option<Ipv4Addr>, Protocol, u16, u16)> {
    let spec = pod.spec.as_ref().filter(|spec| spec.host_network != Some(true));
    let containers =
        spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        let number = |port: i32| u16::try_from(port).ok().filter(|port| *port > 0);
        let host = match port.host_ip.as_deref() {
            None | Some("" | "0.0.0.0") => None,
            // An address of another family is not served here.
            Some(address) => Some(address.parse().ok()?),
        };
        Some((
            host,
            protocol(port.protocol.as_deref())?,
            number(port.host_port?)?,
            number(port.container_port)?,
        ))
    })
}

fn is_proxied(spec: &ServiceSpec) -> bool {
    let headless = matches!(spec.cluster_ip.as_deref(), None | Some("" | "None"));
    spec.type_.as_deref() != Some("ExternalName") && !headless
}

/// Every address that is the service's own: cluster addresses and those of its load balancer. External addresses are
/// left out: whoever may write a service could take other hosts' traffic with them (CVE-2020-8554).
fn cluster_addresses(service: &Service, spec: &ServiceSpec) -> BTreeSet<Ipv4Addr> {
    let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = ingress.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    // A balancer that wants its traffic to pass through itself says so.
    let direct = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    let texts = spec
        .cluster_ip
        .iter()
        .chain(spec.cluster_ips.iter().flatten())
        .chain(direct.filter_map(|ingress| ingress.ip.as_ref()));
    texts.filter_map(|text| text.parse().ok()).filter(can_be_led_elsewhere).collect()
}

/// Not for addresses that mean this host, or every one: leading those elsewhere would take the host's own services
/// away from it.
fn can_be_led_elsewhere(address: &Ipv4Addr) -> bool {
    !(address.is_loopback()
        || address.is_unspecified()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast())
}

fn sticky(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|client| client.timeout_seconds).unwrap_or(STICKY_SECONDS);
    u32::try_from(seconds).ok().filter(|seconds| *seconds > 0)
}

/// The endpoints of a service port: the ready ones; when there is none, those that end but still serve.
fn endpoints(port: &ServicePort, protocol: Protocol, slices: &[&EndpointSlice]) -> Vec<Endpoint> {
    let select = |wanted: &dyn Fn(&SliceEndpoint) -> bool| -> Vec<Endpoint> {
        let mut found = BTreeSet::new();
        for slice in slices {
            let Some(number) = target_port(port, protocol, slice) else { continue };
            let addresses = slice.endpoints.iter().flatten().filter(|e| wanted(e)).flat_map(|e| &e.addresses);
            let parsed = addresses.filter_map(|text| text.parse().ok());
            found.extend(parsed.map(|address| Endpoint { address, port: number }));
        }
        found.into_iter().collect()
    };
    let ready = select(&|endpoint| condition(endpoint, |c| c.ready).unwrap_or(true));
    if !ready.is_empty() {
        return ready;
    }
    select(&|endpoint| {
        condition(endpoint, |c| c.serving) == Some(true)
            && condition(endpoint, |c| c.terminating) == Some(true)
    })
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

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    fn object<T: DeserializeOwned>(value: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn service(spec: Value) -> Arc<Service> {
        object(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec}))
    }

    fn slice(name: &str, ports: Value, endpoints: Value) -> Arc<EndpointSlice> {
        object(json!({
            "metadata": {"name": name, "namespace": "default", "labels": {SERVICE_NAME: "web"}},
            "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
        }))
    }

    fn http() -> Value {
        json!({"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80, "targetPort": "http"}]})
    }

    /// Frontends and endpoints as text: `ADDRESS:PORT/PROTOCOL -> ADDRESS:PORT …`.
    fn show(state: &State) -> Vec<String> {
        let lines = state.frontends.iter().map(|(frontend, backends)| {
            let address = frontend.address.map_or("node".into(), |address| address.to_string());
            let targets: Vec<_> =
                backends.endpoints.iter().map(|e| format!("{}:{}", e.address, e.port)).collect();
            format!("{address}:{}/{:?} -> {}", frontend.port, frontend.protocol, targets.join(" "))
        });
        lines.collect()
    }

    #[test]
    fn only_ready_endpoints_count_unless_all_are_ending() {
        let ports = json!([{"name": "http", "port": 8080, "protocol": "TCP"}]);
        let cases = [
            (json!([]), "10.96.0.7:80/Tcp -> "),
            (
                json!([{"addresses": ["10.0.0.3"]}, {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
                       {"addresses": ["10.0.0.4"], "conditions": {"ready": false}}]),
                "10.96.0.7:80/Tcp -> 10.0.0.2:8080 10.0.0.3:8080",
            ),
            (
                json!([{"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                       {"addresses": ["10.0.0.4"], "conditions": {"ready": false, "serving": false, "terminating": true}},
                       {"addresses": ["10.0.0.5"], "conditions": {"ready": false, "serving": true, "terminating": false}}]),
                "10.96.0.7:80/Tcp -> 10.0.0.3:8080",
            ),
            (json!([{"addresses": ["nonsense"]}]), "10.96.0.7:80/Tcp -> "),
        ];
        for (endpoints, expected) in cases {
            let state = plan(&[service(http())], &[slice("a", ports.clone(), endpoints.clone())], &[]);
            assert_eq!(show(&state), [expected], "{endpoints}");
        }
    }

    #[test]
    fn ports_match_by_name_and_protocol_and_slices_may_differ() {
        let spec = json!({"type": "NodePort", "clusterIP": "10.96.0.10", "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053},
            {"name": "dns-tcp", "port": 53},
        ]});
        let one =
            json!([{"name": "dns", "port": 5353, "protocol": "UDP"}, {"name": "dns-tcp", "port": 5353}]);
        let other = json!([{"name": "dns", "port": 1053, "protocol": "UDP"}]);
        let state = plan(
            &[service(spec)],
            &[
                slice("a", one, json!([{"addresses": ["10.0.0.2"]}])),
                slice("b", other, json!([{"addresses": ["10.0.0.9", "10.0.0.2"]}])),
            ],
            &[],
        );
        assert_eq!(
            show(&state),
            [
                "node:30053/Udp -> 10.0.0.2:1053 10.0.0.2:5353 10.0.0.9:1053",
                "10.96.0.10:53/Tcp -> 10.0.0.2:5353",
                "10.96.0.10:53/Udp -> 10.0.0.2:1053 10.0.0.2:5353 10.0.0.9:1053",
            ]
        );
        assert_eq!(state.local.keys().collect::<Vec<_>>(), [&(Protocol::Udp, 30053)]);
    }

    #[test]
    fn services_without_an_address_of_their_own_are_left_out() {
        for spec in [
            json!({"clusterIP": "None", "ports": [{"port": 80}]}),
            json!({"type": "ExternalName", "externalName": "example.org"}),
            json!({"clusterIP": "", "ports": [{"port": 80}]}),
            json!({"clusterIP": "fd00::1", "ports": [{"port": 80}]}),
        ] {
            assert_eq!(plan(&[service(spec.clone())], &[], &[]), State::default(), "{spec}");
        }
    }

    #[test]
    fn a_service_has_its_cluster_address_and_its_balancers() {
        for (external, ingress, expected) in [
            (json!([]), json!([]), vec!["10.96.0.7:80/Tcp -> "]),
            (json!([]), json!([{"ip": "192.0.2.9"}]), vec!["10.96.0.7:80/Tcp -> ", "192.0.2.9:80/Tcp -> "]),
            (
                json!([]),
                json!([{"ip": "192.0.2.9", "ipMode": "VIP"}, {"ip": "192.0.2.8", "ipMode": "Proxy"}]),
                vec!["10.96.0.7:80/Tcp -> ", "192.0.2.9:80/Tcp -> "],
            ),
            (json!([]), json!([{"hostname": "balancer.example"}]), vec!["10.96.0.7:80/Tcp -> "]),
            // CVE-2020-8554.
            (json!(["192.0.2.1", "127.0.0.1"]), json!([]), vec!["10.96.0.7:80/Tcp -> "]),
            (
                json!([]),
                json!([{"ip": "127.0.0.1"}, {"ip": "0.0.0.0"}, {"ip": "169.254.169.254"}, {"ip": "224.0.0.1"},
                       {"ip": "255.255.255.255"}]),
                vec!["10.96.0.7:80/Tcp -> "],
            ),
        ] {
            let spec = json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "externalIPs": external,
                              "ports": [{"port": 80}]});
            let mut service = (*service(spec)).clone();
            service.status =
                serde_json::from_value(json!({"loadBalancer": {"ingress": ingress.clone()}})).unwrap();
            assert_eq!(show(&plan(&[Arc::new(service)], &[], &[])), expected, "{external} {ingress}");
        }
    }

    #[test]
    fn affinity_has_a_default_time() {
        for (affinity, sticky) in [
            (json!({}), None),
            (json!({"sessionAffinity": "None"}), None),
            (json!({"sessionAffinity": "ClientIP"}), Some(10_800)),
            (
                json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}),
                Some(5),
            ),
        ] {
            let mut spec = http();
            spec.as_object_mut().unwrap().extend(affinity.as_object().unwrap().clone());
            let state = plan(&[service(spec)], &[], &[]);
            assert_eq!(state.frontends.values().next().unwrap().sticky, sticky, "{affinity}");
        }
    }

    #[test]
    fn host_ports_lead_to_running_pods() {
        let pod = |status: Value, host: Value| {
            let port = json!({"containerPort": 80, "hostPort": 8080, "hostIP": host});
            object::<Pod>(json!({"metadata": {"name": "a"}, "status": status,
                "spec": {"containers": [{"name": "c", "ports": [port, {"containerPort": 81}]}]}}))
        };
        let running = json!({"phase": "Running", "podIP": "10.0.0.2"});
        for (status, host, frontend, local) in [
            (running.clone(), json!(null), vec!["node:8080/Tcp -> 10.0.0.2:80"], 1),
            (running.clone(), json!("192.0.2.1"), vec!["192.0.2.1:8080/Tcp -> 10.0.0.2:80"], 0),
            (running, json!("127.0.0.1"), vec![], 1),
            (json!({"phase": "Succeeded", "podIP": "10.0.0.2"}), json!(null), vec![], 0),
            (json!({"phase": "Pending"}), json!(null), vec![], 0),
        ] {
            let pod = pod(status.clone(), host.clone());
            assert!(has_host_ports(&pod));
            let state = plan(&[], &[], &[pod]);
            assert_eq!(
                (show(&state), state.local.len()),
                (frontend.into_iter().map(String::from).collect(), local),
                "{status} {host}"
            );
        }
    }

    #[test]
    fn who_comes_first_keeps_a_contested_port() {
        let spec = |address: &str| json!({"clusterIP": address, "ports": [{"port": 80, "nodePort": 30080}]});
        let first = service(spec("10.96.0.1"));
        let other: Arc<Service> =
            object(json!({"metadata": {"name": "other", "namespace": "default"}, "spec": spec("10.96.0.2")}));
        let endpoints = slice("a", json!([{"port": 80}]), json!([{"addresses": ["10.0.0.2"]}]));
        let state = plan(&[first, other], &[endpoints], &[]);
        assert_eq!(show(&state)[0], "node:30080/Tcp -> 10.0.0.2:80");
    }
}
