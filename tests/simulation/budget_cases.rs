//! What disruption budgets make of pods of every controller, and whom they let go.

use serde_json::{Value, json};

use crate::budgets::{budget, evict, gated};
use crate::cluster::Cluster;
use crate::scenarios::scenarios;
use crate::shows::{is_ready, message, names};

/// Whether a pod may go that is ready, or one that is not, of a deployment of three.
struct Going {
    policy: Value,
    ready: usize,
    least: Value,
    goes_ready: bool,
    goes_unready: bool,
}

async fn lets_go(case: Going) {
    let Going { policy, ready, least, goes_ready, goes_unready } = case;
    for (which, allowed) in [(true, goes_ready), (false, goes_unready)] {
        if (which && ready == 0) || (!which && ready == 3) {
            continue;
        }
        let cluster = gated(3, ready).await;
        let spec = json!({"minAvailable": least, "unhealthyPodEvictionPolicy": policy});
        cluster.apply(&budget("web", spec)).await;
        let seen = json!({"status": {"expectedPods": 3, "currentHealthy": ready, "observedGeneration": 1}});
        cluster.shows("poddisruptionbudgets/web", seen).await;
        let pods = cluster.list("pods").await;
        let pod = pods.iter().find(|pod| is_ready(pod) == which).unwrap();
        let evicted = evict(&cluster, pod["metadata"]["name"].as_str().unwrap()).await;
        assert_eq!(evicted.is_ok(), allowed, "ready: {which}: {evicted:?}");
    }
}

scenarios! { lets_go;
    all_are_ready_and_one_is_spare:
        Going { policy: Value::Null, ready: 3, least: json!(2), goes_ready: true, goes_unready: false },
    all_are_ready_and_none_is_spare:
        Going { policy: Value::Null, ready: 3, least: json!(3), goes_ready: false, goes_unready: false },
    two_are_ready_and_none_is_spare:
        Going { policy: Value::Null, ready: 2, least: json!(2), goes_ready: false, goes_unready: true },
    two_are_ready_and_one_is_spare:
        Going { policy: Value::Null, ready: 2, least: json!(1), goes_ready: true, goes_unready: true },
    too_few_are_ready:
        Going { policy: Value::Null, ready: 1, least: json!(2), goes_ready: false, goes_unready: false },
    too_few_are_ready_and_the_policy_is_said:
        Going { policy: json!("IfHealthyBudget"), ready: 1, least: json!(2), goes_ready: false, goes_unready: false },
    who_is_not_ready_may_always_go:
        Going { policy: json!("AlwaysAllow"), ready: 1, least: json!(2), goes_ready: false, goes_unready: true },
    two_are_ready_and_the_policy_is_said:
        Going { policy: json!("IfHealthyBudget"), ready: 2, least: json!(2), goes_ready: false, goes_unready: true },
    who_is_not_ready_may_always_go_where_enough_are:
        Going { policy: json!("AlwaysAllow"), ready: 2, least: json!(2), goes_ready: false, goes_unready: true },
    none_is_ready_and_all_may_go:
        Going { policy: json!("AlwaysAllow"), ready: 0, least: json!("100%"), goes_ready: false, goes_unready: true },
    none_is_ready_and_none_may_go:
        Going { policy: Value::Null, ready: 0, least: json!("100%"), goes_ready: false, goes_unready: false },
}

/// Four pods of a controller of this kind, and what a budget says of them.
struct Counted {
    kind: &'static str,
    budget: Value,
    status: Value,
}

async fn counts(case: Counted) {
    let Counted { kind, budget: spec, status } = case;
    let cluster = Cluster::start().await;
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "web"}]}});
    let controller = |api: &str, mut spec: Value| {
        spec["template"] = template.clone();
        json!({"apiVersion": api, "kind": kind, "metadata": {"name": "web"}, "spec": spec})
    };
    let selector = json!({"matchLabels": {"app": "web"}});
    let mut objects = Vec::new();
    match kind {
        "Pod" => objects.extend((0..4).map(|n| {
            let mut pod = template.clone();
            pod["metadata"]["name"] = json!(format!("web-{n}"));
            with_kind(pod)
        })),
        "ReplicationController" => {
            objects.push(controller("v1", json!({"replicas": 4, "selector": {"app": "web"}})))
        }
        "Job" => {
            let mut job = controller("batch/v1", json!({"parallelism": 4, "completions": 4}));
            job["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
            objects.push(job);
        }
        "StatefulSet" => {
            let spec = json!({"replicas": 4, "selector": selector, "serviceName": "web", "podManagementPolicy": "Parallel"});
            objects.push(controller("apps/v1", spec));
        }
        _ => objects.push(controller("apps/v1", json!({"replicas": 4, "selector": selector}))),
    }
    for object in objects {
        cluster.apply(&object.to_string()).await;
    }
    cluster.until_all("pods", |pods| pods.iter().filter(|pod| is_ready(pod)).count() == 4).await;
    cluster.apply(&budget("web", spec)).await;
    cluster.shows("poddisruptionbudgets/web", json!({"status": status})).await;
}

fn with_kind(mut pod: Value) -> Value {
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod
}

fn allowed(expected: i64, desired: i64, allowed: i64) -> Value {
    json!({"expectedPods": expected, "currentHealthy": 4, "desiredHealthy": desired, "disruptionsAllowed": allowed})
}

