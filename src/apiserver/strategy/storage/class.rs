//! StorageClasses and VolumeAttributesClasses: named settings of volumes.

use jiff::Timestamp;
use serde_json::Value;

use super::super::column::{self, AGE, NAME};
use super::super::deprecated;
use super::super::error::{immutable, invalid, word};
use super::super::value::{fill, items, text};
use super::super::{Column, Strategy};
use super::{frozen, parameters, provisioner};
use crate::api::status::FieldError;
use crate::api::volumes::IS_DEFAULT_CLASS;
use crate::api::{meta, names};

/// The strategy of storage classes.
pub(super) struct StorageClass;

impl Strategy for StorageClass {
    fn default(&self, class: &mut Value) {
        fill(class, "reclaimPolicy", "Delete");
        fill(class, "volumeBindingMode", "Immediate");
    }

    fn validate(&self, class: &Value) -> Vec<FieldError> {
        let mut errors = provisioner("provisioner", &class["provisioner"]);
        errors.extend(parameters(class));
        if !text(class, "reclaimPolicy").is_empty() {
            errors.extend(word("reclaimPolicy", &class["reclaimPolicy"], &["Delete", "Retain"]));
        }
        let modes = ["Immediate", "WaitForFirstConsumer"];
        errors.extend(word("volumeBindingMode", &class["volumeBindingMode"], &modes));
        errors.extend(topologies(items(class, "allowedTopologies")));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let fields = ["parameters", "provisioner", "reclaimPolicy"];
        let mut errors: Vec<FieldError> =
            fields.into_iter().filter_map(|field| frozen(new, old, field)).collect();
        errors.extend(immutable("volumeBindingMode", &new["volumeBindingMode"], &old["volumeBindingMode"]));
        errors
    }

    fn warnings(&self, class: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        for (i, term) in items(class, "allowedTopologies").iter().enumerate() {
            for (j, expression) in items(term, "matchLabelExpressions").iter().enumerate() {
                let told = deprecated::node_label(text(expression, "key"));
                warnings.extend(
                    told.map(|told| format!("allowedTopologies[{i}].matchLabelExpressions[{j}].key: {told}")),
                );
            }
        }
        warnings
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("Provisioner", "Who makes the volumes of this class."),
            column::text("ReclaimPolicy", "What becomes of a volume when its claim is deleted."),
            column::text("VolumeBindingMode", "When a claim gets its volume."),
            column::text("AllowVolumeExpansion", "Whether claims may grow."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, class: &Value, now: Timestamp) -> Vec<Value> {
        let default = IS_DEFAULT_CLASS.iter().any(|mark| meta::annotation(class, mark) == Some("true"));
        let name = meta::name(class);
        vec![
            if default { format!("{name} (default)").into() } else { name.into() },
            text(class, "provisioner").into(),
            class["reclaimPolicy"].as_str().unwrap_or("Delete").into(),
            class["volumeBindingMode"].as_str().unwrap_or("Immediate").into(),
            class["allowVolumeExpansion"].as_bool().unwrap_or(false).into(),
            column::age(class, now),
        ]
    }
}

/// Where volumes may be made: each term says something else, each key once, with distinct values.
fn topologies(terms: &[Value]) -> Vec<FieldError> {
    const FIELD: &str = "matchLabelExpressions";
    let mut errors = Vec::new();
    for (i, term) in terms.iter().enumerate() {
        let path = format!("allowedTopologies[{i}].{FIELD}");
        let requirements = items(term, FIELD);
        for (j, requirement) in requirements.iter().enumerate() {
            let path = format!("{path}[{j}]");
            let values = items(requirement, "values");
            if values.is_empty() {
                errors.push(FieldError::required(format!("{path}.values"), ""));
            }
            for (k, value) in values.iter().enumerate().filter(|(k, value)| values[..*k].contains(value)) {
                errors.push(FieldError::duplicate(format!("{path}.values[{k}]"), value));
            }
            let key = text(requirement, "key");
            errors.extend(invalid(&format!("{path}.key"), &key.into(), names::qualified_name(key)));
            if requirements[..j].iter().any(|before| before["key"] == requirement["key"]) {
                errors.push(FieldError::duplicate(format!("{path}.key"), &requirement["key"]));
            }
        }
        if terms[..i].iter().any(|before| before[FIELD] == term[FIELD]) {
            errors.push(FieldError::duplicate(path, &"".into()));
        }
    }
    errors
}

/// The strategy of classes of what may change of a volume.
pub(super) struct VolumeAttributesClass;

impl Strategy for VolumeAttributesClass {
    fn validate(&self, class: &Value) -> Vec<FieldError> {
        let mut errors = provisioner("driverName", &class["driverName"]);
        errors.extend(parameters(class));
        if class["parameters"].as_object().is_none_or(serde_json::Map::is_empty) {
            errors.push(FieldError::required("parameters", "must contain at least one key/value pair"));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        ["driverName", "parameters"].into_iter().filter_map(|field| frozen(new, old, field)).collect()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, column::text("DriverName", "The driver that knows the parameters."), AGE];
        COLUMNS
    }

    fn cells(&self, class: &Value, now: Timestamp) -> Vec<Value> {
        vec![column::name(class), text(class, "driverName").into(), column::age(class, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn classes_are_checked() {
        let topology = |values: Value| json!({"matchLabelExpressions": [{"key": "zone", "values": values}]});
        for (class, errors) in [
            (json!({"provisioner": "Rancher.io/local-path"}), vec![]),
            (json!({}), vec!["provisioner: Required value"]),
            (
                json!({"provisioner": "a", "reclaimPolicy": "Recycle", "volumeBindingMode": "Never"}),
                vec![
                    "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
                    "volumeBindingMode: Unsupported value: \"Never\": supported values: \"Immediate\", \
                     \"WaitForFirstConsumer\"",
                ],
            ),
            (
                json!({"provisioner": "a", "allowedTopologies": [topology(json!(["a", "a"])), topology(json!([]))]}),
                vec![
                    "allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: \"a\"",
                    "allowedTopologies[1].matchLabelExpressions[0].values: Required value",
                ],
            ),
        ] {
            let mut class = class;
            StorageClass.default(&mut class);
            assert_eq!(told(StorageClass.validate(&class)), errors);
        }
    }

    #[test]
    fn what_made_volumes_stays() {
        let old = json!({"provisioner": "a", "parameters": {"a": "b"}, "reclaimPolicy": "Delete",
                         "volumeBindingMode": "Immediate", "allowVolumeExpansion": false});
        let mut new = old.clone();
        new["allowVolumeExpansion"] = true.into();
        assert!(StorageClass.validate_update(&new, &old).is_empty());
        new["provisioner"] = "b".into();
        new["volumeBindingMode"] = "WaitForFirstConsumer".into();
        assert_eq!(
            told(StorageClass.validate_update(&new, &old)),
            [
                "provisioner: Forbidden: updates to provisioner are forbidden.",
                "volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable",
            ]
        );
        let class = json!({"driverName": "a"});
        assert_eq!(
            told(VolumeAttributesClass.validate(&class)),
            ["parameters: Required value: must contain at least one key/value pair"]
        );
    }

    #[test]
    fn the_default_class_is_marked() {
        let class = json!({"metadata": {"name": "fast", "annotations": {IS_DEFAULT_CLASS[0]: "true"}}});
        let cells = StorageClass.cells(&class, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[0], "fast (default)");
        assert_eq!(cells[4], false);
    }
}
