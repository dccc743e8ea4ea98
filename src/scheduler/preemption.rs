//! Who must go so that a more important pod can come (pure).
//!
//! Source: Kubernetes `pkg/scheduler/framework/plugins/defaultpreemption` and `framework/preemption`.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::cluster::{Cluster, Placed, labels, namespace, priority, spec};
use super::decide::fit_message;
use super::filter::affinity::selector;
use super::filter::{Asked, Refusal, check_with_nominated};

/// The node that a pod is to get, and the pods that must go from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Preemption {
    /// The node's name.
    pub node: String,
    /// Who goes, the most important first.
    pub victims: Vec<Arc<Pod>>,
}

/// Why nobody goes.
#[derive(Debug, Clone, PartialEq)]
pub enum Hopeless {
    /// The pod may not, or need not, send others away: what it hopes for stays.
    NotEligible(String),
    /// It would not help: the pod need not hope for a node.
    NoHelp(String),
}

/// Finds the node on which the fewest and least important pods must go; `refusals` are those of the nodes, in order.
pub fn preempt(asked: &Asked<'_>, cluster: &Cluster, refusals: &[Refusal]) -> Result<Preemption, Hopeless> {
    let pod = &asked.placed.pod;
    if let Some(why) = not_eligible(pod, cluster, refusals) {
        return Err(Hopeless::NotEligible(why.to_owned()));
    }
    let (mut candidates, mut reasons) = (Vec::new(), Vec::new());
    for (index, refusal) in refusals.iter().enumerate() {
        if !refusal.resolvable {
            reasons.push(vec!["Preemption is not helpful for scheduling".to_owned()]);
            continue;
        }
        match victims(asked, cluster, index) {
            Ok(found) => candidates.push((index, found)),
            Err(why) => reasons.push(why),
        }
    }
    let best = candidates.into_iter().min_by_key(|(_, found)| cost(found));
    match best {
        Some((index, (victims, _))) => {
            Ok(Preemption { node: cluster.nodes[index].name().to_owned(), victims })
        }
        None => Err(Hopeless::NoHelp(fit_message(cluster.nodes.len(), &reasons))),
    }
}

fn not_eligible(pod: &Pod, cluster: &Cluster, refusals: &[Refusal]) -> Option<&'static str> {
    if spec(pod).preemption_policy.as_deref() == Some("Never") {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let hoped = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref())?;
    let index = cluster.nodes.iter().position(|node| node.name() == hoped)?;
    // A node that has become impossible is no reason to wait.
    if refusals.get(index).is_some_and(|refusal| !refusal.resolvable) {
        return None;
    }
    let goes = |other: &Placed| priority(&other.pod) < priority(pod) && is_sent_away(&other.pod);
    let waits = cluster.nodes[index].pods.iter().any(goes);
    waits.then_some("not eligible due to a terminating pod on the nominated node.")
}

/// Whether a pod is about to end because another one was more important.
fn is_sent_away(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_some()
        && conditions.any(|condition| {
            condition.type_ == "DisruptionTarget"
                && condition.status == "True"
                && condition.reason.as_deref() == Some("PreemptionByScheduler")
        })
}

/// The most important first: by priority, then by how long they have run.
fn importance(pod: &Pod) -> (Reverse<i32>, Option<jiff::Timestamp>, Option<String>) {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    (Reverse(priority(pod)), started.or(Some(jiff::Timestamp::MAX)), pod.metadata.name.clone())
}

/// The pods that must go from a node, and how many of them their budgets would keep.
type Victims = (Vec<Arc<Pod>>, usize);

