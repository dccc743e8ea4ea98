//! Which pods get a place, where, and who has to go for them.

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::shows::{message, names};

/// A pod that asks for so many of its node's eight CPUs; its spec may say more.
fn pod(name: &str, cpu: &str, more: Value) -> String {
    let mut spec = json!({"terminationGracePeriodSeconds": 5, "containers": [{"name": "c", "image": name,
        "resources": {"requests": {"cpu": cpu}}}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}).to_string()
}

fn class(name: &str, value: i64, policy: &str) -> String {
    json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value,
        "preemptionPolicy": policy}).to_string()
}

async fn classes() -> Cluster {
    let cluster = Cluster::start().await;
    for (name, value, policy) in [
        ("low", 10, "PreemptLowerPriority"),
        ("middle", 100, "PreemptLowerPriority"),
        ("high", 1000, "PreemptLowerPriority"),
        ("polite", 1000, "Never"),
    ] {
        cluster.apply(&class(name, value, policy)).await;
    }
    cluster
}

async fn run(cluster: &Cluster, name: &str, cpu: &str, more: Value) {
    cluster.apply(&pod(name, cpu, more)).await;
    cluster.shows(&format!("pods/{name}"), json!({"status": {"phase": "Running"}})).await;
}

fn of(class: &str) -> Value {
    json!({"priorityClassName": class})
}

fn unschedulable() -> Value {
    json!({"status": {"phase": "Pending", "conditions": {"PodScheduled": "False Unschedulable"}}})
}

/// What is shown; who is there (name, class, CPUs); who comes (class, CPUs); who goes for it.
type Preemption<'a> = (&'a str, Vec<(&'a str, &'a str, &'a str)>, (&'a str, &'a str), Vec<&'a str>);

#[tokio::test]
async fn the_least_important_go_and_no_more_than_must() {
    let cases: [Preemption; 8] = [
        ("the only one that is less important", vec![("a", "low", "6")], ("high", "4"), vec!["a"]),
        (
            "the least important is enough",
            vec![("a", "low", "4"), ("b", "middle", "4")],
            ("high", "4"),
            vec!["a"],
        ),
        ("both must", vec![("a", "low", "4"), ("b", "middle", "4")], ("high", "8"), vec!["a", "b"]),
        ("the small one stays", vec![("a", "low", "1"), ("b", "low", "6")], ("high", "7"), vec!["b"]),
        ("equals stay", vec![("a", "high", "6")], ("high", "4"), vec![]),
        ("who is not to preempt waits", vec![("a", "low", "6")], ("polite", "4"), vec![]),
        ("what would not help is not done", vec![("a", "low", "6")], ("high", "9"), vec![]),
        ("nobody need go", vec![("a", "low", "2")], ("high", "4"), vec![]),
    ];
    for (what, there, (class, cpu), gone) in cases {
        let cluster = classes().await;
        for (name, class, cpu) in &there {
            run(&cluster, name, cpu, of(class)).await;
        }
        cluster.apply(&pod("new", cpu, of(class))).await;
        cluster.pass(30).await;
        let pods = cluster.list("pods").await;
        let expected: Vec<&str> =
            there.iter().map(|(name, ..)| *name).filter(|name| !gone.contains(name)).chain(["new"]).collect();
        assert_eq!(names(&pods), expected, "{what}");
        let fits = !gone.is_empty() || what == "nobody need go";
        let phase = if fits { "Running" } else { "Pending" };
        cluster.is("pods/new", json!({"status": {"phase": phase}})).await;
        for name in gone {
            let uid = cluster.get("pods/new").await.unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
            let told = format!("Preempted: Preempted by pod {uid} on node minik");
            cluster.until_event(&format!("Pod/{name}"), &told).await;
        }
    }
}

#[tokio::test]
async fn who_waits_for_the_end_of_others_names_its_node() {
    let cluster = classes().await;
    cluster.program("slow", minik::runtime::sim::SimProgram::IgnoreTerm);
    run(&cluster, "slow", "6", json!({"priorityClassName": "low", "terminationGracePeriodSeconds": 60}))
        .await;
    cluster.apply(&pod("new", "4", of("high"))).await;
    cluster.shows("pods/new", json!({"status": {"nominatedNodeName": "minik"}})).await;
    cluster
        .is(
            "pods/slow",
            json!({"status": {"conditions": {"DisruptionTarget": "True PreemptionByScheduler"}}}),
        )
        .await;
    // What is less important does not take the place meanwhile.
    cluster.apply(&pod("sly", "3", of("low"))).await;
    cluster.pass(30).await;
    cluster.is("pods/sly", unschedulable()).await;
    cluster.shows("pods/new", json!({"status": {"phase": "Running"}})).await;
    cluster.shows("pods/sly", json!({"status": {"phase": "Running"}})).await;
}

