//! The history of an owner's template, kept in ControllerRevisions.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use super::claim::claim;
use super::{Owner, hash, selects};
use crate::api::request::{DeleteOptions, PatchKind};
use crate::api::status::Status;
use crate::client::reflector::{Reflector, key_of};
use crate::client::{Client, Resource};

/// The label of a revision that bears the hash of its data.
pub const HASH: &str = "controller.kubernetes.io/hash";
/// The label of a pod that bears the name, or hash, of the revision that it was made from.
pub const REVISION: &str = "controller-revision-hash";

/// How much of an owner's name goes into the names of its revisions.
const LONGEST_PREFIX: usize = 223;

/// The name of a revision.
pub fn name(owner: &str, hash: &str) -> String {
    let prefix = owner.get(..LONGEST_PREFIX.min(owner.len())).unwrap_or(owner);
    format!("{prefix}-{hash}")
}

/// The hash of a revision's data; each collision of names makes it another one.
pub fn hash_of(data: &Value, collisions: i32) -> String {
    let data = hash::canonical(data).to_string();
    hash::safe(hash::fnv1(&[data.as_bytes(), collisions.to_string().as_bytes()]))
}

/// What a revision keeps of a template: a strategic merge patch that puts it back.
pub fn data_of(template: &PodTemplateSpec) -> Result<Value, Status> {
    let mut template = serde_json::to_value(template).map_err(Status::internal)?;
    template["$patch"] = "replace".into();
    Ok(json!({"spec": {"template": template}}))
}

/// A revision's number.
pub fn number(revision: &ControllerRevision) -> i64 {
    revision.revision.unwrap_or(0)
}

/// A revision's data.
pub fn data(revision: &ControllerRevision) -> &Value {
    &revision.data.0
}

/// Whether two revisions' data mean the same.
pub fn same(a: &Value, b: &Value) -> bool {
    hash::canonical(a) == hash::canonical(b)
}

/// Oldest first.
pub fn sort(revisions: &mut [Arc<ControllerRevision>]) {
    revisions.sort_by(|a, b| {
        let key = |r: &ControllerRevision| (number(r), r.metadata.creation_timestamp.clone());
        key(a).cmp(&key(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name))
    });
}

/// The number that follows those of a sorted history.
pub fn next(history: &[Arc<ControllerRevision>]) -> i64 {
    history.last().map_or(1, |last| number(last) + 1)
}

/// The revisions of a sorted history that are beyond the `limit`, oldest first; those that are in use (by name) do not
/// count.
pub fn surplus(
    history: &[Arc<ControllerRevision>],
    in_use: &BTreeSet<&str>,
    limit: usize,
) -> Vec<Arc<ControllerRevision>> {
    let free = |revision: &&Arc<ControllerRevision>| {
        !revision.metadata.name.as_deref().is_some_and(|name| in_use.contains(name))
    };
    let free: Vec<_> = history.iter().filter(free).cloned().collect();
    let beyond = free.len().saturating_sub(limit);
    free.into_iter().take(beyond).collect()
}

/// What a revision is to be.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Its data.
    pub data: Value,
    /// Labels beside the one that bears the hash.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// The label that bears the hash, when it is not [`HASH`].
    pub hash_label: Option<&'static str>,
}

/// Writes revisions on behalf of one controller.
#[derive(Clone)]
pub struct Revisions {
    client: Client,
    mirror: Reflector<ControllerRevision>,
}

impl Revisions {
    /// A writer whose writes `mirror` shows.
    pub fn new(client: Client, mirror: Reflector<ControllerRevision>) -> Revisions {
        Revisions { client, mirror }
    }

