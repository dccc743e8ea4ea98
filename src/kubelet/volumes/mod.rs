//! The volumes of a pod on the host: made before its containers start, removed when it has ended.

pub mod certificates;
pub mod claim;
pub mod empty_dir;
pub mod files;
pub mod host_path;
pub mod trust;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount, Volume};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::certificates::{Certificates, Issuance};
use self::files::{Files, Source, Sources};
use super::pod::{all_containers, ephemeral};
use super::resources::NodeCapacity;
use crate::api::request::WriteOptions;
use crate::api::volumes::claim_name;
use crate::client::Client;
use crate::clock;
use crate::sys::removal;

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

    /// Removes everything but the mark that something of the pod, its logs, is still there.
    pub fn empty(&self) -> io::Result<()> {
        self.remove()?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.disk)
    }
}

/// A volume that could not be made (`FailedMount`).
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {reason}")]
pub struct Error {
    volume: String,
    reason: String,
}

/// What making the volumes of a pod needs.
pub struct Maker<'a> {
    /// For the objects that volumes show.
    pub client: &'a Client,
    /// The pod, with its newest labels and annotations.
    pub pod: &'a Pod,
    /// Where.
    pub dirs: &'a PodDirs,
    /// For `resourceFieldRef`, and what memory there is.
    pub node: &'a NodeCapacity,
    /// For certificates of the pod.
    pub issuance: &'a Issuance,
}

/// The volumes of a pod.
pub struct Volumes {
    /// Where each is, once all are made.
    places: Option<HashMap<String, PathBuf>>,
    /// By volume and path.
    tokens: HashMap<(String, String), Token>,
    certificates: Certificates,
    /// What they show of the pod itself; `None` when anything that they show may be out of date.
    shown: Option<Marks>,
}

/// Labels and annotations.
type Marks = (Option<BTreeMap<String, String>>, Option<BTreeMap<String, String>>);

fn marks(pod: &Pod) -> Marks {
    (pod.metadata.labels.clone(), pod.metadata.annotations.clone())
}

/// A token that a volume shows.
struct Token {
    text: String,
    /// When it is to be replaced.
    renew: Instant,
}

impl Volumes {
    /// None yet; `changed` is told whenever they are to show another certificate of the pod.
    pub fn new(changed: Arc<Notify>) -> Volumes {
        Volumes {
            places: None,
            tokens: HashMap::new(),
            certificates: Certificates::new(changed),
            shown: None,
        }
    }

    /// Makes every volume that a container of the pod mounts or has as a device, once; answers where each is.
    pub async fn make(&mut self, maker: &Maker<'_>) -> Result<HashMap<String, PathBuf>, Error> {
        let mut places = self.places.clone().unwrap_or_default();
        let mut missing = mounted(maker.pod);
        missing.retain(|volume| !places.contains_key(&volume.name));
        if missing.is_empty() && self.places.is_some() {
            return Ok(places);
        }
        for volume in missing {
            let place = self
                .make_one(maker, volume)
                .await
                .map_err(|reason| Error { volume: volume.name.clone(), reason })?;
            places.insert(volume.name.clone(), place);
        }
        self.places = Some(places.clone());
        self.shown = Some(marks(maker.pod));
        Ok(places)
    }

    /// Whether all are there, made by this daemon.
    pub fn made(&self) -> bool {
        self.places.is_some()
    }

    /// An object that they show may have changed.
    pub fn outdate(&mut self) {
        self.shown = None;
    }

    /// Whether what they show is to be made anew.
    pub fn outdated(&self, pod: &Pod, now: Instant) -> bool {
        self.renew().is_some_and(|renew| renew <= now) || self.shown.as_ref() != Some(&marks(pod))
    }

    /// Brings volumes made of files up to date; one that fails keeps what it shows.
    pub async fn refresh(&mut self, maker: &Maker<'_>) -> Vec<Error> {
        let mut errors = Vec::new();
        for volume in mounted(maker.pod) {
            let Ok(sources) = Source::of(volume) else { continue };
            if let Err(reason) = self.publish(maker, volume, &sources).await {
                errors.push(Error { volume: volume.name.clone(), reason });
            }
        }
        self.shown = errors.is_empty().then(|| marks(maker.pod));
        errors
    }

    /// When the first token must be replaced.
    pub fn renew(&self) -> Option<Instant> {
        self.tokens.values().map(|token| token.renew).min()
    }

    async fn make_one(&mut self, maker: &Maker<'_>, volume: &Volume) -> Result<PathBuf, String> {
        if let Some(source) = &volume.host_path {
            let (path, kind) = (PathBuf::from(&source.path), source.type_.clone().unwrap_or_default());
            return blocking(move || host_path::check(&path, &kind).map(|()| path)).await;
        }
        if let Some(source) = &volume.empty_dir {
            let place = empty_dir::place(maker.dirs, &volume.name);
            let (source, group) = (source.clone(), fs_group(maker.pod));
            let most = empty_dir::memory(&source, maker.pod, maker.node);
            return blocking(move || empty_dir::make(&source, &place, group, most).map(|()| place)).await;
        }
        if let Some(name) = claim_name(maker.pod, volume) {
            return claim::place(maker.client, maker.pod, &volume.name, &name).await;
        }
        self.publish(maker, volume, &Source::of(volume)?).await
    }

    async fn publish(
        &mut self,
        maker: &Maker<'_>,
        volume: &Volume,
        sources: &Sources,
    ) -> Result<PathBuf, String> {
        let mut files = Files::default();
        for source in &sources.parts {
            files.merge(self.fetch(maker, volume, source, sources.default_mode).await?);
        }
        let place = maker.dirs.memory.join("volumes").join(&volume.name);
        let (target, group) = (place.clone(), fs_group(maker.pod));
        blocking(move || files::publish(&target, &files, group).map_err(|e| e.to_string())).await?;
        Ok(place)
    }

