//! Which servers the host itself asks, from its resolver configuration.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

/// Where systemd-resolved answers for the host; the real servers stand in a file of its own.
const STUBS: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 53), Ipv4Addr::new(127, 0, 0, 54)];
/// The port of name servers.
const PORT: u16 = 53;

/// The servers in the host's own order: those of `host` (a `resolv.conf`), with those of `resolved` in the place of
/// systemd-resolved's stub or when there is no other. Servers on loopback count, as minik asks from the host. `own` are
/// addresses of the cluster's own server; `link` finds the index of a link for addresses with a zone. (pure)
pub fn choose(
    host: &str,
    resolved: &str,
    own: &[IpAddr],
    link: impl Fn(&str) -> Option<u32>,
) -> Vec<SocketAddr> {
    let listed = |text| {
        let mut servers: Vec<SocketAddr> = parse(text, &link);
        servers.retain(|server| !own.contains(&server.ip()));
        servers
    };
    let is_stub = |server: &SocketAddr| STUBS.iter().any(|stub| server.ip() == IpAddr::V4(*stub));
    let (direct, real) = (listed(host), listed(resolved));
    let mut servers: Vec<SocketAddr> = Vec::new();
    for server in direct {
        match is_stub(&server) && !real.is_empty() {
            true => servers.extend(&real),
            false => servers.push(server),
        }
    }
    if servers.is_empty() {
        servers = real;
    }
    let mut seen = Vec::new();
    servers.retain(|server| {
        !seen.contains(server) && {
            seen.push(*server);
            true
        }
    });
    servers
}

/// Whether a `resolv.conf` names one of these addresses as a server. (pure)
pub fn names_any(text: &str, addresses: &[IpAddr]) -> bool {
    parse(text, &|_| None).iter().any(|server| addresses.contains(&server.ip()))
}

/// Whether a `resolv.conf` sends programs to systemd-resolved. (pure)
pub fn asks_stub(text: &str) -> bool {
    names_any(text, &STUBS.map(IpAddr::V4))
}

fn parse(text: &str, link: &impl Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    servers.filter_map(|text| address(text, link)).filter(|server| !server.ip().is_unspecified()).collect()
}

/// An address, that of a link (`fe80::1%eth0`) with its zone as name or number.
fn address(text: &str, link: &impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    match text.split_once('%') {
        Some((address, zone)) => {
            let index = zone.parse().ok().or_else(|| link(zone))?;
            Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, index).into())
        }
        None => Some(SocketAddr::new(text.parse().ok()?, PORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_by_configuration() {
        let own = ["10.96.0.10".parse().unwrap()];
        let link = |name: &str| (name == "eth0").then_some(7);
        let real = "nameserver 192.0.2.2\nnameserver 10.96.0.10\n";
        let cases: &[(&str, &str, &str, &[&str])] = &[
            (
                "in order",
                "# a\nsearch b\nnameserver 192.0.2.1\n nameserver 2001:db8::1 \nnameserver\n",
                "",
                &["192.0.2.1:53", "[2001:db8::1]:53"],
            ),
            ("one's own is left out", "nameserver 10.96.0.10\nnameserver 192.0.2.1", "", &["192.0.2.1:53"]),
            ("nothing but one's own", "nameserver 10.96.0.10", "", &[]),
            (
                "a forwarder on loopback",
                "nameserver 127.0.0.1\nnameserver ::1",
                "",
                &["127.0.0.1:53", "[::1]:53"],
            ),
            (
                "a forwarder and its spare",
                "nameserver 127.0.0.1\nnameserver 192.0.2.1",
                "",
                &["127.0.0.1:53", "192.0.2.1:53"],
            ),
            ("systemd-resolved", "nameserver 127.0.0.53", real, &["192.0.2.2:53"]),
            (
                "its stub beside another",
                "nameserver 127.0.0.53\nnameserver 192.0.2.2",
                real,
                &["192.0.2.2:53"],
            ),
            ("its stub without a file", "nameserver 127.0.0.53", "", &["127.0.0.53:53"]),
            ("its file alone", "", real, &["192.0.2.2:53"]),
            ("the file of one that is not in use", "nameserver 192.0.2.1", real, &["192.0.2.1:53"]),
            (
                "an address of a link",
                "nameserver fe80::1%eth0\nnameserver fe80::2%3\nnameserver fe80::3%gone",
                "",
                &["[fe80::1%7]:53", "[fe80::2%3]:53"],
            ),
            ("no address at all", "nameserver 0.0.0.0\nnameserver localhost", "", &[]),
        ];
        for (what, host, resolved, expected) in cases {
            let shown: Vec<String> =
                choose(host, resolved, &own, link).iter().map(ToString::to_string).collect();
            assert_eq!(&shown, expected, "{what}");
        }
        for (text, stub) in
            [("nameserver 127.0.0.53\noptions edns0", true), ("nameserver 192.0.2.1", false), ("", false)]
        {
            assert_eq!(asks_stub(text), stub, "{text}");
        }
        assert!(names_any("nameserver 10.96.0.10", &own) && !names_any("nameserver 192.0.2.1", &own));
    }
}
