//! Kinds that clients define, from their definition to their end.

use minik::api::request::User;
use minik::client::Client;
use minik::controllers::kinds::Kinds;
use minik::controllers::{custom_resources, garbage_collector};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::server::{Fixture, MAPS, names, sent};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";
const OLD_WIDGETS: &str = "/apis/example.com/v1beta1/namespaces/default/widgets";

fn schema() -> Value {
    json!({"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "required": ["size"],
            "x-kubernetes-validations": [
                {"rule": "self.size <= self.limit", "message": "size exceeds the limit"},
                {"rule": "self.limit >= oldSelf.limit", "message": "the limit never shrinks"}],
            "properties": {
                "size": {"type": "integer", "minimum": 0, "description": "How big it is."},
                "limit": {"type": "integer", "default": 10},
                "color": {"type": "string", "enum": ["red", "blue"]},
                "selector": {"type": "string"},
                "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "required": ["name"], "properties": {
                        "name": {"type": "string"}, "port": {"type": "integer"}}}}}},
        "status": {"type": "object", "properties": {"size": {"type": "integer"}, "phase": {"type": "string"}}}}}})
}

/// Widgets: two versions, a status, a scale, columns, expressions.
fn widgets() -> Value {
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "schema": schema(),
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size",
                "statusReplicasPath": ".status.size", "labelSelectorPath": ".spec.selector"}},
            "selectableFields": [{"jsonPath": ".spec.color"}],
            "additionalPrinterColumns": [
                {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                {"name": "Color", "type": "string", "jsonPath": ".spec.color", "priority": 1},
                {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]})
    };
    json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
        "versions": [version("v1beta1", false), version("v1", true)]}})
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

async fn defined() -> Fixture {
    let f = Fixture::start().await;
    let made = f.post(DEFINITIONS, widgets()).await.expect(201);
    let conditions = made["status"]["conditions"].as_array().unwrap();
    let told: Vec<(&str, &str)> =
        conditions.iter().map(|c| (c["type"].as_str().unwrap(), c["status"].as_str().unwrap())).collect();
    assert_eq!(told, [("NamesAccepted", "True"), ("Established", "True")]);
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    f
}

