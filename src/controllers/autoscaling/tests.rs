//! What metrics say, and how it is told.

use super::replicas::Proposal;
use super::*;
use crate::api::node::{NodeUsage, PodUsage, Taken, Usage};
use k8s_openapi::api::autoscaling::v2::MetricSpec;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn pods() -> Vec<Arc<Pod>> {
    let container =
        |name: &str| json!({"name": name, "resources": {"requests": {"cpu": "100m", "memory": "1Mi"}}});
    let pod = json!({
        "metadata": {"name": "a", "namespace": "d"},
        "spec": {"containers": [container("c"), container("beside")]},
        "status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    vec![Arc::new(serde_json::from_value(pod).unwrap())]
}

/// `a` uses 150m and 50m of CPU, and one MiB each; another pod of the name is elsewhere.
fn used() -> NodeUsage {
    let taken = Taken { at: now(), window: Duration::from_secs(15) };
    let of = |millis: u64| Usage { nano_cpus: millis * 1_000_000, working_set: 1 << 20 };
    let pod = |namespace: &str, first: u64| PodUsage {
        namespace: namespace.into(),
        name: "a".into(),
        taken,
        containers: vec![("c".into(), of(first)), ("beside".into(), of(50))],
    };
    NodeUsage {
        node: "n".into(),
        taken,
        machine: Usage::default(),
        pods: vec![pod("other", 900), pod("d", 150)],
    }
}

fn looked(spec: Value) -> Result<(Proposal, String, MetricStatus), Unusable> {
    let spec: MetricSpec = serde_json::from_value(spec).unwrap();
    look(&spec, 1, &pods(), &Ok(used()), (0.1, 0.1), now())
}

#[test]
fn metrics_of_pods_and_containers() {
    let resource =
        |name: &str, target: Value| json!({"type": "Resource", "resource": {"name": name, "target": target}});
    let half = json!({"type": "Utilization", "averageUtilization": 50});
    for (spec, replicas, name, shown) in [
        (
            resource("cpu", half.clone()),
            2,
            "cpu resource utilization (percentage of request)",
            json!({"averageUtilization": 100, "averageValue": "200m"}),
        ),
        (
            resource("memory", json!({"type": "AverageValue", "averageValue": "1Mi"})),
            2,
            "memory resource",
            json!({"averageValue": "2097152"}),
        ),
        (
            json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c", "target": half}}),
            3,
            "cpu container resource utilization (percentage of request)",
            json!({"averageUtilization": 150, "averageValue": "150m"}),
        ),
    ] {
        let (proposal, metric, status) = looked(spec.clone()).map_err(|why| why.told).unwrap();
        assert_eq!((proposal.replicas, metric.as_str()), (replicas, name), "{spec}");
        let status = serde_json::to_value(status).unwrap();
        let current =
            if status["resource"].is_null() { &status["containerResource"] } else { &status["resource"] };
        assert_eq!(current["current"], shown, "{spec}");
    }
}

#[test]
fn what_cannot_be_looked_at_is_told() {
    let told = |spec: Value| looked(spec).map(drop).map_err(|why| (why.reason, why.told)).unwrap_err();
    let gpu = json!({"type": "Resource", "resource": {"name": "gpu", "target": {"type": "Utilization", "averageUtilization": 1}}});
    let why = "failed to get gpu resource metric value: failed to get gpu utilization: unable to get metrics for \
               resource gpu: no metrics returned from resource metrics API";
    assert_eq!(told(gpu), ("FailedGetResourceMetric", why.to_owned()));
    let pods = json!({"type": "Pods", "pods": {"metric": {"name": "x"}, "target": {"type": "AverageValue"}}});
    assert_eq!(told(pods).0, "FailedGetPodsMetric");
}

#[test]
fn conditions_keep_the_time_of_their_turn() {
    let mut status = HorizontalPodAutoscalerStatus::default();
    let later = now() + SignedDuration::from_secs(60);
    set(&mut status, "AbleToScale", true, "A", "a", now());
    set(&mut status, "AbleToScale", true, "B", "b", later);
    set(&mut status, "ScalingActive", true, "C", "c", later);
    let conditions = status.conditions.clone().unwrap();
    assert_eq!(conditions.len(), 2);
    assert_eq!(
        (conditions[0].reason.as_deref(), conditions[0].last_transition_time.as_ref().unwrap().0),
        (Some("B"), now())
    );
    set(&mut status, "AbleToScale", false, "D", "d", later);
    assert_eq!(status.conditions.unwrap()[0].last_transition_time.as_ref().unwrap().0, later);
}

#[test]
fn tolerances_are_the_rules_or_the_usual_one() {
    let scaler = |behavior: Value| -> HorizontalPodAutoscaler {
        serde_json::from_value(
            json!({"spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "w"},
            "behavior": behavior}}),
        )
        .unwrap()
    };
    assert_eq!(tolerance(&scaler(Value::Null)), (0.1, 0.1));
    assert_eq!(tolerance(&scaler(json!({"scaleUp": {"tolerance": "50m"}}))), (0.05, 0.1));
}

#[test]
fn pods_that_several_autoscalers_scale_are_told() {
    let pod = |app: &str| -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": app, "labels": {"app": app}}})).unwrap())
    };
    let selectors =
        [("d/a", "app=web"), ("d/b", "app in (web,other)"), ("d/c", "app=third"), ("e/a", "app=web")];
    let selectors = selectors.map(|(key, text)| (key.to_owned(), LabelSelector::parse(text).unwrap())).into();
    for (namespace, app, expected) in
        [("d", "web", Some("{a d} {b d}")), ("d", "other", None), ("d", "third", None), ("e", "web", None)]
    {
        assert_eq!(rivals(namespace, &[pod(app)], &selectors).as_deref(), expected, "{namespace} {app}");
    }
}
