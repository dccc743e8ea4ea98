//! Events go after an hour, as in Kubernetes (kube-apiserver's `--event-ttl`).

use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::Timestamp;

use crate::api::request::{DeleteOptions, ListOptions};
use crate::api::status::Status;
use crate::client::Client;
use crate::clock;

/// How long an event stays after it was last seen, in seconds.
const TTL_SECONDS: i64 = 3600;
/// Between two looks: events may stay a little longer than promised, never shorter.
const LOOK: Duration = Duration::from_secs(300);

/// Runs until dropped.
pub async fn run(client: Client) {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Err(status) = sweep(&client, clock::now()).await {
            tracing::warn!(%status, "old events not removed");
        }
    }
}

async fn sweep(client: &Client, now: Timestamp) -> Result<(), Status> {
    for event in client.all::<Event>().list(ListOptions::default()).await? {
        if !is_old(&event, now) {
            continue;
        }
        let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
        let name = event.metadata.name.as_deref().unwrap_or("");
        match client.namespaced::<Event>(namespace).delete(name, DeleteOptions::default()).await {
            Err(status) if !status.is("NotFound") => return Err(status),
            _ => {}
        }
    }
    Ok(())
}

/// Whether an event was last seen more than its time ago (pure).
fn is_old(event: &Event, now: Timestamp) -> bool {
    let series = event.series.as_ref().and_then(|s| s.last_observed_time.as_ref()).map(|t| t.0);
    let seen = series
        .or(event.last_timestamp.as_ref().map(|t| t.0))
        .or(event.event_time.as_ref().map(|t| t.0))
        .or(event.metadata.creation_timestamp.as_ref().map(|t| t.0));
    seen.is_some_and(|seen| now.as_second() - seen.as_second() > TTL_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::testing::FakeApi;
    use serde_json::json;

    #[tokio::test]
    async fn only_old_events_go() {
        let api = FakeApi::default();
        let event = |name: &str, last: &str| json!({"metadata": {"namespace": "d", "name": name}, "involvedObject": {}, "lastTimestamp": last});
        api.put("events", event("old", "2026-01-01T00:00:00Z"));
        api.put("events", event("new", "2026-01-01T01:30:00Z"));
        sweep(&api.client(), "2026-01-01T02:00:00Z".parse().unwrap()).await.unwrap();
        let left = api.all("events");
        assert_eq!(left.len(), 1);
        assert_eq!(left[0]["metadata"]["name"], "new");
    }
}
