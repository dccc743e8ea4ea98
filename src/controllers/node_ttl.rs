//! How long kubelets may go by what they know of configMaps and secrets, said on their nodes: the longer the more nodes
//! there are (Kubernetes `pkg/controller/ttl`).

use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use super::{Next, queue, work};
use crate::api::request::PatchKind;
use crate::api::status::Status;
use crate::client::Client;
use crate::client::reflector::{Reflector, key_of};

/// Where it is said, in seconds.
const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";
/// From how many nodes on, up to how many, and for how many seconds. They overlap, so that one node that comes and goes
/// does not have all of them written each time.
const STEPS: [(usize, usize, u32); 5] =
    [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// Runs until dropped.
pub async fn run(client: Client, nodes: Reflector<Node>) {
    nodes.synced().await;
    let queue = queue(&client, "ttlcontroller");
    let at = AtomicUsize::new(step(0, nodes.list().len()));
    let by_node = async {
        let mut changes = nodes.subscribe();
        while let Some(key) = changes.next().await {
            let all = nodes.list();
            let now = step(at.load(Ordering::Relaxed), all.len());
            match at.swap(now, Ordering::Relaxed) == now {
                true => queue.add(&key),
                false => all.iter().for_each(|node| queue.add(&key_of(&**node))),
            }
        }
    };
    let reconcile = |key: String| {
        let seconds = STEPS[at.load(Ordering::Relaxed)].2;
        let (client, body) = (&client, nodes.get(&key).and_then(|node| plan(&node, seconds)));
        async move {
            let Some(body) = body else { return Ok(Next::Await) };
            match client.all::<Node>().patch(&key, None, PatchKind::Merge, body).await {
                Err(status) if !status.is("NotFound") => Err::<_, Status>(status),
                _ => Ok(Next::Await),
            }
        }
    };
    tokio::join!(by_node, work("node-ttl", &queue, reconcile));
}

/// The step for so many nodes, coming from another one.
fn step(mut at: usize, nodes: usize) -> usize {
    while nodes > STEPS[at].1 {
        at += 1;
    }
    while nodes < STEPS[at].0 {
        at -= 1;
    }
    at
}

/// What to write to a node that does not say so many seconds.
fn plan(node: &Node, seconds: u32) -> Option<serde_json::Value> {
    let said = node.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ANNOTATION));
    let said = said.and_then(|text| text.parse::<u32>().ok());
    (said != Some(seconds)).then(|| json!({"metadata": {"annotations": {ANNOTATION: seconds.to_string()}}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_nodes_the_longer() {
        for (at, nodes, expected) in [
            (0, 0, 0),
            (0, 100, 0),
            (0, 101, 15),
            (1, 90, 15),
            (1, 89, 0),
            (0, 3000, 300),
            (4, 1800, 300),
            (4, 1799, 60),
            (4, 1, 0),
        ] {
            assert_eq!(STEPS[step(at, nodes)].2, expected, "{at} {nodes}");
        }
    }

    #[test]
    fn nodes_that_say_otherwise_are_written() {
        let written = Some(json!({"metadata": {"annotations": {ANNOTATION: "15"}}}));
        for (annotations, expected) in [
            (json!(null), written.clone()),
            (json!({"mine": "1"}), written.clone()),
            (json!({ANNOTATION: "0"}), written.clone()),
            (json!({ANNOTATION: "soon"}), written),
            (json!({ANNOTATION: "15"}), None),
        ] {
            let node = json!({"metadata": {"annotations": annotations}});
            assert_eq!(plan(&serde_json::from_value(node).unwrap(), 15), expected, "{annotations}");
        }
    }
}
