//! APIServices: those of this server, and a server beside it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use minik::api::request::{ListOptions, User};
use minik::apiserver::aggregation::identity::FrontProxy;
use minik::apiserver::pki::{LEAF_LIFETIME, Pki, ServerNames, Tls};
use minik::client::Client;
use minik::client::reflector::Reflector;
use minik::controllers::kinds::Kinds;
use minik::controllers::namespaces;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::kubectl::Kubectl;
use super::server::Fixture;

/// The APIService of these tests.
pub const GROUP: &str = "v1alpha1.wardle.example.com";
pub const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// What an aggregated server answers: who asked for what, and what it serves.
async fn answer(request: http::Request<Incoming>) -> Result<http::Response<Full<Bytes>>, Infallible> {
    let all = |name: &str| {
        let values = request.headers().get_all(name).iter();
        values.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let body = match request.uri().path() {
        "/apis/wardle.example.com/v1alpha1" => json!({"kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": "wardle.example.com/v1alpha1", "resources": [{"name": "flunders", "singularName": "flunder",
                "namespaced": true, "kind": "Flunder", "verbs": ["get", "list"]}]}),
        "/apis/wardle.example.com/v1alpha1/moved" => {
            let moved = http::Response::builder().status(302).header("location", "https://elsewhere/");
            return Ok(moved.body(Full::default()).unwrap());
        }
        // Who is asked for its documents with the tag of what it said before says nothing new.
        "/openapi/v2" if all("if-none-match") == ["\"one\""] => {
            return Ok(http::Response::builder().status(304).body(Full::default()).unwrap());
        }
        "/openapi/v2" => older(),
        "/openapi/v3" => json!({"paths": {
            "apis": {"serverRelativeURL": "/openapi/v3/apis?hash=1"},
            "apis/wardle.example.com": {"serverRelativeURL": "/openapi/v3/apis/wardle.example.com?hash=2"},
            "apis/wardle.example.com/v1alpha1": {
                "serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=3"}}}),
        "/openapi/v3/apis/wardle.example.com/v1alpha1" => {
            json!({"openapi": "3.0.0", "info": {"title": "wardle", "version": "1"},
            "paths": {"/apis/wardle.example.com/v1alpha1/namespaces/{namespace}/flunders": {"get": {
                "x-kubernetes-group-version-kind":
                    {"group": "wardle.example.com", "version": "v1alpha1", "kind": "Flunder"}}}}, "components": {"schemas": {"com.example.wardle.v1alpha1.Flunder": flunder()}}})
        }
        _ => json!({"kind": "Flunder", "user": all("x-remote-user"), "groups": all("x-remote-group"),
            "authorization": all("authorization"), "uri": request.uri().to_string()}),
    };
    let response =
        http::Response::builder().header("content-type", "application/json").header("etag", "\"one\"");
    Ok(response.body(Full::new(body.to_string().into())).unwrap())
}

/// The type that the aggregated server serves.
fn flunder() -> Value {
    json!({"type": "object", "description": "A flunder is for tests.",
        "properties": {"height": {"type": "integer", "description": "How high it is."}},
        "x-kubernetes-group-version-kind": [{"group": "wardle.example.com", "version": "v1alpha1", "kind": "Flunder"}]})
}

/// All that the aggregated server serves, in the older form.
fn older() -> Value {
    let reads = |name: &str| {
        json!({"get": {"operationId": format!("read{name}"), "produces": ["application/json"], "responses":
            {"200": {"description": "OK", "schema": {"$ref": format!("#/definitions/{name}")}}}}})
    };
    json!({"swagger": "2.0", "info": {"title": "wardle", "version": "1"},
        "paths": {"/apis/": reads("Groups"),
            "/apis/wardle.example.com/v1alpha1/namespaces/{namespace}/flunders/{name}":
                reads("com.example.wardle.v1alpha1.Flunder")},
        "definitions": {"Groups": {"type": "object"}, "com.example.wardle.v1alpha1.Flunder": flunder()}})
}

/// A server with a certificate of this authority that answers so.
pub async fn beside<A, F, B>(pki: Arc<Pki>, answer: A) -> SocketAddr
where
    A: Fn(http::Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<http::Response<B>, Infallible>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let names = ServerNames { node: "wardle.default.svc".into(), addresses: Vec::new() };
    let tls = Tls::new(pki, names, LEAF_LIFETIME).unwrap();
    let acceptor = TlsAcceptor::from(tls.config.server.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let _tls = tls;
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let server = hyper::server::conn::http1::Builder::new();
                drop(server.serve_connection(TokioIo::new(stream), service_fn(answer)).await);
            });
        }
    });
    address
}

