//! Watches: the store's changes under a prefix, seen through a selection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::json;
use tokio::time::Instant;

use super::read::{Asked, check_options, revision, too_large};
use super::selection::Selection;
use super::{Registry, as_served, encode, internal};
use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::request::{Change, Changes, WatchOptions};
use crate::api::status::Status;
use crate::apiserver::served::Served;
use crate::store::{self, Entry, Event, Revision};

/// How often a watcher that asked for bookmarks hears how far it is.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// How long before its end a watch tells for the last time how far it is (k8s.io/apiserver
/// `pkg/storage/cacher/cache_watcher.go`).
const BEFORE_END: Duration = Duration::from_secs(2);

struct Watch {
    kind: Arc<Kind>,
    served: Arc<Served>,
    selection: Selection,
    events: store::Watch,
    /// What is to be said before the store's changes.
    first: VecDeque<Change>,
    /// The last revision told to the watcher.
    told: Revision,
    next_bookmark: Option<Instant>,
    deadline: Option<Instant>,
}

impl Registry {
    /// Follows a collection, or one object of it.
    pub fn watch(
        &self,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        name: Option<&str>,
        options: &WatchOptions,
    ) -> Result<Box<dyn Changes>, Status> {
        let streamed = options.initial_events.is_some();
        check_options(&options.list, if streamed { Asked::StreamedWatch } else { Asked::Watch })?;
        let selection = Selection::new(kind, namespace, name, &options.list)?;
        let asked = revision(&options.list.resource_version)?.filter(|r| *r > 0);
        let newest = self.store.revision();
        if let Some(asked) = asked.filter(|asked| *asked > newest) {
            return Err(too_large(asked, newest));
        }
        // Without a revision to go on from, a watch begins with what there is.
        let initial = options.initial_events.unwrap_or(asked.is_none());
        let mut first = VecDeque::new();
        let from = if initial {
            let snapshot = self.store.list(&selection.prefix(), None, 0, None).map_err(internal)?;
            let selected = snapshot.entries.into_iter().filter(|e| selection.matches(e));
            first.extend(selected.map(|e| Change::Added(as_served(kind, e))));
            if options.initial_events == Some(true) && options.bookmarks {
                first.push_back(Change::Bookmark { revision: snapshot.revision, initial_events_end: true });
            }
            snapshot.revision
        } else {
            asked.unwrap_or(newest)
        };
        // From a revision that is forgotten, the watch begins and tells so by its first event, as in Kubernetes.
        let events = self.store.watch(&selection.prefix(), from);
        let now = Instant::now();
        let deadline = options.timeout_seconds.map(|s| now + Duration::from_secs(s));
        Ok(Box::new(Watch {
            kind: kind.clone(),
            served: self.served.clone(),
            selection,
            events,
            first,
            told: from,
            next_bookmark: options.bookmarks.then(|| next_bookmark(now, deadline)),
            deadline,
        }))
    }
}

/// When a watcher hears next how far it is: after the interval, but once shortly before its time is over, so that it can
/// go on from there.
fn next_bookmark(now: Instant, deadline: Option<Instant>) -> Instant {
    let regular = now + BOOKMARK_INTERVAL;
    let last = deadline.and_then(|deadline| deadline.checked_sub(BEFORE_END));
    last.filter(|last| *last > now).map_or(regular, |last| last.min(regular))
}

/// 410 for a watch that begins or has fallen before the oldest change still known.
fn expired(error: store::Error) -> Status {
    match error {
        store::Error::Compacted { requested, oldest, .. } => {
            Status::expired(format!("too old resource version: {requested} ({oldest})"))
        }
        other => internal(other),
    }
}

/// What a change of the store means within a selection.
fn seen(selection: &Selection, event: &Event) -> Option<Change> {
    let before = event.previous.as_ref().is_some_and(|previous| selection.matches(previous));
    let after = !event.deleted && selection.matches(&event.entry);
    match (before, after) {
        (false, true) => Some(Change::Added(event.entry.clone())),
        (true, true) => Some(Change::Modified(event.entry.clone())),
        (true, false) if event.deleted => Some(Change::Deleted(event.entry.clone())),
        (true, false) => event.previous.as_ref().map(|p| Change::Deleted(left(p, event.revision))),
        (false, false) => None,
    }
}

/// An object that left the selection is shown as it was last seen, at the revision at which it left.
fn left(previous: &Entry, revision: Revision) -> Arc<Entry> {
    let mut object = previous.json().clone();
    meta::set(&mut object, "resourceVersion", json!(revision.to_string()));
    Entry::new(previous.key.clone(), encode(&object), previous.created, revision)
}

impl Watch {
    async fn advance(&mut self) -> Option<Result<Change, Status>> {
        if let Some(change) = self.first.pop_front() {
            return Some(Ok(change));
        }
        loop {
            // Looked at before each change: a watch whose changes are always ready has an end, too.
            let now = Instant::now();
            if self.deadline.is_some_and(|at| at <= now) {
                return None;
            }
            if self.next_bookmark.is_some_and(|at| at <= now) {
                self.next_bookmark = Some(next_bookmark(now, self.deadline));
                let revision = self.events.progress();
                if revision > self.told {
                    self.told = revision;
                    return Some(Ok(Change::Bookmark { revision, initial_events_end: false }));
                }
            }
            tokio::select! {
                // Changes first: a timer is set only when there is none.
                biased;
                event = self.events.next() => match event {
                    Ok(event) => if let Some(change) = seen(&self.selection, &event) {
                        self.told = event.revision;
                        return Some(Ok(self.shown(change)));
                    },
                    Err(store::Error::Closed) => return None,
                    Err(error) => return Some(Err(expired(error))),
                },
                // Who follows a kind whose schema has changed must ask again, as in Kubernetes.
                () = self.served.outdated(&self.kind) => return None,
                () = until(self.deadline) => {}
                () = until(self.next_bookmark) => {}
            }
        }
    }

    fn shown(&self, change: Change) -> Change {
        match change {
            Change::Added(entry) => Change::Added(as_served(&self.kind, entry)),
            Change::Modified(entry) => Change::Modified(as_served(&self.kind, entry)),
            Change::Deleted(entry) => Change::Deleted(as_served(&self.kind, entry)),
            bookmark @ Change::Bookmark { .. } => bookmark,
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

impl Changes for Watch {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Change, Status>>> {
        self.advance().boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_bookmark_comes_shortly_before_the_end() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        for (deadline, next) in
            [(None, 60), (Some(600), 60), (Some(61), 59), (Some(30), 28), (Some(2), 60), (Some(1), 60)]
        {
            assert_eq!(next_bookmark(now, deadline.map(after)), after(next), "{deadline:?}");
        }
    }
}