scenarios! { counts;
    half_of_a_deployment: Counted { kind: "Deployment", budget: json!({"maxUnavailable": "50%"}), status: allowed(4, 2, 2) },
    half_of_a_replica_set: Counted { kind: "ReplicaSet", budget: json!({"maxUnavailable": "50%"}), status: allowed(4, 2, 2) },
    half_of_a_stateful_set: Counted { kind: "StatefulSet", budget: json!({"minAvailable": "50%"}), status: allowed(4, 2, 2) },
    half_of_a_replication_controller:
        Counted { kind: "ReplicationController", budget: json!({"minAvailable": "50%"}), status: allowed(4, 2, 2) },
    three_of_a_stateful_set: Counted { kind: "StatefulSet", budget: json!({"minAvailable": 3}), status: allowed(4, 3, 1) },
    three_pods_of_nobody: Counted { kind: "Pod", budget: json!({"minAvailable": 3}), status: allowed(4, 3, 1) },
    three_pods_of_a_job: Counted { kind: "Job", budget: json!({"minAvailable": 3}), status: allowed(4, 3, 1) },
    half_of_pods_of_a_job_are_not_known: Counted {
        kind: "Job",
        budget: json!({"minAvailable": "50%"}),
        status: json!({"disruptionsAllowed": 0, "conditions": {"DisruptionAllowed": "False SyncFailed"}}),
    },
    pods_of_nobody_that_may_be_missing: Counted {
        kind: "Pod",
        budget: json!({"maxUnavailable": 1}),
        status: json!({"expectedPods": 0, "currentHealthy": 4, "disruptionsAllowed": 0,
            "conditions": {"DisruptionAllowed": "False InsufficientPods"}}),
    },
    no_selector_is_no_pod: Counted {
        kind: "Deployment",
        budget: json!({"minAvailable": 1, "selector": null}),
        status: json!({"expectedPods": 0, "currentHealthy": 0, "disruptionsAllowed": 0}),
    },
    an_empty_selector_is_all_pods:
        Counted { kind: "Deployment", budget: json!({"minAvailable": 1, "selector": {}}), status: allowed(4, 1, 3) },
}

#[tokio::test]
async fn a_budget_follows_the_size_of_its_controller() {
    let cluster = gated(4, 4).await;
    cluster.apply(&budget("web", json!({"maxUnavailable": "25%"}))).await;
    cluster
        .shows("poddisruptionbudgets/web", json!({"status": {"expectedPods": 4, "disruptionsAllowed": 1}}))
        .await;
    cluster.scale("deployments/web", 8).await;
    // Four of eight are ready, of which six must be.
    let few = json!({"status": {"expectedPods": 8, "desiredHealthy": 6, "currentHealthy": 4, "disruptionsAllowed": 0}});
    cluster.shows("poddisruptionbudgets/web", few).await;
    cluster.scale("deployments/web", 2).await;
    let two = json!({"status": {"expectedPods": 2, "desiredHealthy": 1, "currentHealthy": 2, "disruptionsAllowed": 1}});
    cluster.shows("poddisruptionbudgets/web", two).await;
}

#[tokio::test]
async fn who_may_go_changes_with_the_budget() {
    let cluster = gated(3, 3).await;
    cluster.apply(&budget("web", json!({"minAvailable": 3}))).await;
    cluster
        .shows(
            "poddisruptionbudgets/web",
            json!({"status": {"disruptionsAllowed": 0, "observedGeneration": 1}}),
        )
        .await;
    let pods = cluster.list("pods").await;
    evict(&cluster, names(&pods)[0]).await.unwrap_err();
    cluster.patch("poddisruptionbudgets/web", json!({"spec": {"minAvailable": 2}})).await;
    cluster
        .shows(
            "poddisruptionbudgets/web",
            json!({"status": {"disruptionsAllowed": 1, "observedGeneration": 2}}),
        )
        .await;
    evict(&cluster, names(&pods)[0]).await.unwrap();
    cluster.delete("poddisruptionbudgets/web").await;
    for name in &names(&pods)[1..] {
        evict(&cluster, name).await.unwrap();
    }
}

#[tokio::test]
async fn who_was_to_go_and_stays_does_not_say_so_for_ever() {
    let cluster = gated(1, 1).await;
    let pods = cluster.list("pods").await;
    let path = format!("pods/{}", names(&pods)[0]);
    // As when an eviction failed after it had been announced.
    let mut conditions = pods[0]["status"]["conditions"].clone();
    let time = minik::clock::now().strftime("%FT%TZ").to_string();
    conditions.as_array_mut().unwrap().push(json!({"type": "DisruptionTarget", "status": "True",
        "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting", "lastTransitionTime": time}));
    cluster.patch_status(&path, json!({"conditions": conditions})).await;
    cluster.pass(115).await;
    let says = |what: &str| json!({"status": {"conditions": {"DisruptionTarget": what}}});
    cluster.is(&path, says("True EvictionByEvictionAPI")).await;
    cluster.pass(10).await;
    let pod = cluster.is(&path, says("False ")).await;
    assert_eq!(message(&pod, "DisruptionTarget"), "");
    assert!(is_ready(&pod), "{pod:#}");
}
