//! Priority and fairness: no client takes the server from the others.
//!
//! Requests are sorted by the flow schemas that every Kubernetes cluster has into priority levels; each level carries
//! out so many at a time, and users of a level that wait take turns. Source: k8s.io/apiserver
//! `pkg/util/flowcontrol` and `pkg/apis/flowcontrol/bootstrap`; shuffle sharding, borrowing between levels and schemas
//! of one's own are not followed: one node has few users.

use std::collections::HashMap;
use std::sync::Arc;

use super::auth::attributes::{Asked, Attributes};
use super::auth::rbac::MASTERS;
use super::auth::{account_of, rbac};
use crate::api::request::User;
use crate::api::status::Status;

pub mod defaults;
mod level;

use self::defaults::{LEVELS, Limit};
use self::level::Level;
pub use self::level::Permit;

/// How many requests the server carries out at a time beside those of its administrators
/// (`--max-requests-inflight` and `--max-mutating-requests-inflight`).
const SERVER_LIMIT: usize = 600;
/// After how many seconds a refused client may come again.
const RETRY_AFTER: u32 = 1;

/// Where a request belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// The flow schema that chose it.
    pub schema: &'static str,
    /// The priority level.
    pub level: &'static str,
    /// With whom it shares its turns.
    flow: String,
}

/// Where a request of this user belongs.
pub fn classify(user: &User, attributes: &Attributes<'_>) -> Class {
    let of_user = |schema, level| Class { schema, level, flow: user.name.clone() };
    let of_namespace = |schema, level| Class { schema, level, flow: attributes.namespace().to_owned() };
    let in_group = |name: &str| user.groups.iter().any(|group| group == name);
    if in_group(MASTERS) {
        return of_user("exempt", "exempt");
    }
    if rbac::is_health_check(attributes) && attributes.verb == "get" {
        return of_user("probes", "exempt");
    }
    let account = account_of(&user.name);
    let of_system = account.is_some_and(|(namespace, _)| namespace == "kube-system");
    let component = match user.name.as_str() {
        "system:kube-controller-manager" => Some("kube-controller-manager"),
        "system:kube-scheduler" => Some("kube-scheduler"),
        _ => None,
    };
    let (leases, nodes) = match attributes.asked {
        Asked::Resource { group, resource, .. } => {
            (group == "coordination.k8s.io" && resource == "leases", group.is_empty() && resource == "nodes")
        }
        Asked::Path(_) => (false, false),
    };
    let elects = leases && ["get", "create", "update"].contains(&attributes.verb);
    if elects && (component.is_some() || of_system) {
        return of_user("system-leader-election", "leader-election");
    }
    if in_group("system:nodes") {
        let high = leases || nodes;
        return if high {
            of_user("system-node-high", "node-high")
        } else {
            of_user("system-nodes", "system")
        };
    }
    if let Some(component) = component {
        return of_namespace(component, "workload-high");
    }
    if of_system {
        return of_namespace("kube-system-service-accounts", "workload-high");
    }
    if in_group("system:serviceaccounts") {
        return of_user("service-accounts", "workload-low");
    }
    of_user("global-default", "global-default")
}

/// The levels, with what they carry out at this moment.
pub struct Fairness(HashMap<&'static str, Arc<Level>>);

impl Default for Fairness {
    fn default() -> Fairness {
        let all: u32 = LEVELS.iter().map(|level| level.shares).sum();
        let levels = LEVELS.iter().filter(|level| level.limit != Limit::None).map(|level| {
            let share = (SERVER_LIMIT * level.shares as usize).div_ceil(all as usize);
            let queue = if level.limit == Limit::Queue { level::QUEUE } else { 0 };
            (level.name, Level::new(share, queue))
        });
        Fairness(levels.collect())
    }
}

impl Fairness {
    /// Waits until a request may be carried out, which lasts as long as the permit; nothing is needed on a level without
    /// a limit. 429 when too many wait already, or it waits too long.
    pub async fn enter(&self, class: &Class) -> Result<Option<Permit>, Status> {
        let Some(level) = self.0.get(class.level) else { return Ok(None) };
        let message = "Too many requests, please try again later.";
        let permit = level.enter(&class.flow).await;
        permit.map(Some).ok_or_else(|| Status::too_many_requests(message, RETRY_AFTER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_belong_to_the_levels_of_kubernetes() {
        let user = |name: &str, groups: &[&str]| User {
            name: name.to_owned(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..User::default()
        };
        let asked = |verb, group, resource| Attributes {
            verb,
            asked: Asked::Resource { group, resource, subresource: "", namespace: "blue", name: "" },
        };
        let pods = || asked("list", "", "pods");
        let lease = || asked("update", "coordination.k8s.io", "leases");
        let account = |name: &str| user(name, &["system:serviceaccounts"]);
        for (user, attributes, schema, level, flow) in [
            (user("admin", &[MASTERS]), pods(), "exempt", "exempt", "admin"),
            (user("jane", &[]), Attributes::path("/readyz", "get"), "probes", "exempt", "jane"),
            (user("jane", &[]), pods(), "global-default", "global-default", "jane"),
            (
                account("system:serviceaccount:blue:robot"),
                pods(),
                "service-accounts",
                "workload-low",
                "system:serviceaccount:blue:robot",
            ),
            (
                account("system:serviceaccount:kube-system:dns"),
                pods(),
                "kube-system-service-accounts",
                "workload-high",
                "blue",
            ),
            (
                account("system:serviceaccount:kube-system:dns"),
                lease(),
                "system-leader-election",
                "leader-election",
                "system:serviceaccount:kube-system:dns",
            ),
            (user("system:kube-scheduler", &[]), pods(), "kube-scheduler", "workload-high", "blue"),
            (
                user("system:node:a", &["system:nodes"]),
                lease(),
                "system-node-high",
                "node-high",
                "system:node:a",
            ),
            (user("system:node:a", &["system:nodes"]), pods(), "system-nodes", "system", "system:node:a"),
        ] {
            let class = classify(&user, &attributes);
            assert_eq!((class.schema, class.level, class.flow.as_str()), (schema, level, flow));
            assert!(defaults::schemas().iter().any(|s| s.name == schema && s.level == level), "{schema}");
        }
    }

    #[tokio::test]
    async fn a_level_that_does_not_queue_refuses() {
        let fairness = Fairness::default();
        let class = Class { schema: "catch-all", level: "catch-all", flow: "x".into() };
        let mut permits = Vec::new();
        let refused = loop {
            match fairness.enter(&class).await {
                Ok(permit) => permits.push(permit),
                Err(refused) => break refused,
            }
        };
        // Of 245 shares of 600 this level has 5.
        assert_eq!((permits.len(), refused.code), (13, 429));
        assert_eq!(refused.details.unwrap().retry_after_seconds, 1);
        let exempt = Class { schema: "exempt", level: "exempt", flow: "x".into() };
        assert!(fairness.enter(&exempt).await.unwrap().is_none());
    }
}
