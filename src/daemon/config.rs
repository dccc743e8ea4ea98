//! A cluster's settings, as they are asked for and as they are kept; and where its files are.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::image::{self, LayersInUse};
use crate::network::Cidr;
use crate::runtime::supervisor;

/// The profile of commands that name none.
pub const DEFAULT_PROFILE: &str = "minik";
/// Where everything is kept unless said otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/minik";
/// The port of the API server, when it is free (minikube's).
pub const DEFAULT_PORT: u16 = 8443;
/// On a tmpfs: sockets, namespaces, secrets.
const RUN_DIR: &str = "/run/minik";
/// The longest profile name: it becomes part of cgroup, table and unit names.
const PROFILE_MAX: usize = 40;

/// What a user may set; absent fields are the defaults or what the cluster had before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// The port of the API server.
    pub apiserver_port: Option<u16>,
    /// Where pods get their addresses.
    pub pod_cidr: Option<String>,
    /// Where services get their addresses.
    pub service_cidr: Option<String>,
    /// The node's name.
    pub node_name: Option<String>,
    /// Mirrors by registry.
    pub registry_mirrors: BTreeMap<String, Vec<String>>,
    /// Registries that need no good certificate, or no TLS at all.
    pub insecure_registries: Vec<String>,
    /// Whether containers of a pod share processes when the pod does not say (default: true).
    pub share_process_namespace: Option<bool>,
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {message}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong where.
        message: String,
    },
    /// A value makes no sense.
    #[error("{field}: {message}")]
    Value {
        /// As the flag is called.
        field: &'static str,
        /// What is wrong, and what would be right.
        message: String,
    },
}

impl Settings {
    /// Reads a settings file in YAML.
    pub fn read(path: &Path) -> Result<Settings, Error> {
        let text =
            fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
        if text.trim().is_empty() {
            return Ok(Settings::default());
        }
        serde_yaml::from_str(&text)
            .map_err(|error| Error::Content { path: path.to_owned(), message: error.to_string() })
    }

    /// These settings where they say something, `below` where they do not.
    pub fn over(self, below: Settings) -> Settings {
        let mut mirrors = below.registry_mirrors;
        mirrors.extend(self.registry_mirrors);
        let mut insecure = below.insecure_registries;
        insecure.extend(self.insecure_registries);
        insecure.sort();
        insecure.dedup();
        Settings {
            apiserver_port: self.apiserver_port.or(below.apiserver_port),
            pod_cidr: self.pod_cidr.or(below.pod_cidr),
            service_cidr: self.service_cidr.or(below.service_cidr),
            node_name: self.node_name.or(below.node_name),
            registry_mirrors: mirrors,
            insecure_registries: insecure,
            share_process_namespace: self.share_process_namespace.or(below.share_process_namespace),
        }
    }
}

/// Checks a profile's name: it becomes part of paths, units, tables and cgroups.
pub fn check_profile(name: &str) -> Result<(), Error> {
    let good = !name.is_empty()
        && name.len() <= PROFILE_MAX
        && name != "images"
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if good {
        return Ok(());
    }
    Err(Error::Value {
        field: "--profile",
        message: format!(
            "{name:?} must be up to {PROFILE_MAX} lower-case letters, digits or '-', and not \"images\""
        ),
    })
}

/// Where a cluster's files are, and what its kernel objects are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The cluster's name.
    pub profile: String,
    /// For all clusters.
    pub data_dir: PathBuf,
}

impl Places {
    /// The places of one cluster.
    pub fn new(profile: &str, data_dir: &Path) -> Places {
        Places { profile: profile.to_owned(), data_dir: data_dir.to_owned() }
    }

    /// What survives a reboot.
    pub fn data(&self) -> PathBuf {
        self.data_dir.join(&self.profile)
    }

    /// What does not.
    pub fn run(&self) -> PathBuf {
        Path::new(RUN_DIR).join(&self.profile)
    }

    /// What the container runtime keeps until the machine goes down.
    pub fn runtime(&self) -> PathBuf {
        self.run().join("runtime")
    }

    /// The images of all clusters.
    pub fn images(&self) -> PathBuf {
        self.data_dir.join("images")
    }

    /// The settings of the cluster.
    pub fn settings(&self) -> PathBuf {
        self.data().join("config.json")
    }

    /// What the daemon says.
    pub fn log(&self) -> PathBuf {
        self.data().join("daemon.log")
    }

    /// Where the daemon is asked for its state.
    pub fn control(&self) -> PathBuf {
        self.run().join("control.sock")
    }

    /// The administrator's certificate and key, for the kubeconfig.
    pub fn admin(&self) -> PathBuf {
        self.data().join("admin.json")
    }

    /// Below the roots of the cgroup hierarchies, where no service manager gives a group of its own.
    pub fn cgroup(&self) -> PathBuf {
        PathBuf::from(format!("minik-{}", self.profile))
    }

    /// The unit of the daemon, where systemd runs.
    pub fn unit(&self) -> String {
        format!("minik-{}.service", self.profile)
    }

    /// The nf_tables table.
    pub fn table(&self) -> String {
        if self.profile == DEFAULT_PROFILE { "minik".to_owned() } else { format!("minik-{}", self.profile) }
    }

    /// How the names of links begin. All have one length, so that none begins with another.
    pub fn link_prefix(&self) -> String {
        // FNV-1a: a name's only need is to differ from the few others of this machine.
        let hash = self.profile.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("mk{:04x}", hash as u16)
    }
}

