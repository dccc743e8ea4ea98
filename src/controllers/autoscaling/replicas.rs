//! How many pods a metric asks for (Kubernetes `pkg/controller/podautoscaler/replica_calculator.go`). Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::api::quantity;
use crate::controllers::owned::state::phase;

/// How long after its start the CPU that a pod uses says little (`--horizontal-pod-autoscaler-cpu-initialization-period`).
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// How long after its start a pod that is not ready has never been (`--horizontal-pod-autoscaler-initial-readiness-delay`).
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);

/// What a pod used, in thousandths.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) value: i64,
    pub(super) at: Timestamp,
    /// How long before that it was looked at.
    pub(super) window: SignedDuration,
}

/// What is wanted of the pods.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// That they use so many hundredths of what they request.
    Utilization(i32),
    /// That each uses so many thousandths.
    Average(i64),
}

/// A metric of pods.
#[derive(Debug)]
pub(super) struct Metric<'a> {
    /// `cpu`.
    pub(super) resource: &'a str,
    /// The container alone that counts.
    pub(super) container: Option<&'a str>,
    pub(super) target: Target,
    /// By how much less, and more, than the target is no reason for anything.
    pub(super) tolerance: (f64, f64),
}

/// How many pods there should be, and what they use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) replicas: i32,
    /// In hundredths of what is requested.
    pub(super) utilization: Option<i32>,
    /// In thousandths.
    pub(super) average: i64,
}

/// How pods count.
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

/// What the samples (by the names of pods) propose, where there are `current` pods.
pub(super) fn propose(
    metric: &Metric<'_>,
    current: i32,
    pods: &[Arc<Pod>],
    mut samples: BTreeMap<String, Sample>,
    now: Timestamp,
) -> Result<Proposal, String> {
    let resource = metric.resource;
    if samples.is_empty() {
        let why = "no metrics returned from resource metrics API";
        return Err(format!("unable to get metrics for resource {resource}: {why}"));
    }
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let groups = Groups::new(metric, pods, &samples, now);
    samples.retain(|name, _| !groups.ignored.contains(name) && !groups.unready.contains(name));
    let requests = match metric.target {
        Target::Utilization(_) => requests(metric, pods)?,
        Target::Average(_) => BTreeMap::new(),
    };
    if samples.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let (ratio, utilization, average) = usage(metric.target, &samples, &requests)?;
    let proposal = |replicas: i32| Ok(Proposal { replicas, utilization, average });
    let within = |ratio: f64| 1.0 - metric.tolerance.0 <= ratio && ratio <= 1.0 + metric.tolerance.1;
    let with_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !with_unready && groups.missing.is_empty() {
        return proposal(if within(ratio) { current } else { ceil(ratio * groups.ready as f64) });
    }
    // What is not known is taken to be such that it speaks against any change.
    let mut assume = |names: &BTreeSet<String>, value: &dyn Fn(&str) -> i64| {
        for name in names {
            let sample = Sample { value: value(name), at: now, window: SignedDuration::ZERO };
            samples.insert(name.clone(), sample);
        }
    };
    if ratio < 1.0 {
        assume(&groups.missing, &|name| match metric.target {
            Target::Utilization(target) => {
                requests.get(name).copied().unwrap_or(0) * i64::from(target.max(100)) / 100
            }
            Target::Average(target) => target,
        });
    } else if ratio > 1.0 {
        assume(&groups.missing, &|_| 0);
    }
    if with_unready {
        assume(&groups.unready, &|_| 0);
    }
    let (next, _, _) = usage(metric.target, &samples, &requests)?;
    let turned = ratio < 1.0 && next > 1.0 || ratio > 1.0 && next < 1.0;
    let replicas = ceil(next * samples.len() as f64);
    let against = next < 1.0 && replicas > current || next > 1.0 && replicas < current;
    proposal(if within(next) || turned || against { current } else { replicas })
}

