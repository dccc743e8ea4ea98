//! What is wrong with what containers, and whole pods, ask for and may use (`validateResourceRequirements`).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::resources as names_of;
use super::super::value::{entries, items, text};
use super::fields::{invalid, word};
use crate::api::names;
use crate::api::quantity::{self, Quantity};
use crate::api::resources;
use crate::api::status::FieldError;

/// What a pod can ask for as a whole, in Kubernetes' (sorted) order; huge pages of any size besides.
const OF_WHOLE_PODS: [&str; 3] = ["cpu", "hugepages-", "memory"];

/// What is wrong with a container's resources; `spec` is the pod's, which names the claims.
pub(super) fn of_container(path: &str, resources: &Value, spec: &Value) -> Vec<FieldError> {
    requirements(path, resources, spec, names_of::container_name)
}

/// What is wrong with what the pod asks for as a whole (`validatePodResources`).
pub(super) fn of_pod(spec: &Value) -> Vec<FieldError> {
    const PATH: &str = "spec.resources";
    let whole = &spec["resources"];
    if whole.is_null() {
        return Vec::new();
    }
    if text(&spec["os"], "name") == "windows" {
        return vec![FieldError::forbidden(PATH, "may not be set for a windows pod")];
    }
    let mut errors = Vec::new();
    if !whole["claims"].is_null() {
        let why = "claims may not be set for Resources at pod-level";
        errors.push(FieldError::forbidden(format!("{PATH}.claims"), why));
    }
    errors.extend(requirements(PATH, whole, spec, pod_name));
    errors.extend(consistency(PATH, whole, spec));
    errors
}

/// What is wrong with the overhead of a pod's runtime class, which is a list of limits.
pub(super) fn overhead(spec: &Value) -> Vec<FieldError> {
    match &spec["overhead"] {
        Value::Null => Vec::new(),
        overhead => of_container("spec.overhead", &json!({ "limits": overhead }), spec),
    }
}

fn amount(value: &Value) -> Option<Quantity> {
    value.as_str().and_then(|text| quantity::parse(text).ok())
}

fn requirements(
    path: &str,
    resources: &Value,
    spec: &Value,
    name_rule: fn(&str, &str) -> Vec<FieldError>,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for list in ["limits", "requests"] {
        for (name, value) in entries(resources, list) {
            let at = format!("{path}.{list}[{name}]");
            errors.extend(name_rule(&at, name));
            errors.extend(names_of::amount(&at, name, value));
            if list == "requests" {
                errors.extend(against_limit(path, name, value, &resources["limits"][name]));
            }
            errors.extend(huge_pages(&at, name, value));
        }
    }
    let both = || entries(resources, "limits").chain(entries(resources, "requests")).map(|(name, _)| name);
    if both().any(|name| names_of::is_huge_pages(name))
        && !both().any(|name| name == "cpu" || name == "memory")
    {
        errors.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
    errors.extend(claims(&format!("{path}.claims"), items(resources, "claims"), spec));
    errors
}

/// A request fits below its limit; what cannot be promised twice is limited to what is asked for.
fn against_limit(path: &str, name: &str, value: &Value, limit: &Value) -> Option<FieldError> {
    let shared = names_of::can_be_overcommitted(name);
    if limit.is_null() {
        let why = "Limit must be set for non overcommitable resources";
        return (!shared).then(|| FieldError::required(format!("{path}.limits"), why));
    }
    let (request, limited) = (amount(value)?, amount(limit)?);
    let why = match shared {
        false if request != limited => format!("must be equal to {name} limit of {limited}"),
        true if request > limited => format!("must be less than or equal to {name} limit of {limited}"),
        _ => return None,
    };
    Some(FieldError::invalid(format!("{path}.requests"), value, &why))
}

/// Huge pages come in whole pages.
fn huge_pages(path: &str, name: &str, value: &Value) -> Option<FieldError> {
    let page = quantity::parse(name.strip_prefix("hugepages-")?).ok();
    let bytes = amount(value)?;
    let whole = page.filter(|page| page.value() > 0).is_some_and(|page| bytes.value() % page.value() == 0);
    let why = || format!("{bytes} is not positive integer multiple of {name}");
    (!whole).then(|| FieldError::invalid(path, value, &why()))
}

/// The claims of the pod that a container uses, each in whole or some requests of it.
fn claims(path: &str, claims: &[Value], spec: &Value) -> Vec<FieldError> {
    let known: BTreeSet<&str> = items(spec, "resourceClaims")
        .iter()
        .map(|claim| text(claim, "name"))
        .filter(|n| !n.is_empty())
        .collect();
    let mut errors = Vec::new();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let at = format!("{path}[{i}]");
        let (name, request) = (text(claim, "name"), text(claim, "request"));
        if name.is_empty() {
            errors.push(FieldError::required(at, ""));
            continue;
        }
        if seen.contains(name) {
            errors.push(FieldError::duplicate(&at, &claim["name"]));
        } else {
            let key = match request {
                "" => name.to_owned(),
                request => {
                    errors.extend(invalid(
                        &format!("{at}.request"),
                        &claim["request"],
                        names::dns_label(request),
                    ));
                    format!("{name}/{request}")
                }
            };
            if seen.contains(&key) {
                errors.push(FieldError::duplicate(&at, &json!(key)));
            } else if request.is_empty() {
                let parts = seen.iter().filter(|key| key.split_once('/').is_some_and(|(of, _)| of == name));
                errors.extend(parts.map(|_| FieldError::duplicate(&at, &claim["name"])));
            }
            seen.insert(key);
        }
        if !known.contains(name) {
            let mut error = FieldError::not_found(&at, &claim["name"]);
            error.message.push_str(": must be one of the names in pod.spec.resourceClaims");
            error.message.push_str(&match known.is_empty() {
                true => " which is empty".to_owned(),
                false => format!(": {}", known.iter().copied().collect::<Vec<_>>().join(", ")),
            });
            errors.push(error);
        }
    }
    errors
}

