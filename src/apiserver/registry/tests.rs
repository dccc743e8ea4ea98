//! The registry against the real store: what clients rely on.

use serde_json::json;

use super::*;
use crate::api::kinds;
use crate::api::request::{
    Changes, DeleteOptions, ListOptions, PatchKind, Response, User, WatchOptions, WriteOptions,
};
use crate::apiserver::allocate::ServiceRanges;
use crate::store::faults::Faults;

struct Fixture {
    registry: Registry,
    _directory: tempfile::TempDir,
}

async fn fixture() -> Fixture {
    fixture_on(&Faults::none()).await
}

async fn fixture_on(disk: &Arc<Faults>) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let store = disk.store(&directory.path().join("store"));
    let range = ServiceRanges::parse("10.96.0.0/16").unwrap();
    let authorizer = Arc::new(Authorizer::new(store.clone()).unwrap());
    let allocator = Arc::new(Allocator::new(range, std::iter::empty()));
    let registry = Registry::new(store, allocator, authorizer).unwrap();
    let fixture = Fixture { registry, _directory: directory };
    fixture.create("namespaces", None, json!({"metadata": {"name": "a"}})).await.unwrap();
    fixture
}

fn admin() -> User {
    User::component("test")
}

fn kind(plural: &str) -> &'static Arc<Kind> {
    kinds::by_resource("", "v1", plural).unwrap()
}

fn object(answer: Response) -> Value {
    match answer {
        Response::Object { entry, .. } => entry.json().clone(),
        Response::Transient { value, .. } => value,
        _ => panic!("the answer is no object"),
    }
}

#[test]
fn objects_are_written_with_their_revision() {
    for object in [
        json!({"metadata": {"name": "a", "resourceVersion": "3"}}),
        json!({"data": {"metadata": "x", "resourceVersion": "1"}, "metadata": {"annotations": {
            "last": "{\"metadata\":{\"resourceVersion\":\"\"}}", "resourceVersion": ""}, "ä": [1, null]}, "z": {}}),
        json!({"spec": {"metadata": {"resourceVersion": "5"}}}),
    ] {
        let written = encode_at(object.clone())(42);
        let mut expected = object;
        meta::set(&mut expected, "resourceVersion", json!("42"));
        assert_eq!(written, encode(&expected));
    }
}

impl Fixture {
    async fn create(&self, plural: &str, namespace: Option<&str>, body: Value) -> Result<Value, Status> {
        self.registry
            .create(&admin(), kind(plural), namespace, body, &WriteOptions::default())
            .await
            .map(object)
    }

    async fn config(&self, name: &str, labels: Value) -> Value {
        self.create("configmaps", Some("a"), json!({"metadata": {"name": name, "labels": labels}}))
            .await
            .unwrap()
    }

    fn names(&self, options: &ListOptions) -> (Vec<String>, String, usize) {
        let Response::List { snapshot, continue_token } =
            self.registry.list(kind("configmaps"), Some("a"), options).unwrap()
        else {
            panic!("a list gives a list");
        };
        let names = snapshot.entries.iter().map(|e| meta::name(e.json()).to_owned()).collect();
        (names, continue_token, snapshot.remaining)
    }
}

fn at(name: &str) -> Place<'_> {
    Place { kind: kind("configmaps"), namespace: Some("a"), name }
}

async fn next(changes: &mut Box<dyn Changes>) -> String {
    match changes.next().await.unwrap().unwrap() {
        crate::api::request::Change::Added(e) => format!("+{}", meta::name(e.json())),
        crate::api::request::Change::Modified(e) => format!("~{}", meta::name(e.json())),
        crate::api::request::Change::Deleted(e) => format!("-{}", meta::name(e.json())),
        crate::api::request::Change::Bookmark { initial_events_end, .. } => format!("|{initial_events_end}"),
    }
}

#[tokio::test]
async fn objects_are_made_once_in_namespaces_that_exist() {
    let f = fixture().await;
    let made = f.config("one", json!({})).await;
    assert!(!meta::resource_version(&made).is_empty());
    let again = f.create("configmaps", Some("a"), json!({"metadata": {"name": "one"}})).await.unwrap_err();
    assert_eq!((again.code, again.message.as_str()), (409, "configmaps \"one\" already exists"));
    let nowhere = f.create("configmaps", Some("b"), json!({"metadata": {"name": "one"}})).await.unwrap_err();
    assert_eq!((nowhere.code, nowhere.message.as_str()), (404, "namespaces \"b\" not found"));
    let dry = WriteOptions { dry_run: true, ..WriteOptions::default() };
    let body = json!({"metadata": {"generateName": "x-"}});
    let answer = f.registry.create(&admin(), kind("configmaps"), Some("a"), body, &dry).await.unwrap();
    let name = meta::name(&object(answer)).to_owned();
    assert_eq!(f.registry.get(at(&name), "").unwrap_err().code, 404);
}

