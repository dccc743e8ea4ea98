//! The images on disk: blobs by digest, unpacked layers by the digest of their contents, one index of names.
//!
//! ```text
//! format            the number of this layout
//! boot              the boot in which the store was opened last
//! index.lock        held while the index changes, by whichever process changes it
//! content.lock      shared by whoever counts on blobs and layers that nothing else protects; alone by who removes some
//! index.json        names -> manifests, manifests -> configuration and layers
//! blobs/HEX         manifests, configurations and compressed layers, as they came
//! layers/HEX/       unpacked layers, by diff id; and those that `implied` makes
//! implied/HEX       a layer's directories without attributes of their own, zero bytes between them
//! tmp/              what is being made; swept at start when no one holds it
//! ```
//!
//! Only what the index names was made durable before it was named. After a crash of the machine the rest may be torn,
//! so that the first to open the store in a new boot drops it.

mod index;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use self::index::{Index, resolve, topmost};
use self::room::is_used;
use super::layer::sha256;
use super::reference::{Reference, is_hex};
use super::{Error, Image, implied, manifest};
use crate::sys::lock::Lock;
use crate::sys::removal;

pub use self::index::Record;

/// The layout that this code reads and writes.
const FORMAT: &str = "1";
/// Names the present boot of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Asks which layers containers stand on.
type Ask = dyn Fn() -> io::Result<Vec<PathBuf>> + Send + Sync;

/// Who knows which layers containers stand on; by default nobody, as there are no containers.
#[derive(Clone, Default)]
pub struct LayersInUse(Option<Arc<Ask>>);

impl LayersInUse {
    /// Asked each time before layers are removed.
    pub fn new(ask: impl Fn() -> io::Result<Vec<PathBuf>> + Send + Sync + 'static) -> LayersInUse {
        LayersInUse(Some(Arc::new(ask)))
    }

    /// The layers by their names, which say what is in them: the store itself may be known by several paths.
    fn ask(&self) -> Result<BTreeSet<OsString>, Error> {
        let Some(ask) = &self.0 else { return Ok(BTreeSet::new()) };
        let what = "image store: cannot find out which layers are in use".to_owned();
        let names = |layers: Vec<PathBuf>| {
            layers.iter().filter_map(|layer| layer.file_name().map(OsStr::to_owned)).collect()
        };
        ask().map(names).map_err(|source| Error::Store { what, source })
    }
}

impl std::fmt::Debug for LayersInUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LayersInUse({})", if self.0.is_some() { "asked" } else { "none" })
    }
}

/// The store of one machine.
pub struct Store {
    dir: PathBuf,
    in_use: LayersInUse,
    removals: Removals,
}

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let what = format!("image store: cannot {what} {}", path.display());
    move |source| Error::Store { what, source }
}

/// The digits of a digest that came through [`is_digest`].
fn hex(digest: &str) -> Result<&str, Error> {
    digest.strip_prefix("sha256:").filter(|d| is_hex(d)).ok_or_else(|| Error::Content {
        reference: digest.to_owned(),
        what: "only sha256 digests are supported".to_owned(),
    })
}

