//! What the node has set aside for its pods: which ones it takes, and which resizes it carries out (kubelet's allocation manager).
//!
//! A pod runs with what was allocated to it, which is not always what its spec asks for: more is granted only when the
//! node has it beside all other pods. Those that wait for room are asked about anew, the most important first, whenever
//! a pod gives some up.

mod admission;
mod record;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::sync::watch;

pub use self::record::{Record, applied, differs, recorded};
use super::status::Waiting;
use crate::api::quantity::Quantity;
use crate::api::resources::{self, Resources, amounts, held, raise};
use crate::api::room::{self, HostPort, Short, host_ports};

/// The pods that the node has taken; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Allocations(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Counts what may help those that wait.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// By uid.
    pods: HashMap<String, Taken>,
    /// Those that want more than they have, by uid.
    asks: HashMap<String, Ask>,
    /// How many asked before.
    asked: u64,
}

/// What a pod has of the node.
#[derive(Debug)]
struct Taken {
    held: Resources,
    ports: Vec<HostPort>,
}

impl Taken {
    fn of(pod: &Pod) -> Taken {
        Taken { held: held(pod), ports: pod.spec.iter().flat_map(host_ports).collect() }
    }
}

/// A pod that wants other resources than it has.
#[derive(Debug)]
struct Ask {
    requests: Resources,
    rank: Rank,
    granted: bool,
}

/// Who comes first: those who want no more than they have, then by priority, then guaranteed pods, then by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    wants_more: bool,
    priority: std::cmp::Reverse<i32>,
    burstable: bool,
    since: u64,
}

/// What the node says to a resize.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is to be carried out.
    Granted,
    /// Not for now, as others have the room.
    Deferred(String),
    /// Never on this node.
    Infeasible(String),
}

impl Allocations {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells those that wait.
    fn tell(&self) {
        self.0.changes.send_modify(|count| *count += 1);
    }

    /// Changes whenever there may be room for those that wait.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Takes a pod that has not begun, if the node is one for it and has room beside all others.
    pub fn admit(&self, uid: &str, pod: &Pod, node: &Node) -> Result<(), Waiting> {
        let Some(spec) = &pod.spec else { return Ok(()) };
        admission::suits(pod, node)?;
        let allocatable = amounts(node.status.as_ref().and_then(|status| status.allocatable.as_ref()));
        let mut state = self.lock();
        let short = state.short(uid, &admission::asked(spec, &allocatable), &allocatable);
        let ports = state.pods.iter().filter(|(other, _)| *other != uid).flat_map(|(_, taken)| &taken.ports);
        admission::fits(pod, node, &short, ports)?;
        state.pods.insert(uid.to_owned(), Taken::of(pod));
        Ok(())
    }

    /// A pod takes so much of the node, whether there is room or not.
    pub fn hold(&self, uid: &str, pod: &Pod) {
        let mut now = held(pod);
        let mut state = self.lock();
        // What it was promised is its own already.
        if let Some(ask) = state.asks.get(uid).filter(|ask| ask.granted) {
            raise(&mut now, &ask.requests);
        }
        let gives_up = |before: &Resources| {
            before.iter().any(|(name, amount)| now.get(name).is_none_or(|now| now < amount))
        };
        let room = state.pods.get(uid).is_some_and(|taken| gives_up(&taken.held));
        state.pods.entry(uid.to_owned()).or_insert_with(|| Taken::of(pod)).held = now;
        drop(state);
        if room {
            self.tell();
        }
    }

    /// A pod takes nothing any more.
    pub fn release(&self, uid: &str) {
        let mut state = self.lock();
        state.asks.remove(uid);
        if state.pods.remove(uid).is_some() {
            drop(state);
            self.tell();
        }
    }

    /// A pod wants nothing but what it has.
    pub fn withdraw(&self, uid: &str) {
        self.lock().asks.remove(uid);
    }

    /// Whether a pod can have what its spec asks for on a node that offers so much.
    pub fn resize(&self, uid: &str, pod: &Pod, allocatable: &Resources) -> Verdict {
        let Some(spec) = &pod.spec else { return Verdict::Granted };
        let requests = resources::requests(spec);
        if let Some(message) = infeasible(&requests, allocatable) {
            self.withdraw(uid);
            return Verdict::Infeasible(message);
        }
        let mut state = self.lock();
        let had = state.pods.get(uid).map(|taken| taken.held.clone()).unwrap_or_default();
        let known = state.asks.get(uid).filter(|ask| ask.requests == requests);
        if known.is_none() {
            let since = state.asks.get(uid).map_or(state.asked, |ask| ask.rank.since);
            state.asked += 1;
            let rank = rank(pod, &requests, &had, since);
            state.asks.insert(uid.to_owned(), Ask { requests: requests.clone(), rank, granted: false });
        }
        let others = state.grant(allocatable, uid);
        let verdict = match state.asks.get(uid) {
            Some(ask) if !ask.granted => {
                let short = state.short(uid, &requests, allocatable);
                Verdict::Deferred(short.first().map(Short::words).unwrap_or_default())
            }
            _ => {
                state.asks.remove(uid);
                Verdict::Granted
            }
        };
        drop(state);
        if others {
            self.tell();
        }
        verdict
    }
}

impl State {
    /// What is short for a pod beside all others.
    fn short(&self, uid: &str, requests: &Resources, allocatable: &Resources) -> Vec<Short> {
        let others = || self.pods.iter().filter(|(other, _)| *other != uid);
        let used = |name: &str| {
            let amounts = others().filter_map(|(_, taken)| taken.held.get(name));
            amounts.fold(Quantity::units(0), |sum, amount| sum.plus(amount))
        };
        room::short(requests, others().count(), used, |name| allocatable.get(name).copied())
    }

