//! What is to be done about one claim or one volume (pure).
//!
//! Source: Kubernetes `pkg/controller/volume/persistentvolume`, and `sig-storage-lib-external-provisioner` for the
//! volumes that minik makes itself.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::api::volumes::{
    self, BIND_COMPLETED, NO_PROVISIONER, PROVISIONED_BY, PROVISIONERS, SELECTED_NODE, Seeker,
};
use crate::client::events::EventType;
use crate::client::reflector::key_of;

/// Held by a volume for as long as its data is there.
pub const DATA_FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";

/// Everything that decisions look at.
#[derive(Debug, Default)]
pub struct World {
    /// All volumes.
    pub volumes: Vec<Arc<PersistentVolume>>,
    /// All claims.
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
    /// All classes.
    pub classes: Vec<Arc<StorageClass>>,
    /// All pods.
    pub pods: Vec<Arc<Pod>>,
}

/// Something to tell about the object in question.
#[derive(Debug, Clone, PartialEq)]
pub struct News {
    /// Normal or not.
    pub kind: EventType,
    /// In one word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

fn normal(reason: &'static str, message: impl Into<String>) -> News {
    News { kind: EventType::Normal, reason, message: message.into() }
}

fn warning(reason: &'static str, message: impl Into<String>) -> News {
    News { kind: EventType::Warning, reason, message: message.into() }
}

/// What is to be done about a claim.
#[derive(Debug, Clone, PartialEq)]
pub enum ForClaim {
    /// Have both name each other, and both be Bound.
    Bind(Arc<PersistentVolume>),
    /// Give it the default class.
    Class(String),
    /// Be Pending.
    Pending,
    /// Be Lost.
    Lost(News),
    /// Tell something.
    Tell(News),
    /// Say who makes its volume.
    Provisioner(String),
    /// Make its volume.
    Provision(Arc<StorageClass>),
    /// Have its volume hold as much as it asks for.
    Expand(Arc<PersistentVolume>),
}

/// What is to be done about a volume.
#[derive(Debug, Clone, PartialEq)]
pub enum ForVolume {
    /// Be Available or Bound.
    Phase(&'static str),
    /// Be Released, if its claim is gone indeed.
    Release,
    /// Be Failed.
    Fail(News),
    /// Forget the claim that has another volume.
    Unbind,
    /// Tell why nothing is done yet, and look again.
    Wait(News),
    /// Remove what is in it, and have others claim it.
    Scrub,
    /// Hold the finalizer of the data, or not.
    Guard(bool),
    /// Remove its data, and then itself.
    RemoveData,
    /// Remove the object alone.
    Remove,
}

/// The phase that something is to be in, when it is in another.
fn phase(volume: &PersistentVolume, phase: &'static str) -> Vec<ForVolume> {
    if volumes::volume_phase(volume) == phase { Vec::new() } else { vec![ForVolume::Phase(phase)] }
}

/// What is to be done about a claim.
pub fn claim(claim: &PersistentVolumeClaim, world: &World) -> Vec<ForClaim> {
    let named = volumes::volume_of(claim);
    let volume = world.volumes.iter().find(|volume| volume.metadata.name.as_deref() == Some(named));
    if volumes::of_claim(claim, BIND_COMPLETED).is_some() {
        return bound(claim, named, volume);
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    match volume {
        _ if named.is_empty() => unbound(claim, world),
        None => vec![ForClaim::Pending],
        Some(volume) if volumes::claim_of(volume).is_none() => match volumes::mismatch(volume, claim) {
            None => vec![ForClaim::Bind(volume.clone())],
            Some(why) => {
                let message = format!("Cannot bind to requested volume {named:?}: {why}");
                vec![ForClaim::Tell(warning("VolumeMismatch", message)), ForClaim::Pending]
            }
        },
        Some(volume) if volumes::is_meant_for(volume, claim) => vec![ForClaim::Bind(volume.clone())],
        Some(_) => {
            let message = format!("volume {named:?} already bound to a different claim.");
            vec![ForClaim::Tell(warning("FailedBinding", message)), ForClaim::Pending]
        }
    }
}

/// A claim that had its volume once.
fn bound(
    claim: &PersistentVolumeClaim,
    named: &str,
    volume: Option<&Arc<PersistentVolume>>,
) -> Vec<ForClaim> {
    let lost = |reason, message: &str| vec![ForClaim::Lost(warning(reason, message))];
    let Some(volume) = volume else {
        let what = if named.is_empty() { "reference to PersistentVolume" } else { "its PersistentVolume" };
        return lost("ClaimLost", &format!("Bound claim has lost {what}. Data on the volume is lost!"));
    };
    let owner = volumes::claim_of(volume).map(|reference| &reference.uid);
    if owner.is_some_and(|uid| *uid != claim.metadata.uid) {
        let message = "Two claims are bound to the same volume, this one is bound incorrectly";
        return lost("ClaimMisbound", message);
    }
    let mut actions = vec![ForClaim::Bind(volume.clone())];
    let asked = volumes::requested(claim);
    let grows = asked > volumes::granted(claim) || asked > volumes::capacity(volume);
    if volumes::claim_phase(claim) == "Bound" && grows && claim.metadata.deletion_timestamp.is_none() {
        actions.push(if is_ours(volume) {
            ForClaim::Expand(volume.clone())
        } else {
            let message = "waiting for an external controller to expand this PVC";
            ForClaim::Tell(normal("ExternalExpanding", message))
        });
    }
    actions
}

/// A claim that never had a volume and names none.
fn unbound(claim: &PersistentVolumeClaim, world: &World) -> Vec<ForClaim> {
    let class_name = volumes::claim_class(claim).unwrap_or_default();
    let class = world.classes.iter().find(|class| class.metadata.name.as_deref() == Some(class_name));
    let waits =
        class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    let seeker = if waits { Seeker::Reserved } else { Seeker::Controller };
    let all = world.volumes.iter().map(|volume| &**volume);
    if let Some(found) = volumes::find(claim, all, seeker) {
        let found = world.volumes.iter().find(|volume| volume.metadata.name == found.metadata.name);
        return found.map(|volume| ForClaim::Bind(volume.clone())).into_iter().collect();
    }
    if volumes::claim_class(claim).is_none()
        && let Some(default) = default_class(&world.classes)
    {
        return vec![ForClaim::Class(default)];
    }
    if waits && volumes::of_claim(claim, SELECTED_NODE).is_none() {
        return vec![ForClaim::Tell(awaited(claim, &world.pods)), ForClaim::Pending];
    }
    if class_name.is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set";
        return vec![ForClaim::Tell(normal("FailedBinding", message)), ForClaim::Pending];
    }
    let mut actions = provision(claim, class_name, class);
    actions.push(ForClaim::Pending);
    actions
}

/// What a claim waits for whose class binds late.
fn awaited(claim: &PersistentVolumeClaim, pods: &[Arc<Pod>]) -> News {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let uses = |pod: &&Arc<Pod>| {
        let over = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let placed = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        pod.metadata.namespace == claim.metadata.namespace
            && !matches!(over, Some("Succeeded" | "Failed"))
            && placed.is_empty()
            && volumes::claims_of(pod).any(|used| used == name)
    };
    let names: Vec<&str> = pods.iter().filter(uses).filter_map(|pod| pod.metadata.name.as_deref()).collect();
    match names[..] {
        [] => normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
        [name] => normal("WaitForPodScheduled", format!("waiting for pod {name} to be scheduled")),
        _ => normal("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", names.join(","))),
    }
}

fn provision(
    claim: &PersistentVolumeClaim,
    class_name: &str,
    class: Option<&Arc<StorageClass>>,
) -> Vec<ForClaim> {
    let failed = |message: String| vec![ForClaim::Tell(warning("ProvisioningFailed", message))];
    let Some(class) = class else {
        return failed(format!("storageclass.storage.k8s.io {class_name:?} not found"));
    };
    let provisioner = class.provisioner.as_str();
    if provisioner == NO_PROVISIONER || provisioner.starts_with("kubernetes.io/") {
        return failed(format!("no volume plugin matched name: {provisioner}"));
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
         system administrator. If volume creation is delayed, please verify that the provisioner is running and \
         correctly registered."
    );
    let mut actions = vec![
        ForClaim::Provisioner(provisioner.to_owned()),
        ForClaim::Tell(normal("ExternalProvisioning", message)),
    ];
    if PROVISIONERS.contains(&provisioner) {
        match cannot_make(claim) {
            Some(why) => {
                let message = format!("failed to provision volume with StorageClass {class_name:?}: {why}");
                actions.extend(failed(message));
            }
            None => actions.push(ForClaim::Provision(class.clone())),
        }
    }
    actions
}

/// Why minik cannot make the volume of a claim.
fn cannot_make(claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let spec = claim.spec.as_ref()?;
    if spec.selector.is_some() {
        return Some("claim Selector is not supported");
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Some("block volumes are not supported");
    }
    let filled = spec.data_source.is_some() || spec.data_source_ref.is_some();
    filled.then_some("volumes cannot be filled from a data source")
}

/// The newest of the classes that say that they are the default; of two of one age the first by name.
fn default_class(classes: &[Arc<StorageClass>]) -> Option<String> {
    let is_default = |class: &&Arc<StorageClass>| {
        let annotations = class.metadata.annotations.as_ref();
        annotations.is_some_and(|all| {
            volumes::IS_DEFAULT_CLASS.iter().any(|key| all.get(*key).is_some_and(|v| v == "true"))
        })
    };
    let age = |class: &&Arc<StorageClass>| {
        let created = class.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (std::cmp::Reverse(created), class.metadata.name.clone())
    };
    classes.iter().filter(is_default).min_by_key(age)?.metadata.name.clone()
}

/// Whether minik made a volume.
fn is_ours(volume: &PersistentVolume) -> bool {
    volumes::of_volume(volume, PROVISIONED_BY).is_some_and(|by| PROVISIONERS.contains(&by))
}

fn policy(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}

fn is_guarded(volume: &PersistentVolume) -> bool {
    volume.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == DATA_FINALIZER)
}

