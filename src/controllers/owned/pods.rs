//! Making and deleting the pods of an owner, with the events that say so.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::batch::{self, Outcome};
use super::{Owner, state};
use crate::api::request::DeleteOptions;
use crate::api::status::Status;
use crate::client::Client;
use crate::client::events::{EventType, Recorder};
use crate::client::reflector::{Reflector, key_of};

/// How many pods a controller makes or deletes before it looks again.
pub const BURST: usize = 500;

/// The longest prefix that names are made from.
const LONGEST_PREFIX: usize = 253;

/// A pod of `owner` as its template says.
pub fn from_template(owner: &Owner, template: &PodTemplateSpec) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    let name = owner.name();
    let prefix = if name.len() < LONGEST_PREFIX { format!("{name}-") } else { name.to_owned() };
    let mut finalizers = meta.finalizers.unwrap_or_default();
    finalizers.extend(owner.finalizer.map(str::to_owned).filter(|own| !finalizers.contains(own)));
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(prefix),
            namespace: Some(owner.namespace.clone()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: Some(finalizers).filter(|finalizers| !finalizers.is_empty()),
            owner_references: Some(vec![owner.reference.clone()]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Whether a write failed because the namespace is on its way out: then there is nothing to do, and nothing to tell.
pub fn namespace_goes(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// Writes pods on behalf of one controller.
#[derive(Clone)]
pub struct Pods {
    client: Client,
    recorder: Recorder,
    mirror: Reflector<Pod>,
}

impl Pods {
    /// A writer whose writes `mirror` shows, and whose events `recorder` records.
    pub fn new(client: Client, recorder: Recorder, mirror: Reflector<Pod>) -> Pods {
        Pods { client, recorder, mirror }
    }

    /// Makes a pod.
    pub async fn create(&self, owner: &Owner, pod: &Pod) -> Result<Pod, Status> {
        let made = self.post(owner, pod).await?;
        self.mirror.reached(&made).await;
        Ok(made)
    }

    /// Makes so many pods, carefully at first; `pod` says what the next one of them looks like.
    pub async fn create_all(&self, owner: &Owner, count: usize, pod: impl Fn(usize) -> Pod) -> Outcome<Pod> {
        let outcome = batch::slow_start(count, |n| {
            let pod = pod(n);
            async move { self.post(owner, &pod).await }
        })
        .await;
        for made in &outcome.done {
            self.mirror.reached(made).await;
        }
        outcome
    }

    /// Deletes a pod; one that is gone already is fine.
    pub async fn delete(&self, owner: &Owner, pod: &Pod) -> Result<(), Status> {
        self.ask_end(owner, pod).await?;
        self.mirror.until(|mirror| !stays(mirror, pod)).await;
        Ok(())
    }

    /// Deletes pods at the same time; answers the first failure, after all was tried.
    pub async fn delete_all(&self, owner: &Owner, pods: &[Arc<Pod>]) -> Result<(), Status> {
        let calls = pods.iter().map(|pod| async move {
            self.ask_end(owner, pod).await?;
            Ok(pod)
        });
        let outcome = batch::all(calls).await;
        self.mirror.until(|mirror| !outcome.done.iter().any(|pod| stays(mirror, pod))).await;
        outcome.error.map_or(Ok(()), Err)
    }

    /// Records an event about the owner.
    pub fn tell(&self, owner: &Owner, kind: EventType, reason: &str, message: &str) {
        self.recorder.record(&owner.about, kind, reason, message);
    }

    async fn post(&self, owner: &Owner, pod: &Pod) -> Result<Pod, Status> {
        match self.client.namespaced::<Pod>(&owner.namespace).create(pod).await {
            Ok(made) => {
                let name = made.metadata.name.as_deref().unwrap_or("");
                let message = format!("Created pod: {name}");
                self.tell(owner, EventType::Normal, "SuccessfulCreate", &message);
                Ok(made)
            }
            Err(status) => {
                if !namespace_goes(&status) {
                    let message = format!("Error creating: {status}");
                    self.tell(owner, EventType::Warning, "FailedCreate", &message);
                }
                Err(status)
            }
        }
    }

    async fn ask_end(&self, owner: &Owner, pod: &Pod) -> Result<(), Status> {
        let name = pod.metadata.name.as_deref().unwrap_or("");
        let options =
            DeleteOptions { precondition_uid: pod.metadata.uid.clone(), ..DeleteOptions::default() };
        match self.client.namespaced::<Pod>(&owner.namespace).delete(name, options).await {
            Ok(()) => {
                let message = format!("Deleted pod: {name}");
                self.tell(owner, EventType::Normal, "SuccessfulDelete", &message);
                Ok(())
            }
            // It, or what bore its name, is gone.
            Err(status) if status.is("NotFound") || status.is("Conflict") => Ok(()),
            Err(status) => {
                let message = format!("Error deleting: {status}");
                self.tell(owner, EventType::Warning, "FailedDelete", &message);
                Err(status)
            }
        }
    }
}

/// Whether the copy shows a pod as one that nobody has asked to end.
fn stays(mirror: &Reflector<Pod>, pod: &Pod) -> bool {
    let shown = mirror.get(&key_of(pod));
    shown.is_some_and(|shown| {
        shown.metadata.uid == pod.metadata.uid && shown.metadata.deletion_timestamp.is_none()
    })
}

/// The active ones.
pub fn active(pods: Vec<Arc<Pod>>) -> Vec<Arc<Pod>> {
    pods.into_iter().filter(|pod| state::is_active(pod)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::request::ListOptions;
    use crate::client::testing::FakeApi;
    use crate::controllers::owned::selector;
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use serde_json::json;

    fn owner(name: &str) -> Owner {
        let set: ReplicaSet = serde_json::from_value(
            json!({"metadata": {"name": name, "namespace": "d", "uid": "u"}, "spec": {"selector": {}}}),
        )
        .unwrap();
        Owner::new(&set, selector(None).unwrap())
    }

    #[test]
    fn a_pod_has_what_the_template_says_and_its_owner() {
        let template: PodTemplateSpec = serde_json::from_value(json!({
            "metadata": {"labels": {"app": "web"}, "annotations": {"a": "b"}, "finalizers": ["x/y"], "name": "no"},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        }))
        .unwrap();
        let mut owner = owner("web");
        owner.finalizer = Some("own/er");
        let pod = serde_json::to_value(from_template(&owner, &template)).unwrap();
        assert_eq!(
            pod["metadata"],
            json!({"generateName": "web-", "namespace": "d", "labels": {"app": "web"}, "annotations": {"a": "b"},
                "finalizers": ["x/y", "own/er"],
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u",
                                     "controller": true, "blockOwnerDeletion": true}]})
        );
        assert_eq!(pod["spec"]["containers"][0]["image"], "i");
        let long = "a".repeat(253);
        let named = from_template(&super::tests::owner(&long), &template).metadata.generate_name;
        assert_eq!(named, Some(long));
    }

    #[tokio::test]
    async fn the_copy_shows_what_was_written() {
        let api = FakeApi::default();
        let client = api.client();
        let (mirror, feed) = Reflector::<Pod>::new(client.all(), ListOptions::default());
        let (recorder, record) = Recorder::new(client.clone(), "replicaset-controller", "");
        let tasks = [tokio::spawn(feed), tokio::spawn(record)];
        let pods = Pods::new(client, recorder, mirror.clone());
        let owner = owner("web");
        let made = pods.create_all(&owner, 20, |_| from_template(&owner, &PodTemplateSpec::default())).await;
        assert_eq!((made.done.len(), mirror.list().len()), (20, 20));
        assert!(made.error.is_none());
        pods.delete_all(&owner, &mirror.list()).await.unwrap();
        assert!(mirror.list().is_empty());
        // Once more is fine.
        pods.delete(&owner, &made.done[0]).await.unwrap();
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