#[tokio::test]
async fn stale_updates_conflict_and_unchanged_ones_write_nothing() {
    let f = fixture().await;
    let first = f.config("one", json!({})).await;
    let options = WriteOptions::default();
    let mut second = first.clone();
    second["data"] = json!({"k": "v"});
    let second =
        object(f.registry.replace(&admin(), at("one"), Part::Object, second, &options).await.unwrap());
    assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let stale =
        f.registry.replace(&admin(), at("one"), Part::Object, first.clone(), &options).await.err().unwrap();
    assert_eq!(
        stale.message,
        "Operation cannot be fulfilled on configmaps \"one\": the object has been modified; please apply your \
         changes to the latest version and try again"
    );
    let same = object(
        f.registry.replace(&admin(), at("one"), Part::Object, second.clone(), &options).await.unwrap(),
    );
    assert_eq!(same, second);
    let mut blind = first;
    meta::remove(&mut blind, "resourceVersion");
    f.registry.replace(&admin(), at("one"), Part::Object, blind, &options).await.unwrap();
}

#[tokio::test]
async fn concurrent_patches_all_land() {
    let f = fixture().await;
    f.config("one", json!({})).await;
    let options = WriteOptions::default();
    let patches = (0..8).map(|n| {
        let (registry, options) = (&f.registry, &options);
        async move {
            let patch = json!({"data": {format!("k{n}"): "v"}});
            registry
                .patch(&admin(), at("one"), Part::Object, PatchKind::Merge, &patch, options)
                .await
                .map(drop)
        }
    });
    for done in futures::future::join_all(patches).await {
        done.unwrap();
    }
    let found = f.registry.get(at("one"), "").unwrap();
    assert_eq!(found.json()["data"].as_object().unwrap().len(), 8);
}

#[tokio::test]
async fn pages_show_one_revision() {
    let f = fixture().await;
    for name in ["a", "b", "c", "d"] {
        f.config(name, json!({"even": if matches!(name, "b" | "d") { "yes" } else { "no" }})).await;
    }
    let (names, token, remaining) = f.names(&ListOptions { limit: 3, ..ListOptions::default() });
    assert_eq!((names.join(""), remaining), ("abc".to_owned(), 1));
    f.config("e", json!({})).await;
    let rest = ListOptions { limit: 3, continue_token: token.clone(), ..ListOptions::default() };
    assert_eq!(f.names(&rest).0, ["d"]);
    f.registry.store().compact(f.registry.store().revision()).await.unwrap();
    f.config("f", json!({})).await;
    let gone = f.registry.list(kind("configmaps"), Some("a"), &rest).err().unwrap();
    assert_eq!((gone.code, gone.reason.as_str()), (410, "Expired"));
    let fresh = gone.metadata["continue"].as_str().unwrap().to_owned();
    assert_eq!(f.names(&ListOptions { continue_token: fresh, ..ListOptions::default() }).0, ["d", "e", "f"]);
    let even = ListOptions { label_selector: "even=yes".into(), limit: 1, ..ListOptions::default() };
    let (names, token, _) = f.names(&even);
    assert_eq!((names.join(""), token.is_empty()), ("b".to_owned(), false));
    assert_eq!(f.names(&ListOptions { continue_token: token, ..even }).0, ["d"]);
    let named = ListOptions { field_selector: "metadata.name=c".into(), ..ListOptions::default() };
    assert_eq!(f.names(&named).0, ["c"]);
}

#[tokio::test]
async fn watchers_see_what_enters_and_leaves_their_selection() {
    let f = fixture().await;
    f.config("old", json!({"on": "1"})).await;
    let options = WatchOptions {
        list: ListOptions {
            label_selector: "on=1".into(),
            resource_version_match: "NotOlderThan".into(),
            ..ListOptions::default()
        },
        bookmarks: true,
        initial_events: Some(true),
        timeout_seconds: None,
    };
    let mut changes = f.registry.watch(kind("configmaps"), Some("a"), None, &options).unwrap();
    assert_eq!(next(&mut changes).await, "+old");
    assert_eq!(next(&mut changes).await, "|true");
    f.config("other", json!({})).await;
    f.config("new", json!({"on": "1"})).await;
    assert_eq!(next(&mut changes).await, "+new");
    for (labels, seen) in
        [(json!({"x": "y"}), "~new"), (json!({"on": null}), "-new"), (json!({"on": "1"}), "+new")]
    {
        let patch = json!({"metadata": {"labels": labels}});
        let write = WriteOptions::default();
        f.registry.patch(&admin(), at("new"), Part::Object, PatchKind::Merge, &patch, &write).await.unwrap();
        assert_eq!(next(&mut changes).await, seen);
    }
    f.registry.delete(&admin(), at("new"), &DeleteOptions::default()).await.unwrap();
    assert_eq!(next(&mut changes).await, "-new");
}

