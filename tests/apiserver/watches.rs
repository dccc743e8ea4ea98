//! Watches over HTTP.

use serde_json::json;

use super::server::{Fixture, MAPS, sent};

#[tokio::test]
async fn a_watch_follows_its_selector() {
    let f = Fixture::start().await;
    let from = f.get(MAPS).await.expect(200)["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut watch =
        f.watch(&format!("{MAPS}?watch=true&resourceVersion={from}&labelSelector=app%3Dweb")).await;
    f.config("other").await;
    let labelled = |app: &str| json!({"metadata": {"labels": {"app": app}}});
    f.post(MAPS, json!({"metadata": {"name": "one", "labels": {"app": "web"}}})).await.expect(201);
    f.patch(&format!("{MAPS}/one"), json!({"data": {"k": "v"}})).await.expect(200);
    f.patch(&format!("{MAPS}/one"), labelled("db")).await.expect(200);
    f.patch(&format!("{MAPS}/one"), labelled("web")).await.expect(200);
    f.delete(&format!("{MAPS}/one")).await.expect(200);
    for kind in ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"] {
        let event = watch.next().await;
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!(kind), &json!("one")));
    }
}

#[tokio::test]
async fn a_table_watch_names_its_columns_once() {
    let f = Fixture::start().await;
    f.config("one").await;
    let request = f
        .request("GET", &format!("{MAPS}?watch=true"))
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json");
    let mut watch = Fixture::events(request).await;
    let first = watch.next().await;
    assert_eq!((&first["type"], &first["object"]["kind"]), (&json!("ADDED"), &json!("Table")));
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    assert_eq!(first["object"]["rows"][0]["cells"][0], "one");
    f.config("two").await;
    let second = watch.next().await;
    assert_eq!(second["object"]["rows"][0]["cells"][0], "two");
    assert!(second["object"]["columnDefinitions"].as_array().is_none_or(Vec::is_empty), "{second}");
}

#[tokio::test]
async fn a_streamed_list_ends_with_a_marked_bookmark() {
    let f = Fixture::start().await;
    f.config("one").await;
    f.config("two").await;
    let stream = "watch=true&sendInitialEvents=true&allowWatchBookmarks=true";
    let mut watch = f.watch(&format!("{MAPS}?{stream}&resourceVersionMatch=NotOlderThan")).await;
    for name in ["one", "two"] {
        let event = watch.next().await;
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!(name)));
    }
    let end = watch.next().await;
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["kind"], "ConfigMap");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    f.config("three").await;
    assert_eq!(watch.next().await["object"]["metadata"]["name"], "three");
    let unmatched = f.get(&format!("{MAPS}?{stream}")).await.expect(422);
    assert_eq!(unmatched["reason"], "Invalid", "{unmatched}");
}

#[tokio::test]
async fn a_watch_from_what_is_forgotten_is_gone() {
    let f = Fixture::start().await;
    f.config("one").await;
    let store = f.api.registry().store();
    store.compact(store.revision()).await.unwrap();
    let mut watch = f.watch(&format!("{MAPS}?watch=true&resourceVersion=1")).await;
    let event = watch.next().await;
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(event["object"]["reason"], "Expired");
    let listed = f.get(&format!("{MAPS}?resourceVersion=1&resourceVersionMatch=Exact")).await.expect(410);
    assert_eq!(listed["reason"], "Expired");
    let timed = sent(f.request("GET", &format!("{MAPS}?watch=true&timeoutSeconds=1"))).await;
    assert_eq!(timed.code, 200);
}
