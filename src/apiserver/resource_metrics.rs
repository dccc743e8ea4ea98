//! `metrics.k8s.io/v1beta1`: what nodes and pods use, asked of the node at the moment of the request.
//!
//! Forms are those of kubernetes-sigs/metrics-server `pkg/api`; nothing of this is ever stored.

use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};

use super::aggregation;
use super::table::{self, IncludeObject};
use crate::api::custom::{Definition, Version};
use crate::api::kinds::{Kind, Types};
use crate::api::node::{NodeUsage, PodUsage, Taken, Usage};
use crate::api::request::{ListOptions, Target};
use crate::api::selector::{FieldSelector, LabelSelector};
use crate::api::status::Status;
use crate::api::{go, meta, quantity};
use crate::store::Store;

/// The API group.
pub const GROUP: &str = "metrics.k8s.io";
/// Its only version.
pub const VERSION: &str = "v1beta1";

/// Both kinds, as discovery lists them.
pub static KINDS: LazyLock<Vec<Arc<Kind>>> = LazyLock::new(|| {
    let kind = |kind: &'static str, plural: &'static str, singular: &'static str, namespaced| {
        Arc::new(Kind {
            group: GROUP.into(),
            version: VERSION.into(),
            kind: kind.into(),
            list: format!("{kind}List").into(),
            plural: plural.into(),
            singular: singular.into(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced,
            verbs: &["get", "list"],
            subresources: Vec::new(),
            types: Types::Own(described(kind)),
            deprecated: None,
            storage: "".into(),
        })
    };
    vec![kind("NodeMetrics", "nodes", "node", false), kind("PodMetrics", "pods", "pod", true)]
});

/// A kind as documents describe it.
fn described(kind: &str) -> Arc<Version> {
    let named = |name: &str| json!({"$ref": format!("#/components/schemas/io.k8s.apimachinery.pkg.{name}")});
    let usage = json!({"type": "object", "description": "How much of each resource is used: cpu in cores, memory in bytes.",
        "additionalProperties": named("api.resource.Quantity")});
    let mut properties = json!({
        "timestamp": {"description": "When it was measured.", "allOf": [named("apis.meta.v1.Time")]},
        "window": {"type": "string", "description": "Over how long before that moment the use of CPUs was measured."},
    });
    if kind == "NodeMetrics" {
        properties["usage"] = usage;
    } else {
        let container = json!({"type": "object", "description": "What one container uses.", "required": ["name", "usage"],
            "properties": {"name": {"type": "string", "description": "The name of the container."}, "usage": usage}});
        properties["containers"] = json!({"type": "array", "description": "The containers that run, with what they use.", "items": container});
    }
    let schema = json!({"type": "object", "description": format!("{kind} says how much of resources is used at a moment."),
        "properties": properties});
    let version = json!({"name": VERSION, "schema": {"openAPIV3Schema": schema}});
    let definition = Definition::of(json!({"spec": {"versions": [version]}}).to_string().into());
    Arc::new(Version::read(&version, Arc::new(definition)))
}

/// Whether this server serves them, and no add-on instead.
pub fn are_own(store: &Store) -> bool {
    aggregation::remote(store, &format!("/apis/{GROUP}/{VERSION}")).is_none()
}

/// The kind that a request is about.
pub fn find(target: &Target) -> Option<&'static Arc<Kind>> {
    let fits = |kind: &&Arc<Kind>| kind.version == target.version && kind.is(&target.group, &target.resource);
    KINDS.iter().find(fits).filter(|_| target.subresource.is_none())
}

/// What a node tells, as the objects of one kind.
pub fn objects(kind: &Kind, usage: &NodeUsage, store: &Store) -> Vec<Value> {
    let labels = |key: &str| {
        let found = store.get(key);
        found.map_or(Value::Null, |entry| meta::labels(entry.json()).clone())
    };
    if kind.namespaced {
        let key = |pod: &PodUsage| format!("pods/{}/{}", pod.namespace, pod.name);
        return usage.pods.iter().map(|pod| of_pod(pod, labels(&key(pod)))).collect();
    }
    vec![of_node(usage, labels(&format!("nodes/{}", usage.node)))]
}

