//! Resource quotas and limit ranges over the API.

use std::time::Duration;

use futures::future::join_all;
use minik::api::request::User;
use minik::client::Client;
use minik::controllers::kinds::Kinds;
use minik::controllers::resource_quota;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::server::{Fixture, MAPS, PODS};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

fn count(f: &Fixture) -> AbortOnDropHandle<()> {
    let client = Client::new(f.api.clone(), User::component("system:serviceaccount:kube-system:quota"));
    let (kinds, feed) = Kinds::new(&client);
    AbortOnDropHandle::new(tokio::spawn(async {
        tokio::join!(feed, resource_quota::run(client, kinds));
    }))
}

/// A quota of which it is known that nothing is used.
async fn quota(f: &Fixture, hard: Value) {
    f.post(QUOTAS, json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await.expect(201);
    let used: Value = hard.as_object().unwrap().keys().map(|name| (name.clone(), json!("0"))).collect();
    let status = json!({"status": {"hard": hard, "used": used}});
    f.patch(&format!("{QUOTAS}/q/status"), status).await.expect(200);
}

/// Waits until a quota says that so much is used.
async fn until_used(f: &Fixture, name: &str, used: Value) {
    let patience = async {
        loop {
            let quota = f.get(&format!("{QUOTAS}/{name}")).await.expect(200);
            if quota["status"]["used"] == used {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), patience).await.expect("the count in time");
}

#[tokio::test]
async fn what_many_make_at_once_never_exceeds_a_quota() {
    let f = Fixture::start().await;
    quota(&f, json!({"count/configmaps": "5", "configmaps": "7"})).await;
    let make = |i: usize| {
        let map = json!({"metadata": {"name": format!("m{i}")}});
        let f = &f;
        async move { f.post(MAPS, map).await }
    };
    let answers = join_all((0..20).map(make)).await;
    let made = answers.iter().filter(|answer| answer.code == 201).count();
    assert_eq!(made, 5);
    let refused = answers.into_iter().find(|answer| answer.code != 201).unwrap().expect(403);
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.ends_with(
            "is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=5, limited: \
             count/configmaps=5"
        ),
        "{message}"
    );
    let quota = f.get(&format!("{QUOTAS}/q")).await.expect(200);
    assert_eq!(quota["status"]["used"], json!({"count/configmaps": "5", "configmaps": "5"}));
}

#[tokio::test]
async fn what_is_not_made_costs_nothing() {
    let f = Fixture::start().await;
    quota(&f, json!({"configmaps": "2"})).await;
    f.config("a").await;
    f.post(MAPS, json!({"metadata": {"name": "a"}})).await.expect(409);
    f.post(&format!("{MAPS}?dryRun=All"), json!({"metadata": {"name": "b"}})).await.expect(201);
    until_used(&f, "q", json!({"configmaps": "1"})).await;
    f.config("b").await;
    f.post(&format!("{MAPS}?dryRun=All"), json!({"metadata": {"name": "c"}})).await.expect(403);
}

#[tokio::test]
async fn quotas_are_counted_when_they_come_and_when_something_goes() {
    let f = Fixture::start().await;
    let _counting = count(&f);
    f.config("a").await;
    f.post(QUOTAS, json!({"metadata": {"name": "q"}, "spec": {"hard": {"configmaps": "2"}}}))
        .await
        .expect(201);
    until_used(&f, "q", json!({"configmaps": "1"})).await;
    f.config("b").await;
    f.post(MAPS, json!({"metadata": {"name": "c"}})).await.expect(403);
    f.delete(&format!("{MAPS}/a")).await.expect(200);
    until_used(&f, "q", json!({"configmaps": "1"})).await;
    f.config("c").await;
    until_used(&f, "q", json!({"configmaps": "2"})).await;
}

#[tokio::test]
async fn objects_of_custom_kinds_are_counted() {
    let f = Fixture::start().await;
    let _counting = count(&f);
    f.post(QUOTAS, json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/widgets.e.com": "2"}}}))
        .await
        .expect(201);
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    let definition = json!({"metadata": {"name": "widgets.e.com"}, "spec": {"group": "e.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]}});
    f.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await.expect(201);
    until_used(&f, "q", json!({"count/widgets.e.com": "0"})).await;
    let widgets = "/apis/e.com/v1/namespaces/default/widgets";
    let widget = |name: &str| json!({"apiVersion": "e.com/v1", "kind": "Widget", "metadata": {"name": name}});
    for name in ["a", "b"] {
        f.post(widgets, widget(name)).await.expect(201);
    }
    let refused = f.post(widgets, widget("c")).await.expect(403);
    assert_eq!(
        refused["message"],
        "widgets.e.com \"c\" is forbidden: exceeded quota: q, requested: count/widgets.e.com=1, used: \
         count/widgets.e.com=2, limited: count/widgets.e.com=2"
    );
    f.delete(&format!("{widgets}/a")).await.expect(200);
    until_used(&f, "q", json!({"count/widgets.e.com": "1"})).await;
    f.post(widgets, widget("c")).await.expect(201);
}

#[tokio::test]
async fn pods_must_fit_what_a_namespace_has() {
    let f = Fixture::start().await;
    f.pod("first").await;
    quota(&f, json!({"requests.cpu": "1", "limits.cpu": "2"})).await;
    let pod = |name: &str, resources: Value| {
        json!({"metadata": {"name": name}, "spec": {"containers": [
            {"name": "c", "image": "nginx", "resources": resources}]}})
    };
    let refused = f.post(PODS, pod("plain", json!({}))).await.expect(403);
    assert_eq!(
        refused["message"],
        "pods \"plain\" is forbidden: failed quota: q: must specify limits.cpu for: c; requests.cpu for: c"
    );
    let ranges = "/api/v1/namespaces/default/limitranges";
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "Container", "max": {"cpu": "2"}, "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "250m"}}]}});
    f.post(ranges, range).await.expect(201);
    let made = f.post(PODS, pod("plain", json!({}))).await.expect(201);
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "250m"}})
    );
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    );
    let refused = f.post(PODS, pod("big", json!({"limits": {"cpu": "3"}}))).await.expect(403);
    assert_eq!(
        refused["message"],
        "pods \"big\" is forbidden: maximum cpu usage per Container is 2, but limit is 3"
    );
    let refused = f.post(PODS, pod("more", json!({"limits": {"cpu": "1"}}))).await.expect(403);
    assert_eq!(
        refused["message"],
        "pods \"more\" is forbidden: exceeded quota: q, requested: requests.cpu=1, used: requests.cpu=250m, limited: \
         requests.cpu=1"
    );
}
