//! The collector on an API in memory.

use super::*;
use crate::client::testing::FakeApi;

#[test]
fn keys_name_places() {
    for key in ["pods/d/www", "nodes/minik", "endpointslices/d/www-x"] {
        assert_eq!(Place::parse(&Kinds::built_in(), key).unwrap().key(), key);
    }
    for key in ["events/d/e", "nothing", "nothing/a"] {
        assert!(Place::parse(&Kinds::built_in(), key).is_none(), "{key}");
    }
}

#[test]
fn metadata_is_read_past_everything_else() {
    let bytes = br#"{"spec": {"a": [1, {}]}, "metadata": {"name": "www", "uid": "u"}}"#;
    let entry = Entry::new("pods/d/www".into(), bytes.as_slice().into(), 1, 1);
    assert_eq!(metadata(&entry).unwrap().uid.as_deref(), Some("u"));
    let odd = Entry::new("pods/d/odd".into(), b"[]".as_slice().into(), 1, 1);
    let told = metadata(&odd).unwrap_err();
    assert!(told.message.contains("pods/d/odd"), "{told}");
}

fn collector(api: &FakeApi) -> Collector {
    let (recorder, _) = Recorder::new(api.client(), "garbage-collector-controller", "");
    Collector { client: api.client(), kinds: Kinds::built_in(), graph: Arc::default(), recorder }
}

#[tokio::test]
async fn an_owner_that_cannot_be_read_is_not_gone() {
    let api = FakeApi::default();
    api.put("configmaps", json!({"metadata": {"namespace": "d", "name": "o", "uid": 7}}));
    let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u"});
    api.put(
        "configmaps",
        json!({"metadata": {"namespace": "d", "name": "child", "uid": "c", "ownerReferences": [reference]}}),
    );
    let collector = collector(&api);
    assert!(collector.reconcile("configmaps/d/child".into()).await.is_err());
    assert_eq!(api.all("configmaps").len(), 2);
    // One that is not there is.
    api.remove("configmaps", "d", "o");
    collector.reconcile("configmaps/d/child".into()).await.unwrap();
    assert!(api.all("configmaps").is_empty());
}

#[tokio::test]
async fn an_object_that_owns_something_goes_in_the_foreground_without_a_look_at_all_others() {
    let api = FakeApi::default();
    let of = |kind: &str, uid: &str| json!({"apiVersion": "v1", "kind": kind, "name": uid, "uid": uid});
    for meta in [
        json!({"name": "o", "uid": "o", "deletionTimestamp": "2026-01-01T00:00:00Z",
            "finalizers": ["foregroundDeletion"]}),
        json!({"name": "child", "uid": "child", "ownerReferences": [of("ConfigMap", "o")]}),
        json!({"name": "below", "uid": "below", "ownerReferences": [of("ConfigMap", "child")]}),
    ] {
        let mut object = json!({ "metadata": meta });
        object["metadata"]["namespace"] = json!("d");
        api.put("configmaps", object);
    }
    let collector = collector(&api);
    let below = collector
        .live(&Place::parse(&Kinds::built_in(), "configmaps/d/below").unwrap())
        .await
        .unwrap()
        .unwrap();
    lock(&collector.graph).present("configmaps/d/below", &below);
    collector.reconcile("configmaps/d/child".into()).await.unwrap();
    let seen = api.seen.lock().unwrap().clone();
    assert!(seen.iter().all(|request| !request.starts_with("List")), "{seen:?}");
    assert!(seen.iter().any(|request| request.starts_with("Delete")), "{seen:?}");
}
