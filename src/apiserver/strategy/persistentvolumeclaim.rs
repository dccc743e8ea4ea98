//! Claims to persistent volumes (`ValidatePersistentVolumeClaim` of Kubernetes' core validation).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::checks;
use super::column::{self, AGE, NAME};
use super::value::{carry_over, fill, fill_zero, is_zero, items, object, text};
use super::{Column, Strategy};
use crate::api::meta;
use crate::api::names;
use crate::api::quantity::{self, Quantity};
use crate::api::status::FieldError;

/// How volumes can be used, in Kubernetes' (sorted) order.
const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// The class of storage, before there was a field for it.
pub(super) const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// The strategy of claims.
pub(super) struct PersistentVolumeClaim;

impl Strategy for PersistentVolumeClaim {
    fn default(&self, claim: &mut Value) {
        default(claim);
    }

    fn prepare_create(&self, claim: &mut Value) {
        claim["status"] = json!({"phase": "Pending"});
        data_sources(&mut claim["spec"]);
    }

    fn validate(&self, claim: &Value) -> Vec<FieldError> {
        spec("spec", &claim["spec"])
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (given, before) = (&new["spec"], &old["spec"]);
        let annotation = |claim: &Value| claim["metadata"]["annotations"][CLASS_ANNOTATION].clone();
        let path = format!("metadata.annotations[{CLASS_ANNOTATION}]");
        errors.extend(checks::immutable(&path, &annotation(new), &annotation(old)));
        // What may change is set aside, the rest must be as it was.
        let mut munged = given.clone();
        if text(before, "volumeName").is_empty() {
            carry_over(&mut munged, before, "volumeName");
        }
        if before["storageClassName"].is_null() {
            carry_over(&mut munged, before, "storageClassName");
        }
        if new["status"]["phase"] == "Bound" && munged["resources"]["requests"].is_object() {
            munged["resources"]["requests"]["storage"] = before["resources"]["requests"]["storage"].clone();
        }
        carry_over(&mut munged, before, "volumeAttributesClassName");
        if !checks::same(&munged, before) {
            let why = format!(
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound \
                 claims\n{}",
                checks::difference(before, &munged)
            );
            errors.push(FieldError::forbidden("spec", &why));
        }
        let size = |value: &Value| value.as_str().and_then(|text| quantity::parse(text).ok());
        let asked = |claim: &Value| size(&claim["spec"]["resources"]["requests"]["storage"]);
        let there = size(&new["status"]["capacity"]["storage"]).unwrap_or(Quantity::bytes(0));
        if let (Some(new), Some(old)) = (asked(new), asked(old))
            && new < old
            && new <= there
        {
            let why = "field can not be less than status.capacity";
            errors.push(FieldError::forbidden("spec.resources.requests.storage", why));
        }
        errors.extend(checks::immutable("volumeMode", &given["volumeMode"], &before["volumeMode"]));
        errors.extend(attributes_class(given, before));
        errors
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        amounts("status.capacity", &new["status"]["capacity"])
    }

    fn warnings(&self, claim: &Value) -> Vec<String> {
        warnings("", claim)
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("Status", "Whether it has a volume."),
            column::text("Volume", "The volume that it has."),
            column::text("Capacity", "The size of that volume."),
            column::text("Access Modes", "How that volume can be used."),
            column::text("StorageClass", "The class of storage that it asks for."),
            column::text("VolumeAttributesClass", "The class of attributes that it asks for."),
            AGE,
            column::wide("VolumeMode", "Whether it is for a file system or for a block device."),
        ];
        COLUMNS
    }

    fn cells(&self, claim: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (&claim["spec"], &claim["status"]);
        let bound = !text(spec, "volumeName").is_empty();
        let phase = if meta::is_deleting(claim) { "Terminating" } else { text(status, "phase") };
        let capacity = status["capacity"]["storage"].as_str().unwrap_or("0");
        vec![
            column::name(claim),
            phase.into(),
            text(spec, "volumeName").into(),
            if bound { capacity } else { "" }.into(),
            if bound { modes(&status["accessModes"]) } else { String::new() }.into(),
            class(claim).into(),
            column::or_unset(&spec["volumeAttributesClassName"]),
            column::age(claim, now),
            column::or_unset(&spec["volumeMode"]),
        ]
    }
}

