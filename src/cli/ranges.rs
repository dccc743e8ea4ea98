//! The ranges of a new cluster: those that are named, or ones that nobody uses, of one address family or of both.

use std::fmt;

use super::failure::{Failure, Kind};
use super::settle::Host;
use crate::daemon::cluster::Cluster;
use crate::daemon::settings::{
    DualStack, Error, MACHINE_FILE, Settings, parse_pod_ranges, parse_service_ranges, ranges_text,
};
use crate::network::{self, Cidr, Cidr6, Ipv6};

/// The ranges of pods and services, as the cluster's settings have them. An existing cluster keeps its own: it may have
/// left its routes behind, when its daemon was killed.
pub fn settle(
    asked: &Settings,
    machine: &Settings,
    before: Option<&Cluster>,
    host: &Host,
) -> Result<(String, String), Failure> {
    if let Some(before) = before {
        return Ok((before.pod_cidr.clone(), before.service_cidr.clone()));
    }
    let usage = |error: Error| Failure::new(Kind::Usage, error);
    let pods = asked.pod_cidr.as_deref().map(|text| parse_pod_ranges(POD.name, text));
    let services = asked.service_cidr.as_deref().map(|text| parse_service_ranges(SERVICE.name, text));
    let (pods, services) = (pods.transpose().map_err(usage)?, services.transpose().map_err(usage)?);
    let wished_pods = machine.pod_cidr.as_deref().map(|text| parse_pod_ranges(MACHINE_FILE, text));
    let wished_services =
        machine.service_cidr.as_deref().map(|text| parse_service_ranges(MACHINE_FILE, text));
    let wished_pods = wished_pods.transpose().map_err(usage)?;
    let wished_services = wished_services.transpose().map_err(usage)?;
    let (pods6, services6) = (pods.and_then(|pair| pair.1), services.and_then(|pair| pair.1));
    let named = pods6.is_some() || services6.is_some();
    let dual_stack = is_dual_stack(asked.dual_stack, machine.dual_stack, named, host.ipv6)?;

    let used = uses(host, host.occupied.iter().copied(), |range| range.parse().ok());
    let first = |pair: (Cidr, Option<Cidr6>)| pair.0;
    let services4 = Choice {
        flag: SERVICE,
        named: services.map(first),
        wish: wished_services.map(first),
        preferred: &network::SERVICE_RANGES,
    };
    let services4 = services4.make(&used, None, Cidr::overlaps)?;
    let pods4 = Choice {
        flag: POD,
        named: pods.map(first),
        wish: wished_pods.map(first),
        preferred: &network::POD_RANGES,
    };
    let pods4 = pods4.make(&used, Some(services4), Cidr::overlaps)?;
    if !dual_stack {
        return Ok((pods4.to_string(), services4.to_string()));
    }
    let used = uses(host, host.occupied6.iter().copied(), |range| range.parse().ok());
    let services6 = Choice {
        flag: SERVICE6,
        named: services6,
        wish: wished_services.and_then(|pair| pair.1),
        preferred: &network::SERVICE_RANGES6,
    };
    let pods6 = Choice {
        flag: POD6,
        named: pods6,
        wish: wished_pods.and_then(|pair| pair.1),
        preferred: &network::POD_RANGES6,
    };
    let chosen = services6
        .make(&used, None, Cidr6::overlaps)
        .and_then(|services6| Ok((pods6.make(&used, Some(services6), Cidr6::overlaps)?, services6)));
    match chosen {
        Ok((pods6, services6)) => {
            Ok((ranges_text(pods4, Some(pods6)), ranges_text(services4, Some(services6))))
        }
        Err(failure) if named || asked.dual_stack == Some(DualStack::On) => Err(failure),
        // Nobody asked for it: a cluster of IPv4 is what such a host can have.
        Err(_) => Ok((pods4.to_string(), services4.to_string())),
    }
}

/// Whether a new cluster has addresses of both families; `named` tells whether ranges of IPv6 were. What the machine's
/// settings say gives way to what is asked for and to what the host is like.
fn is_dual_stack(
    asked: Option<DualStack>,
    machine: Option<DualStack>,
    named: bool,
    host: Ipv6,
) -> Result<bool, Failure> {
    let asked = match (asked, machine) {
        (None, Some(DualStack::Off)) if !named => return Ok(false),
        (None, Some(DualStack::On)) if !named => return Ok(!matches!(host, Ipv6::Absent(_))),
        _ => asked.unwrap_or_default(),
    };
    match (asked, named, host) {
        (DualStack::Off, true, _) => {
            let message = "--dual-stack=false contradicts the IPv6 range in --pod-cidr or --service-cidr";
            Err(Failure::new(Kind::Usage, message))
        }
        (DualStack::On, _, Ipv6::Absent(why)) | (DualStack::Auto, true, Ipv6::Absent(why)) => {
            let message = format!("a dual-stack cluster needs IPv6, which this host does not have: {why}");
            Err(Failure::new(Kind::Host, message)
                .hint("have the kernel do IPv6, or start without: minik start --dual-stack=false"))
        }
        (DualStack::On, ..) | (DualStack::Auto, true, _) => Ok(true),
        (DualStack::Auto, false, host) => Ok(host == Ipv6::Global),
        (DualStack::Off, false, _) => Ok(false),
    }
}