fn of_node(usage: &NodeUsage, labels: Value) -> Value {
    let mut object = begun("NodeMetrics", &usage.node, None, usage.taken, labels);
    object["usage"] = amounts(usage.machine);
    object
}

fn of_pod(pod: &PodUsage, labels: Value) -> Value {
    let mut object = begun("PodMetrics", &pod.name, Some(&pod.namespace), pod.taken, labels);
    let container = |(name, usage): &(String, Usage)| json!({"name": name, "usage": amounts(*usage)});
    object["containers"] = pod.containers.iter().map(container).collect();
    object
}

fn begun(kind: &str, name: &str, namespace: Option<&str>, taken: Taken, labels: Value) -> Value {
    let mut metadata = json!({"name": name, "creationTimestamp": meta::timestamp(taken.at)});
    if let Some(namespace) = namespace {
        metadata["namespace"] = json!(namespace);
    }
    if labels.is_object() {
        metadata["labels"] = labels;
    }
    json!({"kind": kind, "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": metadata,
        "timestamp": meta::timestamp(taken.at), "window": go::duration(taken.window)})
}

fn amounts(usage: Usage) -> Value {
    let canonical = |text: String| quantity::parse(&text).map_or(text.clone(), |amount| amount.to_string());
    json!({"cpu": canonical(format!("{}n", usage.nano_cpus)),
        "memory": format!("{}Ki", usage.working_set.div_ceil(1024))})
}

/// The objects that a list selects.
pub fn selected(
    objects: Vec<Value>,
    namespace: Option<&str>,
    options: &ListOptions,
) -> Result<Vec<Value>, Status> {
    let labels = LabelSelector::parse(&options.label_selector).map_err(Status::bad_request)?;
    let fields = FieldSelector::parse(&options.field_selector).map_err(Status::bad_request)?;
    for term in &fields.terms {
        if !matches!(term.key.as_str(), "metadata.name" | "metadata.namespace") {
            return Err(Status::bad_request(format!("field label not supported: {}", term.key)));
        }
    }
    let fits = |object: &Value| {
        let known = vec![
            ("metadata.name", meta::name(object).to_owned()),
            ("metadata.namespace", meta::namespace(object).to_owned()),
        ];
        namespace.is_none_or(|namespace| meta::namespace(object) == namespace)
            && labels.matches(meta::labels(object))
            && fields.matches(&known)
    };
    Ok(objects.into_iter().filter(fits).collect())
}

/// The one object of a name.
pub fn named(objects: Vec<Value>, target: &Target) -> Result<Value, Status> {
    let name = target.name.as_deref().unwrap_or_default();
    let fits = |object: &Value| {
        meta::name(object) == name
            && meta::namespace(object) == target.namespace.as_deref().unwrap_or_default()
    };
    objects.into_iter().find(fits).ok_or_else(|| match &target.namespace {
        Some(namespace) => Status::not_found(GROUP, "podmetrics", &format!("{namespace}/{name}")),
        None => Status::not_found(GROUP, "nodemetrics", name),
    })
}

/// The objects as a list.
pub fn list(kind: &Kind, objects: &[Value]) -> Value {
    json!({"kind": kind.list, "apiVersion": kind.api_version(), "metadata": {}, "items": objects})
}

/// The objects as `kubectl get` shows them.
pub fn table(objects: &[Value], include: IncludeObject) -> Value {
    let column = |name: &str, format: &str, description: &str| json!({"name": name, "type": "string", "format": format, "description": description, "priority": 0});
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let cells =
                json!([meta::name(object), total(object, "cpu"), total(object, "memory"), object["window"]]);
            let mut row = json!({ "cells": cells });
            match include {
                IncludeObject::None => {}
                IncludeObject::Metadata => row["object"] = table::partial(object),
                IncludeObject::Object => row["object"] = object.clone(),
            }
            row
        })
        .collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {},
        "columnDefinitions": [column("Name", "name", "Name of the resource"),
            column("cpu", "quantity", "CPU used on the mean of the window"),
            column("memory", "quantity", "Memory used"),
            column("Window", "duration", "The time over which the mean was taken")],
        "rows": rows})
}

