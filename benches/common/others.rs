//! Services as kube-proxy lays them out, for nft and for iptables.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use minik::proxy::state::{Backends, Frontend};

/// The table of that layout.
pub const OTHER: &str = "other-bench";

/// A service and what its chains are named by.
pub type Numbered = (u32, (Frontend, Backends));

/// A map from services to chains of theirs, each with a map from numbers to chains of endpoints.
pub fn nft_rules(services: &[Numbered], first: bool) -> String {
    let mut text = String::new();
    if first {
        let _ = writeln!(text, "add table ip {OTHER}");
        let _ = writeln!(
            text,
            "add map ip {OTHER} service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}"
        );
        let _ = writeln!(text, "add chain ip {OTHER} nat {{ type nat hook prerouting priority -100; }}");
        let _ =
            writeln!(text, "add rule ip {OTHER} nat ip daddr . meta l4proto . th dport vmap @service-ips");
    }
    for (number, (frontend, backends)) in services {
        let mut verdicts = Vec::new();
        for (n, endpoint) in backends.endpoints.iter().enumerate() {
            let chain = format!("endpoint-{number}-{n}");
            let _ = writeln!(text, "add chain ip {OTHER} {chain}");
            let _ = writeln!(
                text,
                "add rule ip {OTHER} {chain} ip saddr {} meta mark set 0x4000",
                endpoint.address
            );
            let target = format!("{}:{}", endpoint.address, endpoint.port);
            let _ = writeln!(text, "add rule ip {OTHER} {chain} meta l4proto tcp dnat to {target}");
            verdicts.push(format!("{n} : goto {chain}"));
        }
        let _ = writeln!(text, "add chain ip {OTHER} service-{number}");
        let choice = format!("numgen random mod {} vmap {{ {} }}", verdicts.len(), verdicts.join(", "));
        let _ = writeln!(text, "add rule ip {OTHER} service-{number} {choice}");
        let address = frontend.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let element = format!("{address} . tcp . 80 : goto service-{number}");
        let _ = writeln!(text, "add element ip {OTHER} service-ips {{ {element} }}");
    }
    text
}

/// A rule for each service, and chains of rules by chance.
pub fn iptables_rules(services: &[Numbered], first: bool) -> String {
    let (mut chains, mut rules) = (String::from("*nat\n"), String::new());
    if first {
        chains.push_str(":SERVICES - [0:0]\n");
        rules.push_str("-A PREROUTING -j SERVICES\n");
    }
    for (number, (frontend, backends)) in services {
        let address = frontend.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let _ = writeln!(chains, ":SVC-{number} - [0:0]");
        let _ = writeln!(rules, "-A SERVICES -d {address}/32 -p tcp -m tcp --dport 80 -j SVC-{number}");
        for (n, endpoint) in backends.endpoints.iter().enumerate() {
            let _ = writeln!(chains, ":SEP-{number}-{n} - [0:0]");
            let chance = 1.0 / (backends.endpoints.len() - n) as f64;
            let _ = writeln!(
                rules,
                "-A SVC-{number} -m statistic --mode random --probability {chance:.10} -j SEP-{number}-{n}"
            );
            let target = format!("{}:{}", endpoint.address, endpoint.port);
            let _ = writeln!(rules, "-A SEP-{number}-{n} -p tcp -m tcp -j DNAT --to-destination {target}");
        }
    }
    chains + &rules + "COMMIT\n"
}
