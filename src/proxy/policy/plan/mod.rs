//! From network policies, namespaces, pods and the DNS service to what is allowed. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector as Selector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::peers::{block, merged};
use super::{Direction, Isolation, Peers, Policies, Ports, Range, Rule, RuleSet, Served};
use crate::api::selector::LabelSelector;
use crate::proxy::family::Address;
use crate::proxy::plan::{SERVICE_NAME, namespace, pod_address, protocol};
use crate::proxy::state::Protocol;

/// The service that stands for the cluster's DNS, in which namespace.
const DNS: (&str, &str) = ("kube-system", "kube-dns");

type Labels = BTreeMap<String, String>;

/// The objects that matter.
#[derive(Debug, Default)]
pub struct Objects {
    /// What to enforce.
    pub policies: Vec<Arc<NetworkPolicy>>,
    /// Whose labels are selected by.
    pub namespaces: Vec<Arc<Namespace>>,
    /// All of them.
    pub pods: Vec<Arc<Pod>>,
    /// Among which is that of DNS.
    pub services: Vec<Arc<Service>>,
    /// Among which are those of DNS.
    pub slices: Vec<Arc<EndpointSlice>>,
}

/// What these objects allow of the packets of one family; `None` when there is no policy, so that nothing needs to be judged.
pub fn plan<A: Address>(objects: &Objects) -> Option<Policies<A>> {
    if objects.policies.is_empty() {
        return None;
    }
    let none = Labels::new();
    let mut planner = Planner {
        namespaces: objects
            .namespaces
            .iter()
            .map(|n| (name(&n.metadata), labels(&n.metadata, &none)))
            .collect(),
        pods: objects.pods.iter().filter_map(|pod| Known::new(pod, &none)).collect(),
        dns: dns(objects, &none),
        selectors: HashMap::new(),
        wanted: Policies::default(),
    };
    let everything = Selector::default();
    let mut by_namespace: BTreeMap<&str, Vec<Policy<'_>>> = BTreeMap::new();
    for policy in &objects.policies {
        let Some(spec) = &policy.spec else { continue };
        // An absent one is an empty one, which selects all.
        let pods = planner.selector(spec.pod_selector.as_ref().unwrap_or(&everything));
        let policy = Policy { namespace: namespace(&policy.metadata), pods, spec };
        by_namespace.entry(policy.namespace).or_default().push(policy);
    }
    // Pods with the same policies have the same rules.
    let mut known_sets: HashMap<(Direction, Vec<usize>, &str), String> = HashMap::new();
    for pod in planner.pods.clone() {
        let policies = by_namespace.get(pod.namespace).map_or(&[][..], Vec::as_slice);
        let selecting: Vec<usize> =
            (0..policies.len()).filter(|n| policies[*n].pods.matches_map(pod.labels)).collect();
        let mut isolated = |direction: Direction| {
            let of: Vec<usize> =
                selecting.iter().copied().filter(|n| isolates(policies[*n].spec, direction)).collect();
            if of.is_empty() {
                return None;
            }
            let key = (direction, of, pod.namespace);
            if let Some(name) = known_sets.get(&key) {
                return Some(name.clone());
            }
            let rules = key.1.iter().flat_map(|n| planner.rules(&policies[*n], direction)).collect();
            let set_name = planner.rule_set(RuleSet { direction, rules });
            known_sets.insert(key, set_name.clone());
            Some(set_name)
        };
        let isolation =
            Isolation { ingress: isolated(Direction::Ingress), egress: isolated(Direction::Egress) };
        planner.wanted.pods.insert(pod.address, isolation);
    }
    Some(planner.wanted)
}

/// A policy with its selector read.
struct Policy<'a> {
    namespace: &'a str,
    pods: LabelSelector,
    spec: &'a NetworkPolicySpec,
}

/// A pod that policies can be about.
#[derive(Clone, Copy)]
struct Known<'a, A> {
    pod: &'a Pod,
    namespace: &'a str,
    labels: &'a Labels,
    address: A,
}

impl<'a, A: Address> Known<'a, A> {
    /// `None` for a pod that has no address of its own, or has finished.
    fn new(pod: &'a Pod, none: &'a Labels) -> Option<Known<'a, A>> {
        let on_host = pod.spec.as_ref()?.host_network == Some(true);
        let address = pod_address::<A>(pod).filter(|_| !on_host)?;
        let (namespace, labels) = (namespace(&pod.metadata), labels(&pod.metadata, none));
        Some(Known { pod, namespace, labels, address })
    }

    /// The ports that it gives this name.
    fn ports(&self, name: &str, of: Protocol) -> impl Iterator<Item = Served<A>> {
        let spec = self.pod.spec.iter();
        let containers = spec.flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
        let ports = containers.flat_map(|container| container.ports.iter().flatten());
        ports.filter_map(move |port| {
            let same = port.name.as_deref() == Some(name) && protocol(port.protocol.as_deref()) == Some(of);
            let number = u16::try_from(port.container_port).ok().filter(|_| same)?;
            Some((self.address, of, number))
        })
    }
}

