//! VolumeAttachments: which volume is attached to which node.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::column::{self, AGE, NAME};
use super::super::error::{immutable, invalid};
use super::super::value::text;
use super::super::{Column, Strategy};
use super::{PARAMETER_BYTES, bytes, driver_name};
use crate::api::names;
use crate::api::status::FieldError;

/// The longest message of an error.
const MESSAGE_BYTES: usize = 1024;

/// The strategy of volume attachments.
pub(super) struct VolumeAttachment;

impl Strategy for VolumeAttachment {
    fn prepare_create(&self, object: &mut Value) {
        if let Some(fields) = object.as_object_mut() {
            fields.insert("status".to_owned(), json!({"attached": false}));
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let spec = &object["spec"];
        let mut errors = Vec::new();
        if text(spec, "attacher").is_empty() {
            errors.push(FieldError::required("spec.attacher", ""));
        }
        errors.extend(source(&spec["source"]));
        let node = text(spec, "nodeName");
        errors.extend(invalid("spec.nodeName", &node.into(), names::dns_subdomain(node)));
        errors.extend(status(&object["status"]));
        errors
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let spec = &object["spec"];
        let mut errors = driver_name("spec.attacher", &spec["attacher"]);
        if let Some(volume) = spec["source"]["persistentVolumeName"].as_str() {
            let path = "spec.source.persistentVolumeName";
            errors.extend(invalid(path, &volume.into(), names::dns_subdomain(volume)));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        immutable("spec", &new["spec"], &old["spec"]).into_iter().collect()
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        self.validate(new)
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column { format: "name", ..column::text("Attacher", "The driver that attaches the volume.") },
            column::text("PV", "The volume."),
            column::text("Node", "The node."),
            Column { kind: "boolean", ..column::text("Attached", "Whether the volume is attached.") },
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let spec = &object["spec"];
        vec![
            column::name(object),
            text(spec, "attacher").into(),
            text(&spec["source"], "persistentVolumeName").into(),
            text(spec, "nodeName").into(),
            (object["status"]["attached"] == true).into(),
            column::age(object, now),
        ]
    }
}

fn source(source: &Value) -> Vec<FieldError> {
    const PATH: &str = "spec.source";
    const WHY: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let (inline, volume) = (&source["inlineVolumeSpec"], &source["persistentVolumeName"]);
    match (inline.is_null(), volume.as_str()) {
        (true, None) => vec![FieldError::required(PATH, WHY)],
        (false, Some(_)) => vec![FieldError::forbidden(PATH, WHY)],
        (true, Some("")) => {
            let why = "must specify non empty persistentVolumeName";
            vec![FieldError::required(format!("{PATH}.persistentVolumeName"), why)]
        }
        _ => Vec::new(),
    }
}

fn status(status: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if bytes(status, "attachmentMetadata") > PARAMETER_BYTES {
        errors.push(FieldError::too_long("status.attachmentMetadata", PARAMETER_BYTES));
    }
    for field in ["attachError", "detachError"] {
        let error = &status[field];
        if text(error, "message").len() > MESSAGE_BYTES {
            // Kubernetes names the other limit.
            errors.push(FieldError::too_long(format!("status.{field}.message"), PARAMETER_BYTES));
        }
        if error["errorCode"].as_i64().is_some_and(|code| code < 0) {
            let why = "must be between 0 and 2147483647, inclusive";
            errors.push(FieldError::invalid(format!("status.{field}.errorCode"), &error["errorCode"], why));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachments_name_one_volume() {
        let attachment =
            |source: Value| json!({"spec": {"attacher": "a.io", "nodeName": "minik", "source": source}});
        let why = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
        for (source, error) in [
            (json!({"persistentVolumeName": "v"}), None),
            (json!({}), Some(format!("spec.source: Required value: {why}"))),
            (
                json!({"persistentVolumeName": "v", "inlineVolumeSpec": {}}),
                Some(format!("spec.source: Forbidden: {why}")),
            ),
        ] {
            let errors = VolumeAttachment.validate(&attachment(source));
            assert_eq!(errors.first().map(ToString::to_string), error);
        }
        let old = attachment(json!({"persistentVolumeName": "v"}));
        let mut new = old.clone();
        assert!(VolumeAttachment.validate_update(&new, &old).is_empty());
        new["spec"]["nodeName"] = "other".into();
        assert_eq!(VolumeAttachment.validate_update(&new, &old).len(), 1);
        new["status"] = json!({"attachError": {"errorCode": -1}});
        assert_eq!(VolumeAttachment.validate_status_update(&new, &old).len(), 1);
    }
}
