//! Bodies and options that are not what they should be, and patches of every kind.

use serde_json::{Value, json};

use super::server::{Fixture, MAPS, PODS, sent};

const ONE: &str = "/api/v1/namespaces/default/configmaps/one";
const TOKEN: &str = "/api/v1/namespaces/default/serviceaccounts/default/token";

#[tokio::test]
async fn hostile_bodies_of_subresources_are_refused() {
    let f = Fixture::start().await;
    let before = f.pod("www").await;
    let paths = [&format!("{PODS}/www/binding"), &format!("{PODS}/www/eviction"), TOKEN];
    for path in paths {
        for body in [
            json!([]),
            json!("x"),
            json!(1),
            json!(null),
            json!({"spec": "x"}),
            json!({"metadata": []}),
            json!({"kind": "Pod"}),
            json!({"apiVersion": "v2"}),
            json!({"metadata": {"name": "another"}}),
            json!({"metadata": {"name": "www", "namespace": "another"}}),
            json!({"metadata": {"name": "www", "annotations": {"a": 1}}, "target": {"name": "minik"}}),
            json!({"metadata": {"name": "www"}, "target": "x", "deleteOptions": [], "spec": []}),
        ] {
            let answer = f.post(path, body.clone()).await;
            // A field that only another of the three kinds has is unknown here, and no more.
            let foreign = body.get("spec").is_some() && path != TOKEN && body.get("target").is_none();
            let empty = body.is_null() && path == TOKEN;
            assert!(matches!(answer.code, 400 | 422) || foreign || empty, "{path} {body}: {}", answer.text());
        }
    }
    for (path, body) in [
        (TOKEN, json!({"spec": {"audiences": [1]}})),
        (TOKEN, json!({"spec": {"boundObjectRef": "x"}})),
        (TOKEN, json!({"spec": {"expirationSeconds": "600"}})),
        (paths[0], json!({"metadata": {"name": "www"}, "target": {"name": "a b"}})),
        (paths[0], json!({"metadata": {"name": "www"}, "target": {"kind": "Pod", "name": "a"}})),
        (paths[1], json!({"metadata": {"name": "www"}, "deleteOptions": {"gracePeriodSeconds": "x"}})),
        (paths[1], json!({"metadata": {"name": "www"}, "deleteOptions": {"dryRun": ["Some"]}})),
    ] {
        let answer = f.post(path, body.clone()).await;
        assert!(matches!(answer.code, 400 | 422), "{path} {body}: {}", answer.text());
    }
    let binding = json!({"metadata": {"name": "www"}, "target": {"name": "minik"}, "foo": 1});
    let strict = f.post(&format!("{}?fieldValidation=Strict", paths[0]), binding).await.expect(400);
    assert_eq!(
        strict["message"],
        "Binding in version \"v1\" cannot be handled as a Binding: strict decoding error: unknown field \"foo\""
    );
    assert_eq!(f.get(&format!("{PODS}/www")).await.expect(200), before);
}

#[tokio::test]
async fn fields_that_are_unknown_or_given_twice() {
    let f = Fixture::start().await;
    let json = r#"{"metadata": {"name": "twice", "labels": {"a": "1", "a": "2"}}, "fuß": 1}"#;
    let yaml = "metadata:\n  name: twice\n  labels:\n    a: '1'\n    a: '2'\nfuß: 1\n";
    let complaints = ["unknown field \"fuß\"", "duplicate field \"metadata.labels.a\""];
    for (media, body) in [("application/json", json), ("application/yaml", yaml)] {
        let post = |validation: &str| {
            let request = f.request("POST", &format!("{MAPS}?dryRun=All&fieldValidation={validation}"));
            sent(request.header("content-type", media).body(body))
        };
        let strict = post("Strict").await.expect(400);
        let head = "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: ";
        assert_eq!(strict["message"], format!("{head}{}", complaints.join(", ")), "{media}");
        for validation in ["Warn", ""] {
            let warned = post(validation).await;
            assert_eq!(warned.warnings(), complaints, "{media}");
            assert_eq!(warned.expect(201)["metadata"]["labels"], json!({"a": "2"}));
        }
        let ignored = post("Ignore").await;
        assert!(ignored.warnings().is_empty());
        ignored.expect(201);
    }
    f.config("one").await;
    let merge = "application/merge-patch+json";
    let patch = r#"{"data": {"a": "1", "a": "2"}, "foo": 1}"#;
    let warned = f.patch_as(merge, ONE, patch).await;
    assert_eq!(warned.warnings(), ["unknown field \"foo\"", "duplicate field \"data.a\""]);
    assert_eq!(warned.expect(200)["data"], json!({"a": "2"}));
    let strict = f.patch_as(merge, &format!("{ONE}?fieldValidation=Strict"), patch).await.expect(422);
    let message = strict["message"].as_str().unwrap();
    assert!(message.starts_with(" \"\" is invalid: patch: Invalid value: \"{"), "{message}");
    assert!(message.ends_with("unknown field \"foo\", duplicate field \"data.a\""), "{message}");
}

