//! Makes every component of a cluster and starts it: sockets first, then the kernel's side, then the loops.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::{self, JoinSet};

use super::adapters::{Keys, Names, Network, Volumes};
use super::cluster::{Cluster, Record, write_private};
use super::configs::{self, DOMAIN, Ranges};
use super::control::{self, State, Stop};
use super::host_names;
use super::ipv6::ipv6;
use super::lock::{self, Attempt, Lock};
use super::log;
use super::places::Places;
use super::ready::{self, Notice};
use super::running::Running;
use super::{Error, Tried};
use crate::api::request::User;
use crate::apiserver::aggregation::identity::FrontProxy;
use crate::apiserver::allocate::ServiceRanges;
use crate::apiserver::audit::Audit;
use crate::apiserver::pki::{LEAF_LIFETIME, Pki, ServerNames, Tls};
use crate::apiserver::proxy::{exchange::HostNetwork, tls};
use crate::apiserver::{self, ApiServer, http};
use crate::client::Client;
use crate::client::figures::Figures;
use crate::controllers::{self, Controllers};
use crate::dns::{self, Dns};
use crate::image::Images;
use crate::ingress::{self, Ingress};
use crate::kubelet::{Kubelet, node::Machine};
use crate::network::{self, Ipv6, PodNetwork};
use crate::proxy::Proxy;
use crate::runtime::linux::LinuxRuntime;
use crate::scheduler::Scheduler;
use crate::store::Store;
use crate::sys::socket;

/// The port of DNS.
pub const DNS_PORT: u16 = 53;
/// How long the lock of the cluster's daemon is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// What a daemon has before it touches anything that others see: nobody else is this cluster's daemon, and nobody else
/// has its ports.
pub struct Prepared {
    _lock: Lock,
    ranges: Ranges,
    api: Vec<TcpListener>,
    udp: UdpSocket,
    tcp: TcpListener,
    node_address: Ipv4Addr,
    node_address6: Option<Ipv6Addr>,
    pki: Arc<Pki>,
    state: watch::Sender<State>,
    stops: mpsc::Receiver<Stop>,
    components: Components,
}

/// The loops of a cluster, by name.
#[derive(Default)]
pub struct Components {
    tasks: JoinSet<()>,
    names: HashMap<task::Id, &'static str>,
}

impl Components {
    /// Starts one that goes on for as long as the cluster runs.
    pub fn spawn(&mut self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let id = self.tasks.spawn(work).id();
        self.names.insert(id, name);
    }

    /// Waits until one has ended, and says which and why. They never all end by themselves.
    pub async fn ended(&mut self) -> Error {
        let (id, cause) = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => (id, "it ended by itself".to_owned()),
            Some(Err(error)) => (error.id(), error.to_string()),
            None => return std::future::pending().await,
        };
        Error { what: format!("the {} failed", self.names.get(&id).unwrap_or(&"component")), cause }
    }

    /// Ends all.
    pub fn abort(&mut self) {
        self.tasks.abort_all();
    }
}

