//! Volumes and claims find each other; volumes of minik's own class are made, grow and go with their claims.
//!
//! Every write is a patch of the version that was looked at: what others do meanwhile makes it fail, and the next look
//! starts from there.

mod act;
mod patches;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use tokio::task::JoinSet;

use self::plan::{ForClaim, ForVolume, News, World};
use super::{Next, queue, reflect, work};
use crate::api::status::Status;
use crate::api::volumes;
use crate::api::volumes::PROVISIONER;
use crate::client::events::{EventType, Recorder, reference};
use crate::client::queue::Queue;
use crate::client::reflector::{Reflector, key_of, split_key};
use crate::client::{Client, Resource};

/// Where the data of volumes is that minik makes.
pub trait Storage: Send + Sync + 'static {
    /// Makes the directory of a volume, which everybody may write to; one that is there stays.
    fn make(&self, name: &str) -> Result<PathBuf, String>;

    /// Removes the directory of a volume with all in it; none there is success, one elsewhere an error.
    fn remove(&self, path: &Path) -> Result<(), String>;

    /// Removes all that is in a directory of the host, wherever it is; a missing one is made.
    fn scrub(&self, path: &Path) -> Result<(), String>;
}

/// How often what nothing tells of is looked at: the PV controller's resync period.
const RESYNC: Duration = Duration::from_secs(15);

const CLAIM: &str = "claim/";
const VOLUME: &str = "volume/";

/// Runs until dropped.
pub async fn run(client: Client, pods: Reflector<Pod>, storage: Arc<dyn Storage>) {
    let mut tasks = JoinSet::new();
    let (recorder, record) = Recorder::new(client.clone(), "persistentvolume-controller", "");
    let (made, record_made) = Recorder::new(client.clone(), PROVISIONER, "");
    tasks.spawn(record);
    tasks.spawn(record_made);
    let controller = Controller {
        volumes: reflect(&mut tasks, &client),
        claims: reflect(&mut tasks, &client),
        classes: reflect(&mut tasks, &client),
        pods,
        queue: queue(&client, "volumes"),
        client,
        recorder,
        made,
        storage,
        told: Mutex::default(),
    };
    controller.run().await;
}

/// What was told of objects, by key and uid.
type Told = HashMap<(String, Option<String>), Vec<News>>;

struct Controller {
    client: Client,
    volumes: Reflector<PersistentVolume>,
    claims: Reflector<PersistentVolumeClaim>,
    classes: Reflector<StorageClass>,
    pods: Reflector<Pod>,
    recorder: Recorder,
    /// For what the provisioner says.
    made: Recorder,
    storage: Arc<dyn Storage>,
    queue: Queue,
    /// The same look again is no news.
    told: Mutex<Told>,
}

impl Controller {
    async fn run(&self) {
        self.volumes.synced().await;
        self.claims.synced().await;
        self.classes.synced().await;
        self.pods.synced().await;
        if self.classes.list().is_empty()
            && let Err(status) = self.client.all::<StorageClass>().create(&standard()).await
        {
            tracing::warn!(%status, "the class of the cluster's own volumes was not made");
        }
        let by_claim = async {
            let mut changes = self.claims.subscribe();
            while let Some(key) = changes.next().await {
                self.queue.add(&format!("{CLAIM}{key}"));
                // Its volume, or volumes that it had.
                let (namespace, name) = split_key(&key);
                for volume in self.volumes.list() {
                    let of_it = volumes::claim_of(&volume).is_some_and(|reference| {
                        reference.namespace.as_deref() == Some(namespace)
                            && reference.name.as_deref() == Some(name)
                    });
                    if of_it {
                        self.queue.add(&format!("{VOLUME}{}", key_of(&*volume)));
                    }
                }
            }
        };
        let by_volume = async {
            let mut changes = self.volumes.subscribe();
            while let Some(key) = changes.next().await {
                self.queue.add(&format!("{VOLUME}{key}"));
                self.look_at_claims(|claim| !volumes::is_bound(claim) || volumes::volume_of(claim) == key);
            }
        };
        let by_class = async {
            let mut changes = self.classes.subscribe();
            while changes.next().await.is_some() {
                self.look_at_claims(|claim| !volumes::is_bound(claim));
            }
        };
        let by_pod = async {
            let mut changes = self.pods.subscribe();
            while let Some(key) = changes.next().await {
                let Some(pod) = self.pods.get(&key) else { continue };
                for name in volumes::claims_of(&pod) {
                    let key = format!("{}/{name}", split_key(&key).0);
                    if self.claims.get(&key).is_some_and(|claim| !volumes::is_bound(&claim)) {
                        self.queue.add(&format!("{CLAIM}{key}"));
                    }
                }
            }
        };
        let reconcile = |key: String| async move {
            match key.split_once('/') {
                Some(("claim", key)) => self.look_at_claim(key).await,
                Some((_, key)) => return self.look_at_volume(key).await,
                None => Ok(()),
            }
            .map(|()| Next::Await)
        };
        tokio::join!(by_claim, by_volume, by_class, by_pod, work("volumes", &self.queue, reconcile));
    }

