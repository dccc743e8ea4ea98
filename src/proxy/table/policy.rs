//! Network policies in the table: chains and sets that are there only while there is a policy.
//!
//! A connection is looked at once for each pod at its ends: by the pod's address in a map, which leads to the chain
//! that all pods with the same rules share. Peers are sets. So the cost for a packet does not depend on how many
//! policies and pods there are, only on the rules that the pod itself is subject to; and a pod that comes or goes
//! changes elements, never rules. In the terms of the `nft` program:
//!
//! ```text
//! chain policy-forward, policy-input   ct state established,related accept
//!                                      iifname "mk…*": jump from-pod
//! chain policy-forward                 daddr of a pod: jump to-pod
//! chain policy-output                  to a pod, TCP in the midst of a connection that is not known: reset
//! chain from-pod                       the same; iifname . saddr . daddr @own: accept, to itself by a service
//!                                      iifname . saddr vmap @egress, which returns or goes to egress-…; drop
//! chain to-pod                         the same with daddr vmap @ingress
//! chain egress-…                       for each rule: daddr @pods-… or @blocks-…, dport: return; at last drop
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::at;
use super::chain::load_frontend;
use super::message::{
    DELETE_ELEMENTS, DELETE_SET, In, NEW_ELEMENTS, delete_chain, delete_rules, new_chain, new_rule,
};
use super::set::{
    ADDRESS, Content, Data, Kind, LINK, Layout, PORT, PROTOCOL, Set, change_elements, key, new_set, port_key,
};
use crate::network::link_name;
use crate::proxy::Config;
use crate::proxy::expression::{Field, Interface, Reg, Rule as Expressions, Verdict};
use crate::proxy::family::{Address, Range as _};
use crate::proxy::policy::{Direction, Isolation, Peers, Policies, Ports, Range, Rule, RuleSet, Served};
use crate::sys::netlink::{Messages, NFTABLES};

/// The map of what pods may send, by link and address; that of who may send to them, by address.
const EGRESS: &str = "egress";
const INGRESS: &str = "ingress";
const DNS: &str = "dns";
/// Pods, by their link and twice their address: what one sends to itself.
const OWN: &str = "own";
/// The chains whose rules are always the same: those that packets enter by themselves with their hook, those that
/// they point at.
const HOOKED: [(&str, u32); 3] = [("policy-input", 1), ("policy-forward", 2), ("policy-output", 3)];
const ENDS: [&str; 2] = ["from-pod", "to-pod"];
/// Behind the refusals of the service range, before the usual filters.
const PRIORITY: i32 = -5;

/// The messages that lead from some policies to others; `None` is none at all.
pub(super) fn change<A: Address>(
    changes: &mut Messages,
    config: &Config<A>,
    installed: Option<&Policies<A>>,
    wanted: Option<&Policies<A>>,
) {
    if installed == wanted {
        return;
    }
    let table = at(config);
    let (old, new) = (sets(installed), sets(wanted));
    let (old_rules, new_rules) = (rule_sets(installed), rule_sets(wanted));
    let (begins, ends) = (installed.is_none(), wanted.is_none());

    // What rules and elements point at is made before them and removed after them.
    for (number, (name, contents)) in (Set::ALL.len() as u32 + 1..).zip(&new) {
        if !old.contains_key(name) {
            new_set(changes, table, name, contents.layout(), number);
        }
    }
    let come = || new_rules.iter().filter(|(name, _)| !old_rules.contains_key(*name));
    for (name, _) in come() {
        new_chain(changes, table, name, None);
    }
    for (name, rules) in come() {
        rule_set(changes, table, name, rules);
    }
    if begins {
        skeleton(changes, config);
    }
    for (kind, from, to) in [(DELETE_ELEMENTS, &old, &new), (NEW_ELEMENTS, &new, &old)] {
        for (name, contents) in from {
            let others = to.get(name);
            // A set goes with its elements; those of a map let go of chains first.
            let goes = kind == DELETE_ELEMENTS && others.is_none() && contents.layout().data == Data::None;
            if others != Some(contents) && !goes {
                let others = others.map(|others| others.elements(config)).unwrap_or_default();
                let differing = contents.elements(config).into_iter();
                let differing = differing.filter(|(key, content)| others.get(key) != Some(content));
                let content = |content| if kind == DELETE_ELEMENTS { Content::None } else { content };
                // The ends of ranges before their beginnings, as the kernel wants them.
                let elements = differing.rev().map(|(key, old)| (key, content(old))).collect();
                change_elements(changes, table, kind, name, elements);
            }
        }
    }
    let fixed = HOOKED.iter().map(|(name, _)| *name).chain(ENDS).filter(|_| ends);
    let unused = old_rules.keys().filter(|name| !new_rules.contains_key(*name)).copied();
    let gone: Vec<&str> = fixed.chain(unused).collect();
    for name in &gone {
        delete_rules(changes, table, name);
    }
    for name in gone {
        delete_chain(changes, table, name);
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        changes.push(NFTABLES, DELETE_SET, 0, table.family.number, |set| {
            set.text(1, table.table).text(2, name);
        });
    }
}

