//! Recording of Events about objects, with Kubernetes' aggregation: the same event again raises its count.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Client, Resource};
use crate::api::kinds::{self, Kind};
use crate::api::status::Status;
use crate::clock;

/// `Normal` or `Warning`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// As it should be.
    Normal,
    /// Something for a person to look at.
    Warning,
}

impl EventType {
    fn name(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// What an event is about, from an object's own words.
pub fn reference<K: Resource>(object: &K) -> ObjectReference {
    let meta = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(K::KIND.to_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        ..ObjectReference::default()
    }
}

struct Record {
    about: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    at: jiff::Timestamp,
}

/// How many records may wait; beyond that new ones are dropped, as recording must never hold up its caller.
const WAITING: usize = 4096;
/// How many are written side by side.
const BATCH: usize = 64;
/// How long the same event raises a count instead of standing anew (client-go's aggregation interval).
const SAME_WITHIN: Duration = Duration::from_secs(600);
/// How many different events, and objects, are remembered (client-go's cache size).
const REMEMBERED: usize = 4096;
/// From so many events on that differ in their messages alone, they are told as one.
const SIMILAR: usize = 10;
/// How many events an object may have at once.
const BURST: f64 = 25.0;
/// After how long it may have one more.
const ONE_MORE_AFTER: Duration = Duration::from_secs(300);

/// Records events of one component; never blocks and never fails its caller.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Record>,
}

impl Recorder {
    /// A recorder for `component` (`kubelet`, `default-scheduler`) on `host`, and the task that writes.
    pub fn new(
        client: Client,
        component: &str,
        host: &str,
    ) -> (Recorder, impl Future<Output = ()> + Send + 'static) {
        let (queue, records) = mpsc::channel(WAITING);
        let source = EventSource {
            component: Some(component.to_owned()),
            host: Some(host.to_owned()).filter(|h| !h.is_empty()),
        };
        (Recorder { queue }, write(client, source, records))
    }

    /// Records that `reason` happened to `about`.
    pub fn record(&self, about: &ObjectReference, kind: EventType, reason: &str, message: &str) {
        let record = Record {
            about: about.clone(),
            kind,
            reason: reason.to_owned(),
            message: message.to_owned(),
            at: clock::now(),
        };
        if self.queue.try_send(record).is_err() {
            tracing::warn!(reason, message, "event dropped");
        }
    }
}

/// What an event is about.
type About = [Option<String>; 5];

/// What events have in common that differ in their messages alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kin {
    about: About,
    kind: EventType,
    reason: String,
}

/// What makes two events the same: those told as one have no message of their own.
type Same = (Kin, Option<String>);

struct Known {
    namespace: String,
    name: String,
    count: i32,
    last: Instant,
}

/// The different messages of events that have all else in common.
struct Messages {
    some: HashSet<String>,
    last: Instant,
}

/// How many events an object may still have, as of a moment.
struct Allowance {
    left: f64,
    last: Instant,
}

/// Which events are one, and which are too many (client-go's `EventCorrelator`).
#[derive(Default)]
struct Correlator {
    messages: HashMap<Kin, Messages>,
    allowances: HashMap<About, Allowance>,
}

impl Correlator {
    /// What an event is the same as, and what it says.
    fn aggregate(&mut self, record: &Record, now: Instant) -> (Same, String) {
        let ObjectReference { kind, namespace, name, uid, field_path, .. } = record.about.clone();
        let about = [kind, namespace, name, uid, field_path];
        let kin = Kin { about, kind: record.kind, reason: record.reason.clone() };
        forget(&mut self.messages, now, |messages| messages.last);
        let messages =
            self.messages.entry(kin.clone()).or_insert_with(|| Messages { some: HashSet::new(), last: now });
        if now - messages.last > SAME_WITHIN {
            messages.some.clear();
        }
        messages.last = now;
        if messages.some.len() + 1 < SIMILAR || messages.some.contains(&record.message) {
            messages.some.insert(record.message.clone());
            return ((kin, Some(record.message.clone())), record.message.clone());
        }
        ((kin, None), format!("(combined from similar events): {}", record.message))
    }

