//! A cluster as it is kept: its settings, complete, and what is noted of it while it may run.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::node_settings::NodeSettings;
use super::places::{DEFAULT_DATA_DIR, Places};
use super::settings::{DualStack, Error, Settings, check_profile};
use crate::apiserver::audit;
use crate::image::{self, LayersInUse};
use crate::ingress::gateway::Ports;
use crate::runtime::supervisor;

/// The port of the API server, when it is free (minikube's).
pub const DEFAULT_PORT: u16 = 8443;
/// The port of HTTP, where browsers ask.
pub const INGRESS_HTTP_PORT: u16 = 80;
/// The port of HTTPS.
pub const INGRESS_HTTPS_PORT: u16 = 443;

/// A cluster's settings, complete: as decided at its first start and kept from then on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// The port of the API server.
    pub apiserver_port: u16,
    /// Where pods get their addresses: `V4`, or `V4,V6` when there are addresses of both families.
    pub pod_cidr: String,
    /// Where services get their addresses, likewise.
    pub service_cidr: String,
    /// The node's name.
    pub node_name: String,
    /// Mirrors by registry.
    pub registry_mirrors: BTreeMap<String, Vec<String>>,
    /// Registries that need no good certificate, or no TLS at all.
    pub insecure_registries: Vec<String>,
    /// Whether containers of a pod share processes when the pod does not say.
    pub share_process_namespace: bool,
    /// Whether services have the external addresses that they ask for.
    #[serde(default, rename = "externalIPs")]
    pub external_ips: bool,
    /// The node's own settings.
    #[serde(default)]
    pub kubelet: NodeSettings,
    /// Which requests are recorded.
    #[serde(default)]
    pub audit_policy_file: Option<PathBuf>,
    /// Where they are recorded.
    #[serde(default)]
    pub audit_log_file: Option<PathBuf>,
    /// Megabytes after which that file is put aside.
    #[serde(default)]
    pub audit_log_maxsize: Option<u32>,
    /// How many such files are kept.
    #[serde(default)]
    pub audit_log_maxbackup: Option<u32>,
    /// For how many days.
    #[serde(default)]
    pub audit_log_maxage: Option<u32>,
    /// Whether ingresses are carried out; they are unless this says no.
    #[serde(default)]
    pub ingress: Option<bool>,
    /// The port of the ingress for HTTP, if not the usual one.
    #[serde(default)]
    pub ingress_http_port: Option<u16>,
    /// And for HTTPS.
    #[serde(default)]
    pub ingress_https_port: Option<u16>,
    /// Docker's configuration of the user who started the cluster, for its credentials.
    pub docker_config: Option<PathBuf>,
}

impl Cluster {
    /// Reads a cluster's settings; `None` when there is no such cluster.
    pub fn read(places: &Places) -> Result<Option<Cluster>, Error> {
        read_json(places.settings())
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
        write_json(places.settings(), self)
    }

    /// Whether there are addresses of both families.
    pub fn is_dual_stack(&self) -> bool {
        self.pod_cidr.contains(',')
    }

    /// The same as settings that say everything.
    pub fn into_settings(self) -> Settings {
        Settings {
            apiserver_port: Some(self.apiserver_port),
            dual_stack: Some(if self.is_dual_stack() { DualStack::On } else { DualStack::Off }),
            pod_cidr: Some(self.pod_cidr),
            service_cidr: Some(self.service_cidr),
            node_name: Some(self.node_name),
            registry_mirrors: Some(self.registry_mirrors),
            insecure_registries: Some(self.insecure_registries),
            share_process_namespace: Some(self.share_process_namespace),
            external_ips: Some(self.external_ips),
            kubelet: self.kubelet,
            audit_policy_file: self.audit_policy_file,
            audit_log_file: self.audit_log_file,
            audit_log_maxsize: self.audit_log_maxsize,
            audit_log_maxbackup: self.audit_log_maxbackup,
            audit_log_maxage: self.audit_log_maxage,
            ingress: self.ingress,
            ingress_http_port: self.ingress_http_port,
            ingress_https_port: self.ingress_https_port,
        }
    }

