//! Jobs that have ended are removed when they are to be (Kubernetes `pkg/controller/ttlafterfinished`).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;

use crate::api::request::DeleteOptions;
use crate::api::status::Status;
use crate::client::Client;
use crate::client::reflector::{Reflector, split_key};
use crate::clock;
use crate::controllers::{Next, enqueue, queue, work};

/// Runs until dropped.
pub(super) async fn run(client: &Client, jobs: &Reflector<Job>) {
    let queue = queue(client, "ttl_jobs_to_delete");
    let reconcile = |key: String| async move {
        match jobs.get(&key) {
            Some(job) => remove(client, &key, &job).await,
            None => Ok(Next::Await),
        }
    };
    tokio::join!(enqueue(jobs.subscribe(), queue.clone()), work("ttl-after-finished", &queue, reconcile));
}

async fn remove(client: &Client, key: &str, job: &Job) -> Result<Next, Status> {
    let Some(at) = expires(job) else { return Ok(Next::Await) };
    let left = at.duration_since(clock::now());
    if left > SignedDuration::ZERO {
        return Ok(Next::After(Duration::try_from(left).unwrap_or_default()));
    }
    let (namespace, name) = split_key(key);
    let options = DeleteOptions {
        propagation_policy: Some("Foreground".to_owned()),
        precondition_uid: job.metadata.uid.clone(),
        precondition_resource_version: job.metadata.resource_version.clone(),
        ..DeleteOptions::default()
    };
    match client.namespaced::<Job>(namespace).delete(name, options).await {
        Err(status) if !status.is("NotFound") => Err(status),
        _ => Ok(Next::Await),
    }
}

/// When a job is to be removed, if ever.
fn expires(job: &Job) -> Option<Timestamp> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let stays = SignedDuration::from_secs(job.spec.as_ref()?.ttl_seconds_after_finished?.into());
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let end = conditions
        .iter()
        .find(|c| c.status == "True" && matches!(c.type_.as_str(), "Complete" | "Failed"))?;
    end.last_transition_time.as_ref()?.0.checked_add(stays).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn ended_jobs_stay_as_long_as_they_say() {
        let job = |ttl: Value, condition: &str, deleted: Value| -> Option<String> {
            let job = json!({"metadata": {"deletionTimestamp": deleted},
                "spec": {"ttlSecondsAfterFinished": ttl, "template": {}},
                "status": {"conditions": [{"type": condition, "status": "True",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
            expires(&serde_json::from_value(job).unwrap()).map(|at| at.to_string())
        };
        let at = |text: &str| Some(text.to_owned());
        assert_eq!(job(json!(10), "Complete", Value::Null), at("2026-01-01T00:00:10Z"));
        assert_eq!(job(json!(0), "Failed", Value::Null), at("2026-01-01T00:00:00Z"));
        assert_eq!(job(json!(10), "Suspended", Value::Null), None);
        assert_eq!(job(Value::Null, "Complete", Value::Null), None);
        assert_eq!(job(json!(10), "Complete", json!("2026-01-01T00:00:00Z")), None);
    }
}
