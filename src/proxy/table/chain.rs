//! The chains that translate: which there are for a state, their rules, and the messages that change them.

use std::collections::BTreeMap;

use super::at;
use super::message::{In, delete_chain, delete_rules, new_chain, new_rule};
use crate::proxy::Config;
use crate::proxy::expression::{Field, Interface, Reg, Rule, Verdict};
use crate::proxy::family::Address;
use crate::proxy::state::{Backends, Endpoint, Frontend, State};
use crate::sys::netlink::Messages;

/// A chain that translates; two chains of the same name are the same but for [`Chain::Sticky`]'s endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chain<A: Address> {
    /// For every frontend with so many endpoints; with `node` for those on any address of the node.
    Spread { endpoints: u32, node: bool },
    /// For one frontend whose clients stay with their endpoint for some seconds.
    Sticky(Frontend<A>, Backends<A>, u32),
    /// For one endpoint of such a frontend.
    StickyEndpoint(Frontend<A>, Endpoint<A>, u32),
    /// For one frontend that only pods and clients from some ranges may connect to; where those go then.
    Guarded(Frontend<A>, Vec<A::Range>, Box<Chain<A>>),
}

impl<A: Address> Chain<A> {
    /// Where connections to a frontend go; `None` when nobody is behind it.
    pub(super) fn of(frontend: &Frontend<A>, backends: &Backends<A>) -> Option<Chain<A>> {
        let endpoints = u32::try_from(backends.endpoints.len()).ok().filter(|count| *count > 0)?;
        let chain = match backends.sticky {
            None => Chain::Spread { endpoints, node: frontend.address.is_none() },
            Some(seconds) => Chain::Sticky(*frontend, backends.clone(), seconds),
        };
        Some(match &backends.sources {
            None => chain,
            Some(sources) => Chain::Guarded(*frontend, sources.clone(), Box::new(chain)),
        })
    }

    pub(super) fn name(&self) -> String {
        let of = |frontend: &Frontend<A>| {
            let address = frontend.address.map_or_else(|| "node".to_owned(), |address| address.to_string());
            format!("{address}-{}-{}", frontend.protocol as u8, frontend.port)
        };
        match self {
            Chain::Spread { endpoints, node: false } => format!("spread-{endpoints}"),
            Chain::Spread { endpoints, node: true } => format!("node-spread-{endpoints}"),
            Chain::Sticky(frontend, ..) => format!("sticky-{}", of(frontend)),
            Chain::StickyEndpoint(frontend, endpoint, seconds) => {
                format!("sticky-{}-{}-{}-{seconds}", of(frontend), endpoint.address, endpoint.port)
            }
            Chain::Guarded(frontend, ..) => format!("guard-{}", of(frontend)),
        }
    }
}

/// The chains for a state, by name.
pub(super) fn chains<A: Address>(state: &State<A>) -> BTreeMap<String, Chain<A>> {
    let mut chains = BTreeMap::new();
    for (frontend, backends) in &state.frontends {
        let Some(mut chain) = Chain::of(frontend, backends) else { continue };
        if let Chain::Guarded(_, _, inner) = &chain {
            let inner = Chain::<A>::clone(inner);
            chains.insert(chain.name(), std::mem::replace(&mut chain, inner));
        }
        if let Chain::Sticky(frontend, backends, seconds) = &chain {
            let endpoints = backends.endpoints.iter();
            let own = endpoints.map(|endpoint| Chain::StickyEndpoint(*frontend, *endpoint, *seconds));
            chains.extend(own.map(|chain| (chain.name(), chain)));
        }
        chains.insert(chain.name(), chain);
    }
    chains
}

/// Makes the new chains, and the rules of those that are new or different.
pub(super) fn change_chains<A: Address>(
    changes: &mut Messages,
    config: &Config<A>,
    old: &BTreeMap<String, Chain<A>>,
    new: &BTreeMap<String, Chain<A>>,
) {
    let table = at(config);
    // All chains before any rule: rules of one chain point at others.
    for name in new.keys().filter(|name| !old.contains_key(*name)) {
        new_chain(changes, table, name, None);
    }
    for (name, chain) in new.iter().filter(|(name, chain)| old.get(*name) != Some(*chain)) {
        if old.contains_key(name) {
            delete_rules(changes, table, name);
        }
        chain_rules(changes, config, name, chain);
    }
}

