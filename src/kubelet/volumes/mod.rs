//! The volumes of a pod on the host: made before its containers start, removed when it has ended.

pub mod files;
pub mod host_path;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, EmptyDirVolumeSource, Pod, Secret, ServiceAccount, Volume};
use serde_json::json;

use self::files::{Files, Source};
use super::resources::NodeCapacity;
use crate::api::quantity;
use crate::api::request::WriteOptions;
use crate::client::Client;
use crate::sys::{mount, removal};

/// Where what the kubelet makes for one pod lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodDirs {
    /// On disk: emptyDirs, `/etc/hosts`, last words.
    pub disk: PathBuf,
    /// In memory (on a tmpfs): secrets, tokens, configuration.
    pub memory: PathBuf,
}

impl PodDirs {
    /// The directories of the pod with this uid.
    pub fn new(disk: &Path, memory: &Path, uid: &str) -> PodDirs {
        PodDirs { disk: disk.join(uid), memory: memory.join(uid) }
    }

    /// Makes them, for root alone.
    pub fn create(&self) -> io::Result<()> {
        for directory in [&self.disk, &self.memory] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        Ok(())
    }

    /// Removes them with everything in and mounted on them; none there is success.
    pub fn remove(&self) -> io::Result<()> {
        for directory in [&self.disk, &self.memory] {
            removal::tree_with_mounts(directory)?;
        }
        Ok(())
    }
}

/// A volume that could not be made (`FailedMount`).
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {reason}")]
pub struct Error {
    volume: String,
    reason: String,
}

/// Makes every volume that a container of the pod mounts; answers where each is.
pub async fn set_up(
    client: &Client,
    pod: &Pod,
    dirs: &PodDirs,
    node: &NodeCapacity,
) -> Result<HashMap<String, PathBuf>, Error> {
    let mut places = HashMap::new();
    let Some(spec) = &pod.spec else { return Ok(places) };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let used: BTreeSet<&str> =
        containers.flat_map(|c| c.volume_mounts.iter().flatten()).map(|m| m.name.as_str()).collect();
    let group = spec.security_context.as_ref().and_then(|c| c.fs_group).and_then(|g| u32::try_from(g).ok());
    for volume in spec.volumes.iter().flatten().filter(|v| used.contains(v.name.as_str())) {
        let place = set_up_one(client, pod, volume, dirs, node, group)
            .await
            .map_err(|reason| Error { volume: volume.name.clone(), reason })?;
        places.insert(volume.name.clone(), place);
    }
    Ok(places)
}

async fn set_up_one(
    client: &Client,
    pod: &Pod,
    volume: &Volume,
    dirs: &PodDirs,
    node: &NodeCapacity,
    group: Option<u32>,
) -> Result<PathBuf, String> {
    if let Some(source) = &volume.host_path {
        let (path, kind) = (PathBuf::from(&source.path), source.type_.clone().unwrap_or_default());
        return blocking(move || host_path::check(&path, &kind).map(|()| path)).await;
    }
    if let Some(source) = &volume.empty_dir {
        let (source, dirs, name) = (source.clone(), dirs.clone(), volume.name.clone());
        return blocking(move || empty_dir(&source, &dirs, &name, group)).await;
    }
    let Some(sources) = Source::of(volume) else {
        return Err("this kind of volume is not supported by minik yet".to_owned());
    };
    let mut files = Files::default();
    for source in &sources.parts {
        let part = fetch(client, pod, source, node, sources.default_mode).await?;
        files.merge(part);
    }
    let place = dirs.memory.join("volumes").join(&volume.name);
    let target = place.clone();
    blocking(move || files::publish(&target, &files, group).map_err(|e| e.to_string())).await?;
    Ok(place)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}

/// The files of one source of a volume.
async fn fetch(
    client: &Client,
    pod: &Pod,
    source: &Source,
    node: &NodeCapacity,
    default_mode: u32,
) -> Result<Files, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    match source {
        Source::ConfigMap { name, optional, items } => {
            match client.namespaced::<ConfigMap>(namespace).get(name).await {
                Ok(map) => files::of_config_map(&map, items, *optional, default_mode),
                Err(status) if status.is("NotFound") && *optional => Ok(Files::default()),
                Err(status) => Err(status.to_string()),
            }
        }
        Source::Secret { name, optional, items } => {
            match client.namespaced::<Secret>(namespace).get(name).await {
                Ok(secret) => files::of_secret(&secret, items, *optional, default_mode),
                Err(status) if status.is("NotFound") && *optional => Ok(Files::default()),
                Err(status) => Err(status.to_string()),
            }
        }
        Source::Downward { items } => files::of_downward(pod, items, node, default_mode),
        Source::Token { path, audience, seconds } => {
            let account =
                pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
            let body = json!({
                "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                "spec": {
                    "audiences": audience.iter().collect::<Vec<_>>(), "expirationSeconds": seconds,
                    "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod.metadata.name, "uid": pod.metadata.uid},
                },
            });
            let answer = client
                .namespaced::<ServiceAccount>(namespace)
                .create_subresource(account, "token", body, WriteOptions::default())
                .await
                .map_err(|status| format!("failed to fetch token: {status}"))?;
            let answer: TokenRequest = serde_json::from_value(answer).map_err(|e| e.to_string())?;
            let token = answer.status.and_then(|s| s.token).unwrap_or_default();
            // Readable by others only when the group of the volume is not the pod's own.
            Ok(Files::one(path, token.into_bytes(), 0o644))
        }
    }
}

/// A directory that lives as long as the pod.
fn empty_dir(
    source: &EmptyDirVolumeSource,
    dirs: &PodDirs,
    name: &str,
    group: Option<u32>,
) -> Result<PathBuf, String> {
    let place = dirs.disk.join("volumes").join(name);
    let fail = |error: io::Error| format!("{}: {error}", place.display());
    fs::create_dir_all(&place).map_err(fail)?;
    if source.medium.as_deref() == Some("Memory") && !mount::below(&place).map_err(fail)?.contains(&place) {
        let size = match &source.size_limit {
            Some(limit) => {
                Some(quantity::parse(&limit.0).map_err(|_| format!("bad sizeLimit {:?}", limit.0))?.value())
            }
            None => None,
        };
        let size = size.filter(|s| *s > 0).map(|s| s.to_string());
        let mut options = vec![("mode", "0777")];
        options.extend(size.as_deref().map(|s| ("size", s)));
        let attributes =
            mount::Attributes { no_devices: true, no_suid: true, ..mount::Attributes::default() };
        let tree = mount::filesystem("tmpfs", &options, attributes).map_err(fail)?;
        let at = fs::File::open(&place).map_err(fail)?;
        mount::attach(tree.as_fd(), at.as_fd()).map_err(fail)?;
    }
    let mode = match group {
        Some(group) => {
            chown(&place, None, Some(group)).map_err(fail)?;
            0o2777
        }
        None => 0o777,
    };
    fs::set_permissions(&place, fs::Permissions::from_mode(mode)).map_err(fail)?;
    Ok(place)
}
