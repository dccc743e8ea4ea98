//! The cluster's names on the host, where systemd-resolved answers for it: questions below the cluster's domain go to
//! the cluster's own server, and no others do. Elsewhere a program that is to know them gets a file of its own to ask by.
//!
//! systemd-resolved is told so for the link of the pod network. What it is told of a link it forgets with the link, so
//! there is nothing to take back when a cluster stops, however it ends.

use std::fs;
use std::net::Ipv4Addr;

use tokio::task;

use super::configs::DOMAIN;
use super::{Error, Tried};
use crate::dns::resolvers;
use crate::kubelet::hosts::Resolver;
use crate::network;
use crate::sys::program;

/// The host's resolver configuration.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// What speaks to systemd-resolved.
const CLIENT: &str = "resolvectl";

/// Has the host ask the server at the gateway's address for names below `domain`; nothing where another resolver has the
/// last word.
pub(super) async fn announce(network: &network::Config, domain: &str) -> Result<(), Error> {
    // A host without such a file asks nobody.
    let asked = fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    if !resolvers::asks_stub(&asked) || program::find(CLIENT).is_none() {
        return Ok(());
    }
    // systemd-resolved has no use for a link without a carrier.
    network::connect_gateway(network).await.tried("cannot give the gateway's link a carrier")?;
    let commands = commands(&network.gateway_link(), network.gateway(), domain);
    let told = task::spawn_blocking(move || {
        commands
            .iter()
            .try_for_each(|words| program::run(CLIENT, &words.each_ref().map(String::as_str), &[]).map(drop))
    });
    told.await.tried("cannot wait for resolvectl")?.tried("cannot tell systemd-resolved")
}

/// What a program of the host asks by that is to know the names of a namespace as its pods do, in the place of `host`. (pure)
pub fn resolv_conf(namespace: &str, server: Ipv4Addr, host: &str) -> String {
    Resolver::of_cluster(namespace, &server.to_string(), DOMAIN, &Resolver::parse(host)).text()
}

/// What to tell, in an order in which the server is at no time one for all names. (pure)
fn commands(link: &str, server: Ipv4Addr, domain: &str) -> [[String; 3]; 3] {
    [
        ["default-route", link, "no"].map(str::to_owned),
        ["domain".to_owned(), link.to_owned(), format!("~{domain}")],
        ["dns".to_owned(), link.to_owned(), server.to_string()],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_the_host_asks_as_a_pod_does() {
        let text =
            resolv_conf("shop", Ipv4Addr::new(10, 96, 0, 10), "search corp.example\nnameserver 192.0.2.1\n");
        assert_eq!(
            text,
            "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
             nameserver 10.96.0.10\noptions ndots:5\n"
        );
    }

    #[test]
    fn the_cluster_answers_for_its_domain_alone() {
        let said =
            commands("mk0", Ipv4Addr::new(10, 244, 0, 1), "cluster.local").map(|words| words.join(" "));
        assert_eq!(said, ["default-route mk0 no", "domain mk0 ~cluster.local", "dns mk0 10.244.0.1"]);
    }
}
