//! emptyDir volumes: a directory on disk or in memory that lives as long as the pod, and how full it may be.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};

use super::PodDirs;
use crate::api::quantity;
use crate::kubelet::resources::{self, NodeCapacity};
use crate::sys::mount;

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

/// Makes the volume; one in memory of at most `most` bytes.
pub fn make(
    source: &EmptyDirVolumeSource,
    place: &Path,
    group: Option<u32>,
    most: u64,
) -> Result<(), String> {
    let fail = |error: io::Error| format!("{}: {error}", place.display());
    fs::create_dir_all(place).map_err(fail)?;
    if in_memory(source) && !mount::below(place).map_err(fail)?.iter().any(|point| point == place) {
        let size = most.to_string();
        let options = [("mode", "0777"), ("size", size.as_str())];
        let attributes =
            mount::Attributes { no_devices: true, no_suid: true, ..mount::Attributes::default() };
        let tree = mount::filesystem("tmpfs", &options, attributes).map_err(fail)?;
        let at = fs::File::open(place).map_err(fail)?;
        mount::attach(tree.as_fd(), at.as_fd()).map_err(fail)?;
    }
    let mode = match group {
        Some(group) => {
            chown(place, None, Some(group)).map_err(fail)?;
            0o2777
        }
        None => 0o777,
    };
    fs::set_permissions(place, fs::Permissions::from_mode(mode)).map_err(fail)
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

/// What is wrong when a volume holds more than it may.
pub fn excess(dirs: &PodDirs, limited: &[(String, u64, String)]) -> Option<String> {
    let over = limited.iter().find(|(name, limit, _)| usage(&place(dirs, name)) > *limit)?;
    Some(format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", over.0, over.2))
}

/// The bytes on disk of a directory; what vanishes meanwhile does not count.
fn usage(directory: &Path) -> u64 {
    let mut seen = HashSet::new();
    let mut left = vec![directory.to_owned()];
    let mut bytes = 0;
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                left.push(entry.path());
            }
            if metadata.nlink() == 1 || metadata.is_dir() || seen.insert((metadata.dev(), metadata.ino())) {
                bytes += metadata.blocks() * 512;
            }
        }
    }
    bytes
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
    fn a_volume_on_disk_that_is_too_full_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = PodDirs::new(dir.path(), dir.path(), "u");
        let limited = limited(&pod(json!({"name": "c"})));
        assert_eq!(limited, [("a".to_owned(), 16 << 10, "16Ki".to_owned())]);
        assert_eq!(excess(&dirs, &limited), None, "one that is not made yet is empty");
        fs::create_dir_all(place(&dirs, "a").join("deep")).unwrap();
        fs::write(place(&dirs, "a").join("deep/file"), vec![1; 20 << 10]).unwrap();
        assert_eq!(
            excess(&dirs, &limited).unwrap(),
            "Usage of EmptyDir volume \"a\" exceeds the limit \"16Ki\". "
        );
    }
}
