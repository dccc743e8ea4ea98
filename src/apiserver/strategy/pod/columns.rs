//! A pod's line in `kubectl get` (`printPod` of Kubernetes' printers).

use jiff::Timestamp;
use serde_json::Value;

use super::super::Column;
use super::super::column::{self, AGE, NAME, NONE};
use super::super::value::{items, text};
use crate::api::meta;

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    column::text("Ready", "The aggregate readiness state of this pod for accepting traffic."),
    column::text("Status", "The aggregate status of the containers in this pod."),
    column::text(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
    ),
    AGE,
    column::wide(
        "IP",
        "podIP address allocated to the pod. Routable at least within the cluster. Empty if not yet allocated.",
    ),
    column::wide("Node", "NodeName indicates in which node this pod is scheduled."),
    column::wide(
        "Nominated Node",
        "nominatedNodeName is set only when this pod preempts other pods on the node.",
    ),
    column::wide("Readiness Gates", "If specified, all readiness gates will be evaluated for pod readiness."),
];

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let state = State::of(pod);
    let ip = match text(&status["podIPs"][0], "ip") {
        "" => text(status, "podIP"),
        ip => ip,
    };
    vec![
        column::name(pod),
        format!("{}/{}", state.ready, state.total).into(),
        state.reason.into(),
        match state.last_restart {
            Some(at) if state.restarts > 0 => {
                let ago = column::human(now.as_second() - at.as_second());
                format!("{} ({ago} ago)", state.restarts).into()
            }
            _ => state.restarts.to_string().into(),
        },
        column::age(pod, now),
        column::or_none(ip),
        column::or_none(text(spec, "nodeName")),
        column::or_none(text(status, "nominatedNodeName")),
        gates(pod).into(),
    ]
}

/// What a pod's containers add up to.
#[derive(Default)]
struct State {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl State {
    fn of(pod: &Value) -> State {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let mut state = State {
            reason: text(status, "phase").to_owned(),
            total: items(spec, "containers").len(),
            ..State::default()
        };
        if !text(status, "reason").is_empty() {
            state.reason = text(status, "reason").to_owned();
        }
        let gated = |c: &&Value| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated";
        if items(status, "conditions").iter().any(|c| gated(&c)) {
            state.reason = "SchedulingGated".to_owned();
        }
        let initializing = state.init_containers(spec, status);
        let initialized =
            items(status, "conditions").iter().any(|c| c["type"] == "Initialized" && c["status"] == "True");
        if !initializing || initialized {
            state.containers(status);
        }
        if meta::is_deleting(pod) {
            let lost = text(status, "reason") == "NodeLost";
            if lost {
                state.reason = "Unknown".to_owned();
            } else if !matches!(text(status, "phase"), "Failed" | "Succeeded") {
                state.reason = "Terminating".to_owned();
            }
        }
        state
    }

    /// The first init container that is not done gives the reason; whether there is one.
    fn init_containers(&mut self, spec: &Value, status: &Value) -> bool {
        let declared = items(spec, "initContainers");
        let sidecar =
            |name: &str| declared.iter().any(|c| text(c, "name") == name && c["restartPolicy"] == "Always");
        self.total += declared.iter().filter(|c| c["restartPolicy"] == "Always").count();
        let (mut restarts, mut last) = (0, None);
        for (i, container) in items(status, "initContainerStatuses").iter().enumerate() {
            let (state, name) = (&container["state"], text(container, "name"));
            restarts += container["restartCount"].as_i64().unwrap_or(0);
            last = last.max(finished(container));
            if sidecar(name) {
                self.restarts += container["restartCount"].as_i64().unwrap_or(0);
                self.last_restart = self.last_restart.max(finished(container));
            }
            let terminated = &state["terminated"];
            if terminated["exitCode"] == 0 {
                continue;
            }
            if sidecar(name) && container["started"] == true {
                if container["ready"] == true {
                    self.ready += 1;
                }
                continue;
            }
            let waiting = text(&state["waiting"], "reason");
            self.reason = if terminated.is_object() {
                format!("Init:{}", ended(terminated))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{i}/{}", declared.len())
            };
            (self.restarts, self.last_restart) = (restarts, last);
            return true;
        }
        false
    }

