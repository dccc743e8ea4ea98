//! What a job's policies say of failed pods and of succeeded indexes (Kubernetes
//! `pkg/controller/job/pod_failure_policy.go`, `success_policy.go`).

use k8s_openapi::api::batch::v1::{PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, SuccessPolicy};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::indexes::Indexes;

/// What becomes of a pod's failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It counts towards the limit.
    Counted,
    /// It counts, and its index has failed with it.
    FailsIndex,
    /// The whole job has failed with it, for this reason.
    FailsJob(String),
    /// It does not count.
    Ignored,
}

/// What the first rule that a failed pod matches says; without one it counts.
pub(super) fn failure(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Failure {
    let rules = policy.iter().flat_map(|policy| policy.rules.iter().enumerate());
    for (index, rule) in rules {
        let place = format!("{}/{}", text(&pod.metadata.namespace), text(&pod.metadata.name));
        let what = match (&rule.on_exit_codes, &rule.on_pod_conditions) {
            (Some(codes), _) => ended_with(pod, codes)
                .map(|(name, code)| format!("Container {name} for pod {place} failed with exit code {code}")),
            (None, Some(patterns)) => {
                let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
                let matched = |type_: &str, status: &str| {
                    patterns
                        .iter()
                        .any(|p| p.type_ == type_ && p.status.as_deref().unwrap_or("True") == status)
                };
                let found = conditions.into_iter().find(|c| matched(&c.type_, &c.status));
                found.map(|condition| format!("Pod {place} has condition {}", condition.type_))
            }
            (None, None) => None,
        };
        let Some(what) = what else { continue };
        match rule.action.as_str() {
            "Ignore" => return Failure::Ignored,
            "Count" => return Failure::Counted,
            "FailIndex" => return Failure::FailsIndex,
            "FailJob" => {
                return Failure::FailsJob(format!("{what} matching {} rule at index {index}", rule.action));
            }
            _ => {}
        }
    }
    Failure::Counted
}

/// The first container that ended with one of the codes that a rule means.
fn ended_with<'a>(pod: &'a Pod, codes: &PodFailurePolicyOnExitCodesRequirement) -> Option<(&'a str, i32)> {
    let status = pod.status.as_ref()?;
    let main = status.container_statuses.iter().flatten();
    let all = main.chain(status.init_container_statuses.iter().flatten());
    let meant = |container: &&ContainerStatus| {
        codes.container_name.as_ref().is_none_or(|name| *name == container.name)
    };
    let code = |container: &'a ContainerStatus| {
        Some((container.name.as_str(), container.state.as_ref()?.terminated.as_ref()?.exit_code))
    };
    all.filter(meant).filter_map(code).find(|(_, code)| {
        let listed = codes.values.contains(code);
        *code != 0 && (codes.operator == "In" && listed || codes.operator == "NotIn" && !listed)
    })
}

/// Which rule of a job's policy is met by what succeeded, as a condition tells it.
pub(super) fn success(
    policy: Option<&SuccessPolicy>,
    completions: i32,
    succeeded: &Indexes,
) -> Option<String> {
    if succeeded.total() == 0 {
        return None;
    }
    let met = policy?.rules.iter().position(|rule| {
        let enough = |count: i32| rule.succeeded_count.is_some_and(|wanted| count >= wanted);
        match &rule.succeeded_indexes {
            Some(text) => {
                let wanted = Indexes::parse(text, completions);
                let there = wanted.common(succeeded);
                wanted.total() > 0 && (there == wanted.total() || enough(there))
            }
            None => enough(succeeded.total()),
        }
    })?;
    Some(format!("Matched rules at index {met}"))
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(code: i32, condition: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"namespace": "d", "name": "p"}, "status": {
            "conditions": [{"type": condition, "status": "True"}],
            "containerStatuses": [{"name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code}}}]}}))
        .unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let codes = |action: &str, operator: &str, values: &[i32]| json!({"action": action, "onExitCodes": {"operator": operator, "values": values}});
        let target =
            json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]});
        let elsewhere = json!({"action": "FailJob", "onExitCodes": {"containerName": "other", "operator": "In", "values": [3]}});
        let told = |what: &str| Failure::FailsJob(what.to_owned());
        for (rules, pod, expected) in [
            (json!([]), pod(3, "Ready"), Failure::Counted),
            (
                json!([codes("FailJob", "In", &[3])]),
                pod(3, "Ready"),
                told("Container main for pod d/p failed with exit code 3 matching FailJob rule at index 0"),
            ),
            (json!([codes("FailJob", "In", &[4])]), pod(3, "Ready"), Failure::Counted),
            (json!([codes("FailJob", "NotIn", &[4])]), pod(0, "Ready"), Failure::Counted),
            (json!([elsewhere, codes("FailIndex", "NotIn", &[4])]), pod(3, "Ready"), Failure::FailsIndex),
            (json!([target, codes("Count", "In", &[3])]), pod(3, "DisruptionTarget"), Failure::Ignored),
            (
                json!([{"action": "FailJob", "onPodConditions": [{"type": "ConfigIssue"}]}]),
                pod(3, "ConfigIssue"),
                told("Pod d/p has condition ConfigIssue matching FailJob rule at index 0"),
            ),
        ] {
            let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
            assert_eq!(failure(Some(&policy), &pod), expected, "{rules}");
        }
        assert_eq!(failure(None, &pod(1, "Ready")), Failure::Counted);
    }

    #[test]
    fn success_by_indexes_and_counts() {
        let met = |rules: Value, succeeded: &str| {
            let policy: SuccessPolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
            success(Some(&policy), 10, &Indexes::parse(succeeded, 10))
        };
        let first = Some("Matched rules at index 0".to_owned());
        assert_eq!(met(json!([{"succeededIndexes": "0,2-3"}]), "0-2"), None);
        assert_eq!(met(json!([{"succeededIndexes": "0,2-3"}]), "0-5"), first);
        assert_eq!(met(json!([{"succeededIndexes": "0-9", "succeededCount": 2}]), "7,9"), first);
        assert_eq!(met(json!([{"succeededCount": 3}]), "7,9"), None);
        let second = Some("Matched rules at index 1".to_owned());
        assert_eq!(met(json!([{"succeededIndexes": "x"}, {"succeededCount": 2}]), "7,9"), second);
        assert_eq!(met(json!([{"succeededCount": 0}]), ""), None);
    }
}
