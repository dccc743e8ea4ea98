//! What differs from kind to kind: defaults, validation, what updates may touch, table columns.
//!
//! Everything else (get, list, watch, patch, delete, finalizers, ...) is the registry's and is written once.
//! A strategy is pure: it sees objects, never the store.

mod address;
mod checks;
mod column;
mod error;
mod selector;

mod admissionregistration;
mod apiextensions;
mod apiregistration;
mod apps;
mod autoscaling;
mod batch;
pub mod certificates;
mod componentstatus;
mod configmap;
mod custom;
mod embedded;
mod endpoints;
mod event;
mod flowcontrol;
mod lease;
mod limitrange;
mod namespace;
mod networking;
mod node;
mod persistentvolume;
mod persistentvolumeclaim;
mod pod;
mod podtemplate;
mod policy;
mod rbac;
mod replicationcontroller;
mod resourcequota;
mod resources;
mod runtimeclass;
mod scheduling;
mod secret;
mod service;
mod serviceaccount;
mod storage;

use serde_json::{Value, json};

use crate::api::kinds::Kind;
use crate::api::names;
use crate::api::status::FieldError;
pub(super) use crate::api::value;

/// A column of a server-printed table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// `Name`, as kubectl prints it in capitals.
    pub name: &'static str,
    /// `string`, `integer`, `date`.
    pub kind: &'static str,
    /// `name` for the column that names the object, else empty.
    pub format: &'static str,
    /// For `kubectl explain`-like clients.
    pub description: &'static str,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: u8,
}

impl Column {
    fn definition(&self) -> Value {
        json!({
            "name": self.name,
            "type": self.kind,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        })
    }
}

/// The behaviour of one kind. The defaults of the methods suit a plain object without a status.
///
/// The registry calls, for a create: schema check, `default`, `prepare_create`, `validate`, `validate_create`;
/// for an update: schema check, `default`, `prepare_update`, `validate`, `validate_update`. Object metadata (name,
/// uid, generation, timestamps, deletion, immutable fields) is the registry's; `validate` sees only the rest.
pub trait Strategy: Sync {
    /// What is wrong with a name for this object.
    fn name_errors(&self, _object: &Value, name: &str) -> Vec<String> {
        names::dns_subdomain(name)
    }

    /// Whether a replace may bring an object into being.
    fn created_on_update(&self) -> bool {
        false
    }

    /// Whether a replace need not say which version of the object it replaces.
    fn unconditional_update(&self) -> bool {
        true
    }

    /// Fills in what Kubernetes fills in; must be idempotent.
    fn default(&self, _object: &mut Value) {}

    /// Drops or sets what a creator may not choose, such as the status.
    fn prepare_create(&self, _object: &mut Value) {}

    /// Carries over what an update of the object itself may not touch. The registry has already put the old
    /// status back when the kind has a `status` subresource.
    fn prepare_update(&self, _new: &mut Value, _old: &Value) {}

    /// Carries over what an update of the status may not touch. The registry has already put the old spec and
    /// metadata (but for what a status update may change) back.
    fn prepare_status_update(&self, _new: &mut Value, _old: &Value) {}

    /// The same for the subresource `approval`, by which certificate requests are decided.
    fn prepare_approval_update(&self, _new: &mut Value, _old: &Value) {}

