//! Even spreading: no domain may have many more of a group's pods than the emptiest one.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;

use super::affinity::{narrowed, selector};
use super::node::{is_selected, tolerates_all};
use super::{Plugin, Refusal, never, refuse};
use crate::api::selector::LabelSelector;
use crate::scheduler::cluster::{Cluster, NodeInfo, labels, namespace, spec};

/// How a group of pods is spread.
#[derive(Debug)]
pub struct Constraint {
    /// Nodes with one value of this label are one domain.
    pub topology: String,
    selector: LabelSelector,
    max_skew: i64,
    min_domains: i64,
    /// Whether nodes count that the pod's affinity does not mean.
    all_nodes: bool,
    /// Whether nodes count only whose taints the pod bears.
    by_taints: bool,
}

/// The constraints of a pod that say this `whenUnsatisfiable`.
pub fn constraints(pod: &Pod, when: &str) -> Vec<Constraint> {
    let all = spec(pod).topology_spread_constraints.iter().flatten();
    all.filter(|constraint| constraint.when_unsatisfiable == when)
        .map(|constraint| {
            let keys = constraint.match_label_keys.clone().unwrap_or_default();
            let own = labels(&pod.metadata.labels);
            let group = narrowed(constraint.label_selector.as_ref(), own, &keys, &[]);
            Constraint {
                topology: constraint.topology_key.clone(),
                selector: selector(group.as_ref()),
                max_skew: constraint.max_skew.into(),
                min_domains: constraint.min_domains.unwrap_or(1).into(),
                all_nodes: constraint.node_affinity_policy.as_deref() == Some("Ignore"),
                by_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
            }
        })
        .collect()
}

impl Constraint {
    /// How many pods of the group each domain has; of the nodes those count that have all labels of the constraints.
    pub fn counts<'a>(
        &self,
        pod: &Pod,
        constraints: &[Constraint],
        cluster: &'a Cluster,
    ) -> HashMap<&'a str, i64> {
        let mut counts = HashMap::new();
        let labelled = |node: &NodeInfo| constraints.iter().all(|c| node.labels().contains_key(&c.topology));
        for node in cluster.nodes.iter().filter(|node| labelled(node)) {
            let left_out = !self.all_nodes && !is_selected(spec(pod), node)
                || self.by_taints && !tolerates_all(spec(pod), &node.node);
            let Some(domain) = node.labels().get(&self.topology).filter(|_| !left_out) else { continue };
            let here = node.pods.iter().filter(|other| {
                namespace(&other.pod) == namespace(pod)
                    && other.pod.metadata.deletion_timestamp.is_none()
                    && self.selector.matches_map(labels(&other.pod.metadata.labels))
            });
            *counts.entry(domain.as_str()).or_default() += here.count() as i64;
        }
        counts
    }
}

/// Whether the pod's group stays spread when the pod goes to a node.
pub fn check(pod: &Pod, constraints: &[Constraint], cluster: &Cluster, at: &NodeInfo) -> Result<(), Refusal> {
    for constraint in constraints {
        let Some(domain) = at.labels().get(&constraint.topology) else {
            return never(
                Plugin::Spread,
                "node(s) didn't match pod topology spread constraints (missing required label)",
            );
        };
        let counts = constraint.counts(pod, constraints, cluster);
        let enough = counts.len() as i64 >= constraint.min_domains;
        let least = if enough { counts.values().min().copied().unwrap_or(0) } else { 0 };
        let own = i64::from(constraint.selector.matches_map(labels(&pod.metadata.labels)));
        let here = counts.get(domain.as_str()).copied().unwrap_or(0);
        if here + own - least > constraint.max_skew {
            return refuse(Plugin::Spread, "node(s) didn't match pod topology spread constraints");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::cluster::testing::{cluster, labelled, node};
    use serde_json::{Value, json};

    #[test]
    fn groups_stay_even() {
        let zone = |name: &'static str| move |n: &mut Value| n["metadata"]["labels"]["zone"] = json!(name);
        let nodes = [node("n", zone("a")), node("m", zone("b")), node("o", |_| {})];
        let on = |name: &str, app: &str, node: &str| {
            labelled(name, json!({"app": app}), json!({"nodeName": node}))
        };
        let constraint = |more: Value| {
            let mut constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "web"}}});
            constraint.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"topologySpreadConstraints": [constraint]})
        };
        let uneven = Some("node(s) didn't match pod topology spread constraints");
        let unlabelled =
            Some("node(s) didn't match pod topology spread constraints (missing required label)");
        let only_a = |mut spec: Value| {
            spec["nodeSelector"] = json!({"zone": "a"});
            spec
        };
        let one = || vec![on("x", "web", "n")];
        let two = || vec![on("x", "web", "n"), on("y", "web", "n")];
        for (there, spec, expected) in [
            (vec![], constraint(json!({})), [None, None, unlabelled]),
            (one(), constraint(json!({})), [uneven, None, unlabelled]),
            (vec![on("x", "db", "n")], constraint(json!({})), [None, None, unlabelled]),
            (one(), constraint(json!({"maxSkew": 2})), [None, None, unlabelled]),
            (two(), constraint(json!({"maxSkew": 2})), [uneven, None, unlabelled]),
            (one(), only_a(constraint(json!({}))), [None, None, unlabelled]),
            (one(), only_a(constraint(json!({"nodeAffinityPolicy": "Ignore"}))), [uneven, None, unlabelled]),
            (one(), constraint(json!({"minDomains": 3})), [uneven, None, unlabelled]),
            (one(), constraint(json!({"whenUnsatisfiable": "ScheduleAnyway"})), [None; 3]),
        ] {
            let cluster = cluster(&nodes, &there);
            let pod = labelled("p", json!({"app": "web"}), spec.clone());
            let constraints = constraints(&pod, "DoNotSchedule");
            for (at, expected) in cluster.nodes.iter().zip(expected) {
                let refusal = check(&pod, &constraints, &cluster, at).err();
                let reason = refusal.map(|r| r.reasons.concat());
                assert_eq!(reason.as_deref(), expected, "{spec} on {}", at.name());
            }
        }
    }
}
