//! Bodies as client-go writes them.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::numbers::{Field, numbers, short};
use super::{MAGIC, decode};
use crate::api::schema::document;

/// Every property of every served type has its number, and no number names what the type does not have.
#[test]
fn the_numbers_fit_the_schemas() {
    let mut missing = Vec::new();
    // The version is no API type, and events of watches are written in another way.
    let not_read = |name: &str| name.ends_with(".version.Info") || name.ends_with(".WatchEvent");
    for name in document::names().filter(|name| !not_read(name)) {
        let schema = &document::structure(name).unwrap().schema;
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else { continue };
        let mut named = Vec::new();
        names(short(name), &mut named);
        for property in properties.keys().filter(|p| !["apiVersion", "kind"].contains(&p.as_str())) {
            if !named.contains(&property.as_str()) {
                missing.push(format!("{name}.{property}"));
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}

fn names(of: &str, into: &mut Vec<&'static str>) {
    for field in numbers().get(of).into_iter().flat_map(HashMap::values) {
        match field {
            Field::Named { name, .. } => into.push(name),
            Field::Inlined(inner) => names(inner, into),
        }
    }
}

fn bytes(number: u32, content: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::bytes::encode(number, &content.as_ref().to_vec(), &mut out);
    out
}

fn number(number: u32, n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::uint64::encode(number, &n, &mut out);
    out
}

fn envelope(version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
    let type_meta = [bytes(1, version), bytes(2, kind)].concat();
    [MAGIC.to_vec(), bytes(1, type_meta), bytes(2, object), bytes(3, ""), bytes(4, "")].concat()
}

#[test]
fn objects_are_read_as_their_json() {
    let metadata = [
        bytes(1, "wp"),
        bytes(3, ""),
        number(7, 0),
        bytes(8, ""),
        bytes(11, [bytes(1, "app"), bytes(2, "wp")].concat()),
    ]
    .concat();
    let volume = [bytes(1, "data"), bytes(2, bytes(2, bytes(1, "")))].concat();
    let limits = [bytes(1, "memory"), bytes(2, bytes(1, "64Mi"))].concat();
    let port = [bytes(1, ""), number(3, 80)].concat();
    let http = [bytes(1, "/"), bytes(2, [number(1, 1), bytes(3, "web")].concat())].concat();
    let probe = [bytes(1, bytes(2, http)), number(3, 0), number(4, 5)].concat();
    let container = [
        bytes(1, "web"),
        bytes(4, ""),
        bytes(6, port),
        bytes(8, bytes(1, limits)),
        bytes(10, probe),
        number(16, 0),
    ]
    .concat();
    let spec = [bytes(1, volume), bytes(2, container), number(4, 0), number(11, 0), number(21, 0)].concat();
    let pod = [bytes(1, metadata), bytes(2, spec), bytes(3, bytes(1, ""))].concat();
    assert_eq!(
        decode(&envelope("v1", "Pod", &pod)).unwrap(),
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "wp", "labels": {"app": "wp"}},
            "spec": {
                "volumes": [{"name": "data", "emptyDir": {}}],
                "containers": [{
                    "name": "web",
                    // An empty argument is one.
                    "args": [""],
                    "ports": [{"containerPort": 80}],
                    "resources": {"limits": {"memory": "64Mi"}},
                    "livenessProbe": {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 5},
                }],
                // Pointers, whose zero is said.
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
            },
            "status": {},
        })
    );
}

#[test]
fn times_bytes_and_options_are_read() {
    let at = [number(1, 1_700_000_000), number(2, 0)].concat();
    let secret = [
        bytes(1, [bytes(1, "s"), bytes(8, at)].concat()),
        bytes(2, [bytes(1, "key"), bytes(2, [0u8, 255])].concat()),
        bytes(2, bytes(1, "empty")),
    ]
    .concat();
    assert_eq!(
        decode(&envelope("v1", "Secret", &secret)).unwrap(),
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "s", "creationTimestamp": "2023-11-14T22:13:20Z"},
            "data": {"key": "AP8=", "empty": ""},
        })
    );
    let options = [number(1, 0), bytes(4, "Foreground")].concat();
    assert_eq!(
        decode(&envelope("apps/v1", "DeleteOptions", &options)).unwrap(),
        json!({
            "apiVersion": "apps/v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "propagationPolicy": "Foreground",
        })
    );
}