/// Fills in a claim, or the template of one.
pub(super) fn default(claim: &mut Value) {
    object(claim, "spec");
    object(claim, "status");
    fill_zero(&mut claim["status"], "phase", "Pending");
    fill(&mut claim["spec"], "volumeMode", "Filesystem");
}

/// The older and the newer field for what a volume begins with say the same, where both can.
fn data_sources(spec: &mut Value) {
    let known = |source: &Value| {
        matches!(
            (text(source, "apiGroup"), text(source, "kind")),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        )
    };
    if spec["dataSourceRef"].is_null() && !known(&spec["dataSource"]) {
        carry_over(spec, &Value::Null, "dataSource");
    }
    let (older, newer) = (spec["dataSource"].clone(), spec["dataSourceRef"].clone());
    if older.is_object() && newer.is_null() {
        spec["dataSourceRef"] = older;
    } else if newer.is_object() && older.is_null() && text(&newer, "namespace").is_empty() {
        let mut same = newer;
        carry_over(&mut same, &Value::Null, "namespace");
        spec["dataSource"] = same;
    }
}

/// What is wrong with the template of a claim at `path` (`ValidatePersistentVolumeClaimTemplate`): of metadata it has
/// labels and annotations alone.
pub(super) fn template(path: &str, template: &Value) -> Vec<FieldError> {
    let metadata = &template["metadata"];
    let at = |field: &str| format!("{path}.metadata.{field}");
    let mut errors = checks::annotations(&at("annotations"), &metadata["annotations"]);
    errors.extend(checks::labels(&at("labels"), &metadata["labels"]));
    let others = metadata.as_object().into_iter().flatten();
    let others = others
        .filter(|(field, value)| !matches!(field.as_str(), "annotations" | "labels") && !is_zero(value));
    errors.extend(others.map(|(field, _)| FieldError::forbidden(at(field), "cannot be set")));
    errors.extend(spec(&format!("{path}.spec"), &template["spec"]));
    errors
}

/// What is wrong with a claim's specification.
fn spec(path: &str, spec: &Value) -> Vec<FieldError> {
    let at = |field: &str| format!("{path}.{field}");
    let mut errors = Vec::new();
    if items(spec, "accessModes").is_empty() {
        errors.push(FieldError::required(at("accessModes"), "at least 1 access mode is required"));
    }
    errors.extend(checks::label_selector(&at("selector"), &spec["selector"]));
    errors.extend(access_modes(&at("accessModes"), spec));
    let storage = &spec["resources"]["requests"]["storage"];
    match storage {
        Value::Null => errors.push(FieldError::required(at("resources[storage]"), "")),
        asked => errors.extend(positive(&at("resources[storage]"), asked)),
    }
    errors.extend(class_name(&at("storageClassName"), &spec["storageClassName"]));
    errors.extend(volume_mode(&at("volumeMode"), spec));
    let sources = ["dataSource", "dataSourceRef"];
    errors.extend(sources.iter().flat_map(|field| data_source(&at(field), &spec[*field])));
    let (older, newer) = (&spec["dataSource"], &spec["dataSourceRef"]);
    if older.is_object() && newer.is_object() {
        let differ =
            ["apiGroup", "kind", "name"].iter().any(|field| text(older, field) != text(newer, field));
        let why = if !text(newer, "namespace").is_empty() {
            Some("may not be specified when dataSourceRef.namespace is specified")
        } else {
            differ.then_some("must match dataSourceRef")
        };
        errors.extend(why.map(|why| FieldError::invalid(path, &json!(at("dataSource")), why)));
    }
    errors.extend(class_name(&at("volumeAttributesClassName"), &spec["volumeAttributesClassName"]));
    errors
}

fn data_source(path: &str, source: &Value) -> Vec<FieldError> {
    if source.is_null() {
        return Vec::new();
    }
    let mut errors = Vec::new();
    for field in ["name", "kind"] {
        if text(source, field).is_empty() {
            errors.push(FieldError::required(format!("{path}.{field}"), ""));
        }
    }
    match text(source, "apiGroup") {
        "" if text(source, "kind") != "PersistentVolumeClaim" => {
            let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.push(FieldError::invalid(path, &json!(text(source, "kind")), why));
        }
        "" => {}
        group => {
            let wrong = names::dns_subdomain(group);
            let path = format!("{path}.apiGroup");
            errors.extend(wrong.iter().map(|w| FieldError::invalid(path.as_str(), &json!(group), w)));
        }
    }
    errors
}

