//! The garbage collector with a server beside this one, which has objects that own others and belong to others.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use minik::api::request::User;
use minik::client::Client;
use minik::controllers::garbage_collector;
use minik::controllers::kinds::Kinds;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::aggregation::{GROUP, SERVICES, beside, condition, endpoint, fixture, register, service};
use super::server::{Fixture, MAPS, sent};

const FLUNDERS: &str = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders";
const PATIENCE: Duration = Duration::from_secs(20);

/// Two servers: one that has flunders, and one that leads to it.
struct Pair {
    near: Fixture,
    far: Arc<Fixture>,
    /// Whether the far one answers; otherwise somebody does who knows nothing.
    answers: Arc<AtomicBool>,
    _directory: tempfile::TempDir,
    _collector: AbortOnDropHandle<()>,
}

/// A request carried to another server, whose answer flows back; or carried to where nothing is.
async fn carried(
    to: Arc<Fixture>,
    answers: Arc<AtomicBool>,
    request: http::Request<Incoming>,
) -> Result<http::Response<impl Body<Data = Bytes, Error = Infallible> + Send + 'static>, Infallible> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().unwrap().as_str();
    let path = if answers.load(Ordering::Relaxed) { path } else { "/nowhere" };
    let mut asked = to.request(head.method.as_str(), path).body(body.collect().await.unwrap().to_bytes());
    if let Some(media) = head.headers.get("content-type") {
        asked = asked.header("content-type", media.to_str().unwrap());
    }
    let response = asked.send().await.unwrap();
    let answer = http::Response::builder().status(response.status().as_u16());
    let chunks = futures::stream::unfold(response, |mut response| async move {
        response.chunk().await.ok().flatten().map(|chunk| (Ok(Frame::data(chunk)), response))
    });
    Ok(answer.header("content-type", "application/json").body(StreamBody::new(chunks.boxed())).unwrap())
}

