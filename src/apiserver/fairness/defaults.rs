//! The priority levels and flow schemas that every Kubernetes cluster has from the start.

use serde_json::{Value, json};

/// Whether and how a level is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    /// Not at all.
    None,
    /// What is too much waits.
    Queue,
    /// What is too much is refused.
    Reject,
}

/// A priority level.
#[derive(Debug)]
pub struct LevelPreset {
    /// Its name.
    pub name: &'static str,
    /// How much of the server it gets.
    shares: u32,
    lendable: u32,
    /// What becomes of what is too much.
    limit: Limit,
    /// Queues and hand size, as Kubernetes has them.
    queues: (u32, u32),
}

const fn level(name: &'static str, shares: u32, lendable: u32, queues: (u32, u32)) -> LevelPreset {
    LevelPreset { name, shares, lendable, limit: Limit::Queue, queues }
}

/// The levels.
pub const LEVELS: &[LevelPreset] = &[
    LevelPreset { limit: Limit::None, ..level("exempt", 0, 0, (0, 0)) },
    level("system", 30, 33, (64, 6)),
    level("node-high", 40, 25, (64, 6)),
    level("leader-election", 10, 0, (16, 4)),
    level("workload-high", 40, 50, (128, 6)),
    level("workload-low", 100, 90, (128, 6)),
    level("global-default", 20, 50, (128, 6)),
    LevelPreset { limit: Limit::Reject, ..level("catch-all", 5, 0, (0, 0)) },
];

impl LevelPreset {
    /// The `PriorityLevelConfiguration`.
    pub fn object(&self) -> Value {
        let common = json!({"nominalConcurrencyShares": self.shares, "lendablePercent": self.lendable});
        let spec = match self.limit {
            Limit::None => json!({"type": "Exempt", "exempt": common}),
            _ => {
                let (queues, hand) = self.queues;
                let mut limited = common;
                limited["limitResponse"] = if self.limit == Limit::Reject {
                    json!({"type": "Reject"})
                } else {
                    json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand,
                        "queueLengthLimit": 50}})
                };
                json!({"type": "Limited", "limited": limited})
            }
        };
        json!({"metadata": metadata(self.name), "spec": spec})
    }
}

/// A flow schema.
#[derive(Debug)]
pub struct SchemaPreset {
    /// Its name.
    pub name: &'static str,
    /// The level that it sorts into.
    pub level: &'static str,
    /// The `FlowSchema`.
    pub object: Value,
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}})
}

fn groups(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

fn users(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "User", "user": {"name": name}})).collect()
}

/// The service accounts of `kube-system`.
fn system_accounts() -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "kube-system"}})
}

fn resources(verbs: &[&str], group: &str, resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
    if cluster {
        rule["clusterScope"] = json!(true);
    }
    rule
}

fn everything(subjects: &[Value]) -> Value {
    json!({"subjects": subjects, "resourceRules": [resources(&["*"], "*", &["*"], true)],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]})
}

/// The schemas, in the order in which they are asked.
pub fn schemas() -> Vec<SchemaPreset> {
    const LEASES: &str = "coordination.k8s.io";
    let everybody = groups(&["system:unauthenticated", "system:authenticated"]);
    let schema = |name, level: &'static str, precedence: u32, by: &str, rules: Value| {
        let mut spec = json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence,
            "rules": [rules]});
        if !by.is_empty() {
            spec["distinguisherMethod"] = json!({ "type": by });
        }
        SchemaPreset { name, level, object: json!({"metadata": metadata(name), "spec": spec}) }
    };
    let (by_user, by_namespace) = ("ByUser", "ByNamespace");
    let mut electing = users(&["system:kube-controller-manager", "system:kube-scheduler"]);
    electing.push(system_accounts());
    let election = json!({"subjects": electing,
        "resourceRules": [resources(&["get", "create", "update"], LEASES, &["leases"], false)]});
    let nodes = groups(&["system:nodes"]);
    let node_high = json!({"subjects": nodes, "resourceRules": [
        resources(&["*"], "", &["nodes", "nodes/status"], true), resources(&["*"], LEASES, &["leases"], false)]});
    let probes = json!({"subjects": everybody, "nonResourceRules": [
        {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]});
    let manager = everything(&users(&["system:kube-controller-manager"]));
    let scheduler = everything(&users(&["system:kube-scheduler"]));
    let accounts = everything(&groups(&["system:serviceaccounts"]));
    vec![
        schema("exempt", "exempt", 1, "", everything(&groups(&["system:masters"]))),
        schema("probes", "exempt", 2, "", probes),
        schema("system-leader-election", "leader-election", 100, by_user, election),
        schema("system-node-high", "node-high", 400, by_user, node_high),
        schema("system-nodes", "system", 500, by_user, everything(&nodes)),
        schema("kube-controller-manager", "workload-high", 800, by_namespace, manager),
        schema("kube-scheduler", "workload-high", 800, by_namespace, scheduler),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            by_namespace,
            everything(&[system_accounts()]),
        ),
        schema("service-accounts", "workload-low", 9000, by_user, accounts),
        schema("global-default", "global-default", 9900, by_user, everything(&everybody)),
        schema("catch-all", "catch-all", 10000, by_user, everything(&everybody)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_sorts_into_a_level() {
        for schema in schemas() {
            assert!(LEVELS.iter().any(|level| level.name == schema.level), "{}", schema.name);
            assert_eq!(schema.object["metadata"]["name"], schema.name);
        }
        let low = LEVELS.iter().find(|level| level.name == "workload-low").unwrap().object();
        assert_eq!(
            low["spec"]["limited"],
            json!({"nominalConcurrencyShares": 100, "lendablePercent": 90, "limitResponse": {"type": "Queue",
                "queuing": {"queues": 128, "handSize": 6, "queueLengthLimit": 50}}})
        );
    }
}
