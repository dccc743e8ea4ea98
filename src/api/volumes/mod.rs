//! Persistent volumes and claims: what belongs together, and which volume suits a claim best.
//!
//! Source: Kubernetes `k8s.io/component-helpers/storage/volume`. The binding controller and the scheduler decide by the
//! same rules.

pub mod tie;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::api::resource;

use crate::api::node_selector;
use crate::api::quantity::{self, Quantity};
use crate::api::selector::LabelSelector;

/// Says of a claim that it was bound once; a volume that is not there any more is then lost.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Says of a claim or a volume that the controller, not the user, chose the other.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// The provisioner that made a volume.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The provisioner of minik's own class.
pub const PROVISIONER: &str = "minik.io/hostpath";
/// The provisioners whose volumes minik makes: its own, and the one that manifests written for minikube name.
pub const PROVISIONERS: &[&str] = &[PROVISIONER, "k8s.io/minikube-hostpath"];
/// The node for whose pod a claim's volume is to be made.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The provisioner of classes whose volumes somebody makes by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// What says of a class that it is the default; the first is the one of today.
pub const IS_DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// Where the class of storage stood before it was a field.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const STORAGE: &str = "storage";
const FILE_SYSTEM: &str = "Filesystem";

type Annotations = Option<BTreeMap<String, String>>;

fn annotation<'a>(annotations: &'a Annotations, key: &str) -> Option<&'a str> {
    annotations.as_ref()?.get(key).map(String::as_str)
}

/// An annotation of a claim.
pub fn of_claim<'a>(claim: &'a PersistentVolumeClaim, key: &str) -> Option<&'a str> {
    annotation(&claim.metadata.annotations, key)
}

/// An annotation of a volume.
pub fn of_volume<'a>(volume: &'a PersistentVolume, key: &str) -> Option<&'a str> {
    annotation(&volume.metadata.annotations, key)
}

/// The class of a claim; `None` when it names none, empty when it wants none.
pub fn claim_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    let field = || claim.spec.as_ref()?.storage_class_name.as_deref();
    of_claim(claim, OLD_CLASS).or_else(field)
}

/// The class of a volume; empty when it has none.
pub fn volume_class(volume: &PersistentVolume) -> &str {
    let field = || volume.spec.as_ref()?.storage_class_name.as_deref();
    of_volume(volume, OLD_CLASS).or_else(field).unwrap_or_default()
}

fn storage(amounts: Option<&BTreeMap<String, resource::Quantity>>) -> Quantity {
    let amount = amounts.and_then(|amounts| amounts.get(STORAGE));
    amount.and_then(|amount| quantity::parse(&amount.0).ok()).unwrap_or(Quantity::units(0))
}

/// How much a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    storage(claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref()))
}

/// How much a claim has, by its status.
pub fn granted(claim: &PersistentVolumeClaim) -> Quantity {
    storage(claim.status.as_ref().and_then(|status| status.capacity.as_ref()))
}

/// How much a volume holds.
pub fn capacity(volume: &PersistentVolume) -> Quantity {
    storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

/// The phase of a claim.
pub fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The phase of a volume.
pub fn volume_phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The claim that a volume has, or is kept for.
pub fn claim_of(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// The volume that a claim has, or asks for; empty when it does neither.
pub fn volume_of(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

/// Whether a volume is this claim's, or kept for it.
pub fn is_meant_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_of(volume).is_some_and(|reference| {
        let uid = reference.uid.as_deref().unwrap_or_default();
        reference.name == claim.metadata.name
            && reference.namespace == claim.metadata.namespace
            && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
    })
}

/// Whether a claim has its volume for good.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    !volume_of(claim).is_empty() && of_claim(claim, BIND_COMPLETED).is_some()
}

fn modes_differ(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let has = volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    let asks = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    has.unwrap_or(FILE_SYSTEM) != asks.unwrap_or(FILE_SYSTEM)
}

fn offers_access(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let has = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    let asks = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    asks.iter().all(|mode| has.contains(mode))
}

/// Why a volume that a claim asks for by name cannot be the claim's.
pub fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    let attributes = |class: Option<&String>| class.cloned().unwrap_or_default();
    let has = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_ref());
    let asks = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_ref());
    if volume.metadata.deletion_timestamp.is_some() {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        return Some(format!("the volume is marked for deletion {name:?}"));
    }
    let why = if capacity(volume) < requested(claim) {
        "requested PV is too small"
    } else if volume_class(volume) != claim_class(claim).unwrap_or_default() {
        "storageClassName does not match"
    } else if attributes(has) != attributes(asks) {
        "volumeAttributesClassName does not match"
    } else if modes_differ(volume, claim) {
        "incompatible volumeMode"
    } else if !offers_access(volume, claim) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(why.to_owned())
}

