//! `scheduling.k8s.io`: PriorityClasses, names for how much pods matter.

use jiff::Timestamp;
use serde_json::Value;

use super::column::{self, AGE, NAME};
use super::error::{immutable, word};
use super::value::{fill, text};
use super::{Column, Strategy};
use crate::api::meta;
use crate::api::status::FieldError;

/// The most that users may give.
const HIGHEST: i64 = 1_000_000_000;
/// What names of the system's own classes begin with, and these classes.
const SYSTEM_PREFIX: &str = "system-";
const SYSTEM: &[(&str, i64)] =
    &[("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

/// The strategy of a kind of this group.
pub(super) fn of(kind: &str) -> Option<&'static dyn Strategy> {
    match kind {
        "PriorityClass" => Some(&PriorityClass),
        _ => None,
    }
}

/// The strategy of priority classes.
struct PriorityClass;

impl Strategy for PriorityClass {
    fn default(&self, class: &mut Value) {
        fill(class, "value", 0);
        fill(class, "preemptionPolicy", "PreemptLowerPriority");
    }

    fn validate(&self, class: &Value) -> Vec<FieldError> {
        let mut errors: Vec<FieldError> = priority(class).into_iter().collect();
        let policies = ["Never", "PreemptLowerPriority"];
        errors.extend(word("preemptionPolicy", &class["preemptionPolicy"], &policies));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if new["value"] != old["value"] {
            errors.push(FieldError::forbidden("value", "may not be changed in an update."));
        }
        errors.extend(immutable("preemptionPolicy", &new["preemptionPolicy"], &old["preemptionPolicy"]));
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn generation_changes(&self, _new: &Value, _old: &Value) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column { kind: "integer", ..column::text("Value", "The priority of the pods of this class.") },
            Column {
                kind: "boolean",
                ..column::text("Global-Default", "Whether pods without a class have it.")
            },
            AGE,
            column::text("PreemptionPolicy", "Whether such pods take the places of others."),
        ];
        COLUMNS
    }

    fn cells(&self, class: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            column::name(class),
            class["value"].as_i64().unwrap_or(0).into(),
            (class["globalDefault"] == true).into(),
            column::age(class, now),
            text(class, "preemptionPolicy").into(),
        ]
    }
}

fn priority(class: &Value) -> Option<FieldError> {
    let (name, value) = (meta::name(class), class["value"].as_i64().unwrap_or(0));
    if !name.starts_with(SYSTEM_PREFIX) {
        let why = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        return (value > HIGHEST).then(|| FieldError::forbidden("value", &why));
    }
    let why = match SYSTEM.iter().find(|(known, _)| *known == name) {
        None => format!("{name} is not a known system priority class"),
        Some((_, right)) if *right != value => format!("value of {name} PriorityClass must be {right}"),
        Some(_) if class["globalDefault"] == true => {
            format!("globalDefault of {name} PriorityClass must be false")
        }
        Some(_) => return None,
    };
    let why = format!(
        "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {why}"
    );
    Some(FieldError::forbidden("metadata.name", &why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn priorities_are_bounded() {
        let reserved = "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system \
                        use only. error: ";
        for (name, value, error) in [
            ("high", 1_000_000_000, None),
            ("system-node-critical", 2_000_001_000, None),
            (
                "high",
                1_000_000_001,
                Some(
                    "value: Forbidden: maximum allowed value of a user defined priority is 1000000000"
                        .to_owned(),
                ),
            ),
            ("system-mine", 1, Some(format!("{reserved}system-mine is not a known system priority class"))),
            (
                "system-cluster-critical",
                1,
                Some(format!("{reserved}value of system-cluster-critical PriorityClass must be 2000000000")),
            ),
        ] {
            let mut class = json!({"metadata": {"name": name}, "value": value});
            PriorityClass.default(&mut class);
            let errors = PriorityClass.validate(&class);
            assert_eq!(errors.first().map(ToString::to_string), error);
        }
    }

    #[test]
    fn priorities_stay() {
        let class = |value: i64, policy: &str| json!({"value": value, "preemptionPolicy": policy});
        let errors = PriorityClass.validate_update(&class(1, "Never"), &class(2, "PreemptLowerPriority"));
        let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "value: Forbidden: may not be changed in an update.",
                "preemptionPolicy: Invalid value: \"Never\": field is immutable",
            ]
        );
    }
}
