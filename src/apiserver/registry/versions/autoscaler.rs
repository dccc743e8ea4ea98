//! Horizontal pod autoscalers of `autoscaling/v1`: a target for the use of processors, and annotations for all that
//! version 2 knows beside it (Kubernetes `pkg/apis/autoscaling/v1/conversion.go`).

use serde_json::{Value, json};

use super::metrics::{SEEN, TARGETS};
use crate::api::meta;
use crate::api::schema::{self, Schema};
use crate::apiserver::strategy::value::items;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// The use of processors in a metric or in what was seen of it.
fn cpu_use<'a>(metric: &'a Value, numbers: &str) -> Option<&'a Value> {
    let resource = &metric["resource"];
    let is_cpu = metric["type"] == "Resource" && resource["name"] == "cpu";
    Some(&resource[numbers]["averageUtilization"]).filter(|percent| is_cpu && !percent.is_null())
}

/// Version 1 of a stored autoscaler.
pub(super) fn to_old(scaler: &mut Value) {
    if let Some(spec) = scaler.get_mut("spec").and_then(Value::as_object_mut) {
        let metrics = spec.remove("metrics").unwrap_or_default();
        let behavior = spec.remove("behavior").unwrap_or_default();
        let list = metrics.as_array().map_or(&[][..], Vec::as_slice);
        if let Some(percent) = list.iter().find_map(|metric| cpu_use(metric, "target")) {
            spec.insert("targetCPUUtilizationPercentage".into(), percent.clone());
        }
        let others: Vec<Value> =
            list.iter().filter(|metric| cpu_use(metric, "target").is_none()).cloned().collect();
        if !others.is_empty() {
            meta::set_annotation(scaler, METRICS, &TARGETS.written(&others));
        }
        if !behavior.is_null() {
            meta::set_annotation(scaler, BEHAVIOR, &behavior.to_string());
        }
    }
    let Some(status) = scaler.get_mut("status").and_then(Value::as_object_mut) else { return };
    let seen = status.remove("currentMetrics").unwrap_or_default();
    let conditions = status.remove("conditions").unwrap_or_default();
    for number in ["currentReplicas", "desiredReplicas"] {
        status.entry(number).or_insert(json!(0));
    }
    let list = seen.as_array().map_or(&[][..], Vec::as_slice);
    if let Some(percent) = list.iter().find_map(|metric| cpu_use(metric, "current")) {
        status.insert("currentCPUUtilizationPercentage".into(), percent.clone());
    }
    if !list.is_empty() {
        meta::set_annotation(scaler, CURRENT_METRICS, &SEEN.written(list));
    }
    if conditions.as_array().is_some_and(|list| !list.is_empty()) {
        meta::set_annotation(scaler, CONDITIONS, &conditions.to_string());
    }
}

/// Version 2 of what a client of version 1 sent.
pub(super) fn to_new(scaler: &mut Value) {
    let taken = |scaler: &mut Value, key: &str| {
        let text = meta::annotation(scaler, key)?.to_owned();
        meta::remove_annotation(scaler, key);
        Some(text)
    };
    let others = taken(scaler, METRICS).and_then(|text| TARGETS.read(&text));
    let behavior = taken(scaler, BEHAVIOR)
        .and_then(|text| part(&text, "io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerBehavior"));
    let seen = taken(scaler, CURRENT_METRICS).and_then(|text| SEEN.read(&text));
    let conditions = taken(scaler, CONDITIONS).and_then(|text| {
        let list = format!(r#"{{"conditions":{text}}}"#);
        part(&list, "io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerStatus")
    });
    if let Some(spec) = scaler.get_mut("spec").and_then(Value::as_object_mut) {
        let percent = spec.remove("targetCPUUtilizationPercentage").filter(|percent| !percent.is_null());
        let cpu = percent
            .map(|percent| cpu("target", json!({"type": "Utilization", "averageUtilization": percent})));
        // Without any metric the default of version 2 is that of version 1.
        let metrics: Vec<Value> = others.into_iter().flatten().chain(cpu).collect();
        if !metrics.is_empty() {
            spec.insert("metrics".into(), json!(metrics));
        }
        if let Some(behavior) = behavior {
            spec.insert("behavior".into(), behavior);
        }
    }
    if let Some(status) = scaler.get_mut("status").and_then(Value::as_object_mut) {
        let percent = status.remove("currentCPUUtilizationPercentage").filter(|percent| !percent.is_null());
        let cpu = percent.map(|percent| vec![cpu("current", json!({"averageUtilization": percent}))]);
        // What the annotation holds says more.
        if let Some(metrics) = seen.or(cpu) {
            status.insert("currentMetrics".into(), json!(metrics));
        }
        if let Some(conditions) = conditions {
            status.insert("conditions".into(), json!(items(&conditions, "conditions")));
        }
    }
}

fn cpu(numbers: &str, values: Value) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", numbers: values}})
}

/// The object that an annotation holds, when it is one of its type.
fn part(text: &str, types: &str) -> Option<Value> {
    let mut value: Value = serde_json::from_str(text).ok()?;
    let checked = Schema::of(types).map(|of| schema::check(of, &mut value)).unwrap_or_default();
    checked.errors.is_empty().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu_target(percent: i64) -> Value {
        cpu("target", json!({"type": "Utilization", "averageUtilization": percent}))
    }

    #[test]
    fn what_version_1_lacks_is_kept_in_annotations() {
        let memory = json!({"type": "Resource", "resource": {"name": "memory",
            "target": {"type": "AverageValue", "averageValue": "1Gi"}}});
        let new = json!({
            "metadata": {"name": "www"},
            "spec": {"minReplicas": 1, "maxReplicas": 3, "metrics": [memory, cpu_target(50)],
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}}},
            "status": {"currentReplicas": 1, "desiredReplicas": 2,
                "currentMetrics": [cpu("current", json!({"averageUtilization": 5, "averageValue": "5m"}))],
                "conditions": [{"type": "AbleToScale", "status": "True"}]},
        });
        let mut scaler = new.clone();
        to_old(&mut scaler);
        assert_eq!(
            scaler["spec"],
            json!({"minReplicas": 1, "maxReplicas": 3, "targetCPUUtilizationPercentage": 50})
        );
        assert_eq!(
            scaler["status"],
            json!({"currentReplicas": 1, "desiredReplicas": 2, "currentCPUUtilizationPercentage": 5})
        );
        assert_eq!(meta::annotations(&scaler).as_object().unwrap().len(), 4);
        to_new(&mut scaler);
        assert_eq!(scaler, new);
    }

    #[test]
    fn a_plain_autoscaler_needs_no_annotations() {
        let mut scaler = json!({"metadata": {"name": "www"}, "spec": {"maxReplicas": 3, "metrics": [cpu_target(80)]},
            "status": {"currentMetrics": null, "desiredReplicas": 0}});
        to_old(&mut scaler);
        assert_eq!(
            scaler,
            json!({"metadata": {"name": "www"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 80},
                "status": {"currentReplicas": 0, "desiredReplicas": 0}})
        );
    }

    #[test]
    fn annotations_that_cannot_be_read_are_dropped() {
        let mut scaler = json!({"metadata": {"annotations": {METRICS: "no", BEHAVIOR: "[]", "a": "b"}},
            "spec": {"maxReplicas": 1}});
        to_new(&mut scaler);
        assert_eq!(scaler, json!({"metadata": {"annotations": {"a": "b"}}, "spec": {"maxReplicas": 1}}));
    }
}