#[tokio::test]
async fn a_definition_is_discovered_and_described() {
    let f = defined().await;
    let group = f.get("/apis/example.com").await.expect(200);
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let resources = f.get("/apis/example.com/v1").await.expect(200);
    let row = |name: &str| {
        let rows = resources["resources"].as_array().unwrap();
        rows.iter().find(|row| row["name"] == name).cloned().unwrap_or_default()
    };
    assert_eq!(
        (&row("widgets")["shortNames"], &row("widgets")["categories"]),
        (&json!(["wd"]), &json!(["all"]))
    );
    assert_eq!(row("widgets/scale")["group"], "autoscaling");
    assert_eq!(row("widgets/status")["kind"], "Widget");
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let all = sent(f.request("GET", "/apis").header("accept", aggregated)).await.expect(200);
    let items = all["items"].as_array().unwrap();
    let own = items.iter().find(|item| item["metadata"]["name"] == "example.com").unwrap();
    assert_eq!(own["versions"].as_array().unwrap().len(), 2);
    let document = f.get("/openapi/v3/apis/example.com/v1").await.expect(200);
    let described = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(described["properties"]["spec"]["properties"]["size"]["description"], "How big it is.");
    assert_eq!(described["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    let index = f.get("/openapi/v3").await.expect(200);
    assert!(index["paths"]["apis/example.com/v1"].is_object() && index["paths"]["api/v1"].is_object());
    let old = f.get("/openapi/v2").await.expect(200);
    assert!(old["definitions"]["com.example.v1.Widget"].is_object());
    let table =
        sent(f.request("GET", DEFINITIONS).header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io"));
    assert_eq!(table.await.expect(200)["rows"][0]["cells"][0], "widgets.example.com");
}

#[tokio::test]
async fn objects_follow_their_definition() {
    let f = defined().await;
    let made = f.post(WIDGETS, widget("a", json!({"size": 3, "color": "red"}))).await.expect(201);
    assert_eq!((&made["spec"]["limit"], &made["metadata"]["generation"]), (&json!(10), &json!(1)));

    let strict = format!("{WIDGETS}?fieldValidation=Strict");
    let unknown = f.post(&strict, widget("b", json!({"size": 3, "sise": 1}))).await.expect(400);
    assert_eq!(
        unknown["message"],
        "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: unknown field \"spec.sise\""
    );
    let dropped = f.post(WIDGETS, widget("b", json!({"size": 3, "sise": 1}))).await;
    assert_eq!(dropped.warnings(), ["unknown field \"spec.sise\""]);
    assert!(dropped.expect(201)["spec"].get("sise").is_none());
    for (spec, message) in [
        (
            json!({"size": "x"}),
            "Widget.example.com \"c\" is invalid: [spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\", <nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]",
        ),
        (
            json!({"size": 11}),
            "Widget.example.com \"c\" is invalid: spec: Invalid value: size exceeds the limit",
        ),
        (
            json!({"size": -1}),
            "Widget.example.com \"c\" is invalid: [spec.size: Invalid value: -1: spec.size in body should be greater than or equal to 0, spec.size: Invalid value: -1: should be a non-negative integer]",
        ),
    ] {
        assert_eq!(f.post(WIDGETS, widget("c", spec)).await.expect(422)["message"], message);
    }
    let path = format!("{WIDGETS}/a");
    let refused = f.patch(&path, json!({"spec": {"limit": 5}})).await.expect(422);
    assert_eq!(
        refused["message"],
        "Widget.example.com \"a\" is invalid: spec: Invalid value: the limit never shrinks"
    );
    let strategic = f.patch_as("application/strategic-merge-patch+json", &path, "{}").await;
    assert_eq!(strategic.code, 415);
    let missing = format!("{WIDGETS}/none");
    f.patch_as("application/strategic-merge-patch+json", &missing, "{}").await.expect(415);
    f.patch(&missing, json!({})).await.expect(404);
    let changed = f.patch(&path, json!({"spec": {"size": 4}, "status": {"phase": "x"}})).await.expect(200);
    assert_eq!((&changed["metadata"]["generation"], changed.get("status")), (&json!(2), None));

    // Who may write the status may write nothing else.
    let both = json!({"status": {"phase": "Ready", "size": 4}, "spec": {"size": 9},
        "metadata": {"labels": {"l": "1"}, "finalizers": ["x/y"]}});
    let told = f.patch(&format!("{path}/status"), both).await.expect(200);
    assert_eq!((&told["status"]["phase"], &told["spec"]["size"]), (&json!("Ready"), &json!(4)));
    assert_eq!(told["metadata"]["generation"], 2);
    assert_eq!(
        (&told["metadata"]["labels"]["l"], &told["metadata"]["finalizers"]),
        (&Value::Null, &Value::Null)
    );

    let old = f.get(&format!("{OLD_WIDGETS}/a")).await.expect(200);
    assert_eq!((&old["apiVersion"], &old["spec"]["size"]), (&json!("example.com/v1beta1"), &json!(4)));
    let listed = f.get(&format!("{OLD_WIDGETS}?fieldSelector=spec.color%3Dred")).await.expect(200);
    assert_eq!(names(&listed), ["a"]);
    assert_eq!(
        (&listed["kind"], &listed["items"][0]["apiVersion"]),
        (&json!("WidgetList"), &json!("example.com/v1beta1"))
    );
    f.get(&format!("{WIDGETS}?fieldSelector=spec.size%3D4")).await.expect(400);
    let mut watch = f.watch(&format!("{OLD_WIDGETS}?watch=1&fieldSelector=metadata.name%3Da")).await;
    assert_eq!(watch.next().await["object"]["apiVersion"], "example.com/v1beta1");

    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let table = sent(f.request("GET", &path).header("accept", accept)).await.expect(200);
    let columns: Vec<&Value> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(columns, ["Name", "Size", "Color", "Age"]);
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..3], [json!("a"), json!(4), json!("red")]);

    let applied = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "d"},
        "spec": {"size": 1, "ports": [{"name": "http", "port": 80}]}});
    let path = format!("{WIDGETS}/d?fieldManager=me");
    f.patch_as("application/apply-patch+yaml", &path, applied.to_string()).await.expect(201);
    let other = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "d"},
        "spec": {"size": 1, "ports": [{"name": "https", "port": 443}]}});
    let path = format!("{WIDGETS}/d?fieldManager=you");
    let merged = f.patch_as("application/apply-patch+yaml", &path, other.to_string()).await.expect(200);
    assert_eq!(merged["spec"]["ports"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_scale_is_a_view_of_its_object() {
    let f = defined().await;
    f.post(WIDGETS, widget("a", json!({"size": 3, "selector": "app=a"}))).await.expect(201);
    let path = format!("{WIDGETS}/a/scale");
    f.patch(&format!("{WIDGETS}/a/status"), json!({"status": {"size": 2}})).await.expect(200);
    let scale = f.get(&path).await.expect(200);
    assert_eq!((&scale["kind"], &scale["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
    assert_eq!(scale["spec"], json!({"replicas": 3}));
    assert_eq!(scale["status"], json!({"replicas": 2, "selector": "app=a"}));
    let scaled = f.patch(&path, json!({"spec": {"replicas": 5}})).await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 5);
    assert_eq!(f.get(&format!("{WIDGETS}/a")).await.expect(200)["spec"]["size"], 5);
    let refused = f.patch(&path, json!({"spec": {"replicas": -1}})).await.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("spec.replicas: Invalid value: -1"), "{refused}");
}

#[tokio::test]
async fn a_definition_that_is_deleted_takes_its_objects_along() {
    let f = defined().await;
    let client = Client::new(f.api.clone(), User::component("system:serviceaccount:kube-system:crd"));
    let _keeper = AbortOnDropHandle::new(tokio::spawn(custom_resources::run(client)));
    f.post(WIDGETS, widget("a", json!({"size": 3}))).await.expect(201);
    let held = json!({"apiVersion": "example.com/v1", "kind": "Widget",
        "metadata": {"name": "held", "finalizers": ["example.com/x"]}, "spec": {"size": 1}});
    f.post(WIDGETS, held).await.expect(201);
    // Another one of the same kind has to wait for its name.
    let mut other = widgets();
    other["metadata"]["name"] = json!("gadgets.example.com");
    other["spec"]["names"] = json!({"plural": "gadgets", "kind": "Widget", "listKind": "GadgetList"});
    let other = f.post(DEFINITIONS, other).await.expect(201);
    assert_eq!(other["status"]["conditions"][0]["message"], "\"Widget\" is already in use");
    let mut watch = f.watch(&format!("{WIDGETS}?watch=1")).await;
    let leaving = f.delete(&format!("{DEFINITIONS}/widgets.example.com")).await.expect(200);
    assert_eq!(leaving["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    let refused = f.post(WIDGETS, widget("late", json!({"size": 3}))).await.expect(405);
    assert_eq!(refused["message"], "create not allowed while custom resource definition is terminating");
    while watch.next().await["type"] != "DELETED" {}
    let mut definitions = f.watch(&format!("{DEFINITIONS}?watch=1")).await;
    assert_eq!(definitions.next().await["type"], "ADDED");
    f.patch(&format!("{WIDGETS}/held"), json!({"metadata": {"finalizers": null}})).await.expect(200);
    while definitions.next().await["type"] != "DELETED" {}
    // The event may be here a moment before the kind has gone.
    while f.get(WIDGETS).await.code != 404 {}
    while definitions.next().await["object"]["status"]["acceptedNames"]["kind"] != "Widget" {}
    f.delete(&format!("{DEFINITIONS}/gadgets.example.com")).await.expect(200);
    while definitions.next().await["type"] != "DELETED" {}
    while f.get("/apis/example.com").await.code != 404 {}
}

#[tokio::test]
async fn rules_that_may_cost_too_much_are_refused_where_they_are_new() {
    let f = defined().await;
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let definition = f.get(&path).await.expect(200);
    let mut dear = definition.clone();
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    dear.pointer_mut(spec).unwrap()["names"] = json!({"type": "array", "items": {"type": "string"},
        "x-kubernetes-validations": [{"rule": "self.all(a, self.exists_one(b, a == b))"}]});
    let refused = f.put(&path, dear.clone()).await.expect(422);
    let at = "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[names].x-kubernetes-validations[0].rule";
    assert!(
        refused["message"].as_str().unwrap().contains(&format!(
            "{at}: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule"
        )),
        "{refused}"
    );
    let names = dear.pointer_mut(&format!("{spec}/names")).unwrap();
    names["maxItems"] = json!(8);
    names["items"]["maxLength"] = json!(20);
    f.put(&path, dear).await.expect(200);
}

#[tokio::test]
async fn custom_objects_go_with_their_owners() {
    let f = defined().await;
    let client = Client::new(f.api.clone(), User::component("system:serviceaccount:kube-system:collector"));
    let (kinds, feed) = Kinds::new(&client);
    let _feed = AbortOnDropHandle::new(tokio::spawn(feed));
    let _collector = AbortOnDropHandle::new(tokio::spawn(garbage_collector::run(client, kinds)));
    let owner = f.config("owner").await;
    let mut owned = widget("owned", json!({"size": 1}));
    owned["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
        "uid": owner["metadata"]["uid"]}]);
    let owned = f.post(WIDGETS, owned).await.expect(201);
    let below = json!({"metadata": {"name": "below", "ownerReferences": [{"apiVersion": "example.com/v1beta1",
        "kind": "Widget", "name": "owned", "uid": owned["metadata"]["uid"]}]}});
    f.post(MAPS, below).await.expect(201);
    let mut watch = f.watch(&format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Dbelow")).await;
    f.delete(&format!("{MAPS}/owner")).await.expect(200);
    while watch.next().await["type"] != "DELETED" {}
    f.get(&format!("{WIDGETS}/owned")).await.expect(404);
}

/// A webhook on loopback that converts widgets: what one version calls `size`, the other calls `length`.
pub mod converter {
    use std::sync::Arc;

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

    /// A webhook that converts widgets until it is dropped.
    pub struct Converter {
        pub port: u16,
        /// Its certificate, as a `caBundle`.
        pub ca: String,
        _task: AbortOnDropHandle<()>,
    }

    pub async fn start() -> Converter {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let (acceptor, ca) = (TlsAcceptor::from(Arc::new(tls)), BASE64.encode(own.cert.pem()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(converted);
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Converter { port, ca, _task: AbortOnDropHandle::new(task) }
    }

    async fn converted(
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Full<Bytes>>, std::convert::Infallible> {
        let bytes = request.into_body().collect().await.unwrap().to_bytes();
        let review: Value = serde_json::from_slice(&bytes).unwrap();
        let wanted = review["request"]["desiredAPIVersion"].as_str().unwrap();
        let objects = review["request"]["objects"].as_array().unwrap().iter().map(|object| {
            let mut object = object.clone();
            let (from, to) = if wanted.ends_with("v1") { ("length", "size") } else { ("size", "length") };
            let spec = object["spec"].as_object_mut().unwrap();
            let value = spec.remove(from).unwrap_or_default();
            spec.insert(to.to_owned(), value);
            object["apiVersion"] = json!(wanted);
            object
        });
        let objects: Vec<Value> = objects.collect();
        let refused = objects.iter().any(|object| object["metadata"]["name"] == "cursed");
        let response = match refused {
            true => {
                json!({"uid": review["request"]["uid"], "result": {"status": "Failed", "message": "it is cursed"}})
            }
            false => {
                json!({"uid": review["request"]["uid"], "result": {"status": "Success"}, "convertedObjects": objects})
            }
        };
        let answer =
            json!({"apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": response});
        Ok(http::Response::new(Full::new(answer.to_string().into())))
    }
}

/// A server with widgets whose `spec.size` is the `spec.length` of their older version, as a webhook has it.
pub async fn converting() -> (Fixture, converter::Converter) {
    let f = Fixture::start().await;
    let hook = converter::start().await;
    let mut definition = widgets();
    let free = json!({"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"length": {"type": "integer"}}}}}});
    definition["spec"]["versions"][0]["schema"] = free;
    definition["spec"]["versions"][0]["subresources"] = json!({"status": {}});
    definition["spec"]["versions"][0]["selectableFields"] = json!([]);
    definition["spec"]["versions"][1]["schema"]["openAPIV3Schema"]["properties"]["spec"] =
        json!({"type": "object", "properties": {"size": {"type": "integer"}, "color": {"type": "string"}}});
    definition["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {
        "conversionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("https://127.0.0.1:{}/convert", hook.port), "caBundle": hook.ca}}});
    f.post(DEFINITIONS, definition).await.expect(201);
    (f, hook)
}

#[tokio::test]
async fn versions_are_converted_by_a_webhook() {
    let (f, _hook) = converting().await;
    let old = |name: &str| json!({"apiVersion": "example.com/v1beta1", "kind": "Widget", "metadata": {"name": name}, "spec": {"length": 3}});
    let made = f.post(OLD_WIDGETS, old("a")).await.expect(201);
    assert_eq!((&made["apiVersion"], &made["spec"]["length"]), (&json!("example.com/v1beta1"), &json!(3)));
    let new = f.get(&format!("{WIDGETS}/a")).await.expect(200);
    assert_eq!((&new["apiVersion"], &new["spec"]), (&json!("example.com/v1"), &json!({"size": 3})));
    let patched = f.patch(&format!("{OLD_WIDGETS}/a"), json!({"spec": {"length": 7}})).await.expect(200);
    assert_eq!((&patched["spec"], &patched["metadata"]["generation"]), (&json!({"length": 7}), &json!(2)));
    let mut watch = f.watch(&format!("{OLD_WIDGETS}?watch=1")).await;
    assert_eq!(watch.next().await["object"]["spec"], json!({"length": 7}));
    f.post(WIDGETS, json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "b"}, "spec": {"size": 5}}))
        .await
        .expect(201);
    assert_eq!(watch.next().await["object"]["spec"], json!({"length": 5}));
    let listed = f.get(OLD_WIDGETS).await.expect(200);
    let lengths: Vec<&Value> =
        listed["items"].as_array().unwrap().iter().map(|o| &o["spec"]["length"]).collect();
    assert_eq!(lengths, [&json!(7), &json!(5)]);
    let cursed = f.post(OLD_WIDGETS, old("cursed")).await.expect(500);
    assert_eq!(
        cursed["message"],
        "conversion webhook for example.com/v1beta1, Kind=Widget failed: it is cursed"
    );
}

#[tokio::test]
async fn objects_are_read_by_the_schema_of_today() {
    let f = defined().await;
    for name in ["a", "b"] {
        f.post(WIDGETS, widget(name, json!({"size": 3, "color": "red"}))).await.expect(201);
    }
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let wide = f.get(&path).await.expect(200);
    let redefine = async |change: &dyn Fn(&mut Value, &mut Value)| {
        let mut definition = f.get(&path).await.expect(200);
        definition["spec"] = wide["spec"].clone();
        let [older, newer] = definition["spec"]["versions"].as_array_mut().unwrap().as_mut_slice() else {
            panic!("two versions");
        };
        for version in [&mut *older, &mut *newer] {
            let spec = version.pointer_mut("/schema/openAPIV3Schema/properties/spec").unwrap();
            spec.as_object_mut().unwrap().remove("x-kubernetes-validations");
        }
        let properties = "/schema/openAPIV3Schema/properties/spec/properties";
        change(older.pointer_mut(properties).unwrap(), newer.pointer_mut(properties).unwrap());
        newer["selectableFields"] = json!([]);
        f.put(&path, definition).await.expect(200);
    };
    let mut watch = f.watch(&format!("{WIDGETS}?watch=1")).await;
    for _ in ["a", "b"] {
        assert_eq!(watch.next().await["object"]["spec"], json!({"size": 3, "limit": 10, "color": "red"}));
    }
    f.patch(&path, json!({"metadata": {"labels": {"any": "thing"}}})).await.expect(200);
    redefine(&|older, newer| {
        older.as_object_mut().unwrap().remove("limit");
        newer.as_object_mut().unwrap().remove("color");
        newer["shape"] = json!({"type": "string", "default": "round"});
    })
    .await;
    assert!(watch.ended().await, "who follows a kind that is another asks again");

    let shown = json!({"size": 3, "limit": 10, "shape": "round"});
    let read = f.get(&format!("{WIDGETS}/a")).await.expect(200);
    assert_eq!(read["spec"], shown);
    for item in f.get(WIDGETS).await.expect(200)["items"].as_array().unwrap() {
        assert_eq!(item["spec"], shown);
    }
    let mut watch = f.watch(&format!("{WIDGETS}?watch=1")).await;
    for _ in ["a", "b"] {
        assert_eq!(watch.next().await["object"]["spec"], shown);
    }
    // Defaults are those of the version in which it is stored, which the other does not know.
    assert_eq!(f.get(&format!("{OLD_WIDGETS}/a")).await.expect(200)["spec"], json!({"size": 3}));

    let strict = format!("{WIDGETS}/a?fieldValidation=Strict");
    let written = f.put(&strict, read).await.expect(200);
    assert_eq!(written["spec"], shown);
    let patched = f.patch(&strict, json!({"spec": {"size": 4}})).await.expect(200);
    assert_eq!(patched["spec"], json!({"size": 4, "limit": 10, "shape": "round"}));
    assert_eq!(watch.next().await["object"]["spec"], shown, "what was written is as it was shown");
    f.patch(&format!("{WIDGETS}/b?fieldValidation=Strict"), json!({"metadata": {"labels": {"x": "y"}}}))
        .await
        .expect(200);

    f.post(WIDGETS, widget("c", json!({"size": 1}))).await.expect(201);
    redefine(&|_, _| {}).await;
    let spec = async |name: &str| f.get(&format!("{WIDGETS}/{name}")).await.expect(200)["spec"].clone();
    assert_eq!(spec("a").await, json!({"size": 4, "limit": 10}));
    assert_eq!(spec("c").await, json!({"size": 1, "limit": 10}));
}

#[tokio::test]
async fn what_is_defined_is_served_whoever_wrote_it() {
    let f = defined().await;
    let mut definition = f.get(&format!("{DEFINITIONS}/widgets.example.com")).await.expect(200);
    // As left behind by a request whose client went before it was answered.
    definition["metadata"]["name"] = json!("gadgets.example.com");
    for place in ["/spec/names", "/status/acceptedNames"] {
        *definition.pointer_mut(place).unwrap() =
            json!({"plural": "gadgets", "singular": "gadget", "kind": "Gadget", "listKind": "GadgetList"});
    }
    let bytes = bytes::Bytes::from(serde_json::to_vec(&definition).unwrap());
    f.store.create("customresourcedefinitions/gadgets.example.com", move |_| bytes).await.unwrap();
    let served = async {
        while f.get("/apis/example.com/v1/namespaces/default/gadgets").await.code != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), served).await.expect("it is served");
}

#[tokio::test]
async fn objects_within_objects_are_objects() {
    let f = Fixture::start().await;
    let template = json!({"type": "object", "x-kubernetes-embedded-resource": true,
        "x-kubernetes-preserve-unknown-fields": true});
    let mut definition = widgets();
    for version in definition["spec"]["versions"].as_array_mut().unwrap() {
        version["schema"]["openAPIV3Schema"]["properties"]["template"] = template.clone();
    }
    f.post(DEFINITIONS, definition).await.expect(201);
    let with = |name: &str, template: Value| {
        let mut object = widget(name, json!({"size": 1}));
        object["template"] = template;
        object
    };
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"any": "thing"},
        "metadata": {"name": "p", "odd": 1, "creationTimestamp": null, "labels": {"a": "b"}}});
    let made = f.post(&format!("{WIDGETS}?fieldValidation=Warn"), with("a", pod.clone())).await;
    assert_eq!(made.warnings(), ["unknown field \"template.metadata.odd\""]);
    let made = made.expect(201);
    assert_eq!(made["template"]["metadata"], json!({"name": "p", "labels": {"a": "b"}}));
    assert_eq!(made["template"]["spec"], json!({"any": "thing"}));
    let strict = f.post(&format!("{WIDGETS}?fieldValidation=Strict"), with("b", pod)).await.expect(400);
    let message = strict["message"].as_str().unwrap();
    assert!(message.contains("unknown field \"template.metadata.odd\""), "{message}");
    let wrong = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": "x"}});
    let refused = f.post(WIDGETS, with("c", wrong)).await.expect(400);
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("Go struct field ObjectMeta.labels of type map[string]string"), "{message}");
    let refused =
        f.post(WIDGETS, with("d", json!({"kind": "a.b", "metadata": {"name": ".."}}))).await.expect(422);
    let causes = refused["details"]["causes"].as_array().unwrap();
    let fields: Vec<&str> = causes.iter().map(|cause| cause["field"].as_str().unwrap()).collect();
    assert!(
        fields.starts_with(&["template.apiVersion", "template.kind", "template.metadata.name"]),
        "{fields:?}"
    );
}
