//! The versions of custom objects: what is stored, and what each version shows of it.
//!
//! A schema may have changed since an object was written. As it is read, it is made what the version in which it is stored
//! says (fields that are unknown are dropped, defaults are filled in), and then converted to the version that is asked for,
//! which drops what it does not know but fills in nothing.

pub mod conversion;

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::registry::encode;
use crate::api::custom::{Conversion, Definition, Version};
use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::structural;
use crate::store::Entry;

/// What was found out about an entry, kept with it for its next reader.
#[derive(Default)]
struct Known(Mutex<Option<Form>>);

struct Form {
    /// Since when the versions of the kind are those by which this was found out.
    since: u64,
    /// The version in which the entry is stored.
    version: Box<str>,
    /// The entry as its version shows it, where it is not so as it lies in the store.
    turned: Option<Arc<Entry>>,
}

impl Form {
    fn of(definition: &Definition, entry: &Entry) -> Form {
        let stored = entry.parse();
        let (_, version) = meta::group_version(meta::api_version(&stored));
        let mut shown = stored.clone();
        if let Some(node) = definition.node(version) {
            structural::prune(node, &mut shown, true);
            structural::fill(node, &mut shown);
        }
        let turned = (shown != stored).then(|| entry.in_form(encode(&shown)));
        Form { since: definition.since, version: version.into(), turned }
    }
}

/// An entry as the version shows it in which it is stored: what its schema does not know is left out, and its defaults are
/// there. With it, whether that is the version of this name.
fn in_own_form(definition: &Definition, version: &str, entry: Arc<Entry>) -> (Arc<Entry>, bool) {
    let Some(known) = entry.typed(|_| Some(Known::default())) else { return (entry, false) };
    let mut known = known.0.lock().unwrap_or_else(PoisonError::into_inner);
    let form = match known.take() {
        Some(form) if form.since == definition.since => form,
        _ => Form::of(definition, &entry),
    };
    let form = known.insert(form);
    (form.turned.clone().unwrap_or(entry), *form.version == *version)
}

/// An entry as a version of a custom kind shows it; where a webhook has to convert it, as the version in which it is stored
/// shows it.
pub fn as_served(kind: &Kind, version: &Version, entry: Arc<Entry>) -> Arc<Entry> {
    let definition = &*version.definition;
    let (entry, same) = in_own_form(definition, &kind.version, entry);
    if same || definition.conversion != Conversion::None {
        return entry;
    }
    entry.in_form(encode(&shown(kind, version, entry.json().clone())))
}

/// An object that came from another version.
fn shown(kind: &Kind, version: &Version, mut object: Value) -> Value {
    meta::map_mut(&mut object).insert("apiVersion".to_owned(), json!(kind.api_version()));
    structural::prune(&version.node, &mut object, true);
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
