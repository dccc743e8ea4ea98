//! Where a service's port is served (pure).

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceBackendPort;

use super::route::Target;

/// The label by which a slice names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Services and their slices by namespace and name.
pub struct Services<'a> {
    services: HashMap<(&'a str, &'a str), &'a Service>,
    slices: HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>,
}

/// Why a backend cannot be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// There is no such service, which may come yet.
    Service,
    /// The service has no such port.
    Port,
}

impl<'a> Services<'a> {
    /// Of all objects.
    pub fn new(services: &'a [Arc<Service>], slices: &'a [Arc<EndpointSlice>]) -> Services<'a> {
        let name = |name: &'a Option<String>| name.as_deref().unwrap_or_default();
        let mut by_service: HashMap<_, Vec<&EndpointSlice>> = HashMap::new();
        for slice in slices {
            let labels = slice.metadata.labels.as_ref();
            if let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME)) {
                by_service
                    .entry((name(&slice.metadata.namespace), service.as_str()))
                    .or_default()
                    .push(slice);
            }
        }
        let of = |service: &'a Arc<Service>| {
            ((name(&service.metadata.namespace), name(&service.metadata.name)), &**service)
        };
        Services { services: services.iter().map(of).collect(), slices: by_service }
    }

    /// Where a service's port is served; without a port, its first one. With `own_address`, by the service's address.
    pub fn target(
        &self,
        namespace: &str,
        name: &str,
        port: Option<&ServiceBackendPort>,
        own_address: bool,
    ) -> Result<Target, Missing> {
        let service = self.services.get(&(namespace, name)).ok_or(Missing::Service)?;
        let spec = service.spec.as_ref().ok_or(Missing::Service)?;
        let found = spec.ports.iter().flatten().find(|own| port.is_none_or(|port| is(own, port)));
        if spec.type_.as_deref() == Some("ExternalName") {
            let host = spec.external_name.clone().ok_or(Missing::Service)?;
            // Such a service needs no ports of its own.
            let number =
                found.map(|own| own.port).or(port.and_then(|port| port.number)).ok_or(Missing::Port)?;
            return Ok(Target::Name(host, u16::try_from(number).map_err(|_| Missing::Port)?));
        }
        let found = found.ok_or(Missing::Port)?;
        if own_address {
            let address = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok());
            let number = u16::try_from(found.port).map_err(|_| Missing::Port)?;
            return Ok(Target::Endpoints(
                address.map(|ip| SocketAddr::new(ip, number)).into_iter().collect(),
            ));
        }
        let slices = self.slices.get(&(namespace, name)).map(Vec::as_slice).unwrap_or_default();
        Ok(Target::Endpoints(addresses(slices, found.name.as_deref().unwrap_or_default())))
    }

    /// The addresses of endpoints that are ready, in any slice, and do not end.
    pub fn lasting(&self) -> HashSet<IpAddr> {
        let endpoints = self.slices.values().flatten().flat_map(|slice| slice.endpoints.iter().flatten());
        let lasting = endpoints.filter(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            conditions.and_then(|c| c.ready).unwrap_or(true)
                && conditions.and_then(|c| c.terminating) != Some(true)
        });
        lasting.flat_map(|endpoint| &endpoint.addresses).filter_map(|text| text.parse().ok()).collect()
    }
}

fn is(own: &ServicePort, wanted: &ServiceBackendPort) -> bool {
    let tcp = own.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    tcp && match &wanted.name {
        Some(name) => own.name.as_deref() == Some(name),
        None => wanted.number == Some(own.port),
    }
}

