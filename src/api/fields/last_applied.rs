//! Where kubectl's two ways to apply meet: the annotation in which client-side apply keeps its last configuration.

use serde_json::Value;

use super::collect::collect;
use super::compare::compare;
use super::conflict::Conflict;
use super::operation::Context;
use super::set::Set;
use crate::api::meta;

/// The manager for which the annotation counts: kubectl's server-side apply.
pub(super) const MANAGER: &str = "kubectl";

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// All annotations of an object together, keys and values.
const ANNOTATIONS_BYTES: usize = 256 * 1024;

/// The conflicts over fields that client-side apply did not itself set to what they are.
pub(super) fn without_own(conflicts: Vec<Conflict>, live: &Value, context: &Context) -> Vec<Conflict> {
    let own = own(live, context).unwrap_or_default();
    conflicts.into_iter().filter(|conflict| !own.has(&conflict.path)).collect()
}

/// The fields that are as client-side apply last set them.
fn own(live: &Value, context: &Context) -> Option<Set> {
    let text = meta::annotation(live, ANNOTATION).filter(|text| !text.is_empty())?;
    let applied: Value = serde_json::from_str(text).ok()?;
    if meta::api_version(&applied) != context.version {
        return None;
    }
    let since = compare(context.place, &applied, live);
    let set = collect(context.place, &applied);
    Some(set.difference(&since.modified).difference(&since.added).difference(&since.removed))
}

/// Keeps the annotation of an object that has one in step with what was applied.
pub(super) fn renew(object: &mut Value, config: &Value) {
    if meta::annotation(object, ANNOTATION).is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    drop_annotation(&mut config);
    meta::set_annotation(object, ANNOTATION, &format!("{config}\n"));
    let bytes: usize = meta::annotations(object)
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if bytes > ANNOTATIONS_BYTES {
        drop_annotation(object);
    }
}

fn drop_annotation(object: &mut Value) {
    if let Some(Value::Object(annotations)) = object.pointer_mut("/metadata/annotations") {
        annotations.remove(ANNOTATION);
    }
}
