//! PriorityLevelConfigurations: how many requests run at once, and how many wait.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::column::{self, AGE, NAME, NONE};
use super::super::error::condition_types;
use super::super::value::{fill, fill_zero, items, text};
use super::super::{Column, Strategy};
use crate::api::meta;
use crate::api::status::FieldError;

/// The level of requests that never wait.
const EXEMPT: &str = "exempt";
/// The most queues, and the bits of the hash by which flows are dealt to them.
const QUEUES: i64 = 10_000_000;
const HASH_BITS: i64 = 60;

/// The strategy of priority levels.
pub(super) struct PriorityLevel;

impl Strategy for PriorityLevel {
    fn default(&self, level: &mut Value) {
        if let Some(exempt) = level.pointer_mut("/spec/exempt").filter(|exempt| exempt.is_object()) {
            fill(exempt, "nominalConcurrencyShares", 0);
            fill(exempt, "lendablePercent", 0);
        }
        let Some(limited) = level.pointer_mut("/spec/limited").filter(|limited| limited.is_object()) else {
            return;
        };
        fill(limited, "nominalConcurrencyShares", 30);
        fill(limited, "lendablePercent", 0);
        if let Some(queuing) = limited.pointer_mut("/limitResponse/queuing").filter(|q| q.is_object()) {
            for (field, default) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
                fill_zero(queuing, field, default);
            }
        }
    }

    fn prepare_create(&self, level: &mut Value) {
        if let Some(fields) = level.as_object_mut() {
            fields.insert("status".to_owned(), json!({}));
        }
    }

    fn validate(&self, level: &Value) -> Vec<FieldError> {
        let spec = &level["spec"];
        let (kind, limited, exempt) = (text(spec, "type"), &spec["limited"], &spec["exempt"]);
        let mut errors = Vec::new();
        if (meta::name(level) == EXEMPT) != (kind == "Exempt") {
            let why = "type must be 'Exempt' if and only if name is 'exempt'";
            errors.push(FieldError::invalid("spec.type", &kind.into(), why));
        }
        match kind {
            "Exempt" => {
                if !limited.is_null() {
                    let why = "must be nil if the type is not Limited";
                    errors.push(FieldError::forbidden("spec.limited", why));
                }
                errors.extend(shares("spec.exempt", exempt));
            }
            "Limited" => {
                if !exempt.is_null() {
                    errors.push(FieldError::forbidden("spec.exempt", "must be nil if the type is Limited"));
                }
                if limited.is_null() {
                    let why = "must not be empty when type is Limited";
                    errors.push(FieldError::required("spec.limited", why));
                } else {
                    errors.extend(shares("spec.limited", limited));
                    errors.extend(response(&limited["limitResponse"]));
                }
            }
            _ => {
                let allowed = ["Exempt", "Limited"];
                errors.push(FieldError::not_supported("spec.type", &kind.into(), &allowed));
            }
        }
        errors.extend(condition_types("status.conditions", items(&level["status"], "conditions")));
        errors
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        condition_types("status.conditions", items(&new["status"], "conditions"))
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("Type", "Whether requests of the level may have to wait."),
            column::text("NominalConcurrencyShares", "The level's share of the requests that run at once."),
            column::text("Queues", "In how many queues requests wait."),
            column::text("HandSize", "In how many of the queues the requests of one flow wait."),
            column::text("QueueLengthLimit", "How many requests wait in one queue."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, level: &Value, now: Timestamp) -> Vec<Value> {
        let limited = &level["spec"]["limited"];
        let queuing = &limited["limitResponse"]["queuing"];
        let number = |of: &Value, field: &str| match of.is_null() {
            true => NONE.into(),
            false => of[field].as_i64().unwrap_or(0).into(),
        };
        vec![
            column::name(level),
            text(&level["spec"], "type").into(),
            number(limited, "nominalConcurrencyShares"),
            number(queuing, "queues"),
            number(queuing, "handSize"),
            number(queuing, "queueLengthLimit"),
            column::age(level, now),
        ]
    }
}