/// Resolves when the channel says so.
async fn told(mut shutdown: watch::Receiver<bool>) {
    // A dropped sender is the daemon's own end.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// Becomes the cluster's one daemon, takes its ports, makes the administrator's credentials, and can be asked from then
/// on. Of a failure, files alone are left.
pub async fn prepare(places: &Places, cluster: &Cluster, notice: &mut Notice) -> Result<Prepared, Error> {
    let mut ranges = Ranges::of(cluster)?;
    for directory in [places.data(), places.run()] {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.tried(format!("cannot make {}", directory.display()))?;
    }
    // Who only looks whether it is held, holds it for an instant.
    let lock = lock::wait(places.daemon_lock(), "minik daemon", LOCK_PATIENCE, |_| ()).await;
    let lock = match lock.tried("cannot lock the cluster")? {
        Attempt::Taken(lock) => lock,
        Attempt::Held(holder) => return Err(holder).tried("the cluster runs already"),
    };
    let record = Record {
        data_dir: places.data_dir.clone(),
        pod_cidr: cluster.pod_cidr.clone(),
        service_cidr: cluster.service_cidr.clone(),
    };
    record.write(places).tried("cannot note where the cluster is")?;
    if ranges.v6.is_some() {
        let ipv6 = ipv6().await;
        if let Ipv6::Absent(why) = ipv6 {
            tracing::warn!(why, "this host has no IPv6: the cluster goes on with IPv4");
        }
        ranges = ranges.on_host(ipv6);
    }
    let port = cluster.apiserver_port;
    let api = api_sockets(port, ranges.v6.is_some())?;
    let (udp, tcp) = dns_sockets(ranges.gateway())?;
    let pki = Arc::new(Pki::open(&places.data().join("pki")).tried("cannot open the cluster's keys")?);
    write_credentials(places, &pki)?;
    let node_address = node_address(ranges.gateway()).await;
    let node_address6 = node_address6(&ranges, node_address).await;
    let mut components = Components::default();
    let (state, stops) = serve_control(places, cluster, node_address, &mut components)?;
    notice.credentials().await;
    Ok(Prepared {
        _lock: lock,
        ranges,
        api,
        udp,
        tcp,
        node_address,
        node_address6,
        pki,
        state,
        stops,
        components,
    })
}

/// The sockets of the API server, on all addresses; those of IPv6 as far as they can be had.
fn api_sockets(port: u16, ipv6: bool) -> Result<Vec<TcpListener>, Error> {
    let listen = |address: IpAddr| socket::tcp_of(address, port).and_then(TcpListener::from_std);
    let first = listen(Ipv4Addr::UNSPECIFIED.into()).tried(format!(
        "cannot listen on port {port} for the API server (choose another by --apiserver-port)"
    ))?;
    let second = ipv6.then(|| listen(Ipv6Addr::UNSPECIFIED.into())).transpose();
    let second = second.unwrap_or_else(|error| {
        tracing::warn!(port, %error, "the API server is not reached by IPv6");
        None
    });
    Ok([Some(first), second].into_iter().flatten().collect())
}

/// The sockets of DNS, on an address that the host gets later: so a program that has the port shows in time.
fn dns_sockets(gateway: Ipv4Addr) -> Result<(UdpSocket, TcpListener), Error> {
    let address = SocketAddrV4::new(gateway, DNS_PORT);
    let what = |protocol: &str| format!("cannot listen on {address}/{protocol} for DNS");
    let udp = socket::udp_ahead(address).and_then(UdpSocket::from_std).tried(what("udp"))?;
    let tcp = socket::tcp_ahead(address).and_then(TcpListener::from_std).tried(what("tcp"))?;
    Ok((udp, tcp))
}

/// Starts everything.
pub async fn start(places: &Places, cluster: &Cluster, prepared: Prepared) -> Result<Running, Error> {
    let Prepared {
        _lock,
        ranges,
        api: listeners,
        udp,
        tcp,
        node_address,
        node_address6,
        pki,
        state,
        stops,
        mut components,
    } = prepared;
    let parent = configs::cgroup_parent(places);
    let scope = configs::cgroups(places, &parent)?;
    let store = Store::open(&places.data().join("store")).tried("cannot open the store")?;
    let runtime = configs::runtime(places, parent)?;
    if let Err(error) = log::shorten_others(&runtime.run_dir.join("supervisor.log")) {
        tracing::warn!(%error, "cannot shorten the supervisor's log");
    }
    let runtime = LinuxRuntime::connect(runtime);
    let network = PodNetwork::open(configs::network(places, ranges));
    let (runtime, network) = tokio::join!(runtime, network);
    let (runtime, network) = (
        runtime.tried("cannot start the container runtime")?,
        network.tried("cannot set up the pod network")?,
    );
    // The supervisor is in it now.
    drop(scope);
    let images = Images::open(cluster.images(places)).tried("cannot open the image store")?;
    let gateway = ranges.gateway();
    let machine = Machine::read(&places.data());

    let (api, tls) = api_server(cluster, &store, ranges, (node_address, node_address6), pki)?;
    let port = cluster.apiserver_port;
    api.bootstrap(IpAddr::V4(gateway), port).await.tried("cannot make the cluster's first objects")?;

    let figures = Arc::new(Figures::default());
    let alone = |name: &str| Client::new(api.clone(), User::component(name));
    let client = |name: &str| alone(name).recorded_in(figures.clone());
    let node_user = format!("system:node:{}", cluster.node_name);
    let ingress = ingress(cluster, client("system:ingress-nginx"), node_address, gateway)?;
    let asked = ingress.as_ref().map_or_else(|| watch::channel(ingress::Asked::default()).1, Ingress::asked);
    let options = configs::proxy_options(cluster);
    let proxy = Proxy::new(client("system:kube-proxy"), configs::proxy(places, ranges), options);
    let kubelet = Kubelet::new(
        configs::kubelet(places, cluster, ranges, (node_address, node_address6), &machine)?,
        // Its own server shows its figures.
        alone(&node_user),
        runtime.clone(),
        Arc::new(images.clone()),
        Arc::new(Network {
            pods: network.clone(),
            users: configs::users(places),
            led: proxy.led(),
            gone: proxy.gone(),
            asked,
        }),
        machine,
        // All that the node was given, also what it cannot use for a while.
        Ranges::of(cluster)?.pod_cidrs(),
    );
    let front_proxy = Pki::open_as(&places.data().join("pki/front-proxy"), "front-proxy-ca")
        .tried("cannot open the keys of the front proxy")?;
    let front_proxy = FrontProxy::new(Arc::new(front_proxy), tls.pki.ca_pem().to_owned());
    let scheduler = Scheduler::new(client("system:kube-scheduler"));
    let node = Arc::new(kubelet.server());
    let server = http::Server::new(
        api.clone(),
        http::Config {
            node: node.clone(),
            dial: Arc::new(HostNetwork),
            front_proxy: Some(front_proxy),
            audit: audit(cluster)?,
            deadline: http::DEADLINE,
            figures: vec![figures.clone(), scheduler.figures()],
        },
    );
    let controllers = Controllers::new(
        // They see to objects of aggregated servers as well.
        Client::new(server.clone(), User::component("system:kube-controller-manager"))
            .recorded_in(figures.clone()),
        controllers::Config {
            authority: Arc::new(Keys { pki: tls.pki.clone(), api: api.clone() }),
            ca_pem: tls.pki.ca_pem().to_owned(),
            dns_service: ranges.dns(),
            dns_server: (gateway, DNS_PORT),
            storage: Arc::new(Volumes { directory: places.volumes() }),
            node,
        },
    );
    let aliases = vec![IpAddr::V4(ranges.dns())];
    let dns =
        Dns::new(client("system:kube-dns"), dns::Config { domain: DOMAIN.to_owned(), udp, tcp, aliases });

    let (shutdown, told_by) = watch::channel(false);
    let end = || told(told_by.clone());
    let tls_config = tls.tls.config.clone();
    components.spawn("API server", server.serve(listeners, tls_config, end()));
    let renewed = places.clone();
    components.spawn("renewal of certificates", async move {
        let also = || {
            if let Err(error) = write_credentials(&renewed, &tls.pki) {
                tracing::error!(%error, "could not renew the administrator's certificate");
            }
        };
        tls.tls.renew(also).await;
    });
    let keeper = api.clone();
    components
        .spawn("keeper of the first objects", async move { keeper.keep(IpAddr::V4(gateway), port).await });
    components.spawn("controllers", controllers.run(end()));
    components.spawn("scheduler", scheduler.run(end()));
    components.spawn("DNS server", dns.run(end()));
    let until = end();
    components.spawn("service proxy", async move {
        if let Err(error) = proxy.run(until).await {
            tracing::error!(%error, "the service proxy ended");
        }
    });
    match ingress {
        Some(ingress) => components.spawn("ingress", ingress.run(end())),
        None => {
            let (client, given) = (client("system:ingress-nginx"), [node_address, gateway]);
            components.spawn("end of the ingress", Ingress::withdraw(client, given, end()));
        }
    }
    let (end_pods, mut ends) = watch::channel(None);
    let until = async move {
        // A dropped sender is the daemon's own end.
        ends.wait_for(Option::is_some).await.ok().and_then(|time| *time).flatten()
    };
    let kubelet = tokio::spawn(async move { kubelet.run(until).await.map_err(|error| error.to_string()) });
    state.send_modify(|state| state.kubelet = true);
    let observer = client("system:minik");
    let node = cluster.node_name.clone();
    let shown = state.subscribe();
    let links = configs::network(places, ranges);
    components.spawn("watch on readiness", async move {
        ready::wait(&observer, &node, ready::Dns { service: ranges.dns(), gateway, domain: DOMAIN }).await;
        state.send_modify(|state| state.ready = true);
        if let Err(error) = host_names::announce(&links, DOMAIN).await {
            tracing::warn!(%error, "the host does not know the cluster's names");
        }
        // What may take long and nobody waits for.
        let collected = task::spawn_blocking(move || images.collect()).await;
        if let Ok(Err(error)) = collected {
            tracing::warn!(%error, "cannot remove what no image needs");
        }
        std::future::pending().await
    });
    Ok(Running {
        _lock,
        places: places.clone(),
        state: shown,
        runtime,
        network,
        store,
        stops,
        shutdown,
        end_pods,
        kubelet,
        components,
    })
}

/// The audit log, when there is a policy for it.
fn audit(cluster: &Cluster) -> Result<Option<Audit>, Error> {
    let (Some(policy), Some(log)) = (&cluster.audit_policy_file, &cluster.audit_log_file) else {
        return Ok(None);
    };
    Audit::open(policy, log, cluster.audit_log_limits()).map(Some).tried("cannot keep an audit log")
}

/// The ingress, unless the cluster is to be without.
fn ingress(
    cluster: &Cluster,
    client: Client,
    node: Ipv4Addr,
    gateway: Ipv4Addr,
) -> Result<Option<Ingress>, Error> {
    let Some(ports) = cluster.ingress_ports() else { return Ok(None) };
    let tls = tls::unverified(None).tried("cannot make the TLS settings for backends")?;
    let names = Arc::new(Names { server: SocketAddr::new(gateway.into(), DNS_PORT), domain: DOMAIN });
    Ok(Some(Ingress::new(client, ingress::Config { ports, node, gateway, tls, names })))
}

/// TLS settings with the authority beside them.
struct Secured {
    tls: Tls,
    pki: Arc<Pki>,
}

/// Keeps the administrator's certificate and key where the command line finds them.
fn write_credentials(places: &Places, pki: &Pki) -> Result<(), Error> {
    let admin = pki
        .client("minik-admin", &["system:masters"], LEAF_LIFETIME)
        .tried("cannot make the administrator's certificate")?;
    let admin = serde_json::json!({
        "ca": pki.ca_pem(), "certificate": admin.certificate, "key": admin.key,
    });
    write_private(&places.admin(), admin.to_string().as_bytes())
        .tried("cannot keep the administrator's certificate")
}

fn api_server(
    cluster: &Cluster,
    store: &Store,
    ranges: Ranges,
    (node_address, node_address6): (Ipv4Addr, Option<Ipv6Addr>),
    pki: Arc<Pki>,
) -> Result<(Arc<ApiServer>, Secured), Error> {
    let names = ServerNames {
        node: cluster.node_name.clone(),
        addresses: [node_address, ranges.gateway(), ranges.services.nth(1)]
            .map(IpAddr::V4)
            .into_iter()
            .chain(node_address6.into_iter().chain(ranges.v6.map(|v6| v6.gateway6())).map(IpAddr::V6))
            .collect(),
    };
    let service_ranges = ServiceRanges::parse(&cluster.service_cidr)
        .ok_or_else(|| cluster.service_cidr.clone())
        .tried("not a service range")?;
    let api = ApiServer::new(apiserver::Config {
        store: store.clone(),
        service_ranges,
        token_key: pki.token_key().to_owned(),
    })
    .tried("cannot make the API server")?;
    let tls = Tls::new(pki.clone(), names, LEAF_LIFETIME).tried("cannot make the server's certificate")?;
    Ok((api, Secured { tls, pki }))
}

/// The address by which the node is known: the one that packets to the outside would carry, or the gateway's
/// on a host without a way out.
async fn node_address(gateway: Ipv4Addr) -> Ipv4Addr {
    // Connecting a datagram socket sends nothing: it only asks the routing table.
    let probe = async {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.ok()?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).await.ok()?;
        match socket.local_addr().ok()?.ip() {
            IpAddr::V4(address) if !address.is_loopback() && !address.is_unspecified() => Some(address),
            _ => None,
        }
    };
    probe.await.unwrap_or(gateway)
}