/// Who must go from a node; else why that would not help.
fn victims(asked: &Asked<'_>, cluster: &Cluster, index: usize) -> Result<Victims, Vec<String>> {
    let own = priority(&asked.placed.pod);
    let less = |placed: &&Placed| priority(&placed.pod) < own;
    let mut possible: Vec<Placed> = cluster.nodes[index].pods.iter().filter(less).cloned().collect();
    if possible.is_empty() {
        return Err(vec!["No preemption victims found for incoming pod".to_owned()]);
    }
    let mut without = cluster.clone();
    without.nodes[index].pods.retain(|placed| priority(&placed.pod) >= own);
    check_with_nominated(asked, &without, index).map_err(|refusal| refusal.reasons)?;
    possible.sort_by_key(|placed| importance(&placed.pod));
    let violating = violating(&possible, cluster);
    let (mut victims, mut violations) = (Vec::new(), 0);
    // Those that budgets keep are the first to be spared.
    for kept_by_budget in [true, false] {
        for placed in &possible {
            if violating.contains(&placed.pod.metadata.uid) != kept_by_budget {
                continue;
            }
            without.nodes[index].pods.push(placed.clone());
            if check_with_nominated(asked, &without, index).is_err() {
                without.nodes[index].pods.pop();
                victims.push(placed.pod.clone());
                violations += usize::from(kept_by_budget);
            }
        }
    }
    victims.sort_by_key(|pod| importance(pod));
    Ok((victims, violations))
}

/// The uids of those pods whose end would leave a budget with too few.
fn violating(pods: &[Placed], cluster: &Cluster) -> BTreeSet<Option<String>> {
    let mut allowed: Vec<i32> = cluster
        .budgets
        .iter()
        .map(|budget| budget.status.as_ref().and_then(|status| status.disruptions_allowed).unwrap_or(0))
        .collect();
    let mut found = BTreeSet::new();
    for placed in pods.iter().filter(|placed| !labels(&placed.pod.metadata.labels).is_empty()) {
        for (budget, allowed) in cluster.budgets.iter().zip(&mut allowed) {
            let meant = selector(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()));
            let name = placed.pod.metadata.name.as_deref().unwrap_or_default();
            let counted = budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref());
            if budget.metadata.namespace.as_deref() != Some(namespace(&placed.pod))
                || meant.is_everything()
                || !meant.matches_map(labels(&placed.pod.metadata.labels))
                || counted.is_some_and(|counted| counted.contains_key(name))
            {
                continue;
            }
            *allowed -= 1;
            if *allowed < 0 {
                found.insert(placed.pod.metadata.uid.clone());
            }
        }
    }
    found
}

