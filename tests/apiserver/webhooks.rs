//! Admission webhooks: a server on loopback that denies, changes and takes too long.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::server::{Fixture, MAPS, PODS};

type Answer = dyn Fn(&Value) -> Option<Value> + Send + Sync;

/// A webhook that listens on loopback until it is dropped.
pub struct Hook {
    port: u16,
    /// Its certificate, as a `caBundle`.
    ca: String,
    /// The requests that it was asked about.
    seen: Arc<Mutex<Vec<Value>>>,
    _task: AbortOnDropHandle<()>,
}

impl Hook {
    /// Answers what `answer` says of a request, or never.
    pub async fn start(answer: impl Fn(&Value) -> Option<Value> + Send + Sync + 'static) -> Hook {
        let names = ["127.0.0.1", "hook.default.svc"].map(str::to_owned);
        let own = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, told): (Arc<Answer>, _) = (Arc::new(answer), seen.clone());
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let serve = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer, told) = (acceptor.clone(), answer.clone(), told.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let reply = service_fn(move |request| reply(request, answer.clone(), told.clone()));
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), reply).await;
                });
            }
        };
        let ca = BASE64.encode(own.cert.pem());
        Hook { port, ca, seen, _task: AbortOnDropHandle::new(tokio::spawn(serve)) }
    }

    /// Who lets everything through.
    async fn willing() -> Hook {
        Hook::start(|_| Some(json!({"allowed": true}))).await
    }

    /// A webhook in a configuration, which is about config maps.
    pub fn webhook(&self, change: Value) -> Value {
        let mut webhook = json!({
            "name": "maps.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://127.0.0.1:{}/check", self.port), "caBundle": self.ca},
            "rules": [{"operations": ["CREATE", "UPDATE", "DELETE"], "apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["configmaps"]}],
        });
        json_patch::merge(&mut webhook, &change);
        webhook
    }

    pub fn seen(&self) -> Vec<Value> {
        self.seen.lock().unwrap().clone()
    }
}

async fn reply(
    request: http::Request<Incoming>,
    answer: Arc<Answer>,
    seen: Arc<Mutex<Vec<Value>>>,
) -> Result<http::Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    seen.lock().unwrap().push(review["request"].clone());
    let Some(mut response) = answer(&review["request"]) else { return std::future::pending().await };
    response["uid"] = review["request"]["uid"].clone();
    let review = json!({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response});
    Ok(http::Response::new(Full::new(Bytes::from(review.to_string()))))
}

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// Makes a configuration of validating webhooks.
pub async fn validating(f: &Fixture, webhooks: Value) {
    let configuration = json!({"metadata": {"name": "hooks"}, "webhooks": webhooks});
    f.post(&format!("{GROUP}/validatingwebhookconfigurations"), configuration).await.expect(201);
}

/// Makes a configuration of mutating webhooks.
pub async fn mutating(f: &Fixture, webhooks: Value) {
    let configuration = json!({"metadata": {"name": "hooks"}, "webhooks": webhooks});
    f.post(&format!("{GROUP}/mutatingwebhookconfigurations"), configuration).await.expect(201);
}

/// The answer of a webhook that changes the object so.
pub fn patch(operations: Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": BASE64.encode(operations.to_string())})
}

