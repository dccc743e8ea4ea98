//! A container's mounts: the kubelet's own files, and what of the pod's volumes it asks for (pure).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, PodSpec, VolumeMount};

use crate::image::Image;
use crate::kubelet::env::expand;
use crate::kubelet::volumes::files::Source;
use crate::runtime::{Mount, MountSource, Propagation};

/// All of them, outer ones first; an error names a volume or variable that there is not.
pub fn mounts(
    spec: &PodSpec,
    container: &Container,
    volumes: &HashMap<String, PathBuf>,
    images: &BTreeMap<String, Image>,
    files: &[(PathBuf, PathBuf)],
    own: &BTreeMap<String, String>,
) -> Result<Vec<Mount>, String> {
    let asked = container.volume_mounts.as_deref().unwrap_or(&[]);
    let mut mounts = Vec::new();
    for (source, target) in files {
        // The pod may bring its own /etc/hosts.
        if asked.iter().any(|m| Path::new(&m.mount_path) == target) {
            continue;
        }
        mounts.push(Mount {
            target: target.clone(),
            source: MountSource::Bind(source.clone()),
            read_only: false,
            propagation: Propagation::Private,
        });
    }
    for mount in asked {
        let mut made = volume_mount(mount, volumes, images, own)?;
        let volume = spec.volumes.iter().flatten().find(|v| v.name == mount.name);
        // What shows objects of the API is not the container's to change.
        made.read_only |= volume.is_some_and(|v| Source::of(v).is_ok());
        let claim = volume.and_then(|v| v.persistent_volume_claim.as_ref());
        made.read_only |= claim.is_some_and(|claim| claim.read_only == Some(true));
        mounts.push(made);
    }
    // A mount hides what was mounted below its target before it: outer ones first.
    mounts.sort_by_key(|m| m.target.components().count());
    Ok(mounts)
}

fn volume_mount(
    mount: &VolumeMount,
    volumes: &HashMap<String, PathBuf>,
    images: &BTreeMap<String, Image>,
    own: &BTreeMap<String, String>,
) -> Result<Mount, String> {
    let sub_path = match (mount.sub_path.as_deref(), mount.sub_path_expr.as_deref()) {
        (Some(path), _) if !path.is_empty() => Some(path.to_owned()),
        (_, Some(expr)) if !expr.is_empty() => Some(expand_path(expr, own)?),
        _ => None,
    };
    let source = match (volumes.get(&mount.name), images.get(&mount.name), sub_path) {
        (Some(base), _, Some(path)) => MountSource::SubPath { base: base.clone(), path: PathBuf::from(path) },
        (Some(base), _, None) => MountSource::Bind(base.clone()),
        (None, Some(image), path) => {
            let path = PathBuf::from(path.unwrap_or_default());
            MountSource::Layers { layers: image.layers.clone(), path }
        }
        (None, None, _) => {
            let (name, path) = (&mount.name, &mount.mount_path);
            return Err(format!("volume {name:?} of mount {path:?} is not part of the pod"));
        }
    };
    Ok(Mount {
        target: Path::new("/").join(&mount.mount_path),
        source,
        read_only: mount.read_only == Some(true),
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::Private,
        },
    })
}

/// A `subPathExpr`; where a part of a path is missing, the rest would name something else.
fn expand_path(expression: &str, own: &BTreeMap<String, String>) -> Result<String, String> {
    let missing = RefCell::new(BTreeSet::new());
    let path = expand(expression, |name| {
        let value = own.get(name).filter(|value| !value.is_empty()).cloned();
        if value.is_none() {
            missing.borrow_mut().insert(name.to_owned());
        }
        value
    });
    match missing.into_inner() {
        missing if missing.is_empty() => Ok(path),
        missing => Err(format!("missing value for {}", missing.into_iter().collect::<Vec<_>>().join(", "))),
    }
}
