//! Claims for the ephemeral volumes of pods: each gets one named `POD-VOLUME`, which goes with the pod.
//!
//! Source: Kubernetes `pkg/controller/volume/ephemeral`.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use tokio::task::JoinSet;

use super::{Next, enqueue, queue, reflect, work};
use crate::api::status::Status;
use crate::api::volumes;
use crate::client::Client;
use crate::client::events::{EventType, Recorder, reference};
use crate::client::reflector::{Reflector, key_of, split_key};

/// Runs until dropped.
pub async fn run(client: Client, pods: Reflector<Pod>) {
    let mut tasks = JoinSet::new();
    let (recorder, record) = Recorder::new(client.clone(), "ephemeral_volume", "");
    tasks.spawn(record);
    let claims: Reflector<PersistentVolumeClaim> = reflect(&mut tasks, &client);
    pods.synced().await;
    claims.synced().await;
    let queue = queue(&client, "ephemeral_volume");
    // A claim that was deleted is made again as long as its pod is there.
    let by_claim = async {
        let mut changes = claims.subscribe();
        while let Some(key) = changes.next().await {
            if claims.get(&key).is_some() {
                continue;
            }
            let (namespace, name) = split_key(&key);
            for pod in pods.list() {
                let of_namespace = pod.metadata.namespace.as_deref() == Some(namespace);
                if of_namespace && volumes::claims_of(&pod).any(|claim| claim == name) {
                    queue.add(&key_of(&*pod));
                }
            }
        }
    };
    let reconcile = |key: String| {
        let (client, pods, claims, recorder) = (&client, &pods, &claims, &recorder);
        async move {
            if let Some(pod) = pods.get(&key) {
                for (volume, wanted) in wanted(&pod) {
                    if let Err(why) = ensure(client, claims, &pod, wanted).await {
                        let message = format!("ephemeral volume {}: {why}", volume.name);
                        recorder.record(&reference(&*pod), EventType::Warning, "FailedBinding", &message);
                        return Err(Status::internal(format!("pod {key}, {message}")));
                    }
                }
            }
            Ok(Next::Await)
        }
    };
    tokio::join!(
        enqueue(pods.subscribe(), queue.clone()),
        by_claim,
        work("ephemeral-volumes", &queue, reconcile)
    );
}

/// The claims that a pod's ephemeral volumes are to have (pure).
fn wanted(pod: &Pod) -> Vec<(&Volume, PersistentVolumeClaim)> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let claim = |volume| {
        let template = Volume::clone(volume).ephemeral?.volume_claim_template?;
        let marks = template.metadata.unwrap_or_default();
        let owner = OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: pod.metadata.name.clone()?,
            uid: pod.metadata.uid.clone()?,
            controller: Some(true),
            block_owner_deletion: Some(true),
        };
        let metadata = ObjectMeta {
            name: volumes::claim_name(pod, volume),
            namespace: pod.metadata.namespace.clone(),
            annotations: marks.annotations,
            labels: marks.labels,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        };
        Some((volume, PersistentVolumeClaim { metadata, spec: Some(template.spec), status: None }))
    };
    volumes.filter_map(claim).collect()
}

async fn ensure(
    client: &Client,
    claims: &Reflector<PersistentVolumeClaim>,
    pod: &Pod,
    wanted: PersistentVolumeClaim,
) -> Result<(), String> {
    let name = wanted.metadata.name.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(present) = claims.get(&format!("{namespace}/{name}")) {
        let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
        return match volumes::is_made_for(&present, pod) {
            true => Ok(()),
            false => Err(format!(
                "PVC {namespace}/{name} was not created for pod {namespace}/{pod_name} (pod is not owner)"
            )),
        };
    }
    match client.namespaced::<PersistentVolumeClaim>(namespace).create(&wanted).await {
        Ok(made) => {
            claims.reached(&made).await;
            Ok(())
        }
        Err(status) => Err(format!("create PVC {name}: {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::testing::FakeApi;
    use serde_json::json;
    use std::time::Duration;

    fn pod() -> serde_json::Value {
        json!({"metadata": {"name": "p", "namespace": "d", "uid": "1"}, "spec": {"containers": [], "volumes": [
            {"name": "a", "emptyDir": {}},
            {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": {"of": "p"}},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}}]}})
    }

    #[test]
    fn claims_belong_to_their_pods() {
        let mut read: Pod = serde_json::from_value(pod()).unwrap();
        let claims = wanted(&read);
        let claim = serde_json::to_value(&claims[0].1).unwrap();
        assert_eq!(claims.len(), 1);
        assert_eq!(claim["metadata"]["name"], "p-scratch");
        assert_eq!(claim["metadata"]["labels"], json!({"of": "p"}));
        assert_eq!(claim["metadata"]["ownerReferences"][0]["uid"], "1");
        assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "1Gi");
        read.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert!(wanted(&read).is_empty());
    }

    #[tokio::test]
    async fn a_deleted_claim_comes_back_while_the_pod_is_there() {
        let api = FakeApi::default();
        let (pods, feed) = Reflector::<Pod>::new(api.client().all::<Pod>(), Default::default());
        api.put("pods", pod());
        let seen = async {
            let (claims, feed) =
                Reflector::<PersistentVolumeClaim>::new(api.client().all(), Default::default());
            let look = async {
                let version = |all: &Reflector<PersistentVolumeClaim>| {
                    all.get("d/p-scratch").and_then(|claim| claim.metadata.resource_version.clone())
                };
                claims.until(|all| version(all).is_some()).await;
                let first = version(&claims);
                api.remove("persistentvolumeclaims", "d", "p-scratch");
                // It may be there again before anybody has seen that it was gone.
                claims.until(|all| version(all).is_some_and(|now| Some(now) != first)).await;
            };
            tokio::select! { () = feed => {}, () = look => {} }
        };
        let all = async {
            tokio::select! { () = run(api.client(), pods.clone()) => {}, () = feed => {}, () = seen => {} }
        };
        tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
    }
}
