//! Which of several nodes that can take a pod is the best: Kubernetes' scores and their weights (pure).

use super::cluster::{Cluster, NodeInfo, spec};
use super::filter::Asked;
use super::filter::affinity::{are_near, preferred};
use super::filter::node::tolerates;
use super::filter::resources::used;
use super::filter::spread;
use crate::api::node_selector;

/// The best score that one rule gives.
const MOST: f64 = 100.0;

/// The best of some nodes of a cluster, by index.
pub fn best(asked: &Asked<'_>, cluster: &Cluster, possible: &[usize]) -> Option<usize> {
    if let [only] = possible {
        return Some(*only);
    }
    let nodes: Vec<&NodeInfo> = possible.iter().map(|index| &cluster.nodes[*index]).collect();
    let mut totals = vec![0.0; nodes.len()];
    let mut add = |weight: f64, scores: Vec<f64>| {
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += weight * score;
        }
    };
    add(3.0, few(nodes.iter().map(|node| unwanted_taints(asked, node)).collect()));
    add(2.0, many(nodes.iter().map(|node| preferred_node(asked, node)).collect()));
    add(2.0, between(company(asked, cluster, &nodes)));
    add(2.0, few(crowds(asked, cluster, &nodes)));
    add(1.0, nodes.iter().map(|node| room(asked, node)).collect());
    let better = |a: &(usize, f64), b: &(usize, f64)| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0));
    possible.iter().copied().zip(totals).max_by(better).map(|(index, _)| index)
}

/// The most is best.
fn many(raw: Vec<f64>) -> Vec<f64> {
    let most = raw.iter().copied().fold(0.0, f64::max);
    raw.into_iter().map(|score| if most > 0.0 { score * MOST / most } else { 0.0 }).collect()
}

/// The least is best.
fn few(raw: Vec<f64>) -> Vec<f64> {
    many(raw).into_iter().map(|score| MOST - score).collect()
}

/// The most is best and the least is worst, whatever their signs.
fn between(raw: Vec<f64>) -> Vec<f64> {
    let most = raw.iter().copied().fold(f64::MIN, f64::max);
    let least = raw.iter().copied().fold(f64::MAX, f64::min);
    let share = |score: f64| if most > least { MOST * (score - least) / (most - least) } else { 0.0 };
    raw.into_iter().map(share).collect()
}

fn unwanted_taints(asked: &Asked<'_>, node: &NodeInfo) -> f64 {
    let taints = node.node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let soft = taints.filter(|taint| taint.effect == "PreferNoSchedule");
    soft.filter(|taint| !tolerates(spec(&asked.placed.pod), taint)).count() as f64
}

fn preferred_node(asked: &Asked<'_>, node: &NodeInfo) -> f64 {
    let affinity = spec(&asked.placed.pod).affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let meant = terms
        .into_iter()
        .flatten()
        .filter(|term| node_selector::matches_term(&term.preference, node.name(), node.labels()));
    meant.map(|term| f64::from(term.weight)).sum()
}

/// How much the pod likes what is near a node, and what is there likes the pod.
fn company(asked: &Asked<'_>, cluster: &Cluster, nodes: &[&NodeInfo]) -> Vec<f64> {
    let pod = &asked.placed.pod;
    let (likes, dislikes) = preferred(pod);
    let mut scores = vec![0.0; nodes.len()];
    for there in &cluster.nodes {
        for other in &there.pods {
            let mut weigh = |weight: i64, topology: &str| {
                for (score, node) in scores.iter_mut().zip(nodes) {
                    if are_near(there, node, topology) {
                        *score += weight as f64;
                    }
                }
            };
            for (sign, terms) in [(1, &likes), (-1, &dislikes)] {
                for (weight, term) in terms.iter().filter(|(_, term)| term.matches(&other.pod, cluster)) {
                    weigh(sign * weight, &term.topology);
                }
            }
            if spec(&other.pod).affinity.is_none() {
                continue;
            }
            let (likes, dislikes) = preferred(&other.pod);
            for (sign, terms) in [(1, likes), (-1, dislikes)] {
                for (weight, term) in terms.iter().filter(|(_, term)| term.matches(pod, cluster)) {
                    weigh(sign * weight, &term.topology);
                }
            }
        }
    }
    scores
}

/// How many pods of the groups that the pod would rather spread are in the nodes' domains.
fn crowds(asked: &Asked<'_>, cluster: &Cluster, nodes: &[&NodeInfo]) -> Vec<f64> {
    let pod = &asked.placed.pod;
    let constraints = spread::constraints(pod, "ScheduleAnyway");
    let mut crowds = vec![0.0; nodes.len()];
    for constraint in &constraints {
        let counts = constraint.counts(pod, &constraints, cluster);
        for (crowd, node) in crowds.iter_mut().zip(nodes) {
            let domain = node.labels().get(&constraint.topology);
            *crowd += domain.and_then(|domain| counts.get(domain.as_str())).map_or(0.0, |n| *n as f64);
        }
    }
    crowds
}

/// How much of a node's CPU and memory stays free, and how free of pods it is.
fn room(asked: &Asked<'_>, node: &NodeInfo) -> f64 {
    let free = |name: &str| {
        let all = node.allocatable(name).map_or(0.0, |amount| amount.approximate());
        let own = asked.placed.requests.get(name).map_or(0.0, |amount| amount.approximate());
        let taken = used(node, name).approximate() + own;
        if all > 0.0 { ((all - taken) / all).max(0.0) * MOST } else { 0.0 }
    };
    // Pods that ask for nothing are spread by their number.
    (free("cpu") + free("memory")) / 2.0 - node.pods.len() as f64 / MOST
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::cluster::testing::{asking, cluster, labelled, node, placed, pod};
    use serde_json::{Value, json};

    #[test]
    fn the_node_that_suits_best_is_chosen() {
        let soft = |n: &mut Value| n["spec"]["taints"] = json!([{"key": "k", "effect": "PreferNoSchedule"}]);
        let ssd = |n: &mut Value| n["metadata"]["labels"]["disk"] = json!("ssd");
        let same = |_: &mut Value| {};
        let prefers = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 5, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]}}});
        let term =
            json!({"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "kubernetes.io/hostname"});
        let company = |kind: &str| {
            json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 9, "podAffinityTerm": term}]}}})
        };
        let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": "db"}}}]});
        let busy = |node: &str| {
            let mut spec = asking("1", "512Mi");
            spec["nodeName"] = json!(node);
            pod("busy", spec)
        };
        let db = |node: &str| labelled("db", json!({"app": "db"}), json!({"nodeName": node}));
        type Change = fn(&mut Value);
        for (a, b, there, spec, expected) in [
            (same as Change, same as Change, vec![], json!({}), "a"),
            (soft, same, vec![], json!({}), "b"),
            (same, ssd, vec![], prefers, "b"),
            (same, same, vec![busy("a")], asking("100m", "1Mi"), "b"),
            (same, same, vec![db("b")], company("podAffinity"), "b"),
            (same, same, vec![db("a")], company("podAntiAffinity"), "b"),
            (same, same, vec![db("a")], spread, "b"),
            (same, same, vec![db("a")], json!({}), "b"),
        ] {
            let cluster = cluster(&[node("a", a), node("b", b)], &there);
            let placed = placed(&pod("p", spec.clone()));
            let asked = Asked::new(&placed, &cluster).unwrap();
            let index = best(&asked, &cluster, &[0, 1]).unwrap();
            assert_eq!(cluster.nodes[index].name(), expected, "{spec}");
        }
    }
}
