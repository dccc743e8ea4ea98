//! How fast autoscalers grow and shrink what they scale.

use std::ops::RangeInclusive;

use minik::api::meta;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::scenarios::scenarios;
use crate::shows::message;

const MEBIBYTE: u64 = 1 << 20;

/// A deployment with an autoscaler that wants each pod to use 100Mi of memory.
async fn scaled(replicas: i64, load: u64, behavior: Value) -> Cluster {
    let cluster = Cluster::start().await;
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "web", "resources": {"requests": {"memory": "10Mi"}}}]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template}});
    cluster.apply(&deployment.to_string()).await;
    cluster.shows("deployments/web", json!({"status": {"readyReplicas": replicas}})).await;
    cluster.load("web", load * MEBIBYTE);
    let metric = json!({"type": "Resource", "resource": {"name": "memory",
        "target": {"type": "AverageValue", "averageValue": "100Mi"}}});
    let scaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
        "spec": {"minReplicas": 1, "maxReplicas": 20, "metrics": [metric], "behavior": behavior,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}});
    cluster.apply(&scaler.to_string()).await;
    cluster
}

/// The sizes that the deployment takes on within so many seconds, each with the second since when it has it.
async fn sizes(cluster: &Cluster, seconds: u64) -> Vec<(u64, i64)> {
    let mut sizes: Vec<(u64, i64)> = Vec::new();
    for second in 0..=seconds {
        let replicas = cluster.get("deployments/web").await.unwrap()["spec"]["replicas"].as_i64().unwrap();
        if sizes.last().is_none_or(|(_, last)| *last != replicas) {
            sizes.push((second, replicas));
        }
        cluster.pass(1).await;
    }
    sizes
}

/// A size, and between which seconds it is to come.
type Step = (i64, RangeInclusive<u64>);

/// What becomes of the size of a deployment within five and a half minutes.
struct Pace {
    replicas: i64,
    /// What its pods use together, in MiB.
    load: u64,
    behavior: Value,
    expected: Vec<Step>,
}

async fn changes_as_fast_as_is_allowed(case: Pace) {
    let Pace { replicas, load, behavior, expected } = case;
    let cluster = scaled(replicas, load, behavior).await;
    let sizes = sizes(&cluster, 330).await;
    let as_awaited = sizes.len() >= expected.len()
        && sizes
            .iter()
            .zip(&expected)
            .all(|((at, size), (wanted, when))| size == wanted && when.contains(at));
    assert!(as_awaited, "{sizes:?}, not {expected:?}");
}

/// Rules of one direction.
fn rules(policies: Value, window: u64) -> Value {
    json!({"policies": policies, "stabilizationWindowSeconds": window})
}

/// One rule of one direction, for a minute and without a window.
fn a_minute(kind: &str, value: u32) -> Value {
    rules(json!([{"type": kind, "value": value, "periodSeconds": 60}]), 0)
}

/// Two rules of one direction, of which one is selected.
fn two_rules(select: &str, pods: u32, percent: u32) -> Value {
    json!({"selectPolicy": select, "stabilizationWindowSeconds": 0, "policies": [
        {"type": "Pods", "value": pods, "periodSeconds": 60}, {"type": "Percent", "value": percent, "periodSeconds": 60}]})
}

fn pace(replicas: i64, load: u64, behavior: Value, expected: Vec<Step>) -> Pace {
    Pace { replicas, load, behavior, expected }
}