/// Whether a volume can be reached from a node.
pub fn is_reachable(volume: &PersistentVolume, node: &str, labels: &BTreeMap<String, String>) -> bool {
    let required =
        volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()).and_then(|a| a.required.as_ref());
    required.is_none_or(|selector| node_selector::matches(selector, node, labels))
}

/// Who looks for a volume.
#[derive(Clone, Copy)]
pub enum Seeker<'a> {
    /// The binding controller: anything that fits.
    Controller,
    /// The binding controller, for a claim that waits for a pod: only what is kept for the claim.
    Reserved,
    /// The scheduler: what a node with this name and these labels reaches.
    Node(&'a str, &'a BTreeMap<String, String>),
}

/// The volume for a claim: the one that is kept for it, or the smallest that suits. Of volumes that offer more ways of
/// access than are asked for, those with the fewest come first.
pub fn find<'a>(
    claim: &PersistentVolumeClaim,
    volumes: impl IntoIterator<Item = &'a PersistentVolume>,
    seeker: Seeker<'_>,
) -> Option<&'a PersistentVolume> {
    let asked = requested(claim);
    let possible: Vec<&PersistentVolume> = volumes
        .into_iter()
        .filter(|volume| claim_of(volume).is_none() || is_meant_for(volume, claim))
        .filter(|volume| capacity(volume) >= asked && !modes_differ(volume, claim))
        .filter(|volume| volume.metadata.deletion_timestamp.is_none() && offers_access(volume, claim))
        .collect();
    let reached = |volume: &PersistentVolume| match seeker {
        Seeker::Node(name, labels) => is_reachable(volume, name, labels),
        Seeker::Controller | Seeker::Reserved => true,
    };
    if let Some(kept) = possible.iter().find(|volume| is_meant_for(volume, claim)) {
        return reached(kept).then_some(kept);
    }
    if matches!(seeker, Seeker::Reserved) {
        return None;
    }
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = match selector.map(serde_json::to_value) {
        None => None,
        // What cannot be understood selects nothing.
        Some(value) => Some(LabelSelector::from_object(&value.ok()?).ok()?),
    };
    let class = claim_class(claim).unwrap_or_default();
    let suits = |volume: &&PersistentVolume| {
        let labels = volume.metadata.labels.clone().unwrap_or_default();
        volume_phase(volume) == "Available"
            && volume_class(volume) == class
            && selector.as_ref().is_none_or(|selector| selector.matches_map(&labels))
            && reached(volume)
    };
    let ways = |volume: &PersistentVolume| {
        volume.spec.as_ref().and_then(|spec| spec.access_modes.as_ref()).map_or(0, Vec::len)
    };
    let first = |a: &&PersistentVolume, b: &&PersistentVolume| {
        (ways(a), capacity(a), &a.metadata.name).cmp(&(ways(b), capacity(b), &b.metadata.name))
    };
    possible.into_iter().filter(suits).min_by(first)
}

/// The claim that a volume of a pod stands for: the one that it names, or the one that is made for it.
pub fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some(source.claim_name.clone());
    }
    volume.ephemeral.as_ref()?;
    Some(format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name))
}

/// The names of all claims of a pod.
pub fn claims_of(pod: &Pod) -> impl Iterator<Item = String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| claim_name(pod, volume))
}

