//! Pulling: manifest, configuration, then all layers side by side, each fetched and unpacked in one pass.

mod transfer;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt};
use oci_spec::image::ImageManifest;
use tokio::sync::{OwnedMutexGuard, mpsc};

use self::transfer::{ChannelReader, fetch};
use crate::image::layer::{self, Unpacked, sha256};
use crate::image::manifest::{self, Document};
use crate::image::reference::Reference;
use crate::image::registry::{Endpoint, Session};
use crate::image::store::{self, Record, Scratch};
use crate::image::{Access, Credential, Error, Image, Images, Progress, Stage};
use crate::sys::lock::Lock;

/// Layers of one image fetched at the same time (as Docker and containerd do).
const PARALLEL: usize = 3;
/// Chunks between the network and the unpacking thread.
const IN_FLIGHT: usize = 32;

/// Layers that some pull of this process is making, so that a second pull waits instead of fetching again.
#[derive(Default)]
pub struct Flights {
    layers: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Flights {
    fn of(&self, diff_id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.retain(|_, flight| Arc::strong_count(flight) > 1);
        layers.entry(diff_id.to_owned()).or_default().clone()
    }
}

fn content(reference: &Reference, what: impl Into<String>) -> Error {
    Error::Content { reference: reference.to_string(), what: what.into() }
}

/// What a manifest leads to.
struct Plan {
    manifest_digest: String,
    /// The digest of the index that it was chosen from, and its own.
    digests: Vec<String>,
    config_digest: String,
    layers: Vec<PlannedLayer>,
}

#[derive(Clone)]
struct PlannedLayer {
    digest: String,
    size: u64,
    diff_id: String,
}

impl Images {
    /// The image of a reference, fetched as far as it is not here; asks mirrors first, then the registry. Whoever is on
    /// this machine may use it.
    pub async fn pull(
        &self,
        name: &str,
        credentials: &[Credential],
        progress: &dyn Progress,
    ) -> Result<Image, Error> {
        self.pull_noting(name, credentials, false, progress).await
    }

    /// The same for somebody in particular: with what it was fetched is kept with the image ([`Image::is_open_to`]).
    pub async fn pull_for(
        &self,
        name: &str,
        credentials: &[Credential],
        progress: &dyn Progress,
    ) -> Result<Image, Error> {
        self.pull_noting(name, credentials, true, progress).await
    }

    async fn pull_noting(
        &self,
        name: &str,
        credentials: &[Credential],
        noted: bool,
        progress: &dyn Progress,
    ) -> Result<Image, Error> {
        let reference = Reference::parse(name)?;
        let mut failure: Option<Error> = None;
        for endpoint in self.registry.endpoints(&reference) {
            if endpoint.is_fallback() && !matches!(failure, Some(Error::Unreachable { .. })) {
                continue;
            }
            match self.pull_as_any(&reference, &endpoint, (credentials, noted), progress).await {
                Ok(image) => return Ok(image),
                Err(error) => {
                    // What a registry said tells more than that another could not be reached.
                    let keep = matches!(&failure, Some(Error::Registry { .. } | Error::Content { .. }))
                        && matches!(error, Error::Unreachable { .. });
                    if !keep {
                        failure = Some(error);
                    }
                }
            }
        }
        Err(failure.unwrap_or_else(|| content(&reference, "there is no registry to ask")))
    }

    /// From one endpoint, with each credential that fits it until one is let in.
    async fn pull_as_any(
        &self,
        reference: &Reference,
        endpoint: &Endpoint,
        (credentials, noted): (&[Credential], bool),
        progress: &dyn Progress,
    ) -> Result<Image, Error> {
        let (first, others) = self.registry.sessions(reference, endpoint, credentials).await;
        let mut result = self.pull_from(&first, (reference, noted), progress).await;
        for session in others {
            if !matches!(&result, Err(Error::Registry { status: 401 | 403 | 404, .. })) {
                break;
            }
            result = self.pull_from(&session, (reference, noted), progress).await;
        }
        result
    }

    async fn pull_from(
        &self,
        session: &Session<'_>,
        (reference, noted): (&Reference, bool),
        progress: &dyn Progress,
    ) -> Result<Image, Error> {
        // From here to the index's naming them, nobody removes what is here and what comes.
        let held = self.hold().await?;
        let plan = self.plan(session, reference).await?;
        let access = noted.then(|| (reference.name(), Access::of(session.credential())));
        let access = access.into_iter().collect();
        if let Some(mut record) = self.record_of(&plan.manifest_digest).await? {
            // Same manifest as before: at most the name is new.
            record.digests = plan.digests.clone();
            record.loaded = false;
            record.access = access;
            return self.finish(Some(reference.clone()), plan.manifest_digest, record, held).await;
        }
        futures::stream::iter(plan.layers.clone())
            .map(|planned| async move { self.ensure_layer(session, reference, &planned, progress).await })
            .buffer_unordered(PARALLEL)
            .try_collect::<Vec<()>>()
            .await?;
        let record = Record {
            config: plan.config_digest,
            blobs: plan.layers.iter().map(|l| l.digest.clone()).collect(),
            layers: plan.layers.iter().map(|l| l.diff_id.clone()).collect(),
            size: plan.layers.iter().map(|l| l.size).sum(),
            digests: plan.digests,
            attributes: None,
            by_tag: false,
            loaded: false,
            access,
        };
        self.finish(Some(reference.clone()), plan.manifest_digest, record, held).await
    }

