//! What the metrics of an autoscaler say, and how that is told. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, HorizontalPodAutoscaler, MetricSpec, MetricStatus, MetricTarget,
    MetricValueStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::replicas::{Metric, Proposal, Sample, Target, propose};
use crate::api::node::NodeUsage;
use crate::api::quantity;

/// By how much the use may differ from the target without a change (`--horizontal-pod-autoscaler-tolerance`).
const TOLERANCE: f64 = 0.1;

/// Why a metric gives no number: the reason of its condition, what happened, and how the whole is told.
pub(super) struct Unusable {
    pub(super) reason: &'static str,
    pub(super) what: String,
    pub(super) told: String,
}

/// By how much more, and less, than the target the use may be.
pub(super) fn tolerance(scaler: &HorizontalPodAutoscaler) -> (f64, f64) {
    let behavior = scaler.spec.behavior.as_ref();
    let of = |given: Option<&Quantity>| {
        given.and_then(|given| quantity::parse(&given.0).ok()).map_or(TOLERANCE, |given| given.approximate())
    };
    (
        of(behavior.and_then(|b| b.scale_up.as_ref()?.tolerance.as_ref())),
        of(behavior.and_then(|b| b.scale_down.as_ref()?.tolerance.as_ref())),
    )
}

/// What one metric asks for, its name in a sentence, and how it is shown.
pub(super) fn look(
    spec: &MetricSpec,
    current: i32,
    pods: &[Arc<Pod>],
    usage: &Result<NodeUsage, String>,
    tolerance: (f64, f64),
    now: Timestamp,
) -> Result<(Proposal, String, MetricStatus), Unusable> {
    let (resource, container, target, reason) = match (&spec.resource, &spec.container_resource) {
        (Some(source), _) => (source.name.as_str(), None, &source.target, "FailedGetResourceMetric"),
        (None, Some(source)) => {
            let container = Some(source.container.as_str());
            (source.name.as_str(), container, &source.target, "FailedGetContainerResourceMetric")
        }
        (None, None) => return Err(elsewhere(spec)),
    };
    let what = if container.is_some() { "container " } else { "" };
    let failed = |why: String| {
        let why = format!("failed to get {resource} utilization: {why}");
        Unusable {
            reason,
            told: format!("failed to get {resource} {what}resource metric value: {why}"),
            what: why,
        }
    };
    let Some(wanted) = wanted(target) else {
        let why = "invalid resource metric source: neither a utilization target nor a value target was set";
        return Err(failed(why.to_owned()));
    };
    let usage = usage
        .as_ref()
        .map_err(|why| failed(format!("unable to get metrics for resource {resource}: {why}")))?;
    let samples = samples(usage, resource, container, pods);
    let metric = Metric { resource, container, target: wanted, tolerance };
    let proposal = propose(&metric, current, pods, samples, now).map_err(failed)?;
    let name = match (wanted, container) {
        (Target::Average(_), None) => format!("{resource} resource"),
        (Target::Average(_), Some(_)) => format!("{resource} container resource"),
        (Target::Utilization(_), None) => format!("{resource} resource utilization (percentage of request)"),
        (Target::Utilization(_), Some(_)) => {
            format!("{resource} container resource utilization (percentage of request)")
        }
    };
    let value = MetricValueStatus {
        average_utilization: proposal.utilization,
        average_value: Some(Quantity(quantity::Quantity::millis(proposal.average).to_string())),
        value: None,
    };
    let mut shown = MetricStatus { type_: spec.type_.clone(), ..MetricStatus::default() };
    match container {
        None => shown.resource = Some(ResourceMetricStatus { current: value, name: resource.to_owned() }),
        Some(container) => {
            shown.container_resource = Some(ContainerResourceMetricStatus {
                container: container.to_owned(),
                current: value,
                name: resource.to_owned(),
            });
        }
    }
    Ok((proposal, name, shown))
}

fn wanted(target: &MetricTarget) -> Option<Target> {
    let average = target.average_value.as_ref().and_then(|value| quantity::parse(&value.0).ok());
    let average = average.map(|value| Target::Average(value.milli_value()));
    average.or(target.average_utilization.map(Target::Utilization))
}

/// A metric that other servers serve, none of which is asked.
fn elsewhere(spec: &MetricSpec) -> Unusable {
    let (reason, what, api) = match spec.type_.as_str() {
        "Object" => ("FailedGetObjectMetric", "object metric value", "custom metrics API"),
        "Pods" => ("FailedGetPodsMetric", "pods metric value", "custom metrics API"),
        _ => ("FailedGetExternalMetric", "external metric", "external metrics API"),
    };
    let why = format!("unable to fetch metrics from {api}: the server could not find the requested resource");
    Unusable { reason, told: format!("failed to get {what}: {why}"), what: why }
}

/// What the pods use of a resource, by their names.
fn samples(
    usage: &NodeUsage,
    resource: &str,
    container: Option<&str>,
    pods: &[Arc<Pod>],
) -> BTreeMap<String, Sample> {
    let of = |pod: &Arc<Pod>| {
        let (namespace, name) = (pod.metadata.namespace.as_deref()?, pod.metadata.name.as_deref()?);
        let used = usage.pods.iter().find(|used| used.namespace == namespace && used.name == name)?;
        let containers = used.containers.iter().filter(|(name, _)| container.is_none_or(|only| name == only));
        let mut amounts = containers.map(|(_, usage)| match resource {
            "cpu" => usage.nano_cpus.div_ceil(1_000_000),
            _ => usage.working_set.saturating_mul(1000),
        });
        let first = amounts.next()?;
        let value = i64::try_from(amounts.fold(first, u64::saturating_add)).unwrap_or(i64::MAX);
        let window = SignedDuration::try_from(used.taken.window).unwrap_or_default();
        Some((name.to_owned(), Sample { value, at: used.taken.at, window }))
    };
    let known = matches!(resource, "cpu" | "memory");
    pods.iter().filter(|_| known).filter_map(of).collect()
}
