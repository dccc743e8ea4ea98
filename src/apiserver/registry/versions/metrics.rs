//! Metrics of autoscalers in their two forms: that of `autoscaling/v2`, and that of version 1, which has it only inside
//! annotations (Kubernetes `pkg/apis/autoscaling/v1/conversion.go`).

use serde_json::{Value, json};

use crate::api::schema::{self, Schema};
use crate::apiserver::strategy::value::text;

/// One type of metric: its name, the field that holds it, and where each of its values stands in version 2 and under
/// which name in version 1.
type Form = (&'static str, &'static str, &'static [(&'static [&'static str], &'static str)]);

/// What an autoscaler aims at, or what it has seen.
pub(super) struct Forms {
    /// The type in the schema document.
    types: &'static str,
    /// The field of version 2 in which the numbers stand.
    numbers: &'static str,
    rows: &'static [Form],
}

/// `spec.metrics`.
pub(super) const TARGETS: Forms = Forms {
    types: "io.k8s.api.autoscaling.v2.MetricSpec",
    numbers: "target",
    rows: &[
        (
            "Object",
            "object",
            &[
                (&["describedObject"], "target"),
                (&["metric", "name"], "metricName"),
                (&["metric", "selector"], "selector"),
                (&["target", "value"], "targetValue"),
                (&["target", "averageValue"], "averageValue"),
            ],
        ),
        (
            "Pods",
            "pods",
            &[
                (&["metric", "name"], "metricName"),
                (&["metric", "selector"], "selector"),
                (&["target", "averageValue"], "targetAverageValue"),
            ],
        ),
        (
            "Resource",
            "resource",
            &[
                (&["name"], "name"),
                (&["target", "averageUtilization"], "targetAverageUtilization"),
                (&["target", "averageValue"], "targetAverageValue"),
            ],
        ),
        (
            "ContainerResource",
            "containerResource",
            &[
                (&["name"], "name"),
                (&["container"], "container"),
                (&["target", "averageUtilization"], "targetAverageUtilization"),
                (&["target", "averageValue"], "targetAverageValue"),
            ],
        ),
        (
            "External",
            "external",
            &[
                (&["metric", "name"], "metricName"),
                (&["metric", "selector"], "metricSelector"),
                (&["target", "value"], "targetValue"),
                (&["target", "averageValue"], "targetAverageValue"),
            ],
        ),
    ],
};

/// `status.currentMetrics`.
pub(super) const SEEN: Forms = Forms {
    types: "io.k8s.api.autoscaling.v2.MetricStatus",
    numbers: "current",
    rows: &[
        (
            "Object",
            "object",
            &[
                (&["describedObject"], "target"),
                (&["metric", "name"], "metricName"),
                (&["metric", "selector"], "selector"),
                (&["current", "value"], "currentValue"),
                (&["current", "averageValue"], "averageValue"),
            ],
        ),
        (
            "Pods",
            "pods",
            &[
                (&["metric", "name"], "metricName"),
                (&["metric", "selector"], "selector"),
                (&["current", "averageValue"], "currentAverageValue"),
            ],
        ),
        (
            "Resource",
            "resource",
            &[
                (&["name"], "name"),
                (&["current", "averageUtilization"], "currentAverageUtilization"),
                (&["current", "averageValue"], "currentAverageValue"),
            ],
        ),
        (
            "ContainerResource",
            "containerResource",
            &[
                (&["name"], "name"),
                (&["container"], "container"),
                (&["current", "averageUtilization"], "currentAverageUtilization"),
                (&["current", "averageValue"], "currentAverageValue"),
            ],
        ),
        (
            "External",
            "external",
            &[
                (&["metric", "name"], "metricName"),
                (&["metric", "selector"], "metricSelector"),
                (&["current", "value"], "currentValue"),
                (&["current", "averageValue"], "currentAverageValue"),
            ],
        ),
    ],
};