    pub(super) async fn hold(&self) -> Result<Lock, Error> {
        let store = self.store.clone();
        self.blocking(move || store.hold()).await
    }

    async fn record_of(&self, manifest: &str) -> Result<Option<Record>, Error> {
        let (store, manifest) = (self.store.clone(), manifest.to_owned());
        self.blocking(move || {
            let Some((digest, record)) = store.record(&manifest)? else { return Ok(None) };
            Ok((digest == manifest && store.is_whole(&record)?).then_some(record))
        })
        .await
    }

    /// Names a complete image and answers it, held.
    pub(super) async fn finish(
        &self,
        reference: Option<Reference>,
        manifest: String,
        mut record: Record,
        held: Lock,
    ) -> Result<Image, Error> {
        let store = self.store.clone();
        self.blocking(move || {
            record.attributes = store.attributes_layer(&record.layers)?;
            // Whoever makes room while nobody holds it, below, is to see that it is new.
            store.touch(&record.config);
            let mut held = held;
            if store.add(reference.as_ref(), &manifest, record)? {
                // A tag has moved on: what it left may go, if nobody else holds anything.
                drop(held);
                if let Err(error) = store.collect() {
                    tracing::warn!(%error, "cannot remove outdated images");
                }
                held = store.hold()?;
            }
            let image = store.find(&manifest)?.ok_or(Error::NoSuchImage(manifest))?;
            store.touch(&image.id);
            Ok(Image { held: Some(Arc::new(held)), ..image })
        })
        .await
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
            Err(Error::Store { what: "image work".into(), source: io::Error::other(error.to_string()) })
        })
    }

    /// Fetches and checks what says which layers there are.
    async fn plan(&self, session: &Session<'_>, reference: &Reference) -> Result<Plan, Error> {
        let mut digests = Vec::new();
        let mut bytes = self.manifest(session, reference, reference.target(), &mut digests).await?;
        let manifest: ImageManifest = match manifest::parse(&bytes)
            .map_err(|what| content(reference, what))?
        {
            Document::Manifest(manifest) => *manifest,
            Document::Index(index) => {
                let chosen = manifest::choose(&index).map_err(|what| content(reference, what))?;
                bytes = self.manifest(session, reference, chosen.digest().as_ref(), &mut digests).await?;
                match manifest::parse(&bytes).map_err(|what| content(reference, what))? {
                    Document::Manifest(manifest) => *manifest,
                    Document::Index(_) => return Err(content(reference, "its index leads to another index")),
                }
            }
        };
        let config_digest = manifest.config().digest().to_string();
        let config = match self.store.blob(&config_digest)? {
            Some(config) => config,
            None => session.config(&config_digest).await?,
        };
        if sha256(&config) != config_digest {
            return Err(content(reference, format!("its configuration is not what {config_digest} names")));
        }
        manifest::check_platform(&config).map_err(|what| content(reference, what))?;
        let (_, diff_ids) = manifest::config(&config).map_err(|what| content(reference, what))?;
        let descriptors = manifest.layers();
        if diff_ids.len() != descriptors.len() {
            return Err(content(
                reference,
                format!(
                    "its manifest has {} layers, its configuration {}",
                    descriptors.len(),
                    diff_ids.len()
                ),
            ));
        }
        let layers = descriptors
            .iter()
            .zip(diff_ids)
            .map(|(d, diff_id)| PlannedLayer { digest: d.digest().to_string(), size: d.size(), diff_id })
            .collect();
        let store = self.store.clone();
        let (manifest_digest, kept) = (sha256(&bytes), config_digest.clone());
        let digest = manifest_digest.clone();
        self.blocking(move || {
            store.put_blob(&kept, &config)?;
            store.put_blob(&digest, &bytes)
        })
        .await?;
        digests.reverse();
        Ok(Plan { manifest_digest, digests, config_digest, layers })
    }

    async fn manifest(
        &self,
        session: &Session<'_>,
        reference: &Reference,
        target: &str,
        digests: &mut Vec<String>,
    ) -> Result<Vec<u8>, Error> {
        if target.starts_with("sha256:")
            && let Some(bytes) = self.store.blob(target)?
        {
            digests.push(target.to_owned());
            return Ok(bytes);
        }
        let bytes = session.manifest(target).await?;
        let digest = sha256(&bytes);
        if target.starts_with("sha256:") && digest != target {
            return Err(content(reference, format!("the registry sent {digest} for {target}")));
        }
        digests.push(digest);
        Ok(bytes)
    }

    /// Makes sure that a layer is here, unpacked; waits when another pull, here or in another process, makes it.
    async fn ensure_layer(
        &self,
        session: &Session<'_>,
        reference: &Reference,
        planned: &PlannedLayer,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        if self.store.has_layer(&planned.diff_id, &planned.digest)? {
            progress.layer(&planned.digest, Stage::Exists, planned.size, planned.size);
            return Ok(());
        }
        let _turn = self.turn(&planned.diff_id).await?;
        if self.store.has_layer(&planned.diff_id, &planned.digest)? {
            progress.layer(&planned.digest, Stage::Exists, planned.size, planned.size);
            return Ok(());
        }
        let (chunks, stream) = mpsc::channel(IN_FLIGHT);
        let making = self.make_layer(reference.clone(), planned.clone(), ChannelReader::new(stream));
        let fetching = fetch(session, planned, chunks, progress);
        let (made, fetched) = tokio::join!(making, fetching);
        // A refused layer ends the transfer; a broken transfer ends the unpacking. The cause is reported.
        match (made, fetched) {
            (Ok(()), _) => {
                progress.layer(&planned.digest, Stage::Done, planned.size, planned.size);
                Ok(())
            }
            (Err(_), Err(Some(cause))) => Err(cause),
            (Err(error), _) => Err(error),
        }
    }

    /// Waits for the turn to make a layer: in this process, then on this machine.
    pub(super) async fn turn(&self, diff_id: &str) -> Result<Turn, Error> {
        let flight = self.flights.of(diff_id).lock_owned().await;
        let (store, diff_id) = (self.store.clone(), diff_id.to_owned());
        let lock = self.blocking(move || store.layer_turn(&diff_id)).await?;
        Ok(Turn { _lock: lock, _flight: flight })
    }

    /// Unpacks a stream into a scratch directory and, when all digests are right, puts it in its place.
    pub(super) async fn make_layer(
        &self,
        reference: Reference,
        planned: impl Into<Expected>,
        stream: impl Read + Send + 'static,
    ) -> Result<(), Error> {
        let (store, limits) = (self.store.clone(), self.limits);
        let expected: Expected = planned.into();
        self.blocking(move || {
            let scratch = store.scratch()?;
            let made = unpack_into(&scratch, stream, limits, &expected)?;
            expected.check(&made, &reference)?;
            store.put_layer(&scratch, &made.digest, &made.diff_id, &made.implied)
        })
        .await
    }
}