/// Whether ranges that are asked for are those that a cluster has. Who names that of IPv4 alone says nothing on IPv6.
pub fn is_same<E>(asked: &str, kept: &str, parse: impl Fn(&str) -> Result<(Cidr, Option<Cidr6>), E>) -> bool {
    let (Ok((v4, v6)), Ok(kept)) = (parse(asked), parse(kept)) else { return asked == kept };
    v4 == kept.0 && (v6.is_none() || v6 == kept.1)
}

/// How a range is named, with an example.
#[derive(Clone, Copy)]
struct Flag {
    name: &'static str,
    example: &'static str,
}

const POD: Flag = Flag { name: "--pod-cidr", example: "A.B.0.0/16" };
const SERVICE: Flag = Flag { name: "--service-cidr", example: "A.B.0.0/16" };
const POD6: Flag = Flag { name: POD.name, example: "A.B.0.0/16,fd00:A:B::/64" };
const SERVICE6: Flag = Flag { name: SERVICE.name, example: "A.B.0.0/16,fd00:A:B::/112" };

/// A range that somebody uses, and who.
struct Use<R> {
    range: R,
    by: String,
}

/// What the host and the other clusters use.
fn uses<R: Copy>(
    host: &Host,
    occupied: impl Iterator<Item = R>,
    parse: impl Fn(&str) -> Option<R>,
) -> Vec<Use<R>> {
    let own = occupied.map(|range| Use { range, by: ", which this host uses".to_owned() });
    let others = host.others.iter().flat_map(|(name, cluster)| {
        let texts = [&cluster.pod_cidr, &cluster.service_cidr];
        let ranges: Vec<R> = texts.into_iter().flat_map(|text| text.split(',')).filter_map(&parse).collect();
        ranges.into_iter().map(move |range| Use { range, by: format!(" of the cluster {name:?}") })
    });
    own.chain(others).collect()
}

/// What a range is chosen by.
struct Choice<'a, R> {
    flag: Flag,
    /// What the user names; it must be free.
    named: Option<R>,
    /// What the machine wishes for; it gives way.
    wish: Option<R>,
    /// The others, in order.
    preferred: &'a [R],
}