impl Pair {
    async fn start() -> Pair {
        let directory = tempfile::tempdir().unwrap();
        let (near, authority) = fixture(directory.path()).await;
        let far = Arc::new(Fixture::start().await);
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let definition = json!({"metadata": {"name": "flunders.wardle.example.com"}, "spec": {
            "group": "wardle.example.com", "scope": "Namespaced",
            "names": {"plural": "flunders", "singular": "flunder", "kind": "Flunder"},
            "versions": [{"name": "v1alpha1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
        far.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await.expect(201);
        let answers = Arc::new(AtomicBool::new(true));
        let (to, there) = (far.clone(), answers.clone());
        let answer = move |request| carried(to.clone(), there.clone(), request);
        near.dial.lead("10.244.0.9:8443", beside(authority.clone(), answer).await);
        register(&near, &authority).await;
        service(&near).await;
        endpoint(&near).await;
        condition(&near, GROUP, "Passed").await;
        let client =
            Client::new(near.server.clone(), User::component("system:serviceaccount:kube-system:collector"));
        let (kinds, feed) = Kinds::new(&client);
        let work = async move {
            tokio::join!(feed, garbage_collector::run(client, kinds));
        };
        let collector = AbortOnDropHandle::new(tokio::spawn(work));
        Pair { near, far, answers, _directory: directory, _collector: collector }
    }

    /// A config map on the near server.
    async fn map(&self, name: &str, owner: Option<Value>) -> Value {
        let metadata = json!({"name": name, "ownerReferences": owner.into_iter().collect::<Vec<_>>()});
        self.near.post(MAPS, json!({"metadata": metadata})).await.expect(201)
    }

    /// A flunder on the far one, made by way of the near one.
    async fn flunder(&self, name: &str, owner: Option<Value>) -> Value {
        let metadata = json!({"name": name, "ownerReferences": owner.into_iter().collect::<Vec<_>>()});
        let flunder =
            json!({"apiVersion": "wardle.example.com/v1alpha1", "kind": "Flunder", "metadata": metadata});
        self.near.post(FLUNDERS, flunder).await.expect(201)
    }

    async fn delete(&self, path: &str, policy: &str) {
        let body = json!({"propagationPolicy": policy});
        sent(self.near.request("DELETE", path).json(&body)).await.expect(200);
    }
}

fn of(owner: &Value) -> Option<Value> {
    let (kind, version) = match owner["kind"].as_str() {
        Some("Flunder") => ("Flunder", "wardle.example.com/v1alpha1"),
        _ => ("ConfigMap", "v1"),
    };
    let meta = &owner["metadata"];
    Some(json!({"apiVersion": version, "kind": kind, "name": meta["name"], "uid": meta["uid"],
        "blockOwnerDeletion": true}))
}

async fn gone(server: &Fixture, path: &str) {
    server.until(PATIENCE, path, |seen| seen["reason"] == "NotFound").await;
}

#[tokio::test]
async fn what_belongs_to_an_object_goes_wherever_it_is() {
    let pair = Pair::start().await;
    let (map, flunder) = (pair.map("a", None).await, pair.flunder("a", None).await);
    let below = pair.flunder("below", of(&map)).await;
    pair.map("below", of(&below)).await;
    pair.map("other", of(&flunder)).await;
    pair.delete(&format!("{MAPS}/a"), "Background").await;
    gone(&pair.far, &format!("{FLUNDERS}/below")).await;
    gone(&pair.near, &format!("{MAPS}/below")).await;
    pair.near.get(&format!("{MAPS}/other")).await.expect(200);

    // In the foreground, each waits for what is below it.
    let map = pair.map("b", None).await;
    let below = pair.flunder("held", of(&map)).await;
    pair.far.patch(&format!("{FLUNDERS}/held"), json!({"metadata": {"finalizers": ["example.com/x"]}})).await;
    pair.map("held", of(&below)).await;
    // Who has seen this one has seen that one.
    let mut never = of(&map).unwrap();
    (never["name"], never["uid"]) = (json!("never"), json!("11111111-2222-3333-4444-555555555555"));
    pair.flunder("last", Some(never)).await;
    gone(&pair.far, &format!("{FLUNDERS}/last")).await;
    pair.delete(&format!("{MAPS}/b"), "Foreground").await;
    let held = |held: &Value| {
        held["metadata"]["deletionTimestamp"].is_string()
            && held["metadata"]["finalizers"] == json!(["example.com/x"])
    };
    pair.far.until(PATIENCE, &format!("{FLUNDERS}/held"), held).await;
    pair.near.get(&format!("{MAPS}/b")).await.expect(200);
    pair.far.patch(&format!("{FLUNDERS}/held"), json!({"metadata": {"finalizers": null}})).await.expect(200);
    gone(&pair.near, &format!("{MAPS}/b")).await;
    pair.delete(&format!("{FLUNDERS}/a"), "Foreground").await;
    gone(&pair.far, &format!("{FLUNDERS}/a")).await;
    gone(&pair.near, &format!("{MAPS}/other")).await;
}

#[tokio::test]
async fn orphans_stay_wherever_they_are() {
    let pair = Pair::start().await;
    let (map, flunder) = (pair.map("a", None).await, pair.flunder("a", None).await);
    pair.map("below", of(&flunder)).await;
    pair.flunder("below", of(&map)).await;
    for (path, server) in [(MAPS, &pair.near), (FLUNDERS, &*pair.far)] {
        pair.delete(&format!("{path}/a"), "Orphan").await;
        gone(server, &format!("{path}/a")).await;
    }
    for (path, server) in [(MAPS, &pair.near), (FLUNDERS, &*pair.far)] {
        let left = server.get(&format!("{path}/below")).await.expect(200);
        assert!(left["metadata"].get("ownerReferences").is_none(), "{left}");
    }
}

#[tokio::test]
async fn nobody_is_gone_because_nobody_answers() {
    let pair = Pair::start().await;
    let mut never = of(&pair.flunder("a", None).await).unwrap();
    pair.map("there", Some(never.clone())).await;
    (never["name"], never["uid"]) = (json!("never"), json!("11111111-2222-3333-4444-555555555555"));
    pair.map("first", Some(never.clone())).await;
    gone(&pair.near, &format!("{MAPS}/first")).await;
    pair.answers.store(false, Ordering::Relaxed);
    pair.map("second", Some(never.clone())).await;
    let beside = pair.map("beside", None).await;
    pair.map("third", of(&beside)).await;
    // Who looked at this one has looked at those before it, and goes on with what concerns nobody else.
    pair.delete(&format!("{MAPS}/beside"), "Background").await;
    gone(&pair.near, &format!("{MAPS}/third")).await;
    for name in ["there", "second"] {
        pair.near.get(&format!("{MAPS}/{name}")).await.expect(200);
    }
    // The owner goes unseen, and then its server is back.
    pair.far.delete(&format!("{FLUNDERS}/a")).await.expect(200);
    pair.near.patch(&format!("{MAPS}/there"), json!({"data": {"looked": "at"}})).await.expect(200);
    pair.answers.store(true, Ordering::Relaxed);
    gone(&pair.near, &format!("{MAPS}/second")).await;
    gone(&pair.near, &format!("{MAPS}/there")).await;
    // Without anybody who has such objects, nobody knows of their owners.
    pair.near.delete(&format!("{SERVICES}/{GROUP}")).await.expect(200);
    never["uid"] = json!("11111111-2222-3333-4444-666666666666");
    pair.map("last", Some(never)).await;
    let beside = pair.map("more", None).await;
    pair.map("below", of(&beside)).await;
    pair.delete(&format!("{MAPS}/more"), "Background").await;
    gone(&pair.near, &format!("{MAPS}/below")).await;
    pair.near.get(&format!("{MAPS}/last")).await.expect(200);
}
