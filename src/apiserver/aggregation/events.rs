//! What an aggregated server tells of a collection that a component in this process watches.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::time::Instant;

use super::calls::{entry, revision};
use crate::api::request::{Change, Changes, Target};
use crate::api::status::Status;
use crate::store::Revision;

/// For how long a watch is asked.
pub const LASTS: Duration = Duration::from_secs(480);
/// How much longer an end is waited for: a server that vanishes says nothing any more.
const GRACE: Duration = Duration::from_secs(30);
/// The most that is read of one event.
const EVENT_BYTES: usize = 8 << 20;

/// A running watch.
pub struct Events {
    target: Target,
    body: Incoming,
    read: BytesMut,
    until: Instant,
    /// Something told no revision to go on from.
    lost: bool,
}

impl Events {
    /// The events of a target in the body of an answer.
    pub fn of(target: Target, body: Incoming) -> Events {
        Events { target, body, read: BytesMut::new(), until: Instant::now() + LASTS + GRACE, lost: false }
    }

    /// The next line; `None` at the end.
    async fn line(&mut self) -> Option<Result<Bytes, Status>> {
        let gone = |why: String| Some(Err(Status::unavailable(format!("the watch broke off: {why}"))));
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                return Some(Ok(self.read.split_to(end + 1).freeze()));
            }
            if self.read.len() > EVENT_BYTES {
                return gone(format!("an event of more than {EVENT_BYTES} bytes"));
            }
            match tokio::time::timeout_at(self.until, self.body.frame()).await {
                Err(_) => return gone("nothing was heard any more".to_owned()),
                Ok(Some(Err(error))) => return gone(error.to_string()),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
                // Whoever does not know up to where it has seen begins anew.
                Ok(None) if self.lost => return Some(Err(Status::expired("the watch has ended"))),
                Ok(None) => return None,
            }
        }
    }
}

impl Changes for Events {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Change, Status>>> {
        async move {
            let change = self.line().await?.and_then(|line| read(&self.target, &line));
            if let Ok(change) = &change {
                self.lost |= revision_of(change) == 0;
            }
            Some(change)
        }
        .boxed()
    }
}

fn revision_of(change: &Change) -> Revision {
    match change {
        Change::Added(entry) | Change::Modified(entry) | Change::Deleted(entry) => entry.revision,
        Change::Bookmark { revision, .. } => *revision,
    }
}

/// One event. (pure)
fn read(target: &Target, line: &[u8]) -> Result<Change, Status> {
    let odd = |why: String| Status::internal(format!("{target}: an event of its server is odd: {why}"));
    let event: Value = serde_json::from_slice(line).map_err(|error| odd(error.to_string()))?;
    let object = &event["object"];
    match event["type"].as_str().unwrap_or_default() {
        "ADDED" => Ok(Change::Added(entry(target, object))),
        "MODIFIED" => Ok(Change::Modified(entry(target, object))),
        "DELETED" => Ok(Change::Deleted(entry(target, object))),
        "BOOKMARK" => Ok(Change::Bookmark { revision: revision(object), initial_events_end: false }),
        "ERROR" => Err(serde_json::from_value(object.clone()).unwrap_or_else(|_| odd(object.to_string()))),
        other => Err(odd(format!("type {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_read() {
        let target = Target { resource: "flunders".into(), ..Target::default() };
        let told = |kind: &str, object: Value| {
            read(&target, json!({"type": kind, "object": object}).to_string().as_bytes())
        };
        let flunder = || json!({"metadata": {"namespace": "n", "name": "a", "resourceVersion": "7"}});
        for kind in ["ADDED", "MODIFIED", "DELETED"] {
            match told(kind, flunder()) {
                Ok(Change::Added(entry) | Change::Modified(entry) | Change::Deleted(entry)) => {
                    assert_eq!((entry.key.as_str(), entry.revision), ("flunders/n/a", 7));
                }
                other => panic!("{kind}: {other:?}"),
            }
        }
        let bookmark = told("BOOKMARK", flunder());
        assert!(matches!(bookmark, Ok(Change::Bookmark { revision: 7, .. })), "{bookmark:?}");
        let expired = serde_json::to_value(Status::expired("too old")).unwrap();
        assert!(told("ERROR", expired).unwrap_err().is("Expired"));
        for odd in [told("ERROR", json!("no")), told("NEWS", flunder()), read(&target, b"{")] {
            assert!(odd.unwrap_err().message.contains("is odd"));
        }
    }
}
