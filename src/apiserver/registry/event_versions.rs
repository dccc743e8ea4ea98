//! Events are stored once and served in two groups: the mapping of their fields.
//!
//! Source: Kubernetes `pkg/apis/events/v1/conversion.go` (`involvedObject`/`regarding`, `message`/`note`,
//! and the old fields under `deprecated...`).

use serde_json::{Map, Value};

/// The newer group; the core group's form is the stored one.
pub const GROUP: &str = "events.k8s.io";

/// Core name, events.k8s.io name.
const FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// The stored form as events.k8s.io/v1 serves it.
pub fn to_events_group(event: &Value) -> Value {
    renamed(event, "events.k8s.io/v1", |name| FIELDS.iter().find(|(core, _)| *core == name).map(|f| f.1))
}

/// The events.k8s.io/v1 form as it is stored.
pub fn to_core_group(event: &Value) -> Value {
    let mut core = renamed(event, "v1", |name| FIELDS.iter().find(|(_, new)| *new == name).map(|f| f.0));
    // Both are required (if empty) in the core form; kubectl's describe relies on them.
    if let Value::Object(fields) = &mut core {
        fields.entry("involvedObject").or_insert_with(|| Value::Object(Map::new()));
    }
    core
}

/// The name in events.k8s.io/v1 of a field by which events of the core group are selected; not all have one.
pub fn field_label(core: &str) -> Option<&str> {
    Some(match core {
        "involvedObject.kind" => "regarding.kind",
        "involvedObject.namespace" => "regarding.namespace",
        "involvedObject.name" => "regarding.name",
        "involvedObject.uid" => "regarding.uid",
        "involvedObject.apiVersion" => "regarding.apiVersion",
        "involvedObject.resourceVersion" => "regarding.resourceVersion",
        "involvedObject.fieldPath" => "regarding.fieldPath",
        "reportingComponent" => "reportingController",
        "reason" | "type" => core,
        _ => return None,
    })
}

fn renamed(event: &Value, api_version: &str, name_of: impl Fn(&str) -> Option<&'static str>) -> Value {
    let Value::Object(fields) = event else { return event.clone() };
    let mut new: Map<String, Value> = fields
        .iter()
        .map(|(name, value)| (name_of(name).map_or_else(|| name.clone(), str::to_owned), value.clone()))
        .collect();
    new.insert("apiVersion".into(), api_version.into());
    Value::Object(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_change_names_and_come_back() {
        let core = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "message": "Started", "count": 2,
            "involvedObject": {"kind": "Pod"}, "source": {"component": "kubelet"}, "reason": "Started",
            "reportingComponent": "kubelet", "reportingInstance": "minik", "firstTimestamp": "t", "lastTimestamp": "u",
        });
        let new = to_events_group(&core);
        assert_eq!(new["apiVersion"], "events.k8s.io/v1");
        assert_eq!(new["note"], "Started");
        assert_eq!(new["regarding"]["kind"], "Pod");
        assert_eq!(new["deprecatedCount"], 2);
        assert_eq!(new["reportingController"], "kubelet");
        assert!(new.get("message").is_none());
        assert_eq!(to_core_group(&new), core);
    }
}
