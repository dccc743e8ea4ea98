//! Lifecycle hooks.

use super::*;

fn hooked(name: &str, lifecycle: Value) -> Value {
    json!({"name": name, "image": "img", "command": [name], "lifecycle": lifecycle})
}

fn exec(command: &str) -> Value {
    json!({"exec": {"command": [command]}})
}

fn takes(seconds: u64) -> SimExec {
    SimExec { takes: Duration::from_secs(seconds), ..SimExec::default() }
}

#[tokio::test(start_paused = true)]
async fn what_comes_after_a_post_start_hook_waits_for_it() {
    let runtime = SimRuntime::new();
    runtime.answer_exec(&["begin"], takes(20));
    let first = hooked("first", json!({"postStart": exec("begin")}));
    let second = json!({"name": "second", "image": "img", "command": ["second"]});
    let bed = Bed::start(pod(json!({"containers": [first, second]})), runtime);
    pass(10).await;
    assert_eq!((bed.starts(), bed.execs("begin")), (1, 1));
    assert_eq!(bed.state()["waiting"]["reason"], "ContainerCreating");
    assert_eq!(bed.status()["phase"], "Pending");
    pass(10).await;
    assert_eq!((bed.starts(), bed.execs("begin")), (2, 1));
    assert_eq!((&bed.status()["phase"], bed.condition("Ready")), (&json!("Running"), json!("True")));
}

