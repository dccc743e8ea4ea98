//! The one implementation of get, list, watch, create, update, patch and delete, for every kind.
//!
//! The registry knows what all objects have in common: keys, metadata, revisions, deletion. What differs is
//! the kind's [`Strategy`]; what a cluster demands beside is [`admission`](super::admission).

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use self::addresses::Books;
use super::admission::Admission;
use super::allocate::{self, Allocator, Reservation, Supply};
use super::auth::attributes::{Asked, Attributes};
use super::auth::rbac::Authorizer;
use super::definitions;
use super::served::Served;
use super::strategy::{self, Strategy};
use super::webhook::Webhooks;
use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::request::User;
use crate::api::status::Status;
use crate::store::{self, Entry, Revision, Store};

mod addresses;
mod apply;
mod create;
mod delete;
mod managed_fields;
pub mod metadata;
mod read;
pub mod selection;
mod turning;
mod update;
mod versions;
mod watch;

pub use delete::is_shown_when_removed;
pub use update::Part;
pub use versions::{as_served, as_stored, stored_kind, value_as_served};

/// Objects in the store, with the rules of the API around them; cheap to clone.
#[derive(Clone)]
pub struct Registry {
    store: Store,
    allocator: Arc<Allocator>,
    served: Arc<Served>,
    webhooks: Arc<Webhooks>,
    admission: Arc<Admission>,
    authorizer: Arc<Authorizer>,
}

/// One object's place: its kind as served, its namespace and its name.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The kind, in the group and version that the request named.
    pub kind: &'a Arc<Kind>,
    /// `None` for cluster-scoped kinds.
    pub namespace: Option<&'a str>,
    /// The object's name.
    pub name: &'a str,
}