/// How much more than wanted is used; that in hundredths of what is requested; and by a pod.
fn usage(
    target: Target,
    samples: &BTreeMap<String, Sample>,
    requests: &BTreeMap<String, i64>,
) -> Result<(f64, Option<i32>, i64), String> {
    let count = i64::try_from(samples.len()).unwrap_or(i64::MAX).max(1);
    match target {
        Target::Average(target) => {
            let average = samples.values().map(|sample| sample.value).sum::<i64>() / count;
            Ok((average as f64 / target.max(1) as f64, None, average))
        }
        Target::Utilization(target) => {
            let known = samples.iter().filter_map(|(name, sample)| Some((sample.value, requests.get(name)?)));
            let (used, asked) =
                known.fold((0, 0), |(used, asked), (value, request)| (used + value, asked + request));
            if asked == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let utilization = i32::try_from(used * 100 / asked).unwrap_or(i32::MAX);
            Ok((f64::from(utilization) / f64::from(target.max(1)), Some(utilization), used / count))
        }
    }
}

fn ceil(number: f64) -> i32 {
    // As Go converts: what is too large saturates.
    number.ceil() as i32
}

/// What each pod requests, in thousandths.
fn requests(metric: &Metric<'_>, pods: &[Arc<Pod>]) -> Result<BTreeMap<String, i64>, String> {
    let mut requests = BTreeMap::new();
    for pod in pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let mut sum = 0;
        for container in counted(pod).filter(|c| metric.container.is_none_or(|only| c.name == only)) {
            let asked = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
            let asked = asked.and_then(|asked| quantity::parse(&asked.get(metric.resource)?.0).ok());
            let missing = || {
                let (resource, container) = (metric.resource, &container.name);
                format!("missing request for {resource} in container {container} of Pod {name}")
            };
            sum += asked.ok_or_else(missing)?.milli_value();
        }
        requests.insert(name, sum);
    }
    Ok(requests)
}

/// The containers that run as long as the pod does.
fn counted(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.iter();
    let beside = spec.clone().flat_map(|spec| spec.init_containers.iter().flatten());
    let beside = beside.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.flat_map(|spec| &spec.containers).chain(beside)
}

impl Groups {
    fn new(
        metric: &Metric<'_>,
        pods: &[Arc<Pod>],
        samples: &BTreeMap<String, Sample>,
        now: Timestamp,
    ) -> Groups {
        let mut groups =
            Groups { ready: 0, unready: BTreeSet::new(), missing: BTreeSet::new(), ignored: BTreeSet::new() };
        for pod in pods {
            let name = pod.metadata.name.clone().unwrap_or_default();
            match samples.get(&name) {
                _ if pod.metadata.deletion_timestamp.is_some() || phase(pod) == "Failed" => {
                    groups.ignored.insert(name);
                }
                _ if phase(pod) == "Pending" => {
                    groups.unready.insert(name);
                }
                None => {
                    groups.missing.insert(name);
                }
                Some(sample) if metric.resource == "cpu" && !tells(pod, sample, now) => {
                    groups.unready.insert(name);
                }
                Some(_) => groups.ready += 1,
            }
        }
        groups
    }
}