#[tokio::test]
async fn warnings_are_bounded() {
    let f = Fixture::start().await;
    let mut map = json!({"metadata": {"name": "many"}});
    for n in 0..90 {
        map[format!("{n:03}{}", "x".repeat(300))] = json!(1);
    }
    let answer = f.post(MAPS, map).await;
    let warnings = answer.warnings();
    assert_eq!(warnings.len(), 16);
    assert!(warnings.iter().all(|w| w.len() == 256));
    answer.expect(201);
}

#[tokio::test]
async fn options_are_checked() {
    let f = Fixture::start().await;
    f.config("one").await;
    let dry = "dryRun: Unsupported value: [\"x\"]: supported values: \"All\"";
    for (method, path, body, of) in [
        ("POST", format!("{MAPS}?dryRun=x"), json!({"metadata": {"name": "two"}}), "CreateOptions"),
        ("PUT", format!("{ONE}?dryRun=x"), json!({"metadata": {"name": "one"}}), "UpdateOptions"),
        ("DELETE", ONE.to_owned(), json!({"dryRun": ["x"]}), "DeleteOptions"),
    ] {
        let refused = sent(f.request(method, &path).json(&body)).await.expect(422);
        assert_eq!(refused["message"], format!("{of}.meta.k8s.io \"\" is invalid: {dry}"), "{method} {path}");
        assert_eq!(refused["details"]["causes"][0]["field"], "dryRun");
    }
    // The options of a deletion are in the body or else in the query.
    f.delete(&format!("{ONE}?dryRun=x")).await.expect(422);
    let patch = f.patch(&format!("{ONE}?force=true"), json!({})).await.expect(422);
    assert!(
        patch["message"].as_str().unwrap().starts_with("PatchOptions.meta.k8s.io \"\" is invalid: force")
    );
    let other = f.post(MAPS, json!({"metadata": {"name": "a", "namespace": "b"}})).await.expect(400);
    assert_eq!(
        other["message"],
        "the namespace of the provided object does not match the namespace sent on the request"
    );
    let nameless = f.put(ONE, json!({"data": {}})).await.expect(400);
    assert_eq!(
        nameless["message"],
        "the name of the object (one based on URL) was undeterminable: name must be provided"
    );
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let beta = "application/json;as=Table;g=meta.k8s.io;v=v1beta1";
    let old = sent(f.request("GET", MAPS).header("accept", beta)).await.expect(200);
    assert_eq!((&old["kind"], &old["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1beta1")));
    assert_eq!(old["rows"][0]["object"]["apiVersion"], "meta.k8s.io/v1beta1");
    let path = format!("{MAPS}?includeObject=Nonsense");
    let refused = sent(f.request("GET", &path).header("accept", table)).await.expect(400);
    assert_eq!(
        refused["message"],
        "Unable to convert to Table as requested: includeObject: Invalid value: \"Nonsense\": must be \
         'Metadata', 'Object', 'None', or empty"
    );
    f.get(ONE).await.expect(200);
}

