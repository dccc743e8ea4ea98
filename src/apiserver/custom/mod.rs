//! The versions of custom objects: what is stored, and what each version shows of it.
//!
//! Every write of an object whose definition has one version gives it the form of that version, so that only what was
//! written before the versions last changed has to be looked at.

pub mod conversion;

use std::sync::Arc;

use serde_json::{Value, json};

use super::registry::encode;
use crate::api::custom::{Conversion, Version};
use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::structural;
use crate::store::Entry;

/// What a version of a kind shows of an entry, remembered with the entry.
struct Seen {
    /// Since when the versions of the kind are what they were then.
    since: u64,
    /// Its other form; `None` where it has the right one.
    turned: Option<Arc<Entry>>,
}

/// An entry as a version of a custom kind shows it: what its schema does not know is left out, and its defaults are there.
pub fn as_served(kind: &Kind, version: &Version, entry: Arc<Entry>) -> Arc<Entry> {
    let definition = &version.definition;
    if !definition.single_version {
        let turns = definition.conversion != Conversion::None;
        if turns && meta::api_version(entry.json()) != kind.api_version() {
            // A webhook converts it later.
            return entry;
        }
        return turned(kind, version, &entry).unwrap_or(entry);
    }
    if entry.revision > definition.since {
        return entry;
    }
    // It was written under other versions of the schema; many readers ask for it, and few schemas change.
    let see = || Seen { since: definition.since, turned: turned(kind, version, &entry) };
    let turned = match entry.typed(|_| Some(see())) {
        Some(seen) if seen.since == definition.since => seen.turned.clone(),
        _ => see().turned,
    };
    turned.unwrap_or(entry)
}

fn turned(kind: &Kind, version: &Version, entry: &Entry) -> Option<Arc<Entry>> {
    let served = shown(kind, version, entry.json().clone());
    (served != *entry.json()).then(|| entry.in_form(encode(&served)))
}

fn shown(kind: &Kind, version: &Version, mut object: Value) -> Value {
    meta::map_mut(&mut object).insert("apiVersion".to_owned(), json!(kind.api_version()));
    structural::prune(&version.node, &mut object, true);
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
