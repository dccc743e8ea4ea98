//! What each component is configured with: it follows from the cluster's settings and its places.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::cluster::{Cluster, Record};
use super::places::Places;
use super::{Error, Tried, settings, unit};
use crate::kubelet::{self, node::Machine};
use crate::network::{self, Cidr};
use crate::proxy;
use crate::runtime::cgroups::Tree;
use crate::runtime::linux;
use crate::sys::program::Helper;

/// The domain of the cluster's names.
pub const DOMAIN: &str = "cluster.local";
/// Where container logs go, as log shippers expect.
pub const POD_LOGS: &str = "/var/log/pods";
/// Links to them, likewise.
pub const CONTAINER_LOGS: &str = "/var/log/containers";

/// A cluster's ranges and the addresses that follow from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranges {
    /// Where pods get their addresses.
    pub pods: Cidr,
    /// Where services get their addresses.
    pub services: Cidr,
}

impl Ranges {
    /// Of a cluster.
    pub fn of(cluster: &Cluster) -> Result<Ranges, Error> {
        Ranges::parse(&cluster.pod_cidr, &cluster.service_cidr)
    }

    fn parse(pods: &str, services: &str) -> Result<Ranges, Error> {
        Ok(Ranges {
            pods: settings::parse_cidr("pod-cidr", pods).tried("settings")?,
            services: settings::parse_cidr("service-cidr", services).tried("settings")?,
        })
    }

    /// Of a cluster that is cleaned up, from what is left of it. All that it made is known by its name; only a firewall
    /// that trusts its pods must be told their range.
    pub fn left(places: &Places) -> Ranges {
        let kept = Cluster::read(places).ok().flatten().and_then(|cluster| Ranges::of(&cluster).ok());
        let noted = || {
            let record = Record::read(places).ok().flatten()?;
            Ranges::parse(&record.pod_cidr, &record.service_cidr).ok()
        };
        // TEST-NET-1 (RFC 5737) is nobody's: to take away the trust in it changes nothing.
        let nobody = Cidr { base: Ipv4Addr::new(192, 0, 2, 0), prefix: 24 };
        kept.or_else(noted).unwrap_or(Ranges { pods: nobody, services: nobody })
    }

    /// The host's address on the pod network.
    pub fn gateway(&self) -> Ipv4Addr {
        self.pods.nth(1)
    }

    /// Kubernetes' usual address of the DNS service.
    pub fn dns(&self) -> Ipv4Addr {
        self.services.nth(10)
    }
}

/// The configuration of the pod network.
pub fn network(places: &Places, pods: Cidr) -> network::Config {
    network::Config {
        prefix: places.link_prefix(),
        pods,
        namespaces: places.run().join("netns"),
        state: places.data().join("network"),
    }
}

/// The configuration of the service proxy.
pub fn proxy(places: &Places, ranges: Ranges) -> proxy::Config {
    proxy::Config {
        table: places.table(),
        pods: ranges.pods,
        services: ranges.services,
        gateway: ranges.gateway(),
        link_prefix: places.link_prefix(),
    }
}

/// What the service proxy must know of the cluster beside that.
pub fn proxy_options(cluster: &Cluster) -> proxy::plan::Options {
    proxy::plan::Options { node: cluster.node_name.clone(), external_ips: cluster.external_ips }
}

/// The configuration of the container runtime.
pub fn runtime(places: &Places, cgroup_parent: PathBuf) -> Result<linux::Config, Error> {
    Ok(linux::Config {
        run_dir: places.runtime(),
        state_dir: places.data().join("containers"),
        cgroup_parent,
        executable: std::env::current_exe().tried("cannot find the minik program")?,
    })
}

/// The configuration of the kubelet.
pub fn kubelet(
    places: &Places,
    cluster: &Cluster,
    ranges: Ranges,
    address: Ipv4Addr,
    machine: &Machine,
) -> Result<kubelet::context::Config, Error> {
    Ok(kubelet::context::Config {
        node: cluster.node_name.clone(),
        address,
        dns: ranges.dns(),
        domain: DOMAIN.to_owned(),
        pods: places.data().join("pods"),
        memory: places.run().join("pods"),
        logs: PathBuf::from(POD_LOGS),
        container_logs: PathBuf::from(CONTAINER_LOGS),
        images: places.images(),
        manifests: places.manifests(),
        seccomp: places.data().join("seccomp"),
        capacity: machine.capacity,
        share_processes: cluster.share_process_namespace,
        max_pods: cluster.kubelet.max_pods(),
        eviction: cluster.kubelet.eviction().tried("the kubelet's settings")?,
    })
}

/// The cgroup that holds the containers: that of their scope where systemd runs, or the cluster's own.
pub fn cgroup_parent(places: &Places) -> PathBuf {
    unit::control_group(places).unwrap_or_else(|| places.cgroup())
}

/// Finds the place for the containers' groups. Where systemd makes it, the answer keeps it there until something runs
/// in it; elsewhere the daemon is in it itself.
pub fn cgroups(places: &Places, parent: &Path) -> Result<Option<Helper>, Error> {
    let tree = Tree::detect(parent).tried("cannot find the cgroup hierarchies")?;
    let leaf = tree.leaf("daemon");
    if unit::control_group(places).is_none() {
        leaf.make().and_then(|()| leaf.enter()).tried("cannot enter the daemon's cgroup")?;
        return Ok(None);
    }
    if tree.root().is_populated() {
        return Ok(None);
    }
    let helper = unit::make_scope(places).tried("cannot make the containers' scope")?;
    leaf.make().and_then(|()| leaf.admit(helper.pid())).tried("cannot use the containers' scope")?;
    Ok(Some(helper))
}