/// Whether a claim was made for this pod.
pub fn is_made_for(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let owners = claim.metadata.owner_references.iter().flatten();
    owners
        .into_iter()
        .any(|owner| owner.controller == Some(true) && Some(&owner.uid) == pod.metadata.uid.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let mut spec = spec;
        for (key, value) in [
            ("accessModes", json!(["ReadWriteOnce"])),
            ("resources", json!({"requests": {"storage": "1Gi"}})),
            ("storageClassName", json!("")),
        ] {
            if spec.get(key).is_none() {
                spec[key] = value;
            }
        }
        let claim = json!({"metadata": {"name": "c", "namespace": "d", "uid": "u"}, "spec": spec});
        serde_json::from_value(claim).unwrap()
    }

    fn volume(name: &str, size: &str, change: impl FnOnce(&mut Value)) -> PersistentVolume {
        let mut volume = json!({"metadata": {"name": name}, "status": {"phase": "Available"},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"]}});
        change(&mut volume);
        serde_json::from_value(volume).unwrap()
    }

    fn found(
        claim: &PersistentVolumeClaim,
        volumes: &[PersistentVolume],
        seeker: Seeker<'_>,
    ) -> Option<String> {
        find(claim, volumes, seeker)?.metadata.name.clone()
    }

    #[test]
    fn the_smallest_volume_that_suits_is_found() {
        let plain = || volume("plain", "2Gi", |_| {});
        let many = |v: &mut Value| v["spec"]["accessModes"] = json!(["ReadWriteOnce", "ReadWriteMany"]);
        let labelled = |v: &mut Value| v["metadata"]["labels"] = json!({"speed": "fast"});
        let fast = json!({"selector": {"matchLabels": {"speed": "fast"}}});
        for (spec, volumes, expected) in [
            (json!({}), vec![volume("large", "5Gi", |_| {}), plain()], Some("plain")),
            (json!({}), vec![volume("small", "1Mi", |_| {})], None),
            (json!({}), vec![volume("many", "1Gi", many), plain()], Some("plain")),
            (
                json!({"accessModes": ["ReadWriteMany"]}),
                vec![plain(), volume("many", "1Gi", many)],
                Some("many"),
            ),
            (json!({"storageClassName": "slow"}), vec![plain()], None),
            (
                json!({"storageClassName": "slow"}),
                vec![plain(), volume("slow", "9Gi", |v| v["spec"]["storageClassName"] = json!("slow"))],
                Some("slow"),
            ),
            (fast.clone(), vec![plain(), volume("fast", "9Gi", labelled)], Some("fast")),
            (fast, vec![plain()], None),
            (json!({"volumeMode": "Block"}), vec![plain()], None),
            (json!({}), vec![volume("new", "1Gi", |v| v["status"]["phase"] = json!("Pending"))], None),
            (
                json!({}),
                vec![volume("going", "1Gi", |v| {
                    v["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")
                })],
                None,
            ),
        ] {
            let claim = claim(spec.clone());
            assert_eq!(found(&claim, &volumes, Seeker::Controller).as_deref(), expected, "{spec}");
        }
    }

    #[test]
    fn a_volume_that_is_kept_for_a_claim_is_its_own_alone() {
        let kept = |uid: &str, size: &str| {
            volume("kept", size, |v| {
                v["spec"]["claimRef"] = json!({"name": "c", "namespace": "d", "uid": uid})
            })
        };
        let other = || volume("other", "1Gi", |_| {});
        let of_another =
            volume("foreign", "1Gi", |v| v["spec"]["claimRef"] = json!({"name": "x", "namespace": "d"}));
        for (volumes, controller, reserved) in [
            (vec![other(), kept("", "9Gi")], Some("kept"), Some("kept")),
            (vec![kept("u", "9Gi")], Some("kept"), Some("kept")),
            (vec![kept("before", "9Gi")], None, None),
            (vec![other(), kept("", "1Mi")], Some("other"), None),
            (vec![of_another], None, None),
        ] {
            let claim = claim(json!({}));
            assert_eq!(found(&claim, &volumes, Seeker::Controller).as_deref(), controller, "{volumes:?}");
            assert_eq!(found(&claim, &volumes, Seeker::Reserved).as_deref(), reserved, "{volumes:?}");
        }
    }

    #[test]
    fn nodes_find_what_they_reach() {
        let here = |node: &'static str| {
            move |v: &mut Value| {
                v["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}});
            }
        };
        let labels = BTreeMap::from([("kubernetes.io/hostname".to_owned(), "n".to_owned())]);
        let volumes = [volume("far", "1Gi", here("m")), volume("near", "2Gi", here("n"))];
        assert_eq!(found(&claim(json!({})), &volumes, Seeker::Node("n", &labels)).as_deref(), Some("near"));
        assert_eq!(found(&claim(json!({})), &volumes[..1], Seeker::Node("n", &labels)), None);
    }

    #[test]
    fn what_does_not_match_is_said() {
        let plain = volume("v", "1Gi", |_| {});
        for (spec, expected) in [
            (json!({}), None),
            (json!({"resources": {"requests": {"storage": "2Gi"}}}), Some("requested PV is too small")),
            (json!({"storageClassName": "x"}), Some("storageClassName does not match")),
            (json!({"volumeMode": "Block"}), Some("incompatible volumeMode")),
            (json!({"accessModes": ["ReadWriteMany"]}), Some("incompatible accessMode")),
        ] {
            assert_eq!(mismatch(&plain, &claim(spec.clone())).as_deref(), expected, "{spec}");
        }
    }

    #[test]
    fn ephemeral_volumes_have_claims_of_their_own() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "uid": "1"}, "spec": {"containers": [],
            "volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "b", "ephemeral": {}}, {"name": "c", "emptyDir": {}}]}}))
            .unwrap();
        assert_eq!(claims_of(&pod).collect::<Vec<_>>(), ["data", "p-b"]);
        let mut own = claim(json!({}));
        assert!(!is_made_for(&own, &pod));
        own.metadata.owner_references = serde_json::from_value(
            json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "1", "controller": true}]),
        )
        .unwrap();
        assert!(is_made_for(&own, &pod));
    }
}
