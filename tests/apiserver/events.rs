//! Events by the newer of their two groups.

use serde_json::{Value, json};

use super::server::{Fixture, sent};

const CORE: &str = "/api/v1/namespaces/default/events";
const NEW: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

fn event(name: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": name}, "type": "Warning",
        "eventTime": "2024-01-01T00:00:00.000000Z", "reason": "Odd", "action": "Looking", "note": "strange things",
        "reportingController": "example.com/looker", "reportingInstance": "looker-1",
        "regarding": {"kind": "Pod", "namespace": "default", "name": "www"}
    })
}

#[tokio::test]
async fn they_are_made_listed_and_watched_in_their_own_form() {
    let f = Fixture::start().await;
    let mut watch = f.watch(&format!("{NEW}?watch=1")).await;
    let made = f.post(NEW, event("e")).await.expect(201);
    assert_eq!((&made["note"], &made["apiVersion"]), (&json!("strange things"), &json!("events.k8s.io/v1")));
    let list = f.get(NEW).await.expect(200);
    assert_eq!((&list["kind"], &list["items"][0]["regarding"]["name"]), (&json!("EventList"), &json!("www")));
    let seen = watch.next().await;
    assert_eq!((&seen["type"], &seen["object"]["note"]), (&json!("ADDED"), &json!("strange things")));
    let core = f.get(&format!("{CORE}/e")).await.expect(200);
    assert_eq!(
        (&core["message"], &core["involvedObject"]["name"]),
        (&json!("strange things"), &json!("www"))
    );
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    for path in [format!("{NEW}?includeObject=Object"), format!("{NEW}/e?includeObject=Object")] {
        let table = sent(f.request("GET", &path).header("accept", table)).await.expect(200);
        let row = &table["rows"][0];
        assert_eq!(
            (&row["object"]["note"], &row["cells"][6]),
            (&json!("strange things"), &json!("strange things"))
        );
        assert_eq!(row["object"]["apiVersion"], "events.k8s.io/v1");
    }
}

#[tokio::test]
async fn they_are_held_to_the_rules_of_the_group() {
    let f = Fixture::start().await;
    for (field, value, error) in [
        ("eventTime", Value::Null, "eventTime: Required value"),
        ("type", json!("Odd"), "type: Invalid value: \"\": has invalid value: Odd"),
        ("deprecatedCount", json!(1), "count: Invalid value: \"\": needs to be unset"),
        ("reportingController", Value::Null, "reportingController: Required value"),
        ("action", Value::Null, "action: Required value"),
    ] {
        let mut wrong = event("wrong");
        wrong[field] = value;
        let refused = f.post(NEW, wrong).await.expect(422);
        let message = refused["message"].as_str().unwrap();
        assert!(
            message.starts_with("Event.events.k8s.io \"wrong\" is invalid: ") && message.contains(error),
            "{message}"
        );
    }
    f.post(NEW, event("e")).await.expect(201);
    let path = format!("{NEW}/e");
    let refused = f.patch(&path, json!({"note": "other"})).await.expect(422);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("message: Invalid value: \"other\": field is immutable")
    );
    let series = json!({"series": {"count": 2, "lastObservedTime": "2024-01-01T00:00:05.000000Z"}});
    assert_eq!(f.patch(&path, series).await.expect(200)["series"]["count"], 2);
    // The core group stays as lax as it was.
    let old = json!({"metadata": {"name": "old"}, "involvedObject": {"namespace": "default"}, "count": 3});
    f.post(CORE, old).await.expect(201);
}
