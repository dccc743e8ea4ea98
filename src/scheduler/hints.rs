//! What may help a pod that was refused: events by who refused it (Kubernetes' queueing hints; pure).

use k8s_openapi::api::core::v1::{Node, Pod};

use super::cluster::{is_over, node_of};
use super::filter::Plugin;
use crate::api::resources::held;

/// Something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A pod has come to a node, or has other labels.
    PodCame,
    /// A pod has left a node, or takes another part of it.
    PodLeft,
    /// A node is there, or offers something else.
    Node,
    /// A claim of this key is there, or has changed.
    Claim(&'a str),
    /// A volume or a class of volumes is there, or has changed.
    Volume,
    /// A namespace is there, or has other labels.
    Namespace,
}

/// Whether an event may make a plugin think otherwise about a pod with these claims.
pub fn helps(event: Event<'_>, plugin: Plugin, claims: &[String]) -> bool {
    match (event, plugin) {
        (Event::PodLeft, Plugin::Node | Plugin::Volumes) => false,
        (Event::PodLeft, _) => true,
        (Event::PodCame, Plugin::Spread | Plugin::Affinity) => true,
        (Event::PodCame, _) => false,
        (Event::Node, _) => true,
        (Event::Claim(key), Plugin::Volumes | Plugin::Restrictions) => {
            claims.iter().any(|claim| claim == key)
        }
        (Event::Volume, Plugin::Volumes) => true,
        (Event::Claim(_) | Event::Volume, _) => false,
        (Event::Namespace, plugin) => plugin == Plugin::Affinity,
    }
}

/// What the change of a pod means for others: it comes, it leaves, or nothing.
pub fn pod_changed(before: Option<&Pod>, after: Option<&Pod>) -> Option<Event<'static>> {
    let there = |pod: &&Pod| !node_of(pod).is_empty() && !is_over(pod);
    let (before, after) = (before.filter(there), after.filter(there));
    match (before, after) {
        (None, Some(_)) => Some(Event::PodCame),
        (Some(_), None) => Some(Event::PodLeft),
        (Some(before), Some(after)) => {
            if before.metadata.uid != after.metadata.uid || held(before) != held(after) {
                return Some(Event::PodLeft);
            }
            (before.metadata.labels != after.metadata.labels).then_some(Event::PodCame)
        }
        (None, None) => None,
    }
}

/// Whether a waiting pod itself has changed so that it may fit.
pub fn is_other(before: &Pod, after: &Pod) -> bool {
    before.spec != after.spec || before.metadata.labels != after.metadata.labels
}

/// Whether a node has changed in what it offers to pods.
pub fn node_changed(before: Option<&Node>, after: &Node) -> bool {
    let Some(before) = before else { return true };
    let offers = |node: &Node| {
        let status = node.status.clone().unwrap_or_default();
        let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready").map(|c| c.status.clone());
        (status.allocatable, ready)
    };
    before.metadata.labels != after.metadata.labels
        || before.spec != after.spec
        || offers(before) != offers(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::cluster::testing::{asking, labelled, node, pod};
    use serde_json::json;

    #[test]
    fn events_help_those_whom_they_concern() {
        let claims = vec!["d/data".to_owned()];
        for (event, plugin, expected) in [
            (Event::PodLeft, Plugin::Resources, true),
            (Event::PodLeft, Plugin::Ports, true),
            (Event::PodLeft, Plugin::Node, false),
            (Event::PodCame, Plugin::Resources, false),
            (Event::PodCame, Plugin::Affinity, true),
            (Event::Node, Plugin::Resources, true),
            (Event::Claim("d/data"), Plugin::Volumes, true),
            (Event::Claim("d/other"), Plugin::Volumes, false),
            (Event::Volume, Plugin::Resources, false),
            (Event::Namespace, Plugin::Affinity, true),
        ] {
            assert_eq!(helps(event, plugin, &claims), expected, "{event:?} {plugin:?}");
        }
    }

    #[test]
    fn pods_come_and_leave() {
        let (waits, runs) = (pod("p", json!({})), pod("p", json!({"nodeName": "n"})));
        let mut over = Pod::clone(&runs);
        over.status = serde_json::from_value(json!({"phase": "Succeeded"})).unwrap();
        let other = labelled("p", json!({"app": "x"}), json!({"nodeName": "n"}));
        let mut smaller = asking("1m", "1Mi");
        smaller["nodeName"] = json!("n");
        let smaller = pod("p", smaller);
        for (before, after, expected) in [
            (None, Some(&*waits), None),
            (Some(&*waits), Some(&*runs), Some(Event::PodCame)),
            (Some(&*runs), Some(&*runs), None),
            (Some(&*runs), Some(&over), Some(Event::PodLeft)),
            (Some(&*runs), None, Some(Event::PodLeft)),
            (Some(&over), None, None),
            (Some(&*runs), Some(&*other), Some(Event::PodCame)),
            (Some(&*runs), Some(&*smaller), Some(Event::PodLeft)),
        ] {
            assert_eq!(pod_changed(before, after), expected);
        }
        assert!(is_other(&waits, &pod("p", json!({"tolerations": []}))) && !is_other(&waits, &waits));
    }

    #[test]
    fn heartbeats_of_nodes_help_nobody() {
        let before = node("n", |_| {});
        let beat =
            node("n", |n| n["status"]["conditions"][0]["lastHeartbeatTime"] = json!("2026-01-01T00:00:00Z"));
        let grown = node("n", |n| n["status"]["allocatable"]["cpu"] = json!("9"));
        let cordoned = node("n", |n| n["spec"]["unschedulable"] = json!(true));
        assert!(!node_changed(Some(&before), &beat));
        assert!(node_changed(Some(&before), &grown) && node_changed(Some(&before), &cordoned));
        assert!(node_changed(None, &before));
    }
}