/// The DNS server as the pod that policies take it for.
struct Dns<'a, A> {
    labels: &'a Labels,
    /// Its ports, with their names.
    ports: Vec<(&'a str, Served<A>)>,
}

fn dns<'a, A: Address>(objects: &'a Objects, none: &'a Labels) -> Dns<'a, A> {
    let is_dns = |meta: &ObjectMeta, named: Option<&str>| (namespace(meta), named) == (DNS.0, Some(DNS.1));
    let service = objects.services.iter().find(|s| is_dns(&s.metadata, s.metadata.name.as_deref()));
    let of_dns = |slice: &&Arc<EndpointSlice>| {
        let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        is_dns(&slice.metadata, service.map(String::as_str))
    };
    let mut found = Vec::new();
    for slice in objects.slices.iter().filter(of_dns) {
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            let name = port.name.as_deref().unwrap_or_default();
            Some((name, protocol(port.protocol.as_deref())?, u16::try_from(port.port?).ok()?))
        });
        let ports: Vec<(&str, Protocol, u16)> = ports.collect();
        // Whoever puts pods behind the service has them selected as pods.
        let endpoints = slice.endpoints.iter().flatten().filter(|e| e.target_ref.is_none());
        for address in endpoints.flat_map(|e| &e.addresses).filter_map(|text| text.parse::<A>().ok()) {
            found.extend(ports.iter().map(|(name, protocol, port)| (*name, (address, *protocol, *port))));
        }
    }
    Dns { labels: service.map_or(none, |service| labels(&service.metadata, none)), ports: found }
}

/// What is known of the objects, and what is made of them.
struct Planner<'a, A: Address> {
    namespaces: BTreeMap<&'a str, &'a Labels>,
    pods: Vec<Known<'a, A>>,
    dns: Dns<'a, A>,
    /// Selectors that were read already, by their text.
    selectors: HashMap<String, LabelSelector>,
    wanted: Policies<A>,
}