fn shares(path: &str, of: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut check = |field: &str, right: &dyn Fn(i64) -> bool, why: &str| {
        if of[field].as_i64().is_some_and(|n| !right(n)) {
            errors.push(FieldError::invalid(format!("{path}.{field}"), &of[field], why));
        }
    };
    check("nominalConcurrencyShares", &|n| n >= 0, "must be a non-negative integer");
    check("lendablePercent", &|n| (0..=100).contains(&n), "must be between 0 and 100, inclusive");
    check("borrowingLimitPercent", &|n| n >= 0, "if specified, must be a non-negative integer");
    errors
}

/// What becomes of a request when too many run already.
fn response(response: &Value) -> Vec<FieldError> {
    const PATH: &str = "spec.limited.limitResponse";
    let queuing = &response["queuing"];
    let path = format!("{PATH}.queuing");
    match (text(response, "type"), queuing.is_null()) {
        ("Reject", true) => Vec::new(),
        ("Reject", false) => {
            vec![FieldError::forbidden(path, "must be nil if limited.limitResponse.type is not Limited")]
        }
        ("Queue", true) => {
            vec![FieldError::required(path, "must not be empty if limited.limitResponse.type is Limited")]
        }
        ("Queue", false) => queues(&path, queuing),
        (other, _) => {
            vec![FieldError::not_supported(format!("{PATH}.type"), &other.into(), &["Queue", "Reject"])]
        }
    }
}

fn queues(path: &str, queuing: &Value) -> Vec<FieldError> {
    let number = |field: &str| queuing[field].as_i64().unwrap_or(0);
    let (length, queues, hand) = (number("queueLengthLimit"), number("queues"), number("handSize"));
    let mut errors = Vec::new();
    let mut wrong = |field: &str, why: &str| {
        errors.push(FieldError::invalid(format!("{path}.{field}"), &number(field).into(), why));
    };
    if length <= 0 {
        wrong("queueLengthLimit", "must be positive");
    }
    if queues <= 0 {
        wrong("queues", "must be positive");
    } else if queues > QUEUES {
        wrong("queues", &format!("must not be greater than {QUEUES}"));
    }
    if hand <= 0 {
        wrong("handSize", "must be positive");
    } else if hand > queues {
        wrong("handSize", &format!("should not be greater than queues ({queues})"));
    } else {
        let bits = ((queues as f64).log2() * hand as f64).ceil();
        if bits > HASH_BITS as f64 {
            wrong(
                "handSize",
                &format!(
                    "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than \
                     {HASH_BITS}"
                ),
            );
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(name: &str, spec: Value) -> Value {
        json!({"metadata": {"name": name}, "spec": spec})
    }

    #[test]
    fn levels_are_completed_and_checked() {
        let mut right = level(
            "mine",
            json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}),
        );
        PriorityLevel.default(&mut right);
        assert_eq!(
            right["spec"]["limited"],
            json!({"nominalConcurrencyShares": 30, "lendablePercent": 0, "limitResponse":
                {"type": "Queue", "queuing": {"handSize": 8, "queues": 64, "queueLengthLimit": 50}}})
        );
        assert!(PriorityLevel.validate(&right).is_empty());
        let queue = |queuing: Value| json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": queuing}}});
        for (name, spec, error) in [
            ("exempt", json!({"type": "Exempt"}), None),
            (
                "mine",
                json!({"type": "Exempt"}),
                Some(
                    "spec.type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if name is 'exempt'",
                ),
            ),
            (
                "mine",
                json!({"type": "Limited"}),
                Some("spec.limited: Required value: must not be empty when type is Limited"),
            ),
            (
                "mine",
                queue(json!({"queueLengthLimit": 1, "queues": 2, "handSize": 3})),
                Some(
                    "spec.limited.limitResponse.queuing.handSize: Invalid value: 3: should not be greater than \
                      queues (2)",
                ),
            ),
            (
                "mine",
                queue(json!({"queueLengthLimit": 1, "queues": 256, "handSize": 8})),
                Some(
                    "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: required entropy bits of \
                      deckSize 256 and handSize 8 should not be greater than 60",
                ),
            ),
        ] {
            let errors: Vec<String> =
                PriorityLevel.validate(&level(name, spec)).iter().map(ToString::to_string).collect();
            assert_eq!(errors, error.into_iter().collect::<Vec<_>>());
        }
    }
}
