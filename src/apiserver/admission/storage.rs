//! DefaultStorageClass, StorageObjectInUseProtection and PersistentVolumeClaimResize.
//!
//! Source: Kubernetes `plugin/pkg/admission/storage`.

use std::cmp::Reverse;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Attributes, Operation};
use crate::api::status::Status;
use crate::api::volumes::IS_DEFAULT_CLASS;
use crate::api::{meta, quota, resources};
use crate::apiserver::registry::Registry;
use crate::store::Entry;

const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Taken away by the controller that knows whether a claim or a volume is in use.
const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

/// Gives a new claim that names no class the default one.
pub fn set_default_class(registry: &Registry, claim: &mut Value) {
    let named = meta::annotation(claim, OLD_CLASS).is_some() || !claim["spec"]["storageClassName"].is_null();
    if named || !claim["spec"].is_object() {
        return;
    }
    if let Some(class) = newest_default(&registry.all("storageclasses/"), &IS_DEFAULT_CLASS) {
        claim["spec"]["storageClassName"] = json!(class);
    }
}

/// The newest of the classes that say that they are the default; of two of one age the first by name.
pub fn newest_default(classes: &[Arc<Entry>], annotations: &[&str]) -> Option<String> {
    let is_default =
        |class: &Value| annotations.iter().any(|key| meta::annotation(class, key) == Some("true"));
    let marked = classes.iter().map(|entry| entry.json()).filter(|class| is_default(class));
    let newest = marked.min_by_key(|class| (Reverse(meta::created(class)), meta::name(class)));
    newest.map(|class| meta::name(class).to_owned())
}

/// A claim stays as long as pods use it.
pub fn protect_claim(claim: &mut Value) {
    protect(claim, CLAIM_FINALIZER);
}

/// A volume stays as long as it is bound.
pub fn protect_volume(volume: &mut Value) {
    protect(volume, VOLUME_FINALIZER);
}

fn protect(object: &mut Value, finalizer: &str) {
    let mut finalizers: Vec<String> = meta::finalizers(object).into_iter().map(str::to_owned).collect();
    if !finalizers.iter().any(|present| present == finalizer) {
        finalizers.push(finalizer.to_owned());
        meta::set(object, "finalizers", json!(finalizers));
    }
}

/// Decides whether a claim may grow.
pub fn validate_resize(
    registry: &Registry,
    attributes: &Attributes<'_>,
    claim: &Value,
) -> Result<(), Status> {
    let (Operation::Update, "", Some(old)) = (attributes.operation, attributes.subresource, attributes.old)
    else {
        return Ok(());
    };
    let class = |name: &str| Some(registry.store().get(&format!("storageclasses/{name}"))?.json().clone());
    grow(old, claim, class).map_err(|why| attributes.forbidden(claim, why))
}

fn grow(old: &Value, new: &Value, class: impl Fn(&str) -> Option<Value>) -> Result<(), &'static str> {
    let size =
        |claim: &Value| resources::read(&claim["spec"]["resources"]["requests"]).get("storage").copied();
    if size(new) <= size(old) {
        return Ok(());
    }
    if old["status"]["phase"] != "Bound" {
        return Err("only bound persistent volume claims can be expanded");
    }
    let (before, after) = (quota::claim_class(old), quota::claim_class(new));
    let grows = !after.is_empty()
        && before == after
        && class(after).is_some_and(|class| class["allowVolumeExpansion"] == true);
    if grows {
        return Ok(());
    }
    Err(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support \
         resize",
    )
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn the_newest_default_class_is_meant() {
        let class = |name: &str, created: &str, annotation: &str| {
            let class = json!({"metadata": {"name": name, "creationTimestamp": created,
                "annotations": {annotation: "true"}}});
            Entry::new(name.to_owned(), Bytes::from(class.to_string()), 1, 1)
        };
        let (old, new) = ("2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z");
        let classes = [
            class("a", old, IS_DEFAULT_CLASS[0]),
            class("c", new, IS_DEFAULT_CLASS[1]),
            class("b", new, IS_DEFAULT_CLASS[0]),
            class("d", new, "other"),
        ];
        assert_eq!(newest_default(&classes, &IS_DEFAULT_CLASS).as_deref(), Some("b"));
        assert_eq!(newest_default(&classes[3..], &IS_DEFAULT_CLASS), None);
    }

    #[test]
    fn what_is_in_use_is_held_once() {
        let mut claim = json!({"metadata": {"finalizers": ["x/y"]}});
        protect_claim(&mut claim);
        protect_claim(&mut claim);
        assert_eq!(claim["metadata"]["finalizers"], json!(["x/y", "kubernetes.io/pvc-protection"]));
    }

    #[test]
    fn claims_grow_by_their_class() {
        let claim = |size: &str, class: &str, phase: &str| {
            json!({"spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}},
                "status": {"phase": phase}})
        };
        let class = |name: &str| Some(json!({"allowVolumeExpansion": name == "elastic"}));
        for (old, new, allowed) in [
            (claim("1Gi", "rigid", "Bound"), claim("1Gi", "rigid", "Bound"), true),
            (claim("1Gi", "elastic", "Bound"), claim("2Gi", "elastic", "Bound"), true),
            (claim("1Gi", "elastic", "Pending"), claim("2Gi", "elastic", "Pending"), false),
            (claim("1Gi", "rigid", "Bound"), claim("2Gi", "rigid", "Bound"), false),
            (claim("1Gi", "", "Bound"), claim("2Gi", "", "Bound"), false),
        ] {
            assert_eq!(grow(&old, &new, class).is_ok(), allowed, "{new}");
        }
    }
}
