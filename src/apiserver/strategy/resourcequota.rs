//! Resource quotas (`ValidateResourceQuota` of Kubernetes' core validation).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::column::{self, AGE, NAME};
use super::resources;
use super::value::{entries, items, object, text};
use super::{Column, Strategy};
use crate::api::status::FieldError;

const COMPUTE: &[&str] = &["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
/// Scopes that cannot be had together.
const CONFLICTING: &[[&str; 2]] = &[["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];

/// The strategy of quotas.
pub(super) struct ResourceQuota;

impl Strategy for ResourceQuota {
    fn default(&self, quota: &mut Value) {
        object(quota, "spec");
    }

    fn prepare_create(&self, quota: &mut Value) {
        quota["status"] = json!({});
    }

    fn validate(&self, quota: &Value) -> Vec<FieldError> {
        let spec = &quota["spec"];
        let mut errors = amounts("spec.hard", &spec["hard"]);
        errors.extend(scopes(spec));
        errors.extend(scope_selector(spec));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let sorted = |quota: &Value| {
            let mut scopes: Vec<String> =
                items(&quota["spec"], "scopes").iter().map(Value::to_string).collect();
            scopes.sort_unstable();
            scopes.dedup();
            scopes
        };
        let error = || FieldError::invalid("spec.scopes", &new["spec"]["scopes"], "field is immutable");
        (sorted(new) != sorted(old)).then(error).into_iter().collect()
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = amounts("status.hard", &new["status"]["hard"]);
        errors.extend(amounts("status.used", &new["status"]["used"]));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("Request", "What is used of what may be asked for."),
            column::text("Limit", "What is used of what may be had at most."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, quota: &Value, now: Timestamp) -> Vec<Value> {
        let status = &quota["status"];
        let cell = |limits: bool| {
            let all = entries(status, "hard").filter(|(name, _)| name.starts_with("limits.") == limits);
            let all = all.map(|(name, hard)| {
                let used = status["used"][name].as_str().unwrap_or("0");
                format!("{name}: {used}/{}", hard.as_str().unwrap_or_default())
            });
            Value::from(all.collect::<Vec<_>>().join(", "))
        };
        vec![column::name(quota), cell(false), cell(true), column::age(quota, now)]
    }
}

fn amounts(path: &str, amounts: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (name, value) in amounts.as_object().into_iter().flatten() {
        let at = format!("{path}[{name}]");
        errors.extend(resources::quota_name(&at, name));
        errors.extend(resources::amount(&at, name, value));
    }
    errors
}

fn is_known(scope: &str) -> bool {
    CONFLICTING.iter().flatten().any(|known| *known == scope)
        || ["PriorityClass", "CrossNamespacePodAffinity", "VolumeAttributesClass"].contains(&scope)
}

/// Whether a quota of this scope can hold the resource to a limit.
fn fits(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => ["persistentvolumeclaims", "requests.storage"].contains(&resource),
        scope if is_known(scope) => resource == "pods" || COMPUTE.contains(&resource),
        _ => true,
    }
}

/// Resources that a quota of this scope has but cannot hold to a limit.
fn unfit<'a>(spec: &'a Value, scope: &'a str) -> impl Iterator<Item = &'a String> {
    let named = entries(spec, "hard").map(|(name, _)| name);
    named.filter(move |name| resources::is_quota(name) && !fits(scope, name))
}

fn conflicting(spec: &Value, scopes: &[&str]) -> Vec<FieldError> {
    let both = CONFLICTING.iter().filter(|pair| pair.iter().all(|scope| scopes.contains(scope)));
    both.map(|_| FieldError::invalid("spec.scopes", &spec["scopes"], "conflicting scopes")).collect()
}

fn scopes(spec: &Value) -> Vec<FieldError> {
    let given: Vec<&str> = items(spec, "scopes").iter().filter_map(Value::as_str).collect();
    let mut errors = Vec::new();
    let mut wrong = |why: &str| errors.push(FieldError::invalid("spec.scopes", &spec["scopes"], why));
    for scope in &given {
        if !is_known(scope) {
            wrong("unsupported scope");
        }
        unfit(spec, scope).for_each(|_| wrong("unsupported scope applied to resource"));
    }
    errors.extend(conflicting(spec, &given));
    errors
}

fn scope_selector(spec: &Value) -> Vec<FieldError> {
    const PATH: &str = "spec.scopeSelector.matchExpressions";
    let selector = &spec["scopeSelector"];
    let mut errors = Vec::new();
    let mut given = Vec::new();
    for expression in items(selector, "matchExpressions") {
        let at = |field: &str| format!("{PATH}.{field}");
        let (scope, operator) = (text(expression, "scopeName"), text(expression, "operator"));
        if !is_known(scope) {
            errors.push(FieldError::invalid(at("scopeName"), &json!(scope), "unsupported scope"));
        }
        let why = "unsupported scope applied to resource";
        errors.extend(unfit(spec, scope).map(|_| FieldError::invalid(PATH, selector, why)));
        let only_there = is_known(scope) && !["PriorityClass", "VolumeAttributesClass"].contains(&scope);
        if only_there && operator != "Exists" {
            let why = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, \
                       ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
                       ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.push(FieldError::invalid(at("operator"), &json!(operator), why));
        }
        let values = items(expression, "values");
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.push(FieldError::required(at("values"), why));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.push(FieldError::invalid(at("values"), &expression["values"], why));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => {
                let why = "not a valid selector operator";
                errors.push(FieldError::invalid(at("operator"), &json!(operator), why));
            }
        }
        given.push(scope);
    }
    errors.extend(conflicting(spec, &given));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_and_words_are_kubernetes() {
        for (spec, errors) in [
            (json!({"hard": {"pods": "10", "requests.cpu": "1", "count/jobs.batch": "3"}}), &[][..]),
            (
                json!({"hard": {"pods": "1500m", "cpu": "-1"}}),
                &[
                    "spec.hard[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
                    "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
                ],
            ),
            (
                json!({"scopes": ["BestEffort", "NotBestEffort", "X"], "hard": {"pods": "1", "cpu": "1"}}),
                &[
                    "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"X\"]: unsupported scope applied to resource",
                    "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"X\"]: unsupported scope",
                    "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"X\"]: conflicting scopes",
                ],
            ),
            (
                json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}}),
                &[
                    "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
                ],
            ),
        ] {
            assert_eq!(told(ResourceQuota.validate(&json!({"spec": spec}))), errors, "{spec}");
        }
        let of = |scopes: Value| json!({"spec": {"scopes": scopes}});
        assert!(ResourceQuota.validate_update(&of(json!(["A", "B"])), &of(json!(["B", "A"]))).is_empty());
        assert_eq!(
            told(ResourceQuota.validate_update(&of(json!(["A"])), &of(json!([])))),
            ["spec.scopes: Invalid value: [\"A\"]: field is immutable"]
        );
    }

    #[test]
    fn a_line_is_kubectls() {
        let quota = json!({"metadata": {"name": "q"}, "status": {
            "hard": {"pods": "10", "requests.cpu": "1", "limits.cpu": "2"}, "used": {"pods": "1", "limits.cpu": "500m"}}});
        assert_eq!(
            ResourceQuota.cells(&quota, Timestamp::UNIX_EPOCH)[1..3],
            ["pods: 1/10, requests.cpu: 0/1", "limits.cpu: 500m/2"].map(Value::from)
        );
    }
}