/// What an object uses of a resource, all its containers together.
fn total(object: &Value, resource: &str) -> String {
    let own = object["usage"][resource].as_str();
    let containers = object["containers"].as_array().into_iter().flatten();
    let each = containers.filter_map(|container| container["usage"][resource].as_str()).chain(own);
    let each = each.filter_map(|text| quantity::parse(text).ok());
    each.reduce(|sum, more| sum.plus(&more)).map_or("0".to_owned(), |sum| sum.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str, name: &str, app: &str) -> Value {
        let taken = Taken {
            at: "2024-01-01T00:00:00Z".parse().unwrap(),
            window: std::time::Duration::from_millis(15_250),
        };
        let usage = |nano_cpus| Usage { nano_cpus, working_set: 3 << 20 };
        let containers = vec![("a".to_owned(), usage(1_500_000)), ("b".to_owned(), usage(7))];
        let pod = PodUsage { namespace: namespace.into(), name: name.into(), taken, containers };
        of_pod(&pod, json!({"app": app}))
    }

    #[test]
    fn usage_reads_as_the_metrics_server_writes_it() {
        let object = pod("default", "web", "x");
        assert_eq!(
            (&object["window"], &object["timestamp"]),
            (&json!("15.25s"), &json!("2024-01-01T00:00:00Z"))
        );
        assert_eq!(
            object["containers"][0],
            json!({"name": "a", "usage": {"cpu": "1500u", "memory": "3072Ki"}})
        );
        assert_eq!(object["containers"][1]["usage"]["cpu"], "7n");
        let table = table(&[object], IncludeObject::None);
        assert_eq!(table["rows"][0]["cells"], json!(["web", "1500007n", "6Mi", "15.25s"]));
    }

    #[test]
    fn documents_describe_usage() {
        let source = crate::apiserver::openapi::Source::new(&KINDS);
        let schemas = source.v3("apis/metrics.k8s.io/v1beta1")["components"]["schemas"].take();
        let pods = &schemas["io.k8s.metrics.v1beta1.PodMetrics"]["properties"];
        let usage = &pods["containers"]["items"]["properties"]["usage"]["additionalProperties"];
        assert_eq!(usage["$ref"], "#/components/schemas/io.k8s.apimachinery.pkg.api.resource.Quantity");
        assert!(schemas["io.k8s.apimachinery.pkg.api.resource.Quantity"].is_object());
        assert!(schemas["io.k8s.metrics.v1beta1.NodeMetricsList"].is_object());
    }

    #[test]
    fn lists_are_selected_by_labels_and_place() {
        let all = || vec![pod("a", "one", "x"), pod("a", "two", "y"), pod("b", "one", "x")];
        let select = |namespace: Option<&str>, labels: &str, fields: &str| {
            let options = ListOptions {
                label_selector: labels.into(),
                field_selector: fields.into(),
                ..ListOptions::default()
            };
            let found = selected(all(), namespace, &options).map_err(|status| status.code)?;
            Ok::<_, u16>(
                found.iter().map(|o| format!("{}/{}", meta::namespace(o), meta::name(o))).collect::<Vec<_>>(),
            )
        };
        assert_eq!(select(None, "app=x", ""), Ok(vec!["a/one".into(), "b/one".into()]));
        assert_eq!(select(Some("a"), "", "metadata.name!=one"), Ok(vec!["a/two".into()]));
        assert_eq!(select(None, "", "spec.nodeName=n"), Err(400));
        let target =
            |name: &str| Target { namespace: Some("a".into()), name: Some(name.into()), ..Target::default() };
        assert_eq!(meta::name(&named(all(), &target("two")).unwrap()), "two");
        let gone = named(all(), &target("three")).unwrap_err();
        assert_eq!(
            (gone.code, gone.message.as_str()),
            (404, "podmetrics.metrics.k8s.io \"a/three\" not found")
        );
    }
}
