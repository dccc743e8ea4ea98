//! Which pod goes first when a node runs short, and what it is told (pure).

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::thresholds::{Condition, Level, Signal, Threshold};
use crate::api::quantity::Quantity;
use crate::api::resources::{self, Resources};
use crate::kubelet::pod::mirrored;

/// From this priority on a pod belongs to the system.
const SYSTEM_CRITICAL: i32 = 2_000_000_000;
/// What keeps memory pressure from being held against a pod.
const MEMORY_TAINT: &str = "node.kubernetes.io/memory-pressure";

/// A pod that runs, and what it uses.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Memory in bytes.
    pub memory: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes on disk, of volumes and containers.
    pub disk: u64,
    /// Of each container: memory in bytes, bytes on disk.
    pub containers: Vec<(String, u64, u64)>,
}

/// Whether a pod is never evicted, and always taken: static pods and those of the system.
pub fn is_critical(pod: &Pod) -> bool {
    mirrored(pod).is_some() || is_of_the_system(pod)
}

/// Whether others need a pod to work at all.
pub fn is_of_the_system(pod: &Pod) -> bool {
    priority(pod) >= SYSTEM_CRITICAL
}

/// How important a pod is.
pub fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

fn spec_of(pod: &Pod) -> Value {
    json!(pod.spec)
}

/// Puts the pods that are to go first in front; those that must stay are left out.
pub fn rank(candidates: Vec<Candidate>, signal: Signal) -> Vec<Candidate> {
    let mut ranked: Vec<(_, Candidate)> = candidates
        .into_iter()
        .filter(|candidate| !is_critical(&candidate.pod))
        .map(|candidate| {
            let requests = resources::of_pod(&spec_of(&candidate.pod), "requests");
            let (used, name) = match signal {
                Signal::Memory => (candidate.memory, "memory"),
                Signal::Pid => (candidate.pids, ""),
                _ => (candidate.disk, "ephemeral-storage"),
            };
            let requested = requests.get(name).map_or(0, Quantity::value);
            let excess = i64::try_from(used).unwrap_or(i64::MAX).saturating_sub(requested);
            // Nobody asks for processes, so that nobody has more of them than asked for.
            let exceeds = signal != Signal::Pid && excess > 0;
            ((Reverse(exceeds), priority(&candidate.pod), Reverse(excess)), candidate)
        })
        .collect();
    ranked.sort_by_key(|(key, _)| *key);
    ranked.into_iter().map(|(_, candidate)| candidate).collect()
}

/// Why a pod goes, in Kubernetes' words (the trailing blank is theirs).
pub fn message(candidate: &Candidate, threshold: &Threshold, level: Level) -> String {
    let signal = threshold.signal;
    let resource = signal.resource();
    let (least, available) = (threshold.amount(level.capacity), signal.amount(level.available));
    let mut message = format!(
        "The node was low on resource: {resource}. Threshold quantity: {least}, available: {available}. "
    );
    let spec = spec_of(&candidate.pod);
    let all = ["containers", "initContainers"].map(|list| spec[list].as_array().cloned().unwrap_or_default());
    let all = all.concat();
    for (name, memory, disk) in &candidate.containers {
        let used = match resource {
            "memory" => *memory,
            "ephemeral-storage" => *disk,
            _ => continue,
        };
        let Some(container) = all.iter().find(|container| container["name"] == **name) else { continue };
        let requests: Resources = resources::of_container(container, "requests");
        let (used, request) = (signal.amount(used), requests.get(resource).copied());
        let request = request.unwrap_or_else(|| Quantity::units(0));
        if used > request {
            message += &format!(
                "Container {name} was using {used}, request is {request}, has larger consumption of {resource}. "
            );
        }
    }
    message
}