#[test]
fn schemas_of_custom_resources_are_read() {
    let double = |at: u32, n: f64| {
        let mut out = Vec::new();
        prost::encoding::double::encode(at, &n, &mut out);
        out
    };
    let entry = |at: u32, key: &str, value: Vec<u8>| bytes(at, [bytes(1, key), bytes(2, value)].concat());
    let text = bytes(5, "string");
    let props = [
        bytes(5, "object"),
        bytes(23, "a"),
        entry(
            29,
            "a",
            [bytes(5, "integer"), double(11, 0.0), double(19, 0.5), bytes(8, bytes(1, "3"))].concat(),
        ),
        entry(29, "b", [bytes(5, "array"), bytes(24, bytes(1, text.clone()))].concat()),
        entry(29, "c", [bytes(5, "object"), bytes(30, [number(1, 1), bytes(2, text)].concat())].concat()),
        entry(29, "d", [bytes(30, number(1, 1)), bytes(20, bytes(1, "\"x\"")), number(38, 1)].concat()),
        entry(32, "a", [bytes(2, "b"), bytes(2, "c")].concat()),
    ]
    .concat();
    let version = [
        bytes(1, "v1"),
        number(2, 1),
        number(3, 0),
        bytes(4, bytes(1, props)),
        bytes(5, [bytes(1, ""), bytes(2, bytes(1, ".spec.replicas"))].concat()),
    ]
    .concat();
    let definition = bytes(2, [bytes(1, "example.com"), bytes(7, version)].concat());
    assert_eq!(
        decode(&envelope("apiextensions.k8s.io/v1", "CustomResourceDefinition", &definition)).unwrap(),
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "spec": {"group": "example.com", "versions": [{
                "name": "v1",
                "served": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "required": ["a"],
                    "properties": {
                        "a": {"type": "integer", "minimum": 0.0, "multipleOf": 0.5, "default": 3},
                        "b": {"type": "array", "items": {"type": "string"}},
                        "c": {"type": "object", "additionalProperties": {"type": "string"}},
                        "d": {
                            "additionalProperties": true,
                            "enum": ["x"],
                            "x-kubernetes-preserve-unknown-fields": true,
                        },
                    },
                    "dependencies": {"a": ["b", "c"]},
                }},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas"}},
            }]},
        })
    );
}

#[test]
fn kinds_of_other_groups_are_read() {
    let budget =
        [bytes(1, bytes(1, "b")), bytes(2, bytes(1, [number(1, 1), bytes(3, "50%")].concat()))].concat();
    let role = bytes(2, [bytes(1, "get"), bytes(1, "list"), bytes(2, ""), bytes(3, "pods")].concat());
    let service = bytes(
        2,
        [bytes(1, [bytes(1, "ns"), bytes(2, "n")].concat()), bytes(5, "ca"), number(7, 100)].concat(),
    );
    for (version, kind, object, read) in [
        (
            "policy/v1",
            "PodDisruptionBudget",
            budget,
            json!({"metadata": {"name": "b"}, "spec": {"minAvailable": "50%"}}),
        ),
        (
            "rbac.authorization.k8s.io/v1",
            "Role",
            role,
            json!({"rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]}),
        ),
        (
            "apiregistration.k8s.io/v1",
            "APIService",
            service,
            json!({"spec": {
                "service": {"namespace": "ns", "name": "n"},
                "caBundle": "Y2E=",
                "groupPriorityMinimum": 100,
            }}),
        ),
    ] {
        let mut expected = read;
        expected["apiVersion"] = version.into();
        expected["kind"] = kind.into();
        assert_eq!(decode(&envelope(version, kind, &object)).unwrap(), expected);
    }
}

#[test]
fn damaged_bodies_are_refused() {
    let message = |body: &[u8]| decode(body).unwrap_err().to_string();
    assert!(message(b"{}").contains("expected prefix"));
    assert!(message(&envelope("v1", "Wolf", b"")).contains("no kind \"Wolf\" is registered"));
    assert!(message(&envelope("v1", "Pod", &[0x0a, 0x7f, 1])).contains("damaged"));
    assert!(message(&envelope("v1", "Pod", &[0xff])).contains("damaged"));
    assert!(message(&[MAGIC, &bytes(3, "gzip")].concat()).contains("\"gzip\""));
    let mut whole = envelope("v1", "Pod", &bytes(1, bytes(1, "name")));
    while whole.pop().is_some() {
        // A cut body is read or refused; it never panics.
        let _ = decode(&whole);
    }
}