fn attributes_class(new: &Value, old: &Value) -> Option<FieldError> {
    let (new, old) = (&new["volumeAttributesClassName"], &old["volumeAttributesClassName"]);
    let why = match new.as_str() {
        _ if old.is_null() => return None,
        None => "update from non-nil value to nil is forbidden",
        Some("") if old != "" => "update from non-nil value to an empty string is forbidden",
        Some(_) => return None,
    };
    Some(FieldError::forbidden("spec.volumeAttributesClassName", why))
}

/// How a volume is, or is to be, used.
pub(super) fn access_modes(path: &str, spec: &Value) -> Vec<FieldError> {
    let given = items(spec, "accessModes");
    let known = |mode: &Value| mode.as_str().is_some_and(|mode| MODES.contains(&mode));
    let unknown = given.iter().filter(|mode| !known(mode));
    let mut errors: Vec<FieldError> =
        unknown.map(|mode| FieldError::not_supported(path, mode, MODES)).collect();
    let alone = |mode: &Value| mode == "ReadWriteOncePod";
    if given.iter().any(alone) && given.iter().any(|mode| known(mode) && !alone(mode)) {
        errors.push(FieldError::forbidden(path, "may not use ReadWriteOncePod with other access modes"));
    }
    errors
}

/// The name of a class, where there is one.
pub(super) fn class_name(path: &str, name: &Value) -> Vec<FieldError> {
    let wrong = name.as_str().filter(|name| !name.is_empty()).map(names::dns_subdomain).unwrap_or_default();
    wrong.iter().map(|w| FieldError::invalid(path, name, w)).collect()
}

/// A file system or a block device.
pub(super) fn volume_mode(path: &str, spec: &Value) -> Option<FieldError> {
    const KNOWN: &[&str] = &["Block", "Filesystem"];
    let mode = spec["volumeMode"].as_str()?;
    (!KNOWN.contains(&mode)).then(|| FieldError::not_supported(path, &spec["volumeMode"], KNOWN))
}

/// An amount that is more than nothing.
pub(super) fn positive(path: &str, value: &Value) -> Option<FieldError> {
    let amount = value.as_str().and_then(|text| quantity::parse(text).ok())?;
    (amount.is_negative() || amount.is_zero())
        .then(|| FieldError::invalid(path, value, "must be greater than zero"))
}

/// Amounts that are not below nothing.
pub(super) fn amounts(path: &str, map: &Value) -> Vec<FieldError> {
    let below = |value: &Value| {
        let amount = value.as_str().and_then(|text| quantity::parse(text).ok());
        amount.filter(Quantity::is_negative).map(|amount| amount.value())
    };
    let all = map.as_object().into_iter().flatten();
    all.filter_map(|(name, value)| {
        let why = "must be a valid resource quantity";
        Some(FieldError::invalid(format!("{path}[{name}]"), &json!(below(value)?), why))
    })
    .collect()
}

