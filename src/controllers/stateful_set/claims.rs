//! The volume claims of a stateful set's pods: their names, and who takes them along when it goes. Pure.

use k8s_openapi::api::apps::v1::StatefulSetSpec;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::pod::{ordinal_of, range};
use crate::controllers::owned::Owner;

/// The name of the claim that a template makes for a pod.
pub(super) fn name(template: &str, set: &str, ordinal: i32) -> String {
    format!("{template}-{set}-{ordinal}")
}

/// The claims of the pod with an ordinal, with the names of their templates.
pub(super) fn wanted(
    owner: &Owner,
    spec: &StatefulSetSpec,
    ordinal: i32,
) -> Vec<(String, PersistentVolumeClaim)> {
    let templates = spec.volume_claim_templates.iter().flatten();
    templates
        .map(|template| {
            let named = template.metadata.name.clone().unwrap_or_default();
            let mut claim = template.clone();
            claim.status = None;
            claim.metadata.name = Some(name(&named, owner.name(), ordinal));
            claim.metadata.namespace = Some(owner.namespace.clone());
            let labels = claim.metadata.labels.get_or_insert_default();
            labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
            (named, claim)
        })
        .collect()
}

/// Whether a claim has the name of one of a set's.
pub(super) fn is_of(set: &str, spec: &StatefulSetSpec, claim: &str) -> bool {
    spec.volume_claim_templates.iter().flatten().any(|template| {
        let template = template.metadata.name.as_deref().unwrap_or_default();
        claim
            .strip_prefix(template)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|rest| rest.strip_prefix(set).is_some_and(|ordinal| ordinal.starts_with('-')))
    })
}

/// Whether a claim is to go when its pod is gone for good, and whether with the set.
fn policy(spec: &StatefulSetSpec) -> (bool, bool) {
    let policy = spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |word: Option<&String>| word.is_some_and(|word| word == "Delete");
    (
        deletes(policy.and_then(|policy| policy.when_scaled.as_ref())),
        deletes(policy.and_then(|policy| policy.when_deleted.as_ref())),
    )
}

/// The owners that a claim is to have instead of those it has, if others: those that take it along.
pub(super) fn other_owners(
    owner: &Owner,
    spec: &StatefulSetSpec,
    pod: &ObjectMeta,
    claim: &PersistentVolumeClaim,
) -> Option<Vec<OwnerReference>> {
    let references = claim.metadata.owner_references.clone().unwrap_or_default();
    // Somebody else manages it.
    let foreign = |reference: &OwnerReference| {
        reference.controller == Some(true)
            && reference.uid != owner.reference.uid
            && Some(&reference.uid) != pod.uid.as_ref()
    };
    if references.iter().any(foreign) {
        return None;
    }
    let (when_scaled, when_deleted) = policy(spec);
    let too_many = ordinal_of(owner.name(), pod).is_none_or(|ordinal| !range(spec).contains(&ordinal));
    let by_pod = when_scaled && too_many;
    let by_set = when_deleted && !by_pod;
    let own = |reference: &OwnerReference| {
        reference.uid == owner.reference.uid || Some(&reference.uid) == pod.uid.as_ref()
    };
    let mut wanted: Vec<OwnerReference> = references.iter().filter(|r| !own(r)).cloned().collect();
    if by_set {
        wanted.push(owner.reference.clone());
    }
    if let (true, Some(uid)) = (by_pod, &pod.uid) {
        wanted.push(OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: pod.name.clone().unwrap_or_default(),
            uid: uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        });
    }
    let uids = |all: &[OwnerReference]| all.iter().map(|r| r.uid.clone()).collect::<Vec<_>>();
    (uids(&wanted) != uids(&references)).then_some(wanted)
}

