//! Deleting objects: preconditions, grace periods, finalizers, propagation.
//!
//! The decision is [`decide`], pure; its source is k8s.io/apiserver `rest.BeforeDelete` and
//! `registry.Store.updateForGracefulDeletionAndFinalizers`.

use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Place, Registry, as_served, encode_at, internal, value_as_served};
use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::request::{DeleteOptions, ListOptions, Response, User};
use crate::api::status::{Details, Status};
use crate::apiserver::admission::{self, Attributes, Operation, Options};
use crate::apiserver::custom::conversion;
use crate::apiserver::{allocate, definitions};
use crate::clock;
use crate::store::{self, Entry, Snapshot};

const ATTEMPTS: usize = 16;
/// The finalizers by which the garbage collector holds an object until its dependents are dealt with.
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What a delete request does to an object.
#[derive(Debug, PartialEq)]
enum Decision {
    /// It is gone at once; this is its final state.
    Remove(Value),
    /// It stays, marked like this, until whoever holds it lets go.
    Mark(Value),
    /// It is on its way already.
    Nothing,
}

/// Whether nobody holds the object any more.
pub(super) fn nothing_pending(object: &Value) -> bool {
    let held = |list: &Value| list.as_array().is_some_and(|l| !l.is_empty());
    let namespace_held = object["kind"] == "Namespace" && held(&object["spec"]["finalizers"]);
    !namespace_held && !held(&object["metadata"]["finalizers"])
}

fn decide(
    object: &Value,
    grace: Option<i64>,
    options: &DeleteOptions,
    collected: bool,
    now: Timestamp,
) -> Decision {
    let mut new = object.clone();
    let mut graceful = false;
    let left = object["metadata"]["deletionGracePeriodSeconds"].as_i64().filter(|left| *left > 0);
    match (meta::is_deleting(object), left, grace) {
        (true, Some(left), Some(_)) => {
            // Of a graceful deletion under way only the grace period can be shortened.
            let Some(asked) = options.grace_period_seconds.filter(|asked| *asked < left) else {
                return Decision::Nothing;
            };
            let begun = meta::field(object, "deletionTimestamp").parse::<Timestamp>().unwrap_or(now);
            mark(&mut new, begun, asked - left, asked);
            graceful = asked > 0;
        }
        (false, _, Some(grace)) => {
            begin(&mut new, now, grace);
            graceful = grace > 0;
        }
        _ => {}
    }
    set_propagation(&mut new, options, collected);
    if nothing_pending(&new) && !graceful {
        return Decision::Remove(new);
    }
    if !meta::is_deleting(&new) {
        begin(&mut new, now, 0);
    }
    if new["kind"] == "Namespace" {
        new["status"]["phase"] = json!("Terminating");
    }
    if new == *object { Decision::Nothing } else { Decision::Mark(new) }
}

/// The first mark of a deletion, which counts as a change of the desired state.
fn begin(object: &mut Value, now: Timestamp, grace: i64) {
    mark(object, now, grace, grace);
    let generation = meta::generation(object);
    if generation > 0 {
        meta::set(object, "generation", generation + 1);
    }
}

fn mark(object: &mut Value, from: Timestamp, plus: i64, grace: i64) {
    let at = from.saturating_add(SignedDuration::from_secs(plus)).unwrap_or(from);
    meta::set(object, "deletionTimestamp", json!(meta::timestamp(at)));
    meta::set(object, "deletionGracePeriodSeconds", json!(grace));
}

/// Whom a deletion waits for beside the object's own finalizers. Without a policy the object's own choice stays.
fn set_propagation(object: &mut Value, options: &DeleteOptions, collected: bool) {
    let wanted = match options.propagation_policy.as_deref() {
        // What the collector never looks at must not wait for it.
        _ if !collected => None,
        Some("Orphan") => Some(ORPHAN),
        Some("Foreground") => Some(FOREGROUND),
        Some("Background") => None,
        _ => return,
    };
    let mut list: Vec<String> = meta::finalizers(object)
        .into_iter()
        .filter(|f| *f != ORPHAN && *f != FOREGROUND)
        .map(str::to_owned)
        .collect();
    list.extend(wanted.map(str::to_owned));
    if list.is_empty() {
        meta::remove(object, "finalizers");
    } else {
        meta::set(object, "finalizers", json!(list));
    }
}

