//! Requests and limits of a pod as cgroup numbers and OOM scores (pure).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::plan::is_sidecar;
use super::pod::all_containers;
use crate::api::quantity;
use crate::api::resources::{self, amounts};
use crate::runtime::Resources;

/// cgroup v1's least and Kubernetes' "no request" CPU weight.
const MIN_SHARES: u64 = 2;
/// The period that quotas count in: 100 ms, in microseconds.
pub const QUOTA_PERIOD: u64 = 100_000;
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

/// What a pod's containers may use together, when the pod says so itself.
fn limit_of_whole(spec: &PodSpec, name: &str, of: Reading) -> Option<u64> {
    of(spec.resources.as_ref()?.limits.as_ref(), name).filter(|amount| *amount > 0)
}

/// How an amount is read.
type Reading = fn(Option<&BTreeMap<String, Quantity>>, &str) -> Option<u64>;

/// A container's limit: its own, or that of the pod as a whole.
fn limit(spec: &PodSpec, container: &Container, name: &str, of: Reading) -> Option<u64> {
    let own = container.resources.as_ref().and_then(|r| of(r.limits.as_ref(), name));
    own.filter(|amount| *amount > 0).or_else(|| limit_of_whole(spec, name, of))
}

/// One container's cgroup limits.
pub fn of_container(spec: &PodSpec, container: &Container) -> Resources {
    let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    let cpu_limit = limit(spec, container, "cpu", milli);
    Resources {
        cpu_shares: Some(shares(milli(requests, "cpu").or(cpu_limit).unwrap_or(0))),
        cpu_quota: cpu_limit.map(quota),
        memory_limit: limit(spec, container, "memory", value),
        pids_limit: None,
    }
}

/// The limits over all containers of a pod and its sandbox: a limit holds only when the pod states it or every
/// container has one.
pub fn of_pod(spec: &PodSpec) -> Resources {
    let requests = resources::requests(spec);
    let own = |container: &Container| {
        amounts(container.resources.as_ref().and_then(|resources| resources.limits.as_ref()))
    };
    let total = resources::of_containers(spec, own);
    let limit = |name: &str, of: Reading, read: fn(&quantity::Quantity) -> i64| -> Option<u64> {
        let number = |amount: Option<&quantity::Quantity>| {
            amount.and_then(|amount| u64::try_from(read(amount)).ok()).unwrap_or(0)
        };
        let of_all = || {
            let limited = all_containers(spec).all(|c| own(c).get(name).is_some_and(|l| !l.is_zero()));
            limited.then(|| number(total.get(name))).filter(|limit| *limit > 0)
        };
        let limit = limit_of_whole(spec, name, of).or_else(of_all)?;
        Some(limit.saturating_add(number(amounts(spec.overhead.as_ref()).get(name))))
    };
    let asked = requests.get("cpu").and_then(|cpu| u64::try_from(cpu.milli_value()).ok()).unwrap_or(0);
    Resources {
        cpu_shares: Some(shares(asked)),
        cpu_quota: limit("cpu", milli, quantity::Quantity::milli_value).map(quota),
        memory_limit: limit("memory", value, quantity::Quantity::value),
        pids_limit: None,
    }
}

/// `oom_score_adj` of a container (kubelet's `qos/policy.go`): the less of its request is guaranteed, the
/// sooner it is chosen. `machine` is the node's memory in bytes.
pub fn oom_score_adj(pod: &Pod, container: &Container, machine: u64) -> i32 {
    let class = pod.status.as_ref().and_then(|s| s.qos_class.as_deref()).unwrap_or("BestEffort");
    let Some(spec) = &pod.spec else { return BEST_EFFORT };
    if spec.priority_class_name.as_deref() == Some("system-node-critical") {
        return GUARANTEED;
    }
    match class {
        "Guaranteed" => GUARANTEED,
        "Burstable" => burstable(spec, container, machine),
        _ => BEST_EFFORT,
    }
}

/// `oom_score_adj` of those that are to stay.
const GUARANTEED: i32 = -997;
/// And of those that go first.
const BEST_EFFORT: i32 = 1000;

fn burstable(spec: &PodSpec, container: &Container, machine: u64) -> i32 {
    let asked = |container: &Container| {
        container.resources.as_ref().and_then(|r| value(r.requests.as_ref(), "memory")).unwrap_or(0)
    };
    let share = unclaimed_share(spec);
    let score = |request: u64| {
        let request = i128::from(request) + i128::from(share);
        1000 - 1000 * request / i128::from(machine.max(1))
    };
    let mut result = score(asked(container));
    if spec.init_containers.iter().flatten().any(|c| is_sidecar(c) && c.name == container.name) {
        // What the others need must not go before them.
        let least = spec.containers.iter().map(asked).min().unwrap_or(0);
        result = result.min(score(least));
    }
    i32::try_from(result.clamp((1000 + GUARANTEED).into(), (BEST_EFFORT - 1).into())).unwrap_or(BEST_EFFORT)
}

