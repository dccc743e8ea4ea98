//! Daemon sets.

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::scenarios::scenarios;

const LOGS: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: logs}
spec:
  selector: {matchLabels: {app: logs}}
  template:
    metadata: {labels: {app: logs}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: 'logs:1'}]
";

fn image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": image}]}}}})
}

/// Whether `kubectl rollout status` would call it done.
fn done(set: &Value) -> bool {
    let status = &set["status"];
    let wanted = &status["desiredNumberScheduled"];
    status["observedGeneration"] == set["metadata"]["generation"]
        && *wanted != 0
        && status["updatedNumberScheduled"] == *wanted
        && status["numberAvailable"] == *wanted
}

fn nodes(pods: &[Value]) -> Vec<&str> {
    let mut nodes: Vec<_> = pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    nodes.sort_unstable();
    nodes
}

#[tokio::test]
async fn every_node_gets_a_pod() {
    let mut cluster = Cluster::start().await;
    cluster.apply(LOGS).await;
    let set = cluster.until("daemonsets/logs", done).await;
    assert_eq!(
        set["status"],
        json!({"currentNumberScheduled": 1, "desiredNumberScheduled": 1, "numberAvailable": 1,
               "numberMisscheduled": 0, "numberReady": 1, "observedGeneration": 1, "updatedNumberScheduled": 1})
    );
    cluster.add_node("second").await;
    let two = |set: &Value| done(set) && set["status"]["desiredNumberScheduled"] == 2;
    cluster.until("daemonsets/logs", two).await;
    let pods = cluster.list("pods").await;
    assert_eq!(nodes(&pods), ["minik", "second"]);
    // A pod that was deleted comes back on its node.
    let name = pods[0]["metadata"]["name"].as_str().unwrap();
    cluster.delete(&format!("pods/{name}")).await;
    cluster.until_gone(&format!("pods/{name}")).await;
    cluster.until("daemonsets/logs", two).await;
    // A node that is not meant loses its pod.
    let selector =
        json!({"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "second"}}}}});
    cluster.patch("daemonsets/logs", selector).await;
    cluster.until_all("pods", |pods| pods.len() == 1 && nodes(pods) == ["second"]).await;
    cluster.until("daemonsets/logs", |set| done(set) && set["status"]["desiredNumberScheduled"] == 1).await;
    cluster.delete("daemonsets/logs").await;
    cluster.until_all("pods", |pods| pods.is_empty()).await;
    cluster.until_all("controllerrevisions", |revisions| revisions.is_empty()).await;
}

#[tokio::test]
async fn a_change_goes_from_node_to_node() {
    let mut cluster = Cluster::start().await;
    cluster.add_node("second").await;
    cluster.apply(LOGS).await;
    cluster.until("daemonsets/logs", |set| done(set) && set["status"]["desiredNumberScheduled"] == 2).await;
    cluster.patch("daemonsets/logs", image("logs:2")).await;
    let ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        pod["metadata"]["deletionTimestamp"].is_null()
            && conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    cluster
        .until_all("pods", |pods| {
            assert!(pods.iter().filter(|pod| ready(pod)).count() >= 1);
            let new = |pod: &&Value| ready(pod) && pod["spec"]["containers"][0]["image"] == "logs:2";
            pods.iter().filter(new).count() == 2
        })
        .await;
    cluster.until("daemonsets/logs", done).await;
    let revisions = cluster.list("controllerrevisions").await;
    assert_eq!(revisions.len(), 2);
    let newest = revisions.iter().find(|revision| revision["revision"] == 2).unwrap();
    assert_eq!(newest["data"]["spec"]["template"]["$patch"], "replace");
    let hash = &newest["metadata"]["labels"]["controller-revision-hash"];
    for pod in cluster.list("pods").await {
        assert_eq!(pod["metadata"]["labels"]["controller-revision-hash"], *hash);
        assert_eq!(pod["metadata"]["labels"]["pod-template-generation"], "2");
    }
    // Back again: the first revision gets a new number.
    cluster.patch("daemonsets/logs", image("logs:1")).await;
    cluster.until("daemonsets/logs", done).await;
    let mut numbers: Vec<_> =
        cluster.list("controllerrevisions").await.iter().map(|r| r["revision"].as_i64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3]);
}

#[tokio::test]
async fn the_new_pod_comes_first_where_there_is_room() {
    let cluster = Cluster::start().await;
    cluster.apply(LOGS).await;
    let strategy =
        json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}});
    cluster.patch("daemonsets/logs", strategy).await;
    cluster.until("daemonsets/logs", done).await;
    cluster.hold_image("logs:2");
    cluster.patch("daemonsets/logs", image("logs:2")).await;
    cluster.until_all("pods", |pods| pods.len() == 2 && nodes(pods).len() == 2).await;
    cluster.release_image("logs:2");
    cluster.until("daemonsets/logs", done).await;
    let pods = cluster.until_all("pods", |pods| pods.len() == 1).await;
    assert_eq!(pods[0]["spec"]["containers"][0]["image"], "logs:2");
}