impl<R: Copy + fmt::Display> Choice<'_, R> {
    /// A range that nobody uses and that overlaps with no other of the same cluster.
    fn make(
        self,
        used: &[Use<R>],
        other: Option<R>,
        overlaps: impl Fn(&R, &R) -> bool,
    ) -> Result<R, Failure> {
        let Flag { name, example } = self.flag;
        let hint = |what: &str| format!("name {what}: minik start {name} {example}");
        if let Some(range) = self.named {
            if let Some(Use { range: user, by }) = used.iter().find(|user| overlaps(&user.range, &range)) {
                let message = format!("{name} {range} overlaps {user}{by}");
                return Err(Failure::new(Kind::Host, message).hint(hint("a range that is free here")));
            }
            if let Some(services) = other.filter(|other| overlaps(other, &range)) {
                let message = format!("{name} {range} and {} {services} overlap", SERVICE.name);
                return Err(Failure::new(Kind::Usage, message));
            }
            return Ok(range);
        }
        let occupied: Vec<R> = used.iter().map(|user| user.range).chain(other).collect();
        let wish = self.wish.filter(|wish| !occupied.iter().any(|other| overlaps(other, wish)));
        wish.map_or_else(|| network::choose_range(&occupied, self.preferred, &overlaps), Ok)
            .map_err(|error| Failure::new(Kind::Host, error).hint(hint("a free range")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(ipv6: Ipv6, occupied6: &[&str]) -> Host {
        Host {
            name: "laptop".into(),
            occupied: Vec::new(),
            occupied6: occupied6.iter().map(|range| range.parse().unwrap()).collect(),
            ipv6,
            others: Vec::new(),
            names: Vec::new(),
            docker_config: "/root/.docker/config.json".into(),
        }
    }

    #[test]
    fn a_cluster_has_the_families_of_the_host() {
        const PODS: &str = "10.244.0.0/16,fd00:10:244::/64";
        const SERVICES: &str = "10.96.0.0/12,fd00:10:96::/112";
        let single = Ok(("10.244.0.0/16", "10.96.0.0/12"));
        let (none, local, global) = (Ipv6::Absent("IPv6 is disabled"), Ipv6::Local, Ipv6::Global);
        let missing = Err("a dual-stack cluster needs IPv6, which this host does not have: IPv6 is disabled");
        for (ipv6, dual_stack, pods, occupied, expected) in [
            (none, None, None, &[][..], single),
            (local, None, None, &[], single),
            (global, None, None, &[], Ok((PODS, SERVICES))),
            (global, Some(DualStack::Off), None, &[], single),
            (local, Some(DualStack::On), None, &[], Ok((PODS, SERVICES))),
            (none, Some(DualStack::On), None, &[], missing),
            (none, None, Some("10.1.0.0/16,fd01::/64"), &[], missing),
            (local, None, Some("10.1.0.0/16,fd01::/64"), &[], Ok(("10.1.0.0/16,fd01::/64", SERVICES))),
            (global, None, Some("10.1.0.0/16"), &[], Ok(("10.1.0.0/16,fd00:10:244::/64", SERVICES))),
            (
                global,
                Some(DualStack::Off),
                Some("10.1.0.0/16,fd01::/64"),
                &[],
                Err("--dual-stack=false contradicts the IPv6 range in --pod-cidr or --service-cidr"),
            ),
            (
                global,
                None,
                Some("10.1.0.0/16,fd01::/64"),
                &["fd01::1/128"],
                Err("--pod-cidr fd01::/64 overlaps fd01::1/128, which this host uses"),
            ),
            (
                global,
                None,
                Some("10.1.0.0/16,fd00:10:96::/64"),
                &[],
                Err("--pod-cidr fd00:10:96::/64 and --service-cidr fd00:10:96::/112 overlap"),
            ),
            (
                global,
                None,
                None,
                &["fd00:10:244::1/128", "fd00:10:96::/64"],
                Ok(("10.244.0.0/16,fd00:10:245::/64", "10.96.0.0/12,fd00:10:97::/112")),
            ),
            // Site-local addresses are all routed somewhere.
            (global, None, None, &["fc00::/7"], single),
            (global, Some(DualStack::On), None, &["fc00::/7"], Err("none of the ranges")),
        ] {
            let asked = Settings { dual_stack, pod_cidr: pods.map(str::to_owned), ..Settings::default() };
            let settled = settle(&asked, &Settings::default(), None, &host(ipv6, occupied));
            let got = settled.as_ref().map(|(pods, services)| (&**pods, &**services));
            match (got, expected) {
                (Err(failure), Err(begins)) => {
                    assert!(failure.message.starts_with(begins), "{}", failure.message)
                }
                (got, expected) => {
                    assert_eq!(got.map_err(|failure| &*failure.message), expected, "{ipv6:?} {asked:?}")
                }
            }
        }
    }

    #[test]
    fn what_the_machine_says_of_families_gives_way() {
        let absent = Ipv6::Absent("IPv6 is disabled");
        let ranges = "10.1.0.0/16,fd01::/64";
        for (machine, asked, pods, ipv6, dual) in [
            (DualStack::On, None, None, Ipv6::Local, true),
            (DualStack::On, None, None, absent, false),
            (DualStack::On, Some(DualStack::Off), None, Ipv6::Global, false),
            (DualStack::Off, None, None, Ipv6::Global, false),
            (DualStack::Off, Some(DualStack::On), None, Ipv6::Global, true),
            (DualStack::Off, None, Some(ranges), Ipv6::Global, true),
        ] {
            let machine = Settings { dual_stack: Some(machine), ..Settings::default() };
            let asked =
                Settings { dual_stack: asked, pod_cidr: pods.map(str::to_owned), ..Settings::default() };
            let settled = settle(&asked, &machine, None, &host(ipv6, &[])).unwrap();
            assert_eq!(settled.0.contains(','), dual, "{machine:?} {asked:?} {ipv6:?}");
        }
    }

    #[test]
    fn the_machines_wishes_of_ipv6_give_way_too() {
        let machine = Settings {
            pod_cidr: Some("10.50.0.0/16,fd50::/64".into()),
            service_cidr: Some("10.60.0.0/16,fd60::/112".into()),
            ..Settings::default()
        };
        for (ipv6, occupied, pods, services) in [
            (Ipv6::Local, &[][..], "10.50.0.0/16", "10.60.0.0/16"),
            (Ipv6::Global, &[], "10.50.0.0/16,fd50::/64", "10.60.0.0/16,fd60::/112"),
            (Ipv6::Global, &["fd50::/16"], "10.50.0.0/16,fd00:10:244::/64", "10.60.0.0/16,fd60::/112"),
        ] {
            let settled = settle(&Settings::default(), &machine, None, &host(ipv6, occupied)).unwrap();
            assert_eq!((&*settled.0, &*settled.1), (pods, services), "{ipv6:?} {occupied:?}");
        }
    }

    #[test]
    fn the_same_ranges_may_be_named_again() {
        for (asked, kept, same) in [
            ("10.244.9.9/16", "10.244.0.0/16", true),
            ("10.244.0.0/16", "10.244.0.0/16,fd00::/64", true),
            ("10.244.0.0/16,fd00::1/64", "10.244.0.0/16,fd00::/64", true),
            ("10.244.0.0/16,fd01::/64", "10.244.0.0/16,fd00::/64", false),
            ("10.244.0.0/16,fd00::/64", "10.244.0.0/16", false),
            ("10.245.0.0/16", "10.244.0.0/16", false),
        ] {
            let parse = |text: &str| parse_pod_ranges("--pod-cidr", text);
            assert_eq!(is_same(asked, kept, parse), same, "{asked} {kept}");
        }
    }
}
