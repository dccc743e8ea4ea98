//! The kubeconfig of the user who asked: a cluster's entries put in or taken out, all others untouched.

mod file;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::daemon::cluster::{read_json, write_json};
use crate::daemon::places::Places;

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

impl Entries {
    /// As the daemon has left them for a cluster whose API server is on this port.
    pub fn read(places: &Places, port: u16) -> Result<Entries, String> {
        let missing = || format!("{} is not there yet", places.admin().display());
        let admin: Value =
            read_json(places.admin()).map_err(|error| error.to_string())?.ok_or_else(missing)?;
        let text = |field: &str| admin[field].as_str().unwrap_or("").to_owned();
        Ok(Entries {
            name: places.profile.clone(),
            server: format!("https://127.0.0.1:{port}"),
            ca: text("ca"),
            certificate: text("certificate"),
            key: text("key"),
        })
    }

    /// What the entries say, by the lists that they are in.
    fn values(&self) -> [(&'static str, &'static str, Value); 3] {
        let encode = |pem: &str| STANDARD.encode(pem);
        let cluster = json!({"certificate-authority-data": encode(&self.ca), "server": self.server});
        let user = json!({
            "client-certificate-data": encode(&self.certificate), "client-key-data": encode(&self.key),
        });
        let context = json!({"cluster": self.name, "user": self.name});
        [("clusters", "cluster", cluster), ("users", "user", user), ("contexts", "context", context)]
    }
}

/// A kubeconfig that leads to a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    path: PathBuf,
    /// The context that was current before the cluster's.
    previous: Option<String>,
}

/// Whether a value says all that another does.
fn says(value: &Value, wanted: &Value) -> bool {
    wanted.as_object().is_some_and(|fields| fields.iter().all(|(field, wanted)| value[field] == *wanted))
}

/// The configuration with the entries in it, and their context current when `switch` says so or none is (pure). Entries
/// that say what they should are left as they are: a user may have chosen a namespace.
fn merged(mut config: Value, entries: &Entries, switch: bool) -> Value {
    if !config.is_object() {
        config = json!({});
    }
    let name = json!(entries.name);
    for (list, field, mut value) in entries.values() {
        if !config[list].is_array() {
            config[list] = json!([]);
        }
        let Some(items) = config[list].as_array_mut() else { continue };
        let own = items.iter_mut().find(|item| item["name"] == name);
        if own.as_ref().is_some_and(|item| says(&item[field], &value)) {
            continue;
        }
        if field == "context" {
            value["namespace"] = json!("default");
        }
        let entry = json!({"name": name, field: value});
        match own {
            Some(own) => *own = entry,
            None => items.push(entry),
        }
    }
    config["apiVersion"] = json!("v1");
    config["kind"] = json!("Config");
    if switch || current(&config).is_none() {
        config["current-context"] = name;
    }
    config
}

fn current(config: &Value) -> Option<&str> {
    config["current-context"].as_str().filter(|name| !name.is_empty())
}

/// The configuration without the entries of this name, and the context current that was so before them if it is still
/// there (pure); `None` when it had none.
fn without(mut config: Value, name: &str, previous: Option<&str>) -> Option<Value> {
    let before = config.clone();
    for list in ["clusters", "users", "contexts"] {
        if let Some(items) = config.get_mut(list).and_then(Value::as_array_mut) {
            items.retain(|item| item["name"] != json!(name));
        }
    }
    if current(&config) == Some(name) {
        let contexts = config["contexts"].as_array().into_iter().flatten();
        let names = contexts.filter_map(|context| context["name"].as_str());
        let previous = previous.filter(|previous| names.into_iter().any(|name| name == *previous));
        config["current-context"] = json!(previous.unwrap_or(""));
    }
    (config != before).then_some(config)
}

/// Puts a cluster's entries into the person's kubeconfig, and notes that they are there. `switch` makes their context
/// current.
pub async fn add(person: &Person, places: &Places, entries: &Entries, switch: bool) -> io::Result<PathBuf> {
    let path = std::path::absolute(person.kubeconfig())?;
    let mut written: Vec<Written> =
        read_json(places.kubeconfigs()).map_err(io::Error::other)?.unwrap_or_default();
    let mut previous = None;
    file::update(&path, person, |config| {
        let new = merged(config.clone(), entries, switch);
        if current(&new) != current(&config) {
            previous = current(&config).map(str::to_owned);
        }
        (new != config).then_some(new)
    })
    .await?;
    let noted = written.iter_mut().find(|written| written.path == path);
    match (noted, previous) {
        (Some(_), None) => return Ok(path),
        (Some(noted), previous) => noted.previous = previous,
        (None, previous) => written.push(Written { path: path.clone(), previous }),
    }
    write_json(places.kubeconfigs(), &written).map_err(io::Error::other)?;
    Ok(path)
}

