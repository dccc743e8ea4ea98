//! Server-side apply, and who manages which fields after every kind of write.

use serde_json::{Value, json};

use super::server::{Answer, Fixture, MAPS, PODS, sent};

const ONE: &str = "/api/v1/namespaces/default/configmaps/one";
const SERVICES: &str = "/api/v1/namespaces/default/services";

impl Fixture {
    /// Applies a configuration; `query` names the manager and what else there is.
    async fn apply(&self, path: &str, query: &str, config: &Value) -> Answer {
        let path = format!("{path}?{query}");
        self.patch_as("application/apply-patch+yaml", &path, config.to_string()).await
    }
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": data})
}

/// The managers of an object: `kubectl Apply`, `kubelet Update status`.
fn managers(object: &Value) -> Vec<String> {
    let entry = |entry: &Value| {
        let text = |key: &str| entry[key].as_str().unwrap_or_default();
        assert!(entry["time"].is_string() && text("fieldsType") == "FieldsV1", "{entry}");
        format!("{} {} {}", text("manager"), text("operation"), text("subresource")).trim().to_owned()
    };
    object["metadata"]["managedFields"].as_array().into_iter().flatten().map(entry).collect()
}

/// What a manager owns.
fn owned<'a>(object: &'a Value, manager: &str) -> &'a Value {
    let mut entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    entries.find(|entry| entry["manager"] == manager).map_or(&Value::Null, |entry| &entry["fieldsV1"])
}

#[tokio::test]
async fn a_configuration_makes_an_object_and_changes_it() {
    let f = Fixture::start().await;
    let made = f.apply(ONE, "fieldManager=a", &map(json!({"x": "1", "y": "1"}))).await.expect(201);
    assert_eq!(managers(&made), ["a Apply"]);
    assert_eq!(owned(&made, "a"), &json!({"f:data": {"f:x": {}, "f:y": {}}}));
    let again = f.apply(ONE, "fieldManager=a", &map(json!({"x": "1", "y": "1"}))).await.expect(200);
    assert_eq!(again, made, "nothing is written");

    let both = f.apply(ONE, "fieldManager=b", &map(json!({"y": "1", "z": "1"}))).await.expect(200);
    assert_eq!(managers(&both), ["a Apply", "b Apply"]);
    let left = f.apply(ONE, "fieldManager=a", &map(json!({}))).await.expect(200);
    assert_eq!(left["data"], json!({"y": "1", "z": "1"}), "what another manager owns stays");
    assert_eq!(owned(&left, "a"), &json!({"f:data": {}}));
    let gone = f.apply(ONE, "fieldManager=b", &map(json!({}))).await.expect(200);
    assert_eq!(gone["data"], Value::Null);
}

#[tokio::test]
async fn conflicts_are_told_by_field_and_may_be_forced() {
    let f = Fixture::start().await;
    let body = map(json!({"x": "1", "y": "1"}));
    let made = f.post(&format!("{MAPS}?fieldManager=kubectl-create"), body).await.expect(201);
    let refused = f.apply(ONE, "fieldManager=a", &map(json!({"x": "2"}))).await.expect(409);
    assert_eq!(
        (&refused["reason"], &refused["message"]),
        (
            &json!("Conflict"),
            &json!("Apply failed with 1 conflict: conflict with \"kubectl-create\" using v1: .data.x")
        )
    );
    assert_eq!(
        refused["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"kubectl-create\" using v1",
            "field": ".data.x"}])
    );
    assert_eq!(f.get(ONE).await.expect(200), made);
    let tried =
        f.apply(ONE, "fieldManager=a&force=true&dryRun=All", &map(json!({"x": "2"}))).await.expect(200);
    assert_eq!(tried["data"]["x"], "2");
    assert_eq!(f.get(ONE).await.expect(200), made);
    let forced = f.apply(ONE, "fieldManager=a&force=true", &map(json!({"x": "2"}))).await.expect(200);
    assert_eq!(forced["data"], json!({"x": "2", "y": "1"}));
    assert_eq!(owned(&forced, "kubectl-create"), &json!({"f:data": {".": {}, "f:y": {}}}));
    // The same value is no conflict, and is owned by both.
    let shared = f.apply(ONE, "fieldManager=c", &map(json!({"x": "2"}))).await.expect(200);
    assert_eq!(owned(&shared, "a"), owned(&shared, "c"));
}