    fn look_at_claims(&self, which: impl Fn(&PersistentVolumeClaim) -> bool) {
        for claim in self.claims.list().iter().filter(|claim| which(claim)) {
            self.queue.add(&format!("{CLAIM}{}", key_of(&**claim)));
        }
    }

    fn world(&self) -> World {
        World {
            volumes: self.volumes.list(),
            claims: self.claims.list(),
            classes: self.classes.list(),
            pods: self.pods.list(),
        }
    }

    async fn look_at_claim(&self, key: &str) -> Result<(), Status> {
        let Some(mut claim) = self.claims.get(key) else {
            self.forget(&format!("{CLAIM}{key}"));
            return Ok(());
        };
        let news = |kind, reason, message: String| News { kind, reason, message };
        for action in plan::claim(&claim, &self.world()) {
            match action {
                ForClaim::Bind(volume) => {
                    claim = self.bind(claim, volume).await?;
                    // Another growth is told anew.
                    if volumes::granted(&claim) >= volumes::requested(&claim) {
                        self.forget(&format!("{CLAIM}{key}"));
                    }
                }
                ForClaim::Class(name) => {
                    let version = &claim.metadata.resource_version;
                    let patch =
                        json!({"metadata": {"resourceVersion": version}, "spec": {"storageClassName": name}});
                    claim = self.patch(&self.claims, &claim, None, Some(patch)).await?;
                }
                ForClaim::Pending => {
                    let patch = patches::claim_status(&claim, "Pending", None);
                    claim = self.patch(&self.claims, &claim, Some("status"), patch).await?;
                }
                ForClaim::Lost(news) => {
                    if volumes::claim_phase(&claim) != "Lost" {
                        let patch = patches::claim_status(&claim, "Lost", None);
                        claim = self.patch(&self.claims, &claim, Some("status"), patch).await?;
                        self.tell(&self.recorder, &*claim, CLAIM, news);
                    }
                }
                ForClaim::Tell(news) => self.tell(&self.recorder, &*claim, CLAIM, news),
                ForClaim::Provisioner(name) => {
                    let patch = patches::provisioner(&claim, &name);
                    claim = self.patch(&self.claims, &claim, None, patch).await?;
                }
                ForClaim::Provision(class) => {
                    let name = patches::made_name(&claim);
                    let message = format!("External provisioner is provisioning volume for claim {key:?}");
                    self.tell(&self.made, &*claim, CLAIM, news(EventType::Normal, "Provisioning", message));
                    match self.provision(&claim, &class).await {
                        Ok(()) => {
                            let message = format!("Successfully provisioned volume {name}");
                            let news = news(EventType::Normal, "ProvisioningSucceeded", message);
                            self.tell(&self.made, &*claim, CLAIM, news);
                        }
                        Err(status) => {
                            let class = volumes::claim_class(&claim).unwrap_or_default();
                            let message =
                                format!("failed to provision volume with StorageClass {class:?}: {status}");
                            let news = news(EventType::Warning, "ProvisioningFailed", message);
                            self.tell(&self.made, &*claim, CLAIM, news);
                            return Err(status);
                        }
                    }
                    // It is this claim's by name: the next look ties them.
                    self.queue.add(&format!("{CLAIM}{key}"));
                }
                ForClaim::Expand(volume) => {
                    let size = volumes::requested(&claim);
                    claim = self.expand(claim, volume).await?;
                    tracing::info!(claim = key, %size, "volume grown");
                    let message = "Resize volume succeeded".to_owned();
                    let news = news(EventType::Normal, "VolumeResizeSuccessful", message);
                    self.tell(&self.made, &*claim, CLAIM, news);
                }
            }
        }
        Ok(())
    }

