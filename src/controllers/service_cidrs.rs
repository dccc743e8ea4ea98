//! ServiceCIDRs are ready once they are protected, and stay as long as an address of a service has no other range.
//!
//! Source: Kubernetes `pkg/controller/servicecidrs`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Next, queue, seconds, work};
use crate::api::kinds::{self, Kind};
use crate::api::request::Change;
use crate::api::status::Status;
use crate::api::{cidr, meta};
use crate::client::Client;
use crate::client::follow::{Entry, Follower, Revision};
use crate::client::queue::Queue;
use crate::clock;

const GROUP: &str = "networking.k8s.io";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// Requests that were under way when a range was deleted may still take an address of it.
const GRACE: Duration = Duration::from_secs(10);

/// Runs until dropped.
pub async fn run(client: Client) {
    let by = |plural: &str| kinds::by_resource(GROUP, "v1", plural);
    let (Some(ranges), Some(addresses)) = (by("servicecidrs"), by("ipaddresses")) else { return };
    let (queue, leaving) = (queue(&client, "ipaddresses"), Leaving::default());
    let follow_ranges = client.follow(ranges, Ranges { queue: queue.clone(), leaving: leaving.clone() });
    let follow_addresses = client.follow(addresses, Addresses { queue: queue.clone(), leaving });
    let reconcile = |name: String| {
        let client = &client;
        async move { keep(client, ranges, addresses, &name).await }
    };
    tokio::join!(follow_ranges, follow_addresses, work("service-cidrs", &queue, reconcile));
}

/// The names of the ranges that were deleted and are there still.
#[derive(Clone, Default)]
struct Leaving(Arc<Mutex<BTreeSet<String>>>);

impl Leaving {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something changed that they may have waited for.
    fn look_again(&self, queue: &Queue) {
        self.lock().iter().for_each(|name| queue.add(name));
    }
}

struct Ranges {
    queue: Queue,
    leaving: Leaving,
}

impl Ranges {
    fn take(&self, object: &Value) {
        let name = meta::name(object);
        if meta::is_deleting(object) {
            self.leaving.lock().insert(name.to_owned());
        }
        self.queue.add(name);
        self.leaving.look_again(&self.queue);
    }
}

impl Follower for Ranges {
    fn listed(&mut self, entries: &[Arc<Entry>], _: Revision) {
        self.leaving.lock().clear();
        entries.iter().for_each(|entry| self.take(entry.json()));
    }

    fn changed(&mut self, change: &Change, _: Revision) {
        match change {
            Change::Added(entry) | Change::Modified(entry) => self.take(entry.json()),
            Change::Deleted(entry) => _ = self.leaving.lock().remove(meta::name(entry.json())),
            Change::Bookmark { .. } => {}
        }
    }
}

struct Addresses {
    queue: Queue,
    leaving: Leaving,
}

impl Follower for Addresses {
    fn listed(&mut self, _: &[Arc<Entry>], _: Revision) {
        self.leaving.look_again(&self.queue);
    }

    fn changed(&mut self, change: &Change, _: Revision) {
        if !matches!(change, Change::Bookmark { .. }) {
            self.leaving.look_again(&self.queue);
        }
    }
}

async fn keep(client: &Client, ranges: &Kind, addresses: &Kind, name: &str) -> Result<Next, Status> {
    let all = client.objects(ranges, None).await?;
    let Some(entry) = all.iter().find(|entry| meta::name(entry.json()) == name) else {
        return Ok(Next::Await);
    };
    let (object, now) = (entry.json(), clock::now());
    let needed = match meta::is_deleting(object) {
        true => {
            let others: Vec<&Value> =
                all.iter().map(|entry| entry.json()).filter(|other| meta::name(other) != name).collect();
            is_needed(object, &others, &taken(client, addresses).await?)
        }
        false => false,
    };
    let gone = |result: Result<(), Status>| match result {
        Err(status) if status.is("NotFound") => Ok(()),
        other => other,
    };
    let version = meta::resource_version(object);
    match plan(object, needed, now) {
        Step::Nothing => {}
        Step::Wait(wait) => return Ok(Next::After(wait)),
        Step::Finalizers(finalizers) => {
            let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": version}});
            gone(client.merge(ranges, None, name, patch).await)?;
        }
        Step::Say(condition) => {
            let mut body = object.clone();
            body["status"] = json!({ "conditions": with(object, condition) });
            gone(client.put_subresource(ranges, None, name, "status", body).await)?;
        }
    }
    // What was written brings the object here again.
    Ok(Next::Await)
}

