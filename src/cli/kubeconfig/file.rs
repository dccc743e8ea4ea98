//! Kubeconfig files as other programs know them: read as a mapping, locked as kubectl locks them, replaced whole.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown, lchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::Person;
use crate::api::yaml;
use crate::sys::path::Root;

/// How long another program may take to write the file.
const LOCK_LIMIT: Duration = Duration::from_secs(3);
/// Between two attempts; programs hold the lock for some milliseconds.
const LOCK_AGAIN: Duration = Duration::from_millis(20);

/// Reads a file: a mapping, or null when it is empty or missing.
pub fn read(path: &Path) -> io::Result<Value> {
    let wrong = |message: String| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{} is no kubeconfig: {message}", path.display()))
    };
    let config = match fs::read(path) {
        Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => Value::Null,
        Ok(bytes) => yaml::to_json(&bytes).map_err(|message| wrong(message.to_string()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Value::Null,
        Err(error) => return Err(about(error, path)),
    };
    match config {
        Value::Null | Value::Object(_) => Ok(config),
        _ => Err(wrong("it must be a mapping".to_owned())),
    }
}

/// Changes a file, or makes it; answers whether there was anything to change.
pub async fn update(
    path: &Path,
    person: &Person,
    change: impl FnOnce(Value) -> Option<Value>,
) -> io::Result<bool> {
    make_directories(path, person)?;
    let _lock = lock(path).await?;
    match change(read(path)?) {
        Some(config) => write(path, &config, person).map(|()| true),
        None => Ok(false),
    }
}

/// Removes itself when dropped.
struct FileLock(PathBuf);

impl Drop for FileLock {
    fn drop(&mut self) {
        // A lock that cannot be removed is found by the next one who wants it, and named.
        let _ = fs::remove_file(&self.0);
    }
}

/// Takes kubectl's lock: the file `config.lock`, which must not exist.
async fn lock(path: &Path) -> io::Result<FileLock> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock = PathBuf::from(name);
    let until = tokio::time::Instant::now() + LOCK_LIMIT;
    loop {
        match File::options().write(true).create_new(true).mode(0o600).open(&lock) {
            Ok(_) => return Ok(FileLock(lock)),
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(about(error, &lock)),
            Err(_) if tokio::time::Instant::now() >= until => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    format!(
                        "{} is there, so another program writes the kubeconfig; remove it if none does",
                        lock.display()
                    ),
                ));
            }
            Err(_) => tokio::time::sleep(LOCK_AGAIN).await,
        }
    }
}

/// Makes the directories that are missing above a file; they belong to the person.
fn make_directories(path: &Path, person: &Person) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().skip(1).take_while(|directory| !directory.exists()).collect();
    for directory in missing.into_iter().rev().filter(|directory| !directory.as_os_str().is_empty()) {
        DirBuilder::new().mode(0o755).create(directory).map_err(|error| about(error, directory))?;
        if let Some((uid, gid)) = person.ids {
            // Not where a link leads that took the directory's place meanwhile.
            lchown(directory, Some(uid), Some(gid)).map_err(|error| about(error, directory))?;
        }
    }
    Ok(())
}

