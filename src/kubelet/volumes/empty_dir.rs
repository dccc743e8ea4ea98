//! emptyDir volumes: a directory on disk or in memory that lives as long as the pod, and how full it may be.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};

use super::PodDirs;
use crate::api::quantity;
use crate::kubelet::resources::{self, NodeCapacity};
use crate::sys::{mount, usage};

/// Where the volume of this name is.
pub fn place(dirs: &PodDirs, name: &str) -> PathBuf {
    dirs.disk.join("volumes").join(name)
}

fn in_memory(source: &EmptyDirVolumeSource) -> bool {
    source.medium.as_deref() == Some("Memory")
}

/// The bytes that the volume may hold, when its spec says.
fn limit(source: &EmptyDirVolumeSource) -> Option<u64> {
    let limit = quantity::parse(&source.size_limit.as_ref()?.0).ok()?;
    u64::try_from(limit.value()).ok().filter(|bytes| *bytes > 0)
}

/// The bytes that a volume in memory gets: the least of its own limit, the pod's and what the node has (pure).
pub fn memory(source: &EmptyDirVolumeSource, pod: &Pod, node: &NodeCapacity) -> u64 {
    let of_pod = pod.spec.as_ref().and_then(|spec| resources::of_pod(spec).memory_limit);
    [limit(source), of_pod].into_iter().flatten().fold(node.memory, u64::min)
}

/// Makes the volume; one in memory of at most `most` bytes. One that is there stays as the pod has made it.
pub fn make(
    source: &EmptyDirVolumeSource,
    place: &Path,
    group: Option<u32>,
    most: u64,
) -> Result<(), String> {
    let fail = |error: io::Error| format!("{}: {error}", place.display());
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    if fs::symlink_metadata(place).is_err() {
        // It appears with its permissions, so that they need never be set again. No volume's name has dots.
        let new = place.with_extension("new");
        fs::create_dir_all(&new).map_err(fail)?;
        chown(&new, None, group).map_err(fail)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(mode)).map_err(fail)?;
        fs::rename(&new, place).map_err(fail)?;
    }
    if in_memory(source) && !mount::below(place).map_err(fail)?.iter().any(|point| point == place) {
        let (size, mode, group) = (most.to_string(), format!("{mode:o}"), group.unwrap_or(0).to_string());
        let options = [("mode", mode.as_str()), ("gid", group.as_str()), ("size", size.as_str())];
        let attributes =
            mount::Attributes { no_devices: true, no_suid: true, ..mount::Attributes::default() };
        let tree = mount::filesystem("tmpfs", &options, attributes).map_err(fail)?;
        let at = fs::File::open(place).map_err(fail)?;
        mount::attach(tree.as_fd(), at.as_fd()).map_err(fail)?;
    }
    Ok(())
}

/// The volumes of a pod on disk whose size is limited: name, limit in bytes, limit as written (pure).
pub fn limited(pod: &Pod) -> Vec<(String, u64, String)> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let of = |volume: &Volume| {
        let source = volume.empty_dir.as_ref().filter(|source| !in_memory(source))?;
        Some((volume.name.clone(), limit(source)?, source.size_limit.as_ref()?.0.clone()))
    };
    volumes.filter_map(of).collect()
}

/// The volumes of a pod that are on disk (pure).
pub fn on_disk(pod: &Pod) -> impl Iterator<Item = &str> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter(|v| v.empty_dir.as_ref().is_some_and(|source| !in_memory(source))).map(|v| v.name.as_str())
}

/// The bytes that a volume on disk holds; one that is not made yet is empty.
pub fn used(dirs: &PodDirs, name: &str) -> u64 {
    usage::of_directory(&place(dirs, name)).unwrap_or_else(|error| {
        tracing::debug!(volume = name, %error, "volume not measured");
        0
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(container: serde_json::Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p"}, "spec": {"containers": [container], "volumes": [
            {"name": "a", "emptyDir": {"sizeLimit": "16Ki"}}, {"name": "b", "emptyDir": {}},
            {"name": "c", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]}}),
        )
        .unwrap()
    }

    #[test]
    fn memory_is_the_least_of_what_is_allowed() {
        let node = NodeCapacity { milli_cpu: 1, memory: 1 << 30, disk: 1 };
        let source = |size: serde_json::Value| -> EmptyDirVolumeSource {
            serde_json::from_value(json!({"medium": "Memory", "sizeLimit": size})).unwrap()
        };
        let free = pod(json!({"name": "c"}));
        let bound = pod(json!({"name": "c", "resources": {"limits": {"memory": "64Mi"}}}));
        for (size, pod, expected) in [
            (json!(null), &free, 1 << 30),
            (json!(null), &bound, 64 << 20),
            (json!("1Mi"), &bound, 1 << 20),
            (json!("2Gi"), &free, 1 << 30),
        ] {
            assert_eq!(memory(&source(size.clone()), pod, &node), expected, "{size}");
        }
    }

    #[test]
    fn a_volume_that_is_there_keeps_the_mode_that_the_pod_gave_it() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("volumes/v");
        let mode = || fs::metadata(&place).unwrap().permissions().mode() & 0o7777;
        let make = || make(&EmptyDirVolumeSource::default(), &place, None, 0).unwrap();
        make();
        assert_eq!(mode(), 0o777);
        fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).unwrap();
        make();
        assert_eq!(mode(), 0o700);
        assert_eq!(fs::read_dir(dir.path().join("volumes")).unwrap().count(), 1);
    }

    #[test]
    fn a_volume_on_disk_is_measured() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = PodDirs::new(dir.path(), dir.path(), "u");
        let pod = pod(json!({"name": "c"}));
        assert_eq!(limited(&pod), [("a".to_owned(), 16 << 10, "16Ki".to_owned())]);
        assert_eq!(on_disk(&pod).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(used(&dirs, "a"), 0, "one that is not made yet is empty");
        fs::create_dir_all(place(&dirs, "a").join("deep")).unwrap();
        fs::write(place(&dirs, "a").join("deep/file"), vec![1; 20 << 10]).unwrap();
        assert!(used(&dirs, "a") >= 20 << 10);
    }
}