#[tokio::test]
async fn configurations_that_cannot_be_applied_are_refused() {
    let f = Fixture::start().await;
    let good = map(json!({"x": "1"}));
    let with = |key: &str, value: Value| {
        let mut config = good.clone();
        config["metadata"][key] = value;
        config
    };
    for (path, query, config, code, message) in [
        (
            ONE,
            "force=true",
            good.clone(),
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ),
        (ONE, "fieldManager=m", with("managedFields", json!([])), 400, "metadata.managedFields must be nil"),
        (
            ONE,
            "fieldManager=m",
            with("name", json!("two")),
            400,
            "the name of the object (two) does not match the name on the URL (one)",
        ),
        (
            ONE,
            "fieldManager=m",
            with("uid", json!("u")),
            409,
            "Operation cannot be fulfilled on configmaps \"one\": uid mismatch: the provided object specified uid u, \
             and no existing object was found",
        ),
        (
            ONE,
            "fieldManager=m",
            with("namespace", json!("other")),
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            ONE,
            "fieldManager=m",
            json!({"apiVersion": "v1", "kind": "Pod"}),
            400,
            "invalid object type: /v1, Kind=Pod",
        ),
        (
            ONE,
            "fieldManager=m",
            map(json!({"x": 1})),
            500,
            "failed to create typed patch object (/one; /v1, Kind=ConfigMap): .data.x: expected string, got \
             &value.valueUnstructured{Value:1}",
        ),
        (
            "/api/v1/namespaces/nowhere/configmaps/one",
            "fieldManager=m",
            good.clone(),
            404,
            "namespaces \"nowhere\" not found",
        ),
        (
            &format!("{PODS}/one/status"),
            "fieldManager=m",
            json!({"apiVersion": "v1", "kind": "Pod"}),
            404,
            "pods \"one\" not found",
        ),
    ] {
        let refused = f.apply(path, query, &config).await.expect(code);
        assert_eq!(refused["message"], message);
    }
    assert_eq!(f.get(ONE).await.code, 404);
    f.apply(ONE, "fieldManager=m", &good).await.expect(201);
    let stale = f.apply(ONE, "fieldManager=m", &with("resourceVersion", json!("1"))).await.expect(409);
    assert!(stale["message"].as_str().unwrap().contains("the object has been modified"), "{stale}");
    let cbor = f.patch_as("application/apply-patch+cbor", &format!("{ONE}?fieldManager=m"), "x").await;
    assert_eq!(cbor.code, 415);

    let twice = "apiVersion: v1\nkind: ConfigMap\ndata:\n  x: a\n  x: b\n";
    let strict = format!("{ONE}?fieldManager=m&fieldValidation=Strict");
    let refused = f.patch_as("application/apply-patch+yaml", &strict, twice).await.expect(400);
    assert!(refused["message"].as_str().unwrap().starts_with("error strict decoding patch: "), "{refused}");
    let warned = f.patch_as("application/apply-patch+yaml", &format!("{ONE}?fieldManager=m"), twice).await;
    assert_eq!((warned.code, warned.warnings().len()), (200, 1));
}