/// The addresses that services have, by their objects.
async fn taken(client: &Client, addresses: &Kind) -> Result<Vec<IpAddr>, Status> {
    let objects = client.objects(addresses, None).await?;
    let managed = objects.iter().map(|entry| entry.json()).filter(|object| {
        meta::label(object, "ipaddress.kubernetes.io/managed-by") == Some("ipallocator.k8s.io")
    });
    Ok(managed.filter_map(|object| meta::name(object).parse().ok()).collect())
}

/// What is done with a range next.
#[derive(Debug, PartialEq)]
enum Step {
    Nothing,
    Finalizers(Vec<String>),
    /// Its condition `Ready` is this.
    Say(Value),
    Wait(Duration),
}

/// Looks at a range; `needed` is whether one that was deleted must stay (pure).
fn plan(object: &Value, needed: bool, now: Timestamp) -> Step {
    let finalizers = meta::finalizers(object);
    let is_protected = finalizers.contains(&FINALIZER);
    let owned = |list: &mut dyn Iterator<Item = &str>| list.map(str::to_owned).collect();
    let Some(deleted) = meta::deleted(object) else {
        return match is_protected {
            false => Step::Finalizers(owned(&mut finalizers.into_iter().chain([FINALIZER]))),
            true => say(object, "True", "", "Kubernetes Service CIDR is ready", now),
        };
    };
    if needed {
        let why = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new \
                   ServiceCIDR";
        return say(object, "False", "Terminating", why, now);
    }
    let waited = Duration::try_from(now.duration_since(deleted)).unwrap_or_default();
    match GRACE.saturating_sub(waited) {
        _ if !is_protected => Step::Nothing,
        Duration::ZERO => Step::Finalizers(owned(&mut finalizers.into_iter().filter(|f| *f != FINALIZER))),
        left => Step::Wait(left),
    }
}

fn ready(object: &Value) -> Option<&Value> {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.find(|condition| condition["type"] == "Ready")
}

