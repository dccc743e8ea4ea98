//! Deletes over HTTP: what they answer, what they ask for, what they leave.

use serde_json::{Value, json};

use super::server::{Answer, Fixture, MAPS, PODS, names, sent};

const ONE: &str = "/api/v1/namespaces/default/configmaps/one";
const WWW: &str = "/api/v1/namespaces/default/pods/www";

async fn delete(f: &Fixture, path: &str, options: Value) -> Answer {
    sent(f.request("DELETE", path).json(&options)).await
}

#[tokio::test]
async fn preconditions_are_told_by_kind() {
    let f = Fixture::start().await;
    let pod = f.pod("www").await;
    let (uid, version) = (&pod["metadata"]["uid"], &pod["metadata"]["resourceVersion"]);
    let refused = delete(&f, WWW, json!({"preconditions": {"uid": "a"}})).await.expect(409);
    assert_eq!(
        refused["message"],
        format!(
            "Operation cannot be fulfilled on Pod \"www\": the UID in the precondition (a) does not match the UID \
             in record ({}). The object might have been deleted and then recreated",
            uid.as_str().unwrap()
        )
    );
    let refused = delete(&f, WWW, json!({"preconditions": {"resourceVersion": "1"}})).await.expect(409);
    assert_eq!(
        refused["message"],
        format!(
            "Operation cannot be fulfilled on Pod \"www\": the ResourceVersion in the precondition (1) does not \
             match the ResourceVersion in record ({}). The object might have been modified",
            version.as_str().unwrap()
        )
    );
    let right = json!({"preconditions": {"uid": uid, "resourceVersion": version}, "gracePeriodSeconds": 0});
    delete(&f, WWW, right).await.expect(200);
    f.get(WWW).await.expect(404);
}

#[tokio::test]
async fn some_kinds_answer_with_what_was_removed() {
    let f = Fixture::start().await;
    let services = "/api/v1/namespaces/default/services";
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    f.post(services, json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}})).await.expect(201);
    f.post(accounts, json!({"metadata": {"name": "a"}})).await.expect(201);
    f.config("one").await;
    for (path, kind) in [
        (format!("{services}/s"), "Service"),
        (format!("{accounts}/a"), "ServiceAccount"),
        (ONE.into(), "Status"),
    ] {
        for options in [json!({"dryRun": ["All"]}), json!({})] {
            let answer = delete(&f, &path, options.clone()).await.expect(200);
            assert_eq!(answer["kind"], kind, "{path} {options}");
        }
        f.get(&path).await.expect(404);
    }
}

#[tokio::test]
async fn a_negative_grace_period_is_a_second() {
    let f = Fixture::start().await;
    f.pod("www").await;
    let leaving = delete(&f, WWW, json!({"gracePeriodSeconds": -5})).await.expect(200);
    assert_eq!(leaving["metadata"]["deletionGracePeriodSeconds"], 1);
    let both = json!({"orphanDependents": true, "propagationPolicy": "Foreground"});
    let refused = delete(&f, WWW, both).await.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("cannot be both set"), "{refused}");
}

#[tokio::test]
async fn a_collection_goes_by_its_selection() {
    let f = Fixture::start().await;
    for n in 0..6 {
        let finalizers = if n == 3 { json!(["example.com/x"]) } else { Value::Null };
        let labels = json!({"half": if n % 2 == 0 { "even" } else { "odd" }});
        let metadata = json!({"name": format!("m{n}"), "labels": labels, "finalizers": finalizers});
        f.post(MAPS, json!({"metadata": metadata})).await.expect(201);
    }
    let odd = format!("{MAPS}?labelSelector=half%3Dodd");
    let would = sent(f.request("DELETE", &format!("{odd}&dryRun=All"))).await.expect(200);
    assert_eq!(names(&would), ["m1", "m3", "m5"]);
    let first = sent(f.request("DELETE", &format!("{MAPS}?limit=1"))).await.expect(200);
    assert_eq!(names(&first), ["m0"]);
    let deleted = f.delete(&odd).await.expect(200);
    assert_eq!(names(&deleted), ["m1", "m3", "m5"]);
    let left = f.get(MAPS).await.expect(200);
    assert_eq!(names(&left), ["m2", "m3", "m4"]);
    let held = f.get(&format!("{MAPS}/m3")).await.expect(200);
    assert!(held["metadata"]["deletionTimestamp"].is_string());

    for name in ["p1", "p2"] {
        f.pod(name).await;
    }
    f.delete(PODS).await.expect(200);
    let leaving = f.get(PODS).await.expect(200);
    assert_eq!(names(&leaving), ["p1", "p2"]);
    assert!(
        leaving["items"]
            .as_array()
            .unwrap()
            .iter()
            .all(|p| p["metadata"]["deletionGracePeriodSeconds"] == 30)
    );
    f.delete(&format!("{PODS}?gracePeriodSeconds=0")).await.expect(200);
    assert!(names(&f.get(PODS).await.expect(200)).is_empty());
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let f = Fixture::start().await;
    let made = f.config("one").await;
    let mut put = made.clone();
    put["data"] = json!({"k": "put"});
    let answer = f.put(&format!("{ONE}?dryRun=All"), put).await.expect(200);
    assert_eq!(answer["data"]["k"], "put");
    let answer = f.patch(&format!("{ONE}?dryRun=All"), json!({"data": {"k": "patch"}})).await.expect(200);
    assert_eq!(answer["data"]["k"], "patch");
    f.delete(&format!("{ONE}?dryRun=All")).await.expect(200);
    let leaving = f.pod("www").await;
    let answer = f.delete(&format!("{WWW}?dryRun=All")).await.expect(200);
    assert_eq!(answer["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(f.get(ONE).await.expect(200), made);
    assert_eq!(f.get(WWW).await.expect(200), leaving);
}
