//! Where a proxied request goes: what the name in its path means, and which address and port that is (pure).
//!
//! Sources: apimachinery `pkg/util/net/port_split.go`, kubernetes `pkg/registry/core/{pod,service,node}`,
//! k8s.io/apiserver `pkg/util/proxy`.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use crate::api::status::Status;

/// The name of a proxied object as the path has it: `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named<'a> {
    /// The object's name.
    pub name: &'a str,
    /// A number or a port's name; empty when none is given.
    pub port: &'a str,
    /// Whether the backend speaks TLS.
    pub tls: bool,
}

impl<'a> Named<'a> {
    /// Reads the name of a `pod`, `service` or `node`.
    pub fn parse(what: &str, text: &'a str) -> Result<Named<'a>, Status> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => ("", "", ""),
        };
        if name.is_empty() || !["", "http", "https"].contains(&scheme) {
            return Err(Status::bad_request(format!("invalid {what} request {text:?}")));
        }
        Ok(Named { name, port, tls: scheme == "https" })
    }

    fn number(&self) -> Option<u16> {
        self.port.parse().ok()
    }

    /// The port when nothing says otherwise.
    fn usual(&self) -> u16 {
        if self.tls { 443 } else { 80 }
    }

    /// A port that can only be a number.
    fn plain_port(&self) -> Result<u16, Status> {
        match self.port {
            "" => Ok(self.usual()),
            text => self.number().ok_or_else(|| Status::bad_request(format!("invalid port {text:?}"))),
        }
    }
}

/// An address that a request may be led to: not the host's own loopback, no group of hosts.
fn proxyable(text: &str) -> Result<IpAddr, Status> {
    let refused = || Status::bad_request("address not allowed");
    // An IPv4 address in IPv6's clothes is led to as what it is.
    let address = text.parse::<IpAddr>().map_err(|_| refused())?.to_canonical();
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    let refuses = address.is_loopback() || address.is_multicast() || address.is_unspecified() || link_local;
    if refuses { Err(refused()) } else { Ok(address) }
}

/// Where a pod listens: the port that was named, else the first that a container declares, else the scheme's.
pub fn of_pod(named: &Named<'_>, pod: &Value) -> Result<SocketAddr, Status> {
    let address = pod["status"]["podIPs"][0]["ip"].as_str().or(pod["status"]["podIP"].as_str());
    let address = proxyable(address.unwrap_or_default())?;
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let declared = || containers.filter_map(|c| c["ports"][0]["containerPort"].as_u64()).next();
    let port = match named.port {
        "" => declared().and_then(|port| u16::try_from(port).ok()).unwrap_or_else(|| named.usual()),
        _ => named.plain_port()?,
    };
    Ok(SocketAddr::new(address, port))
}

/// The name of the service's port that a request means: a number stands for the port declared with it.
pub fn service_port<'a>(named: &Named<'a>, service: &'a Value) -> Result<&'a str, Status> {
    let Some(number) = named.number() else { return Ok(named.port) };
    port_of_service(service, number, named.name)
}

/// The name of the port of this number.
pub fn port_of_service<'a>(service: &'a Value, number: u16, name: &str) -> Result<&'a str, Status> {
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let port = ports
        .find(|port| port["port"] == number)
        .ok_or_else(|| Status::unavailable(format!("no service port {number} found for service {name:?}")))?;
    Ok(port["name"].as_str().unwrap_or_default())
}

/// The ready endpoints of a service's port, in the order of its slices.
pub fn ready_endpoints<'a>(
    slices: impl Iterator<Item = &'a Value>,
    port: &'a str,
) -> impl Iterator<Item = SocketAddr> {
    slices.flat_map(move |slice| {
        let list = |name: &str| slice[name].as_array().into_iter().flatten();
        let number = list("ports")
            .find(|p| p["name"].as_str().unwrap_or_default() == port && p["port"].is_u64())
            .and_then(|p| u16::try_from(p["port"].as_u64()?).ok());
        let ready = list("endpoints").filter(|endpoint| endpoint["conditions"]["ready"] != false);
        let addresses = ready.filter_map(|endpoint| proxyable(endpoint["addresses"][0].as_str()?).ok());
        addresses.filter_map(move |address| Some(SocketAddr::new(address, number?)))
    })
}

