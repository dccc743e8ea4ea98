//! Rollouts of deployments, by their numbers: how many pods there are of the old and of the new template, and when.

use minik::runtime::sim::SimProgram;
use minik::stdio::Exit;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cluster::Cluster;

/// A deployment of so many pods of `NAME:1`, with more in its specification.
pub fn deployment(name: &str, replicas: i32, more: Value) -> String {
    let mut spec = json!({
        "replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": template(name, &format!("{name}:1"))});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec})
        .to_string()
}

fn template(name: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": image}]}})
}

pub fn image(name: &str, version: u32) -> Value {
    json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": format!("{name}:{version}")}]}}}})
}

pub fn done(deployment: &Value) -> bool {
    let (wanted, status) = (&deployment["spec"]["replicas"], &deployment["status"]);
    status["observedGeneration"] == deployment["metadata"]["generation"]
        && ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|count| status[count] == *wanted)
}

/// How many pods each version of a deployment is to have, oldest first, with those that want none.
pub async fn versions(cluster: &Cluster, name: &str) -> Vec<(String, i64)> {
    let mut sets = cluster.list("replicasets").await;
    sets.retain(|set| set["metadata"]["labels"]["app"] == name);
    let of = |set: &Value| {
        let image = set["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap();
        (image.split_once(':').unwrap().1.to_owned(), set["spec"]["replicas"].as_i64().unwrap())
    };
    let mut versions: Vec<(String, i64)> = sets.iter().map(of).collect();
    versions.sort();
    versions
}

pub fn revision(deployment: &Value) -> &str {
    deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"].as_str().unwrap_or("")
}

/// The example of Kubernetes' documentation: what is added in the middle of an update is shared out.
#[tokio::test]
async fn sizes_change_in_proportion() {
    for (to, expected) in [(15, (11, 7)), (20, (14, 9)), (5, (3, 5)), (0, (0, 0))] {
        let cluster = Cluster::start().await;
        let strategy = json!({"strategy": {"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}});
        cluster.apply(&deployment("web", 10, strategy)).await;
        cluster.until("deployments/web", done).await;
        cluster.hold_image("web:2");
        cluster.patch("deployments/web", image("web", 2)).await;
        cluster.pass(10).await;
        assert_eq!(versions(&cluster, "web").await, [("1".to_owned(), 8), ("2".to_owned(), 5)]);
        cluster.scale("deployments/web", to).await;
        cluster.pass(10).await;
        let (old, new) = expected;
        let found = versions(&cluster, "web").await;
        if to >= 10 {
            assert_eq!(found, [("1".to_owned(), old), ("2".to_owned(), new)], "to {to}");
        } else {
            // Fewer than may be: never below what must be there, never above what may be.
            let all: i64 = found.iter().map(|(_, count)| count).sum();
            assert!(all <= i64::from(to) + 3, "{found:?} for {to}");
        }
    }
}

#[tokio::test]
async fn lack_of_progress_is_told_when_its_time_is_over() {
    let cluster = Cluster::start().await;
    for (name, more, seconds) in [
        ("usual", json!({}), 600),
        ("short", json!({"progressDeadlineSeconds": 30}), 30),
        ("patient", json!({"progressDeadlineSeconds": 1200, "minReadySeconds": 20}), 1200),
    ] {
        cluster.apply(&deployment(name, 2, more)).await;
        cluster.until(&format!("deployments/{name}"), done).await;
        cluster.program(&format!("{name}:2"), SimProgram::EndAtOnce(Exit::Code(1)));
        let begun = Instant::now();
        cluster.patch(&format!("deployments/{name}"), image(name, 2)).await;
        let late = json!({"status": {"conditions": {
            "Progressing": "False ProgressDeadlineExceeded", "Available": "True MinimumReplicasAvailable"}}});
        let web = cluster.shows(&format!("deployments/{name}"), late).await;
        let took = begun.elapsed().as_secs();
        assert!((seconds..seconds + 15).contains(&took), "{name} took {took} s");
        let told = crate::shows::message(&web, "Progressing");
        assert!(
            told.starts_with(&format!("ReplicaSet \"{name}-"))
                && told.ends_with("\" has timed out progressing.")
        );
        // Undone, it goes on.
        cluster.patch(&format!("deployments/{name}"), image(name, 1)).await;
        let well = json!({"status": {"conditions": {"Progressing": "True NewReplicaSetAvailable"}}});
        cluster.shows(&format!("deployments/{name}"), well).await;
    }
}

#[tokio::test]
async fn a_deployment_that_waits_has_no_deadline() {
    let cluster = Cluster::start().await;
    cluster.hold_image("web:1");
    cluster.apply(&deployment("web", 1, json!({"progressDeadlineSeconds": 60, "paused": true}))).await;
    cluster.pass(300).await;
    let web = cluster.get("deployments/web").await.unwrap();
    assert!(!web.to_string().contains("ProgressDeadlineExceeded"), "{web:#}");
    assert_eq!(cluster.list("replicasets").await.len(), 0);
    cluster.patch("deployments/web", json!({"spec": {"paused": false}})).await;
    cluster
        .shows(
            "deployments/web",
            json!({"status": {"conditions": {"Progressing": "False ProgressDeadlineExceeded"}}}),
        )
        .await;
    cluster.release_image("web:1");
    cluster.until("deployments/web", done).await;
}

#[tokio::test]
async fn new_pods_count_when_they_have_been_ready_for_long_enough() {
    let cluster = Cluster::start().await;
    let begun = Instant::now();
    cluster
        .apply(&deployment(
            "web",
            3,
            json!({"minReadySeconds": 60,
        "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}),
        ))
        .await;
    cluster
        .shows(
            "deployments/web",
            json!({"status": {"readyReplicas": 3, "availableReplicas": null, "unavailableReplicas": 3,
        "conditions": {"Available": "False MinimumReplicasUnavailable"}}}),
        )
        .await;
    cluster.until("deployments/web", done).await;
    let took = begun.elapsed().as_secs();
    assert!((60..70).contains(&took), "{took}");
    // One after the other.
    let begun = Instant::now();
    cluster.patch("deployments/web", image("web", 2)).await;
    cluster.until("deployments/web", done).await;
    let took = begun.elapsed().as_secs();
    assert!((180..200).contains(&took), "{took}");
}

#[tokio::test]
async fn what_is_held_is_rolled_out_in_one() {
    let cluster = Cluster::start().await;
    cluster.apply(&deployment("web", 2, json!({}))).await;
    cluster.until("deployments/web", done).await;
    cluster.patch("deployments/web", json!({"spec": {"paused": true}})).await;
    cluster
        .shows(
            "deployments/web",
            json!({"status": {"conditions": {"Progressing": "Unknown DeploymentPaused"}}}),
        )
        .await;
    for version in 2..=4 {
        cluster.patch("deployments/web", image("web", version)).await;
    }
    cluster.pass(60).await;
    assert_eq!(versions(&cluster, "web").await, [("1".to_owned(), 2)]);
    cluster.patch("deployments/web", json!({"spec": {"paused": false}})).await;
    let web = cluster.until("deployments/web", |web| done(web) && revision(web) == "2").await;
    assert!(web["status"]["conditions"].to_string().contains("NewReplicaSetAvailable"));
    assert_eq!(versions(&cluster, "web").await, [("1".to_owned(), 0), ("4".to_owned(), 2)]);
}

#[tokio::test]
async fn going_back_makes_an_old_revision_the_newest() {
    let cluster = Cluster::start().await;
    cluster.apply(&deployment("web", 1, json!({"revisionHistoryLimit": 2}))).await;
    for version in 2..=5 {
        cluster.until("deployments/web", done).await;
        cluster.patch("deployments/web", image("web", version)).await;
        let expected = version.to_string();
        cluster.until("deployments/web", move |web| done(web) && revision(web) == expected).await;
    }
    cluster.pass(5).await;
    let of =
        |versions: &[(&str, i64)]| versions.iter().map(|(v, n)| ((*v).to_owned(), *n)).collect::<Vec<_>>();
    assert_eq!(versions(&cluster, "web").await, of(&[("3", 0), ("4", 0), ("5", 1)]));
    // As `kubectl rollout undo` does.
    cluster.patch("deployments/web", image("web", 3)).await;
    cluster.until("deployments/web", |web| done(web) && revision(web) == "6").await;
    assert_eq!(versions(&cluster, "web").await, of(&[("3", 1), ("4", 0), ("5", 0)]));
    let sets = cluster.list("replicasets").await;
    let third = sets.iter().find(|set| revision(set) == "6").unwrap();
    assert_eq!(third["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"], "3");
}

#[tokio::test]
async fn no_history_is_kept_where_none_is_wanted() {
    let cluster = Cluster::start().await;
    cluster.apply(&deployment("web", 1, json!({"revisionHistoryLimit": 0}))).await;
    cluster.until("deployments/web", done).await;
    cluster.patch("deployments/web", image("web", 2)).await;
    cluster.until("deployments/web", |web| done(web) && revision(web) == "2").await;
    cluster.until_all("replicasets", |sets| sets.len() == 1).await;
}

#[tokio::test]
async fn a_second_update_takes_the_place_of_a_stuck_one() {
    let cluster = Cluster::start().await;
    cluster.apply(&deployment("web", 4, json!({}))).await;
    cluster.until("deployments/web", done).await;
    cluster.hold_image("web:2");
    cluster.patch("deployments/web", image("web", 2)).await;
    cluster.pass(5).await;
    cluster.patch("deployments/web", image("web", 3)).await;
    cluster.until("deployments/web", done).await;
    cluster.pass(5).await;
    let expected = [("1".to_owned(), 0), ("2".to_owned(), 0), ("3".to_owned(), 4)];
    assert_eq!(versions(&cluster, "web").await, expected);
}

#[tokio::test]
async fn a_pod_that_dies_makes_a_deployment_unavailable_for_a_while() {
    let cluster = Cluster::start().await;
    cluster.apply(&deployment("web", 1, json!({}))).await;
    cluster.until("deployments/web", done).await;
    cluster.hold_image("web:1");
    let pods = cluster.list("pods").await;
    cluster.delete(&format!("pods/{}", crate::shows::names(&pods)[0])).await;
    cluster
        .shows(
            "deployments/web",
            json!({"status": {"unavailableReplicas": 1,
        "conditions": {"Available": "False MinimumReplicasUnavailable"}}}),
        )
        .await;
    cluster.release_image("web:1");
    cluster
        .shows(
            "deployments/web",
            json!({"status": {"availableReplicas": 1,
        "conditions": {"Available": "True MinimumReplicasAvailable"}}}),
        )
        .await;
}

#[tokio::test]
async fn pods_that_end_slowly_do_not_hold_a_rolling_update_but_a_recreation() {
    for (strategy, expected) in [("RollingUpdate", 0..10), ("Recreate", 30..45)] {
        let cluster = Cluster::start().await;
        cluster.program("web:1", SimProgram::IgnoreTerm);
        let mut spec: Value =
            serde_json::from_str(&deployment("web", 2, json!({"strategy": {"type": strategy}}))).unwrap();
        spec["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(30);
        cluster.apply(&spec.to_string()).await;
        cluster.until("deployments/web", done).await;
        let begun = Instant::now();
        let mut new = image("web", 2);
        new["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(30);
        cluster.patch("deployments/web", new).await;
        cluster.until("deployments/web", done).await;
        let took = begun.elapsed().as_secs();
        assert!(expected.contains(&took), "{strategy} took {took}");
    }
}
