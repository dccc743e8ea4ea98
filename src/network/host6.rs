//! What the host has of IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;

use super::Error;
use super::links::Links;
use super::settings6::speaks_ipv6;
use super::told::{Held, Link, MulticastGroup, listen};

/// Where the kernel keeps what it is told of IPv6.
const SETTINGS: &str = "/proc/sys/net/ipv6/conf";
/// The least that packets may be as long as on every link (RFC 8200).
const LEAST_MTU: u32 = 1280;
/// How long addresses are waited for that nobody else may have: the kernel asks for them once, for a second after a wait
/// of up to one.
const DETECTION: Duration = Duration::from_secs(3);

/// How far the host's IPv6 goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6 {
    /// There is none, for this reason.
    Absent(&'static str),
    /// No link has an address that is good beyond the site (RFC 4193 or less).
    Local,
    /// Some link has one.
    Global,
}

/// How far the host's IPv6 goes. What links have for which `is_own` holds, this program gave them.
pub async fn ipv6(is_own: impl Fn(&str) -> bool) -> Result<Ipv6, Error> {
    if !Path::new(SETTINGS).exists() {
        return Ok(Ipv6::Absent("the kernel has no IPv6"));
    }
    let links = Links::connect()?;
    let foreign: Vec<Link> = links.list().await?.into_iter().filter(|link| !is_own(&link.name)).collect();
    let (loopback, others): (Vec<&Link>, Vec<&Link>) = foreign.iter().partition(|link| link.name == "lo");
    let speak = |links: Vec<&Link>| links.into_iter().map(|link| speaks_ipv6(&link.name)).collect::<Vec<_>>();
    if let Some(why) = absent(&speak(loopback), &speak(others), links.uplink_mtu().await?) {
        return Ok(Ipv6::Absent(why));
    }
    let found = choose(&settled(&is_own).await?, None);
    Ok(if found.is_some_and(|address| !address.is_unique_local()) { Ipv6::Global } else { Ipv6::Local })
}

/// Why pods could have no IPv6, by which of the host's links speak it and by the length of packets on its uplink, which
/// those on the pods' links have too. (pure)
fn absent(loopback: &[bool], others: &[bool], mtu: Option<u32>) -> Option<&'static str> {
    if loopback.contains(&false) {
        return Some("IPv6 is disabled (net.ipv6.conf.lo.disable_ipv6 is 1)");
    }
    if !others.is_empty() && !others.contains(&true) {
        return Some("IPv6 is disabled on all links (net.ipv6.conf.*.disable_ipv6 is 1)");
    }
    mtu.is_some_and(|mtu| mtu < LEAST_MTU)
        .then_some("the MTU of the uplink is below 1280, the least for IPv6")
}

/// The host's IPv6 address that others reach it by: one of the link that has the address `near`, else another.
pub async fn node_address6(near: Ipv4Addr, is_own: impl Fn(&str) -> bool) -> Result<Option<Ipv6Addr>, Error> {
    let held = settled(&is_own).await?;
    let link = held.iter().find(|held| held.address == IpAddr::V4(near)).map(|held| held.link);
    Ok(choose(&held, link))
}

/// The addresses of links that are not this program's. Those that the kernel still looks for at others are waited for,
/// unless there is a good one anyway.
async fn settled(is_own: &impl Fn(&str) -> bool) -> Result<Vec<Held>, Error> {
    let mut changes = listen(&[MulticastGroup::Ipv6Ifaddr])?;
    let settled = async {
        loop {
            let held = foreign(is_own).await?;
            if !is_unsettled(&held) || changes.next().await.is_none() {
                return Ok(held);
            }
        }
    };
    match tokio::time::timeout(DETECTION, settled).await {
        Ok(held) => held,
        Err(_) => foreign(is_own).await,
    }
}

/// Whether an address may turn out to be the first that others can reach. (pure)
fn is_unsettled(held: &[Held]) -> bool {
    let good = choose(held, None).is_some_and(|address| !address.is_unique_local());
    !good && held.iter().any(|held| held.tentative)
}

/// The addresses of links that are not this program's.
async fn foreign(is_own: &impl Fn(&str) -> bool) -> Result<Vec<Held>, Error> {
    let links = Links::connect()?;
    let present = links.list().await?;
    let (own, others): (Vec<&Link>, Vec<&Link>) = present.iter().partition(|link| is_own(&link.name));
    let mut held = links.held().await?;
    held.retain(|held| !own.iter().any(|link| link.index == held.link));
    for held in &mut held {
        // Where nothing can be sent, nobody is asked.
        held.tentative &= others.iter().any(|link| link.index == held.link && link.carrier);
    }
    Ok(held)
}