/// A cluster's settings, complete: as decided at its first start and kept from then on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// The port of the API server.
    pub apiserver_port: u16,
    /// Where pods get their addresses.
    pub pod_cidr: String,
    /// Where services get their addresses.
    pub service_cidr: String,
    /// The node's name.
    pub node_name: String,
    /// Mirrors by registry.
    pub registry_mirrors: BTreeMap<String, Vec<String>>,
    /// Registries that need no good certificate, or no TLS at all.
    pub insecure_registries: Vec<String>,
    /// Whether containers of a pod share processes when the pod does not say.
    pub share_process_namespace: bool,
    /// Docker's configuration of the user who started the cluster, for its credentials.
    pub docker_config: Option<PathBuf>,
}

impl Cluster {
    /// Reads a cluster's settings; `None` when there is no such cluster.
    pub fn read(places: &Places) -> Result<Option<Cluster>, Error> {
        let path = places.settings();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::File { path, source }),
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::Content { path, message: error.to_string() })
    }

    /// The clusters of a data directory by name; those whose settings cannot be read are left out.
    pub fn all(data_dir: &Path) -> Vec<(String, Cluster)> {
        let entries = fs::read_dir(data_dir).into_iter().flatten().flatten();
        let mut all: Vec<_> = entries
            .filter_map(|entry| {
                let profile = entry.file_name().into_string().ok()?;
                let cluster = Cluster::read(&Places::new(&profile, data_dir)).ok()??;
                Some((profile, cluster))
            })
            .collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    /// Keeps them.
    pub fn write(&self, places: &Places) -> Result<(), Error> {
        let path = places.settings();
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::Content { path: path.clone(), message: error.to_string() })?;
        write_private(&path, &bytes)
    }

    /// What the images of this machine are fetched with.
    pub fn images(&self, places: &Places) -> image::Settings {
        image::Settings {
            dir: places.images(),
            mirrors: self.registry_mirrors.clone(),
            insecure: self.insecure_registries.clone(),
            docker_config: self.docker_config.clone(),
            limits: image::unpack::Limits::default(),
            in_use: layers_in_use(&places.data_dir),
        }
    }
}

/// Who knows the layers that containers stand on: the records of every cluster that shares the data directory.
pub fn layers_in_use(data_dir: &Path) -> LayersInUse {
    let data_dir = data_dir.to_owned();
    LayersInUse::new(move || {
        let mut layers = Vec::new();
        for entry in fs::read_dir(&data_dir)? {
            // What is not called as a cluster can be is none's.
            if let Ok(profile) = entry?.file_name().into_string() {
                layers.extend(supervisor::layers_in_use(&Places::new(&profile, &data_dir).runtime())?);
            }
        }
        Ok(layers)
    })
}

/// A range given by a user.
pub fn parse_cidr(field: &'static str, text: &str) -> Result<Cidr, Error> {
    let cidr: Cidr = text.parse().map_err(|_| Error::Value {
        field,
        message: format!("{text:?} is not an IPv4 range such as 10.244.0.0/16"),
    })?;
    if !(8..=24).contains(&cidr.prefix) {
        return Err(Error::Value { field, message: format!("{text} must have a prefix of /8 to /24") });
    }
    Ok(cidr)
}

/// Writes a file that only root may read, whole or not at all; its directory is made.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let fail = |source| Error::File { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(fail)?;
    }
    let next = path.with_extension("next");
    let _ = fs::remove_file(&next);
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&next).map_err(fail)?;
    io::Write::write_all(&mut file, bytes).map_err(fail)?;
    file.sync_all().map_err(fail)?;
    fs::rename(&next, path).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_settings_win_and_lists_add_up() {
        let file: Settings = serde_yaml::from_str(
            "apiserverPort: 9443\nregistryMirrors: {docker.io: [http://a]}\ninsecureRegistries: [x]\n",
        )
        .unwrap();
        let flags = Settings {
            apiserver_port: Some(1234),
            registry_mirrors: [("quay.io".to_owned(), vec!["b".to_owned()])].into(),
            insecure_registries: vec!["x".into(), "y".into()],
            ..Settings::default()
        };
        let both = flags.over(file);
        assert_eq!((both.apiserver_port, both.registry_mirrors.len()), (Some(1234), 2));
        assert_eq!(both.insecure_registries, ["x", "y"]);
        assert!(serde_yaml::from_str::<Settings>("apiserverPotr: 1").is_err());
    }

    #[test]
    fn names_of_clusters_differ_and_are_checked() {
        let places = |profile: &str| Places::new(profile, Path::new("/var/lib/minik"));
        assert_ne!(places("a").link_prefix(), places("b").link_prefix());
        assert_eq!(places("a").link_prefix().len(), 6);
        assert_eq!((places("minik").table(), places("x").table()), ("minik".into(), "minik-x".into()));
        for bad in ["", "A", "a/b", "..", "-a", "images", &"a".repeat(41)] {
            assert!(check_profile(bad).is_err(), "{bad}");
        }
        assert!(check_profile("exercise-1").is_ok());
        assert!(
            parse_cidr("--pod-cidr", "10.244.0.0/16").is_ok()
                && parse_cidr("--pod-cidr", "10.0.0.0/30").is_err()
        );
    }
}
