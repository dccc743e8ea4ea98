//! Pulling: manifest, configuration, then all layers side by side, each fetched and unpacked in one pass.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::{StreamExt, TryStreamExt};
use oci_spec::image::ImageManifest;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::layer::{self, Unpacked, digest_text};
use super::manifest::{self, Document};
use super::reference::Reference;
use super::registry::Session;
use super::store::{Record, Scratch};
use super::{Credential, Error, Image, Images, Progress, Stage};

/// Layers of one image fetched at the same time (as Docker and containerd do).
const PARALLEL: usize = 3;
/// Chunks between the network and the unpacking thread.
const IN_FLIGHT: usize = 32;
/// How often a broken transfer is taken up again where it broke before a byte more has come.
const RESUMES: u32 = 5;
/// The wait before that; it doubles.
const RESUME_WAIT: Duration = Duration::from_millis(200);

/// Layers that some pull of this process is making, so that a second pull waits instead of fetching again.
#[derive(Default)]
pub struct Flights {
    layers: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Flights {
    fn of(&self, digest: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.retain(|_, flight| Arc::strong_count(flight) > 1);
        layers.entry(digest.to_owned()).or_default().clone()
    }
}

fn content(reference: &Reference, what: impl Into<String>) -> Error {
    Error::Content { reference: reference.to_string(), what: what.into() }
}

fn sha256(bytes: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(bytes);
    digest_text(hash)
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
    /// The image of a reference, fetched as far as it is not here; asks mirrors first, then the registry.
    pub async fn pull(
        &self,
        name: &str,
        credentials: &[Credential],
        progress: &dyn Progress,
    ) -> Result<Image, Error> {
        let reference = Reference::parse(name)?;
        let mut failure: Option<Error> = None;
        for endpoint in self.registry.endpoints(&reference) {
            let session = self.registry.session(&reference, endpoint, credentials);
            match self.pull_from(&session, &reference, progress).await {
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

    async fn pull_from(
        &self,
        session: &Session<'_>,
        reference: &Reference,
        progress: &dyn Progress,
    ) -> Result<Image, Error> {
        let plan = self.plan(session, reference).await?;
        if let Some((manifest, record)) = self.record_of(&plan.manifest_digest).await? {
            // Same manifest as before: at most the name is new.
            let mut record = record;
            record.digests = plan.digests.clone();
            return self.finish(Some(reference.clone()), manifest, record).await;
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
        };
        self.finish(Some(reference.clone()), plan.manifest_digest, record).await
    }

    async fn record_of(&self, manifest: &str) -> Result<Option<(String, Record)>, Error> {
        let (store, manifest) = (self.store.clone(), manifest.to_owned());
        self.blocking(move || {
            let Some((digest, record)) = store.record(&manifest)? else { return Ok(None) };
            let whole = record
                .layers
                .iter()
                .zip(&record.blobs)
                .map(|(layer, blob)| store.has_layer(layer, blob))
                .collect::<Result<Vec<bool>, Error>>()?;
            Ok((digest == manifest && whole.into_iter().all(|there| there)).then_some((digest, record)))
        })
        .await
    }

    /// Names a complete image and answers it.
    pub(super) async fn finish(
        &self,
        reference: Option<Reference>,
        manifest: String,
        record: Record,
    ) -> Result<Image, Error> {
        let store = self.store.clone();
        self.blocking(move || {
            store.add(reference.as_ref(), &manifest, record)?;
            store.find(&manifest)?.ok_or(Error::NoSuchImage(manifest))
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
        let flight = self.flights.of(&planned.digest);
        let _alone = flight.lock().await;
        let store = self.store.clone();
        let name = format!("tmp/{}", planned.diff_id.trim_start_matches("sha256:"));
        let _lock = self.blocking(move || store.lock(&name)).await?;
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
            store.put_layer(
                &made.diff_id,
                &scratch.path().join("fs"),
                &made.digest,
                &scratch.path().join("blob"),
            )
        })
        .await
    }
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
    limits: super::unpack::Limits,
    expected: &Expected,
) -> Result<Unpacked, Error> {
    let directory: PathBuf = scratch.path().join("fs");
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

/// Sends a blob's bytes into the channel, taking broken transfers up again. `Err(None)`: nobody listens any more.
async fn fetch(
    session: &Session<'_>,
    planned: &PlannedLayer,
    chunks: mpsc::Sender<Bytes>,
    progress: &dyn Progress,
) -> Result<(), Option<Error>> {
    let mut done = 0;
    let mut breaks = 0;
    progress.layer(&planned.digest, Stage::Pulling, 0, planned.size);
    loop {
        let mut stream = session.blob(&planned.digest, done).await.map_err(Some)?;
        let cause = loop {
            match stream.chunk().await {
                Ok(Some(chunk)) => {
                    done += chunk.len() as u64;
                    breaks = 0;
                    if done > planned.size {
                        let what =
                            format!("layer {} has more than its {} bytes", planned.digest, planned.size);
                        return Err(Some(Error::Content { reference: planned.digest.clone(), what }));
                    }
                    progress.layer(&planned.digest, Stage::Pulling, done, planned.size);
                    chunks.send(chunk).await.map_err(|_| None)?;
                }
                Ok(None) if done == planned.size => return Ok(()),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        breaks += 1;
        if breaks > RESUMES {
            return Err(Some(match cause {
                Some(error) => session.broken(&error),
                None => Error::Content {
                    reference: planned.digest.clone(),
                    what: format!("layer {} ended after {done} of {} bytes", planned.digest, planned.size),
                },
            }));
        }
        tokio::time::sleep(RESUME_WAIT * (1 << breaks)).await;
    }
}

/// Reads what another task sends; the sender's end before the last byte shows as a short stream.
struct ChannelReader {
    chunks: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl ChannelReader {
    fn new(chunks: mpsc::Receiver<Bytes>) -> ChannelReader {
        ChannelReader { chunks, current: Bytes::new() }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current[..count]);
        self.current.advance(count);
        Ok(count)
    }
}
