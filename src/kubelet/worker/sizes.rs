//! What a pod's containers may use: what was allocated to them, and how a change of it goes on.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, ResourceRequirements};
use serde::Serialize;

use super::{Desired, Worker};
use crate::client::events::EventType;
use crate::kubelet::allocation::{Record, Verdict, Victim, applied, differs, recorded};
use crate::kubelet::observed::ObservedPod;
use crate::kubelet::resize;
use crate::kubelet::status::Waiting;
use crate::runtime::Runtime;

/// The least time that a pod is given to make room for another.
const VICTIM_GRACE_MIN: Duration = Duration::from_secs(10);

/// Where the resizes of a pod stand.
#[derive(Debug, Default)]
pub struct Sizes {
    /// What was allocated; nothing before the first look.
    allocated: Option<Record>,
    /// The generation of the spec whose refusal was told.
    refused: i64,
}

fn generation(pod: &Pod) -> i64 {
    pod.metadata.generation.unwrap_or(0)
}

impl<R: Runtime> Worker<R> {
    /// The pod as it is to run: with what its spec asks for as far as the node has that.
    pub(super) fn allocate(&mut self, desired: &Desired, pod: Pod) -> Pod {
        let record = self.sizes.allocated.get_or_insert_with(|| recorded(&pod));
        if !differs(&pod, record) {
            if self.notes.resize.pending.take().is_some() {
                self.context.allocations.withdraw(&self.uid);
            }
        } else if !desired.stops() && self.failed_grace.is_none() && self.taken {
            let allocatable = self.context.allocatable();
            match self.context.allocations.resize(&self.uid, &pod, &allocatable) {
                Verdict::Granted => self.granted(&pod),
                Verdict::Deferred(message) => self.refused(&pod, "Deferred", message),
                Verdict::Infeasible(message) => self.refused(&pod, "Infeasible", message),
            }
        }
        match &self.sizes.allocated {
            Some(record) => applied(pod, record),
            None => pod,
        }
    }

    /// Whether the node takes the pod, which has not begun.
    pub(super) async fn admit(&self, pod: &Pod) -> Result<(), Waiting> {
        let (context, uid) = (&self.context, &self.uid);
        let victims = match context.allocations.admit(uid, pod, &context.node()) {
            Ok(victims) => victims,
            // Who placed the pod may know the node as it has just become.
            Err(why) => match context.client.all::<Node>().get(&context.config.node).await {
                Ok(node) => context.allocations.admit(uid, pod, &node)?,
                Err(_) => return Err(why),
            },
        };
        for victim in &victims {
            context.eviction.preempt(&victim.uid);
        }
        for Victim { uid, grace } in &victims {
            let enough = (*grace * 3 / 2).max(VICTIM_GRACE_MIN);
            if tokio::time::timeout(enough, context.eviction.carried_out(uid)).await.is_err() {
                tracing::warn!(uid, "a pod that makes room for a critical one has not ended in time");
            }
        }
        Ok(())
    }

    /// Keeps for the pod what it has of the node as long as it runs.
    pub(super) fn keep_room(&mut self, pod: &Pod, over: bool) {
        if over {
            self.taken = false;
            self.context.allocations.release(&self.uid);
        } else if self.taken {
            self.context.allocations.hold(&self.uid, pod);
        }
    }

    fn granted(&mut self, pod: &Pod) {
        self.sizes.allocated = pod.spec.as_ref().map(Record::of);
        self.notes.resize.pending = None;
        self.notes.resize.under_way = Some(Waiting::default());
        self.tell_resize(pod, EventType::Normal, "ResizeStarted", "started", "");
    }

    /// The pod keeps what it has; that is told once for each wish.
    fn refused(&mut self, pod: &Pod, reason: &str, message: String) {
        let why = Waiting { reason: reason.to_owned(), message };
        let generation = generation(pod);
        if self.notes.resize.pending.as_ref() != Some(&why) || self.sizes.refused != generation {
            let event = format!("Resize{reason}");
            self.tell_resize(pod, EventType::Warning, &event, reason, &why.message);
        }
        self.sizes.refused = generation;
        self.notes.resize.pending = Some(why);
    }

    /// Sees whether what was allocated is what the containers have.
    pub(super) fn follow_resize(&mut self, pod: &Pod, observed: &ObservedPod) {
        if resize::under_way(pod, observed) {
            self.notes.resize.under_way.get_or_insert_default();
        } else if self.notes.resize.under_way.take().is_some() {
            self.tell_resize(pod, EventType::Normal, "ResizeCompleted", "completed", "");
        }
    }

    /// A change could not be carried out, and is tried again.
    pub(super) fn resize_failed(&mut self, pod: &Pod, why: Waiting) {
        if self.notes.resize.under_way.as_ref() != Some(&why) {
            self.tell_resize(pod, EventType::Warning, "ResizeError", "error", &why.message);
        }
        self.notes.resize.under_way = Some(why);
    }

    /// Whether the pod waits for others to make room.
    pub(super) fn waits_for_room(&self) -> bool {
        self.notes.resize.pending.as_ref().is_some_and(|why| why.reason == "Deferred")
    }

    fn tell_resize(&self, pod: &Pod, kind: EventType, reason: &str, what: &str, error: &str) {
        self.context.event(pod, None, kind, reason, &words(pod, what, error));
    }
}

/// What an event says of a resize: the pod's resources in Kubernetes' own form.
fn words(pod: &Pod, what: &str, error: &str) -> String {
    #[derive(Serialize)]
    struct Sized<'a> {
        name: &'a str,
        resources: ResourceRequirements,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Summary<'a> {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        init_containers: Vec<Sized<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        containers: Vec<Sized<'a>>,
        generation: i64,
        #[serde(skip_serializing_if = "str::is_empty")]
        error: &'a str,
    }
    let sized = |c: &'_ k8s_openapi::api::core::v1::Container| c.resources.clone().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let summary = Summary {
        init_containers: spec
            .iter()
            .flat_map(|spec| spec.init_containers.iter().flatten())
            .map(|c| Sized { name: &c.name, resources: sized(c) })
            .collect(),
        containers: spec
            .iter()
            .flat_map(|spec| &spec.containers)
            .map(|c| Sized { name: &c.name, resources: sized(c) })
            .collect(),
        generation: generation(pod),
        error,
    };
    let summary = serde_json::to_string(&summary).unwrap_or_default();
    format!("Pod resize {what}: {summary}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_tell_the_sizes_as_kubernetes_writes_them() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"generation": 2},
            "spec": {"initContainers": [{"name": "s"}],
                     "containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}}]},
        }))
        .unwrap();
        let sizes = r#""initContainers":[{"name":"s","resources":{}}],"containers":[{"name":"c","resources":{"limits":{"cpu":"1"},"requests":{"cpu":"100m"}}}],"generation":2"#;
        assert_eq!(words(&pod, "completed", ""), format!("Pod resize completed: {{{sizes}}}"));
        assert_eq!(
            words(&pod, "Deferred", "no room"),
            format!(r#"Pod resize Deferred: {{{sizes},"error":"no room"}}"#)
        );
    }
}