#[tokio::test(start_paused = true)]
async fn a_failed_post_start_hook_ends_the_container() {
    let runtime = SimRuntime::new();
    let failure = SimExec { exit: Exit::Code(7), stdout: b"secret".to_vec(), ..SimExec::default() };
    runtime.answer_exec(&["begin"], failure);
    let bed =
        Bed::start(pod(json!({"containers": [hooked("a", json!({"postStart": exec("begin")}))]})), runtime);
    pass(5).await;
    assert!(
        bed.said("FailedPostStartHook: PostStartHook failed") && bed.said("Killing: FailedPostStartHook")
    );
    assert!(!bed.said("secret"));
    assert_eq!(bed.starts(), 2, "the first restart is free");
    assert_eq!(bed.state()["waiting"]["reason"], "CrashLoopBackOff");
    pass(6).await;
    assert_eq!(bed.starts(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_pre_stop_hook_comes_before_the_signal_and_takes_of_the_grace_period() {
    let runtime = SimRuntime::new();
    runtime.answer_exec(&["leave"], takes(10));
    runtime.program("a", SimProgram::IgnoreTerm);
    let bed =
        Bed::start(pod(json!({"containers": [hooked("a", json!({"preStop": exec("leave")}))]})), runtime);
    pass(1).await;
    bed.delete(30);
    pass(9).await;
    assert_eq!((bed.execs("leave"), bed.signals(TERM)), (1, 0));
    assert_eq!(bed.times_said("Killing: Stopping container a"), 1);
    pass(1).await;
    assert_eq!((bed.execs("leave"), bed.signals(TERM), bed.signals(KILL)), (1, 1, 0));
    pass(19).await;
    assert_eq!(bed.signals(KILL), 0);
    pass(1).await;
    assert!(bed.signals(KILL) == 1 && bed.worker.is_finished());
    assert_eq!(bed.times_said("Killing: Stopping container a"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pre_stop_hook_without_end_leaves_the_last_two_seconds() {
    let runtime = SimRuntime::new();
    runtime.program("a", SimProgram::IgnoreTerm);
    let forever = json!({"preStop": {"sleep": {"seconds": 1000}}});
    let bed = Bed::start(pod(json!({"containers": [hooked("a", forever)]})), runtime);
    pass(1).await;
    bed.delete(5);
    pass(4).await;
    assert_eq!(bed.signals(TERM), 0);
    pass(1).await;
    assert_eq!((bed.signals(TERM), bed.signals(KILL)), (1, 0));
    pass(2).await;
    assert_eq!(bed.signals(KILL), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_cannot_be_run_is_told_and_the_container_ends() {
    let runtime = SimRuntime::new();
    let connect = json!({"preStop": {"tcpSocket": {"port": 1}}});
    let bed = Bed::start(pod(json!({"containers": [hooked("a", connect)]})), runtime);
    pass(1).await;
    bed.delete(30);
    pass(1).await;
    assert!(bed.said("FailedPreStopHook: PreStopHook failed") && bed.worker.is_finished());
    assert_eq!((bed.signals(TERM), bed.signals(KILL)), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn sidecars_end_last_but_their_hooks_run_at_once() {
    let runtime = SimRuntime::new();
    runtime.program("a", SimProgram::IgnoreTerm);
    let mut sidecar = hooked("s", json!({"preStop": exec("leave")}));
    sidecar["restartPolicy"] = json!("Always");
    let main = json!({"name": "a", "image": "img", "command": ["a"]});
    let bed = Bed::start(pod(json!({"initContainers": [sidecar], "containers": [main]})), runtime.clone());
    pass(1).await;
    assert_eq!(bed.starts(), 2);
    bed.delete(10);
    pass(1).await;
    let id = |name: &str| container_id("u", name, 0);
    assert_eq!((bed.execs("leave"), bed.signals(TERM)), (1, 1));
    assert!(runtime.exit(&id("a"), Exit::Code(0)));
    pass(1).await;
    let signalled = bed.count(|call| matches!(call, SimCall::Signal(of, TERM) if *of == id("s")));
    assert!(signalled == 1 && bed.worker.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_with_a_startup_probe_holds_what_comes_after_it() {
    let runtime = SimRuntime::new();
    runtime.answer_exec(&["up"], SimExec { exit: Exit::Code(1), ..SimExec::default() });
    let mut sidecar = hooked("s", json!({}));
    sidecar["restartPolicy"] = json!("Always");
    sidecar["startupProbe"] = json!({"exec": {"command": ["up"]}, "periodSeconds": 2});
    let main = json!({"name": "a", "image": "img", "command": ["a"]});
    let bed = Bed::start(pod(json!({"initContainers": [sidecar], "containers": [main]})), runtime.clone());
    pass(3).await;
    assert_eq!((bed.starts(), bed.condition("Initialized")), (1, json!("False")));
    runtime.answer_exec(&["up"], SimExec::default());
    pass(2).await;
    assert_eq!((bed.starts(), bed.condition("Initialized")), (2, json!("True")));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_lets_hooks_run_and_leaves_the_object_as_it_is() {
    let runtime = SimRuntime::new();
    runtime.answer_exec(&["leave"], takes(3));
    let hook = hooked("a", json!({"preStop": exec("leave")}));
    let bed = Bed::start(pod(json!({"containers": [hook]})), runtime);
    pass(1).await;
    let before = bed.status();
    let pod = bed.desired.borrow().pod().clone();
    bed.desired.send_replace(Desired::Stopped(pod, Duration::from_secs(10)));
    pass(2).await;
    assert_eq!((bed.execs("leave"), bed.signals(TERM)), (1, 0));
    pass(3).await;
    assert_eq!(bed.signals(TERM), 1);
    assert!(bed.worker.is_finished());
    assert_eq!(bed.status(), before);
    assert!(!*bed.api.deleted.lock().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_does_not_wait_longer_than_it_may() {
    let runtime = SimRuntime::new();
    runtime.program("deaf", SimProgram::IgnoreTerm);
    let bed = Bed::start(running("deaf"), runtime);
    pass(1).await;
    let pod = bed.desired.borrow().pod().clone();
    bed.desired.send_replace(Desired::Stopped(pod, Duration::from_secs(4)));
    pass(3).await;
    assert_eq!((bed.signals(TERM), bed.signals(KILL)), (1, 0));
    pass(1).await;
    assert!(bed.signals(KILL) == 1 && bed.worker.is_finished());
}
