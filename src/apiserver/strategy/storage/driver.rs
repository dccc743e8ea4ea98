//! CSIDrivers: what the cluster must know of a driver.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::column::{self, AGE, NAME, NONE};
use super::super::error::{immutable, word};
use super::super::value::{fill, items, object, text};
use super::super::{Column, Strategy};
use crate::api::status::FieldError;

/// The shortest life of a token that a driver asks for, and the shortest period of its updates.
const TOKEN_SECONDS: i64 = 600;
const UPDATE_SECONDS: i64 = 10;

/// The strategy of drivers.
pub(super) struct CsiDriver;

impl Strategy for CsiDriver {
    fn default(&self, driver: &mut Value) {
        object(driver, "spec");
        let spec = &mut driver["spec"];
        fill(spec, "attachRequired", true);
        for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            fill(spec, field, false);
        }
        fill(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if items(spec, "volumeLifecycleModes").is_empty() {
            spec["volumeLifecycleModes"] = json!(["Persistent"]);
        }
    }

    fn validate(&self, driver: &Value) -> Vec<FieldError> {
        let spec = &driver["spec"];
        let policies = ["File", "None", "ReadWriteOnceWithFSType"];
        let mut errors: Vec<FieldError> =
            word("spec.fsGroupPolicy", &spec["fsGroupPolicy"], &policies).into_iter().collect();
        errors.extend(tokens(items(spec, "tokenRequests")));
        for mode in items(spec, "volumeLifecycleModes") {
            errors.extend(word("spec.volumeLifecycleModes", mode, &["Persistent", "Ephemeral"]));
        }
        let period = &spec["nodeAllocatableUpdatePeriodSeconds"];
        if period.as_i64().is_some_and(|seconds| seconds < UPDATE_SECONDS) {
            let why = "must be greater than or equal to 10 seconds";
            errors.push(FieldError::invalid("spec.nodeAllocatableUpdatePeriodSeconds", period, why));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        // The first path is the one that Kubernetes tells, though the field is called `attachRequired`.
        let fields = [
            ("spec.attachedRequired", "attachRequired"),
            ("spec.volumeLifecycleModes", "volumeLifecycleModes"),
        ];
        let changed = fields.iter();
        changed
            .filter_map(|(path, field)| immutable(path, &new["spec"][*field], &old["spec"][*field]))
            .collect()
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const fn flag(name: &'static str, description: &'static str) -> Column {
            Column { kind: "boolean", ..column::text(name, description) }
        }
        const COLUMNS: &[Column] = &[
            NAME,
            flag("AttachRequired", "Whether volumes are attached before they are mounted."),
            flag("PodInfoOnMount", "Whether the driver is told of the pod."),
            flag("StorageCapacity", "Whether the scheduler looks at the driver's capacity."),
            column::text("TokenRequests", "For whom the driver gets tokens of the pod's account."),
            flag("RequiresRepublish", "Whether the driver is called again and again."),
            column::text("Modes", "The lives of volumes that the driver knows."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, driver: &Value, now: Timestamp) -> Vec<Value> {
        let spec = &driver["spec"];
        let flag = |field: &str, default: bool| Value::from(spec[field].as_bool().unwrap_or(default));
        let modes: Vec<&str> = items(spec, "volumeLifecycleModes").iter().filter_map(Value::as_str).collect();
        let tokens: Vec<&str> = items(spec, "tokenRequests").iter().map(|t| text(t, "audience")).collect();
        vec![
            column::name(driver),
            flag("attachRequired", true),
            flag("podInfoOnMount", false),
            flag("storageCapacity", false),
            if spec["tokenRequests"].is_null() { "<unset>".into() } else { tokens.join(",").into() },
            flag("requiresRepublish", false),
            if modes.is_empty() { NONE.into() } else { modes.join(",").into() },
            column::age(driver, now),
        ]
    }
}

fn tokens(requests: &[Value]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, request) in requests.iter().enumerate() {
        let path = format!("spec.tokenRequests[{i}]");
        if requests[..i].iter().any(|before| text(before, "audience") == text(request, "audience")) {
            errors.push(FieldError::duplicate(format!("{path}.audience"), &text(request, "audience").into()));
            continue;
        }
        let life = &request["expirationSeconds"];
        let why = match life.as_i64() {
            Some(seconds) if seconds < TOKEN_SECONDS => "may not specify a duration less than 10 minutes",
            Some(seconds) if seconds > 1 << 32 => "may not specify a duration larger than 2^32 seconds",
            _ => continue,
        };
        errors.push(FieldError::invalid(format!("{path}.expirationSeconds"), life, why));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_completed_and_checked() {
        let mut driver = json!({});
        CsiDriver.default(&mut driver);
        assert_eq!(
            driver["spec"],
            json!({"attachRequired": true, "podInfoOnMount": false, "storageCapacity": false,
                "requiresRepublish": false, "seLinuxMount": false, "fsGroupPolicy": "ReadWriteOnceWithFSType",
                "volumeLifecycleModes": ["Persistent"]})
        );
        assert!(CsiDriver.validate(&driver).is_empty());
        let wrong = json!({"spec": {"fsGroupPolicy": "x", "volumeLifecycleModes": ["y"],
            "tokenRequests": [{"audience": "a", "expirationSeconds": 1}, {"audience": "a"}],
            "nodeAllocatableUpdatePeriodSeconds": 1}});
        let fields: Vec<String> = CsiDriver.validate(&wrong).into_iter().map(|e| e.field).collect();
        assert_eq!(
            fields,
            [
                "spec.fsGroupPolicy",
                "spec.tokenRequests[0].expirationSeconds",
                "spec.tokenRequests[1].audience",
                "spec.volumeLifecycleModes",
                "spec.nodeAllocatableUpdatePeriodSeconds",
            ]
        );
        let mut new = driver.clone();
        new["spec"]["attachRequired"] = false.into();
        assert_eq!(
            CsiDriver.validate_update(&new, &driver)[0].to_string(),
            "spec.attachedRequired: Invalid value: false: field is immutable"
        );
    }
}
