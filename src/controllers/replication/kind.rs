//! The two kinds as one: what they want, and where they say what there is. Pure.

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};

use super::super::owned::selector;
use crate::api::selector::LabelSelector;
use crate::client::Resource;

/// What an object of either kind asks for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// So many pods.
    pub replicas: i32,
    /// That have been ready for so long before they count.
    pub min_ready_seconds: i32,
    /// That look so.
    pub selector: LabelSelector,
    /// That are made from this.
    pub template: PodTemplateSpec,
}

/// A kind that keeps a number of equal pods.
pub trait Replicated: Resource {
    /// The name under which its controller speaks.
    const COMPONENT: &'static str;
    /// The name under which its queue is counted.
    const QUEUE: &'static str;

    /// What it asks for; an error says why its selector cannot be read.
    fn wanted(&self) -> Result<Wanted, String>;

    /// What it says of its pods, in the words of replica sets.
    fn status(&self) -> ReplicaSetStatus;

    /// Puts that into it.
    fn set_status(&mut self, status: ReplicaSetStatus);

    /// What of a status an object of this kind can show.
    fn shown(&self, status: &ReplicaSetStatus) -> ReplicaSetStatus {
        let mut object = self.clone();
        object.set_status(status.clone());
        object.status()
    }
}

impl Replicated for ReplicaSet {
    const COMPONENT: &'static str = "replicaset-controller";
    const QUEUE: &'static str = "replicaset";

    fn wanted(&self) -> Result<Wanted, String> {
        let spec = self.spec.clone();
        Ok(Wanted {
            replicas: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            selector: selector(Some(&spec.selector))?,
            template: spec.template.unwrap_or_default(),
        })
    }

    fn status(&self) -> ReplicaSetStatus {
        self.status.clone().unwrap_or_default()
    }

    fn set_status(&mut self, status: ReplicaSetStatus) {
        self.status = Some(status);
    }
}

impl Replicated for ReplicationController {
    const COMPONENT: &'static str = "replication-controller";
    const QUEUE: &'static str = "replicationmanager";

    fn wanted(&self) -> Result<Wanted, String> {
        let spec = self.spec.clone().unwrap_or_default();
        Ok(Wanted {
            replicas: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            selector: LabelSelector::from_map(&serde_json::json!(spec.selector)),
            template: spec.template.unwrap_or_default(),
        })
    }

    fn status(&self) -> ReplicaSetStatus {
        let status = self.status.clone().unwrap_or_default();
        let conditions = status.conditions.map(|conditions| {
            let same = |c: ReplicationControllerCondition| ReplicaSetCondition {
                type_: Some(c.type_),
                status: Some(c.status),
                reason: c.reason,
                message: c.message,
                last_transition_time: c.last_transition_time,
            };
            conditions.into_iter().map(same).collect()
        });
        ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions,
            terminating_replicas: None,
        }
    }

    fn set_status(&mut self, status: ReplicaSetStatus) {
        let conditions = status.conditions.map(|conditions| {
            let same = |c: ReplicaSetCondition| ReplicationControllerCondition {
                type_: c.type_.unwrap_or_default(),
                status: c.status.unwrap_or_default(),
                reason: c.reason,
                message: c.message,
                last_transition_time: c.last_transition_time,
            };
            conditions.into_iter().map(same).collect()
        });
        self.status = Some(ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions,
        });
    }
}