/// What is to be done about a volume.
pub fn volume(volume: &PersistentVolume, world: &World) -> Vec<ForVolume> {
    let mut actions = Vec::new();
    let deleting = volume.metadata.deletion_timestamp.is_some();
    let guard = is_ours(volume) && policy(volume) == "Delete";
    if is_guarded(volume) && !guard || guard && !is_guarded(volume) && !deleting {
        actions.push(ForVolume::Guard(guard));
    }
    let reference = volumes::claim_of(volume).filter(|r| r.uid.as_ref().is_some_and(|uid| !uid.is_empty()));
    let Some(reference) = reference else {
        if guard && deleting {
            return vec![ForVolume::RemoveData];
        }
        actions.extend(phase(volume, "Available"));
        return actions;
    };
    let owner = world.claims.iter().find(|claim| claim.metadata.uid == reference.uid);
    let chosen = owner.map(|claim| volumes::volume_of(claim));
    let made_for_it = is_ours(volume) && policy(volume) == "Delete";
    actions.extend(match chosen {
        None => released(volume, world),
        // The claim's own turn completes this.
        Some("") => Vec::new(),
        Some(name) if Some(name) == volume.metadata.name.as_deref() => phase(volume, "Bound"),
        Some(_) if made_for_it => released(volume, world),
        Some(_) => vec![ForVolume::Unbind],
    });
    actions
}

