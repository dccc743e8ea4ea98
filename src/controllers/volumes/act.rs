//! The writes of the controller, and what is done to the data of volumes.

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use super::{Controller, patches};
use crate::api::request::{DeleteOptions, PatchKind};
use crate::api::status::Status;
use crate::api::volumes::{self, tie};
use crate::client::Resource;
use crate::client::reflector::Reflector;

impl Controller {
    /// Writes a change; answers the object as it is then, once it is seen here.
    pub(super) async fn patch<K: Resource>(
        &self,
        seen: &Reflector<K>,
        object: &Arc<K>,
        part: Option<&str>,
        patch: Option<Value>,
    ) -> Result<Arc<K>, Status> {
        let Some(patch) = patch else { return Ok(object.clone()) };
        let meta = object.metadata();
        let api = match meta.namespace.as_deref() {
            Some(namespace) => self.client.namespaced::<K>(namespace),
            None => self.client.all::<K>(),
        };
        let name = meta.name.as_deref().unwrap_or_default();
        match api.patch(name, part, PatchKind::Merge, patch).await {
            Ok(written) => {
                seen.reached(&written).await;
                Ok(Arc::new(written))
            }
            // Whoever removed it made this superfluous.
            Err(status) if status.is("NotFound") => Ok(object.clone()),
            Err(status) => Err(status),
        }
    }

    pub(super) async fn phase(
        &self,
        volume: Arc<PersistentVolume>,
        phase: &str,
        message: Option<&str>,
    ) -> Result<Arc<PersistentVolume>, Status> {
        let patch = (volumes::volume_phase(&volume) != phase)
            .then(|| json!({"status": {"phase": phase, "message": message}}));
        self.patch(&self.volumes, &volume, Some("status"), patch).await
    }

    /// Ties a volume and a claim, the volume first: who looks at one half sees what is missing.
    pub(super) async fn bind(
        &self,
        claim: Arc<PersistentVolumeClaim>,
        volume: Arc<PersistentVolume>,
    ) -> Result<Arc<PersistentVolumeClaim>, Status> {
        let patch = tie::volume(&volume, &claim);
        let volume = self.patch(&self.volumes, &volume, None, patch).await?;
        let volume = self.phase(volume, "Bound", None).await?;
        let patch = patches::tie_claim(&claim, &volume);
        let claim = self.patch(&self.claims, &claim, None, patch).await?;
        let patch = patches::claim_status(&claim, "Bound", Some(&volume));
        self.patch(&self.claims, &claim, Some("status"), patch).await
    }

    /// Makes a claim's volume: the data first, so that no volume is ever without.
    pub(super) async fn provision(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
    ) -> Result<(), Status> {
        let name = patches::made_name(claim);
        let (storage, directory) = (self.storage.clone(), name.clone());
        let path = blocking(move || storage.make(&directory)).await.map_err(Status::internal)?;
        let volume = patches::made(claim, class, &path.to_string_lossy());
        let volume: PersistentVolume = serde_json::from_value(volume).map_err(Status::internal)?;
        match self.client.all::<PersistentVolume>().create(&volume).await {
            Ok(made) => {
                self.volumes.reached(&made).await;
                Ok(())
            }
            Err(status) if status.is("AlreadyExists") => Ok(()),
            Err(status) => Err(status),
        }
    }

    /// Directories hold what comes: a volume that grows only says so.
    pub(super) async fn expand(
        &self,
        claim: Arc<PersistentVolumeClaim>,
        volume: Arc<PersistentVolume>,
    ) -> Result<Arc<PersistentVolumeClaim>, Status> {
        let amount = json!({"storage": volumes::requested(&claim).to_string()});
        if volumes::capacity(&volume) < volumes::requested(&claim) {
            let patch = json!({"spec": {"capacity": amount}});
            self.patch(&self.volumes, &volume, None, Some(patch)).await?;
        }
        let status = json!({"status": {"capacity": amount, "allocatedResources": amount}});
        self.patch(&self.claims, &claim, Some("status"), Some(status)).await
    }

    /// Whether the claim that a volume names is there, as the API server says.
    pub(super) async fn has_claim(&self, volume: &PersistentVolume) -> Result<bool, Status> {
        let Some(reference) = volumes::claim_of(volume) else { return Ok(false) };
        let namespace = reference.namespace.as_deref().unwrap_or_default();
        let claims = self.client.namespaced::<PersistentVolumeClaim>(namespace);
        match claims.get(reference.name.as_deref().unwrap_or_default()).await {
            Ok(claim) => {
                let name = volume.metadata.name.as_deref().unwrap_or_default();
                let elsewhere = volumes::volume_of(&claim);
                Ok(claim.metadata.uid == reference.uid && (elsewhere.is_empty() || elsewhere == name))
            }
            Err(status) if status.is("NotFound") => Ok(false),
            Err(status) => Err(status),
        }
    }

    /// Has a volume forget its claim, and be there for others.
    pub(super) async fn unbind(
        &self,
        volume: Arc<PersistentVolume>,
    ) -> Result<Arc<PersistentVolume>, Status> {
        let patch = patches::untie_volume(&volume);
        let volume = self.patch(&self.volumes, &volume, None, Some(patch)).await?;
        self.phase(volume, "Available", None).await
    }

    /// Removes what users have left in a volume.
    pub(super) async fn scrub(&self, volume: &PersistentVolume) -> Result<(), String> {
        let source = volume.spec.as_ref().and_then(|spec| spec.host_path.as_ref());
        let Some(source) = source else { return Err("minik does not mount NFS".to_owned()) };
        let (storage, path) = (self.storage.clone(), PathBuf::from(&source.path));
        blocking(move || storage.scrub(&path)).await
    }

    pub(super) async fn remove_data(&self, volume: &PersistentVolume) -> Result<(), String> {
        let source = volume.spec.as_ref().and_then(|spec| spec.host_path.as_ref());
        let Some(source) = source else { return Err("the volume has no directory of the host".to_owned()) };
        let (storage, path) = (self.storage.clone(), PathBuf::from(&source.path));
        blocking(move || storage.remove(&path)).await
    }

    pub(super) async fn remove(
        &self,
        name: &str,
        volume: Result<Arc<PersistentVolume>, Status>,
    ) -> Result<(), Status> {
        let uid = volume?.metadata.uid.clone();
        let options = DeleteOptions { precondition_uid: uid, ..DeleteOptions::default() };
        match self.client.all::<PersistentVolume>().delete(name, options).await {
            Err(status) if status.is("NotFound") || status.is("Conflict") => Ok(()),
            other => other,
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}