fn check_preconditions(place: Place<'_>, entry: &Entry, options: &DeleteOptions) -> Result<(), Status> {
    // Kubernetes names the kind here, not the plural.
    let conflict = |why: String| Err(Status::conflict(&place.kind.group, &place.kind.kind, place.name, &why));
    let uid = meta::uid(entry.json());
    if let Some(asked) = options.precondition_uid.as_deref().filter(|asked| *asked != uid) {
        return conflict(format!(
            "the UID in the precondition ({asked}) does not match the UID in record ({uid}). The object might have \
             been deleted and then recreated"
        ));
    }
    let version = entry.revision.to_string();
    match options.precondition_resource_version.as_deref() {
        Some(asked) if asked != version => conflict(format!(
            "the ResourceVersion in the precondition ({asked}) does not match the ResourceVersion in record \
             ({version}). The object might have been modified"
        )),
        _ => Ok(()),
    }
}

/// The options as they are meant, when they make sense.
fn checked(options: &DeleteOptions) -> Result<DeleteOptions, Status> {
    match options.propagation_policy.as_deref() {
        None | Some("Orphan" | "Background" | "Foreground") => {}
        Some(other) => {
            return Err(Status::failure(
                422,
                "Invalid",
                format!(
                    "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: {other:?}: \
                     supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
                ),
            ));
        }
    }
    let mut options = options.clone();
    // Kubernetes takes a negative period for the shortest one.
    options.grace_period_seconds =
        options.grace_period_seconds.map(|asked| if asked < 0 { 1 } else { asked });
    Ok(options)
}

/// Whether the last state of an object of this kind answers a delete that removes it at once (`ReturnDeletedObject` of
/// Kubernetes' registries); of others a status says enough.
pub fn is_shown_when_removed(kind: &Kind) -> bool {
    match &*kind.group {
        "" => matches!(
            &*kind.plural,
            "persistentvolumeclaims"
                | "persistentvolumes"
                | "pods"
                | "podtemplates"
                | "resourcequotas"
                | "serviceaccounts"
                | "services"
        ),
        "storage.k8s.io" => matches!(
            &*kind.plural,
            "csidrivers" | "csinodes" | "storageclasses" | "volumeattachments" | "volumeattributesclasses"
        ),
        _ => false,
    }
}

/// Kinds that the garbage collector does not look at.
const NOT_COLLECTED: &[&str] = &["events"];
/// What the deletion of a job without a word about its pods is warned about.
const PODS_STAY: &str = "child pods are preserved by default when jobs are deleted; set \
                         propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress \
                         this warning";

/// Whether dependents stay when nothing is said about them: so it was before there was a garbage collector, and so it
/// stayed for the versions of that time (`DefaultGarbageCollectionPolicy` of Kubernetes' strategies).
fn orphans_by_default(kind: &Kind) -> bool {
    let old = matches!(&*kind.version, "v1beta1" | "v1beta2");
    match (&*kind.group, &*kind.plural) {
        ("", "replicationcontrollers") | ("batch", "jobs") => true,
        ("extensions" | "apps", "daemonsets" | "deployments" | "replicasets" | "statefulsets") => old,
        _ => false,
    }
}

/// The options with what the kind of object means by saying nothing of dependents.
fn with_default_policy(place: Place<'_>, object: &Value, options: &DeleteOptions) -> DeleteOptions {
    let mut options = options.clone();
    let decided = || meta::finalizers(object).iter().any(|f| [ORPHAN, FOREGROUND].contains(f));
    if options.propagation_policy.is_none() && orphans_by_default(place.kind) && !decided() {
        options.propagation_policy = Some("Orphan".to_owned());
    }
    options
}

