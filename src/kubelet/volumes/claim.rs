//! Volumes behind claims: the directory or the block device of the host that the claim's persistent volume names.

use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod,
};

use super::{blocking, host_path};
use crate::api::volumes::{self, PROVISIONED_BY, PROVISIONERS};
use crate::client::Client;
use crate::sys::ownership;

/// The type of a hostPath that is a block device.
const BLOCK_DEVICE: &str = "BlockDevice";

/// The directory of the volume of a claim, as it is.
pub async fn directory(client: &Client, pod: &Pod, name: &str) -> Result<PathBuf, String> {
    let found = find(client, pod, name).await?;
    match found.block {
        true => Err(format!("the volume of claim {name} is a block device")),
        false => Ok(found.path),
    }
}

/// What the volume of a claim is; what is wrong is said in the kubelet's words.
async fn find(client: &Client, pod: &Pod, name: &str) -> Result<Found, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let about = |why: String| format!("error processing PVC {namespace}/{name}: {why}");
    let found = client.namespaced::<PersistentVolumeClaim>(namespace).get(name).await;
    let claim = found.map_err(|status| about(format!("failed to fetch PVC from API server: {status}")))?;
    check_claim(&claim, pod, name).map_err(about)?;
    let name = volumes::volume_of(&claim);
    let found = client.all::<PersistentVolume>().get(name).await;
    let volume = found.map_err(|status| format!("failed to fetch PV {name} from API server: {status}"))?;
    source(&volume, &claim)
}

/// Where the volume of a claim is, ready for a pod that calls it `volume`.
pub async fn place(client: &Client, pod: &Pod, volume: &str, name: &str) -> Result<PathBuf, String> {
    let Found { path, kind, is_for_pods, block } = find(client, pod, name).await?;
    check_use(pod, volume, block)?;
    let group = super::fs_group(pod).filter(|_| is_for_pods && !is_read_only(pod, name));
    let lazy = trusts_the_top(pod);
    blocking(move || {
        let shown = path.display().to_string();
        match kind {
            Some(kind) => host_path::check(&path, &kind)?,
            None if !path.exists() => return Err(format!("path {shown:?} does not exist")),
            None => {}
        }
        if let Some(group) = group {
            give(&path, group, lazy)
                .map_err(|error| format!("cannot give path {shown:?} to group {group}: {error}"))?;
        }
        Ok(path)
    })
    .await
}

/// Whether a pod uses a volume as what it is (pure).
fn check_use(pod: &Pod, volume: &str, block: bool) -> Result<(), String> {
    let [mounts, devices] = super::used(pod);
    let wrong = |mode: &str, place: &str| {
        Err(format!("volume {volume} has volumeMode {mode}, but is specified in {place}"))
    };
    match block {
        true if mounts.contains(volume) => wrong("Block", "volumeMounts"),
        false if devices.contains(volume) => wrong("Filesystem", "volumeDevices"),
        _ => Ok(()),
    }
}

/// Whether a pod only reads a claim's volume (pure).
fn is_read_only(pod: &Pod, claim: &str) -> bool {
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let of_claim = |source: &PersistentVolumeClaimVolumeSource| source.claim_name == claim;
    volumes.any(|volume| {
        let source = volume.persistent_volume_claim.as_ref().filter(|source| of_claim(source));
        source.is_some_and(|source| source.read_only == Some(true))
    })
}

/// Whether the top of a volume tells whose all of it is (pure).
fn trusts_the_top(pod: &Pod) -> bool {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    context.and_then(|context| context.fs_group_change_policy.as_deref()) == Some("OnRootMismatch")
}

/// Gives a volume to the group of a pod.
fn give(path: &Path, group: u32, lazy: bool) -> io::Result<()> {
    if lazy && ownership::is_of_group(path, group)? {
        return Ok(());
    }
    ownership::give_to_group(path, group)
}

