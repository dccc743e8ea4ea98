//! The daemon: the only place that knows every component. Settings -> build -> spawn -> drain.

mod adapters;
pub mod cleanup;
pub mod config;
pub mod control;
mod ready;
pub mod unit;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use self::config::{Cluster, Places};
use self::control::State;
use crate::api::request::User;
use crate::apiserver::allocate::ServiceRange;
use crate::apiserver::pki::{LEAF_LIFETIME, Pki, ServerNames, Tls};
use crate::apiserver::{self, ApiServer, http};
use crate::client::Client;
use crate::controllers::{self, Controllers};
use crate::dns::{self, Dns};
use crate::image::Images;
use crate::kubelet::{self, Kubelet, node::Machine};
use crate::network::{self, Cidr, PodNetwork};
use crate::proxy::{self, Proxy};
use crate::runtime::cgroups::Tree;
use crate::runtime::linux::{self, LinuxRuntime};
use crate::scheduler::Scheduler;
use crate::store::Store;
use crate::sys::program::Helper;

/// The domain of the cluster's names.
const DOMAIN: &str = "cluster.local";
/// Where container logs go, as log shippers expect.
const POD_LOGS: &str = "/var/log/pods";
/// Links to them, likewise.
const CONTAINER_LOGS: &str = "/var/log/containers";
/// How long containers get to end when the machine goes down (a pod's usual grace).
const SHUTDOWN_GRACE: Duration = Duration::from_secs(30);

/// Why the daemon could not start, in one sentence for the user.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}")]
pub struct Error {
    what: String,
    cause: String,
}

/// Says what was tried when something fails.
trait Tried<T> {
    fn tried(self, what: impl Into<String>) -> Result<T, Error>;
}

impl<T, E: std::fmt::Display> Tried<T> for Result<T, E> {
    fn tried(self, what: impl Into<String>) -> Result<T, Error> {
        self.map_err(|cause| Error { what: what.into(), cause: cause.to_string() })
    }
}

/// A cluster's ranges and the addresses that follow from them.
#[derive(Debug, Clone, Copy)]
struct Ranges {
    pods: Cidr,
    services: Cidr,
}

impl Ranges {
    fn of(cluster: &Cluster) -> Result<Ranges, Error> {
        Ok(Ranges {
            pods: config::parse_cidr("pod-cidr", &cluster.pod_cidr).tried("settings")?,
            services: config::parse_cidr("service-cidr", &cluster.service_cidr).tried("settings")?,
        })
    }

    /// The host's address on the pod network.
    fn gateway(&self) -> Ipv4Addr {
        self.pods.nth(1)
    }

    /// Kubernetes' usual address of the DNS service.
    fn dns(&self) -> Ipv4Addr {
        self.services.nth(10)
    }
}

/// The configuration of the pod network.
fn network_config(places: &Places, pods: Cidr) -> network::Config {
    network::Config {
        prefix: places.link_prefix(),
        pods,
        namespaces: places.run().join("netns"),
        state: places.data().join("network"),
    }
}

/// The configuration of the service proxy.
fn proxy_config(places: &Places, ranges: Ranges) -> proxy::Config {
    proxy::Config {
        table: places.table(),
        pods: ranges.pods,
        services: ranges.services,
        gateway: ranges.gateway(),
        link_prefix: places.link_prefix(),
    }
}

/// The configuration of the container runtime.
fn runtime_config(places: &Places, cgroup_parent: PathBuf) -> Result<linux::Config, Error> {
    Ok(linux::Config {
        run_dir: places.run().join("runtime"),
        state_dir: places.data().join("containers"),
        cgroup_parent,
        executable: std::env::current_exe().tried("cannot find the minik program")?,
    })
}

/// The cgroup that holds the containers: that of their scope where systemd runs, or the cluster's own.
fn cgroup_parent(places: &Places) -> PathBuf {
    unit::control_group(places).unwrap_or_else(|| places.cgroup())
}

