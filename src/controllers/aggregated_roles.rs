//! Roles that are put together of others: their rules are those of all ClusterRoles that their selectors choose.
//!
//! Source: Kubernetes `pkg/controller/clusterroleaggregation`.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::json;
use tokio::task::JoinSet;

use super::{Next, queue, reflect, work};
use crate::api::request::PatchKind;
use crate::api::selector::LabelSelector;
use crate::api::status::Status;
use crate::client::Client;
use crate::client::reflector::Reflector;

/// Runs until dropped.
pub async fn run(client: Client) {
    let mut tasks = JoinSet::new();
    let roles: Reflector<ClusterRole> = reflect(&mut tasks, &client);
    roles.synced().await;
    let queue = queue(&client, "ClusterRoleAggregator");
    // Any role may be a part of any other that is put together.
    let by_role = async {
        let mut changes = roles.subscribe();
        while let Some(key) = changes.next().await {
            queue.add(&key);
            for role in roles.list().iter().filter(|role| role.aggregation_rule.is_some()) {
                queue.add(role.metadata.name.as_deref().unwrap_or_default());
            }
        }
    };
    let reconcile = |key: String| {
        let wanted = roles.get(&key).and_then(|role| plan(&role, &roles.list()));
        let client = &client;
        async move {
            let Some(rules) = wanted else { return Ok(Next::Await) };
            let patch = json!({ "rules": rules });
            match client.all::<ClusterRole>().patch(&key, None, PatchKind::Merge, patch).await {
                Err(status) if !status.is("NotFound") => Err::<Next, Status>(status),
                _ => Ok(Next::Await),
            }
        }
    };
    tokio::join!(by_role, work("clusterrole-aggregation", &queue, reconcile));
}

/// The rules that a role gets of the others; `None` when it has them, or is not put together.
fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut parts = BTreeMap::new();
    for selector in selectors {
        // A selector that cannot be read chooses nothing.
        let value = serde_json::to_value(selector).unwrap_or_default();
        let Ok(selector) = LabelSelector::from_object(&value) else { continue };
        let none = BTreeMap::new();
        let chosen = |part: &&Arc<ClusterRole>| {
            part.metadata.name != role.metadata.name
                && selector.matches_map(part.metadata.labels.as_ref().unwrap_or(&none))
        };
        parts.extend(all.iter().filter(chosen).map(|part| (part.metadata.name.as_deref(), part)));
    }
    let mut rules: Vec<PolicyRule> = Vec::new();
    for rule in parts.values().flat_map(|part| part.rules.iter().flatten()) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(value: serde_json::Value) -> Arc<ClusterRole> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn rules_are_those_of_the_parts_in_the_order_of_their_names() {
        let rule = |resource: &str| json!({"verbs": ["get"], "apiGroups": [""], "resources": [resource]});
        let part = |name: &str, label: &str, rules: &[&str]| {
            let rules: Vec<_> = rules.iter().map(|r| rule(r)).collect();
            role(json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": rules}))
        };
        let whole = |rules: &[&str]| {
            let rules: Vec<_> = rules.iter().map(|r| rule(r)).collect();
            role(json!({"metadata": {"name": "whole", "labels": {"a": "true"}}, "rules": rules,
                "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "true"}},
                    {"matchExpressions": [{"key": "b", "operator": "Exists"}]}]}}))
        };
        let all = [
            whole(&[]),
            part("z", "a", &["pods", "secrets"]),
            part("y", "b", &["services", "pods"]),
            part("x", "c", &["nodes"]),
        ];
        let names = |rules: Option<Vec<PolicyRule>>| {
            rules.map(|rules| {
                rules.iter().map(|r| r.resources.as_ref().unwrap()[0].clone()).collect::<Vec<_>>()
            })
        };
        assert_eq!(names(plan(&all[0], &all)).unwrap(), ["services", "pods", "secrets"]);
        assert_eq!(plan(&whole(&["services", "pods", "secrets"]), &all), None);
        assert_eq!(plan(&all[1], &all), None);
        assert_eq!(names(plan(&whole(&["services"]), &all[..1])).unwrap(), [""; 0]);
    }
}
