//! How fast autoscalers grow and shrink what they scale.

use std::ops::RangeInclusive;

use minik::api::meta;
use serde_json::{Value, json};

use crate::cluster::Cluster;
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

#[tokio::test]
async fn sizes_change_as_fast_as_is_allowed() {
    let rules =
        |policies: Value, window: u64| json!({"policies": policies, "stabilizationWindowSeconds": window});
    let cases: Vec<(&str, i64, u64, Value, Vec<Step>)> = vec![
        (
            "four more or twice as many, each quarter of a minute",
            1,
            2000,
            json!({}),
            vec![(1, 0..=0), (5, 0..=2), (10, 14..=20), (20, 28..=36)],
        ),
        ("not above the most", 10, 9000, json!({}), vec![(10, 0..=0), (20, 0..=2)]),
        (
            "one more a minute",
            2,
            1000,
            json!({"scaleUp": rules(json!([{"type": "Pods", "value": 1, "periodSeconds": 60}]), 0)}),
            vec![(2, 0..=0), (3, 0..=2), (4, 58..=78), (5, 118..=154)],
        ),
        (
            "half as many more",
            4,
            1000,
            json!({"scaleUp": rules(json!([{"type": "Percent", "value": 50, "periodSeconds": 60}]), 0)}),
            vec![(4, 0..=0), (6, 0..=2), (9, 58..=78), (10, 118..=154)],
        ),
        (
            "the slower of two rules",
            4,
            2000,
            json!({"scaleUp": {"selectPolicy": "Min", "policies": [{"type": "Pods", "value": 2, "periodSeconds": 60},
                {"type": "Percent", "value": 100, "periodSeconds": 60}]}}),
            vec![(4, 0..=0), (6, 0..=2), (8, 58..=78), (10, 118..=154)],
        ),
        ("never more", 2, 1000, json!({"scaleUp": {"selectPolicy": "Disabled"}}), vec![(2, 0..=0)]),
        ("fewer only after five minutes", 4, 100, json!({}), vec![(4, 0..=0), (1, 299..=320)]),
        (
            "fewer at once",
            4,
            100,
            json!({"scaleDown": {"stabilizationWindowSeconds": 0}}),
            vec![(4, 0..=0), (1, 0..=2)],
        ),
        (
            "two fewer a minute",
            8,
            300,
            json!({"scaleDown": rules(json!([{"type": "Pods", "value": 2, "periodSeconds": 60}]), 0)}),
            vec![(8, 0..=0), (6, 0..=2), (4, 58..=78), (3, 118..=154)],
        ),
        (
            "half as many",
            9,
            100,
            json!({"scaleDown": rules(json!([{"type": "Percent", "value": 50, "periodSeconds": 60}]), 0)}),
            vec![(9, 0..=0), (4, 0..=2), (2, 58..=78), (1, 118..=154)],
        ),
        ("never fewer", 4, 100, json!({"scaleDown": {"selectPolicy": "Disabled"}}), vec![(4, 0..=0)]),
        (
            "what is near enough is left",
            4,
            430,
            json!({"scaleDown": {"stabilizationWindowSeconds": 0}}),
            vec![(4, 0..=0)],
        ),
        ("nothing to do", 3, 300, json!({}), vec![(3, 0..=0)]),
    ];
    for (what, replicas, load, behavior, expected) in cases {
        let cluster = scaled(replicas, load, behavior).await;
        let sizes = sizes(&cluster, 330).await;
        let as_awaited = sizes.len() >= expected.len()
            && sizes
                .iter()
                .zip(&expected)
                .all(|((at, size), (wanted, when))| size == wanted && when.contains(at));
        assert!(as_awaited, "{what}: {sizes:?}, not {expected:?}");
    }
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