scenarios! { changes_as_fast_as_is_allowed;
    four_more_or_twice_as_many_each_quarter_of_a_minute:
        pace(1, 2000, json!({}), vec![(1, 0..=0), (5, 0..=2), (10, 14..=20), (20, 28..=36)]),
    not_above_the_most: pace(10, 9000, json!({}), vec![(10, 0..=0), (20, 0..=2)]),
    one_more_a_minute: pace(2, 1000, json!({"scaleUp": a_minute("Pods", 1)}),
        vec![(2, 0..=0), (3, 0..=2), (4, 58..=78), (5, 118..=154)]),
    half_as_many_more: pace(4, 1000, json!({"scaleUp": a_minute("Percent", 50)}),
        vec![(4, 0..=0), (6, 0..=2), (9, 58..=78), (10, 118..=154)]),
    the_slower_of_two_rules: pace(4, 2000, json!({"scaleUp": two_rules("Min", 2, 100)}),
        vec![(4, 0..=0), (6, 0..=2), (8, 58..=78), (10, 118..=154)]),
    the_faster_of_two_rules: pace(4, 2000, json!({"scaleUp": two_rules("Max", 2, 100)}),
        vec![(4, 0..=0), (8, 0..=2), (16, 58..=78), (20, 118..=154)]),
    never_more: pace(2, 1000, json!({"scaleUp": {"selectPolicy": "Disabled"}}), vec![(2, 0..=0)]),
    fewer_only_after_five_minutes: pace(4, 100, json!({}), vec![(4, 0..=0), (1, 299..=320)]),
    fewer_after_two_minutes:
        pace(4, 100, json!({"scaleDown": {"stabilizationWindowSeconds": 120}}), vec![(4, 0..=0), (1, 119..=140)]),
    fewer_at_once:
        pace(4, 100, json!({"scaleDown": {"stabilizationWindowSeconds": 0}}), vec![(4, 0..=0), (1, 0..=2)]),
    two_fewer_a_minute: pace(8, 300, json!({"scaleDown": a_minute("Pods", 2)}),
        vec![(8, 0..=0), (6, 0..=2), (4, 58..=78), (3, 118..=154)]),
    half_as_many: pace(9, 100, json!({"scaleDown": a_minute("Percent", 50)}),
        vec![(9, 0..=0), (4, 0..=2), (2, 58..=78), (1, 118..=154)]),
    the_slower_of_two_rules_for_fewer: pace(10, 100, json!({"scaleDown": two_rules("Min", 1, 50)}),
        vec![(10, 0..=0), (9, 0..=2), (8, 58..=78), (7, 118..=154)]),
    the_faster_of_two_rules_for_fewer: pace(10, 100, json!({"scaleDown": two_rules("Max", 1, 50)}),
        vec![(10, 0..=0), (5, 0..=2), (2, 58..=78), (1, 118..=154)]),
    never_fewer: pace(4, 100, json!({"scaleDown": {"selectPolicy": "Disabled"}}), vec![(4, 0..=0)]),
    what_is_near_enough_is_left:
        pace(4, 430, json!({"scaleDown": {"stabilizationWindowSeconds": 0}}), vec![(4, 0..=0)]),
    what_is_not_near_enough_is_not_left:
        pace(4, 450, json!({"scaleDown": {"stabilizationWindowSeconds": 0}}), vec![(4, 0..=0), (5, 0..=2)]),
    what_is_near_enough_can_be_said:
        pace(4, 450, json!({"scaleUp": {"tolerance": "200m"}}), vec![(4, 0..=0)]),
    nothing_is_near_enough_where_that_is_said:
        pace(4, 404, json!({"scaleUp": {"tolerance": "0"}}), vec![(4, 0..=0), (5, 0..=2)]),
    nothing_to_do: pace(3, 300, json!({}), vec![(3, 0..=0)]),
}

#[tokio::test]
async fn a_short_peak_is_waited_out() {
    let cluster = scaled(2, 200, json!({"scaleUp": {"stabilizationWindowSeconds": 120}})).await;
    cluster.pass(130).await;
    cluster.load("web", 1000 * MEBIBYTE);
    cluster.pass(60).await;
    cluster.load("web", 200 * MEBIBYTE);
    assert_eq!(sizes(&cluster, 300).await, [(0, 2)]);
    cluster.load("web", 400 * MEBIBYTE);
    let sizes = sizes(&cluster, 300).await;
    let [(0, 2), (at, 4)] = sizes[..] else { panic!("{sizes:?}") };
    assert!((105..=140).contains(&at), "{at}");
}

#[tokio::test]
async fn a_short_lull_changes_nothing() {
    let cluster = scaled(4, 400, json!({})).await;
    cluster.pass(60).await;
    cluster.load("web", 100 * MEBIBYTE);
    cluster.pass(200).await;
    cluster.load("web", 400 * MEBIBYTE);
    assert_eq!(sizes(&cluster, 400).await, [(0, 4)]);
}

#[tokio::test]
async fn an_autoscaler_says_what_limits_it() {
    for (replicas, load, condition, told) in [
        (4, 400, "False DesiredWithinRange", "the desired count is within the acceptable range"),
        (
            20,
            5000,
            "True TooManyReplicas",
            "the desired replica count is more than the maximum replica count",
        ),
        (
            1,
            2000,
            "True ScaleUpLimit",
            "the desired replica count is increasing faster than the maximum scale rate",
        ),
    ] {
        let cluster = scaled(replicas, load, json!({})).await;
        cluster.pass(20).await;
        let scaler = cluster.get("horizontalpodautoscalers/web").await.unwrap();
        let expected =
            json!({"status": {"conditions": {"ScalingLimited": condition, "AbleToScale": "True"}}});
        assert!(crate::shows::shows(&scaler, &expected), "{condition}: {scaler:#}");
        assert_eq!(message(&scaler, "ScalingLimited"), told);
    }
}

#[tokio::test]
async fn what_is_scaled_to_nothing_by_hand_stays_so() {
    let cluster = scaled(2, 1000, json!({})).await;
    cluster.scale("deployments/web", 0).await;
    cluster
        .shows(
            "horizontalpodautoscalers/web",
            json!({"status": {"conditions": {"ScalingActive": "False ScalingDisabled"}}}),
        )
        .await;
    assert_eq!(sizes(&cluster, 120).await, [(0, 0)]);
}

#[tokio::test]
async fn an_autoscaler_without_a_target_says_so() {
    let cluster = scaled(1, 100, json!({})).await;
    cluster.delete("deployments/web").await;
    let expected = json!({"status": {"conditions": {"AbleToScale": "False FailedGetScale"}}});
    let scaler = cluster.shows("horizontalpodautoscalers/web", expected).await;
    assert!(message(&scaler, "AbleToScale").contains("deployments.apps \"web\" not found"), "{scaler:#}");
    assert_eq!(meta::name(&scaler), "web");
}
