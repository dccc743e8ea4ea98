//! The kinds of the cluster: the built-in ones, and those that clients have defined at this moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::api::kinds::{self, KINDS, Kind};
use crate::api::request::Change;
use crate::api::{custom, meta};
use crate::client::Client;
use crate::client::follow::{Entry, Follower, Revision};

/// The kinds as work that is the same for every kind needs them; cheap to clone.
#[derive(Debug, Clone)]
pub struct Kinds {
    /// One row for each definition.
    custom: watch::Receiver<Arc<Vec<Arc<Kind>>>>,
}

impl Kinds {
    /// The kinds, and the task that hears of definitions.
    pub fn new(client: &Client) -> (Kinds, impl Future<Output = ()> + Send + use<>) {
        let (tell, custom) = watch::channel(Arc::default());
        let client = client.clone();
        let feed = async move {
            let follower = Feed { found: BTreeMap::new(), tell };
            if let Some(definitions) = definitions() {
                client.follow(definitions, follower).await;
            }
        };
        (Kinds { custom }, feed)
    }

    /// The built-in kinds alone.
    pub fn built_in() -> Kinds {
        Kinds { custom: watch::channel(Arc::default()).1 }
    }

    /// The kinds that are stored, each once.
    pub fn stored(&self) -> Vec<Arc<Kind>> {
        kinds::stored().cloned().chain(self.custom.borrow().iter().cloned()).collect()
    }

    /// The stored kind whose keys begin so.
    pub fn by_storage(&self, storage: &str) -> Option<Arc<Kind>> {
        let built_in = kinds::stored().find(|kind| kind.storage == storage);
        let custom = || self.custom.borrow().iter().find(|kind| kind.storage == storage).cloned();
        built_in.cloned().or_else(custom)
    }

    /// The kind that an object names; of a custom one any version will do.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<Arc<Kind>> {
        let custom =
            || self.custom.borrow().iter().find(|row| row.group == group && row.kind == kind).cloned();
        kinds::by_kind(group, version, kind).cloned().or_else(custom)
    }

    /// Waits until there are other kinds than at the last call.
    pub async fn changed(&mut self) {
        if self.custom.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// The kind of definitions.
pub fn definitions() -> Option<&'static Arc<Kind>> {
    KINDS.iter().find(|kind| kind.is("apiextensions.k8s.io", "customresourcedefinitions"))
}

struct Feed {
    found: BTreeMap<String, Arc<Kind>>,
    tell: watch::Sender<Arc<Vec<Arc<Kind>>>>,
}

impl Feed {
    fn put(&mut self, entry: &Entry) {
        let definition = entry.json();
        let name = meta::name(definition).to_owned();
        match custom::row(definition) {
            Some(kind) if self.found.get(&name).is_some_and(|known| **known == kind) => {}
            Some(kind) => {
                self.found.insert(name, Arc::new(kind));
            }
            None => {
                self.found.remove(&name);
            }
        }
    }

    fn told(&self) {
        let rows: Vec<Arc<Kind>> = self.found.values().cloned().collect();
        self.tell.send_if_modified(|now| {
            let news = **now != rows;
            if news {
                *now = Arc::new(rows);
            }
            news
        });
    }
}

impl Follower for Feed {
    fn listed(&mut self, entries: &[Arc<Entry>], _: Revision) {
        let names: Vec<&str> = entries.iter().map(|entry| meta::name(entry.json())).collect();
        self.found.retain(|name, _| names.contains(&name.as_str()));
        entries.iter().for_each(|entry| self.put(entry));
        self.told();
    }

    fn changed(&mut self, change: &Change, _: Revision) {
        match change {
            Change::Added(entry) | Change::Modified(entry) => self.put(entry),
            Change::Deleted(entry) => {
                self.found.remove(meta::name(entry.json()));
            }
            Change::Bookmark { .. } => return,
        }
        self.told();
    }
}