#[tokio::test]
async fn budgets_say_who_goes_where_there_is_a_choice() {
    let mut cluster = classes().await;
    cluster.add_node("second").await;
    for (name, node) in [("guarded", "minik"), ("free", "second")] {
        let mut more = of("low");
        more["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        run(&cluster, name, "6", more).await;
    }
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "guarded"}}}});
    cluster.apply(&budget.to_string()).await;
    cluster
        .shows("poddisruptionbudgets/b", json!({"status": {"currentHealthy": 1, "disruptionsAllowed": 0}}))
        .await;
    cluster.apply(&pod("new", "4", of("high"))).await;
    cluster.shows("pods/new", json!({"status": {"phase": "Running"}, "spec": {"nodeName": "second"}})).await;
    cluster.until_gone("pods/free").await;
    // Where there is none, they do not help.
    cluster
        .apply(&pod(
            "next",
            "4",
            json!({"priorityClassName": "high", "nodeSelector": {"kubernetes.io/hostname": "minik"}}),
        ))
        .await;
    cluster.shows("pods/next", json!({"status": {"phase": "Running"}})).await;
    cluster.until_gone("pods/guarded").await;
}

#[tokio::test]
async fn why_a_pod_gets_no_place() {
    let cluster = Cluster::start().await;
    run(&cluster, "there", "5", json!({"containers": [{"name": "c", "image": "there", "ports": [{"containerPort": 80, "hostPort": 80}],
        "resources": {"requests": {"cpu": "5"}}}]})).await;
    let taint = json!([{"key": "dedicated", "value": "db", "effect": "NoSchedule"}]);
    let port = json!([{"name": "c", "image": "x", "ports": [{"containerPort": 81, "hostPort": 80}]}]);
    let apart = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "there"}}}]}});
    let together = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "nobody"}}}]}});
    let zone = json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "spread"}}}]);
    let needs = "no new claims to deallocate";
    for (name, cpu, more, told) in [
        ("big", "4", json!({}), "0/1 nodes are available: 1 Insufficient cpu."),
        (
            "choosy",
            "1",
            json!({"nodeSelector": {"disk": "ssd"}}),
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
        ),
        (
            "port",
            "0",
            json!({"containers": port}),
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.",
        ),
        (
            "apart",
            "1",
            json!({"affinity": apart}),
            "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.",
        ),
        (
            "together",
            "1",
            json!({"affinity": together}),
            "0/1 nodes are available: 1 node(s) didn't match pod affinity rules.",
        ),
        (
            "spread",
            "1",
            json!({"topologySpreadConstraints": zone}),
            "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label).",
        ),
    ] {
        cluster.apply(&pod(name, cpu, more)).await;
        let pod = cluster.shows(&format!("pods/{name}"), unschedulable()).await;
        let message = message(&pod, "PodScheduled");
        assert!(message.starts_with(told) && message.len() < told.len() + 200, "{name}: {message} {needs}");
        cluster.until_event(&format!("Pod/{name}"), &format!("FailedScheduling: {told}")).await;
    }
    cluster.patch(":nodes/minik", json!({"spec": {"taints": taint}})).await;
    cluster.pass(1).await;
    cluster.apply(&pod("tainted", "1", json!({}))).await;
    let pod = cluster.shows("pods/tainted", unschedulable()).await;
    assert!(
        message(&pod, "PodScheduled")
            .starts_with("0/1 nodes are available: 1 node(s) had untolerated taint(s)"),
        "{pod:#}"
    );
    // Each comes when its reason has gone.
    cluster
        .patch(
            ":nodes/minik",
            json!({"metadata": {"labels": {"disk": "ssd", "zone": "a"}}, "spec": {"taints": null}}),
        )
        .await;
    cluster.delete("pods/there").await;
    for name in ["big", "choosy", "port", "apart", "spread"] {
        cluster.shows(&format!("pods/{name}"), json!({"status": {"phase": "Running"}})).await;
    }
    cluster.is("pods/together", unschedulable()).await;
}

#[tokio::test]
async fn pods_wait_at_their_gates() {
    let cluster = Cluster::start().await;
    cluster
        .apply(&pod("gated", "1", json!({"schedulingGates": [{"name": "a.io/x"}, {"name": "b.io/y"}]})))
        .await;
    cluster
        .shows(
            "pods/gated",
            json!({"status": {"phase": "Pending", "conditions": {"PodScheduled": "False SchedulingGated"}}}),
        )
        .await;
    cluster.pass(600).await;
    cluster.patch("pods/gated", json!({"spec": {"schedulingGates": [{"name": "b.io/y"}]}})).await;
    cluster.pass(60).await;
    cluster.is("pods/gated", json!({"status": {"phase": "Pending"}, "spec": {"nodeName": null}})).await;
    cluster.patch("pods/gated", json!({"spec": {"schedulingGates": []}})).await;
    cluster.shows("pods/gated", json!({"status": {"phase": "Running"}})).await;
}