/// The same of IPv6, in a cluster that has it; likewise the gateway's where no other is good beyond its link.
async fn node_address6(ranges: &Ranges, near: Ipv4Addr) -> Option<Ipv6Addr> {
    let v6 = ranges.v6?;
    let found = network::node_address6(near, Places::is_link).await;
    let found = found.inspect_err(|error| tracing::warn!(%error, "cannot read the host's IPv6 addresses"));
    Some(found.ok().flatten().unwrap_or(v6.gateway6()))
}

fn serve_control(
    places: &Places,
    cluster: &Cluster,
    node_address: Ipv4Addr,
    components: &mut Components,
) -> Result<(watch::Sender<State>, mpsc::Receiver<Stop>), Error> {
    let socket = places.control();
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).tried(format!("cannot listen on {}", socket.display()))?;
    let (stop, stops) = mpsc::channel(1);
    let (state, shown) = watch::channel(State {
        pid: std::process::id(),
        apiserver_port: cluster.apiserver_port,
        node_address: node_address.to_string(),
        node_name: cluster.node_name.clone(),
        kubelet: false,
        ready: false,
    });
    components.spawn("control socket", control::serve(listener, shown, stop));
    Ok((state, stops))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_component_is_noticed_by_name() {
        let mut components = Components::default();
        components.spawn("patient", std::future::pending());
        components.spawn("short", async {});
        assert_eq!(components.ended().await.to_string(), "the short failed: it ended by itself");
        components.spawn("clumsy", async { panic!("oops") });
        let error = components.ended().await.to_string();
        assert!(error.starts_with("the clumsy failed: ") && error.contains("oops"), "{error}");
        components.abort();
    }
}
