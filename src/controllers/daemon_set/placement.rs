//! On which nodes a daemon set's pods belong, and what a pod for a node looks like. Pure.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PodTemplateSpec, Taint,
    Toleration,
};

use super::super::owned::revisions::REVISION;
use super::super::owned::state;
use crate::api::{node_selector, taints};

/// The label of pods that bears the number of their template.
const TEMPLATE: &str = "pod-template-generation";
/// The annotation of daemon sets that bears it.
const TEMPLATE_OF_SET: &str = "deprecated.daemonset.template.generation";
/// The field by which a pod is tied to a node.
const NODE_NAME: &str = "metadata.name";

/// What a node is to a daemon set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A pod of it belongs there.
    Wanted,
    /// A pod of it may stay there.
    Tolerated,
    /// No pod of it belongs there.
    Unwanted,
}

/// What a node is to a daemon set with this template.
pub fn place(template: &PodTemplateSpec, node: &Node) -> Place {
    let spec = template.spec.clone().unwrap_or_default();
    let name = node.metadata.name.as_deref().unwrap_or("");
    let named = spec.node_name.as_deref().unwrap_or("");
    if !(named.is_empty() || named == name) || !is_meant(&spec, node) {
        return Place::Unwanted;
    }
    let tolerations = tolerations(&spec);
    let untolerated = |effects: &[&str]| {
        let given = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        let mut hard = given.filter(|taint: &&Taint| effects.contains(&taint.effect.as_str()));
        hard.any(|taint| !taints::tolerates(&tolerations, taint))
    };
    if untolerated(&["NoExecute"]) {
        Place::Unwanted
    } else if untolerated(&["NoSchedule"]) {
        Place::Tolerated
    } else {
        Place::Wanted
    }
}

/// Whether a pod's selector and affinity mean a node.
fn is_meant(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let name = node.metadata.name.as_deref().unwrap_or("");
    node_selector::is_meant(spec, name, &labels)
}

/// What a template tolerates, and what every daemon does: it is to run on nodes that are unwell.
fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let mut always = vec![
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    ];
    if spec.host_network == Some(true) {
        always.push(("network-unavailable", "NoSchedule"));
    }
    for (key, effect) in always {
        let toleration = Toleration {
            key: Some(format!("node.kubernetes.io/{key}")),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        // One that says the same for a while only, says it for ever.
        let same = |other: &Toleration| {
            (&other.key, &other.operator, &other.effect)
                == (&toleration.key, &toleration.operator, &toleration.effect)
                && other.value.as_deref().unwrap_or("").is_empty()
        };
        match all.iter_mut().find(|other| same(other)) {
            Some(other) => *other = toleration,
            None => all.push(toleration),
        }
    }
    all
}

/// The number of a daemon set's template.
pub fn generation(set: &DaemonSet) -> Option<i64> {
    set.metadata.annotations.as_ref()?.get(TEMPLATE_OF_SET)?.parse().ok()
}

/// Whether a pod is made from the present template.
pub fn is_current(pod: &Pod, hash: &str, generation: Option<i64>) -> bool {
    let label = |key: &str| pod.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    label(REVISION).is_some_and(|label| label == hash)
        || generation.is_some_and(|number| label(TEMPLATE).is_some_and(|label| *label == number.to_string()))
}

/// The template of the pod for a node.
pub fn template_for(set: &DaemonSet, hash: &str, node: &str) -> PodTemplateSpec {
    let mut template = set.spec.template.clone();
    let spec = template.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    let tie = NodeSelectorTerm {
        match_fields: Some(vec![NodeSelectorRequirement {
            key: NODE_NAME.to_owned(),
            operator: "In".to_owned(),
            values: Some(vec![node.to_owned()]),
        }]),
        match_expressions: None,
    };
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    // The node was chosen by what stood here.
    affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![tie] });
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.extend(generation(set).map(|number| (TEMPLATE.to_owned(), number.to_string())));
    labels.insert(REVISION.to_owned(), hash.to_owned());
    template
}

/// The node that a pod is on, or is tied to.
pub fn target(pod: &Pod) -> Option<&str> {
    state::node(pod).or_else(|| {
        let terms = &node_selector::required(pod.spec.as_ref()?)?.node_selector_terms;
        let fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
        let mut ties = fields.filter(|field| field.key == NODE_NAME && field.operator == "In");
        match ties.next()?.values.as_deref()? {
            [node] => Some(node.as_str()),
            _ => None,
        }
    })
}
