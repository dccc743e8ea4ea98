//! Whether a node can take a pod: Kubernetes' filters, in their order, each with its words (pure).
//!
//! Source: Kubernetes `pkg/scheduler/framework/plugins`.

pub mod affinity;
pub mod node;
pub mod ports;
pub mod resources;
pub mod spread;
pub mod volumes;

use super::cluster::{Cluster, NodeInfo, Placed, priority};

/// Who refused a pod: what may change its mind differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Plugin {
    /// Cordons, taints, names, selectors and affinities of nodes.
    Node,
    /// Ports of the host.
    Ports,
    /// CPU, memory, numbers of pods, and all else that is counted.
    Resources,
    /// Claims and their volumes.
    Volumes,
    /// A claim that one pod alone may use.
    Restrictions,
    /// Even spreading.
    Spread,
    /// Pods that want, or do not want, each other.
    Affinity,
}

/// Why a node cannot take a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Who says so.
    pub plugin: Plugin,
    /// In Kubernetes' words.
    pub reasons: Vec<String>,
    /// Whether it could be otherwise with fewer pods on the node.
    pub resolvable: bool,
}

/// A refusal that fewer pods might lift.
pub fn refuse(plugin: Plugin, reason: &str) -> Result<(), Refusal> {
    Err(Refusal { plugin, reasons: vec![reason.to_owned()], resolvable: true })
}

/// A refusal that no end of a pod lifts.
pub fn never(plugin: Plugin, reason: &str) -> Result<(), Refusal> {
    Err(Refusal { plugin, reasons: vec![reason.to_owned()], resolvable: false })
}

/// A pod to be placed, with what its spec says in a form that is quick to compare.
pub struct Asked<'a> {
    /// The pod.
    pub placed: &'a Placed,
    /// Which pods it wants near, and which not.
    pub affinity: affinity::Wishes,
    /// How it is to be spread.
    pub spread: Vec<spread::Constraint>,
    /// Its claims.
    pub volumes: volumes::Needs,
}

impl<'a> Asked<'a> {
    /// Reads a pod; an error says why no node can take it.
    pub fn new(placed: &'a Placed, cluster: &Cluster) -> Result<Asked<'a>, String> {
        let pod = &*placed.pod;
        Ok(Asked {
            placed,
            affinity: affinity::Wishes::of(pod),
            spread: spread::constraints(pod, "DoNotSchedule"),
            volumes: volumes::Needs::of(pod, cluster)?,
        })
    }
}

/// Asks every filter in turn; the first that refuses is the answer.
pub fn check(asked: &Asked<'_>, cluster: &Cluster, at: &NodeInfo) -> Result<(), Refusal> {
    let pod = &asked.placed.pod;
    node::check(pod, at)?;
    ports::check(pod, at)?;
    resources::check(&asked.placed.requests, at)?;
    volumes::check(&asked.volumes, cluster, at)?;
    spread::check(pod, &asked.spread, cluster, at)?;
    affinity::check(pod, &asked.affinity, cluster, at)
}

/// The same, when pods come first that others have made room for: the node must do with them and without.
pub fn check_with_nominated(asked: &Asked<'_>, cluster: &Cluster, index: usize) -> Result<(), Refusal> {
    let at = &cluster.nodes[index];
    let own = &asked.placed.pod;
    let before =
        |other: &&Placed| other.pod.metadata.uid != own.metadata.uid && priority(&other.pod) >= priority(own);
    let first: Vec<Placed> = at.nominated.iter().filter(before).cloned().collect();
    if !first.is_empty() {
        let mut with = cluster.clone();
        with.nodes[index].pods.extend(first);
        check(asked, &with, &with.nodes[index])?;
    }
    check(asked, cluster, at)
}
