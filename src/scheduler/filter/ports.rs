//! The host's ports: each protocol, address and number is one pod's.

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::{Plugin, Refusal, refuse};
use crate::scheduler::cluster::{NodeInfo, spec};

const ANY: &str = "0.0.0.0";

/// Host ports of a pod as protocol, address and number.
fn host_ports(spec: &PodSpec) -> impl Iterator<Item = (&str, &str, i32)> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().chain(sidecars);
    containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let address = port.host_ip.as_deref().filter(|address| !address.is_empty()).unwrap_or(ANY);
        Some((port.protocol.as_deref().unwrap_or("TCP"), address, number))
    })
}

/// Whether the ports that a pod asks for are free.
pub fn check(pod: &Pod, at: &NodeInfo) -> Result<(), Refusal> {
    let clash = |(protocol, address, number): (&str, &str, i32)| {
        at.pods.iter().flat_map(|other| host_ports(spec(&other.pod))).any(|taken| {
            taken.0 == protocol
                && taken.2 == number
                && (taken.1 == address || taken.1 == ANY || address == ANY)
        })
    };
    match host_ports(spec(pod)).any(clash) {
        true => refuse(Plugin::Ports, "node(s) didn't have free ports for the requested pod ports"),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::cluster::testing::{cluster, node, pod};
    use serde_json::json;

    #[test]
    fn host_ports_are_given_once() {
        let spec = |port: i32, address: &str, protocol: &str| {
            json!({"nodeName": "n", "containers": [{"name": "c", "ports": [
                {"containerPort": 80, "hostPort": port, "hostIP": address, "protocol": protocol}]}]})
        };
        for (has, asks, fits) in [
            (spec(80, "", "TCP"), spec(80, "", "TCP"), false),
            (spec(80, "", "TCP"), spec(81, "", "TCP"), true),
            (spec(80, "", "TCP"), spec(80, "", "UDP"), true),
            (spec(80, "127.0.0.1", "TCP"), spec(80, "", "TCP"), false),
            (spec(80, "127.0.0.1", "TCP"), spec(80, "127.0.0.2", "TCP"), true),
        ] {
            let cluster = cluster(&[node("n", |_| {})], &[pod("has", has.clone())]);
            assert_eq!(check(&pod("p", asks.clone()), &cluster.nodes[0]).is_ok(), fits, "{has} {asks}");
        }
    }
}
