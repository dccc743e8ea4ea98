//! Recording of Events about objects, with Kubernetes' aggregation: the same event again raises its count.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use tokio::sync::mpsc;

use super::{Client, Resource};
use crate::api::request::PatchKind;
use crate::api::status::Status;

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
/// How long the same event raises a count instead of standing anew (client-go's aggregation interval).
const SAME_WITHIN: Duration = Duration::from_secs(600);
/// How many different events are remembered for counting (client-go's cache size).
const REMEMBERED: usize = 4096;

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
            at: jiff::Timestamp::now(),
        };
        if self.queue.try_send(record).is_err() {
            tracing::warn!(reason, message, "event dropped");
        }
    }
}

/// What makes two events the same.
type Same = ([Option<String>; 5], EventType, String, String);

struct Known {
    namespace: String,
    name: String,
    count: i32,
    last: Instant,
}

async fn write(client: Client, source: EventSource, mut records: mpsc::Receiver<Record>) {
    let mut known: HashMap<Same, Known> = HashMap::new();
    while let Some(record) = records.recv().await {
        let ObjectReference { kind, namespace, name, uid, field_path, .. } = record.about.clone();
        let about = [kind, namespace, name, uid, field_path];
        let same: Same = (about, record.kind, record.reason.clone(), record.message.clone());
        let now = Instant::now();
        if known.len() >= REMEMBERED {
            known.retain(|_, event| now - event.last < SAME_WITHIN);
        }
        if known.len() >= REMEMBERED {
            let oldest = known.iter().min_by_key(|(_, event)| event.last).map(|(same, _)| same.clone());
            oldest.map(|same| known.remove(&same));
        }
        let repeated = match known.get_mut(&same).filter(|event| now - event.last < SAME_WITHIN) {
            Some(event) => repeat(&client, event, &record).await,
            None => Err(Status::not_found("", "events", "")),
        };
        let result = match repeated {
            Err(status) if status.is("NotFound") => match create(&client, &source, &record).await {
                Ok(event) => {
                    known.insert(same, event);
                    Ok(())
                }
                Err(status) => Err(status),
            },
            other => other,
        };
        match result {
            // The namespace is going away and takes its events with it.
            Ok(()) => {}
            Err(status) if status.is("Forbidden") || status.is("NotFound") => {}
            Err(status) => tracing::warn!(reason = record.reason, %status, "event not recorded"),
        }
    }
}

async fn repeat(client: &Client, event: &mut Known, record: &Record) -> Result<(), Status> {
    let body = json!({"count": event.count + 1, "lastTimestamp": Time(record.at)});
    client.namespaced::<Event>(&event.namespace).patch(&event.name, None, PatchKind::Merge, body).await?;
    event.count += 1;
    event.last = Instant::now();
    Ok(())
}

async fn create(client: &Client, source: &EventSource, record: &Record) -> Result<Known, Status> {
    // Cluster-scoped objects' events live in `default`.
    let namespace = record.about.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let object = record.about.name.clone().unwrap_or_default();
    let name = format!("{object}.{:016x}", super::random_u64());
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
    client.namespaced::<Event>(&namespace).create(&event).await?;
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
}
