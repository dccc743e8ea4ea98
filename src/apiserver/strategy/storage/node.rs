//! CSINodes: which drivers a node has.

use jiff::Timestamp;
use serde_json::Value;

use super::super::column::{self, AGE, NAME};
use super::super::error::{immutable, invalid};
use super::super::value::{items, text};
use super::super::{Column, Strategy};
use super::driver_name;
use crate::api::names;
use crate::api::status::FieldError;

/// The longest name that a driver has for a node.
const ID_BYTES: usize = 256;

/// The strategy of the nodes of drivers.
pub(super) struct CsiNode;

impl Strategy for CsiNode {
    fn validate(&self, node: &Value) -> Vec<FieldError> {
        let drivers = items(&node["spec"], "drivers");
        let mut errors = Vec::new();
        for (i, one) in drivers.iter().enumerate() {
            let path = format!("spec.drivers[{i}]");
            errors.extend(driver(&path, one));
            if drivers[..i].iter().any(|before| before["name"] == one["name"]) {
                errors.push(FieldError::duplicate(format!("{path}.name"), &one["name"]));
            }
            errors.extend(topology_keys(&path, items(one, "topologyKeys")));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        // The number of volumes that fit may change.
        let without_count = |driver: &Value| {
            let mut driver = driver.clone();
            driver.as_object_mut().map(|fields| fields.remove("allocatable"));
            driver
        };
        let mut errors = Vec::new();
        for before in items(&old["spec"], "drivers") {
            let same = items(&new["spec"], "drivers").iter().filter(|now| now["name"] == before["name"]);
            for now in same {
                errors.extend(immutable("spec.drivers", &without_count(now), &without_count(before)));
            }
        }
        errors
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column { kind: "integer", ..column::text("Drivers", "How many drivers the node has.") },
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, node: &Value, now: Timestamp) -> Vec<Value> {
        vec![column::name(node), items(&node["spec"], "drivers").len().into(), column::age(node, now)]
    }
}

fn driver(path: &str, driver: &Value) -> Vec<FieldError> {
    let mut errors = driver_name(&format!("{path}.name"), &driver["name"]);
    let id = text(driver, "nodeID");
    let at = format!("{path}.nodeID");
    if id.is_empty() {
        errors.push(FieldError::required(at, ""));
    } else if id.len() > ID_BYTES {
        errors.push(FieldError::invalid(at, &id.into(), &format!("must be {ID_BYTES} characters or less")));
    }
    let count = &driver["allocatable"]["count"];
    if count.as_i64().is_some_and(|n| n < 0) {
        let why = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(format!("{path}.allocatable.count"), count, why));
    }
    errors
}

fn topology_keys(path: &str, keys: &[Value]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, key) in keys.iter().enumerate() {
        let text = key.as_str().unwrap_or_default();
        if text.is_empty() {
            errors.push(FieldError::required(path, ""));
        }
        if keys[..i].contains(key) {
            errors.push(FieldError::duplicate(path, key));
        }
        errors.extend(invalid(path, key, names::qualified_name(text)));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn drivers_of_a_node_are_checked() {
        let node = |drivers: Value| json!({"spec": {"drivers": drivers}});
        let right = node(json!([{"name": "a.io", "nodeID": "n", "topologyKeys": ["zone"]}]));
        assert!(CsiNode.validate(&right).is_empty());
        let wrong = node(json!([{"name": "a.io", "nodeID": ""}, {"name": "a.io", "nodeID": "n",
            "topologyKeys": ["zone", "zone"], "allocatable": {"count": -1}}]));
        let errors: Vec<String> = CsiNode.validate(&wrong).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "spec.drivers[0].nodeID: Required value",
                "spec.drivers[1].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
                "spec.drivers[1].name: Duplicate value: \"a.io\"",
                "spec.drivers[1]: Duplicate value: \"zone\"",
            ]
        );
        let mut new = right.clone();
        new["spec"]["drivers"][0]["allocatable"] = json!({"count": 5});
        assert!(CsiNode.validate_update(&new, &right).is_empty());
        new["spec"]["drivers"][0]["nodeID"] = "m".into();
        assert_eq!(CsiNode.validate_update(&new, &right).len(), 1);
    }
}
