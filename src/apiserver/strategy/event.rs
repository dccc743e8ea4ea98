//! Events, in the core group's form, in which they are stored; the registry renames those of events.k8s.io.

use jiff::Timestamp;
use serde_json::Value;

use super::column;
use super::value::{fill_zero, is_set, text};
use super::{Column, Strategy};
use crate::api::meta;
use crate::api::names;
use crate::api::status::FieldError;

/// The strategy of events.
pub(super) struct Event;

impl Strategy for Event {
    fn default(&self, event: &mut Value) {
        fill_zero(event, "type", "Normal");
    }

    fn validate(&self, event: &Value) -> Vec<FieldError> {
        if event["eventTime"].is_null() { wrong_namespace(event).into_iter().collect() } else { timed(event) }
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

/// The strategy of events that come by events.k8s.io, which is stricter with what it takes; they are in the core
/// group's form, and so are the fields that errors name (`ValidateEventCreate`, `ValidateEventUpdate`).
pub(super) struct StrictEvent;

impl Strategy for StrictEvent {
    fn validate(&self, event: &Value) -> Vec<FieldError> {
        Event.validate(event)
    }

    fn validate_create(&self, event: &Value) -> Vec<FieldError> {
        let mut errors = wrong_series(event);
        if event["eventTime"].is_null() {
            errors.push(FieldError::required("eventTime", ""));
        }
        let kind = text(event, "type");
        if !["Normal", "Warning"].contains(&kind) {
            errors.push(FieldError::invalid("type", &"".into(), &format!("has invalid value: {kind}")));
        }
        for field in ["firstTimestamp", "lastTimestamp", "count"] {
            if is_set(event, field) {
                errors.push(FieldError::invalid(field, &"".into(), "needs to be unset"));
            }
        }
        if is_set(&event["source"], "component") || is_set(&event["source"], "host") {
            errors.push(FieldError::invalid("source", &"".into(), "needs to be unset"));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        /// All but the series, which counts on.
        const IMMUTABLE: [&str; 13] = [
            "involvedObject",
            "reason",
            "message",
            "source",
            "firstTimestamp",
            "lastTimestamp",
            "count",
            "type",
            "eventTime",
            "action",
            "related",
            "reportingComponent",
            "reportingInstance",
        ];
        let mut errors = if new["series"] == old["series"] { Vec::new() } else { wrong_series(new) };
        // Absent and empty are the same to Kubernetes' types.
        let same = |field: &str| new[field] == old[field] || (!is_set(new, field) && !is_set(old, field));
        for field in IMMUTABLE.into_iter().filter(|field| !same(field)) {
            let named = if field == "reportingComponent" { "reportingController" } else { field };
            errors.push(FieldError::invalid(named, &new[field], "field is immutable"));
        }
        errors
    }

    fn fields(&self, event: &Value) -> Vec<(&'static str, String)> {
        Event.fields(event)
    }

    fn columns(&self) -> &'static [Column] {
        Event.columns()
    }

    fn cells(&self, event: &Value, now: Timestamp) -> Vec<Value> {
        Event.cells(event, now)
    }
}

/// An event of the old form lives in the namespace of its object; one about an object without, in `default`.
fn wrong_namespace(event: &Value) -> Option<FieldError> {
    let involved = text(&event["involvedObject"], "namespace");
    let own = meta::namespace(event);
    let expected = if involved.is_empty() { "default" } else { involved };
    (!own.is_empty() && own != expected).then(|| elsewhere(involved))
}

fn elsewhere(involved: &str) -> FieldError {
    FieldError::invalid("involvedObject.namespace", &involved.into(), "does not match event.namespace")
}

/// What is wrong with an event of the new form, which has a time (`legacyValidateEvent`).
fn timed(event: &Value) -> Vec<FieldError> {
    /// The most bytes of the fields that machines write.
    const WORD_BYTES: usize = 128;
    const MESSAGE_BYTES: usize = 1024;
    let mut errors = Vec::new();
    let involved = text(&event["involvedObject"], "namespace");
    if involved.is_empty() && !["default", "kube-system"].contains(&meta::namespace(event)) {
        errors.push(elsewhere(involved));
    }
    let controller = text(event, "reportingComponent");
    if controller.is_empty() {
        errors.push(FieldError::required("reportingController", ""));
    }
    for wrong in names::qualified_name(controller) {
        errors.push(FieldError::invalid("reportingController", &controller.into(), &wrong));
    }
    let too_long = |field: &str, most: usize| {
        let why = format!("can have at most {most} characters");
        (text(event, field).len() > most).then(|| FieldError::invalid(field, &"".into(), &why))
    };
    for field in ["reportingInstance", "action", "reason"] {
        if !is_set(event, field) {
            errors.push(FieldError::required(field, ""));
        }
        errors.extend(too_long(field, WORD_BYTES));
    }
    errors.extend(too_long("message", MESSAGE_BYTES));
    errors
}

fn wrong_series(event: &Value) -> Vec<FieldError> {
    let series = &event["series"];
    let mut errors = Vec::new();
    if series.is_null() {
        return errors;
    }
    if series["count"].as_i64().unwrap_or(0) < 2 {
        errors.push(FieldError::invalid("series.count", &"".into(), "should be at least 2"));
    }
    if series["lastObservedTime"].is_null() {
        errors.push(FieldError::required("series.lastObservedTime", ""));
    }
    errors
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
    #[test]
    fn events_of_the_new_group_are_held_to_its_rules() {
        let good = json!({
            "metadata": {"name": "e", "namespace": "default"}, "type": "Normal", "reason": "R", "action": "A",
            "eventTime": "2024-01-01T00:00:00.000000Z", "reportingComponent": "example.com/c",
            "reportingInstance": "i", "involvedObject": {"kind": "Node"}
        });
        let wrong = |event: &Value| {
            let mut all = StrictEvent.validate(event);
            all.extend(StrictEvent.validate_create(event));
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(wrong(&good), Vec::<String>::new());
        for (field, value, error) in [
            ("eventTime", Value::Null, "eventTime: Required value"),
            ("type", json!("Odd"), "type: Invalid value: \"\": has invalid value: Odd"),
            ("type", Value::Null, "type: Invalid value: \"\": has invalid value: "),
            ("count", json!(1), "count: Invalid value: \"\": needs to be unset"),
            ("firstTimestamp", json!("t"), "firstTimestamp: Invalid value: \"\": needs to be unset"),
            ("source", json!({"host": "h"}), "source: Invalid value: \"\": needs to be unset"),
            ("action", Value::Null, "action: Required value"),
            ("reportingInstance", Value::Null, "reportingInstance: Required value"),
            (
                "reason",
                json!("x".repeat(129)),
                "reason: Invalid value: \"\": can have at most 128 characters",
            ),
            ("series", json!({"count": 2}), "series.lastObservedTime: Required value"),
            (
                "series",
                json!({"count": 1, "lastObservedTime": "t"}),
                "series.count: Invalid value: \"\": should be at least 2",
            ),
        ] {
            let mut event = good.clone();
            event[field] = value;
            assert_eq!(wrong(&event), [error]);
        }
        let mut next = good.clone();
        next["series"] = json!({"count": 2, "lastObservedTime": "t"});
        next["message"] = json!("");
        assert!(StrictEvent.validate_update(&next, &good).is_empty());
        next["message"] = json!("other");
        let errors = StrictEvent.validate_update(&next, &good);
        assert_eq!(errors[0].to_string(), "message: Invalid value: \"other\": field is immutable");
        // The core group goes on taking what it always took.
        assert!(Event.validate_create(&json!({"count": 1})).is_empty());
    }
}