#[tokio::test]
async fn a_webhook_denies_and_warns() {
    let f = Fixture::start().await;
    let hook = Hook::start(|request| {
        let allowed = request["name"] != "bad";
        Some(json!({"allowed": allowed, "status": {"message": "no bad names", "code": 403, "reason": "Forbidden"},
            "warnings": [format!("{} was looked at", request["name"].as_str().unwrap())]}))
    })
    .await;
    validating(&f, json!([hook.webhook(json!({}))])).await;
    let refused = f.post(MAPS, json!({"metadata": {"name": "bad"}})).await.expect(403);
    assert_eq!(refused["message"], "admission webhook \"maps.example.com\" denied the request: no bad names");
    let made = f.post(MAPS, json!({"metadata": {"name": "good"}, "data": {"a": "b"}})).await;
    assert_eq!(made.warnings(), ["good was looked at"]);
    made.expect(201);
    f.patch(&format!("{MAPS}/good"), json!({"data": {"a": "c"}})).await.expect(200);
    f.delete(&format!("{MAPS}/good")).await.expect(200);
    let seen = hook.seen();
    let told: Vec<_> = seen.iter().map(|request| request["operation"].as_str().unwrap()).collect();
    assert_eq!(told, ["CREATE", "CREATE", "UPDATE", "DELETE"]);
    let [_, create, update, delete] = seen.as_slice() else { panic!() };
    assert_eq!(create["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(create["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!((&create["namespace"], &create["userInfo"]["username"]), (&json!("default"), &json!("admin")));
    assert_eq!((&create["dryRun"], &create["oldObject"]), (&json!(false), &Value::Null));
    assert_eq!(create["object"]["kind"], "ConfigMap");
    assert_eq!(
        (&update["object"]["data"]["a"], &update["oldObject"]["data"]["a"]),
        (&json!("c"), &json!("b"))
    );
    assert_eq!((&delete["object"], &delete["oldObject"]["metadata"]["name"]), (&Value::Null, &json!("good")));
    assert_eq!(delete["options"]["kind"], "DeleteOptions");
}

#[tokio::test]
async fn what_cannot_be_asked_is_passed_over_or_not() {
    let f = Fixture::start().await;
    let hook = Hook::start(|_| None).await;
    let slow = |policy: &str| hook.webhook(json!({"failurePolicy": policy, "timeoutSeconds": 1}));
    validating(&f, json!([slow("Fail")])).await;
    let begun = Instant::now();
    let refused = f.post(MAPS, json!({"metadata": {"name": "a"}})).await.expect(500);
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(
        refused["message"],
        format!(
            "Internal error occurred: failed calling webhook \"maps.example.com\": failed to call webhook: Post \
             \"https://127.0.0.1:{}/check?timeout=1s\": context deadline exceeded",
            hook.port
        )
    );
    let configuration = format!("{GROUP}/validatingwebhookconfigurations/hooks");
    f.patch(&configuration, json!({"webhooks": [slow("Ignore")]})).await.expect(200);
    f.config("a").await;
    // One that nobody vouches for.
    let other = Hook::willing().await;
    let strange = hook.webhook(json!({"clientConfig": {"caBundle": other.ca}}));
    f.patch(&configuration, json!({"webhooks": [strange]})).await.expect(200);
    let refused = f.post(MAPS, json!({"metadata": {"name": "b"}})).await.expect(500);
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("tls: failed to verify certificate: x509: "), "{message}");
    // And one that is not there.
    let service = json!({"clientConfig": {"url": null, "service": {"namespace": "default", "name": "gone", "path": "/x"}}});
    f.patch(&configuration, json!({"webhooks": [hook.webhook(service)]})).await.expect(200);
    let refused = f.post(MAPS, json!({"metadata": {"name": "b"}})).await.expect(500);
    let message = refused["message"].as_str().unwrap();
    assert!(message.ends_with("service \"gone\" not found"), "{message}");
}

#[tokio::test]
async fn webhooks_behind_services_change_objects() {
    let f = Fixture::start().await;
    let hook = Hook::start(|request| {
        let labels = if request["object"]["metadata"]["labels"].is_null() {
            json!([{"op": "add", "path": "/metadata/labels", "value": {"seen": "yes"}}])
        } else {
            json!([])
        };
        Some(patch(labels))
    })
    .await;
    let service =
        json!({"metadata": {"name": "hook"}, "spec": {"ports": [{"port": 443, "targetPort": 8443}]}});
    f.post("/api/v1/namespaces/default/services", service).await.expect(201);
    let slice = json!({"metadata": {"name": "hook", "labels": {"kubernetes.io/service-name": "hook"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": hook.port}],
        "endpoints": [{"addresses": ["127.0.0.1"]}]});
    // The kind's rules refuse the loopback address that stands for a pod's here.
    let key = "endpointslices/default/hook";
    f.api.registry().store().create(key, move |_| Bytes::from(slice.to_string())).await.unwrap();
    let client = json!({"clientConfig": {"url": null,
        "service": {"namespace": "default", "name": "hook", "path": "/check"}}});
    mutating(&f, json!([hook.webhook(client)])).await;
    let made = f.config("a").await;
    assert_eq!(made["metadata"]["labels"], json!({"seen": "yes"}));
    // Nobody manages what a webhook added.
    let fields = &made["metadata"]["managedFields"];
    assert!(!fields.to_string().contains("f:labels"), "{fields}");
}

#[tokio::test]
async fn who_wants_to_know_of_later_changes_is_asked_again() {
    let f = Fixture::start().await;
    let counting = Hook::start(|_| Some(json!({"allowed": true}))).await;
    let once = Hook::start(|_| Some(json!({"allowed": true}))).await;
    let adding =
        Hook::start(|_| Some(patch(json!([{"op": "add", "path": "/data", "value": {"a": "b"}}])))).await;
    let named = |hook: &Hook, name: &str, policy: &str| {
        hook.webhook(json!({"name": name, "reinvocationPolicy": policy}))
    };
    mutating(
        &f,
        json!([
            named(&counting, "counting.example.com", "IfNeeded"),
            named(&once, "once.example.com", "Never"),
            named(&adding, "adding.example.com", "Never"),
        ]),
    )
    .await;
    let made = f.config("a").await;
    assert_eq!(made["data"], json!({"a": "b"}));
    assert_eq!((counting.seen().len(), once.seen().len(), adding.seen().len()), (2, 1, 1));
    assert_eq!(counting.seen()[1]["object"]["data"], json!({"a": "b"}));
}

#[tokio::test]
async fn webhooks_choose_what_they_are_about() {
    let f = Fixture::start().await;
    let hook = Hook::willing().await;
    let webhooks = json!([hook.webhook(json!({
        "sideEffects": "None",
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
        "objectSelector": {"matchLabels": {"checked": "yes"}},
        "matchConditions": [{"name": "not-skipped", "expression": "!request.name.startsWith('skip')"}],
    }))]);
    validating(&f, webhooks).await;
    let map = |name: &str, label: &str| json!({"metadata": {"name": name, "labels": {"checked": label}}});
    f.post(MAPS, map("a", "no")).await.expect(201);
    f.post(MAPS, map("skip", "yes")).await.expect(201);
    f.post("/api/v1/namespaces/kube-system/configmaps", map("a", "yes")).await.expect(201);
    assert!(hook.seen().is_empty());
    f.post(MAPS, map("b", "yes")).await.expect(201);
    f.post(&format!("{MAPS}?dryRun=All"), map("c", "yes")).await.expect(201);
    let names: Vec<_> = hook.seen().iter().map(|request| request["name"].clone()).collect();
    assert_eq!(names, ["b", "c"]);
    assert_eq!(hook.seen()[1]["dryRun"], true);
    f.pod("p").await;
    f.get(&format!("{PODS}/p")).await.expect(200);
    assert_eq!(hook.seen().len(), 2);
}

#[tokio::test]
async fn other_versions_of_a_custom_kind_are_meant_as_well() {
    let f = Fixture::start().await;
    let version = |name: &str, storage: bool| {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema}})
    };
    let definition = json!({"metadata": {"name": "widgets.e.com"}, "spec": {"group": "e.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"}, "versions": [version("v1", true), version("v1beta1", false)]}});
    f.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await.expect(201);
    let hook = Hook::start(|_| Some(patch(json!([{"op": "add", "path": "/size", "value": 1}])))).await;
    let rules = json!([{"operations": ["CREATE"], "apiGroups": ["e.com"], "apiVersions": ["v1"], "resources": ["widgets"]}]);
    let exact = json!({"name": "exact.example.com", "rules": rules, "matchPolicy": "Exact"});
    mutating(&f, json!([hook.webhook(json!({"rules": rules})), hook.webhook(exact)])).await;
    let widget = json!({"apiVersion": "e.com/v1beta1", "kind": "Widget", "metadata": {"name": "a"}});
    let made = f.post("/apis/e.com/v1beta1/namespaces/default/widgets", widget).await.expect(201);
    assert_eq!((&made["apiVersion"], &made["size"]), (&json!("e.com/v1beta1"), &json!(1)));
    let seen = hook.seen();
    assert_eq!(seen.len(), 1);
    for (field, version) in [("kind", "v1"), ("requestKind", "v1beta1")] {
        assert_eq!(seen[0][field], json!({"group": "e.com", "version": version, "kind": "Widget"}));
    }
    assert_eq!(seen[0]["object"]["apiVersion"], "e.com/v1");
}

