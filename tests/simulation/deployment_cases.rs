//! Deployments in the middle of an update: where it stops, what another change makes of it, how sizes are shared out.

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::rollouts::{deployment, done, image, revision, versions};
use crate::scenarios::scenarios;
use crate::shows::names;

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}})
}

/// How many pods the versions are to have.
fn sizes(of: &[i64]) -> Vec<(String, i64)> {
    of.iter().enumerate().map(|(n, size)| ((n + 1).to_string(), *size)).collect()
}

/// A deployment whose update to its second version is stuck.
async fn stuck(replicas: i32, more: Value) -> Cluster {
    let cluster = Cluster::start().await;
    cluster.apply(&deployment("web", replicas, more)).await;
    cluster.until("deployments/web", done).await;
    for version in 2..=4 {
        cluster.hold_image(&format!("web:{version}"));
    }
    cluster.patch("deployments/web", image("web", 2)).await;
    cluster.pass(30).await;
    cluster
}

/// Where an update stops whose pods never come: as many old ones stay as must, as many new ones are made as may.
struct Limits {
    replicas: i32,
    strategy: Value,
    old: i64,
    new: i64,
}

async fn stops_at(case: Limits) {
    let Limits { replicas, strategy, old, new } = case;
    let cluster = stuck(replicas, strategy).await;
    assert_eq!(versions(&cluster, "web").await, sizes(&[old, new]));
    let counts = json!({"status": {"updatedReplicas": new, "replicas": old + new,
        "availableReplicas": if old == 0 { Value::Null } else { json!(old) }}});
    cluster.is("deployments/web", counts).await;
    cluster.release_image("web:2");
    cluster.until("deployments/web", done).await;
    assert_eq!(versions(&cluster, "web").await, sizes(&[0, i64::from(replicas)]));
}

scenarios! { stops_at;
    a_quarter_of_ten: Limits { replicas: 10, strategy: rolling(json!("25%"), json!("25%")), old: 8, new: 5 },
    a_tenth_of_four: Limits { replicas: 4, strategy: rolling(json!("10%"), json!("10%")), old: 4, new: 1 },
    a_third_of_nine: Limits { replicas: 9, strategy: rolling(json!("34%"), json!("34%")), old: 6, new: 7 },
    half_may_be_missing: Limits { replicas: 6, strategy: rolling(json!(0), json!("50%")), old: 3, new: 3 },
    half_may_be_too_many: Limits { replicas: 6, strategy: rolling(json!("50%"), json!(0)), old: 6, new: 3 },
    all_may_be_too_many: Limits { replicas: 3, strategy: rolling(json!("100%"), json!(0)), old: 3, new: 3 },
    all_may_be_missing: Limits { replicas: 4, strategy: rolling(json!(0), json!("100%")), old: 0, new: 4 },
    both_in_full: Limits { replicas: 3, strategy: rolling(json!("100%"), json!("100%")), old: 0, new: 3 },
    more_than_there_are: Limits { replicas: 2, strategy: rolling(json!(10), json!(0)), old: 2, new: 2 },
    too_little_to_be_missing: Limits { replicas: 2, strategy: rolling(json!(0), json!("49%")), old: 1, new: 1 },
    one_of_one_more: Limits { replicas: 1, strategy: rolling(json!(1), json!(0)), old: 1, new: 1 },
    one_of_one_missing: Limits { replicas: 1, strategy: rolling(json!(0), json!(1)), old: 0, new: 1 },
    number_and_share: Limits { replicas: 5, strategy: rolling(json!(1), json!("40%")), old: 3, new: 3 },
    a_quarter_of_four: Limits { replicas: 4, strategy: rolling(json!("25%"), json!("25%")), old: 3, new: 2 },
    a_quarter_of_three: Limits { replicas: 3, strategy: rolling(json!("25%"), json!("25%")), old: 3, new: 1 },
    a_quarter_of_two: Limits { replicas: 2, strategy: rolling(json!("25%"), json!("25%")), old: 2, new: 1 },
    a_quarter_of_one: Limits { replicas: 1, strategy: rolling(json!("25%"), json!("25%")), old: 1, new: 1 },
    half_of_five_may_be_missing: Limits { replicas: 5, strategy: rolling(json!(0), json!("50%")), old: 3, new: 2 },
    one_of_six_may_be_missing: Limits { replicas: 6, strategy: rolling(json!(0), json!(1)), old: 5, new: 1 },
    two_of_three_may_be_too_many: Limits { replicas: 3, strategy: rolling(json!(2), json!(0)), old: 3, new: 2 },
    // Both come to nothing: one may be missing all the same.
    nothing_of_both_is_one_that_may_be_missing:
        Limits { replicas: 3, strategy: rolling(json!(0), json!("1%")), old: 2, new: 1 },
    three_tenths_of_seven: Limits { replicas: 7, strategy: rolling(json!("30%"), json!("30%")), old: 5, new: 5 },
    what_is_not_said_is_a_quarter_of_both: Limits { replicas: 8, strategy: json!({}), old: 6, new: 4 },
    recreated: Limits { replicas: 3, strategy: json!({"strategy": {"type": "Recreate"}}), old: 0, new: 3 },
}