/// One of the ready endpoints of a service, chosen by `random`.
pub fn of_service(service: &str, endpoints: &[SocketAddr], random: usize) -> Result<SocketAddr, Status> {
    match endpoints.len() {
        0 => Err(Status::unavailable(format!("no endpoints available for service {service:?}"))),
        count => Ok(endpoints[random % count]),
    }
}

/// What a request to a node is for.
#[derive(Debug, PartialEq, Eq)]
pub enum OfNode {
    /// The kubelet's own server.
    Kubelet,
    /// Another program that listens on the node.
    Other(SocketAddr),
}

/// Where a request to a node goes.
pub fn of_node(named: &Named<'_>, node: &Value) -> Result<OfNode, Status> {
    let kubelet = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    if named.port.is_empty() || named.number().map(u64::from) == kubelet {
        return Ok(OfNode::Kubelet);
    }
    let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
    let internal = addresses.filter(|address| address["type"] == "InternalIP");
    let address = internal.filter_map(|address| address["address"].as_str()).next().unwrap_or_default();
    Ok(OfNode::Other(SocketAddr::new(proxyable(address)?, named.plain_port()?)))
}

/// How many segments of a path there are up to and with the subresource:
/// `api/VERSION/namespaces/NAMESPACE/RESOURCE/NAME/proxy`, or without the namespace.
fn before(namespaced: bool) -> usize {
    if namespaced { 7 } else { 5 }
}

/// The path up to and with the subresource.
pub fn prefix(path: &str, namespaced: bool) -> String {
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    segments.take(before(namespaced)).flat_map(|segment| ["/", segment]).collect()
}

