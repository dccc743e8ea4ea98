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

#[tokio::test]
async fn a_watcher_that_does_not_read_holds_nobody_up_and_is_left_behind() {
    const CHANGES: usize = 40;
    let f = Fixture::start().await;
    f.config("one").await;
    let path = format!("{MAPS}?watch=true");
    // What shares no connection with it is not held up by it.
    let mut slow = Fixture::events(f.second.get(format!("{}{path}", f.base))).await;
    let mut fast = f.watch(&path).await;
    for watch in [&mut slow, &mut fast] {
        watch.next().await;
    }
    let store = f.api.registry().store();
    for n in 0..CHANGES {
        let data = json!({"data": {"k": format!("{n}{}", "x".repeat(300_000))}});
        f.patch(&format!("{MAPS}/one"), data).await.expect(200);
        let seen = fast.next().await;
        assert!(seen["object"]["data"]["k"].as_str().unwrap().starts_with(&format!("{n}x")));
    }
    store.compact(store.revision()).await.unwrap();
    let mut seen = 0;
    loop {
        let event = slow.next().await;
        if event["type"] == "ERROR" {
            assert_eq!(event["object"]["code"], 410);
            break;
        }
        seen += 1;
    }
    assert!(seen < CHANGES, "{seen} changes were kept for it");
}
