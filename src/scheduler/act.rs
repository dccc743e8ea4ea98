//! Carrying out what was decided: bindings, and what is told of pods that wait.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::cluster::{namespace, priority};
use super::decide::Wait;
use super::filter::volumes::Bindings;
use super::hints::Event;
use super::preemption::Preemption;
use super::{Loops, NAME, uid, waits};
use crate::api::request::{DeleteOptions, PatchKind, WriteOptions};
use crate::api::status::Status;
use crate::api::volumes::{self, SELECTED_NODE, tie};
use crate::client::events::{EventType, reference};
use crate::client::reflector::{key_of, split_key};
use crate::clock;

/// How long volumes may take to be bound (kube-scheduler's `bindTimeoutSeconds`).
const VOLUMES: Duration = Duration::from_secs(600);

impl Loops {
    /// Binds a pod to a node, its volumes first; whether it is bound.
    pub(super) async fn bind(&self, key: &str, pod: &Pod, node: &str, volumes: Bindings) -> bool {
        let bound = async {
            self.bind_volumes(&volumes, node).await?;
            self.bind_pod(key, pod, node).await
        };
        let bound = bound.await;
        self.memory().untie(&volumes);
        match bound {
            Ok(()) => {
                let message = format!("Successfully assigned {key} to {node}");
                self.recorder.record(&reference(pod), EventType::Normal, "Scheduled", &message);
            }
            Err(status) => {
                self.memory().unassume(uid(pod));
                self.queue.failed(key);
                if !status.is("NotFound") && !status.is("Conflict") {
                    tracing::warn!(pod = key, %status, "pod not bound");
                    let message = status.to_string();
                    self.recorder.record(&reference(pod), EventType::Warning, "FailedScheduling", &message);
                }
                // The room that it was to have is free.
                self.wake(Event::PodLeft);
                return false;
            }
        }
        true
    }

    async fn bind_pod(&self, key: &str, pod: &Pod, node: &str) -> Result<(), Status> {
        let (namespace, name) = split_key(key);
        let body = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": pod.metadata.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let pods = self.client.namespaced::<Pod>(namespace);
        pods.create_subresource(name, "binding", body, WriteOptions::default()).await.map(drop)
    }

    /// Ties volumes to claims, has those made that there are not, and waits until all claims are bound.
    async fn bind_volumes(&self, bindings: &Bindings, node: &str) -> Result<(), Status> {
        if bindings.is_empty() {
            return Ok(());
        }
        for (volume, claim) in &bindings.tied {
            if let Some(patch) = tie::volume(volume, claim) {
                let name = volume.metadata.name.as_deref().unwrap_or_default();
                let all = self.client.all::<PersistentVolume>();
                self.volumes.reached(&all.patch(name, None, PatchKind::Merge, patch).await?).await;
            }
        }
        for claim in &bindings.made {
            let meta = &claim.metadata;
            let patch = json!({"metadata": {"resourceVersion": meta.resource_version,
                "annotations": {SELECTED_NODE: node}}});
            let claims =
                self.client.namespaced::<PersistentVolumeClaim>(meta.namespace.as_deref().unwrap_or(""));
            let name = meta.name.as_deref().unwrap_or_default();
            self.claims.reached(&claims.patch(name, None, PatchKind::Merge, patch).await?).await;
        }
        let tied = bindings.tied.iter().map(|(_, claim)| (key_of(&**claim), false));
        let made = bindings.made.iter().map(|claim| (key_of(&**claim), true));
        let claims: Vec<(String, bool)> = tied.chain(made).collect();
        let is_bound = |key: &str| self.claims.get(key).is_some_and(|claim| volumes::is_bound(&claim));
        // Who cannot make a volume for the node takes the node's name away.
        let failed = |key: &str, made: bool| {
            let claim = self.claims.get(key);
            claim.is_none_or(|c| {
                made && !volumes::is_bound(&c) && volumes::of_claim(&c, SELECTED_NODE).is_none()
            })
        };
        let settled = self.claims.until(|_| {
            claims.iter().all(|(key, _)| is_bound(key)) || claims.iter().any(|(key, made)| failed(key, *made))
        });
        let in_time = tokio::time::timeout(VOLUMES, settled).await.is_ok();
        match claims.iter().find(|(key, _)| !is_bound(key)) {
            None => Ok(()),
            Some((key, _)) if in_time => {
                Err(Status::internal(format!("no volume was bound to claim {key:?}")))
            }
            Some(_) => {
                let why = "running PreBind plugin \"VolumeBinding\": binding volumes: timed out waiting for the condition";
                Err(Status::internal(why))
            }
        }
    }

    /// Tells why a pod waits, and sends away whom it is to replace.
    pub(super) async fn report(&self, key: &str, pod: &Arc<Pod>, wait: Wait) {
        self.recorder.record(&reference(&**pod), EventType::Warning, "FailedScheduling", &wait.message);
        if let Some(preemption) = &wait.preemption {
            self.send_away(pod, preemption).await;
        }
        let Some(patch) = status_patch(pod, &wait) else { return };
        match self.patch_status(pod, patch).await {
            Ok(()) => {}
            Err(status) if status.is("NotFound") => {}
            // It is another one by now, which may fit.
            Err(status) if status.is("Conflict") => {
                let same =
                    |other: &Arc<Pod>| other.metadata.resource_version == pod.metadata.resource_version;
                self.pods.until(|pods| !pods.get(key).is_some_and(|other| same(&other))).await;
                if let Some(other) = self.pods.get(key).filter(|other| waits(other)) {
                    self.queue.put(key, uid(&other), priority(&other), true);
                }
            }
            Err(status) => tracing::warn!(pod = key, %status, "status of the waiting pod not written"),
        }
    }