/// While it is kept, nobody else makes the layer.
pub(super) struct Turn {
    _lock: store::Turn,
    _flight: OwnedMutexGuard<()>,
}

/// What a layer must turn out to be; `None` is whatever comes.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Of the stream.
    pub digest: Option<String>,
    /// Of its contents.
    pub diff_id: String,
}

impl From<PlannedLayer> for Expected {
    fn from(planned: PlannedLayer) -> Expected {
        Expected { digest: Some(planned.digest), diff_id: planned.diff_id }
    }
}

impl Expected {
    fn check(&self, made: &Unpacked, reference: &Reference) -> Result<(), Error> {
        if let Some(digest) = self.digest.as_ref().filter(|d| **d != made.digest) {
            return Err(content(reference, format!("layer {digest} came as {}", made.digest)));
        }
        if made.diff_id != self.diff_id {
            return Err(content(
                reference,
                format!(
                    "layer {} holds {}, its configuration says {}",
                    made.digest, made.diff_id, self.diff_id
                ),
            ));
        }
        Ok(())
    }
}

fn unpack_into(
    scratch: &Scratch,
    stream: impl Read,
    limits: crate::image::unpack::Limits,
    expected: &Expected,
) -> Result<Unpacked, Error> {
    let directory = scratch.path().join("fs");
    let blob = scratch.path().join("blob");
    let store = |what: &str, source| Error::Store { what: what.to_owned(), source };
    std::fs::create_dir(&directory).map_err(|e| store("cannot make a directory for a layer", e))?;
    // The root of the image's file system is everybody's to enter, whatever the umask.
    std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(|e| store("cannot open a layer's directory to all", e))?;
    let mut file = File::create(&blob).map_err(|e| store("cannot keep a layer", e))?;
    layer::unpack(stream, Some(&mut file), &directory, limits)
        .map_err(|source| Error::Layer { digest: expected.diff_id.clone(), source })
}