/// Whether the CPU that a pod used says what it will use: it is ready, and not busy with its start.
fn tells(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let status = pod.status.as_ref();
    let conditions = status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    let started = status.and_then(|status| status.start_time.as_ref());
    let (Some(ready), Some(started)) = (ready, started) else { return false };
    let since = ready.last_transition_time.as_ref().map(|time| time.0).unwrap_or_default();
    if started.0 + CPU_INITIALIZATION > now {
        ready.status != "False" && sample.at >= since + sample.window
    } else {
        ready.status != "False" || started.0 + INITIAL_READINESS <= since
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().unwrap()
    }

    /// A pod by its name and words: `pending`, `failed`, `leaving`, `unready`, `young`, `silent` (without a sample).
    fn pod(words: &str) -> Arc<Pod> {
        let has = |word: &str| words.split(' ').any(|other| other == word);
        let phase = if has("pending") {
            "Pending"
        } else if has("failed") {
            "Failed"
        } else {
            "Running"
        };
        let started = if has("young") { "2026-01-01T00:59:00Z" } else { "2026-01-01T00:00:00Z" };
        let mut pod = json!({
            "metadata": {"name": words.split(' ').next()},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]},
            "status": {"phase": phase, "startTime": started, "conditions": [{"type": "Ready",
                "status": if has("unready") { "False" } else { "True" }, "lastTransitionTime": started}]}});
        if has("leaving") {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:59:59Z");
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn proposed(target: Target, pods: &[(&str, i64)]) -> Result<Proposal, String> {
        let all: Vec<Arc<Pod>> = pods.iter().map(|(words, _)| pod(words)).collect();
        let loud = pods.iter().filter(|(words, _)| !words.contains("silent"));
        let samples = loud.map(|(words, value)| {
            let sample = Sample { value: *value, at: now(), window: SignedDuration::from_secs(15) };
            (words.split(' ').next().unwrap().to_owned(), sample)
        });
        let metric = Metric { resource: "cpu", container: None, target, tolerance: (0.1, 0.1) };
        propose(&metric, i32::try_from(pods.len()).unwrap(), &all, samples.collect(), now())
    }

    #[test]
    fn what_metrics_propose() {
        let (half, each) = (Target::Utilization(50), Target::Average(50));
        for (target, pods, replicas) in [
            (half, &[("a", 50), ("b", 50)][..], 2),
            (half, &[("a", 54), ("b", 54)], 2),
            (half, &[("a", 100), ("b", 100)], 4),
            (half, &[("a", 10), ("b", 10)], 1),
            (each, &[("a", 100), ("b", 100)], 4),
            // Pods that are not ready, or say nothing, slow a change down and never turn it round.
            (half, &[("a", 100), ("b unready young", 900)], 2),
            (half, &[("a", 200), ("b unready young", 900)], 4),
            (half, &[("a", 200), ("b pending", 0)], 4),
            (half, &[("a", 10), ("b pending", 0)], 1),
            (half, &[("a", 10), ("b silent", 0)], 2),
            (half, &[("a", 200), ("b silent", 0)], 4),
            (half, &[("a", 100), ("b leaving", 900)], 2),
            // One that was ready once counts.
            (half, &[("a", 100), ("b unready", 100)], 2),
        ] {
            let found = proposed(target, pods).unwrap();
            assert_eq!(found.replicas, replicas, "{target:?} {pods:?}");
        }
        let found = proposed(half, &[("a", 30), ("b", 90)]).unwrap();
        assert_eq!((found.utilization, found.average), (Some(60), 60));
        let found = proposed(each, &[("a", 30), ("b", 90)]).unwrap();
        assert_eq!((found.utilization, found.average), (None, 60));
    }

    #[test]
    fn reasons_for_no_proposal() {
        let told = |pods: &[(&str, i64)]| proposed(Target::Utilization(50), pods).unwrap_err();
        let none = "unable to get metrics for resource cpu: no metrics returned from resource metrics API";
        assert_eq!(told(&[("a silent", 0)]), none);
        let unready = "did not receive metrics for targeted pods (pods might be unready)";
        assert_eq!(told(&[("a failed", 1)]), unready);
        let memory = Metric {
            resource: "memory",
            container: None,
            target: Target::Utilization(5),
            tolerance: (0.1, 0.1),
        };
        let sample = Sample { value: 1, at: now(), window: SignedDuration::ZERO };
        let told = propose(&memory, 1, &[pod("a")], [("a".to_owned(), sample)].into(), now()).unwrap_err();
        assert_eq!(told, "missing request for memory in container c of Pod a");
    }
}
