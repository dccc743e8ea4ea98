//! The garbage collector over the API.

use minik::api::request::User;
use minik::client::Client;
use minik::controllers::garbage_collector;
use minik::controllers::kinds::Kinds;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::server::{Answer, Events, Fixture, MAPS, PODS, sent};

const ALL: &str = "/api/v1/configmaps?watch=1&labelSelector=seen%3Dyes";

fn collect(f: &Fixture) -> AbortOnDropHandle<()> {
    let client = Client::new(f.api.clone(), User::component("system:serviceaccount:kube-system:collector"));
    AbortOnDropHandle::new(tokio::spawn(garbage_collector::run(client, Kinds::built_in())))
}

fn reference(owner: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "blockOwnerDeletion": true})
}

/// A config map of these owners, which the watch of [`ALL`] sees.
async fn map(f: &Fixture, name: &str, owners: &[Value], finalizers: &[&str]) -> Value {
    let metadata = json!({"name": name, "labels": {"seen": "yes"}, "ownerReferences": owners,
        "finalizers": finalizers});
    f.post(MAPS, json!({"metadata": metadata})).await.expect(201)
}

async fn delete(f: &Fixture, name: &str, policy: &str) -> Answer {
    sent(f.request("DELETE", &format!("{MAPS}/{name}")).json(&json!({"propagationPolicy": policy}))).await
}

/// Waits until the objects of these names have gone, in the order in which they do.
async fn gone(watch: &mut Events, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    while names.len() < count {
        let event = watch.next().await;
        if event["type"] == "DELETED" {
            names.push(event["object"]["metadata"]["name"].as_str().unwrap().to_owned());
        }
    }
    names
}

#[tokio::test]
async fn what_belongs_to_a_deleted_object_goes_at_once() {
    let f = Fixture::start().await;
    let _collector = collect(&f);
    let mut watch = f.watch(ALL).await;
    let (a, b) = (map(&f, "a", &[], &[]).await, map(&f, "b", &[], &[]).await);
    let child = map(&f, "child", &[reference(&a)], &[]).await;
    map(&f, "grandchild", &[reference(&child)], &[]).await;
    map(&f, "shared", &[reference(&a), reference(&b)], &[]).await;
    delete(&f, "a", "Background").await.expect(200);
    assert_eq!(gone(&mut watch, 3).await, ["a", "child", "grandchild"]);
    let mut shared = f.watch(&format!("{MAPS}/shared?watch=1")).await;
    while shared.next().await["object"]["metadata"]["ownerReferences"].as_array().unwrap().len() > 1 {}
    delete(&f, "b", "Background").await.expect(200);
    assert_eq!(gone(&mut watch, 2).await, ["b", "shared"]);
}

