//! Volumes made of files (configMap, secret, downwardAPI, projected): contents (pure), then an atomic swap.
//!
//! The layout on disk is Kubernetes' AtomicWriter's: contents in a directory named by time, `..data` pointing
//! to it, a link into `..data` for each first path element, so that a reader sees all of the old or all of the new.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, PodCertificateProjection,
    Secret, Volume,
};

use super::certificates::Bundle;
use crate::clock;
use crate::kubelet::downward;
use crate::kubelet::resources::NodeCapacity;

/// The mode of files when nothing else is said (Kubernetes' default: 0644).
const DEFAULT_MODE: i32 = 0o644;
/// The lifetime of a projected token when nothing else is said, in seconds.
const TOKEN_SECONDS: i64 = 3600;

/// Where files of a volume come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Keys of a ConfigMap.
    ConfigMap {
        /// Its name.
        name: String,
        /// Whether it may be missing.
        optional: bool,
        /// Which keys, and where; empty: all.
        items: Vec<KeyToPath>,
    },
    /// Keys of a Secret.
    Secret {
        /// Its name.
        name: String,
        /// Whether it may be missing.
        optional: bool,
        /// Which keys, and where; empty: all.
        items: Vec<KeyToPath>,
    },
    /// Fields of the pod.
    Downward {
        /// Which, and where.
        items: Vec<DownwardAPIVolumeFile>,
    },
    /// A token of the pod's service account.
    Token {
        /// Where.
        path: String,
        /// For whom.
        audience: Option<String>,
        /// For how long.
        seconds: i64,
    },
    /// Certificates to trust.
    Trust(ClusterTrustBundleProjection),
    /// A certificate of the pod, with its key.
    Certificate {
        /// Which of the volume's sources it is.
        number: usize,
        /// Of whom, and where.
        projection: PodCertificateProjection,
    },
}

/// All sources of one volume.
#[derive(Debug, Clone, PartialEq)]
pub struct Sources {
    /// Later ones win.
    pub parts: Vec<Source>,
    /// Of files that name none of their own.
    pub default_mode: u32,
}

/// A file as it is to be.
#[derive(Debug, Clone, PartialEq)]
struct File {
    content: Vec<u8>,
    mode: u32,
    /// Root when absent.
    owner: Option<u32>,
}

impl File {
    fn new(content: Vec<u8>, mode: u32) -> File {
        File { content, mode, owner: None }
    }
}

fn mode(mode: Option<i32>) -> u32 {
    u32::try_from(mode.unwrap_or(DEFAULT_MODE)).unwrap_or(0o644)
}

impl Source {
    /// The sources of a volume made of files; an error says what cannot be made.
    pub fn of(volume: &Volume) -> Result<Sources, String> {
        if let Some(map) = &volume.config_map {
            let part = Source::ConfigMap {
                name: map.name.clone(),
                optional: map.optional == Some(true),
                items: map.items.clone().unwrap_or_default(),
            };
            return Ok(Sources { parts: vec![part], default_mode: mode(map.default_mode) });
        }
        if let Some(secret) = &volume.secret {
            let part = Source::Secret {
                name: secret.secret_name.clone().unwrap_or_default(),
                optional: secret.optional == Some(true),
                items: secret.items.clone().unwrap_or_default(),
            };
            return Ok(Sources { parts: vec![part], default_mode: mode(secret.default_mode) });
        }
        if let Some(source) = &volume.downward_api {
            let part = Source::Downward { items: source.items.clone().unwrap_or_default() };
            return Ok(Sources { parts: vec![part], default_mode: mode(source.default_mode) });
        }
        let Some(projected) = &volume.projected else {
            return Err("this kind of volume is not supported by minik".to_owned());
        };
        let mut parts = Vec::new();
        for (number, source) in projected.sources.iter().flatten().enumerate() {
            if let Some(projection) = &source.cluster_trust_bundle {
                parts.push(Source::Trust(projection.clone()));
            }
            if let Some(projection) = &source.pod_certificate {
                parts.push(Source::Certificate { number, projection: projection.clone() });
            }
            if let Some(map) = &source.config_map {
                parts.push(Source::ConfigMap {
                    name: map.name.clone(),
                    optional: map.optional == Some(true),
                    items: map.items.clone().unwrap_or_default(),
                });
            }
            if let Some(secret) = &source.secret {
                parts.push(Source::Secret {
                    name: secret.name.clone(),
                    optional: secret.optional == Some(true),
                    items: secret.items.clone().unwrap_or_default(),
                });
            }
            if let Some(downward) = &source.downward_api {
                parts.push(Source::Downward { items: downward.items.clone().unwrap_or_default() });
            }
            if let Some(token) = &source.service_account_token {
                parts.push(Source::Token {
                    path: token.path.clone(),
                    audience: token.audience.clone().filter(|a| !a.is_empty()),
                    seconds: token.expiration_seconds.unwrap_or(TOKEN_SECONDS),
                });
            }
        }
        Ok(Sources { parts, default_mode: mode(projected.default_mode) })
    }
}