    async fn patch_status(&self, pod: &Pod, patch: Value) -> Result<(), Status> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let pods = self.client.namespaced::<Pod>(namespace(pod));
        pods.patch(name, Some("status"), PatchKind::Strategic, patch).await.map(drop)
    }

    /// Has pods end so that a more important one can come.
    async fn send_away(&self, pod: &Pod, preemption: &Preemption) {
        let node = &preemption.node;
        for hopeful in self.pods.list() {
            let hopes = waits(&hopeful) && self.memory().hope(&hopeful) == Some(node.as_str());
            if hopes && priority(&hopeful) < priority(pod) && hopeful.metadata.uid != pod.metadata.uid {
                self.memory().give_up(&hopeful);
                let patch = json!({"status": {"nominatedNodeName": null}});
                if let Err(status) = self.patch_status(&hopeful, patch).await {
                    tracing::warn!(pod = key_of(&*hopeful), %status, "a lost hope was not taken back");
                }
                self.queue.put(&key_of(&*hopeful), uid(&hopeful), priority(&hopeful), true);
            }
        }
        for victim in preemption.victims.iter().filter(|victim| victim.metadata.deletion_timestamp.is_none())
        {
            match self.end(victim).await {
                Ok(()) => {
                    let message = format!("Preempted by pod {} on node {node}", uid(pod));
                    self.recorder.record(&reference(&**victim), EventType::Normal, "Preempted", &message);
                }
                Err(status) if status.is("NotFound") || status.is("Conflict") => {}
                Err(status) => {
                    tracing::warn!(pod = key_of(&**victim), %status, "pod not preempted");
                    // It is to be tried again.
                    self.queue.put(&key_of(pod), uid(pod), priority(pod), true);
                }
            }
        }
    }

    async fn end(&self, victim: &Pod) -> Result<(), Status> {
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": format!("{NAME}: preempting to accommodate a higher priority pod"),
            "lastTransitionTime": Time(clock::now()), "observedGeneration": victim.metadata.generation,
        });
        self.patch_status(victim, json!({"status": {"conditions": [condition]}})).await?;
        let options =
            DeleteOptions { precondition_uid: victim.metadata.uid.clone(), ..DeleteOptions::default() };
        let name = victim.metadata.name.as_deref().unwrap_or_default();
        self.client.namespaced::<Pod>(namespace(victim)).delete(name, options).await
    }
}

/// The patch by which a pod says why it waits; it holds only for the pod that was looked at (pure).
fn status_patch(pod: &Pod, wait: &Wait) -> Option<Value> {
    let status = pod.status.clone().unwrap_or_default();
    let is_placed = |condition: &&PodCondition| condition.type_ == "PodScheduled";
    let before = status.conditions.iter().flatten().find(is_placed);
    let says = |condition: &PodCondition| {
        condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
            && condition.message.as_deref() == Some(wait.message.as_str())
    };
    let mut patch = json!({"metadata": {"resourceVersion": pod.metadata.resource_version}, "status": {}});
    if !before.is_some_and(says) {
        let since = before.filter(|condition| condition.status == "False");
        let since = since.and_then(|condition| condition.last_transition_time.clone());
        patch["status"]["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": wait.message,
            "lastTransitionTime": since.unwrap_or_else(|| Time(clock::now())), "lastProbeTime": null,
            "observedGeneration": pod.metadata.generation,
        }]);
    }
    let hope = wait.preemption.as_ref().map(|preemption| preemption.node.as_str());
    let written = status.nominated_node_name.as_deref().filter(|node| !node.is_empty());
    if (hope.is_some() || wait.hopeless) && hope != written {
        patch["status"]["nominatedNodeName"] = json!(hope);
    }
    patch["status"].as_object().is_some_and(|changes| !changes.is_empty()).then_some(patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_pod_says_why_it_waits_once() {
        let wait = |message: &str, node: Option<&str>, hopeless| Wait {
            message: message.to_owned(),
            plugins: BTreeSet::new(),
            preemption: node.map(|node| Preemption { node: node.to_owned(), victims: Vec::new() }),
            hopeless,
        };
        let pod = |status: Value| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"name": "p", "resourceVersion": "7"}, "status": status}),
            )
            .unwrap()
        };
        let told = json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "full", "lastTransitionTime": "2026-01-01T00:00:00Z"}], "nominatedNodeName": "n"});
        let patch = status_patch(&pod(json!({})), &wait("full", Some("n"), false)).unwrap();
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        assert_eq!(patch["status"]["nominatedNodeName"], "n");
        assert_eq!(patch["status"]["conditions"][0]["message"], "full");
        assert_eq!(status_patch(&pod(told.clone()), &wait("full", Some("n"), false)), None);
        assert_eq!(status_patch(&pod(told.clone()), &wait("full", None, false)), None, "the hope stays");
        let patch = status_patch(&pod(told.clone()), &wait("full", None, true)).unwrap();
        assert_eq!(patch["status"], json!({"nominatedNodeName": null}));
        let patch = status_patch(&pod(told), &wait("fuller", None, false)).unwrap();
        assert_eq!(patch["status"]["conditions"][0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
    }
}