/// Takes a cluster's entries out of every kubeconfig that they were put into, and the person's own; answers what failed.
pub async fn remove_all(person: &Person, places: &Places) -> Vec<String> {
    let mut failures = Vec::new();
    let written: Vec<Written> = match read_json(places.kubeconfigs()) {
        Ok(written) => written.unwrap_or_default(),
        Err(error) => {
            failures.push(error.to_string());
            Vec::new()
        }
    };
    let mut paths: BTreeSet<PathBuf> = written.iter().map(|written| written.path.clone()).collect();
    paths.extend(std::path::absolute(person.kubeconfig()));
    for path in paths.iter().filter(|path| path.exists()) {
        let noted = written.iter().find(|written| written.path == *path);
        let previous = noted.and_then(|written| written.previous.as_deref());
        let removed = file::update(path, person, |config| without(config, &places.profile, previous)).await;
        failures.extend(removed.err().map(|error| format!("kubeconfig: {error}")));
    }
    failures
}

/// Whether the person's kubeconfig leads to this cluster: to its server, by its authority, as its administrator.
pub fn leads_to(person: &Person, entries: &Entries) -> bool {
    let config = file::read(&person.kubeconfig()).unwrap_or_default();
    let name = json!(entries.name);
    entries.values().iter().all(|(list, field, wanted)| {
        let mut items = config[list].as_array().into_iter().flatten();
        items.any(|item| item["name"] == name && says(&item[*field], wanted))
    })
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
        let config = json!({"clusters": [work], "contexts": [{"name": "work"}], "current-context": "work",
            "preferences": {"colors": true}});
        let both = merged(config.clone(), &entries("minik"), true);
        assert_eq!((&both["clusters"][0], &both["current-context"]), (&work, &json!("minik")));
        assert_eq!(both["preferences"], json!({"colors": true}));
        assert_eq!(merged(both.clone(), &entries("minik"), true), both);
        let left = without(both.clone(), "minik", Some("work")).unwrap();
        assert_eq!(
            (left["clusters"].as_array().unwrap().len(), &left["current-context"]),
            (1, &json!("work"))
        );
        let left = without(both, "minik", Some("gone")).unwrap();
        assert_eq!(left["current-context"], json!(""));
        assert_eq!(without(config, "minik", None), None);
    }

    #[test]
    fn what_is_right_is_left_and_what_is_wrong_put_right() {
        let mut config = merged(Value::Null, &entries("minik"), false);
        assert_eq!(config["current-context"], json!("minik"));
        config["contexts"][0]["context"]["namespace"] = json!("mine");
        config["current-context"] = json!("other");
        assert_eq!(merged(config.clone(), &entries("minik"), false), config);
        let renewed = Entries { certificate: "new".into(), ..entries("minik") };
        let new = merged(config.clone(), &renewed, false);
        assert_eq!(new["users"][0]["user"]["client-certificate-data"], json!(STANDARD.encode("new")));
        assert_eq!((&new["contexts"], &new["current-context"]), (&config["contexts"], &json!("other")));
        assert_eq!(new["users"].as_array().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn every_kubeconfig_that_was_written_is_cleaned() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new("minik", dir.path());
        let person = |home: &str| Person { home: dir.path().join(home), ids: None };
        let config = |home: &str| file::read(&dir.path().join(home).join(".kube/config")).unwrap();
        let work = dir.path().join("b/.kube/config");
        file::update(&work, &person("b"), |_| {
            Some(json!({"contexts": [{"name": "work", "context": {}}], "current-context": "work"}))
        })
        .await
        .unwrap();
        if std::env::var_os("KUBECONFIG").is_some() {
            tracing::warn!("skipped: KUBECONFIG is set");
            return;
        }
        for home in ["a", "b", "b"] {
            add(&person(home), &places, &entries("minik"), true).await.unwrap();
            assert!(leads_to(&person(home), &entries("minik")));
        }
        let other = Entries { ca: "another".into(), ..entries("minik") };
        assert!(!leads_to(&person("a"), &other));
        assert_eq!(remove_all(&person("c"), &places).await, Vec::<String>::new());
        assert!(!leads_to(&person("a"), &entries("minik")));
        assert_eq!(
            (&config("a")["current-context"], &config("b")["current-context"]),
            (&json!(""), &json!("work"))
        );
    }
}
