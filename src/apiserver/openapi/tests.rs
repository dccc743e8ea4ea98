//! Documents as clients read them.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::types::{REFERENCE, collect_references};
use super::{Source, names};
use crate::api::custom::Version;
use crate::api::kinds::{self, KINDS, Kind};

#[test]
fn every_document_stands_for_itself() {
    let source = Source::new(&KINDS);
    let mut ids = HashSet::new();
    for name in names(&KINDS) {
        let document = source.v3(&name);
        let paths = document["paths"].as_object().unwrap();
        assert!(!paths.is_empty(), "{name}");
        for (path, item) in paths {
            assert!(path.starts_with(&format!("/{name}/")), "{path} is not of {name}");
            let operations = item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters");
            for (method, operation) in operations {
                let id = operation["operationId"].as_str().unwrap();
                assert!(ids.insert(id.to_owned()), "{id} stands twice");
                assert!(operation["responses"]["200"].is_object(), "{method} {path}");
            }
        }
        let mut wanted = Vec::new();
        collect_references(&document, REFERENCE, &mut wanted);
        for name in wanted {
            assert!(document["components"]["schemas"].get(&name).is_some(), "{name} is missing");
        }
    }
}

#[test]
fn operations_are_those_that_generated_clients_know() {
    let source = Source::new(&KINDS);
    let core = source.v3("api/v1");
    let rbac = source.v3("apis/rbac.authorization.k8s.io/v1");
    let namespaced = "/api/v1/namespaces/{namespace}";
    for (document, path, method, id) in [
        (&core, "/api/v1/".to_owned(), "get", "getCoreV1APIResources"),
        (&core, "/api/v1/pods".to_owned(), "get", "listCoreV1PodForAllNamespaces"),
        (&core, "/api/v1/watch/pods".to_owned(), "get", "watchCoreV1PodListForAllNamespaces"),
        (&core, format!("{namespaced}/pods"), "get", "listCoreV1NamespacedPod"),
        (&core, format!("{namespaced}/pods"), "post", "createCoreV1NamespacedPod"),
        (&core, format!("{namespaced}/pods"), "delete", "deleteCoreV1CollectionNamespacedPod"),
        (&core, format!("{namespaced}/pods/{{name}}"), "get", "readCoreV1NamespacedPod"),
        (&core, format!("{namespaced}/pods/{{name}}"), "put", "replaceCoreV1NamespacedPod"),
        (&core, format!("{namespaced}/pods/{{name}}"), "patch", "patchCoreV1NamespacedPod"),
        (&core, format!("{namespaced}/pods/{{name}}"), "delete", "deleteCoreV1NamespacedPod"),
        (&core, format!("{namespaced}/pods/{{name}}/status"), "patch", "patchCoreV1NamespacedPodStatus"),
        (&core, format!("{namespaced}/pods/{{name}}/log"), "get", "readCoreV1NamespacedPodLog"),
        (&core, format!("{namespaced}/pods/{{name}}/exec"), "post", "connectCoreV1PostNamespacedPodExec"),
        (&core, format!("{namespaced}/pods/{{name}}/eviction"), "post", "createCoreV1NamespacedPodEviction"),
        (&core, "/api/v1/nodes/{name}".to_owned(), "get", "readCoreV1Node"),
        (
            &rbac,
            "/apis/rbac.authorization.k8s.io/v1/clusterroles".to_owned(),
            "get",
            "listRbacAuthorizationV1ClusterRole",
        ),
    ] {
        assert_eq!(document["paths"][&path][method]["operationId"], id, "{method} {path}");
    }
    assert_eq!(source.v3("version")["paths"]["/version/"]["get"]["operationId"], "getCodeVersion");
    assert_eq!(source.v3("api")["paths"]["/api/"]["get"]["operationId"], "getCoreAPIVersions");
    let group = source.v3("apis/rbac.authorization.k8s.io");
    let path = "/apis/rbac.authorization.k8s.io/";
    assert_eq!(group["paths"][path]["get"]["operationId"], "getRbacAuthorizationAPIGroup");
}

