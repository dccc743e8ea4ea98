//! What there is of the volumes behind the claims of pods that run: the file systems that they lie on.
//!
//! Names and labels are those of kubernetes `pkg/kubelet/metrics/collectors`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::summary::Disk;
use crate::api::exposition::{Exposition, Type};
use crate::api::volumes::claim_name;
use crate::client::Client;
use crate::kubelet::pod::is_over;
use crate::kubelet::volumes::claim;

/// A volume of a pod behind a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeReading {
    /// The pod's uid.
    pub pod: String,
    /// The volume's name in the pod.
    pub name: String,
    /// The namespace of both.
    pub namespace: String,
    /// The claim's name.
    pub claim: String,
    /// The file system.
    pub disk: Disk,
}

/// Reads those of these pods; what cannot be found is left out.
pub async fn read(
    client: &Client,
    pods: &[Arc<Pod>],
    disk: impl Fn(PathBuf) -> Option<Disk> + Send + 'static,
) -> Vec<VolumeReading> {
    let mut found = Vec::new();
    for pod in pods.iter().filter(|pod| !is_over(pod)) {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let Some(name) = claim_name(pod, volume) else { continue };
            let Ok(path) = claim::directory(client, pod, &name).await else { continue };
            let reading = VolumeReading {
                pod: pod.metadata.uid.clone().unwrap_or_default(),
                name: volume.name.clone(),
                namespace: namespace.clone(),
                claim: name,
                disk: Disk::default(),
            };
            found.push((path, reading));
        }
    }
    let measured = tokio::task::spawn_blocking(move || {
        let measure = |(path, reading)| Some(VolumeReading { disk: disk(path)?, ..reading });
        found.into_iter().filter_map(measure).collect()
    });
    // A panic while a disk is asked is told by the runtime.
    measured.await.unwrap_or_default()
}

/// A figure of a file system.
type Figure = (&'static str, &'static str, fn(&Disk) -> u64);

const FIGURES: [Figure; 6] = [
    ("available_bytes", "[ALPHA] Number of available bytes in the volume", |disk| disk.available),
    ("capacity_bytes", "[ALPHA] Capacity in bytes of the volume", |disk| disk.capacity),
    ("inodes", "[ALPHA] Maximum number of inodes in the volume", |disk| disk.inodes),
    ("inodes_free", "[ALPHA] Number of free inodes in the volume", |disk| disk.inodes_free),
    ("inodes_used", "[ALPHA] Number of used inodes in the volume", Disk::inodes_used),
    ("used_bytes", "[ALPHA] Number of used bytes in the volume", Disk::used),
];

/// Writes the figures, each claim once however many pods use it (pure).
pub fn write(page: &mut Exposition, volumes: &[VolumeReading]) {
    let claims: BTreeMap<_, _> =
        volumes.iter().map(|volume| ((&volume.namespace, &volume.claim), &volume.disk)).collect();
    for (figure, help, of) in FIGURES {
        let name = format!("kubelet_volume_stats_{figure}");
        page.family(&name, Type::Gauge, help);
        for ((namespace, claim), disk) in &claims {
            page.sample(&name, &[("namespace", namespace), ("persistentvolumeclaim", claim)], of(disk));
        }
    }
}

/// The volumes of a pod as `/stats/summary` shows them (pure).
pub fn of_pod(volumes: &[VolumeReading], pod: &str, time: &str) -> Vec<Value> {
    let of = volumes.iter().filter(|volume| volume.pod == pod);
    of.map(|volume| {
        let mut shown = volume.disk.shown(time);
        shown["name"] = json!(volume.name);
        shown["pvcRef"] = json!({"name": volume.claim, "namespace": volume.namespace});
        shown
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::client::testing::FakeApi;

    const DISK: Disk = Disk { capacity: 100, available: 40, inodes: 10, inodes_free: 3 };

    #[tokio::test]
    async fn volumes_behind_claims_are_read_and_shown() {
        let api = FakeApi::default();
        let pod = |name: &str, phase: &str, claim: &str| {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "d", "uid": name}, "status": {"phase": phase},
                "spec": {"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}},
                    {"name": "e", "emptyDir": {}}]}}))
            .unwrap();
            Arc::new(pod)
        };
        api.put("persistentvolumeclaims", json!({"metadata": {"name": "data", "namespace": "d", "uid": "c",
            "annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}}));
        let claim = json!({"namespace": "d", "name": "data", "uid": "c"});
        api.put(
            "persistentvolumes",
            json!({"metadata": {"name": "v"}, "spec": {"claimRef": claim, "local": {"path": "/x"}}}),
        );
        let pods = [pod("a", "Running", "data"), pod("b", "Failed", "data"), pod("c", "Running", "none")];
        let disk = |path: PathBuf| (path.as_path() == Path::new("/x")).then_some(DISK);
        let volumes = read(&api.client(), &pods, disk).await;
        let expected = VolumeReading {
            pod: "a".into(),
            name: "v".into(),
            namespace: "d".into(),
            claim: "data".into(),
            disk: DISK,
        };
        assert_eq!(volumes, std::slice::from_ref(&expected));
        let mut page = Exposition::default();
        write(&mut page, &[expected.clone(), VolumeReading { pod: "other".into(), ..expected }]);
        let text = page.into_text();
        let labels = "{namespace=\"d\",persistentvolumeclaim=\"data\"}";
        for (figure, value) in [("used_bytes", 60), ("available_bytes", 40), ("inodes_used", 7)] {
            let line = format!("kubelet_volume_stats_{figure}{labels} {value}");
            assert_eq!(text.lines().filter(|shown| **shown == line).count(), 1, "{line} in\n{text}");
        }
        let shown = of_pod(&volumes, "a", "t");
        assert_eq!((&shown[0]["usedBytes"], &shown[0]["pvcRef"]["name"]), (&json!(60), &json!("data")));
        assert!(of_pod(&volumes, "b", "t").is_empty());
    }
}