    /// Promises what there is room for, in the order of those that ask; whether somebody beside `asker` got something.
    fn grant(&mut self, allocatable: &Resources, asker: &str) -> bool {
        let waiting = self.asks.iter().filter(|(_, ask)| !ask.granted);
        let mut waiting: Vec<(Rank, String)> = waiting.map(|(uid, ask)| (ask.rank, uid.clone())).collect();
        waiting.sort();
        let mut others = false;
        for (_, uid) in waiting {
            let Some(requests) = self.asks.get(&uid).map(|ask| ask.requests.clone()) else { continue };
            if !self.short(&uid, &requests, allocatable).is_empty() {
                continue;
            }
            if let Some(taken) = self.pods.get_mut(&uid) {
                raise(&mut taken.held, &requests);
            }
            others |= uid != asker;
            if let Some(ask) = self.asks.get_mut(&uid) {
                ask.granted = true;
            }
        }
        others
    }
}

fn rank(pod: &Pod, requests: &Resources, had: &Resources, since: u64) -> Rank {
    let more = |name: &str| requests.get(name).is_some_and(|now| had.get(name).is_none_or(|had| now > had));
    let class = pod.status.as_ref().and_then(|status| status.qos_class.as_deref());
    Rank {
        wants_more: more("cpu") || more("memory"),
        priority: std::cmp::Reverse(pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)),
        burstable: class != Some("Guaranteed"),
        since,
    }
}

/// Why the node can never give a pod so much (pure).
fn infeasible(requests: &Resources, allocatable: &Resources) -> Option<String> {
    let zero = Quantity::units(0);
    // A pod that is short of both is told of its memory.
    ["memory", "cpu"].into_iter().find_map(|name| {
        let there = allocatable.get(name).copied().unwrap_or(zero);
        let asked = requests.get(name).filter(|asked| **asked > there)?;
        let (asked, there) = (room::amount_of(name, asked), room::amount_of(name, &there));
        Some(format!("Node didn't have enough capacity: {name}, requested: {asked}, capacity: {there}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(cpu: &str, priority: i32) -> Pod {
        serde_json::from_value(json!({"spec": {"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}}]}}))
        .unwrap()
    }

    fn node() -> Resources {
        resources::read(&json!({"cpu": "4", "memory": "1Gi", "pods": "10"}))
    }

    fn deferred(requested: i64, used: i64) -> Verdict {
        Verdict::Deferred(format!(
            "Node didn't have enough resource: cpu, requested: {requested}, used: {used}, capacity: 4000"
        ))
    }

    #[test]
    fn what_the_node_does_not_have_is_infeasible_and_what_others_have_is_deferred() {
        let here = Allocations::default();
        here.hold("a", &pod("1", 0));
        here.hold("b", &pod("2", 0));
        assert_eq!(here.resize("a", &pod("2", 0), &node()), Verdict::Granted);
        assert_eq!(here.resize("a", &pod("3", 0), &node()), deferred(3000, 2000));
        let never = "Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000";
        assert_eq!(here.resize("a", &pod("5", 0), &node()), Verdict::Infeasible(never.into()));
        here.release("b");
        assert_eq!(here.resize("a", &pod("3", 0), &node()), Verdict::Granted);
    }

    #[test]
    fn a_pod_is_taken_where_others_leave_room_for_it() {
        let here = Allocations::default();
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"},
            "status": {"allocatable": {"cpu": "4", "memory": "1Gi", "pods": "2"}}}))
        .unwrap();
        let reason = |uid: &str, pod: &Pod| here.admit(uid, pod, &node).err().map(|why| why.reason);
        assert_eq!(reason("a", &pod("3", 0)), None);
        assert_eq!(reason("b", &pod("2", 0)).as_deref(), Some("OutOfcpu"));
        assert_eq!(reason("b", &pod("1", 0)), None);
        assert_eq!(reason("b", &pod("1", 0)), None, "nobody is in its own way");
        assert_eq!(reason("c", &pod("0", 0)).as_deref(), Some("OutOfpods"));
        here.release("a");
        assert_eq!(reason("c", &pod("3", 0)), None);
    }

    #[test]
    fn room_that_comes_goes_to_the_most_important() {
        let here = Allocations::default();
        let mut changes = here.changes();
        for uid in ["low", "high", "third"] {
            here.hold(uid, &pod("1", 0));
        }
        assert_eq!(here.resize("low", &pod("3", 0), &node()), deferred(3000, 2000));
        assert_eq!(here.resize("high", &pod("3", 9), &node()), deferred(3000, 2000));
        assert!(!changes.has_changed().unwrap());
        here.release("third");
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        // The other one asks first, and yet does not get it.
        assert_eq!(here.resize("low", &pod("3", 0), &node()), deferred(3000, 3000));
        assert!(changes.has_changed().unwrap(), "the winner is told");
        here.hold("high", &pod("1", 9));
        assert_eq!(here.resize("low", &pod("3", 0), &node()), deferred(3000, 3000), "a promise holds");
        assert_eq!(here.resize("high", &pod("3", 9), &node()), Verdict::Granted);
        // Who asks for less gets it, and makes room.
        changes.mark_unchanged();
        assert_eq!(here.resize("high", &pod("1", 9), &node()), Verdict::Granted);
        here.hold("high", &pod("1", 9));
        assert!(changes.has_changed().unwrap());
        assert_eq!(here.resize("low", &pod("3", 0), &node()), Verdict::Granted);
    }
}