    /// The ports of the ingress; none when ingresses are not carried out.
    pub fn ingress_ports(&self) -> Option<Ports> {
        let ports = Ports {
            http: self.ingress_http_port.unwrap_or(INGRESS_HTTP_PORT),
            https: self.ingress_https_port.unwrap_or(INGRESS_HTTPS_PORT),
        };
        self.ingress.unwrap_or(true).then_some(ports)
    }

    /// How much of the audit log is kept.
    pub fn audit_log_limits(&self) -> audit::Limits {
        let usual = audit::Limits::default();
        audit::Limits {
            max_size: self.audit_log_maxsize.unwrap_or(usual.max_size),
            max_backups: self.audit_log_maxbackup.unwrap_or(usual.max_backups),
            max_age: self.audit_log_maxage.unwrap_or(usual.max_age),
        }
    }

    /// What the images of this machine are fetched with.
    pub fn images(&self, places: &Places) -> image::Settings {
        image::Settings {
            dir: places.images(),
            mirrors: self.registry_mirrors.clone(),
            insecure: self.insecure_registries.clone(),
            docker_config: self.docker_config.clone(),
            limits: image::unpack::Limits::default(),
            in_use: layers_in_use(),
        }
    }
}

/// Who knows the layers that containers stand on: the records of every cluster of the machine, also of one whose data
/// is gone or elsewhere.
pub fn layers_in_use() -> LayersInUse {
    LayersInUse::new(|| {
        let mut layers = Vec::new();
        for profile in profiles(Places::all_runs())? {
            // Where containers are on record does not depend on the data directory.
            let places = Places::new(&profile, Path::new(DEFAULT_DATA_DIR));
            layers.extend(supervisor::layers_in_use(&places.runtime())?);
        }
        Ok(layers)
    })
}

/// What in a directory is called as a cluster can be; there need be no such directory.
fn profiles(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut profiles = Vec::new();
    for entry in entries {
        profiles.extend(entry?.file_name().into_string().ok().filter(|name| check_profile(name).is_ok()));
    }
    Ok(profiles)
}

/// What is noted outside the data directory of a cluster that may run, so that it can be found and cleaned up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Where the cluster's data is.
    pub data_dir: PathBuf,
    /// Where its pods get their addresses.
    pub pod_cidr: String,
    /// Where its services get theirs.
    pub service_cidr: String,
}

impl Record {
    /// Reads what is noted; `None` when nothing is, as after a reboot.
    pub fn read(places: &Places) -> Result<Option<Record>, Error> {
        read_json(places.record())
    }

    /// Notes it.
    pub fn write(&self, places: &Places) -> Result<(), Error> {
        write_json(places.record(), self)
    }
}

/// Reads a file of JSON; `None` when there is none.
pub fn read_json<T: DeserializeOwned>(path: PathBuf) -> Result<Option<T>, Error> {
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::File { path, source }),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Error::Content { path, message: error.to_string() })
}

/// Writes a file of JSON as [`write_private`] does.
pub fn write_json<T: Serialize>(path: PathBuf, value: &T) -> Result<(), Error> {
    let bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::Content { path: path.clone(), message: error.to_string() })?;
    write_private(&path, &bytes)
}

/// Writes a file that only root may read, whole or not at all; its directory is made.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_file(path, bytes, 0o600)
}

/// Writes a file of this mode, whole or not at all; its directory is made.
pub fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let fail = |source| Error::File { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(fail)?;
    }
    let next = path.with_extension(format!("next-{}", std::process::id()));
    // Left by a process that had this number before.
    let _ = fs::remove_file(&next);
    let mut file = fs::File::options().write(true).create_new(true).mode(mode).open(&next).map_err(fail)?;
    io::Write::write_all(&mut file, bytes).map_err(fail)?;
    file.sync_all().map_err(fail)?;
    fs::rename(&next, path).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_found_by_what_runs() {
        let dir = tempfile::tempdir().unwrap();
        assert!(profiles(&dir.path().join("none")).unwrap().is_empty());
        for name in ["minik", "images", "Other", ".hidden", "exercise-1"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let mut found = profiles(dir.path()).unwrap();
        found.sort();
        assert_eq!(found, ["exercise-1", "minik"]);
    }
}
