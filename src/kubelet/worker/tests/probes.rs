//! Containers that are asked how they are.

use super::*;

fn fails() -> SimExec {
    SimExec { stdout: b"no file".to_vec(), exit: Exit::Code(1), ..SimExec::default() }
}

/// A pod with one container whose probes run commands of their own names.
fn probed(probes: &[(&str, Value)], policy: &str) -> Pod {
    let mut container = json!({"name": "a", "image": "img", "command": ["web"]});
    for (kind, fields) in probes {
        let mut probe = fields.clone();
        probe["exec"] = json!({"command": [kind]});
        container[kind] = probe;
    }
    pod(json!({"containers": [container], "restartPolicy": policy, "terminationGracePeriodSeconds": 30}))
}

impl Bed {
    /// What the first container's status says of it: started, ready.
    fn is(&self) -> (Value, Value) {
        let status = self.status()["containerStatuses"][0].clone();
        (status["started"].clone(), status["ready"].clone())
    }

    fn restarts(&self) -> Value {
        self.status()["containerStatuses"][0]["restartCount"].clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_ready_when_its_probe_says_so() {
    let runtime = SimRuntime::new();
    runtime.answer_exec(&["readinessProbe"], fails());
    let bed =
        Bed::start(probed(&[("readinessProbe", json!({"periodSeconds": 5}))], "Always"), runtime.clone());
    pass(4).await;
    assert_eq!((bed.is(), bed.condition("Ready")), ((json!(true), json!(false)), json!("False")));
    assert_eq!(bed.condition("ContainersReady"), "False");
    assert_eq!(bed.times_said("Unhealthy: Readiness probe failed: no file"), 1);
    runtime.answer_exec(&["readinessProbe"], SimExec::default());
    pass(3).await;
    assert_eq!((bed.is(), bed.condition("Ready")), ((json!(true), json!(true)), json!("True")));
    // Three failures in a row, and it is ready no longer; nobody ends it for that.
    runtime.answer_exec(&["readinessProbe"], fails());
    pass(11).await;
    assert_eq!(bed.condition("Ready"), "True");
    pass(5).await;
    assert_eq!((bed.condition("Ready"), bed.restarts(), bed.signals(TERM)), (json!("False"), json!(0), 0));
    runtime.answer_exec(&["readinessProbe"], SimExec::default());
    pass(5).await;
    // While it stops it is asked on, and what it answers shows.
    bed.delete(3600);
    let before = bed.execs("readinessProbe");
    pass(1).await;
    assert!(bed.worker.is_finished() && bed.execs("readinessProbe") >= before);
}

#[tokio::test(start_paused = true)]
async fn a_dead_container_is_restarted_by_policy() {
    for (policy, returns) in [("Always", true), ("OnFailure", true), ("Never", false)] {
        let runtime = SimRuntime::new();
        runtime.answer_exec(&["livenessProbe"], fails());
        let probe = json!({"periodSeconds": 2, "failureThreshold": 2, "initialDelaySeconds": 3});
        let bed = Bed::start(probed(&[("livenessProbe", probe)], policy), runtime.clone());
        pass(4).await;
        assert_eq!((bed.is(), bed.signals(TERM)), ((json!(true), json!(true)), 0), "{policy}");
        pass(2).await;
        assert_eq!((bed.signals(TERM), bed.signals(KILL)), (1, 0));
        let message = "Killing: Container a failed liveness probe";
        assert_eq!(
            bed.times_said(&format!("{message}, will be restarted")),
            usize::from(returns),
            "{policy}"
        );
        assert_eq!(bed.times_said(message), 1);
        assert_eq!(bed.restarts(), json!(u32::from(returns)), "{policy}");
        assert_eq!(bed.times_said("Unhealthy: Liveness probe failed: no file"), 2);
        let phase = if returns { "Running" } else { "Succeeded" };
        assert_eq!(bed.status()["phase"], phase, "{policy}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_may_have_a_grace_period_of_its_own() {
    let runtime = SimRuntime::new();
    runtime.program("web", SimProgram::IgnoreTerm);
    runtime.answer_exec(&["livenessProbe"], fails());
    let probe = json!({"periodSeconds": 1, "failureThreshold": 1, "terminationGracePeriodSeconds": 4});
    let bed = Bed::start(probed(&[("livenessProbe", probe)], "Always"), runtime);
    pass(4).await;
    assert_eq!((bed.signals(TERM), bed.signals(KILL)), (1, 0));
    pass(2).await;
    assert_eq!((bed.signals(KILL), bed.times_said("Unhealthy")), (1, 1));
    // The probe has waited for the next run.
    pass(2).await;
    assert_eq!(bed.times_said("Unhealthy"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_startup_probe_holds_the_others_back() {
    let runtime = SimRuntime::new();
    runtime.answer_exec(&["startupProbe"], fails());
    let kinds = ["startupProbe", "readinessProbe", "livenessProbe"];
    let pod = probed(&kinds.map(|kind| (kind, json!({"periodSeconds": 2}))), "Always");
    let bed = Bed::start(pod, runtime.clone());
    pass(3).await;
    assert_eq!((bed.is(), bed.status()["phase"].clone()), ((json!(false), json!(false)), json!("Running")));
    assert_eq!((bed.execs("readinessProbe"), bed.execs("livenessProbe")), (0, 0));
    runtime.answer_exec(&["startupProbe"], SimExec::default());
    pass(2).await;
    assert_eq!(bed.is(), (json!(true), json!(true)));
    let asked = bed.execs("startupProbe");
    pass(10).await;
    assert_eq!(bed.execs("startupProbe"), asked, "it has started once and for all");
    assert!(bed.execs("livenessProbe") >= 5 && bed.execs("readinessProbe") >= 5);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_does_not_start_is_restarted() {
    let runtime = SimRuntime::new();
    runtime.answer_exec(&["startupProbe"], fails());
    let probe = json!({"periodSeconds": 2, "failureThreshold": 3});
    let bed = Bed::start(probed(&[("startupProbe", probe)], "Always"), runtime);
    pass(7).await;
    assert!(bed.said("Killing: Container a failed startup probe, will be restarted"));
    assert_eq!(bed.restarts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_worker_knows_who_was_ready() {
    let runtime = SimRuntime::new();
    let kinds = ["startupProbe", "readinessProbe"];
    let pod = probed(&kinds.map(|kind| (kind, json!({"periodSeconds": 100}))), "Always");
    let mut bed = Bed::start(pod, runtime.clone());
    pass(1).await;
    assert_eq!(bed.is(), (json!(true), json!(true)));
    let written: Pod = serde_json::from_value(bed.api.pod.lock().unwrap().clone()).unwrap();
    bed.desired.send_replace(Desired::Pod(Arc::new(written)));
    runtime.answer_exec(&["readinessProbe"], fails());
    let asked = bed.execs("startupProbe");
    bed.restart().await;
    pass(3).await;
    assert_eq!(bed.is(), (json!(true), json!(true)), "one failure does not count");
    assert_eq!(bed.execs("startupProbe"), asked, "it has started already");
}

#[tokio::test(start_paused = true)]
async fn a_command_that_takes_too_long_is_a_failure() {
    let runtime = SimRuntime::new();
    let slow = SimExec { takes: Duration::from_secs(3600), ..SimExec::default() };
    runtime.answer_exec(&["readinessProbe"], slow);
    let bed = Bed::start(probed(&[("readinessProbe", json!({"timeoutSeconds": 2}))], "Always"), runtime);
    pass(5).await;
    assert!(
        bed.said(
            "Unhealthy: Readiness probe failed: command timed out: \"readinessProbe\" timed out after 2s"
        )
    );
    assert_eq!(bed.is(), (json!(true), json!(false)));
}

#[tokio::test(start_paused = true)]
async fn an_idle_probe_costs_no_rounds() {
    let runtime = SimRuntime::new();
    let bed = Bed::start(probed(&[("livenessProbe", json!({"periodSeconds": 1}))], "Always"), runtime);
    pass(5).await;
    let written = *bed.api.revision.lock().unwrap();
    pass(600).await;
    assert!(bed.execs("livenessProbe") > 600);
    assert_eq!(*bed.api.revision.lock().unwrap(), written);
}
