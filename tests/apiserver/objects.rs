//! Objects and their subresources over HTTP.

use serde_json::json;

use super::server::{Fixture, MAPS, PODS, sent};

const ONE: &str = "/api/v1/namespaces/default/configmaps/one";
const TOKEN: &str = "/api/v1/namespaces/default/serviceaccounts/default/token";

#[tokio::test]
async fn writes_meet_the_state_that_they_name() {
    let f = Fixture::start().await;
    let first = f.config("one").await;
    let patched = f.patch(ONE, json!({"data": {"a": "1"}})).await.expect(200);
    assert_eq!(patched["data"], json!({"a": "1"}));
    let stale = f.put(ONE, first).await.expect(409);
    assert_eq!((&stale["reason"], &stale["details"]["name"]), (&json!("Conflict"), &json!("one")));
    let mut fresh = patched;
    fresh["data"]["b"] = json!("2");
    let put = f.put(ONE, fresh).await.expect(200);
    assert_eq!(put["data"], json!({"a": "1", "b": "2"}));
    let other = f.put("/api/v1/namespaces/default/configmaps/two", put).await.expect(400);
    assert!(other["message"].as_str().unwrap().contains("does not match the name on the URL"), "{other}");
    assert_eq!(f.delete(ONE).await.expect(200)["status"], "Success");
    assert_eq!(f.delete(ONE).await.expect(404)["message"], "configmaps \"one\" not found");
}

#[tokio::test]
async fn tables_have_the_columns_of_their_kind() {
    let f = Fixture::start().await;
    f.pod("www").await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let table = sent(f.request("GET", PODS).header("accept", accept)).await.expect(200);
    assert_eq!(table["kind"], "Table");
    let names: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names[..5], ["Name", "Ready", "Status", "Restarts", "Age"]);
    assert_eq!(table["rows"][0]["cells"][0], "www");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}

#[tokio::test]
async fn an_eviction_asks_the_pod_to_go() {
    let f = Fixture::start().await;
    let pod = f.pod("www").await;
    let path = format!("{PODS}/www/eviction");
    let eviction = |uid: &serde_json::Value| {
        json!({"apiVersion": "policy/v1", "kind": "Eviction",
               "metadata": {"name": "www", "namespace": "default"},
               "deleteOptions": {"preconditions": {"uid": uid}}})
    };
    f.post(&path, eviction(&json!("another"))).await.expect(409);
    let done = f.post(&path, eviction(&pod["metadata"]["uid"])).await.expect(201);
    assert_eq!((&done["kind"], &done["status"]), (&json!("Status"), &json!("Success")));
    let leaving = f.get(&format!("{PODS}/www")).await.expect(200);
    assert_eq!(leaving["metadata"]["deletionGracePeriodSeconds"], 30);
    f.post(&format!("{PODS}/nobody/eviction"), json!({"metadata": {"name": "nobody"}})).await.expect(404);
}

#[tokio::test]
async fn a_requested_token_is_somebody_for_as_long_as_its_pod_lives() {
    let f = Fixture::start().await;
    let pod = f.pod("www").await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
        "expirationSeconds": 600,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "www", "uid": pod["metadata"]["uid"]}}});
    let answer = f.post(TOKEN, request).await.expect(201);
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    let reviews = format!("{}/apis/authentication.k8s.io/v1/selfsubjectreviews", f.base);
    let ask = || {
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        sent(f.stranger.post(&reviews).bearer_auth(&token).json(&body))
    };
    let own = ask().await.expect(201);
    assert_eq!(own["status"]["userInfo"]["username"], "system:serviceaccount:default:default");
    let (head, signature) = token.rsplit_once('.').unwrap();
    let forged = format!("{head}.{}", signature.chars().rev().collect::<String>());
    assert_eq!(sent(f.stranger.get(format!("{}{MAPS}", f.base)).bearer_auth(forged)).await.code, 401);
    f.delete(&format!("{PODS}/www?gracePeriodSeconds=0")).await.expect(200);
    ask().await.expect(401);

    let elsewhere = json!({"spec": {"audiences": ["vault"]}});
    let answer = f.post(TOKEN, elsewhere).await.expect(201);
    let token = answer["status"]["token"].as_str().unwrap();
    assert_eq!(sent(f.stranger.get(format!("{}{MAPS}", f.base)).bearer_auth(token)).await.code, 401);
    let short = f.post(TOKEN, json!({"spec": {"expirationSeconds": 1}})).await.expect(422);
    assert!(short["message"].as_str().unwrap().contains("may not specify a duration less than 10 minutes"));
}

#[tokio::test]
async fn the_first_objects_come_back() {
    let f = Fixture::start().await;
    let api = f.api.clone();
    let keeper = tokio::spawn(async move { api.keep([192, 0, 2, 1].into(), 6443).await });
    let service = "/api/v1/namespaces/default/services/kubernetes";
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let first = f.get(service).await.expect(200);
    for path in [service, slice] {
        let mut watch = f.watch(&format!("{path}?watch=1")).await;
        assert_eq!(watch.next().await["type"], "ADDED");
        f.delete(path).await.expect(200);
        assert_eq!(watch.next().await["type"], "DELETED");
        assert_eq!(watch.next().await["type"], "ADDED");
    }
    let again = f.get(service).await.expect(200);
    assert_eq!(again["spec"]["clusterIP"], first["spec"]["clusterIP"]);
    assert_ne!(again["metadata"]["uid"], first["metadata"]["uid"]);
    let mut watch = f.watch(&format!("{slice}?watch=1")).await;
    watch.next().await;
    f.patch(slice, json!({"endpoints": []})).await.expect(200);
    assert_eq!(watch.next().await["object"]["endpoints"].as_array().map_or(0, Vec::len), 0);
    assert_eq!(watch.next().await["object"]["endpoints"][0]["addresses"], json!(["192.0.2.1"]));
    // So does the one of the standing namespaces that may be deleted.
    let namespace = "/api/v1/namespaces/kube-node-lease";
    let mut watch = f.watch(&format!("{namespace}?watch=1")).await;
    let mut leaving = watch.next().await["object"].clone();
    f.delete(namespace).await.expect(200);
    leaving["metadata"]["resourceVersion"] = json!("");
    leaving["spec"]["finalizers"] = json!([]);
    f.put(&format!("{namespace}/finalize"), leaving).await.expect(200);
    while watch.next().await["type"] != "ADDED" {}
    keeper.abort();
}
