//! LimitRanger: what containers, pods and claims of a namespace may ask for, and what they get when they ask nothing.
//!
//! Source: Kubernetes `plugin/pkg/admission/limitranger`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Attributes, Operation};
use crate::api::meta;
use crate::api::quantity::Quantity;
use crate::api::resources::{self, Resources};
use crate::api::status::Status;
use crate::apiserver::registry::Registry;

/// Where a pod says what it was given.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Gives the containers of a new pod what they do not ask for themselves.
pub fn mutate(registry: &Registry, attributes: &Attributes<'_>, pod: &mut Value) {
    for range in ranges(registry, attributes) {
        fill(pod, &range);
    }
}

/// Decides about a new pod, or a claim.
pub fn validate(registry: &Registry, attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    let claim = attributes.is("", "persistentvolumeclaims");
    let concerns = match (attributes.operation, attributes.subresource) {
        (Operation::Create, "") => true,
        (Operation::Update, "") => claim,
        (Operation::Update, "resize") => !claim,
        _ => false,
    };
    if !concerns || meta::is_deleting(object) {
        return Ok(());
    }
    for range in ranges(registry, attributes) {
        let found = if claim { claim_violations(object, &range) } else { pod_violations(object, &range) };
        let mut seen = BTreeSet::new();
        let found: Vec<String> = found.into_iter().filter(|why| seen.insert(why.clone())).collect();
        match found.as_slice() {
            [] => {}
            [one] => return Err(attributes.forbidden(object, one)),
            many => return Err(attributes.forbidden(object, &format!("[{}]", many.join(", ")))),
        }
    }
    Ok(())
}

/// The limit ranges of the namespace.
fn ranges(registry: &Registry, attributes: &Attributes<'_>) -> Vec<Value> {
    let Some(namespace) = attributes.namespace else { return Vec::new() };
    let entries = registry.all(&format!("limitranges/{namespace}/"));
    entries.iter().map(|entry| entry.json().clone()).collect()
}

/// The items of a range that are about containers, pods or claims.
fn limits<'a>(range: &'a Value, of: &'a str) -> impl Iterator<Item = &'a Value> {
    let items = range["spec"]["limits"].as_array().into_iter().flatten();
    items.filter(move |item| item["type"] == of)
}

fn fill(pod: &mut Value, range: &Value) {
    let (mut requests, mut most) = (Resources::new(), Resources::new());
    for item in limits(range, "Container") {
        requests.extend(resources::read(&item["defaultRequest"]));
        most.extend(resources::read(&item["default"]));
    }
    let mut given = Vec::new();
    for (list, called) in [("containers", "container"), ("initContainers", "init container")] {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (what, defaults, word) in [("requests", &requests, "request"), ("limits", &most, "limit")] {
                let added = add_missing(container, what, defaults);
                if !added.is_empty() {
                    given.push(format!("{} {word} for {called} {name}", added.join(", ")));
                }
            }
        }
    }
    if !given.is_empty() {
        meta::set_annotation(pod, ANNOTATION, &format!("LimitRanger plugin set: {}", given.join("; ")));
    }
}

/// Adds the defaults that a container does not state; the names of those that were added.
fn add_missing(container: &mut Value, what: &str, defaults: &Resources) -> Vec<String> {
    let stated = resources::of_container(container, what);
    let missing: Vec<_> = defaults.iter().filter(|(name, _)| !stated.contains_key(*name)).collect();
    if missing.is_empty() || !container.is_object() {
        return Vec::new();
    }
    let list = meta::child_mut(container, "resources").entry(what).or_insert(Value::Null);
    let list = meta::map_mut(list);
    for (name, amount) in &missing {
        list.insert((*name).clone(), json!(amount.to_string()));
    }
    missing.into_iter().map(|(name, _)| name.clone()).collect()
}

