//! Pod networks: a network namespace, a veth pair with point-to-point routes and an address for each pod.
//!
//! Knows links, routes and addresses; knows no Kubernetes words.

use std::net::Ipv4Addr;
use std::path::PathBuf;

/// An IPv4 range such as `10.244.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// The first address.
    pub base: Ipv4Addr,
    /// Leading bits that are fixed.
    pub prefix: u8,
}

/// What makes one cluster's pod network its own.
#[derive(Debug, Clone)]
pub struct Config {
    /// Short and unique among the host's clusters: the first part of link names (at most 7 characters).
    pub prefix: String,
    /// Where pod addresses come from; the first usable one is the gateway's.
    pub pods: Cidr,
    /// Where namespaces are bound as files (on a tmpfs such as `/run`).
    pub namespaces: PathBuf,
    /// Where address reservations are kept.
    pub state: PathBuf,
}

/// A pod's place in the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The bound namespace.
    pub namespace: PathBuf,
    /// The pod's address.
    pub address: Ipv4Addr,
}
