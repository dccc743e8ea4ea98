//! The document, and objects read by it.

use serde_json::{Value, json};

use super::{Scalar, Schema, Shape, check, document};
use crate::api::complaints;
use crate::api::kinds::KINDS;

const POD: &str = "io.k8s.api.core.v1.Pod";

/// Every row of the table of kinds has its type, which has the merge rules of object metadata and its row of field
/// numbers, and all that it refers to is there.
#[test]
fn every_kind_has_its_type() {
    for kind in KINDS.iter() {
        let name = kind.types.name();
        let documented = document::of_kind(&kind.group, &kind.version, &kind.kind);
        // Kubernetes' own documents know nothing of removed versions any more.
        assert!(documented == Some(name) || kind.version.contains("beta"), "{kind:?}");
        let metadata = Schema::of(name).and_then(|schema| schema.field("metadata")).unwrap();
        assert!(metadata.field("ownerReferences").unwrap().list_map_keys().eq(["uid"]), "{name}");
    }
    let unresolved =
        document::names().flat_map(|name| references(&document::structure(name).unwrap().schema));
    let unresolved = unresolved.filter(|name| Schema::of(name).is_none());
    assert_eq!(unresolved.collect::<Vec<_>>(), Vec::<String>::new());
}

/// A list without a rule would be merged as a whole; Kubernetes' own types say so where they mean it.
#[test]
fn lists_have_merge_rules() {
    let mut without = Vec::new();
    for name in document::names().filter(|name| !name.contains(".meta.v1.")) {
        let schema = &document::structure(name).unwrap().schema;
        for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
            if schema["type"] == "array" && schema.get("x-kubernetes-list-type").is_none() {
                without.push(format!("{name}.{field}"));
            }
        }
    }
    assert_eq!(without, Vec::<String>::new());
}

fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| match value {
                Value::String(to) if key == "$ref" => {
                    vec![to.strip_prefix("#/components/schemas/").unwrap().to_owned()]
                }
                other => references(other),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn navigation_knows_shapes_and_merge_rules() {
    let pod = Schema::of(POD).unwrap();
    let at = |path: &[&str]| {
        path.iter().fold(pod, |s, key| if *key == "[]" { s.element() } else { s.child(key) }.unwrap())
    };
    let ports = at(&["spec", "containers", "[]", "ports"]);
    assert_eq!((ports.shape(), ports.merge_key(), ports.list_type()), (Shape::List, "containerPort", "map"));
    assert!(ports.list_map_keys().eq(["containerPort", "protocol"]));
    assert!(ports.has_strategy("merge") && !ports.has_strategy("retainKeys"));
    assert!(at(&["spec", "volumes"]).has_strategy("retainKeys"));
    assert_eq!(ports.element().unwrap().field("protocol").unwrap().default_value(), Some(&json!("TCP")));
    assert_eq!(at(&["spec", "nodeSelector"]).map_type(), "atomic");
    assert_eq!(at(&["spec", "containers", "[]", "env", "[]", "valueFrom", "fieldRef"]).map_type(), "atomic");
    for (path, scalar) in [
        (&["metadata", "creationTimestamp"][..], Scalar::Time),
        (&["metadata", "labels", "x"], Scalar::String),
        (&["spec", "containers", "[]", "resources", "limits", "cpu"], Scalar::Quantity),
        (&["spec", "containers", "[]", "livenessProbe", "httpGet", "port"], Scalar::IntOrString),
        (&["spec", "hostNetwork"], Scalar::Boolean),
        (&["spec", "priority"], Scalar::Integer),
    ] {
        assert_eq!(at(path).shape(), Shape::Scalar(scalar), "{path:?}");
    }
    let lease = Schema::of("io.k8s.api.coordination.v1.Lease").unwrap().field("spec").unwrap();
    assert_eq!(lease.field("renewTime").unwrap().shape(), Shape::Scalar(Scalar::MicroTime));
    let secret = Schema::of("io.k8s.api.core.v1.Secret").unwrap().field("data").unwrap();
    assert_eq!(secret.element().unwrap().shape(), Shape::Scalar(Scalar::Bytes));
}

#[test]
fn unknown_fields_and_nulls_are_dropped() {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "foo": 1,
        "metadata": {"name": "a", "creationTimestamp": null, "labels": {"x": null, "anything": "y"}},
        "spec": {"containers": [{"name": "c"}, {"name": "d", "imagee": "x", "args": [null]}], "nodeName": null}
    });
    let checked = check(Schema::of(POD).unwrap(), &mut pod);
    assert_eq!(checked.unknown, ["unknown field \"foo\"", "unknown field \"spec.containers[1].imagee\""]);
    assert_eq!(checked.errors, Vec::<String>::new());
    assert_eq!(
        pod,
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "labels": {"x": "", "anything": "y"}},
            "spec": {"containers": [{"name": "c"}, {"name": "d", "args": [""]}]}
        })
    );
}