/// A volume whose claim is gone.
fn released(volume: &PersistentVolume, world: &World) -> Vec<ForVolume> {
    let mut actions = Vec::new();
    let failed = volumes::volume_phase(volume) == "Failed";
    if !failed && volumes::volume_phase(volume) != "Released" {
        actions.push(ForVolume::Release);
    }
    let fail = |reason, message: String| match failed {
        true => Vec::new(),
        false => vec![ForVolume::Fail(warning(reason, message))],
    };
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let spec = volume.spec.as_ref();
    let host_path = spec.and_then(|spec| spec.host_path.as_ref());
    actions.extend(match policy(volume) {
        "Recycle" => match (users(volume, world), spec) {
            (Some(pods), _) => {
                let message = format!("Volume is used by pods: {pods}");
                vec![ForVolume::Wait(normal("VolumeFailedRecycle", message))]
            }
            (None, Some(spec)) if spec.host_path.is_some() || spec.nfs.is_some() => vec![ForVolume::Scrub],
            _ => fail("VolumeFailedRecycle", "No recycler plugin found for the volume!".to_owned()),
        },
        "Delete" if is_ours(volume) => vec![ForVolume::RemoveData],
        "Delete" => match (volumes::of_volume(volume, PROVISIONED_BY), host_path) {
            // Who made it removes it.
            (Some(by), _) if !by.starts_with("kubernetes.io/") => Vec::new(),
            _ if spec.is_some_and(|spec| spec.csi.is_some()) => Vec::new(),
            // What minik has not made is the host's: its data stays.
            (_, Some(source)) if source.path.starts_with("/tmp/") => vec![ForVolume::Remove],
            (_, Some(source)) => {
                let path = &source.path;
                let message = format!("host_path deleter only supports /tmp/.+ but received provided {path}");
                fail("VolumeFailedDelete", message)
            }
            _ => {
                let why = "no deletable volume plugin matched";
                let message = format!("error getting deleter volume plugin for volume {name:?}: {why}");
                fail("VolumeFailedDelete", message)
            }
        },
        _ => Vec::new(),
    });
    actions
}

/// The pods that still use a volume by the claim that is gone. Where there is another claim of that name, they use what
/// that one has.
fn users(volume: &PersistentVolume, world: &World) -> Option<String> {
    let reference = volumes::claim_of(volume)?;
    let name = reference.name.as_deref().unwrap_or_default();
    let is_there = world.claims.iter().any(|claim| {
        claim.metadata.namespace == reference.namespace && claim.metadata.name == reference.name
    });
    let uses = |pod: &&Arc<Pod>| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        pod.metadata.namespace == reference.namespace
            && !matches!(phase, Some("Succeeded" | "Failed"))
            && volumes::claims_of(pod).any(|used| used == name)
    };
    let mut pods: Vec<String> = world.pods.iter().filter(uses).map(|pod| key_of(&**pod)).collect();
    pods.sort();
    (!is_there && !pods.is_empty()).then(|| pods.join(","))
}
