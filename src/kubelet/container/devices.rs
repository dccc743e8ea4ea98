//! The devices that a container has of the pod's volumes (pure).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::runtime::Device;

/// All of them; an error names a volume that is not there, or a place that cannot be.
pub fn devices(
    spec: &PodSpec,
    container: &Container,
    volumes: &HashMap<String, PathBuf>,
) -> Result<Vec<Device>, String> {
    let asked = container.volume_devices.iter().flatten();
    asked
        .map(|device| {
            let (name, target) = (&device.name, Path::new(&device.device_path));
            if !target.is_absolute() {
                return Err(format!("error DevicePath `{}` must be an absolute path", device.device_path));
            }
            let source = volumes.get(name).ok_or_else(|| {
                format!("cannot find volume {name:?} to pass into container {:?}", container.name)
            })?;
            let volume = spec.volumes.iter().flatten().find(|volume| volume.name == *name);
            let claim = volume.and_then(|volume| volume.persistent_volume_claim.as_ref());
            let read_only = claim.is_some_and(|claim| claim.read_only == Some(true));
            Ok(Device { target: target.to_owned(), source: source.clone(), read_only })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn volumes_become_devices() {
        let spec: PodSpec = serde_json::from_value(json!({"containers": [], "volumes": [
            {"name": "a", "persistentVolumeClaim": {"claimName": "a"}},
            {"name": "b", "persistentVolumeClaim": {"claimName": "b", "readOnly": true}},
            {"name": "c", "ephemeral": {}}]}))
        .unwrap();
        let volumes = ["a", "b", "c"].map(|name| (name.to_owned(), Path::new("/dev").join(name))).into();
        for (name, path, expected) in [
            ("a", "/dev/xvda", Ok(false)),
            ("b", "/disk", Ok(true)),
            ("c", "/disk", Ok(false)),
            ("a", "disk", Err("error DevicePath `disk` must be an absolute path")),
            ("d", "/disk", Err("cannot find volume \"d\" to pass into container \"main\"")),
        ] {
            let device = json!({"name": name, "devicePath": path});
            let container =
                serde_json::from_value(json!({"name": "main", "volumeDevices": [device]})).unwrap();
            let made = devices(&spec, &container, &volumes);
            let device =
                |read_only| Device { target: path.into(), source: format!("/dev/{name}").into(), read_only };
            assert_eq!(made, expected.map(|ro| vec![device(ro)]).map_err(str::to_owned), "{name} {path}");
        }
    }
}
