//! Tracked connections that must not go on: found and deleted.
//!
//! A UDP "connection" lives in the kernel's table for as long as datagrams flow, whatever the rules say by now.
//! So a client that goes on talking would never notice that its endpoint is gone, or that there is one at last.
//! An attempt to connect that nobody answered is the same: what the client sends again goes where the first went.
//! And a connection of any protocol that policies allowed once passes for as long as it is tracked; without that its
//! next packet is judged anew.
//! Nor has a connection to a pod that is gone a future. As long as it is tracked, a client that asks anew from the same
//! port is led to the same dead address (the kernel takes the beginning of a new connection for a mistake of an old one
//! that the server reset); and a client that kept it waits for minutes, whom otherwise the next pod tells at once.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

use super::Config;
use super::family::{Address, Range};
use super::policy::Policies;
use super::state::{Backends, Endpoint, Frontend, Protocol, State};
use crate::sys::netlink::{CONNTRACK, Messages, Socket, attribute, flag};

/// Message kinds of linux/netfilter/nfnetlink_conntrack.h.
const GET: u8 = 1;
const DELETE: u8 = 2;
/// `CTA_TUPLE_ORIG` and `CTA_TUPLE_REPLY`, and what is in them.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
/// `CTA_STATUS` and, for a search, `CTA_STATUS_MASK`; and the bit `IPS_SEEN_REPLY` of
/// linux/netfilter/nf_conntrack_common.h.
const STATUS: u16 = 3;
/// `CTA_PROTOINFO`, `CTA_PROTOINFO_TCP` and `CTA_PROTOINFO_TCP_STATE`; and `TCP_CONNTRACK_TIME_WAIT` of
/// linux/netfilter/nf_conntrack_tcp.h.
const PROTOCOL_INFO: u16 = 4;
const INFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
const TIME_WAIT: u8 = 7;
const STATUS_MASK: u16 = 26;
const SEEN_REPLY: u32 = 1 << 1;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_SOURCE: u16 = 2;
const PROTOCOL_DESTINATION: u16 = 3;

/// One direction of a tracked connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flow<A: Address = Ipv4Addr> {
    protocol: u8,
    source: Endpoint<A>,
    destination: Endpoint<A>,
}

/// A tracked connection: where it was made to, and who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tracked<A: Address = Ipv4Addr> {
    original: Flow<A>,
    reply: Flow<A>,
    /// Whether anything ever came back.
    answered: bool,
    /// Whether both sides have closed it: the kernel tells a new one with the same ports from it.
    closed: bool,
    /// The original tuple as the kernel wrote it, by which it is deleted.
    tuple: Vec<u8>,
}

/// The tracked connections that may lead to the wrong place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Suspects<A: Address = Ipv4Addr> {
    /// Those to these frontends.
    To(BTreeSet<Frontend<A>>),
    /// All that the proxy may have led anywhere: which frontends it had is not known.
    All,
}

impl<A: Address> Default for Suspects<A> {
    fn default() -> Self {
        Suspects::To(BTreeSet::new())
    }
}

impl<A: Address> Suspects<A> {
    /// These and others.
    pub fn and(self, others: Suspects<A>) -> Suspects<A> {
        match (self, others) {
            (Suspects::To(mut these), Suspects::To(others)) => {
                these.extend(others);
                Suspects::To(these)
            }
            _ => Suspects::All,
        }
    }

    /// Whether nothing is suspected.
    pub fn is_empty(&self) -> bool {
        matches!(self, Suspects::To(frontends) if frontends.is_empty())
    }

    /// Whether some may be stale although they were answered: only those of UDP.
    fn may_be_answered(&self) -> bool {
        match self {
            Suspects::To(frontends) => frontends.iter().any(|one| one.protocol == Protocol::Udp),
            Suspects::All => true,
        }
    }
}

/// Suspects of which there may be more than the first look found: a packet that was on its way while the rules changed
/// was led by the old ones, and is tracked when it leaves.
#[derive(Debug)]
pub struct SecondLook<A: Address = Ipv4Addr>(VecDeque<(Instant, Suspects<A>)>);

impl<A: Address> Default for SecondLook<A> {
    fn default() -> Self {
        SecondLook(VecDeque::new())
    }
}

