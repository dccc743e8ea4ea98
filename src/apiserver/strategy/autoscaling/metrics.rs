//! The metrics that an autoscaler looks at: what is wrong with them, and how they are shown.

use serde_json::{Value, json};

use super::super::resources;
use super::super::value::text;
use super::hpa::reference;
use crate::api::names;
use crate::api::quantity;
use crate::api::status::FieldError;

/// The sorts of metrics with the fields that describe them, in Kubernetes' (sorted) order.
const SOURCES: &[(&str, &str)] = &[
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];
/// More metrics than these are only counted in a table.
const MOST_SHOWN: usize = 2;

/// What is wrong with the metrics at `path`.
pub(super) fn validate(path: &str, metrics: &[Value]) -> Vec<FieldError> {
    let one = |(i, metric)| self::metric(&format!("{path}[{i}]"), metric);
    metrics.iter().enumerate().flat_map(one).collect()
}

fn metric(path: &str, metric: &Value) -> Vec<FieldError> {
    let kinds: Vec<&str> = SOURCES.iter().map(|(kind, _)| *kind).collect();
    let kind = text(metric, "type");
    let at = |field: &str| format!("{path}.{field}");
    let mut errors = Vec::new();
    if kind.is_empty() {
        errors.push(FieldError::required(at("type"), "must specify a metric source type"));
    }
    let described = SOURCES.iter().find(|(name, _)| *name == kind).map(|(_, field)| *field);
    let unknown = || FieldError::not_supported(at("type"), &json!(kind), &kinds);
    if described.is_none() {
        errors.push(unknown());
    }
    // Kubernetes looks at them in this order, and into the first alone.
    let order = ["object", "external", "pods", "resource", "containerResource"];
    let given: Vec<&str> = order.into_iter().filter(|field| !metric[*field].is_null()).collect();
    if let Some(first) = given.first() {
        errors.extend(source(&at(first), first, &metric[*first]));
    }
    match described {
        Some(field) if metric[field].is_null() => {
            let why = "must populate information for the given metric source";
            errors.push(FieldError::required(at(field), why));
        }
        Some(_) => {}
        // The type is looked at once more where its field is.
        None => errors.push(unknown()),
    }
    if given.len() != 1 {
        let others = given.iter().filter(|field| Some(**field) != described);
        let why = "must populate the given metric source only";
        errors.extend(others.map(|field| FieldError::forbidden(at(field), why)));
    }
    errors
}

fn source(path: &str, kind: &str, source: &Value) -> Vec<FieldError> {
    let at = |field: &str| format!("{path}.{field}");
    let target = &source["target"];
    let has = |field: &str| !target[field].is_null();
    let mut errors = Vec::new();
    match kind {
        "object" => errors.extend(reference(&at("describedObject"), &source["describedObject"])),
        "resource" | "containerResource" => {
            let name = text(source, "name");
            if name.is_empty() {
                errors.push(FieldError::required(at("name"), "must specify a resource name"));
            } else if kind == "containerResource" {
                errors.extend(resources::container_name(&at("name"), name));
            }
        }
        _ => {}
    }
    if kind == "containerResource" {
        match text(source, "container") {
            "" => errors.push(FieldError::required(at("container"), "must specify a container")),
            name => {
                let wrong = names::dns_label(name);
                errors.extend(wrong.iter().map(|w| FieldError::invalid(at("container"), &json!(name), w)));
            }
        }
    }
    if matches!(kind, "object" | "external" | "pods") {
        let name = text(&source["metric"], "name");
        if name.is_empty() {
            errors.push(FieldError::required(at("metric.name"), "must specify a metric name"));
        }
        let wrong = names::path_segment(name);
        errors.extend(wrong.iter().map(|w| FieldError::invalid(at("metric.name"), &json!(name), w)));
    }
    errors.extend(self::target(&at("target"), target));
    let required = |field: &str, why: &str| FieldError::required(at(&format!("target.{field}")), why);
    match kind {
        "object" if !has("value") && !has("averageValue") => {
            errors.push(required("averageValue", "must set either a target value or averageValue"));
        }
        "external" if !has("value") && !has("averageValue") => {
            let why = "must set either a target value for metric or a per-pod target";
            errors.push(required("averageValue", why));
        }
        "external" if has("value") && has("averageValue") => {
            let why = "may not set both a target value for metric and a per-pod target";
            errors.push(FieldError::forbidden(at("target.value"), why));
        }
        "pods" if !has("averageValue") => {
            errors.push(required("averageValue", "must specify a positive target averageValue"));
        }
        "resource" | "containerResource" if !has("averageUtilization") && !has("averageValue") => {
            let why = "must set either a target raw value or a target utilization";
            errors.push(required("averageUtilization", why));
        }
        "resource" | "containerResource" if has("averageUtilization") && has("averageValue") => {
            let why = "may not set both a target raw value and a target utilization";
            errors.push(FieldError::forbidden(at("target.averageValue"), why));
        }
        _ => {}
    }
    errors
}

