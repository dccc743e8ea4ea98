//! The kinds that the server serves at this moment: the built-in ones and those that clients defined.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde_json::Value;

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
    generation: i64,
    single_version: bool,
}

impl Form {
    fn of(definition: &Value) -> Form {
        Form {
            uid: meta::uid(definition).to_owned(),
            generation: meta::generation(definition),
            single_version: custom::is_single_version(definition),
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
        Served { now: RwLock::new(Arc::new(Table::new(Vec::new()))), made: Mutex::default() }
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
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::registry::encode;
    use serde_json::json;

    #[test]
    fn only_another_form_makes_the_objects_old() {
        let served = Served::default();
        let written = |revision: u64, generation: i64, label: &str| {
            let definition = json!({"metadata": {"name": "w", "uid": "u", "generation": generation, "labels": {"a": label}},
                "spec": {"group": "example.com", "versions": [{"name": "v1", "served": true, "storage": true}]},
                "status": {"acceptedNames": {"plural": "widgets", "kind": "Widget"},
                    "conditions": [{"type": "Established", "status": "True"}]}});
            let entry = Entry::new("customresourcedefinitions/w".into(), encode(&definition), 1, revision);
            served.refresh(|| Ok::<_, ()>(vec![entry])).unwrap();
            let kind = served.by_resource("example.com", "v1", "widgets").unwrap();
            kind.types.custom().unwrap().definition.since
        };
        assert_eq!(written(3, 1, "x"), 3);
        assert_eq!(written(5, 1, "y"), 3);
        assert_eq!(written(7, 2, "y"), 7);
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
