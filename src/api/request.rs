//! One request to the API and its answer, as values: HTTP parses to these, in-process clients build them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::watch;

use super::status::Status;
use crate::store::{Entry, Revision, Snapshot};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// `system:admin`, `system:serviceaccount:NAMESPACE:NAME`, or a certificate's common name.
    pub name: String,
    /// `system:masters`, `system:authenticated`, ...
    pub groups: Vec<String>,
    /// The service account's or user's unique id, when there is one.
    pub uid: Option<String>,
    /// What else is known of the user: the pod of a service account, the credential.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A component of minik itself (`system:kube-scheduler`, `system:node:NAME`, ...), allowed everything.
    pub fn component(name: &str) -> User {
        User {
            name: name.to_owned(),
            groups: vec!["system:masters".to_owned(), "system:authenticated".to_owned()],
            ..User::default()
        }
    }
}

/// What a request is about: `/apis/GROUP/VERSION/namespaces/NAMESPACE/RESOURCE/NAME/SUBRESOURCE`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// Empty for the core group.
    pub group: String,
    /// `v1`.
    pub version: String,
    /// The plural: `pods`.
    pub resource: String,
    /// Absent for cluster-scoped kinds and for lists over all namespaces.
    pub namespace: Option<String>,
    /// Absent for collections.
    pub name: Option<String>,
    /// `status`, `binding`, ...
    pub subresource: Option<String>,
}

impl fmt::Display for Target {
    /// `pods/www` or `pods` as kubectl would name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resource)?;
        for part in [&self.name, &self.subresource].into_iter().flatten() {
            write!(f, "/{part}")?;
        }
        Ok(())
    }
}

/// Which objects a list or watch selects, and how much of them.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// `app=vote,tier!=db`.
    pub label_selector: String,
    /// `metadata.name=www`.
    pub field_selector: String,
    /// At most so many; 0 is no limit.
    pub limit: usize,
    /// Where the last page ended.
    pub continue_token: String,
    /// Empty, `0`, or a revision.
    pub resource_version: String,
    /// `Exact` or `NotOlderThan` or empty.
    pub resource_version_match: String,
    /// Whether `sendInitialEvents` is given, which only a watch knows.
    pub send_initial_events: bool,
}

/// How a watch behaves beyond its selection.
#[derive(Debug, Clone, Default)]
pub struct WatchOptions {
    /// The selection; `limit` and `continue_token` are ignored.
    pub list: ListOptions,
    /// Send `BOOKMARK` events now and then.
    pub bookmarks: bool,
    /// Begin with the present objects as `ADDED`, closed by an annotated bookmark (`sendInitialEvents`).
    pub initial_events: Option<bool>,
    /// End the watch after so many seconds.
    pub timeout_seconds: Option<u64>,
}

/// What to do with fields that the schema does not know, and with fields given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and say so in a `Warning` header.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

/// Options of create, update and patch.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Answer as if done, but write nothing (`dryRun=All`).
    pub dry_run: bool,
    /// `fieldValidation`.
    pub field_validation: FieldValidation,
    /// What the reader of the body's bytes found given twice (`duplicate field "spec.x"`): the value that is left of them
    /// no longer shows it.
    pub duplicates: Vec<String>,
    /// `fieldManager`.
    pub field_manager: Option<String>,
    /// `force`, for server-side apply.
    pub force: bool,
}

/// `DeleteOptions`.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds; `None` is the kind's default.
    pub grace_period_seconds: Option<i64>,
    /// Refuse unless the object has this uid.
    pub precondition_uid: Option<String>,
    /// Refuse unless the object is at this resourceVersion.
    pub precondition_resource_version: Option<String>,
    /// `Orphan`, `Background`, `Foreground`.
    pub propagation_policy: Option<String>,
    /// Answer as if done, but delete nothing.
    pub dry_run: bool,
}

/// How a patch body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902, `application/json-patch+json`.
    Json,
    /// RFC 7386, `application/merge-patch+json`.
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
    /// `application/apply-patch+yaml`.
    Apply,
}

/// What is to be done to the target.
#[derive(Debug, Clone)]
pub enum Action {
    /// Read one object.
    Get {
        /// Empty, `0`, or a revision that the answer must not be older than.
        resource_version: String,
    },
    /// Read a collection.
    List(ListOptions),
    /// Follow a collection.
    Watch(WatchOptions),
    /// Make an object (or post to a subresource such as `binding`).
    Create(Value, WriteOptions),
    /// Replace an object.
    Update(Value, WriteOptions),
    /// Change an object.
    Patch(PatchKind, Value, WriteOptions),
    /// Remove an object.
    Delete(DeleteOptions),
    /// Remove all objects of a selection.
    DeleteCollection(ListOptions, DeleteOptions),
}

/// A request to the API.
#[derive(Debug, Clone)]
pub struct Request {
    /// Who asks.
    pub user: User,
    /// About what.
    pub target: Target,
    /// To do what.
    pub action: Action,
}

/// A successful answer.
#[allow(clippy::large_enum_variant)] // Passed by value once a request; boxing its rarest forms would only add noise.
pub enum Response {
    /// One object as it lies in the store.
    Object {
        /// The object, encoded once.
        entry: Arc<Entry>,
        /// Whether this request made it (HTTP 201).
        created: bool,
        /// For `Warning` headers.
        warnings: Vec<String>,
    },
    /// One object that lies in no store: a dry run's result, a token, a review, a scale.
    Transient {
        /// The object.
        value: Value,
        /// Whether this request made it (HTTP 201).
        created: bool,
        /// For `Warning` headers.
        warnings: Vec<String>,
    },
    /// A collection.
    List {
        /// The entries and the revision that they show.
        snapshot: Snapshot,
        /// Where the next page begins; empty on the last.
        continue_token: String,
    },
    /// Changes from now on.
    Watch(Box<dyn Changes>),
    /// Done, and there is no object to show (a completed delete).
    Status(Status),
}

/// One thing that a watcher sees.
#[derive(Debug, Clone)]
pub enum Change {
    /// The object came into the selection.
    Added(Arc<Entry>),
    /// The object changed within the selection.
    Modified(Arc<Entry>),
    /// The object left the selection or was deleted.
    Deleted(Arc<Entry>),
    /// Everything up to this revision was delivered.
    Bookmark {
        /// The revision.
        revision: Revision,
        /// Whether this ends the initial events (`k8s.io/initial-events-end`).
        initial_events_end: bool,
    },
}

/// A running watch.
pub trait Changes: Send {
    /// The next change; `None` when the watch's time is over, `Err` (410 Expired) when it fell behind.
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Change, Status>>>;
}

/// Anything that answers requests: the API server in this process, or one behind HTTPS.
pub trait Transport: Send + Sync + 'static {
    /// Carries out one request.
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Response, Status>>;

    /// What is served of all groups but the core one, by whomever: an `APIGroupDiscoveryList` of `apidiscovery.k8s.io/v2`.
    fn discover(&self) -> BoxFuture<'_, Result<Value, Status>>;

    /// Is told whenever other servers behind this one serve something else than before; `None` where there are no such.
    fn elsewhere(&self) -> Option<watch::Receiver<()>> {
        None
    }
}