fn target(path: &str, target: &Value) -> Vec<FieldError> {
    let at = |field: &str| format!("{path}.{field}");
    let mut errors = Vec::new();
    let kind = text(target, "type");
    if kind.is_empty() {
        errors.push(FieldError::required(at("type"), "must specify a metric target type"));
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind) {
        let why = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid(at("type"), &json!(kind), why));
    }
    for field in ["value", "averageValue"] {
        let amount = target[field].as_str().and_then(|text| quantity::parse(text).ok());
        if amount.is_some_and(|amount| amount.is_negative() || amount.is_zero()) {
            errors.push(FieldError::invalid(at(field), &target[field], "must be positive"));
        }
    }
    let utilization = &target["averageUtilization"];
    if utilization.as_i64().is_some_and(|percent| percent < 1) {
        errors.push(FieldError::invalid(at("averageUtilization"), utilization, "must be greater than 0"));
    }
    errors
}

/// The metrics with their present values, as a table shows them.
pub(super) fn shown(metrics: &[Value], present: &[Value]) -> String {
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let one = |(i, metric): (usize, &Value)| self::one(metric, present.get(i).unwrap_or(&Value::Null));
    let all: Vec<String> = metrics.iter().enumerate().map(one).take(MOST_SHOWN).collect();
    let all = all.join(", ");
    match metrics.len() {
        count if count > MOST_SHOWN => format!("{all} + {} more...", count - MOST_SHOWN),
        _ => all,
    }
}

fn one(metric: &Value, status: &Value) -> String {
    let kind = text(metric, "type");
    let Some((_, field)) = SOURCES.iter().find(|(name, _)| *name == kind) else {
        return "<unknown type>".to_owned();
    };
    let (source, status) = (&metric[*field], &status[*field]);
    let (target, current) = (&source["target"], &status["current"]);
    let unknown = || "<unknown>".to_owned();
    let amount = |of: &Value, field: &str| of[field].as_str().map(str::to_owned);
    // A status that is there has every amount, if only nothing.
    let there = |field: &str| {
        if status.is_null() { unknown() } else { amount(current, field).unwrap_or("0".to_owned()) }
    };
    let average = amount(target, "averageValue");
    match (kind, average) {
        ("Resource" | "ContainerResource", Some(average)) => {
            format!("{}: {}/{average}", text(source, "name"), there("averageValue"))
        }
        ("Resource" | "ContainerResource", None) => {
            let percent = |of: &Value| of["averageUtilization"].as_i64().map(|percent| format!("{percent}%"));
            let wanted = percent(target).unwrap_or("<auto>".to_owned());
            format!("{}: {}/{wanted}", text(source, "name"), percent(current).unwrap_or_else(unknown))
        }
        ("Pods", average) => format!("{}/{}", there("averageValue"), average.unwrap_or("0".to_owned())),
        (_, Some(average)) => {
            format!("{}/{average} (avg)", amount(current, "averageValue").unwrap_or_else(unknown))
        }
        (_, None) => format!("{}/{}", there("value"), amount(target, "value").unwrap_or("0".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_checked_in_kubernetes_words() {
        for (metric, errors) in [
            (
                json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}),
                &[][..],
            ),
            (
                json!({"type": "X"}),
                &[
                    "m[0].type: Unsupported value: \"X\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
                    "m[0].type: Unsupported value: \"X\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
                ],
            ),
            (
                json!({"type": "Pods"}),
                &["m[0].pods: Required value: must populate information for the given metric source"],
            ),
            (
                json!({"type": "Resource", "resource": {"target": {"type": "Utilization"}}}),
                &[
                    "m[0].resource.name: Required value: must specify a resource name",
                    "m[0].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
                ],
            ),
            (
                json!({"type": "Pods", "pods": {"metric": {"name": "hits"}, "target": {"type": "AverageValue", "averageValue": "0"}},
                    "resource": {}}),
                &[
                    "m[0].pods.target.averageValue: Invalid value: \"0\": must be positive",
                    "m[0].resource: Forbidden: must populate the given metric source only",
                ],
            ),
            (
                json!({"type": "Object", "object": {"describedObject": {"kind": "Ingress", "name": "a"}, "metric": {}, "target": {"type": "Value"}}}),
                &[
                    "m[0].object.metric.name: Required value: must specify a metric name",
                    "m[0].object.target.averageValue: Required value: must set either a target value or averageValue",
                ],
            ),
        ] {
            let told: Vec<String> =
                validate("m", std::slice::from_ref(&metric)).iter().map(ToString::to_string).collect();
            assert_eq!(told, errors, "{metric}");
        }
    }

    #[test]
    fn metrics_are_shown_with_their_values() {
        let cpu =
            json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 50}}});
        let memory =
            json!({"type": "Resource", "resource": {"name": "memory", "target": {"averageValue": "1Gi"}}});
        let hits = json!({"type": "Pods", "pods": {"target": {"averageValue": "10"}}});
        let queue = json!({"type": "External", "external": {"target": {"value": "30"}}});
        let now = json!({"type": "Resource", "resource": {"current": {"averageUtilization": 20, "averageValue": "5Mi"}}});
        for (metrics, present, text) in [
            (vec![], vec![], "<none>"),
            (vec![cpu.clone()], vec![], "cpu: <unknown>/50%"),
            (vec![cpu.clone()], vec![now.clone()], "cpu: 20%/50%"),
            (vec![memory.clone()], vec![now.clone()], "memory: 5Mi/1Gi"),
            (vec![hits.clone(), queue.clone()], vec![], "<unknown>/10, <unknown>/30"),
            (vec![cpu, memory, hits, queue], vec![], "cpu: <unknown>/50%, memory: <unknown>/1Gi + 2 more..."),
        ] {
            assert_eq!(shown(&metrics, &present), text);
        }
    }
}
