//! Which objects a list or watch selects, decided on an object's JSON.

use std::sync::Arc;

use serde_json::Value;

use super::stored_kind;
use super::versions::field_label;
use crate::api::kinds::{Kind, Text};
use crate::api::meta;
use crate::api::request::ListOptions;
use crate::api::selector::{FieldSelector, LabelSelector};
use crate::api::status::Status;
use crate::apiserver::strategy;
use crate::store::Entry;

/// A parsed selection over the objects of one kind.
#[derive(Debug, Clone)]
pub struct Selection {
    kind: Arc<Kind>,
    labels: LabelSelector,
    fields: FieldSelector,
    namespace: Option<String>,
    name: Option<String>,
}

impl Selection {
    /// Reads the selectors of a request; `namespace` and `name` are those of the path.
    pub fn new(
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        name: Option<&str>,
        options: &ListOptions,
    ) -> Result<Selection, Status> {
        let labels = LabelSelector::parse(&options.label_selector).map_err(Status::bad_request)?;
        let fields = FieldSelector::parse(&options.field_selector).map_err(Status::bad_request)?;
        let known = fields_of(kind, &Value::Null);
        for term in &fields.terms {
            let common = matches!(term.key.as_str(), "metadata.name" | "metadata.namespace");
            if !common && !known.iter().any(|(key, _)| *key == term.key) {
                return Err(Status::bad_request(unknown_field(
                    &term.key,
                    known.is_empty() && kind.types.custom().is_none(),
                )));
            }
        }
        let namespace = namespace.or(fields.required("metadata.namespace").filter(|_| kind.namespaced));
        let name = name.or(fields.required("metadata.name")).map(str::to_owned);
        Ok(Selection { kind: kind.clone(), labels, namespace: namespace.map(str::to_owned), name, fields })
    }

    /// Whether every object under the prefix is selected.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything() && self.name.is_none()
    }

    /// The store prefix that holds every selected object: the very key when the name is known.
    pub fn prefix(&self) -> String {
        match (&self.name, &self.namespace) {
            (Some(name), namespace) if namespace.is_some() || !self.kind.namespaced => {
                self.kind.key(namespace.as_deref(), name)
            }
            _ => self.kind.prefix(self.namespace.as_deref()),
        }
    }

    /// Whether this object is selected. The document is parsed only where a selector looks into it.
    pub fn matches(&self, entry: &Entry) -> bool {
        if self.is_everything() {
            return true;
        }
        if let Some(name) = &self.name
            && entry.key.rsplit('/').next() != Some(name)
        {
            return false;
        }
        let object = entry.json();
        self.labels.matches(&object["metadata"]["labels"])
            && (self.fields.is_everything() || self.fields.matches(&self.all_fields_of(object)))
    }

    fn all_fields_of(&self, object: &Value) -> Vec<(Text, String)> {
        let mut fields = fields_of(&self.kind, object);
        fields.push(("metadata.name".into(), meta::name(object).to_owned()));
        fields.push(("metadata.namespace".into(), meta::namespace(object).to_owned()));
        fields
    }
}

/// What can be selected of objects of this kind beside name and namespace, by its names in the group that is
/// served.
fn fields_of(kind: &Arc<Kind>, stored: &Value) -> Vec<(Text, String)> {
    if let Some(version) = kind.types.custom() {
        return version.fields(stored);
    }
    let fields = strategy::of(stored_kind(kind)).fields(stored);
    let named = |(name, value)| Some((field_label(kind, name)?.into(), value));
    fields.into_iter().filter_map(named).collect()
}

/// Kubernetes says it in one way for kinds with fields of their own and custom ones, in another for the rest.
fn unknown_field(name: &str, plain: bool) -> String {
    if plain {
        format!("{name:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    } else {
        format!("field label not supported: {name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;

    fn select(group: &str, plural: &str, labels: &str, fields: &str) -> Result<Selection, String> {
        let options = ListOptions {
            label_selector: labels.into(),
            field_selector: fields.into(),
            ..ListOptions::default()
        };
        let kind = kinds::by_resource(group, "v1", plural).unwrap();
        Selection::new(kind, None, None, &options).map_err(|status| status.message)
    }

    #[test]
    fn each_kind_and_group_knows_its_own_fields() {
        for (group, plural, fields, refused) in [
            ("", "pods", "status.phase=Running,metadata.name!=a", None),
            ("", "pods", "foo=a", Some("field label not supported: foo")),
            (
                "",
                "configmaps",
                "foo=a",
                Some("\"foo\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""),
            ),
            ("", "events", "involvedObject.name=a,source=kubelet,reportingComponent=k", None),
            ("", "events", "regarding.name=a", Some("field label not supported: regarding.name")),
            ("events.k8s.io", "events", "regarding.name=a,reportingController=k,type=Normal", None),
            (
                "events.k8s.io",
                "events",
                "involvedObject.name=a",
                Some("field label not supported: involvedObject.name"),
            ),
            ("events.k8s.io", "events", "source=a", Some("field label not supported: source")),
        ] {
            assert_eq!(
                select(group, plural, "", fields).err().as_deref(),
                refused,
                "{group} {plural} {fields}"
            );
        }
    }

    #[test]
    fn both_groups_select_the_same_events() {
        let event = serde_json::json!({"metadata": {"name": "e", "namespace": "d"},
            "involvedObject": {"name": "www"}, "reportingComponent": "kubelet"});
        let entry = Entry::new("events/d/e".into(), super::super::encode(&event), 1, 1);
        for (group, right, wrong) in [
            ("", "involvedObject.name=www", "involvedObject.name=vote"),
            ("events.k8s.io", "regarding.name=www,reportingController=kubelet", "regarding.name=vote"),
        ] {
            assert!(select(group, "events", "", right).unwrap().matches(&entry), "{right}");
            assert!(!select(group, "events", "", wrong).unwrap().matches(&entry), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_label_selector_is_told_once() {
        let told = select("", "pods", "a in b", "").err().unwrap();
        assert_eq!(told.matches("unable to parse requirement").count(), 1, "{told}");
    }
}
