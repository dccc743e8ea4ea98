//! Which objects a list or watch selects, decided on an object's JSON.

use serde_json::Value;

use super::stored_kind;
use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::request::ListOptions;
use crate::api::selector::{FieldSelector, LabelSelector};
use crate::api::status::Status;
use crate::apiserver::strategy;
use crate::store::Entry;

/// A parsed selection over the objects of one kind.
#[derive(Debug, Clone)]
pub struct Selection {
    kind: &'static Kind,
    labels: LabelSelector,
    fields: FieldSelector,
    namespace: Option<String>,
    name: Option<String>,
}

impl Selection {
    /// Reads the selectors of a request; `namespace` and `name` are those of the path.
    pub fn new(
        kind: &'static Kind,
        namespace: Option<&str>,
        name: Option<&str>,
        options: &ListOptions,
    ) -> Result<Selection, Status> {
        let labels = LabelSelector::parse(&options.label_selector)
            .map_err(|e| Status::bad_request(format!("unable to parse requirement: {e}")))?;
        let fields = FieldSelector::parse(&options.field_selector).map_err(Status::bad_request)?;
        let known = strategy::of(stored_kind(kind)).fields(&Value::Null);
        for term in &fields.terms {
            let common = matches!(term.key.as_str(), "metadata.name" | "metadata.namespace");
            if !common && !known.iter().any(|(key, _)| *key == term.key) {
                return Err(Status::bad_request(format!("field label not supported: {}", term.key)));
            }
        }
        let namespace = namespace.or(fields.required("metadata.namespace").filter(|_| kind.namespaced));
        let name = name.or(fields.required("metadata.name")).map(str::to_owned);
        Ok(Selection { kind, labels, namespace: namespace.map(str::to_owned), name, fields })
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
            && (self.fields.is_everything() || self.fields.matches(&self.fields_of(object)))
    }

    fn fields_of(&self, object: &Value) -> Vec<(&'static str, String)> {
        let mut fields = strategy::of(stored_kind(self.kind)).fields(object);
        fields.push(("metadata.name", meta::name(object).to_owned()));
        fields.push(("metadata.namespace", meta::namespace(object).to_owned()));
        fields
    }
}