#[test]
fn bodies_parameters_and_types_are_told() {
    let source = Source::new(&KINDS);
    let core = source.v3("api/v1");
    let object = &core["paths"]["/api/v1/namespaces/{namespace}/configmaps/{name}"];
    let named = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(named(&object["parameters"]), ["name", "namespace", "pretty"]);
    assert_eq!(named(&object["patch"]["parameters"]), ["dryRun", "fieldManager", "fieldValidation", "force"]);
    let patch = &object["patch"]["requestBody"]["content"];
    assert_eq!(
        patch["application/apply-patch+yaml"]["schema"]["$ref"],
        "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.Patch"
    );
    assert_eq!(
        object["put"]["x-kubernetes-group-version-kind"],
        json!({"group": "", "version": "v1", "kind": "ConfigMap"})
    );
    assert_eq!(
        (&object["get"]["tags"], &object["put"]["x-kubernetes-action"]),
        (&json!(["core_v1"]), &json!("put"))
    );
    let eviction = &core["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/eviction"]["post"];
    let body = &eviction["requestBody"]["content"]["*/*"]["schema"]["$ref"];
    assert_eq!(body, "#/components/schemas/io.k8s.api.policy.v1.Eviction");
    let schemas = &core["components"]["schemas"];
    let list = &schemas["io.k8s.api.core.v1.PodList"];
    assert_eq!(
        list["x-kubernetes-group-version-kind"],
        json!([{"group": "", "version": "v1", "kind": "PodList"}])
    );
    assert_eq!(
        list["properties"]["metadata"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"
    );
    let options = &schemas["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"];
    let kinds = options["x-kubernetes-group-version-kind"].as_array().unwrap();
    assert!(
        kinds.contains(
            &json!({"group": "rbac.authorization.k8s.io", "version": "v1", "kind": "DeleteOptions"})
        )
    );
    let policy = &schemas["io.k8s.api.core.v1.Container"]["properties"]["imagePullPolicy"];
    assert_eq!(policy["enum"], json!(["Always", "IfNotPresent", "Never"]));
    assert!(schemas["io.k8s.api.core.v1.Pod"]["description"].is_string());
    assert_eq!(schemas["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["format"], "int-or-string");
}

#[test]
fn the_older_form_says_the_same() {
    let document = Source::new(&KINDS).v2();
    let path = &document["paths"]["/api/v1/namespaces/{namespace}/pods"];
    assert_eq!(path["post"]["operationId"], "createCoreV1NamespacedPod");
    let body = path["post"]["parameters"].as_array().unwrap().iter().find(|p| p["in"] == "body").unwrap();
    assert_eq!(body["schema"]["$ref"], "#/definitions/io.k8s.api.core.v1.Pod");
    let metadata = &document["definitions"]["io.k8s.api.core.v1.Pod"]["properties"]["metadata"];
    assert_eq!(metadata["$ref"], "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    let quantity = &document["definitions"]["io.k8s.apimachinery.pkg.api.resource.Quantity"];
    assert_eq!(quantity["type"], "string");
    assert!(!document.to_string().contains("#/components"));
}

#[test]
fn kinds_that_clients_defined_are_there() {
    let pods = kinds::by_kind("", "v1", "Pod").unwrap();
    let widget = Kind {
        group: "example.com".into(),
        kind: "Widget".into(),
        list: "WidgetList".into(),
        plural: "widgets".into(),
        types: kinds::Types::Own(Arc::new(Version::read(
            &json!({"name": "v1", "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object"}}}}}),
            Arc::default(),
        ))),
        subresources: Vec::new(),
        ..(**pods).clone()
    };
    let all = [Arc::new(widget)];
    assert!(names(&all).contains(&"apis/example.com/v1".to_owned()));
    let document = Source::new(&all).v3("apis/example.com/v1");
    let schema = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    assert!(schema["properties"]["metadata"]["allOf"][0]["$ref"].is_string());
    assert!(schema["properties"]["spec"].is_object());
    let path = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"];
    assert_eq!(path["get"]["operationId"], "readExampleComV1NamespacedWidget");
    assert!(path["patch"]["requestBody"]["content"].get("application/strategic-merge-patch+json").is_none());
}
