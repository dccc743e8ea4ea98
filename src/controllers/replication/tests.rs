//! Plans by table, and both kinds against a server of a few lines.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::ReplicationController;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::*;
use crate::client::testing::FakeApi;
use crate::controllers::reflect;

fn pod(name: &str, status: Value) -> Arc<Pod> {
    let value = json!({"metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": "web"}},
                       "spec": {"nodeName": "n", "containers": []}, "status": status});
    Arc::new(serde_json::from_value(value).unwrap())
}

fn set(spec: Value) -> Value {
    let mut set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "web", "namespace": "d", "uid": "u", "generation": 2},
        "spec": {"selector": {"matchLabels": {"app": "web"}},
                 "template": {"metadata": {"labels": {"app": "web", "v": "1"}}, "spec": {"containers": []}}},
    });
    json_patch::merge(&mut set["spec"], &spec);
    set
}

#[test]
fn pods_are_made_or_deleted_until_there_are_enough() {
    let pods: Vec<_> = (0..3).map(|n| pod(&n.to_string(), json!({"phase": "Running"}))).collect();
    let now = Timestamp::UNIX_EPOCH;
    for (replicas, present, expected) in [
        (0, 0, Scaling::Done),
        (3, 3, Scaling::Done),
        (3, 1, Scaling::Create(2)),
        (1000, 0, Scaling::Create(500)),
        (0, 3, Scaling::Delete(pods.clone())),
        (-1, 3, Scaling::Delete(pods.clone())),
    ] {
        assert_eq!(plan(replicas, &pods[..present], Vec::new, now), expected, "{replicas} of {present}");
    }
    let Scaling::Delete(gone) = plan(2, &pods, Vec::new, now) else { panic!("one must go") };
    assert_eq!(gone.len(), 1);
}

#[test]
fn the_status_counts_pods_by_how_far_they_are() {
    let ready = |since: &str| {
        json!({"phase": "Running",
               "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}]})
    };
    let mut leaving = Pod::clone(&pod("e", ready("2026-01-01T00:00:00Z")));
    leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let mut labeled = Pod::clone(&pod("f", json!({"phase": "Pending"})));
    labeled.metadata.labels.as_mut().unwrap().insert("v".into(), "1".into());
    let pods = [
        pod("a", ready("2026-01-01T00:00:00Z")),
        pod("b", ready("2026-01-01T00:00:08Z")),
        pod("c", json!({"phase": "Pending"})),
        pod("d", json!({"phase": "Failed"})),
        Arc::new(leaving),
        Arc::new(labeled),
    ];
    let wanted: ReplicaSet = serde_json::from_value(set(json!({"minReadySeconds": 5}))).unwrap();
    let now = "2026-01-01T00:00:10Z".parse().unwrap();
    let counted = Counted::new(&pods, &wanted.wanted().unwrap(), now);
    assert_eq!(counted.next, Some("2026-01-01T00:00:13Z".parse().unwrap()));
    assert_eq!(
        serde_json::to_value(counted.status(&ReplicaSetStatus::default(), Some(2))).unwrap(),
        json!({"replicas": 4, "fullyLabeledReplicas": 1, "readyReplicas": 2, "availableReplicas": 1,
               "terminatingReplicas": 1, "observedGeneration": 2})
    );
    let none =
        Counted::new(&[], &wanted.wanted().unwrap(), now).status(&ReplicaSetStatus::default(), Some(2));
    assert_eq!(
        serde_json::to_value(none).unwrap(),
        json!({"replicas": 0, "terminatingReplicas": 0, "observedGeneration": 2})
    );
}

#[test]
fn a_failure_is_said_once_and_taken_back() {
    let failure = |message: &str| ReplicaSetCondition {
        type_: Some(plan::FAILURE.into()),
        status: Some("True".into()),
        message: Some(message.into()),
        ..ReplicaSetCondition::default()
    };
    let mut conditions = None;
    plan::set_failure(&mut conditions, None);
    assert_eq!(conditions, None);
    plan::set_failure(&mut conditions, Some(failure("first")));
    plan::set_failure(&mut conditions, Some(failure("second")));
    assert_eq!(conditions, Some(vec![failure("first")]));
    plan::set_failure(&mut conditions, None);
    assert_eq!(conditions, None);
}

fn of<'a>(values: &'a [Value], path: &str) -> Vec<&'a Value> {
    values.iter().filter_map(|value| value.pointer(path)).collect()
}

#[tokio::test]
async fn both_kinds_keep_their_pods() {
    let api = FakeApi::default();
    let client = api.client();
    let mut tasks = JoinSet::new();
    let pods: Reflector<Pod> = reflect(&mut tasks, &client);
    let (sets, controllers) = (reflect::<ReplicaSet>(&mut tasks, &client), reflect(&mut tasks, &client));
    tasks.spawn(run(client.clone(), sets.clone(), pods.clone()));
    tasks.spawn(run::<ReplicationController>(client, controllers, pods.clone()));
    api.put("replicasets", set(json!({"replicas": 30})));
    let mut rc = set(json!({"replicas": 2, "selector": null}));
    rc["apiVersion"] = "v1".into();
    rc["kind"] = "ReplicationController".into();
    rc["metadata"]["uid"] = "rc".into();
    rc["spec"]["selector"] = json!({"app": "rc"});
    rc["spec"]["template"]["metadata"]["labels"] = json!({"app": "rc"});
    api.put("replicationcontrollers", rc);
    pods.until(|pods| pods.list().len() == 32).await;
    let made = api.all("pods");
    assert_eq!(of(&made, "/metadata/ownerReferences/0/uid").iter().filter(|uid| **uid == "rc").count(), 2);
    let shows = |replicas: i32| {
        move |sets: &Reflector<ReplicaSet>| {
            sets.get("d/web").and_then(|set| set.status.clone()).is_some_and(|s| s.replicas == replicas)
        }
    };
    sets.until(shows(30)).await;
    // One that vanishes comes back; too many go.
    let name = pods.list()[0].metadata.name.clone().unwrap();
    api.remove("pods", "d", &name);
    pods.until(|pods| pods.get(&format!("d/{name}")).is_none()).await;
    pods.until(|pods| pods.list().len() == 32).await;
    api.put("replicasets", set(json!({"replicas": 5})));
    pods.until(|pods| pods.list().len() == 7).await;
    sets.until(shows(5)).await;
    tasks.shutdown().await;
}
