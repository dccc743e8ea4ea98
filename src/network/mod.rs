//! Pod networks: a network namespace, a veth pair with point-to-point routes and an address for each pod.
//!
//! Knows links, routes and addresses; knows no Kubernetes words.
//!
//! There is no bridge. Each pod's `eth0` holds its address as a /32 and routes everything to the gateway
//! address, which lives on a port-less interface of the host; the host has one /32 route per pod. Neighbour
//! entries are permanent on both sides, so no address resolution happens, and nothing depends on bridge
//! settings that another program may change.
//!
//! A network with IPv6 has a second address for each pod, with routes and neighbours of the same shape. One reservation
//! serves both: they have the same number in their ranges. Nothing of it is learned or asked for on the link (no
//! router advertisements, no detection of duplicates), so that it costs a pod no time.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

mod addresses;
mod forwarding;
mod host6;
mod links;
mod pods;
mod probe;
mod range;
mod routers;
mod settings6;
mod sockets;
mod told;

pub use host6::{Ipv6, ipv6, node_address6};
pub use links::{connect_gateway, route_through};
pub use pods::{PodNetwork, link_name};
pub use probe::probe;
pub use range::{
    Cidr6, POD_RANGES, POD_RANGES6, SERVICE_RANGES, SERVICE_RANGES6, choose_range, occupied_ranges,
    occupied_ranges6,
};
pub use sockets::is_waited_for;
pub use told::Destination;

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
    /// Where pods have a second address each, with the same number in this range as the first one in the other. The
    /// first of all that are used is the gateway's.
    pub pods6: Option<Cidr6>,
    /// Where namespaces are bound as files (on a tmpfs such as `/run`).
    pub namespaces: PathBuf,
    /// Where address reservations are kept.
    pub state: PathBuf,
}

impl Config {
    /// The address that pods use as their gateway and that reaches the host from every pod.
    pub fn gateway(&self) -> Ipv4Addr {
        self.pods.nth(1)
    }

    /// The same of IPv6, in a network that has it.
    pub fn gateway6(&self) -> Option<Ipv6Addr> {
        self.address6(self.gateway())
    }

    /// The second address of the pod with this address.
    pub fn address6(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        let number = address.to_bits() & !self.pods.mask();
        self.pods6.map(|range| range.nth(u64::from(number)))
    }

    /// The name of the interface that holds the gateway address.
    pub fn gateway_link(&self) -> String {
        format!("{}0", self.prefix)
    }

    /// The names of the two links that give that one a carrier, where it needs one.
    pub(crate) fn cable(&self) -> [String; 2] {
        [format!("{}1", self.prefix), format!("{}2", self.prefix)]
    }
}

/// A pod's place in the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The bound namespace.
    pub namespace: PathBuf,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// Its second one, of IPv6, in a network that has it.
    pub address6: Option<Ipv6Addr>,
}

impl Attachment {
    /// All its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [Some(self.address.into()), self.address6.map(IpAddr::from)].into_iter().flatten()
    }
}

/// Why the network could not be changed or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot work.
    #[error("network configuration: {0}")]
    Config(&'static str),
    /// The kernel refused a change to a link, an address or a route.
    #[error("{tried}: {source}")]
    Netlink {
        /// What was tried, on which object.
        tried: String,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// A file, mount or namespace could not be worked with.
    #[error("{tried}: {source}")]
    Io {
        /// What was tried, on which object.
        tried: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Every address of the range is in use.
    #[error("no free address is left in {0}")]
    Exhausted(Cidr),
    /// Every candidate range overlaps with what the host uses.
    #[error("none of the ranges {tried} is free on this host")]
    NoRange {
        /// The candidates.
        tried: String,
    },
    /// Several steps of a clean-up failed; the others were done.
    #[error("clean-up: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Cleanup(Vec<Error>),
}

impl Error {
    /// Whether something of this name is there already.
    fn already_exists(&self) -> bool {
        match self {
            Error::Io { source, .. } => source.kind() == io::ErrorKind::AlreadyExists,
            Error::Netlink { source: rtnetlink::Error::NetlinkError(message), .. } => {
                message.raw_code() == -libc::EEXIST
            }
            _ => false,
        }
    }

    fn io(tried: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let tried = tried.into();
        move |source| Error::Io { tried, source }
    }

    fn netlink(tried: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
        let tried = tried.into();
        move |source| Error::Netlink { tried, source }
    }
}