/// A name of what a pod can ask for as a whole.
fn pod_name(path: &str, given: &str) -> Vec<FieldError> {
    let errors = names_of::name(path, given);
    let supported = OF_WHOLE_PODS.contains(&given) || names_of::is_huge_pages(given);
    if !errors.is_empty() || supported {
        return errors;
    }
    vec![FieldError::not_supported(path, &json!(given), &OF_WHOLE_PODS)]
}

/// What the pod asks for covers what its containers ask for, and no container may use more than the pod
/// (`validatePodResourceConsistency`).
fn consistency(path: &str, whole: &Value, spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for list in ["requests", "limits"] {
        for (name, sum) in resources::of_pod_containers(spec, list) {
            let given = &whole[list][&name];
            if list == "limits" && !names_of::is_huge_pages(&name) {
                continue;
            }
            if amount(given).is_some_and(|given| sum > given) {
                let why = format!("must be greater than or equal to aggregate container {list} of {sum}");
                errors.push(FieldError::invalid(format!("{path}.{list}[{name}]"), given, &why));
            }
        }
    }
    for (i, container) in items(spec, "containers").iter().enumerate() {
        for (name, limit) in entries(&container["resources"], "limits") {
            let (Some(own), Some(most)) = (amount(limit), amount(&whole["limits"][name])) else { continue };
            if own > most {
                // The order of the parts is Kubernetes' own.
                let at = format!("{path}.containers[{i}][{name}].limits");
                let why = format!("must be less than or equal to pod limits of {most}");
                errors.push(FieldError::invalid(at, limit, &why));
            }
        }
    }
    errors
}

