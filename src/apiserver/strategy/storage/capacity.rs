//! CSIStorageCapacities: how much room a driver has for new volumes, and where.

use jiff::Timestamp;
use serde_json::Value;

use super::super::column::{self, NAME};
use super::super::deprecated;
use super::super::error::{immutable, invalid};
use super::super::selector;
use super::super::value::text;
use super::super::{Column, Strategy};
use crate::api::status::FieldError;
use crate::api::{names, quantity};

/// The strategy of drivers' capacities.
pub(super) struct CsiStorageCapacity;

impl Strategy for CsiStorageCapacity {
    fn validate(&self, capacity: &Value) -> Vec<FieldError> {
        let mut errors = selector::errors("nodeTopology", &capacity["nodeTopology"]);
        let class = text(capacity, "storageClassName");
        errors.extend(invalid("storageClassName", &class.into(), names::dns_subdomain(class)));
        let amount = text(capacity, "capacity");
        if quantity::parse(amount).is_ok_and(|amount| amount.is_negative()) {
            let why = "must be greater than or equal to 0";
            errors.push(FieldError::invalid("capacity", &amount.into(), why));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let fields = ["nodeTopology", "storageClassName"];
        fields.iter().filter_map(|field| immutable(field, &new[*field], &old[*field])).collect()
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn warnings(&self, capacity: &Value) -> Vec<String> {
        deprecated::node_selector("nodeTopology", &capacity["nodeTopology"])
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("StorageClassName", "The class whose volumes fit."),
            column::text("Capacity", "How much fits."),
        ];
        COLUMNS
    }

    fn cells(&self, capacity: &Value, _now: Timestamp) -> Vec<Value> {
        let amount = capacity["capacity"].as_str().unwrap_or("<unset>");
        vec![column::name(capacity), text(capacity, "storageClassName").into(), amount.into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn capacities_are_of_one_class() {
        let right = json!({"storageClassName": "fast", "capacity": "1Gi"});
        assert!(CsiStorageCapacity.validate(&right).is_empty());
        let wrong = json!({"storageClassName": "fast", "capacity": "-1Gi"});
        assert_eq!(
            CsiStorageCapacity.validate(&wrong)[0].to_string(),
            "capacity: Invalid value: \"-1Gi\": must be greater than or equal to 0"
        );
        let other = json!({"storageClassName": "slow", "capacity": "1Gi"});
        assert_eq!(CsiStorageCapacity.validate_update(&other, &right).len(), 1);
    }
}