#[tokio::test]
async fn every_write_says_who_manages_what() {
    let f = Fixture::start().await;
    let account = "/api/v1/namespaces/default/serviceaccounts";
    f.post(account, json!({"metadata": {"name": "default"}})).await;
    let body = json!({"metadata": {"name": "www", "labels": {"a": "1"}},
        "spec": {"containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80}]}]}});
    let request = f.request("POST", PODS).header("user-agent", "kubectl/v1.37.0 (linux/amd64)").json(&body);
    let made = sent(request).await.expect(201);
    assert_eq!(managers(&made), ["kubectl Update"]);
    // Defaults are the creator's; what admission adds (the token's volume, tolerations) and the status are nobody's.
    assert_eq!(
        owned(&made, "kubectl"),
        &json!({
            "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {
                "f:containers": {"k:{\"name\":\"c\"}": {
                    ".": {}, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {}, "f:resources": {},
                    "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                        ".": {}, "f:containerPort": {}, "f:protocol": {}}},
                    "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {}}},
                "f:dnsPolicy": {}, "f:enableServiceLinks": {}, "f:restartPolicy": {}, "f:schedulerName": {},
                "f:securityContext": {}, "f:terminationGracePeriodSeconds": {}}
        })
    );

    let pod = format!("{PODS}/www");
    let binding = json!({"metadata": {"name": "www"}, "target": {"name": "minik"}});
    f.post(&format!("{pod}/binding"), binding).await.expect(201);
    let bound = f.get(&pod).await.expect(200);
    assert_eq!(
        bound["metadata"]["managedFields"], made["metadata"]["managedFields"],
        "a binding is nobody's"
    );

    let status = json!({"status": {"phase": "Running"}});
    let running = f.patch(&format!("{pod}/status?fieldManager=kubelet"), status).await.expect(200);
    assert_eq!(managers(&running), ["kubectl Update", "kubelet Update status"]);
    assert_eq!(owned(&running, "kubelet"), &json!({"f:status": {"f:phase": {}}}));
    let labelled = json!({"metadata": {"labels": {"a": "2", "b": "1"}}});
    let patched = f.patch(&format!("{pod}?fieldManager=kubectl-label"), labelled.clone()).await.expect(200);
    assert_eq!(
        owned(&patched, "kubectl-label"),
        &json!({"f:metadata": {"f:labels": {"f:a": {}, "f:b": {}}}})
    );
    assert_eq!(owned(&patched, "kubectl")["f:metadata"], json!({"f:labels": {}}));
    let again = f.patch(&format!("{pod}?fieldManager=other"), labelled).await.expect(200);
    assert_eq!(again, patched, "nothing is written");
    // A client that knows no managed fields keeps them all the same.
    let mut blind = patched.clone();
    blind["metadata"].as_object_mut().unwrap().remove("managedFields");
    blind["metadata"]["labels"] = json!({"b": "1"});
    let replaced = f.put(&format!("{pod}?fieldManager=editor"), blind).await.expect(200);
    assert_eq!(owned(&replaced, "kubectl-label"), &json!({"f:metadata": {"f:labels": {"f:b": {}}}}));
    assert_eq!(owned(&replaced, "editor"), &Value::Null, "who removes manages nothing");

    let applied = json!({"apiVersion": "v1", "kind": "Pod", "status": {"message": "hello"}});
    let told = f.apply(&format!("{pod}/status"), "fieldManager=teller", &applied).await.expect(200);
    assert_eq!(owned(&told, "teller"), &json!({"f:status": {"f:message": {}}}));
    assert_eq!(told["status"]["message"], "hello");
}

#[tokio::test]
async fn managed_fields_are_reset_and_edited_by_clients() {
    let f = Fixture::start().await;
    f.post(&format!("{MAPS}?fieldManager=maker"), map(json!({"x": "1"}))).await.expect(201);
    // What kubectl does before it takes over an object from client-side apply.
    let entries = json!([{"manager": "kubectl", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "time": "2024-01-01T00:00:00Z", "fieldsV1": {"f:data": {"f:x": {}}}}]);
    let patch = json!([{"op": "replace", "path": "/metadata/managedFields", "value": entries}]);
    let moved = f.patch_as("application/json-patch+json", ONE, patch.to_string()).await.expect(200);
    assert_eq!(moved["metadata"]["managedFields"], entries);
    for wrong in [
        json!([{"manager": "m", "operation": "Delete", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {}}]),
        json!([{"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": {"x": {}}}]),
    ] {
        let kept = f.patch(ONE, json!({"metadata": {"managedFields": wrong}})).await.expect(200);
        assert_eq!(kept["metadata"]["managedFields"], entries, "what cannot be read counts for nothing");
    }
    for reset in [json!([{}]), json!([])] {
        f.apply(ONE, "fieldManager=a&force=true", &map(json!({"x": "2"}))).await.expect(200);
        let gone = f.patch(ONE, json!({"metadata": {"managedFields": reset}})).await.expect(200);
        assert_eq!(gone["metadata"].get("managedFields"), None);
        let untracked = f.patch(ONE, json!({"data": {"y": "1"}})).await.expect(200);
        assert_eq!(untracked["metadata"].get("managedFields"), None);
    }
    let first = f.apply(ONE, "fieldManager=a", &map(json!({"z": "1"}))).await.expect(200);
    assert_eq!(managers(&first), ["a Apply", "before-first-apply Update"]);
    assert_eq!(owned(&first, "before-first-apply"), &json!({"f:data": {".": {}, "f:x": {}, "f:y": {}}}));
}

#[tokio::test]
async fn lists_merge_by_their_keys() {
    let f = Fixture::start().await;
    let path = format!("{SERVICES}/web");
    let service = |ports: Value| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"ports": ports, "selector": {"app": "web"}}})
    };
    let made =
        f.apply(&path, "fieldManager=a", &service(json!([{"port": 80, "name": "http"}]))).await.expect(201);
    assert!(made["spec"]["clusterIP"].is_string());
    assert_eq!(
        owned(&made, "a"),
        &json!({"f:spec": {"f:selector": {}, "f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {
            ".": {}, "f:name": {}, "f:port": {}}}}})
    );
    let other =
        json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 443, "name": "https"}]}});
    let both = f.apply(&path, "fieldManager=b", &other).await.expect(200);
    let ports = |object: &Value| -> Vec<i64> {
        object["spec"]["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|port| port["port"].as_i64().unwrap())
            .collect()
    };
    assert_eq!(ports(&both), [80, 443]);
    let moved =
        f.apply(&path, "fieldManager=a", &service(json!([{"port": 81, "name": "http"}]))).await.expect(200);
    assert_eq!(ports(&moved), [443, 81]);
    assert_eq!(moved["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    let twice = service(json!([{"port": 80}, {"port": 80, "protocol": "TCP"}]));
    let refused = f.apply(&path, "fieldManager=a", &twice).await.expect(500);
    assert_eq!(
        refused["message"],
        "failed to create typed patch object (/web; /v1, Kind=Service): .spec.ports: duplicate entries for key \
         [port=80,protocol=\"TCP\"]"
    );
}

#[tokio::test]
async fn custom_objects_merge_by_their_schema() {
    let f = Fixture::start().await;
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {
                    "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                        "items": {"type": "object", "required": ["name"], "properties": {
                            "name": {"type": "string"}, "port": {"type": "integer"}}}},
                    "hosts": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}},
                "status": {"type": "object", "properties": {"phase": {"type": "string"}}}}}}})
    };
    let definition = json!({"metadata": {"name": "gadgets.example.com"}, "spec": {"group": "example.com",
        "scope": "Namespaced", "names": {"plural": "gadgets", "kind": "Gadget"},
        "versions": [version("v1beta1", false), version("v1", true)]}});
    f.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await.expect(201);
    let path = |version: &str| format!("/apis/example.com/{version}/namespaces/default/gadgets/one");
    let gadget = |version: &str, spec: Value| {
        json!({"apiVersion": format!("example.com/{version}"), "kind": "Gadget", "metadata": {"name": "one"},
            "spec": spec})
    };
    let a =
        gadget("v1", json!({"ports": [{"name": "x", "port": 1}], "hosts": ["a"], "free": {"b": {"c": 1}}}));
    let made = f.apply(&path("v1"), "fieldManager=a", &a).await.expect(201);
    assert_eq!(
        owned(&made, "a"),
        &json!({"f:spec": {"f:free": {"f:b": {".": {}, "f:c": {}}}, "f:hosts": {"v:\"a\"": {}},
            "f:ports": {"k:{\"name\":\"x\"}": {".": {}, "f:name": {}, "f:port": {}}}}})
    );
    let b = gadget("v1beta1", json!({"ports": [{"name": "y", "port": 2}], "hosts": ["b"], "free": {"d": 1}}));
    let both = f.apply(&path("v1beta1"), "fieldManager=b", &b).await.expect(200);
    assert_eq!(
        both["spec"],
        json!({"ports": [{"name": "x", "port": 1}, {"name": "y", "port": 2}], "hosts": ["a", "b"],
            "free": {"b": {"c": 1}, "d": 1}})
    );
    assert_eq!(managers(&both), ["a Apply", "b Apply"]);
    let wants = gadget("v1", json!({"ports": [{"name": "y", "port": 3}]}));
    let refused = f.apply(&path("v1"), "fieldManager=c", &wants).await.expect(409);
    assert_eq!(
        refused["message"],
        "Apply failed with 1 conflict: conflict with \"b\": .spec.ports[name=\"y\"].port"
    );
    let nothing = gadget("v1", json!({}));
    let left = f.apply(&path("v1"), "fieldManager=b", &nothing).await.expect(200);
    assert_eq!(left["spec"], made["spec"], "what one version set goes by another");
    let unknown = gadget("v1", json!({"color": "red"}));
    let refused = f.apply(&path("v1"), "fieldManager=a", &unknown).await.expect(500);
    assert_eq!(
        refused["message"],
        "failed to create typed patch object (/one; example.com/v1, Kind=Gadget): .spec.color: field not declared in \
         schema"
    );
    let status = json!({"apiVersion": "example.com/v1", "kind": "Gadget", "status": {"phase": "Ready"}});
    let told = f.apply(&format!("{}/status", path("v1")), "fieldManager=s", &status).await.expect(200);
    assert_eq!(owned(&told, "s"), &json!({"f:status": {"f:phase": {}}}));
}