impl<A: Address> Planner<'_, A> {
    /// Reads a selector; one that cannot be read selects nothing.
    fn selector(&mut self, selector: &Selector) -> LabelSelector {
        let value = json!(selector);
        let read = self.selectors.entry(value.to_string());
        let nothing = || LabelSelector::from_map(&json!({}));
        read.or_insert_with(|| LabelSelector::from_object(&value).unwrap_or_else(|_| nothing())).clone()
    }

    /// Gives a set of rules its name.
    fn rule_set(&mut self, set: RuleSet) -> String {
        let direction = match set.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        let name = content_name(direction, &format!("{:?}", set.rules));
        self.wanted.rule_sets.insert(name.clone(), set);
        name
    }

    /// The rules of a policy for one direction.
    fn rules(&mut self, policy: &Policy<'_>, direction: Direction) -> Vec<Rule> {
        type Parts<'p> = (Option<&'p Vec<NetworkPolicyPeer>>, Option<&'p Vec<NetworkPolicyPort>>);
        let spec = policy.spec;
        let parts: Vec<Parts<'_>> = match direction {
            Direction::Ingress => {
                spec.ingress.iter().flatten().map(|r| (r.from.as_ref(), r.ports.as_ref())).collect()
            }
            Direction::Egress => {
                spec.egress.iter().flatten().map(|r| (r.to.as_ref(), r.ports.as_ref())).collect()
            }
        };
        let mut rules = Vec::new();
        for (peers, ports) in parts {
            let peers = self.peers(policy.namespace, peers.map_or(&[], Vec::as_slice), direction);
            let ports = self.ports(ports.map_or(&[], Vec::as_slice));
            let each = peers.iter().flat_map(|peers| ports.iter().map(move |ports| (peers, ports)));
            rules.extend(each.map(|(peers, ports)| Rule { peers: peers.clone(), ports: ports.clone() }));
        }
        rules
    }

    /// Whom a rule means: everybody when it names nobody; none when those that it names cannot be here.
    fn peers(&mut self, from: &str, peers: &[NetworkPolicyPeer], direction: Direction) -> Vec<Peers> {
        if peers.is_empty() {
            return vec![Peers::Everybody];
        }
        let (mut found, mut ranges) = (Vec::new(), Vec::new());
        for peer in peers {
            match &peer.ip_block {
                Some(ip) => ranges.extend(block(&ip.cidr, ip.except.as_deref().unwrap_or_default())),
                None => found.extend(self.selected(from, peer, direction)),
            }
        }
        let ranges = merged(ranges);
        if ranges == [A::ALL] {
            return vec![Peers::Everybody];
        }
        if !ranges.is_empty() {
            found.push(Peers::Blocks(self.blocks(ranges)));
        }
        found
    }

    fn blocks(&mut self, ranges: Vec<Range<A>>) -> String {
        let name = content_name("blocks", &format!("{ranges:?}"));
        self.wanted.blocks.insert(name.clone(), ranges);
        name
    }

    /// The pods that a peer selects: in the policy's own namespace, or in those that it selects.
    fn selected(&mut self, from: &str, peer: &NetworkPolicyPeer, direction: Direction) -> Vec<Peers> {
        let (of_pods, of_namespaces) = (peer.pod_selector.as_ref(), peer.namespace_selector.as_ref());
        if of_pods.is_none() && of_namespaces.is_none() {
            return Vec::new();
        }
        let text = match of_namespaces {
            Some(selector) => json!({"namespaces": selector, "pods": of_pods}),
            None => json!({"namespace": from, "pods": of_pods}),
        };
        let name = content_name("pods", &text.to_string());
        let pods = of_pods.map(|selector| self.selector(selector));
        let namespaces = of_namespaces.map(|selector| self.selector(selector));
        let selects_namespace = |namespace: &str| match &namespaces {
            Some(selector) => {
                self.namespaces.get(namespace).is_some_and(|labels| selector.matches_map(labels))
            }
            None => namespace == from,
        };
        let selects_pod = |labels: &Labels| pods.as_ref().is_none_or(|selector| selector.matches_map(labels));
        let dns = direction == Direction::Egress
            && !self.dns.ports.is_empty()
            && selects_namespace(DNS.0)
            && selects_pod(self.dns.labels);
        if !self.wanted.selected.contains_key(&name) {
            let chosen: BTreeSet<&str> =
                self.namespaces.keys().copied().filter(|name| selects_namespace(name)).collect();
            // The policy's own namespace may not be known yet.
            let there = |pod: &&Known<'_, A>| {
                if namespaces.is_some() { chosen.contains(pod.namespace) } else { pod.namespace == from }
            };
            let selected = self.pods.iter().filter(there).filter(|pod| selects_pod(pod.labels));
            let selected = selected.map(|pod| pod.address).collect();
            self.wanted.selected.insert(name.clone(), selected);
        }
        let mut peers = vec![Peers::Selected(name)];
        if dns {
            self.wanted.dns = self.dns.ports.iter().map(|(_, served)| *served).collect();
            peers.push(Peers::Dns);
        }
        peers
    }

    /// Which ports a rule means: all when it names none.
    fn ports(&mut self, ports: &[NetworkPolicyPort]) -> Vec<Ports> {
        if ports.is_empty() {
            return vec![Ports::All];
        }
        let number = |number: i32| u16::try_from(number).ok();
        let mut found = Vec::new();
        for port in ports {
            let Some(of) = protocol(port.protocol.as_deref()) else { continue };
            found.extend(match &port.port {
                None => Some(Ports::Range(of, 0, u16::MAX)),
                Some(IntOrString::Int(first)) => {
                    let last = port.end_port.unwrap_or(*first);
                    number(*first).zip(number(last)).map(|(first, last)| Ports::Range(of, first, last))
                }
                Some(IntOrString::String(name)) => Some(Ports::Named(self.named(name, of))),
            });
        }
        found
    }

    /// Where pods serve a port of this name, whichever number each of them gives it.
    fn named(&mut self, port: &str, of: Protocol) -> String {
        let name = format!("port-{}-{port}", of as u8);
        if !self.wanted.named_ports.contains_key(&name) {
            let mut served: BTreeSet<Served<A>> =
                self.pods.iter().flat_map(|pod| pod.ports(port, of)).collect();
            let of_dns = self.dns.ports.iter().filter(|(name, served)| (*name, served.1) == (port, of));
            served.extend(of_dns.map(|(_, served)| *served));
            self.wanted.named_ports.insert(name.clone(), served);
        }
        name
    }
}

/// Whether a policy isolates in a direction the pods that it selects.
fn isolates(spec: &NetworkPolicySpec, direction: Direction) -> bool {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    match direction {
        Direction::Ingress => types.is_empty() || types.iter().any(|one| one == "Ingress"),
        Direction::Egress if types.is_empty() => spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        Direction::Egress => types.iter().any(|one| one == "Egress"),
    }
}

/// A name that is the same for the same content and, for all that matters, for no other.
fn content_name(kind: &str, content: &str) -> String {
    let digest = Sha256::digest(content);
    let digits: String = digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("{kind}-{digits}")
}

fn name(metadata: &ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}

fn labels<'a>(metadata: &'a ObjectMeta, none: &'a Labels) -> &'a Labels {
    metadata.labels.as_ref().unwrap_or(none)
}

#[cfg(test)]
mod tests;