impl<A: Address> SecondLook<A> {
    /// After this time even a process that a busy machine stopped in the middle of its packet went on. A client sends
    /// again after a second, and then after two more.
    const AFTER: Duration = Duration::from_secs(1);
    /// Looks that are due this close to each other are one.
    const TOGETHER: Duration = Duration::from_millis(500);

    /// Suspects of a change that was made at this time.
    pub fn add(&mut self, suspects: Suspects<A>, changed: Instant) {
        if !suspects.is_empty() {
            self.0.push_back((changed + Self::AFTER, suspects));
        }
    }

    /// When to look.
    pub fn due(&self) -> Option<Instant> {
        self.0.back().map(|(last, _)| self.0[0].0.max((*last).min(self.0[0].0 + Self::TOGETHER)))
    }

    /// Those that are to be looked for at this time.
    pub fn take(&mut self, now: Instant) -> Suspects<A> {
        let due = self.0.partition_point(|(time, _)| *time <= now);
        self.0.drain(..due).fold(Suspects::default(), |all, (_, suspects)| all.and(suspects))
    }
}

/// What to look for among the tracked connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search<A: Address = Ipv4Addr> {
    /// Those that may lead to the wrong place.
    pub suspects: Suspects<A>,
    /// Whether some may be denied by now.
    pub denied: bool,
}

impl<A: Address> Default for Search<A> {
    fn default() -> Self {
        Search { suspects: Suspects::default(), denied: false }
    }
}

impl<A: Address> Search<A> {
    /// This and another.
    pub fn and(self, other: Search<A>) -> Search<A> {
        Search { suspects: self.suspects.and(other.suspects), denied: self.denied || other.denied }
    }
}

/// Deletes the suspects that do not end at one of their frontend's endpoints, and what policies do not allow, and
/// says how many there were.
///
/// # Errors
/// When the kernel does not give its table away. One that is already gone is fine.
pub fn delete_stale<A: Address>(
    search: &Search<A>,
    config: &Config<A>,
    state: &State<A>,
) -> io::Result<usize> {
    if search.suspects.is_empty() && !search.denied {
        return Ok(0);
    }
    let policies = state.policies.as_ref().filter(|_| search.denied);
    let own = if policies.is_some() { own_addresses()? } else { BTreeSet::new() };
    let must_end = |tracked: &Tracked<A>| {
        is_stale(tracked, &search.suspects, config, state)
            || policies.is_some_and(|policies| is_denied(tracked, policies, &own))
    };
    let unanswered = policies.is_none() && !search.suspects.may_be_answered();
    delete(unanswered, must_end)
}

/// Deletes what is left of connections to pods that are gone, of both families where the host has both, and says how many
/// there were.
///
/// # Errors
/// When the kernel does not give its table away.
pub fn forget(gone: &BTreeSet<IpAddr>) -> io::Result<usize> {
    fn of<A: Address>(gone: &BTreeSet<IpAddr>) -> io::Result<usize> {
        delete::<A>(false, |tracked| is_to_one_gone(tracked, gone))
    }
    let v4 = if gone.iter().any(IpAddr::is_ipv4) { of::<Ipv4Addr>(gone)? } else { 0 };
    let v6 = if gone.iter().any(IpAddr::is_ipv6) { of::<Ipv6Addr>(gone)? } else { 0 };
    Ok(v4 + v6)
}

/// Deletes the connections of a family that must end, and says how many there were; only such that nobody answered are
/// looked at, if that is enough.
fn delete<A: Address>(unanswered: bool, must_end: impl Fn(&Tracked<A>) -> bool) -> io::Result<usize> {
    let socket = Socket::open()?;
    let mut dump = Messages::default();
    dump.push(CONNTRACK, GET, flag::DUMP, A::family().number, |attributes| {
        // Kernels before 5.16 give all, which are looked at below.
        if unanswered {
            attributes.u32(STATUS, 0).u32(STATUS_MASK, SEEN_REPLY);
        }
    });
    let mut ending = Vec::new();
    socket.request(&dump, |message| {
        let attributes: Vec<_> = message.attributes().collect();
        let tracked = parse(&attributes).filter(&must_end);
        ending.extend(tracked.map(|tracked| tracked.tuple));
    })?;
    for tuple in &ending {
        let mut delete = Messages::default();
        delete.push(CONNTRACK, DELETE, flag::ACK, A::family().number, |attributes| {
            attributes.nest_bytes(TUPLE_ORIGINAL, tuple);
        });
        match socket.request(&delete, |_| {}) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            _ => {}
        }
    }
    Ok(ending.len())
}

