//! Running pods: their volumes follow the objects that they show, their disk use is measured.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_pod_that_fills_its_disk_is_evicted() {
    let bed = Bed::start(
        pod(json!({
            "containers": [{"name": "a", "image": "img", "command": ["web"],
                            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "64Ki"}}],
        })),
        SimRuntime::new(),
    );
    pass(1).await;
    let file = bed.dir.path().join("pods/u/volumes/v/file");
    std::fs::write(file, vec![1; 128 << 10]).unwrap();
    pass(15).await;
    let status = bed.status();
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("Evicted")));
    assert_eq!(status["message"], "Usage of EmptyDir volume \"v\" exceeds the limit \"64Ki\". ");
    assert_eq!(bed.signals(TERM), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_renewed_is_asked_for_less_and_less_and_told_of_once() {
    let bed = Bed::start(
        pod(json!({
            "containers": [{"name": "a", "image": "img", "command": ["web"],
                            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}],
        })),
        SimRuntime::new(),
    );
    pass(60).await;
    // The first one is renewed after 10 s: that fails at 10, 11, 13, 17, 25 and 41 s.
    assert_eq!((bed.starts(), *bed.api.tokens.lock().unwrap()), (1, 7));
    let told = bed.api.events.lock().unwrap().iter().filter(|said| said.contains("no tokens today")).count();
    assert_eq!(told, 1);
}

/// A pod that runs this command and shows the ConfigMap `m`.
pub fn showing(command: &str) -> Pod {
    pod(json!({
        "containers": [{"name": "a", "image": "img", "command": [command],
                        "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "configMap": {"name": "m"}}],
    }))
}

pub fn map(value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "d", "name": "m"},
           "data": {"k": value}})
}

/// Waits for something that is soon to be so.
pub async fn until(what: &dyn Fn() -> bool) {
    let look = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), look).await.unwrap();
}

#[tokio::test]
async fn a_container_that_keeps_ending_comes_back_to_what_its_volumes_are_to_show() {
    let (server, runtime) = (FakeApi::default(), SimRuntime::new());
    runtime.program("crash", SimProgram::EndAtOnce(Exit::Code(1)));
    let pod = showing("crash");
    server.put("pods", serde_json::to_value(&pod).unwrap());
    server.put("configmaps", map("one"));
    let bed = Bed::on(server.client(), Arc::default(), pod, runtime);
    let watched = |seen: &str| server.seen.lock().unwrap().iter().position(|s| s.starts_with(seen));
    until(&|| watched("Watch configmaps").is_some()).await;
    assert!(watched("Get configmaps") < watched("List configmaps"), "a start does not wait for watches");
    until(&|| bed.starts() == 2).await;
    server.put("configmaps", map("two"));
    let file = bed.dir.path().join("memory/u/volumes/v/k");
    until(&|| std::fs::read_to_string(&file).is_ok_and(|shown| shown == "two")).await;
    assert_eq!(bed.starts(), 2, "before the third start");
}

#[tokio::test]
async fn volumes_and_waiting_containers_follow_their_objects() {
    let pod = showing("web");
    let server = FakeApi::default();
    server.put("pods", serde_json::to_value(&pod).unwrap());
    let mut bed = Bed::on(server.client(), Arc::default(), pod, SimRuntime::new());
    let file = bed.dir.path().join("memory/u/volumes/v/k");
    let failed = || server.all("events").iter().any(|event| event["reason"] == "FailedMount");
    until(&failed).await;
    // Several failures on, the wait is longer than what is allowed here.
    tokio::time::sleep(Duration::from_secs(4)).await;
    server.put("configmaps", map("one"));
    let quick = std::time::Instant::now();
    until(&|| bed.starts() == 1).await;
    assert!(quick.elapsed() < Duration::from_secs(2), "it starts when its map appears");
    let shows = |text: &str| std::fs::read_to_string(&file).is_ok_and(|shown| shown == text);
    assert!(shows("one"));
    server.put("configmaps", map("two"));
    until(&|| shows("two")).await;
    bed.restart().await;
    server.put("configmaps", map("three"));
    until(&|| shows("three")).await;
    assert_eq!(bed.starts(), 1);
    assert_eq!(container_id("u", "a", 0), bed.runtime.observe().await.unwrap().containers[0].id);
}

#[tokio::test]
async fn a_container_that_writes_too_much_is_evicted() {
    let runtime = SimRuntime::new();
    let limits = json!({"limits": {"ephemeral-storage": "1Ki"}});
    let container = json!({"name": "a", "image": "img", "command": ["web"], "resources": limits});
    runtime.write_root(&container_id("u", "a", 0), 2048);
    let bed = Bed::start(pod(json!({"containers": [container]})), runtime);
    let evicted = async {
        while bed.status()["reason"] != "Evicted" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), evicted).await.unwrap();
    let message = "Pod ephemeral local storage usage exceeds the total limit of containers 1Ki. ";
    assert_eq!((&bed.status()["phase"], &bed.status()["message"]), (&json!("Failed"), &json!(message)));
}
