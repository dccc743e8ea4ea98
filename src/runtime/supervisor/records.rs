//! What must survive the supervisor: each sandbox and container as a file in the run directory (a tmpfs).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::runtime::{ContainerConfig, ContainerState, SandboxConfig};

/// Where the records of containers are in the run directory.
pub const CONTAINERS: &str = "containers";

/// A sandbox on record.
#[derive(Debug, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// As it was asked for.
    pub config: SandboxConfig,
}

/// A container on record.
#[derive(Debug, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// As it was asked for.
    pub config: ContainerConfig,
    /// As it stood; a new supervisor takes a running one for lost.
    pub state: ContainerState,
}

/// The layers that containers of a run directory stand on, whether they run or not; there need be no such directory. A
/// record that cannot be read is an error here: nobody may take its layers for free.
pub fn layers_in_use(run_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(run_dir.join(CONTAINERS)) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut layers = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match parse::<ContainerRecord>(&path) {
            Ok(record) => layers.extend(record.config.layers),
            // Its container was removed just then.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        }
    }
    Ok(layers)
}

/// A directory of records of one kind.
#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
}

impl Records {
    /// Opens the directory, made when missing.
    pub fn open(directory: PathBuf) -> io::Result<Records> {
        fs::create_dir_all(&directory)?;
        Ok(Records { directory })
    }

    /// Writes a record, whole or not at all.
    pub fn save(&self, id: &str, record: &impl Serialize) -> io::Result<()> {
        let temporary = self.directory.join(format!(".{id}"));
        fs::write(&temporary, serde_json::to_vec(record)?)?;
        fs::rename(temporary, self.file(id))
    }

    /// Forgets a record.
    pub fn remove(&self, id: &str) -> io::Result<()> {
        match fs::remove_file(self.file(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// All records; a damaged one is logged and passed over.
    pub fn load<T: DeserializeOwned>(&self) -> io::Result<Vec<T>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.directory)?.flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match parse(&path) {
                Ok(record) => records.push(record),
                Err(error) => tracing::warn!(path = %path.display(), %error, "passing over a damaged record"),
            }
        }
        Ok(records)
    }

    fn file(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }
}

fn parse<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}
