//! Pulls, which nothing but their own container waits for.

use super::upkeep::{map, showing, until};
use super::*;

/// A pod whose container `a` runs this image, and `b` this command.
fn pulling(image: &str, command: &str) -> Pod {
    pod(json!({"containers": [{"name": "a", "image": image, "command": ["web"]},
                              {"name": "b", "image": "img", "command": [command]}]}))
}

#[tokio::test(start_paused = true)]
async fn a_pod_may_be_stopped_during_a_pull() {
    let bed = Bed::start(pulling("slow", "web"), SimRuntime::new());
    pass(5).await;
    assert!(bed.status()["containerStatuses"][1]["state"]["running"].is_object(), "{}", bed.status());
    assert_eq!(bed.under_way(), 1);
    bed.delete(30);
    pass(1).await;
    assert_eq!((bed.signals(TERM), bed.signals(KILL)), (1, 0));
    assert!(*bed.api.deleted.lock().unwrap() && bed.worker.is_finished());
    assert_eq!(bed.under_way(), 0, "nobody wants the image any more");
}

#[tokio::test(start_paused = true)]
async fn what_was_fetched_with_the_secret_of_others_is_asked_for_again() {
    for (policy, reason, pulls) in
        [("IfNotPresent", "ImagePullBackOff", 1), ("Never", "ErrImageNeverPull", 0)]
    {
        let container =
            json!({"name": "a", "image": "private", "imagePullPolicy": policy, "command": ["web"]});
        let bed = Bed::start(pod(json!({"containers": [container]})), SimRuntime::new());
        pass(1).await;
        let waiting = bed.status()["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
        assert_eq!((waiting, bed.starts()), (json!(reason), 0), "{policy}");
        assert_eq!(bed.times_said("Pulling image \"private\""), pulls, "{policy}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_comes_back_while_the_pull_of_another_hangs() {
    let runtime = SimRuntime::new();
    runtime.program("crash", SimProgram::EndAtOnce(Exit::Code(1)));
    let bed = Bed::start(pulling("slow", "crash"), runtime);
    pass(65).await;
    // At 0 and, at once, again; then after 10 and 20 s.
    assert_eq!(bed.starts(), 4);
    let states = bed.status()["containerStatuses"].clone();
    assert_eq!(states[0]["state"]["waiting"]["reason"], "ContainerCreating");
    assert_eq!(states[1]["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!((bed.times_said("Pulling image \"slow\""), bed.under_way()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_container_starts_when_its_image_comes() {
    let bed = Bed::start(pulling("late", "web"), SimRuntime::new());
    pass(300).await;
    assert_eq!(bed.starts(), 1);
    bed.images.arrival.notify_one();
    pass(0).await;
    assert_eq!(bed.starts(), 2);
    assert!(bed.state()["running"].is_object(), "{}", bed.status());
    assert_eq!((bed.times_said("Pulling: "), bed.times_said("Pulled: Successfully")), (1, 1));
    assert_eq!(bed.times_said("Pulled: Container image \"late\""), 0);
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_is_no_longer_wanted_is_given_up() {
    let bed = Bed::start(pulling("slow", "web"), SimRuntime::new());
    pass(5).await;
    bed.desired.send_modify(|desired| {
        let mut pod = Pod::clone(desired.pod());
        pod.spec.as_mut().unwrap().containers[0].image = Some("img".into());
        *desired = Desired::Pod(Arc::new(pod));
    });
    pass(1).await;
    assert_eq!((bed.starts(), bed.under_way()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn failed_pulls_are_tried_less_and_less() {
    let bed = Bed::start(pulling("broken", "web"), SimRuntime::new());
    pass(1).await;
    assert_eq!(bed.state()["waiting"]["reason"], "ImagePullBackOff");
    pass(64).await;
    // At 0, 10 and 30 s.
    assert_eq!(*bed.images.pulls.lock().unwrap(), ["broken"; 3]);
    assert_eq!(bed.starts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_does_not_wait_for_a_pull() {
    let started: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    crate::clock::simulate(started);
    let mut pod = pulling("slow", "web");
    pod.status = serde_json::from_value(json!({"phase": "Pending", "startTime": started})).unwrap();
    pod.spec.as_mut().unwrap().active_deadline_seconds = Some(100);
    let bed = Bed::start(pod, SimRuntime::new());
    pass(90).await;
    assert_eq!(bed.under_way(), 1);
    pass(20).await;
    assert_eq!((&bed.status()["reason"], bed.under_way()), (&json!("DeadlineExceeded"), 0));
}

#[tokio::test]
async fn volumes_follow_their_objects_while_a_pull_hangs() {
    let mut pod = showing("web");
    let more = pulling("slow", "web").spec.unwrap().containers.remove(0);
    pod.spec.as_mut().unwrap().containers.push(Container { name: "slow".into(), ..more });
    let server = FakeApi::default();
    server.put("pods", serde_json::to_value(&pod).unwrap());
    server.put("configmaps", map("one"));
    let bed = Bed::on(server.client(), Arc::default(), pod, SimRuntime::new());
    until(&|| bed.starts() == 1 && bed.under_way() == 1).await;
    server.put("configmaps", map("two"));
    let file = bed.dir.path().join("memory/u/volumes/v/k");
    until(&|| std::fs::read_to_string(&file).is_ok_and(|shown| shown == "two")).await;
    assert_eq!((bed.starts(), bed.under_way()), (1, 1));
}
