//! The node's conditions, told again from time to time, and whenever the API shows others.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition};
use serde_json::json;
use tokio::time::Instant;

use super::context::Context;
use super::eviction::thresholds::Condition;
use super::node::conditions;
use crate::api::request::PatchKind;
use crate::clock;
use crate::runtime::Runtime;

/// How often what the API shows is looked at, which costs no request (the kubelet's `nodeStatusUpdateFrequency`).
const LOOK: Duration = Duration::from_secs(10);
/// How often the conditions are told even if they are shown (its `nodeStatusReportFrequency`).
const REPORT: Duration = Duration::from_secs(300);

/// Runs until dropped, once the node has told its conditions for the first time.
pub async fn run<R: Runtime>(context: Arc<Context<R>>) {
    let name = &context.config.node;
    let mut told = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        // A node that was deleted comes back with the next start, as in Kubernetes.
        let Some(node) = context.nodes.get(name) else { continue };
        let pressure = context.eviction.conditions();
        if is_shown(&node, &pressure) && told.elapsed() < REPORT {
            continue;
        }
        let body = json!({"status": {"conditions": conditions(&pressure, Some(&node), clock::now())}});
        match context.client.all::<Node>().patch(name, Some("status"), PatchKind::Strategic, body).await {
            Ok(_) => told = Instant::now(),
            Err(status) => tracing::warn!(%status, "the node's conditions are not told"),
        }
    }
}

/// Whether a node shows the conditions that it is in (pure).
fn is_shown(node: &Node, pressure: &BTreeSet<Condition>) -> bool {
    let shown = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let shows = |wanted: &NodeCondition| {
        shown.iter().any(|condition| condition.type_ == wanted.type_ && condition.status == wanted.status)
    };
    conditions(pressure, Some(node), jiff::Timestamp::UNIX_EPOCH).iter().all(shows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn what_is_not_shown_is_told_again() {
        let node = |ready: &str, disk: &str| -> Node {
            let condition = |type_: &str, status: &str| json!({"type": type_, "status": status});
            let conditions: Vec<Value> = vec![
                condition("MemoryPressure", "False"),
                condition("DiskPressure", disk),
                condition("PIDPressure", "False"),
                condition("Ready", ready),
            ];
            serde_json::from_value(json!({"status": {"conditions": conditions}})).unwrap()
        };
        let (none, disk) = (BTreeSet::new(), BTreeSet::from([Condition::DiskPressure]));
        for (ready, shown, pressure, expected) in [
            ("True", "False", &none, true),
            ("Unknown", "False", &none, false),
            ("True", "Unknown", &none, false),
            ("True", "False", &disk, false),
            ("True", "True", &disk, true),
        ] {
            assert_eq!(is_shown(&node(ready, shown), pressure), expected, "{ready} {shown}");
        }
        assert!(!is_shown(&Node::default(), &none));
    }
}