    /// The last container that waits or ended gives the reason.
    fn containers(&mut self, status: &Value) {
        let mut running = false;
        for container in items(status, "containerStatuses").iter().rev() {
            self.restarts += container["restartCount"].as_i64().unwrap_or(0);
            self.last_restart = self.last_restart.max(finished(container));
            let state = &container["state"];
            let waiting = text(&state["waiting"], "reason");
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if state["terminated"].is_object() {
                self.reason = ended(&state["terminated"]);
            } else if container["ready"] == true && state["running"].is_object() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            let ready =
                items(status, "conditions").iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
            self.reason = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }
}

/// When the container's previous instance ended.
fn finished(container: &Value) -> Option<Timestamp> {
    meta::time(&container["lastState"]["terminated"]["finishedAt"])
}

/// `Completed`, `Error`, `Signal:9`, `ExitCode:3`.
fn ended(terminated: &Value) -> String {
    match text(terminated, "reason") {
        "" => match terminated["signal"].as_i64() {
            Some(signal) if signal != 0 => format!("Signal:{signal}"),
            _ => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
        },
        reason => reason.to_owned(),
    }
}

fn gates(pod: &Value) -> String {
    let gates = items(&pod["spec"], "readinessGates");
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let conditions = items(&pod["status"], "conditions");
    let passed = |gate: &&Value| {
        conditions.iter().any(|c| c["type"] == gate["conditionType"] && c["status"] == "True")
    };
    format!("{}/{}", gates.iter().filter(passed).count(), gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// READY, STATUS and RESTARTS.
    fn line(pod: Value) -> [String; 3] {
        let cells = cells(&pod, "2024-01-01T00:01:00Z".parse().unwrap());
        [1, 2, 3].map(|i| cells[i].as_str().unwrap().to_owned())
    }

    fn pod(phase: &str, statuses: Value) -> Value {
        let count = statuses.as_array().unwrap().len();
        json!({"spec": {"containers": vec![json!({}); count]}, "status": {"phase": phase, "containerStatuses": statuses}})
    }

    #[test]
    fn status_is_kubectls() {
        let running = json!({"ready": true, "restartCount": 0, "state": {"running": {}}});
        let waiting = |reason: &str| json!({"restartCount": 0, "state": {"waiting": {"reason": reason}}});
        let ended = |terminated: Value| json!({"restartCount": 0, "state": {"terminated": terminated}});
        let crashed = json!({"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                             "lastState": {"terminated": {"finishedAt": "2024-01-01T00:00:55Z"}}});
        for (given, shown) in [
            (pod("Pending", json!([])), ["0/0", "Pending", "0"]),
            (pod("Running", json!([running, running])), ["2/2", "Running", "0"]),
            (pod("Pending", json!([waiting("ContainerCreating")])), ["0/1", "ContainerCreating", "0"]),
            (pod("Running", json!([crashed])), ["0/1", "CrashLoopBackOff", "3 (5s ago)"]),
            (pod("Failed", json!([ended(json!({"reason": "Error", "exitCode": 1}))])), ["0/1", "Error", "0"]),
            (pod("Failed", json!([ended(json!({"exitCode": 3}))])), ["0/1", "ExitCode:3", "0"]),
            (pod("Failed", json!([ended(json!({"exitCode": 137, "signal": 9}))])), ["0/1", "Signal:9", "0"]),
            (
                pod("Running", json!([ended(json!({"reason": "Completed", "exitCode": 0})), running])),
                ["1/2", "NotReady", "0"],
            ),
            (
                pod("Succeeded", json!([ended(json!({"reason": "Completed", "exitCode": 0}))])),
                ["0/1", "Completed", "0"],
            ),
        ] {
            assert_eq!(line(given.clone()), shown, "{given}");
        }
        let mut deleted = pod("Running", json!([running]));
        deleted["metadata"] = json!({"deletionTimestamp": "2024-01-01T00:00:00Z"});
        assert_eq!(line(deleted), ["1/1", "Terminating", "0"]);
    }

    #[test]
    fn init_containers_come_first() {
        let with = |init: Value, statuses: Value| {
            json!({"spec": {"containers": [{}], "initContainers": init},
                   "status": {"phase": "Pending", "initContainerStatuses": statuses,
                              "containerStatuses": [{"state": {"waiting": {"reason": "PodInitializing"}}}]}})
        };
        let two = json!([{"name": "a"}, {"name": "b"}]);
        let done = json!({"name": "a", "state": {"terminated": {"exitCode": 0}}});
        for (given, shown) in [
            (with(two.clone(), json!([{"name": "a", "state": {"running": {}}}])), "Init:0/2"),
            (
                with(
                    two.clone(),
                    json!([done, {"name": "b", "state": {"waiting": {"reason": "PodInitializing"}}}]),
                ),
                "Init:1/2",
            ),
            (
                with(two.clone(), json!([done, {"name": "b", "state": {"terminated": {"exitCode": 2}}}])),
                "Init:ExitCode:2",
            ),
            (
                with(
                    two.clone(),
                    json!([done, {"name": "b", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]),
                ),
                "Init:CrashLoopBackOff",
            ),
            (with(json!([{"name": "a"}]), json!([done])), "PodInitializing"),
        ] {
            assert_eq!(line(given)[1], shown);
        }
        let sidecar = json!([{"name": "s", "restartPolicy": "Always"}]);
        let up = json!([{"name": "s", "started": true, "ready": true, "state": {"running": {}}}]);
        assert_eq!(line(with(sidecar, up)), ["1/2", "PodInitializing", "0"]);
    }
}