    /// Whether an object may have one more event.
    fn allows(&mut self, about: &About, now: Instant) -> bool {
        forget(&mut self.allowances, now, |allowance| allowance.last);
        let allowance = self.allowances.entry(about.clone()).or_insert(Allowance { left: BURST, last: now });
        let more = (now - allowance.last).as_secs_f64() / ONE_MORE_AFTER.as_secs_f64();
        allowance.left = (allowance.left + more).min(BURST);
        allowance.last = now;
        let allowed = allowance.left >= 1.0;
        if allowed {
            allowance.left -= 1.0;
        }
        allowed
    }
}

/// Makes room for one more: what is old goes, or the oldest.
fn forget<K: Clone + Eq + std::hash::Hash, V>(
    all: &mut HashMap<K, V>,
    now: Instant,
    last: impl Fn(&V) -> Instant,
) {
    if all.len() < REMEMBERED {
        return;
    }
    all.retain(|_, value| now - last(value) < SAME_WITHIN);
    if all.len() >= REMEMBERED
        && let Some(oldest) = all.iter().min_by_key(|(_, value)| last(value)).map(|(key, _)| key.clone())
    {
        all.remove(&oldest);
    }
}

async fn write(client: Client, source: EventSource, mut records: mpsc::Receiver<Record>) {
    let mut known: HashMap<Same, Known> = HashMap::new();
    let mut correlator = Correlator::default();
    let mut batch = Vec::new();
    // What came while the last ones were written is written side by side: nobody waits for the order of different events.
    while records.recv_many(&mut batch, BATCH).await > 0 {
        let now = Instant::now();
        let mut waiting: Vec<(Same, Record)> = Vec::new();
        for mut record in batch.drain(..) {
            let (same, message) = correlator.aggregate(&record, now);
            if correlator.allows(&same.0.about, now) {
                record.message = message;
                waiting.push((same, record));
            }
        }
        while !waiting.is_empty() {
            let mut taken = HashSet::new();
            let (first, later): (Vec<_>, Vec<_>) =
                waiting.into_iter().partition(|(same, _)| taken.insert(same.clone()));
            waiting = later;
            let writes = first.into_iter().map(|(same, record)| {
                let event = known.remove(&same).filter(|event| now - event.last < SAME_WITHIN);
                let (client, source) = (&client, &source);
                async move { (same, write_one(client, source, event, &record).await) }
            });
            for (same, event) in join_all(writes).await {
                if let Some(event) = event {
                    forget(&mut known, now, |event| event.last);
                    known.insert(same, event);
                }
            }
        }
    }
}

/// Counts an event that is there, or makes it; answers what there is now.
async fn write_one(
    client: &Client,
    source: &EventSource,
    event: Option<Known>,
    record: &Record,
) -> Option<Known> {
    let repeated = match event {
        Some(event) => repeat(client, event, record).await,
        None => Err(Status::not_found("", "events", "")),
    };
    let written = match repeated {
        Err(status) if status.is("NotFound") => create(client, source, record).await,
        other => other,
    };
    match written {
        Ok(event) => Some(event),
        // The namespace is going away and takes its events with it.
        Err(status) if status.is("Forbidden") || status.is("NotFound") => None,
        Err(status) => {
            tracing::warn!(reason = record.reason, %status, "event not recorded");
            None
        }
    }
}

/// The kind of events.
fn kind() -> Result<&'static Arc<Kind>, Status> {
    kinds::by_resource("", "v1", "events").ok_or_else(|| Status::internal("events are not served"))
}

async fn repeat(client: &Client, event: Known, record: &Record) -> Result<Known, Status> {
    let body = json!({"count": event.count + 1, "lastTimestamp": Time(record.at), "message": record.message});
    client.merge(kind()?, Some(&event.namespace), &event.name, body).await?;
    Ok(Known { count: event.count + 1, last: Instant::now(), ..event })
}