/// Whether a connection that may go on is led to one of these.
fn is_to_one_gone<A: Address>(tracked: &Tracked<A>, gone: &BTreeSet<IpAddr>) -> bool {
    !tracked.closed && gone.contains(&tracked.reply.source.address.into())
}

/// Whether policies deny a connection. They judge where it comes from before that is masqueraded, and where it really
/// ends.
fn is_denied<A: Address>(tracked: &Tracked<A>, policies: &Policies<A>, own: &BTreeSet<A>) -> bool {
    let (source, destination) = (tracked.original.source.address, tracked.reply.source);
    !policies.allows(source, own.contains(&source), tracked.original.protocol, destination)
}

/// The addresses of this host, in the network namespace of the calling thread.
fn own_addresses<A: Address>() -> io::Result<BTreeSet<A>> {
    let addresses = nix::ifaddrs::getifaddrs()?.filter_map(|one| A::of_socket(&one.address?));
    Ok(addresses.collect())
}

/// Whether a connection is one of the suspects and ends elsewhere than the state says.
fn is_stale<A: Address>(
    tracked: &Tracked<A>,
    suspects: &Suspects<A>,
    config: &Config<A>,
    state: &State<A>,
) -> bool {
    let Some(protocol) = Protocol::of(tracked.original.protocol) else { return false };
    if protocol != Protocol::Udp && tracked.answered {
        return false;
    }
    let Endpoint { address, port } = tracked.original.destination;
    let at = |address| Frontend { address, protocol, port };
    let is_known = |frontend: &Frontend<A>| {
        let changed = matches!(suspects, Suspects::To(frontends) if frontends.contains(frontend));
        changed || state.frontends.contains_key(frontend)
    };
    // The more special frontend is the one that the rules look at first.
    let own = at(Some(address));
    let frontend = if is_known(&own) { own } else { at(None) };
    let translated = tracked.reply.source != tracked.original.destination;
    let suspected = match suspects {
        Suspects::To(frontends) => frontends.contains(&frontend),
        Suspects::All => {
            is_known(&frontend)
                || config.services.has(address)
                || state.ranges.iter().any(|range| range.has(address))
                || translated && config.pods.has(tracked.reply.source.address)
        }
    };
    // A frontend of the node means its addresses. What only passes through to the same port elsewhere keeps its
    // destination, and comes from another address by the time that it leaves.
    let passes = !translated && tracked.reply.destination != tracked.original.source;
    let endpoints = state.frontends.get(&frontend).map_or(&[][..], |Backends { endpoints, .. }| endpoints);
    suspected && !passes && !endpoints.contains(&tracked.reply.source)
}

fn parse<A: Address>(attributes: &[(u16, &[u8])]) -> Option<Tracked<A>> {
    let find = |kind| attributes.iter().find(|(other, _)| *other == kind).map(|(_, value)| *value);
    let tuple = find(TUPLE_ORIGINAL)?;
    let status = u32::from_be_bytes(find(STATUS)?.try_into().ok()?);
    let tcp = find(PROTOCOL_INFO).and_then(|info| attribute(attribute(info, INFO_TCP)?, TCP_STATE));
    Some(Tracked {
        original: parse_flow(tuple)?,
        reply: parse_flow(find(TUPLE_REPLY)?)?,
        answered: status & SEEN_REPLY != 0,
        closed: tcp == Some(&[TIME_WAIT]),
        tuple: tuple.to_vec(),
    })
}

