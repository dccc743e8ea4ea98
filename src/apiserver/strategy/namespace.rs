//! Namespaces: they carry the finalizer `kubernetes` until everything in them is gone.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::column::{self, AGE, NAME};
use super::value::{fill, fill_zero, items, object, text};
use super::{Column, Strategy};
use crate::api::meta;
use crate::api::names;
use crate::api::status::FieldError;

/// The strategy of namespaces.
pub(super) struct Namespace;

impl Strategy for Namespace {
    fn name_errors(&self, _object: &Value, name: &str) -> Vec<String> {
        names::dns_label(name)
    }

    fn default(&self, namespace: &mut Value) {
        let name = meta::name(namespace).to_owned();
        if !name.is_empty() {
            meta::set_label(namespace, "kubernetes.io/metadata.name", &name);
        }
        object(namespace, "spec");
        object(namespace, "status");
        fill_zero(&mut namespace["status"], "phase", "Active");
    }

    fn prepare_create(&self, namespace: &mut Value) {
        // Once more, for a name that was generated only after the defaults.
        self.default(namespace);
        namespace["status"] = json!({"phase": "Active"});
        let spec = &mut namespace["spec"];
        fill(spec, "finalizers", json!([]));
        if !items(spec, "finalizers").contains(&json!("kubernetes"))
            && let Some(finalizers) = spec["finalizers"].as_array_mut()
        {
            finalizers.push("kubernetes".into());
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        object(new, "spec").insert("finalizers".into(), old["spec"]["finalizers"].clone());
    }

    fn validate(&self, namespace: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for finalizer in items(&namespace["spec"], "finalizers") {
            let name = finalizer.as_str().unwrap_or_default();
            let wrong = names::qualified_name(name);
            errors.extend(wrong.iter().map(|w| FieldError::invalid("spec.finalizers", finalizer, w)));
            if wrong.is_empty() && !name.contains('/') && name != "kubernetes" {
                let why = "name is neither a standard finalizer name nor is it fully qualified";
                errors.push(FieldError::invalid("spec.finalizers", finalizer, why));
            }
        }
        errors
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let (phase, detail) = if meta::is_deleting(new) {
            ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty")
        } else {
            ("Active", "may only be 'Active' if `deletionTimestamp` is empty")
        };
        let given = match text(&new["status"], "phase") {
            "" => "Active",
            given => given,
        };
        let wrong = given != phase;
        wrong.then(|| FieldError::invalid("status.Phase", &given.into(), detail)).into_iter().collect()
    }

    fn fields(&self, namespace: &Value) -> Vec<(&'static str, String)> {
        vec![("status.phase", text(&namespace["status"], "phase").to_owned())]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, column::text("Status", "The status of the namespace"), AGE];
        COLUMNS
    }

    fn cells(&self, namespace: &Value, now: Timestamp) -> Vec<Value> {
        let phase = text(&namespace["status"], "phase");
        vec![column::name(namespace), phase.into(), column::age(namespace, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phase_says_whether_a_namespace_is_leaving() {
        let namespace = |phase: &str, at: Value| json!({"metadata": {"deletionTimestamp": at}, "status": {"phase": phase}});
        for (phase, at, right) in [
            ("Active", Value::Null, true),
            ("", Value::Null, true),
            ("Terminating", Value::Null, false),
            ("Terminating", json!("t"), true),
            ("Active", json!("t"), false),
        ] {
            let errors = Namespace.validate_status_update(&namespace(phase, at), &Value::Null);
            assert_eq!(errors.is_empty(), right, "{phase}");
        }
    }

    #[test]
    fn a_new_namespace_is_active_and_held() {
        let mut namespace = json!({"metadata": {"name": "vote"}, "status": {"phase": "Terminating"}});
        Namespace.default(&mut namespace);
        Namespace.prepare_create(&mut namespace);
        let again = namespace.clone();
        Namespace.default(&mut namespace);
        assert_eq!(namespace, again);
        assert_eq!(
            namespace,
            json!({
                "metadata": {"name": "vote", "labels": {"kubernetes.io/metadata.name": "vote"}},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}
            })
        );
        assert!(Namespace.validate(&namespace).is_empty());
        assert_eq!(Namespace.validate(&json!({"spec": {"finalizers": ["x", "a b", "x.io/y"]}})).len(), 2);
    }

    #[test]
    fn an_update_keeps_the_finalizers() {
        let mut new = json!({"spec": {"finalizers": []}});
        Namespace.prepare_update(&mut new, &json!({"spec": {"finalizers": ["kubernetes"]}}));
        assert_eq!(new["spec"]["finalizers"], json!(["kubernetes"]));
    }
}