/// `RWO,ROX`.
pub(super) fn modes(modes: &Value) -> String {
    const SHORT: &[(&str, &str)] = &[
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let given = |mode: &str| modes.as_array().is_some_and(|all| all.iter().any(|one| one == mode));
    SHORT.iter().filter(|(mode, _)| given(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// The class of storage of a volume or of a claim.
pub(super) fn class(object: &Value) -> &str {
    meta::annotation(object, CLASS_ANNOTATION).unwrap_or(text(&object["spec"], "storageClassName"))
}

/// The class of a claim or a volume stood in an annotation once.
pub(super) fn beta_class(object: &Value) -> Option<String> {
    meta::annotation(object, CLASS_ANNOTATION)?;
    Some(format!(
        "metadata.annotations[{CLASS_ANNOTATION}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
    ))
}

/// What the author of a claim should know; `path` is that of a template of one, else empty.
pub(super) fn warnings(path: &str, claim: &Value) -> Vec<String> {
    let at = |field: &str| if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") };
    let mut warnings: Vec<_> = beta_class(claim).filter(|_| path.is_empty()).into_iter().collect();
    for list in ["requests", "limits"] {
        let value = &claim["spec"]["resources"][list]["storage"];
        let amount = value.as_str().and_then(|text| quantity::parse(text).ok());
        if let Some(amount) = amount.filter(|amount| !amount.is_integer()) {
            let shown = amount.to_string();
            warnings.push(format!(
                "{}[storage]: fractional byte value {shown:?} is invalid, must be an integer",
                at(&format!("spec.resources.{list}"))
            ));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(more: Value) -> Value {
        let mut claim = json!({"metadata": {"name": "data"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        for (key, value) in more.as_object().unwrap() {
            claim["spec"][key] = value.clone();
        }
        default(&mut claim);
        claim
    }

    fn told(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_and_words_are_kubernetes() {
        let good = claim(json!({}));
        assert_eq!(
            (&good["spec"]["volumeMode"], &good["status"]),
            (&json!("Filesystem"), &json!({"phase": "Pending"}))
        );
        for (more, errors) in [
            (json!({}), &[][..]),
            (json!({"storageClassName": ""}), &[]),
            (
                json!({"accessModes": null, "resources": {}}),
                &[
                    "spec.accessModes: Required value: at least 1 access mode is required",
                    "spec.resources[storage]: Required value",
                ],
            ),
            (
                json!({"accessModes": ["X", "ReadWriteOncePod", "ReadWriteOnce"]}),
                &[
                    "spec.accessModes: Unsupported value: \"X\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                    "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
                ],
            ),
            (
                json!({"resources": {"requests": {"storage": "0"}}}),
                &["spec.resources[storage]: Invalid value: \"0\": must be greater than zero"],
            ),
            (
                json!({"volumeMode": "X"}),
                &["spec.volumeMode: Unsupported value: \"X\": supported values: \"Block\", \"Filesystem\""],
            ),
            (
                json!({"dataSource": {"kind": "X", "name": "a"}}),
                &[
                    "spec.dataSource: Invalid value: \"X\": must be 'PersistentVolumeClaim' when referencing the default apiGroup",
                ],
            ),
        ] {
            assert_eq!(told(PersistentVolumeClaim.validate(&claim(more.clone()))), errors, "{more}");
        }
    }

    #[test]
    fn a_claim_is_bound_and_grown_and_little_else() {
        let old = claim(json!({}));
        let mut bound = old.clone();
        bound["spec"]["volumeName"] = json!("pv");
        bound["spec"]["storageClassName"] = json!("standard");
        assert!(PersistentVolumeClaim.validate_update(&bound, &old).is_empty());
        let mut grown = bound.clone();
        grown["spec"]["resources"]["requests"]["storage"] = json!("2Gi");
        let refused = told(PersistentVolumeClaim.validate_update(&grown, &bound));
        assert!(
            refused[0].starts_with("spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n- resources: "),
            "{refused:?}"
        );
        for claim in [&mut grown, &mut bound] {
            claim["status"] =
                json!({"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]});
        }
        assert!(PersistentVolumeClaim.validate_update(&grown, &bound).is_empty());
        assert_eq!(
            told(PersistentVolumeClaim.validate_update(&bound, &grown)),
            ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
        );
        let mut other = bound.clone();
        other["spec"]["volumeMode"] = json!("Block");
        assert!(
            told(PersistentVolumeClaim.validate_update(&other, &bound))
                .contains(&"volumeMode: Invalid value: \"Block\": field is immutable".to_owned())
        );
        assert_eq!(
            PersistentVolumeClaim.cells(&bound, Timestamp::UNIX_EPOCH),
            ["data", "Bound", "pv", "1Gi", "RWO", "standard", "<unset>", "<unknown>", "Filesystem"]
                .map(Value::from)
        );
        assert_eq!(PersistentVolumeClaim.cells(&old, Timestamp::UNIX_EPOCH)[3], "");
    }

    #[test]
    fn sources_are_kept_in_step_and_fractions_warned_about() {
        let mut made = claim(json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "a"}}));
        PersistentVolumeClaim.prepare_create(&mut made);
        assert_eq!(made["spec"]["dataSourceRef"], made["spec"]["dataSource"]);
        let mut made = claim(json!({"dataSource": {"kind": "Other", "name": "a", "apiGroup": "b.c"}}));
        PersistentVolumeClaim.prepare_create(&mut made);
        assert!(made["spec"].get("dataSource").is_none());
        assert_eq!(
            warnings("", &claim(json!({"resources": {"requests": {"storage": "1500m"}}}))),
            [
                "spec.resources.requests[storage]: fractional byte value \"1500m\" is invalid, must be an integer"
            ]
        );
    }
}
