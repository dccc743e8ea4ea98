//! Pods that want others near, or not near: the wishes of the pod to be placed, and of those that are.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, WeightedPodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Selector;
use serde_json::{Value, json};

use super::{Plugin, Refusal, never, refuse};
use crate::api::selector::LabelSelector;
use crate::scheduler::cluster::{Cluster, Labels, NodeInfo, labels, namespace, spec};

/// Which pods are meant, and what is near.
#[derive(Debug)]
pub struct Term {
    namespaces: BTreeSet<String>,
    more_namespaces: Option<LabelSelector>,
    selector: LabelSelector,
    /// Nodes with one value of this label are near each other.
    pub topology: String,
}

/// What a pod wants and does not want near.
#[derive(Debug, Default)]
pub struct Wishes {
    /// Must be near.
    pub near: Vec<Term>,
    /// Must not be near.
    pub apart: Vec<Term>,
}

/// A selector in the form that compares; what cannot be understood selects nothing.
pub fn selector(selector: Option<&Selector>) -> LabelSelector {
    let value = selector.and_then(|selector| serde_json::to_value(selector).ok()).unwrap_or(Value::Null);
    let nothing = || LabelSelector::from_map(&Value::Null);
    LabelSelector::from_object(&value).unwrap_or_else(|_| nothing())
}

/// A selector that also demands the values that these labels of a pod have, or with `differ` other values. What it
/// demands of a label already, as that was when the pod was made, stays.
pub fn narrowed(
    given: Option<&Selector>,
    own: &Labels,
    same: &[String],
    differ: &[String],
) -> Option<Selector> {
    let expressions = |keys: &[String], operator: &str| -> Vec<Value> {
        let known = |key: &&String| {
            let mut expressions = given.iter().flat_map(|given| given.match_expressions.iter().flatten());
            expressions.any(|expression| expression.key == **key)
        };
        let values = keys.iter().filter(|key| !known(key)).filter_map(|key| Some((key, own.get(key)?)));
        values.map(|(key, value)| json!({"key": key, "operator": operator, "values": [value]})).collect()
    };
    let mut all = given?.clone();
    let more = [expressions(same, "In"), expressions(differ, "NotIn")].concat();
    let more: Vec<_> = more.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect();
    all.match_expressions.get_or_insert_default().extend(more);
    Some(all)
}

impl Term {
    /// Of a pod.
    fn of(pod: &Pod, term: &PodAffinityTerm) -> Term {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(namespace(pod).to_owned());
        }
        let keys = |keys: &Option<Vec<String>>| keys.clone().unwrap_or_default();
        let narrowed = narrowed(
            term.label_selector.as_ref(),
            labels(&pod.metadata.labels),
            &keys(&term.match_label_keys),
            &keys(&term.mismatch_label_keys),
        );
        Term {
            namespaces,
            more_namespaces: term.namespace_selector.as_ref().map(|given| selector(Some(given))),
            selector: selector(narrowed.as_ref()),
            topology: term.topology_key.clone(),
        }
    }

    /// Whether a pod is meant.
    pub fn matches(&self, pod: &Pod, cluster: &Cluster) -> bool {
        let space = namespace(pod);
        let among = || {
            let labels = cluster.namespaces.get(space);
            self.more_namespaces.as_ref().zip(labels).is_some_and(|(more, labels)| more.matches_map(labels))
        };
        (self.namespaces.contains(space) || among())
            && self.selector.matches_map(labels(&pod.metadata.labels))
    }
}

/// Terms with their weights.
pub type Weighted = Vec<(i64, Term)>;

/// The terms of a pod that weigh, with their weights: those it likes, and those it dislikes.
pub fn preferred(pod: &Pod) -> (Weighted, Weighted) {
    let read = |terms: Option<&Vec<WeightedPodAffinityTerm>>| {
        let terms = terms.into_iter().flatten();
        terms.map(|term| (i64::from(term.weight), Term::of(pod, &term.pod_affinity_term))).collect()
    };
    let affinity = spec(pod).affinity.as_ref();
    let near = affinity.and_then(|a| a.pod_affinity.as_ref());
    let apart = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
    (
        read(near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())),
        read(apart.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())),
    )
}

/// The terms by which a pod must not be near others.
fn apart(pod: &Pod) -> Vec<Term> {
    let affinity = spec(pod).affinity.as_ref().and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    let terms = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    terms.into_iter().flatten().map(|term| Term::of(pod, term)).collect()
}

impl Wishes {
    /// Of a pod.
    pub fn of(pod: &Pod) -> Wishes {
        let affinity = spec(pod).affinity.as_ref().and_then(|affinity| affinity.pod_affinity.as_ref());
        let terms = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        Wishes {
            near: terms.into_iter().flatten().map(|term| Term::of(pod, term)).collect(),
            apart: apart(pod),
        }
    }
}

/// Whether two nodes are near each other by a label.
pub fn are_near(a: &NodeInfo, b: &NodeInfo, topology: &str) -> bool {
    a.labels().get(topology).is_some_and(|value| b.labels().get(topology) == Some(value))
}

