//! Where a pod goes, or in Kubernetes' words why it goes nowhere (pure).

use std::collections::{BTreeMap, BTreeSet};

use super::cluster::{Cluster, Placed};
use super::filter::volumes::Bindings;
use super::filter::{Asked, Plugin, check_with_nominated};
use super::preemption::{Hopeless, Preemption, preempt};
use super::score;

/// What is decided about a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It goes to a node.
    Bind {
        /// The node's name.
        node: String,
        /// What is to be done about its claims first.
        volumes: Bindings,
    },
    /// It waits.
    Wait(Wait),
}

/// Why a pod waits.
#[derive(Debug, Clone, PartialEq)]
pub struct Wait {
    /// The `FailedScheduling` message.
    pub message: String,
    /// Who refused it.
    pub plugins: BTreeSet<Plugin>,
    /// Who goes for it.
    pub preemption: Option<Preemption>,
    /// Whether it need not hope for a node.
    pub hopeless: bool,
}

/// Decides about a pod.
pub fn decide(placed: &Placed, cluster: &Cluster) -> Decision {
    let wait = |message: String, plugins: &[Plugin]| {
        let plugins = plugins.iter().copied().collect();
        Decision::Wait(Wait { message, plugins, preemption: None, hopeless: false })
    };
    if cluster.nodes.is_empty() {
        return wait("no nodes available to schedule pods".to_owned(), &[Plugin::Node]);
    }
    let asked = match Asked::new(placed, cluster) {
        Ok(asked) => asked,
        // The last words are those of a plugin that is asked for help and was never told of the pod.
        Err(why) => {
            let message = format!("0/{} nodes are available: {why}. not found", cluster.nodes.len());
            return wait(message, &[Plugin::Volumes]);
        }
    };
    let (mut possible, mut refusals) = (Vec::new(), Vec::new());
    for index in 0..cluster.nodes.len() {
        match check_with_nominated(&asked, cluster, index) {
            Ok(()) => possible.push(index),
            Err(refusal) => refusals.push(refusal),
        }
    }
    let hoped = placed.pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
    let hoped = possible.iter().copied().find(|index| Some(cluster.nodes[*index].name()) == hoped);
    if let Some(index) = hoped.or_else(|| score::best(&asked, cluster, &possible)) {
        let at = &cluster.nodes[index];
        let volumes = asked.volumes.bindings(cluster, at);
        return Decision::Bind { node: at.name().to_owned(), volumes };
    }
    let reasons: Vec<Vec<String>> = refusals.iter().map(|refusal| refusal.reasons.clone()).collect();
    let mut message = fit_message(cluster.nodes.len(), &reasons);
    let preempted = preempt(&asked, cluster, &refusals);
    if let Err(Hopeless::NotEligible(why) | Hopeless::NoHelp(why)) = &preempted {
        // Claims of devices are asked first whether giving one back would help; minik's nodes have none.
        message.push_str(&format!(" no new claims to deallocate, preemption: {why}"));
    }
    Decision::Wait(Wait {
        message,
        plugins: refusals.iter().map(|refusal| refusal.plugin).collect(),
        hopeless: matches!(preempted, Err(Hopeless::NoHelp(_))),
        preemption: preempted.ok(),
    })
}

/// How many nodes refused for which reasons.
pub fn fit_message(nodes: usize, reasons: &[Vec<String>]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons.iter().flatten() {
        *counts.entry(reason).or_default() += 1;
    }
    let mut said: Vec<String> =
        counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    said.sort();
    format!("0/{nodes} nodes are available: {}.", said.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::cluster::testing::{asking, cluster, node, placed, pod};
    use serde_json::{Value, json};

    fn waits(cluster: &Cluster, spec: Value) -> Wait {
        match decide(&placed(&pod("p", spec)), cluster) {
            Decision::Wait(wait) => wait,
            bound => panic!("{bound:?}"),
        }
    }

    #[test]
    fn messages_are_those_of_kubernetes() {
        let tainted = |n: &mut Value| n["spec"]["taints"] = json!([{"key": "a", "effect": "NoSchedule"}]);
        let full = || {
            let mut spec = asking("2", "1Mi");
            spec["nodeName"] = json!("n");
            pod("full", spec)
        };
        for (cluster, spec, expected) in [
            (cluster(&[], &[]), json!({}), "no nodes available to schedule pods"),
            (
                cluster(&[node("n", |_| {})], &[full()]),
                asking("1", "1Mi"),
                "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are \
                 available: 1 No preemption victims found for incoming pod.",
            ),
            (
                cluster(&[node("n", |_| {})], &[]),
                asking("3", "9Gi"),
                "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory. no new claims to deallocate, \
                 preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
            ),
            (
                cluster(&[node("n", |_| {}), node("m", tainted), node("o", tainted)], &[full()]),
                asking("1", "1Mi"),
                "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s). no new claims to \
                 deallocate, preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 \
                 Preemption is not helpful for scheduling.",
            ),
            (
                cluster(&[node("n", |_| {})], &[]),
                json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}),
                "0/1 nodes are available: persistentvolumeclaim \"data\" not found. not found",
            ),
        ] {
            assert_eq!(waits(&cluster, spec).message, expected);
        }
        let mut important = asking("1", "1Mi");
        important["priority"] = json!(7);
        let wait = waits(&cluster(&[node("n", |_| {})], &[full()]), important);
        assert_eq!(wait.message, "0/1 nodes are available: 1 Insufficient cpu.");
        assert_eq!(wait.preemption.unwrap().victims[0].metadata.name.as_deref(), Some("full"));
    }

    #[test]
    fn room_is_kept_for_pods_that_others_went_for() {
        let mut cluster = cluster(&[node("n", |_| {})], &[]);
        let nominated = |priority: i32| {
            let mut spec = asking("2", "1Mi");
            spec["priority"] = json!(priority);
            placed(&pod("hopes", spec))
        };
        cluster.nodes[0].nominated = vec![nominated(5)];
        assert!(waits(&cluster, asking("1", "1Mi")).message.contains("Insufficient cpu"));
        cluster.nodes[0].nominated = vec![nominated(-5)];
        let decision = decide(&placed(&pod("p", asking("1", "1Mi"))), &cluster);
        assert!(matches!(decision, Decision::Bind { .. }), "{decision:?}");
    }

    #[test]
    fn a_pod_gets_the_node_that_it_hoped_for() {
        let cluster = cluster(&[node("n", |_| {}), node("m", |_| {})], &[]);
        let mut hopes = k8s_openapi::api::core::v1::Pod::clone(&pod("p", json!({})));
        hopes.status = serde_json::from_value(json!({"nominatedNodeName": "m"})).unwrap();
        let decision = decide(&placed(&std::sync::Arc::new(hopes)), &cluster);
        assert!(matches!(&decision, Decision::Bind { node, .. } if node == "m"), "{decision:?}");
    }
}