/// What a second change makes of a stuck update of ten, of which three may be too many and two missing, or as is said.
struct Rollover {
    replicas: i32,
    strategy: Value,
    /// The versions that are asked for one after the other while the second is stuck.
    to: &'static [u32],
    expected: &'static [i64],
}

async fn rolls_over(case: Rollover) {
    let Rollover { replicas, strategy, to, expected } = case;
    let cluster = stuck(replicas, strategy).await;
    for version in to {
        cluster.patch("deployments/web", image("web", *version)).await;
        cluster.pass(30).await;
    }
    assert_eq!(versions(&cluster, "web").await, sizes(expected));
    for version in 2..=4 {
        cluster.release_image(&format!("web:{version}"));
    }
    cluster.until("deployments/web", done).await;
    let newest = to[to.len() - 1].to_string();
    for (version, size) in versions(&cluster, "web").await {
        assert_eq!(size, if version == newest { i64::from(replicas) } else { 0 }, "{version}");
    }
}

scenarios! { rolls_over;
    a_third_version_takes_the_room_of_the_second:
        Rollover { replicas: 10, strategy: rolling(json!(3), json!(2)), to: &[3], expected: &[8, 0, 5] },
    a_fourth_version_takes_the_room_of_the_third:
        Rollover { replicas: 10, strategy: rolling(json!(3), json!(2)), to: &[3, 4], expected: &[8, 0, 0, 5] },
    the_second_version_again:
        Rollover { replicas: 10, strategy: rolling(json!(3), json!(2)), to: &[3, 2], expected: &[8, 5, 0] },
    back_to_the_first:
        Rollover { replicas: 10, strategy: rolling(json!(3), json!(2)), to: &[1], expected: &[10, 0] },
    a_third_version_of_four:
        Rollover { replicas: 4, strategy: json!({}), to: &[3], expected: &[3, 0, 2] },
    a_third_version_without_surge:
        Rollover { replicas: 4, strategy: rolling(json!(0), json!(2)), to: &[3], expected: &[2, 0, 2] },
    a_third_version_with_nothing_missing:
        Rollover { replicas: 4, strategy: rolling(json!(2), json!(0)), to: &[3], expected: &[4, 0, 2] },
    a_third_version_recreated:
        Rollover { replicas: 3, strategy: json!({"strategy": {"type": "Recreate"}}), to: &[3], expected: &[0, 0, 3] },
}

/// Sizes that are asked for while an update is held in its middle, where the versions have the sizes that are given first.
struct Shares {
    replicas: i32,
    strategy: Value,
    middle: [i64; 2],
    to: i32,
    expected: [i64; 2],
}

async fn shares_out(case: Shares) {
    let Shares { replicas, strategy, middle, to, expected } = case;
    let cluster = stuck(replicas, strategy).await;
    cluster.patch("deployments/web", json!({"spec": {"paused": true}})).await;
    cluster.pass(5).await;
    assert_eq!(versions(&cluster, "web").await, sizes(&middle));
    cluster.scale("deployments/web", to).await;
    cluster.pass(30).await;
    assert_eq!(versions(&cluster, "web").await, sizes(&expected));
    let held = json!({"status": {"conditions": {"Progressing": "Unknown DeploymentPaused"}}});
    cluster.is("deployments/web", held).await;
    cluster.release_image("web:2");
    cluster.patch("deployments/web", json!({"spec": {"paused": false}})).await;
    cluster.until("deployments/web", done).await;
    assert_eq!(versions(&cluster, "web").await, sizes(&[0, i64::from(to)]));
}

fn usual_shares(to: i32, expected: [i64; 2]) -> Shares {
    Shares { replicas: 10, strategy: rolling(json!(3), json!(2)), middle: [8, 5], to, expected }
}

