//! Objects of custom kinds in the versions in which somebody manages their fields.
//!
//! Who manages what is found out without waiting; what a webhook has to convert for that is noted on the way, converted
//! by [`complete`](Turning::complete), and then it is found out once more.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::Registry;
use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::status::Status;
use crate::apiserver::custom::conversion;

/// The versions of a kind, and what objects are in them.
#[derive(Default)]
pub(super) struct Turning {
    /// The versions that are served of a kind that a client defined, where it has several.
    kinds: Vec<Arc<Kind>>,
    /// Whether a webhook converts between them.
    is_asked: bool,
    known: Vec<Turned>,
    missing: Mutex<Vec<(Value, Arc<Kind>)>>,
    failed: Option<Status>,
}

/// What an object is in a version.
struct Turned {
    object: Value,
    version: String,
    turned: Value,
}

impl Turning {
    /// That of a write of an object of this kind.
    pub(super) fn of(registry: &Registry, kind: &Kind) -> Turning {
        let Some(_) = kind.types.custom().filter(|version| !version.definition.single_version) else {
            return Turning::default();
        };
        let served = registry.served().kinds();
        let kinds = served.iter().filter(|other| other.storage == kind.storage).cloned().collect();
        Turning { kinds, is_asked: conversion::is_asked(kind), ..Turning::default() }
    }

    /// The kind in this version (`example.com/v1`).
    pub(super) fn kind(&self, version: &str) -> Option<&Arc<Kind>> {
        self.kinds.iter().find(|kind| kind.api_version() == version)
    }

    /// An object in another version, which is known; what is given for one that is still to be converted counts for nothing.
    pub(super) fn turned<'o>(&'o self, object: &'o Value, kind: &Arc<Kind>) -> Cow<'o, Value> {
        let version = kind.api_version();
        if self.is_asked && !meta::api_version(object).is_empty() {
            let known = self.known.iter().find(|known| known.version == version && known.object == *object);
            if let Some(known) = known {
                return Cow::Borrowed(&known.turned);
            }
            let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
            missing.push((object.clone(), kind.clone()));
        }
        let mut object = object.clone();
        meta::map_mut(&mut object).insert("apiVersion".to_owned(), json!(version));
        Cow::Owned(object)
    }

    /// Converts what was missing; whether nothing was.
    pub(super) async fn complete(&mut self, registry: &Registry) -> bool {
        let missing = std::mem::take(self.missing.get_mut().unwrap_or_else(PoisonError::into_inner));
        if missing.is_empty() || self.failed.is_some() {
            return true;
        }
        for (object, kind) in missing {
            let version = kind.api_version().into_owned();
            if self.known.iter().any(|known| known.version == version && known.object == object) {
                continue;
            }
            match conversion::in_version(registry, &kind, object.clone()).await {
                Ok(turned) => self.known.push(Turned { object, version, turned }),
                Err(status) => self.failed = Some(status),
            }
        }
        false
    }

    /// Why an object could not be converted, if one could not.
    pub(super) fn failure(&self) -> Option<&Status> {
        self.failed.as_ref()
    }
}
