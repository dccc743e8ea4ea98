//! The host's ports: each protocol, address and number is one pod's.

use k8s_openapi::api::core::v1::Pod;

use super::{Plugin, Refusal, refuse};
use crate::api::room::host_ports;
use crate::scheduler::cluster::{NodeInfo, spec};

/// Whether the ports that a pod asks for are free.
pub fn check(pod: &Pod, at: &NodeInfo) -> Result<(), Refusal> {
    let taken = || at.pods.iter().flat_map(|other| host_ports(spec(&other.pod)));
    match host_ports(spec(pod)).any(|port| taken().any(|other| other.clashes(&port))) {
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
