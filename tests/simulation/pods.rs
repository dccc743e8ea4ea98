//! Pods by themselves, by the clock: probes, back-off, hooks, and the order of their containers.

use minik::runtime::sim::{SimExec, SimProgram};
use minik::stdio::Exit;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cluster::Cluster;

/// A pod of these containers; its spec may say more.
fn pod(name: &str, containers: Value, more: Value) -> String {
    let mut spec = json!({"terminationGracePeriodSeconds": 30, "containers": containers});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string()
}

/// A container with this probe, which runs the command `check-NAME`.
fn probed(name: &str, kind: &str, more: Value) -> Value {
    let mut probe = json!({"exec": {"command": [format!("check-{name}")]}});
    probe.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut container = json!({"name": "c", "image": name});
    container[kind] = probe;
    json!([container])
}

/// What a probe of a container answers from now on.
fn answers(cluster: &Cluster, name: &str, well: bool) {
    let exit = Exit::Code(if well { 0 } else { 1 });
    cluster.runtime.answer_exec(&[&format!("check-{name}")], SimExec { exit, ..SimExec::default() });
}

fn restarts(count: i64) -> Value {
    json!({"status": {"containerStatuses": [{"restartCount": count}]}})
}

fn phase(phase: &str) -> Value {
    json!({"status": {"phase": phase}})
}

fn ends(cluster: &Cluster, image: &str, code: i32) {
    cluster.program(image, SimProgram::EndAtOnce(Exit::Code(code)));
}

