//! The service proxy: services, endpoints and network policies become one nftables state (pure), applied as
//! differences.
//!
//! [`plan`] and [`policy`] turn objects into a [`state::State`]; [`table`] writes it into the kernel; [`localhost`]
//! serves what the kernel does not; [`Proxy`] keeps all that going.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::api::request::ListOptions;
use crate::client::events::Recorder;
use crate::client::reflector::Reflector;
use crate::client::{Client, Resource};
use crate::network::{self, Cidr};
use crate::sys::netlink::{Events, Heard};
use crate::sys::program;

pub mod conntrack;
mod expression;
mod firewall;
mod health;
pub mod localhost;
pub mod plan;
pub mod policy;
pub mod state;
pub mod table;

use conntrack::{Search, SecondLook, Suspects};
use plan::Options;
use policy::notices::Notices;
use state::State;
use table::Table;

/// How long to wait after a failure before the next attempt; twice as long after each further one.
const RETRY: Duration = Duration::from_secs(1);
/// The longest wait.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Other programs change rules in bursts; so long after the first change their firewalls are looked at again.
const SETTLE: Duration = Duration::from_millis(500);

/// What makes one cluster's proxy its own.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name of its nf_tables table.
    pub table: String,
    /// Where pods live.
    pub pods: Cidr,
    /// Where cluster addresses of services are given out.
    pub services: Cidr,
    /// The host's address on the pod network.
    pub gateway: Ipv4Addr,
    /// How the names of the pod network's links begin; followed by `0` the link that holds the gateway address.
    pub link_prefix: String,
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
pub type Led = Option<Arc<BTreeSet<Ipv4Addr>>>;

/// The service proxy of one cluster.
pub struct Proxy {
    client: Client,
    config: Config,
    options: Options,
    led: watch::Sender<Led>,
}

impl Proxy {
    /// A proxy that reads services, endpoint slices, pods, network policies and namespaces through `client`.
    pub fn new(client: Client, config: Config, options: Options) -> Proxy {
        Proxy { client, config, options, led: watch::channel(None).0 }
    }

    /// Where new connections are led to, as it changes.
    pub fn led(&self) -> watch::Receiver<Led> {
        self.led.subscribe()
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
        let changed = Arc::new(tokio::sync::Notify::new());
        announce(&services, &changed, &mut tasks);
        announce(&slices, &changed, &mut tasks);
        announce(&pods, &changed, &mut tasks);
        announce(&policies, &changed, &mut tasks);
        announce(&namespaces, &changed, &mut tasks);
        let (sender, states) = watch::channel(None);
        let (recorder, record) = Recorder::new(self.client.clone(), "kube-proxy", "");
        tasks.spawn(record);
        let mut notices = Notices::new(recorder);
        let options = self.options;
        tasks.spawn(async move {
            tokio::join!(
                services.synced(),
                slices.synced(),
                pods.synced(),
                policies.synced(),
                namespaces.synced()
            );
            loop {
                let objects = policy::plan::Objects {
                    policies: policies.list(),
                    namespaces: namespaces.list(),
                    pods: pods.list(),
                    services: services.list(),
                    slices: slices.list(),
                };
                let with_ports = objects.pods.iter().filter(|pod| plan::has_host_ports(pod)).cloned();
                let with_ports: Vec<_> = with_ports.collect();
                let mut wanted = plan::plan(&options, &objects.services, &objects.slices, &with_ports);
                wanted.policies = policy::plan::plan(&objects);
                notices.look(&objects.policies);
                sender.send_if_modified(|current| {
                    let differs = current.as_ref() != Some(&wanted);
                    *current = Some(wanted);
                    differs
                });
                changed.notified().await;
            }
        });
        follow(self.config, states, self.led, shutdown).await
    }

    /// Removes the table and what was added to other firewalls; already gone is fine.
    ///
    /// # Errors
    /// What could not be removed; both are tried.
    pub async fn destroy(config: &Config) -> Result<(), Error> {
        let config = config.clone();
        let work = move || {
            let table = Table::remove(&config.table).map_err(Error::io("removing the service table"));
            firewall::close(&config).and(table)
        };
        blocking(work).await?
    }
}

