//! Nodes that fall silent, are tainted or go away: which pods leave, and when.

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::scenarios::scenarios;

fn pod(name: &str, more: &Value) -> String {
    let mut spec = json!({"nodeName": "n2", "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": name}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string()
}

/// A cluster of two nodes with a pod on the second, which has run for a while.
async fn cluster(more: &Value) -> Cluster {
    let mut cluster = Cluster::start().await;
    cluster.add_node("n2").await;
    cluster.apply(&pod("web", more)).await;
    cluster.shows("pods/web", json!({"status": {"phase": "Running"}})).await;
    cluster.pass(60).await;
    cluster
}

fn bears(key: &str, seconds: Option<u64>) -> Value {
    json!({"tolerations": [{"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]})
}

/// A pod of a node of which nothing is heard any more: after how many seconds from then it is to leave, if ever.
struct Silence {
    more: Value,
    leaves: Option<u64>,
}

async fn leaves_the_silent(case: Silence) {
    let Silence { more, leaves } = case;
    let mut cluster = cluster(&more).await;
    cluster.silence("n2");
    cluster.shows(":nodes/n2", json!({"status": {"conditions": {"Ready": "Unknown"}}})).await;
    let begun = Instant::now();
    let goes = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_string();
    if let Some(seconds) = leaves {
        cluster.until("pods/web", goes).await;
        let took = begun.elapsed().as_secs();
        assert!((seconds..seconds + 10).contains(&took), "{took}");
    } else {
        cluster.pass(3600).await;
        assert!(!goes(&cluster.get("pods/web").await.unwrap()));
    }
}

scenarios! { leaves_the_silent;
    five_minutes_where_nothing_is_said: Silence { more: json!({}), leaves: Some(300) },
    as_long_as_it_bears_it: Silence { more: bears("node.kubernetes.io/unreachable", Some(20)), leaves: Some(20) },
    at_once_where_it_bears_nothing: Silence { more: bears("node.kubernetes.io/unreachable", Some(0)), leaves: Some(0) },
    a_long_time_where_it_bears_much: Silence { more: bears("node.kubernetes.io/unreachable", Some(1800)), leaves: Some(1800) },
    never_where_it_bears_it_for_good: Silence { more: bears("node.kubernetes.io/unreachable", None), leaves: None },
    never_where_it_bears_all: Silence { more: json!({"tolerations": [{"operator": "Exists"}]}), leaves: None },
    what_it_bears_of_other_taints_does_not_count: Silence { more: bears("example.com/other", None), leaves: Some(300) },
}

/// A taint that somebody puts on the node: after how many seconds its pod is gone, if ever.
struct Tainted {
    taint: Value,
    more: Value,
    gone: Option<u64>,
}

async fn leaves_the_tainted(case: Tainted) {
    let Tainted { taint, more, gone } = case;
    let cluster = cluster(&more).await;
    let begun = Instant::now();
    cluster.patch(":nodes/n2", json!({"spec": {"taints": [taint]}})).await;
    if let Some(seconds) = gone {
        cluster.until_gone("pods/web").await;
        let took = begun.elapsed().as_secs();
        assert!((seconds..seconds + 5).contains(&took), "{took}");
    } else {
        cluster.pass(3600).await;
        cluster.is("pods/web", json!({"metadata": {"deletionTimestamp": null}})).await;
    }
}

fn taint(effect: &str) -> Value {
    json!({"key": "example.com/away", "value": "now", "effect": effect})
}

scenarios! { leaves_the_tainted;
    a_taint_that_executes: Tainted { taint: taint("NoExecute"), more: json!({}), gone: Some(0) },
    a_taint_for_who_is_to_come: Tainted { taint: taint("NoSchedule"), more: json!({}), gone: None },
    a_taint_that_is_a_wish: Tainted { taint: taint("PreferNoSchedule"), more: json!({}), gone: None },
    a_taint_that_is_borne: Tainted { taint: taint("NoExecute"), more: bears("example.com/away", None), gone: None },
    a_taint_that_is_borne_for_a_while:
        Tainted { taint: taint("NoExecute"), more: bears("example.com/away", Some(90)), gone: Some(90) },
    the_shorter_time_counts: Tainted {
        taint: taint("NoExecute"),
        more: json!({"tolerations": [
            {"key": "example.com/away", "operator": "Exists", "tolerationSeconds": 200, "effect": "NoExecute"},
            {"key": "example.com/away", "value": "now", "tolerationSeconds": 50, "effect": "NoExecute"}]}),
        gone: Some(50),
    },
    another_value_is_not_borne: Tainted {
        taint: taint("NoExecute"),
        more: json!({"tolerations": [{"key": "example.com/away", "value": "later", "effect": "NoExecute"}]}),
        gone: Some(0),
    },
    no_effect_is_all_effects: Tainted {
        taint: taint("NoExecute"),
        more: json!({"tolerations": [{"key": "example.com/away", "operator": "Exists"}]}),
        gone: None,
    },
}

#[tokio::test]
async fn a_taint_that_goes_in_time_sends_nobody_away() {
    let cluster = cluster(&bears("example.com/away", Some(90))).await;
    for _ in 0..3 {
        cluster.patch(":nodes/n2", json!({"spec": {"taints": [taint("NoExecute")]}})).await;
        cluster.pass(60).await;
        cluster.patch(":nodes/n2", json!({"spec": {"taints": null}})).await;
        cluster.pass(60).await;
    }
    cluster.is("pods/web", json!({"metadata": {"deletionTimestamp": null}})).await;
}

#[tokio::test]
async fn pods_go_with_their_node() {
    let mut cluster = cluster(&json!({})).await;
    cluster.silence("n2");
    cluster.delete(":nodes/n2").await;
    cluster.until_gone("pods/web").await;
    let leases = cluster.list("kube-node-lease:leases").await;
    assert_eq!(crate::shows::names(&leases), ["minik"]);
}

#[tokio::test]
async fn a_node_that_comes_back_in_time_keeps_its_pods_and_another_does_not() {
    for (silent, stays) in [(200, true), (400, false)] {
        let mut cluster = Cluster::start().await;
        let runtime = cluster.add_node("n2").await;
        cluster.apply(&pod("web", &json!({}))).await;
        cluster.shows("pods/web", json!({"status": {"phase": "Running"}})).await;
        cluster.pass(60).await;
        cluster.silence("n2");
        cluster.pass(silent).await;
        cluster.wake("n2", runtime).await;
        cluster.shows(":nodes/n2", json!({"status": {"conditions": {"Ready": "True"}}})).await;
        cluster.pass(30).await;
        assert_eq!(cluster.get("pods/web").await.is_some(), stays, "{silent}");
    }
}

#[tokio::test]
async fn daemons_stay_on_a_silent_node_and_stateful_pods_are_not_replaced() {
    let mut cluster = Cluster::start().await;
    cluster.add_node("n2").await;
    cluster.patch(":nodes/minik", json!({"spec": {"unschedulable": true}})).await;
    let template = |app: &str| {
        json!({"metadata": {"labels": {"app": app}}, "spec": {"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": app}]}})
    };
    for (kind, app) in [("DaemonSet", "logs"), ("StatefulSet", "db")] {
        let mut spec = json!({"selector": {"matchLabels": {"app": app}}, "template": template(app)});
        if kind == "StatefulSet" {
            spec["serviceName"] = json!(app);
        }
        let object = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": app}, "spec": spec});
        cluster.apply(&object.to_string()).await;
    }
    cluster.shows("daemonsets/logs", json!({"status": {"numberReady": 2}})).await;
    cluster.shows("statefulsets/db", json!({"status": {"readyReplicas": 1}})).await;
    cluster.patch(":nodes/minik", json!({"spec": {"unschedulable": null}})).await;
    cluster.silence("n2");
    cluster.pass(900).await;
    // Its taint would keep a new daemon away, and lets this one stay.
    cluster
        .is("daemonsets/logs", json!({"status": {"desiredNumberScheduled": 1, "numberMisscheduled": 1}}))
        .await;
    let pods = cluster.list("pods").await;
    let stays = |pod: &&Value| {
        pod["metadata"]["labels"]["app"] == "logs" && pod["metadata"]["deletionTimestamp"].is_null()
    };
    assert_eq!(pods.iter().filter(stays).count(), 2);
    // Nobody knows whether it still runs, so there is no second one.
    let db = cluster.get("pods/db-0").await.unwrap();
    assert!(db["metadata"]["deletionTimestamp"].is_string() && db["spec"]["nodeName"] == "n2", "{db:#}");
    cluster.is("statefulsets/db", json!({"status": {"replicas": 1}})).await;
    let taint =
        json!([{"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}]);
    cluster.patch(":nodes/n2", json!({"spec": {"taints": taint}})).await;
    cluster.until("pods/db-0", |pod| pod["spec"]["nodeName"] == "minik").await;
    cluster.shows("statefulsets/db", json!({"status": {"readyReplicas": 1}})).await;
}

#[tokio::test]
async fn a_lease_says_whose_it_is() {
    let cluster = Cluster::start().await;
    let node = cluster.get(":nodes/minik").await.unwrap();
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "minik", "uid": node["metadata"]["uid"]});
    let owned = json!({"metadata": {"ownerReferences": [owner]}});
    cluster.shows("kube-node-lease:leases/minik", owned.clone()).await;
    // As those that were made by who did not say so.
    cluster.patch("kube-node-lease:leases/minik", json!({"metadata": {"ownerReferences": null}})).await;
    cluster.pass(15).await;
    cluster.is("kube-node-lease:leases/minik", owned).await;
}