impl Forms {
    fn row(&self, metric: &Value) -> Option<&'static Form> {
        self.rows.iter().find(|(name, _, _)| *name == text(metric, "type"))
    }

    /// Metrics as version 1 writes them, the text of its annotations.
    pub(super) fn written(&self, metrics: &[Value]) -> String {
        metrics.iter().map(|metric| self.written_one(metric)).collect::<Value>().to_string()
    }

    fn written_one(&self, metric: &Value) -> Value {
        let Some((name, field, values)) = self.row(metric) else { return metric.clone() };
        let within = &metric[*field];
        let mut old = json!({});
        for (path, key) in *values {
            let value = path.iter().fold(within, |value, key| &value[*key]);
            if !value.is_null() {
                old[*key] = value.clone();
            }
        }
        json!({"type": name, *field: old})
    }

    /// The metrics that version 1 wrote; nothing when the text is none of its lists.
    pub(super) fn read(&self, text: &str) -> Option<Vec<Value>> {
        let list: Vec<Value> = serde_json::from_str(text).ok()?;
        list.iter().map(|metric| self.read_one(metric)).collect()
    }

    fn read_one(&self, metric: &Value) -> Option<Value> {
        let (name, field, values) = self.row(metric)?;
        let mut new = json!({});
        for (path, key) in *values {
            let value = &metric[*field][*key];
            if !value.is_null() {
                *path.iter().fold(&mut new, |at, key| &mut at[*key]) = value.clone();
            }
        }
        if self.numbers == "target" {
            // Version 1 did not say which of its numbers is the aim.
            let target = &new["target"];
            let aim = if !target["averageUtilization"].is_null() {
                "Utilization"
            } else if !target["averageValue"].is_null() {
                "AverageValue"
            } else {
                "Value"
            };
            new[self.numbers]["type"] = json!(aim);
        } else if new[self.numbers].is_null() {
            new[self.numbers] = json!({});
        }
        let mut metric = json!({"type": name, *field: new});
        // The text was a client's: it is held to the same structure as the rest of its object.
        let checked = Schema::of(self.types).map(|of| schema::check(of, &mut metric)).unwrap_or_default();
        checked.errors.is_empty().then_some(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_of_metric_comes_back() {
        let reference = json!({"kind": "Ingress", "name": "www"});
        let selector = json!({"matchLabels": {"a": "b"}});
        let targets = [
            json!({"type": "Object", "object": {"describedObject": reference, "metric": {"name": "m",
                "selector": selector}, "target": {"type": "Value", "value": "10"}}}),
            json!({"type": "Object", "object": {"describedObject": reference, "metric": {"name": "m"},
                "target": {"type": "AverageValue", "averageValue": "10"}}}),
            json!({"type": "Pods", "pods": {"metric": {"name": "m"},
                "target": {"type": "AverageValue", "averageValue": "1k"}}}),
            json!({"type": "Resource", "resource": {"name": "memory",
                "target": {"type": "Utilization", "averageUtilization": 70}}}),
            json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "app",
                "target": {"type": "AverageValue", "averageValue": "500m"}}}),
            json!({"type": "External", "external": {"metric": {"name": "m", "selector": selector},
                "target": {"type": "Value", "value": "10"}}}),
        ];
        let written = TARGETS.written(&targets);
        assert_eq!(TARGETS.read(&written).unwrap(), targets);
        assert!(
            written.starts_with(
                r#"[{"object":{"metricName":"m","selector":{"matchLabels":{"a":"b"}},"target":{"#
            ),
            "{written}"
        );
        let seen = [
            json!({"type": "Resource", "resource": {"name": "cpu",
                "current": {"averageUtilization": 40, "averageValue": "400m"}}}),
            json!({"type": "Pods", "pods": {"metric": {"name": "m"}, "current": {"averageValue": "3"}}}),
        ];
        assert_eq!(SEEN.read(&SEEN.written(&seen)).unwrap(), seen);
    }

    #[test]
    fn other_text_is_no_metrics() {
        for text in
            ["", "{}", "[1]", r#"[{"type": "Odd"}]"#, r#"[{"type": "Pods", "pods": {"metricName": 5}}]"#]
        {
            assert_eq!(TARGETS.read(text), None, "{text}");
        }
    }
}