impl Place<'_> {
    /// The object's key in the store.
    pub fn key(&self) -> String {
        self.kind.key(self.namespace, self.name)
    }

    /// 404 for this object.
    pub fn not_found(&self) -> Status {
        Status::not_found(&self.kind.group, &self.kind.plural, self.name)
    }

    /// 409 for this object.
    pub fn conflict(&self, why: &str) -> Status {
        Status::conflict(&self.kind.group, &self.kind.plural, self.name, why)
    }

    /// 409: someone else was faster.
    pub fn modified(&self) -> Status {
        self.conflict(
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 409: the client means an object that had the same name, in the words of Kubernetes' storage.
    pub fn other_uid(&self, given: &str, actual: &str) -> Status {
        self.conflict(&format!(
            "StorageError: invalid object, Code: 4, Key: /registry/{}, ResourceVersion: 0, AdditionalErrorMsg: \
             Precondition failed: UID in precondition: {given}, UID in object meta: {actual}",
            self.key()
        ))
    }

    fn strategy(&self) -> &dyn Strategy {
        strategy::of(self.kind)
    }
}

impl Registry {
    /// A registry over `store`; service addresses and ports already given out are read from it, and so are the kinds that
    /// clients defined.
    pub fn new(
        store: Store,
        allocator: Arc<Allocator>,
        authorizer: Arc<Authorizer>,
    ) -> Result<Registry, store::Error> {
        let (served, webhooks, admission) = (Arc::default(), Arc::default(), Arc::default());
        let registry = Registry { store, allocator, served, webhooks, admission, authorizer };
        registry.refresh_kinds()?;
        Ok(registry)
    }

    /// The kinds that are served.
    pub fn served(&self) -> &Arc<Served> {
        &self.served
    }

    /// Calls the webhooks that convert custom objects.
    pub fn webhooks(&self) -> &Webhooks {
        &self.webhooks
    }

    /// Reads the definitions of kinds anew.
    fn refresh_kinds(&self) -> Result<(), store::Error> {
        let prefix = format!("{}/", definitions::PLURAL);
        self.served.refresh(|| self.store.list(&prefix, None, 0, None).map(|all| all.entries))
    }

    /// Takes up kinds whose definitions were written by requests that nobody waited for, until dropped.
    pub(super) async fn follow_definitions(&self) {
        let prefix = format!("{}/", definitions::PLURAL);
        loop {
            let mut changes = self.store.watch(&prefix, self.store.revision());
            loop {
                if let Err(error) = self.refresh_kinds() {
                    tracing::warn!(%error, "the definitions of custom kinds cannot be read");
                }
                match changes.next().await {
                    Ok(_) => {}
                    Err(store::Error::Closed) => return,
                    // The log no longer reaches back to the last look.
                    Err(_) => break,
                }
            }
        }
    }

    /// What a write of an object of this kind changes for the server itself.
    fn written(&self, kind: &Kind) -> Result<(), Status> {
        if definitions::concerns(kind) { self.refresh_kinds().map_err(internal) } else { Ok(()) }
    }

    /// Decides who may give which rights, and other questions that come up while a request is carried out.
    pub fn authorizer(&self) -> &Authorizer {
        &self.authorizer
    }

    /// The store below, for progress and shutdown.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Who has which service address and node port.
    pub fn allocator(&self) -> &Arc<Allocator> {
        &self.allocator
    }

    /// What admission keeps between requests.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// The present objects under a prefix of keys, as they are stored.
    pub fn all(&self, prefix: &str) -> Vec<Arc<Entry>> {
        self.store.list(prefix, None, 0, None).map(|listed| listed.entries).unwrap_or_default()
    }

    /// Refuses an update that would make an object to who may only change it.
    pub(super) fn may_create(&self, user: &User, place: Place<'_>) -> Result<(), Status> {
        let asked = Asked::Resource {
            group: &place.kind.group,
            resource: &place.kind.plural,
            subresource: "",
            namespace: place.namespace.unwrap_or_default(),
            name: place.name,
        };
        self.authorizer.authorize(user, &Attributes { verb: "create", asked })
    }

    /// Takes what a write of an object needs of the cluster's addresses and ports beyond what the object had; `None` for
    /// kinds that need nothing.
    async fn reserve(
        &self,
        place: Place<'_>,
        new: &mut Value,
        old: Option<&Value>,
    ) -> Result<Option<Reservation>, Status> {
        if !allocate::concerns(place.kind) {
            return Ok(None);
        }
        self.settle_doubts(place.kind).await;
        let ranges = self.service_ranges();
        let supply = Supply { ranges: &ranges, held: &|address| self.is_held(address) };
        let reserved = self.allocator.reserve_from(supply, new, old).map(Some);
        reserved.map_err(|errors| Status::invalid(&place.kind.group, &place.kind.kind, place.name, &errors))
    }

    /// Finds out what became of the writes of services of which it was not known.
    async fn settle_doubts(&self, services: &Kind) {
        let Some(mark) = self.allocator.doubts() else { return };
        // Once a later transaction went well, the store shows what is on the disk.
        if self.store.check().await.is_err() {
            return;
        }
        let Ok(there) = self.store.list(&services.prefix(None), None, 0, None) else { return };
        self.allocator.settle(mark, there.entries.iter().map(|entry| entry.json()));
    }

    /// Carries out a write of a place, and settles what was reserved for it even when nobody waits for the request any more:
    /// a write that is queued is carried out whether or not its caller is still there.
    async fn carry_out<W>(
        &self,
        place: Place<'_>,
        write: W,
        reserved: Option<Reservation>,
    ) -> Result<Result<Arc<Entry>, store::Error>, Status>
    where
        W: Future<Output = Result<Arc<Entry>, store::Error>> + Send + 'static,
    {
        let Some(reservation) = reserved else { return Ok(write.await) };
        let books = Books::of(self, place);
        let settled = tokio::spawn(async move {
            let change = books.change(reservation.taken(), reservation.freed());
            // At the same time, so that they share a transaction.
            let (written, ()) = futures::join!(write, change);
            match &written {
                Ok(_) => reservation.commit(),
                Err(store::Error::Exists { .. } | store::Error::Conflict { .. }) => {
                    books.change(reservation.freed(), reservation.taken()).await;
                    drop(reservation);
                }
                // The change may have reached the disk all the same.
                Err(_) => reservation.keep(),
            }
            written
        });
        settled.await.map_err(|error| Status::internal(format!("a write was cut off: {error}")))
    }

    /// The object as it lies in the store, in the stored version.
    pub fn find(&self, place: Place<'_>) -> Result<Arc<Entry>, Status> {
        self.store.get(&place.key()).ok_or_else(|| place.not_found())
    }
}

/// Room for an object of the usual size.
const DOCUMENT_BYTES: usize = 2048;

/// JSON bytes of a value, which always encodes; they hold no more memory than they need.
pub fn encode(value: &Value) -> Bytes {
    serde_json::to_vec(value).map(|bytes| Bytes::from(bytes.into_boxed_slice())).unwrap_or_default()
}

/// What the store calls at the moment of the write: the object with the revision of that write in it. All but the revision
/// is encoded by the caller, since writes wait for each other's moment.
pub fn encode_at(mut value: Value) -> impl FnOnce(Revision) -> Bytes + Send + 'static {
    meta::set(&mut value, "resourceVersion", "");
    let (bytes, at) = encode_around_version(&value);
    move |revision| {
        let (head, tail) = bytes.split_at(at);
        [head, revision.to_string().as_bytes(), tail].concat().into()
    }
}

/// An object's JSON, and where the text of its resourceVersion begins.
fn encode_around_version(value: &Value) -> (Vec<u8>, usize) {
    let (mut bytes, mut at) = (Vec::with_capacity(DOCUMENT_BYTES), 0);
    encode_fields(&mut bytes, value, |bytes, name, value| {
        if name != "metadata" || !value.is_object() {
            return encode_into(bytes, value);
        }
        encode_fields(bytes, value, |bytes, name, value| {
            if name == "resourceVersion" {
                at = bytes.len() + 1;
            }
            encode_into(bytes, value);
        });
    });
    (bytes, at)
}

/// Writes an object whose values `each` writes.
fn encode_fields(bytes: &mut Vec<u8>, object: &Value, mut each: impl FnMut(&mut Vec<u8>, &str, &Value)) {
    bytes.push(b'{');
    for (i, (name, value)) in object.as_object().into_iter().flatten().enumerate() {
        if i > 0 {
            bytes.push(b',');
        }
        encode_into(bytes, name);
        bytes.push(b':');
        each(bytes, name, value);
    }
    bytes.push(b'}');
}

/// Writes a value, which always encodes.
fn encode_into(bytes: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) {
    let _ = serde_json::to_writer(bytes, value);
}

/// A store failure that no rule of the API explains.
fn internal(error: store::Error) -> Status {
    match error {
        store::Error::Closed => Status::unavailable("the server is shutting down"),
        error => Status::internal(error),
    }
}

#[cfg(test)]
mod tests;