fn pod_violations(pod: &Value, range: &Value) -> Vec<String> {
    let spec = &pod["spec"];
    let mut found = Vec::new();
    for item in range["spec"]["limits"].as_array().into_iter().flatten() {
        if item["type"] == "Container" {
            let lists = ["containers", "initContainers"].iter().filter_map(|list| spec[list].as_array());
            for container in lists.flatten() {
                let of = |what| resources::of_container(container, what);
                found.extend(violations(item, "Container", &of("requests"), &of("limits")));
            }
        }
        if item["type"] == "Pod" {
            let of = |what| resources::of_pod(spec, what);
            found.extend(violations(item, "Pod", &of("requests"), &of("limits")));
        }
    }
    found
}

/// Of claims only what they request counts.
fn claim_violations(claim: &Value, range: &Value) -> Vec<String> {
    const OF: &str = "PersistentVolumeClaim";
    let requests = resources::read(&claim["spec"]["resources"]["requests"]);
    let mut found = Vec::new();
    for item in limits(range, OF) {
        for (name, least) in resources::read(&item["min"]) {
            found.extend(below(OF, &name, least, requests.get(&name), None));
        }
        for (name, most) in resources::read(&item["max"]) {
            let usage = format!("maximum {name} usage per {OF} is {most}");
            match requests.get(&name) {
                None => found.push(format!("{usage}.  No request is specified")),
                Some(asked) if *asked > most => found.push(format!("{usage}, but request is {asked}")),
                Some(_) => {}
            }
        }
    }
    found
}

/// What is wrong with requests and limits by one item of a range.
fn violations(item: &Value, of: &str, requests: &Resources, limits: &Resources) -> Vec<String> {
    let mut found = Vec::new();
    for (name, least) in resources::read(&item["min"]) {
        found.extend(below(of, &name, least, requests.get(&name), limits.get(&name)));
    }
    for (name, most) in resources::read(&item["max"]) {
        found.extend(above(of, &name, most, requests.get(&name), limits.get(&name)));
    }
    for (name, most) in resources::read(&item["maxLimitRequestRatio"]) {
        found.extend(too_far_apart(of, &name, most, requests.get(&name), limits.get(&name)));
    }
    found
}

fn below(
    of: &str,
    name: &str,
    least: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let usage = format!("minimum {name} usage per {of} is {least}");
    match (request, limit) {
        (None, _) => Some(format!("{usage}.  No request is specified")),
        (Some(request), _) if *request < least => Some(format!("{usage}, but request is {request}")),
        (_, Some(limit)) if *limit < least => Some(format!("{usage}, but limit is {limit}")),
        _ => None,
    }
}

fn above(
    of: &str,
    name: &str,
    most: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let usage = format!("maximum {name} usage per {of} is {most}");
    match (limit, request) {
        (None, _) => Some(format!("{usage}.  No limit is specified")),
        (Some(limit), _) if *limit > most => Some(format!("{usage}, but limit is {limit}")),
        (_, Some(request)) if *request > most => Some(format!("{usage}, but request is {request}")),
        _ => None,
    }
}

