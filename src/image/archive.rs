//! Archives of images: docker-archive and OCI layout, in and out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use oci_spec::image::{ImageIndex, ImageManifest};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::EntryType;

use super::layer::{self, digest_text, sha256};
use super::manifest::{self, Compression, Document};
use super::pull::Expected;
use super::reference::Reference;
use super::store::{Record, Scratch, Store};
use super::tarball::{self, Reader};
use super::unpack::Limits;
use super::{Error, Image, Images};

/// The longest file of an archive that is not a layer, in bytes.
const SMALL_MAX: u64 = 16 << 20;
/// The annotation that names an image in an OCI layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation by which containerd names an image in an OCI layout.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

fn invalid(what: impl Into<String>) -> Error {
    Error::Content { reference: "archive".to_owned(), what: what.into() }
}

fn failed(what: &str) -> impl Fn(io::Error) -> Error + '_ {
    move |source| Error::Store { what: what.to_owned(), source }
}

fn unreadable(error: tarball::Error) -> Error {
    match error {
        tarball::Error::Read(source) => failed("cannot read the archive")(source),
        refused => invalid(refused.to_string()),
    }
}

/// The files of an archive, set down under numbers so that their names reach nothing.
struct Spool {
    scratch: Scratch,
    files: HashMap<String, PathBuf>,
}

impl Spool {
    fn read(scratch: Scratch, archive: impl Read, limits: Limits) -> Result<Spool, Error> {
        let stream = layer::inflate(archive).map_err(failed("cannot read the archive"))?;
        let mut files = HashMap::new();
        let mut links = Vec::new();
        let mut reader = Reader::new(stream);
        let (mut entries, mut bytes) = (0, 0_u64);
        while let Some(entry) = reader.entry().map_err(unreadable)? {
            let name = plain_name(Path::new(OsStr::from_bytes(&entry.path)))?;
            entries += 1;
            bytes = bytes.saturating_add(entry.size);
            if entries > limits.entries || bytes > limits.bytes {
                let Limits { entries, bytes, .. } = limits;
                return Err(invalid(format!("it has more than {entries} entries or {bytes} bytes")));
            }
            if entry.kind == EntryType::Regular {
                check_room(scratch.path(), &name, entry.size)?;
                let path = scratch.path().join(files.len().to_string());
                let mut file = File::create(&path).map_err(failed("cannot set down the archive"))?;
                io::copy(&mut reader, &mut file).map_err(failed("cannot set down the archive"))?;
                files.insert(name, path);
            } else if let Some(target) = entry.link {
                // Old docker archives link a layer to the one that it repeats.
                let target = PathBuf::from(OsStr::from_bytes(&target));
                links.push((name, target, entry.kind == EntryType::Symlink));
            }
        }
        for (name, target, symbolic) in links {
            let base =
                if symbolic { Path::new(&name).parent().unwrap_or(Path::new("")) } else { Path::new("") };
            if let Some(path) = normal(&base.join(target)).and_then(|t| files.get(&t).cloned()) {
                files.insert(name, path);
            }
        }
        Ok(Spool { scratch, files })
    }

    fn small(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some(path) = self.files.get(name) else { return Ok(None) };
        let size = path.metadata().map_err(failed("cannot read the archive"))?.len();
        if size > SMALL_MAX {
            return Err(invalid(format!("{name} has more than {SMALL_MAX} bytes")));
        }
        std::fs::read(path).map(Some).map_err(failed("cannot read the archive"))
    }

    fn required(&self, name: &str) -> Result<Vec<u8>, Error> {
        self.small(name)?.ok_or_else(|| invalid(format!("{name} is missing from the archive")))
    }

    fn layer(&self, name: &str) -> Result<&PathBuf, Error> {
        self.files.get(name).ok_or_else(|| invalid(format!("layer {name} is missing from the archive")))
    }
}