fn rule_sets<A: Address>(policies: Option<&Policies<A>>) -> BTreeMap<&str, &RuleSet> {
    let sets = policies.into_iter().flat_map(|policies| &policies.rule_sets);
    sets.map(|(name, set)| (name.as_str(), set)).collect()
}

/// What is in a set.
#[derive(Debug, PartialEq)]
enum Contents<'a, A: Address> {
    Senders(&'a BTreeMap<A, Isolation>),
    Own(&'a BTreeMap<A, Isolation>),
    Receivers(&'a BTreeMap<A, Isolation>),
    Addresses(&'a BTreeSet<A>),
    Ranges(&'a [Range<A>]),
    Served(&'a BTreeSet<Served<A>>),
}

/// The sets for these policies, by name.
fn sets<A: Address>(policies: Option<&Policies<A>>) -> BTreeMap<&str, Contents<'_, A>> {
    let Some(policies) = policies else { return BTreeMap::new() };
    let selected = policies.selected.iter().map(|(name, pods)| (name.as_str(), Contents::Addresses(pods)));
    let blocks = policies.blocks.iter().map(|(name, ranges)| (name.as_str(), Contents::Ranges(ranges)));
    let named = policies.named_ports.iter().map(|(name, at)| (name.as_str(), Contents::Served(at)));
    let fixed = [
        (EGRESS, Contents::Senders(&policies.pods)),
        (OWN, Contents::Own(&policies.pods)),
        (INGRESS, Contents::Receivers(&policies.pods)),
        (DNS, Contents::Served(&policies.dns)),
    ];
    fixed.into_iter().chain(selected).chain(blocks).chain(named).collect()
}

impl<A: Address> Contents<'_, A> {
    fn layout(&self) -> Layout {
        let (key, data, kind): (&[u32], _, _) = match self {
            Contents::Senders(_) => (&[LINK, ADDRESS], Data::Verdict, Kind::Plain),
            Contents::Own(_) => (&[LINK, ADDRESS, ADDRESS], Data::None, Kind::Plain),
            Contents::Receivers(_) => (&[ADDRESS], Data::Verdict, Kind::Plain),
            Contents::Addresses(_) => (&[ADDRESS], Data::None, Kind::Plain),
            Contents::Ranges(_) => (&[ADDRESS], Data::None, Kind::Ranges),
            Contents::Served(_) => (&[ADDRESS, PROTOCOL, PORT], Data::None, Kind::Plain),
        };
        Layout { key, data, kind }
    }

    fn elements(&self, config: &Config<A>) -> BTreeMap<Vec<u8>, Content> {
        let verdict = |name: &Option<String>| name.clone().map_or(Content::Return, Content::Chain);
        let link = |address: A| {
            let mut link = [0; libc::IFNAMSIZ];
            let name = link_name(&config.link_prefix, config.pods.transpose(address, config.links));
            link[..name.len()].copy_from_slice(name.as_bytes());
            link
        };
        match self {
            Contents::Senders(pods) => {
                let elements = pods.iter().map(|(address, isolation)| {
                    (key(&[&link(*address), address.bytes().as_ref()]), verdict(&isolation.egress))
                });
                elements.collect()
            }
            Contents::Own(pods) => {
                let own = |a: &A| {
                    let address = a.bytes();
                    (key(&[&link(*a), address.as_ref(), address.as_ref()]), Content::None)
                };
                pods.keys().map(own).collect()
            }
            Contents::Receivers(pods) => {
                let elements = pods
                    .iter()
                    .map(|(a, isolation)| (key(&[a.bytes().as_ref()]), verdict(&isolation.ingress)));
                elements.collect()
            }
            Contents::Addresses(pods) => {
                pods.iter().map(|a| (key(&[a.bytes().as_ref()]), Content::None)).collect()
            }
            Contents::Ranges(ranges) => {
                let bytes = |address: A| address.bytes().as_ref().to_vec();
                // An end at the very beginning is how the `nft` program marks that nothing comes before.
                let mut elements = BTreeMap::from([(bytes(A::ALL.0), Content::End)]);
                for (first, last) in *ranges {
                    elements.insert(bytes(*first), Content::None);
                    elements.extend(last.next().map(|after| (bytes(after), Content::End)));
                }
                elements
            }
            Contents::Served(at) => {
                let elements = at
                    .iter()
                    .map(|(address, protocol, port)| (port_key(*address, *protocol, *port), Content::None));
                elements.collect()
            }
        }
    }
}

/// The rules that do not depend on any policy.
fn skeleton<A: Address>(changes: &mut Messages, config: &Config<A>) {
    let (name, prefix) = (at(config), &config.link_prefix);
    for chain in ENDS {
        new_chain(changes, name, chain, None);
    }
    for (chain, hook) in HOOKED {
        new_chain(changes, name, chain, Some(("filter", hook, PRIORITY)));
    }
    let mut rule = |chain: &str, build: &dyn Fn(Expressions<'_, '_>)| new_rule(changes, name, chain, build);
    for chain in ["policy-input", "policy-forward"] {
        rule(chain, &|rule| rule.continues_connection().verdict(Verdict::Accept));
        // Neighbours are found on the link; what is forwarded as such is something else.
        if A::family().discovers && chain == "policy-input" {
            rule(chain, &|rule| rule.discovers_neighbours().verdict(Verdict::Accept));
        }
        rule(chain, &|rule| rule.interface(Interface::In, prefix, true).verdict(Verdict::Jump("from-pod")));
    }
    rule("policy-forward", &|rule| {
        rule.in_range(Field::DestinationAddress, config.pods, true).verdict(Verdict::Jump("to-pod"));
    });
    // The kernel takes a packet in the midst of an unknown connection for the beginning of one, from whichever end
    // it comes. A connection that was ended must not live on in that way.
    rule("policy-output", &|rule| rule.interface(Interface::Out, prefix, true).stray_tcp().reset());
    for chain in ENDS {
        rule(chain, &|rule| rule.stray_tcp().reset());
    }
    // By the link too: nobody gets another pod's rights by its address.
    rule("from-pod", &|rule| {
        let rule = rule.load_link(Reg(0)).load(Field::SourceAddress, Reg(4));
        let behind = Reg(4 + rule.width());
        rule.load(Field::DestinationAddress, behind).in_set(OWN, Reg(0)).verdict(Verdict::Accept);
    });
    rule("from-pod", &|rule| {
        rule.load_link(Reg(0)).load(Field::SourceAddress, Reg(4)).look_up_verdict(EGRESS, Reg(0));
    });
    rule("to-pod", &|rule| {
        rule.load(Field::DestinationAddress, Reg(0)).look_up_verdict(INGRESS, Reg(0));
    });
    for chain in ENDS {
        rule(chain, &|rule| rule.verdict(Verdict::Drop));
    }
}

/// The rules of a set, and what becomes of what none of them lets through.
fn rule_set(changes: &mut Messages, table: In<'_>, name: &str, set: &RuleSet) {
    let peer = match set.direction {
        Direction::Ingress => Field::SourceAddress,
        Direction::Egress => Field::DestinationAddress,
    };
    for Rule { peers, ports } in &set.rules {
        new_rule(changes, table, name, &|rule| {
            let rule = match peers {
                Peers::Everybody => rule,
                Peers::Selected(set) | Peers::Blocks(set) => rule.load(peer, Reg(0)).in_set(set, Reg(0)),
                Peers::Dns => load_frontend(rule, false, 0).in_set(DNS, Reg(0)),
            };
            let rule = match ports {
                Ports::All => rule,
                Ports::Range(protocol, 0, u16::MAX) => rule.protocol_is(*protocol as u8),
                Ports::Range(protocol, first, last) => {
                    rule.protocol_is(*protocol as u8).port_between(*first, *last)
                }
                Ports::Named(set) => load_frontend(rule, false, 0).in_set(set, Reg(0)),
            };
            rule.verdict(Verdict::Return);
        });
    }
    new_rule(changes, table, name, &|rule| rule.verdict(Verdict::Drop));
}