scenarios! { shares_out;
    ten_become_eleven: usual_shares(11, [9, 5]),
    ten_become_twelve: usual_shares(12, [9, 6]),
    ten_become_thirteen: usual_shares(13, [10, 6]),
    ten_become_fifteen: usual_shares(15, [11, 7]),
    ten_become_twenty: usual_shares(20, [14, 9]),
    ten_become_five: usual_shares(5, [5, 3]),
    ten_become_one: usual_shares(1, [2, 2]),
    eight_become_sixteen: Shares { replicas: 8, strategy: json!({}), middle: [6, 4], to: 16, expected: [12, 8] },
    eight_become_four: Shares { replicas: 8, strategy: json!({}), middle: [6, 4], to: 4, expected: [3, 2] },
}

/// How long a deployment may take before it is said not to get on, and whether it is said at all.
struct Deadline {
    more: Value,
    /// After how many seconds, if ever.
    late: Option<u64>,
}

async fn is_late(case: Deadline) {
    let Deadline { more, late } = case;
    let cluster = Cluster::start().await;
    cluster.hold_image("web:1");
    let begun = Instant::now();
    cluster.apply(&deployment("web", 2, more)).await;
    let told = json!({"status": {"conditions": {"Progressing": "False ProgressDeadlineExceeded"}}});
    if let Some(seconds) = late {
        cluster.shows("deployments/web", told.clone()).await;
        let took = begun.elapsed().as_secs();
        assert!((seconds..seconds + 5).contains(&took), "{took}");
    } else {
        cluster.pass(2000).await;
        let web = cluster.get("deployments/web").await.unwrap();
        assert!(!crate::shows::shows(&web, &told), "{web:#}");
    }
    cluster.release_image("web:1");
    cluster.patch("deployments/web", json!({"spec": {"paused": false}})).await;
    let web = cluster.until("deployments/web", done).await;
    assert!(!crate::shows::shows(&web, &told), "{web:#}");
}

scenarios! { is_late;
    ten_minutes_where_nothing_is_said: Deadline { more: json!({}), late: Some(600) },
    as_long_as_is_said: Deadline { more: json!({"progressDeadlineSeconds": 90}), late: Some(90) },
    a_recreation_has_a_deadline_too:
        Deadline { more: json!({"progressDeadlineSeconds": 90, "strategy": {"type": "Recreate"}}), late: Some(90) },
    the_greatest_deadline_is_none: Deadline { more: json!({"progressDeadlineSeconds": i32::MAX}), late: None },
    what_is_held_is_not_late: Deadline { more: json!({"progressDeadlineSeconds": 90, "paused": true}), late: None },
}

#[tokio::test]
async fn a_new_size_gives_a_stuck_update_its_time_again() {
    let cluster = stuck(4, json!({"progressDeadlineSeconds": 100})).await;
    cluster.pass(40).await;
    let begun = Instant::now();
    cluster.scale("deployments/web", 8).await;
    let late = json!({"status": {"conditions": {"Progressing": "False ProgressDeadlineExceeded"}}});
    cluster.shows("deployments/web", late).await;
    let took = begun.elapsed().as_secs();
    assert!((99..110).contains(&took), "{took}");
}

#[tokio::test]
async fn a_replica_set_that_is_taken_away_comes_again() {
    let cluster = Cluster::start().await;
    cluster.apply(&deployment("web", 2, json!({}))).await;
    cluster.until("deployments/web", done).await;
    let sets = cluster.list("replicasets").await;
    let name = names(&sets)[0].to_owned();
    cluster.delete(&format!("replicasets/{name}")).await;
    let uid = sets[0]["metadata"]["uid"].clone();
    let again = cluster.until(&format!("replicasets/{name}"), |set| set["metadata"]["uid"] != uid).await;
    assert_eq!(revision(&again), "1");
    cluster.until("deployments/web", done).await;
    cluster.until_all("pods", |pods| pods.len() == 2).await;
}

