//! Where a cluster's files are, and what its kernel objects are called: all of it follows from its name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::settings::check_profile;

/// The profile of commands that name none.
pub const DEFAULT_PROFILE: &str = "minik";
/// Where everything is kept unless said otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/minik";
/// On a tmpfs: sockets, namespaces, secrets.
const RUN_DIR: &str = "/run/minik";

/// Where a cluster's files are, and what its kernel objects are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The cluster's name.
    pub profile: String,
    /// For all clusters.
    pub data_dir: PathBuf,
}

impl Places {
    /// The places of one cluster, in a data directory of any form.
    ///
    /// # Errors
    /// When the directory has no absolute path.
    pub fn find(profile: &str, data_dir: &Path) -> io::Result<Places> {
        Ok(Places::new(profile, &real(data_dir)?))
    }

    /// The places of one cluster, in a data directory whose path is absolute and without symlinks.
    pub fn new(profile: &str, data_dir: &Path) -> Places {
        Places { profile: profile.to_owned(), data_dir: data_dir.to_owned() }
    }

    /// What is there for all clusters that run: the directory above [`Places::run`].
    pub fn all_runs() -> &'static Path {
        Path::new(RUN_DIR)
    }

    /// The names of directories that a cluster may have there; what is not called as a cluster can be is none's.
    pub fn profiles_in(directory: &Path) -> impl Iterator<Item = String> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let names =
            entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().into_string());
        names.flatten().filter(|name| check_profile(name).is_ok())
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

    /// Programs that were fetched, for all clusters, none of which can have this name.
    pub fn programs(&self) -> PathBuf {
        self.data_dir.join(".programs")
    }

    /// The data of the volumes that the cluster makes for claims: a directory for each, named like the volume.
    pub fn volumes(&self) -> PathBuf {
        self.data().join("volumes")
    }

    /// The settings of the cluster.
    pub fn settings(&self) -> PathBuf {
        self.data().join("config.json")
    }

    /// The manifests of static pods: what lies here runs, whatever the API says.
    pub fn manifests(&self) -> PathBuf {
        self.data().join("manifests")
    }

    /// What the daemon says.
    pub fn log(&self) -> PathBuf {
        self.data().join("daemon.log")
    }

    /// Where the daemon is asked for its state.
    pub fn control(&self) -> PathBuf {
        self.run().join("control.sock")
    }

    /// Held by the daemon for as long as it lives.
    pub fn daemon_lock(&self) -> PathBuf {
        self.run().join("daemon.lock")
    }

    /// Held by a command that changes whether the cluster runs.
    pub fn command_lock(&self) -> PathBuf {
        self.run().join("command.lock")
    }

    /// What is needed to clean up when the data directory is gone.
    pub fn record(&self) -> PathBuf {
        self.run().join("record.json")
    }

    /// The kubeconfigs that lead to the cluster.
    pub fn kubeconfigs(&self) -> PathBuf {
        self.data().join("kubeconfigs.json")
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

    /// Whether a link's name is of the form that those of clusters have.
    pub fn is_link(name: &str) -> bool {
        let hash = name.strip_prefix("mk").and_then(|rest| rest.get(..4));
        hash.is_some_and(|hash| hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
    }
}

/// The absolute path without symlinks of a directory that may not exist yet.
fn real(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    for existing in path.ancestors() {
        match fs::canonicalize(existing) {
            Ok(real) => {
                let missing = path.strip_prefix(existing).map_err(io::Error::other)?;
                return Ok(if missing.as_os_str().is_empty() { real } else { real.join(missing) });
            }
            // Only a name can be made; a missing directory has no directory above it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && existing.file_name().is_some() => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_clusters_differ() {
        let places = |profile: &str| Places::new(profile, Path::new("/var/lib/minik"));
        assert_ne!(places("a").link_prefix(), places("b").link_prefix());
        assert_eq!(places("a").link_prefix().len(), 6);
        let own = format!("{}0", places("a").link_prefix());
        assert!(Places::is_link(&own) && !["eth0", "mk0", "mkvlan0", ""].into_iter().any(Places::is_link));
        assert_eq!((places("minik").table(), places("x").table()), ("minik".into(), "minik-x".into()));
    }

    #[test]
    fn one_directory_has_one_path() {
        let dir = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir(top.join("data")).unwrap();
        std::os::unix::fs::symlink("data", top.join("link")).unwrap();
        for (given, is) in [
            ("data", Some("data")),
            ("link", Some("data")),
            ("data/../link/.", Some("data")),
            ("link/new/newer", Some("data/new/newer")),
            ("new/../data", None),
        ] {
            assert_eq!(real(&top.join(given)).ok(), is.map(|is| top.join(is)), "{given}");
        }
        assert_eq!(real(Path::new("no-such")).unwrap(), std::env::current_dir().unwrap().join("no-such"));
    }
}