/// Has another server answer for [`GROUP`] at this address of the cluster, once [`endpoint`] says where it is.
pub async fn register(f: &Fixture, authority: &Pki) {
    let bundle = STANDARD.encode(authority.ca_pem());
    let spec = json!({"group": "wardle.example.com", "version": "v1alpha1", "groupPriorityMinimum": 2000,
        "versionPriority": 10, "caBundle": bundle, "service": {"name": "wardle", "namespace": "default", "port": 443}});
    f.post(SERVICES, json!({"metadata": {"name": GROUP}, "spec": spec})).await.expect(201);
}

/// The service behind [`register`].
pub async fn service(f: &Fixture) {
    let ports = json!([{"name": "https", "port": 443, "targetPort": 8443}]);
    let service = json!({"metadata": {"name": "wardle"}, "spec": {"ports": ports}});
    f.post("/api/v1/namespaces/default/services", service).await.expect(201);
}

/// Its endpoint.
pub async fn endpoint(f: &Fixture) {
    let slice = json!({"metadata": {"name": "wardle-1", "labels": {"kubernetes.io/service-name": "wardle"}},
        "addressType": "IPv4", "ports": [{"name": "https", "port": 8443, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.244.0.9"], "conditions": {"ready": true}}]});
    f.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice).await.expect(201);
}

pub async fn fixture(directory: &std::path::Path) -> (Fixture, Arc<Pki>) {
    let front = Arc::new(Pki::open_as(&directory.join("front"), "front-proxy-ca").unwrap());
    let own = Arc::new(Pki::open(&directory.join("own")).unwrap());
    (Fixture::start_beside(FrontProxy::new(front, "CLIENT CA".into())).await, own)
}

/// The condition of an APIService, once it has this reason.
pub async fn condition(f: &Fixture, name: &str, reason: &str) -> Value {
    for _ in 0..200 {
        let service = f.get(&format!("{SERVICES}/{name}")).await;
        let condition = service.json()["status"]["conditions"][0].clone();
        if condition["reason"] == reason {
            return condition;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{name} is not {reason}: {}", f.get(&format!("{SERVICES}/{name}")).await.text());
}

#[tokio::test]
async fn groups_of_this_server_are_local() {
    let directory = tempfile::tempdir().unwrap();
    let (f, _) = fixture(directory.path()).await;
    for name in ["v1.", "v1.apps", "v1beta1.metrics.k8s.io"] {
        assert_eq!(condition(&f, name, "Local").await["status"], "True", "{name}");
    }
    let core = f.get(&format!("{SERVICES}/v1.")).await.expect(200);
    assert_eq!(core["spec"]["groupPriorityMinimum"], 18000);
    assert_eq!(core["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "onstart");
    let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    // The conditions tell nothing of it: another task writes it.
    let written = async {
        while f.get(path).await.code == 404 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), written).await.expect("the settings are written");
    let data = f.get(path).await.expect(200)["data"].clone();
    assert_eq!(data["client-ca-file"], "CLIENT CA");
    assert_eq!(data["requestheader-username-headers"], "[\"X-Remote-User\"]");
    assert!(
        data["requestheader-client-ca-file"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----")
    );
    let groups = f.get("/apis").await.expect(200);
    assert_eq!(groups["groups"][0]["name"], "apps", "the group of the highest priority comes first");
}

#[tokio::test]
async fn another_server_answers_for_its_group() {
    let directory = tempfile::tempdir().unwrap();
    let (f, authority) = fixture(directory.path()).await;
    f.dial.lead("10.244.0.9:8443", beside(authority.clone(), answer).await);
    let name = GROUP;
    register(&f, &authority).await;
    let missing = condition(&f, name, "ServiceNotFound").await;
    assert_eq!(missing["message"], "service/wardle in \"default\" is not present");
    let flunders = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders";
    let unavailable = f.get(flunders).await;
    assert_eq!((unavailable.code, unavailable.text().as_str()), (503, "service unavailable\n"));

    service(&f).await;
    condition(&f, name, "EndpointsNotFound").await;
    endpoint(&f).await;
    assert_eq!(condition(&f, name, "Passed").await["message"], "all checks passed");

    let told = f.get(&format!("{flunders}?watch=0")).await.expect(200);
    assert_eq!((&told["user"], &told["uri"]), (&json!(["admin"]), &json!(format!("{flunders}?watch=0"))));
    assert_eq!(told["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!(told["authorization"], json!([]));
    let moved = f.get("/apis/wardle.example.com/v1alpha1/moved").await;
    assert_eq!(moved.code, 502, "{}", moved.text());

    let group = f.get("/apis/wardle.example.com").await.expect(200);
    assert_eq!(
        (&group["kind"], &group["preferredVersion"]["version"]),
        (&json!("APIGroup"), &json!("v1alpha1"))
    );
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let all = super::server::sent(f.request("GET", "/apis").header("accept", accept)).await.expect(200);
    let items = all["items"].as_array().unwrap();
    let item = items.iter().find(|item| item["metadata"]["name"] == "wardle.example.com").unwrap();
    assert_eq!(item["versions"][0]["freshness"], "Current");
    assert_eq!(item["versions"][0]["resources"][0]["resource"], "flunders");

    described(&f).await;
    let k = Kubectl::of(f);
    let explained = k.ok("explain flunders.height", "").await;
    assert!(
        explained.contains("FIELD: height <integer>") && explained.contains("How high it is."),
        "{explained}"
    );
    let f = k.fixture;
    f.delete(&format!("{SERVICES}/{name}")).await.expect(200);
    assert_eq!(f.get(flunders).await.code, 404);
    let gone = async {
        while f.get("/openapi/v3").await.json()["paths"].get("apis/wardle.example.com/v1alpha1").is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("what is gone is described no longer");
    let whole = f.get("/openapi/v2").await.expect(200);
    assert!(whole["definitions"].get("com.example.wardle.v1alpha1.Flunder").is_none());
}

/// The types of the aggregated server are among those of the cluster's documents.
async fn described(f: &Fixture) {
    let told = async {
        loop {
            let index = f.get("/openapi/v3").await.expect(200);
            let place = index["paths"]["apis/wardle.example.com/v1alpha1"]["serverRelativeURL"].clone();
            if let Some(place) = place.as_str() {
                return (index, place.to_owned());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (index, place) = tokio::time::timeout(Duration::from_secs(10), told).await.expect("it is described");
    assert_eq!(place, "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=3");
    assert!(index["paths"]["apis/wardle.example.com"].is_object());
    assert!(!index["paths"]["apis"].to_string().contains("hash=1"), "the others are this server's own");
    let document = f.get(&place).await.expect(200);
    assert_eq!(document["components"]["schemas"]["com.example.wardle.v1alpha1.Flunder"], flunder());
    let whole = f.get("/openapi/v2").await.expect(200);
    assert_eq!(whole["definitions"]["com.example.wardle.v1alpha1.Flunder"], flunder());
    assert!(whole["definitions"].get("Groups").is_none());
    let path = "/apis/wardle.example.com/v1alpha1/namespaces/{namespace}/flunders/{name}";
    assert!(whole["paths"][path].is_object() && whole["paths"]["/api/v1/namespaces"].is_object());
    let accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let packed = super::server::sent(f.request("GET", "/openapi/v2").header("accept", accept)).await;
    let name = b"com.example.wardle.v1alpha1.Flunder";
    assert!(packed.bytes.windows(name.len()).any(|window| window == name));
}

/// The controller of namespaces, which sees what other servers serve.
fn controller(f: &Fixture) -> AbortOnDropHandle<()> {
    let client = Client::new(f.server.clone(), User::component("system:kube-controller-manager"));
    let (namespaces, feed) = Reflector::new(client.all(), ListOptions::default());
    let (pods, of_pods) = Reflector::new(client.all(), ListOptions::default());
    let work = namespaces::run(client, Kinds::built_in(), namespaces, pods);
    AbortOnDropHandle::new(tokio::spawn(async move {
        tokio::join!(feed, of_pods, work);
    }))
}

#[tokio::test]
async fn a_deleted_namespace_is_emptied_of_what_other_servers_keep() {
    let directory = tempfile::tempdir().unwrap();
    let (f, authority) = fixture(directory.path()).await;
    // Flunders go all at once, fischers one by one; what is in another namespace stays.
    let kept: Arc<Mutex<BTreeSet<&str>>> = Arc::default();
    let present = ["leaving/flunders/a", "leaving/flunders/b", "leaving/fischers/c", "other/flunders/a"];
    kept.lock().unwrap().extend(present);
    let store = kept.clone();
    let answer = move |request: http::Request<Incoming>| {
        let path = request.uri().path().to_owned();
        let root = "/apis/wardle.example.com/v1alpha1";
        let row = |name: &str, verbs: &[&str]| json!({"name": name, "namespaced": true, "kind": "X", "verbs": verbs});
        let (code, body) = match path.strip_prefix(&format!("{root}/namespaces/")) {
            None if path == root => (
                200,
                json!({"resources": [
                row("flunders", &["list", "delete", "deletecollection"]), row("fischers", &["list", "delete"])]}),
            ),
            None => (404, json!({})),
            Some(place) if request.method() == http::Method::DELETE => {
                let all = place == "leaving/fischers";
                let within = |key: &&str| {
                    key.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                store.lock().unwrap().retain(|key| all || !within(key));
                (if all { 405 } else { 200 }, json!({}))
            }
            Some(place) => {
                let kept = store.lock().unwrap();
                let of = kept.iter().filter_map(|key| key.strip_prefix(&format!("{place}/")));
                let items: Vec<Value> =
                    of.map(|name| json!({"metadata": {"name": name, "namespace": "leaving"}})).collect();
                (200, json!({"items": items}))
            }
        };
        async move {
            let response = http::Response::builder().status(code).header("content-type", "application/json");
            Ok(response.body(Full::new(body.to_string().into())).unwrap())
        }
    };
    f.dial.lead("10.244.0.9:8443", beside(authority.clone(), answer).await);
    register(&f, &authority).await;
    condition(&f, GROUP, "ServiceNotFound").await;
    f.post("/api/v1/namespaces", json!({"metadata": {"name": "leaving"}})).await.expect(201);
    let maps = "/api/v1/namespaces/leaving/configmaps";
    f.post(maps, json!({"metadata": {"name": "map"}})).await.expect(201);
    let _controller = controller(&f);
    let mut namespaces = f.watch("/api/v1/namespaces?watch=1&fieldSelector=metadata.name%3Dleaving").await;
    f.delete("/api/v1/namespaces/leaving").await.expect(200);
    let told = loop {
        let namespace = namespaces.next().await;
        assert_ne!(namespace["type"], "DELETED", "nobody knows yet what the other server has");
        let conditions = namespace["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let failure = |c: &&Value| c["type"] == "NamespaceDeletionDiscoveryFailure" && c["status"] == "True";
        if let Some(told) = conditions.iter().find(failure) {
            break told.clone();
        }
    };
    assert_eq!(told["reason"], "DiscoveryFailed");
    let why = "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: \
               wardle.example.com/v1alpha1: stale GroupVersion discovery: wardle.example.com/v1alpha1";
    assert_eq!(told["message"], why);
    assert_eq!(f.get(maps).await.expect(200)["items"], json!([]), "what is known goes meanwhile");
    assert_eq!(kept.lock().unwrap().len(), present.len());

    service(&f).await;
    endpoint(&f).await;
    while namespaces.next().await["type"] != "DELETED" {}
    assert_eq!(*kept.lock().unwrap(), BTreeSet::from(["other/flunders/a"]));
}