/// What it costs to send pods away: the least is best.
fn cost((victims, violations): &Victims) -> (usize, i32, i64, usize, Reverse<Option<jiff::Timestamp>>) {
    let highest = victims.iter().map(|pod| priority(pod)).max().unwrap_or(i32::MIN);
    // No pod is for free, whatever its priority.
    let sum = victims.iter().map(|pod| i64::from(priority(pod)) + i64::from(i32::MAX) + 1).sum();
    let started = |pod: &Arc<Pod>| pod.status.as_ref()?.start_time.as_ref().map(|time| time.0);
    let most_important = victims.iter().filter(|pod| priority(pod) == highest);
    let earliest = most_important.filter_map(started).min();
    (*violations, highest, sum, victims.len(), Reverse(earliest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::cluster::testing::{asking, cluster, labelled, node, placed};
    use crate::scheduler::filter::check;
    use serde_json::{Value, json};

    fn on(name: &str, node: &str, priority: i32, cpu: &str) -> Arc<Pod> {
        let mut spec = asking(cpu, "1Mi");
        spec["nodeName"] = json!(node);
        spec["priority"] = json!(priority);
        labelled(name, json!({"app": name}), spec)
    }

    fn result(cluster: &Cluster, pod: &Arc<Pod>) -> Result<(String, Vec<String>), Hopeless> {
        let placed = placed(pod);
        let asked = Asked::new(&placed, cluster).unwrap();
        let refusals: Vec<Refusal> =
            cluster.nodes.iter().map(|node| check(&asked, cluster, node).unwrap_err()).collect();
        let found = preempt(&asked, cluster, &refusals)?;
        Ok((found.node, found.victims.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect()))
    }

    fn asks(cpu: &str, change: impl FnOnce(&mut Value)) -> Arc<Pod> {
        let mut spec = asking(cpu, "1Mi");
        spec["priority"] = json!(10);
        change(&mut spec);
        labelled("p", json!({}), spec)
    }

    #[test]
    fn the_least_important_go_and_no_more_than_needed() {
        let one = [node("n", |_| {})];
        let two = [node("n", |_| {}), node("m", |_| {})];
        for (nodes, there, cpu, expected) in [
            (&one[..], vec![on("a", "n", 1, "2")], "1", ("n", vec!["a"])),
            (&one, vec![on("a", "n", 1, "1"), on("b", "n", 2, "1")], "1", ("n", vec!["a"])),
            (&one, vec![on("a", "n", 1, "1"), on("b", "n", 2, "1")], "2", ("n", vec!["b", "a"])),
            (&one, vec![on("a", "n", 1, "500m"), on("b", "n", 20, "1500m")], "500m", ("n", vec!["a"])),
            (&two, vec![on("a", "n", 5, "2"), on("b", "m", 1, "2")], "1", ("m", vec!["b"])),
            (
                &two,
                vec![on("a", "n", 1, "1"), on("b", "n", 1, "1"), on("c", "m", 1, "2")],
                "2",
                ("m", vec!["c"]),
            ),
        ] {
            let cluster = cluster(nodes, &there);
            let (node, victims) = result(&cluster, &asks(cpu, |_| {})).unwrap();
            let victims: Vec<&str> = victims.iter().map(String::as_str).collect();
            assert_eq!((node.as_str(), victims), expected, "{there:?}");
        }
    }

    #[test]
    fn budgets_spare_their_pods_where_others_can_go() {
        let mut cluster = cluster(&[node("n", |_| {})], &[on("a", "n", 1, "1"), on("b", "n", 2, "1")]);
        let budget = json!({"metadata": {"name": "x", "namespace": "d"}, "status": {"disruptionsAllowed": 0,
            "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1},
            "spec": {"selector": {"matchLabels": {"app": "a"}}}});
        cluster.budgets.push(Arc::new(serde_json::from_value(budget).unwrap()));
        assert_eq!(result(&cluster, &asks("1", |_| {})).unwrap().1, ["b"]);
        assert_eq!(
            result(&cluster, &asks("2", |_| {})).unwrap().1,
            ["b", "a"],
            "a budget does not save the last"
        );
    }

    #[test]
    fn it_is_said_why_nobody_goes() {
        let never = |s: &mut Value| s["preemptionPolicy"] = json!("Never");
        let small = |s: &mut Value| s["priority"] = json!(0);
        let of_nodes = |why: &str| Hopeless::NoHelp(format!("0/1 nodes are available: 1 {why}."));
        for (pod, expected) in [
            (
                asks("1", never),
                Hopeless::NotEligible("not eligible due to preemptionPolicy=Never.".to_owned()),
            ),
            (asks("1", small), of_nodes("No preemption victims found for incoming pod")),
            (asks("3", |_| {}), of_nodes("Preemption is not helpful for scheduling")),
        ] {
            let cluster = cluster(&[node("n", |_| {})], &[on("a", "n", 1, "2")]);
            assert_eq!(result(&cluster, &pod).unwrap_err(), expected);
        }
        let mut going = Pod::clone(&on("a", "n", 1, "2"));
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        going.status =
            serde_json::from_value(json!({"conditions": [{"type": "DisruptionTarget", "status": "True",
            "reason": "PreemptionByScheduler"}]}))
            .unwrap();
        let mut waits = Pod::clone(&asks("1", |_| {}));
        waits.status = serde_json::from_value(json!({"nominatedNodeName": "n"})).unwrap();
        let cluster = cluster(&[node("n", |_| {})], &[Arc::new(going)]);
        let why = "not eligible due to a terminating pod on the nominated node.";
        assert_eq!(result(&cluster, &Arc::new(waits)).unwrap_err(), Hopeless::NotEligible(why.to_owned()));
    }
}
