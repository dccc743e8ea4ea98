//! What must survive the supervisor: each sandbox and container as a file in the run directory (a tmpfs).

use std::fs;
use std::io::{self, ErrorKind};
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
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
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
            Ok(record) => layers.extend(record.config.all_layers().cloned()),
            // Its container was removed just then.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(unreadable(&path, &error)),
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
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// All records. A damaged one is logged and put aside, for whoever looks into it: what it was about ends as
    /// anything does that no record tells of. One that cannot be read at the time may be sound: that is an error.
    pub fn load<T: DeserializeOwned>(&self) -> io::Result<Vec<T>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match parse(&path) {
                Ok(record) => records.push(record),
                Err(error) if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
                    tracing::error!(path = %path.display(), %error, "damaged record: what it was about is removed");
                    fs::rename(&path, path.with_extension("damaged"))?;
                }
                Err(error) => return Err(unreadable(&path, &error)),
            }
        }
        Ok(records)
    }

    fn file(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }
}

fn unreadable(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn parse<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_other_versions_are_read_and_damaged_ones_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path().join("sandboxes")).unwrap();
        let file = |name| dir.path().join("sandboxes").join(name);
        fs::write(
            file("a.json"),
            r#"{"config":{"id":"a","labels":{},"hostname":null,"pid":"Shared","network":"Host","host_ipc":false,
            "sysctls":{},"resources":{},"later":1},"later":{}}"#,
        )
        .unwrap();
        fs::write(file("b.json"), "{").unwrap();
        for _ in 0..2 {
            let loaded: Vec<SandboxRecord> = records.load().unwrap();
            assert_eq!(loaded.iter().map(|record| record.config.id.as_str()).collect::<Vec<_>>(), ["a"]);
        }
        assert!(file("b.damaged").exists() && !file("b.json").exists());
        // Not damage, but trouble of the moment.
        fs::create_dir(file("c.json")).unwrap();
        let error = records.load::<SandboxRecord>().unwrap_err().to_string();
        assert!(error.contains("c.json") && file("c.json").exists(), "{error}");
    }
}
