//! Events, in the core group's form, in which they are stored; the registry renames those of events.k8s.io.

use jiff::Timestamp;
use serde_json::Value;

use super::column;
use super::value::{fill_zero, text};
use super::{Column, Strategy};
use crate::api::meta;
use crate::api::status::FieldError;

/// The strategy of events.
pub(super) struct Event;

impl Strategy for Event {
    fn default(&self, event: &mut Value) {
        fill_zero(event, "type", "Normal");
    }

    fn validate(&self, event: &Value) -> Vec<FieldError> {
        let involved = text(&event["involvedObject"], "namespace");
        let own = meta::namespace(event);
        // Events about cluster-scoped objects live in `default`.
        let expected = if involved.is_empty() { "default" } else { involved };
        if own.is_empty() || own == expected || (involved.is_empty() && own == "kube-system") {
            return Vec::new();
        }
        vec![FieldError::invalid(
            "involvedObject.namespace",
            &involved.into(),
            "does not match event.namespace",
        )]
    }

    fn fields(&self, event: &Value) -> Vec<(&'static str, String)> {
        let involved = &event["involvedObject"];
        let of = |key| text(involved, key).to_owned();
        let source = match text(&event["source"], "component") {
            "" => text(event, "reportingComponent"),
            component => component,
        };
        vec![
            ("involvedObject.kind", of("kind")),
            ("involvedObject.namespace", of("namespace")),
            ("involvedObject.name", of("name")),
            ("involvedObject.uid", of("uid")),
            ("involvedObject.apiVersion", of("apiVersion")),
            ("involvedObject.resourceVersion", of("resourceVersion")),
            ("involvedObject.fieldPath", of("fieldPath")),
            ("reason", text(event, "reason").to_owned()),
            ("reportingComponent", text(event, "reportingComponent").to_owned()),
            ("source", source.to_owned()),
            ("type", text(event, "type").to_owned()),
        ]
    }

    fn columns(&self) -> &'static [Column] {
        const NAME: Column = Column { priority: 1, ..column::NAME };
        const COLUMNS: &[Column] = &[
            column::text(
                "Last Seen",
                "The time at which the most recent occurrence of this event was recorded.",
            ),
            column::text(
                "Type",
                "Type of this event (Normal, Warning), new types could be added in the future",
            ),
            column::text(
                "Reason",
                "This should be a short, machine understandable string that gives the reason for the transition into the object's current status.",
            ),
            column::text("Object", "The object that this event is about."),
            column::wide(
                "Subobject",
                "If referring to a piece of an object instead of an entire object, this string should contain a valid JSON/Go field access statement.",
            ),
            column::wide(
                "Source",
                "The component reporting this event. Should be a short machine understandable string.",
            ),
            column::text("Message", "A human-readable description of the status of this operation."),
            column::wide(
                "First Seen",
                "The time at which the event was first recorded. (Time of server receipt is in TypeMeta.)",
            ),
            column::wide("Count", "The number of times this event has occurred."),
            NAME,
        ];
        COLUMNS
    }

    fn cells(&self, event: &Value, now: Timestamp) -> Vec<Value> {
        // Events of the new form have a time, and a series instead of a count.
        let moment = |key: &str| match &event[key] {
            Value::Null => &event["eventTime"],
            time => time,
        };
        let series = &event["series"];
        let last = match &series["lastObservedTime"] {
            Value::Null => moment("lastTimestamp"),
            time => time,
        };
        let count = series["count"].as_i64().or(event["count"].as_i64().filter(|n| *n > 0)).unwrap_or(1);
        let involved = &event["involvedObject"];
        let kind = text(involved, "kind").to_lowercase();
        vec![
            column::since(last, now).into(),
            text(event, "type").into(),
            text(event, "reason").into(),
            match text(involved, "name") {
                "" => kind.into(),
                name => format!("{kind}/{name}").into(),
            },
            text(involved, "fieldPath").into(),
            source(event).into(),
            text(event, "message").trim().into(),
            column::since(moment("firstTimestamp"), now).into(),
            count.into(),
            column::name(event),
        ]
    }
}

fn source(event: &Value) -> String {
    let or = |first: &str, second: &str| if first.is_empty() { second.to_owned() } else { first.to_owned() };
    let component = or(text(&event["source"], "component"), text(event, "reportingComponent"));
    let host = or(text(&event["source"], "host"), text(event, "reportingInstance"));
    if host.is_empty() { component } else { format!("{component}, {host}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_are_kubectls() {
        let now = "2024-01-01T00:01:00Z".parse().unwrap();
        let event = json!({
            "metadata": {"name": "www.1", "namespace": "default"}, "type": "Normal", "reason": "Pulled",
            "involvedObject": {"kind": "Pod", "name": "www", "namespace": "default", "fieldPath": "spec.containers{www}"},
            "source": {"component": "kubelet", "host": "minik"}, "message": "done\n",
            "firstTimestamp": "2024-01-01T00:00:00Z", "lastTimestamp": "2024-01-01T00:00:50Z", "count": 3
        });
        assert!(Event.validate(&event).is_empty());
        assert_eq!(
            json!(Event.cells(&event, now)),
            json!([
                "10s",
                "Normal",
                "Pulled",
                "pod/www",
                "spec.containers{www}",
                "kubelet, minik",
                "done",
                "60s",
                3,
                "www.1"
            ])
        );
        assert_eq!(Event.columns().len(), 10);
        let elsewhere = json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "b"}});
        assert_eq!(Event.validate(&elsewhere).len(), 1);
    }
}
