//! Component statuses, which are never written.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::column::{self, NAME};
use super::value::{items, text};
use super::{Column, Strategy};

/// The strategy of component statuses.
pub(super) struct ComponentStatus;

impl Strategy for ComponentStatus {
    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("Status", "Whether the component is healthy."),
            column::text("Message", "What the component says of itself."),
            column::text("Error", "Why the component could not be asked."),
        ];
        COLUMNS
    }

    fn cells(&self, component: &Value, _now: Timestamp) -> Vec<Value> {
        let condition = items(component, "conditions").iter().find(|one| one["type"] == "Healthy");
        let status = match condition.map(|condition| text(condition, "status")) {
            Some("True") => "Healthy",
            Some(_) => "Unhealthy",
            None => "Unknown",
        };
        let said = |key: &str| json!(condition.map_or("", |condition| text(condition, key)));
        vec![column::name(component), json!(status), said("message"), said("error")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_a_condition() {
        for (conditions, cells) in [
            (json!([{"type": "Healthy", "status": "True", "message": "ok"}]), ["a", "Healthy", "ok", ""]),
            (json!([{"type": "Healthy", "status": "False", "error": "no"}]), ["a", "Unhealthy", "", "no"]),
            (json!([]), ["a", "Unknown", "", ""]),
        ] {
            let component = json!({"metadata": {"name": "a"}, "conditions": conditions});
            assert_eq!(ComponentStatus.cells(&component, Timestamp::UNIX_EPOCH), cells.map(Value::from));
        }
    }
}
