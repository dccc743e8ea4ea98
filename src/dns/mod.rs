//! Cluster DNS: the zone is a pure function of services, slices and pods, swapped whole; the server answers from it.

use std::net::IpAddr;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::server::Server;
use self::upstream::{Files, Upstream};
use self::zone::Zone;
use crate::api::request::ListOptions;
use crate::client::reflector::Reflector;
use crate::client::{Client, rest};

pub mod exchange;
pub mod lookup;
pub mod resolvers;
pub mod server;
#[cfg(test)]
mod tests;
pub mod upstream;
pub mod zone;

/// The host's resolver configuration.
const HOST_FILE: &str = "/etc/resolv.conf";
/// Where systemd-resolved names its real servers.
const RESOLVED_FILE: &str = "/run/systemd/resolve/resolv.conf";

/// What the name server needs.
pub struct Config {
    /// `cluster.local`.
    pub domain: String,
    /// Bound to the address that pods ask.
    pub udp: UdpSocket,
    /// The same address over TCP.
    pub tcp: TcpListener,
    /// Other addresses that lead to this server: never asked, whatever the host's configuration says.
    pub aliases: Vec<IpAddr>,
}

/// The cluster's name server.
pub struct Dns {
    client: Client,
    config: Config,
    upstream: Upstream,
}

impl Dns {
    /// A server that follows the objects of `client` and passes other names on to the host's servers.
    pub fn new(client: Client, config: Config) -> Dns {
        let bound = config.udp.local_addr().map(|address| address.ip());
        let own = config.aliases.iter().copied().chain(bound).collect();
        let files = Files { host: HOST_FILE.into(), resolved: RESOLVED_FILE.into() };
        let upstream = Upstream::new(files, own);
        Dns { client, config, upstream }
    }

    /// The same server with other upstreams.
    pub fn with_upstream(self, upstream: Upstream) -> Dns {
        Dns { upstream, ..self }
    }

    /// Answers until `shutdown`.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Dns { client, config, upstream } = self;
        let (services, feed_services) = Reflector::<Service>::new(client.all(), ListOptions::default());
        let (slices, feed_slices) = Reflector::<EndpointSlice>::new(client.all(), ListOptions::default());
        let (pods, feed_pods) = Reflector::<Pod>::new(client.all(), ListOptions::default());
        let server = Arc::new(Server::new(upstream));
        let serve = async {
            // Not before everything is known: a name that is merely not known yet must not be denied.
            tokio::join!(services.synced(), slices.synced(), pods.synced());
            let (udp, tcp) = (server.clone().serve_udp(config.udp), server.clone().serve_tcp(config.tcp));
            tokio::select! {
                biased;
                () = follow(&config.domain, &server, &services, &slices, &pods) => {}
                // After the first zone, and then beside the making of others: questions do not wait for those.
                () = side_by_side(udp, tcp) => {}
            }
        };
        let feeds = async { tokio::join!(feed_services, feed_slices, feed_pods) };
        tokio::select! {
            () = shutdown => {}
            () = serve => {}
            _ = feeds => {}
        }
    }
}

/// Runs both in tasks of their own, until one of them ends.
async fn side_by_side(
    one: impl Future<Output = ()> + Send + 'static,
    other: impl Future<Output = ()> + Send + 'static,
) {
    let mut tasks = JoinSet::new();
    tasks.spawn(one);
    tasks.spawn(other);
    if let Some(Err(error)) = tasks.join_next().await {
        tracing::error!(%error, "the name server failed");
    }
}

/// Makes the zone anew whenever an object has changed.
async fn follow(
    domain: &str,
    server: &Server,
    services: &Reflector<Service>,
    slices: &Reflector<EndpointSlice>,
    pods: &Reflector<Pod>,
) {
    let mut changes = (services.subscribe(), slices.subscribe(), pods.subscribe());
    loop {
        let began = Instant::now();
        server.set_zone(Zone::build(domain, &services.list(), &slices.list(), &pods.list()));
        rest::after(began).await;
        let changed = tokio::select! {
            key = changes.0.next() => key,
            key = changes.1.next() => key,
            key = changes.2.next() => key,
        };
        if changed.is_none() {
            return;
        }
        // Everything that has changed until now goes into one zone.
        while changes.0.next().now_or_never().flatten().is_some() {}
        while changes.1.next().now_or_never().flatten().is_some() {}
        while changes.2.next().now_or_never().flatten().is_some() {}
    }
}