/// Refuses what the disk cannot hold before it is full.
fn check_room(directory: &Path, name: &str, size: u64) -> Result<(), Error> {
    let disk = rustix::fs::statvfs(directory).map_err(|e| failed("cannot look at the disk")(e.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if size > free {
        let message = format!("{name} needs {size} bytes, {} has {free} left", directory.display());
        return Err(failed("cannot set down the archive")(io::Error::new(
            io::ErrorKind::StorageFull,
            message,
        )));
    }
    Ok(())
}

/// A name without `./`; one that points out of the archive is refused.
fn plain_name(path: &Path) -> Result<String, Error> {
    normal(path).ok_or_else(|| invalid(format!("entry {:?} points out of the archive", path.display())))
}

/// A path with `.` and inner `..` undone; `None` when it leaves its start.
fn normal(path: &Path) -> Option<String> {
    let mut parts: Vec<String> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => parts.push(name.to_str()?.to_owned()),
            Component::CurDir => {}
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

/// One image of an archive, before its layers are unpacked.
struct Found {
    names: Vec<Reference>,
    manifest: Vec<u8>,
    config: Vec<u8>,
    /// File name in the archive and digest where it is known.
    layers: Vec<(String, Option<String>)>,
}

impl Images {
    /// Takes in all images of an archive (docker-archive or OCI layout, also gzip or zstd compressed).
    pub async fn load(&self, archive: impl Read + Send + 'static) -> Result<Vec<Image>, Error> {
        let (store, limits) = (self.store.clone(), self.limits);
        let spool = self.blocking(move || Spool::read(store.scratch()?, archive, limits)).await?;
        let found = match spool.small("manifest.json")? {
            Some(list) => docker_images(&spool, &list)?,
            None => match spool.small("index.json")? {
                Some(index) => oci_images(&spool, &index)?,
                None => {
                    return Err(invalid(
                        "it is neither a docker archive (manifest.json) nor an OCI layout (index.json)",
                    ));
                }
            },
        };
        let mut images = Vec::new();
        for one in found {
            images.push(self.load_one(&spool, one).await?);
        }
        drop(spool.scratch);
        Ok(images)
    }

    async fn load_one(&self, spool: &Spool, found: Found) -> Result<Image, Error> {
        manifest::check_platform(&found.config).map_err(invalid)?;
        let (_, diff_ids) = manifest::config(&found.config).map_err(invalid)?;
        if diff_ids.len() != found.layers.len() {
            return Err(invalid(format!(
                "an image has {} layers, its configuration {}",
                found.layers.len(),
                diff_ids.len()
            )));
        }
        let shown = found.names.first().cloned().unwrap_or(Reference {
            registry: "archive".into(),
            repository: "image".into(),
            tag: None,
            digest: None,
        });
        let held = self.hold().await?;
        let mut blobs = Vec::new();
        let mut size = 0;
        for ((name, digest), diff_id) in found.layers.iter().zip(&diff_ids) {
            let path = spool.layer(name)?.clone();
            let digest = match digest {
                Some(digest) => digest.clone(),
                None => {
                    let path = path.clone();
                    self.blocking(move || file_digest(&path)).await?
                }
            };
            size += path.metadata().map_err(failed("cannot read the archive"))?.len();
            let _turn = self.turn(diff_id).await?;
            if !self.store.has_layer(diff_id, &digest)? {
                let file = File::open(&path).map_err(failed("cannot read the archive"))?;
                let expected = Expected { digest: Some(digest.clone()), diff_id: diff_id.clone() };
                self.make_layer(shown.clone(), expected, file).await?;
            }
            blobs.push(digest);
        }
        let config_digest = sha256(&found.config);
        let manifest = if found.manifest.is_empty() {
            docker_manifest(&found.config, &config_digest, &blobs, spool, &found.layers)?
        } else {
            found.manifest
        };
        let digest = sha256(&manifest);
        self.store.put_blob(&config_digest, &found.config)?;
        self.store.put_blob(&digest, &manifest)?;
        let record = Record {
            config: config_digest,
            blobs,
            layers: diff_ids,
            size,
            digests: vec![digest.clone()],
            attributes: None,
            by_tag: false,
            loaded: true,
            access: BTreeMap::new(),
        };
        let mut names = found.names.into_iter();
        let mut image = self.finish(names.next(), digest.clone(), record.clone(), held).await?;
        for name in names {
            image = self.finish(Some(name), digest.clone(), record.clone(), self.hold().await?).await?;
        }
        Ok(image)
    }

    /// Writes images as an OCI layout that is a docker-archive too (`manifest.json` beside `index.json`). Nothing is
    /// written when one of them is not here, and none of them goes meanwhile.
    pub async fn save(&self, names: &[String], out: impl Write + Send + 'static) -> Result<(), Error> {
        let store = self.store.clone();
        let names = names.to_owned();
        self.blocking(move || {
            let _held = store.hold()?;
            let mut chosen = Vec::new();
            for name in &names {
                let found = store.record(name)?.ok_or_else(|| Error::NoSuchImage(name.clone()))?;
                chosen.push((name.as_str(), found));
            }
            write_archive(&store, &chosen, out)
        })
        .await
    }
}

fn write_archive(store: &Store, images: &[(&str, (String, Record))], out: impl Write) -> Result<(), Error> {
    let failed_to_write = || failed("cannot write the archive");
    let mut builder = tar::Builder::new(out);
    let mut written = BTreeSet::new();
    let (mut manifests, mut docker) = (Vec::new(), Vec::new());
    append(&mut builder, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    for (name, (digest, record)) in images {
        for blob in record.blobs.iter().chain([&record.config, digest]) {
            if written.insert(blob) {
                let mut file =
                    File::open(store.blob_path(blob)?).map_err(failed("cannot read a blob of the store"))?;
                builder.append_file(blob_name(blob), &mut file).map_err(failed_to_write())?;
            }
        }
        let manifest = store.blob(digest)?.unwrap_or_default();
        let tag = Reference::parse(name).ok().filter(|r| r.tag.is_some()).map(|r| r.to_string());
        let mut descriptor = json!({
            "mediaType": manifest::media_type(&manifest), "digest": digest, "size": manifest.len(),
        });
        if let Some(tag) = &tag {
            descriptor["annotations"] = json!({
                CONTAINERD_NAME: tag, REF_NAME: tag.rsplit_once(':').map_or("latest", |(_, t)| t),
            });
        }
        manifests.push(descriptor);
        docker.push(json!({
            "Config": blob_name(&record.config), "RepoTags": Vec::from_iter(tag),
            "Layers": record.blobs.iter().map(|b| blob_name(b)).collect::<Vec<_>>(),
        }));
    }
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests,
    });
    append(&mut builder, "index.json", index.to_string().as_bytes())?;
    append(&mut builder, "manifest.json", Value::Array(docker).to_string().as_bytes())?;
    let mut out = builder.into_inner().map_err(failed_to_write())?;
    out.flush().map_err(failed_to_write())
}

fn blob_name(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn append(builder: &mut tar::Builder<impl Write>, name: &str, content: &[u8]) -> Result<(), Error> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, content).map_err(failed("cannot write the archive"))
}

fn file_digest(path: &Path) -> Result<String, Error> {
    let mut hash = Sha256::new();
    let mut file = File::open(path).map_err(failed("cannot read the archive"))?;
    let mut buffer = vec![0u8; 256 << 10];
    loop {
        let got = file.read(&mut buffer).map_err(failed("cannot read the archive"))?;
        if got == 0 {
            return Ok(digest_text(hash));
        }
        hash.update(&buffer[..got]);
    }
}

/// The images that a `manifest.json` lists.
fn docker_images(spool: &Spool, list: &[u8]) -> Result<Vec<Found>, Error> {
    let list: Vec<Value> =
        serde_json::from_slice(list).map_err(|e| invalid(format!("manifest.json cannot be read: {e}")))?;
    list.iter()
        .map(|item| {
            let config = item["Config"].as_str().ok_or_else(|| invalid("manifest.json names no Config"))?;
            let layers = item["Layers"].as_array().into_iter().flatten();
            let names = item["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str);
            Ok(Found {
                names: names.map(Reference::parse).collect::<Result<_, _>>()?,
                manifest: Vec::new(),
                config: spool.required(config)?,
                layers: layers.filter_map(Value::as_str).map(|name| (name.to_owned(), None)).collect(),
            })
        })
        .collect()
}

/// A manifest for an image that came without one.
fn docker_manifest(
    config: &[u8],
    config_digest: &str,
    blobs: &[String],
    spool: &Spool,
    files: &[(String, Option<String>)],
) -> Result<Vec<u8>, Error> {
    let mut layers = Vec::new();
    for (digest, (name, _)) in blobs.iter().zip(files) {
        let path = spool.layer(name)?;
        let mut head = [0u8; 4];
        let mut file = File::open(path).map_err(failed("cannot read the archive"))?;
        let got = file.read(&mut head).map_err(failed("cannot read the archive"))?;
        let suffix = match Compression::of(&head[..got]) {
            Compression::Gzip => "+gzip",
            Compression::Zstd => "+zstd",
            Compression::None => "",
        };
        let size = path.metadata().map_err(failed("cannot read the archive"))?.len();
        layers.push(json!({
            "mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"), "digest": digest, "size": size,
        }));
    }
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len()},
        "layers": layers,
    });
    Ok(manifest.to_string().into_bytes())
}