/// Nodes `minik`, `n2`, `n3` and `n4`, in zones a, a, b and b.
async fn zones() -> Cluster {
    let mut cluster = Cluster::start().await;
    for name in ["n2", "n3", "n4"] {
        cluster.add_node(name).await;
    }
    for (name, zone) in [("minik", "a"), ("n2", "a"), ("n3", "b"), ("n4", "b")] {
        cluster.patch(&format!(":nodes/{name}"), json!({"metadata": {"labels": {"zone": zone}}})).await;
    }
    cluster.pass(1).await;
    cluster
}

async fn spread(cluster: &Cluster, constraint: Value, replicas: i32) -> Vec<String> {
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"topologySpreadConstraints": [constraint],
        "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "web"}]}});
    let web = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template}});
    cluster.apply(&web.to_string()).await;
    cluster.pass(10).await;
    let pods = cluster.list("pods").await;
    let mut nodes: Vec<String> =
        pods.iter().map(|pod| pod["spec"]["nodeName"].as_str().unwrap_or("none").to_owned()).collect();
    nodes.sort();
    nodes
}

fn constraint(key: &str, more: Value) -> Value {
    let mut constraint = json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}});
    constraint.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    constraint
}

#[tokio::test]
async fn pods_are_spread_over_nodes_and_zones() {
    let cluster = zones().await;
    let nodes = spread(&cluster, constraint("kubernetes.io/hostname", json!({})), 8).await;
    assert_eq!(nodes, ["minik", "minik", "n2", "n2", "n3", "n3", "n4", "n4"]);
    cluster.delete("deployments/web").await;
    cluster.until_all("pods", |pods| pods.is_empty()).await;
    let nodes = spread(&cluster, constraint("zone", json!({})), 6).await;
    assert_eq!(nodes.iter().filter(|node| ["minik", "n2"].contains(&node.as_str())).count(), 3, "{nodes:?}");
    cluster.delete("deployments/web").await;
    cluster.until_all("pods", |pods| pods.is_empty()).await;
    // A zone that takes no pods lets the other have only so many more.
    for node in ["n3", "n4"] {
        cluster.patch(&format!(":nodes/{node}"), json!({"spec": {"unschedulable": true}})).await;
    }
    cluster.pass(1).await;
    let nodes = spread(&cluster, constraint("zone", json!({})), 4).await;
    assert_eq!(nodes.iter().filter(|node| *node == "none").count(), 3, "{nodes:?}");
    cluster.delete("deployments/web").await;
    cluster.until_all("pods", |pods| pods.is_empty()).await;
    // Unless nodes that take none do not count.
    let nodes = spread(&cluster, constraint("zone", json!({"nodeTaintsPolicy": "Honor"})), 4).await;
    assert!(!nodes.contains(&"none".to_owned()), "{nodes:?}");
    cluster.delete("deployments/web").await;
    cluster.until_all("pods", |pods| pods.is_empty()).await;
    // Or it is only wished for.
    let nodes = spread(&cluster, constraint("zone", json!({"whenUnsatisfiable": "ScheduleAnyway"})), 4).await;
    assert!(!nodes.contains(&"none".to_owned()), "{nodes:?}");
}

#[tokio::test]
async fn more_domains_can_be_asked_for_than_there_are() {
    let cluster = zones().await;
    let nodes = spread(&cluster, constraint("zone", json!({"minDomains": 3})), 4).await;
    // As if the third had none: no zone may have more than one.
    assert_eq!(nodes.iter().filter(|node| *node == "none").count(), 2, "{nodes:?}");
}

#[tokio::test]
async fn who_may_stay_for_a_while_goes_then() {
    let cluster = Cluster::start().await;
    let bears = |seconds: Value| json!({"tolerations": [{"key": "gone", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]});
    for (name, seconds) in [("never", Value::Null), ("short", json!(60)), ("long", json!(600))] {
        run(&cluster, name, "1", bears(seconds)).await;
    }
    run(&cluster, "not", "1", json!({})).await;
    cluster
        .patch(":nodes/minik", json!({"spec": {"taints": [{"key": "gone", "effect": "NoExecute"}]}}))
        .await;
    cluster.pass(30).await;
    let pods = cluster.list("pods").await;
    assert_eq!(names(&pods), ["long", "never", "short"]);
    cluster.pass(60).await;
    let pods = cluster.list("pods").await;
    assert_eq!(names(&pods), ["long", "never"]);
    // The taint goes in time for the other.
    cluster.patch(":nodes/minik", json!({"spec": {"taints": null}})).await;
    cluster.until_event("Pod/long", "TaintManagerEviction: Cancelling deletion of Pod default/long").await;
    cluster.pass(900).await;
    let pods = cluster.list("pods").await;
    assert_eq!(names(&pods), ["long", "never"]);
}
