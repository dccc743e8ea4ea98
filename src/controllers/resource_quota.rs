//! Resource quotas say what is used: counted when a quota comes or changes, and again when something goes.
//!
//! What is made is charged by admission. A count is written over the quota that was read before the counting began, so
//! that whatever was charged in between makes it be done again.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceQuota;
use serde_json::{Value, json};
use tokio::task::{AbortHandle, JoinSet};

use super::kinds::Kinds;
use super::{Next, queue, reflect, work};
use crate::api::kinds::{self, Kind, Text};
use crate::api::quantity::Quantity;
use crate::api::request::Change;
use crate::api::resources::{self, Resources};
use crate::api::status::Status;
use crate::api::{meta, quota};
use crate::client::Client;
use crate::client::follow::{Entry, Follower, Revision};
use crate::client::queue::Queue;
use crate::client::reflector::{Reflector, split_key};
use crate::clock;

/// Runs until dropped.
pub async fn run(client: Client, kinds: Kinds) {
    let (mut tasks, queue) = (JoinSet::new(), queue(&client, "resourcequota_primary"));
    let quotas: Reflector<ResourceQuota> = reflect(&mut tasks, &client);
    let follow = async {
        let (mut changes, mut news) = (quotas.subscribe(), kinds.clone());
        let mut followed: HashMap<Text, (Arc<Kind>, AbortHandle)> = HashMap::new();
        loop {
            let changed: Vec<String> = tokio::select! {
                key = changes.next() => match key {
                    Some(key) => vec![key],
                    None => return,
                },
                () = news.changed() => quotas.list().iter().map(|quota| key(quota)).collect(),
            };
            let countable = countable(&kinds);
            followed.retain(|_, (kind, task)| {
                let stays = countable.contains(kind);
                if !stays {
                    task.abort();
                }
                stays
            });
            for key in changed {
                for kind in counted(&countable, quotas.get(&key).as_deref()) {
                    followed.entry(kind.storage.clone()).or_insert_with(|| {
                        let feed = Feed { kind: kind.clone(), quotas: quotas.clone(), queue: queue.clone() };
                        (kind.clone(), tasks.spawn(client.follow(kind, feed)))
                    });
                }
                queue.add(&key);
            }
        }
    };
    let reconcile = |key: String| {
        let (client, kinds) = (&client, &kinds);
        async move { count(client, kinds, &key).await }
    };
    tokio::join!(follow, work("resourcequota", &queue, reconcile));
}

fn key(quota: &ResourceQuota) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{}/{}", part(&quota.metadata.namespace), part(&quota.metadata.name))
}

/// Whether a quota counts something of a kind.
fn counts(quota: &ResourceQuota, kind: &Kind) -> bool {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    hard.into_iter().flatten().any(|(name, _)| quota::counts(kind, name))
}

/// The kinds of which a quota counts something.
fn counted<'k>(kinds: &'k [Arc<Kind>], of: Option<&ResourceQuota>) -> Vec<&'k Arc<Kind>> {
    of.map(|quota| kinds.iter().filter(|kind| counts(quota, kind)).collect()).unwrap_or_default()
}

/// The kinds that can be counted.
fn countable(kinds: &Kinds) -> Vec<Arc<Kind>> {
    kinds.stored().into_iter().filter(|kind| kind.namespaced).collect()
}

/// Has the quotas of a namespace counted when something there is used no more.
struct Feed {
    kind: Arc<Kind>,
    quotas: Reflector<ResourceQuota>,
    queue: Queue,
}

impl Feed {
    fn touch(&self, namespace: &str) {
        for quota in self.quotas.list() {
            if quota.metadata.namespace.as_deref() == Some(namespace) && counts(&quota, &self.kind) {
                self.queue.add(&key(&quota));
            }
        }
    }
}

impl Follower for Feed {
    fn listed(&mut self, _: &[Arc<Entry>], _: Revision) {
        let namespaces: BTreeSet<String> =
            self.quotas.list().iter().filter_map(|quota| quota.metadata.namespace.clone()).collect();
        for namespace in namespaces {
            self.touch(&namespace);
        }
    }

    fn changed(&mut self, change: &Change, _: Revision) {
        let entry = match change {
            Change::Deleted(entry) => entry,
            Change::Modified(entry) if may_use_less(&self.kind, entry.json()) => entry,
            _ => return,
        };
        self.touch(meta::namespace(entry.json()));
    }
}

/// Whether a change of an object can be one by which it uses less.
fn may_use_less(kind: &Kind, object: &Value) -> bool {
    match (&*kind.group, &*kind.plural) {
        ("", "pods") => ["Failed", "Succeeded"].iter().any(|phase| object["status"]["phase"] == *phase),
        ("", "services" | "persistentvolumeclaims") => true,
        _ => false,
    }
}

