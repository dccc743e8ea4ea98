//! The versions of custom objects: what is stored, and what each version shows of it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::registry::encode;
use crate::api::custom::Version;
use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::structural;
use crate::store::Entry;

/// An entry as a version of a custom kind shows it, with the defaults of the version.
pub fn as_served(kind: &Kind, version: &Version, entry: Arc<Entry>) -> Arc<Entry> {
    if version.definition.single_version && !version.has_defaults() {
        return entry;
    }
    let served = shown(kind, version, entry.json().clone());
    if served == *entry.json() {
        return entry;
    }
    Entry::new(entry.key.clone(), encode(&served), entry.created, entry.revision)
}

fn shown(kind: &Kind, version: &Version, mut object: Value) -> Value {
    meta::map_mut(&mut object).insert("apiVersion".to_owned(), json!(kind.api_version()));
    structural::fill(&version.node, &mut object);
    object
}

/// A value of a version in the version that is stored.
pub fn as_stored(kind: &Kind, mut value: Value) -> Value {
    if let Some(version) = kind.types.custom() {
        let stored = format!("{}/{}", kind.group, version.definition.storage_version);
        meta::map_mut(&mut value).insert("apiVersion".to_owned(), json!(stored));
    }
    value
}
