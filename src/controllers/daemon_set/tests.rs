//! Placement and plans by table.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::placement::{Place, is_current, place, target};
use super::plan::Plan;
use super::*;

fn set(spec: Value) -> DaemonSet {
    let mut set = json!({
        "metadata": {"name": "logs", "namespace": "d", "uid": "u", "generation": 3,
                     "annotations": {"deprecated.daemonset.template.generation": "2"}},
        "spec": {"selector": {"matchLabels": {"app": "logs"}},
                 "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
                 "template": {"metadata": {"labels": {"app": "logs"}}, "spec": {"containers": []}}},
    });
    json_patch::merge(&mut set["spec"], &spec);
    serde_json::from_value(set).unwrap()
}

fn node(name: &str, more: Value) -> Arc<Node> {
    let mut node = json!({"metadata": {"name": name, "labels": {"disk": "ssd"}}, "spec": {}});
    json_patch::merge(&mut node, &more);
    Arc::new(serde_json::from_value(node).unwrap())
}

/// A pod of this revision on a node: `ready`, `new`, `failed`, `leaving`.
fn pod(name: &str, node: &str, hash: &str, how: &str) -> Arc<Pod> {
    let ready = if how == "ready" { "True" } else { "False" };
    let at = if how == "leaving" { json!("2026-01-01T00:00:00Z") } else { Value::Null };
    let phase = if how == "failed" { "Failed" } else { "Running" };
    let value = json!({
        "metadata": {"name": name, "uid": name, "namespace": "d", "deletionTimestamp": at,
                     "labels": {"app": "logs", "controller-revision-hash": hash}},
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": phase, "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
    });
    Arc::new(serde_json::from_value(value).unwrap())
}

#[test]
fn nodes_are_meant_by_selector_affinity_and_taints() {
    let taint = |key: &str, effect: &str| json!({"spec": {"taints": [{"key": key, "effect": effect}]}});
    let with = |spec: Value| json!({"template": {"spec": spec}});
    let affinity = |operator: &str| {
        with(json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": operator}]}]}}}}))
    };
    for (spec, more, expected) in [
        (json!({}), json!({}), Place::Wanted),
        (with(json!({"nodeSelector": {"disk": "ssd"}})), json!({}), Place::Wanted),
        (with(json!({"nodeSelector": {"disk": "hdd"}})), json!({}), Place::Unwanted),
        (with(json!({"nodeName": "n"})), json!({}), Place::Wanted),
        (with(json!({"nodeName": "other"})), json!({}), Place::Unwanted),
        (affinity("Exists"), json!({}), Place::Unwanted),
        (affinity("DoesNotExist"), json!({}), Place::Wanted),
        (json!({}), taint("mine", "NoSchedule"), Place::Tolerated),
        (json!({}), taint("mine", "NoExecute"), Place::Unwanted),
        (json!({}), taint("mine", "PreferNoSchedule"), Place::Wanted),
        (json!({}), taint("node.kubernetes.io/not-ready", "NoExecute"), Place::Wanted),
        (json!({}), taint("node.kubernetes.io/unschedulable", "NoSchedule"), Place::Wanted),
        (json!({}), taint("node.kubernetes.io/network-unavailable", "NoSchedule"), Place::Tolerated),
        (
            with(json!({"hostNetwork": true})),
            taint("node.kubernetes.io/network-unavailable", "NoSchedule"),
            Place::Wanted,
        ),
        (
            with(json!({"tolerations": [{"key": "mine", "operator": "Exists"}]})),
            taint("mine", "NoSchedule"),
            Place::Wanted,
        ),
    ] {
        let template = set(spec.clone()).spec.template;
        assert_eq!(place(&template, &node("n", more.clone())), expected, "{spec} {more}");
    }
}

#[test]
fn a_pod_is_tied_to_its_node() {
    let tolerations = json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
                              "tolerationSeconds": 5}]);
    let set = set(json!({"template": {"spec": {"tolerations": tolerations}}}));
    let template = template_for(&set, "h", "n");
    let owner = Owner::new(&set, Default::default());
    let pod = pods::from_template(&owner, &template);
    let value = serde_json::to_value(&pod).unwrap();
    assert_eq!(
        value["metadata"]["labels"],
        json!({"app": "logs", "controller-revision-hash": "h", "pod-template-generation": "2"})
    );
    assert_eq!(
        value["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"],
        json!({"nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": ["n"]}]}]})
    );
    let keys: Vec<_> = value["spec"]["tolerations"].as_array().unwrap().iter().map(|t| &t["key"]).collect();
    assert_eq!(keys.len(), 6, "{keys:?}");
    assert!(value["spec"]["tolerations"][0].get("tolerationSeconds").is_none());
    assert_eq!(target(&pod), Some("n"));
    assert!(is_current(&pod, "h", None) && is_current(&pod, "x", Some(2)) && !is_current(&pod, "x", Some(3)));
}