/// What follows the subresource in a request's path, as the backend gets it: beginning with `/`, without `.`, `..` and
/// empty segments, with the slash at the end when there is one; empty when nothing follows at all.
///
/// Segments are given as they were sent, with their percent-encoding.
pub fn rest(path: &str, namespaced: bool) -> String {
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    let mut kept: Vec<&str> = Vec::new();
    for segment in segments.skip(before(namespaced)) {
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            other => kept.push(other),
        }
    }
    match (kept.is_empty(), path.ends_with('/')) {
        (true, true) => "/".to_owned(),
        (true, false) => String::new(),
        (false, slash) => format!("/{}{}", kept.join("/"), if slash { "/" } else { "" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn named(text: &str) -> Result<(String, String, bool), String> {
        let named = Named::parse("pod", text).map_err(|status| status.message)?;
        Ok((named.name.to_owned(), named.port.to_owned(), named.tls))
    }

    #[test]
    fn names_carry_scheme_and_port() {
        for (text, name, port, tls) in [
            ("www", "www", "", false),
            ("www:80", "www", "80", false),
            ("www:http", "www", "http", false),
            ("http:www:80", "www", "80", false),
            ("https:www:", "www", "", true),
            (":www:x", "www", "x", false),
        ] {
            assert_eq!(named(text), Ok((name.into(), port.into(), tls)), "{text}");
        }
        for bad in ["", ":80", "ftp:www:80", "a:b:c:d"] {
            assert_eq!(named(bad), Err(format!("invalid pod request {bad:?}")));
        }
    }

    #[test]
    fn pods_are_reached_at_their_address() {
        let pod = |ip: &str| {
            json!({"status": {"podIP": ip, "podIPs": [{"ip": ip}]}, "spec": {"containers": [
                {"name": "a"}, {"name": "b", "ports": [{"containerPort": 8080}, {"containerPort": 9}]}]}})
        };
        let at = |text: &str, pod: &Value| {
            of_pod(&Named::parse("pod", text).unwrap(), pod).map(|a| a.to_string()).map_err(|s| s.message)
        };
        assert_eq!(at("www", &pod("10.244.0.5")), Ok("10.244.0.5:8080".into()));
        assert_eq!(at("www:81", &pod("10.244.0.5")), Ok("10.244.0.5:81".into()));
        assert_eq!(at("www", &pod("fd00::5")), Ok("[fd00::5]:8080".into()));
        assert_eq!(at("www:web", &pod("10.244.0.5")), Err("invalid port \"web\"".into()));
        let bare = json!({"status": {"podIP": "10.244.0.5"}, "spec": {"containers": [{"name": "a"}]}});
        assert_eq!(at("www", &bare), Ok("10.244.0.5:80".into()));
        assert_eq!(at("https:www:", &bare), Ok("10.244.0.5:443".into()));
        for refused in ["", "127.0.0.1", "::1", "169.254.1.1", "fe80::1", "224.0.0.1", "0.0.0.0"] {
            assert_eq!(at("www", &pod(refused)), Err("address not allowed".into()), "{refused}");
        }
    }

    #[test]
    fn services_are_reached_at_a_ready_endpoint_of_their_port() {
        let service = json!({"spec": {"ports": [{"name": "web", "port": 80}, {"name": "tls", "port": 443}]}});
        let port = |text: &str| {
            let named = Named::parse("service", text).unwrap();
            service_port(&named, &service).map(str::to_owned).map_err(|s| (s.code, s.message))
        };
        assert_eq!(port("www:443"), Ok("tls".into()));
        assert_eq!(port("www:web"), Ok("web".into()));
        assert_eq!(port("www"), Ok(String::new()));
        assert_eq!(port("www:81"), Err((503, "no service port 81 found for service \"www\"".into())));
        let slices = [
            json!({"ports": [{"name": "web", "port": 8080}, {"name": "tls", "port": 8443}], "endpoints": [
                {"addresses": ["10.244.0.1"], "conditions": {"ready": false}},
                {"addresses": ["10.244.0.2"], "conditions": {"ready": true}}]}),
            json!({"ports": [{"name": "web", "port": 81}], "endpoints": [{"addresses": ["10.244.0.3"]}]}),
        ];
        let found = |port| ready_endpoints(slices.iter(), port).map(|a| a.to_string()).collect::<Vec<_>>();
        assert_eq!(found("web"), ["10.244.0.2:8080", "10.244.0.3:81"]);
        assert_eq!(found("tls"), ["10.244.0.2:8443"]);
        let none = of_service("www", &[], 7).unwrap_err();
        assert_eq!((none.code, none.message.as_str()), (503, "no endpoints available for service \"www\""));
        let two: Vec<SocketAddr> = ready_endpoints(slices.iter(), "web").collect();
        assert_eq!(of_service("www", &two, 3), Ok(two[1]));
    }

    #[test]
    fn nodes_have_a_kubelet_and_other_programs() {
        let node = json!({"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "192.0.2.1"}]}});
        let at = |text: &str| of_node(&Named::parse("node", text).unwrap(), &node).unwrap();
        assert_eq!(at("n"), OfNode::Kubelet);
        assert_eq!(at("https:n:10250"), OfNode::Kubelet);
        assert_eq!(at("n:9100"), OfNode::Other("192.0.2.1:9100".parse().unwrap()));
    }

    #[test]
    fn the_rest_of_a_path_is_kept_as_it_was_sent() {
        for (path, namespaced, kept) in [
            ("/api/v1/namespaces/a/pods/b/proxy", true, ""),
            ("/api/v1/namespaces/a/pods/b/proxy/", true, "/"),
            ("/api/v1/namespaces/a/pods/b/proxy/x%2Fy//z/", true, "/x%2Fy/z/"),
            ("/api/v1/namespaces/a/pods/b/proxy/../../x/./y", true, "/x/y"),
            ("/api/v1/nodes/n/proxy/stats/summary", false, "/stats/summary"),
        ] {
            assert_eq!(rest(path, namespaced), kept, "{path}");
            assert!(
                path.starts_with(&prefix(path, namespaced)) && prefix(path, namespaced).ends_with("/proxy")
            );
        }
    }
}