fn parse_flow<A: Address>(tuple: &[u8]) -> Option<Flow<A>> {
    let (ip, transport) = (attribute(tuple, TUPLE_IP)?, attribute(tuple, TUPLE_PROTOCOL)?);
    let address = |kind| A::from_bytes(attribute(ip, kind)?);
    let (source, destination) = A::family().tracked;
    // Protocols without ports have none here.
    let port = |kind| match attribute(transport, kind) {
        Some(bytes) => Some(u16::from_be_bytes(bytes.try_into().ok()?)),
        None => Some(0),
    };
    Some(Flow {
        protocol: *attribute(transport, PROTOCOL_NUMBER)?.first()?,
        source: Endpoint { address: address(source)?, port: port(PROTOCOL_SOURCE)? },
        destination: Endpoint { address: address(destination)?, port: port(PROTOCOL_DESTINATION)? },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::tests::config;

    fn at(text: &str) -> Endpoint {
        let (address, port) = text.split_once(':').unwrap();
        Endpoint { address: address.parse().unwrap(), port: port.parse().unwrap() }
    }

    fn tracked(protocol: Protocol, to: &str, answered_by: &str) -> Tracked {
        let client = at("10.244.0.9:5000");
        let protocol = protocol as u8;
        Tracked {
            original: Flow { protocol, source: client, destination: at(to) },
            reply: Flow { protocol, source: at(answered_by), destination: client },
            answered: true,
            closed: false,
            tuple: Vec::new(),
        }
    }

    fn unanswered(tracked: Tracked) -> Tracked {
        Tracked { answered: false, ..tracked }
    }

    fn masqueraded(mut tracked: Tracked) -> Tracked {
        tracked.reply.destination = at("192.0.2.1:6000");
        tracked
    }

    #[test]
    fn after_a_restart_every_connection_of_the_proxy_is_a_suspect() {
        let dns = Frontend { address: Some(Ipv4Addr::new(10, 96, 0, 10)), protocol: Protocol::Udp, port: 53 };
        let backends = Backends { endpoints: vec![at("10.244.0.2:53")], ..Backends::default() };
        let state = State { frontends: [(dns, backends)].into(), ..State::default() };
        for (what, to, answered_by, stale) in [
            ("an endpoint that is still there", "10.96.0.10:53", "10.244.0.2:53", false),
            ("an endpoint that went", "10.96.0.10:53", "10.244.0.3:53", true),
            ("a frontend that went", "10.96.0.77:53", "10.244.0.2:53", true),
            ("one whose endpoint was no pod", "10.96.0.77:53", "192.0.2.2:53", true),
            ("a port of the node that went", "192.0.2.1:30053", "10.244.0.2:53", true),
            ("somebody else's", "192.0.2.1:30053", "172.17.0.2:53", false),
            ("pod to pod", "10.244.0.7:9000", "10.244.0.7:9000", false),
        ] {
            let tracked = tracked(Protocol::Udp, to, answered_by);
            assert_eq!(is_stale(&tracked, &Suspects::All, &config(), &state), stale, "{what}");
        }
    }

    #[test]
    fn an_attempt_that_nobody_answered_is_stale_when_its_endpoint_went() {
        let web = Frontend { address: Some(Ipv4Addr::new(10, 96, 0, 7)), protocol: Protocol::Tcp, port: 80 };
        let backends = Backends { endpoints: vec![at("10.244.0.2:80")], ..Backends::default() };
        let state = State { frontends: [(web, backends)].into(), ..State::default() };
        let suspects = Suspects::To([web].into());
        assert!(!suspects.may_be_answered() && Suspects::<Ipv4Addr>::All.may_be_answered());
        for (protocol, to, led_to, stale) in [
            (Protocol::Tcp, "10.96.0.7:80", "10.244.0.3:80", true),
            (Protocol::Tcp, "10.96.0.7:80", "10.244.0.2:80", false),
            (Protocol::Tcp, "10.96.0.8:80", "10.244.0.3:80", false),
            (Protocol::Sctp, "10.96.0.7:80", "10.244.0.3:80", false),
        ] {
            let tracked = tracked(protocol, to, led_to);
            assert!(!is_stale(&tracked, &suspects, &config(), &state), "answered, {to} {led_to}");
            let unanswered = unanswered(tracked);
            assert_eq!(is_stale(&unanswered, &suspects, &config(), &state), stale, "{to} {led_to}");
        }
    }

    #[test]
    fn a_pod_that_is_gone_answers_nothing_more() {
        let open = tracked(Protocol::Tcp, "10.96.0.7:80", "10.244.0.3:80");
        for (address, led) in [
            ("10.244.0.3", true),
            ("10.244.0.4", false),
            // Who asks, and for what.
            ("10.244.0.9", false),
            ("10.96.0.7", false),
        ] {
            let gone = BTreeSet::from([address.parse().unwrap()]);
            assert_eq!(is_to_one_gone(&open, &gone), led, "{address}");
            assert!(!is_to_one_gone(&Tracked { closed: true, ..open.clone() }, &gone), "{address}");
        }
    }

    #[test]
    fn a_second_look_is_for_changes_that_are_old_enough() {
        let (start, millis) = (Instant::now(), Duration::from_millis);
        let to = |port| -> Suspects {
            Suspects::To([Frontend { address: None, protocol: Protocol::Tcp, port }].into())
        };
        let mut second: SecondLook = SecondLook::default();
        second.add(Suspects::default(), start);
        assert_eq!(second.due(), None);
        second.add(to(1), start);
        assert_eq!(second.due(), Some(start + millis(1000)));
        second.add(to(2), start + millis(300));
        assert_eq!(second.due(), Some(start + millis(1300)), "both at once");
        second.add(to(3), start + millis(900));
        assert_eq!(second.due(), Some(start + millis(1500)), "the first does not wait for ever");
        assert_eq!(second.take(start + millis(1500)), to(1).and(to(2)));
        assert_eq!(second.due(), Some(start + millis(1900)));
        assert_eq!(second.take(start + millis(1500)), Suspects::default());
        assert_eq!(second.take(start + millis(1900)), to(3));
        assert_eq!(second.due(), None);
    }

    #[test]
    fn suspects_add_up() {
        let to = |port| -> Suspects {
            Suspects::To([Frontend { address: None, protocol: Protocol::Udp, port }].into())
        };
        assert!(matches!(to(1).and(to(2)), Suspects::To(both) if both.len() == 2));
        assert_eq!(to(1).and(Suspects::All), Suspects::All);
        assert_eq!(Suspects::<Ipv4Addr>::All.and(Suspects::default()), Suspects::All);
    }

    #[test]
    fn stale_is_what_ends_at_no_endpoint_of_a_changed_frontend() {
        let frontend = |address: Option<&str>, port| Frontend {
            address: address.map(|text| text.parse().unwrap()),
            protocol: Protocol::Udp,
            port,
        };
        let dns = frontend(Some("10.96.0.10"), 53);
        let node = frontend(None, 30053);
        let backends = Backends { endpoints: vec![at("10.244.0.2:53")], ..Backends::default() };
        let state =
            State { frontends: [(dns, backends.clone()), (node, backends)].into(), ..State::default() };
        let changed = Suspects::To([dns, node].into());
        let is_stale =
            |tracked: &Tracked, suspects: &Suspects| is_stale(tracked, suspects, &config(), &state);
        for (protocol, to, answered_by, stale) in [
            (Protocol::Udp, "10.96.0.10:53", "10.244.0.2:53", false),
            (Protocol::Udp, "10.96.0.10:53", "10.244.0.3:53", true),
            (Protocol::Udp, "10.96.0.10:53", "10.96.0.10:53", true),
            (Protocol::Tcp, "10.96.0.10:53", "10.244.0.3:53", false),
            (Protocol::Udp, "10.96.0.11:53", "10.244.0.3:53", false),
            (Protocol::Udp, "127.0.0.1:30053", "10.244.0.3:53", true),
            (Protocol::Udp, "127.0.0.1:30053", "127.0.0.1:30053", true),
        ] {
            assert_eq!(is_stale(&tracked(protocol, to, answered_by), &changed), stale, "{to} {answered_by}");
        }
        let other = Suspects::To([node].into());
        assert!(!is_stale(&tracked(Protocol::Udp, "10.96.0.10:53", "10.244.0.3:53"), &other));
        let passing = masqueraded(tracked(Protocol::Udp, "192.0.2.77:30053", "192.0.2.77:30053"));
        assert!(!is_stale(&passing, &changed), "to the same port of another host");
    }
}