/// Whether a node satisfies what the pod wants, and what the pods that are there want.
pub fn check(pod: &Pod, wishes: &Wishes, cluster: &Cluster, at: &NodeInfo) -> Result<(), Refusal> {
    if !has_company(pod, &wishes.near, cluster, at) {
        return never(Plugin::Affinity, "node(s) didn't match pod affinity rules");
    }
    let others =
        || cluster.nodes.iter().flat_map(|node| node.pods.iter().map(move |other| (node, &other.pod)));
    let disliked = wishes.apart.iter().any(|term| {
        others().any(|(node, other)| are_near(node, at, &term.topology) && term.matches(other, cluster))
    });
    if disliked {
        return refuse(Plugin::Affinity, "node(s) didn't match pod anti-affinity rules");
    }
    let dislikes = others().any(|(node, other)| {
        spec(other).affinity.is_some()
            && apart(other)
                .iter()
                .any(|term| are_near(node, at, &term.topology) && term.matches(pod, cluster))
    });
    if dislikes {
        return refuse(Plugin::Affinity, "node(s) didn't satisfy existing pods anti-affinity rules");
    }
    Ok(())
}

/// Whether near a node there is, for each term, a pod that all terms mean. The first of a group that wants only
/// itself near may begin anywhere.
fn has_company(pod: &Pod, near: &[Term], cluster: &Cluster, at: &NodeInfo) -> bool {
    if near.is_empty() {
        return true;
    }
    if near.iter().any(|term| !at.labels().contains_key(&term.topology)) {
        return false;
    }
    let meant = |other: &Pod| near.iter().all(|term| term.matches(other, cluster));
    let nodes: Vec<&NodeInfo> =
        cluster.nodes.iter().filter(|node| node.pods.iter().any(|other| meant(&other.pod))).collect();
    match nodes.is_empty() {
        true => meant(pod),
        false => near.iter().all(|term| nodes.iter().any(|node| are_near(node, at, &term.topology))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::cluster::testing::{cluster, labelled, node};

    fn term(label: &str, topology: &str) -> Value {
        json!({"labelSelector": {"matchLabels": {"app": label}}, "topologyKey": topology})
    }

    fn wants(kind: &str, term: Value) -> Value {
        json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
    }

    #[test]
    fn pods_want_and_do_not_want_each_other() {
        const HOST: &str = "kubernetes.io/hostname";
        let zone = |name: &'static str| move |n: &mut Value| n["metadata"]["labels"]["zone"] = json!(name);
        let nodes = [node("n", zone("a")), node("m", zone("a")), node("o", |_| {})];
        let on = |name: &str, app: &str, node: &str, mut spec: Value| {
            spec["nodeName"] = json!(node);
            labelled(name, json!({"app": app}), spec)
        };
        let plain = || json!({});
        let (near, apart) = ("podAffinity", "podAntiAffinity");
        let no_company = Some("node(s) didn't match pod affinity rules");
        let disliked = Some("node(s) didn't match pod anti-affinity rules");
        let dislikes = Some("node(s) didn't satisfy existing pods anti-affinity rules");
        let elsewhere = |mut term: Value| {
            term["namespaceSelector"] = json!({"matchLabels": {"team": "b"}});
            term
        };
        let own = |mut term: Value| {
            term["matchLabelKeys"] = json!(["app"]);
            term["labelSelector"] = json!({});
            term
        };
        for (there, spec, expected) in [
            (on("x", "db", "n", plain()), wants(near, term("db", HOST)), [None, no_company, no_company]),
            (on("x", "db", "n", plain()), wants(near, term("db", "zone")), [None, None, no_company]),
            (on("x", "db", "n", plain()), wants(near, term("web", HOST)), [None, None, None]),
            (on("x", "web", "n", plain()), wants(near, term("web", HOST)), [None, no_company, no_company]),
            (on("x", "db", "n", plain()), wants(near, elsewhere(term("db", HOST))), [no_company; 3]),
            (on("x", "db", "n", plain()), wants(apart, term("db", HOST)), [disliked, None, None]),
            (on("x", "db", "n", plain()), wants(apart, term("db", "zone")), [disliked, disliked, None]),
            (on("x", "db", "n", plain()), wants(apart, elsewhere(term("db", HOST))), [None; 3]),
            (on("x", "db", "n", plain()), wants(apart, own(term("", HOST))), [None; 3]),
            (on("x", "web", "n", plain()), wants(apart, own(term("", HOST))), [disliked, None, None]),
            (on("x", "db", "n", wants(apart, term("web", "zone"))), plain(), [dislikes, dislikes, None]),
            (on("x", "db", "n", wants(apart, term("db", "zone"))), plain(), [None; 3]),
        ] {
            let cluster = cluster(&nodes, &[there]);
            let pod = labelled("p", json!({"app": "web"}), spec.clone());
            let wishes = Wishes::of(&pod);
            for (at, expected) in cluster.nodes.iter().zip(expected) {
                let refusal = check(&pod, &wishes, &cluster, at).err();
                assert_eq!(
                    refusal.map(|r| r.reasons.concat()).as_deref(),
                    expected,
                    "{spec} on {}",
                    at.name()
                );
            }
        }
    }
}
