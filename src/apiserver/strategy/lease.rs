//! Leases: who holds what, until when.

use jiff::Timestamp;
use serde_json::Value;

use super::column::{self, AGE, NAME};
use super::value::text;
use super::{Column, Strategy};
use crate::api::status::FieldError;

/// The strategy of leases.
pub(super) struct Lease;

impl Strategy for Lease {
    fn created_on_update(&self) -> bool {
        true
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, lease: &Value) -> Vec<FieldError> {
        let spec = &lease["spec"];
        let mut errors = Vec::new();
        if spec["leaseDurationSeconds"].as_i64().is_some_and(|s| s <= 0) {
            let why = "must be greater than 0";
            errors.push(FieldError::invalid("spec.leaseDurationSeconds", &spec["leaseDurationSeconds"], why));
        }
        if spec["leaseTransitions"].as_i64().is_some_and(|n| n < 0) {
            let why = "must be greater than or equal to 0";
            errors.push(FieldError::invalid("spec.leaseTransitions", &spec["leaseTransitions"], why));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("Holder", "holderIdentity contains the identity of the holder of a current lease."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, lease: &Value, now: Timestamp) -> Vec<Value> {
        vec![column::name(lease), text(&lease["spec"], "holderIdentity").into(), column::age(lease, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_are_positive() {
        let errors = Lease.validate(&json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}}));
        assert_eq!(errors.len(), 2);
        assert!(Lease.validate(&json!({"spec": {"leaseDurationSeconds": 15}})).is_empty());
    }
}