    /// What is wrong with an object, in field order.
    fn validate(&self, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// What is wrong with a new object alone.
    fn validate_create(&self, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// What is wrong with the change from `old` to `new`.
    fn validate_update(&self, _new: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// What is wrong with the change of the status from `old` to `new`.
    fn validate_status_update(&self, _new: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// What is wrong with a change of a pod's ephemeral containers.
    fn validate_ephemeral_containers_update(&self, _new: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// What is wrong with a change of the resources of a pod's containers.
    fn validate_resize(&self, _new: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// What is wrong with a decision about a certificate request.
    fn validate_approval_update(&self, _new: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// What the user should know though the object is accepted.
    fn warnings(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Whether `metadata.generation` counts the changes of the desired state. Kinds that do not count have none.
    fn has_generation(&self) -> bool {
        false
    }

    /// Whether a change between these two is a change of the desired state.
    fn generation_changes(&self, new: &Value, old: &Value) -> bool {
        new.get("spec") != old.get("spec")
    }

    /// The grace period of a delete in seconds; `None` deletes at once. Pods answer
    /// `spec.terminationGracePeriodSeconds`, 0 when not yet bound to a node.
    fn grace_period(&self, _object: &Value, _asked: Option<i64>) -> Option<i64> {
        None
    }

    /// The field-selector keys beyond `metadata.name` and `metadata.namespace`, with this object's values.
    fn fields(&self, _object: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// The table's columns.
    fn columns(&self) -> &'static [Column];

    /// The same as a `Table` defines them.
    fn column_definitions(&self) -> Value {
        self.columns().iter().map(Column::definition).collect()
    }

    /// This object's cells, one for each column; `now` is for ages.
    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value>;
}

/// The behaviour of a kind of the table. Kinds without a file of their own behave plainly.
pub fn of(kind: &Kind) -> &dyn Strategy {
    if let Some(version) = kind.types.custom() {
        return &**version;
    }
    match (&*kind.group, &*kind.kind) {
        ("", "ComponentStatus") => &componentstatus::ComponentStatus,
        ("", "ConfigMap") => &configmap::ConfigMap,
        ("", "Endpoints") => &endpoints::Endpoints,
        ("", "Event") => &event::Event,
        ("events.k8s.io", "Event") => &event::StrictEvent,
        ("", "LimitRange") => &limitrange::LimitRange,
        ("", "Namespace") => &namespace::Namespace,
        ("", "Node") => &node::Node,
        ("", "PersistentVolume") => &persistentvolume::PersistentVolume,
        ("", "PersistentVolumeClaim") => &persistentvolumeclaim::PersistentVolumeClaim,
        ("", "Pod") => &pod::Pod,
        ("", "PodTemplate") => &podtemplate::PodTemplate,
        ("", "ReplicationController") => &replicationcontroller::ReplicationController,
        ("", "ResourceQuota") => &resourcequota::ResourceQuota,
        ("", "Secret") => &secret::Secret,
        ("", "Service") => &service::Service,
        ("", "ServiceAccount") => &serviceaccount::ServiceAccount,
        ("coordination.k8s.io", "Lease") => &lease::Lease,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => &apiextensions::CustomResourceDefinition,
        ("discovery.k8s.io", "EndpointSlice") => &endpoints::EndpointSlice,
        ("node.k8s.io", "RuntimeClass") => &runtimeclass::RuntimeClass,
        (group, kind) => of_group(group, kind).unwrap_or(&Plain),
    }
}

fn of_group(group: &str, kind: &str) -> Option<&'static dyn Strategy> {
    match group {
        "admissionregistration.k8s.io" => admissionregistration::of(kind),
        "apiregistration.k8s.io" => apiregistration::of(kind),
        "apps" => apps::of(kind),
        "autoscaling" => autoscaling::of(kind),
        "batch" => batch::of(kind),
        "certificates.k8s.io" => certificates::of(kind),
        // The removed group of what others hold today.
        "extensions" => apps::of(kind).or_else(|| networking::of(kind)),
        "flowcontrol.apiserver.k8s.io" => flowcontrol::of(kind),
        "networking.k8s.io" => networking::of(kind),
        "policy" => policy::of(kind),
        "rbac.authorization.k8s.io" => rbac::of(kind),
        "scheduling.k8s.io" => scheduling::of(kind),
        "storage.k8s.io" => storage::of(kind),
        _ => None,
    }
}

/// A kind with nothing special about it: a name and an age.
struct Plain;

impl Strategy for Plain {
    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[column::NAME, column::AGE];
        COLUMNS
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![column::name(object), column::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds::KINDS;

    #[test]
    fn no_strategy_stumbles_over_odd_objects() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let odd = serde_json::json!({"metadata": 1, "spec": [], "status": "x", "data": 5, "subsets": {}});
        let odder =
            serde_json::json!({"spec": {"containers": {"a": 1}, "ports": [1, null, []], "volumes": [[]]}});
        for kind in KINDS.iter() {
            let strategy = of(kind);
            for object in [Value::Null, odd.clone(), odder.clone(), Value::from("text")] {
                let mut new = object.clone();
                strategy.default(&mut new);
                let cells = strategy.cells(&new, now);
                assert_eq!(cells.len(), strategy.columns().len(), "{}", kind.kind);
                strategy.validate(&new);
                strategy.validate_create(&new);
                strategy.validate_update(&new, &object);
                strategy.validate_status_update(&new, &object);
                strategy.validate_approval_update(&new, &object);
                strategy.name_errors(&new, "");
                strategy.fields(&object);
                strategy.warnings(&object);
                strategy.grace_period(&object, None);
                if new.is_object() {
                    strategy.prepare_update(&mut new, &object);
                    strategy.prepare_status_update(&mut new, &object);
                    strategy.prepare_approval_update(&mut new, &object);
                    strategy.prepare_create(&mut new);
                }
            }
        }
    }
}