fn too_far_apart(
    of: &str,
    name: &str,
    most: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let ratio = format!("{name} max limit to request ratio per {of} is {most}");
    let stated = |amount: Option<&Quantity>| amount.copied().filter(|amount| !amount.is_zero());
    let Some(request) = stated(request) else {
        return Some(format!("{ratio}, but no request is specified or request is 0"));
    };
    let Some(limit) = stated(limit) else {
        return Some(format!("{ratio}, but no limit is specified or limit is 0"));
    };
    let observed = limit.milli_value() as f64 / request.milli_value() as f64;
    (observed * 1000.0 > most.milli_value() as f64)
        .then(|| format!("{ratio}, but provided ratio is {observed:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(item: Value) -> Value {
        json!({"spec": {"limits": [item]}})
    }

    #[test]
    fn containers_get_what_they_do_not_ask_for() {
        let range = range(json!({"type": "Container", "default": {"cpu": "500m", "memory": "512Mi"},
            "defaultRequest": {"cpu": "100m"}}));
        let mut pod = json!({"spec": {"containers": [{"name": "a"},
            {"name": "b", "resources": {"limits": {"cpu": "1"}}}], "initContainers": [{"name": "i"}]}});
        fill(&mut pod, &range);
        let spec = &pod["spec"];
        assert_eq!(
            spec["containers"][0]["resources"],
            json!({"limits": {"cpu": "500m", "memory": "512Mi"}, "requests": {"cpu": "100m"}})
        );
        assert_eq!(
            spec["containers"][1]["resources"],
            json!({"limits": {"cpu": "1", "memory": "512Mi"}, "requests": {"cpu": "100m"}})
        );
        assert_eq!(
            meta::annotation(&pod, ANNOTATION),
            Some(
                "LimitRanger plugin set: cpu request for container a; cpu, memory limit for container a; \
                 cpu request for container b; memory limit for container b; cpu request for init container \
                 i; cpu, memory limit for init container i"
            )
        );
    }

    #[test]
    fn ranges_hold_for_containers_and_pods() {
        let pod = |requests: Value, limits: Value| {
            let container = json!({"resources": {"requests": requests, "limits": limits}});
            json!({"spec": {"containers": [container.clone(), container]}})
        };
        let item = |of: &str, rule: &str, cpu: &str| {
            let mut item = json!({ "type": of });
            item[rule] = json!({ "cpu": cpu });
            range(item)
        };
        for (range, requests, limits, expected) in [
            (
                item("Container", "min", "1"),
                json!({}),
                json!({}),
                "minimum cpu usage per Container is 1.  No request is specified",
            ),
            (
                item("Container", "min", "1"),
                json!({"cpu": "500m"}),
                json!({}),
                "minimum cpu usage per Container is 1, but request is 500m",
            ),
            (
                item("Pod", "min", "1"),
                json!({"cpu": "500m"}),
                json!({"cpu": "400m"}),
                "minimum cpu usage per Pod is 1, but limit is 800m",
            ),
            (
                item("Container", "max", "1"),
                json!({}),
                json!({}),
                "maximum cpu usage per Container is 1.  No limit is specified",
            ),
            (
                item("Container", "max", "1"),
                json!({}),
                json!({"cpu": "2"}),
                "maximum cpu usage per Container is 1, but limit is 2",
            ),
            (
                item("Pod", "max", "1"),
                json!({}),
                json!({"cpu": "600m"}),
                "maximum cpu usage per Pod is 1, but limit is 1200m",
            ),
            (
                item("Pod", "max", "1"),
                json!({"cpu": "600m"}),
                json!({"cpu": "500m"}),
                "maximum cpu usage per Pod is 1, but request is 1200m",
            ),
            (
                item("Container", "maxLimitRequestRatio", "2"),
                json!({}),
                json!({"cpu": "1"}),
                "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
            ),
            (
                item("Container", "maxLimitRequestRatio", "2"),
                json!({"cpu": "1"}),
                json!({}),
                "cpu max limit to request ratio per Container is 2, but no limit is specified or limit is 0",
            ),
            (
                item("Container", "maxLimitRequestRatio", "2"),
                json!({"cpu": "1"}),
                json!({"cpu": "3"}),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
            ),
            (item("Container", "maxLimitRequestRatio", "2"), json!({"cpu": "1"}), json!({"cpu": "2"}), ""),
            (item("Pod", "max", "1"), json!({}), json!({"cpu": "500m"}), ""),
        ] {
            let found = pod_violations(&pod(requests.clone(), limits.clone()), &range);
            assert_eq!(found.first().map_or("", String::as_str), expected, "{requests} {limits}");
        }
    }

    #[test]
    fn ranges_hold_for_claims() {
        let claim = |storage: &str| json!({"spec": {"resources": {"requests": {"storage": storage}}}});
        let range = range(json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"},
            "max": {"storage": "2Gi"}}));
        for (storage, expected) in [
            ("1Gi", ""),
            ("500Mi", "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 500Mi"),
            ("3Gi", "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"),
        ] {
            let found = claim_violations(&claim(storage), &range);
            assert_eq!(found.join(" "), expected);
        }
    }
}
