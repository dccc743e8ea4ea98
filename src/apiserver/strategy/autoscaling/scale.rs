//! Scales: never stored, shown as a table all the same.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::column::{self, AGE, NAME};
use super::super::{Column, Strategy};

/// The strategy of scales.
pub(in super::super) struct Scale;

impl Strategy for Scale {
    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::integer("Desired", "How many replicas there should be."),
            column::integer("Available", "How many replicas there are."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, scale: &Value, now: Timestamp) -> Vec<Value> {
        let count = |part: &str| json!(scale[part]["replicas"].as_i64().unwrap_or(0));
        vec![column::name(scale), count("spec"), count("status"), column::age(scale, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_two_numbers() {
        let scale = json!({"metadata": {"name": "www"}, "spec": {"replicas": 3}, "status": {"replicas": 2}});
        assert_eq!(Scale.cells(&scale, Timestamp::UNIX_EPOCH)[..3], [json!("www"), json!(3), json!(2)]);
    }
}