/// Removes the chains that nothing points at any more.
pub(super) fn delete_chains<A: Address>(
    changes: &mut Messages,
    table: In<'_>,
    old: &BTreeMap<String, Chain<A>>,
    new: &BTreeMap<String, Chain<A>>,
) {
    let gone = || old.keys().filter(|name| !new.contains_key(*name));
    for name in gone() {
        delete_rules(changes, table, name);
    }
    for name in gone() {
        delete_chain(changes, table, name);
    }
}

fn chain_rules<A: Address>(changes: &mut Messages, config: &Config<A>, name: &str, chain: &Chain<A>) {
    // The first register behind an address, a protocol and a port.
    let width = A::family().width();
    let behind = width + 2;
    let table = at(config);
    match chain {
        Chain::Spread { endpoints, node } => new_rule(changes, table, name, &|rule| {
            load_frontend(rule, *node, 0)
                .load_random(*endpoints, Reg(behind))
                .look_up("endpoints", Reg(0), Reg(behind + 1))
                .translate_destination(Reg(behind + 1), Reg(behind + 1 + width));
        }),
        Chain::Sticky(frontend, backends, seconds) => {
            let node = frontend.address.is_none();
            for endpoint in &backends.endpoints {
                let target = Chain::StickyEndpoint(*frontend, *endpoint, *seconds).name();
                new_rule(changes, table, name, &|rule| {
                    load_client(rule, node, endpoint)
                        .in_set("clients", Reg(0))
                        .verdict(Verdict::Goto(&target));
                });
            }
            new_rule(changes, table, name, &|rule| {
                load_frontend(rule, node, 0)
                    .load_random(backends.endpoints.len() as u32, Reg(behind))
                    .look_up_verdict("choices", Reg(0));
            });
        }
        Chain::StickyEndpoint(frontend, endpoint, seconds) => {
            new_rule(changes, table, name, &|rule| {
                load_client(rule, frontend.address.is_none(), endpoint).remember("clients", Reg(0), *seconds);
            });
            // A rule of its own: who cannot be remembered because too many are is led there all the same.
            new_rule(changes, table, name, &|rule| {
                rule.load_address(endpoint.address, Reg(0))
                    .load_port(endpoint.port, Reg(width))
                    .translate_destination(Reg(0), Reg(width));
            });
        }
        Chain::Guarded(_, sources, inner) => {
            let inner = inner.name();
            new_rule(changes, table, name, &|rule| {
                rule.interface(Interface::In, &config.link_prefix, true).verdict(Verdict::Goto(&inner));
            });
            for range in sources {
                new_rule(changes, table, name, &|rule| {
                    rule.in_range(Field::SourceAddress, *range, true).verdict(Verdict::Goto(&inner));
                });
            }
            new_rule(changes, table, name, &|rule| rule.verdict(Verdict::Drop));
        }
    }
}

/// Loads what endpoints are keyed by: an address, a protocol and a port.
pub(super) fn load_frontend<'a, 'b>(rule: Rule<'a, 'b>, node: bool, at: u32) -> Rule<'a, 'b> {
    let rule = match node {
        true => rule.load_any_address(Reg(at)),
        false => rule.load(Field::DestinationAddress, Reg(at)),
    };
    let behind = at + rule.width();
    rule.load_protocol(Reg(behind)).load(Field::DestinationPort, Reg(behind + 1))
}

/// Loads what clients are remembered by: client, frontend, endpoint. (Not the endpoint's port: the `nft` program cannot
/// print keys of more than five parts.)
fn load_client<'a, 'b, A: Address>(rule: Rule<'a, 'b>, node: bool, endpoint: &Endpoint<A>) -> Rule<'a, 'b> {
    let width = rule.width();
    let rule = load_frontend(rule.load(Field::SourceAddress, Reg(0)), node, width);
    rule.load_address(endpoint.address, Reg(2 * width + 2))
}
