//! Images: references, the registry protocol, unpacking, and the store of layers that all clusters share.
//!
//! Knows registries and tar files; knows no Kubernetes words. A layer goes from the network through its digest,
//! decompression and the digest of its contents into files in one pass ([`layer`]); what is finished is renamed
//! into the [`store`], so that a crash leaves nothing but temporary directories.

pub mod access;
pub mod archive;
pub mod credentials;
pub mod layer;
pub mod pull;
pub mod reference;
pub mod registry;
pub mod store;
pub mod tarball;
pub mod unpack;
pub mod users;

mod implied;
mod manifest;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use access::Access;
pub use credentials::Credential;
pub use manifest::ImageConfig;
pub use store::LayersInUse;
pub use users::User;

use self::registry::RegistryClient;
use self::store::Store;
use crate::sys::lock::Lock;

/// How images are fetched and kept.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Where images are kept, for all clusters of the machine.
    pub dir: PathBuf,
    /// Where to ask first, by registry: `docker.io` -> `http://mirror:5000`.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries (`host` or `host:port`) whose certificates need not be good, and that may do without TLS.
    pub insecure: Vec<String>,
    /// A `config.json` of Docker with credentials.
    pub docker_config: Option<PathBuf>,
    /// What a layer may not exceed.
    pub limits: unpack::Limits,
    /// Who knows what containers stand on.
    pub in_use: LayersInUse,
}

/// An image that is here, unpacked.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// The digest of its configuration: `sha256:...`.
    pub id: String,
    /// Its names with tags: `docker.io/library/nginx:latest`.
    pub references: Vec<String>,
    /// Its names with the digest of its manifest: `docker.io/library/nginx@sha256:...`.
    pub repo_digests: Vec<String>,
    /// Its unpacked layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// What it runs.
    pub config: ImageConfig,
    /// Compressed bytes of all layers.
    pub size: u64,
    /// With what it was fetched for others, by repository; empty when it came in another way.
    pub access: BTreeMap<String, Access>,
    /// Keeps the layers here until a container that stands on them is on record.
    pub held: Option<Arc<Lock>>,
}

impl Image {
    /// Whether somebody with these credentials may use it by this name without asking its registry.
    pub fn is_open_to(&self, name: &str, credentials: &[Credential]) -> bool {
        let repository = reference::Reference::parse(name).map(|reference| reference.name());
        let fetched = || self.access.get(&repository.ok()?);
        self.access.is_empty() || fetched().is_some_and(|access| access.allows(credentials))
    }
}

/// Told how a pull goes on; calls are cheap and come often.
pub trait Progress: Send + Sync {
    /// A layer has come to a stage: bytes so far, of how many.
    fn layer(&self, digest: &str, stage: Stage, done: u64, total: u64);
}

/// Where a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// On its way, and unpacked as it comes.
    Pulling,
    /// Was here before.
    Exists,
    /// Here and unpacked.
    Done,
}

/// Nobody watches.
pub struct Silent;

impl Progress for Silent {
    fn layer(&self, _: &str, _: Stage, _: u64, _: u64) {}
}

/// Why an image could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name makes no sense.
    #[error(transparent)]
    Reference(#[from] reference::Invalid),
    /// A registry said no.
    #[error("{reference}: {host} answered {status}: {message}{}", hint(*status))]
    Registry {
        /// What was asked for.
        reference: String,
        /// Who was asked.
        host: String,
        /// The HTTP status.
        status: u16,
        /// The registry's own words.
        message: String,
    },
    /// A registry could not be reached, or went away.
    #[error("{reference}: cannot reach {host}: {message}")]
    Unreachable {
        /// What was asked for.
        reference: String,
        /// Who was asked.
        host: String,
        /// What happened.
        message: String,
    },
    /// What came is not what was announced, or more than is accepted.
    #[error("{reference}: {what}")]
    Content {
        /// What was asked for.
        reference: String,
        /// What is wrong.
        what: String,
    },
    /// A layer was refused.
    #[error("layer {digest}: {source}")]
    Layer {
        /// The layer.
        digest: String,
        /// Why.
        source: unpack::Error,
    },
    /// The store's directory failed.
    #[error("{what}: {source}")]
    Store {
        /// What was tried, on which path.
        what: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// There is no such image here.
    #[error("no such image: {0}")]
    NoSuchImage(String),
}

fn hint(status: u16) -> &'static str {
    match status {
        401 | 403 => {
            " (check the name, or log in: credentials come from imagePullSecrets or Docker's config.json)"
        }
        429 => " (the registry's pull limit is reached: wait, or log in to raise it)",
        _ => "",
    }
}

/// The images of this machine; cheap to clone.
#[derive(Clone)]
pub struct Images {
    store: Arc<Store>,
    registry: Arc<RegistryClient>,
    limits: unpack::Limits,
    flights: Arc<pull::Flights>,
}

impl Images {
    /// Opens the store, making it when missing, and sweeps what a crash left.
    pub fn open(settings: Settings) -> Result<Images, Error> {
        let limits = settings.limits;
        let store = Arc::new(Store::open(&settings.dir, settings.in_use.clone())?);
        let registry = Arc::new(RegistryClient::new(settings)?);
        Ok(Images { store, registry, limits, flights: Arc::default() })
    }

    /// The image of this name or id, when it is here; held, so that it stays. Waits while content is being removed.
    pub fn find(&self, name: &str) -> Result<Option<Image>, Error> {
        let held = self.store.hold()?;
        let found = self.store.find(name)?;
        found.iter().for_each(|image| self.store.touch(&image.id));
        Ok(found.map(|image| Image { held: Some(Arc::new(held)), ..image }))
    }

    /// All images.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        self.store.list()
    }

    /// Takes a name away; the image goes with its last name, its layers with the last image and container that has
    /// them. Answers what was removed.
    pub fn remove(&self, name: &str) -> Result<Vec<String>, Error> {
        self.store.remove(name)
    }

    /// Removes images that no container has used for so long, those first whose last use is longest ago, until so many
    /// bytes are free; answers how many that are, or `None` when nothing can go as images are being fetched or taken.
    pub fn free(&self, bytes: u64, age: Duration) -> Result<Option<u64>, Error> {
        self.store.free(bytes, age)
    }

    /// Removes what no image and no container needs: what failed pulls and outdated tags left.
    pub fn collect(&self) -> Result<(), Error> {
        self.store.collect()
    }
}
