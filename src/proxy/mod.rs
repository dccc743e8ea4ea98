//! The service proxy: services, endpoints and network policies become one nftables state (pure), applied as
//! differences.
//!
//! [`plan`] and [`policy`] turn objects into a [`state::State`]; [`table`] writes it into the kernel; [`localhost`]
//! serves what the kernel does not; [`Proxy`] keeps all that going. All of it is there once for each family of addresses
//! ([`family`]) that the cluster has: what one of them does is none of the other's.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::api::request::ListOptions;
use crate::client::events::Recorder;
use crate::client::reflector::Reflector;
use crate::client::{Client, Resource, rest};
use crate::network::{self, Cidr, Cidr6};
use crate::sys::program;

pub mod conntrack;
mod expression;
pub mod family;
mod firewall;
mod follow;
mod health;
pub mod localhost;
mod node;
pub mod plan;
pub mod policy;
pub mod state;
pub mod table;

pub use follow::follow;

use family::Address;
use plan::Options;
use policy::notices::Notices;
use state::States;
use table::Table;

/// So many pods that are gone are worth one look at the tracked connections.
const TOGETHER: usize = 1024;

/// What makes one cluster's proxy its own, for one family of addresses.
#[derive(Debug, Clone)]
pub struct Config<A: Address = Ipv4Addr> {
    /// The name of its nf_tables table.
    pub table: String,
    /// Where pods live.
    pub pods: A::Range,
    /// Where cluster addresses of services are given out.
    pub services: A::Range,
    /// The host's address on the pod network.
    pub gateway: A,
    /// How the names of the pod network's links begin; followed by `0` the link that holds the gateway address.
    pub link_prefix: String,
    /// The range of the addresses that the pods' links are named by: where they live in IPv4.
    pub links: Cidr,
}

/// What makes one cluster's proxy its own.
#[derive(Debug, Clone)]
pub struct Configs {
    /// For IPv4.
    pub v4: Config,
    /// For IPv6, where there is any.
    pub v6: Option<Config<Ipv6Addr>>,
}

impl From<Config> for Configs {
    fn from(v4: Config) -> Configs {
        Configs { v4, v6: None }
    }
}

/// Why the proxy could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("{tried}: {source}")]
    Io {
        /// What was tried.
        tried: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The route for the service range could not be made.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// Another firewall's program failed.
    #[error(transparent)]
    Program(#[from] program::Error),
}

impl Error {
    fn io(tried: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { tried, source }
    }
}

/// The addresses of [`State::led`] in the rules that are installed; `None` before there are any.
pub type Led = Option<Arc<BTreeSet<IpAddr>>>;

/// The service proxy of one cluster.
pub struct Proxy {
    client: Client,
    config: Configs,
    options: Options,
    led: watch::Sender<Led>,
    /// Addresses of pods that are gone, whose connections are still to be ended.
    gone: (UnboundedSender<IpAddr>, UnboundedReceiver<IpAddr>),
}

impl Proxy {
    /// A proxy that reads services and the ranges of their addresses, endpoint slices, pods, network policies and namespaces
    /// through `client`.
    pub fn new(client: Client, config: impl Into<Configs>, options: Options) -> Proxy {
        Proxy {
            client,
            config: config.into(),
            options,
            led: watch::channel(None).0,
            gone: unbounded_channel(),
        }
    }

    /// Where new connections are led to, as it changes.
    pub fn led(&self) -> watch::Receiver<Led> {
        self.led.subscribe()
    }

    /// Who is told the addresses of pods that are gone, so that nothing is left of their connections.
    pub fn gone(&self) -> UnboundedSender<IpAddr> {
        self.gone.0.clone()
    }

    /// Proxies until `shutdown`, in the network namespace of the calling thread, whose pod network must be open.
    /// The rules stay when it ends: they serve on while the daemon restarts, and [`Proxy::destroy`] removes them.
    ///
    /// # Errors
    /// When it cannot begin; later failures are logged and tried again.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let mut tasks = JoinSet::new();
        let services = reflect::<Service>(&self.client, &mut tasks);
        let slices = reflect::<EndpointSlice>(&self.client, &mut tasks);
        let pods = reflect::<Pod>(&self.client, &mut tasks);
        let policies = reflect::<NetworkPolicy>(&self.client, &mut tasks);
        let namespaces = reflect::<Namespace>(&self.client, &mut tasks);
        let ranges = reflect::<ServiceCIDR>(&self.client, &mut tasks);
        let changed = Arc::new(tokio::sync::Notify::new());
        announce(&services, &changed, &mut tasks);
        announce(&slices, &changed, &mut tasks);
        announce(&pods, &changed, &mut tasks);
        announce(&policies, &changed, &mut tasks);
        announce(&namespaces, &changed, &mut tasks);
        announce(&ranges, &changed, &mut tasks);
        let (sender, states) = watch::channel(None);
        let (recorder, record) = Recorder::new(self.client.clone(), "kube-proxy", "");
        tasks.spawn(record);
        let both = self.config.v6.is_some();
        let mut notices = Notices::new(recorder, both);
        let (options, config) = (self.options, self.config.clone());
        tasks.spawn(async move {
            tokio::join!(
                services.synced(),
                slices.synced(),
                pods.synced(),
                policies.synced(),
                namespaces.synced(),
                ranges.synced()
            );
            loop {
                let began = Instant::now();
                let objects = policy::plan::Objects {
                    policies: policies.list(),
                    namespaces: namespaces.list(),
                    pods: pods.list(),
                    services: services.list(),
                    slices: slices.list(),
                };
                let with_ports = objects.pods.iter().filter(|pod| plan::has_host_ports(pod)).cloned();
                let with_ports: Vec<_> = with_ports.collect();
                let ranges = ranges.list();
                let wanted = States {
                    v4: wanted(&options, &objects, &with_ports, (&ranges, config.v4.services)),
                    v6: match &config.v6 {
                        Some(v6) => wanted(&options, &objects, &with_ports, (&ranges, v6.services)),
                        None => state::State::default(),
                    },
                };
                notices.look(&objects.policies);
                sender.send_if_modified(|current| {
                    let differs = current.as_ref() != Some(&wanted);
                    *current = Some(wanted);
                    differs
                });
                rest::after(began).await;
                changed.notified().await;
            }
        });
        tasks.spawn(forget(self.gone.1));
        follow(self.config, states, self.led, shutdown).await
    }

    /// Removes the tables and what was added to other firewalls; already gone is fine.
    ///
    /// # Errors
    /// What could not be removed; all are tried.
    pub async fn destroy(config: impl Into<Configs>) -> Result<(), Error> {
        let Configs { v4, v6 } = config.into();
        let work = move || {
            let removed = Error::io("removing the service table");
            let table = Table::<Ipv4Addr>::remove(&v4.table).map_err(removed);
            // Whether there was IPv6 may not be known any more; a kernel without it has no such table.
            let other = match table::exists(Ipv6Addr::family().number, &v4.table) {
                Ok(true) => Table::<Ipv6Addr>::remove(&v4.table),
                _ => Ok(()),
            };
            let other = other.map_err(Error::io("removing the service table of IPv6"));
            let firewalls = [firewall::close(&v4), v6.as_ref().map_or(Ok(()), firewall::close)];
            firewalls.into_iter().chain([table, other]).collect()
        };
        blocking(work).await?
    }
}

