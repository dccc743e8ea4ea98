//! Network policies: which connections of pods are let through.
//!
//! [`plan`] turns objects into [`Policies`] (pure), `table` writes those into the kernel, and `conntrack` ends the
//! connections that are not allowed any more.
//!
//! # What is judged
//! The first packet of each connection that a pod makes, to whatever it leads, and of each that another pod or a
//! stranger makes to a pod. Both ends must allow it. Answers pass. It is judged by the address and port where it
//! really ends, so that a policy means the same for a pod's address, a service and a port of the node. A pod reaches
//! itself through its service whatever its policies say. What the node itself sends to its pods always passes:
//! probes, `kubectl port-forward`, proxies of the API server, the user in his shell, and pods on the host's network,
//! which are nothing but the node to everybody else.
//!
//! A denied packet is dropped without an answer, as most implementations do and tutorials show it: the client sees a
//! timeout. A connection that was allowed and is so no longer is reset with its next packet.
//!
//! Policies speak of TCP, UDP and SCTP. Other protocols (`ping`) pass an isolated pod only by rules without ports.
//! Ranges of IPv6 allow nothing on a network where nothing has such an address; an event says so. Where pods have
//! addresses of both families, each is judged by the rules of its own.
//!
//! # DNS and the API
//! The cluster's DNS server is no pod: it is this process, at an address of the host. The policy that everybody
//! copies allows the pods with `k8s-app: kube-dns` in `kube-system`. So the endpoints of the Service `kube-dns` are
//! taken for a pod of that namespace with the labels of the Service, which serves on the ports of the endpoints and
//! on no other: who may speak to it may not speak to all of the host. The API server is a process of the host as on
//! other clusters, which a policy allows by its address.
//!
//! # Pods that start
//! While there is a policy, pods are known by their address: a link or an address that is not known can neither send
//! nor be reached, except from the node. The kubelet writes the address into the pod's status before it starts the
//! first container, and the rules follow within milliseconds. So a pod never runs without its policies; at worst its
//! first packet comes too early and is sent again. The rules outlive the daemon; where there is no table at all (the
//! host was started) nobody is known until every object is. Without any policy there are neither chains nor sets,
//! and no packet costs anything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::family::Address;
use super::state::{Endpoint, Protocol};

pub(super) mod notices;
mod peers;
pub mod plan;

/// What is allowed, with everything that the rules refer to by name. The default knows no pod, and so allows nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policies<A: Address = Ipv4Addr> {
    /// The pods, by their address.
    pub pods: BTreeMap<A, Isolation>,
    /// Sets of rules; pods with the same rules share one. What has the same name is the same.
    pub rule_sets: BTreeMap<String, RuleSet>,
    /// Pods that rules select as peers.
    pub selected: BTreeMap<String, BTreeSet<A>>,
    /// Address ranges that rules name as peers. What has the same name is the same.
    pub blocks: BTreeMap<String, Vec<Range<A>>>,
    /// Where ports of a name are served.
    pub named_ports: BTreeMap<String, BTreeSet<Served<A>>>,
    /// Where the cluster's DNS is served.
    pub dns: BTreeSet<Served<A>>,
}

impl<A: Address> Default for Policies<A> {
    fn default() -> Self {
        Policies {
            pods: BTreeMap::new(),
            rule_sets: BTreeMap::new(),
            selected: BTreeMap::new(),
            blocks: BTreeMap::new(),
            named_ports: BTreeMap::new(),
            dns: BTreeSet::new(),
        }
    }
}

/// An address, protocol and port.
pub type Served<A = Ipv4Addr> = (A, Protocol, u16);

/// Addresses from the first to the last, both included.
pub type Range<A = Ipv4Addr> = (A, A);

/// The sets of rules that a pod is subject to, by name; `None` where everything is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Isolation {
    /// For what others send to it.
    pub ingress: Option<String>,
    /// For what it sends.
    pub egress: Option<String>,
}

/// Which way connections go, as seen by the pod that is isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// To the pod; peers are sources.
    Ingress,
    /// From the pod; peers are destinations.
    Egress,
}

/// Rules of which one must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSet {
    /// For which direction.
    pub direction: Direction,
    /// The rules.
    pub rules: BTreeSet<Rule>,
}

/// What a rule lets through.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// From or to whom.
    pub peers: Peers,
    /// To which port.
    pub ports: Ports,
}

/// The other end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peers {
    /// Every address.
    Everybody,
    /// The pods of [`Policies::selected`].
    Selected(String),
    /// The addresses of [`Policies::blocks`].
    Blocks(String),
    /// The cluster's DNS.
    Dns,
}

/// The port where a connection ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ports {
    /// Every protocol and port.
    All,
    /// From the first port to the last, both included.
    Range(Protocol, u16, u16),
    /// Those of [`Policies::named_ports`].
    Named(String),
}