/// How many objects of a collection are being deleted at a time, so that they share transactions.
const COLLECTION_WORKERS: usize = 64;

/// What a delete led to.
enum Outcome {
    Removed(Arc<Entry>),
    Marked(Arc<Entry>),
    /// What it would have led to: the state, and whether the object would be gone.
    DryRun(Value, bool),
}

fn removed(place: Place<'_>, last: &Value) -> Response {
    Response::Status(Status::success(Details {
        name: place.name.to_owned(),
        group: place.kind.group.to_string(),
        kind: place.kind.plural.to_string(),
        uid: meta::uid(last).to_owned(),
        ..Details::default()
    }))
}

impl Registry {
    /// Removes an object, or begins to.
    pub async fn delete(
        &self,
        user: &User,
        place: Place<'_>,
        options: &DeleteOptions,
    ) -> Result<Response, Status> {
        let options = checked(options)?;
        let mut warnings = self.admit_delete(user, place, &options).await?;
        let shown = is_shown_when_removed(place.kind);
        let silent = options.propagation_policy.is_none() && place.kind.is("batch", "jobs");
        warnings.extend(silent.then(|| PODS_STAY.to_owned()));
        match self.delete_once(place, &options).await? {
            Outcome::Removed(entry) if !shown => Ok(removed(place, entry.json())),
            Outcome::DryRun(value, true) if !shown => Ok(removed(place, &value)),
            Outcome::Removed(entry) | Outcome::Marked(entry) => {
                let entry = as_served(place.kind, entry);
                Ok(Response::Object { entry, created: false, warnings })
            }
            Outcome::DryRun(value, _) => {
                let value = value_as_served(place.kind, value);
                Ok(Response::Transient { value, created: false, warnings })
            }
        }
    }

    /// Asks admission about a delete; what the user is to be told.
    async fn admit_delete(
        &self,
        user: &User,
        place: Place<'_>,
        options: &DeleteOptions,
    ) -> Result<Vec<String>, Status> {
        // What is not there is told by who looks for it.
        let Some(mut entry) = self.store.get(&place.key()) else { return Ok(Vec::new()) };
        if place.kind.types.custom().is_some() {
            entry = conversion::served_one(self, place.kind, as_served(place.kind, entry)).await?;
        }
        let mut asked = Attributes {
            operation: Operation::Delete,
            kind: place.kind,
            subresource: "",
            namespace: place.namespace.filter(|_| place.kind.namespaced),
            name: place.name,
            old: Some(entry.json()),
            user,
            options: Options::Delete(options),
            warnings: Vec::new(),
        };
        admission::mutate(self, &mut asked, &mut Value::Null).await?;
        // Nothing is used up by a delete: there is nothing to charge.
        drop(admission::validate(self, &mut asked, &Value::Null).await?);
        Ok(asked.warnings)
    }

    async fn delete_once(&self, place: Place<'_>, options: &DeleteOptions) -> Result<Outcome, Status> {
        let collected = !NOT_COLLECTED.contains(&&*place.kind.plural);
        for _ in 0..ATTEMPTS {
            let entry = self.find(place)?;
            check_preconditions(place, &entry, options)?;
            let grace = place.strategy().grace_period(entry.json(), options.grace_period_seconds);
            let options = &with_default_policy(place, entry.json(), options);
            let object = definitions::hold(place.kind, entry.json());
            let written = match decide(&object, grace, options, collected, clock::now()) {
                Decision::Nothing => return Ok(Outcome::Marked(entry)),
                Decision::Remove(value) if options.dry_run => return Ok(Outcome::DryRun(value, true)),
                Decision::Mark(value) if options.dry_run => return Ok(Outcome::DryRun(value, false)),
                Decision::Remove(last) => self.remove(place, entry, last).await?.map(Outcome::Removed),
                Decision::Mark(new) => {
                    let marked = self.store.update(&place.key(), entry.revision, encode_at(new)).await;
                    marked.map(Outcome::Marked)
                }
            };
            match written {
                Err(store::Error::Conflict { .. }) => {}
                other => {
                    self.written(place.kind)?;
                    return other.map_err(internal);
                }
            }
        }
        Err(place.modified())
    }

