//! The one nf_tables table that a cluster has for each family of addresses: its fixed rules, its sets, and transactions that change their elements.
//!
//! The layout is flat. A connection's (address, protocol, port) is looked up once; the chain that this leads to
//! is shared by all frontends with as many endpoints, draws a number and looks the endpoint up by (address,
//! protocol, port, number). So a change of a service is a change of a few elements, never of rules, and needs no
//! look at the other services. Only frontends with session affinity have chains of their own. In the terms of
//! the `nft` program:
//!
//! ```text
//! chain nat-prerouting, nat-output   ip daddr . proto . dport vmap @services              (a cluster address)
//!                                    fib daddr local: 0.0.0.0 . proto . dport, the same   (a port of the node)
//! chain spread-N                     dnat to: address . proto . dport . random N map @endpoints
//! chain guard-…                      from a pod, saddr in one of the ranges: goto the chain above or below; else drop
//! chain sticky-…                     goto the endpoint that @clients knows, else address . … . random N vmap @choices
//! chain nat-postrouting              saddr . daddr @hairpin: snat to the gateway; from a pod to elsewhere,
//!                                    and to endpoints @outside: masquerade
//! chain forward, output              so far untranslated: jump service-ranges
//! chain service-ranges               to a range of services' addresses: refuse
//! chain input                        proto . dport in refused: refuse
//! ```
//!
//! What network policies add to this, and only while there are any, is in [`policy`].

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::Ipv4Addr;

use super::Config;
use super::family::Address;
use super::state::{Backends, Frontend, Protocol, State};
use crate::sys::netlink::{Message, Messages, NFTABLES, Socket, flag};

mod chain;
mod message;
mod policy;
mod set;
mod skeleton;

use chain::{chains, change_chains, delete_chains};
use message::{
    DELETE_CHAIN, DELETE_ELEMENTS, DELETE_RULE, DELETE_SET, DELETE_TABLE, GET_TABLE, In, NEW_ELEMENTS,
    NEW_TABLE, delete_rules, table,
};
use set::{Content, Element, Set, change_elements, elements, new_set, shared_elements};
use skeleton::{RANGES, refuse_ranges, skeleton};

/// The table in the kernel, and what is in it.
#[derive(Debug)]
pub struct Table<A: Address = Ipv4Addr> {
    config: Config<A>,
    socket: Socket,
    installed: Option<State<A>>,
}

/// The table of a cluster.
fn at<A: Address>(config: &Config<A>) -> In<'_> {
    In { family: A::family(), table: &config.table }
}

impl<A: Address> Table<A> {
    /// A table that is not known to be installed, in the network namespace of the calling thread.
    pub fn new(config: Config<A>) -> io::Result<Table<A>> {
        Ok(Table { config, socket: Socket::open()?, installed: None })
    }

    /// The port by which the kernel names this table's own changes.
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// What is installed.
    pub fn installed(&self) -> Option<&State<A>> {
        self.installed.as_ref()
    }

    /// Forgets what is installed: the next [`Table::apply`] installs everything anew.
    pub fn invalidate(&mut self) {
        self.installed = None;
    }

    /// Makes the kernel do what `wanted` says, in one transaction: the difference to what is installed, or
    /// everything when nothing is known to be.
    pub fn apply(&mut self, wanted: State<A>) -> io::Result<()> {
        let changes = match &self.installed {
            Some(installed) => difference(&self.config, installed, &wanted),
            None => {
                let mut changes = full(&self.config, &wanted);
                let (table, clients) = (at(&self.config), self.clients());
                change_elements(&mut changes, table, NEW_ELEMENTS, Set::Clients.name(), clients);
                changes
            }
        };
        // Whatever a failed transaction left, the next one starts from nothing.
        self.installed = None;
        self.socket.transact(&changes)?;
        self.installed = Some(wanted);
        Ok(())
    }

    /// The clients that stay with an endpoint, from the table that is there.
    fn clients(&self) -> Vec<Element> {
        set::clients(&self.socket, at(&self.config)).unwrap_or_else(|error| {
            tracing::warn!(%error, "reading which clients stay with an endpoint; they are spread anew");
            Vec::new()
        })
    }

    /// Whether an event was somebody else's removal of this table or of a part of it.
    pub fn is_damage(&self, event: &Message<'_>) -> bool {
        let removal = [DELETE_TABLE, DELETE_CHAIN, DELETE_RULE, DELETE_SET, DELETE_ELEMENTS];
        let kinds = removal.map(|kind| u16::from(NFTABLES) << 8 | u16::from(kind));
        // Attribute 1 is the table's name in all of these.
        let named = |name: &[u8]| name.strip_suffix(&[0]) == Some(self.config.table.as_bytes());
        event.port != self.socket.port()
            && event.family() == Some(A::family().number)
            && kinds.contains(&event.kind)
            && event.attributes().any(|(kind, value)| kind == 1 && named(value))
    }

