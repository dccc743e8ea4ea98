//! The kinds that the server serves at this moment: the built-in ones and those that clients defined.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::registry::encode;
use crate::api::custom;
use crate::api::kinds::{self, KINDS, Kind};
use crate::api::meta;
use crate::store::Entry;

/// The table of kinds, as requests, discovery and documents read it. Reading takes no lock for longer than a
/// reference count.
#[derive(Debug)]
pub struct Served {
    now: RwLock<Arc<Table>>,
    /// What was made of each definition, by its name, and at which revision of it.
    made: Mutex<HashMap<String, Made>>,
    /// Tells those who follow a custom kind that some have changed.
    changed: watch::Sender<()>,
}

/// What was made of a definition.
#[derive(Debug)]
struct Made {
    /// The revision of the definition.
    revision: u64,
    /// What tells its versions from those of another write of it.
    form: Form,
    /// The first revision of it that had this form.
    since: u64,
    kinds: Vec<Arc<Kind>>,
}

/// What changes when the versions of a definition do.
#[derive(Debug, PartialEq)]
struct Form {
    uid: String,
    /// Of the spec, which may be long.
    digest: Vec<u8>,
    names: Value,
}

impl Form {
    fn of(definition: &Value) -> Form {
        Form {
            uid: meta::uid(definition).to_owned(),
            digest: Sha256::digest(encode(&definition["spec"])).to_vec(),
            names: definition["status"]["acceptedNames"].clone(),
        }
    }
}

#[derive(Debug)]
struct Table {
    all: Arc<Vec<Arc<Kind>>>,
    /// The custom ones, by group, version and plural.
    custom: HashMap<String, Arc<Kind>>,
}

impl Table {
    fn new(custom: Vec<Arc<Kind>>) -> Table {
        let found = custom.iter().map(|kind| (place(&kind.group, &kind.version, &kind.plural), kind.clone()));
        let found = found.collect();
        Table { all: Arc::new(KINDS.iter().cloned().chain(custom).collect()), custom: found }
    }
}

fn place(group: &str, version: &str, plural: &str) -> String {
    format!("{group}/{version}/{plural}")
}

impl Default for Served {
    fn default() -> Served {
        Served {
            now: RwLock::new(Arc::new(Table::new(Vec::new()))),
            made: Mutex::default(),
            changed: watch::Sender::default(),
        }
    }
}

impl Served {
    fn table(&self) -> Arc<Table> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every kind, grouped by API group; the built-in ones first.
    pub fn kinds(&self) -> Arc<Vec<Arc<Kind>>> {
        self.table().all.clone()
    }

    /// The kind served at this group, version and plural.
    pub fn by_resource(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        kinds::by_resource(group, version, plural)
            .cloned()
            .or_else(|| self.table().custom.get(&place(group, version, plural)).cloned())
    }