#[tokio::test]
async fn an_object_is_converted_for_who_knows_it_in_another_version_and_back() {
    let (f, _converter) = super::custom::converting().await;
    const OLD: &str = "/apis/example.com/v1beta1/namespaces/default/widgets";
    let growing = Hook::start(|request| {
        let grown = json!([{"op": "replace", "path": "/spec/size", "value": 9}]);
        Some(if request["object"]["spec"]["size"] == 3 { patch(grown) } else { json!({"allowed": true}) })
    })
    .await;
    let rules = |operations: Value| json!([{"operations": operations, "apiGroups": ["example.com"], "apiVersions": ["v1"], "resources": ["widgets"]}]);
    mutating(&f, json!([growing.webhook(json!({"rules": rules(json!(["CREATE", "DELETE"]))}))])).await;
    let policy = json!({"metadata": {"name": "small"}, "spec": {
        "matchConstraints": {"resourceRules": rules(json!(["CREATE"]))},
        "validations": [{"expression": "object.spec.size < 10"}]}});
    f.post(&format!("{GROUP}/validatingadmissionpolicies"), policy).await.expect(201);
    let binding = json!({"metadata": {"name": "small"}, "spec": {"policyName": "small", "validationActions": ["Deny"]}});
    f.post(&format!("{GROUP}/validatingadmissionpolicybindings"), binding).await.expect(201);
    let adding = json!({"metadata": {"name": "color"}, "spec": {
        "matchConstraints": {"resourceRules": rules(json!(["CREATE"]))}, "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression":
            "object.spec.size == 4 ? [JSONPatch{op: 'replace', path: '/spec/size', value: 5}] : []"}}]}});
    f.post(&format!("{GROUP}/mutatingadmissionpolicies"), adding).await.expect(201);
    let binding = json!({"metadata": {"name": "color"}, "spec": {"policyName": "color"}});
    f.post(&format!("{GROUP}/mutatingadmissionpolicybindings"), binding).await.expect(201);

    let old = |name: &str, length: u32| json!({"apiVersion": "example.com/v1beta1", "kind": "Widget", "metadata": {"name": name}, "spec": {"length": length}});
    let made = f.post(OLD, old("a", 3)).await.expect(201);
    assert_eq!((&made["apiVersion"], &made["spec"]), (&json!("example.com/v1beta1"), &json!({"length": 9})));
    let seen = growing.seen();
    assert_eq!(
        (&seen[0]["kind"]["version"], &seen[0]["requestKind"]["version"]),
        (&json!("v1"), &json!("v1beta1"))
    );
    assert_eq!(
        (&seen[0]["object"]["apiVersion"], &seen[0]["object"]["spec"]),
        (&json!("example.com/v1"), &json!({"size": 3}))
    );
    assert_eq!(f.post(OLD, old("b", 4)).await.expect(201)["spec"], json!({"length": 5}));
    let refused = f.post(OLD, old("c", 12)).await.expect(422);
    assert_eq!(
        refused["message"],
        "widgets.example.com \"c\" is forbidden: ValidatingAdmissionPolicy 'small' with binding 'small' denied \
         request: failed expression: object.spec.size < 10"
    );
    let cursed = f.post(OLD, old("cursed", 3)).await.expect(500);
    assert_eq!(
        cursed["message"],
        "Internal error occurred: conversion webhook for example.com/v1beta1, Kind=Widget failed: it is cursed"
    );
    f.delete(&format!("{OLD}/a")).await.expect(200);
    let removed = growing.seen().pop().unwrap();
    assert_eq!(
        (&removed["operation"], &removed["oldObject"]["spec"]),
        (&json!("DELETE"), &json!({"size": 9}))
    );
}
