//! What each component is configured with: it follows from the cluster's settings and its places.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use super::cluster::{Cluster, Record};
use super::places::Places;
use super::{Error, Tried, settings, unit};
use crate::kubelet::{self, app_armor, node::Machine};
use crate::network::{self, Cidr, Cidr6, Ipv6};
use crate::proxy;
use crate::proxy::family::Address;
use crate::runtime::cgroups::Tree;
use crate::runtime::linux;
use crate::runtime::users::UserRanges;
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
    /// The same of IPv6, when there are addresses of both families.
    pub v6: Option<Ranges6>,
}

/// A cluster's ranges of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranges6 {
    /// Where pods get their addresses.
    pub pods: Cidr6,
    /// Where services get their addresses.
    pub services: Cidr6,
}

impl Ranges6 {
    /// Nobody's (RFC 3849), as [`Ranges::left`] says of the others.
    const NOBODY: Ranges6 = {
        let base = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0);
        Ranges6 { pods: Cidr6 { base, prefix: 64 }, services: Cidr6 { base, prefix: 112 } }
    };

    /// The host's address on the pod network.
    pub fn gateway6(&self) -> Ipv6Addr {
        self.pods.nth(1)
    }
}

impl Ranges {
    /// Of a cluster.
    pub fn of(cluster: &Cluster) -> Result<Ranges, Error> {
        Ranges::parse(&cluster.pod_cidr, &cluster.service_cidr)
    }

    fn parse(pods: &str, services: &str) -> Result<Ranges, Error> {
        let (pods, pods6) = settings::parse_pod_ranges("pod-cidr", pods).tried("settings")?;
        let (services, services6) =
            settings::parse_service_ranges("service-cidr", services).tried("settings")?;
        let v6 = match (pods6, services6) {
            (Some(pods), Some(services)) => Some(Ranges6 { pods, services }),
            (None, None) => None,
            (given, _) => {
                let (with, without) = match given {
                    Some(_) => ("pod-cidr", "service-cidr"),
                    None => ("service-cidr", "pod-cidr"),
                };
                let why = format!("{with} has a range of IPv6 and {without} has none: both must, or neither");
                return Err(why).tried("settings");
            }
        };
        Ok(Ranges { pods, services, v6 })
    }

    /// What can be used of them on a host like this.
    pub fn on_host(self, ipv6: Ipv6) -> Ranges {
        Ranges { v6: self.v6.filter(|_| !matches!(ipv6, Ipv6::Absent(_))), ..self }
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
        // What is not known to have been without IPv6 may have left rules of it.
        let v6 = Some(Ranges6::NOBODY);
        kept.or_else(noted).unwrap_or(Ranges { pods: nobody, services: nobody, v6 })
    }

    /// The ranges of pods, as the node object has them.
    pub fn pod_cidrs(&self) -> Vec<String> {
        std::iter::once(self.pods.to_string()).chain(self.v6.map(|v6| v6.pods.to_string())).collect()
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
pub fn network(places: &Places, ranges: Ranges) -> network::Config {
    network::Config {
        prefix: places.link_prefix(),
        pods: ranges.pods,
        pods6: ranges.v6.map(|v6| v6.pods),
        namespaces: places.run().join("netns"),
        state: places.data().join("network"),
    }
}

/// The ids of users for pods, of all clusters of the machine.
pub fn users(places: &Places) -> UserRanges {
    // No cluster is called so.
    UserRanges::new(Places::all_runs().join(".users"), places.profile.clone())
}

/// The configuration of the service proxy.
pub fn proxy(places: &Places, ranges: Ranges) -> proxy::Configs {
    let v6 = ranges.v6.map(|v6| proxy_of(places, ranges.pods, (v6.pods, v6.services, v6.gateway6())));
    proxy::Configs { v4: proxy_of(places, ranges.pods, (ranges.pods, ranges.services, ranges.gateway())), v6 }
}

/// The same for one family: its ranges and the gateway's address.
fn proxy_of<A: Address>(
    places: &Places,
    links: Cidr,
    (pods, services, gateway): (A::Range, A::Range, A),
) -> proxy::Config<A> {
    let (table, link_prefix) = (places.table(), places.link_prefix());
    proxy::Config { table, pods, services, gateway, link_prefix, links }
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
    (address, address6): (Ipv4Addr, Option<Ipv6Addr>),
    machine: &Machine,
) -> Result<kubelet::context::Config, Error> {
    Ok(kubelet::context::Config {
        node: cluster.node_name.clone(),
        address,
        address6,
        dns: ranges.dns(),
        domain: DOMAIN.to_owned(),
        pods: places.data().join("pods"),
        memory: places.run().join("pods"),
        logs: PathBuf::from(POD_LOGS),
        container_logs: PathBuf::from(CONTAINER_LOGS),
        images: places.images(),
        manifests: places.manifests(),
        seccomp: places.data().join("seccomp"),
        app_armor: app_armor::is_enabled(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_of_the_same_families() {
        let (pods, services) = ("10.244.0.0/16,fd00:10:244::/64", "10.96.0.0/12,fd00:10:96::/112");
        let both = Ranges::parse(pods, services).unwrap();
        assert_eq!(both.pod_cidrs(), ["10.244.0.0/16", "fd00:10:244::/64"]);
        assert_eq!(both.on_host(Ipv6::Local), both);
        let without = both.on_host(Ipv6::Absent("IPv6 is disabled"));
        assert_eq!(without, Ranges::parse("10.244.0.0/16", "10.96.0.0/12").unwrap());
        for (pods, services, lacking) in [
            (pods, "10.96.0.0/12", "service-cidr has none"),
            ("10.244.0.0/16", services, "pod-cidr has none"),
        ] {
            let error = Ranges::parse(pods, services).unwrap_err().to_string();
            assert!(error.contains(lacking), "{error}");
        }
    }

    #[test]
    fn what_nobody_knows_any_more_is_cleaned_of_both_families() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new("unknown-to-all", dir.path());
        let configs = proxy(&places, Ranges::left(&places));
        assert_eq!(configs.v6.map(|v6| v6.table), Some(configs.v4.table));
    }
}