/// Why a node in these conditions does not take a pod.
pub fn refusal(pod: &Pod, conditions: &[Condition]) -> Option<String> {
    if conditions.is_empty() || is_critical(pod) {
        return None;
    }
    if conditions == [Condition::MemoryPressure] {
        let class = pod.status.as_ref().and_then(|status| status.qos_class.as_deref());
        let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
        let tolerated = tolerations.into_iter().any(|toleration| {
            let key = toleration.key.as_deref().unwrap_or("");
            let any_key = key.is_empty() && toleration.operator.as_deref() == Some("Exists");
            let effect = toleration.effect.as_deref().unwrap_or("");
            // The taint has no value.
            let value = toleration.value.as_deref().unwrap_or("");
            (any_key || key == MEMORY_TAINT) && ["", "NoSchedule"].contains(&effect) && value.is_empty()
        });
        if class.is_some_and(|class| class != "BestEffort") || tolerated {
            return None;
        }
    }
    let names: Vec<&str> = conditions.iter().map(|condition| condition.name()).collect();
    Some(format!("The node had condition: [{}]. ", names.join(" ")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::kubelet::eviction::thresholds::Least;

    fn pod(name: &str, priority: i32, request: &str) -> Arc<Pod> {
        let requests = json!({"memory": request, "ephemeral-storage": request});
        let pod = json!({"metadata": {"name": name}, "spec": {"priority": priority,
            "containers": [{"name": "c", "resources": {"requests": requests}}]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn uses(pod: Arc<Pod>, memory: u64, disk: u64, pids: u64) -> Candidate {
        Candidate {
            pod,
            memory,
            disk,
            pids,
            containers: vec![("c".into(), memory, disk), ("e".into(), 9, 9)],
        }
    }

    #[test]
    fn who_has_more_than_asked_for_goes_first_then_the_least_important() {
        let candidates = vec![
            uses(pod("modest", 0, "1Ki"), 1000, 10, 5),
            uses(pod("greedy", 0, "1Ki"), 5000, 2000, 1),
            uses(pod("greedier", 0, "1Ki"), 9000, 1500, 9),
            uses(pod("important", 100, "1Ki"), 99_000, 99_000, 50),
            uses(pod("system", SYSTEM_CRITICAL, "0"), 99_000, 99_000, 99),
        ];
        for (signal, expected) in [
            (Signal::Memory, ["greedier", "greedy", "important", "modest"]),
            (Signal::ImageFs, ["greedy", "greedier", "important", "modest"]),
            (Signal::Pid, ["greedier", "modest", "greedy", "important"]),
        ] {
            let ranked = rank(candidates.clone(), signal);
            let names: Vec<_> = ranked.iter().map(|c| c.pod.metadata.name.clone().unwrap()).collect();
            assert_eq!(names, expected, "{signal:?}");
        }
    }

    #[test]
    fn a_pod_is_told_what_was_short_and_what_it_had() {
        let greedy = uses(pod("p", 0, "1Ki"), 2 << 20, 512, 1);
        let level = Level { available: 50 << 10, capacity: 1 << 30 };
        let told =
            |signal, least| message(&greedy, &Threshold { signal, least, grace: Duration::ZERO }, level);
        assert_eq!(
            told(Signal::Memory, Least::Amount(Quantity::bytes(100 << 20))),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Ki. Container c was using \
             2Mi, request is 1Ki, has larger consumption of memory. "
        );
        assert_eq!(
            told(Signal::NodeFs, Least::Share(0.5)),
            "The node was low on resource: ephemeral-storage. Threshold quantity: 512Mi, available: 50Ki. "
        );
        assert_eq!(
            told(Signal::Pid, Least::Amount(Quantity::units(90_000))),
            "The node was low on resource: pids. Threshold quantity: 90k, available: 51200. "
        );
    }

    #[test]
    fn a_node_that_runs_short_takes_only_some_pods() {
        let refused =
            |pod: Value, conditions: &[Condition]| refusal(&serde_json::from_value(pod).unwrap(), conditions);
        let (memory, disk) = (Condition::MemoryPressure, Condition::DiskPressure);
        let class = |class: &str| json!({"spec": {"containers": []}, "status": {"qosClass": class}});
        let words = |names: &str| Some(format!("The node had condition: [{names}]. "));
        let tolerates = |key: &str| {
            let tolerations = json!([{"key": key, "operator": "Exists", "effect": "NoSchedule"}]);
            json!({"spec": {"containers": [], "tolerations": tolerations}, "status": {"qosClass": "BestEffort"}})
        };
        let system = json!({"spec": {"containers": [], "priority": SYSTEM_CRITICAL}});
        for (pod, conditions, expected) in [
            (class("BestEffort"), &[][..], None),
            (class("BestEffort"), &[memory], words("MemoryPressure")),
            (class("Burstable"), &[memory], None),
            (tolerates(MEMORY_TAINT), &[memory], None),
            (tolerates("node.kubernetes.io/disk-pressure"), &[memory], words("MemoryPressure")),
            (class("Guaranteed"), &[memory, disk], words("MemoryPressure DiskPressure")),
            (class("Guaranteed"), &[Condition::PidPressure], words("PIDPressure")),
            (system, &[disk], None),
        ] {
            assert_eq!(refused(pod.clone(), conditions), expected, "{pod} {conditions:?}");
        }
    }
}
