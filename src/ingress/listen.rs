//! The ports of the host: opened while there is an ingress, and never at the cost of anything else.
//!
//! A port that somebody has is asked for again. Where only some of the host's addresses have it taken, clients still
//! reach the cluster's own address, the one that its pods know as the host's.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::gateway::Ports;
use super::server::Server;
use crate::sys::socket;

/// How long to wait before a port is asked for again; twice as long after each time.
const RETRY: Duration = Duration::from_secs(2);
/// The longest wait.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Where clients can come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The address to show for it; none without a port for HTTP.
    pub address: Option<Ipv4Addr>,
    /// What is not as it should be.
    pub problems: Vec<String>,
}

/// One port, as far as it could be had.
enum Port {
    /// At all addresses.
    Everywhere,
    /// At the cluster's own address.
    Here,
    /// Nowhere.
    Taken(io::Error),
}

/// Opens the ports and serves what comes there until dropped; connections end by and by then.
pub async fn keep_open(
    server: Server,
    ports: Ports,
    node: Ipv4Addr,
    gateway: Ipv4Addr,
    report: &watch::Sender<Option<Opened>>,
) {
    let ending = CancellationToken::new();
    let _ends = ending.clone().drop_guard();
    // Part of this future, so that the ports are free as soon as it is dropped.
    let mut accepting = FuturesUnordered::new();
    let open = |accepting: &mut FuturesUnordered<_>, port: u16, secure: bool| match listeners(port, gateway) {
        Ok((listeners, everywhere)) => {
            for listener in listeners {
                accepting.push(server.clone().accept(listener, secure, ending.clone()));
            }
            if everywhere { Port::Everywhere } else { Port::Here }
        }
        Err(error) => Port::Taken(error),
    };
    let mut http = open(&mut accepting, ports.http, false);
    let mut https = open(&mut accepting, ports.https, true);
    let mut delay = RETRY;
    loop {
        report.send_replace(Some(opened(&http, &https, ports, node, gateway)));
        let is_complete = !matches!((&http, &https), (Port::Taken(_), _) | (_, Port::Taken(_)));
        let wait = async {
            match is_complete {
                true => std::future::pending().await,
                false => tokio::time::sleep(delay).await,
            }
        };
        // They accept for as long as they are polled.
        let accept = async { while accepting.next().await.is_some() {} };
        tokio::select! {
            () = wait => {}
            () = async { tokio::join!(accept, std::future::pending::<()>()); } => {}
        }
        delay = (delay * 2).min(RETRY_MAX);
        if matches!(http, Port::Taken(_)) {
            http = open(&mut accepting, ports.http, false);
        }
        if matches!(https, Port::Taken(_)) {
            https = open(&mut accepting, ports.https, true);
        }
    }
}

/// Listeners on a port, and whether they are on all addresses.
fn listeners(port: u16, gateway: Ipv4Addr) -> io::Result<(Vec<TcpListener>, bool)> {
    let (found, everywhere) = match socket::tcp_everywhere(port) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let here = socket::tcp_ahead(SocketAddrV4::new(gateway, port)).map_err(|_| error)?;
            (vec![here], false)
        }
        found => (found?, true),
    };
    let listeners = found.into_iter().map(TcpListener::from_std).collect::<io::Result<_>>()?;
    Ok((listeners, everywhere))
}

/// What there is to tell (pure).
fn opened(http: &Port, https: &Port, ports: Ports, node: Ipv4Addr, gateway: Ipv4Addr) -> Opened {
    let problem = |port: &Port, number: u16, flag: &str| match port {
        Port::Everywhere => None,
        Port::Here => Some(format!(
            "port {number} is taken on an address of this host: the ingress is reached by {gateway} alone; end the \
             program that has the port and start the cluster again, or choose another port by minik start {flag}"
        )),
        Port::Taken(error) => Some(format!(
            "cannot listen on port {number} ({error}): end the program that has the port, or choose another port by \
             minik stop and minik start {flag}; the port is asked for again"
        )),
    };
    let problems = [
        problem(http, ports.http, "--ingress-http-port"),
        problem(https, ports.https, "--ingress-https-port"),
    ];
    let address = match http {
        Port::Everywhere => Some(node),
        Port::Here => Some(gateway),
        Port::Taken(_) => None,
    };
    Opened { address, problems: problems.into_iter().flatten().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_one_where_clients_are_heard() {
        let (node, gateway) = (Ipv4Addr::new(192, 168, 1, 7), Ipv4Addr::new(10, 244, 0, 1));
        let ports = Ports { http: 80, https: 443 };
        let taken = || Port::Taken(io::ErrorKind::AddrInUse.into());
        for (http, https, address, problems) in [
            (Port::Everywhere, Port::Everywhere, Some(node), &[][..]),
            (Port::Here, Port::Everywhere, Some(gateway), &["port 80 is taken"]),
            (taken(), Port::Everywhere, None, &["cannot listen on port 80"]),
            (Port::Everywhere, taken(), Some(node), &["cannot listen on port 443"]),
        ] {
            let opened = opened(&http, &https, ports, node, gateway);
            assert_eq!(opened.address, address);
            assert_eq!(opened.problems.len(), problems.len());
            for (told, begins) in opened.problems.iter().zip(problems) {
                assert!(told.starts_with(begins), "{told}");
            }
        }
    }
}
