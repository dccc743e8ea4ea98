//! Requests and limits of a pod as cgroup numbers and OOM scores (pure).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::plan::is_sidecar;
use crate::api::quantity;
use crate::runtime::Resources;

/// cgroup v1's least and Kubernetes' "no request" CPU weight.
const MIN_SHARES: u64 = 2;
/// The period that quotas count in: 100 ms, in microseconds.
const QUOTA_PERIOD: u64 = 100_000;
/// The kernel's least quota, in microseconds.
const MIN_QUOTA: u64 = 1000;

/// A named quantity in thousandths (CPU) of its unit; `None` when absent.
fn milli(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<u64> {
    let text = &list?.get(name)?.0;
    quantity::parse(text).ok().and_then(|q| u64::try_from(q.milli_value()).ok())
}

/// A named quantity in its unit (bytes); `None` when absent.
fn value(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<u64> {
    let text = &list?.get(name)?.0;
    quantity::parse(text).ok().and_then(|q| u64::try_from(q.value()).ok())
}

fn shares(milli_cpu: u64) -> u64 {
    (milli_cpu * 1024 / 1000).max(MIN_SHARES)
}

fn quota(milli_cpu: u64) -> u64 {
    (milli_cpu * QUOTA_PERIOD / 1000).max(MIN_QUOTA)
}

/// One container's cgroup limits.
pub fn of_container(container: &Container) -> Resources {
    let requirements = container.resources.as_ref();
    let requests = requirements.and_then(|r| r.requests.as_ref());
    let limits = requirements.and_then(|r| r.limits.as_ref());
    Resources {
        cpu_shares: Some(shares(milli(requests, "cpu").or(milli(limits, "cpu")).unwrap_or(0))),
        cpu_quota: milli(limits, "cpu").filter(|m| *m > 0).map(quota),
        memory_limit: value(limits, "memory").filter(|m| *m > 0),
        pids_limit: None,
    }
}

/// The limits over all containers of a pod: a limit holds only when every container has one.
pub fn of_pod(spec: &PodSpec) -> Resources {
    let (sidecars, inits): (Vec<&Container>, Vec<&Container>) =
        spec.init_containers.iter().flatten().partition(|c| is_sidecar(c));
    let of = |list: &[&Container]| list.iter().map(|c| of_container(c)).collect::<Vec<_>>();
    let (beside, inits) = (of(&sidecars), of(&inits));
    let own = of(&spec.containers.iter().collect::<Vec<_>>());
    let total = |f: fn(&Resources) -> Option<u64>| -> Option<u64> {
        let sum = |list: &[Resources]| list.iter().map(f).sum::<Option<u64>>();
        // Init containers run one at a time, before the others: the largest of them may exceed the sum.
        let largest = inits.iter().map(f).try_fold(0, |most, one| Some(one?.max(most)));
        Some(sum(&beside)? + sum(&own)?.max(largest?))
    };
    Resources {
        cpu_shares: total(|r| r.cpu_shares),
        cpu_quota: total(|r| r.cpu_quota),
        memory_limit: total(|r| r.memory_limit),
        pids_limit: None,
    }
}

/// `oom_score_adj` of a container (kubelet's `qos/policy.go`): the less of its request is guaranteed, the
/// sooner it is chosen. `machine` is the node's memory in bytes.
pub fn oom_score_adj(pod: &Pod, container: &Container, machine: u64) -> i32 {
    let class = pod.status.as_ref().and_then(|s| s.qos_class.as_deref()).unwrap_or("BestEffort");
    let priority = pod.spec.as_ref().and_then(|s| s.priority_class_name.as_deref()).unwrap_or("");
    if priority == "system-node-critical" {
        return -997;
    }
    match class {
        "Guaranteed" => -997,
        "Burstable" => {
            let request =
                container.resources.as_ref().and_then(|r| value(r.requests.as_ref(), "memory")).unwrap_or(0);
            let score = 1000 - (1000 * u128::from(request) / u128::from(machine.max(1))) as i64;
            score.clamp(3, 999) as i32
        }
        _ => 1000,
    }
}

/// A container's limit or request by its `resourceFieldRef` name, in units of the divisor, rounded up; a
/// missing limit is the node's capacity, a missing request is zero.
pub fn field(container: &Container, resource: &str, divisor: &str, node: &NodeCapacity) -> Option<String> {
    let requirements = container.resources.as_ref();
    let limits = requirements.and_then(|r| r.limits.as_ref());
    let requests = requirements.and_then(|r| r.requests.as_ref());
    let divisor = if divisor.is_empty() || divisor == "0" { "1" } else { divisor };
    let per = quantity::parse(divisor).ok()?;
    let (kind, name) = resource.split_once('.')?;
    let list = match kind {
        "limits" => limits,
        "requests" => requests,
        _ => return None,
    };
    if name == "cpu" {
        let missing = if kind == "limits" { node.milli_cpu } else { 0 };
        let milli = milli(list, name).unwrap_or(missing);
        return Some(milli.div_ceil(u64::try_from(per.milli_value()).ok()?.max(1)).to_string());
    }
    let missing = match (kind, name) {
        ("limits", "memory") => node.memory,
        ("limits", "ephemeral-storage") => node.disk,
        _ => 0,
    };
    let amount = value(list, name).unwrap_or(missing);
    Some(amount.div_ceil(u64::try_from(per.value()).ok()?.max(1)).to_string())
}

/// What the node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeCapacity {
    /// Thousandths of a CPU.
    pub milli_cpu: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes on the file system of the data directory.
    pub disk: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(resources: serde_json::Value) -> Container {
        serde_json::from_value(json!({"name": "c", "resources": resources})).unwrap()
    }

    #[test]
    fn requests_and_limits_become_shares_quota_and_bytes() {
        let none = of_container(&container(json!({})));
        assert_eq!(none, Resources { cpu_shares: Some(2), ..Resources::default() });
        let both = of_container(&container(
            json!({"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}}),
        ));
        assert_eq!(both.cpu_shares, Some(256));
        assert_eq!(both.cpu_quota, Some(100_000));
        assert_eq!(both.memory_limit, Some(128 << 20));
    }

    #[test]
    fn a_pod_is_limited_only_when_all_its_containers_are() {
        let spec = |second: serde_json::Value| -> PodSpec {
            serde_json::from_value(json!({"containers": [
                {"name": "a", "resources": {"limits": {"memory": "64Mi"}}},
                {"name": "b", "resources": second},
            ]}))
            .unwrap()
        };
        assert_eq!(of_pod(&spec(json!({}))).memory_limit, None);
        assert_eq!(of_pod(&spec(json!({"limits": {"memory": "64Mi"}}))).memory_limit, Some(128 << 20));
        let init = |name: &str, restart: Option<&str>| -> Container {
            let limits = json!({"limits": {"memory": "100Mi"}});
            serde_json::from_value(json!({"name": name, "restartPolicy": restart, "resources": limits}))
                .unwrap()
        };
        let mut beside = spec(json!({"limits": {"memory": "64Mi"}}));
        beside.init_containers = Some(vec![init("s", Some("Always")), init("i", None)]);
        assert_eq!(of_pod(&beside).memory_limit, Some(228 << 20), "a sidecar runs beside the others");
        beside.containers.pop();
        assert_eq!(of_pod(&beside).memory_limit, Some(200 << 20), "an init container beside sidecars only");
    }

    #[test]
    fn fields_are_divided_and_rounded_up() {
        let node = NodeCapacity { milli_cpu: 2000, memory: 1 << 30, disk: 1 << 40 };
        let c = container(json!({"limits": {"cpu": "250m", "memory": "100"}}));
        for (resource, divisor, expected) in [
            ("limits.cpu", "", "1"),
            ("limits.cpu", "1m", "250"),
            ("limits.memory", "1Ki", "1"),
            ("requests.memory", "", "0"),
        ] {
            assert_eq!(
                field(&c, resource, divisor, &node).as_deref(),
                Some(expected),
                "{resource}/{divisor}"
            );
        }
        assert_eq!(field(&container(json!({})), "limits.memory", "1Mi", &node).as_deref(), Some("1024"));
    }
}