    /// Whether the kernel has the table.
    pub fn is_present(&self) -> io::Result<bool> {
        exists(A::family().number, &self.config.table)
    }

    /// Removes the table of this name; already gone is fine.
    pub fn remove(name: &str) -> io::Result<()> {
        let mut changes = Messages::default();
        let name = In { family: A::family(), table: name };
        // Made first, so that its removal cannot miss it.
        table(&mut changes, NEW_TABLE, flag::CREATE, name);
        table(&mut changes, DELETE_TABLE, 0, name);
        Socket::open()?.transact(&changes)
    }
}

/// Whether the kernel has a table of this name, in the network namespace of the calling thread.
pub(super) fn exists(family: u8, name: &str) -> io::Result<bool> {
    let mut get = Messages::default();
    get.push(NFTABLES, GET_TABLE, flag::ACK, family, |table| {
        table.text(1, name);
    });
    match Socket::open()?.request(&get, |_| {}) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the kernel takes the rules of a table as this one's, and takes them away again before anybody has seen them.
pub(super) fn try_out<A: Address>(config: &Config<A>) -> io::Result<()> {
    let mut changes = full(config, &State::closed());
    table(&mut changes, DELETE_TABLE, 0, at(config));
    Socket::open()?.transact(&changes)
}

/// The transaction that installs everything in place of whatever is there.
pub fn full<A: Address>(config: &Config<A>, wanted: &State<A>) -> Messages {
    let mut changes = Messages::default();
    let name = at(config);
    table(&mut changes, NEW_TABLE, flag::CREATE, name);
    table(&mut changes, DELETE_TABLE, 0, name);
    table(&mut changes, NEW_TABLE, flag::CREATE, name);
    for set in Set::ALL {
        new_set(&mut changes, name, set.name(), set.layout(), set as u32 + 1);
    }
    skeleton(&mut changes, config);
    refuse_ranges(&mut changes, config, &wanted.ranges);
    let chains = chains(wanted);
    change_chains(&mut changes, config, &BTreeMap::new(), &chains);
    for (set, elements) in elements(wanted).into_iter().chain(shared_elements(config, wanted)) {
        change_elements(&mut changes, name, NEW_ELEMENTS, set.name(), elements.into_iter().collect());
    }
    policy::change(&mut changes, config, None, wanted.policies.as_ref());
    changes
}

/// The transaction that leads from one state to another; empty when there is no difference.
pub fn difference<A: Address>(config: &Config<A>, installed: &State<A>, wanted: &State<A>) -> Messages {
    let mut changes = Messages::default();
    if installed.ranges != wanted.ranges {
        delete_rules(&mut changes, at(config), RANGES);
        refuse_ranges(&mut changes, config, &wanted.ranges);
    }
    translations(&mut changes, config, installed, wanted);
    policy::change(&mut changes, config, installed.policies.as_ref(), wanted.policies.as_ref());
    changes
}

fn translations<A: Address>(
    changes: &mut Messages,
    config: &Config<A>,
    installed: &State<A>,
    wanted: &State<A>,
) {
    let (installed, wanted) = concerned(installed, wanted);
    if installed == wanted {
        return;
    }
    let name = at(config);
    let (old_chains, new_chains) = (chains(&installed), chains(&wanted));
    let (mut old, mut new) = (elements(&installed), elements(&wanted));
    old.extend(shared_elements(config, &installed));
    new.extend(shared_elements(config, &wanted));

    change_chains(changes, config, &old_chains, &new_chains);
    for (kind, from, to) in [(DELETE_ELEMENTS, &old, &new), (NEW_ELEMENTS, &new, &old)] {
        for (set, elements) in from {
            let others = to.get(set);
            let only_here = elements
                .iter()
                .filter(|(key, content)| others.and_then(|others| others.get(*key)) != Some(*content))
                .map(|(key, content)| match kind {
                    DELETE_ELEMENTS => (key.clone(), Content::None),
                    _ => (key.clone(), content.clone()),
                });
            change_elements(changes, name, kind, set.name(), only_here.collect());
        }
    }
    delete_chains(changes, name, &old_chains, &new_chains);
}

/// The parts of two states that their difference depends on: the frontends that differ, and for each thing that
/// those share with others (a chain, an endpoint) one frontend that stays and needs it too.
fn concerned<A: Address>(installed: &State<A>, wanted: &State<A>) -> (State<A>, State<A>) {
    let (mut old, mut new, mut same) = (State::default(), State::default(), Vec::new());
    let mut others = wanted.frontends.iter().peekable();
    let add = |state: &mut State<A>, (frontend, backends): (&Frontend<A>, &Backends<A>)| {
        state.frontends.insert(*frontend, backends.clone());
    };
    for (frontend, backends) in &installed.frontends {
        while let Some(come) = others.next_if(|(other, _)| *other < frontend) {
            add(&mut new, come);
        }
        match others.next_if(|(other, _)| *other == frontend) {
            Some((_, other)) if other == backends => same.push((frontend, backends)),
            Some(changed) => {
                add(&mut old, (frontend, backends));
                add(&mut new, changed);
            }
            None => add(&mut old, (frontend, backends)),
        }
    }
    others.for_each(|come| add(&mut new, come));

    let differing = || old.frontends.iter().chain(&new.frontends);
    let mut shapes: HashSet<(usize, bool)> = differing()
        .map(|(frontend, backends)| (backends.endpoints.len(), frontend.address.is_none()))
        .collect();
    let mut endpoints: HashSet<(A, Protocol, u16)> = differing()
        .flat_map(|(frontend, backends)| {
            backends.endpoints.iter().map(|e| (e.address, frontend.protocol, e.port))
        })
        .collect();
    let mut addresses: HashSet<A> = endpoints.iter().map(|(address, ..)| *address).collect();
    if !old.frontends.is_empty() || !new.frontends.is_empty() {
        for (frontend, backends) in same {
            let mut needs = backends.sticky.is_none()
                && shapes.remove(&(backends.endpoints.len(), frontend.address.is_none()));
            for endpoint in &backends.endpoints {
                needs |= addresses.remove(&endpoint.address);
                needs |= endpoints.remove(&(endpoint.address, frontend.protocol, endpoint.port));
            }
            if needs {
                add(&mut old, (frontend, backends));
                add(&mut new, (frontend, backends));
            }
        }
    }
    (old, new)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::chain::Chain;
    use super::*;
    use crate::proxy::state::Endpoint;
    use crate::proxy::tests::config;

    fn service(number: u8, endpoints: &[[u8; 4]]) -> (Frontend, Backends) {
        let address = Some(Ipv4Addr::new(10, 96, 0, number));
        let endpoints =
            endpoints.iter().map(|a| Endpoint { address: Ipv4Addr::from(*a), port: 80 }).collect();
        (
            Frontend { address, protocol: Protocol::Tcp, port: 80 },
            Backends { endpoints, ..Backends::default() },
        )
    }

    const A: [u8; 4] = [10, 244, 0, 2];
    const B: [u8; 4] = [10, 244, 0, 3];
    const FAR: [u8; 4] = [192, 0, 2, 1];

    /// A hundred services with one endpoint, A.
    fn many() -> State {
        State { frontends: (0..100).map(|n| service(n, &[A])).collect(), ..State::default() }
    }

    #[test]
    fn a_change_costs_by_itself_and_not_by_what_is_there() {
        // A message for each set that loses or gains elements, and for each chain and rule.
        let cases: [(&str, &[[u8; 4]], usize); 4] = [
            ("nothing", &[A], 0),
            ("another endpoint: endpoints -1 +1, hairpin +1", &[B], 3),
            ("an endpoint elsewhere: endpoints -1 +1, outside +1", &[FAR], 3),
            ("one more: chain, rule, services -1 +1, endpoints +1, hairpin +1", &[A, B], 6),
        ];
        for (what, endpoints, messages) in cases {
            let mut wanted = many();
            wanted.frontends.extend([service(7, endpoints)]);
            assert_eq!(difference(&config(), &many(), &wanted).len(), messages, "{what}");
            // The way back takes as many: a chain goes with a message for its rules.
            assert_eq!(difference(&config(), &wanted, &many()).len(), messages, "back from {what}");
        }
        let mut fewer = many();
        fewer.frontends.pop_first();
        assert_eq!(difference(&config(), &many(), &fewer).len(), 2, "services -1, endpoints -1");
    }

    #[test]
    fn names_of_chains_fit_the_kernels_limit() {
        let far = Ipv4Addr::new(255, 255, 255, 255);
        let frontend = Frontend { address: Some(far), protocol: Protocol::Sctp, port: u16::MAX };
        let endpoint = Endpoint { address: far, port: u16::MAX };
        // NFT_CHAIN_MAXNAMELEN, with the final zero.
        assert!(Chain::StickyEndpoint(frontend, endpoint, 86_400).name().len() < 128);
        let far = Ipv6Addr::from_bits(u128::MAX);
        let frontend = Frontend { address: Some(far), protocol: Protocol::Sctp, port: u16::MAX };
        let endpoint = Endpoint { address: far, port: u16::MAX };
        assert!(Chain::StickyEndpoint(frontend, endpoint, 86_400).name().len() < 128);
    }
}