/// Files by relative path, with their modes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Files {
    files: BTreeMap<PathBuf, File>,
}

impl Files {
    /// A single file.
    pub fn one(path: &str, content: Vec<u8>, mode: u32) -> Files {
        Files { files: BTreeMap::from([(PathBuf::from(path), File::new(content, mode))]) }
    }

    /// These, owned by a user.
    pub fn owned_by(mut self, owner: Option<u32>) -> Files {
        self.files.values_mut().for_each(|file| file.owner = owner);
        self
    }

    /// Adds others over these.
    pub fn merge(&mut self, other: Files) {
        self.files.extend(other.files);
    }
}

/// Picks the wanted keys (all when none is named).
fn pick<'a>(
    kind: &str,
    content: &BTreeMap<&'a str, &'a [u8]>,
    items: &[KeyToPath],
    optional: bool,
    default_mode: u32,
) -> Result<Files, String> {
    let mut files = Files::default();
    if items.is_empty() {
        for (key, bytes) in content {
            files.files.insert(PathBuf::from(key), File::new(bytes.to_vec(), default_mode));
        }
    }
    for item in items {
        match content.get(item.key.as_str()) {
            Some(bytes) => {
                let mode = item.mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(default_mode);
                files.files.insert(PathBuf::from(&item.path), File::new(bytes.to_vec(), mode));
            }
            None if optional => {}
            None => return Err(format!("{kind} references non-existent {kind} key: {}", item.key)),
        }
    }
    Ok(files)
}

/// The files of a ConfigMap.
pub fn of_config_map(
    map: &ConfigMap,
    items: &[KeyToPath],
    optional: bool,
    default_mode: u32,
) -> Result<Files, String> {
    let text = map.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice()));
    pick("configmap", &text.chain(binary).collect(), items, optional, default_mode)
}

/// The files of a Secret.
pub fn of_secret(
    secret: &Secret,
    items: &[KeyToPath],
    optional: bool,
    default_mode: u32,
) -> Result<Files, String> {
    let content = secret.data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice())).collect();
    pick("secret", &content, items, optional, default_mode)
}

/// The files of the downward API.
pub fn of_downward(
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    node: &NodeCapacity,
    default_mode: u32,
) -> Result<Files, String> {
    let mut files = Files::default();
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => downward::field(pod, &field.field_path)?,
            (None, Some(resource)) => downward::resource(pod, resource, None, node)?,
            (None, None) => return Err(format!("downwardAPI file {:?} names no field", item.path)),
        };
        let mode = item.mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(default_mode);
        files.files.insert(PathBuf::from(&item.path), File::new(text.into_bytes(), mode));
    }
    Ok(files)
}

/// The files of a certificate: the key and it in one, or each by itself.
pub fn of_certificate(bundle: &Bundle, projection: &PodCertificateProjection, mode: u32) -> Files {
    let Bundle { key, chain } = bundle;
    let mut files = Files::default();
    for (path, content) in [
        (&projection.credential_bundle_path, [key.as_str(), chain].concat()),
        (&projection.key_path, key.clone()),
        (&projection.certificate_chain_path, chain.clone()),
    ] {
        if let Some(path) = path.as_deref().filter(|path| !path.is_empty()) {
            files.merge(Files::one(path, content.into_bytes(), mode));
        }
    }
    files
}

