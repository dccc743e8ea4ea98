//! The kubeconfig of the user who asked: a cluster's entries put in or taken out, all others untouched.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::api::yaml;

/// Who runs the command: the user behind sudo, or root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Their home.
    pub home: PathBuf,
    /// Their ids, when files must be given to them.
    pub ids: Option<(u32, u32)>,
}

impl Person {
    /// From the environment that sudo leaves.
    pub fn invoking() -> Person {
        let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()));
        let sudo = std::env::var("SUDO_USER").ok().filter(|user| user != "root");
        let user = sudo.and_then(|name| nix::unistd::User::from_name(&name).ok().flatten());
        match user {
            Some(user) => Person { home: user.dir, ids: Some((user.uid.as_raw(), user.gid.as_raw())) },
            None => Person { home, ids: None },
        }
    }

    /// Where kubectl of this person looks: the first file of `KUBECONFIG`, or `~/.kube/config`.
    pub fn kubeconfig(&self) -> PathBuf {
        let named = std::env::var("KUBECONFIG").ok();
        let first = named.as_deref().and_then(|list| list.split(':').find(|path| !path.is_empty()));
        first.map_or_else(|| self.home.join(".kube/config"), PathBuf::from)
    }

    /// Docker's configuration of this person.
    pub fn docker_config(&self) -> PathBuf {
        let named = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
        named.unwrap_or_else(|| self.home.join(".docker")).join("config.json")
    }
}

/// What a cluster's entries say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entries {
    /// The name of cluster, user and context.
    pub name: String,
    /// `https://127.0.0.1:8443`.
    pub server: String,
    /// PEM.
    pub ca: String,
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub key: String,
}

/// The configuration with the entries in it, and their context current (pure).
fn merged(mut config: Value, entries: &Entries) -> Value {
    if !config.is_object() {
        config = json!({});
    }
    let encode = |pem: &str| STANDARD.encode(pem);
    let name = &entries.name;
    let cluster = json!({"certificate-authority-data": encode(&entries.ca), "server": entries.server});
    let user = json!({
        "client-certificate-data": encode(&entries.certificate), "client-key-data": encode(&entries.key),
    });
    let context = json!({"cluster": name, "user": name, "namespace": "default"});
    for (list, field, value) in
        [("clusters", "cluster", cluster), ("users", "user", user), ("contexts", "context", context)]
    {
        let entry = json!({"name": name, field: value});
        match config[list].as_array_mut() {
            Some(items) => match items.iter_mut().find(|item| item["name"] == json!(name)) {
                Some(item) => *item = entry,
                None => items.push(entry),
            },
            None => config[list] = json!([entry]),
        }
    }
    config["apiVersion"] = json!("v1");
    config["kind"] = json!("Config");
    config["current-context"] = json!(name);
    config
}

/// The configuration without the entries of this name (pure); `None` when it had none.
fn without(mut config: Value, name: &str) -> Option<Value> {
    let before = config.clone();
    for list in ["clusters", "users", "contexts"] {
        if let Some(items) = config.get_mut(list).and_then(Value::as_array_mut) {
            items.retain(|item| item["name"] != json!(name));
        }
    }
    if config["current-context"] == json!(name) {
        config["current-context"] = json!("");
    }
    (config != before).then_some(config)
}

fn read(path: &Path) -> io::Result<Value> {
    match fs::read(path) {
        Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => Ok(Value::Null),
        Ok(bytes) => yaml::to_json(&bytes).map_err(|message| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {message}", path.display()))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Value::Null),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    }
}

/// Replaces the file whole; it belongs to the person and nobody else may read it.
fn write(path: &Path, config: &Value, person: &Person) -> io::Result<()> {
    // A link is kept: what it points to is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(directory) = path.parent()
        && !directory.exists()
    {
        fs::create_dir_all(directory)?;
        give(directory, person)?;
    }
    let next = path.with_extension(format!("minik-{}", std::process::id()));
    let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    file.write_all(yaml::to_yaml(config).as_bytes())?;
    file.sync_all()?;
    give(&next, person)?;
    fs::rename(&next, &path)
}

fn give(path: &Path, person: &Person) -> io::Result<()> {
    match person.ids {
        Some((uid, gid)) => chown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

/// Puts a cluster's entries into the person's kubeconfig and makes its context current.
pub fn add(person: &Person, entries: &Entries) -> io::Result<PathBuf> {
    let path = person.kubeconfig();
    write(&path, &merged(read(&path)?, entries), person)?;
    Ok(path)
}

/// Takes a cluster's entries out of the person's kubeconfig.
pub fn remove(person: &Person, name: &str) -> io::Result<()> {
    let path = person.kubeconfig();
    match without(read(&path)?, name) {
        Some(config) => write(&path, &config, person),
        None => Ok(()),
    }
}

/// Whether the person's kubeconfig leads to this server under this name.
pub fn leads_to(person: &Person, name: &str, server: &str) -> bool {
    let config = read(&person.kubeconfig()).unwrap_or_default();
    let clusters = config["clusters"].as_array().into_iter().flatten();
    clusters.into_iter().any(|c| c["name"] == json!(name) && c["cluster"]["server"] == json!(server))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(name: &str) -> Entries {
        Entries {
            name: name.into(),
            server: "https://127.0.0.1:8443".into(),
            ca: "ca".into(),
            certificate: "crt".into(),
            key: "key".into(),
        }
    }

    #[test]
    fn other_entries_are_untouched() {
        let work = json!({"name": "work", "cluster": {"server": "https://work"}});
        let config = json!({"clusters": [work], "current-context": "work", "preferences": {"colors": true}});
        let both = merged(config.clone(), &entries("minik"));
        assert_eq!((&both["clusters"][0], &both["current-context"]), (&work, &json!("minik")));
        assert_eq!(both["preferences"], json!({"colors": true}));
        let again = merged(both.clone(), &entries("minik"));
        assert_eq!(again, both);
        let left = without(both, "minik").unwrap();
        assert_eq!((left["clusters"].as_array().unwrap().len(), &left["current-context"]), (1, &json!("")));
        assert_eq!(without(config, "minik"), None);
    }

    #[test]
    fn files_are_private_and_whole() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".kube/config");
        let person = Person { home: dir.path().to_owned(), ids: None };
        write(&path, &merged(Value::Null, &entries("minik")), &person).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap()["users"][0]["name"], "minik");
        fs::write(&path, "a: [").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("config"));
    }
}