    async fn look_at_volume(&self, key: &str) -> Result<Next, Status> {
        let Some(mut volume) = self.volumes.get(key) else {
            self.forget(&format!("{VOLUME}{key}"));
            return Ok(Next::Await);
        };
        for action in plan::volume(&volume, &self.world()) {
            match action {
                ForVolume::Phase(phase) => volume = self.phase(volume, phase, None).await?,
                ForVolume::Release => {
                    // The claim may be newer than what is known here.
                    if self.has_claim(&volume).await? {
                        return Ok(Next::Await);
                    }
                    volume = self.phase(volume, "Released", None).await?;
                }
                ForVolume::Fail(news) => {
                    volume = self.phase(volume, "Failed", Some(&news.message)).await?;
                    self.tell(&self.recorder, &*volume, VOLUME, news);
                }
                ForVolume::Unbind => volume = self.unbind(volume).await?,
                ForVolume::Guard(hold) => {
                    let patch = patches::guard(&volume, hold);
                    volume = self.patch(&self.volumes, &volume, None, Some(patch)).await?;
                }
                ForVolume::Wait(news) => {
                    self.tell(&self.recorder, &*volume, VOLUME, news);
                    return Ok(Next::After(RESYNC));
                }
                ForVolume::Scrub => {
                    if self.has_claim(&volume).await? {
                        return Ok(Next::Await);
                    }
                    volume = self.recycle(volume).await?;
                }
                ForVolume::RemoveData => {
                    if self.has_claim(&volume).await? {
                        return Ok(Next::Await);
                    }
                    volume = match self.remove_data(&volume).await {
                        Ok(()) => {
                            let patch = patches::guard(&volume, false);
                            let volume = self.patch(&self.volumes, &volume, None, Some(patch)).await;
                            self.remove(key, volume).await?;
                            return Ok(Next::Await);
                        }
                        Err(message) if volumes::volume_phase(&volume) != "Failed" => {
                            let volume = self.phase(volume, "Failed", Some(&message)).await?;
                            let news =
                                News { kind: EventType::Warning, reason: "VolumeFailedDelete", message };
                            self.tell(&self.made, &*volume, VOLUME, news);
                            volume
                        }
                        Err(message) => return Err(Status::internal(message)),
                    };
                }
                ForVolume::Remove => {
                    self.remove(key, Ok(volume)).await?;
                    return Ok(Next::Await);
                }
            }
        }
        Ok(Next::Await)
    }

    /// Empties a volume that nobody claims any more, and has it be there for others.
    async fn recycle(&self, volume: Arc<PersistentVolume>) -> Result<Arc<PersistentVolume>, Status> {
        if let Err(why) = self.scrub(&volume).await {
            let message = format!("Recycle failed: failed to recycle volume: {why}");
            if volumes::volume_phase(&volume) == "Failed" {
                return Err(Status::internal(message));
            }
            let volume = self.phase(volume, "Failed", Some(&message)).await?;
            let news = News { kind: EventType::Warning, reason: "VolumeFailedRecycle", message };
            self.tell(&self.recorder, &*volume, VOLUME, news);
            return Ok(volume);
        }
        let message = "Volume recycled".to_owned();
        let news = News { kind: EventType::Normal, reason: "VolumeRecycled", message };
        self.tell(&self.recorder, &*volume, VOLUME, news);
        let volume = self.unbind(volume).await?;
        // Another time is told anew.
        self.forget(&format!("{VOLUME}{}", key_of(&*volume)));
        Ok(volume)
    }

    fn tell<K: Resource>(&self, recorder: &Recorder, object: &K, prefix: &str, news: News) {
        let key = (format!("{prefix}{}", key_of(object)), object.metadata().uid.clone());
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let told = told.entry(key).or_default();
        if !told.contains(&news) {
            recorder.record(&reference(object), news.kind, news.reason, &news.message);
            told.push(news);
        }
    }

    fn forget(&self, key: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|(known, _), _| known != key);
    }
}

/// The class of a cluster that has none.
fn standard() -> StorageClass {
    StorageClass {
        metadata: ObjectMeta {
            name: Some("standard".to_owned()),
            annotations: Some([(volumes::IS_DEFAULT_CLASS[0].to_owned(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        },
        provisioner: PROVISIONER.to_owned(),
        reclaim_policy: Some("Delete".to_owned()),
        volume_binding_mode: Some("Immediate".to_owned()),
        allow_volume_expansion: Some(true),
        ..StorageClass::default()
    }
}