#[tokio::test]
async fn a_container_that_does_not_live_is_started_again() {
    let cluster = Cluster::start().await;
    let cases = [
        ("usual", json!({}), 20..=32),
        ("late", json!({"initialDelaySeconds": 60}), 78..=92),
        ("patient", json!({"periodSeconds": 30, "failureThreshold": 5}), 118..=152),
        ("hasty", json!({"periodSeconds": 1, "failureThreshold": 1}), 0..=3),
    ];
    let mut begun = Vec::new();
    for (name, probe, when) in cases {
        answers(&cluster, name, false);
        cluster.apply(&pod(name, probed(name, "livenessProbe", probe), json!({}))).await;
        begun.push((name, Instant::now(), when));
    }
    begun.sort_by_key(|(.., when)| *when.start());
    for (name, begun, when) in begun {
        cluster
            .until(&format!("pods/{name}"), |pod| {
                pod["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(1)
            })
            .await;
        let took = begun.elapsed().as_secs();
        assert!(when.contains(&took), "{name} after {took}");
    }
    cluster.until_event("Pod/usual", "Unhealthy: Liveness probe failed: ").await;
    cluster.until_event("Pod/usual", "Killing: Container c failed liveness probe, will be restarted").await;
}

#[tokio::test]
async fn a_pod_is_ready_while_its_probe_says_so() {
    let cluster = Cluster::start().await;
    answers(&cluster, "web", false);
    let probe = json!({"periodSeconds": 5, "successThreshold": 3, "failureThreshold": 2});
    cluster.apply(&pod("web", probed("web", "readinessProbe", probe), json!({}))).await;
    let ready = |ready: &str| json!({"status": {"phase": "Running", "conditions": {"Ready": ready}}});
    cluster.shows("pods/web", ready("False ContainersNotReady")).await;
    cluster.pass(600).await;
    cluster.is("pods/web", ready("False ContainersNotReady")).await;
    for (well, expected, seconds) in
        [(true, "True", 10..=16), (false, "False", 5..=11), (true, "True", 10..=16)]
    {
        answers(&cluster, "web", well);
        let begun = Instant::now();
        cluster.shows("pods/web", ready(expected)).await;
        let took = begun.elapsed().as_secs();
        assert!(seconds.contains(&took), "{expected} after {took}");
    }
    cluster.is("pods/web", restarts(0)).await;
    cluster.until_event("Pod/web", "Unhealthy: Readiness probe failed: ").await;
}

#[tokio::test]
async fn other_probes_wait_for_the_start() {
    let cluster = Cluster::start().await;
    for (name, comes) in [("comes", true), ("never", false)] {
        let mut containers =
            probed(name, "startupProbe", json!({"periodSeconds": 10, "failureThreshold": 12}));
        containers[0]["livenessProbe"] =
            json!({"exec": {"command": ["alive"]}, "periodSeconds": 1, "failureThreshold": 1});
        cluster.runtime.answer_exec(&["alive"], SimExec::default());
        answers(&cluster, name, false);
        cluster.apply(&pod(name, containers, json!({}))).await;
        cluster.shows(&format!("pods/{name}"), phase("Running")).await;
        let path = format!("pods/{name}");
        cluster.pass(100).await;
        cluster
            .is(&path, json!({"status": {"containerStatuses": [{"started": false, "restartCount": 0}]}}))
            .await;
        answers(&cluster, name, comes);
        cluster.pass(40).await;
        let expected =
            if comes { json!([{"started": true, "restartCount": 0}]) } else { json!([{"restartCount": 1}]) };
        cluster.is(&path, json!({"status": {"containerStatuses": expected}})).await;
    }
    cluster.until_event("Pod/never", "Killing: Container c failed startup probe, will be restarted").await;
}

#[tokio::test]
async fn an_image_is_fetched_later_and_later() {
    let cluster = Cluster::start().await;
    cluster.break_image("lost", Some("no such image"));
    cluster.apply(&pod("lost", json!([{"name": "c", "image": "lost"}]), json!({}))).await;
    let waits = |reason: &str| json!({"status": {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": reason}}}]}});
    cluster.shows("pods/lost", waits("ImagePullBackOff")).await;
    cluster.pass(1500).await;
    let pulls = cluster.pulls("lost");
    let waited: Vec<u64> = pulls.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (wait, expected) in waited.iter().zip([10, 20, 40, 80, 160, 300, 300, 300]) {
        assert!((expected..expected + 20).contains(wait), "{waited:?}");
    }
    assert!(waited.len() >= 7, "{waited:?}");
    for told in [
        "Failed: Failed to pull image \"lost\": no such image",
        "Failed: Error: ErrImagePull",
        "BackOff: Back-off pulling image \"lost\"",
    ] {
        cluster.until_event("Pod/lost", told).await;
    }
    cluster.break_image("lost", None);
    let begun = Instant::now();
    cluster.shows("pods/lost", phase("Running")).await;
    assert!(begun.elapsed().as_secs() <= 310);
}

#[tokio::test]
async fn containers_that_come_first_end_first() {
    let cluster = Cluster::start().await;
    ends(&cluster, "done", 0);
    ends(&cluster, "bad", 1);
    for code in [1, 1, 0] {
        ends(&cluster, "flaky", code);
    }
    let init = |images: &[&str]| {
        let all: Vec<Value> = images
            .iter()
            .enumerate()
            .map(|(n, image)| json!({"name": format!("i{n}"), "image": image}))
            .collect();
        json!({ "initContainers": all })
    };
    let with = |mut spec: Value, policy: &str| {
        spec["restartPolicy"] = json!(policy);
        spec
    };
    let main = || json!([{"name": "c", "image": "main"}]);
    for (name, more, expected) in [
        (
            "ordered",
            init(&["done", "done"]),
            json!({"phase": "Running", "conditions": {"Initialized": "True"}}),
        ),
        (
            "retried",
            init(&["flaky"]),
            json!({"phase": "Running", "initContainerStatuses": [{"restartCount": 2}]}),
        ),
        (
            "waits",
            init(&["done", "runs", "done"]),
            json!({"phase": "Pending", "conditions": {"Initialized": "False ContainersNotInitialized"}}),
        ),
        ("stuck", init(&["bad"]), json!({"phase": "Pending", "conditions": {"Initialized": "False"}})),
        ("failed", with(init(&["bad"]), "Never"), json!({"phase": "Failed"})),
    ] {
        cluster.apply(&pod(name, main(), more)).await;
        cluster.shows(&format!("pods/{name}"), json!({ "status": expected })).await;
        cluster.pass(30).await;
        cluster.is(&format!("pods/{name}"), json!({ "status": expected })).await;
    }
}

#[tokio::test]
async fn how_a_pod_ends() {
    let cluster = Cluster::start().await;
    ends(&cluster, "done", 0);
    ends(&cluster, "bad", 3);
    let sidecar = json!([{"name": "side", "image": "side", "restartPolicy": "Always"}]);
    let cases = [
        ("always", json!(["done"]), json!({}), "Running", true),
        ("once", json!(["done"]), json!({"restartPolicy": "Never"}), "Succeeded", false),
        ("failed", json!(["bad"]), json!({"restartPolicy": "Never"}), "Failed", false),
        ("one", json!(["done", "bad"]), json!({"restartPolicy": "Never"}), "Failed", false),
        ("half", json!(["done", "runs"]), json!({"restartPolicy": "Never"}), "Running", false),
        ("well", json!(["done"]), json!({"restartPolicy": "OnFailure"}), "Succeeded", false),
        ("again", json!(["bad"]), json!({"restartPolicy": "OnFailure"}), "Running", true),
        (
            "sides",
            json!(["done"]),
            json!({"restartPolicy": "Never", "initContainers": sidecar}),
            "Succeeded",
            false,
        ),
        ("late", json!(["runs"]), json!({"activeDeadlineSeconds": 90}), "Failed", false),
    ];
    for (name, images, more, ..) in &cases {
        let containers = images.as_array().unwrap().iter().enumerate();
        let containers: Vec<Value> =
            containers.map(|(n, image)| json!({"name": format!("c{n}"), "image": image})).collect();
        cluster.apply(&pod(name, json!(containers), more.clone())).await;
    }
    cluster.pass(200).await;
    for (name, _, _, expected, restarted) in &cases {
        let pod = cluster.is(&format!("pods/{name}"), phase(expected)).await;
        let count = pod["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap();
        assert_eq!(count > 0, *restarted, "{name}: {count}");
    }
}

#[tokio::test]
async fn a_hook_before_the_end_takes_of_its_time() {
    let cluster = Cluster::start().await;
    for (name, sleep, grace, ignores, took) in [
        ("short", 10, 30, false, 10..=13),
        ("nearly", 29, 30, false, 29..=31),
        ("both", 10, 30, true, 30..=33),
    ] {
        if ignores {
            cluster.program(name, SimProgram::IgnoreTerm);
        }
        let hook = json!({"preStop": {"sleep": {"seconds": sleep}}});
        let containers = json!([{"name": "c", "image": name, "lifecycle": hook}]);
        cluster.apply(&pod(name, containers, json!({"terminationGracePeriodSeconds": grace}))).await;
        cluster.shows(&format!("pods/{name}"), phase("Running")).await;
        let begun = Instant::now();
        cluster.delete(&format!("pods/{name}")).await;
        cluster.until_gone(&format!("pods/{name}")).await;
        let seconds = begun.elapsed().as_secs();
        assert!(took.contains(&seconds), "{name} took {seconds}");
    }
}