/// Whether a claim is still to go with a pod of the same name that was there before.
pub(super) fn is_stale(spec: &StatefulSetSpec, pod: &str, claim: &PersistentVolumeClaim) -> bool {
    let owners = claim.metadata.owner_references.iter().flatten();
    policy(spec).0 && owners.into_iter().any(|owner| owner.kind == "Pod" && owner.name == pod)
}

/// The names of the claims that a pod mounts by the set's templates.
pub(super) fn names(set: &str, spec: &StatefulSetSpec, pod: &Pod) -> Vec<String> {
    let Some(ordinal) = ordinal_of(set, &pod.metadata) else { return Vec::new() };
    let templates = spec.volume_claim_templates.iter().flatten();
    templates.map(|t| name(t.metadata.name.as_deref().unwrap_or_default(), set, ordinal)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::owned::selector;
    use k8s_openapi::api::apps::v1::StatefulSet;
    use serde_json::{Value, json};

    fn set(policy: Value) -> (Owner, StatefulSetSpec) {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "d", "uid": "set"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {},
                "persistentVolumeClaimRetentionPolicy": policy,
                "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"a": "b"}},
                    "spec": {"accessModes": ["ReadWriteOnce"]}}]}}))
        .unwrap();
        (Owner::new(&set, selector(None).unwrap()), set.spec)
    }

    #[test]
    fn claims_have_the_pods_name_and_the_selectors_labels() {
        let (owner, spec) = set(Value::Null);
        let (template, claim) = wanted(&owner, &spec, 3).remove(0);
        let claim = serde_json::to_value(claim).unwrap();
        assert_eq!(template, "data");
        assert_eq!(
            claim["metadata"],
            json!({"name": "data-web-3", "namespace": "d", "labels": {"a": "b", "app": "web"}})
        );
        assert!(is_of("web", &spec, "data-web-0") && !is_of("web", &spec, "data-webs-0"));
    }

    #[test]
    fn who_takes_a_claim_along() {
        let pod = |ordinal: i32| ObjectMeta {
            name: Some(format!("web-{ordinal}")),
            uid: Some("pod".into()),
            ..ObjectMeta::default()
        };
        let owned = |uids: &[(&str, bool)]| -> PersistentVolumeClaim {
            let owners: Vec<Value> = uids
                .iter()
                .map(|(uid, controls)| json!({"apiVersion": "v1", "kind": "Pod", "name": "web-1", "uid": uid, "controller": controls}))
                .collect();
            serde_json::from_value(json!({"metadata": {"ownerReferences": owners}})).unwrap()
        };
        for (scaled, deleted, ordinal, before, after) in [
            ("Retain", "Retain", 0, &[][..], None),
            ("Retain", "Retain", 0, &[("set", true), ("other", false)], Some("other")),
            ("Retain", "Delete", 0, &[], Some("set")),
            ("Retain", "Delete", 5, &[("set", true)], None),
            ("Delete", "Retain", 0, &[("pod", true)], Some("")),
            ("Delete", "Retain", 5, &[], Some("pod")),
            ("Delete", "Delete", 0, &[("pod", true)], Some("set")),
            ("Delete", "Delete", 5, &[("set", true)], Some("pod")),
            ("Delete", "Delete", 5, &[("other", true)], None),
        ] {
            let (owner, spec) = set(json!({"whenScaled": scaled, "whenDeleted": deleted}));
            let found = other_owners(&owner, &spec, &pod(ordinal), &owned(before));
            let uids = found.map(|all| all.iter().map(|r| r.uid.clone()).collect::<Vec<_>>().join(" "));
            assert_eq!(uids.as_deref(), after, "{scaled} {deleted} {ordinal} {before:?}");
        }
        let (_, keeps) = set(Value::Null);
        let (_, deletes) = set(json!({"whenScaled": "Delete"}));
        assert!(
            is_stale(&deletes, "web-1", &owned(&[("old", true)]))
                && !is_stale(&deletes, "web-1", &owned(&[]))
        );
        assert!(!is_stale(&keeps, "web-1", &owned(&[("old", true)])));
    }
}