fn planned(set: &DaemonSet, nodes: &[&str], pods: &[Arc<Pod>]) -> (Vec<String>, Vec<String>) {
    let nodes: Vec<_> = nodes.iter().map(|name| node(name, json!({}))).collect();
    let Plan { create, delete, .. } = Daemons::new(set, "new", &nodes, pods, Timestamp::now()).plan();
    (create, delete.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect())
}

#[test]
fn every_node_gets_one_pod_of_the_present_template() {
    let rolling = |surge: Value, unavailable: Value| {
        set(json!({"updateStrategy": {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}))
    };
    let plain = set(json!({}));
    let on_delete = set(json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}));
    let two = rolling(json!(0), json!("50%"));
    let surge = rolling(json!(1), json!(0));
    for (set, nodes, pods, create, delete) in [
        (&plain, &["a", "b"][..], vec![], &["a", "b"][..], &[][..]),
        (&plain, &["a"], vec![pod("1", "a", "new", "ready")], &[], &[]),
        // What is on its way out holds its place.
        (&plain, &["a"], vec![pod("1", "a", "new", "leaving")], &[], &[]),
        (&plain, &["a"], vec![pod("1", "a", "new", "failed")], &[], &["1"]),
        (&plain, &["a"], vec![pod("1", "a", "new", "ready"), pod("2", "a", "new", "ready")], &[], &["2"]),
        // One at a time.
        (
            &plain,
            &["a", "b"],
            vec![pod("1", "a", "old", "ready"), pod("2", "b", "old", "ready")],
            &[],
            &["1"],
        ),
        (&plain, &["a", "b"], vec![pod("1", "a", "new", "new"), pod("2", "b", "old", "ready")], &[], &[]),
        (
            &plain,
            &["a", "b"],
            vec![pod("1", "a", "new", "ready"), pod("2", "b", "old", "ready")],
            &[],
            &["2"],
        ),
        (&plain, &["a", "b"], vec![pod("1", "a", "old", "leaving"), pod("2", "b", "old", "ready")], &[], &[]),
        // What is not available may go at once.
        (&plain, &["a", "b"], vec![pod("1", "a", "new", "new"), pod("2", "b", "old", "new")], &[], &["2"]),
        (
            &two,
            &["a", "b", "c", "d"],
            vec![
                pod("1", "a", "old", "ready"),
                pod("2", "b", "old", "ready"),
                pod("3", "c", "old", "ready"),
                pod("4", "d", "new", "ready"),
            ],
            &[],
            &["1", "2"],
        ),
        (&on_delete, &["a"], vec![pod("1", "a", "old", "ready")], &[], &[]),
        // With room for more, the new one comes first.
        (
            &surge,
            &["a", "b"],
            vec![pod("1", "a", "old", "ready"), pod("2", "b", "old", "ready")],
            &["a"],
            &[],
        ),
        (
            &surge,
            &["a", "b"],
            vec![pod("1", "a", "old", "ready"), pod("3", "a", "new", "new"), pod("2", "b", "old", "ready")],
            &[],
            &[],
        ),
        (
            &surge,
            &["a", "b"],
            vec![pod("1", "a", "old", "ready"), pod("3", "a", "new", "ready"), pod("2", "b", "old", "ready")],
            &[],
            &["1"],
        ),
        (&surge, &["a"], vec![pod("1", "a", "old", "new")], &["a"], &[]),
    ] {
        let names: Vec<_> = pods.iter().map(|pod| pod.metadata.name.clone()).collect();
        let (made, gone) = planned(set, nodes, &pods);
        assert_eq!(
            (made, gone.iter().map(String::as_str).collect::<Vec<_>>()),
            (create.iter().map(|name| (*name).to_owned()).collect(), delete.to_vec()),
            "{nodes:?} {names:?}"
        );
    }
}

#[test]
fn pods_for_nodes_that_are_gone_go() {
    let waiting = pods::from_template(
        &Owner::new(&set(json!({})), Default::default()),
        &template_for(&set(json!({})), "new", "gone"),
    );
    let mut waiting = waiting;
    waiting.metadata.name = Some("w".into());
    let (made, gone) = planned(&set(json!({})), &[], &[Arc::new(waiting), pod("1", "gone", "new", "ready")]);
    assert_eq!((made.len(), gone), (0, vec!["w".to_owned()]));
}

#[test]
fn the_status_counts_nodes() {
    let nodes = [
        node("a", json!({})),
        node("b", json!({})),
        node("c", json!({})),
        node("d", json!({"spec": {"taints": [{"key": "x", "effect": "NoSchedule"}]}})),
    ];
    let pods = [pod("1", "a", "new", "ready"), pod("2", "b", "old", "new"), pod("3", "d", "old", "ready")];
    let set = set(json!({}));
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let daemons = Daemons::new(&set, "new", &nodes, &pods, now);
    let (status, next) = daemons.status(&Default::default(), 0);
    assert_eq!(
        serde_json::to_value(status).unwrap(),
        json!({"observedGeneration": 3, "desiredNumberScheduled": 3, "currentNumberScheduled": 2,
               "numberMisscheduled": 1, "numberReady": 1, "numberAvailable": 1, "numberUnavailable": 2,
               "updatedNumberScheduled": 1})
    );
    assert_eq!(next, None);
}
