//! What controllers share that own pods (and revisions, and each other): claiming, making, ranking and deleting them.
//!
//! Every write waits until the local copy shows it, so that the next plan never starts from an older state and
//! nothing is made twice.

pub mod amount;
pub mod batch;
pub mod claim;
pub mod hash;
pub mod pods;
pub mod rank;
pub mod revisions;
pub mod state;
pub mod status;
pub mod wake;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector as Selector, ObjectMeta, OwnerReference};

use crate::api::selector::LabelSelector;
use crate::client::Resource;
use crate::client::events::reference;

/// An object that owns others, as far as what it owns needs to know it.
#[derive(Debug, Clone)]
pub struct Owner {
    /// How what it owns refers to it.
    pub reference: OwnerReference,
    /// Where it is, and what it owns.
    pub namespace: String,
    /// What it wants to own.
    pub selector: LabelSelector,
    /// Whether it is on its way out: then it takes nothing on and lets nothing go.
    pub deleting: bool,
    /// What what it takes on has to carry until it lets it go.
    pub finalizer: Option<&'static str>,
    /// What events about it point at.
    pub about: ObjectReference,
}

impl Owner {
    /// The owner that an object is, of what `selector` selects.
    pub fn new<K: Resource>(object: &K, selector: LabelSelector) -> Owner {
        let meta = object.metadata();
        Owner {
            reference: OwnerReference {
                api_version: K::API_VERSION.to_owned(),
                kind: K::KIND.to_owned(),
                name: meta.name.clone().unwrap_or_default(),
                uid: meta.uid.clone().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            },
            namespace: meta.namespace.clone().unwrap_or_default(),
            selector,
            deleting: meta.deletion_timestamp.is_some(),
            finalizer: None,
            about: reference(object),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.reference.name
    }

    /// Whether it controls an object.
    pub fn controls(&self, meta: &ObjectMeta) -> bool {
        controller_of(meta).is_some_and(|owner| owner.uid == self.reference.uid)
    }
}

/// The reference to the owner that controls an object.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Reads the selector of a typed object; an absent one selects nothing.
pub fn selector(selector: Option<&Selector>) -> Result<LabelSelector, String> {
    let value = serde_json::to_value(selector).map_err(|error| error.to_string())?;
    LabelSelector::from_object(&value)
}

/// Whether a selector selects an object.
pub fn selects(selector: &LabelSelector, meta: &ObjectMeta) -> bool {
    match &meta.labels {
        Some(labels) => selector.matches_map(labels),
        None => selector.matches_map(&Default::default()),
    }
}