async fn create(client: &Client, source: &EventSource, record: &Record) -> Result<Known, Status> {
    // Cluster-scoped objects' events live in `default`.
    let namespace = record.about.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let object = record.about.name.clone().unwrap_or_default();
    // Named by its time, as in Kubernetes, so that lists show the events of an object in their order.
    let name = format!("{object}.{:x}", record.at.as_nanosecond());
    let event = Event {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: record.about.clone(),
        type_: Some(record.kind.name().to_owned()),
        reason: Some(record.reason.clone()),
        message: Some(record.message.clone()),
        count: Some(1),
        first_timestamp: Some(Time(record.at)),
        last_timestamp: Some(Time(record.at)),
        reporting_component: source.component.clone(),
        reporting_instance: Some(source.host.clone().unwrap_or_default()),
        source: Some(source.clone()),
        ..Event::default()
    };
    // Nobody here reads the answer.
    let body = serde_json::to_value(&event).map_err(Status::internal)?;
    client.make(kind()?, Some(&namespace), body).await?;
    Ok(Known { namespace, name, count: 1, last: Instant::now() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::testing::FakeApi;

    #[tokio::test]
    async fn the_same_event_again_raises_its_count() {
        let api = FakeApi::default();
        let (recorder, task) = Recorder::new(api.client(), "kubelet", "node");
        let pod = ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some("d".into()),
            name: Some("www".into()),
            uid: Some("u".into()),
            ..ObjectReference::default()
        };
        recorder.record(&pod, EventType::Normal, "Pulled", "once");
        recorder.record(&pod, EventType::Warning, "BackOff", "again");
        recorder.record(&pod, EventType::Warning, "BackOff", "again");
        drop(recorder);
        task.await;
        let mut events = api.all("events");
        events.sort_by_key(|e| e["count"].as_i64());
        assert_eq!(events.len(), 2);
        assert_eq!((&events[0]["reason"], &events[0]["count"]), (&json!("Pulled"), &json!(1)));
        assert_eq!((&events[1]["reason"], &events[1]["count"]), (&json!("BackOff"), &json!(2)));
        assert_eq!(events[1]["source"], json!({"component": "kubelet", "host": "node"}));
        assert!(events[1]["metadata"]["name"].as_str().unwrap().starts_with("www."));
    }

    #[tokio::test]
    async fn similar_events_are_told_as_one_and_many_not_at_all() {
        let api = FakeApi::default();
        let (recorder, task) = Recorder::new(api.client(), "replicaset-controller", "");
        let about = |name: &str| ObjectReference {
            kind: Some("ReplicaSet".into()),
            namespace: Some("d".into()),
            name: Some(name.into()),
            ..ObjectReference::default()
        };
        for n in 0..100 {
            recorder.record(
                &about("web"),
                EventType::Normal,
                "SuccessfulCreate",
                &format!("Created pod: {n}"),
            );
        }
        recorder.record(&about("other"), EventType::Normal, "SuccessfulCreate", "Created pod: x");
        drop(recorder);
        task.await;
        let events = api.all("events");
        let of = |name: &'static str| events.iter().filter(move |e| e["involvedObject"]["name"] == name);
        assert_eq!((of("web").count(), of("other").count()), (10, 1));
        let combined = of("web").find(|event| event["count"] != 1).unwrap();
        assert_eq!(combined["count"], 16);
        assert_eq!(combined["message"], "(combined from similar events): Created pod: 24");
    }

    #[test]
    fn what_an_object_may_have_comes_back_with_time() {
        let mut correlator = Correlator::default();
        let (about, now) = (About::default(), Instant::now());
        let allowed =
            |correlator: &mut Correlator, now| (0..50).filter(|_| correlator.allows(&about, now)).count();
        assert_eq!(allowed(&mut correlator, now), 25);
        assert_eq!(allowed(&mut correlator, now + ONE_MORE_AFTER), 1);
        assert_eq!(allowed(&mut correlator, now + 100 * ONE_MORE_AFTER), 25);
    }
}
