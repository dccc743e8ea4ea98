//! Objects that are stored in one version and served in several: which those are, and how they are turned.
//!
//! A version is a row of [`VERSIONS`] and, where more than the name of the version differs, a file with the two
//! directions. What the older versions left to be filled in otherwise than today is filled in on the way to the store:
//! once stored, an object has all its fields, whichever version it came by.

use std::sync::Arc;

use serde_json::Value;

use super::encode;
use crate::api::kinds::{self, Kind};
use crate::apiserver::custom;
use crate::store::Entry;

mod autoscaler;
mod budgets;
mod events;
mod ingress;
mod metrics;
mod workloads;

/// One version, beside the stored one, in which objects of a kind are served.
struct Version {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    /// The group and version in which they are stored.
    stored: (&'static str, &'static str),
    to_served: fn(&mut Value),
    to_stored: fn(&mut Value),
    /// The name in this version of a field by which the stored objects are selected, where it has one.
    label: fn(&'static str) -> Option<&'static str>,
}

impl Version {
    /// A version that has the structure of the stored one.
    const fn like(
        (group, version): (&'static str, &'static str),
        kind: &'static str,
        stored: (&'static str, &'static str),
    ) -> Version {
        Version { group, version, kind, stored, to_served: same, to_stored: same, label: Some }
    }

    const fn turned(self, to_stored: fn(&mut Value), to_served: fn(&mut Value)) -> Version {
        Version { to_stored, to_served, ..self }
    }
}

fn same(_: &mut Value) {}

const APPS_V1: (&str, &str) = ("apps", "v1");
const APPS_BETA2: (&str, &str) = ("apps", "v1beta2");
const APPS_BETA1: (&str, &str) = ("apps", "v1beta1");
const EXTENSIONS: (&str, &str) = ("extensions", "v1beta1");
const NETWORKING: (&str, &str) = ("networking.k8s.io", "v1");

const VERSIONS: &[Version] = &[
    Version {
        label: events::field_label,
        ..Version::like(("events.k8s.io", "v1"), "Event", ("", "v1")).turned(events::to_core, events::to_new)
    },
    Version::like(("autoscaling", "v1"), "HorizontalPodAutoscaler", ("autoscaling", "v2"))
        .turned(autoscaler::to_new, autoscaler::to_old),
    Version::like(APPS_BETA2, "ControllerRevision", APPS_V1),
    Version::like(APPS_BETA2, "DaemonSet", APPS_V1),
    Version::like(APPS_BETA2, "Deployment", APPS_V1),
    Version::like(APPS_BETA2, "ReplicaSet", APPS_V1),
    Version::like(APPS_BETA2, "StatefulSet", APPS_V1),
    Version::like(APPS_BETA1, "ControllerRevision", APPS_V1),
    Version::like(APPS_BETA1, "Deployment", APPS_V1)
        .turned(workloads::apps_deployment, workloads::old_deployment),
    Version::like(APPS_BETA1, "StatefulSet", APPS_V1).turned(workloads::stateful_set, same),
    Version::like(("batch", "v1beta1"), "CronJob", ("batch", "v1")),
    Version::like(("policy", "v1beta1"), "PodDisruptionBudget", ("policy", "v1"))
        .turned(budgets::to_new, budgets::to_old),
    Version::like(("networking.k8s.io", "v1beta1"), "Ingress", NETWORKING)
        .turned(ingress::to_new, ingress::to_old),
    Version::like(EXTENSIONS, "DaemonSet", APPS_V1).turned(workloads::daemon_set, workloads::old_daemon_set),
    Version::like(EXTENSIONS, "Deployment", APPS_V1)
        .turned(workloads::extensions_deployment, workloads::old_deployment),
    Version::like(EXTENSIONS, "Ingress", NETWORKING).turned(ingress::to_new, ingress::to_old),
    Version::like(EXTENSIONS, "NetworkPolicy", NETWORKING),
    Version::like(EXTENSIONS, "ReplicaSet", APPS_V1).turned(workloads::replica_set, same),
];

/// The row of a kind that is served in another version than it is stored in.
fn of(kind: &Kind) -> Option<&'static Version> {
    VERSIONS.iter().find(|v| kind.version == v.version && kind.group == v.group && kind.kind == v.kind)
}

fn stored(version: &Version) -> Option<&'static Arc<Kind>> {
    kinds::by_kind(version.stored.0, version.stored.1, version.kind)
}

/// The kind in whose version the objects of `kind` are stored.
pub fn stored_kind(kind: &Kind) -> &Kind {
    of(kind).and_then(stored).map_or(kind, |kind| kind)
}

/// An entry in the version that `kind` serves.
pub fn as_served(kind: &Kind, entry: Arc<Entry>) -> Arc<Entry> {
    if let Some(version) = kind.types.custom() {
        return custom::as_served(kind, version, entry);
    }
    if of(kind).is_none() {
        return entry;
    }
    let value = value_as_served(kind, entry.json().clone());
    entry.in_form(encode(&value))
}

/// A value in the version that `kind` serves.
pub fn value_as_served(kind: &Kind, mut value: Value) -> Value {
    if let Some(version) = of(kind)
        && value.is_object()
    {
        (version.to_served)(&mut value);
        value["apiVersion"] = kind.api_version().into();
    }
    value
}

/// A client's object in the version that is stored.
pub fn as_stored(kind: &Kind, mut value: Value) -> Value {
    if let Some(version) = of(kind)
        && let Some(stored) = stored(version)
        && value.is_object()
    {
        (version.to_stored)(&mut value);
        value["apiVersion"] = stored.api_version().into();
    }
    value
}

/// The name in the version that `kind` serves of a field by which the stored objects are selected; not all have one.
pub(super) fn field_label(kind: &Kind, name: &'static str) -> Option<&'static str> {
    of(kind).map_or(Some(name), |version| (version.label)(name))
}

/// Gives a field another name.
fn rename(object: &mut Value, old: &str, new: &str) {
    if let Some(fields) = object.as_object_mut()
        && let Some(value) = fields.remove(old)
    {
        fields.insert(new.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_version_beside_the_stored_one_has_a_row() {
        for kind in kinds::KINDS.iter() {
            let first = kinds::KINDS.iter().find(|other| other.storage == kind.storage).unwrap();
            assert_eq!(stored_kind(kind), &**first, "{kind:?}");
            assert_eq!(of(kind).is_some(), !Arc::ptr_eq(kind, first), "{kind:?}");
        }
    }

    #[test]
    fn odd_objects_do_not_hurt() {
        let odd = [
            json!(null),
            json!([]),
            json!({}),
            json!({"metadata": 1, "spec": 2, "status": 3}),
            json!({"metadata": {"annotations": 1, "labels": []}, "spec": {"template": 1, "metrics": [1, {"type": 5}],
                "rules": [1, {"http": {"paths": [1, {"backend": []}]}}], "backend": 1, "strategy": [],
                "updateStrategy": 1, "rollbackTo": 1, "selector": 2}, "status": {"currentMetrics": [1]}}),
        ];
        for version in VERSIONS {
            for object in &odd {
                (version.to_stored)(&mut object.clone());
                (version.to_served)(&mut object.clone());
            }
        }
    }

    #[test]
    fn versions_are_named() {
        let old = kinds::by_kind("batch", "v1beta1", "CronJob").unwrap();
        let given = json!({"apiVersion": "batch/v1beta1", "kind": "CronJob", "spec": {"schedule": "@daily"}});
        let stored = as_stored(old, given.clone());
        assert_eq!(stored["apiVersion"], "batch/v1");
        assert_eq!(value_as_served(old, stored), given);
    }
}
