//! What the service proxy wants: frontends and their endpoints, as plain values.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::family::{Address, Range};
use super::policy::Policies;

/// A transport protocol, by its number in the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// SCTP.
    Sctp = 132,
}

impl Protocol {
    /// The one with this number; `None` for those that services do not have.
    pub fn of(number: u8) -> Option<Protocol> {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|one| *one as u8 == number)
    }
}

/// Where connections are made to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frontend<A: Address = Ipv4Addr> {
    /// The address; `None` for every address of the node but loopback's.
    pub address: Option<A>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

/// Where connections end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint<A: Address = Ipv4Addr> {
    /// The address.
    pub address: A,
    /// The port.
    pub port: u16,
}

/// The endpoints behind a frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backends<A: Address = Ipv4Addr> {
    /// In order, each once; with none, connections are refused.
    pub endpoints: Vec<Endpoint<A>>,
    /// A client stays with its endpoint for this many seconds after its last connection.
    pub sticky: Option<u32>,
    /// Where clients that are no pods must come from; everybody may connect when there is no such word.
    pub sources: Option<Vec<A::Range>>,
}

impl<A: Address> Default for Backends<A> {
    fn default() -> Self {
        Backends { endpoints: Vec::new(), sticky: None, sources: None }
    }
}

/// What load balancers are told that ask after a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The service's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How many of its endpoints are ready on this node.
    pub endpoints: usize,
}

/// Everything that the proxy is to do with the packets of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State<A: Address = Ipv4Addr> {
    /// By address.
    pub frontends: BTreeMap<Frontend<A>, Backends<A>>,
    /// Ports of the loopback address, served in user space.
    pub local: BTreeMap<(Protocol, u16), Backends<A>>,
    /// What pods may do; `None` when nothing is to be judged.
    pub policies: Option<Policies<A>>,
    /// Ports of the node on which load balancers ask after a service.
    pub health: BTreeMap<u16, Health>,
    /// Where cluster addresses of services are given out beside the cluster's own range, each range once.
    pub ranges: Vec<A::Range>,
    /// The addresses that new connections are led to for as long as they last: not those of endpoints that end and
    /// have connections only where there is nobody else.
    pub led: Arc<BTreeSet<A>>,
}

/// Everything that the proxy is to do with packets of either family.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct States {
    /// With those of IPv4.
    pub v4: State,
    /// With those of IPv6, where there is any.
    pub v6: State<Ipv6Addr>,
}

impl From<State> for States {
    fn from(v4: State) -> States {
        States { v4, v6: State::default() }
    }
}

impl<A: Address> Default for State<A> {
    fn default() -> Self {
        State {
            frontends: BTreeMap::new(),
            local: BTreeMap::new(),
            policies: None,
            health: BTreeMap::new(),
            ranges: Vec::new(),
            led: Arc::default(),
        }
    }
}

impl<A: Address> State<A> {
    /// Nothing, and nobody may do anything: for as long as nothing is known.
    pub fn closed() -> State<A> {
        State { policies: Some(Policies::default()), ..State::default() }
    }

    /// Addresses of endpoints: a pod that reaches itself through a service needs another source address.
    pub fn endpoint_addresses(&self) -> BTreeSet<A> {
        self.frontends
            .values()
            .flat_map(|backends| &backends.endpoints)
            .map(|endpoint| endpoint.address)
            .collect()
    }

    /// Endpoints that are no pods: they would answer past this host.
    pub fn outside(&self, pods: A::Range) -> BTreeSet<(A, Protocol, u16)> {
        let all = self.frontends.iter().flat_map(|(frontend, backends)| {
            backends.endpoints.iter().map(|endpoint| (endpoint.address, frontend.protocol, endpoint.port))
        });
        all.filter(|(address, ..)| !pods.has(*address)).collect()
    }

    /// Ports of the node that nobody is behind.
    pub fn refused(&self) -> BTreeSet<(Protocol, u16)> {
        let idle = self
            .frontends
            .iter()
            .filter(|(frontend, backends)| frontend.address.is_none() && backends.endpoints.is_empty());
        idle.map(|(frontend, _)| (frontend.protocol, frontend.port)).collect()
    }

    /// Frontends whose tracked connections may lead to the wrong place after a change from `old`: an endpoint went,
    /// or the first one came. That one is nothing to protocols whose clients were refused before.
    pub fn misled(&self, old: &State<A>) -> BTreeSet<Frontend<A>> {
        fn endpoints<'a, A: Address>(state: &'a State<A>, frontend: &Frontend<A>) -> &'a [Endpoint<A>] {
            state.frontends.get(frontend).map_or(&[], |backends| &backends.endpoints)
        }
        let gone_or_first = |frontend: &Frontend<A>| {
            let (before, now) = (endpoints(old, frontend), endpoints(self, frontend));
            let is_first = || frontend.protocol == Protocol::Udp && before.is_empty() && !now.is_empty();
            before != now
                && (is_first() || before.iter().any(|endpoint| now.binary_search(endpoint).is_err()))
        };
        let all = old.frontends.keys().chain(self.frontends.keys());
        all.filter(|frontend| gone_or_first(frontend)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(endpoints: &[u8]) -> State {
        with_endpoints(Protocol::Udp, endpoints)
    }

    fn with_endpoints(protocol: Protocol, endpoints: &[u8]) -> State {
        let frontend = Frontend { address: None, protocol, port: 53 };
        let endpoints =
            endpoints.iter().map(|n| Endpoint { address: Ipv4Addr::new(10, 0, 0, *n), port: 53 }).collect();
        State {
            frontends: [(frontend, Backends { endpoints, ..Backends::default() })].into(),
            ..State::default()
        }
    }

    #[test]
    fn connections_are_misled_after_a_loss_and_datagrams_after_a_first_too() {
        for (before, now, datagrams, connections) in [
            (&[][..], &[][..], false, false),
            (&[], &[1], true, false),
            (&[1], &[1, 2], false, false),
            (&[1, 2], &[1], true, true),
            (&[1], &[2], true, true),
            (&[1], &[], true, true),
        ] {
            for (protocol, misled) in [(Protocol::Udp, datagrams), (Protocol::Tcp, connections)] {
                let (old, new) = (with_endpoints(protocol, before), with_endpoints(protocol, now));
                assert_eq!(!new.misled(&old).is_empty(), misled, "{protocol:?} {before:?} -> {now:?}");
            }
        }
        assert_eq!(State::default().misled(&udp(&[1])).len(), 1, "the whole frontend went");
        assert!(State::<Ipv4Addr>::default().misled(&udp(&[])).is_empty());
    }

    #[test]
    fn derived_sets_follow_the_frontends() {
        let state = udp(&[1, 9]);
        assert_eq!(state.outside("10.0.0.0/29".parse().unwrap()).len(), 1);
        assert!(state.refused().is_empty());
        assert_eq!(udp(&[]).refused(), [(Protocol::Udp, 53)].into());
    }
}