#[tokio::test]
async fn a_change_waits_for_the_user_or_for_nothing() {
    let cluster = Cluster::start().await;
    cluster.apply(LOGS).await;
    let strategy = json!({"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}});
    cluster.patch("daemonsets/logs", strategy).await;
    cluster.until("daemonsets/logs", done).await;
    cluster.patch("daemonsets/logs", image("logs:2")).await;
    let seen = |set: &Value| {
        set["status"]["observedGeneration"] == set["metadata"]["generation"]
            && set["status"]["updatedNumberScheduled"].is_null()
    };
    cluster.until("daemonsets/logs", seen).await;
    let pods = cluster.list("pods").await;
    assert_eq!(pods[0]["spec"]["containers"][0]["image"], "logs:1");
    let name = pods[0]["metadata"]["name"].as_str().unwrap();
    cluster.delete(&format!("pods/{name}")).await;
    cluster.until("daemonsets/logs", done).await;
    // What has ended for good is told and replaced.
    let pods = cluster.until_all("pods", |pods| pods.len() == 1).await;
    let name = pods[0]["metadata"]["name"].as_str().unwrap();
    cluster.patch_status(&format!("pods/{name}"), json!({"phase": "Failed"})).await;
    let event =
        format!("FailedDaemonPod: Found failed daemon pod default/{name} on node minik, will try to kill it");
    cluster.until_event("DaemonSet/logs", &event).await;
    cluster.until_gone(&format!("pods/{name}")).await;
    cluster.until("daemonsets/logs", done).await;
}

#[tokio::test]
async fn daemons_run_on_nodes_that_others_avoid() {
    let cluster = Cluster::start().await;
    cluster.patch(":nodes/minik", json!({"spec": {"unschedulable": true}})).await;
    cluster.apply(LOGS).await;
    cluster.until("daemonsets/logs", done).await;
}

/// A cluster of five nodes.
async fn five() -> Cluster {
    let mut cluster = Cluster::start().await;
    for name in ["n2", "n3", "n4", "n5"] {
        cluster.add_node(name).await;
    }
    cluster
}

/// Where an update of five nodes stops whose pods never come: how many old ones stay and how many new ones are made.
struct Limits {
    rolling: Value,
    old: usize,
    new: usize,
}

async fn stops_at(case: Limits) {
    let Limits { rolling, old, new } = case;
    let cluster = five().await;
    cluster.apply(LOGS).await;
    cluster.patch("daemonsets/logs", json!({"spec": {"updateStrategy": {"rollingUpdate": rolling}}})).await;
    cluster.until("daemonsets/logs", |set| done(set) && set["status"]["desiredNumberScheduled"] == 5).await;
    cluster.hold_image("logs:2");
    cluster.patch("daemonsets/logs", image("logs:2")).await;
    cluster.pass(120).await;
    let pods = cluster.list("pods").await;
    let of = |image: &str| pods.iter().filter(|pod| pod["spec"]["containers"][0]["image"] == image).count();
    assert_eq!((of("logs:1"), of("logs:2")), (old, new));
    cluster.release_image("logs:2");
    cluster.until("daemonsets/logs", done).await;
    cluster.until_all("pods", |pods| pods.len() == 5).await;
}

scenarios! { stops_at;
    one_is_missing_where_nothing_is_said: Limits { rolling: json!({}), old: 4, new: 1 },
    two_may_be_missing: Limits { rolling: json!({"maxUnavailable": 2}), old: 3, new: 2 },
    a_share_that_may_be_missing_is_rounded_up: Limits { rolling: json!({"maxUnavailable": "30%"}), old: 3, new: 2 },
    the_least_share_is_one: Limits { rolling: json!({"maxUnavailable": "1%"}), old: 4, new: 1 },
    all_may_be_missing: Limits { rolling: json!({"maxUnavailable": "100%"}), old: 0, new: 5 },
    more_than_all_may_be_missing: Limits { rolling: json!({"maxUnavailable": 9}), old: 0, new: 5 },
    one_may_be_too_many: Limits { rolling: json!({"maxUnavailable": 0, "maxSurge": 1}), old: 5, new: 1 },
    three_may_be_too_many: Limits { rolling: json!({"maxUnavailable": 0, "maxSurge": 3}), old: 5, new: 3 },
    a_share_that_may_be_too_many_is_rounded_up:
        Limits { rolling: json!({"maxUnavailable": 0, "maxSurge": "50%"}), old: 5, new: 3 },
    all_may_be_too_many: Limits { rolling: json!({"maxUnavailable": 0, "maxSurge": "100%"}), old: 5, new: 5 },
}

#[tokio::test]
async fn an_update_that_is_stuck_is_taken_back() {
    for rolling in [json!({"maxUnavailable": 2}), json!({"maxUnavailable": 0, "maxSurge": 2})] {
        let cluster = five().await;
        cluster.apply(LOGS).await;
        cluster
            .patch("daemonsets/logs", json!({"spec": {"updateStrategy": {"rollingUpdate": rolling}}}))
            .await;
        let all = |set: &Value| done(set) && set["status"]["desiredNumberScheduled"] == 5;
        cluster.until("daemonsets/logs", all).await;
        cluster.hold_image("logs:2");
        cluster.patch("daemonsets/logs", image("logs:2")).await;
        cluster.pass(60).await;
        cluster.patch("daemonsets/logs", image("logs:1")).await;
        cluster.until("daemonsets/logs", all).await;
        let pods = cluster.until_all("pods", |pods| pods.len() == 5).await;
        assert!(pods.iter().all(|pod| pod["spec"]["containers"][0]["image"] == "logs:1"), "{pods:#?}");
    }
}

#[tokio::test]
async fn a_node_that_comes_during_an_update_gets_the_new_pod() {
    let mut cluster = Cluster::start().await;
    cluster.add_node("n2").await;
    cluster.apply(LOGS).await;
    cluster.until("daemonsets/logs", |set| done(set) && set["status"]["desiredNumberScheduled"] == 2).await;
    cluster.hold_image("logs:2");
    cluster.patch("daemonsets/logs", image("logs:2")).await;
    cluster.pass(30).await;
    cluster.add_node("n3").await;
    let pods = cluster.until_all("pods", |pods| nodes(pods) == ["minik", "n2", "n3"]).await;
    let new = pods.iter().find(|pod| pod["spec"]["nodeName"] == "n3").unwrap();
    assert_eq!(new["spec"]["containers"][0]["image"], "logs:2");
    cluster.release_image("logs:2");
    cluster.until("daemonsets/logs", |set| done(set) && set["status"]["desiredNumberScheduled"] == 3).await;
}

#[tokio::test]
async fn a_node_that_goes_takes_its_daemon_along() {
    let mut cluster = Cluster::start().await;
    cluster.add_node("n2").await;
    cluster.apply(LOGS).await;
    cluster.until("daemonsets/logs", |set| done(set) && set["status"]["desiredNumberScheduled"] == 2).await;
    cluster.silence("n2");
    cluster.delete(":nodes/n2").await;
    cluster.until("daemonsets/logs", |set| done(set) && set["status"]["desiredNumberScheduled"] == 1).await;
    cluster.until_all("pods", |pods| nodes(pods) == ["minik"]).await;
}

#[tokio::test]
async fn a_daemon_that_fails_again_and_again_comes_later_and_later() {
    let cluster = Cluster::start().await;
    cluster.apply(LOGS).await;
    cluster.until("daemonsets/logs", done).await;
    let mut waits = Vec::new();
    for _ in 0..5 {
        let pods = cluster
            .until_all("pods", |pods| pods.len() == 1 && pods[0]["status"]["phase"] == "Running")
            .await;
        let name = pods[0]["metadata"]["name"].as_str().unwrap().to_owned();
        let begun = tokio::time::Instant::now();
        cluster.patch_status(&format!("pods/{name}"), json!({"phase": "Failed"})).await;
        cluster.until_gone(&format!("pods/{name}")).await;
        waits.push(begun.elapsed().as_secs());
    }
    assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]) && waits[4] >= 4, "{waits:?}");
}