/// What is wrong with the claims of a pod for devices (`validatePodResourceClaims`).
pub(super) fn pod_claims(spec: &Value) -> Vec<FieldError> {
    let all = items(spec, "resourceClaims");
    let mut errors = Vec::new();
    for (i, claim) in all.iter().enumerate() {
        let path = format!("spec.resourceClaims[{i}]");
        let at = format!("{path}.name");
        match text(claim, "name") {
            "" => errors.push(FieldError::required(at, "")),
            name if all[..i].iter().any(|before| text(before, "name") == name) => {
                errors.push(FieldError::duplicate(at, &claim["name"]));
            }
            name => errors.extend(invalid(&at, &claim["name"], names::dns_label(name))),
        }
        const SOURCES: [&str; 2] = ["resourceClaimName", "resourceClaimTemplateName"];
        let why = match SOURCES.iter().filter(|source| !claim[**source].is_null()).count() {
            0 => Some("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            1 => None,
            _ => Some("at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"),
        };
        errors.extend(why.map(|why| FieldError::invalid(&path, claim, why)));
        for source in SOURCES {
            if let Some(name) = claim[source].as_str() {
                let at = format!("{path}.{source}");
                errors.extend(invalid(&at, &claim[source], names::dns_subdomain(name)));
            }
        }
    }
    errors
}

/// What is wrong with how a container takes a change of its resources; `spec` is the pod's (`validateResizePolicy`).
pub(super) fn resize_policy(path: &str, container: &Value, spec: &Value) -> Vec<FieldError> {
    let all = items(container, "resizePolicy");
    let mut errors = Vec::new();
    for (i, policy) in all.iter().enumerate() {
        if all[..i].iter().any(|before| before["resourceName"] == policy["resourceName"]) {
            errors.push(FieldError::duplicate(format!("{path}[{i}]"), &policy["resourceName"]));
        }
        for (field, allowed) in
            [("resourceName", &["cpu", "memory"]), ("restartPolicy", &["NotRequired", "RestartContainer"])]
        {
            match text(policy, field) {
                "" => errors.push(FieldError::required(path, "")),
                _ => errors.extend(word(path, &policy[field], allowed)),
            }
        }
        if text(spec, "restartPolicy") == "Never" && text(policy, "restartPolicy") != "NotRequired" {
            let why = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(path, &json!(text(policy, "restartPolicy")), why));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_containers_ask_for_is_checked() {
        let spec = json!({"resourceClaims": [{"name": "gpu"}, {"name": "net"}]});
        for (resources, expected) in [
            (json!({"limits": {"a.b/c": "2"}, "requests": {"a.b/c": "2", "cpu": "1"}}), &[][..]),
            (
                json!({"requests": {"a.b/c": "1"}}),
                &["r.limits: Required value: Limit must be set for non overcommitable resources"],
            ),
            (
                json!({"limits": {"a.b/c": "2"}, "requests": {"a.b/c": "1"}}),
                &["r.requests: Invalid value: \"1\": must be equal to a.b/c limit of 2"],
            ),
            (
                json!({"limits": {"hugepages-2Mi": "3Mi"}, "requests": {"hugepages-2Mi": "3Mi"}}),
                &[
                    "r.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
                    "r.requests[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
                    "r: Forbidden: HugePages require cpu or memory",
                ],
            ),
            (
                json!({"claims": [{"name": "gpu", "request": "a"}, {"name": "gpu", "request": "a"}, {"name": "gpu"}, {"name": "x"}, {}]}),
                &[
                    "r.claims[1]: Duplicate value: \"gpu/a\"",
                    "r.claims[2]: Duplicate value: \"gpu\"",
                    "r.claims[3]: Not found: \"x\": must be one of the names in pod.spec.resourceClaims: gpu, net",
                    "r.claims[4]: Required value",
                ],
            ),
        ] {
            assert_eq!(told(of_container("r", &resources, &spec)), expected, "{resources}");
        }
        let told = told(of_container("r", &json!({"claims": [{"name": "x"}]}), &json!({})));
        assert_eq!(
            told,
            [
                "r.claims[0]: Not found: \"x\": must be one of the names in pod.spec.resourceClaims which is empty"
            ]
        );
    }

    #[test]
    fn what_pods_ask_for_is_checked() {
        let container = |resources: Value| json!([{"name": "c", "resources": resources}]);
        for (spec, expected) in [
            (json!({"resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}}}), &[][..]),
            (
                json!({"resources": {"requests": {"ephemeral-storage": "1"}, "claims": []}}),
                &[
                    "spec.resources.claims: Forbidden: claims may not be set for Resources at pod-level",
                    "spec.resources.requests[ephemeral-storage]: Unsupported value: \"ephemeral-storage\": supported values: \"cpu\", \"hugepages-\", \"memory\"",
                ],
            ),
            (
                json!({"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}},
                    "containers": container(json!({"requests": {"cpu": "1500m"}, "limits": {"cpu": "3"}}))}),
                &[
                    "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 1500m",
                    "spec.resources.containers[0][cpu].limits: Invalid value: \"3\": must be less than or equal to pod limits of 2",
                ],
            ),
            (
                json!({"resources": {}, "os": {"name": "windows"}}),
                &["spec.resources: Forbidden: may not be set for a windows pod"],
            ),
        ] {
            assert_eq!(told(of_pod(&spec)), expected, "{spec}");
        }
        assert_eq!(told(overhead(&json!({"overhead": {"cpu": "-1"}}))).len(), 1);
    }

    #[test]
    fn claims_and_policies_are_checked() {
        let spec = json!({"restartPolicy": "Never", "resourceClaims": [
            {"name": "a", "resourceClaimName": "b"}, {"name": "a", "resourceClaimName": "b"},
            {"resourceClaimName": "b", "resourceClaimTemplateName": "c"}, {"name": "d"}]});
        let claims = told(pod_claims(&spec));
        assert_eq!(
            claims[..2],
            [
                "spec.resourceClaims[1].name: Duplicate value: \"a\"",
                "spec.resourceClaims[2].name: Required value",
            ]
        );
        assert!(
            claims[2].ends_with(
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            )
        );
        assert!(claims[3].ends_with("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"));
        let container = json!({"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"},
            {"resourceName": "gpu", "restartPolicy": "NotRequired"}]});
        assert_eq!(
            told(resize_policy("p", &container, &spec)),
            [
                "p: Invalid value: \"RestartContainer\": must be 'NotRequired' when `restartPolicy` is 'Never'",
                "p: Unsupported value: \"gpu\": supported values: \"cpu\", \"memory\"",
            ]
        );
    }
}