#[tokio::test]
async fn a_scale_is_managed_as_its_own_part() {
    let f = Fixture::start().await;
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "one"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let path = "/apis/apps/v1/namespaces/default/deployments/one";
    let made = f.apply(path, "fieldManager=a", &deployment).await.expect(201);
    assert_eq!(owned(&made, "a")["f:spec"]["f:replicas"], json!({}));
    let scaled = json!({"spec": {"replicas": 3}});
    f.patch(&format!("{path}/scale?fieldManager=autoscaler"), scaled).await.expect(200);
    let object = f.get(path).await.expect(200);
    assert_eq!(managers(&object), ["a Apply", "autoscaler Update scale"]);
    assert_eq!(owned(&object, "autoscaler"), &json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(owned(&object, "a")["f:spec"].get("f:replicas"), None);
    let refused = f.apply(path, "fieldManager=a", &deployment).await.expect(409);
    assert_eq!(
        refused["message"],
        "Apply failed with 1 conflict: conflict with \"autoscaler\" with subresource \"scale\" using apps/v1: \
         .spec.replicas"
    );
    let scale = |replicas: i64| {
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "one"},
            "spec": {"replicas": replicas}})
    };
    let path = format!("{path}/scale");
    f.apply(&path, "fieldManager=b", &scale(4)).await.expect(409);
    f.apply(&path, "fieldManager=b", &deployment).await.expect(400);
    let scaled = f.apply(&path, "fieldManager=b&force=true", &scale(4)).await.expect(200);
    assert_eq!((&scaled["kind"], &scaled["spec"]), (&json!("Scale"), &json!({"replicas": 4})));
    let object = f.get(path.trim_end_matches("/scale")).await.expect(200);
    assert_eq!(managers(&object), ["a Apply", "b Apply scale"]);
    assert_eq!(owned(&object, "b"), &json!({"f:spec": {"f:replicas": {}}}));
    let again = f.apply(&path, "fieldManager=b", &scale(4)).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"]);
}