/// Counts what is used of a quota, and writes it down when it differs.
async fn count(client: &Client, kinds: &Kinds, key: &str) -> Result<Next, Status> {
    let (namespace, name) = split_key(key);
    let Some(kind) = kinds::by_kind("", "v1", "ResourceQuota") else { return Ok(Next::Await) };
    // Read before anything is counted.
    let quota = match client.object(kind, Some(namespace), name).await {
        Ok(entry) => entry.json().clone(),
        Err(status) if status.is("NotFound") => return Ok(Next::Await),
        Err(status) => return Err(status),
    };
    let hard = resources::read(&quota["spec"]["hard"]);
    let mut objects = Vec::new();
    for kind in countable(kinds) {
        if hard.keys().any(|name| quota::counts(&kind, name)) {
            let found = client.objects(&kind, Some(namespace)).await?;
            objects.push((kind, found));
        }
    }
    let objects = objects.iter().map(|(kind, entries)| (&**kind, entries.iter().map(|e| e.json()).collect()));
    let Some(status) = plan(&quota, &objects.collect(), clock::now()) else { return Ok(Next::Await) };
    let mut body = quota;
    body["status"] = status;
    match client.put_subresource(kind, Some(namespace), name, "status", body).await {
        Err(status) if status.is("NotFound") => Ok(Next::Await),
        other => other.map(|()| Next::Await),
    }
}

/// The objects of a namespace, by their kinds.
type Objects<'a> = Vec<(&'a Kind, Vec<&'a Value>)>;

/// The status that a quota must have; `None` when it has it.
fn plan(quota: &Value, objects: &Objects<'_>, now: Timestamp) -> Option<Value> {
    let spec = &quota["spec"];
    let hard = resources::read(&spec["hard"]);
    let known = resources::read(&quota["status"]["used"]);
    let mut used = resources::only(&known, |name| hard.contains_key(name));
    for (kind, objects) in objects {
        let mut sum: Resources = hard
            .keys()
            .filter(|name| quota::counts(kind, name))
            .map(|name| (name.clone(), Quantity::units(0)))
            .collect();
        for object in objects.iter().filter(|object| quota::in_scope(kind, object, spec)) {
            let usage = quota::usage(kind, object, now);
            let counted = resources::only(&usage, |name| sum.contains_key(name));
            resources::add(&mut sum, &counted);
        }
        used.extend(sum);
    }
    let same = !quota["status"]["used"].is_null() && used == known;
    let status = json!({"hard": resources::write(&hard), "used": resources::write(&used)});
    (!same || resources::read(&quota["status"]["hard"]) != hard).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(plural: &str) -> &'static Kind {
        kinds::by_resource("", "v1", plural).unwrap()
    }

    #[test]
    fn what_is_there_is_counted() {
        let pod = |cpu: &str, phase: &str| json!({"spec": {"containers": [{"resources": {"requests": {"cpu": cpu}}}]}, "status": {"phase": phase}});
        let pods = [pod("500m", "Running"), pod("1", "Running"), pod("1", "Succeeded")];
        let maps = [json!({}), json!({})];
        let objects: Objects<'_> =
            vec![(of("pods"), pods.iter().collect()), (of("configmaps"), maps.iter().collect())];
        let now = Timestamp::UNIX_EPOCH;
        let mut quota = json!({"spec": {"hard": {
            "pods": "5", "requests.cpu": "4", "count/pods": "9", "configmaps": "3", "example.com/odd": "1"}}});
        let status = plan(&quota, &objects, now).unwrap();
        assert_eq!(
            status,
            json!({
                "hard": {"pods": "5", "requests.cpu": "4", "count/pods": "9", "configmaps": "3", "example.com/odd": "1"},
                "used": {"pods": "2", "requests.cpu": "1500m", "count/pods": "3", "configmaps": "2"},
            })
        );
        quota["status"] = status;
        assert_eq!(plan(&quota, &objects, now), None);
        quota["spec"]["hard"]["pods"] = json!("6");
        assert_eq!(plan(&quota, &objects, now).unwrap()["hard"]["pods"], "6");
        // What no quota limits any more is not told.
        quota["spec"]["hard"].as_object_mut().unwrap().remove("configmaps");
        assert!(plan(&quota, &objects, now).unwrap()["used"].get("configmaps").is_none());
    }

    #[test]
    fn only_what_is_counted_is_followed() {
        let quota =
            |hard: Value| serde_json::from_value(json!({"metadata": {}, "spec": {"hard": hard}})).unwrap();
        let all = countable(&Kinds::built_in());
        let plurals = |hard: Value| {
            let kinds = counted(&all, Some(&quota(hard)));
            kinds.iter().map(|kind| kind.plural.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(plurals(json!({"pods": "1", "count/configmaps": "1"})), ["configmaps", "pods"]);
        assert_eq!(plurals(json!({"example.com/odd": "1"})), Vec::<String>::new());
        assert!(counted(&all, None).is_empty());
    }

    #[test]
    fn changes_that_free_something_are_looked_at() {
        for (plural, object, expected) in [
            ("pods", json!({"status": {"phase": "Running"}}), false),
            ("pods", json!({"status": {"phase": "Failed"}}), true),
            ("services", json!({}), true),
            ("configmaps", json!({}), false),
        ] {
            assert_eq!(may_use_less(of(plural), &object), expected, "{plural}");
        }
    }
}
