//! APIServices of the groups and versions that this server serves itself (pure).
//!
//! Source: kubernetes `pkg/controlplane/apiserver/aggregator.go` (priorities), kube-aggregator
//! `pkg/controllers/autoregister`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::api::kinds::Text;
use crate::api::meta;
use crate::apiserver::resource_metrics;

/// Tells who looks after an APIService: `onstart` for groups of the program, `true` for those of custom kinds.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Priorities of a group, and of versions that are not [`OTHER_VERSIONS`].
const USUAL_VERSION: i64 = 15;
/// Of groups, the highest first.
const GROUPS: &[(&str, i64)] = &[
    ("", 18000),
    ("apps", 17800),
    ("events.k8s.io", 17750),
    ("authentication.k8s.io", 17700),
    ("authorization.k8s.io", 17600),
    ("autoscaling", 17500),
    ("batch", 17400),
    ("certificates.k8s.io", 17300),
    ("networking.k8s.io", 17200),
    ("policy", 17100),
    ("rbac.authorization.k8s.io", 17000),
    ("storage.k8s.io", 16800),
    ("apiextensions.k8s.io", 16700),
    ("admissionregistration.k8s.io", 16700),
    ("scheduling.k8s.io", 16600),
    ("coordination.k8s.io", 16500),
    ("node.k8s.io", 16300),
    ("discovery.k8s.io", 16200),
    ("flowcontrol.apiserver.k8s.io", 16100),
    ("resource.k8s.io", 15900),
    ("apiregistration.k8s.io", 15800),
    (resource_metrics::GROUP, 100),
];
/// Of versions within their groups.
const OTHER_VERSIONS: &[(&str, &str, i64)] = &[
    ("", "v1", 1),
    ("autoscaling", "v2", 30),
    ("flowcontrol.apiserver.k8s.io", "v1", 21),
    (resource_metrics::GROUP, resource_metrics::VERSION, 100),
];
/// Of the groups of custom kinds, and of their versions.
const CUSTOM: (i64, i64) = (1000, 100);

/// The name of the APIService of a group and version.
pub fn name(group: &str, version: &str) -> String {
    format!("{version}.{group}")
}

/// Priorities of a group and a version, and whether the program itself serves them.
fn priorities(group: &str, version: &str) -> (i64, i64, bool) {
    let Some((_, priority)) = GROUPS.iter().find(|(known, _)| *known == group) else {
        return (CUSTOM.0, CUSTOM.1, false);
    };
    let other = OTHER_VERSIONS.iter().find(|(g, v, _)| (*g, *v) == (group, version));
    (*priority, other.map_or(USUAL_VERSION, |(_, _, priority)| *priority), true)
}

/// What must be there for the groups and versions that are served.
pub fn wanted(served: &[(Text, Text)]) -> Vec<Value> {
    let of = |(group, version): &(Text, Text)| {
        let (group_priority, version_priority, built_in) = priorities(group, version);
        json!({"metadata": {"name": name(group, version),
                "labels": {MANAGED: if built_in { "onstart" } else { "true" }}},
            "spec": {"group": group, "version": version, "groupPriorityMinimum": group_priority,
                "versionPriority": version_priority}})
    };
    served.iter().map(of).collect()
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// There is none yet.
    Create(Value),
    /// Its spec is not what it must be.
    Update(Value),
    /// Nobody serves its group and version any more.
    Delete(String),
}

/// What brings the APIServices that are there to what must be there. Those that somebody else made are left alone, and so
/// is an add-on that has taken metrics.k8s.io over.
pub fn plan<'a>(wanted: Vec<Value>, present: impl Iterator<Item = &'a Value>) -> Vec<Action> {
    let present: BTreeMap<&str, &Value> = present.map(|service| (meta::name(service), service)).collect();
    let is_managed = |service: &Value| meta::label(service, MANAGED).is_some();
    let stale = present
        .values()
        .filter(|service| is_managed(service) && service["spec"]["service"].is_null())
        .map(|service| meta::name(service))
        .filter(|name| !wanted.iter().any(|wanted| meta::name(wanted) == *name))
        .map(|name| Action::Delete(name.to_owned()))
        .collect::<Vec<_>>();
    let mut actions = Vec::new();
    for wanted in wanted {
        match present.get(meta::name(&wanted)) {
            None => actions.push(Action::Create(wanted)),
            Some(there) if !is_managed(there) => {}
            Some(there) => {
                let taken =
                    wanted["spec"]["group"] == resource_metrics::GROUP && !there["spec"]["service"].is_null();
                if !taken && there["spec"] != wanted["spec"] {
                    actions.push(Action::Update(wanted));
                }
            }
        }
    }
    actions.extend(stale);
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(all: &[(&'static str, &'static str)]) -> Vec<Value> {
        wanted(&all.iter().map(|(g, v)| (Text::from(*g), Text::from(*v))).collect::<Vec<_>>())
    }

    #[test]
    fn groups_of_the_program_come_first() {
        let all = served(&[("", "v1"), ("autoscaling", "v2"), ("example.com", "v1")]);
        let of = |at: usize| {
            let spec = &all[at]["spec"];
            (
                meta::name(&all[at]).to_owned(),
                spec["groupPriorityMinimum"].as_i64(),
                spec["versionPriority"].as_i64(),
            )
        };
        assert_eq!(of(0), ("v1.".into(), Some(18000), Some(1)));
        assert_eq!(of(1), ("v2.autoscaling".into(), Some(17500), Some(30)));
        assert_eq!(of(2), ("v1.example.com".into(), Some(1000), Some(100)));
        assert_eq!(meta::label(&all[2], MANAGED), Some("true"));
    }

    #[test]
    fn what_somebody_else_made_is_left_alone() {
        let own = served(&[("apps", "v1"), ("example.com", "v1"), ("metrics.k8s.io", "v1beta1")]);
        assert_eq!(plan(own.clone(), own.iter()), []);
        assert_eq!(plan(own[..1].to_vec(), [].iter()), [Action::Create(own[0].clone())]);
        let gone = plan(own[..1].to_vec(), own.iter().take(2));
        assert_eq!(gone, [Action::Delete("v1.example.com".into())]);
        let mut changed = own.clone();
        changed[0]["spec"]["versionPriority"] = json!(3);
        changed[2]["spec"]["service"] = json!({"namespace": "kube-system", "name": "metrics-server"});
        assert_eq!(plan(own.clone(), changed.iter()), [Action::Update(own[0].clone())]);
        changed[0]["metadata"]["labels"] = json!({});
        assert_eq!(plan(own, changed.iter()), []);
    }
}