/// Finds the place for the containers' groups. Where systemd makes it, the answer keeps it there until something runs
/// in it; elsewhere the daemon is in it itself.
fn cgroups(places: &Places, parent: &Path) -> Result<Option<Helper>, Error> {
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

/// Runs a cluster until it is told to stop; with `notify`, connects there and says how the start went.
pub async fn run(places: Places, cluster: Cluster, notify: Option<PathBuf>) -> Result<(), Error> {
    let ranges = Ranges::of(&cluster)?;
    match start(&places, &cluster, ranges).await {
        Ok(running) => {
            let ready = running.ready.clone();
            let announce = async {
                ready.wait_until_ready().await;
                if let Some(notify) = notify {
                    ready::tell(&notify, Ok(())).await;
                }
                std::future::pending().await
            };
            tokio::select! {
                result = running.until_stopped() => result,
                () = announce => Ok(()),
            }
        }
        Err(error) => {
            if let Some(notify) = notify {
                ready::tell(&notify, Err(&error)).await;
            }
            Err(error)
        }
    }
}

/// A cluster that runs.
struct Running {
    ready: ready::Ready,
    places: Places,
    ranges: Ranges,
    cluster: Cluster,
    runtime: LinuxRuntime,
    network: PodNetwork,
    store: Store,
    /// Set to the grace of containers when the cluster is to end.
    stop: watch::Receiver<Option<Duration>>,
    /// Tells the components to end.
    shutdown: watch::Sender<bool>,
    kubelet: JoinHandle<()>,
    components: JoinSet<()>,
}

/// Resolves when the channel says so.
async fn told(mut shutdown: watch::Receiver<bool>) {
    // A dropped sender is the daemon's own end.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

async fn start(places: &Places, cluster: &Cluster, ranges: Ranges) -> Result<Running, Error> {
    for directory in [places.data(), places.run()] {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.tried(format!("cannot make {}", directory.display()))?;
    }
    let parent = cgroup_parent(places);
    let scope = cgroups(places, &parent)?;
    let store = Store::open(&places.data().join("store")).tried("cannot open the store")?;
    let runtime = LinuxRuntime::connect(runtime_config(places, parent)?);
    let network = PodNetwork::open(network_config(places, ranges.pods));
    let (runtime, network) = tokio::join!(runtime, network);
    let (runtime, network) = (
        runtime.tried("cannot start the container runtime")?,
        network.tried("cannot set up the pod network")?,
    );
    // The supervisor is in it now.
    drop(scope);
    let images = Images::open(cluster.images(places)).tried("cannot open the image store")?;
    let gateway = ranges.gateway();
    let node_address = node_address(gateway).await;
    let machine = Machine::read(&places.data());

    let (api, tls) = api_server(places, cluster, &store, ranges, node_address)?;
    let port = cluster.apiserver_port;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.tried(format!(
        "cannot listen on port {port} for the API server (choose another by --apiserver-port)"
    ))?;
    api.bootstrap(IpAddr::V4(gateway), port).await.tried("cannot make the cluster's first objects")?;
    let udp =
        UdpSocket::bind((gateway, 53)).await.tried(format!("cannot listen on {gateway}:53/udp for DNS"))?;
    let tcp =
        TcpListener::bind((gateway, 53)).await.tried(format!("cannot listen on {gateway}:53/tcp for DNS"))?;

    let client = |name: &str| Client::new(api.clone(), User::component(name));
    let node_user = format!("system:node:{}", cluster.node_name);
    let kubelet = Kubelet::new(
        kubelet_config(places, cluster, ranges, node_address, &machine),
        client(&node_user),
        runtime.clone(),
        Arc::new(images),
        Arc::new(network.clone()),
        machine,
        ranges.pods.to_string(),
    );
    let server = http::Server::new(api.clone(), Arc::new(kubelet.server()));
    let controllers = Controllers::new(
        client("system:kube-controller-manager"),
        controllers::Config {
            ca_pem: tls.ca_pem.clone(),
            dns_service: ranges.dns(),
            dns_server: (gateway, 53),
        },
    );
    let aliases = vec![IpAddr::V4(ranges.dns())];
    let dns =
        Dns::new(client("system:kube-dns"), dns::Config { domain: DOMAIN.to_owned(), udp, tcp, aliases });
    let proxy = Proxy::new(client("system:kube-proxy"), proxy_config(places, ranges));

    let (shutdown, told_by) = watch::channel(false);
    let mut components = JoinSet::new();
    let end = || told(told_by.clone());
    let tls_config = tls.tls.config.clone();
    components.spawn(server.serve(listener, tls_config, end()));
    components.spawn(async move { tls.tls.renew().await });
    let keeper = api.clone();
    components.spawn(async move { keeper.keep(IpAddr::V4(gateway), port).await });
    components.spawn(controllers.run(end()));
    components.spawn(Scheduler::new(client("system:kube-scheduler")).run(end()));
    components.spawn(dns.run(end()));
    let until = end();
    components.spawn(async move {
        if let Err(error) = proxy.run(until).await {
            tracing::error!(%error, "the service proxy ended");
        }
    });
    let until = end();
    let kubelet = tokio::spawn(async move {
        if let Err(error) = kubelet.run(until).await {
            tracing::error!(%error, "the kubelet ended");
        }
    });
    let ready = ready::Ready::new(client("system:minik"), &cluster.node_name, gateway, DOMAIN);
    let stop = serve_control(places, cluster, node_address, ready.clone(), &mut components)?;
    Ok(Running {
        ready,
        places: places.clone(),
        ranges,
        cluster: cluster.clone(),
        runtime,
        network,
        store,
        stop,
        shutdown,
        kubelet,
        components,
    })
}

/// TLS settings with the authority's certificate beside them.
struct Secured {
    tls: Tls,
    ca_pem: String,
}

fn api_server(
    places: &Places,
    cluster: &Cluster,
    store: &Store,
    ranges: Ranges,
    node_address: Ipv4Addr,
) -> Result<(Arc<ApiServer>, Secured), Error> {
    let pki = Arc::new(Pki::open(&places.data().join("pki")).tried("cannot open the cluster's keys")?);
    let names = ServerNames {
        node: cluster.node_name.clone(),
        addresses: [node_address, ranges.gateway(), ranges.services.nth(1)].map(IpAddr::V4).into(),
    };
    let admin = pki
        .client("minik-admin", &["system:masters"], LEAF_LIFETIME)
        .tried("cannot make the administrator's certificate")?;
    let admin = serde_json::json!({
        "ca": pki.ca_pem(), "certificate": admin.certificate, "key": admin.key,
    });
    config::write_private(&places.admin(), admin.to_string().as_bytes())
        .tried("cannot keep the administrator's certificate")?;
    let service_range = ServiceRange::parse(&cluster.service_cidr)
        .ok_or_else(|| cluster.service_cidr.clone())
        .tried("not a service range")?;
    let api = ApiServer::new(apiserver::Config {
        store: store.clone(),
        service_range,
        token_key: pki.token_key().to_owned(),
    })
    .tried("cannot make the API server")?;
    let ca_pem = pki.ca_pem().to_owned();
    let tls = Tls::new(pki, names, LEAF_LIFETIME).tried("cannot make the server's certificate")?;
    Ok((api, Secured { tls, ca_pem }))
}

fn kubelet_config(
    places: &Places,
    cluster: &Cluster,
    ranges: Ranges,
    address: Ipv4Addr,
    machine: &Machine,
) -> kubelet::context::Config {
    kubelet::context::Config {
        node: cluster.node_name.clone(),
        address,
        dns: ranges.dns(),
        domain: DOMAIN.to_owned(),
        pods: places.data().join("pods"),
        memory: places.run().join("pods"),
        logs: PathBuf::from(POD_LOGS),
        container_logs: PathBuf::from(CONTAINER_LOGS),
        seccomp: places.data().join("seccomp"),
        capacity: machine.capacity,
        share_processes: cluster.share_process_namespace,
    }
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

fn serve_control(
    places: &Places,
    cluster: &Cluster,
    node_address: Ipv4Addr,
    ready: ready::Ready,
    components: &mut JoinSet<()>,
) -> Result<watch::Receiver<Option<Duration>>, Error> {
    let socket = places.control();
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).tried(format!("cannot listen on {}", socket.display()))?;
    let (stop, stopped) = watch::channel(None);
    let (state, shown) = watch::channel(State {
        pid: std::process::id(),
        apiserver_port: cluster.apiserver_port,
        node_address: node_address.to_string(),
        node_name: cluster.node_name.clone(),
        ready: false,
    });
    components.spawn(control::serve(listener, shown, stop));
    components.spawn(async move {
        ready.wait_until_ready().await;
        state.send_modify(|state| state.ready = true);
        std::future::pending().await
    });
    Ok(stopped)
}

impl Running {
    /// Runs until asked to stop (all pods end) or told to by a signal (pods go on, unless the machine goes down).
    async fn until_stopped(mut self) -> Result<(), Error> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).tried("cannot wait for signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).tried("cannot wait for signals")?;
        let grace = tokio::select! {
            // A dropped sender is the daemon's own end.
            grace = self.stop.wait_for(Option::is_some) => grace.ok().and_then(|grace| *grace),
            _ = terminate.recv() => {
                let stopping = tokio::task::spawn_blocking(unit::machine_is_stopping).await;
                stopping.unwrap_or_default().then_some(SHUTDOWN_GRACE)
            }
            _ = interrupt.recv() => None,
        };
        self.shutdown.send_replace(true);
        if let Err(error) = (&mut self.kubelet).await {
            tracing::error!(%error, "the kubelet failed");
        }
        if let Some(grace) = grace {
            self.end_pods(grace).await;
        }
        self.store.close().await;
        self.components.abort_all();
        let _ = fs::remove_file(self.places.control());
        Ok(())
    }

    /// Ends every pod, then what they stood on; objects and volumes stay.
    async fn end_pods(&mut self, grace: Duration) {
        cleanup::end_containers(&self.runtime, grace).await;
        if let Err(error) = self.runtime.shutdown().await {
            tracing::error!(%error, "the container runtime did not end");
        }
        self.network.close().await;
        cleanup::remove_network(&self.places, &self.cluster, self.ranges.pods).await;
    }
}
