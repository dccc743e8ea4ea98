//! Stateful sets by their numbers: which places an update reaches, in which order they are left, what is kept.

use minik::runtime::sim::SimProgram;
use minik::stdio::Exit;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::scenarios::scenarios;
use crate::shows::names;
use crate::stateful_sets::{image, ready, set};

fn images(pods: &[Value]) -> Vec<&str> {
    pods.iter().map(|pod| pod["spec"]["containers"][0]["image"].as_str().unwrap()).collect()
}

/// A set of so many pods that are all ready.
async fn started(replicas: i32, more: Value) -> Cluster {
    let cluster = Cluster::start().await;
    cluster.apply(&set(replicas, more)).await;
    cluster.until("statefulsets/db", ready(i64::from(replicas))).await;
    cluster
}

fn partition(from: i32) -> Value {
    json!({"updateStrategy": {"rollingUpdate": {"partition": from}}})
}

/// An update of places from a partition on.
struct Partition {
    replicas: i32,
    from: i32,
    more: Value,
    /// The first ordinal that is updated.
    first: usize,
}

async fn updates_from(case: Partition) {
    let Partition { replicas, from, more, first } = case;
    let mut all = partition(from);
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let cluster = started(replicas, all).await;
    cluster.patch("statefulsets/db", image("db:2")).await;
    cluster.pass(120).await;
    let count = replicas as usize;
    let expected: Vec<&str> = (0..count).map(|n| if n < first { "db:1" } else { "db:2" }).collect();
    assert_eq!(images(&cluster.list("pods").await), expected);
    let some = |count: usize| if count == 0 { Value::Null } else { json!(count) };
    // When all are of the newest revision, it is the present one too.
    let current = if first == 0 { replicas as usize } else { first };
    let status = json!({"status": {"readyReplicas": count, "updatedReplicas": some(count - first.min(count)),
        "currentReplicas": some(current.min(count))}});
    let db = cluster.is("statefulsets/db", status).await;
    assert_eq!(db["status"]["currentRevision"] == db["status"]["updateRevision"], first == 0);
}

scenarios! { updates_from;
    no_partition: Partition { replicas: 4, from: 0, more: json!({}), first: 0 },
    all_but_the_first: Partition { replicas: 4, from: 1, more: json!({}), first: 1 },
    the_last_alone: Partition { replicas: 4, from: 3, more: json!({}), first: 3 },
    none_as_the_partition_is_at_the_end: Partition { replicas: 4, from: 4, more: json!({}), first: 4 },
    none_as_the_partition_is_behind_the_end: Partition { replicas: 4, from: 100, more: json!({}), first: 4 },
    a_partition_of_places_side_by_side:
        Partition { replicas: 4, from: 2, more: json!({"podManagementPolicy": "Parallel"}), first: 2 },
    a_partition_counts_places: Partition { replicas: 4, from: 2, more: json!({"ordinals": {"start": 10}}), first: 2 },
}

#[tokio::test]
async fn a_place_before_the_partition_keeps_its_revision() {
    let cluster = started(3, partition(2)).await;
    cluster.patch("statefulsets/db", image("db:2")).await;
    cluster.shows("statefulsets/db", json!({"status": {"updatedReplicas": 1, "readyReplicas": 3}})).await;
    for (name, expected) in [("db-0", "db:1"), ("db-2", "db:2")] {
        cluster.delete(&format!("pods/{name}")).await;
        cluster.pass(30).await;
        let again = json!({"spec": {"containers": [{"image": expected}]}});
        cluster.is(&format!("pods/{name}"), again).await;
    }
}

#[tokio::test]
async fn new_places_are_of_the_revision_of_their_side_of_the_partition() {
    let cluster = started(2, partition(3)).await;
    cluster.patch("statefulsets/db", image("db:2")).await;
    cluster.pass(30).await;
    cluster.scale("statefulsets/db", 5).await;
    cluster.until("statefulsets/db", ready(5)).await;
    assert_eq!(images(&cluster.list("pods").await), ["db:1", "db:1", "db:1", "db:2", "db:2"]);
}