/// The examples of Kubernetes' documentation ("Server-Side Apply").
#[tokio::test]
async fn fields_go_from_one_manager_to_another_as_documented() {
    let f = Fixture::start().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "test-cm", "labels": {"test-label": "test"}}, "data": {"key": "some value"}});
    let path = format!("{MAPS}/test-cm");
    let made = f.apply(&path, "fieldManager=kubectl", &map).await.expect(201);
    let label = json!({"f:labels": {"f:test-label": {}}});
    assert_eq!(owned(&made, "kubectl"), &json!({"f:metadata": label, "f:data": {"f:key": {}}}));
    let update = format!("{path}?fieldManager=kube-controller-manager");
    let changed = f.patch(&update, json!({"data": {"key": "new value"}})).await.expect(200);
    assert_eq!(managers(&changed), ["kubectl Apply", "kube-controller-manager Update"]);
    assert_eq!(owned(&changed, "kubectl"), &json!({"f:metadata": label}));
    assert_eq!(owned(&changed, "kube-controller-manager"), &json!({"f:data": {"f:key": {}}}));

    let deployment = |name: &str, replicas: Value| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "nginx"}}, "template": {
                "metadata": {"labels": {"app": "nginx"}},
                "spec": {"containers": [{"name": "nginx", "image": "nginx:1.14.2"}]}}}})
    };
    let without = |name: &str| {
        let mut config = deployment(name, json!(null));
        config["spec"].as_object_mut().unwrap().remove("replicas");
        config
    };
    // Who takes the replicas out of a configuration gives them up, unless somebody took them over.
    for (name, handed_over) in [("given-up", false), ("handed-over", true)] {
        let path = format!("/apis/apps/v1/namespaces/default/deployments/{name}");
        f.apply(&path, "fieldManager=kubectl", &deployment(name, json!(3))).await.expect(201);
        if handed_over {
            let replicas = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
                "spec": {"replicas": 3}});
            f.apply(&path, "fieldManager=handover-to-hpa", &replicas).await.expect(200);
        }
        let left = f.apply(&path, "fieldManager=kubectl", &without(name)).await.expect(200);
        assert_eq!(left["spec"]["replicas"], if handed_over { 3 } else { 1 });
        assert!(owned(&left, "kubectl")["f:spec"].get("f:replicas").is_none());
        f.patch(&format!("{path}/scale?fieldManager=hpa"), json!({"spec": {"replicas": 5}}))
            .await
            .expect(200);
        let scaled = f.get(&path).await.expect(200);
        assert_eq!(managers(&scaled), ["kubectl Apply", "hpa Update scale"]);
        let again = f.apply(&path, "fieldManager=kubectl", &without(name)).await.expect(200);
        assert_eq!(again["spec"]["replicas"], 5);
    }
}

