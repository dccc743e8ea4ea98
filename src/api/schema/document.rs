//! The embedded types, made by `build.rs`.

use std::sync::OnceLock;

use serde_json::{Map, Value};

use super::types::Type;

// `TYPES`: type names with their structure as JSON, in the order of the names. `KINDS`: groups, versions and kinds
// with the names of their types, in that order.
include!(concat!(env!("OUT_DIR"), "/structure.rs"));

static COMPRESSED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/schema.json.zst"));

/// The types of [`TYPES`] as far as they have been asked for: most programs need few of them.
static PARSED: [OnceLock<Type>; TYPES.len()] = [const { OnceLock::new() }; TYPES.len()];

/// A type, in whose structure references read `#/components/schemas/NAME`.
pub(super) fn structure(name: &str) -> Option<&'static Type> {
    let at = TYPES.binary_search_by(|(known, _)| known.cmp(&name)).ok()?;
    let (name, text) = TYPES[at];
    // Written by the build of this very binary; `the_documents_are_readable` holds that it parses.
    Some(PARSED[at].get_or_init(|| Type::new(name, serde_json::from_str(text).unwrap_or_default())))
}

/// The name of a kind's type, be it of objects or only of bodies and answers: `Pod`, `Scale`, `Status`.
pub fn of_kind(group: &str, version: &str, kind: &str) -> Option<&'static str> {
    let at = KINDS.binary_search_by(|(known, _)| known.cmp(&(group, version, kind))).ok()?;
    Some(KINDS[at].1)
}

/// All types with their descriptions, name to OpenAPI schema; read anew at each call, so that nothing of its two
/// megabytes stays in memory.
pub fn described() -> Map<String, Value> {
    let bytes = zstd::decode_all(COMPRESSED).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TYPES.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_are_readable() {
        let described = described();
        assert!(names().eq(described.keys().map(String::as_str)));
        for name in names() {
            assert!(structure(name).unwrap().schema.is_object(), "{name}");
            assert!(
                described[name]["description"].is_string() || name.contains(".resource.Quantity"),
                "{name}"
            );
        }
        assert!(structure("io.k8s.api.core.v1.Pods").is_none());
    }

    #[test]
    fn types_are_found_by_kind() {
        assert_eq!(of_kind("", "v1", "Pod"), Some("io.k8s.api.core.v1.Pod"));
        assert_eq!(of_kind("autoscaling", "v1", "Scale"), Some("io.k8s.api.autoscaling.v1.Scale"));
        assert_eq!(of_kind("", "v1", "Status"), Some("io.k8s.apimachinery.pkg.apis.meta.v1.Status"));
        assert_eq!(of_kind("apps", "v2", "Deployment"), None);
    }
}