    /// Returns once a custom kind is no longer what it is in this row: its definition has another form, or is gone.
    /// Built-in kinds stay.
    pub async fn outdated(&self, kind: &Kind) {
        let Some(version) = kind.types.custom() else { return std::future::pending().await };
        let is_current = || {
            let current = self.by_resource(&kind.group, &kind.version, &kind.plural);
            let current = current.as_ref().and_then(|kind| kind.types.custom());
            current.is_some_and(|current| current.definition.since == version.definition.since)
        };
        let mut changed = self.changed.subscribe();
        while is_current() {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Serves what these definitions define beside the built-in kinds, and nothing else. Only what has changed since the
    /// last time is read. `definitions` is asked under a lock, so that the newest state is what stays.
    pub fn refresh<E>(&self, definitions: impl FnOnce() -> Result<Vec<Arc<Entry>>, E>) -> Result<(), E> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = HashMap::new();
        let mut changed = false;
        for entry in definitions()? {
            let name = meta::name(entry.json()).to_owned();
            let known = match made.remove(&name) {
                Some(known) if known.revision == entry.revision => known,
                other => {
                    changed = true;
                    let form = Form::of(entry.json());
                    // A change of the status or of labels says nothing of the objects.
                    let since = other.filter(|other| other.form == form).map(|other| other.since);
                    let since = since.unwrap_or(entry.revision);
                    let kinds = custom::kinds(entry.json(), &entry.bytes, since);
                    Made { revision: entry.revision, form, since, kinds }
                }
            };
            next.insert(name, known);
        }
        // What is left in the old ones is defined no longer.
        changed |= !made.is_empty();
        *made = next;
        if !changed {
            return Ok(());
        }
        let mut all: Vec<Arc<Kind>> = made.values().flat_map(|made| &made.kinds).cloned().collect();
        all.sort_by(|a, b| {
            a.group
                .cmp(&b.group)
                .then_with(|| custom::newer(&a.version, &b.version))
                .then_with(|| a.plural.cmp(&b.plural))
        });
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Table::new(all));
        self.changed.send_replace(());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn only_another_form_makes_a_kind_another() {
        let served = Served::default();
        let written = |revision: u64, scope: &str, label: &str| {
            let definition = json!({"metadata": {"name": "w", "uid": "u", "generation": revision,
                "labels": {"a": label}},
                "spec": {"group": "example.com", "scope": scope, "versions": [{"name": "v1", "served": true, "storage": true}]},
                "status": {"acceptedNames": {"plural": "widgets", "kind": "Widget"},
                    "conditions": [{"type": "Established", "status": "True"}]}});
            let entry = Entry::new("customresourcedefinitions/w".into(), encode(&definition), 1, revision);
            served.refresh(|| Ok::<_, ()>(vec![entry])).unwrap();
            served.by_resource("example.com", "v1", "widgets").unwrap()
        };
        let since = |kind: &Kind| kind.types.custom().unwrap().definition.since;
        let first = written(3, "Cluster", "x");
        let mut follower = Box::pin(served.outdated(&first));
        assert!(futures::poll!(&mut follower).is_pending());
        assert_eq!(since(&written(5, "Cluster", "y")), 3);
        assert!(futures::poll!(&mut follower).is_pending());
        let next = written(7, "Namespaced", "y");
        assert_eq!(since(&next), 7);
        assert!(futures::poll!(follower).is_ready());
        served.refresh(|| Ok::<_, ()>(Vec::new())).unwrap();
        assert!(futures::poll!(Box::pin(served.outdated(&next))).is_ready());
        let pods = served.by_resource("", "v1", "pods").unwrap();
        assert!(futures::poll!(Box::pin(served.outdated(&pods))).is_pending());
    }

    #[test]
    fn custom_kinds_come_and_go() {
        let served = Served::default();
        let definition = json!({"metadata": {"name": "widgets.example.com", "uid": "u"}, "spec": {"group": "example.com",
            "scope": "Cluster", "versions": [{"name": "v1", "served": true, "storage": true}]},
            "status": {"acceptedNames": {"plural": "widgets", "kind": "Widget"},
                "conditions": [{"type": "Established", "status": "True"}]}});
        let entry = Entry::new("customresourcedefinitions/w".into(), encode(&definition), 1, 1);
        let none: Result<(), ()> = served.refresh(|| Ok(vec![entry.clone()]));
        none.unwrap();
        let first = served.by_resource("example.com", "v1", "widgets").unwrap();
        assert_eq!(served.kinds().len(), KINDS.len() + 1);
        served.refresh(|| Ok::<_, ()>(vec![entry])).unwrap();
        assert!(Arc::ptr_eq(&first, &served.by_resource("example.com", "v1", "widgets").unwrap()));
        served.refresh(|| Ok::<_, ()>(Vec::new())).unwrap();
        assert!(served.by_resource("example.com", "v1", "widgets").is_none());
        assert!(served.by_resource("", "v1", "pods").is_some());
    }
}