#[tokio::test]
async fn patches_of_every_kind() {
    let f = Fixture::start().await;
    f.config("one").await;
    let json_patch =
        |operations: Value| f.patch_as("application/json-patch+json", ONE, operations.to_string());
    let added = json_patch(json!([{"op": "add", "path": "/data", "value": {"a": "1"}}])).await.expect(200);
    assert_eq!(added["data"], json!({"a": "1"}));
    let test = json!([{"op": "test", "path": "/data/a", "value": "2"}, {"op": "remove", "path": "/data"}]);
    let failed = json_patch(test).await.expect(422);
    assert_eq!(
        (&failed["reason"], &failed["message"]),
        (&json!("Invalid"), &json!("the server rejected our request due to an error in our request"))
    );
    assert!(failed["details"].get("causes").is_none(), "{failed}");
    let copy = |n: usize| json!({"op": "copy", "from": "", "path": format!("/data/{n}")});
    json_patch((0..40).map(copy).collect()).await.expect(422);
    assert_eq!(f.get(ONE).await.expect(200)["data"], json!({"a": "1"}));

    let pod = format!("{PODS}/www");
    f.pod("www").await;
    let strategic = json!({"spec": {"containers": [{"name": "c", "image": "busybox"}]}});
    let media = "application/strategic-merge-patch+json";
    let patched = f.patch_as(media, &pod, strategic.to_string()).await.expect(200);
    assert_eq!(patched["spec"]["containers"][0]["image"], "busybox");
    assert!(patched["spec"]["containers"][0]["terminationMessagePath"].is_string(), "merged, not replaced");
    let wrong = f.patch(&pod, json!({"spec": {"activeDeadlineSeconds": "soon"}})).await.expect(422);
    assert!(wrong["message"].as_str().unwrap().contains("cannot unmarshal string"), "{wrong}");

    let accepted = "the body of the request was in an unknown format - accepted media types include: \
        application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, \
        application/apply-patch+yaml";
    for media in ["application/json", "text/plain", ""] {
        let refused = f.patch_as(media, ONE, "{}").await.expect(415);
        assert_eq!(
            (&refused["reason"], &refused["message"]),
            (&json!("UnsupportedMediaType"), &json!(accepted))
        );
    }
    f.patch_as("application/apply-patch+yaml", &format!("{ONE}?fieldManager=m"), "{}").await.expect(400);
    f.patch_as("application/apply-patch+cbor", &format!("{ONE}?fieldManager=m"), "{}").await.expect(415);
}

#[tokio::test]
async fn services_have_the_families_of_the_cluster() {
    let f = Fixture::start().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |spec: Value| {
        let mut service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
        service["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        service
    };
    for (spec, error) in [
        (
            json!({"ipFamilies": ["IPv6"]}),
            "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
        ),
        (
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for \
             dual-stack services",
        ),
    ] {
        let refused = f.post(services, service(spec)).await.expect(422);
        assert_eq!(refused["message"], format!("Service \"web\" is invalid: {error}"));
    }
    let made = f.post(services, service(json!({}))).await.expect(201);
    assert_eq!(
        (&made["spec"]["ipFamilies"], &made["spec"]["ipFamilyPolicy"]),
        (&json!(["IPv4"]), &json!("SingleStack"))
    );
}

#[tokio::test]
async fn streams_know_their_methods_and_deprecated_kinds_say_so() {
    let f = Fixture::start().await;
    f.pod("www").await;
    for (method, path) in
        [("DELETE", "log"), ("POST", "log"), ("PUT", "exec"), ("PATCH", "attach"), ("DELETE", "portforward")]
    {
        let answer = sent(f.request(method, &format!("{PODS}/www/{path}"))).await.expect(405);
        assert_eq!(answer["reason"], "MethodNotAllowed", "{method} {path}");
    }
    assert_eq!(f.get(&format!("{PODS}/www/log")).await.code, 503, "there is no node to ask");
    let endpoints = "/api/v1/namespaces/default/endpoints";
    let warning = ["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"];
    assert_eq!(f.get(endpoints).await.warnings(), warning);
    assert_eq!(f.get(&format!("{endpoints}/nobody")).await.warnings(), warning);
    assert_eq!(f.delete(&format!("{endpoints}/nobody")).await.warnings(), warning);
    let made = f.post(endpoints, json!({"metadata": {"name": "a"}})).await;
    assert_eq!((made.code, made.warnings()), (201, warning.map(str::to_owned).to_vec()));
    assert!(f.get(MAPS).await.warnings().is_empty());
}