/// The best of the addresses that others can reach: on the link if it has one, and one that stays.
fn choose(held: &[Held], link: Option<u32>) -> Option<Ipv6Addr> {
    let candidates = held.iter().filter_map(|held| match held.address {
        IpAddr::V6(address) if held.global && is_global(address) => Some((held, address)),
        _ => None,
    });
    let rank = |(held, address): &(&Held, Ipv6Addr)| {
        // The last, so that it is the same one each time.
        (Some(held.link) != link, address.is_unique_local(), held.temporary, *address)
    };
    candidates.min_by_key(rank).map(|(_, address)| address)
}

/// Whether an address may be that of a node.
fn is_global(address: Ipv6Addr) -> bool {
    !(address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_unicast_link_local()
        || address.to_ipv4_mapped().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(link: u32, address: &str, global: bool, temporary: bool) -> Held {
        let address: IpAddr = address.parse().unwrap();
        let (lent, tentative) = (false, false);
        Held { link, address, peer: address, prefix: 64, global, temporary, lent, tentative }
    }

    #[test]
    fn pods_have_ipv6_where_the_host_speaks_it() {
        let (off, nowhere) = (Some("IPv6 is disabled (net"), Some("IPv6 is disabled on all links"));
        for (loopback, others, mtu, why) in [
            (&[true][..], &[true][..], Some(1500), None),
            (&[true], &[], None, None),
            (&[true], &[false, true], Some(1280), None),
            (&[false], &[false], Some(1500), off),
            (&[false], &[true], Some(1500), off),
            (&[true], &[false, false], Some(1500), nowhere),
            (&[true], &[true], Some(1279), Some("the MTU of the uplink is below 1280")),
        ] {
            let got = absent(loopback, others, mtu);
            assert_eq!(got.is_some(), why.is_some(), "{loopback:?} {others:?} {mtu:?}");
            assert!(got.unwrap_or_default().starts_with(why.unwrap_or_default()), "{got:?}");
        }
    }

    #[test]
    fn addresses_that_are_looked_for_are_waited_for() {
        let coming = Held { tentative: true, ..held(2, "2001:db8::2", false, false) };
        let local = held(2, "fe80::1", false, false);
        let unique = held(2, "fd12::2", true, false);
        let good = held(3, "2001:db8::3", true, false);
        for (all, waits) in [
            (vec![], false),
            (vec![local.clone()], false),
            (vec![unique.clone()], false),
            (vec![local, coming.clone()], true),
            (vec![unique, coming.clone()], true),
            (vec![good, coming], false),
        ] {
            assert_eq!(is_unsettled(&all), waits, "{all:?}");
        }
    }

    #[test]
    fn the_nodes_address_is_on_its_link_and_stays() {
        let loopback = held(1, "::1", true, false);
        let near = held(2, "192.0.2.7", true, false);
        for (more, chosen) in [
            (vec![], None),
            (vec![held(2, "fe80::1", false, false)], None),
            (vec![held(2, "fe80::1", true, false)], None),
            (vec![held(2, "2001:db8::1", false, false)], None),
            (vec![held(3, "2001:db8::3", true, false)], Some("2001:db8::3")),
            (vec![held(3, "2001:db8::3", true, false), held(2, "fd12::2", true, false)], Some("fd12::2")),
            (vec![held(4, "fd12::4", true, false), held(3, "2001:db8::3", true, false)], Some("2001:db8::3")),
            (
                vec![held(3, "2001:db8::4", true, false), held(3, "2001:db8::3", true, false)],
                Some("2001:db8::3"),
            ),
            (
                vec![held(2, "2001:db8::9", true, true), held(2, "2001:db8::2", true, false)],
                Some("2001:db8::2"),
            ),
            (vec![held(2, "2001:db8::9", true, true)], Some("2001:db8::9")),
        ] {
            let all: Vec<Held> = [loopback.clone(), near.clone()].into_iter().chain(more).collect();
            assert_eq!(choose(&all, Some(2)), chosen.map(|text| text.parse().unwrap()), "{all:?}");
        }
    }
}