/// What each container gets of the memory that a pod asks for beyond its containers.
fn unclaimed_share(spec: &PodSpec) -> i64 {
    let of_pod = spec.resources.as_ref().and_then(|r| value(r.requests.as_ref(), "memory")).unwrap_or(0);
    if of_pod == 0 {
        return 0;
    }
    let own = |container: &Container| {
        amounts(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
    };
    let claimed = resources::of_containers(spec, own).get("memory").map_or(0, quantity::Quantity::value);
    let containers = i64::try_from(all_containers(spec).count()).unwrap_or(i64::MAX).max(1);
    (i64::try_from(of_pod).unwrap_or(i64::MAX) - claimed) / containers
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
        let spec = PodSpec::default();
        let none = of_container(&spec, &container(json!({})));
        assert_eq!(none, Resources { cpu_shares: Some(2), ..Resources::default() });
        let both = of_container(
            &spec,
            &container(
                json!({"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}}),
            ),
        );
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
    fn a_pods_own_limits_and_its_sandbox_count() {
        let spec = |whole: serde_json::Value| -> PodSpec {
            serde_json::from_value(json!({"resources": whole, "overhead": {"cpu": "500m", "memory": "16Mi"},
                "containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}},
                               {"name": "b", "resources": {"limits": {"memory": "32Mi"}}}]}))
            .unwrap()
        };
        let unlimited = of_pod(&spec(json!(null)));
        assert_eq!(
            (unlimited.cpu_shares, unlimited.cpu_quota, unlimited.memory_limit),
            (Some(1536), None, None)
        );
        let limited = spec(json!({"requests": {"cpu": "2"}, "limits": {"cpu": "3", "memory": "64Mi"}}));
        let of_whole = of_pod(&limited);
        assert_eq!(of_whole.cpu_shares, Some(2560));
        assert_eq!((of_whole.cpu_quota, of_whole.memory_limit), (Some(350_000), Some(80 << 20)));
        let [one, other] = [0, 1].map(|i| of_container(&limited, &limited.containers[i]));
        assert_eq!(
            (one.cpu_shares, one.cpu_quota, one.memory_limit),
            (Some(1024), Some(300_000), Some(64 << 20))
        );
        assert_eq!(other.memory_limit, Some(32 << 20), "a container's own limit");
    }

    #[test]
    fn who_goes_first_when_memory_runs_out() {
        let asks = |memory: &str| json!({"requests": {"memory": memory}});
        let containers = |memory: &[&str]| -> Vec<serde_json::Value> {
            let named =
                |(i, memory): (usize, &&str)| json!({"name": format!("c{i}"), "resources": asks(memory)});
            memory.iter().enumerate().map(named).collect()
        };
        let sidecar =
            |memory: &str| json!([{"name": "s", "restartPolicy": "Always", "resources": asks(memory)}]);
        let machine = 1000 << 20;
        for (class, spec, name, score) in [
            ("Guaranteed", json!({"containers": containers(&["100Mi"])}), "c0", -997),
            ("BestEffort", json!({"containers": containers(&["0"])}), "c0", 1000),
            ("Burstable", json!({"containers": containers(&["100Mi"])}), "c0", 900),
            ("Burstable", json!({"containers": containers(&["0"])}), "c0", 999),
            ("Burstable", json!({"containers": containers(&["2000Mi"])}), "c0", 3),
            (
                "Burstable",
                json!({"containers": containers(&["1Mi"]), "priorityClassName": "system-node-critical"}),
                "c0",
                -997,
            ),
            // A sidecar is as safe as the least safe of the others, or safer.
            (
                "Burstable",
                json!({"containers": containers(&["300Mi", "200Mi"]), "initContainers": sidecar("10Mi")}),
                "s",
                800,
            ),
            (
                "Burstable",
                json!({"containers": containers(&["300Mi"]), "initContainers": sidecar("500Mi")}),
                "s",
                500,
            ),
            // What the pod asks for beyond its containers is for all of them alike.
            (
                "Burstable",
                json!({"containers": containers(&["100Mi", "0"]), "resources": asks("500Mi")}),
                "c1",
                800,
            ),
            (
                "Burstable",
                json!({"containers": containers(&["100Mi", "0"]), "resources": asks("500Mi")}),
                "c0",
                700,
            ),
        ] {
            let pod: Pod =
                serde_json::from_value(json!({"metadata": {}, "spec": spec, "status": {"qosClass": class}}))
                    .unwrap();
            let container = all_containers(pod.spec.as_ref().unwrap()).find(|c| c.name == name).unwrap();
            assert_eq!(oom_score_adj(&pod, container, machine), score, "{class} {spec} {name}");
        }
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