#[tokio::test]
async fn what_was_let_go_is_taken_on_by_the_next_of_its_name() {
    let cluster = Cluster::start().await;
    cluster.apply(&deployment("web", 2, json!({}))).await;
    cluster.until("deployments/web", done).await;
    let before = cluster.list("pods").await;
    cluster.delete_with("deployments/web", "Orphan").await;
    cluster.until_gone("deployments/web").await;
    cluster.until_all("replicasets", |sets| sets[0]["metadata"]["ownerReferences"].is_null()).await;
    cluster.pass(60).await;
    cluster.apply(&deployment("web", 2, json!({}))).await;
    let web = cluster.until("deployments/web", done).await;
    let sets = cluster.list("replicasets").await;
    assert_eq!((sets.len(), &sets[0]["metadata"]["ownerReferences"][0]["uid"]), (1, &web["metadata"]["uid"]));
    assert_eq!(names(&cluster.list("pods").await), names(&before));
}

#[tokio::test]
async fn a_name_that_is_taken_is_gone_round() {
    let cluster = Cluster::start().await;
    cluster.apply(&deployment("web", 1, json!({}))).await;
    cluster.until("deployments/web", done).await;
    let sets = cluster.list("replicasets").await;
    let name = names(&sets)[0].to_owned();
    cluster.delete_with("deployments/web", "Foreground").await;
    cluster.until_gone("deployments/web").await;
    let template = json!({"metadata": {"labels": {"app": "other"}}, "spec": {"containers": [{"name": "c", "image": "other"}]}});
    let other = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "other"}}, "template": template}});
    cluster.apply(&other.to_string()).await;
    cluster.apply(&deployment("web", 1, json!({}))).await;
    let web = cluster.until("deployments/web", done).await;
    assert_eq!(web["status"]["collisionCount"], 1);
    assert_eq!(cluster.list("replicasets").await.len(), 2);
}

#[tokio::test]
async fn annotations_follow_to_the_newest_replica_set() {
    let cluster = Cluster::start().await;
    cluster.apply(&deployment("web", 1, json!({}))).await;
    cluster.until("deployments/web", done).await;
    let mut update = image("web", 2);
    update["metadata"] = json!({"annotations": {"example.com/why": "because"}});
    cluster.patch("deployments/web", update).await;
    cluster.until("deployments/web", |web| done(web) && revision(web) == "2").await;
    for set in cluster.list("replicasets").await {
        let expected = if revision(&set) == "2" { json!("because") } else { Value::Null };
        assert_eq!(set["metadata"]["annotations"]["example.com/why"], expected, "{set:#}");
    }
}

#[tokio::test]
async fn nothing_is_done_and_complete() {
    let cluster = Cluster::start().await;
    cluster.apply(&deployment("web", 0, json!({}))).await;
    let complete = json!({"status": {"replicas": null, "conditions": {
        "Available": "True MinimumReplicasAvailable", "Progressing": "True NewReplicaSetAvailable"}}});
    cluster.shows("deployments/web", complete).await;
    cluster.patch("deployments/web", image("web", 2)).await;
    cluster.until("deployments/web", |web| revision(web) == "2").await;
    cluster.pass(5).await;
    assert_eq!(versions(&cluster, "web").await, sizes(&[0, 0]));
}

#[tokio::test]
async fn pods_that_end_are_counted_until_they_have_ended() {
    let cluster = Cluster::start().await;
    cluster.program("web:1", minik::runtime::sim::SimProgram::IgnoreTerm);
    let mut web: Value = serde_json::from_str(&deployment("web", 3, json!({}))).unwrap();
    web["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(60);
    cluster.apply(&web.to_string()).await;
    cluster.until("deployments/web", done).await;
    cluster.scale("deployments/web", 1).await;
    cluster.pass(10).await;
    cluster.is("deployments/web", json!({"status": {"replicas": 1, "terminatingReplicas": 2}})).await;
    cluster.pass(60).await;
    cluster.is("deployments/web", json!({"status": {"replicas": 1, "terminatingReplicas": 0}})).await;
}

#[tokio::test]
async fn two_deployments_of_one_selector_keep_to_their_own() {
    let cluster = Cluster::start().await;
    for name in ["one", "two"] {
        let mut object: Value = serde_json::from_str(&deployment("web", 2, json!({}))).unwrap();
        object["metadata"]["name"] = json!(name);
        cluster.apply(&object.to_string()).await;
        cluster.until(&format!("deployments/{name}"), done).await;
    }
    cluster.scale("deployments/one", 0).await;
    cluster.shows("deployments/one", json!({"status": {"replicas": null}})).await;
    cluster.pass(30).await;
    cluster.is("deployments/two", json!({"status": {"readyReplicas": 2}})).await;
    assert_eq!(cluster.list("replicasets").await.len(), 2);
}
