//! Events are stored once, in the core group's form, and served in two groups: the mapping of their fields.
//!
//! Source: Kubernetes `pkg/apis/events/v1/conversion.go` (`involvedObject`/`regarding`, `message`/`note`,
//! and the old fields under `deprecated...`).

use serde_json::{Map, Value};

use super::rename;

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
pub(super) fn to_new(event: &mut Value) {
    FIELDS.iter().for_each(|(core, new)| rename(event, core, new));
}

/// The events.k8s.io/v1 form as it is stored.
pub(super) fn to_core(event: &mut Value) {
    FIELDS.iter().for_each(|(core, new)| rename(event, new, core));
    // Both are required (if empty) in the core form; kubectl's describe relies on them.
    if let Value::Object(fields) = event {
        fields.entry("involvedObject").or_insert_with(|| Value::Object(Map::new()));
    }
}

/// The name in events.k8s.io/v1 of a field by which events of the core group are selected; not all have one.
pub(super) fn field_label(core: &'static str) -> Option<&'static str> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_change_names_and_come_back() {
        let core = json!({
            "kind": "Event", "metadata": {"name": "e"}, "message": "Started", "count": 2,
            "involvedObject": {"kind": "Pod"}, "source": {"component": "kubelet"}, "reason": "Started",
            "reportingComponent": "kubelet", "reportingInstance": "minik", "firstTimestamp": "t", "lastTimestamp": "u",
        });
        let mut new = core.clone();
        to_new(&mut new);
        assert_eq!(new["note"], "Started");
        assert_eq!(new["regarding"]["kind"], "Pod");
        assert_eq!(new["deprecatedCount"], 2);
        assert_eq!(new["reportingController"], "kubelet");
        assert!(new.get("message").is_none());
        to_core(&mut new);
        assert_eq!(new, core);
    }
}
