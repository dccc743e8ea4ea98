//! What decisions look at: the nodes with what is on them, and what pods refer to, at one moment.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::api::resources::Resources;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, PodSpec};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;

/// The labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A pod with what it asks for.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The pod.
    pub pod: Arc<Pod>,
    /// What it takes of its node.
    pub requests: Arc<Resources>,
}

/// A node with what is on it.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    /// The node.
    pub node: Arc<Node>,
    /// The pods that take room on it, those included whose binding is under way.
    pub pods: Vec<Placed>,
    /// Pods that are to come when others have made room.
    pub nominated: Vec<Placed>,
}

/// Everything that decisions look at; what-if copies are cheap.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    /// The nodes, by name.
    pub nodes: Vec<NodeInfo>,
    /// The labels of namespaces.
    pub namespaces: HashMap<String, Labels>,
    /// Claims by `NAMESPACE/NAME`.
    pub claims: HashMap<String, Arc<PersistentVolumeClaim>>,
    /// Volumes that are nobody else's by a binding that is under way.
    pub volumes: Vec<Arc<PersistentVolume>>,
    /// Classes by name.
    pub classes: HashMap<String, Arc<StorageClass>>,
    /// How many pods must stay.
    pub budgets: Vec<Arc<PodDisruptionBudget>>,
}

/// Labels of anything.
pub fn labels(of: &Option<Labels>) -> &Labels {
    static NONE: Labels = Labels::new();
    of.as_ref().unwrap_or(&NONE)
}

impl NodeInfo {
    /// The node's name.
    pub fn name(&self) -> &str {
        self.node.metadata.name.as_deref().unwrap_or_default()
    }

    /// The node's labels.
    pub fn labels(&self) -> &Labels {
        labels(&self.node.metadata.labels)
    }

    /// What the node offers to pods.
    pub fn allocatable(&self, name: &str) -> Option<crate::api::quantity::Quantity> {
        let list = self.node.status.as_ref()?.allocatable.as_ref()?;
        crate::api::quantity::parse(&list.get(name)?.0).ok()
    }
}

/// A pod's spec, empty when it has none.
pub fn spec(pod: &Pod) -> &PodSpec {
    static NONE: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&NONE)
}

/// A pod's priority.
pub fn priority(pod: &Pod) -> i32 {
    spec(pod).priority.unwrap_or(0)
}

/// A pod's namespace.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// Whether a pod has ended for good.
pub fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The node that a pod is bound to; empty when to none.
pub fn node_of(pod: &Pod) -> &str {
    spec(pod).node_name.as_deref().unwrap_or_default()
}

#[cfg(test)]
pub mod testing {
    //! Clusters of a few words for tests.

    use super::*;
    use crate::api::resources::held;
    use serde_json::{Value, json};

    /// A node that is ready, with two CPUs, 1 GiB and room for ten pods.
    pub fn node(name: &str, change: impl FnOnce(&mut Value)) -> Arc<Node> {
        let mut value = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "10", "ephemeral-storage": "1Gi"},
                       "conditions": [{"type": "Ready", "status": "True"}]},
        });
        change(&mut value);
        Arc::new(serde_json::from_value(value).unwrap())
    }

    /// A pod with this spec, which needs no containers.
    pub fn pod(name: &str, spec: Value) -> Arc<Pod> {
        labelled(name, json!({}), spec)
    }

    /// The same with labels.
    pub fn labelled(name: &str, labels: Value, mut spec: Value) -> Arc<Pod> {
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c"}]);
        }
        let pod = json!({"metadata": {"name": name, "namespace": "d", "uid": name, "labels": labels}, "spec": spec});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    /// A spec that asks for this much.
    pub fn asking(cpu: &str, memory: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
    }

    /// The pod with its requests.
    pub fn placed(pod: &Arc<Pod>) -> Placed {
        Placed { pod: pod.clone(), requests: Arc::new(held(pod)) }
    }

    /// A cluster of these nodes, with pods on those that they name.
    pub fn cluster(nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> Cluster {
        let on = |node: &Arc<Node>| {
            let here = pods.iter().filter(|pod| Some(node_of(pod)) == node.metadata.name.as_deref());
            NodeInfo { node: node.clone(), pods: here.map(placed).collect(), nominated: Vec::new() }
        };
        let namespaces = [("d", json!({"team": "a"})), ("e", json!({"team": "b"}))];
        let namespaces =
            namespaces.map(|(name, labels)| (name.to_owned(), serde_json::from_value(labels).unwrap()));
        Cluster { nodes: nodes.iter().map(on).collect(), namespaces: namespaces.into(), ..Cluster::default() }
    }
}
