//! Containers whose resources change while they run.

use super::*;
use crate::runtime::Consumer;

fn sized(cpu: &str, policy: &str) -> Pod {
    let policies = json!([{"resourceName": "cpu", "restartPolicy": policy}]);
    let resources = json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
    pod(json!({"containers": [{"name": "a", "image": "img", "command": ["web"], "resources": resources,
        "resizePolicy": policies}]}))
}

impl Bed {
    fn resize(&self, cpu: &str, policy: &str) {
        self.desired.send_replace(Desired::Pod(Arc::new(sized(cpu, policy))));
    }

    fn limits(&self) -> Vec<(bool, Option<u64>)> {
        let calls = self.runtime.calls();
        let limits = calls.iter().filter_map(|call| match call {
            SimCall::Limit(of, limits) => Some((matches!(of, Consumer::Sandbox(_)), limits.cpu_quota)),
            _ => None,
        });
        limits.collect()
    }

    fn given(&self) -> Value {
        self.status()["containerStatuses"][0]["resources"]["limits"]["cpu"].clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_resize_changes_limits_and_nothing_else() {
    let bed = Bed::start(sized("500m", "NotRequired"), SimRuntime::new());
    pass(1).await;
    assert_eq!((bed.limits(), bed.given()), (vec![], json!("500m")));
    bed.resize("1", "NotRequired");
    pass(1).await;
    let grown = [(true, Some(100_000)), (false, Some(100_000))];
    assert_eq!((bed.limits(), bed.given()), (grown.to_vec(), json!("1")), "what is around it grows first");
    bed.resize("250m", "NotRequired");
    pass(1).await;
    assert_eq!(bed.limits()[2..], [(false, Some(25_000)), (true, Some(25_000))]);
    assert_eq!((bed.starts(), bed.signals(TERM), bed.given()), (1, 0, json!("250m")));
}

#[tokio::test(start_paused = true)]
async fn a_policy_may_ask_for_a_restart() {
    let bed = Bed::start(sized("500m", "RestartContainer"), SimRuntime::new());
    pass(1).await;
    bed.resize("1", "RestartContainer");
    pass(2).await;
    assert!(bed.said("Killing: Container a resize requires restart"));
    let around = vec![(true, Some(100_000))];
    assert_eq!(
        (bed.starts(), bed.limits(), bed.given()),
        (2, around, json!("1")),
        "the pod's group grows, too"
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_node_does_not_have_waits() {
    for (policy, starts) in [("NotRequired", 1), ("RestartContainer", 2)] {
        let bed = Bed::start(sized("500m", policy), SimRuntime::new());
        pass(1).await;
        bed.resize("5", policy);
        pass(3).await;
        assert_eq!((bed.limits(), bed.given(), bed.starts()), (vec![], json!("500m"), 1), "{policy}");
        assert_eq!(bed.condition("PodResizePending"), "True");
        assert_eq!(bed.times_said("ResizeInfeasible: Pod resize Infeasible: {"), 1);
        bed.resize("1", policy);
        pass(2).await;
        assert_eq!((bed.given(), bed.condition("PodResizePending")), (json!("1"), Value::Null));
        assert_eq!(bed.starts(), starts, "{policy}");
        assert_eq!(bed.condition("PodResizeInProgress"), Value::Null);
        for event in ["ResizeStarted: Pod resize started: {", "ResizeCompleted: Pod resize completed: {"] {
            assert_eq!(bed.times_said(event), 1, "{event}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_given_to_no_container_that_starts_again() {
    let mut bed = Bed::start(sized("500m", "NotRequired"), SimRuntime::new());
    pass(1).await;
    bed.resize("5", "NotRequired");
    pass(1).await;
    let restarts = |bed: &Bed, attempt: u32| {
        bed.runtime.exit(&container_id("u", "a", attempt), Exit::Code(1));
    };
    let quota = |bed: &Bed, attempt: u32| {
        bed.runtime.container(&container_id("u", "a", attempt)).unwrap().resources.cpu_quota
    };
    restarts(&bed, 0);
    pass(15).await;
    assert_eq!((bed.starts(), quota(&bed, 1)), (2, Some(50_000)));
    // A new worker knows from the status what was allocated.
    bed.desired.send_modify(|desired| {
        let mut pod = Pod::clone(desired.pod());
        pod.status = serde_json::from_value(bed.status()).unwrap();
        *desired = Desired::Pod(Arc::new(pod));
    });
    bed.restart().await;
    restarts(&bed, 1);
    pass(30).await;
    assert_eq!((bed.starts(), quota(&bed, 2)), (3, Some(50_000)));
    assert_eq!(bed.status()["containerStatuses"][0]["allocatedResources"], json!({"cpu": "500m"}));
}

#[tokio::test(start_paused = true)]
async fn what_others_have_is_waited_for() {
    let bed = Bed::start(sized("500m", "NotRequired"), SimRuntime::new());
    pass(1).await;
    bed.context.allocations.hold("other", &sized("400m", "NotRequired"));
    bed.resize("700m", "NotRequired");
    pass(2).await;
    let condition = |bed: &Bed| {
        let status = bed.status();
        let all = status["conditions"].as_array().unwrap().clone();
        let pending = all.into_iter().find(|c| c["type"] == "PodResizePending").unwrap_or_default();
        (pending["reason"].clone(), pending["message"].clone())
    };
    let message = "Node didn't have enough resource: cpu, requested: 700, used: 400, capacity: 1000";
    assert_eq!((condition(&bed), bed.given()), ((json!("Deferred"), json!(message)), json!("500m")));
    assert_eq!(bed.times_said("ResizeDeferred: Pod resize Deferred: {"), 1);
    bed.context.allocations.release("other");
    pass(1).await;
    assert_eq!((condition(&bed).0, bed.given()), (Value::Null, json!("700m")));
    assert_eq!(bed.times_said("ResizeDeferred"), 1);
}

/// A pod that states for itself what its container, which says nothing, may use.
fn stating(cpu: &str, policy: &str) -> Pod {
    let mut pod = sized(cpu, policy);
    let spec = pod.spec.as_mut().unwrap();
    spec.resources = spec.containers[0].resources.take();
    pod
}

#[tokio::test(start_paused = true)]
async fn what_a_pod_states_for_itself_changes_as_well() {
    for (policy, starts) in [("NotRequired", 1), ("RestartContainer", 3)] {
        let bed = Bed::start(stating("500m", policy), SimRuntime::new());
        pass(1).await;
        let whole = |bed: &Bed| {
            let status = bed.status();
            (status["allocatedResources"]["cpu"].clone(), status["resources"]["limits"]["cpu"].clone())
        };
        assert_eq!((bed.limits(), whole(&bed)), (vec![], (json!("500m"), json!("500m"))));
        let resize = |cpu: &str| bed.desired.send_replace(Desired::Pod(Arc::new(stating(cpu, policy))));
        resize("1");
        pass(2).await;
        assert_eq!(whole(&bed), (json!("1"), json!("1")), "{policy}");
        resize("250m");
        // Who has just started waits before it does so again.
        pass(20).await;
        let (around, own) = ((true, Some(100_000)), (false, Some(100_000)));
        let (less_around, less_own) = ((true, Some(25_000)), (false, Some(25_000)));
        match policy {
            "NotRequired" => assert_eq!(bed.limits(), [around, own, less_own, less_around]),
            // What starts anew has the limits of then.
            _ => assert_eq!(bed.limits(), [around, less_around]),
        }
        assert_eq!((bed.starts(), whole(&bed)), (starts, (json!("250m"), json!("250m"))), "{policy}");
        resize("5");
        pass(2).await;
        assert_eq!(bed.condition("PodResizePending"), "True");
        assert_eq!((bed.starts(), whole(&bed)), (starts, (json!("250m"), json!("250m"))), "{policy}");
        for event in ["ResizeStarted: ", "ResizeCompleted: "] {
            assert_eq!(bed.times_said(event), 2, "{event}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_has_changed_is_left_alone_by_the_next_kubelet() {
    let mut bed = Bed::start(stating("500m", "RestartContainer"), SimRuntime::new());
    pass(1).await;
    bed.desired.send_replace(Desired::Pod(Arc::new(stating("1", "RestartContainer"))));
    pass(5).await;
    assert_eq!(bed.starts(), 2);
    bed.desired.send_modify(|desired| {
        let mut pod = Pod::clone(desired.pod());
        pod.status = serde_json::from_value(bed.status()).unwrap();
        *desired = Desired::Pod(Arc::new(pod));
    });
    bed.restart().await;
    pass(30).await;
    assert_eq!((bed.starts(), bed.limits().last()), (2, Some(&(false, Some(100_000)))));
    assert_eq!(bed.status()["resources"]["limits"]["cpu"], "1");
}