    /// Removes an object, and frees what it had.
    pub(super) async fn remove(
        &self,
        place: Place<'_>,
        entry: Arc<Entry>,
        last: Value,
    ) -> Result<Result<Arc<Entry>, store::Error>, Status> {
        let (store, key) = (self.store.clone(), place.key());
        let freed = allocate::concerns(place.kind).then(|| self.allocator.release(entry.json()));
        let write = async move { store.delete(&key, entry.revision, encode_at(last)).await };
        self.carry_out(place, write, freed).await
    }

    /// Removes every selected object, or begins to; the answer is the list of them.
    pub async fn delete_collection(
        &self,
        user: &User,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<Response, Status> {
        let options = checked(options)?;
        let Response::List { snapshot, continue_token } = self.list(kind, namespace, list)? else {
            return Err(Status::internal("a list gave no list"));
        };
        let deletions =
            snapshot.entries.into_iter().map(|entry| self.delete_listed(user, kind, entry, &options));
        let deleted: Vec<Option<Arc<Entry>>> =
            stream::iter(deletions).buffered(COLLECTION_WORKERS).try_collect().await?;
        let entries = deleted.into_iter().flatten().collect();
        let snapshot = Snapshot { revision: self.store.revision(), entries, remaining: 0 };
        Ok(Response::List { snapshot, continue_token })
    }

    /// Deletes one object of a list, as served; None when it was gone already.
    async fn delete_listed(
        &self,
        user: &User,
        kind: &Arc<Kind>,
        entry: Arc<Entry>,
        options: &DeleteOptions,
    ) -> Result<Option<Arc<Entry>>, Status> {
        let object = entry.json();
        let namespace = kind.namespaced.then(|| meta::namespace(object));
        let place = Place { kind, namespace, name: meta::name(object) };
        self.admit_delete(user, place, options).await?;
        match self.delete_once(place, options).await {
            Ok(Outcome::Removed(last) | Outcome::Marked(last)) => Ok(Some(as_served(kind, last))),
            Ok(Outcome::DryRun(..)) => Ok(Some(entry)),
            Err(status) if status.is("NotFound") => Ok(None),
            Err(status) => Err(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_000).unwrap()
    }

    fn asked(seconds: i64) -> DeleteOptions {
        DeleteOptions { grace_period_seconds: Some(seconds), ..DeleteOptions::default() }
    }

    #[test]
    fn dependents_of_some_kinds_stay_unless_something_is_said() {
        let policy = |group: &str, version: &str, plural: &str, finalizers: Value, asked: Option<&str>| {
            let kind = crate::api::kinds::by_resource(group, version, plural).unwrap();
            let place = Place { kind, namespace: Some("n"), name: "a" };
            let object = json!({"metadata": {"finalizers": finalizers}});
            let propagation_policy = asked.map(str::to_owned);
            let options = DeleteOptions { propagation_policy, ..DeleteOptions::default() };
            with_default_policy(place, &object, &options).propagation_policy
        };
        let orphan = Some("Orphan".to_owned());
        assert_eq!(policy("batch", "v1", "jobs", json!([]), None), orphan);
        assert_eq!(policy("", "v1", "replicationcontrollers", json!([]), None), orphan);
        assert_eq!(policy("apps", "v1beta1", "deployments", json!([]), None), orphan);
        assert_eq!(policy("apps", "v1", "deployments", json!([]), None), None);
        assert_eq!(policy("batch", "v1", "jobs", json!(["foregroundDeletion"]), None), None);
        let asked = policy("batch", "v1", "jobs", json!([]), Some("Background"));
        assert_eq!(asked.as_deref(), Some("Background"));
    }

    #[test]
    fn plain_objects_go_at_once() {
        let object = json!({"kind": "ConfigMap", "metadata": {"name": "a"}});
        assert_eq!(
            decide(&object, None, &DeleteOptions::default(), true, now()),
            Decision::Remove(object.clone())
        );
    }

    #[test]
    fn pods_wait_for_their_grace_period_and_zero_ends_it() {
        let pod = json!({"kind": "Pod", "metadata": {"name": "a", "generation": 1}});
        let Decision::Mark(marked) = decide(&pod, Some(30), &DeleteOptions::default(), true, now()) else {
            panic!("a running pod stays");
        };
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
        assert_eq!(marked["metadata"]["deletionTimestamp"], "1970-01-01T00:17:10Z");
        assert_eq!(marked["metadata"]["generation"], 2);
        assert_eq!(decide(&marked, Some(30), &DeleteOptions::default(), true, now()), Decision::Nothing);
        assert_eq!(decide(&marked, Some(60), &asked(60), true, now()), Decision::Nothing);
        let Decision::Mark(shorter) = decide(&marked, Some(5), &asked(5), true, now()) else {
            panic!("a shorter period is written");
        };
        assert_eq!(shorter["metadata"]["deletionTimestamp"], "1970-01-01T00:16:45Z");
        assert!(matches!(decide(&marked, Some(0), &asked(0), true, now()), Decision::Remove(_)));
        assert!(matches!(decide(&pod, Some(0), &asked(0), true, now()), Decision::Remove(_)));
    }

    #[test]
    fn finalizers_hold_an_object() {
        let held = json!({"kind": "ConfigMap", "metadata": {"name": "a", "finalizers": ["x/y"]}});
        let Decision::Mark(marked) = decide(&held, None, &DeleteOptions::default(), true, now()) else {
            panic!("a held object stays");
        };
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
        assert_eq!(decide(&marked, None, &DeleteOptions::default(), true, now()), Decision::Nothing);
        let foreground =
            DeleteOptions { propagation_policy: Some("Foreground".into()), ..Default::default() };
        let plain = json!({"kind": "ConfigMap", "metadata": {"name": "a"}});
        let Decision::Mark(marked) = decide(&plain, None, &foreground, true, now()) else {
            panic!("the collector holds it");
        };
        assert_eq!(marked["metadata"]["finalizers"], json!([FOREGROUND]));
        // Who thinks better of it lets the object go at once.
        let background =
            DeleteOptions { propagation_policy: Some("Background".into()), ..Default::default() };
        assert!(matches!(decide(&marked, None, &background, true, now()), Decision::Remove(_)));
        assert!(matches!(decide(&plain, None, &foreground, false, now()), Decision::Remove(_)));
    }

    #[test]
    fn a_graceful_deletion_under_way_keeps_its_finalizers() {
        let pod = json!({"kind": "Pod", "metadata": {"name": "a", "finalizers": ["orphan"],
            "deletionTimestamp": "1970-01-01T00:17:10Z", "deletionGracePeriodSeconds": 30}});
        let background =
            DeleteOptions { propagation_policy: Some("Background".into()), ..Default::default() };
        assert_eq!(decide(&pod, Some(30), &background, true, now()), Decision::Nothing);
    }

    #[test]
    fn options_are_checked() {
        let policy =
            |policy: &str| DeleteOptions { propagation_policy: Some(policy.into()), ..Default::default() };
        assert_eq!(checked(&policy("Sometimes")).unwrap_err().code, 422);
        assert!(checked(&policy("Foreground")).is_ok());
        assert_eq!(checked(&asked(-7)).unwrap().grace_period_seconds, Some(1));
        assert_eq!(checked(&asked(0)).unwrap().grace_period_seconds, Some(0));
    }

    #[test]
    fn namespaces_terminate() {
        let namespace = json!({"kind": "Namespace", "metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"}});
        let Decision::Mark(marked) = decide(&namespace, None, &DeleteOptions::default(), true, now()) else {
            panic!("a namespace is emptied first");
        };
        assert_eq!(marked["status"]["phase"], "Terminating");
    }
}