fn say(object: &Value, status: &str, reason: &str, message: &str, now: Timestamp) -> Step {
    let before = ready(object);
    if before.is_some_and(|before| before["status"] == status && before["reason"] == reason) {
        return Step::Nothing;
    }
    Step::Say(json!({"type": "Ready", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": meta::timestamp(seconds(now))}))
}

/// The conditions of a range with this one in the place of its last word.
fn with(object: &Value, condition: Value) -> Vec<Value> {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let others = conditions.filter(|other| other["type"] != condition["type"]).cloned();
    others.chain([condition.clone()]).collect()
}

fn cidrs(object: &Value) -> impl Iterator<Item = (IpAddr, u8)> {
    let cidrs = object["spec"]["cidrs"].as_array().into_iter().flatten();
    cidrs.filter_map(|text| cidr::parse(text.as_str()?))
}

/// Whether a service has an address that lies in this range and in no other (pure).
fn is_needed(object: &Value, others: &[&Value], taken: &[IpAddr]) -> bool {
    let others: Vec<(IpAddr, u8)> = others.iter().flat_map(|other| cidrs(other)).collect();
    let is_covered = |(base, length): (IpAddr, u8)| {
        others.iter().any(|(other, bits)| *bits <= length && cidr::contains(*other, *bits, base))
    };
    let has = |(base, length): &(IpAddr, u8), address: IpAddr| cidr::has_host(*base, *length, address);
    let own: Vec<(IpAddr, u8)> = cidrs(object).collect();
    let is_orphan = |address: &IpAddr| {
        own.iter().any(|range| has(range, *address)) && !others.iter().any(|range| has(range, *address))
    };
    !own.iter().all(|range| is_covered(*range)) && taken.iter().any(is_orphan)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, cidrs: &[&str]) -> Value {
        json!({"metadata": {"name": name, "finalizers": [FINALIZER]}, "spec": {"cidrs": cidrs}})
    }

    #[test]
    fn a_range_is_needed_by_addresses_that_no_other_has() {
        let taken: Vec<IpAddr> = ["10.7.0.5", "fd07::5"].map(|text| text.parse().unwrap()).into();
        for (cidrs, others, needed) in [
            (&["10.7.0.0/24"][..], &[][..], true),
            (&["10.8.0.0/24"], &[], false),
            (&["10.7.0.0/24"], &["10.7.0.0/16"], false),
            (&["10.7.0.0/24"], &["10.7.0.0/24"], false),
            (&["10.7.0.0/24"], &["10.7.0.0/28"], false),
            (&["10.7.0.0/24"], &["10.7.0.128/25"], true),
            (&["10.7.0.0/24", "fd07::/112"], &["10.7.0.0/16"], true),
            (&["10.7.0.0/24", "fd07::/112"], &["10.7.0.0/16", "fd07::/64"], false),
            // It is no host's where it is the network's.
            (&["10.7.0.4/30"], &["10.7.0.5/32"], true),
            (&["10.7.0.5/32"], &[], false),
        ] {
            let others: Vec<Value> = others.iter().map(|cidr| object("other", &[cidr])).collect();
            let others: Vec<&Value> = others.iter().collect();
            assert_eq!(is_needed(&object("a", cidrs), &others, &taken), needed, "{cidrs:?} {others:?}");
        }
    }

    #[test]
    fn ranges_are_protected_then_ready_and_go_when_nobody_needs_them() {
        let now: Timestamp = "2027-03-01T09:00:10Z".parse().unwrap();
        let mut range = object("a", &["10.7.0.0/24"]);
        range["metadata"]["finalizers"] = json!(["a/b"]);
        let finalizers = |names: &[&str]| Step::Finalizers(names.iter().map(|n| (*n).to_owned()).collect());
        assert_eq!(plan(&range, false, now), finalizers(&["a/b", FINALIZER]));
        range["metadata"]["finalizers"] = json!(["a/b", FINALIZER]);
        let Step::Say(ready) = plan(&range, false, now) else { panic!("it is ready") };
        assert_eq!((&ready["status"], &ready["reason"]), (&json!("True"), &json!("")));
        range["status"]["conditions"] = json!([{"type": "Other"}, ready]);
        assert_eq!(plan(&range, false, now), Step::Nothing);

        range["metadata"]["deletionTimestamp"] = json!("2027-03-01T09:00:04Z");
        let Step::Say(held) = plan(&range, true, now) else { panic!("it is held") };
        assert_eq!((&held["status"], &held["reason"]), (&json!("False"), &json!("Terminating")));
        let said = with(&range, held);
        assert_eq!((said.len(), &said[0]["type"]), (2, &json!("Other")));
        range["status"]["conditions"] = json!(said);
        assert_eq!(plan(&range, true, now), Step::Nothing);
        assert_eq!(plan(&range, false, now), Step::Wait(Duration::from_secs(4)));
        range["metadata"]["deletionTimestamp"] = json!("2027-03-01T09:00:00Z");
        assert_eq!(plan(&range, false, now), finalizers(&["a/b"]));
        range["metadata"]["finalizers"] = json!(["a/b"]);
        assert_eq!(plan(&range, false, now), Step::Nothing);
    }
}