#[tokio::test]
async fn a_watch_from_a_forgotten_revision_is_expired() {
    let f = fixture().await;
    let first = f.config("one", json!({})).await;
    f.config("two", json!({})).await;
    f.registry.store().compact(f.registry.store().revision()).await.unwrap();
    let version = meta::resource_version(&first).to_owned();
    let options = WatchOptions {
        list: ListOptions { resource_version: version.clone(), ..ListOptions::default() },
        ..WatchOptions::default()
    };
    let mut changes = f.registry.watch(kind("configmaps"), Some("a"), None, &options).unwrap();
    let status = changes.next().await.unwrap().err().unwrap();
    assert_eq!(status.code, 410);
    assert!(status.message.starts_with(&format!("too old resource version: {version} (")), "{status}");
}

#[tokio::test]
async fn finalizers_hold_and_preconditions_guard() {
    let f = fixture().await;
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/x"]}});
    f.create("configmaps", Some("a"), held).await.unwrap();
    let other = DeleteOptions { precondition_uid: Some("nope".into()), ..DeleteOptions::default() };
    assert_eq!(f.registry.delete(&admin(), at("held"), &other).await.err().unwrap().code, 409);
    let marked = object(f.registry.delete(&admin(), at("held"), &DeleteOptions::default()).await.unwrap());
    assert!(meta::is_deleting(&marked));
    let patch = json!({"metadata": {"finalizers": null}});
    let write = WriteOptions::default();
    f.registry.patch(&admin(), at("held"), Part::Object, PatchKind::Merge, &patch, &write).await.unwrap();
    assert_eq!(f.registry.get(at("held"), "").unwrap_err().code, 404);
}

#[tokio::test]
async fn namespaces_terminate_and_take_nothing_more() {
    let f = fixture().await;
    let place = Place { kind: kind("namespaces"), namespace: None, name: "a" };
    let marked = object(f.registry.delete(&admin(), place, &DeleteOptions::default()).await.unwrap());
    assert_eq!(marked["status"]["phase"], "Terminating");
    let refused = f.create("configmaps", Some("a"), json!({"metadata": {"name": "x"}})).await.unwrap_err();
    assert_eq!(refused.code, 403);
    assert_eq!(refused.details.unwrap().causes[0].reason, "NamespaceTerminating");
    let mut empty = marked;
    empty["spec"]["finalizers"] = json!([]);
    f.registry.replace(&admin(), place, Part::Finalize, empty, &WriteOptions::default()).await.unwrap();
    assert_eq!(f.registry.get(place, "").unwrap_err().code, 404);
}

#[tokio::test]
async fn only_pods_and_slices_have_a_generation() {
    let f = fixture().await;
    f.create("serviceaccounts", Some("a"), json!({"metadata": {"name": "default"}})).await.unwrap();
    let port = json!([{"port": 80}]);
    for (plural, namespace, body, expected) in [
        (
            "services",
            Some("a"),
            json!({"metadata": {"name": "s", "generation": 5}, "spec": {"ports": port}}),
            None,
        ),
        ("namespaces", None, json!({"metadata": {"name": "b"}, "spec": {}}), None),
        ("nodes", None, json!({"metadata": {"name": "n"}, "spec": {"unschedulable": true}}), None),
        ("secrets", Some("a"), json!({"metadata": {"name": "s"}}), None),
        (
            "pods",
            Some("a"),
            json!({"metadata": {"name": "p", "generation": 5},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}),
            Some(1),
        ),
    ] {
        let made = f.create(plural, namespace, body).await.unwrap();
        assert_eq!(made["metadata"]["generation"].as_i64(), expected, "{plural}");
    }
    let slices = kinds::by_resource("discovery.k8s.io", "v1", "endpointslices").unwrap();
    let body = json!({"metadata": {"name": "e", "labels": {"l": "1"}, "finalizers": ["x/y"]},
        "addressType": "IPv4", "endpoints": []});
    let options = WriteOptions::default();
    f.registry.create(&admin(), slices, Some("a"), body, &options).await.unwrap();
    let place = Place { kind: slices, namespace: Some("a"), name: "e" };
    for (patch, expected) in [
        (json!({"metadata": {"annotations": {"a": "1"}}}), 1),
        (json!({"metadata": {"labels": {"l": "2"}}}), 2),
        (json!({"endpoints": [{"addresses": ["10.0.0.1"]}], "metadata": {"generation": 9}}), 3),
    ] {
        let changed = f
            .registry
            .patch(&admin(), place, Part::Object, PatchKind::Merge, &patch, &options)
            .await
            .unwrap();
        assert_eq!(meta::generation(&object(changed)), expected, "{patch}");
    }
    let marked = f.registry.delete(&admin(), place, &DeleteOptions::default()).await.unwrap();
    assert_eq!(meta::generation(&object(marked)), 4);
}