#[tokio::test]
async fn a_deletion_in_the_foreground_waits_for_what_blocks_it() {
    let f = Fixture::start().await;
    let _collector = collect(&f);
    let mut watch = f.watch(ALL).await;
    let owner = map(&f, "owner", &[], &[]).await;
    let held = map(&f, "held", &[reference(&owner)], &["example.com/x"]).await;
    map(&f, "below", &[reference(&held)], &[]).await;
    map(&f, "free", &[reference(&owner)], &[]).await;
    let leaving = delete(&f, "owner", "Foreground").await.expect(200);
    assert_eq!(leaving["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    let mut first = gone(&mut watch, 2).await;
    first.sort();
    assert_eq!(first, ["below", "free"]);
    let waits = f.get(&format!("{MAPS}/owner")).await.expect(200);
    assert!(waits["metadata"]["deletionTimestamp"].is_string());
    // The collector takes its own finalizer off `held`, which another one still holds.
    let mut watched = f.watch(&format!("{MAPS}/held?watch=1")).await;
    while watched.next().await["object"]["metadata"]["finalizers"] != json!(["example.com/x"]) {}
    f.patch(&format!("{MAPS}/held"), json!({"metadata": {"finalizers": null}})).await.expect(200);
    assert_eq!(gone(&mut watch, 2).await, ["held", "owner"]);
    // One that owns nothing goes without waiting.
    map(&f, "alone", &[], &[]).await;
    delete(&f, "alone", "Foreground").await.expect(200);
    assert_eq!(gone(&mut watch, 1).await, ["alone"]);
}

#[tokio::test]
async fn orphans_stay() {
    let f = Fixture::start().await;
    let _collector = collect(&f);
    let mut watch = f.watch(ALL).await;
    let owner = map(&f, "owner", &[], &[]).await;
    for name in ["one", "two"] {
        map(&f, name, &[reference(&owner)], &[]).await;
    }
    delete(&f, "owner", "Orphan").await.expect(200);
    assert_eq!(gone(&mut watch, 1).await, ["owner"]);
    for name in ["one", "two"] {
        let left = f.get(&format!("{MAPS}/{name}")).await.expect(200);
        assert!(left["metadata"].get("ownerReferences").is_none(), "{left}");
    }
}

#[tokio::test]
async fn owners_are_looked_for_by_uid_where_they_must_be() {
    let f = Fixture::start().await;
    let mut watch = f.watch(ALL).await;
    let owner = map(&f, "owner", &[], &[]).await;
    let node = f.post("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await.expect(201);
    let mut another = reference(&owner);
    another["uid"] = json!("11111111-2222-3333-4444-555555555555");
    map(&f, "stranger", &[another], &[]).await;
    let of_node = json!({"apiVersion": "v1", "kind": "Node", "name": "n", "uid": node["metadata"]["uid"]});
    map(&f, "of-node", &[of_node], &[]).await;
    let unknown = json!({"apiVersion": "example.com/v1", "kind": "Thing", "name": "t", "uid": "u"});
    map(&f, "of-unknown", &[unknown], &[]).await;
    let elsewhere = json!({"metadata": {"name": "elsewhere", "labels": {"seen": "yes"},
        "ownerReferences": [reference(&owner)]}});
    f.post("/api/v1/namespaces/kube-system/configmaps", elsewhere).await.expect(201);
    // What was left behind while nobody looked goes as well.
    let _collector = collect(&f);
    let mut first = gone(&mut watch, 2).await;
    first.sort();
    assert_eq!(first, ["elsewhere", "stranger"]);
    f.delete("/api/v1/nodes/n").await.expect(200);
    assert_eq!(gone(&mut watch, 1).await, ["of-node"]);
    f.get(&format!("{MAPS}/of-unknown")).await.expect(200);
}

#[tokio::test]
async fn pods_of_a_deleted_owner_end_gracefully() {
    let f = Fixture::start().await;
    let _collector = collect(&f);
    let owner = map(&f, "owner", &[], &[]).await;
    f.pod("www").await;
    f.patch(&format!("{PODS}/www"), json!({"metadata": {"ownerReferences": [reference(&owner)]}}))
        .await
        .expect(200);
    let mut watch = f.watch(&format!("{PODS}/www?watch=1")).await;
    delete(&f, "owner", "Background").await.expect(200);
    while watch.next().await["object"]["metadata"]["deletionGracePeriodSeconds"] != 30 {}
}

#[tokio::test]
async fn owners_of_each_other_do_not_wait_for_ever() {
    let f = Fixture::start().await;
    let _collector = collect(&f);
    let mut watch = f.watch(ALL).await;
    let a = map(&f, "a", &[], &[]).await;
    let b = map(&f, "b", &[reference(&a)], &[]).await;
    f.patch(&format!("{MAPS}/a"), json!({"metadata": {"ownerReferences": [reference(&b)]}}))
        .await
        .expect(200);
    delete(&f, "a", "Foreground").await.expect(200);
    assert_eq!(gone(&mut watch, 2).await, ["a", "b"]);
}
