//! The versions of custom objects: what is stored, and what each version shows of it.

pub mod conversion;

use std::sync::Arc;

use serde_json::{Value, json};

use super::registry::encode;
use crate::api::custom::{Conversion, Version};
use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::structural;
use crate::store::Entry;

/// An entry as a version of a custom kind shows it, with the defaults of the version.
pub fn as_served(kind: &Kind, version: &Version, entry: Arc<Entry>) -> Arc<Entry> {
    if version.definition.single_version && !version.has_defaults() {
        return entry;
    }
    let turns = version.definition.conversion != Conversion::None;
    if turns && meta::api_version(entry.json()) != kind.api_version() {
        // A webhook converts it later.
        return entry;
    }
    let served = shown(kind, version, entry.json().clone());
    if served == *entry.json() {
        return entry;
    }
    entry.in_form(encode(&served))
}

fn shown(kind: &Kind, version: &Version, mut object: Value) -> Value {
    meta::map_mut(&mut object).insert("apiVersion".to_owned(), json!(kind.api_version()));
    structural::fill(&version.node, &mut object);
    object
}

/// A value of a version in the version that is stored.
fn as_stored(kind: &Kind, mut value: Value) -> Value {
    if let Some(version) = kind.types.custom() {
        meta::map_mut(&mut value).insert("apiVersion".to_owned(), json!(stored_version(kind, version)));
    }
    value
}

/// The group and version in which the objects of a custom kind are stored.
fn stored_version(kind: &Kind, version: &Version) -> String {
    format!("{}/{}", kind.group, version.definition.storage_version)
}
