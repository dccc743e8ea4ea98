//! Starts that fail, and how soon they are tried again.

use super::upkeep::until;
use super::*;

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_cannot_be_made_is_tried_less_and_less() {
    let runtime = SimRuntime::new();
    (0..10_000).for_each(|_| runtime.fail_sandbox("no free address"));
    let bed = Bed::start(running("web"), runtime);
    pass(60).await;
    // At 0, 1, 3, 7, 15 and 31 s.
    assert_eq!(bed.count(|call| matches!(call, SimCall::EnsureSandbox(_))), 6);
    assert!(bed.said("FailedCreatePodSandBox: Failed to create pod sandbox: no free address"));
    assert_eq!(bed.state()["waiting"]["reason"], "ContainerCreating");
    bed.delete(30);
    pass(1).await;
    assert!(*bed.api.deleted.lock().unwrap(), "a pod that never began goes at once");
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_cannot_be_removed_is_tried_less_and_less() {
    let runtime = SimRuntime::new();
    let bed = Bed::start(running("web"), runtime.clone());
    pass(1).await;
    (0..4).for_each(|_| runtime.fail_removal("busy"));
    bed.delete(30);
    pass(10).await;
    // At 0, 1, 3 and 7 s.
    assert_eq!(bed.count(|call| matches!(call, SimCall::RemoveSandbox(_))), 4);
    assert!(!*bed.api.deleted.lock().unwrap());
    assert_eq!(bed.status()["phase"], "Succeeded", "all ended well, whatever the restart policy");
    pass(10).await;
    assert_eq!(bed.count(|call| matches!(call, SimCall::RemoveSandbox(_))), 5);
    assert!(*bed.api.deleted.lock().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_cannot_be_started_is_an_attempt_that_failed() {
    let runtime = SimRuntime::new();
    runtime.program("/nope", SimProgram::FailToStart("exec \"/nope\": no such file or directory".into()));
    let mut bed = Bed::start(running("/nope"), runtime);
    pass(65).await;
    // At 0 and, at once, again; then after 10, 20 and 40 s.
    assert_eq!(bed.starts(), 4);
    let status = &bed.status()["containerStatuses"][0];
    assert_eq!(status["restartCount"], 3);
    assert_eq!(status["state"]["waiting"]["reason"], "CrashLoopBackOff");
    let last = &status["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&json!(128), &json!("StartError")));
    assert!(last["message"].as_str().unwrap().contains("no such file or directory"));
    // The count goes on where the written status left it.
    bed.desired.send_modify(|desired| {
        *desired =
            Desired::Pod(Arc::new(serde_json::from_value(bed.api.pod.lock().unwrap().clone()).unwrap()));
    });
    bed.restart().await;
    pass(1).await;
    assert_eq!(bed.status()["containerStatuses"][0]["restartCount"], 5);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_cannot_be_started_fails_a_pod_that_never_restarts() {
    let runtime = SimRuntime::new();
    runtime.program("/nope", SimProgram::FailToStart("no such file or directory".into()));
    let mut pod = running("/nope");
    pod.spec.as_mut().unwrap().restart_policy = Some("Never".into());
    let bed = Bed::start(pod, runtime);
    pass(60).await;
    assert_eq!(bed.starts(), 1);
    assert_eq!(bed.status()["phase"], "Failed");
    assert_eq!(bed.state()["terminated"]["reason"], "StartError");
    assert_eq!(bed.count(|call| matches!(call, SimCall::RemoveSandbox(_))), 1);
}

#[tokio::test(start_paused = true)]
async fn crashes_pulls_and_missing_objects_wait_apart() {
    let runtime = SimRuntime::new();
    runtime.program("crash", SimProgram::EndAtOnce(Exit::Code(1)));
    let bed = Bed::start(
        pod(json!({"containers": [
            {"name": "a", "image": "img", "command": ["crash"]},
            {"name": "b", "image": "broken", "command": ["web"]},
            {"name": "c", "image": "img", "command": ["web"], "env": [
                {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "x"}}}]},
        ]})),
        runtime,
    );
    pass(9).await;
    assert_eq!(bed.starts(), 2, "the first restart is free, and counted once");
    let waiting = |i: usize| {
        bed.status()["containerStatuses"][i]["state"]["waiting"]["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        [waiting(0), waiting(1), waiting(2)],
        ["CrashLoopBackOff", "ImagePullBackOff", "CreateContainerConfigError"]
    );
    let message = bed.status()["containerStatuses"][0]["state"]["waiting"]["message"].clone();
    assert!(message.as_str().unwrap().starts_with("back-off 10s "), "{message}");
    pass(2).await;
    assert_eq!(bed.starts(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_panics_is_replaced() {
    let (server, runtime, dir) = (FakeApi::default(), SimRuntime::new(), tempfile::tempdir().unwrap());
    let pod =
        pod(json!({"nodeName": "n", "containers": [{"name": "a", "image": "fatal", "command": ["web"]}]}));
    server.put("pods", serde_json::to_value(&pod).unwrap());
    let kubelet = Kubelet::new(
        config(dir.path()),
        server.client(),
        runtime.clone(),
        Arc::new(Images::default()),
        Arc::new(Network::default()),
        Machine::read(dir.path()),
        vec!["10.244.0.0/24".into()],
    );
    let _kubelet = AbortOnDropHandle::new(tokio::spawn(kubelet.run(std::future::pending())));
    let running = async || !runtime.observe().await.unwrap().containers.is_empty();
    while !running().await {
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        pass(1).await;
    }
}

#[tokio::test]
async fn a_runtime_class_names_a_handler_that_the_node_has() {
    for (handler, runs) in [("runc", true), ("minik", true), ("kata", false)] {
        let spec = json!({"runtimeClassName": "mine",
            "containers": [{"name": "a", "image": "img", "command": ["web"]}]});
        let (server, pod) = (FakeApi::default(), pod(spec));
        server.put("pods", serde_json::to_value(&pod).unwrap());
        server.put("runtimeclasses", json!({"metadata": {"name": "mine"}, "handler": handler}));
        let bed = Bed::on(server.client(), Arc::default(), pod, SimRuntime::new());
        let told = format!(
            "Failed to create pod sandbox: failed to get sandbox runtime: no runtime for {handler:?} is configured"
        );
        let refused = || server.all("events").iter().any(|event| event["message"] == told.as_str());
        until(&|| bed.starts() == 1 || refused()).await;
        assert_eq!((bed.starts() == 1, refused()), (runs, !runs), "{handler}");
    }
}
