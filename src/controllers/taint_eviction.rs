//! Pods leave nodes whose taints they do not tolerate, or tolerate only for a while (Kubernetes
//! `pkg/controller/tainteviction`).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::{Next, enqueue, queue, seconds, work};
use crate::api::request::{DeleteOptions, PatchKind};
use crate::api::status::Status;
use crate::api::taints;
use crate::client::Client;
use crate::client::events::{EventType, Recorder, reference};
use crate::client::reflector::{Reflector, key_of, split_key};
use crate::clock;
use crate::controllers::owned::state::{is_active, node};

/// Runs until dropped.
pub async fn run(client: Client, pods: Reflector<Pod>, nodes: Reflector<Node>) {
    nodes.synced().await;
    pods.synced().await;
    let (recorder, record) = Recorder::new(client.clone(), "taint-eviction-controller", "");
    let queue = queue(&client, "noexec_taint_pod");
    let by_node = async {
        let mut changes = nodes.subscribe();
        while let Some(key) = changes.next().await {
            for pod in pods.list().iter().filter(|pod| node(pod) == Some(&key)) {
                queue.add(&key_of(&**pod));
            }
        }
    };
    let controller =
        Controller { client, pods: pods.clone(), nodes: nodes.clone(), recorder, since: Mutex::default() };
    let reconcile = |key: String| {
        let controller = &controller;
        async move { controller.reconcile(&key).await }
    };
    let by_pod = enqueue(pods.subscribe(), queue.clone());
    tokio::join!(record, by_node, by_pod, work("taint-eviction", &queue, reconcile));
}

struct Controller {
    client: Client,
    pods: Reflector<Pod>,
    nodes: Reflector<Node>,
    recorder: Recorder,
    /// Since when pods are known to be where they may not stay, by key, with their uids.
    since: Mutex<HashMap<String, (String, Timestamp)>>,
}

/// What is to become of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stay {
    /// It may stay.
    Forever,
    /// It may stay for so long.
    For(SignedDuration),
}

impl Controller {
    fn since(&self) -> MutexGuard<'_, HashMap<String, (String, Timestamp)>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn reconcile(&self, key: &str) -> Result<Next, Status> {
        let pod = self.pods.get(key).filter(|pod| is_active(pod));
        let place = pod.as_ref().and_then(|pod| self.nodes.get(node(pod)?));
        let (Some(pod), Some(place)) = (pod, place) else {
            self.since().remove(key);
            return Ok(Next::Await);
        };
        let about = reference(&*pod);
        let Stay::For(time) = plan(&pod, &place) else {
            if self.since().remove(key).is_some() {
                let what = format!("Cancelling deletion of Pod {key}");
                self.recorder.record(&about, EventType::Normal, "TaintManagerEviction", &what);
            }
            return Ok(Next::Await);
        };
        let (uid, now) = (pod.metadata.uid.clone().unwrap_or_default(), clock::now());
        let since = match self.since().get(key) {
            Some((known, since)) if *known == uid => *since,
            _ => now,
        };
        self.since().insert(key.to_owned(), (uid.clone(), since));
        let left = time - now.duration_since(since);
        if left > SignedDuration::ZERO {
            return Ok(Next::After(Duration::try_from(left).unwrap_or_default()));
        }
        let what = format!("Marking for deletion Pod {key}");
        self.recorder.record(&about, EventType::Normal, "TaintManagerEviction", &what);
        let (namespace, name) = split_key(key);
        let api = self.client.namespaced::<Pod>(namespace);
        let body = json!({"metadata": {"uid": uid}, "status": {"conditions": [disrupted(now)]}});
        let options = DeleteOptions { precondition_uid: Some(uid), ..DeleteOptions::default() };
        let done = match api.patch(name, Some("status"), PatchKind::Strategic, body).await {
            Ok(_) => api.delete(name, options).await,
            Err(status) => Err(status),
        };
        match done {
            Err(status) if !status.is("NotFound") => Err(status),
            _ => Ok(Next::Await),
        }
    }
}

/// Says why a pod goes.
fn disrupted(now: Timestamp) -> PodCondition {
    PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("DeletionByTaintManager".to_owned()),
        message: Some("Taint manager: deleting due to NoExecute taint".to_owned()),
        last_transition_time: Some(Time(seconds(now))),
        ..PodCondition::default()
    }
}

/// How long a pod may stay on a node: as long as the shortest time of the tolerations that let it.
fn plan(pod: &Pod, node: &Node) -> Stay {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let taints: Vec<&Taint> = taints.filter(|taint| taint.effect == "NoExecute").collect();
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    if taints.iter().any(|taint| !taints::tolerates(tolerations, taint)) {
        return Stay::For(SignedDuration::ZERO);
    }
    let used =
        tolerations.iter().filter(|toleration| taints.iter().any(|taint| taints::bears(toleration, taint)));
    let shortest = used.filter_map(|toleration| toleration.toleration_seconds).min();
    shortest.map_or(Stay::Forever, |seconds| Stay::For(SignedDuration::from_secs(seconds.max(0))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn how_long_a_pod_may_stay() {
        let execute = |key: &str| json!({"key": key, "value": "v", "effect": "NoExecute"});
        let exists = |key: &str, seconds: Value| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        let seconds = |seconds: i64| Stay::For(SignedDuration::from_secs(seconds));
        for (taints, tolerations, expected) in [
            (json!([]), json!([]), Stay::Forever),
            (json!([{"key": "a", "effect": "NoSchedule"}]), json!([]), Stay::Forever),
            (json!([execute("a")]), json!([]), seconds(0)),
            (json!([execute("a")]), json!([exists("a", Value::Null)]), Stay::Forever),
            (json!([execute("a")]), json!([exists("a", json!(30))]), seconds(30)),
            (json!([execute("a")]), json!([exists("a", json!(-1))]), seconds(0)),
            (json!([execute("a"), execute("b")]), json!([exists("a", json!(30))]), seconds(0)),
            (
                json!([execute("a"), execute("b")]),
                json!([exists("a", json!(30)), exists("b", json!(5))]),
                seconds(5),
            ),
            (json!([execute("a")]), json!([{"key": "a", "value": "v"}]), Stay::Forever),
            (json!([execute("a")]), json!([{"key": "a", "value": "w"}]), seconds(0)),
            (json!([execute("a")]), json!([{"operator": "Exists"}]), Stay::Forever),
        ] {
            let pod = json!({"spec": {"containers": [], "tolerations": tolerations}});
            let node = json!({"spec": {"taints": taints}});
            let stay = plan(&serde_json::from_value(pod).unwrap(), &serde_json::from_value(node).unwrap());
            assert_eq!(stay, expected, "{taints} {tolerations}");
        }
    }
}