/// The images for this machine in an OCI layout; other platforms need not even be there.
fn oci_images(spool: &Spool, index: &[u8]) -> Result<Vec<Found>, Error> {
    let index: ImageIndex =
        serde_json::from_slice(index).map_err(|e| invalid(format!("index.json cannot be read: {e}")))?;
    let mut found = Vec::new();
    for descriptor in index.manifests() {
        let annotation = |key: &str| descriptor.annotations().as_ref().and_then(|a| a.get(key).cloned());
        // A bare tag names nothing by itself: only a full name does.
        let name =
            annotation(CONTAINERD_NAME).or_else(|| annotation(REF_NAME).filter(|n| n.contains(['/', ':'])));
        let bytes = spool.required(&blob_name(descriptor.digest().as_ref()))?;
        let (manifest_bytes, manifest): (Vec<u8>, ImageManifest) =
            match manifest::parse(&bytes).map_err(invalid)? {
                Document::Manifest(manifest) => (bytes, *manifest),
                Document::Index(nested) => {
                    let chosen = manifest::choose(&nested).map_err(invalid)?;
                    let bytes = spool.required(&blob_name(chosen.digest().as_ref()))?;
                    match manifest::parse(&bytes).map_err(invalid)? {
                        Document::Manifest(manifest) => (bytes, *manifest),
                        Document::Index(_) => return Err(invalid("an index leads to another index")),
                    }
                }
            };
        let config = spool.required(&blob_name(manifest.config().digest().as_ref()))?;
        if sha256(&config) != manifest.config().digest().to_string() {
            return Err(invalid("a configuration is not what its digest names"));
        }
        let layers = manifest.layers().iter().map(|l| l.digest().to_string());
        found.push(Found {
            names: name.as_deref().map(Reference::parse).transpose()?.into_iter().collect(),
            layers: layers.map(|d| (blob_name(&d), Some(d))).collect(),
            manifest: manifest_bytes,
            config,
        });
    }
    Ok(found)
}
