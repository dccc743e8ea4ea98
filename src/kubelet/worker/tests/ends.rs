//! Pods that end: in time, with grace, or as a whole.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_deaf_process_gets_its_grace_period_in_full_and_is_killed_once() {
    let runtime = SimRuntime::new();
    runtime.program("deaf", SimProgram::IgnoreTerm);
    let bed = Bed::start(running("deaf"), runtime);
    pass(1).await;
    bed.delete(30);
    pass(29).await;
    assert_eq!((bed.signals(TERM), bed.signals(KILL)), (1, 0));
    pass(1).await;
    assert_eq!((bed.signals(TERM), bed.signals(KILL)), (1, 1));
    assert!(*bed.api.deleted.lock().unwrap());
    assert_eq!(bed.status()["phase"], "Failed");
    assert_eq!(bed.state()["terminated"]["exitCode"], 137);
}

#[tokio::test(start_paused = true)]
async fn a_second_delete_shortens_the_grace_period() {
    let runtime = SimRuntime::new();
    runtime.program("deaf", SimProgram::IgnoreTerm);
    let bed = Bed::start(running("deaf"), runtime);
    pass(1).await;
    bed.delete(300);
    pass(10).await;
    bed.delete(2);
    pass(1).await;
    assert_eq!(bed.signals(KILL), 0);
    pass(1).await;
    assert_eq!((bed.signals(TERM), bed.signals(KILL)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_vanished_pod_gets_the_grace_period_of_its_spec() {
    let runtime = SimRuntime::new();
    runtime.program("deaf", SimProgram::IgnoreTerm);
    let mut pod = running("deaf");
    pod.spec.as_mut().unwrap().termination_grace_period_seconds = Some(8);
    let bed = Bed::start(pod.clone(), runtime);
    pass(1).await;
    bed.desired.send_replace(Desired::Gone(Arc::new(pod)));
    pass(7).await;
    assert_eq!((bed.signals(TERM), bed.signals(KILL)), (1, 0));
    pass(1).await;
    assert!(bed.signals(KILL) == 1 && bed.worker.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_new_worker_takes_up_an_end_that_was_begun() {
    let runtime = SimRuntime::new();
    runtime.program("deaf", SimProgram::IgnoreTerm);
    let mut bed = Bed::start(running("deaf"), runtime);
    pass(1).await;
    bed.delete(30);
    pass(5).await;
    bed.restart().await;
    pass(29).await;
    assert_eq!((bed.signals(TERM), bed.signals(KILL)), (2, 0), "asked again, and given its time");
    pass(1).await;
    assert_eq!(bed.signals(KILL), 1);
    assert!(*bed.api.deleted.lock().unwrap());
    assert_eq!(bed.starts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pod_past_its_deadline_is_stopped_and_has_failed() {
    let mut pod = running("web");
    // The deadline is a matter of the wall's clock: an hour has passed before it is set.
    let started = jiff::Timestamp::now() - Duration::from_secs(3600);
    pod.status = serde_json::from_value(json!({"phase": "Pending", "startTime": started})).unwrap();
    let bed = Bed::start(pod, SimRuntime::new());
    pass(60).await;
    assert_eq!(bed.status()["phase"], "Running");
    bed.desired.send_modify(|desired| {
        let mut pod = Pod::clone(desired.pod());
        pod.spec.as_mut().unwrap().active_deadline_seconds = Some(60);
        *desired = Desired::Pod(Arc::new(pod));
    });
    pass(60).await;
    assert_eq!(bed.status()["phase"], "Failed");
    assert_eq!(bed.status()["reason"], "DeadlineExceeded");
    assert_eq!((bed.starts(), bed.signals(TERM), bed.signals(KILL)), (1, 1, 0));
    assert!(bed.said("DeadlineExceeded: Pod was active on the node longer than the specified deadline"));
    pass(60).await;
    assert_eq!(bed.starts(), 1, "it does not come back");
    assert_eq!(bed.status()["message"], "Pod was active on the node longer than the specified deadline");
}

#[tokio::test(start_paused = true)]
async fn an_evicted_pod_takes_room_until_nothing_of_it_is_there() {
    let runtime = SimRuntime::new();
    runtime.fail_removal("busy");
    let bed = Bed::start(running("web"), runtime);
    pass(1).await;
    let volume = bed.context.dirs("u").disk.join("volumes");
    std::fs::create_dir_all(&volume).unwrap();
    let eviction = bed.context.eviction.clone();
    eviction.evict("u", "too much".into(), crate::kubelet::eviction::GRACE);
    bed.changed.notify_one();
    tokio::time::timeout(Duration::from_secs(60), eviction.carried_out("u")).await.unwrap();
    assert_eq!((&bed.status()["phase"], &bed.status()["reason"]), (&json!("Failed"), &json!("Evicted")));
    assert_eq!(bed.count(|call| matches!(call, SimCall::RemoveSandbox(_))), 2);
    assert!(!volume.exists());
    eviction.evict("other", "too much".into(), crate::kubelet::eviction::GRACE);
    eviction.forget("other");
    eviction.carried_out("other").await;
}

#[tokio::test(start_paused = true)]
async fn a_forbidden_sysctl_fails_the_pod_before_it_begins() {
    let mut spec = running("web");
    let sysctls = json!({"sysctls": [{"name": "vm.overcommit_memory", "value": "1"}]});
    spec.spec.as_mut().unwrap().security_context = serde_json::from_value(sysctls).unwrap();
    let bed = Bed::start(spec, SimRuntime::new());
    pass(60).await;
    assert_eq!(bed.runtime.calls(), []);
    assert_eq!(
        (&bed.status()["phase"], &bed.status()["reason"]),
        (&json!("Failed"), &json!("SysctlForbidden"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_is_asked_to_end_when_nobody_is_led_to_it_any_more() {
    let runtime = SimRuntime::new();
    runtime.program("deaf", SimProgram::IgnoreTerm);
    let bed = Bed::start(running("deaf"), runtime);
    pass(1).await;
    bed.led.send_replace(true);
    bed.delete(30);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(bed.signals(TERM), 0);
    bed.led.send_replace(false);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(bed.signals(TERM), 1);
    // Its grace began with the word to delete it.
    pass(29).await;
    assert_eq!((bed.signals(TERM), bed.signals(KILL)), (1, 0));
    pass(1).await;
    assert_eq!(bed.signals(KILL), 1);
}

#[tokio::test(start_paused = true)]
async fn services_hold_no_pod_up_for_long() {
    for (grace, waits) in [(30, 3000), (2, 2000), (0, 0)] {
        let bed = Bed::start(running("web"), SimRuntime::new());
        pass(1).await;
        bed.led.send_replace(true);
        let start = Instant::now();
        bed.delete(grace);
        while bed.signals(TERM) + bed.signals(KILL) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let took = start.elapsed().as_millis();
        assert!((waits..waits + 50).contains(&took), "{grace} s of grace: {took} ms");
    }
}