/// The documentation's example of a definition that is changed while somebody manages the fields.
#[tokio::test]
async fn a_map_that_was_one_value_is_managed_by_its_keys() {
    let f = Fixture::start().await;
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"data": {
        "type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}}}}}});
    let definition = json!({"metadata": {"name": "foos.e.com"}, "spec": {"group": "e.com", "scope": "Namespaced",
        "names": {"plural": "foos", "kind": "Foo"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    f.post(definitions, definition).await.expect(201);
    let (path, of) = (
        "/apis/e.com/v1/namespaces/default/foos/foo-sample",
        |data: Value| json!({"apiVersion": "e.com/v1", "kind": "Foo", "metadata": {"name": "foo-sample"}, "spec": {"data": data}}),
    );
    let made = f
        .apply(path, "fieldManager=manager-one", &of(json!({"key1": "val1", "key2": "val2"})))
        .await
        .expect(201);
    assert_eq!(owned(&made, "manager-one"), &json!({"f:spec": {"f:data": {}}}));
    let other = of(json!({"key1": "other"}));
    f.apply(path, "fieldManager=manager-two", &other).await.expect(409);
    let change = |how: &str| {
        let data =
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/data/x-kubernetes-map-type";
        json!([{"op": "replace", "path": data, "value": how}]).to_string()
    };
    let definition = format!("{definitions}/foos.e.com");
    f.patch_as("application/json-patch+json", &definition, change("granular")).await.expect(200);
    let shared = f.apply(path, "fieldManager=manager-two", &other).await.expect(200);
    assert_eq!(shared["spec"]["data"], json!({"key1": "other", "key2": "val2"}));
    assert_eq!(owned(&shared, "manager-one"), &json!({"f:spec": {"f:data": {}}}));
    assert_eq!(owned(&shared, "manager-two"), &json!({"f:spec": {"f:data": {"f:key1": {}}}}));
    f.patch_as("application/json-patch+json", &definition, change("atomic")).await.expect(200);
    f.apply(path, "fieldManager=manager-two", &of(json!({"key1": "more"}))).await.expect(409);
}

/// Numbers without a pattern, the same at every run (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn pick(&mut self, names: &[&'static str]) -> Vec<&'static str> {
        names.iter().copied().filter(|_| self.below(2) == 0).collect()
    }

    /// A service that says some of what may be said of it, so that managers meet in all of its parts.
    fn service(&mut self) -> Value {
        let mut metadata = json!({"name": "web"});
        for (part, names) in [("labels", ["a", "b", "c"]), ("annotations", ["a", "b", "c"])] {
            let pairs = self.pick(&names).into_iter();
            let pairs: serde_json::Map<String, Value> =
                pairs.map(|name| (name.to_owned(), self.below(3).to_string().into())).collect();
            if !pairs.is_empty() {
                metadata[part] = Value::Object(pairs);
            }
        }
        let finalizers = self.pick(&["e.com/a", "e.com/b"]);
        if !finalizers.is_empty() {
            metadata["finalizers"] = json!(finalizers);
        }
        let mut ports = vec![json!({"port": 80, "name": "http", "targetPort": 8000 + self.below(3)})];
        for (name, port) in [("more", 81), ("most", 82)] {
            if self.below(2) == 0 {
                ports.push(json!({"port": port, "name": name}));
            }
        }
        let mut service =
            json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports}});
        if self.below(2) == 0 {
            service["spec"]["selector"] = json!({"app": self.below(3).to_string()});
        }
        service
    }
}