/// Replaces the file whole; nobody but its owner may read it. A link is kept: what it points to is replaced.
fn write(path: &Path, config: &Value, person: &Person) -> io::Result<()> {
    let named = std::path::absolute(path)?;
    let target = match fs::canonicalize(&named) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => named.clone(),
        Err(error) => return Err(about(error, path)),
    };
    let (Some(directory), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(about(io::ErrorKind::InvalidInput.into(), path));
    };
    let around = fs::metadata(directory).map_err(|error| about(error, directory))?;
    let before = fs::metadata(&target).ok().map(|file| (file.uid(), file.gid()));
    if target != named
        && let Some((uid, _)) = person.ids
        && around.uid() != uid
        && before.is_none_or(|(owner, _)| owner != uid)
    {
        // Root must not be led to a file of somebody else's by a link that a user may make.
        let message = format!("{} leads to {}, which is another user's", path.display(), target.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    let owner = before.filter(|(uid, _)| *uid != 0).or(person.ids).unwrap_or((around.uid(), around.gid()));
    // On the descriptor of the directory, so that what it is called may change meanwhile.
    let root = Root::open(directory)?.strict();
    let next = format!(".{}.{:016x}", name.to_string_lossy(), getrandom::u64().map_err(io::Error::other)?);
    let replace = || {
        let mut file = root.create_file(&next, 0o600)?;
        file.write_all(yaml::to_yaml(config).as_bytes())?;
        fchown(&file, Some(owner.0), Some(owner.1))?;
        file.sync_all()?;
        Ok(rustix::fs::renameat(&root, next.as_str(), &root, name)?)
    };
    replace().map_err(|error: io::Error| {
        let _ = rustix::fs::unlinkat(&root, next.as_str(), rustix::fs::AtFlags::empty());
        about(error, &target)
    })
}

fn about(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn nobody(home: &Path) -> Person {
        Person { home: home.to_owned(), ids: None }
    }

    #[tokio::test]
    async fn files_are_private_whole_and_links_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("new/.kube/real"), dir.path().join("config"));
        let person = nobody(dir.path());
        assert!(
            update(&real, &person, |config| (config == Value::Null).then(|| json!({"a": 1}))).await.unwrap()
        );
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o600);
        symlink(&real, &link).unwrap();
        assert!(update(&link, &person, |config| (config["a"] == 1).then(|| json!({"b": 2}))).await.unwrap());
        assert!(!update(&link, &person, |_| None).await.unwrap());
        assert!(link.is_symlink());
        assert_eq!(read(&real).unwrap(), json!({"b": 2}));
        let names: Vec<_> = fs::read_dir(real.parent().unwrap()).unwrap().flatten().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        for wrong in ["a: [", "- a", "text"] {
            fs::write(&real, wrong).unwrap();
            let error = update(&real, &person, |_| Some(json!({}))).await.unwrap_err().to_string();
            assert!(error.contains("real is no kubeconfig"), "{error}");
            assert_eq!(fs::read_to_string(&real).unwrap(), wrong);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_of_kubectl_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let lock_path = dir.path().join("config.lock");
        fs::write(&lock_path, "").unwrap();
        let error = update(&path, &nobody(dir.path()), |_| Some(json!({}))).await.unwrap_err().to_string();
        assert!(error.contains("config.lock"), "{error}");
        let removal = async {
            tokio::time::sleep(LOCK_AGAIN * 3).await;
            fs::remove_file(&lock_path).unwrap();
        };
        let person = nobody(dir.path());
        let (updated, ()) = tokio::join!(update(&path, &person, |_| Some(json!({}))), removal);
        assert!(updated.unwrap() && path.exists() && !lock_path.exists());
    }

    #[tokio::test]
    async fn owners_are_kept_and_links_to_others_refused() {
        if !rustix::process::geteuid().is_root() {
            tracing::warn!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let owner = |path: &Path| fs::metadata(path).unwrap().uid();
        let alice = Person { home: dir.path().join("alice"), ids: Some((4321, 4321)) };
        let config = dir.path().join("alice/.kube/config");
        update(&config, &alice, |_| Some(json!({}))).await.unwrap();
        assert_eq!([&config, config.parent().unwrap(), &alice.home].map(owner), [4321; 3]);
        // Root, whose KUBECONFIG is hers.
        let root = nobody(dir.path());
        update(&config, &root, |_| Some(json!({"a": 1}))).await.unwrap();
        let second = dir.path().join("alice/.kube/second");
        update(&second, &root, |_| Some(json!({}))).await.unwrap();
        assert_eq!([&config, &second].map(|path| owner(path)), [4321; 2]);
        let secret = dir.path().join("secret");
        fs::write(&secret, "{}").unwrap();
        fs::remove_file(&config).unwrap();
        symlink(&secret, &config).unwrap();
        let error = update(&config, &alice, |_| Some(json!({}))).await.unwrap_err().to_string();
        assert!(error.contains("another user's") && owner(&secret) == 0, "{error}");
    }
}