impl Store {
    /// Opens the directory, making it when missing (for root alone).
    pub fn open(dir: &Path, in_use: LayersInUse) -> Result<Store, Error> {
        for directory in ["blobs", "layers", "implied", "tmp"] {
            let path = dir.join(directory);
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed("make", &path))?;
        }
        let format = dir.join("format");
        match fs::read_to_string(&format) {
            Ok(found) if found.trim() == FORMAT => {}
            Ok(found) => {
                let message = format!("it has format {}, this version of minik knows {FORMAT}", found.trim());
                return Err(failed("use", dir)(io::Error::other(message)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::write(&format, FORMAT).map_err(failed("write", &format))?;
            }
            Err(error) => return Err(failed("read", &format)(error)),
        }
        let store = Store { dir: dir.to_owned(), in_use, removals: Removals::default() };
        store.sweep()?;
        // A machine that does not name its boot cannot be told to have crashed.
        if let Ok(boot) = fs::read_to_string(BOOT_ID) {
            store.first_in(&boot)?;
        }
        Ok(store)
    }

    /// The first to open the store in a boot trusts only what the index names.
    fn first_in(&self, boot: &str) -> Result<(), Error> {
        let path = self.dir.join("boot");
        let known = || fs::read_to_string(&path).is_ok_and(|last| last == boot);
        if known() {
            return Ok(());
        }
        let content = self.content_lock();
        let alone = Lock::exclusive(&content).map_err(failed("lock", &content))?;
        if !known() {
            self.collect_alone(alone)?;
            fs::write(&path, boot).map_err(failed("write", &path))?;
        }
        Ok(())
    }

    /// Removes what crashed processes left: temporary directories and lock files that nobody holds.
    fn sweep(&self) -> Result<(), Error> {
        let tmp = self.dir.join("tmp");
        let mut left = Vec::new();
        for entry in fs::read_dir(&tmp).map_err(failed("read", &tmp))?.flatten() {
            let path = entry.path();
            let Ok(Some(lock)) = Lock::try_exclusive(&path.with_extension("lock")) else { continue };
            if path.extension().is_some_and(|e| e == "lock") {
                lock.remove();
            } else {
                left.push(Scratch { path, lock: Some(lock) });
            }
        }
        self.removals.begin(left);
        Ok(())
    }

    /// A directory to make something in, on the same file system; removed when dropped.
    pub fn scratch(&self) -> Result<Scratch, Error> {
        let path = self.dir.join("tmp").join(format!("{:016x}", getrandom::u64().unwrap_or_default()));
        let lock_path = path.with_extension("lock");
        let lock = Lock::exclusive(&lock_path).map_err(failed("lock", &lock_path))?;
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(failed("make", &path))?;
        Ok(Scratch { path, lock: Some(lock) })
    }

    fn content_lock(&self) -> PathBuf {
        self.dir.join("content.lock")
    }

    /// Keeps blobs and layers from being removed, by whichever process, until dropped. Waits while some are removed.
    pub fn hold(&self) -> Result<Lock, Error> {
        let path = self.content_lock();
        Lock::shared(&path).map_err(failed("lock", &path))
    }

    /// Waits for the turn to make a layer, among all processes of the machine.
    pub fn layer_turn(&self, diff_id: &str) -> Result<Turn, Error> {
        let path = self.dir.join("tmp").join(hex(diff_id)?).with_extension("lock");
        Lock::exclusive(&path).map(|lock| Turn(Some(lock))).map_err(failed("lock", &path))
    }

    /// Where an unpacked layer is or will be.
    pub fn layer_path(&self, diff_id: &str) -> Result<PathBuf, Error> {
        Ok(self.dir.join("layers").join(hex(diff_id)?))
    }

    /// Where a blob is or will be.
    pub fn blob_path(&self, digest: &str) -> Result<PathBuf, Error> {
        Ok(self.dir.join("blobs").join(hex(digest)?))
    }

    /// Whether a layer is here, unpacked, with the blob it came from.
    pub fn has_layer(&self, diff_id: &str, blob: &str) -> Result<bool, Error> {
        Ok(self.layer_path(diff_id)?.is_dir() && self.blob_path(blob)?.is_file())
    }

    /// A small blob's bytes, when it is here and whole.
    pub fn blob(&self, digest: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = self.blob_path(digest)?;
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes).filter(|bytes| sha256(bytes) == digest)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Keeps a small blob (its digest was checked).
    pub fn put_blob(&self, digest: &str, bytes: &[u8]) -> Result<(), Error> {
        if self.blob(digest)?.is_some() {
            return Ok(());
        }
        let path = self.blob_path(digest)?;
        let scratch = self.scratch()?;
        let file = scratch.path().join("blob");
        fs::write(&file, bytes).map_err(failed("write", &file))?;
        fs::rename(&file, &path).map_err(failed("put", &path))
    }

    /// Puts a finished layer in its place: `fs` and `blob` of a scratch directory.
    pub fn put_layer(
        &self,
        scratch: &Scratch,
        digest: &str,
        diff_id: &str,
        implied: &BTreeSet<PathBuf>,
    ) -> Result<(), Error> {
        let blob_path = self.blob_path(digest)?;
        fs::rename(scratch.path().join("blob"), &blob_path).map_err(failed("put", &blob_path))?;
        let (list, list_path) = (scratch.path().join("implied"), self.implied_path(diff_id)?);
        if !implied.is_empty() {
            fs::write(&list, implied::encode(implied)).map_err(failed("write", &list))?;
            fs::rename(&list, &list_path).map_err(failed("put", &list_path))?;
        }
        self.put_directory(&scratch.path().join("fs"), &self.layer_path(diff_id)?)
    }

    /// Puts a layer's directory in its place; one that is there has the same contents, by its name.
    fn put_directory(&self, made: &Path, layer: &Path) -> Result<(), Error> {
        match fs::rename(made, layer) {
            Err(_) if layer.is_dir() => Ok(()),
            result => result.map_err(failed("put", layer)),
        }
    }

    fn implied_path(&self, diff_id: &str) -> Result<PathBuf, Error> {
        Ok(self.dir.join("implied").join(hex(diff_id)?))
    }

    /// The layer that belongs on top of these to give directories back what layers left out; made when missing.
    pub fn attributes_layer(&self, layers: &[String]) -> Result<Option<String>, Error> {
        let mut trees = Vec::new();
        for diff_id in layers {
            let list = match fs::read(self.implied_path(diff_id)?) {
                Ok(bytes) => implied::decode(&bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
                Err(error) => return Err(failed("read", &self.implied_path(diff_id)?)(error)),
            };
            trees.push((self.layer_path(diff_id)?, list));
        }
        let missing = implied::missing(&trees).map_err(failed("look into layers of", &self.dir))?;
        if missing.is_empty() {
            return Ok(None);
        }
        let digest =
            sha256(&serde_json::to_vec(&missing).map_err(|e| failed("describe", &self.dir)(e.into()))?);
        let layer = self.layer_path(&digest)?;
        if !layer.is_dir() {
            let scratch = self.scratch()?;
            let made = scratch.path().join("fs");
            implied::make(&made, &missing).map_err(failed("make", &made))?;
            self.put_directory(&made, &layer)?;
        }
        Ok(Some(digest))
    }

    /// Whether all of an image is here.
    pub fn is_whole(&self, record: &Record) -> Result<bool, Error> {
        for layer in record.all_layers() {
            if !self.layer_path(layer)?.is_dir() {
                return Ok(false);
            }
        }
        for blob in &record.blobs {
            if !self.blob_path(blob)?.is_file() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read(&self) -> Result<Index, Error> {
        let path = self.dir.join("index.json");
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|e| failed("read", &path)(io::Error::other(e)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Index::default()),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Changes the index, alone among all processes, and makes the change durable.
    fn change<T>(&self, change: impl FnOnce(&mut Index) -> Result<T, Error>) -> Result<T, Error> {
        let lock = self.dir.join("index.lock");
        let _lock = Lock::exclusive(&lock).map_err(failed("lock", &lock))?;
        let mut index = self.read()?;
        let result = change(&mut index)?;
        let path = self.dir.join("index.json");
        let next = self.dir.join("index.json.next");
        let write = || -> io::Result<()> {
            let mut file = File::create(&next)?;
            file.write_all(&serde_json::to_vec_pretty(&index)?)?;
            // One sync for all files of the image that the index is about to name, then the index itself.
            rustix::fs::syncfs(&file)?;
            fs::rename(&next, &path)
        };
        write().map_err(failed("write", &path))?;
        Ok(result)
    }

    /// Names an image whose layers are all here. A reference with a digest names no tag: the registry was not asked
    /// what the tag means. Answers whether a tag has left another image.
    pub fn add(
        &self,
        reference: Option<&Reference>,
        manifest: &str,
        mut record: Record,
    ) -> Result<bool, Error> {
        self.change(|index| {
            if !self.is_whole(&record)? {
                return Err(Error::Content {
                    reference: reference.map_or_else(|| manifest.to_owned(), Reference::to_string),
                    what: "layers of it were removed meanwhile: pull it again".to_owned(),
                });
            }
            let tag = reference.filter(|r| r.digest.is_none()).and_then(|r| r.tag.as_ref().map(|t| (r, t)));
            record.by_tag = tag.is_some() && index.images.get(manifest).is_none_or(|known| known.by_tag);
            let digests = record.digests.clone();
            for (repository, before) in index.images.get(manifest).iter().flat_map(|known| &known.access) {
                record.access.entry(repository.clone()).or_default().join(before);
            }
            index.images.insert(manifest.to_owned(), record);
            for (reference, digest) in reference.iter().flat_map(|r| digests.iter().map(move |d| (r, d))) {
                index.pins.insert(format!("{}@{digest}", reference.name()), manifest.to_owned());
            }
            let moved = tag.and_then(|(reference, tag)| {
                index.tags.insert(format!("{}:{tag}", reference.name()), manifest.to_owned())
            });
            Ok(moved.is_some_and(|before| before != manifest))
        })
    }

    /// The image of this name or id, when it is here.
    pub fn find(&self, name: &str) -> Result<Option<Image>, Error> {
        let index = self.read()?;
        match resolve(&index, name)? {
            Some(manifest) => self.image(&index, &manifest),
            None => Ok(None),
        }
    }

    /// The record of this name or id.
    pub fn record(&self, name: &str) -> Result<Option<(String, Record)>, Error> {
        let index = self.read()?;
        let found = resolve(&index, name)?;
        Ok(found.and_then(|digest| index.images.get(&digest).cloned().map(|record| (digest, record))))
    }

    /// All images.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        let index = self.read()?;
        index.images.keys().filter_map(|digest| self.image(&index, digest).transpose()).collect()
    }

    /// An image of the index; one that has lost a part is as good as absent, and is pulled again.
    fn image(&self, index: &Index, digest: &str) -> Result<Option<Image>, Error> {
        let Some(record) = index.images.get(digest) else { return Ok(None) };
        let Some(config) = self.blob(&record.config)? else { return Ok(None) };
        if !self.is_whole(record)? {
            return Ok(None);
        }
        let (config, _) = manifest::config(&config)
            .map_err(|what| Error::Content { reference: digest.to_owned(), what })?;
        let named = |map: &BTreeMap<String, String>| {
            map.iter().filter(|(_, d)| *d == digest).map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        let layers = topmost(record.all_layers());
        Ok(Some(Image {
            id: record.config.clone(),
            references: named(&index.tags),
            repo_digests: named(&index.pins),
            layers: layers.into_iter().map(|l| self.layer_path(l)).collect::<Result<_, _>>()?,
            config,
            size: record.size,
            access: record.access.clone(),
            held: None,
        }))
    }

    /// Takes a name away (an id: all its names), then what nothing names any more.
    pub fn remove(&self, name: &str) -> Result<Vec<String>, Error> {
        let removed = self.change(|index| index.unname(name))?;
        self.collect()?;
        Ok(removed)
    }

    /// Removes images that lost their last tag to a later one, then blobs and layers that no image has; never what a
    /// container stands on. Does nothing while somebody holds the content: who comes next collects.
    pub fn collect(&self) -> Result<(), Error> {
        let path = self.content_lock();
        match Lock::try_exclusive(&path).map_err(failed("lock", &path))? {
            Some(alone) => self.collect_alone(alone),
            None => Ok(()),
        }
    }

    fn collect_alone(&self, alone: Lock) -> Result<(), Error> {
        let in_use = self.in_use.ask()?;
        let index = self.read()?;
        let mut outdated = Vec::new();
        for manifest in index.untagged() {
            if !is_used(&index.images[&manifest], &in_use)? {
                outdated.push(manifest);
            }
        }
        let index = if outdated.is_empty() {
            index
        } else {
            self.change(|index| {
                for manifest in &outdated {
                    index.forget(manifest);
                }
                Ok(index.clone())
            })?
        };
        let aside = self.set_aside(&index, in_use, alone)?;
        // Moved aside at once, removed when nobody waits for it any more.
        self.removals.begin(vec![aside]);
        Ok(())
    }

    /// Moves what neither an image nor a container needs to where it is removed when that is dropped.
    fn set_aside(&self, index: &Index, in_use: BTreeSet<OsString>, alone: Lock) -> Result<Scratch, Error> {
        let (mut blobs, mut layers) = (BTreeSet::new(), in_use);
        for (manifest, record) in &index.images {
            for digest in record.blobs.iter().chain([manifest, &record.config]).chain(&record.digests) {
                blobs.insert(OsString::from(hex(digest)?));
            }
            for layer in record.all_layers() {
                layers.insert(OsString::from(hex(layer)?));
            }
        }
        let aside = self.scratch()?;
        for (directory, keep) in [("blobs", &blobs), ("layers", &layers), ("implied", &layers)] {
            let directory = self.dir.join(directory);
            for entry in fs::read_dir(&directory).map_err(failed("read", &directory))?.flatten() {
                if !keep.contains(&entry.file_name()) {
                    let path = entry.path();
                    let number = format!("{:016x}", getrandom::u64().unwrap_or_default());
                    fs::rename(&path, aside.path().join(number)).map_err(failed("remove", &path))?;
                }
            }
        }
        drop(alone);
        Ok(aside)
    }
}

/// A directory that goes when it is dropped.
pub struct Scratch {
    path: PathBuf,
    lock: Option<Lock>,
}

impl Scratch {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = removal::tree(&self.path) {
            tracing::warn!(%error, "cannot remove what was left of image work: it is tried again at the next start");
        }
        self.lock.take().into_iter().for_each(Lock::remove);
    }
}

/// What is being removed beside everything else: nobody's start waits until a large image is gone, only the end of the
/// store does.
#[derive(Default)]
struct Removals(Mutex<Vec<JoinHandle<()>>>);

impl Removals {
    fn begin(&self, what: Vec<Scratch>) {
        if what.is_empty() {
            return;
        }
        // Where there is no thread to be had, it goes at once.
        let begun = std::thread::Builder::new().name("image-removal".to_owned()).spawn(move || drop(what));
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|thread| !thread.is_finished());
        running.extend(begun);
    }
}

impl Drop for Removals {
    fn drop(&mut self) {
        let running = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        running.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// The turn to make a layer, until dropped.
pub struct Turn(Option<Lock>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Lock::remove);
    }
}

#[cfg(test)]
mod tests;
