//! Creates and updates over HTTP: names, versions, and which part of an object a write may touch.

use std::time::Duration;

use serde_json::json;

use super::server::{Fixture, MAPS, PODS, sent};

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";

#[tokio::test]
async fn a_put_makes_what_may_be_made_so() {
    let f = Fixture::start().await;
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}});
    let made = f.put(LEASE, lease.clone()).await.expect(201);
    let blind = f.put(LEASE, lease).await.expect(422);
    assert!(blind["message"].as_str().unwrap().contains("metadata.resourceVersion"), "{blind}");
    let mut next = made.clone();
    next["spec"]["holderIdentity"] = json!("you");
    f.put(LEASE, next).await.expect(200);
    f.put(LEASE, made).await.expect(409);
    let map = json!({"metadata": {"name": "one"}});
    f.put(&format!("{MAPS}/one"), map.clone()).await.expect(404);
    f.config("one").await;
    f.put(&format!("{MAPS}/one"), map).await.expect(200);
}

#[tokio::test]
async fn object_and_status_are_written_apart() {
    let f = Fixture::start().await;
    let pod = f.pod("www").await;
    let path = format!("{PODS}/www");
    let mut both = pod.clone();
    both["metadata"]["labels"] = json!({"l": "1"});
    both["spec"]["containers"][0]["image"] = json!("httpd");
    both["status"]["phase"] = json!("Running");
    let by_status = f.put(&format!("{path}/status"), both.clone()).await.expect(200);
    assert_eq!(by_status["status"]["phase"], "Running");
    assert_eq!(by_status["spec"]["containers"][0]["image"], "nginx");
    both["metadata"]["resourceVersion"] = by_status["metadata"]["resourceVersion"].clone();
    both["status"]["phase"] = json!("Failed");
    let by_object = f.put(&path, both).await.expect(200);
    assert_eq!(by_object["status"]["phase"], "Running");
    assert_eq!(by_object["spec"]["containers"][0]["image"], "httpd");
    assert_eq!(by_object["metadata"]["labels"]["l"], "1");

    let class = json!({"status": {"qosClass": "Guaranteed"}});
    let refused = f.patch(&format!("{path}/status"), class).await.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("status.qosClass"), "{refused}");
    let phase = json!({"status": {"phase": "Terminating"}});
    let refused = f.patch("/api/v1/namespaces/default/status", phase).await.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("may only be 'Active'"), "{refused}");
}

#[tokio::test]
async fn names_are_generated_and_clashes_told() {
    let f = Fixture::start().await;
    let made = f.post(MAPS, json!({"metadata": {"generateName": "x-"}})).await.expect(201);
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.len() == 7 && name.starts_with("x-"), "{name}");
    let again = f.post(MAPS, json!({"metadata": {"name": name}})).await.expect(409);
    assert_eq!(again["message"], format!("configmaps \"{name}\" already exists"));
    // Who gives both leaves the choice to the server, too, if only in words.
    let both = f.post(MAPS, json!({"metadata": {"name": name, "generateName": "x-"}})).await.expect(409);
    assert_eq!(
        both["message"],
        format!(
            "configmaps \"{name}\" already exists, the server was not able to generate a unique name for the object"
        )
    );
}

#[tokio::test]
async fn who_sends_or_answers_slowly_is_not_waited_for() {
    let f = Fixture::start_impatient(Duration::from_secs(2)).await;
    let never = reqwest::Body::wrap_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let slow = f.request("POST", MAPS).header("content-type", "application/json").body(never);
    let late = sent(slow).await.expect(504);
    assert_eq!(
        (&late["reason"], &late["message"]),
        (&json!("Timeout"), &json!("Timeout: request did not complete within the allotted timeout"))
    );
    // A watch has all the time.
    let mut watch = f.watch(&format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Dlater")).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    f.config("later").await;
    assert_eq!(watch.next().await["type"], "ADDED");
}