#[tokio::test]
async fn a_partition_that_is_lowered_step_by_step_is_a_canary() {
    let cluster = started(4, partition(4)).await;
    cluster.patch("statefulsets/db", image("db:2")).await;
    for from in (0..4).rev() {
        cluster.patch("statefulsets/db", json!({"spec": partition(from)})).await;
        cluster.pass(30).await;
        let updated = 4 - from;
        cluster
            .is("statefulsets/db", json!({"status": {"updatedReplicas": updated, "readyReplicas": 4}}))
            .await;
    }
}

/// How long it takes to leave places whose pods take half a minute to end.
struct Leaving {
    policy: &'static str,
    from: i32,
    to: i32,
    seconds: u64,
}

async fn leaves(case: Leaving) {
    let Leaving { policy, from, to, seconds } = case;
    let cluster = Cluster::start().await;
    cluster.program("db:1", SimProgram::IgnoreTerm);
    let mut slow: Value = serde_json::from_str(&set(from, json!({"podManagementPolicy": policy}))).unwrap();
    slow["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(30);
    cluster.apply(&slow.to_string()).await;
    cluster.until("statefulsets/db", ready(i64::from(from))).await;
    let begun = Instant::now();
    cluster.scale("statefulsets/db", to).await;
    cluster.until_all("pods", |pods| pods.len() == to as usize).await;
    let took = begun.elapsed().as_secs();
    assert!((seconds..seconds + 5).contains(&took), "{took}");
    let expected: Vec<String> = (0..to).map(|n| format!("db-{n}")).collect();
    assert_eq!(names(&cluster.list("pods").await), expected);
    cluster.shows("statefulsets/db", json!({"status": {"replicas": to}})).await;
}

scenarios! { leaves;
    two_places_are_left_one_by_one: Leaving { policy: "OrderedReady", from: 3, to: 1, seconds: 60 },
    all_places_are_left_one_by_one: Leaving { policy: "OrderedReady", from: 3, to: 0, seconds: 90 },
    two_places_are_left_at_once: Leaving { policy: "Parallel", from: 3, to: 1, seconds: 30 },
    all_places_are_left_at_once: Leaving { policy: "Parallel", from: 3, to: 0, seconds: 30 },
}

/// An update that cannot work is taken back: whether its pod has to be taken away by hand.
struct TakenBack {
    policy: &'static str,
    by_hand: bool,
}

async fn takes_back(case: TakenBack) {
    let TakenBack { policy, by_hand } = case;
    let cluster = started(3, json!({"podManagementPolicy": policy})).await;
    cluster.program("db:2", SimProgram::EndAtOnce(Exit::Code(1)));
    cluster.patch("statefulsets/db", image("db:2")).await;
    cluster.pass(60).await;
    assert_eq!(images(&cluster.list("pods").await), ["db:1", "db:1", "db:2"]);
    cluster.patch("statefulsets/db", image("db:1")).await;
    cluster.pass(600).await;
    let broken = if by_hand { "db:2" } else { "db:1" };
    assert_eq!(images(&cluster.list("pods").await), ["db:1", "db:1", broken]);
    if by_hand {
        cluster.delete("pods/db-2").await;
    }
    cluster.until("statefulsets/db", ready(3)).await;
    assert_eq!(images(&cluster.list("pods").await), ["db:1", "db:1", "db:1"]);
}

scenarios! { takes_back;
    where_order_counts_a_broken_pod_is_in_the_way: TakenBack { policy: "OrderedReady", by_hand: true },
    where_order_does_not_count_a_broken_pod_goes: TakenBack { policy: "Parallel", by_hand: false },
}

/// How many revisions are left of so many updates.
struct History {
    limit: Value,
    updates: u32,
    left: usize,
}

async fn keeps_history(case: History) {
    let History { limit, updates, left } = case;
    let cluster = started(1, json!({"revisionHistoryLimit": limit})).await;
    for n in 0..updates {
        let image_name = format!("db:{}", n + 2);
        cluster.patch("statefulsets/db", image(&image_name)).await;
        let there = |set: &Value| {
            let status = &set["status"];
            ready(1)(set)
                && status["updatedReplicas"] == 1
                && status["currentRevision"] == status["updateRevision"]
        };
        cluster.until("statefulsets/db", there).await;
    }
    cluster.pass(30).await;
    assert_eq!(cluster.list("controllerrevisions").await.len(), left);
}

scenarios! { keeps_history;
    the_present_revision_and_none_before: History { limit: json!(0), updates: 3, left: 1 },
    the_present_revision_and_two_before: History { limit: json!(2), updates: 5, left: 3 },
    the_present_revision_and_ten_before: History { limit: Value::Null, updates: 12, left: 11 },
}

#[tokio::test]
async fn a_pod_that_has_failed_is_made_again() {
    let cluster = started(2, json!({})).await;
    let before = cluster.get("pods/db-0").await.unwrap();
    cluster.patch_status("pods/db-0", json!({"phase": "Failed"})).await;
    let uid = before["metadata"]["uid"].clone();
    cluster.until("pods/db-0", move |pod| pod["metadata"]["uid"] != uid).await;
    cluster.until("statefulsets/db", ready(2)).await;
}

#[tokio::test]
async fn pods_that_were_let_go_are_taken_on_again() {
    let cluster = started(2, json!({})).await;
    let before: Vec<Value> =
        cluster.list("pods").await.iter().map(|pod| pod["metadata"]["uid"].clone()).collect();
    cluster.delete_with("statefulsets/db", "Orphan").await;
    cluster.until_gone("statefulsets/db").await;
    cluster
        .until_all("pods", |pods| pods.iter().all(|pod| pod["metadata"]["ownerReferences"].is_null()))
        .await;
    cluster.apply(&set(2, json!({}))).await;
    let db = cluster.until("statefulsets/db", ready(2)).await;
    let pods = cluster.list("pods").await;
    assert_eq!(pods.iter().map(|pod| pod["metadata"]["uid"].clone()).collect::<Vec<_>>(), before);
    assert!(pods.iter().all(|pod| pod["metadata"]["ownerReferences"][0]["uid"] == db["metadata"]["uid"]));
}

#[tokio::test]
async fn places_that_come_again_have_their_claims_again() {
    let template = json!({"metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let cluster = started(3, json!({"volumeClaimTemplates": [template]})).await;
    let uids =
        |claims: &[Value]| claims.iter().map(|claim| claim["metadata"]["uid"].clone()).collect::<Vec<_>>();
    let before = uids(&cluster.list("persistentvolumeclaims").await);
    cluster.scale("statefulsets/db", 0).await;
    cluster.until_all("pods", |pods| pods.is_empty()).await;
    cluster.scale("statefulsets/db", 3).await;
    cluster.until("statefulsets/db", ready(3)).await;
    let claims = cluster.list("persistentvolumeclaims").await;
    assert_eq!((names(&claims), uids(&claims)), (vec!["data-db-0", "data-db-1", "data-db-2"], before));
}

/// Who owns the claims of a set whose policy is changed.
#[tokio::test]
async fn claims_follow_a_policy_that_changes() {
    let template = json!({"metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let cluster = started(2, json!({"volumeClaimTemplates": [template]})).await;
    for (deleted, owner) in [("Delete", json!("StatefulSet")), ("Retain", Value::Null)] {
        let policy = json!({"whenDeleted": deleted, "whenScaled": "Retain"});
        cluster
            .patch("statefulsets/db", json!({"spec": {"persistentVolumeClaimRetentionPolicy": policy}}))
            .await;
        cluster
            .until_all("persistentvolumeclaims", |claims| {
                claims.iter().all(|claim| claim["metadata"]["ownerReferences"][0]["kind"] == owner)
            })
            .await;
    }
}

#[tokio::test]
async fn places_are_filled_when_those_before_are_there_again() {
    let cluster = started(3, json!({})).await;
    cluster.hold_image("db:1");
    for name in ["db-0", "db-2"] {
        cluster.delete(&format!("pods/{name}")).await;
        cluster
            .until("statefulsets/db", |set| set["status"]["readyReplicas"].as_i64().unwrap_or(0) < 3)
            .await;
    }
    cluster.pass(60).await;
    // The last one waits for the first.
    assert_eq!(names(&cluster.list("pods").await), ["db-0", "db-1"]);
    cluster.release_image("db:1");
    cluster.until("statefulsets/db", ready(3)).await;
}
