//! Tells of policies that say what cannot be meant here, by an event beside the policy.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer};

use crate::client::events::{EventType, Recorder, reference};
use crate::network::{Cidr, Cidr6};

/// What was told already.
pub(in crate::proxy) struct Notices {
    recorder: Recorder,
    /// Whether pods have addresses of both families.
    both: bool,
    /// The generation of each policy that was looked at, by uid.
    seen: HashMap<Option<String>, Option<i64>>,
}

impl Notices {
    pub(in crate::proxy) fn new(recorder: Recorder, both: bool) -> Notices {
        Notices { recorder, both, seen: HashMap::new() }
    }

    /// Looks at those that are new or have changed.
    pub(in crate::proxy) fn look(&mut self, policies: &[Arc<NetworkPolicy>]) {
        let mut seen = HashMap::new();
        for policy in policies {
            let (uid, generation) = (policy.metadata.uid.clone(), policy.metadata.generation);
            if self.seen.get(&uid) != Some(&generation)
                && let Some(message) = unenforceable(policy, self.both)
            {
                let about = reference(&**policy);
                self.recorder.record(&about, EventType::Warning, "UnsupportedIPBlock", &message);
            }
            seen.insert(uid, generation);
        }
        self.seen = seen;
    }
}

/// What of a policy has no effect; `None` when all of it has (pure).
fn unenforceable(policy: &NetworkPolicy, both: bool) -> Option<String> {
    let spec = policy.spec.as_ref()?;
    let sources = spec.ingress.iter().flatten().flat_map(|rule| rule.from.iter().flatten());
    let destinations = spec.egress.iter().flatten().flat_map(|rule| rule.to.iter().flatten());
    let is_known = |text: &str| text.parse::<Cidr>().is_ok() || both && text.parse::<Cidr6>().is_ok();
    let block = |peer: &NetworkPolicyPeer| peer.ip_block.as_ref().map(|block| block.cidr.clone());
    let others: Vec<String> =
        sources.chain(destinations).filter_map(block).filter(|cidr| !is_known(cidr)).collect();
    if others.is_empty() {
        return None;
    }
    let others = others.join(", ");
    // What the API took and neither family reads allows nothing either.
    let why =
        if both { "only blocks of IPv4 and IPv6 allow anything" } else { "only IPv4 blocks allow anything" };
    Some(format!("nothing on this node's network has an address in {others}: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn blocks_of_ipv6_are_told() {
        let policy = |blocks: Value| -> NetworkPolicy {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"podSelector": {},
                "ingress": [{"from": [{"podSelector": {}}]}], "egress": [{"to": blocks}]}}))
            .unwrap()
        };
        let block = |cidr: &str| json!({"ipBlock": {"cidr": cidr}});
        assert_eq!(unenforceable(&policy(json!([block("10.0.0.0/8")])), false), None);
        let both = policy(json!([block("fd00::/8"), block("10.0.0.0/8"), block("::/0")]));
        assert_eq!(unenforceable(&both, true), None);
        let message = unenforceable(&both, false).unwrap();
        assert!(message.contains("in fd00::/8, ::/0: only IPv4 blocks"), "{message}");
        let message = unenforceable(&policy(json!([block("10.0.0.0")])), true).unwrap();
        assert!(message.contains("only blocks of IPv4 and IPv6"), "{message}");
    }
}