    /// The sorted history of `owner`, an object of kind `O`; takes on orphans.
    pub async fn of<O: Resource>(&self, owner: &Owner) -> Result<Vec<Arc<ControllerRevision>>, Status> {
        let all = self.mirror.in_namespace(&owner.namespace);
        let matches = |revision: &ControllerRevision| selects(&owner.selector, &revision.metadata);
        // Finalizers are for pods alone.
        let owner = &Owner { finalizer: None, ..owner.clone() };
        let mut history = claim::<O, _>(&self.client, owner, &self.mirror, all, matches).await?;
        sort(&mut history);
        Ok(history)
    }

    /// The revision that says what is wanted: found in the sorted `history`, given the newest number when others
    /// came after it, or made. `collisions` counts the names that were taken.
    pub async fn ensure(
        &self,
        owner: &Owner,
        wanted: &Wanted,
        history: &[Arc<ControllerRevision>],
        collisions: &mut i32,
    ) -> Result<Arc<ControllerRevision>, Status> {
        let number_if_new = next(history);
        let found = history.iter().rev().find(|revision| same(data(revision), &wanted.data));
        match found {
            Some(found) if number(found) + 1 == number_if_new => Ok(found.clone()),
            Some(found) => self.renumber(found, number_if_new).await,
            None => self.create(owner, wanted, number_if_new, collisions).await,
        }
    }

    /// Makes a revision.
    async fn create(
        &self,
        owner: &Owner,
        wanted: &Wanted,
        number: i64,
        collisions: &mut i32,
    ) -> Result<Arc<ControllerRevision>, Status> {
        let api = self.client.namespaced::<ControllerRevision>(&owner.namespace);
        loop {
            let hash = hash_of(&wanted.data, *collisions);
            let mut labels = wanted.labels.clone();
            labels.insert(wanted.hash_label.unwrap_or(HASH).to_owned(), hash.clone());
            let revision = ControllerRevision {
                metadata: ObjectMeta {
                    name: Some(name(owner.name(), &hash)),
                    namespace: Some(owner.namespace.clone()),
                    labels: Some(labels),
                    annotations: Some(wanted.annotations.clone()).filter(|a| !a.is_empty()),
                    owner_references: Some(vec![owner.reference.clone()]),
                    ..ObjectMeta::default()
                },
                data: RawExtension(wanted.data.clone()),
                revision: Some(number),
            };
            match api.create(&revision).await {
                Ok(made) => {
                    self.mirror.reached(&made).await;
                    return Ok(Arc::new(made));
                }
                Err(status) if status.is("AlreadyExists") => {
                    let taken = api.get(&name(owner.name(), &hash)).await?;
                    if same(data(&taken), &wanted.data) && owner.controls(&taken.metadata) {
                        return Ok(Arc::new(taken));
                    }
                    *collisions += 1;
                }
                Err(status) => return Err(status),
            }
        }
    }

    /// Gives a revision another number.
    pub async fn renumber(
        &self,
        revision: &ControllerRevision,
        number: i64,
    ) -> Result<Arc<ControllerRevision>, Status> {
        let meta = &revision.metadata;
        let api = self.client.namespaced(meta.namespace.as_deref().unwrap_or(""));
        let body = json!({"metadata": {"uid": meta.uid}, "revision": number});
        let name = meta.name.as_deref().unwrap_or("");
        let written = api.patch(name, None, PatchKind::Merge, body).await?;
        self.mirror.reached(&written).await;
        Ok(Arc::new(written))
    }