/// What objects mean for packets of one family.
fn wanted<A: Address>(
    options: &Options,
    objects: &policy::plan::Objects,
    with_ports: &[Arc<Pod>],
    (ranges, own): (&[Arc<ServiceCIDR>], A::Range),
) -> state::State<A> {
    let mut wanted = plan::plan(options, &objects.services, &objects.slices, with_ports);
    wanted.ranges = plan::ranges::<A>(ranges, own);
    wanted.policies = policy::plan::plan(objects);
    wanted
}

/// Leaves nothing of connections to pods as they go: beside the rules, which must not wait.
async fn forget(mut gone: UnboundedReceiver<IpAddr>) {
    let mut addresses = Vec::new();
    while gone.recv_many(&mut addresses, TOGETHER).await > 0 {
        let addresses = std::mem::take(&mut addresses).into_iter().collect();
        let done = blocking(move || conntrack::forget(&addresses)).await;
        if let Err(error) = done.and_then(|done| done.map_err(Error::io("deleting what is tracked"))) {
            tracing::warn!(%error, "ending connections to pods that are gone");
        }
    }
}

fn reflect<K: Resource>(client: &Client, tasks: &mut JoinSet<()>) -> Reflector<K> {
    let (reflector, feed) = Reflector::new(client.all::<K>(), ListOptions::default());
    tasks.spawn(feed);
    reflector
}

/// Wakes `changed` for each change; many changes at once wake it once.
fn announce<K: Resource>(
    reflector: &Reflector<K>,
    changed: &Arc<tokio::sync::Notify>,
    tasks: &mut JoinSet<()>,
) {
    let (mut keys, changed) = (reflector.subscribe(), changed.clone());
    tasks.spawn(async move {
        while keys.next().await.is_some() {
            changed.notify_one();
        }
    });
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|failed| Error::Io { tried: "waiting for kernel work", source: failed.into() })
}

/// Whether the kernel lets this process use nf_tables at all.
pub fn probe() -> std::io::Result<()> {
    // Any name will do: what matters is that the question is understood.
    table::exists(Ipv4Addr::family().number, "minik-probe").map(drop)
}