#[tokio::test]
async fn taints_and_tolerations_say_which_nodes_are_meant() {
    let cluster = five().await;
    for (node, effect) in [("n2", "NoSchedule"), ("n3", "NoExecute"), ("n4", "PreferNoSchedule")] {
        let taint = json!([{"key": "dedicated", "value": node, "effect": effect}]);
        cluster.patch(&format!(":nodes/{node}"), json!({"spec": {"taints": taint}})).await;
    }
    cluster.apply(LOGS).await;
    let meant = |count: i64| move |set: &Value| done(set) && set["status"]["desiredNumberScheduled"] == count;
    cluster.until("daemonsets/logs", meant(3)).await;
    let pods = cluster.list("pods").await;
    assert_eq!(nodes(&pods), ["minik", "n4", "n5"]);
    let tolerates = |value: &str| json!({"spec": {"template": {"spec": {"tolerations": [{"key": "dedicated", "value": value}]}}}});
    cluster.patch("daemonsets/logs", tolerates("n3")).await;
    cluster.until("daemonsets/logs", meant(4)).await;
    cluster.until_all("pods", |pods| nodes(pods) == ["minik", "n3", "n4", "n5"]).await;
    // A taint that comes later sends its pod away.
    let taint = json!([{"key": "other", "effect": "NoExecute"}]);
    cluster.patch(":nodes/n5", json!({"spec": {"taints": taint}})).await;
    cluster.until_all("pods", |pods| nodes(pods) == ["minik", "n3", "n4"]).await;
    cluster.until("daemonsets/logs", meant(3)).await;
}

#[tokio::test]
async fn new_pods_are_waited_for_as_long_as_is_said() {
    let mut cluster = Cluster::start().await;
    cluster.add_node("n2").await;
    cluster.apply(LOGS).await;
    cluster.patch("daemonsets/logs", json!({"spec": {"minReadySeconds": 60}})).await;
    cluster.until("daemonsets/logs", |set| done(set) && set["status"]["desiredNumberScheduled"] == 2).await;
    let begun = tokio::time::Instant::now();
    cluster.patch("daemonsets/logs", image("logs:2")).await;
    cluster.until("daemonsets/logs", done).await;
    let took = begun.elapsed().as_secs();
    assert!((120..135).contains(&took), "{took}");
}