/// What of an applied value an object does not show: list items are told by their port, others by themselves.
fn missing(applied: &Value, shown: &Value, path: &str) -> Vec<String> {
    match (applied, shown) {
        (Value::Object(fields), Value::Object(_)) => {
            let inner =
                |(name, value): (&String, &Value)| missing(value, &shown[name], &format!("{path}.{name}"));
            fields.iter().flat_map(inner).collect()
        }
        (Value::Array(items), Value::Array(others)) => {
            let like = |item: &Value, other: &&Value| match item.get("port") {
                Some(port) => other["port"] == *port,
                None => *other == item,
            };
            let inner = |item: &Value| match others.iter().find(|other| like(item, other)) {
                Some(other) => missing(item, other, &format!("{path}[{item}]")),
                None => vec![format!("{path}[{item}]")],
            };
            items.iter().flat_map(inner).collect()
        }
        _ if applied == shown => Vec::new(),
        _ => vec![format!("{path}: {shown} is not {applied}")],
    }
}

/// What holds whoever applies whatever.
#[tokio::test]
async fn whatever_is_applied_is_there_and_is_written_once() {
    let f = Fixture::start().await;
    let web = format!("{SERVICES}/web");
    let mut random = Random(11);
    for round in 0..60 {
        let manager = ["a", "b", "c"][random.below(3) as usize];
        let config = random.service();
        let query = format!("fieldManager={manager}&force=true");
        let answer = f.apply(&web, &query, &config).await;
        assert!(matches!(answer.code, 200 | 201), "{round} {manager} {config}: {}", answer.text());
        let applied = answer.json();
        assert_eq!(
            missing(&config, &applied, ""),
            Vec::<String>::new(),
            "{round} {manager} {config}: {applied}"
        );
        assert_eq!(f.get(&web).await.expect(200), applied, "what is answered is what is kept");
        let again = f.apply(&web, &query, &config).await.expect(200);
        assert_eq!(again, applied, "{round} {manager} {config}: nothing is written twice");
        // Nobody loses what he applied unless another takes it, and then it is still owned.
        let owners = managers(&applied);
        assert!(owners.contains(&format!("{manager} Apply")), "{round}: {owners:?}");
        let owned_by_all: Vec<&Value> =
            ["a", "b", "c"].iter().map(|manager| owned(&applied, manager)).collect();
        for part in ["labels", "annotations"] {
            for name in applied["metadata"][part].as_object().into_iter().flatten().map(|(name, _)| name) {
                let field = format!("f:{name}");
                let has = |set: &&Value| !set["f:metadata"][format!("f:{part}")][&field].is_null();
                assert!(owned_by_all.iter().any(has), "{round}: nobody owns {part}.{name} of {applied}");
            }
        }
    }
}

