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
    assert_eq!((bed.starts(), bed.limits(), bed.given()), (2, vec![], json!("1")));
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
        bed.resize("1", policy);
        pass(2).await;
        assert_eq!((bed.given(), bed.condition("PodResizePending")), (json!("1"), Value::Null));
        assert_eq!(bed.starts(), starts, "{policy}");
    }
}