/// Does what the newest state says, nothing while there is none, until `shutdown`; tells `led` what is done.
///
/// # Errors
/// When it cannot begin; later failures are logged and tried again.
pub async fn follow(
    config: Config,
    mut states: watch::Receiver<Option<State>>,
    led: watch::Sender<Led>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let events = Events::open().map_err(Error::io("listening to rule changes"))?;
    let mut table = Table::new(config.clone()).map_err(Error::io("opening netfilter's netlink"))?;
    if let Err(error) = close(&mut table) {
        tracing::error!(%error, "closing the way of pods whose policies are not known yet");
    }
    let mut node = Node {
        config,
        table: Some(table),
        listeners: localhost::Listeners::default(),
        search: Search::default(),
        second: SecondLook::default(),
        balancers: health::Listeners::default(),
        led,
        routed: false,
    };
    tokio::pin!(shutdown);
    let (mut retry, mut delay) = (None, RETRY);
    let mut firewalls = Some(tokio::time::Instant::now());
    // Beside everything else: their programs take their time.
    let mut opening = Opening(None);
    let mut foreign = false;
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            changed = states.changed() => if changed.is_err() {
                // Whoever makes the states ended; what is installed is the best that is known.
                shutdown.await;
                break;
            },
            heard = events.next(|event| {
                foreign |= node.is_foreign(event);
                node.is_damage(event)
            }) => match heard {
                Ok(heard) => {
                    if std::mem::take(&mut foreign) {
                        firewalls.get_or_insert_with(|| tokio::time::Instant::now() + SETTLE);
                    }
                    if !node.is_damaged(heard) {
                        continue;
                    }
                    tracing::warn!("the service table was changed by another program; installing it anew");
                    node.invalidate();
                }
                Err(source) => return Err(Error::Io { tried: "listening to rule changes", source }),
            },
            () = sleep_until(retry) => {}
            () = sleep_until(node.second.due()) => node.look_again(),
            () = sleep_until(firewalls), if opening.0.is_none() => {
                firewalls = None;
                let config = node.config.clone();
                opening = Opening(Some(tokio::spawn(blocking(move || firewall::open(&config)))));
                continue;
            }
            () = opening.done() => continue,
        }
        let Some(wanted) = states.borrow_and_update().clone() else { continue };
        let complete = node.apply(wanted).await.unwrap_or_else(|error| {
            tracing::error!(%error, "programming services; trying again in {delay:?}");
            false
        });
        (retry, delay) = match complete {
            true => (None, RETRY),
            false => (Some(tokio::time::Instant::now() + delay), (delay * 2).min(RETRY_MAX)),
        };
    }
    // Who takes the rules away next must find them all.
    if opening.0.is_some() {
        opening.done().await;
    }
    Ok(())
}

/// Lets no pod speak until it is known who may. A table that is there already knows it from before.
fn close(table: &mut Table) -> io::Result<()> {
    if !table.is_present()? {
        table.apply(State::closed())?;
        // Connections of before, if there are any, are looked at when everything is known.
        table.invalidate();
    }
    Ok(())
}

/// Letting pods through other firewalls, while that is under way.
struct Opening(Option<JoinHandle<Result<Result<(), Error>, Error>>>);

impl Opening {
    /// Waits for its end, for ever when none is under way.
    async fn done(&mut self) {
        let Some(task) = &mut self.0 else { return std::future::pending().await };
        let done = task.await;
        self.0 = None;
        if let Ok(Err(error)) = done.map(Result::flatten) {
            tracing::warn!(%error, "letting pods through other firewalls");
        }
    }
}

/// Everything on this node that makes services work.
struct Node {
    config: Config,
    /// Away only while a blocking call uses it.
    table: Option<Table>,
    listeners: localhost::Listeners,
    balancers: health::Listeners,
    led: watch::Sender<Led>,
    /// Tracked connections that could not be looked at yet.
    search: Search,
    /// Those to be looked for once more.
    second: SecondLook,
    /// Whether the addresses of services have a way out of the host's own programs.
    routed: bool,
}

impl Node {
    fn is_foreign(&self, event: &crate::sys::netlink::Message<'_>) -> bool {
        self.table.as_ref().is_some_and(|table| event.port != table.port())
    }

    fn is_damage(&self, event: &crate::sys::netlink::Message<'_>) -> bool {
        self.table.as_ref().is_some_and(|table| table.is_damage(event))
    }