/// The ready endpoints of a port; when there are none, those that still serve while they end.
fn addresses(slices: &[&EndpointSlice], port: &str) -> Vec<SocketAddr> {
    let (mut ready, mut ending) = (Vec::new(), Vec::new());
    for slice in slices {
        let ports = slice.ports.iter().flatten();
        let number =
            ports.filter(|own| own.name.as_deref().unwrap_or_default() == port).find_map(|own| own.port);
        let Some(number) = number.and_then(|number| u16::try_from(number).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let list = match (conditions.ready.unwrap_or(true), conditions.serving, conditions.terminating) {
                (true, ..) => &mut ready,
                (false, Some(true), Some(true)) => &mut ending,
                _ => continue,
            };
            let parsed = endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok());
            list.extend(parsed.filter(|ip| may_be_asked(*ip)).map(|ip| SocketAddr::new(ip, number)));
        }
    }
    let mut list = if ready.is_empty() { ending } else { ready };
    list.sort_unstable();
    list.dedup();
    list
}

/// Whether requests may be led to this address. What listens on the host's loopback, or answers on its link alone, was
/// never meant for those who can write an endpoint or a name.
pub fn may_be_asked(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn endpoint(address: &str, ready: bool, serving: bool, terminating: bool) -> Value {
        json!({"addresses": [address],
               "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
    }

    fn target(spec: Value, endpoints: Value, port: Value, own_address: bool) -> Result<Target, Missing> {
        let service = json!({"metadata": {"namespace": "d", "name": "web"}, "spec": spec});
        let slice = json!({"metadata": {"namespace": "d", "name": "web-1", "labels": {SERVICE_NAME: "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}, {"name": "admin", "port": 9090}],
            "endpoints": endpoints});
        let services = [Arc::new(serde_json::from_value(service).unwrap())];
        let slices = [Arc::new(serde_json::from_value(slice).unwrap())];
        let port: Option<ServiceBackendPort> = serde_json::from_value(port).unwrap();
        Services::new(&services, &slices).target("d", "web", port.as_ref(), own_address)
    }

    #[test]
    fn ports_are_found_by_number_and_name() {
        let spec = || {
            json!({"clusterIP": "10.96.0.7", "ports": [
                {"name": "http", "port": 80, "targetPort": 8080}, {"name": "admin", "port": 81}]})
        };
        let ready = || json!([endpoint("10.244.0.5", true, true, false)]);
        let at = |address: &str| Ok(Target::Endpoints(vec![address.parse().unwrap()]));
        for (port, own_address, found) in [
            (json!({"number": 80}), false, at("10.244.0.5:8080")),
            (json!({"name": "admin"}), false, at("10.244.0.5:9090")),
            (json!(null), false, at("10.244.0.5:8080")),
            (json!({"number": 81}), true, at("10.96.0.7:81")),
            (json!({"number": 8080}), false, Err(Missing::Port)),
        ] {
            assert_eq!(target(spec(), ready(), port.clone(), own_address), found, "{port}");
        }
        let external = json!({"type": "ExternalName", "externalName": "db.example"});
        let named = Ok(Target::Name("db.example".into(), 443));
        assert_eq!(target(external, json!([]), json!({"number": 443}), false), named);
        let nothing = Services::new(&[], &[]).target("d", "web", None, false);
        assert_eq!(nothing, Err(Missing::Service));
    }

    #[test]
    fn ready_endpoints_serve_and_ending_ones_only_without_them() {
        let spec = || json!({"ports": [{"name": "http", "port": 80}]});
        let (a, b) = (
            |ready| endpoint("10.244.0.5", ready, true, !ready),
            || endpoint("10.244.0.6", true, true, false),
        );
        for (endpoints, found) in [
            (json!([a(true), b()]), &["10.244.0.5:8080", "10.244.0.6:8080"][..]),
            (json!([a(false), b()]), &["10.244.0.6:8080"]),
            (json!([a(false)]), &["10.244.0.5:8080"]),
            (json!([endpoint("10.244.0.5", false, false, true)]), &[]),
            (json!([{"addresses": ["10.244.0.5"]}]), &["10.244.0.5:8080"]),
            (json!([{"addresses": ["127.0.0.1"]}, {"addresses": ["169.254.169.254"]}]), &[]),
        ] {
            let found = found.iter().map(|address| address.parse().unwrap()).collect();
            assert_eq!(target(spec(), endpoints, json!({"number": 80}), false), Ok(Target::Endpoints(found)));
        }
    }
}