    /// Deletes a revision; one that is gone already is fine.
    pub async fn delete(&self, revision: &ControllerRevision) -> Result<(), Status> {
        let meta = &revision.metadata;
        let api = self.client.namespaced::<ControllerRevision>(meta.namespace.as_deref().unwrap_or(""));
        let deleted = api.delete(meta.name.as_deref().unwrap_or(""), DeleteOptions::default()).await;
        match deleted {
            Err(status) if !status.is("NotFound") => return Err(status),
            _ => {}
        }
        let key = key_of(revision);
        let gone = |shown: Arc<ControllerRevision>| {
            shown.metadata.uid != meta.uid || shown.metadata.deletion_timestamp.is_some()
        };
        self.mirror.until(|mirror| mirror.get(&key).is_none_or(gone)).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::request::ListOptions;
    use crate::client::testing::FakeApi;
    use crate::controllers::owned::selector;
    use k8s_openapi::api::apps::v1::StatefulSet;

    fn owner() -> Owner {
        let set: StatefulSet =
            serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "d", "uid": "u"}}))
                .unwrap();
        Owner::new(&set, selector(Some(&Default::default())).unwrap())
    }

    #[test]
    fn names_and_data() {
        assert_eq!(name("db", "x"), "db-x");
        assert_eq!(name(&"a".repeat(300), "x").len(), 225);
        assert_ne!(hash_of(&json!({"a": 1}), 0), hash_of(&json!({"a": 1}), 1));
        assert_eq!(
            data_of(&PodTemplateSpec::default()).unwrap(),
            json!({"spec": {"template": {"$patch": "replace"}}})
        );
    }

    #[test]
    fn the_oldest_that_nobody_uses_are_surplus() {
        let revision = |name: &str, number: i64| {
            let value = json!({"metadata": {"name": name}, "revision": number, "data": {}});
            Arc::new(serde_json::from_value::<ControllerRevision>(value).unwrap())
        };
        let mut history = vec![revision("c", 3), revision("a", 1), revision("d", 4), revision("b", 2)];
        sort(&mut history);
        assert_eq!(next(&history), 5);
        assert_eq!(next(&[]), 1);
        let named = |limit, used: &[&str]| -> Vec<String> {
            let surplus = surplus(&history, &used.iter().copied().collect(), limit);
            surplus.iter().map(|revision| revision.metadata.name.clone().unwrap()).collect()
        };
        assert_eq!(named(1, &["d", "a"]), ["b"]);
        assert_eq!(named(0, &["d"]), ["a", "b", "c"]);
        assert!(named(4, &[]).is_empty());
    }

    #[tokio::test]
    async fn history_is_found_renumbered_or_made() {
        let api = FakeApi::default();
        let client = api.client();
        let (mirror, feed) = Reflector::new(client.all(), ListOptions::default());
        let _task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(feed));
        let revisions = Revisions::new(client, mirror);
        let (owner, mut collisions) = (owner(), 0);
        let mut numbers = Vec::new();
        for image in ["a", "b", "b", "a"] {
            let wanted = Wanted { data: json!({"image": image}), ..Wanted::default() };
            let history = revisions.of::<StatefulSet>(&owner).await.unwrap();
            let found = revisions.ensure(&owner, &wanted, &history, &mut collisions).await.unwrap();
            assert_eq!(found.metadata.labels.as_ref().unwrap()[HASH], hash_of(&wanted.data, 0));
            numbers.push(number(&found));
        }
        assert_eq!((numbers, collisions), (vec![1, 2, 2, 3], 0));
        // Another owner's revision has the name that the next one would get.
        let taken = json!({"image": "c"});
        api.put(
            "controllerrevisions",
            json!({"metadata": {"name": name("db", &hash_of(&taken, 0)), "namespace": "d",
                   "ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "x", "controller": true}]},
                   "data": taken, "revision": 1}),
        );
        let history = revisions.of::<StatefulSet>(&owner).await.unwrap();
        let wanted = Wanted { data: taken, hash_label: Some(REVISION), ..Wanted::default() };
        let made = revisions.ensure(&owner, &wanted, &history, &mut collisions).await.unwrap();
        assert_eq!((number(&made), collisions), (4, 1));
        assert_eq!(made.metadata.labels.as_ref().unwrap()[REVISION], hash_of(&wanted.data, 1));
        revisions.delete(&made).await.unwrap();
        revisions.delete(&made).await.unwrap();
        assert_eq!(revisions.of::<StatefulSet>(&owner).await.unwrap().len(), 2);
    }
}