impl<A: Address> Policies<A> {
    /// Whether a connection may be, as far as its ends are known: a pod that is not known (any more) cannot begin one
    /// anyway. `from_node` is for what the node itself sends.
    pub fn allows(&self, source: A, from_node: bool, protocol: u8, destination: Endpoint<A>) -> bool {
        let subject = |address: A, set: fn(&Isolation) -> Option<&String>| {
            self.pods.get(&address).and_then(set).and_then(|name| self.rule_sets.get(name))
        };
        let passes = |set: &RuleSet, peer: A| {
            set.rules.iter().any(|rule| self.matches(rule, peer, protocol, destination))
        };
        let egress = subject(source, |isolation| isolation.egress.as_ref());
        let ingress = subject(destination.address, |isolation| isolation.ingress.as_ref());
        source == destination.address
            || egress.is_none_or(|set| passes(set, destination.address))
                && (from_node || ingress.is_none_or(|set| passes(set, source)))
    }

    fn matches(&self, rule: &Rule, peer: A, protocol: u8, destination: Endpoint<A>) -> bool {
        let is_served = |by: &BTreeSet<Served<A>>| {
            by.iter().any(|(address, other, port)| {
                (*address, *other as u8, *port) == (destination.address, protocol, destination.port)
            })
        };
        let peers = match &rule.peers {
            Peers::Everybody => true,
            Peers::Selected(name) => self.selected.get(name).is_some_and(|pods| pods.contains(&peer)),
            Peers::Blocks(name) => {
                let ranges = self.blocks.get(name).map_or(&[][..], Vec::as_slice);
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&peer))
            }
            Peers::Dns => is_served(&self.dns),
        };
        peers
            && match &rule.ports {
                Ports::All => true,
                Ports::Range(of, first, last) => {
                    *of as u8 == protocol && (*first..=*last).contains(&destination.port)
                }
                Ports::Named(name) => self.named_ports.get(name).is_some_and(is_served),
            }
    }

    /// Whether some connection that `before` allowed may be denied by these. (That of a pod which is gone does not
    /// matter.)
    pub fn may_deny_more_than(&self, before: Option<&Policies<A>>) -> bool {
        let Some(before) = before else { return true };
        let is_known = |address: &A| self.pods.contains_key(address);
        let same_pods = before.pods.iter().all(|(a, old)| self.pods.get(a).is_none_or(|new| new == old));
        let new_are_open =
            self.pods.iter().all(|(a, new)| before.pods.contains_key(a) || *new == Isolation::default());
        let grows = |old: &BTreeSet<Served<A>>, new: &BTreeSet<Served<A>>| {
            old.iter().all(|one| new.contains(one) || !is_known(&one.0))
        };
        // Where pods have the same sets of rules, what these refer to is still there.
        let peers_grow = before.selected.iter().all(|(name, old)| {
            self.selected.get(name).is_none_or(|new| old.iter().all(|a| new.contains(a) || !is_known(a)))
        });
        let ports_grow = before
            .named_ports
            .iter()
            .all(|(name, old)| self.named_ports.get(name).is_none_or(|new| grows(old, new)));
        !(same_pods && new_are_open && peers_grow && ports_grow && before.dns.is_subset(&self.dns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);
    const B: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 3);

    /// Two pods of which A lets in only what the set `peers` selects.
    fn policies(peers: &[Ipv4Addr]) -> Policies {
        let rule = Rule { peers: Peers::Selected("peers".into()), ports: Ports::All };
        let rules = RuleSet { direction: Direction::Ingress, rules: [rule].into() };
        Policies {
            pods: [(A, Isolation { ingress: Some("rules".into()), egress: None }), (B, Isolation::default())]
                .into(),
            rule_sets: [("rules".into(), rules)].into(),
            selected: [("peers".into(), peers.iter().copied().collect())].into(),
            ..Policies::default()
        }
    }

    #[test]
    fn only_what_takes_something_away_can_deny() {
        let one = policies(&[B]);
        let mut opened = one.clone();
        opened.pods.insert(A, Isolation::default());
        let mut with_new = one.clone();
        with_new.pods.insert(Ipv4Addr::new(10, 244, 0, 4), Isolation::default());
        let mut with_isolated = one.clone();
        with_isolated.pods.insert(Ipv4Addr::new(10, 244, 0, 4), one.pods[&A].clone());
        let mut without_peer = policies(&[]);
        without_peer.pods.remove(&B);
        for (what, before, now, may_deny) in [
            ("nothing", &one, &one, false),
            ("a pod that is open", &one, &with_new, false),
            ("a pod that is not", &one, &with_isolated, true),
            ("another peer", &policies(&[]), &one, false),
            ("a peer less", &one, &policies(&[]), true),
            ("a peer that is gone", &one, &without_peer, false),
            ("other rules", &opened, &one, true),
        ] {
            assert_eq!(now.may_deny_more_than(Some(before)), may_deny, "{what}");
        }
        assert!(one.may_deny_more_than(None));
    }

    #[test]
    fn the_node_and_the_pod_itself_always_pass() {
        let to_a = Endpoint { address: A, port: 80 };
        let closed = policies(&[]);
        assert!(!closed.allows(B, false, Protocol::Tcp as u8, to_a));
        assert!(policies(&[B]).allows(B, false, Protocol::Tcp as u8, to_a));
        assert!(closed.allows(A, false, Protocol::Tcp as u8, to_a), "through its own service");
        assert!(closed.allows(Ipv4Addr::new(192, 0, 2, 1), true, Protocol::Tcp as u8, to_a));
        assert!(!closed.allows(Ipv4Addr::new(192, 0, 2, 9), false, Protocol::Tcp as u8, to_a));
    }
}