/// Whether the kernel does with IPv6 what services need of it: refuse, masquerade, and know the host's own addresses.
/// Blocks.
pub fn probe6() -> std::io::Result<()> {
    let documentation = |third: u16| Ipv6Addr::new(0x2001, 0xdb8, third, 0, 0, 0, 0, 0);
    let range = |third: u16| Cidr6 { base: documentation(third), prefix: 64 };
    table::try_out(&Config::<Ipv6Addr> {
        table: format!("minik-probe-{}", std::process::id()),
        pods: range(1),
        services: range(2),
        gateway: documentation(1),
        link_prefix: "minik".into(),
        links: Cidr { base: Ipv4Addr::new(192, 0, 2, 0), prefix: 24 },
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::client::testing::FakeApi;
    use crate::network::PodNetwork;

    /// What the tests of this module's parts are configured with.
    pub(super) fn config() -> Config {
        Config {
            table: "minik".into(),
            pods: "10.244.0.0/16".parse().unwrap(),
            services: "10.96.0.0/12".parse().unwrap(),
            gateway: Ipv4Addr::new(10, 244, 0, 1),
            link_prefix: "mk".into(),
            links: "10.244.0.0/16".parse().unwrap(),
        }
    }

    /// Waits until the rules do (or no longer do) mention a text.
    async fn until_rules(text: &str, mention: bool) {
        let rules = || {
            let listing =
                program::run("nft", &["list", "table", "ip", "minik-unit"], &[]).unwrap_or_default();
            String::from_utf8(listing).unwrap().contains(text)
        };
        let waiting = async {
            while rules() != mention {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap();
    }

    async fn objects_become_rules() {
        let directory = tempfile::tempdir().unwrap();
        let network = network::Config {
            prefix: "mkx".into(),
            pods: "10.244.0.0/16".parse().unwrap(),
            pods6: None,
            namespaces: directory.path().join("namespaces"),
            state: directory.path().join("state"),
        };
        let opened = PodNetwork::open(network.clone()).await.unwrap();
        let config = Config {
            table: "minik-unit".into(),
            pods: network.pods,
            services: "10.96.0.0/12".parse().unwrap(),
            gateway: network.gateway(),
            link_prefix: network.prefix.clone(),
            links: network.pods,
        };
        let api = FakeApi::default();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let proxy = Proxy::new(api.client(), config.clone(), Options::default());
        let running = tokio::spawn(proxy.run(async { _ = stopped.await }));
        api.put(
            "services",
            json!({"metadata": {"name": "web", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}}),
        );
        api.put(
            "endpointslices",
            json!({"metadata": {"name": "web-1", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": [{"addresses": ["10.244.0.9"]}]}),
        );
        until_rules("10.96.0.7 . tcp . 80 . 0x00000000 : 10.244.0.9 . 8080", true).await;
        api.remove("endpointslices", "default", "web-1");
        until_rules("10.96.0.7", false).await;
        api.put("namespaces", json!({"metadata": {"name": "default"}}));
        api.put(
            "pods",
            json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"containers": []},
            "status": {"phase": "Running", "podIP": "10.244.0.9"}}),
        );
        api.put(
            "networkpolicies",
            json!({"metadata": {"name": "deny", "namespace": "default"},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"ipBlock": {"cidr": "::/0"}}]}]}}),
        );
        until_rules("10.244.0.9 : goto ingress-", true).await;
        let told = async {
            while api.all("events").is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), told).await.unwrap();
        api.remove("networkpolicies", "default", "deny");
        until_rules("policy-", false).await;
        stop.send(()).unwrap();
        running.await.unwrap().unwrap();
        Proxy::destroy(config).await.unwrap();
        opened.close().await;
        PodNetwork::destroy(&network).await.unwrap();
    }

    #[test]
    fn services_and_slices_of_the_api_become_rules() {
        on_a_host(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(objects_become_rules());
        });
    }

    #[test]
    fn what_is_tried_out_is_not_left() {
        on_a_host(|| {
            let tables = || program::run("nft", &["list", "tables"], &[]).unwrap();
            probe6().unwrap();
            assert!(tables().is_empty());
            // A kernel that refuses a part is noticed: here, a name that is longer than any table's.
            let config = Config { table: "x".repeat(300), ..config() };
            assert!(table::try_out(&config).is_err() && tables().is_empty());
        });
    }

    /// Runs a test on a thread with namespaces of its own: the kernel removes what is in them with it.
    fn on_a_host(test: impl FnOnce() + Send + 'static) {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("MINIK_REQUIRE_ROOT").is_none(), "this test needs root");
            return;
        }
        let host = std::thread::spawn(|| {
            crate::sys::namespace::unshare(
                nix::sched::CloneFlags::CLONE_NEWNET | nix::sched::CloneFlags::CLONE_NEWNS,
            )
            .unwrap();
            let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
            nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            test();
        });
        if let Err(panic) = host.join() {
            std::panic::resume_unwind(panic);
        }
    }
}
