//! Priority and fairness by the objects that say how: flow schemas and priority levels.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::server::{Answer, Fixture, MAPS, sent};
use super::webhooks::{self, Hook};

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

/// What the administrator gets as somebody else.
async fn as_user(f: &Fixture, user: &str) -> Answer {
    sent(f.request("GET", MAPS).header("impersonate-user", user)).await
}

/// What a user gets, once it has this code and a priority level of this uid.
async fn sorted(f: &Fixture, user: &str, code: u16, level: &str) -> Answer {
    let answered = async {
        loop {
            let answer = as_user(f, user).await;
            if answer.code == code && answer.header("x-kubernetes-pf-prioritylevel-uid") == level {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), answered).await.expect("the objects take effect")
}

async fn dangling(f: &Fixture, status: &str) {
    let told = async {
        loop {
            let schema = f.get(&format!("{GROUP}/flowschemas/jane")).await.expect(200);
            let condition = &schema["status"]["conditions"][0];
            if condition["type"] == "Dangling" && condition["status"] == status {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), told)
        .await
        .expect("the schema says whether its level is there");
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn flow_schemas_and_priority_levels_of_others_take_effect() {
    let f = Fixture::start().await;
    let usual = f.get(&format!("{GROUP}/prioritylevelconfigurations/global-default")).await.expect(200);
    sorted(&f, "jane", 403, &uid(&usual)).await;
    let schema = json!({"metadata": {"name": "jane"}, "spec": {"matchingPrecedence": 20,
        "priorityLevelConfiguration": {"name": "jail"}, "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": "jane"}}], "resourceRules": [
            {"verbs": ["list"], "apiGroups": [""], "resources": ["configmaps"], "namespaces": ["default"]}]}]}});
    let schema = f.post(&format!("{GROUP}/flowschemas"), schema).await.expect(201);
    dangling(&f, "True").await;
    sorted(&f, "jane", 403, &uid(&usual)).await;

    let level = json!({"metadata": {"name": "jail"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 0, "limitResponse": {"type": "Reject"}}}});
    let level = f.post(&format!("{GROUP}/prioritylevelconfigurations"), level).await.expect(201);
    dangling(&f, "False").await;
    let refused = sorted(&f, "jane", 429, &uid(&level)).await;
    assert_eq!(refused.header("x-kubernetes-pf-flowschema-uid"), uid(&schema));
    assert_eq!(refused.header("retry-after"), "1");
    sorted(&f, "joe", 403, &uid(&usual)).await;

    let path = format!("{GROUP}/prioritylevelconfigurations/jail");
    f.patch(&path, json!({"spec": {"limited": {"nominalConcurrencyShares": 10}}})).await.expect(200);
    sorted(&f, "jane", 403, &uid(&level)).await;
    f.delete(&format!("{GROUP}/flowschemas/jane")).await.expect(200);
    sorted(&f, "jane", 403, &uid(&usual)).await;
}

#[tokio::test]
async fn one_client_cannot_keep_another_waiting() {
    let f = Fixture::start().await;
    let binding = json!({"metadata": {"name": "all"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole", "name": "cluster-admin"}, "subjects": [
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "greedy"},
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "modest"}]});
    f.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await.expect(201);
    let level = json!({"metadata": {"name": "shared"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "limitResponse": {"type": "Queue",
            "queuing": {"queues": 64, "handSize": 6, "queueLengthLimit": 100}}}}});
    let level = f.post(&format!("{GROUP}/prioritylevelconfigurations"), level).await.expect(201);
    let schema = json!({"metadata": {"name": "shared"}, "spec": {"matchingPrecedence": 20,
        "priorityLevelConfiguration": {"name": "shared"}, "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": "greedy"}}, {"kind": "User", "user": {"name": "modest"}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}]}]}});
    f.post(&format!("{GROUP}/flowschemas"), schema).await.expect(201);
    sorted(&f, "greedy", 200, &uid(&level)).await;

    // Each write takes its seat for a second.
    let hook = Hook::start(|_| None).await;
    let patience = json!({"timeoutSeconds": 1, "failurePolicy": "Ignore"});
    webhooks::validating(&f, json!([hook.webhook(patience)])).await;
    let finished = AtomicUsize::new(0);
    let write = async |i: usize| {
        let map = json!({"metadata": {"name": format!("map-{i}")}});
        let made = sent(f.request("POST", MAPS).header("impersonate-user", "greedy").json(&map)).await;
        made.expect(201);
        finished.fetch_add(1, Ordering::Relaxed);
    };
    const WRITES: usize = 15;
    let greedy = futures::future::join_all((0..WRITES).map(write));
    let modest = async {
        while hook.seen().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let answer = as_user(&f, "modest").await;
        let level = uid(&level);
        assert_eq!((answer.code, answer.header("x-kubernetes-pf-prioritylevel-uid")), (200, level.as_str()));
        finished.load(Ordering::Relaxed)
    };
    let (_, before) = futures::join!(greedy, modest);
    assert!(before < WRITES / 2, "{before} of {WRITES} requests of the greedy client went first");
}
