//! The pods of a stateful set: each has its ordinal, by which it is known and finds its volumes. Pure.

use std::ops::Range;

use k8s_openapi::api::apps::v1::StatefulSetSpec;
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::claims;
use crate::controllers::owned::Owner;
use crate::controllers::owned::pods::from_template;

/// The label that holds a pod's own name.
pub(super) const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// The label that holds its ordinal.
pub(super) const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
/// The label that holds the name of its revision.
pub(super) const REVISION: &str = "controller-revision-hash";

/// The name of the pod with an ordinal.
pub(super) fn name(set: &str, ordinal: i32) -> String {
    format!("{set}-{ordinal}")
}

/// A pod's ordinal, when its name is that of one of the set's.
pub(super) fn ordinal_of(set: &str, meta: &ObjectMeta) -> Option<i32> {
    let ordinal = meta.name.as_deref()?.strip_prefix(set)?.strip_prefix('-')?;
    ordinal.parse().ok().filter(|_| ordinal.bytes().all(|b| b.is_ascii_digit()))
}

/// The ordinals that are to be there.
pub(super) fn range(spec: &StatefulSetSpec) -> Range<i32> {
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    start..start.saturating_add(spec.replicas.unwrap_or(1))
}

/// The name of the revision that a pod is of.
pub(super) fn revision_of(pod: &Pod) -> &str {
    let labels = pod.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(REVISION)).map_or("", String::as_str)
}

/// Whether a pod is labelled as what it is.
pub(super) fn is_labelled(pod: &Pod) -> bool {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(POD_NAME));
    label == pod.metadata.name.as_ref()
}

/// The pod with an ordinal as a revision's template makes it.
pub(super) fn pod(
    owner: &Owner,
    spec: &StatefulSetSpec,
    template: &PodTemplateSpec,
    revision: &str,
    ordinal: i32,
) -> Pod {
    let mut pod = from_template(owner, template);
    let name = name(owner.name(), ordinal);
    let meta = &mut pod.metadata;
    meta.generate_name = None;
    meta.name = Some(name.clone());
    let labels = meta.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    labels.insert(REVISION.to_owned(), revision.to_owned());
    let inside = pod.spec.get_or_insert_default();
    inside.hostname = Some(name);
    inside.subdomain = spec.service_name.clone().filter(|service| !service.is_empty());
    let claims = claims::wanted(owner, spec, ordinal);
    let own = inside.volumes.take().unwrap_or_default();
    // A claim comes before a volume of the same name.
    let own = own.into_iter().filter(|volume| !claims.iter().any(|(name, _)| *name == volume.name));
    let own: Vec<Volume> = own.collect();
    let volumes = claims.iter().map(|(name, claim)| Volume {
        name: name.clone(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.metadata.name.clone().unwrap_or_default(),
            read_only: None,
        }),
        ..Volume::default()
    });
    let volumes: Vec<Volume> = volumes.chain(own).collect();
    inside.volumes = Some(volumes).filter(|volumes| !volumes.is_empty());
    pod
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::owned::selector;
    use k8s_openapi::api::apps::v1::StatefulSet;
    use serde_json::json;

    #[test]
    fn a_pod_is_known_by_its_ordinal() {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "d", "uid": "set"},
            "spec": {"replicas": 3, "ordinals": {"start": 5}, "serviceName": "nginx",
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [],
                    "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}}]}}))
        .unwrap();
        let owner = Owner::new(&set, selector(None).unwrap());
        let spec = set.spec;
        let made = serde_json::to_value(pod(&owner, &spec, &spec.template, "web-abc", 6)).unwrap();
        assert_eq!(made["metadata"]["name"], "web-6");
        assert!(made["metadata"]["generateName"].is_null());
        assert_eq!(
            made["metadata"]["labels"],
            json!({"app": "web", POD_NAME: "web-6", POD_INDEX: "6", REVISION: "web-abc"})
        );
        assert_eq!(
            (&made["spec"]["hostname"], &made["spec"]["subdomain"]),
            (&json!("web-6"), &json!("nginx"))
        );
        assert_eq!(
            made["spec"]["volumes"],
            json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-6"}},
                   {"name": "tmp", "emptyDir": {}}])
        );
        assert_eq!(range(&spec), 5..8);
        let named =
            |name: &str| ordinal_of("web", &ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() });
        assert_eq!(
            [named("web-12"), named("web-x"), named("web"), named("web-+1"), named("webs-1")],
            [Some(12), None, None, None, None]
        );
    }
}