#[tokio::test]
async fn fields_are_owned_across_versions_that_a_webhook_converts() {
    let (f, _hook) = super::custom::converting().await;
    let path = |version: &str| format!("/apis/example.com/{version}/namespaces/default/widgets/one");
    let widget = |version: &str, spec: Value| {
        json!({"apiVersion": format!("example.com/{version}"), "kind": "Widget", "metadata": {"name": "one"},
            "spec": spec})
    };
    // What one version calls the length is what another calls the size.
    let a = widget("v1beta1", json!({"length": 3}));
    let made = f.apply(&path("v1beta1"), "fieldManager=a", &a).await.expect(201);
    assert_eq!(owned(&made, "a"), &json!({"f:spec": {"f:length": {}}}));
    let b = widget("v1", json!({"size": 5, "color": "red"}));
    let refused = f.apply(&path("v1"), "fieldManager=b", &b).await.expect(409);
    assert_eq!(refused["message"], "Apply failed with 1 conflict: conflict with \"a\": .spec.length");
    let same = widget("v1", json!({"size": 3, "color": "red"}));
    let both = f.apply(&path("v1"), "fieldManager=b", &same).await.expect(200);
    assert_eq!(managers(&both), ["a Apply", "b Apply"]);
    assert_eq!(owned(&both, "b"), &json!({"f:spec": {"f:color": {}, "f:size": {}}}));
    // What somebody else changes is no longer theirs, by whatever name they knew it.
    let patched = f.patch(&path("v1"), json!({"spec": {"size": 7}})).await.expect(200);
    assert_eq!(
        (owned(&patched, "a"), owned(&patched, "b")),
        (&Value::Null, &json!({"f:spec": {"f:color": {}}}))
    );
    // Where nothing can be compared, an update is managed by nobody and an apply is refused.
    f.delete(&path("v1")).await.expect(200);
    f.apply(&path("v1beta1"), "fieldManager=a", &a).await.expect(201);
    let nowhere = json!({"spec": {"conversion": {"webhook": {"clientConfig": {"url": "https://127.0.0.1:1/convert"}}}}});
    f.patch("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com", nowhere)
        .await
        .expect(200);
    f.apply(&path("v1"), "fieldManager=b", &same).await.expect(500);
    let patched = f.patch(&path("v1"), json!({"spec": {"color": "blue"}})).await.expect(200);
    assert_eq!(managers(&patched), [""; 0]);
}