    fn is_damaged(&self, heard: Heard) -> bool {
        match heard {
            Heard::Nothing => false,
            Heard::Match => true,
            // What was lost is not known: look whether the table is still there. When in doubt, it is not.
            Heard::Overflow => !self.table.as_ref().is_some_and(|table| table.is_present().unwrap_or(false)),
        }
    }

    fn invalidate(&mut self) {
        if let Some(table) = &mut self.table {
            table.invalidate();
        }
    }

    /// Has the next [`Node::apply`] look for suspects of a while ago.
    fn look_again(&mut self) {
        let suspects = self.second.take(tokio::time::Instant::now());
        self.search = std::mem::take(&mut self.search).and(Search { suspects, denied: false });
    }

    /// Makes it so, as far as it goes. False when a port is taken by somebody else.
    async fn apply(&mut self, wanted: State) -> Result<bool, Error> {
        let (local, balancers, led) = (wanted.local.clone(), wanted.health.clone(), wanted.led.clone());
        // Without it the rest is of use too: pods are cut off until their rules are there.
        let routed = if self.routed { Ok(()) } else { self.route().await };
        self.routed = routed.is_ok();
        let table = match self.table.take() {
            Some(table) => table,
            None => Table::new(self.config.clone()).map_err(Error::io("opening netfilter's netlink"))?,
        };
        let changed = stale_after(table.installed(), &wanted);
        let suspects = changed.suspects.clone();
        let (config, search) = (self.config.clone(), std::mem::take(&mut self.search).and(changed));
        let (table, search, done) = blocking(move || apply_table(&config, table, search, wanted)).await?;
        (self.table, self.search) = (Some(table), search);
        self.second.add(suspects, tokio::time::Instant::now());
        let failed = self.listeners.set(&local).await;
        for (protocol, port, error) in &failed {
            tracing::warn!(?protocol, port, %error, "opening a node port on loopback");
        }
        let unasked = self.balancers.set(&balancers).await;
        for (port, error) in &unasked {
            tracing::warn!(port, %error, "opening the health port of a service");
        }
        done?;
        self.led.send_replace(Some(led));
        routed.map(|()| failed.is_empty() && unasked.is_empty())
    }

    async fn route(&self) -> Result<(), Error> {
        let Config { services, gateway, link_prefix, .. } = &self.config;
        Ok(network::route_through(&format!("{link_prefix}0"), *services, *gateway).await?)
    }
}

/// Changes the table and then deletes tracked connections; gives back which are still to be looked for.
fn apply_table(
    config: &Config,
    mut table: Table,
    search: Search,
    wanted: State,
) -> (Table, Search, Result<(), Error>) {
    if let Err(error) = table.apply(wanted) {
        return (table, search, Err(Error::io("changing the service table")(error)));
    }
    let nothing = State::default();
    match conntrack::delete_stale(&search, config, table.installed().unwrap_or(&nothing)) {
        Ok(_) => (table, Search::default(), Ok(())),
        Err(error) => (table, search, Err(Error::io("deleting stale tracked connections")(error))),
    }
}

/// What to look for after a change; `None` is when it is not known what was there.
fn stale_after(installed: Option<&State>, wanted: &State) -> Search {
    let before = installed.and_then(|installed| installed.policies.as_ref());
    Search {
        suspects: match installed {
            Some(installed) => Suspects::To(wanted.misled(installed)),
            None => Suspects::All,
        },
        denied: wanted.policies.as_ref().is_some_and(|policies| policies.may_deny_more_than(before)),
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

async fn sleep_until(time: Option<tokio::time::Instant>) {
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
    table::exists(libc::AF_INET as u8, "minik-probe").map(drop)
}

#[cfg(test)]
mod tests {
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
        Proxy::destroy(&config).await.unwrap();
        opened.close().await;
        PodNetwork::destroy(&network).await.unwrap();
    }

    #[test]
    fn services_and_slices_of_the_api_become_rules() {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("MINIK_REQUIRE_ROOT").is_none(), "this test needs root");
            return;
        }
        // A thread with namespaces of its own: the kernel removes what is in them with it.
        let host = std::thread::spawn(|| {
            crate::sys::namespace::unshare(
                nix::sched::CloneFlags::CLONE_NEWNET | nix::sched::CloneFlags::CLONE_NEWNS,
            )
            .unwrap();
            let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
            nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(objects_become_rules());
        });
        if let Err(panic) = host.join() {
            std::panic::resume_unwind(panic);
        }
    }
}
