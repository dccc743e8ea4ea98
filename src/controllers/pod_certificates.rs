//! Pods' requests for certificates are removed some time after they were made, whatever became of them.
//!
//! Source: Kubernetes `pkg/controller/certificates/cleaner`.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::PodCertificateRequest;
use tokio::task::JoinSet;

use super::{Next, at, enqueue, queue, reflect, work};
use crate::api::request::DeleteOptions;
use crate::api::status::Status;
use crate::client::Client;
use crate::client::reflector::{Reflector, split_key};
use crate::clock;

/// How long a request stays: nobody takes longer to answer it and to fetch the answer.
const STAY: SignedDuration = SignedDuration::from_mins(15);

/// Runs until dropped.
pub async fn run(client: Client) {
    let mut tasks = JoinSet::new();
    let requests: Reflector<PodCertificateRequest> = reflect(&mut tasks, &client);
    requests.synced().await;
    let queue = queue(&client, "podcertificaterequestcleaner");
    let reconcile = |key: String| {
        let request = requests.get(&key);
        let client = &client;
        async move {
            match request {
                Some(request) => act(client, &key, &request, clock::now()).await,
                None => Ok(Next::Await),
            }
        }
    };
    tokio::join!(enqueue(requests.subscribe(), queue.clone()), work("pod certificate", &queue, reconcile));
}

async fn act(
    client: &Client,
    key: &str,
    request: &PodCertificateRequest,
    now: Timestamp,
) -> Result<Next, Status> {
    let end = end(request);
    if end.is_none_or(|end| end > now) {
        return Ok(at(end, now));
    }
    let (namespace, name) = split_key(key);
    // A new request may have the name by now.
    let options =
        DeleteOptions { precondition_uid: request.metadata.uid.clone(), ..DeleteOptions::default() };
    match client.namespaced::<PodCertificateRequest>(namespace).delete(name, options).await {
        Err(status) if !status.is("NotFound") && !status.is("Conflict") => Err(status),
        _ => Ok(Next::Await),
    }
}

/// When a request is to be removed; what is being removed already is not removed again.
fn end(request: &PodCertificateRequest) -> Option<Timestamp> {
    let metadata = &request.metadata;
    let made = metadata.creation_timestamp.as_ref().filter(|_| metadata.deletion_timestamp.is_none())?;
    made.0.checked_add(STAY).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::client::testing::FakeApi;

    const MADE: &str = "2030-01-01T00:00:00Z";

    fn request(mut metadata: Value) -> (Value, PodCertificateRequest) {
        metadata["namespace"] = "default".into();
        metadata["name"] = "www".into();
        let request = json!({"metadata": metadata, "spec": {"signerName": "", "podName": "", "podUID": "",
            "serviceAccountName": "", "serviceAccountUID": "", "nodeName": "", "nodeUID": "",
            "stubPKCS10Request": ""}});
        (request.clone(), serde_json::from_value(request).unwrap())
    }

    #[test]
    fn requests_stay_a_quarter_of_an_hour() {
        for (metadata, expected) in [
            (json!({"creationTimestamp": MADE}), Some("2030-01-01T00:15:00Z")),
            (json!({"creationTimestamp": MADE, "deletionTimestamp": MADE}), None),
            (json!({}), None),
        ] {
            let (_, request) = request(metadata.clone());
            assert_eq!(end(&request), expected.map(|text| text.parse().unwrap()), "{metadata}");
        }
    }

    #[tokio::test]
    async fn old_requests_are_removed() {
        let api = FakeApi::default();
        let (stored, request) = request(json!({"creationTimestamp": MADE}));
        api.put("podcertificaterequests", stored);
        for (now, left) in
            [("2030-01-01T00:14:00Z", 1), ("2030-01-01T00:15:00Z", 0), ("2030-01-01T00:16:00Z", 0)]
        {
            let now = now.parse().unwrap();
            let next = act(&api.client(), "default/www", &request, now).await;
            assert!(next.is_ok(), "{now}");
            assert_eq!(api.all("podcertificaterequests").len(), left, "{now}");
        }
    }
}