/// Writes the files below `place` and swaps them in; does nothing when they are there already.
pub fn publish(place: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    for path in files.files.keys() {
        if !path.components().all(|c| matches!(c, Component::Normal(_))) || path.starts_with("..data") {
            let message = format!("path {path:?} must stay inside the volume");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
    }
    fs::create_dir_all(place)?;
    fs::set_permissions(place, fs::Permissions::from_mode(0o755))?;
    let data = place.join("..data");
    let current = fs::read_link(&data).ok();
    if let Some(current) = &current
        && same(&place.join(current), files)
    {
        return Ok(());
    }
    let stamp = format!("..{}", clock::now().strftime("%Y_%m_%d_%H_%M_%S.%9f"));
    let fresh = place.join(&stamp);
    write(&fresh, files, group)?;
    let next = place.join("..data_tmp");
    let _ = fs::remove_file(&next);
    symlink(&stamp, &next)?;
    fs::rename(&next, &data)?;
    link_names(place, files)?;
    if let Some(old) = current {
        fs::remove_dir_all(place.join(old))?;
    }
    Ok(())
}

fn write(directory: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    fs::create_dir(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    for (path, File { content, mode, owner }) in &files.files {
        let target = directory.join(path);
        // The process's umask must not take away what is asked for, neither of directories nor of files.
        let mut parent = directory.to_owned();
        for part in path.parent().into_iter().flat_map(Path::components) {
            parent.push(part);
            fs::create_dir_all(&parent)?;
            fs::set_permissions(&parent, fs::Permissions::from_mode(0o755))?;
        }
        let mode = if group.is_some() { mode | 0o440 } else { *mode };
        let mut file = fs::File::options().write(true).create_new(true).mode(mode).open(&target)?;
        file.write_all(content)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        if owner.is_some() || group.is_some() {
            chown(&target, *owner, group)?;
        }
    }
    Ok(())
}

/// Whether a directory holds exactly these contents.
fn same(directory: &Path, files: &Files) -> bool {
    let there = |path: &PathBuf, content: &[u8]| fs::read(directory.join(path)).is_ok_and(|c| c == content);
    count(directory) == files.files.len() && files.files.iter().all(|(path, file)| there(path, &file.content))
}

fn count(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|e| if e.path().is_dir() { count(&e.path()) } else { 1 }).sum()
}

/// One link for each first path element; links to what is gone are removed. What is no link is none of the volume's:
/// a container's missing `subPath` was made there, and gives way only when it is an empty directory.
fn link_names(place: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<&std::ffi::OsStr> =
        files.files.keys().filter_map(|path| path.iter().next()).collect();
    for name in &wanted {
        let link = place.join(name);
        match fs::symlink_metadata(&link) {
            Ok(there) if there.is_dir() && fs::remove_dir(&link).is_err() => continue,
            Ok(there) if !there.is_dir() => continue,
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => symlink(Path::new("..data").join(name), &link)?,
        }
    }
    for entry in fs::read_dir(place)? {
        let entry = entry?;
        let name = entry.file_name();
        let ours = entry.file_type()?.is_symlink() && !name.to_string_lossy().starts_with("..");
        if ours && !wanted.contains(name.as_os_str()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(place: &Path, path: &str) -> String {
        fs::read_to_string(place.join(path)).unwrap()
    }

    #[test]
    fn contents_are_swapped_whole_and_old_names_go() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("v");
        let mut files = Files::one("a", b"1".to_vec(), 0o600);
        files.merge(Files::one("sub/b", b"2".to_vec(), 0o644));
        publish(&place, &files, None).unwrap();
        assert_eq!(fs::metadata(place.join("..data/sub")).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!((read(&place, "a"), read(&place, "sub/b")), ("1".into(), "2".into()));
        assert_eq!(fs::metadata(place.join("a")).unwrap().permissions().mode() & 0o777, 0o600);
        let before = fs::read_link(place.join("..data")).unwrap();
        publish(&place, &files, None).unwrap();
        assert_eq!(fs::read_link(place.join("..data")).unwrap(), before);
        publish(&place, &Files::one("c", b"3".to_vec(), 0o644), None).unwrap();
        assert_eq!(read(&place, "c"), "3");
        assert!(!place.join("a").exists() && !place.join(before).exists());
    }

    #[test]
    fn directories_of_sub_paths_do_not_keep_a_volume_from_its_updates() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("v");
        publish(&place, &Files::one("a", b"1".to_vec(), 0o644), None).unwrap();
        fs::create_dir(place.join("b")).unwrap();
        fs::create_dir_all(place.join("used/inside")).unwrap();
        let stamps = || {
            let names = fs::read_dir(&place).unwrap().map(|e| e.unwrap().file_name());
            names.filter(|name| name.to_string_lossy().starts_with("..2")).count()
        };
        publish(&place, &Files::one("a", b"2".to_vec(), 0o644), None).unwrap();
        assert_eq!((read(&place, "a"), stamps()), ("2".into(), 1));
        let mut files = Files::one("b", b"3".to_vec(), 0o644);
        files.merge(Files::one("used", b"4".to_vec(), 0o644));
        publish(&place, &files, None).unwrap();
        assert_eq!((read(&place, "b"), stamps()), ("3".into(), 1));
        assert!(place.join("used/inside").is_dir() && fs::symlink_metadata(place.join("a")).is_err());
    }

    #[test]
    fn a_certificate_has_the_files_that_are_asked_for() {
        let bundle = Bundle { key: "key\n".into(), chain: "chain\n".into() };
        for (paths, expected) in [
            (json!({"credentialBundlePath": "all"}), vec![("all", "key\nchain\n")]),
            (
                json!({"keyPath": "k", "certificateChainPath": "c/c"}),
                vec![("c/c", "chain\n"), ("k", "key\n")],
            ),
            (json!({"keyPath": "", "certificateChainPath": "c"}), vec![("c", "chain\n")]),
        ] {
            let mut projection = json!({"signerName": "a.b/c", "keyType": "ED25519"});
            projection.as_object_mut().unwrap().extend(paths.as_object().unwrap().clone());
            let files = of_certificate(&bundle, &serde_json::from_value(projection).unwrap(), 0o600);
            let made = |(path, text): (&str, &str)| {
                (PathBuf::from(path), File::new(text.as_bytes().to_vec(), 0o600))
            };
            assert_eq!(files.files, expected.into_iter().map(made).collect(), "{paths}");
        }
    }

    #[test]
    fn paths_cannot_leave_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "..data/x", "a/../../x"] {
            assert!(
                publish(&dir.path().join("v"), &Files::one(path, vec![], 0o644), None).is_err(),
                "{path}"
            );
        }
    }

    #[test]
    fn sources_that_cannot_be_made_are_named() {
        let of = |volume: serde_json::Value| Source::of(&serde_json::from_value(volume).unwrap());
        let certificate =
            json!({"podCertificate": {"signerName": "a.b/c", "keyType": "ED25519", "keyPath": "k"}});
        let sources = json!([{"clusterTrustBundle": {"path": "ca", "name": "b"}}, certificate]);
        let parts = of(json!({"name": "v", "projected": {"sources": sources}})).unwrap().parts;
        assert!(matches!(&parts[..], [Source::Trust(_), Source::Certificate { number: 1, .. }]), "{parts:?}");
        assert!(of(json!({"name": "v", "nfs": {"path": "/", "server": "s"}})).unwrap_err().contains("kind"));
        assert_eq!(of(json!({"name": "v", "secret": {"secretName": "s"}})).unwrap().parts.len(), 1);
    }

    #[test]
    fn keys_are_picked_with_their_modes() {
        let map: ConfigMap = serde_json::from_value(json!({"data": {"a": "1", "b": "2"}})).unwrap();
        assert_eq!(of_config_map(&map, &[], false, 0o644).unwrap().files.len(), 2);
        let item = |key: &str| KeyToPath {
            key: key.into(),
            path: "p".into(),
            mode: Some(0o400),
            ..KeyToPath::default()
        };
        let picked = of_config_map(&map, &[item("b")], false, 0o644).unwrap();
        assert_eq!(picked, Files::one("p", b"2".to_vec(), 0o400));
        assert!(of_config_map(&map, &[item("x")], false, 0o644).unwrap_err().contains("non-existent"));
        assert!(of_config_map(&map, &[item("x")], true, 0o644).unwrap().files.is_empty());
    }
}