/// Whether a pod can use a claim (pure).
fn check_claim(claim: &PersistentVolumeClaim, pod: &Pod, name: &str) -> Result<(), String> {
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let ephemeral = volumes.any(|volume| {
        volume.ephemeral.is_some() && volumes::claim_name(pod, volume).as_deref() == Some(name)
    });
    if ephemeral && !volumes::is_made_for(claim, pod) {
        return Err("the PVC was not created for the pod (pod is not owner)".to_owned());
    }
    if claim.metadata.deletion_timestamp.is_some() && claim.metadata.finalizers.is_none() {
        return Err("PVC is being deleted".to_owned());
    }
    // Who tied both says so before the status does.
    match volumes::is_bound(claim) && volumes::claim_phase(claim) != "Lost" {
        true => Ok(()),
        false => Err("PVC is not bound".to_owned()),
    }
}

/// What a persistent volume is on this host.
#[derive(Debug, PartialEq)]
struct Found {
    path: PathBuf,
    /// What must be there, or is made; `None` for a directory that must be.
    kind: Option<String>,
    /// Whether it is there for pods alone, so that it may become that of their group.
    is_for_pods: bool,
    /// Whether it is a block device and not a directory.
    block: bool,
}

/// Where the volume of a claim lies (pure).
fn source(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<Found, String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let Some(reference) = volumes::claim_of(volume) else {
        return Err(format!(
            "found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        ));
    };
    if reference.uid != claim.metadata.uid {
        let uid = |uid: &Option<String>| uid.clone().unwrap_or_default();
        let (has, expected) = (uid(&reference.uid), uid(&claim.metadata.uid));
        return Err(format!(
            "found PV object {name} but its pv.Spec.ClaimRef.UID {has} does not match expected UID {expected}"
        ));
    }
    let spec = volume.spec.as_ref();
    let block = spec.and_then(|spec| spec.volume_mode.as_deref()) == Some("Block");
    let device = || Some(BLOCK_DEVICE.to_owned());
    if let Some(source) = spec.and_then(|spec| spec.host_path.as_ref()) {
        let made_by = volumes::of_volume(volume, PROVISIONED_BY);
        let kind = source.type_.clone().filter(|kind| !kind.is_empty());
        if let Some(kind) = kind.as_ref().filter(|kind| block && *kind != BLOCK_DEVICE) {
            return Err(format!("PV {name} has volumeMode Block and is a hostPath of type {kind}"));
        }
        return Ok(Found {
            path: Path::new(&source.path).to_owned(),
            kind: if block { device() } else { Some(kind.unwrap_or_default()) },
            // What else is on the host belongs to somebody, and whose a device is its node says.
            is_for_pods: !block && made_by.is_some_and(|by| PROVISIONERS.contains(&by)),
            block,
        });
    }
    if let Some(source) = spec.and_then(|spec| spec.local.as_ref()) {
        let kind = if block { device() } else { None };
        return Ok(Found { path: Path::new(&source.path).to_owned(), kind, is_for_pods: !block, block });
    }
    Err(format!("PV {name} is neither of hostPath nor local, the kinds that minik supports"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::testing::FakeApi;
    use serde_json::{Value, json};

    fn volume(spec: Value) -> Value {
        let mut spec = spec;
        if spec.get("claimRef").is_none() {
            spec["claimRef"] = json!({"namespace": "d", "name": "data", "uid": "c"});
        }
        json!({"metadata": {"name": "v"}, "spec": spec})
    }

    #[tokio::test]
    async fn a_pod_gets_what_its_claim_is_bound_to() {
        let api = FakeApi::default();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "1"},
            "spec": {"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}}))
        .unwrap();
        let find = || async { place(&api.client(), &pod, "v", "data").await };
        let missing = find().await.unwrap_err();
        assert!(missing.starts_with("error processing PVC d/data: failed to fetch PVC"), "{missing}");
        let claim = |mark: &str| {
            json!({"metadata": {"name": "data", "namespace": "d", "uid": "c", "annotations": {mark: "yes"}},
                "spec": {"volumeName": "v"}})
        };
        api.put("persistentvolumeclaims", claim("other"));
        assert_eq!(find().await.unwrap_err(), "error processing PVC d/data: PVC is not bound");
        api.put("persistentvolumeclaims", claim("pv.kubernetes.io/bind-completed"));
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        for (spec, expected) in [
            (json!({"hostPath": {"path": at("a"), "type": ""}}), Ok(at("a"))),
            (json!({"hostPath": {"path": at("b"), "type": "Directory"}}), Err("is not a directory")),
            (json!({"local": {"path": at("a")}}), Ok(at("a"))),
            (json!({"local": {"path": at("b")}}), Err("does not exist")),
            (json!({"local": {"path": at("a")}, "volumeMode": "Block"}), Err("is not a block device")),
            (json!({"hostPath": {"path": at("a")}, "volumeMode": "Block"}), Err("is not a block device")),
            (
                json!({"hostPath": {"path": at("a"), "type": "Directory"}, "volumeMode": "Block"}),
                Err("PV v has volumeMode Block and is a hostPath of type Directory"),
            ),
            (json!({"nfs": {"path": "/", "server": "s"}}), Err("neither of hostPath nor local")),
            (
                json!({"hostPath": {"path": at("a")}, "claimRef": {"namespace": "d", "name": "data", "uid": "x"}}),
                Err("does not match expected UID c"),
            ),
        ] {
            api.put("persistentvolumes", volume(spec.clone()));
            match (find().await, expected) {
                (Ok(path), Ok(expected)) => assert_eq!(path, Path::new(&expected)),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
                (got, _) => panic!("{spec}: {got:?}"),
            }
        }
    }

    #[tokio::test]
    async fn volumes_that_are_for_pods_are_given_to_the_group_of_a_pod() {
        use std::os::unix::fs::MetadataExt;
        let api = FakeApi::default();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let group = std::fs::metadata(&file).unwrap().gid();
        let bound = json!({"pv.kubernetes.io/bind-completed": "yes"});
        api.put(
            "persistentvolumeclaims",
            json!({"spec": {"volumeName": "v"},
            "metadata": {"name": "data", "namespace": "d", "uid": "c", "annotations": bound}}),
        );
        let path = dir.path().display().to_string();
        let of_host = |by: &str| {
            let mut volume = volume(json!({"hostPath": {"path": path, "type": ""}}));
            volume["metadata"]["annotations"] = json!({"pv.kubernetes.io/provisioned-by": by});
            volume
        };
        let local = volume(json!({"local": {"path": path}}));
        let close =
            || std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        for (volume, read_only, policy, expected) in [
            (&of_host("somebody"), false, "Always", 0o600),
            (&local, true, "Always", 0o600),
            (&local, false, "OnRootMismatch", 0o660),
            (&local, false, "OnRootMismatch", 0o600),
            (&local, false, "Always", 0o660),
            (&of_host("minik.io/hostpath"), false, "Always", 0o660),
            (&of_host("minik.io/hostpath"), true, "Always", 0o600),
        ] {
            close();
            api.put("persistentvolumes", volume.clone());
            let claim = json!({"claimName": "data", "readOnly": read_only});
            let pod: Pod =
                serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "1"},
                "spec": {"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": claim}],
                         "securityContext": {"fsGroup": group, "fsGroupChangePolicy": policy}}}))
                .unwrap();
            place(&api.client(), &pod, "v", "data").await.unwrap();
            let mode = std::fs::metadata(&file).unwrap().mode() & 0o777;
            assert_eq!(mode, expected, "{volume} {read_only} {policy}");
        }
    }

    #[test]
    fn volumes_are_used_as_what_they_are() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "c",
            "volumeMounts": [{"name": "m", "mountPath": "/m"}], "volumeDevices": [{"name": "d", "devicePath": "/d"}]}]}}))
        .unwrap();
        for (volume, block, expected) in [
            ("m", false, Ok(())),
            ("d", true, Ok(())),
            ("m", true, Err("volume m has volumeMode Block, but is specified in volumeMounts")),
            ("d", false, Err("volume d has volumeMode Filesystem, but is specified in volumeDevices")),
        ] {
            assert_eq!(check_use(&pod, volume, block), expected.map_err(str::to_owned));
        }
    }
}