#[tokio::test]
async fn a_watch_whose_changes_are_always_ready_ends_in_time() {
    let f = fixture().await;
    let first = f.config("one", json!({})).await;
    f.config("two", json!({})).await;
    let options = WatchOptions {
        list: ListOptions {
            resource_version: meta::resource_version(&first).to_owned(),
            ..ListOptions::default()
        },
        timeout_seconds: Some(1),
        ..WatchOptions::default()
    };
    tokio::time::pause();
    let mut changes = f.registry.watch(kind("configmaps"), Some("a"), None, &options).unwrap();
    tokio::time::advance(std::time::Duration::from_secs(2)).await;
    assert!(changes.next().await.is_none());
}

#[tokio::test]
async fn a_quiet_watch_tells_how_far_it_is() {
    let f = fixture().await;
    f.config("one", json!({})).await;
    let options = WatchOptions { bookmarks: true, ..WatchOptions::default() };
    let mut changes = f.registry.watch(kind("secrets"), Some("a"), None, &options).unwrap();
    f.config("two", json!({})).await;
    tokio::time::pause();
    match changes.next().await.unwrap().unwrap() {
        crate::api::request::Change::Bookmark { revision, initial_events_end } => {
            assert_eq!((revision, initial_events_end), (f.registry.store().revision(), false));
        }
        other => panic!("{other:?}"),
    }
}

/// Waits for what the store is asked to write next, holding it up meanwhile.
async fn held_up<T>(f: &Fixture, meanwhile: impl Future<Output = T>) -> T {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let store = f.registry.store().clone();
    let key = format!("held/{}", store.revision());
    let held = tokio::spawn(async move {
        let encode = move |_| {
            wait.recv().unwrap();
            Bytes::from_static(b"{}")
        };
        store.create(&key, encode).await.map(drop)
    });
    tokio::task::yield_now().await;
    let answer = meanwhile.await;
    go.send(()).unwrap();
    held.await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn a_write_whose_client_went_keeps_what_it_took() {
    let f = fixture().await;
    let service = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "clusterIP": "10.96.0.50",
            "ports": [{"port": 80, "nodePort": 31000}]}})
    };
    let place = |name| Place { kind: kind("services"), namespace: Some("a"), name };
    held_up(&f, async {
        let mut create = Box::pin(f.create("services", Some("a"), service("one")));
        assert!(futures::poll!(create.as_mut()).is_pending());
        drop(create);
        tokio::task::yield_now().await;
    })
    .await;
    let mut watch = f.registry.store().watch("services/a/", 0);
    watch.next().await.unwrap();
    let refused = f.create("services", Some("a"), service("two")).await.unwrap_err();
    assert!(refused.message.contains("provided IP is already allocated"), "{refused}");
    // A delete that nobody waits for frees what the service had.
    held_up(&f, async {
        let (user, options) = (admin(), DeleteOptions::default());
        let mut delete = Box::pin(f.registry.delete(&user, place("one"), &options));
        assert!(futures::poll!(delete.as_mut()).is_pending());
        drop(delete);
        tokio::task::yield_now().await;
    })
    .await;
    watch.next().await.unwrap();
    let freed = async {
        while f.create("services", Some("a"), service("two")).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), freed).await.unwrap();
}

#[tokio::test]
async fn what_a_write_took_whose_end_nobody_knows_stays_taken_until_it_is_known() {
    let disk = Faults::none();
    let f = fixture_on(&disk).await;
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"clusterIP": "10.96.0.50", "ports": [{"port": 80}]}});
    disk.full.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(f.create("services", Some("a"), service("one")).await.unwrap_err().code, 500);
    let refused = f.create("services", Some("a"), service("two")).await.unwrap_err();
    assert!(refused.message.contains("provided IP is already allocated"), "{refused}");
    disk.full.store(false, std::sync::atomic::Ordering::SeqCst);
    f.config("another", json!({})).await;
    f.create("services", Some("a"), service("two")).await.unwrap();
    let refused = f.create("services", Some("a"), service("one")).await.unwrap_err();
    assert!(refused.message.contains("provided IP is already allocated"), "{refused}");
}
