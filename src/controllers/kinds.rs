//! The kinds of the cluster: the built-in ones, those that clients have defined at this moment, and those of other servers.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use super::elsewhere::Elsewhere;
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
    /// What other servers have, each once.
    elsewhere: watch::Receiver<Arc<Vec<Arc<Kind>>>>,
}

impl Kinds {
    /// The kinds, and the task that hears of definitions and of other servers.
    pub fn new(client: &Client) -> (Kinds, impl Future<Output = ()> + Send + use<>) {
        let (tell, custom) = watch::channel(Arc::default());
        let (tell_of_others, elsewhere) = watch::channel(Arc::default());
        let kinds = Kinds { custom, elsewhere };
        let (client, own) = (client.clone(), kinds.clone());
        let feed = async move {
            let follower = Feed { found: BTreeMap::new(), tell };
            let defined = async {
                if let Some(definitions) = definitions() {
                    client.follow(definitions, follower).await;
                }
            };
            tokio::join!(defined, discover(&client, own, tell_of_others));
        };
        (kinds, feed)
    }

    /// The built-in kinds alone.
    pub fn built_in() -> Kinds {
        Kinds { custom: watch::channel(Arc::default()).1, elsewhere: watch::channel(Arc::default()).1 }
    }

    /// The kinds of other servers, each once.
    pub fn elsewhere(&self) -> Arc<Vec<Arc<Kind>>> {
        self.elsewhere.borrow().clone()
    }

    /// The kinds that are stored, each once.
    pub fn stored(&self) -> Vec<Arc<Kind>> {
        kinds::stored().cloned().chain(self.custom.borrow().iter().cloned()).collect()
    }

    /// The kind whose keys begin so, whoever has its objects.
    pub fn by_storage(&self, storage: &str) -> Option<Arc<Kind>> {
        let built_in = kinds::stored().find(|kind| kind.storage == storage);
        let among = |rows: &watch::Receiver<Arc<Vec<Arc<Kind>>>>| {
            rows.borrow().iter().find(|kind| kind.storage == storage).cloned()
        };
        built_in.cloned().or_else(|| among(&self.custom)).or_else(|| among(&self.elsewhere))
    }

    /// The kind that an object names; of a custom one any version will do.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<Arc<Kind>> {
        let custom =
            || self.custom.borrow().iter().find(|row| row.group == group && row.kind == kind).cloned();
        kinds::by_kind(group, version, kind).cloned().or_else(custom)
    }

    /// The same, whoever has its objects.
    pub fn by_kind_anywhere(&self, group: &str, version: &str, kind: &str) -> Option<Arc<Kind>> {
        let elsewhere =
            || self.elsewhere.borrow().iter().find(|row| row.group == group && row.kind == kind).cloned();
        self.by_kind(group, version, kind).or_else(elsewhere)
    }

    /// Waits until there are other kinds than at the last call.
    pub async fn changed(&mut self) {
        let changed = async |rows: &mut watch::Receiver<_>| {
            if rows.changed().await.is_err() {
                std::future::pending().await
            }
        };
        tokio::select! {
            () = changed(&mut self.custom) => {}
            () = changed(&mut self.elsewhere) => {}
        }
    }
}

/// Whether this server has a kind itself, of whatever version: one that is built in, or one of these.
pub fn is_of(stored: &[Arc<Kind>], group: &str, plural: &str) -> bool {
    KINDS.iter().chain(stored).any(|kind| kind.is(group, plural))
}

/// Tells of what other servers have, for as long as there may be any.
async fn discover(client: &Client, mut own: Kinds, tell: watch::Sender<Arc<Vec<Arc<Kind>>>>) {
    let Some(mut news) = client.elsewhere() else { return };
    loop {
        news.mark_unchanged();
        match client.discover().await {
            Ok(discovery) => {
                let rows = rows(&discovery, &own.stored());
                tell.send_if_modified(|now| {
                    let changes = **now != rows;
                    if changes {
                        *now = Arc::new(rows);
                    }
                    changes
                });
            }
            Err(status) => tracing::warn!(%status, "what other servers serve is not told"),
        }
        tokio::select! {
            told = news.changed() => if told.is_err() { return },
            () = own.changed() => {}
        }
    }
}

/// The kinds of other servers, in their preferred versions. One that does not answer still has what it had before. (pure)
fn rows(discovery: &Value, own: &[Arc<Kind>]) -> Vec<Arc<Kind>> {
    let others = Elsewhere::of(discovery, |group, plural| is_of(own, group, plural));
    let mut rows: Vec<Arc<Kind>> = Vec::new();
    for served in others.served.iter().chain(&others.before) {
        if !rows.iter().any(|known| known.is(served.group, served.plural())) {
            rows.push(Arc::new(served.kind()));
        }
    }
    rows
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