#[test]
fn values_take_their_canonical_form() {
    let mut pod = json!({
        "metadata": {"creationTimestamp": "2024-01-02T03:04:05.9+01:00",
                     "managedFields": [{"fieldsV1": {"f:x": {"": null}}}]},
        "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}]}
    });
    assert_eq!(check(Schema::of(POD).unwrap(), &mut pod), super::Checked::default());
    assert_eq!(pod["metadata"]["creationTimestamp"], "2024-01-02T02:04:05Z");
    assert_eq!(pod["metadata"]["managedFields"][0]["fieldsV1"], json!({"f:x": {"": null}}));
    assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"], json!({"cpu": "500m", "memory": "1Gi"}));
}

#[test]
fn wrong_types_are_told_in_the_decoders_words() {
    let container = |c: Value| json!({"spec": {"containers": [c]}});
    for (object, error) in [
        (
            container(json!({"ports": [{"containerPort": "80"}]})),
            "json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            container(json!({"ports": "80"})),
            "json: cannot unmarshal string into Go struct field Container.spec.containers.ports of type []v1.ContainerPort",
        ),
        (
            container(json!({"env": [{"name": "A", "value": 1}]})),
            "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string",
        ),
        (
            container(json!({"ports": [{"containerPort": 1.5}]})),
            "json: cannot unmarshal number 1.5 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            json!({"spec": {"priority": 3_000_000_000_i64}}),
            "json: cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            json!({"spec": []}),
            "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec",
        ),
        (
            json!({"metadata": {"labels": {"a": true}}}),
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            container(json!({"resources": {"limits": {"cpu": "x"}}})),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            json!({"metadata": {"creationTimestamp": "now"}}),
            "parsing time \"now\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"now\" as \"2006\"",
        ),
    ] {
        let mut object = object;
        assert_eq!(check(Schema::of(POD).unwrap(), &mut object).errors, [error]);
    }
    let mut secret = json!({"data": {"a": "YQ==", "b": "Y?=="}});
    let checked = check(Schema::of("io.k8s.api.core.v1.Secret").unwrap(), &mut secret);
    assert_eq!(
        checked.refusal("v1", "Secret").unwrap(),
        "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 1"
    );
    assert_eq!(
        check(Schema::of(POD).unwrap(), &mut json!("x")).errors,
        ["json: cannot unmarshal string into Go value of type v1.Pod"]
    );
}

#[test]
fn what_is_told_is_bounded() {
    let of = "io.k8s.api.authentication.v1.SelfSubjectReview";
    let key = "k".repeat(1 << 20);
    let mut review = json!({"status": {"userInfo": {"extra": {key: vec![1; 1000]}}}});
    let errors = check(Schema::of(of).unwrap(), &mut review).errors;
    assert_eq!(errors.len(), complaints::MOST);
    assert!(errors.iter().all(|error| error.len() < 2000), "{}", errors[0].len());
    let fields: serde_json::Map<_, _> = (0..1000).map(|n| (format!("f{n}"), json!(1))).collect();
    assert_eq!(check(Schema::of(POD).unwrap(), &mut fields.into()).unknown.len(), complaints::MOST);
}

/// Compares structure and merge rules with Kubernetes' published definitions. The rules were taken from there,
/// so this guards against slips and drift; the structure comes from elsewhere and is truly compared.
///
/// They are not part of this tree: `MINIK_KUBERNETES_DEFINITIONS` names the file `_definitions.json` of the PyPI
/// package kubernetes-validate 1.37.0.
#[test]
fn the_document_agrees_with_kubernetes_definitions() {
    let Some(path) = std::env::var_os("MINIK_KUBERNETES_DEFINITIONS") else {
        eprintln!("SKIPPED: MINIK_KUBERNETES_DEFINITIONS is not set");
        return;
    };
    let theirs: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut compared = 0;
    for name in document::names() {
        let ours = &document::structure(name).unwrap().schema;
        let theirs = &theirs["$defs"][name];
        assert_eq!(ours["x-kubernetes-map-type"], theirs["x-kubernetes-map-type"], "{name}");
        let Some(properties) = theirs["properties"].as_object() else { continue };
        assert!(ours["properties"].as_object().unwrap().keys().eq(properties.keys()), "{name}");
        for (field, theirs) in properties {
            let ours = &ours["properties"][field];
            for key in ["list-type", "list-map-keys", "map-type", "patch-merge-key", "patch-strategy"] {
                let key = format!("x-kubernetes-{key}");
                assert_eq!(ours[&key], theirs[&key], "{name} {field} {key}");
            }
            compared += 1;
        }
    }
    assert!(compared > 500, "only {compared} fields were compared");
}