    /// The files of one source of a volume.
    async fn fetch(
        &mut self,
        maker: &Maker<'_>,
        volume: &Volume,
        source: &Source,
        default_mode: u32,
    ) -> Result<Files, String> {
        let Maker { client, pod, node, issuance, .. } = maker;
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
                let key = (volume.name.clone(), path.clone());
                let known = self.tokens.get(&key).filter(|token| token.renew > Instant::now());
                let text = match known {
                    Some(token) => token.text.clone(),
                    None => {
                        let token = request_token(client, pod, audience.as_deref(), *seconds).await?;
                        let text = token.text.clone();
                        self.tokens.insert(key, token);
                        text
                    }
                };
                let (mode, owner) = of_its_own(pod, default_mode);
                Ok(Files::one(path, text.into_bytes(), mode).owned_by(owner))
            }
            Source::Trust(projection) => {
                let anchors = trust::fetch(client, projection).await?;
                let (mode, owner) = of_its_own(pod, default_mode);
                Ok(Files::one(&projection.path, anchors, mode).owned_by(owner))
            }
            Source::Certificate { number, projection } => {
                let bundle =
                    self.certificates.get(issuance, pod, (volume.name.as_str(), *number), projection)?;
                let (mode, owner) = of_its_own(pod, default_mode);
                Ok(files::of_certificate(&bundle, projection, mode).owned_by(owner))
            }
        }
    }
}

/// The names of the volumes that containers of the pod mount, and of those that they have as devices.
fn used(pod: &Pod) -> [BTreeSet<&str>; 2] {
    let lasting = pod.spec.iter().flat_map(all_containers).map(|c| (&c.volume_mounts, &c.volume_devices));
    let (mut mounts, mut devices) = (BTreeSet::new(), BTreeSet::new());
    for (mounted, had) in lasting.chain(ephemeral(pod).map(|c| (&c.volume_mounts, &c.volume_devices))) {
        mounts.extend(mounted.iter().flatten().map(|mount| mount.name.as_str()));
        devices.extend(had.iter().flatten().map(|device| device.name.as_str()));
    }
    [mounts, devices]
}

/// The volumes that some container of the pod uses, but for images, which need no place.
fn mounted(pod: &Pod) -> Vec<&Volume> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let [mounts, devices] = used(pod);
    let used: BTreeSet<&str> = mounts.union(&devices).copied().collect();
    let made = |v: &&Volume| used.contains(v.name.as_str()) && v.image.is_none();
    spec.volumes.iter().flatten().filter(made).collect()
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    u32::try_from(context.fs_group?).ok()
}

/// The user that all containers of a pod are said to run as.
fn fs_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let common = spec.security_context.as_ref().and_then(|c| c.run_as_user);
    let mut users = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(common));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok())?
}

/// The mode and owner of files that are the pod's own: nobody else need read them when it is known who must.
fn of_its_own(pod: &Pod, default_mode: u32) -> (u32, Option<u32>) {
    let owner = fs_user(pod);
    (if owner.is_some() || fs_group(pod).is_some() { 0o600 } else { default_mode }, owner)
}

async fn request_token(
    client: &Client,
    pod: &Pod,
    audience: Option<&str>,
    seconds: i64,
) -> Result<Token, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
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
    let status = answer.status.unwrap_or_default();
    let text = status.token.ok_or("the token that was fetched is empty")?;
    let life = status
        .expiration_timestamp
        .and_then(|expires| Duration::try_from(expires.0.duration_since(clock::now())).ok())
        .unwrap_or_default();
    Ok(Token { text, renew: Instant::now() + renewal(life) })
}

/// How long a token of this lifetime is shown: four fifths of it, a day at most (as kubelet's token manager).
fn renewal(life: Duration) -> Duration {
    // A clock that jumped must not have the API server asked without end.
    (life * 4 / 5).clamp(Duration::from_secs(10), Duration::from_secs(24 * 3600))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    #[test]
    fn tokens_are_renewed_in_time() {
        for (life, expected) in [(3600, 2880), (600, 480), (0, 10), (10 * 24 * 3600, 24 * 3600)] {
            assert_eq!(renewal(Duration::from_secs(life)), Duration::from_secs(expected));
        }
    }

    #[test]
    fn a_user_is_known_when_all_containers_have_the_same() {
        let as_user = |user: Option<i64>| json!({"name": "c", "securityContext": {"runAsUser": user}});
        for (common, own, expected) in [
            (None, vec![None], None),
            (Some(7), vec![None, None], Some(7)),
            (None, vec![Some(7), Some(7)], Some(7)),
            (None, vec![Some(7), None], None),
            (Some(7), vec![Some(8), None], None),
        ] {
            let containers: Vec<_> = own.iter().copied().map(as_user).collect();
            let pod = pod(json!({"containers": containers, "securityContext": {"runAsUser": common}}));
            assert_eq!(fs_user(&pod), expected, "{common:?} {own:?}");
        }
    }

    #[test]
    fn only_mounted_volumes_are_made() {
        let pod = pod(json!({
            "containers": [{"name": "c", "volumeMounts": [{"name": "a", "mountPath": "/a"}, {"name": "i", "mountPath": "/i"}],
                "volumeDevices": [{"name": "d", "devicePath": "/d"}]}],
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "emptyDir": {}}, {"name": "i", "image": {}},
                {"name": "d", "persistentVolumeClaim": {"claimName": "d"}}],
        }));
        assert_eq!(mounted(&pod).iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["a", "d"]);
    }
}
