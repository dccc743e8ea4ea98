//! How the values of a type merge, as its schema says it.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::step::Step;
use crate::api::schema::{Schema, Shape};

/// How a value merges with another at the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As one value.
    Leaf,
    /// By its keys.
    Object,
    /// By the keys of its items, or as a set of scalars.
    List,
}

/// Structs that are never absent in Kubernetes' types: an object without them has them empty, so that nobody adds or
/// removes them. The other ones of this kind are named metadata, spec and status.
const NEVER_ABSENT: &[(&str, &str)] = &[
    ("CronJobSpec", "jobTemplate"),
    ("CustomResourceDefinitionSpec", "names"),
    ("DaemonSetSpec", "template"),
    ("DaemonSetSpec", "updateStrategy"),
    ("DeploymentSpec", "strategy"),
    ("DeploymentSpec", "template"),
    ("Event", "deprecatedSource"),
    ("Event", "involvedObject"),
    ("Event", "regarding"),
    ("Event", "source"),
    ("IngressStatus", "loadBalancer"),
    ("JobSpec", "template"),
    ("NetworkPolicySpec", "podSelector"),
    ("NodeDaemonEndpoints", "kubeletEndpoint"),
    ("NodeStatus", "daemonEndpoints"),
    ("NodeStatus", "nodeInfo"),
    ("PersistentVolumeClaimSpec", "resources"),
    ("PodSpec", "containers"),
    ("PodTemplate", "template"),
    ("ReplicaSetSpec", "template"),
    ("ServiceStatus", "loadBalancer"),
    ("StatefulSetSpec", "template"),
    ("StatefulSetSpec", "updateStrategy"),
];

/// How `value` merges at a place of this type.
pub(super) fn form(place: Option<Schema>, value: &Value) -> Form {
    match (place.map(|p| (p, p.shape())), value) {
        (None | Some((_, Shape::Any)), Value::Object(_)) => match place.filter(|p| is_one_value(*p)) {
            Some(_) => Form::Leaf,
            None => Form::Object,
        },
        (Some((p, Shape::Struct | Shape::Map)), Value::Object(_) | Value::Null) if !is_one_value(p) => {
            Form::Object
        }
        (Some((p, Shape::List)), Value::Array(_) | Value::Null) if is_associative(p) => Form::List,
        _ => Form::Leaf,
    }
}

/// Whether the objects of the type are one value.
fn is_one_value(place: Schema) -> bool {
    place.map_type() == "atomic" || place.name().ends_with(".RawExtension")
}

/// Whether the items of the list are told apart; lists of types without a list type go by their patch strategy.
fn is_associative(place: Schema) -> bool {
    match place.list_type() {
        "map" | "set" => true,
        "" => place.has_strategy("merge"),
        _ => false,
    }
}

/// Whether the type is one value whatever it holds: what is below it is never owned alone.
pub(super) fn is_atomic(place: Schema) -> bool {
    match place.shape() {
        Shape::Struct | Shape::Map | Shape::Any => is_one_value(place),
        Shape::List => !is_associative(place),
        Shape::Scalar(_) => false,
    }
}

/// The field's type, when it is one of a struct.
pub(super) fn declared<'s>(place: Option<Schema<'s>>, name: &str) -> Option<Schema<'s>> {
    place.filter(|p| p.shape() == Shape::Struct)?.field(name)
}

/// The type of what lies at a key of an object.
pub(super) fn child<'s>(place: Option<Schema<'s>>, name: &str) -> Option<Schema<'s>> {
    place?.child(name)
}

/// The type of what lies at a step.
pub(super) fn at_step<'s>(place: Option<Schema<'s>>, step: &Step) -> Option<Schema<'s>> {
    match step {
        Step::Field(name) => child(place, name),
        _ => place?.element(),
    }
}

/// What an absent field of an object that is there counts as: the empty value of a struct that is never absent.
pub(super) fn absent(place: Option<Schema>, name: &str) -> Option<&'static Value> {
    static OBJECT: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
    static LIST: LazyLock<Value> = LazyLock::new(|| Value::Array(Vec::new()));
    let of = place.filter(|p| p.shape() == Shape::Struct)?;
    let of = of.name().strip_prefix("io.k8s.")?;
    let never = match name {
        "metadata" | "spec" | "status" => true,
        _ => {
            let of = of.rsplit('.').next().unwrap_or(of);
            NEVER_ABSENT.contains(&(of, name))
        }
    };
    let field = declared(place, name).filter(|_| never)?;
    match field.shape() {
        Shape::Struct => Some(&OBJECT),
        Shape::List => Some(&LIST),
        _ => None,
    }
}

/// Why an item of a list cannot be told from the others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// A null in a list of objects.
    #[error("associative list with keys may not have a null element")]
    NullItem,
    /// A scalar in a list of objects.
    #[error("associative list with keys may not have non-map elements")]
    NoObject,
    /// An item without any of its keys.
    #[error(
        "associative list with keys has an element that omits all key fields {0} (and doesn't have default values \
         for any key fields)"
    )]
    NoKeys(String),
    /// An object in a set.
    #[error("associative list without keys has an element that's a map type")]
    ObjectInSet,
    /// A list in a set.
    #[error("not supported: associative list with lists as elements")]
    ListInSet,
    /// A null in a set.
    #[error("associative list without keys has an element that's an explicit null")]
    NullInSet,
}

/// How an item of an associative list is told from the others.
pub(super) fn item(list: Schema, item: &Value) -> Result<Step, ItemError> {
    let mut keys = list.list_map_keys().peekable();
    let merge_key = Some(list.merge_key()).filter(|key| list.list_type().is_empty() && !key.is_empty());
    if keys.peek().is_none() && merge_key.is_none() {
        return match item {
            Value::Object(_) => Err(ItemError::ObjectInSet),
            Value::Array(_) => Err(ItemError::ListInSet),
            Value::Null => Err(ItemError::NullInSet),
            scalar => Ok(Step::Value(scalar.clone())),
        };
    }
    let fields = match item {
        Value::Object(fields) => fields,
        Value::Null => return Err(ItemError::NullItem),
        _ => return Err(ItemError::NoObject),
    };
    let element = list.element();
    let default = |key: &str| declared(element, key)?.default_value().cloned();
    let mut found: Vec<(String, Value)> = keys
        .chain(merge_key)
        .filter_map(|key| Some((key.to_owned(), fields.get(key).cloned().or_else(|| default(key))?)))
        .collect();
    if found.is_empty() {
        let names: Vec<String> =
            list.list_map_keys().chain(merge_key).map(|key| format!("{key:?}")).collect();
        return Err(ItemError::NoKeys(format!("[{}]", names.join(" "))));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Step::Key(found))
}
